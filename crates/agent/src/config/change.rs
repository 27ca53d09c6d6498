//! How a configuration is changed: a patch of what is there, as upstream merges it, and what is another afterwards.

use super::secret::below;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};

/// What is there with a patch over it: `null` removes a key, objects are merged, lists whose entries have ids are
/// merged by them, and whatever else there is takes the place of the old.
pub(crate) fn merged(base: &Value, patch: &Value, replace: &BTreeSet<String>) -> Value {
    merge(base, patch, replace, "")
}

fn merge(base: &Value, patch: &Value, replace: &BTreeSet<String>, path: &str) -> Value {
    let Value::Object(patch) = patch else { return patch.clone() };
    let mut out = base.as_object().cloned().unwrap_or_default();
    for (key, value) in patch {
        let path = below(path, key);
        if value.is_null() {
            out.remove(key);
            continue;
        }
        let old = out.remove(key).unwrap_or_default();
        let list = match (&old, value) {
            (Value::Array(old), Value::Array(new)) if !replace.contains(&path) => {
                by_id(old, new, replace, &path)
            }
            _ => None,
        };
        out.insert(key.clone(), list.unwrap_or_else(|| merge(&old, value, replace, &path)));
    }
    out.into()
}

fn id(entry: &Value) -> Option<&str> {
    entry.get("id")?.as_str().filter(|id| !id.is_empty())
}

/// A list of entries with ids, with others over it; none: it is no such list.
fn by_id(old: &[Value], new: &[Value], replace: &BTreeSet<String>, path: &str) -> Option<Value> {
    if !old.iter().all(|entry| id(entry).is_some()) {
        return None;
    }
    let mut out = old.to_vec();
    for entry in new {
        let known = id(entry).and_then(|wanted| out.iter_mut().find(|entry| id(entry) == Some(wanted)));
        match known {
            Some(known) => *known = merge(known, entry, replace, &format!("{path}[]")),
            None => out.push(entry.clone()),
        }
    }
    Some(out.into())
}

/// Lists from which a patch takes entries, unless it says so.
pub(crate) fn shortened(
    base: &Value,
    patch: &Value,
    after: &Value,
    replace: &BTreeSet<String>,
) -> Vec<String> {
    let mut out = Vec::new();
    shorten(base, patch, after, "", &mut out);
    out.retain(|path| !replace.contains(path));
    out
}

fn shorten(base: &Value, patch: &Value, after: &Value, path: &str, out: &mut Vec<String>) {
    let (Value::Object(base), Value::Object(patch)) = (base, patch) else { return };
    for (key, patch) in patch {
        let (path, after) = (below(path, key), &after[key.as_str()]);
        match (base.get(key), patch) {
            (Some(Value::Array(base)), patch) => {
                let kept = after.as_array().map(Vec::as_slice).unwrap_or_default();
                match patch.as_array().filter(|_| keeps(base, kept)) {
                    Some(patch) => shorten_entries(base, patch, kept, &format!("{path}[]"), out),
                    None => out.push(path),
                }
            }
            (Some(base @ Value::Object(_)), Value::Object(_)) => shorten(base, patch, after, &path, out),
            (Some(base), _) => lists(base, &path, out),
            (None, _) => {}
        }
    }
}

/// Those inside of entries that have ids.
fn shorten_entries(base: &[Value], patch: &[Value], after: &[Value], path: &str, out: &mut Vec<String>) {
    for patch in patch {
        let Some(wanted) = id(patch) else { continue };
        let find = |all: &'_ [Value]| all.iter().position(|entry| id(entry) == Some(wanted));
        if let (Some(old), Some(new)) = (find(base), find(after)) {
            shorten(&base[old], patch, &after[new], path, out);
        }
    }
}

/// Is each entry still among the others? One with an id may be another by now.
fn keeps(base: &[Value], after: &[Value]) -> bool {
    let named = base.iter().all(|entry| id(entry).is_some());
    let mut left: Vec<&Value> = after.iter().collect();
    base.iter().all(|old| {
        let same = |new: &&Value| if named { id(new) == id(old) } else { *new == old };
        left.iter().position(same).map(|at| left.swap_remove(at)).is_some()
    })
}

fn lists(value: &Value, path: &str, out: &mut Vec<String>) {
    match value {
        Value::Array(_) => out.push(path.to_owned()),
        Value::Object(fields) => fields.iter().for_each(|(key, value)| lists(value, &below(path, key), out)),
        _ => {}
    }
}

/// The paths at which two differ, down to what has no more keys.
pub(crate) fn changed(old: &Value, new: &Value) -> Vec<String> {
    let mut out = Vec::new();
    differ(old, new, "", &mut out);
    out
}

fn differ(old: &Value, new: &Value, path: &str, out: &mut Vec<String>) {
    if old == new {
        return;
    }
    if !old.is_object() && !new.is_object() {
        return out.push(path.to_owned());
    }
    let nothing = Map::new();
    let (old, new) = (old.as_object().unwrap_or(&nothing), new.as_object().unwrap_or(&nothing));
    let both: BTreeMap<&String, (&Value, &Value)> = old
        .keys()
        .chain(new.keys())
        .map(|key| (key, (old.get(key).unwrap_or(&Value::Null), new.get(key).unwrap_or(&Value::Null))))
        .collect();
    if both.is_empty() {
        // An empty object came or went.
        out.push(path.to_owned());
    }
    for (key, (old, new)) in both {
        differ(old, new, &below(path, key), out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_patch_changes_what_it_names() {
        let base = json!({ "a": { "b": 1, "c": [1, 2] }, "list": [{ "id": "x", "n": 1 }, { "id": "y" }] });
        let none = BTreeSet::new();
        let patch = json!({ "a": { "b": null, "d": true }, "list": [{ "id": "x", "n": 2 }, { "id": "z" }] });
        let after = merged(&base, &patch, &none);
        assert_eq!(
            after,
            json!({ "a": { "c": [1, 2], "d": true }, "list": [{ "id": "x", "n": 2 }, { "id": "y" }, { "id": "z" }] })
        );
        assert!(shortened(&base, &patch, &after, &none).is_empty());
        assert_eq!(changed(&base, &after), ["a.b", "a.d", "list"]);
        assert!(changed(&base, &base).is_empty());
    }

    #[test]
    fn entries_of_a_list_go_only_if_it_is_named() {
        let base = json!({ "a": { "c": [1, 2] }, "list": [{ "id": "x", "in": [1] }, { "id": "y" }] });
        for (patch, lost) in [
            (json!({ "a": { "c": [2, 1, 3] } }), vec![]),
            (json!({ "a": { "c": [1] } }), vec!["a.c"]),
            (json!({ "a": null }), vec!["a.c"]),
            (json!({ "list": null }), vec!["list"]),
            (json!({ "list": "no" }), vec!["list"]),
            (json!({ "list": [{ "id": "x", "in": [2] }] }), vec!["list[].in"]),
        ] {
            let after = merged(&base, &patch, &BTreeSet::new());
            assert_eq!(shortened(&base, &patch, &after, &BTreeSet::new()), lost, "{patch}");
            let meant = lost.iter().map(|path| (*path).to_owned()).collect();
            assert!(shortened(&base, &patch, &after, &meant).is_empty());
        }
        let replace = BTreeSet::from(["list".to_owned()]);
        assert_eq!(
            merged(&base, &json!({ "list": [{ "id": "z" }] }), &replace)["list"],
            json!([{ "id": "z" }])
        );
    }
}
