//! JSON5 as people write it, read as a value.
//!
//! Its depth is bounded, for the parser has no bound of its own and a thread's stack is not endless; and a key stands
//! once, for of two, one would be passed over in silence.

use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use std::fmt;

/// How deep it may be nested.
const DEEPEST: usize = 64;

/// Reads a text to its end.
pub(super) fn read(raw: &str) -> Result<Value, String> {
    json5::from_str::<Whole>(raw).map(|whole| whole.0).map_err(|error| error.to_string())
}

struct Whole(Value);

impl<'de> Deserialize<'de> for Whole {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Node(DEEPEST).deserialize(from).map(Self)
    }
}

/// One value, and how many levels may be below it.
#[derive(Clone, Copy)]
struct Node(usize);

impl Node {
    fn below<E: Error>(self) -> Result<Self, E> {
        let left = self.0.checked_sub(1);
        left.map(Self).ok_or_else(|| E::custom(format!("it is nested deeper than {DEEPEST} levels")))
    }
}

impl<'de> DeserializeSeed<'de> for Node {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Value, D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value)
            .map(Value::Number)
            .ok_or_else(|| E::custom(format!("{value} is no number here")))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let (below, mut items) = (self.below()?, Vec::new());
        while let Some(item) = seq.next_element_seed(below)? {
            items.push(item);
        }
        Ok(items.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let (below, mut fields) = (self.below()?, Map::new());
        while let Some(key) = map.next_key::<String>()? {
            let value = map.next_value_seed(below)?;
            if fields.contains_key(&key) {
                return Err(A::Error::custom(format!("the key {key:?} stands twice")));
            }
            fields.insert(key, value);
        }
        Ok(fields.into())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    #[test]
    fn what_people_write_is_read_and_what_is_ambiguous_or_endless_is_not() {
        let written = "// a remark\n{ agents: { 'defaults': { model: \"m\", n: +0x1F, f: .5, }, }, list: [1, -2, null, true,], }";
        let read_as = json!({ "agents": { "defaults": { "model": "m", "n": 31, "f": 0.5 } }, "list": [1, -2, null, true] });
        assert_eq!(read(written).unwrap(), read_as);
        for (bad, why) in [
            ("", "EOF"),
            ("{} {}", "trailing"),
            ("{a:1,'a':2}", "\"a\" stands twice"),
            ("{a:NaN}", "no number"),
            ("{a:340282366920938463463374607431768211456}", ""),
            ("/* open", "EOF"),
        ] {
            match read(bad) {
                Err(error) => assert!(error.contains(why), "{bad}: {error}"),
                Ok(value) => assert!(why.is_empty() && value["a"].is_f64(), "{bad}: {value}"),
            }
        }
        let deep = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        assert!(read(&deep(DEEPEST)).is_ok());
        assert!(read(&deep(DEEPEST + 1)).unwrap_err().contains("nested deeper"));
        // Far beyond any stack.
        assert!(read(&"[".repeat(1_000_000)).is_err());
        assert!(read(&"{a:".repeat(300_000)).is_err());
    }
}
