//! Host names as policy and wires know them: ASCII, lower case, no trailing dot.

use serde::{Deserialize, Serialize, Serializer};
use std::{fmt, sync::Arc};

/// A DNS name: 1 to 253 bytes of labels of 1 to 63 letters, digits, `-` or `_`, at least one letter in
/// the last label, lower case. An IP literal in any spelling is not a host name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct HostName(Arc<str>);

/// Why a text is no host name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a host name: use ASCII labels of letters, digits and '-' joined by dots (IDNs as xn--…)"
)]
pub struct HostNameError(String);

impl HostName {
    /// The name as text, lower case.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name's labels from left to right.
    pub fn labels(&self) -> impl Iterator<Item = &str> {
        self.0.split('.')
    }
}

impl Serialize for HostName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl TryFrom<&str> for HostName {
    type Error = HostNameError;

    fn try_from(text: &str) -> Result<Self, Self::Error> {
        let label = |label: &str| {
            !label.is_empty()
                && label.len() <= 63
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        };
        // `0x7f.1` and `2130706433` are addresses to some resolvers, so the last label must not look like
        // a number in any base.
        let last = text.rsplit('.').next().unwrap_or_default();
        let numeric = last.bytes().all(|b| b.is_ascii_digit())
            || (last.len() >= 2
                && last.as_bytes()[..2].eq_ignore_ascii_case(b"0x")
                && last.bytes().skip(2).all(|b| b.is_ascii_hexdigit()));
        if text.len() <= 253 && !numeric && text.split('.').all(label) {
            Ok(Self(text.to_ascii_lowercase().into()))
        } else {
            Err(HostNameError(text.chars().take(64).collect()))
        }
    }
}

impl TryFrom<String> for HostName {
    type Error = HostNameError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::try_from(text.as_str())
    }
}

impl std::str::FromStr for HostName {
    type Err = HostNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::try_from(text)
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_are_folded_and_checked() {
        assert_eq!(HostName::try_from("API.Example.com").unwrap().as_str(), "api.example.com");
        for bad in [
            "",
            ".",
            "a.",
            "a..b",
            "-a.b",
            "a-.b",
            "a b",
            "a\0.com",
            "a%00.com",
            "user@a.com",
            "127.0.0.1",
            "2130706433",
            "0x7f000001",
            "0x7f.1",
            "::1",
            "[::1]",
            "exämple.com",
            "a.com:80",
            "a.com/",
        ] {
            assert!(HostName::try_from(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics_and_a_name_reads_back_as_itself(text in ".{0,300}") {
            if let Ok(name) = HostName::try_from(text.as_str()) {
                prop_assert_eq!(HostName::try_from(name.as_str()).unwrap(), name);
            }
        }
    }
}
