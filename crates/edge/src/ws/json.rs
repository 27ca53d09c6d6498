//! JSON of clients, strictly: parsed once, made anew, no key twice anywhere.
//!
//! Two parsers that disagree about a repeated key would let a frame say one thing to the edge and another to
//! the gateway. So every object is read key by key, and what goes on is written from what was read. Nothing
//! is kept as a tree: a message costs its own length, however it is nested (at most 128 deep).

use crate::check::{Check, keeps};
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use std::{borrow::Cow, collections::HashSet, fmt};

/// The most keys of one object. Those of all objects that are open at a time are remembered, at 128 deep.
const KEYS: usize = 4096;

/// Reads one value and appends it, compact, to the text.
#[derive(Debug)]
pub(crate) struct Rewrite<'a>(pub(crate) &'a mut Vec<u8>);

/// Makes sure that no key of one object comes twice.
#[derive(Debug, Default)]
pub(crate) struct Keys<'de>(HashSet<Cow<'de, str>>);

impl<'de> Keys<'de> {
    pub(crate) fn add<E: serde::de::Error>(&mut self, key: Cow<'de, str>) -> Result<(), E> {
        if keeps(Check::Keys) && self.0.len() >= KEYS {
            return Err(E::custom("an object has too many keys"));
        }
        let new = self.0.insert(key);
        if keeps(Check::KeysOnce) && !new {
            return Err(E::custom("a key is there twice"));
        }
        Ok(())
    }
}

/// A key, borrowed where it has no escapes.
#[derive(Debug)]
pub(crate) struct Key<'de>(pub(crate) Cow<'de, str>);

impl<'de> serde::Deserialize<'de> for Key<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl<'de> Visitor<'de> for Text {
            type Value = Key<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Borrowed(text)))
            }
            fn visit_str<E>(self, text: &str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(Text)
    }
}

/// Appends a string as JSON.
pub(crate) fn write_str(text: &str, out: &mut Vec<u8>) {
    write(&text, out);
}

/// Writing a plain value into memory cannot fail.
fn write(value: &impl serde::Serialize, out: &mut Vec<u8>) {
    let before = out.len();
    if serde_json::to_writer(&mut *out, value).is_err() {
        out.truncate(before);
        out.extend_from_slice(b"null");
    }
}

impl<'de> DeserializeSeed<'de> for Rewrite<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Rewrite<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        self.0.extend_from_slice(b"null");
        Ok(())
    }

    fn visit_bool<E>(self, value: bool) -> Result<(), E> {
        write(&value, self.0);
        Ok(())
    }

    fn visit_i64<E>(self, value: i64) -> Result<(), E> {
        write(&value, self.0);
        Ok(())
    }

    fn visit_u64<E>(self, value: u64) -> Result<(), E> {
        write(&value, self.0);
        Ok(())
    }

    fn visit_f64<E>(self, value: f64) -> Result<(), E> {
        write(&value, self.0);
        Ok(())
    }

    fn visit_str<E>(self, value: &str) -> Result<(), E> {
        write_str(value, self.0);
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        self.0.push(b'[');
        let mut first = true;
        loop {
            let comma = self.0.len();
            if !first {
                self.0.push(b',');
            }
            if seq.next_element_seed(Rewrite(self.0))?.is_none() {
                self.0.truncate(comma);
                break;
            }
            first = false;
        }
        self.0.push(b']');
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        self.0.push(b'{');
        let mut keys = Keys::default();
        let mut first = true;
        while let Some(Key(key)) = map.next_key()? {
            if !first {
                self.0.push(b',');
            }
            first = false;
            write_str(&key, self.0);
            self.0.push(b':');
            keys.add::<A::Error>(key)?;
            map.next_value_seed(Rewrite(self.0))?;
        }
        self.0.push(b'}');
        Ok(())
    }
}

/// A request frame of the gateway's protocol: a closed object.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Request {
    /// Chosen by the client, at most 256 bytes.
    pub(crate) id: String,
    /// What is called, at most 256 bytes.
    pub(crate) method: String,
    /// The parameters, written anew; empty if there are none.
    pub(crate) params: Vec<u8>,
    pub(crate) traceparent: Option<String>,
    pub(crate) expected_profile: Option<String>,
}

/// Reads a request frame.
pub(crate) fn request(text: &[u8]) -> Result<Request, serde_json::Error> {
    let mut json = serde_json::Deserializer::from_slice(text);
    let request = json.deserialize_map(Frame)?;
    json.end()?;
    Ok(request)
}

