//! What must not leave, in every form that is looked for, and where pieces of it are in bytes.
//!
//! The index is of all windows of [`WINDOW`] characters of all forms, behind a filter under a random key. So what
//! costs time follows from [`WINDOW`] right characters together, and what is seen of an outcome from three quarters of a
//! value. Who knows neither learns no secret letter by letter; what remains for who knows the beginning of one and
//! measures well is in `docs/decisions/0020`. Nothing is kept back that only may become a secret.

use super::forms::{Form, forms, middle, squeezed};
use cofferdam_base::{Millis, Secret, SecretName};
use std::{
    fmt,
    hash::{BuildHasher, RandomState},
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
};
use zeroize::Zeroizing;

/// No shorter value is looked for: it would be found where it is not.
pub const SHORTEST: usize = 8;
/// A piece that counts is as long as this, in characters of its form, or all of a shorter form.
pub const PIECE: usize = 12;
/// What is indexed.
const WINDOW: usize = 8;
/// How long a piece that was sent counts, in milliseconds.
const REMEMBERED: u64 = 60 * 60 * 1000;
/// The filter has so many bits, as powers of two.
const BITS: Range<u32> = 13..21;

/// A value that must not leave.
pub struct Known {
    /// Its name.
    pub name: SecretName,
    /// Was it planted to be found?
    pub canary: bool,
    /// The value.
    pub value: Secret<Vec<u8>>,
}

impl fmt::Debug for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Known").field("name", &self.name).finish_non_exhaustive()
    }
}

/// What was found: enough of it that it counts as sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Whose value.
    pub name: SecretName,
    /// Is it a canary?
    pub canary: bool,
}

/// Everything of one tenant that must not leave, and what of it was sent lately, wherever to.
pub struct Watch {
    values: Vec<Value>,
    forms: Vec<Form>,
    /// Every window of every form, in order, and beside it its form and where it begins there.
    windows: Zeroizing<Vec<u64>>,
    places: Vec<(u32, u32)>,
    filter: Vec<u64>,
    multiplier: u64,
    shift: u32,
    stride: usize,
    longest: usize,
}

struct Value {
    found: Found,
    /// When each byte was last sent; shared with what looked for the same value before.
    sent: Arc<Mutex<Vec<Option<Millis>>>>,
}

impl Default for Watch {
    fn default() -> Self {
        Self::new(&[])
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Watch({})", self.values.len())
    }
}

impl Watch {
    /// Looks for these. Those that are shorter than [`SHORTEST`] are left out.
    #[must_use]
    pub fn new(known: &[Known]) -> Self {
        let (mut values, mut all) = (Vec::new(), Vec::new());
        for one in known.iter().filter(|one| one.value.expose().len() >= SHORTEST) {
            let value = one.value.expose().as_slice();
            let joined = squeezed(value);
            let both = [value, &joined];
            for text in &both[..if joined.len() == value.len() { 1 } else { 2 }] {
                let text = middle(text);
                if text.len() < SHORTEST {
                    continue;
                }
                all.extend(forms(values.len(), text));
                let found = Found { name: one.name.clone(), canary: one.canary };
                values.push(Value { found, sent: Arc::new(Mutex::new(vec![None; text.len()])) });
            }
        }
        Self::indexed(values, all)
    }

    fn indexed(values: Vec<Value>, forms: Vec<Form>) -> Self {
        let mut entries = Vec::new();
        for (number, form) in (0u32..).zip(&forms) {
            for (at, window) in (0u32..).zip(form.text.windows(WINDOW)) {
                entries.extend(word(window).map(|word| (word, (number, at))));
            }
        }
        entries.sort_unstable();
        let wanted = (entries.len() * 64).next_power_of_two().trailing_zeros();
        let bits = wanted.clamp(BITS.start, BITS.end - 1);
        let shift = u64::BITS - bits;
        let multiplier = RandomState::new().hash_one(0u8) | 1;
        let mut filter = vec![0u64; 1 << (bits - 6)];
        for (word, _) in &entries {
            let (at, bit) = spot(word.wrapping_mul(multiplier) >> shift);
            filter[at] |= bit;
        }
        // A piece that counts has a window at every place that is looked at.
        let shortest = forms.iter().map(|form| form.text.len()).min().unwrap_or(PIECE).min(PIECE);
        Self {
            values,
            stride: (shortest + 1).saturating_sub(WINDOW).clamp(1, 4),
            longest: forms.iter().map(|form| form.text.len()).max().unwrap_or(0),
            forms,
            windows: Zeroizing::new(entries.iter().map(|(word, _)| *word).collect()),
            places: entries.iter().map(|(_, place)| *place).collect(),
            filter,
            multiplier,
            shift,
        }
    }

