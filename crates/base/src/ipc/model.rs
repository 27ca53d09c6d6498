//! A tenant's inference routes: by which name its cell asks, where that leads, and what it may cost.
//!
//! It owns the shapes and what can be read from them alone: how a name is chosen, how a limit and a price are written.
//! The threat: a name that is read in two ways. An [`Alias`] is one label or several of a host's name, so that it can
//! be shown, asked about and counted as it is.

use crate::{Provider, SecretName};
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

mod money;
mod tested;

pub use money::{Limit, LimitError, OwnPrice, Price, PriceError, Span, Spent, SpentByAll, Tokens, Unit, Usd};
pub use tested::{Tested, Trouble};

/// The name under which a cell finds its models.
pub const INFERENCE: &str = "inference.local";
/// A tenant has at most so many routes.
pub const MOST_ROUTES: usize = 32;
/// A route falls back to at most so many others.
pub const MOST_FALLBACKS: usize = 4;
/// The name that stands for the default route, unless a route is called so.
pub const DEFAULT: &str = "default";

/// A route's name: 1 to 40 of a-z, 0-9, `-` and `.`, with a letter or digit at the ends and around each `.`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Alias(String);

/// The text names no route.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no route's name: use 1 to 40 of a-z, 0-9, - and ., beginning and ending with a letter or digit"
)]
pub struct AliasError(String);

impl Alias {
    /// Its text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Alias {
    type Error = AliasError;

    fn try_from(text: String) -> Result<Self, AliasError> {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let label = |label: &str| {
            let bytes = label.as_bytes();
            bytes.iter().all(|b| plain(*b) || *b == b'-')
                && [bytes.first(), bytes.last()].into_iter().all(|end| end.is_some_and(|b| plain(*b)))
        };
        if text.len() <= 40 && text.split('.').all(label) {
            Ok(Self(text))
        } else {
            Err(AliasError(text.chars().take(64).collect()))
        }
    }
}

impl FromStr for Alias {
    type Err = AliasError;

    fn from_str(text: &str) -> Result<Self, AliasError> {
        Self::try_from(text.to_owned())
    }
}

impl From<Alias> for String {
    fn from(alias: Alias) -> Self {
        alias.0
    }
}

impl fmt::Display for Alias {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where inference goes by one name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelRoute {
    /// The name by which the cell asks for it, and under which its use is counted.
    pub route: Alias,
    /// Which wire the provider speaks.
    #[serde(default)]
    pub provider: Provider,
    /// Where the provider is.
    pub upstream: Upstream,
    /// The model's name at the provider; replaces whatever the cell asked for.
    pub model: String,
    /// The secret that holds the provider's key, if the provider wants one.
    pub secret: Option<SecretName>,
    /// May the cell have the provider fetch, run and keep things for it? That is a way out that no policy sees.
    #[serde(default)]
    pub provider_tools: bool,
    /// The routes that are asked instead, in this order, when this one answers 429 or 5xx, or not in time. Those of
    /// their own do not count.
    #[serde(default)]
    pub fallback: Vec<Alias>,
    /// How long it is waited for.
    #[serde(default)]
    pub patience: Patience,
    /// What it may use.
    #[serde(default)]
    pub limits: Vec<Limit>,
    /// What its tokens cost, where that is not as the table of prices says.
    #[serde(default)]
    pub price: Option<Price>,
}

impl ModelRoute {
    /// A route of the `OpenAI` wire without anything further.
    #[must_use]
    pub fn new(route: Alias, upstream: Upstream, model: &str) -> Self {
        Self {
            route,
            provider: Provider::OpenAi,
            upstream,
            model: model.to_owned(),
            secret: None,
            provider_tools: false,
            fallback: Vec::new(),
            patience: Patience::default(),
            limits: Vec::new(),
            price: None,
        }
    }
}

/// How long a provider is waited for, in milliseconds; none: as long as the warden does by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Patience {
    /// For the first byte of its answer.
    #[serde(default)]
    pub first_byte_ms: Option<u64>,
    /// Between two pieces of it.
    #[serde(default)]
    pub idle_ms: Option<u64>,
}

/// Where a provider is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Upstream {
    /// A base URL, `https://host/v1`. A private address is dialled only if `operator_private` holds it, and is
    /// checked when dialled like every other.
    Url(String),
    /// The host's built-in model, over [`super::warden::Feed::BuiltinModel`].
    Builtin,
}

