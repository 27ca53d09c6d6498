//! Where a tenant's questions are posted, and what is still to be posted.
//!
//! A delivery becomes durable in the transaction of what it tells, and is struck when it was taken. The threat: a
//! cell that asks without end while nobody takes deliveries; so a tenant has room for so many.

use super::{
    Tables,
    rows::{all, count, number, one, word},
};
use crate::Error;
use cofferdam_base::{Millis, SecretName, TenantId};
use rusqlite::params;

/// So many deliveries of a tenant wait; what comes after is not posted.
pub const MOST_DELIVERIES: u32 = 256;

/// Where a tenant's questions are posted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebhookRow {
    /// The URL.
    pub url: String,
    /// The secret that signs.
    pub secret: SecretName,
    /// How many deliveries wait.
    pub waiting: u32,
    /// Why the last try failed; empty if it did not.
    pub error: String,
}

/// What is to be posted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeliveryRow {
    /// Its number, never used again.
    pub id: u64,
    /// Whose.
    pub tenant: TenantId,
    /// To where.
    pub url: String,
    /// Signed with.
    pub secret: SecretName,
    /// What.
    pub body: String,
    /// How often it was tried.
    pub tries: u32,
}

impl Tables<'_> {
    /// A tenant's webhook.
    pub fn webhook(&self, tenant: &TenantId) -> Result<Option<WebhookRow>, Error> {
        let query = self.0.prepare(
            "SELECT *, (SELECT count(*) FROM deliveries d WHERE d.tenant = w.tenant) AS waiting
             FROM webhooks w WHERE tenant = ?1",
        )?;
        one(query, [tenant.as_str()], |row| {
            Ok(WebhookRow {
                url: row.get("url")?,
                secret: word(row, "secret")?,
                waiting: row.get("waiting")?,
                error: row.get("error")?,
            })
        })
    }

    /// Sets a tenant's webhook, or removes it with all that waits.
    pub fn set_webhook(&self, tenant: &TenantId, webhook: Option<(&str, &SecretName)>) -> Result<(), Error> {
        self.must_exist(tenant)?;
        match webhook {
            Some((url, secret)) => self.0.execute(
                "INSERT INTO webhooks (tenant, url, secret) VALUES (?1, ?2, ?3)
                 ON CONFLICT (tenant) DO UPDATE SET url = ?2, secret = ?3, error = ''",
                params![tenant.as_str(), url, secret.as_str()],
            )?,
            None => self.0.execute("DELETE FROM webhooks WHERE tenant = ?1", [tenant.as_str()])?,
        };
        Ok(())
    }

    /// Queues a delivery, if the tenant has a webhook and room.
    pub fn post(&self, tenant: &TenantId, body: &str, due: Millis) -> Result<(), Error> {
        self.0.execute(
            "INSERT INTO deliveries (tenant, body, due) SELECT tenant, ?2, ?3 FROM webhooks
             WHERE tenant = ?1 AND (SELECT count(*) FROM deliveries WHERE tenant = ?1) < ?4",
            params![tenant.as_str(), body, number(due.0)?, MOST_DELIVERIES],
        )?;
        Ok(())
    }

    /// What is to be posted now, the oldest first.
    pub fn due_deliveries(&self, now: Millis) -> Result<Vec<DeliveryRow>, Error> {
        let query = self.0.prepare(
            "SELECT d.id, d.tenant, url, secret, body, tries FROM deliveries d JOIN webhooks USING (tenant)
             WHERE due <= ?1 ORDER BY d.id LIMIT 64",
        )?;
        all(query, [number(now.0)?], |row| {
            Ok(DeliveryRow {
                id: count(row, "id")?,
                tenant: word(row, "tenant")?,
                url: row.get("url")?,
                secret: word(row, "secret")?,
                body: row.get("body")?,
                tries: row.get("tries")?,
            })
        })
    }

    /// What became of a try: taken or given up (no next time), or when it is tried again.
    pub fn delivered(
        &self,
        tenant: &TenantId,
        id: u64,
        error: &str,
        again: Option<Millis>,
    ) -> Result<(), Error> {
        let (id, whose) = (number(id)?, tenant.as_str());
        match again {
            None => {
                self.0.execute("DELETE FROM deliveries WHERE id = ?1 AND tenant = ?2", params![id, whose])?
            }
            Some(due) => self.0.execute(
                "UPDATE deliveries SET due = ?3, tries = tries + 1 WHERE id = ?1 AND tenant = ?2",
                params![id, whose, number(due.0)?],
            )?,
        };
        self.0.execute("UPDATE webhooks SET error = ?2 WHERE tenant = ?1", params![whose, error])?;
        Ok(())
    }
}
