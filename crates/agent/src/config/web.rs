//! `tools.web`: the tools that look at the world.

use super::{Placeholder, is_default};
use serde::{Deserialize, Serialize};

/// The section.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Web {
    /// Who is asked for pages; without one there is no such tool.
    #[serde(skip_serializing_if = "is_default")]
    pub search: Option<Search>,
}

/// A provider of searches.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Search {
    /// Which.
    pub provider: Provider,
    /// What stands for its key.
    #[serde(default, skip_serializing_if = "is_default")]
    pub api_key: Option<Placeholder>,
    /// Where it is, if not at its usual place.
    #[serde(default, skip_serializing_if = "is_default")]
    pub base_url: Option<String>,
}

/// Providers whose wire format is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Provider {
    /// Brave's Web Search API.
    Brave,
    /// An instance of SearXNG that answers JSON; it has no usual place.
    Searxng,
}

impl Web {
    /// Is each value one that can be used?
    pub(super) fn check(&self) -> Result<(), String> {
        let Some(Search { provider, api_key, base_url }) = &self.search else { return Ok(()) };
        if let Some(url) = base_url
            && !url
                .parse::<http::Uri>()
                .is_ok_and(|uri| matches!(uri.scheme_str(), Some("http" | "https")) && uri.query().is_none())
        {
            return Err(format!("tools.web.search.baseUrl: {url:?} is no http or https address"));
        }
        match (provider, api_key, base_url) {
            (Provider::Brave, None, _) => Err("tools.web.search.apiKey: brave wants one".to_owned()),
            (Provider::Searxng, _, None) => {
                Err("tools.web.search.baseUrl: where is the instance of searxng?".to_owned())
            }
            _ => Ok(()),
        }
    }
}
