//! Objects and lists of hostile JSON, read one level at a time and without a tree.
//!
//! What is not looked into stays the text that it was. A key given twice is refused at each level that is
//! read, and so is what was read but not taken: nothing is dropped because nobody thought of it.

use serde::{
    Deserialize,
    de::{self, Deserializer, MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;
use std::{borrow::Cow, fmt};

/// What of a body cannot be, and where: `messages[2].content`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) path: String,
    pub(crate) why: String,
}

impl Fault {
    pub(crate) fn new(why: impl Into<String>) -> Self {
        Self { path: String::new(), why: why.into() }
    }

    fn before(&mut self, step: &str) {
        let dot = if self.path.is_empty() || self.path.starts_with('[') { "" } else { "." };
        self.path = format!("{step}{dot}{}", self.path);
    }
}

/// Says where a fault was, from the inside out.
pub(crate) trait At: Sized {
    fn at(self, key: &str) -> Self;
    fn nth(self, index: usize) -> Self;
}

impl<T> At for Result<T, Fault> {
    fn at(self, key: &str) -> Self {
        self.map_err(|mut fault| {
            fault.before(&key.chars().take(64).collect::<String>());
            fault
        })
    }

    fn nth(self, index: usize) -> Self {
        self.map_err(|mut fault| {
            fault.before(&format!("[{index}]"));
            fault
        })
    }
}

/// How many fields an object may have, and how many items a list, where we read them.
const MOST_FIELDS: usize = 128;
const MOST_ITEMS: usize = 50_000;

/// A piece of JSON text as it was written.
pub(crate) type Raw<'a> = &'a RawValue;

/// The fields of one object, each key once, until they are taken.
#[derive(Debug)]
pub(crate) struct Object<'a>(Vec<(Cow<'a, str>, Raw<'a>)>);

impl<'a> Object<'a> {
    pub(crate) fn read(raw: Raw<'a>) -> Result<Self, Fault> {
        parse(raw.get(), "is no object")
    }

    /// The fields of a text.
    pub(crate) fn parse(text: &'a str) -> Result<Self, Fault> {
        parse(text, "is no object")
    }

    pub(super) fn of(fields: &'a [(String, Box<RawValue>)]) -> Self {
        Self(fields.iter().map(|(key, value)| (Cow::Borrowed(key.as_str()), &**value)).collect())
    }

    /// Takes a field. One that is null is as good as none.
    pub(crate) fn take(&mut self, key: &str) -> Option<Raw<'a>> {
        let at = self.0.iter().position(|(known, _)| known == key)?;
        Some(self.0.remove(at).1).filter(|raw| raw.get() != "null")
    }

    pub(crate) fn text(&mut self, key: &str) -> Result<Option<Cow<'a, str>>, Fault> {
        self.take(key).map(text).transpose().at(key)
    }

    /// A text that has to be there.
    pub(crate) fn needed(&mut self, key: &str) -> Result<Cow<'a, str>, Fault> {
        self.text(key)?.ok_or_else(|| Fault::new("is missing")).at(key)
    }

    pub(crate) fn flag(&mut self, key: &str) -> Result<Option<bool>, Fault> {
        let read = |raw: Raw<'a>| parse(raw.get(), "is neither true nor false");
        self.take(key).map(read).transpose().at(key)
    }

    pub(crate) fn count(&mut self, key: &str) -> Result<Option<u64>, Fault> {
        let read = |raw: Raw<'a>| parse(raw.get(), "is no whole number");
        self.take(key).map(read).transpose().at(key)
    }

    /// A number, as it was written.
    pub(crate) fn number(&mut self, key: &str) -> Result<Option<Raw<'a>>, Fault> {
        let Some(raw) = self.take(key) else { return Ok(None) };
        parse::<f64>(raw.get(), "is no number").at(key)?;
        Ok(Some(raw))
    }

    pub(crate) fn object(&mut self, key: &str) -> Result<Option<Object<'a>>, Fault> {
        self.take(key).map(Object::read).transpose().at(key)
    }

    /// The items of a list; none if it is not there.
    pub(crate) fn list(&mut self, key: &str) -> Result<Vec<Raw<'a>>, Fault> {
        self.take(key).map_or(Ok(Vec::new()), list).at(key)
    }

    /// Leaves fields out on purpose.
    pub(crate) fn leave(&mut self, keys: &[&str]) {
        self.0.retain(|(key, _)| !keys.contains(&&**key));
    }

    /// Leaves a field out if it says only what holds anyway.
    pub(crate) fn leave_if(&mut self, key: &str, said: &[&str]) {
        self.0.retain(|(known, raw)| known != key || !said.contains(&raw.get()));
    }

    /// Nothing may be left but nulls.
    pub(crate) fn end(self) -> Result<(), Fault> {
        match self.0.iter().find(|(_, raw)| raw.get() != "null") {
            None => Ok(()),
            Some((key, _)) => Err(Fault::new("cannot be expressed in the provider's wire")).at(key),
        }
    }
}

