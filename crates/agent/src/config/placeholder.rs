//! A secret as a configuration may name it: never itself, only what stands for it in the cell.

use cofferdam_base::binding::PLACEHOLDER;
use serde::{Deserialize, Serialize};

/// A placeholder, or the variable of the environment that holds one: `${BRAVE_API_KEY}`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Placeholder(String);

impl TryFrom<String> for Placeholder {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let name = text.strip_prefix("${").and_then(|rest| rest.strip_suffix('}'));
        let named = name.is_some_and(|name| {
            !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        });
        let whole = || text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        if named || (text.starts_with(PLACEHOLDER) && whole()) {
            return Ok(Self(text));
        }
        // Whatever it is, it may be a secret: it is not repeated.
        Err("a secret itself must not be in a cell: `cofferdam secret bind` makes a placeholder in a variable of it; \
             write ${VARIABLE}"
            .to_owned())
    }
}

impl From<Placeholder> for String {
    fn from(placeholder: Placeholder) -> Self {
        placeholder.0
    }
}

impl Placeholder {
    /// What is sent in place of the secret; an error if the variable is not there.
    pub(crate) fn resolved(&self) -> Result<String, String> {
        let Some(name) = self.0.strip_prefix("${").and_then(|rest| rest.strip_suffix('}')) else {
            return Ok(self.0.clone());
        };
        match std::env::var(name) {
            Ok(value) if value.starts_with(PLACEHOLDER) => Ok(value),
            Ok(_) => Err(format!("the variable {name} holds no placeholder")),
            Err(_) => Err(format!(
                "there is no variable {name} in this cell: bind a secret to it with `cofferdam secret bind`"
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_secret_itself_is_refused_and_not_repeated() {
        let whole = format!("{PLACEHOLDER}{}", "0".repeat(48));
        let read = |text: &str| Placeholder::try_from(text.to_owned());
        assert_eq!(read(&whole).unwrap().resolved().unwrap(), whole);
        assert!(read("${NOBODY_SET_THIS}").unwrap().resolved().unwrap_err().contains("secret bind"));
        for bad in ["sk-live-123", "", "${}", "${A B}", "cofferdam_placeholder_ x"] {
            let error = read(bad).unwrap_err();
            assert!(error.contains("secret bind") && !error.contains("sk-live"), "{error}");
        }
        assert!(Placeholder("${PATH}".to_owned()).resolved().is_err());
    }
}