impl Request {
    /// The frame, written anew.
    pub(crate) fn write(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.params.len() + 128);
        out.extend_from_slice(br#"{"type":"req","id":"#);
        write_str(&self.id, &mut out);
        out.extend_from_slice(br#","method":"#);
        write_str(&self.method, &mut out);
        if !self.params.is_empty() {
            out.extend_from_slice(br#","params":"#);
            out.extend_from_slice(&self.params);
        }
        if let Some(trace) = &self.traceparent {
            out.extend_from_slice(br#","traceparent":"#);
            write_str(trace, &mut out);
        }
        if let Some(profile) = &self.expected_profile {
            out.extend_from_slice(br#","expectedProfileId":"#);
            write_str(profile, &mut out);
        }
        out.push(b'}');
        out
    }
}

struct Frame;

impl<'de> Visitor<'de> for Frame {
    type Value = Request;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a request frame")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Request, A::Error> {
        let mut keys = Keys::default();
        let mut request = Request::default();
        let mut kind = String::new();
        while let Some(Key(key)) = map.next_key()? {
            match &*key {
                "type" => kind = map.next_value()?,
                "id" => request.id = map.next_value()?,
                "method" => request.method = map.next_value()?,
                "params" => map.next_value_seed(Rewrite(&mut request.params))?,
                "traceparent" => request.traceparent = Some(map.next_value()?),
                "expectedProfileId" => request.expected_profile = Some(map.next_value()?),
                _ => return Err(A::Error::custom("a frame has an unknown field")),
            }
            keys.add::<A::Error>(key)?;
        }
        let short = |text: &str| (1..=256).contains(&text.len());
        let brief = |text: &Option<String>| text.as_ref().is_none_or(|text| text.len() <= 128);
        if kind != "req" {
            return Err(A::Error::custom("clients send requests"));
        }
        if !short(&request.id) || !short(&request.method) {
            return Err(A::Error::custom("a request has an id and a method"));
        }
        if !brief(&request.traceparent) || !brief(&request.expected_profile) {
            return Err(A::Error::custom("a field of the frame is too long"));
        }
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_request_is_written_anew_with_the_same_meaning() {
        let text = br#" {"method":"chat.send", "id":"1","type":"req",
            "params":{"b":[1,-2,3.5,null,true,{}],"a":"\u00e9\n","c":[]},"traceparent":"00-1"} "#;
        let request = request(text).unwrap();
        assert_eq!(request.method, "chat.send");
        let again: serde_json::Value = serde_json::from_slice(&request.write()).unwrap();
        assert_eq!(again, serde_json::from_slice::<serde_json::Value>(text).unwrap());
    }

    #[test]
    fn no_key_may_come_twice_anywhere() {
        let good = r#"{"type":"req","id":"1","method":"health","params":{"a":{"b":1}}}"#;
        assert!(request(good.as_bytes()).is_ok());
        for bad in [
            r#"{"type":"req","id":"1","method":"health","method":"config.patch"}"#,
            r#"{"type":"req","id":"1","method":"health","m\u0065thod":"config.patch"}"#,
            r#"{"type":"req","id":"1","method":"health","params":{"a":{"b":1,"b":2}}}"#,
            r#"{"type":"req","id":"1","method":"health","params":{"a":[{"b":1,"\u0062":2}]}}"#,
            r#"{"type":"req","id":"1","method":"health","params":{},"params":{}}"#,
            r#"{"type":"res","id":"1","method":"health"}"#,
            r#"{"type":"req","id":"1","method":"health","extra":1}"#,
            r#"{"type":"req","id":1,"method":"health"}"#,
            r#"{"type":"req","method":"health"}"#,
            r#"{"type":"req","id":"1"}"#,
            r#"{"type":"req","id":"1","method":"health"} {}"#,
            r#"[{"type":"req","id":"1","method":"health"}]"#,
            "",
        ] {
            assert!(request(bad.as_bytes()).is_err(), "{bad}");
        }
        let deep = format!(
            r#"{{"type":"req","id":"1","method":"health","params":{}{}}}"#,
            "[".repeat(200),
            "]".repeat(200)
        );
        assert!(request(deep.as_bytes()).is_err());
    }

    #[test]
    fn an_object_has_so_many_keys_and_no_more() {
        for (count, good) in [(KEYS, true), (KEYS + 1, false)] {
            let keys: Vec<String> = (0..count).map(|at| format!(r#""{at}":0"#)).collect();
            let params = keys.join(",");
            let text = format!(r#"{{"type":"req","id":"1","method":"health","params":[{{{params}}}]}}"#);
            assert_eq!(request(text.as_bytes()).is_ok(), good, "{count}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(text in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = request(&text);
        }

        #[test]
        fn whatever_is_rewritten_means_the_same(numbers in prop::collection::vec(any::<i64>(), 0..5), text in ".*") {
            let value = serde_json::json!({ "n": numbers, "t": text, "o": { (text.as_str()): [text] } });
            let mut out = Vec::new();
            let source = value.to_string();
            let mut json = serde_json::Deserializer::from_str(&source);
            Rewrite(&mut out).deserialize(&mut json).unwrap();
            prop_assert_eq!(serde_json::from_slice::<serde_json::Value>(&out).unwrap(), value);
        }
    }
}