/// All routes of a tenant.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelRoutes {
    /// The one that is taken where the cell names none.
    pub default: Option<Alias>,
    /// By name.
    pub routes: Vec<ModelRoute>,
}

impl ModelRoutes {
    /// The route of this name.
    #[must_use]
    pub fn named(&self, alias: &str) -> Option<&ModelRoute> {
        self.routes.iter().find(|route| route.route.as_str() == alias)
    }

    /// The route that a cell means which asks for this model; none: it means none of them.
    ///
    /// With one route there is nothing to choose, and every name means it: programs that have a model's name built in
    /// work. With several, a name that is not one of theirs is a mistake that a person wants to hear of, and not to pay
    /// for. No name, an empty one and `default` mean the default route.
    #[must_use]
    pub fn choose(&self, asked: Option<&str>) -> Option<&ModelRoute> {
        if let [only] = self.routes.as_slice() {
            return Some(only);
        }
        let default = || self.default.as_ref().and_then(|alias| self.named(alias.as_str()));
        match asked {
            None | Some("") => default(),
            Some(DEFAULT) => self.named(DEFAULT).or_else(default),
            Some(name) => self.named(name),
        }
    }

    /// This route, and then those that are asked instead of it.
    pub fn chain<'a>(&'a self, first: &'a ModelRoute) -> impl Iterator<Item = &'a ModelRoute> {
        let others = first.fallback.iter().filter_map(|alias| self.named(alias.as_str()));
        std::iter::once(first).chain(others.take(MOST_FALLBACKS))
    }

    /// Their names.
    #[must_use]
    pub fn aliases(&self) -> Vec<&str> {
        self.routes.iter().map(|route| route.route.as_str()).collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn routes(aliases: &[&str], default: &str) -> ModelRoutes {
        let route = |alias: &&str| ModelRoute::new(alias.parse().unwrap(), Upstream::Builtin, "m");
        ModelRoutes { default: default.parse().ok(), routes: aliases.iter().map(route).collect() }
    }

    fn chosen(routes: &ModelRoutes, asked: Option<&str>) -> Option<String> {
        routes.choose(asked).map(|route| route.route.to_string())
    }

    #[test]
    fn aliases_are_labels_of_a_host() {
        for good in ["a", "fast", "gpt-4.1-mini", "0", &"a".repeat(40)] {
            assert!(good.parse::<Alias>().is_ok(), "{good}");
            assert!(crate::HostName::try_from(format!("{good}.{INFERENCE}").as_str()).is_ok(), "{good}");
        }
        for bad in ["", "A", "a_b", "-a", "a-", "a..b", ".a", "a.", "a b", "ä", "a/b", &"a".repeat(41)] {
            assert!(bad.parse::<Alias>().is_err(), "{bad}");
        }
    }

    #[test]
    fn one_route_takes_every_name_and_of_several_a_name_must_be_one() {
        let one = routes(&["fast"], "fast");
        for asked in [None, Some(""), Some("gpt-5"), Some("default")] {
            assert_eq!(chosen(&one, asked).as_deref(), Some("fast"));
        }
        let two = routes(&["fast", "good"], "good");
        for (asked, route) in [
            (None, Some("good")),
            (Some(""), Some("good")),
            (Some("default"), Some("good")),
            (Some("fast"), Some("fast")),
            (Some("Fast"), None),
            (Some("gpt-5"), None),
        ] {
            assert_eq!(chosen(&two, asked).as_deref(), route, "{asked:?}");
        }
        // A route that is called so is meant by that name.
        assert_eq!(
            chosen(&routes(&["default", "good"], "good"), Some("default")).as_deref(),
            Some("default")
        );
        assert_eq!(chosen(&routes(&[], "good"), None), None);
        assert_eq!(chosen(&routes(&["a", "b"], "gone"), None), None);
    }

    #[test]
    fn a_chain_follows_no_fallback_of_a_fallback() {
        let mut routes = routes(&["a", "b", "c"], "a");
        routes.routes[0].fallback = vec!["b".parse().unwrap(), "gone".parse().unwrap()];
        routes.routes[1].fallback = vec!["c".parse().unwrap(), "a".parse().unwrap()];
        let chain: Vec<_> = routes.chain(&routes.routes[0]).map(|route| route.route.as_str()).collect();
        assert_eq!(chain, ["a", "b"]);
    }
}
