//! The two keys of the host: the master key, which wraps data keys, and the issuer's key, which signs tokens.
//!
//! Both are files of mode 0400 in `control/keys`, made at the first start; the configuration may name another
//! source for the master key. The threat: a start that finds no key beside a store that needs one, makes a
//! new one, and so locks everybody out. That is refused.

use crate::Error;
use aws_lc_rs::{
    digest,
    signature::{Ed25519KeyPair, KeyPair},
};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use cofferdam_base::{Digest, ipc::edge::PublicKey, proof_message};
use cofferdam_tenants::config::Vault;
use cofferdam_vault::MasterKey;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde::Serialize;
use std::{
    fs,
    io::{self, Read},
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt},
    path::Path,
};

/// The master key from where the configuration says, else from `control/keys`, where a missing one is made
/// if nothing was ever wrapped (`fresh`).
pub(crate) fn configured(vault: &Vault, keys: &Path, fresh: bool) -> Result<MasterKey, Error> {
    match (&vault.key_file, &vault.key_command) {
        (Some(file), _) => Ok(MasterKey::from_file(file.as_path())?),
        (None, Some(command)) => Ok(MasterKey::from_command(command.as_slice())?),
        (None, None) => master(&keys.join("master.key"), fresh),
    }
}

/// Reads a key file; with `fresh`, which says that nothing was ever wrapped, a missing one is made.
pub(crate) fn master(path: &Path, fresh: bool) -> Result<MasterKey, Error> {
    let missing = fs::symlink_metadata(path).is_err_and(|e| e.kind() == io::ErrorKind::NotFound);
    if missing && fresh {
        let key = MasterKey::generate()?;
        key.write_new(path)?;
        return Ok(key);
    }
    if missing {
        return Err(Error::Key {
            path: path.display().to_string(),
            what: "it is missing, and the store holds keys that only it opens; put it back".to_owned(),
        });
    }
    Ok(MasterKey::from_file(path)?)
}

/// Who signs tokens.
pub struct Issuer {
    key: EncodingKey,
    pair: Ed25519KeyPair,
    public: PublicKey,
}

impl std::fmt::Debug for Issuer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Issuer").field("public", &self.public).finish_non_exhaustive()
    }
}

impl Issuer {
    /// Reads the issuer's key, or makes it. A new one is harmless: tokens of the old one are refused.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let broken = |what: &str| Error::Key { path: path.display().to_string(), what: what.to_owned() };
        let pkcs8 = match fs::symlink_metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => make(path)?,
            _ => read(path)?,
        };
        let pair = Ed25519KeyPair::from_pkcs8(&pkcs8).map_err(|_| broken("it is no Ed25519 key"))?;
        let public = pair.public_key().as_ref().to_vec();
        let kid = digest::digest(&digest::SHA256, &public);
        Ok(Self {
            key: EncodingKey::from_ed_der(&pkcs8),
            pair,
            public: PublicKey {
                kid: BASE64_URL_SAFE_NO_PAD.encode(&kid.as_ref()[..12]),
                x: BASE64_URL_SAFE_NO_PAD.encode(public),
            },
        })
    }

    /// The public half, for the edge.
    pub fn public(&self) -> PublicKey {
        self.public.clone()
    }

    /// Signs a proof: key and signature, base64url.
    pub fn sign_proof(&self, document: Digest) -> (String, String) {
        let signature = self.pair.sign(&proof_message(document));
        (self.public.x.clone(), BASE64_URL_SAFE_NO_PAD.encode(signature.as_ref()))
    }

    /// Signs claims as a JWT with EdDSA.
    pub fn sign(&self, claims: &impl Serialize) -> Result<String, Error> {
        let header = Header { kid: Some(self.public.kid.clone()), ..Header::new(Algorithm::EdDSA) };
        jsonwebtoken::encode(&header, claims, &self.key).map_err(|_| Error::Crypto("sign a token"))
    }
}

fn make(path: &Path) -> Result<Vec<u8>, Error> {
    let failed = |e| Error::io(path.display().to_string(), e);
    let document = Ed25519KeyPair::generate_pkcs8(&aws_lc_rs::rand::SystemRandom::new())
        .map_err(|_| Error::Crypto("make a key"))?;
    cofferdam_vault::write_whole(path, document.as_ref()).map_err(failed)?;
    Ok(document.as_ref().to_vec())
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    let failed = |e| Error::io(path.display().to_string(), e);
    let broken = |what: &str| Error::Key { path: path.display().to_string(), what: what.to_owned() };
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    let file = fs::OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(path)
        .map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() || metadata.uid() != rustix::process::geteuid().as_raw() {
        return Err(broken("it is no regular file of ours"));
    }
    if metadata.permissions().mode() & 0o7777 != 0o400 {
        return Err(broken("its mode is not 0400; type: chmod 0400 on it"));
    }
    let mut bytes = Vec::new();
    file.take(4096).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_missing_master_key_is_made_only_where_nothing_was_ever_wrapped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("master.key");
        assert!(matches!(master(&path, false), Err(Error::Key { .. })));
        assert!(!path.exists());
        let made = master(&path, true).unwrap().id();
        assert_eq!(master(&path, false).unwrap().id(), made);
        assert_eq!(master(&path, true).unwrap().id(), made);
    }

    #[test]
    fn the_issuer_stays_the_same_and_its_tokens_are_checked_by_its_public_half() {
        #[derive(serde::Deserialize)]
        struct Got {
            sub: String,
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("issuer.key");
        let public = Issuer::open(&path).unwrap().public();
        let issuer = Issuer::open(&path).unwrap();
        assert_eq!(issuer.public(), public);
        let token = issuer.sign(&serde_json::json!({ "sub": "ann", "exp": 4_000_000_000_u64 })).unwrap();
        let key = jsonwebtoken::DecodingKey::from_ed_components(&public.x).unwrap();
        let rules = jsonwebtoken::Validation::new(Algorithm::EdDSA);
        let got = jsonwebtoken::decode::<Got>(&token, &key, &rules).unwrap();
        assert_eq!(got.claims.sub, "ann");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(Issuer::open(&path), Err(Error::Key { .. })));
    }
}
