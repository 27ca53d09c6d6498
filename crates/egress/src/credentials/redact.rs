//! Secrets on their way back to a cell: found however they are cut into pieces, and covered with as many stars.
//!
//! A covered text is as long as it was, so that what was said of its length still holds. The threat besides: a server
//! that sends guesses, and a cell that sees by what is late which of them a secret begins with. So what is held back
//! follows from nothing that is secret (`docs/decisions/0020`).

use crate::{
    check::{Check, keeps},
    digits::digits,
};
use bytes::Bytes;
use std::{
    fmt::Write,
    hash::{BuildHasher, RandomState},
    ops::Range,
    sync::Arc,
};
use zeroize::Zeroizing;

/// What secrets look like. A form that is shorter than this is looked for by none of its letters.
const SHORTEST: usize = 8;

/// Everything that is covered.
#[derive(Clone, Default)]
pub struct Patterns {
    all: Needles,
    /// The same in small letters, as they would stand in the name of a header.
    small: Needles,
    /// One of them has a space or the like in it.
    spaced: bool,
}

/// Texts that are looked for all at once: a look costs a bit of a filter under a random key for every few bytes, however
/// many texts there are, and more only where [`SHORTEST`] bytes of one are right together.
#[derive(Clone)]
struct Needles {
    /// The first windows of each, in order.
    windows: Vec<Window>,
    longest: usize,
    /// No text is shorter than a window and so many bytes less one: one of its first windows is looked at.
    stride: usize,
    filter: [u64; 1 << (BITS - 6)],
    key: u64,
}

/// [`SHORTEST`] bytes of a text, from `at` on.
#[derive(Clone)]
struct Window {
    text: Arc<Zeroizing<Vec<u8>>>,
    at: usize,
}

/// The filter has so many bits, as a power of two.
const BITS: u32 = 12;
/// So many windows of each text are kept at most.
const STRIDE: usize = 4;

impl Default for Needles {
    fn default() -> Self {
        let key = RandomState::new().hash_one(0u8) | 1;
        Self { windows: Vec::new(), longest: 0, stride: STRIDE, filter: [0; 1 << (BITS - 6)], key }
    }
}

impl Window {
    fn word(&self) -> Option<u64> {
        self.text.get(self.at..).and_then(word)
    }
}

/// The first bytes as one word; none if they are too few.
fn word(bytes: &[u8]) -> Option<u64> {
    bytes.first_chunk::<SHORTEST>().map(|word| u64::from_le_bytes(*word))
}

impl Needles {
    /// Where the filter says whether a window has this word.
    #[allow(clippy::cast_possible_truncation)]
    fn spot(&self, word: u64) -> (usize, u64) {
        // A hash of as many bits as the filter has: 12.
        let hash = word.wrapping_mul(self.key) >> (u64::BITS - BITS);
        ((hash >> 6) as usize, 1 << (hash & 63))
    }

    /// Adds one, unless it is known or too short.
    fn add(&mut self, text: &Arc<Zeroizing<Vec<u8>>>) {
        if word(text).is_none_or(|word| self.like(word).any(|known| known.text == *text)) {
            return;
        }
        self.longest = self.longest.max(text.len());
        self.stride = self.stride.min(text.len() + 1 - SHORTEST);
        for at in 0..STRIDE {
            let window = Window { text: Arc::clone(text), at };
            let Some(word) = window.word() else { break };
            let (index, bit) = self.spot(word);
            self.filter[index] |= bit;
            let place = self.windows.partition_point(|known| known.word() < Some(word));
            self.windows.insert(place, window);
        }
    }

    /// Adds those of another one.
    fn join(&mut self, other: &Self) {
        other.windows.iter().filter(|window| window.at == 0).for_each(|window| self.add(&window.text));
    }

    /// The windows that have this word.
    fn like(&self, word: u64) -> impl Iterator<Item = &Window> {
        let first = self.windows.partition_point(|known| known.word() < Some(word));
        self.windows[first..].iter().take_while(move |known| known.word() == Some(word))
    }

