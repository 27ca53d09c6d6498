//! Envelope encryption: a master key wraps one random data key a tenant, a data key seals that tenant's
//! secrets.
//!
//! Owns the envelope format, key sources and the wiping of key bytes. Refuses to own storage (`store`) and
//! the choice of who may have a key (`control`). The threats: somebody who reads the disk, and somebody who
//! moves a ciphertext to a row where it would be used for something else.
//!
//! # Formats
//!
//! An **envelope** is `0x01 ‖ nonce (12 bytes) ‖ ciphertext ‖ tag (16 bytes)`, AES-256-GCM with a random
//! nonce. Its associated data is a purpose-separated list of fields, each preceded by its length as a
//! 32-bit big-endian number, so that no two lists of fields are the same bytes:
//!
//! - a secret: `"secret"`, tenant, name, version (32-bit big-endian), purpose;
//! - a secret of the host itself, under the master key: `"host-secret"`, name;
//! - a data key: `"data-key"`, tenant, version (32-bit big-endian).
//!
//! A **wrapped data key** is the text `ck1.VERSION.MASTER.ENVELOPE`: the key's version in decimal, the
//! master key's id in hex, the envelope in base64url. The id is the first 16 bytes of HMAC-SHA256 under the
//! master key; it lets a wrong master key be told from a damaged wrap.
#![forbid(unsafe_code)]

mod data;
mod envelope;
mod error;
mod key;
mod master;
mod source;

pub use data::{DataKey, WrappedDataKey};
pub use envelope::Context;
pub use error::Error;
pub use key::KEY_LEN;
pub use master::{KeyId, MasterKey};
pub use source::write_whole;

#[cfg(test)]
mod tests;
