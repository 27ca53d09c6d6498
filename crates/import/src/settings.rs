//! Which settings the native gateway heeds: asked of its own parser, key by key, so that no table here grows old.

use cofferdam_agent::config::Config;
use serde_json::{Map, Value};

/// A value of the configuration, by the keys that lead to it.
pub(crate) type Leaf = (Vec<String>, Value);

/// Keys below one that are tried in every combination; of more, each alone.
const TOGETHER: usize = 6;
/// So many settings are tried at all.
const MOST: usize = 1000;

/// The document of those that it heeds, and which they are.
pub(crate) fn heeded(leaves: &[Leaf]) -> (Value, Vec<usize>) {
    let mut kept = Kept { leaves, document: Value::Object(Map::new()), taken: Vec::new() };
    let all: Vec<usize> = (0..leaves.len().min(MOST)).collect();
    kept.fit(&all, 0);
    // Some mean nothing without what came after them.
    let rest: Vec<usize> = all.into_iter().filter(|at| !kept.taken.contains(at)).collect();
    kept.fit(&rest, 0);
    (kept.document, kept.taken)
}

struct Kept<'a> {
    leaves: &'a [Leaf],
    document: Value,
    taken: Vec<usize>,
}

impl Kept<'_> {
    /// Takes of these what can be taken, those below one key together first.
    fn fit(&mut self, these: &[usize], depth: usize) {
        if these.is_empty() || self.take(these) {
            return;
        }
        let mut groups: Vec<(&str, Vec<usize>)> = Vec::new();
        for at in these {
            let Some(key) = self.leaves[*at].0.get(depth) else { continue };
            match groups.iter_mut().find(|group| group.0 == key) {
                Some(group) => group.1.push(*at),
                None => groups.push((key, vec![*at])),
            }
        }
        let siblings = groups.iter().all(|group| group.1.len() == 1) && these.len() <= TOGETHER;
        if siblings && self.best(these) {
            return;
        }
        for (_, group) in groups {
            if group.len() > 1 || !siblings {
                self.fit_below(&group, depth);
            }
        }
    }

    fn fit_below(&mut self, group: &[usize], depth: usize) {
        if group.len() == 1 {
            self.take(group);
        } else {
            self.fit(group, depth + 1);
        }
    }

    /// The largest combination that can be taken: some keys mean nothing without another.
    fn best(&mut self, these: &[usize]) -> bool {
        let mut sets: Vec<u32> = (1..1_u32 << these.len()).collect();
        sets.sort_by_key(|set| std::cmp::Reverse(set.count_ones()));
        sets.into_iter().any(|set| {
            let chosen: Vec<usize> =
                these.iter().enumerate().filter(|(at, _)| set >> at & 1 == 1).map(|(_, it)| *it).collect();
            self.take(&chosen)
        })
    }

    /// Takes all of these, or nothing.
    fn take(&mut self, these: &[usize]) -> bool {
        let mut document = self.document.clone();
        let put = these.iter().all(|at| put(&mut document, &self.leaves[*at].0, &self.leaves[*at].1));
        let heeded = put && Config::of(&document).is_ok();
        if heeded {
            self.document = document;
            self.taken.extend(these);
        }
        heeded
    }
}

fn put(document: &mut Value, path: &[String], value: &Value) -> bool {
    let Some((key, rest)) = path.split_first() else {
        *document = value.clone();
        return true;
    };
    let Some(fields) = document.as_object_mut() else { return false };
    put(fields.entry(key).or_insert_with(|| Value::Object(Map::new())), rest, value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn leaf(path: &str, value: Value) -> Leaf {
        (path.split('.').map(str::to_owned).collect(), value)
    }

    #[test]
    fn what_the_gateway_heeds_is_kept_and_the_rest_is_not() {
        let leaves = [
            leaf("agents.defaults.thinkingDefault", json!("low")),
            leaf("agents.defaults.imageModel", json!("x")),
            leaf("channels.alien.enabled", json!(true)),
            leaf("tools.web.search.provider", json!("brave")),
            leaf("tools.web.search.apiKey", json!("${BRAVE}")),
            leaf("tools.web.search.maxResults", json!(3)),
            leaf("tools.nobody.knows", json!(1)),
        ];
        let (document, mut taken) = heeded(&leaves);
        taken.sort_unstable();
        assert_eq!(taken, [0, 3, 4]);
        assert_eq!(document["tools"]["web"]["search"], json!({ "provider": "brave", "apiKey": "${BRAVE}" }));
        assert_eq!(heeded(&[leaf("agents.defaults.thinkingDefault", json!("very"))]).1, [0; 0]);
        let leaves = [
            leaf("agents.defaults.heartbeat.every", json!("30m")),
            leaf("agents.defaults.heartbeat.target", json!("telegram")),
            leaf("agents.defaults.heartbeat.to", json!("42")),
            leaf("channels.telegram.botToken", json!("${TELEGRAM}")),
            leaf("channels.telegram.unknown", json!(1)),
        ];
        let (_, mut taken) = heeded(&leaves);
        taken.sort_unstable();
        assert_eq!(taken, [0, 1, 2, 3], "a channel may be named before it is there");
    }
}
