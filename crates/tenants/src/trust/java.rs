//! The trust store of a cell as Java reads it: a key store of the format JKS, version 2, which every Java opens
//! without being told a password. It holds certificates only.
//!
//! It owns the spelling (`sun.security.provider.JavaKeyStore`). The digest at its end is none of security: whoever
//! may write the file may write the digest.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::{Engine, engine::general_purpose::STANDARD};

/// The password that Java's own store has.
const PASSWORD: &str = "changeit";
/// What the digest begins with.
const WHITENER: &[u8] = b"Mighty Aphrodite";

/// The certificates of a PEM file as a key store.
pub(super) fn store(pem: &str) -> Vec<u8> {
    let all: Vec<Vec<u8>> = pem.split("-----BEGIN CERTIFICATE-----").skip(1).filter_map(der).collect();
    let mut bytes = Vec::new();
    let word = |bytes: &mut Vec<u8>, number: u32| bytes.extend(number.to_be_bytes());
    word(&mut bytes, 0xfeed_feed);
    word(&mut bytes, 2);
    word(&mut bytes, u32::try_from(all.len()).unwrap_or(u32::MAX));
    for (number, der) in all.iter().enumerate() {
        // A trusted certificate, its alias, and no time.
        word(&mut bytes, 2);
        text(&mut bytes, &number.to_string());
        bytes.extend([0; 8]);
        text(&mut bytes, "X.509");
        word(&mut bytes, u32::try_from(der.len()).unwrap_or(u32::MAX));
        bytes.extend(der);
    }
    let mut signed: Vec<u8> = PASSWORD.encode_utf16().flat_map(u16::to_be_bytes).collect();
    signed.extend_from_slice(WHITENER);
    signed.extend_from_slice(&bytes);
    bytes.extend_from_slice(digest(&SHA1_FOR_LEGACY_USE_ONLY, &signed).as_ref());
    bytes
}

fn der(block: &str) -> Option<Vec<u8>> {
    let (body, _) = block.split_once("-----END CERTIFICATE-----")?;
    STANDARD.decode(body.split_ascii_whitespace().collect::<String>()).ok()
}

/// A text with its length before it; all of ours are short and ASCII.
fn text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend(u16::try_from(text.len()).unwrap_or(u16::MAX).to_be_bytes());
    bytes.extend_from_slice(text.as_bytes());
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_certificate_is_in_the_store_and_its_digest_is_right() {
        let block = |der: &[u8]| {
            let body = STANDARD.encode(der);
            format!("# a comment\n-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n")
        };
        let store = store(&(block(&[0x30, 1, 7]) + &block(&[0x30, 1, 8])));
        assert_eq!(store[..12], [0xfe, 0xed, 0xfe, 0xed, 0, 0, 0, 2, 0, 0, 0, 2]);
        let entry = b"\0\0\0\x02\0\x011\0\0\0\0\0\0\0\0\0\x05X.509\0\0\0\x03\x30\x01\x08";
        assert_eq!(&store[store.len() - 20 - entry.len()..store.len() - 20], entry);
        let signed = [b"\0c\0h\0a\0n\0g\0e\0i\0t".as_slice(), WHITENER, &store[..store.len() - 20]].concat();
        assert_eq!(digest(&SHA1_FOR_LEGACY_USE_ONLY, &signed).as_ref(), &store[store.len() - 20..]);
    }
}
