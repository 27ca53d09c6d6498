//! How a value may be written: each form knows which bytes of the value its characters say.

use crate::digits::{digits, first};
use std::{fmt::Write, ops::Range};
use zeroize::Zeroizing;

/// Of a longer value so many bytes in its middle are looked for: who sends all of it sends them.
const MIDDLE: usize = 64;

/// One way to write one value.
pub(super) struct Form {
    pub(super) text: Zeroizing<Vec<u8>>,
    /// The value's number, and its length.
    pub(super) value: usize,
    length: usize,
    written: Written,
}

#[derive(Clone, Copy)]
enum Written {
    Plain,
    Reversed,
    Hex,
    /// After so many other bytes; the text begins with the first digit that is of none of them.
    Base64(usize),
}

impl Form {
    /// The bytes of the value that are wholly in this part of the text.
    pub(super) fn bytes(&self, part: Range<usize>) -> Range<usize> {
        let Range { start, end } = part;
        let range = match self.written {
            Written::Plain => start..end,
            Written::Reversed => self.length - end..self.length - start,
            Written::Hex => start.div_ceil(2)..end / 2,
            Written::Base64(lead) => {
                let skipped = first(lead);
                ((skipped + start) * 6).div_ceil(8) - lead..((skipped + end) * 6 / 8 - lead)
            }
        };
        range.start.min(range.end)..range.end
    }
}

/// The middle of a value, if it is a long one.
pub(super) fn middle(value: &[u8]) -> &[u8] {
    let spare = value.len().saturating_sub(MIDDLE);
    &value[spare / 2..value.len() - spare.div_ceil(2)]
}

/// A value as it is once line ends are left out.
pub(super) fn squeezed(value: &[u8]) -> Zeroizing<Vec<u8>> {
    Zeroizing::new(value.iter().copied().filter(|byte| !b"\r\n".contains(byte)).collect())
}

/// All forms of a value. Percent and backslash escapes are none: what is looked through is read first.
pub(super) fn forms(number: usize, value: &[u8]) -> Vec<Form> {
    let form = |text: Zeroizing<Vec<u8>>, written| Form { text, value: number, length: value.len(), written };
    let mut lower = Zeroizing::new(String::new());
    for byte in value {
        // Writing to a string does not fail.
        let _ = write!(lower, "{byte:02x}");
    }
    let mut forms = vec![
        form(Zeroizing::new(value.to_vec()), Written::Plain),
        form(Zeroizing::new(value.iter().rev().copied().collect()), Written::Reversed),
        form(Zeroizing::new(lower.as_bytes().to_vec()), Written::Hex),
        form(Zeroizing::new(lower.to_ascii_uppercase().into_bytes()), Written::Hex),
    ];
    // Names of hosts and of headers have no capitals.
    let small = Zeroizing::new(value.to_ascii_lowercase());
    if *small != value {
        forms.push(form(small, Written::Plain));
    }
    forms.extend(digits(value).into_iter().map(|(lead, text)| form(text, Written::Base64(lead))));
    forms
}
