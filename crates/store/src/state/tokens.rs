//! Tokens, and the numbers of their subjects.
//!
//! It keeps no token's text, only what it says. The threat: a number that is given to a second subject, who
//! then owns the first one's sessions; and one that no gateway knows, whose token does nothing.

use super::{
    Tables, TokenRow,
    rows::{all, count, json, number, one, text, word},
};
use crate::Error;
use cofferdam_base::{MemberId, Millis, TenantId};
use rusqlite::{Row, params};

impl Tables<'_> {
    /// Keeps a token; the number of its subject, from 1.
    pub fn add_token(&self, token: &TokenRow) -> Result<u16, Error> {
        let TokenRow { jti, tenant, subject, role, issued, expires, revoked } = token;
        self.must_exist(tenant)?;
        let member = self.member(tenant, subject)?;
        self.0.execute(
            "INSERT INTO tokens (jti, tenant, subject, role, issued, expires, revoked)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            params![
                jti,
                tenant.as_str(),
                subject,
                text(role)?,
                number(issued.0)?,
                number(expires.0)?,
                revoked.map(|at| number(at.0)).transpose()?
            ],
        )?;
        Ok(member)
    }

    /// Tokens of one tenant or all, oldest first.
    pub fn tokens(&self, tenant: Option<&TenantId>) -> Result<Vec<TokenRow>, Error> {
        let sql = "SELECT * FROM tokens WHERE ?1 IS NULL OR tenant = ?1 ORDER BY place";
        all(self.0.prepare(sql)?, [tenant.map(TenantId::as_str)], token)
    }

    /// Revokes a token; none if there is none. One revoked already stays as it was.
    pub fn revoke_token(&self, jti: &str, at: Millis) -> Result<Option<TokenRow>, Error> {
        let sql = "UPDATE tokens SET revoked = coalesce(revoked, ?2) WHERE jti = ?1";
        self.0.execute(sql, params![jti, number(at.0)?])?;
        one(self.0.prepare("SELECT * FROM tokens WHERE jti = ?1")?, [jti], token)
    }

    /// Revokes every token of a tenant; those that were good until now.
    pub fn revoke_tokens(&self, tenant: &TenantId, at: Millis) -> Result<Vec<TokenRow>, Error> {
        let sql = "UPDATE tokens SET revoked = ?2 WHERE tenant = ?1 AND revoked IS NULL RETURNING *";
        all(self.0.prepare(sql)?, params![tenant.as_str(), number(at.0)?], token)
    }

    fn member(&self, tenant: &TenantId, subject: &str) -> Result<u16, Error> {
        let sql = "SELECT number FROM members WHERE tenant = ?1 AND subject = ?2";
        let found = one(self.0.prepare(sql)?, [tenant.as_str(), subject], |row| Ok(row.get(0)?))?;
        if let Some(found) = found {
            return Ok(found);
        }
        let sql = "SELECT max(number) FROM members WHERE tenant = ?1";
        let last: Option<u16> = self.0.query_row(sql, [tenant.as_str()], |row| row.get(0))?;
        let next = last.unwrap_or(0).saturating_add(1);
        if next > MemberId::HIGHEST {
            return Err(Error::TooMany { what: "subjects of one tenant", most: MemberId::HIGHEST });
        }
        self.0.execute(
            "INSERT INTO members (tenant, number, subject) VALUES (?1, ?2, ?3)",
            params![tenant.as_str(), next, subject],
        )?;
        Ok(next)
    }
}

fn token(row: &Row<'_>) -> Result<TokenRow, Error> {
    let revoked: Option<i64> = row.get("revoked")?;
    let revoked = revoked.map(u64::try_from).transpose().map_err(|_| Error::Malformed("revoked"))?;
    Ok(TokenRow {
        jti: row.get("jti")?,
        tenant: word(row, "tenant")?,
        subject: row.get("subject")?,
        role: json(row, "role")?,
        issued: Millis(count(row, "issued")?),
        expires: Millis(count(row, "expires")?),
        revoked: revoked.map(Millis),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::state::{NewTenantRow, State};
    use cofferdam_base::{Role, ipc::launcher::RuntimeRef};

    #[test]
    fn the_last_subject_that_a_gateway_knows_is_the_last_that_gets_a_token() {
        let dir = tempfile::tempdir().unwrap();
        let mut state = State::open(dir.path(), Millis(1)).unwrap();
        let tenant = TenantId::try_from("acme").unwrap();
        let new = NewTenantRow {
            id: tenant.clone(),
            runtime: RuntimeRef::Command("echo".to_owned()),
            limits: cofferdam_base::ipc::launcher::Limits::default(),
            desired: String::new(),
            created: Millis(1),
            data_key: String::new(),
            policy: String::new(),
        };
        let row = |jti: u16, subject: u16| TokenRow {
            jti: jti.to_string(),
            tenant: tenant.clone(),
            subject: format!("subject-{subject}"),
            role: Role::Member,
            issued: Millis(1),
            expires: Millis(2),
            revoked: None,
        };
        state
            .change_quietly(|tables| {
                tables.create_tenant(&new)?;
                for number in 1..=MemberId::HIGHEST {
                    assert_eq!(tables.add_token(&row(number, number))?, number);
                }
                let refused = tables.add_token(&row(257, 257)).unwrap_err();
                assert_eq!(
                    refused.to_string(),
                    "there are 256 subjects of one tenant already, and no more are possible"
                );
                assert_eq!(tables.add_token(&row(257, 256))?, 256, "another token of a known subject");
                Ok(())
            })
            .unwrap();
    }
}
