//! Writes JSON, field by field: what a cell or a provider wrote is put in as it was.

/// An object that is being written.
#[derive(Debug)]
pub(crate) struct Writer<'o>(&'o mut Vec<u8>, bool);

/// A list that is being written.
#[derive(Debug)]
pub(crate) struct Items<'o>(&'o mut Vec<u8>, bool);

/// One object, as text.
pub(crate) fn object(fill: impl FnOnce(&mut Writer<'_>)) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    write(&mut out, fill);
    out
}

/// Appends one object.
pub(crate) fn write(out: &mut Vec<u8>, fill: impl FnOnce(&mut Writer<'_>)) {
    out.push(b'{');
    fill(&mut Writer(out, true));
    out.push(b'}');
}

fn quote(out: &mut Vec<u8>, text: &str) {
    // Text into memory: neither of the two can fail.
    let _ = serde_json::to_writer(out, text);
}

impl Writer<'_> {
    fn key(&mut self, key: &str) -> &mut Vec<u8> {
        if !std::mem::replace(&mut self.1, false) {
            self.0.push(b',');
        }
        quote(self.0, key);
        self.0.push(b':');
        self.0
    }

    /// A value that is JSON already.
    pub(crate) fn raw(&mut self, key: &str, value: &str) {
        self.key(key).extend_from_slice(value.as_bytes());
    }

    pub(crate) fn text(&mut self, key: &str, value: &str) {
        quote(self.key(key), value);
    }

    pub(crate) fn number(&mut self, key: &str, value: u64) {
        self.raw(key, &value.to_string());
    }

    pub(crate) fn flag(&mut self, key: &str, value: bool) {
        self.raw(key, if value { "true" } else { "false" });
    }

    pub(crate) fn object(&mut self, key: &str, fill: impl FnOnce(&mut Writer<'_>)) {
        write(self.key(key), fill);
    }

    pub(crate) fn list(&mut self, key: &str, fill: impl FnOnce(&mut Items<'_>)) {
        let out = self.key(key);
        out.push(b'[');
        fill(&mut Items(out, true));
        out.push(b']');
    }
}

impl Items<'_> {
    fn next(&mut self) -> &mut Vec<u8> {
        if !std::mem::replace(&mut self.1, false) {
            self.0.push(b',');
        }
        self.0
    }

    pub(crate) fn text(&mut self, value: &str) {
        quote(self.next(), value);
    }

    pub(crate) fn object(&mut self, fill: impl FnOnce(&mut Writer<'_>)) {
        write(self.next(), fill);
    }
}