pub(crate) fn list(raw: Raw<'_>) -> Result<Vec<Raw<'_>>, Fault> {
    Ok(parse::<Items<'_>>(raw.get(), "is no list, or too long a one")?.0)
}

pub(crate) fn text(raw: Raw<'_>) -> Result<Cow<'_, str>, Fault> {
    Ok(parse::<Text<'_>>(raw.get(), "is no text")?.0)
}

fn parse<'a, T: Deserialize<'a>>(text: &'a str, what: &str) -> Result<T, Fault> {
    serde_json::from_str(text).map_err(|error| {
        let said = error.to_string();
        // Of what is ours to say, say it.
        let ours = said.starts_with("the key ") || said.starts_with("more than ");
        Fault::new(if ours { said.chars().take(200).collect() } else { what.to_owned() })
    })
}

/// A text that is borrowed where nothing in it is escaped.
#[derive(Deserialize)]
pub(super) struct Text<'a>(#[serde(borrow)] pub(super) Cow<'a, str>);

struct Items<'a>(Vec<Raw<'a>>);

impl<'de: 'a, 'a> Deserialize<'de> for Items<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List;
        impl<'de> Visitor<'de> for List {
            type Value = Items<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Items<'de>, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = seq.next_element()? {
                    if items.len() >= MOST_ITEMS {
                        return Err(de::Error::custom("too long"));
                    }
                    items.push(item);
                }
                Ok(Items(items))
            }
        }
        deserializer.deserialize_seq(List)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Object<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Object<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object<'de>, A::Error> {
                let mut fields: Vec<(Cow<'de, str>, Raw<'de>)> = Vec::new();
                while let Some((Text(key), value)) = map.next_entry::<Text<'de>, Raw<'de>>()? {
                    if fields.iter().any(|(known, _)| *known == key) {
                        return Err(de::Error::custom(format!("the key {key:.40} is given twice")));
                    }
                    if fields.len() >= MOST_FIELDS {
                        return Err(de::Error::custom("more than 128 keys"));
                    }
                    fields.push((key, value));
                }
                Ok(Object(fields))
            }
        }
        deserializer.deserialize_map(Fields)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_not_taken_is_named() {
        let mut object = Object::parse(r#"{"a":"x","b":null,"c":{"d":1},"e":0}"#).unwrap();
        assert_eq!(object.text("a").unwrap().unwrap(), "x");
        object.leave_if("e", &["0"]);
        let mut inner = object.object("c").unwrap().unwrap();
        assert!(inner.take("z").is_none());
        object.end().unwrap();
        let fault = inner.end().at("c").nth(3).at("list").unwrap_err();
        assert_eq!(fault.path, "list[3].c.d");
    }

    #[test]
    fn doubled_keys_and_wrong_kinds_are_faults() {
        let fault = Object::parse(r#"{"a":1,"\u0061":2}"#).unwrap_err();
        assert!(fault.why.contains("twice"), "{fault:?}");
        for text in ["[]", "1", "{", "{} {}", ""] {
            assert!(Object::parse(text).is_err(), "{text}");
        }
        let read = || Object::parse(r#"{"a":[1],"b":"1","c":-1}"#).unwrap();
        assert_eq!(read().text("a").unwrap_err().path, "a");
        assert!(read().flag("b").is_err() && read().count("c").is_err() && read().number("b").is_err());
        assert!(read().object("a").is_err() && read().list("b").is_err());
        assert_eq!(read().number("c").unwrap().unwrap().get(), "-1");
        let long = format!("[{}1]", "1,".repeat(MOST_ITEMS));
        assert!(list(serde_json::from_str(&long).unwrap()).is_err());
    }
}
