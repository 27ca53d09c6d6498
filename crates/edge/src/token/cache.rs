//! Verified tokens by the digest of their text, so that a signature is checked once and not each request.
//!
//! Bounded: two generations, of which the older is dropped when the younger is full, so that what is used
//! stays and what is not goes. A cached token is still checked for expiry, tenant and revocation each time.

use super::Verified;
use crate::check::{Check, keeps};
use aws_lc_rs::digest::{SHA256, digest};
use std::{collections::HashMap, sync::Arc};

/// How many tokens are kept at most.
pub(super) const CAPACITY: usize = 65_536;

pub(super) type Key = [u8; 32];

/// The cache.
#[derive(Debug, Default)]
pub struct Cache {
    young: HashMap<Key, Arc<Verified>>,
    old: HashMap<Key, Arc<Verified>>,
}

/// The digest under which a token is kept.
pub(super) fn key(token: &[u8]) -> Key {
    let mut key = [0; 32];
    key.copy_from_slice(digest(&SHA256, token).as_ref());
    key
}

impl Cache {
    /// The token, if it was verified before.
    pub(super) fn find(&mut self, key: &Key) -> Option<Arc<Verified>> {
        if let Some(found) = self.young.get(key) {
            return Some(Arc::clone(found));
        }
        let found = self.old.remove(key)?;
        self.keep(*key, Arc::clone(&found));
        Some(found)
    }

    /// Verifies a token, or finds it verified; either way it may have expired since.
    pub fn verify(
        cache: &std::sync::Mutex<Self>,
        issuer: &super::Issuer,
        token: &[u8],
        now: cofferdam_base::Millis,
    ) -> Result<Arc<Verified>, super::TokenError> {
        if keeps(Check::TokenLength) && token.len() > cofferdam_base::MAX_TOKEN {
            return Err(super::TokenError::Malformed);
        }
        let key = key(token);
        // A cache that a panic left half changed is still a cache.
        let lock = || cache.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(found) = lock().find(&key) {
            return Ok(found);
        }
        let fresh = Arc::new(issuer.verify(token, now)?);
        lock().keep(key, Arc::clone(&fresh));
        Ok(fresh)
    }

    /// Keeps a verified token.
    pub(super) fn keep(&mut self, key: Key, token: Arc<Verified>) {
        if self.young.len() >= CAPACITY / 2 {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, token);
    }

    /// Forgets all: keys or issuer changed.
    pub fn clear(&mut self) {
        self.young.clear();
        self.old.clear();
    }

    /// Forgets a token that was revoked.
    pub fn forget(&mut self, jti: &str) {
        self.young.retain(|_, token| token.claims.jti != jti);
        self.old.retain(|_, token| token.claims.jti != jti);
    }
}
