//! Patterns over text: `*` stands for any run of characters, everything else for itself.

use std::fmt;

/// A pattern.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Glob(Box<str>);

/// The longest pattern, in bytes.
pub(crate) const MAX_GLOB: usize = 512;

impl Glob {
    /// Reads a pattern; none if it is too long or has control characters.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let fits = text.len() <= MAX_GLOB && !text.chars().any(char::is_control);
        fits.then(|| Self(text.into()))
    }

    /// The text that it stands for, if that is one.
    pub(crate) fn literal(&self) -> Option<&str> {
        (!self.0.contains('*')).then_some(&*self.0)
    }

    /// Does the text fit? Linear in both but for the last `*` that is tried again.
    pub(crate) fn matches(&self, text: &str) -> bool {
        let (pattern, text) = (self.0.as_bytes(), text.as_bytes());
        let (mut at, mut here) = (0, 0);
        let mut star: Option<(usize, usize)> = None;
        while here < text.len() {
            match pattern.get(at) {
                Some(b'*') => {
                    star = Some((at, here));
                    at += 1;
                }
                Some(byte) if *byte == text[here] => {
                    at += 1;
                    here += 1;
                }
                _ => {
                    let Some((last, tried)) = star else { return false };
                    star = Some((last, tried + 1));
                    (at, here) = (last + 1, tried + 1);
                }
            }
        }
        pattern[at..].iter().all(|byte| *byte == b'*')
    }

    /// The same pattern in lower case.
    pub(crate) fn folded(&self) -> Self {
        Self(self.0.to_ascii_lowercase().into())
    }

    /// Does it speak of the parts of a path?
    pub(crate) fn has_slash(&self) -> bool {
        self.0.contains('/')
    }
}

impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_star_is_any_run_and_the_rest_is_itself() {
        for (pattern, text, fits) in [
            ("", "", true),
            ("", "a", false),
            ("*", "", true),
            ("a*c", "abbc", true),
            ("a*c", "abbd", false),
            ("*b*b", "abab", true),
            ("*.rs", "a.rs.rs", true),
            ("a.c", "abc", false),
            ("a**", "a", true),
        ] {
            assert_eq!(Glob::parse(pattern).unwrap().matches(text), fits, "{pattern} {text}");
        }
    }
}
