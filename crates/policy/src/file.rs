//! The policy file as YAML spells it. Only [`crate::Document`] reads these; nothing downstream sees them.

use cofferdam_base::Protocol;
use serde::Deserialize;
use serde_saphyr::Spanned;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawDocument {
    pub(crate) version: Spanned<u32>,
    pub(crate) default: Option<crate::Default>,
    pub(crate) rules: Option<Vec<Spanned<RawRule>>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawRule {
    pub(crate) allow: Option<Spanned<String>>,
    pub(crate) ask: Option<Spanned<String>>,
    pub(crate) deny: Option<Spanned<String>>,
    pub(crate) ports: Option<Spanned<Vec<u16>>>,
    pub(crate) protocol: Option<Protocol>,
    pub(crate) reason: Option<Spanned<String>>,
    pub(crate) silent: Option<Spanned<bool>>,
}