    /// Where they are; they may overlap, and one place may come more than once.
    fn found<'a>(&'a self, bytes: &'a [u8]) -> impl Iterator<Item = Range<usize>> + 'a {
        let bytes = if self.windows.is_empty() { &[] } else { bytes };
        let places = (0..bytes.len()).step_by(self.stride);
        let words = places.filter_map(|at| Some((at, word(&bytes[at..])?)));
        let likely = words.filter(|(_, word)| {
            let (index, bit) = self.spot(*word);
            self.filter[index] & bit != 0
        });
        likely.flat_map(move |(at, word)| {
            self.like(word).filter_map(move |window| {
                let begin = at.checked_sub(window.at)?;
                bytes[begin..].starts_with(&window.text).then(|| begin..begin + window.text.len())
            })
        })
    }
}

impl std::fmt::Debug for Patterns {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Patterns({})", self.all.windows.len())
    }
}

impl Patterns {
    /// Adds a secret: as it is, and as URLs, JSON, base64 and hex write it.
    pub fn add(&mut self, value: &[u8]) {
        if value.len() < SHORTEST {
            return;
        }
        for form in forms(value) {
            self.spaced |= form.len() >= SHORTEST && !form.iter().all(u8::is_ascii_graphic);
            self.small.add(&Arc::new(Zeroizing::new(form.to_ascii_lowercase())));
            self.all.add(&Arc::new(form));
        }
    }

    /// Adds those of another one.
    pub fn join(&mut self, other: &Self) {
        self.all.join(&other.all);
        self.small.join(&other.small);
        self.spaced |= other.spaced;
    }

    /// Is there nothing to cover?
    pub fn is_empty(&self) -> bool {
        self.all.windows.is_empty()
    }

    /// These bytes with everything covered; none if there was nothing to cover.
    pub fn cover(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        let mut covered: Option<Vec<u8>> = None;
        for range in self.all.found(bytes) {
            covered.get_or_insert_with(|| bytes.to_vec())[range].fill(b'*');
        }
        covered
    }

    /// Is one of them in this header name, which has no capitals?
    pub fn name(&self, name: &str) -> bool {
        self.small.found(name.as_bytes()).next().is_some()
    }

    /// Where the end of these bytes begins in which one of them may have begun: its visible characters, of which they
    /// all are made, and no more than the longest has, rounded up. Which characters these are does not matter, so
    /// that nobody learns by what is late how a secret begins.
    fn held(&self, bytes: &[u8]) -> usize {
        if !keeps(Check::SecretHeld) {
            return bytes.len();
        }
        let first = bytes.len().saturating_sub(self.all.longest.next_power_of_two());
        let end = &bytes[first..];
        let parted = end.iter().rposition(|byte| !byte.is_ascii_graphic()).filter(|_| !self.spaced);
        parted.map_or(first, |at| first + at + 1)
    }
}

/// One stream that is covered.
#[derive(Debug, Default)]
pub struct Redactor {
    kept: Zeroizing<Vec<u8>>,
    /// So many of the kept bytes belong to what was found already.
    covered: usize,
}

impl Redactor {
    /// Takes what comes next; what goes on. Of the last piece of all, or of a message that nothing reaches over, nothing is
    /// kept back.
    pub fn push(&mut self, patterns: &Patterns, mut piece: Bytes, last: bool) -> Bytes {
        let end = |bytes: &[u8]| if last { bytes.len() } else { patterns.held(bytes) };
        if self.kept.is_empty() && patterns.all.found(&piece).next().is_none() {
            // As nearly everything: it goes on as it came.
            self.kept.extend_from_slice(&piece.split_off(end(&piece)));
            return piece;
        }
        self.kept.extend_from_slice(&piece);
        let end = end(&self.kept);
        self.hand_on(patterns, end).into()
    }

