//! Secrets: values that cannot be printed, compared by accident or written to a wire, and that are wiped
//! when they go. The threat is our own logs, errors and core dumps.

use serde::{Deserialize, Serialize};
use std::fmt;
use zeroize::Zeroize;

/// A value without `Debug`, `Display`, `Clone` or `Serialize`, zeroised when dropped.
///
/// ```compile_fail
/// let key = cofferdam_base::Secret::new(vec![1u8]);
/// println!("{key:?}");
/// ```
#[expect(missing_debug_implementations, reason = "a secret must not be printable")]
pub struct Secret<T: Zeroize>(T);

impl<T: Zeroize> Secret<T> {
    /// Takes the value in. The caller must not keep a copy.
    pub const fn new(value: T) -> Self {
        Self(value)
    }

    /// Shows the value to the one place that uses it.
    pub const fn expose(&self) -> &T {
        &self.0
    }
}

impl<T: Zeroize> Drop for Secret<T> {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// A secret's name within its tenant: `^[A-Za-z][A-Za-z0-9_.-]{0,63}$`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SecretName(String);

/// Why a text is no secret name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a secret name: use a letter, then up to 63 letters, digits, '_', '.' or '-'")]
pub struct SecretNameError(String);

impl SecretName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<&str> for SecretName {
    type Error = SecretNameError;

    fn try_from(text: &str) -> Result<Self, Self::Error> {
        let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
        let first = text.as_bytes().first().is_some_and(u8::is_ascii_alphabetic);
        if first && text.len() <= 64 && text.bytes().all(inner) {
            Ok(Self(text.to_owned()))
        } else {
            Err(SecretNameError(text.chars().take(64).collect()))
        }
    }
}

impl TryFrom<String> for SecretName {
    type Error = SecretNameError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::try_from(text.as_str())
    }
}

impl std::str::FromStr for SecretName {
    type Err = SecretNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::try_from(text)
    }
}

impl From<SecretName> for String {
    fn from(name: SecretName) -> Self {
        name.0
    }
}

impl fmt::Display for SecretName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        for good in ["a", "OPENAI_API_KEY", "model.main-1"] {
            assert!(SecretName::try_from(good).is_ok(), "{good}");
        }
        for bad in ["", "1a", "_a", "a/b", "a b", "ä", &"a".repeat(65)] {
            assert!(SecretName::try_from(bad).is_err(), "{bad}");
        }
    }
}
