//! The master key: wraps data keys and seals the few secrets of the host itself. Where its bytes come from is in `source`.

use crate::{Error, KEY_LEN, key::Key};
use aws_lc_rs::hmac;
use std::fmt;

/// The key of the whole host.
pub struct MasterKey {
    key: Key,
    id: KeyId,
}

/// Names a master key without saying anything of its bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyId([u8; 16]);

impl MasterKey {
    /// A fresh random key.
    pub fn generate() -> Result<Self, Error> {
        Key::generate().map(Self::from_key)
    }

    /// Which key this is; kept beside what it wraps.
    pub const fn id(&self) -> KeyId {
        self.id
    }

    pub(crate) fn from_key(key: Key) -> Self {
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key.bytes()), b"cofferdam master key id 1");
        let mut id = [0; 16];
        id.copy_from_slice(&tag.as_ref()[..16]);
        Self { key, id: KeyId(id) }
    }

    pub(crate) const fn key(&self) -> &Key {
        &self.key
    }

    pub(crate) fn bytes(&self) -> &[u8; KEY_LEN] {
        self.key.bytes()
    }
}

impl KeyId {
    /// Reads what `Display` wrote: 32 lower-case hex digits.
    pub fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; 16];
        if text.len() != 32 || text.bytes().any(|b| b.is_ascii_uppercase()) {
            return None;
        }
        crate::source::unhex(text.as_bytes(), &mut bytes).then_some(Self(bytes))
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyId({self})")
    }
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MasterKey({})", self.id)
    }
}
