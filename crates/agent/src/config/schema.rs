//! The schema of the configuration, taken from the code that reads it.
//!
//! Whatever can be read is walked: a reader asks for what it wants, a structure for its fields by name, and that is
//! written down instead of answered. So a new key is in the schema as soon as it is read, and the two cannot differ.
//! What a section checks besides, the schema does not know: a change that fails there is told so.

use super::{Config, secret};
use serde::de::{
    DeserializeSeed, Deserializer, EnumAccess, Error, IntoDeserializer, MapAccess, SeqAccess, VariantAccess,
    Visitor, value::Error as Stop,
};
use serde::{Deserialize, forward_to_deserialize_any};
use serde_json::{Map, Value, json};
use std::cell::RefCell;

/// How deep it is walked: what holds itself has no end.
const DEEPEST: usize = 24;

/// The whole, as a schema of draft 7.
pub(crate) fn whole() -> Value {
    let mut schema = of::<Config>();
    schema["$schema"] = "http://json-schema.org/draft-07/schema#".into();
    schema["title"] = "Configuration of the gateway".into();
    schema
}

/// What a form is told beside it: which values are secrets.
pub(crate) fn hints() -> Value {
    let mut hints = Map::new();
    hint(&of::<Config>(), "", &mut hints);
    hints.into()
}

fn hint(schema: &Value, path: &str, hints: &mut Map<String, Value>) {
    if schema["type"] == "string" && secret::is_sensitive(path) {
        hints.insert(path.to_owned(), json!({ "sensitive": true }));
    }
    for (key, schema) in schema["properties"].as_object().into_iter().flatten() {
        hint(schema, &secret::below(path, key), hints);
    }
    if schema["additionalProperties"].is_object() {
        hint(&schema["additionalProperties"], &secret::below(path, "*"), hints);
    }
    if schema["items"].is_object() {
        hint(&schema["items"], &format!("{path}[]"), hints);
    }
}

/// What is below a path of it, as a form is built step by step; none: there is nothing.
pub(crate) fn lookup(asked: &str) -> Option<Value> {
    let root = asked.trim() == ".";
    let path = asked.trim().replace(['/', '['], ".").replace(']', "");
    let parts: Vec<&str> = path.split('.').filter(|part| !part.is_empty()).collect();
    if parts.is_empty() && !root {
        return None;
    }
    let schema = whole();
    let found = parts.iter().try_fold(&schema, |schema, part| child(schema, part))?;
    let path = parts.join(".");
    let mut children: Vec<Value> = Vec::new();
    for (key, schema) in found["properties"].as_object().into_iter().flatten() {
        children.push(row(key, schema, &path));
    }
    children.extend(wild(found).map(|schema| row("*", schema, &path)));
    let mut plain = found.clone();
    if let Some(fields) = plain.as_object_mut() {
        fields.retain(|key, value| !matches!(&**key, "properties" | "$schema") && !value.is_object());
    }
    let mut answer = json!({
        "path": if root { "." } else { &*path }, "schema": plain, "reloadKind": "hot", "children": children,
    });
    if found["type"] == "string" && secret::is_sensitive(&path) {
        answer["hint"] = json!({ "sensitive": true });
    }
    Some(answer)
}

fn child<'a>(schema: &'a Value, part: &str) -> Option<&'a Value> {
    schema["properties"].get(part).or_else(|| wild(schema))
}

/// What any key or entry of it is.
fn wild(schema: &Value) -> Option<&Value> {
    [&schema["additionalProperties"], &schema["items"]].into_iter().find(|schema| schema.is_object())
}

fn row(key: &str, schema: &Value, path: &str) -> Value {
    let path = secret::below(path, key);
    let parent = schema["properties"].is_object() || wild(schema).is_some();
    let mut row = json!({
        "key": key, "path": path, "required": false, "hasChildren": parent, "reloadKind": "hot",
    });
    if let Some(kind) = schema.get("type") {
        row["type"] = kind.clone();
    }
    if schema["type"] == "string" && secret::is_sensitive(&path) {
        row["hint"] = json!({ "sensitive": true });
    }
    row
}

/// The schema of whatever can be read.
fn of<T: for<'de> Deserialize<'de>>() -> Value {
    walk::<T>(&mut Vec::new())
}

/// A step from what holds something to what it holds.
#[derive(Clone, Copy)]
enum Step {
    Field(&'static str),
    Key,
    Item,
    Variant(&'static str),
}

/// What a reader asks for.
enum Asked {
    Struct(&'static [&'static str]),
    Map,
    List,
    Enum(&'static [&'static str]),
    /// A variant that is no more than its name.
    Name,
    Plain(Value),
}