    /// The same, which knows what was sent of the values that were looked for before.
    #[must_use]
    pub fn remembering(mut self, before: &Self) -> Self {
        let text = |watch: &Self, value| {
            watch.forms.iter().find(|form| form.value == value).map(|form| form.text.clone())
        };
        let known: Vec<_> = (0..before.values.len()).map(|value| text(before, value)).collect();
        for value in 0..self.values.len() {
            let same = text(&self, value);
            let name = &self.values[value].found.name;
            let old = before
                .values
                .iter()
                .zip(&known)
                .find(|(old, text)| old.found.name == *name && **text == same);
            if let Some((old, _)) = old {
                self.values[value].sent = Arc::clone(&old.sent);
            }
        }
        self
    }

    /// Is there nothing to look for?
    pub fn is_empty(&self) -> bool {
        self.forms.is_empty()
    }

    /// The length of the longest form.
    pub(super) fn longest(&self) -> usize {
        self.longest
    }

    /// Looks at bytes that are about to be sent. Found is what has three quarters of its bytes sent within the hour,
    /// in pieces that count; the piece that was found does not leave, and is not remembered as sent.
    pub(super) fn look(&self, bytes: &[u8], now: Millis) -> Option<Found> {
        if self.is_empty() {
            return None;
        }
        let mut at = 0;
        while let Some(window) = bytes.get(at..).and_then(|rest| rest.first_chunk::<WINDOW>()) {
            let word = u64::from_le_bytes(*window);
            let (index, bit) = spot(word.wrapping_mul(self.multiplier) >> self.shift);
            if self.filter[index] & bit != 0
                && let Some(found) = self.compare(word, bytes, at, now)
            {
                return Some(found);
            }
            at += self.stride;
        }
        None
    }

    /// Compares all that has this window.
    #[cold]
    fn compare(&self, word: u64, bytes: &[u8], at: usize, now: Millis) -> Option<Found> {
        let first = self.windows.partition_point(|known| *known < word);
        let same = self.windows[first..].iter().take_while(|known| **known == word).count();
        self.places[first..first + same].iter().find_map(|(form, begin)| {
            let form = &self.forms[usize::try_from(*form).ok()?];
            let piece = run(&form.text, usize::try_from(*begin).ok()?, bytes, at);
            let counts = piece.len() >= PIECE.min(form.text.len());
            let value = &self.values[form.value];
            (counts && value.sends(form.bytes(piece), now)).then(|| value.found.clone())
        })
    }
}

impl Value {
    /// These of its bytes are about to be sent: is it enough?
    fn sends(&self, range: Range<usize>, now: Millis) -> bool {
        let mut sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        let before = sent[range.clone()].to_vec();
        sent[range.clone()].fill(Some(now));
        let lately = |at: &&Option<Millis>| at.is_some_and(|at| now.since(at) < REMEMBERED);
        let enough = sent.iter().filter(lately).count() * 4 >= sent.len() * 3;
        if enough {
            sent[range].copy_from_slice(&before);
        }
        enough
    }
}

fn word(window: &[u8]) -> Option<u64> {
    window.first_chunk::<WINDOW>().map(|window| u64::from_le_bytes(*window))
}

/// A bit of the filter.
#[allow(clippy::cast_possible_truncation)]
fn spot(hash: u64) -> (usize, u64) {
    // A hash has no more bits than the filter: 20.
    ((hash >> 6) as usize, 1 << (hash & 63))
}

/// How much of a text is here, around a window that is in both: the range in the text.
fn run(text: &[u8], begin: usize, bytes: &[u8], at: usize) -> Range<usize> {
    let before = text[..begin].iter().rev().zip(bytes[..at].iter().rev());
    let before = before.take_while(|(a, b)| a == b).count();
    let after = text[begin..].iter().zip(&bytes[at..]).take_while(|(a, b)| a == b).count();
    begin - before..begin + after
}
