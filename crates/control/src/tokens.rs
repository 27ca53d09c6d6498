//! Access tokens: issue, list, revoke.
//!
//! A token is in the store before its text is given out, and its revocation before the edge is told. The
//! threat: a token that nobody can list or revoke; so even the readiness probe's is of a subject that the
//! ledger shows, with the least role and minutes to live.

use crate::{
    Error,
    api::types::{IssuedToken, NewToken, Token, Tokens},
    host::Host,
    tenant::Tenant,
};
use cofferdam_base::{AUDIENCE, Claims, MemberId, Millis, Role, TenantId, ipc::edge::Config};
use cofferdam_store::ledger::Kind;
use cofferdam_tenants::lifecycle::Desired;
use serde_json::json;

/// The longest life of a token, in seconds: a year.
const LONGEST: u64 = 31_536_000;
/// The probe's token lives so long, in seconds: a little longer than any runtime's start may take.
const PROBE: u64 = 200;
/// The probe's subject; no member can have it.
const PROBE_SUBJECT: &str = "cofferdam";

impl Host {
    /// Issues a token; its text is in the answer and nowhere else.
    pub async fn token_issue(&self, new: NewToken) -> Result<IssuedToken, Error> {
        let NewToken { tenant, subject, role, ttl_seconds } = new;
        if self.tenant(&tenant)?.view().desired == Desired::Killed {
            return Err(Error::killed(&tenant));
        }
        check(&subject, ttl_seconds)?;
        let issued = self.now();
        let expires = issued.plus(ttl_seconds * 1000);
        let row = Token { jti: random()?, tenant, subject, role, issued, expires, revoked: None };
        let body = json!({
            "jti": row.jti, "subject": row.subject, "role": role, "expires": expires,
        });
        let ledger = self.row(Some(&row.tenant), Kind::TokenIssued, body);
        let kept = row.clone();
        let member = self.db.run(move |disk| disk.add_token(&kept, &ledger)).await?;
        let token = self.sign(&row, MemberId::of(member))?;
        Ok(IssuedToken { token, row })
    }

    /// All tokens, or one tenant's.
    pub async fn token_list(&self, tenant: Option<TenantId>) -> Result<Tokens, Error> {
        if let Some(id) = &tenant {
            self.tenant(id)?;
        }
        let tokens = self.db.run(move |disk| disk.tokens(tenant.as_ref())).await?;
        Ok(Tokens { tokens })
    }

    /// Revokes a token; when this returns, the edge was told.
    pub async fn token_revoke(&self, jti: String) -> Result<Token, Error> {
        let at = self.now();
        let row = self.row(None, Kind::TokenRevoked, json!({ "jti": jti }));
        let name: String = jti.chars().take(64).collect();
        let token = self.db.run(move |disk| disk.revoke_token(&jti, at, &row)).await?;
        let token = token.ok_or(Error::NotFound { what: "token", name })?;
        let change = Config::Revoked { jti: token.jti.clone(), expires: token.expires.seconds() };
        self.edge().tell(&change).await;
        Ok(token)
    }

    /// Everything revoked that has not ended by itself: `jti`, and when it ends in seconds.
    pub(crate) async fn revoked(&self) -> Result<Vec<(String, u64)>, Error> {
        let now = self.now();
        let tokens = self.db.run(|disk| disk.tokens(None)).await?;
        let live = tokens.into_iter().filter(|t| t.revoked.is_some() && t.expires > now);
        Ok(live.map(|t| (t.jti, t.expires.seconds())).collect())
    }

    /// A token for the readiness probe.
    pub(crate) fn probe_token(&self, tenant: &Tenant) -> Result<String, Error> {
        let issued = self.now();
        let row = Token {
            jti: random()?,
            tenant: tenant.id.clone(),
            subject: PROBE_SUBJECT.to_owned(),
            role: Role::Viewer,
            issued,
            expires: issued.plus(PROBE * 1000),
            revoked: None,
        };
        // Number 0 is given to no member.
        self.sign(&row, MemberId::of(0))
    }

    fn sign(&self, row: &Token, member: MemberId) -> Result<String, Error> {
        let seconds = |at: Millis| at.seconds();
        self.issuer.sign(&Claims {
            iss: self.facts.issuer.clone(),
            aud: AUDIENCE.to_owned(),
            sub: row.subject.clone(),
            tid: row.tenant.clone(),
            mid: member,
            role: row.role,
            scp: row.role.ceiling(),
            jti: row.jti.clone(),
            iat: seconds(row.issued),
            exp: seconds(row.expires),
        })
    }
}

fn check(subject: &str, ttl: u64) -> Result<(), Error> {
    let printable = subject.bytes().all(|b| b.is_ascii_graphic());
    if !printable || !(1..=128).contains(&subject.len()) {
        return Err(Error::Usage(
            "a subject is 1 to 128 printable ASCII characters without spaces".to_owned(),
        ));
    }
    if subject == PROBE_SUBJECT {
        return Err(Error::Usage(format!("the subject {PROBE_SUBJECT:?} is the host's own")));
    }
    if !(1..=LONGEST).contains(&ttl) {
        return Err(Error::Usage(format!("a token lives 1 to {LONGEST} seconds")));
    }
    Ok(())
}

/// 128 random bits as 32 hex digits: a person types it after `token revoke`, where a first `-` would be a flag.
fn random() -> Result<String, Error> {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| Error::Crypto("make a random number"))?;
    Ok(format!("{:032x}", u128::from_be_bytes(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_hex_and_no_flag() {
        let number = random().unwrap_or_default();
        assert!(number.len() == 32 && number.bytes().all(|byte| byte.is_ascii_hexdigit()), "{number}");
    }

    #[test]
    fn subjects_and_lives_are_bounded() {
        assert!(check("ann@example.com", 3600).is_ok());
        for (subject, ttl) in
            [("", 1), ("a b", 1), ("ä", 1), ("a\n", 1), ("cofferdam", 1), ("ann", 0), ("ann", LONGEST + 1)]
        {
            assert!(check(subject, ttl).is_err(), "{subject:?} {ttl}");
        }
        assert!(check(&"x".repeat(129), 1).is_err());
    }
}