fn walk<T: for<'de> Deserialize<'de>>(path: &mut Vec<Step>) -> Value {
    if path.len() > DEEPEST {
        return json!({});
    }
    let asked = RefCell::new(None);
    // It ends where it is answered no more, or cannot be read from what leads there.
    let _: Result<T, Stop> = T::deserialize(Reader { path: &path.clone(), asked: &asked });
    let mut at = |step: Step| {
        path.push(step);
        let below = walk::<T>(path);
        path.pop();
        below
    };
    match asked.into_inner() {
        Some(Asked::Struct(fields)) => {
            let properties: Map<String, Value> =
                fields.iter().map(|field| ((*field).to_owned(), at(Step::Field(field)))).collect();
            json!({ "type": "object", "properties": properties, "additionalProperties": false })
        }
        Some(Asked::Map) => json!({ "type": "object", "additionalProperties": at(Step::Key) }),
        Some(Asked::List) => json!({ "type": "array", "items": at(Step::Item) }),
        Some(Asked::Enum(names)) => {
            let plain = names.iter().all(|name| at(Step::Variant(name)) == Value::Null);
            if plain { json!({ "type": "string", "enum": names }) } else { json!({}) }
        }
        Some(Asked::Name) => Value::Null,
        Some(Asked::Plain(schema)) => schema,
        None => json!({}),
    }
}

/// Leads a reader along a path, and writes down what it asks for at its end.
#[derive(Clone, Copy)]
struct Reader<'a> {
    path: &'a [Step],
    asked: &'a RefCell<Option<Asked>>,
}

impl Reader<'_> {
    fn write<T>(self, asked: Asked) -> Result<T, Stop> {
        if self.path.is_empty() {
            self.asked.replace(Some(asked));
        }
        Err(Stop::custom("it is known now"))
    }

    fn plain<T>(self, kind: &str) -> Result<T, Stop> {
        self.write(Asked::Plain(json!({ "type": kind })))
    }

    fn below(self) -> Self {
        Self { path: self.path.get(1..).unwrap_or_default(), ..self }
    }
}

macro_rules! plain {
    ($($name:ident $kind:literal)*) => {$(
        fn $name<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Stop> {
            self.plain($kind)
        }
    )*};
}

