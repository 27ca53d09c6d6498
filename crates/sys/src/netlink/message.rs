//! Netlink messages as bytes: a header, a fixed part, and attributes that nest.

/// A message being built. Attributes are padded to four bytes, as the kernel wants them.
#[derive(Debug)]
pub(crate) struct Message(Vec<u8>);

const HEADER: usize = 16;
const NESTED: u16 = 0x8000;

impl Message {
    /// Starts a message; `fixed` is the fixed part that its kind has.
    pub(crate) fn new(kind: u16, flags: u16, sequence: u32, fixed: &[u8]) -> Self {
        let mut bytes = vec![0; 4];
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend(sequence.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes.extend(fixed);
        let mut message = Self(bytes);
        message.pad();
        message
    }

    /// Adds an attribute.
    pub(crate) fn attribute(&mut self, kind: u16, value: &[u8]) {
        let start = self.open(kind);
        self.0.extend(value);
        self.close(start);
    }

    /// Adds an attribute whose value is a text that ends with a zero byte.
    pub(crate) fn text(&mut self, kind: u16, value: &str) {
        let start = self.open(kind);
        self.0.extend(value.as_bytes());
        self.0.push(0);
        self.close(start);
    }

    /// Adds an attribute whose value is a number in network order.
    pub(crate) fn be32(&mut self, kind: u16, value: u32) {
        self.attribute(kind, &value.to_be_bytes());
    }

    /// Adds an attribute that holds other attributes, or whatever `fill` appends.
    pub(crate) fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        let start = self.open(kind | NESTED);
        fill(self);
        self.close(start);
    }

    /// Appends bytes that are no attribute: the fixed part inside a nest.
    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.0.extend(bytes);
        self.pad();
    }

    /// The message with its length filled in.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        let length = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        self.0[..4].copy_from_slice(&length.to_ne_bytes());
        self.0
    }

    fn open(&mut self, kind: u16) -> usize {
        let start = self.0.len();
        self.0.extend([0; 2]);
        self.0.extend(kind.to_ne_bytes());
        start
    }

    /// A length that does not fit is one that the kernel refuses.
    fn close(&mut self, start: usize) {
        let length = u16::try_from(self.0.len() - start).unwrap_or(u16::MAX);
        self.0[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self.pad();
    }

    fn pad(&mut self) {
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }
}

/// A received message.
#[derive(Debug)]
pub(crate) struct Received<'a> {
    pub(crate) kind: u16,
    pub(crate) sequence: u32,
    pub(crate) payload: &'a [u8],
}

/// The messages in one datagram from the kernel. Ends at the first that is cut off.
pub(crate) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Received<'_>> {
    std::iter::from_fn(move || {
        let header = bytes.get(..HEADER)?;
        let number = |at: usize| Some(u32::from_ne_bytes(header.get(at..at + 4)?.try_into().ok()?));
        let length = usize::try_from(number(0)?).ok()?;
        let payload = bytes.get(HEADER..length)?;
        let kind = u16::from_ne_bytes([header[4], header[5]]);
        let sequence = number(8)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Received { kind, sequence, payload })
    })
}

/// The attributes in a payload, as kind and value. Ends at the first that is cut off.
pub(crate) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes([*bytes.first()?, *bytes.get(1)?]));
        let kind = u16::from_ne_bytes([*bytes.get(2)?, *bytes.get(3)?]) & !NESTED;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_built_reads_back() {
        let mut message = Message::new(20, 5, 7, &[9, 9]);
        message.text(1, "lo");
        message.nest(2, |inner| inner.be32(3, 4));
        let bytes = message.finish();
        let read: Vec<_> = messages(&bytes).collect();
        assert_eq!((read.len(), read[0].kind, read[0].sequence), (1, 20, 7));
        let found: Vec<_> = attributes(&read[0].payload[4..]).collect();
        assert_eq!(found[0], (1, &b"lo\0"[..]));
        assert_eq!(attributes(found[1].1).next(), Some((3, &[0, 0, 0, 4][..])));
    }

    #[test]
    fn what_is_cut_off_is_not_read() {
        let bytes = Message::new(20, 5, 7, &[1, 2, 3, 4]).finish();
        for end in 0..bytes.len() {
            assert_eq!(messages(&bytes[..end]).count(), 0, "{end}");
        }
        assert_eq!(attributes(&[8, 0, 1, 0, 1]).count(), 0);
        assert_eq!(attributes(&[0, 0, 1, 0]).count(), 0, "an attribute shorter than its head is none");
    }
}
