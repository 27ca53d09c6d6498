//! Access tokens: is this text a token that our issuer signed, for this tenant, and still good?
//!
//! It owns signature, header and claims; revocation is the state's, and which tenant was addressed the
//! origin's. The threats: another algorithm than ours (`none`, or HMAC under the public key), a header that
//! names its own key, a token of another tenant, one without an end. Nothing outside the token is read here:
//! the time is passed in.

mod cache;

pub use cache::Cache;

use crate::check::{Check, keeps};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use cofferdam_base::{
    AUDIENCE, Claims, MAX_TOKEN, Millis, Scope, TOKEN_TYPE, TenantId, ipc::edge::PublicKey,
};
use http::HeaderValue;
use jsonwebtoken::{Algorithm, DecodingKey, crypto};
use serde::Deserialize;
use std::collections::{BTreeSet, HashMap};

/// How far in the future a token may have been issued, in seconds: clocks differ.
const SKEW: u64 = 60;

/// A verified token.
#[derive(Debug)]
pub struct Verified {
    /// What it says.
    pub claims: Claims,
    /// The key that signed it.
    pub kid: String,
    /// Its scopes under its role's ceiling.
    pub scopes: BTreeSet<Scope>,
    /// The member's identity, ready to be sent into the cell.
    pub user_header: HeaderValue,
    /// The scopes, ready to be sent into the cell.
    pub scopes_header: HeaderValue,
}

/// Why a token is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Longer than 8 KiB, or not three parts of base64url JSON.
    #[error("this is no access token")]
    Malformed,
    /// Another algorithm, type or header than ours.
    #[error("the token is not signed with EdDSA")]
    Algorithm,
    /// No key of this name.
    #[error("the token is signed with a key that this host does not know")]
    UnknownKey,
    /// Signed by somebody else, or changed.
    #[error("the token's signature does not fit")]
    Signature,
    /// A claim is missing, repeated or unknown.
    #[error("the token's claims are not those of this host's tokens")]
    Claims,
    /// `iss` or `aud` is another's.
    #[error("the token was issued by or for somebody else")]
    Audience,
    /// `tid` is another tenant.
    #[error("the token is for another tenant")]
    OtherTenant,
    /// Past its `exp`.
    #[error("the token has expired")]
    Expired,
    /// `iat` in the future, or not before `exp`.
    #[error("the token is not valid yet")]
    NotYet,
    /// Revoked by its `jti`.
    #[error("the token was revoked")]
    Revoked,
}

impl TokenError {
    /// For machines and the ledger.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Malformed => "token_malformed",
            Self::Algorithm => "token_algorithm",
            Self::UnknownKey => "token_unknown_key",
            Self::Signature => "token_signature",
            Self::Claims => "token_claims",
            Self::Audience => "token_audience",
            Self::OtherTenant => "token_other_tenant",
            Self::Expired => "token_expired",
            Self::NotYet => "token_not_yet",
            Self::Revoked => "token_revoked",
        }
    }
}

/// Who signs tokens here.
#[derive(Default)]
pub struct Issuer {
    name: String,
    keys: HashMap<String, DecodingKey>,
}

impl std::fmt::Debug for Issuer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Issuer").field("name", &self.name).finish_non_exhaustive()
    }
}

/// The only header that a token of ours has.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TokenHeader {
    alg: String,
    typ: String,
    kid: String,
}

impl Issuer {
    /// The issuer by its name and public keys; a key that is not one of Ed25519 is left out.
    #[must_use]
    pub fn new(name: String, keys: &[PublicKey]) -> Self {
        let keys = keys.iter().filter_map(|key| {
            let raw = URL_SAFE_NO_PAD.decode(&key.x).ok().filter(|raw| raw.len() == 32)?;
            Some((key.kid.clone(), DecodingKey::from_ed_der(&raw)))
        });
        Self { name, keys: keys.collect() }
    }

    /// Is this token's key still one of the issuer's?
    #[must_use]
    pub fn knows(&self, token: &Verified) -> bool {
        token.claims.iss == self.name && self.keys.contains_key(&token.kid)
    }

    /// Checks everything about a token but its tenant and its revocation.
    pub fn verify(&self, token: &[u8], now: Millis) -> Result<Verified, TokenError> {
        if keeps(Check::TokenLength) && token.len() > MAX_TOKEN {
            return Err(TokenError::Malformed);
        }
        let mut parts = token.split(|byte| *byte == b'.');
        let (Some(header), Some(payload), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(TokenError::Malformed);
        };
        let decode = |part| URL_SAFE_NO_PAD.decode(part).map_err(|_| TokenError::Malformed);
        let head: TokenHeader =
            serde_json::from_slice(&decode(header)?).map_err(|_| TokenError::Algorithm)?;
        let ours = head.alg == "EdDSA" || !keeps(Check::TokenAlgorithm);
        if !ours || keeps(Check::TokenType) && head.typ != TOKEN_TYPE {
            return Err(TokenError::Algorithm);
        }
        let key = self.keys.get(&head.kid).ok_or(TokenError::UnknownKey)?;
        let signature = std::str::from_utf8(signature).map_err(|_| TokenError::Malformed)?;
        let message = &token[..header.len() + 1 + payload.len()];
        let fits = crypto::verify(signature, message, key, Algorithm::EdDSA).unwrap_or(false);
        if keeps(Check::TokenSignature) && !fits {
            return Err(TokenError::Signature);
        }
        let claims: Claims = serde_json::from_slice(&decode(payload)?).map_err(|_| TokenError::Claims)?;
        let ours = claims.iss == self.name || !keeps(Check::TokenIssuer);
        if !ours || keeps(Check::TokenAudience) && claims.aud != AUDIENCE {
            return Err(TokenError::Audience);
        }
        let begun = claims.iat <= now.seconds().saturating_add(SKEW) || !keeps(Check::TokenBegun);
        if !begun || keeps(Check::TokenSpan) && claims.iat >= claims.exp {
            return Err(TokenError::NotYet);
        }
        let verified = Verified::new(claims, head.kid).ok_or(TokenError::Claims)?;
        if verified.expired(now) { Err(TokenError::Expired) } else { Ok(verified) }
    }
}

impl Verified {
    fn new(claims: Claims, kid: String) -> Option<Self> {
        // These go into the ledger and into logs.
        let plain = |text: &str| (1..=256).contains(&text.len()) && !text.chars().any(char::is_control);
        if keeps(Check::TokenPlain) && (!plain(&claims.sub) || !plain(&claims.jti)) {
            return None;
        }
        let scopes = claims.scopes();
        let list: Vec<&str> = scopes.iter().map(|scope| scope.as_str()).collect();
        let user_header = HeaderValue::from_str(claims.mid.as_str()).ok()?;
        let scopes_header = HeaderValue::from_str(&list.join(",")).ok()?;
        Some(Self { claims, kid, scopes, user_header, scopes_header })
    }

    /// Is it past its end? There is no leeway.
    #[must_use]
    pub fn expired(&self, now: Millis) -> bool {
        keeps(Check::TokenExpiry) && now.0 >= self.claims.exp.saturating_mul(1000)
    }

    /// Is it good at this tenant?
    pub fn at(&self, tenant: &TenantId) -> Result<(), TokenError> {
        if keeps(Check::TokenTenant) && self.claims.tid != *tenant {
            return Err(TokenError::OtherTenant);
        }
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests;
