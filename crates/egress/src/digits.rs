//! The digits of base64 that depend on nothing but a value, wherever in a text it begins.

use base64::{
    Engine,
    engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD},
};
use zeroize::Zeroizing;

/// Of a value after none, one or two other bytes, in both alphabets: after how many, and its own digits.
pub(crate) fn digits(value: &[u8]) -> Vec<(usize, Zeroizing<Vec<u8>>)> {
    let mut all = Vec::new();
    for lead in 0..3 {
        let mut bytes = Zeroizing::new(vec![0; lead]);
        bytes.extend_from_slice(value);
        let own = first(lead)..(lead + value.len()) * 8 / 6;
        for engine in [&STANDARD_NO_PAD, &URL_SAFE_NO_PAD] {
            let text = Zeroizing::new(engine.encode(&*bytes));
            all.push((lead, Zeroizing::new(text.as_bytes()[own.clone()].to_vec())));
        }
    }
    all
}

/// The number of the first digit that is of none of the other bytes.
pub(crate) const fn first(lead: usize) -> usize {
    (lead * 8).div_ceil(6)
}
