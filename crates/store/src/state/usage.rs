//! Sums of the tokens that models counted.
//!
//! They outlive their tenant. The threat: a provider that reports numbers past every sum; those are cut.

use super::{
    Tables, UsageRow,
    rows::{all, count, word},
};
use crate::Error;
use cofferdam_base::{TenantId, ipc::warden::Usage};
use rusqlite::params;

/// No single request counts for more.
const MOST: u64 = 1 << 32;
/// No sum grows past this.
const MOST_SUM: i64 = 1 << 62;

impl Tables<'_> {
    /// Adds one request.
    pub fn add_usage(&self, id: &TenantId, usage: &Usage) -> Result<(), Error> {
        let Usage { seq: _, at: _, route, model, prompt_tokens, completion_tokens, status: _, estimated: _ } =
            usage;
        self.must_exist(id)?;
        let cut = |tokens: u64| i64::try_from(tokens.min(MOST)).map_err(|_| Error::Malformed("number"));
        self.0.execute(
            "INSERT INTO usage (tenant, route, model, requests, prompt_tokens, completion_tokens)
             VALUES (?1, ?2, ?3, 1, ?4, ?5)
             ON CONFLICT (tenant, route, model) DO UPDATE SET
               requests = requests + 1,
               prompt_tokens = min(prompt_tokens + excluded.prompt_tokens, ?6),
               completion_tokens = min(completion_tokens + excluded.completion_tokens, ?6)",
            params![id.as_str(), route, model, cut(*prompt_tokens)?, cut(*completion_tokens)?, MOST_SUM],
        )?;
        Ok(())
    }

    /// The sums of one tenant or all.
    pub fn usage(&self, tenant: Option<&TenantId>) -> Result<Vec<UsageRow>, Error> {
        let sql = "SELECT * FROM usage WHERE ?1 IS NULL OR tenant = ?1 ORDER BY tenant, route, model";
        all(self.0.prepare(sql)?, [tenant.map(TenantId::as_str)], |row| {
            Ok(UsageRow {
                tenant: word(row, "tenant")?,
                route: row.get("route")?,
                model: row.get("model")?,
                requests: count(row, "requests")?,
                prompt_tokens: count(row, "prompt_tokens")?,
                completion_tokens: count(row, "completion_tokens")?,
            })
        })
    }
}
