//! What a body may look like where a provider could be told to fetch or run something.
//!
//! A shape lists every key and word that is known to be harmless; all else is refused by its name, today's
//! server tools and tomorrow's. The walk builds no tree, and refuses a key given twice wherever it looks.

use super::fields::{Fault, Text};
use crate::check::{Check, keeps};
use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use std::fmt::{self, Write as _};

/// The harmless forms of one place.
#[derive(Debug)]
pub(crate) enum Shape {
    /// Nothing in it is acted on by a provider.
    Any,
    /// Null, false, or nothing at all.
    Off,
    /// One of these words; one that ends in `*` stands for all that begin so.
    Word(&'static [&'static str]),
    /// A `data:` URL or null, so that there is nothing to fetch.
    Data,
    /// Text, numbers and the like.
    Plain,
    /// A list or null.
    List(&'static Shape),
    /// Text, a list or null.
    Texts(&'static Shape),
    /// An object or null.
    Object(Fields),
    /// An object that has one of these keys.
    Marked(&'static [&'static str], Fields),
}

/// The keys that an object may have, at most 64.
pub(crate) type Fields = &'static [(&'static str, Shape)];

/// Does a field of this name and value fit an object's shape?
pub(crate) fn check(fields: Fields, key: &str, raw: &RawValue) -> Result<(), Fault> {
    let Some((name, shape)) = fields.iter().find(|(known, _)| *known == key) else {
        // Clients write out what they do not set.
        if raw.get() == "null" {
            return Ok(());
        }
        return Err(Fault { path: key.chars().take(64).collect(), why: "is not known".to_owned() });
    };
    if matches!(shape, Shape::Any) {
        return Ok(());
    }
    let mut trail = Trail { path: (*name).to_owned(), why: None };
    let mut deserializer = serde_json::Deserializer::from_str(raw.get());
    let walked = Walk { shape, trail: &mut trail }.deserialize(&mut deserializer);
    walked.map_err(|error| {
        let why = trail.why.unwrap_or_else(|| error.to_string());
        Fault { path: trail.path, why }
    })
}

/// Where the walk is, and what stopped it there.
struct Trail {
    path: String,
    why: Option<String>,
}

impl Trail {
    fn stop<E: de::Error>(&mut self, why: impl Into<String>) -> E {
        self.why = Some(why.into());
        E::custom("")
    }
}

struct Walk<'t> {
    shape: &'static Shape,
    trail: &'t mut Trail,
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        match self.shape {
            Shape::Any => deserializer.deserialize_ignored_any(IgnoredAny).map(drop),
            _ => deserializer.deserialize_any(self),
        }
    }
}

impl Walk<'_> {
    fn scalar<E: de::Error>(self, is_null: bool, is_off: bool) -> Result<(), E> {
        let why = match self.shape {
            Shape::Any | Shape::Plain => return Ok(()),
            Shape::Off if is_off => return Ok(()),
            Shape::Data | Shape::List(_) | Shape::Texts(_) | Shape::Object(_) if is_null => return Ok(()),
            Shape::Off => "is not off",
            Shape::Word(_) => "is no word",
            Shape::Data => "is no data: URL",
            Shape::List(_) | Shape::Texts(_) => "is no list",
            Shape::Object(_) | Shape::Marked(..) => "is no object",
        };
        Err(self.trail.stop(why))
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("what is harmless")
    }

    fn visit_unit<E: de::Error>(self) -> Result<(), E> {
        self.scalar(true, true)
    }

    fn visit_bool<E: de::Error>(self, it: bool) -> Result<(), E> {
        self.scalar(false, !it)
    }

    fn visit_u64<E: de::Error>(self, _: u64) -> Result<(), E> {
        self.scalar(false, false)
    }

    fn visit_i64<E: de::Error>(self, _: i64) -> Result<(), E> {
        self.scalar(false, false)
    }

    fn visit_f64<E: de::Error>(self, _: f64) -> Result<(), E> {
        self.scalar(false, false)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<(), E> {
        let is = |word: &&str| word.strip_suffix('*').map_or(*word == text, |start| text.starts_with(start));
        match self.shape {
            Shape::Word(words) if words.iter().any(is) => Ok(()),
            Shape::Word(_) => {
                let shown: String = text.chars().take(64).collect();
                Err(self.trail.stop(format!("is {shown:?}")))
            }
            Shape::Data if text.starts_with("data:") => Ok(()),
            Shape::Texts(_) => Ok(()),
            _ => self.scalar(false, false),
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let (Shape::List(shape) | Shape::Texts(shape)) = self.shape else {
            return Err(self.trail.stop("is a list"));
        };
        let length = self.trail.path.len();
        for index in 0_usize.. {
            // Writing to a string does not fail.
            let _ = write!(self.trail.path, "[{index}]");
            if seq.next_element_seed(Walk { shape, trail: self.trail })?.is_none() {
                break;
            }
            self.trail.path.truncate(length);
        }
        self.trail.path.truncate(length);
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let (marks, fields) = match self.shape {
            Shape::Object(fields) => (None, fields),
            Shape::Marked(marks, fields) => (Some(marks), fields),
            _ => return Err(self.trail.stop("is an object")),
        };
        let length = self.trail.path.len();
        let mut seen = 0_u64;
        while let Some(Text(key)) = map.next_key::<Text<'de>>()? {
            self.trail.path.push('.');
            self.trail.path.extend(key.chars().take(64));
            let Some(at) = fields.iter().position(|(known, _)| *known == key) else {
                // Clients write out what they do not set.
                if map.next_value::<Option<IgnoredAny>>()?.is_some() {
                    return Err(self.trail.stop("is not known"));
                }
                self.trail.path.truncate(length);
                continue;
            };
            if seen & (1 << at) != 0 && keeps(Check::KeyOnceInside) {
                return Err(self.trail.stop("is given twice"));
            }
            seen |= 1 << at;
            map.next_value_seed(Walk { shape: &fields[at].1, trail: self.trail })?;
            self.trail.path.truncate(length);
        }
        let is_marked = |(at, (name, _)): (usize, &(&str, Shape))| {
            seen & (1 << at) != 0 && marks.is_some_and(|marks| marks.contains(name))
        };
        if marks.is_some() && !fields.iter().enumerate().any(is_marked) {
            return Err(self.trail.stop("has no type"));
        }
        Ok(())
    }
}