    /// At the end of all what was kept back goes on.
    pub fn finish(&mut self, patterns: &Patterns) -> Vec<u8> {
        let end = self.kept.len();
        self.hand_on(patterns, end)
    }

    /// How much is kept back.
    pub fn kept(&self) -> usize {
        self.kept.len()
    }

    fn hand_on(&mut self, patterns: &Patterns, end: usize) -> Vec<u8> {
        let mut going = self.kept[..end].to_vec();
        let covered = std::iter::once(0..self.covered).chain(patterns.all.found(&self.kept));
        let mut over = 0;
        // What was found before counts on though nothing goes on now.
        for range in covered.filter(|range| range.start <= end) {
            over = over.max(range.end.saturating_sub(end));
            going[range.start..range.end.min(end)].fill(b'*');
        }
        self.covered = over;
        self.kept.drain(..end);
        going
    }
}

/// What a value may look like.
fn forms(value: &[u8]) -> Vec<Zeroizing<Vec<u8>>> {
    let mut forms = vec![Zeroizing::new(value.to_vec())];
    for upper in [true, false] {
        let mut escaped = Zeroizing::new(String::new());
        let mut hex = Zeroizing::new(String::new());
        // As it is written into a path.
        let mut segment = Zeroizing::new(String::new());
        for byte in value {
            let _ = match (byte.is_ascii_alphanumeric() || b"-._~:".contains(byte), upper) {
                (true, _) => write!(segment, "{}", char::from(*byte)),
                (false, true) => write!(segment, "%{byte:02X}"),
                (false, false) => write!(segment, "%{byte:02x}"),
            };
            // Writing to a string does not fail.
            let _ = match (byte.is_ascii_alphanumeric() || b"-._~".contains(byte), upper) {
                (true, _) => write!(escaped, "{}", char::from(*byte)),
                (false, true) => write!(escaped, "%{byte:02X}"),
                (false, false) => write!(escaped, "%{byte:02x}"),
            };
            let _ = if upper { write!(hex, "{byte:02X}") } else { write!(hex, "{byte:02x}") };
        }
        forms.extend([escaped, segment, hex].map(|text| Zeroizing::new(text.as_bytes().to_vec())));
    }
    if let Ok(text) = std::str::from_utf8(value)
        && let Ok(quoted) = serde_json::to_vec(text).map(Zeroizing::new)
    {
        let inner = &quoted[1..quoted.len() - 1];
        forms.push(Zeroizing::new(inner.to_vec()));
        let slashes =
            inner.iter().flat_map(|byte| if *byte == b'/' { b"\\/" } else { std::slice::from_ref(byte) });
        forms.push(Zeroizing::new(slashes.copied().collect()));
    }
    forms.extend(digits(value).into_iter().map(|(_, text)| text));
    forms
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use base64::{Engine, engine::general_purpose::STANDARD};
    use proptest::prelude::*;

    const VALUE: &str = "sk/live-\"3+ab=";

    fn patterns() -> Patterns {
        let mut patterns = Patterns::default();
        patterns.add(VALUE.as_bytes());
        patterns
    }

    #[test]
    fn a_secret_is_covered_in_every_form_that_a_server_is_likely_to_send_it_back_in() {
        let patterns = patterns();
        for form in [
            VALUE.to_owned(),
            "sk%2Flive-%223%2Bab%3D".to_owned(),
            "sk%2flive-%223%2bab%3d".to_owned(),
            serde_json::to_string(VALUE).unwrap().trim_matches('"').to_owned(),
            "sk\\/live-\\\"3+ab=".to_owned(),
            "736b2f6c6976652d22332b61623d".to_owned(),
        ] {
            let covered = patterns.cover(format!("<{form}>").as_bytes()).unwrap_or_else(|| panic!("{form}"));
            assert_eq!(covered, format!("<{}>", "*".repeat(form.len())).into_bytes(), "{form}");
        }
        let mut token = Patterns::default();
        token.add(b"12:ab/cd-ef");
        for form in ["/bot12:ab%2Fcd-ef/send", "/bot12:ab%2fcd-ef/send"] {
            let covered = String::from_utf8(token.cover(form.as_bytes()).unwrap()).unwrap();
            assert_eq!(covered, format!("/bot{}/send", "*".repeat(13)), "as it is written into a path");
        }
        for lead in ["", "a", "ab", "Basic:"] {
            let text = STANDARD.encode(format!("{lead}{VALUE}tail"));
            let covered = String::from_utf8(patterns.cover(text.as_bytes()).unwrap()).unwrap();
            // Of the value no whole byte is left: at the borders there are bits of one at most.
            assert!(covered.matches('*').count() >= VALUE.len() * 8 / 6 - 1, "{covered}");
        }
        assert_eq!(patterns.cover(b"sk/live-3+ab="), None);
    }

    #[test]
    fn what_is_held_back_is_the_last_word_and_no_more_than_a_secret_may_have_whatever_it_says() {
        let patterns = patterns();
        let longest = "%22".len() * VALUE.len();
        let held = |text: &str| {
            let mut redactor = Redactor::default();
            redactor.push(&patterns, Bytes::copy_from_slice(text.as_bytes()), false);
            redactor.kept()
        };
        for (right, wrong) in (1..VALUE.len()).map(|length| (&VALUE[..length], "z".repeat(length))) {
            assert_eq!((held(right), held(&wrong)), (right.len(), right.len()));
            assert_eq!(held(&format!("data: {right}\n\n")), 0);
        }
        let long = "y".repeat(1000);
        assert!((VALUE.len()..2 * longest).contains(&held(&long)), "{}", held(&long));
        assert_eq!(held(&long), held(&format!("{}{}", &long[VALUE.len()..], &VALUE[..VALUE.len() - 1])));
        let mut spaced = Patterns::default();
        spaced.add(b"a pass phrase");
        let mut redactor = Redactor::default();
        let mut passed = redactor.push(&spaced, Bytes::from_static(b"it is a pass "), false).to_vec();
        passed.extend(redactor.push(&spaced, Bytes::from_static(b"phrase"), false));
        passed.extend(redactor.finish(&spaced));
        assert_eq!(passed, b"it is *************");
    }

    proptest! {
        #[test]
        fn however_a_stream_is_cut_it_is_covered_as_if_it_had_come_whole(
            pieces in prop::collection::vec(prop_oneof![
                Just(VALUE.to_owned()), Just("aaaaaaaab".to_owned()), Just("aaaaaaaa".to_owned()),
                "[ask/live\\-]{0,12}", Just(VALUE[..9].to_owned()), Just(VALUE[3..].to_owned()),
            ], 0..12),
            cuts in prop::collection::vec(1usize..16, 0..64),
            known in any::<bool>(),
        ) {
            let mut patterns = patterns();
            // One that overlaps itself.
            patterns.add(b"aaaaaaaab");
            patterns.add(b"aaaaaaaa");
            let text = pieces.concat();
            let whole = patterns.cover(text.as_bytes()).unwrap_or_else(|| text.clone().into_bytes());
            let (mut redactor, mut passed, mut rest) = (Redactor::default(), Vec::new(), text.as_bytes());
            let mut cuts = cuts.into_iter();
            while !rest.is_empty() {
                let (chunk, more) = rest.split_at(cuts.next().unwrap_or(rest.len()).min(rest.len()));
                rest = more;
                let last = rest.is_empty() && known;
                passed.extend(redactor.push(&patterns, Bytes::copy_from_slice(chunk), last));
                prop_assert!(!last || redactor.kept() == 0);
                prop_assert!(!passed.windows(VALUE.len()).any(|seen| seen == VALUE.as_bytes()));
            }
            passed.extend(redactor.finish(&patterns));
            prop_assert_eq!(String::from_utf8(passed).unwrap(), String::from_utf8(whole).unwrap());
        }
    }
}
