//! What the host's key signs of a proof.

use crate::Digest;

/// Nothing else that the key signs begins like this: tokens have no line break.
const DOMAIN: &[u8] = b"cofferdam proof 1\n";

/// The bytes that are signed for the document whose text has this digest.
#[must_use]
pub fn proof_message(document: Digest) -> Vec<u8> {
    [DOMAIN, document.to_string().as_bytes()].concat()
}
