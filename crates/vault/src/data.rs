//! A tenant's data key, and its wrapped form at rest.

use crate::{Context, Error, KEY_LEN, KeyId, MasterKey, envelope, key::Key};
use aws_lc_rs::hkdf::{HKDF_SHA256, Prk};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use cofferdam_base::{Digest, Secret, SecretName, TenantId, ipc::warden::SealedSecret};
use std::{
    fmt,
    io::{Read, Write},
    str::FromStr,
};
use zeroize::Zeroizing;

/// One tenant's key: seals and opens that tenant's secrets.
pub struct DataKey(Key);

impl DataKey {
    /// A fresh random key.
    pub fn generate() -> Result<Self, Error> {
        Key::generate().map(Self)
    }

    /// The key made of these bytes.
    pub fn from_raw(raw: Secret<[u8; KEY_LEN]>) -> Result<Self, Error> {
        Key::new(Box::new(*raw.expose())).map(Self)
    }

    /// The key's bytes, for the one who hands it to a warden.
    pub fn raw(&self) -> &[u8; KEY_LEN] {
        self.0.bytes()
    }

    /// Writes the 32 raw bytes, into a pipe for example.
    pub fn write_to(&self, mut writer: impl Write) -> Result<(), Error> {
        writer.write_all(self.raw()).map_err(Error::Handover)
    }

    /// Reads a key that [`Self::write_to`] wrote: exactly 32 bytes and then the end.
    pub fn read_from(reader: impl Read) -> Result<Self, Error> {
        let mut bytes = Zeroizing::new([0; KEY_LEN + 1]);
        let mut filled = 0;
        let mut reader = reader.take(bytes.len() as u64);
        while filled < bytes.len() {
            match reader.read(&mut bytes[filled..]) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::Handover(error)),
            }
        }
        Key::from_slice(&bytes[..filled]).ok_or(Error::Malformed("a data key is 32 bytes"))?.map(Self)
    }

    /// A key for one purpose that is not the vault's. It follows from this key, and says nothing of it.
    pub fn derive(&self, purpose: &str) -> Result<Secret<[u8; KEY_LEN]>, Error> {
        let mut derived = [0; KEY_LEN];
        Prk::new_less_safe(HKDF_SHA256, self.raw())
            .expand(&[b"cofferdam derived key 1", purpose.as_bytes()], HKDF_SHA256)
            .and_then(|okm| okm.fill(&mut derived))
            .map_err(|_| Error::Crypto("derive a key"))?;
        Ok(Secret::new(derived))
    }

    /// Seals a value for one place. The result is the envelope's bytes.
    pub fn seal(&self, context: Context<'_>, plaintext: &Secret<Vec<u8>>) -> Result<Vec<u8>, Error> {
        envelope::seal(&self.0, &context.associated(), plaintext.expose())
    }

    /// Opens an envelope at the place where it was found.
    pub fn open(&self, context: Context<'_>, envelope: &[u8]) -> Result<Secret<Vec<u8>>, Error> {
        let mut plaintext = envelope::open(&self.0, &context.associated(), envelope)?.ok_or_else(|| {
            Error::SecretDoesNotOpen {
                tenant: context.tenant.clone(),
                name: context.name.clone(),
                version: context.version,
                purpose: context.purpose.to_owned(),
            }
        })?;
        Ok(Secret::new(std::mem::take(&mut *plaintext)))
    }

    /// [`Self::seal`] in the form that the store keeps and that travels to a warden.
    pub fn seal_secret(
        &self,
        tenant: &TenantId,
        name: &SecretName,
        version: u32,
        purpose: &str,
        plaintext: &Secret<Vec<u8>>,
    ) -> Result<SealedSecret, Error> {
        let envelope = self.seal(Context { tenant, name, version, purpose }, plaintext)?;
        Ok(SealedSecret {
            name: name.clone(),
            version,
            purpose: purpose.to_owned(),
            envelope: STANDARD.encode(envelope),
        })
    }

    /// What the placeholder of a secret is made of: for whoever lacks the key as random as the key is, and the same
    /// for every value that the secret has.
    pub fn placeholder(&self, tenant: &TenantId, name: &SecretName) -> Digest {
        self.tag(&format!("cofferdam placeholder 1\0{tenant}\0{name}"))
    }

    /// Neither an id nor a name has a NUL, so no two messages are one.
    fn tag(&self, message: &str) -> Digest {
        let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, self.raw());
        let tag = aws_lc_rs::hmac::sign(&key, message.as_bytes());
        let mut bytes = [0; 32];
        bytes.copy_from_slice(tag.as_ref());
        Digest::from_bytes(bytes)
    }

    /// From which the text of a canary follows: another one for each version.
    pub fn canary(&self, tenant: &TenantId, name: &SecretName, version: u32) -> Digest {
        self.tag(&format!("cofferdam canary 1\0{tenant}\0{name}\0{version}"))
    }

    /// [`Self::open`] of that form.
    pub fn open_secret(&self, tenant: &TenantId, sealed: &SealedSecret) -> Result<Secret<Vec<u8>>, Error> {
        let SealedSecret { name, version, purpose, envelope } = sealed;
        let envelope = STANDARD.decode(envelope).map_err(|_| Error::Malformed("it is not base64"))?;
        self.open(Context { tenant, name, version: *version, purpose }, &envelope)
    }
}

