//! Placeholders in bytes, whole or as they come.

use bytes::Bytes;
use cofferdam_base::binding::{PLACEHOLDER, PLACEHOLDER_DIGITS, decoded};
use memchr::memmem;
use std::sync::LazyLock;

/// How long one is.
pub(crate) const LENGTH: usize = PLACEHOLDER.len() + PLACEHOLDER_DIGITS;

static WORD: LazyLock<memmem::Finder<'static>> = LazyLock::new(|| memmem::Finder::new(PLACEHOLDER));

/// The first placeholder in these bytes.
pub(super) fn placeholder(bytes: &[u8]) -> Option<&str> {
    at(bytes).map(|(_, found)| found)
}

/// The same, and where it is.
pub(super) fn at(bytes: &[u8]) -> Option<(usize, &str)> {
    WORD.find_iter(bytes).find_map(|at| {
        let found = bytes.get(at..at + LENGTH)?;
        let digits = &found[PLACEHOLDER.len()..];
        let sound = digits.iter().copied().all(is_digit);
        Some((at, std::str::from_utf8(found).ok().filter(|_| sound)?))
    })
}

/// The same in a part of a URI, as it is written or as it is read.
pub(super) fn in_uri(text: &str) -> Option<String> {
    let read = || {
        let text = text.contains('%').then(|| decoded(text))??;
        placeholder(text.as_bytes()).map(str::to_owned)
    };
    placeholder(text.as_bytes()).map(str::to_owned).or_else(read)
}

/// Looks through a stream: hands on all that can be no placeholder, and keeps back what may become one.
#[derive(Debug, Default)]
pub struct Finder {
    kept: Vec<u8>,
}

impl Finder {
    /// Takes what comes next: what goes on, or the placeholder that was found.
    pub fn push(&mut self, piece: Bytes) -> Result<Bytes, String> {
        let mut whole = piece;
        if !self.kept.is_empty() {
            self.kept.extend_from_slice(&whole);
            whole = std::mem::take(&mut self.kept).into();
        }
        if let Some(found) = placeholder(&whole) {
            return Err(found.to_owned());
        }
        let first = whole.len().saturating_sub(LENGTH - 1);
        let begun = (first..whole.len()).find(|at| begins(&whole[*at..]));
        self.kept.extend_from_slice(&whole.split_off(begun.unwrap_or(whole.len())));
        Ok(whole)
    }

    /// At the end what was kept back goes on.
    pub fn finish(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.kept)
    }

    /// How much is kept back.
    pub fn kept(&self) -> usize {
        self.kept.len()
    }
}

/// Could these bytes be the beginning of a placeholder?
fn begins(bytes: &[u8]) -> bool {
    let word = bytes.len().min(PLACEHOLDER.len());
    bytes[..word] == PLACEHOLDER.as_bytes()[..word] && bytes[word..].iter().copied().all(is_digit)
}

fn is_digit(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn token() -> String {
        format!("{PLACEHOLDER}{}", "0a".repeat(PLACEHOLDER_DIGITS / 2))
    }

    #[test]
    fn one_is_found_as_it_is_written_or_read_and_the_word_alone_is_none() {
        let token = token();
        assert_eq!(placeholder(format!("x{token}y").as_bytes()), Some(token.as_str()));
        assert_eq!(in_uri(&token.replace('_', "%5f")), Some(token.clone()));
        assert_eq!(placeholder(PLACEHOLDER.as_bytes()), None);
        assert_eq!(placeholder(&token.as_bytes()[..LENGTH - 1]), None);
        // One that is broken off does not hide the next.
        assert_eq!(placeholder(format!("{PLACEHOLDER}00{token}").as_bytes()), Some(token.as_str()));
    }

    proptest! {
        #[test]
        fn however_a_stream_is_cut_it_goes_on_whole_or_nothing_of_a_placeholder_does(
            before in "[a-f_cofferdam]{0,40}",
            after in "[a-f_cofferdam]{0,40}",
            with in any::<bool>(),
            cuts in prop::collection::vec(1usize..20, 0..40),
        ) {
            let token = token();
            let text = format!("{before}{}{after}", if with { token.as_str() } else { "" });
            let (mut finder, mut passed, mut rest) = (Finder::default(), Vec::new(), text.as_bytes());
            let mut cuts = cuts.into_iter();
            let mut found = false;
            while !rest.is_empty() && !found {
                let (chunk, more) = rest.split_at(cuts.next().unwrap_or(rest.len()).min(rest.len()));
                rest = more;
                match finder.push(Bytes::copy_from_slice(chunk)) {
                    Ok(bytes) => passed.extend(bytes),
                    Err(what) => {
                        prop_assert_eq!(&what, &token);
                        found = true;
                    }
                }
            }
            prop_assert_eq!(found, with);
            if found {
                prop_assert!(passed.len() <= before.len());
            } else {
                passed.extend(finder.finish());
                prop_assert_eq!(passed, text.into_bytes());
            }
        }
    }
}
