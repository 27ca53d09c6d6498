//! The claims of an access token: what control signs and the edge verifies, so that both agree.
//!
//! It owns the shape only. Signatures, time and revocation are judged by the edge. Every claim is required,
//! an unknown or repeated one is refused: a token that says more than we understand is no token of ours.

use crate::{Role, Scope, TenantId};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeSet, fmt};

/// The one value of `aud`.
pub const AUDIENCE: &str = "cofferdam";

/// The one value of `typ` in a token's header; `alg` is always `EdDSA`, and `kid` names the key.
pub const TOKEN_TYPE: &str = "JWT";

/// The longest token, in bytes.
pub const MAX_TOKEN: usize = 8 * 1024;

/// What a token says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claims {
    /// Who signed it: this host's issuer name.
    pub iss: String,
    /// For whom: [`AUDIENCE`].
    pub aud: String,
    /// Whom it was given to, for the ledger.
    pub sub: String,
    /// The tenant at whose origin alone it is good.
    pub tid: TenantId,
    /// The opaque identity under which the cell knows this member.
    pub mid: MemberId,
    /// The member's role.
    pub role: Role,
    /// The scopes asked for when it was issued; what exceeds the role's ceiling does not count.
    pub scp: BTreeSet<Scope>,
    /// Names this token for revocation.
    pub jti: String,
    /// When it was issued, seconds since the epoch.
    pub iat: u64,
    /// From when on it is no good, seconds since the epoch.
    pub exp: u64,
}

impl Claims {
    /// The scopes that count: those asked for, cut down to the role's ceiling.
    #[must_use]
    pub fn scopes(&self) -> BTreeSet<Scope> {
        self.scp.intersection(&self.role.ceiling()).copied().collect()
    }
}

/// A member's identity inside the cell: `^m[0-9]{3,5}$`. It tells the cell nothing about the person.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MemberId(String);

/// Why a text is no member identity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a member identity: use m and 3 to 5 digits, m001 for example")]
pub struct MemberIdError(String);

impl MemberId {
    /// The highest number of a member: a gateway knows its identities from its start, and these are they.
    pub const HIGHEST: u16 = 256;

    /// The identity of this number, `m007` for 7.
    #[must_use]
    pub fn of(number: u16) -> Self {
        Self(format!("m{number:03}"))
    }

    /// The identity as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for MemberId {
    type Error = MemberIdError;

    fn try_from(text: String) -> Result<Self, MemberIdError> {
        let digits = text.strip_prefix('m').unwrap_or_default();
        if (3..=5).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit()) {
            Ok(Self(text))
        } else {
            // A garbage identity may be a mebibyte long; the error need not be.
            Err(MemberIdError(text.chars().take(64).collect()))
        }
    }
}

impl From<MemberId> for String {
    fn from(id: MemberId) -> Self {
        id.0
    }
}

impl fmt::Display for MemberId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn member_identities_are_checked() {
        assert_eq!(MemberId::of(7).as_str(), "m007");
        for number in [0, 7, 999, 1000, u16::MAX] {
            let id = MemberId::of(number);
            assert_eq!(MemberId::try_from(id.to_string()), Ok(id));
        }
        for bad in ["", "m", "m12", "m123456", "M001", "m00a", "m001 ", "x001", "m٠٠١"] {
            assert!(MemberId::try_from(bad.to_owned()).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_role_caps_what_a_token_asks_for() {
        let claims = |role| Claims {
            iss: "i".into(),
            aud: AUDIENCE.into(),
            sub: "s".into(),
            tid: TenantId::try_from("acme").unwrap(),
            mid: MemberId::of(1),
            role,
            scp: Scope::ALL.into(),
            jti: "j".into(),
            iat: 1,
            exp: 2,
        };
        assert_eq!(claims(Role::Viewer).scopes(), BTreeSet::from([Scope::Read]));
        assert_eq!(claims(Role::Admin).scopes().len(), Scope::ALL.len());
    }

    #[test]
    fn an_unknown_or_missing_claim_is_refused() {
        let good = r#"{"iss":"i","aud":"cofferdam","sub":"s","tid":"acme","mid":"m001","role":"viewer","scp":["operator.read"],"jti":"j","iat":1,"exp":2}"#;
        assert!(serde_json::from_str::<Claims>(good).is_ok());
        for bad in [
            good.replace(r#","exp":2"#, ""),
            good.replace(r#""iat":1"#, r#""iat":1,"nbf":1"#),
            good.replace(r#""iat":1"#, r#""iat":1,"exp":9"#),
            good.replace("operator.read", "operator.everything"),
        ] {
            assert!(serde_json::from_str::<Claims>(&bad).is_err(), "{bad}");
        }
    }
}