impl<'de> Deserializer<'de> for Reader<'_> {
    type Error = Stop;

    plain! {
        deserialize_bool "boolean"
        deserialize_i8 "integer" deserialize_i16 "integer" deserialize_i32 "integer" deserialize_i64 "integer"
        deserialize_f32 "number" deserialize_f64 "number"
        deserialize_char "string" deserialize_str "string" deserialize_string "string"
    }

    fn deserialize_u8<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Stop> {
        self.write(Asked::Plain(json!({ "type": "integer", "minimum": 0 })))
    }

    fn deserialize_u16<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
        self.deserialize_u8(visitor)
    }

    fn deserialize_u32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
        self.deserialize_u8(visitor)
    }

    fn deserialize_u64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
        self.deserialize_u8(visitor)
    }

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Stop> {
        self.write(Asked::Plain(json!({})))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Stop> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
        match self.path.first() {
            Some(Step::Item) => visitor.visit_seq(self),
            _ => self.write(Asked::List),
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
        match self.path.first() {
            Some(Step::Key) => visitor.visit_map(self),
            _ => self.write(Asked::Map),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Stop> {
        match self.path.first() {
            Some(Step::Field(_)) => visitor.visit_map(self),
            _ => self.write(Asked::Struct(fields)),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Stop> {
        match self.path.first() {
            Some(Step::Variant(_)) => visitor.visit_enum(self),
            _ => self.write(Asked::Enum(variants)),
        }
    }

    forward_to_deserialize_any! {
        i128 u128 bytes byte_buf unit unit_struct tuple tuple_struct identifier ignored_any
    }
}

impl<'de> SeqAccess<'de> for Reader<'_> {
    type Error = Stop;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Stop> {
        seed.deserialize(self.below()).map(Some)
    }
}

impl<'de> MapAccess<'de> for Reader<'_> {
    type Error = Stop;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Stop> {
        let key = match self.path.first() {
            Some(Step::Field(field)) => field,
            _ => "key",
        };
        seed.deserialize(key.into_deserializer()).map(Some)
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, Stop> {
        seed.deserialize(self.below())
    }
}

impl<'de> EnumAccess<'de> for Reader<'_> {
    type Error = Stop;
    type Variant = Self;

    fn variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<(T::Value, Self), Stop> {
        let name = match self.path.first() {
            Some(Step::Variant(name)) => name,
            _ => "",
        };
        Ok((seed.deserialize(name.into_deserializer())?, self.below()))
    }
}

impl<'de> VariantAccess<'de> for Reader<'_> {
    type Error = Stop;

    fn unit_variant(self) -> Result<(), Stop> {
        self.write(Asked::Name)
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, _: T) -> Result<T::Value, Stop> {
        self.write(Asked::Plain(json!({})))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Stop> {
        self.deserialize_any(visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Stop> {
        self.deserialize_any(visitor)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, dead_code)]
    use super::*;
    use std::collections::BTreeMap;

    #[derive(Default, Deserialize)]
    #[serde(rename_all = "camelCase", deny_unknown_fields, default)]
    struct One {
        some_text: Option<String>,
        list: Vec<Two>,
        named: BTreeMap<String, Two>,
        again: Option<Box<One>>,
        any: Value,
    }

    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Two {
        how: How,
        much: Much,
        count: u32,
        share: f64,
    }

    #[derive(Default, Deserialize)]
    #[serde(rename_all = "kebab-case")]
    enum How {
        #[default]
        NotAtAll,
        Much,
    }

    #[derive(Default, Deserialize)]
    enum Much {
        #[default]
        None,
        Some(u8),
    }

    #[test]
    fn a_schema_is_what_the_reader_asks_for() {
        let schema = of::<One>();
        let two = json!({ "type": "object", "additionalProperties": false, "properties": {
            "how": { "type": "string", "enum": ["not-at-all", "much"] }, "much": {},
            "count": { "type": "integer", "minimum": 0 }, "share": { "type": "number" },
        } });
        let at = &schema["properties"];
        assert_eq!(at["someText"], json!({ "type": "string" }));
        assert_eq!(at["list"], json!({ "type": "array", "items": two }));
        assert_eq!(at["named"], json!({ "type": "object", "additionalProperties": two }));
        assert_eq!((&at["any"], &at["again"]["properties"]["any"]), (&json!({}), &json!({})));
        assert_eq!(schema["additionalProperties"], false);
    }

    /// Each key of the schema is read, and no other is: the configuration's own, whatever sections it has.
    #[test]
    fn what_is_in_the_schema_is_read_and_nothing_else() {
        fn check(schema: &Value, path: &str) {
            let within = |value: Value| {
                path.split('.').filter(|part| !part.is_empty()).rev().fold(value, |value, part| match part {
                    "[]" => json!([value]),
                    part => json!({ (part): value }),
                })
            };
            if schema["additionalProperties"] == false {
                let error = Config::of(&within(json!({ "nobodyKnowsThis": 1 }))).unwrap_err();
                assert!(error.message.contains("nobodyKnowsThis"), "{path}: {error:?}");
            }
            for (key, below) in schema["properties"].as_object().into_iter().flatten() {
                check(below, &format!("{path}.{key}"));
                // What is wrong there is found there: it was read.
                if below.get("type").is_some() {
                    let wrong = if below["type"] == "boolean" { json!("no") } else { json!(false) };
                    let error = Config::of(&within(json!({ (key): wrong }))).unwrap_err();
                    assert!(error.path.ends_with(&**key), "{path}.{key}: {error:?}");
                }
            }
            if schema["items"].is_object() {
                check(&schema["items"], &format!("{path}.[]"));
            }
            if schema["additionalProperties"].is_object() {
                check(&schema["additionalProperties"], &format!("{path}.any"));
            }
        }
        let schema = whole();
        assert_eq!(
            schema["properties"]["agents"]["properties"]["defaults"]["properties"]["model"]["type"],
            "string"
        );
        check(&schema, "");
    }

    #[test]
    fn a_form_is_built_step_by_step() {
        let root = lookup(".").unwrap();
        assert_eq!((&root["path"], &root["schema"]["type"]), (&json!("."), &json!("object")));
        let agents = root["children"].as_array().unwrap().iter().find(|row| row["key"] == "agents").unwrap();
        assert_eq!((&agents["path"], &agents["hasChildren"]), (&json!("agents"), &json!(true)));
        let model = lookup("agents.defaults/model").unwrap();
        assert_eq!(model["schema"], json!({ "type": "string" }));
        assert_eq!(model["children"], json!([]));
        assert!(lookup("agents.nothing").is_none() && lookup("").is_none());
    }
}
