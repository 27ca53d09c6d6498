//! The envelope's bytes and its associated data. The format is in the crate's documentation.

use crate::{Error, key::Key};
use aws_lc_rs::aead::{AES_256_GCM, MAX_TAG_LEN};
use cofferdam_base::{SecretName, TenantId};
use zeroize::Zeroizing;

pub(crate) const NONCE_LEN: usize = aws_lc_rs::aead::NONCE_LEN;
const VERSION: u8 = 1;
const HEADER_LEN: usize = 1 + NONCE_LEN;

/// Where a sealed secret belongs. It opens there and nowhere else.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// Whose secret.
    pub tenant: &'a TenantId,
    /// Its name.
    pub name: &'a SecretName,
    /// Its version, which grows by one with each new value.
    pub version: u32,
    /// What it may be used for.
    pub purpose: &'a str,
}

impl Context<'_> {
    pub(crate) fn associated(&self) -> Vec<u8> {
        fields(&[
            b"secret",
            self.tenant.as_str().as_bytes(),
            self.name.as_str().as_bytes(),
            &self.version.to_be_bytes(),
            self.purpose.as_bytes(),
        ])
    }
}

/// The associated data of a wrapped data key.
pub(crate) fn wrap_associated(tenant: &TenantId, version: u32) -> Vec<u8> {
    fields(&[b"data-key", tenant.as_str().as_bytes(), &version.to_be_bytes()])
}

/// The associated data of a secret of the host itself.
pub(crate) fn host_associated(name: &str) -> Vec<u8> {
    fields(&[b"host-secret", name.as_bytes()])
}

/// `0x01 ‖ nonce ‖ ciphertext ‖ tag`.
pub(crate) fn seal(key: &Key, associated: &[u8], plaintext: &[u8]) -> Result<Vec<u8>, Error> {
    let mut buffer = Zeroizing::new(Vec::with_capacity(plaintext.len() + MAX_TAG_LEN));
    buffer.extend_from_slice(plaintext);
    let nonce = key.seal(associated, &mut buffer)?;
    let mut envelope = Vec::with_capacity(HEADER_LEN + buffer.len());
    envelope.push(VERSION);
    envelope.extend_from_slice(&nonce);
    envelope.extend_from_slice(&buffer);
    Ok(envelope)
}

/// `Ok(None)` if it is an envelope that does not open here.
pub(crate) fn open(
    key: &Key,
    associated: &[u8],
    envelope: &[u8],
) -> Result<Option<Zeroizing<Vec<u8>>>, Error> {
    let (header, sealed) =
        envelope.split_first_chunk::<HEADER_LEN>().ok_or(Error::Malformed("it is too short"))?;
    let [version, nonce @ ..] = *header;
    if version != VERSION {
        return Err(Error::Malformed("its version is not one that this program knows"));
    }
    if sealed.len() < AES_256_GCM.tag_len() {
        return Err(Error::Malformed("it is too short"));
    }
    Ok(key.open(associated, nonce, sealed))
}

fn fields(fields: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(fields.iter().map(|field| field.len() + 4).sum());
    for field in fields {
        // Every field is an id, a name or a short word; one of 4 GiB cannot be held in memory with the rest.
        let length = u32::try_from(field.len()).unwrap_or(u32::MAX);
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(field);
    }
    bytes
}
