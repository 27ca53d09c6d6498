//! The policy file as YAML spells it. Only [`crate::Document`] reads these; nothing downstream sees them.

use crate::{Content, rule::Budget};
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};
use serde_saphyr::Spanned;
use std::{collections::BTreeMap, fmt};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawDocument {
    pub(crate) version: Spanned<u32>,
    pub(crate) default: Option<crate::Default>,
    pub(crate) rules: Option<Vec<Spanned<RawRule>>>,
    // From here on only in version 2.
    pub(crate) approvers: Option<Spanned<Many>>,
    pub(crate) limits: Option<Spanned<RawLimits>>,
    pub(crate) inference: Option<Spanned<RawInference>>,
    pub(crate) filesystem: Option<Spanned<RawFilesystem>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawRule {
    pub(crate) allow: Option<Spanned<String>>,
    pub(crate) ask: Option<Spanned<String>>,
    pub(crate) deny: Option<Spanned<String>>,
    pub(crate) ports: Option<Spanned<Vec<u16>>>,
    pub(crate) protocol: Option<Spanned<Spoken>>,
    pub(crate) reason: Option<Spanned<String>>,
    pub(crate) silent: Option<Spanned<bool>>,
    // From here on only in version 2.
    pub(crate) plain: Option<Spanned<bool>>,
    pub(crate) method: Option<Spanned<Many>>,
    pub(crate) path: Option<Spanned<String>>,
    pub(crate) query: Option<Spanned<BTreeMap<String, Many>>>,
    pub(crate) headers: Option<Spanned<Many>>,
    pub(crate) mcp: Option<Spanned<RawMcp>>,
    pub(crate) jsonrpc: Option<Spanned<RawRpc>>,
    pub(crate) graphql: Option<Spanned<RawGraphql>>,
    pub(crate) grpc: Option<Spanned<RawGrpc>>,
    pub(crate) content: Option<Spanned<Content>>,
    pub(crate) expires: Option<Spanned<String>>,
    pub(crate) budget: Option<Spanned<Budget>>,
    pub(crate) inspect: Option<Spanned<RawInspect>>,
    pub(crate) approvers: Option<Spanned<Many>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawLimits {
    pub(crate) memory_bytes: Option<u64>,
    pub(crate) pids: Option<u32>,
    pub(crate) cpu_percent: Option<u32>,
    pub(crate) tmp_bytes: Option<u64>,
    pub(crate) open_files: Option<u32>,
    pub(crate) io_bytes: Option<u64>,
    pub(crate) disk_bytes: Option<u64>,
    pub(crate) inodes: Option<u64>,
    pub(crate) connections: Option<u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawInference {
    pub(crate) routes: Option<Spanned<RawRoutes>>,
    pub(crate) budget: Option<Spanned<Many>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawFilesystem {
    pub(crate) read_only: Many,
}

/// Names of routes, or each with its limits.
pub(crate) struct RawRoutes(pub(crate) Vec<(String, Many)>);

impl<'de> Deserialize<'de> for RawRoutes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RoutesVisitor)
    }
}

struct RoutesVisitor;

impl<'de> Visitor<'de> for RoutesVisitor {
    type Value = RawRoutes;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of routes, or each with a list of its limits")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<RawRoutes, A::Error> {
        let mut all = Vec::new();
        while let Some(name) = items.next_element()? {
            all.push((name, Many::default()));
        }
        Ok(RawRoutes(all))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut items: A) -> Result<RawRoutes, A::Error> {
        let mut all = Vec::new();
        while let Some(entry) = items.next_entry()? {
            all.push(entry);
        }
        Ok(RawRoutes(all))
    }
}

/// What may be spoken, as a document names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Spoken {
    Http,
    Https,
    Tcp,
    Ws,
    Mcp,
    Jsonrpc,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum RawInspect {
    Never,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawMcp {
    pub(crate) method: Option<Many>,
    pub(crate) tool: Option<Many>,
    pub(crate) arguments: Option<BTreeMap<String, Many>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawRpc {
    pub(crate) method: Option<Many>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawGraphql {
    pub(crate) operation: Option<Many>,
    pub(crate) name: Option<Many>,
    pub(crate) fields: Option<Many>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawGrpc {
    pub(crate) service: Option<Many>,
    pub(crate) method: Option<Many>,
}

/// One text or a list of them.
#[derive(Default)]
pub(crate) struct Many(pub(crate) Vec<String>);

impl<'de> Deserialize<'de> for Many {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ManyVisitor)
    }
}

struct ManyVisitor;

impl<'de> Visitor<'de> for ManyVisitor {
    type Value = Many;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text or a list of texts")
    }

    fn visit_str<E>(self, text: &str) -> Result<Many, E> {
        Ok(Many(vec![text.to_owned()]))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Many, A::Error> {
        let mut all = Vec::new();
        while let Some(item) = items.next_element()? {
            all.push(item);
        }
        Ok(Many(all))
    }
}