/// A data key under a master key: text that may be stored anywhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrappedDataKey {
    version: u32,
    master: KeyId,
    envelope: Vec<u8>,
}

impl WrappedDataKey {
    /// The data key's version: 1 for a tenant's first.
    #[must_use]
    pub const fn version(&self) -> u32 {
        self.version
    }

    /// Which master key wrapped it.
    #[must_use]
    pub const fn master(&self) -> KeyId {
        self.master
    }
}

impl MasterKey {
    /// Wraps a tenant's data key.
    pub fn wrap(&self, tenant: &TenantId, version: u32, key: &DataKey) -> Result<WrappedDataKey, Error> {
        let associated = envelope::wrap_associated(tenant, version);
        let envelope = envelope::seal(self.key(), &associated, key.raw())?;
        Ok(WrappedDataKey { version, master: self.id(), envelope })
    }

    /// Unwraps a tenant's data key. The wrap is not changed, whatever the outcome.
    pub fn unwrap(&self, tenant: &TenantId, wrapped: &WrappedDataKey) -> Result<DataKey, Error> {
        let WrappedDataKey { version, master, envelope } = wrapped;
        if *master != self.id() {
            return Err(Error::WrongMasterKey {
                tenant: tenant.clone(),
                wrapped_by: *master,
                given: self.id(),
            });
        }
        let refused = || Error::DataKeyDoesNotOpen { tenant: tenant.clone(), version: *version };
        let associated = envelope::wrap_associated(tenant, *version);
        let raw = envelope::open(self.key(), &associated, envelope)?.ok_or_else(refused)?;
        Key::from_slice(&raw).ok_or_else(refused)?.map(DataKey)
    }

    /// Seals a secret of the host itself, which no tenant has.
    pub fn seal_host(&self, name: &str, value: &Secret<Vec<u8>>) -> Result<Vec<u8>, Error> {
        envelope::seal(self.key(), &envelope::host_associated(name), value.expose())
    }

    /// Opens what [`Self::seal_host`] sealed under this name.
    pub fn open_host(&self, name: &str, envelope: &[u8]) -> Result<Secret<Vec<u8>>, Error> {
        let opened = envelope::open(self.key(), &envelope::host_associated(name), envelope)?;
        let mut value =
            opened.ok_or(Error::Malformed("it was sealed by another key, or for something else"))?;
        Ok(Secret::new(std::mem::take(&mut *value)))
    }
}

impl fmt::Display for WrappedDataKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { version, master, envelope } = self;
        write!(f, "{PREFIX}.{version}.{master}.{}", URL_SAFE_NO_PAD.encode(envelope))
    }
}

impl FromStr for WrappedDataKey {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let malformed = Error::Malformed("a wrapped data key is ck1.VERSION.MASTER.ENVELOPE");
        let mut parts = text.split('.');
        let (Some(PREFIX), Some(version), Some(master), Some(envelope), None) =
            (parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(malformed);
        };
        let parsed = (
            version.parse().ok().filter(|number: &u32| number.to_string() == version),
            KeyId::parse(master),
            URL_SAFE_NO_PAD.decode(envelope),
        );
        match parsed {
            (Some(version), Some(master), Ok(envelope)) => Ok(Self { version, master, envelope }),
            _ => Err(malformed),
        }
    }
}

impl fmt::Debug for DataKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DataKey(…)")
    }
}

const PREFIX: &str = "ck1";
