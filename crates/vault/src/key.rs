//! 32 secret bytes and the cipher made of them. The bytes stay at one address until they are wiped.

use crate::{Error, envelope::NONCE_LEN};
use aws_lc_rs::aead::{AES_256_GCM, Aad, Nonce, RandomizedNonceKey};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// Bytes of a master key and of a data key.
pub const KEY_LEN: usize = 32;

/// A key on the heap, wiped on drop, with its cipher scheduled once.
pub(crate) struct Key {
    bytes: Bytes,
    cipher: RandomizedNonceKey,
}

#[derive(Zeroize, ZeroizeOnDrop)]
struct Bytes(Box<[u8; KEY_LEN]>);

impl Key {
    /// A fresh random key.
    pub(crate) fn generate() -> Result<Self, Error> {
        let mut bytes = Box::new([0; KEY_LEN]);
        aws_lc_rs::rand::fill(bytes.as_mut_slice()).map_err(|_| Error::Crypto("make a random key"))?;
        Self::new(bytes)
    }

    pub(crate) fn new(bytes: Box<[u8; KEY_LEN]>) -> Result<Self, Error> {
        let bytes = Bytes(bytes);
        let cipher = RandomizedNonceKey::new(&AES_256_GCM, bytes.0.as_slice())
            .map_err(|_| Error::Crypto("schedule a key"))?;
        Ok(Self { bytes, cipher })
    }

    pub(crate) fn from_slice(slice: &[u8]) -> Option<Result<Self, Error>> {
        let mut bytes = Box::new([0; KEY_LEN]);
        if slice.len() != KEY_LEN {
            return None;
        }
        bytes.copy_from_slice(slice);
        Some(Self::new(bytes))
    }

    pub(crate) fn bytes(&self) -> &[u8; KEY_LEN] {
        &self.bytes.0
    }

    /// Encrypts `buffer` in place and appends the tag.
    pub(crate) fn seal(&self, associated: &[u8], buffer: &mut Vec<u8>) -> Result<[u8; NONCE_LEN], Error> {
        let nonce = self
            .cipher
            .seal_in_place_append_tag(Aad::from(associated), buffer)
            .map_err(|_| Error::Crypto("seal"))?;
        Ok(*nonce.as_ref())
    }

    /// The plaintext, or nothing if key, nonce, associated data or any byte is not the one sealed.
    pub(crate) fn open(
        &self,
        associated: &[u8],
        nonce: [u8; NONCE_LEN],
        sealed: &[u8],
    ) -> Option<Zeroizing<Vec<u8>>> {
        let mut buffer = Zeroizing::new(sealed.to_vec());
        let nonce = Nonce::assume_unique_for_key(nonce);
        let length = self.cipher.open_in_place(nonce, Aad::from(associated), &mut buffer).ok()?.len();
        buffer.truncate(length);
        Some(buffer)
    }
}
