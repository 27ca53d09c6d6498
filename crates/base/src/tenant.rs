//! Tenant ids, in upstream's syntax, so that an id is also one DNS label and one path component.

use serde::{Deserialize, Serialize};
use std::fmt;

/// A tenant's id: `^[a-z0-9](?:[a-z0-9-]{0,38}[a-z0-9])?$`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TenantId(String);

/// Why a text is no tenant id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a tenant id: use 1 to 40 of a-z, 0-9 and '-', beginning and ending with a letter or digit"
)]
pub struct TenantIdError(String);

impl TenantId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<&str> for TenantId {
    type Error = TenantIdError;

    fn try_from(text: &str) -> Result<Self, Self::Error> {
        let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let bytes = text.as_bytes();
        let ends = bytes.first().is_some_and(|b| inner(*b)) && bytes.last().is_some_and(|b| inner(*b));
        if ends && bytes.len() <= 40 && bytes.iter().all(|b| inner(*b) || *b == b'-') {
            Ok(Self(text.to_owned()))
        } else {
            // A garbage id may be a mebibyte long; the error need not be.
            Err(TenantIdError(text.chars().take(64).collect()))
        }
    }
}

impl TryFrom<String> for TenantId {
    type Error = TenantIdError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::try_from(text.as_str())
    }
}

impl std::str::FromStr for TenantId {
    type Err = TenantIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::try_from(text)
    }
}

impl From<TenantId> for String {
    fn from(id: TenantId) -> Self {
        id.0
    }
}

impl fmt::Display for TenantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_follow_upstream() {
        for good in ["a", "0", "acme", "a-b", "a--b", &"a".repeat(40)] {
            assert!(TenantId::try_from(good).is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a_b", "a.b", "a/b", "..", "ä", "a\0", &"a".repeat(41)] {
            assert!(TenantId::try_from(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_error_stays_short_whatever_was_typed() {
        let error = TenantId::try_from("x!".repeat(1 << 19).as_str()).unwrap_err();
        assert!(error.to_string().len() < 300);
    }
}
