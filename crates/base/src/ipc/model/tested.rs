//! What a call of a route for a person came to, and what each failure means.

use super::{Alias, Tokens};
use crate::TenantId;
use serde::{Deserialize, Serialize};

/// One call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tested {
    /// Why it failed; none: it did not.
    pub trouble: Option<Trouble>,
    /// The provider's HTTP status, 0 if there was none.
    pub status: u16,
    /// What the provider, or whoever failed, said; of an answer that was fine, its text.
    pub said: String,
    /// Milliseconds until the answer began, and until it was there.
    pub first_byte_ms: u64,
    /// The same until its end.
    pub whole_ms: u64,
    /// What it used.
    pub tokens: Tokens,
}

macro_rules! troubles {
    ($($(#[doc = $doc:literal])* $name:ident = $text:literal, $mend:literal;)*) => {
        /// Why a route does not work. Only a person who asked for the call sees it, never a cell.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum Trouble { $($(#[doc = $doc])* $name,)* }

        impl Trouble {
            /// Every one.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// What it means.
            #[must_use]
            pub const fn text(self) -> &'static str {
                match self { $(Self::$name => $text),* }
            }

            const fn mend_form(self) -> &'static str {
                match self { $(Self::$name => $mend),* }
            }
        }
    };
}

troubles! {
    /// The warden is not ready.
    NotReady = "the tenant's warden has not received its configuration yet", "try again in a moment";
    /// It is not in the warden's table.
    NoRoute = "the warden knows no such route", "cofferdam model list {tenant}";
    /// The secret is not there.
    NoKey = "the secret that holds the provider's key is not set, or does not open",
        "cofferdam secret set {tenant} NAME, with the name that the route says";
    /// The secret does not fit a header.
    BadKey = "the provider's key has characters in it that no header can hold",
        "cofferdam secret set {tenant} NAME, without a line feed or spaces";
    /// The name is none.
    Resolve = "the provider's name does not resolve on this host",
        "check the base URL's host, and the name servers in [egress] of cofferdam.toml";
    /// The guard.
    Guarded = "the guard refused the provider's address: it is private, the host's own or not routable",
        "if it is meant, name its network in operator_private of [egress] in cofferdam.toml";
    /// Nobody answered.
    Connect = "nothing accepted the connection at the provider's address",
        "check the base URL's host and port, and that the provider is up";
    /// TLS.
    Tls = "TLS with the provider failed",
        "check that the base URL is https of the right host; an authority of your own belongs into extra_roots";
    /// It took too long.
    Slow = "the provider did not answer in time",
        "try again; a slow model needs --first-byte on cofferdam model set {tenant} {route}";
    /// It ended in the middle.
    BrokeOff = "the provider closed the connection in the middle of its answer", "try again";
    /// 401 and 403.
    KeyRefused = "the provider refused the key",
        "cofferdam secret set {tenant} NAME with a key that is valid and may use this model";
    /// 402, and what providers say of an empty account.
    Unpaid = "the provider's account has no credit left", "add credit at the provider";
    /// 404.
    NoSuchModel = "the provider has no such model, or no such path",
        "check --model and the base URL's path, which often ends in /v1";
    /// 429.
    TooMany = "the provider takes no more requests from this account now",
        "wait, raise the limit at the provider, or add a --fallback";
    /// 5xx.
    Failed = "the provider failed", "try again, or add a --fallback";
    /// Any other status.
    Refused = "the provider refused the request", "read what it said: the model may want another wire";
    /// A good status and a bad answer.
    NoAnswer = "something answered, and it is no answer of this provider's wire",
        "check the base URL: perhaps a web page or a proxy answers there";
    /// The ledger.
    Unrecorded = "the ledger or the meter takes no records now, so no model is asked", "cofferdam doctor";
    /// The budget.
    Budget = "the route's budget does not allow it", "cofferdam model list {tenant} shows what is left of it";
}

impl Trouble {
    /// What mends it.
    #[must_use]
    pub fn mend(self, tenant: &TenantId, route: &Alias) -> String {
        self.mend_form().replace("{tenant}", tenant.as_str()).replace("{route}", route.as_str())
    }

    /// What a provider's status means; none: it is a good one.
    #[must_use]
    pub const fn of_status(status: u16) -> Option<Self> {
        match status {
            200..=299 => None,
            401 | 403 => Some(Self::KeyRefused),
            402 => Some(Self::Unpaid),
            404 => Some(Self::NoSuchModel),
            408 | 504 => Some(Self::Slow),
            429 => Some(Self::TooMany),
            500..=599 => Some(Self::Failed),
            _ => Some(Self::Refused),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn each_trouble_says_what_it_is_and_what_mends_it() {
        let (tenant, route) = ("acme".try_into().unwrap(), "fast".parse().unwrap());
        for trouble in Trouble::ALL {
            let mend = trouble.mend(&tenant, &route);
            assert!(!trouble.text().is_empty() && !mend.is_empty() && !mend.contains('{'), "{trouble:?}");
        }
        assert!(Trouble::NoRoute.mend(&tenant, &route).ends_with("list acme"));
    }
}
