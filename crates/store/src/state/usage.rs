//! Sums of the tokens that models counted, by day, and what routes used by now.
//!
//! The sums outlive their tenant. The threats: a provider that reports numbers past every sum; those are cut. And a
//! cell that asks as ever another user: of a day so many are told apart, and the rest is summed as `others`.

use super::{
    Tables,
    rows::{all, count, json, number, word},
};
use crate::Error;
use cofferdam_base::{
    Millis, TenantId,
    ipc::{
        model::{Alias, Span, Spent, SpentByAll},
        warden::Usage,
    },
};
use rusqlite::params;
use std::collections::BTreeMap;

/// No single request counts for more.
const MOST: u64 = 1 << 32;
/// No sum grows past this.
const MOST_SUM: i64 = 1 << 48;
/// So many users, agents, routes and models of a tenant are told apart in a day.
const MOST_ROWS: i64 = 512;
/// The user and agent of what is not told apart.
pub const OTHERS: &str = "others";

/// By what sums are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum By {
    /// Whose cell.
    Tenant,
    /// The day, in UTC.
    Day,
    /// The route.
    Route,
    /// The model.
    Model,
    /// The user, as the cell says.
    User,
    /// The agent, as the cell says.
    Agent,
}

impl By {
    const ALL: [Self; 6] = [Self::Tenant, Self::Day, Self::Route, Self::Model, Self::User, Self::Agent];

    const fn column(self) -> &'static str {
        match self {
            Self::Tenant => "tenant",
            Self::Day => "day",
            Self::Route => "route",
            Self::Model => "model",
            Self::User => "user",
            Self::Agent => "agent",
        }
    }
}

/// Sums of usage. What they are not told apart by is empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsageRow {
    /// Whose.
    pub tenant: String,
    /// On which day since 1970; of sums from before days were told apart, 0.
    pub day: Option<u64>,
    /// By which route.
    pub route: String,
    /// Of which model.
    pub model: String,
    /// For whom, as the cell says.
    pub user: String,
    /// By which agent, as the cell says.
    pub agent: String,
    /// Requests.
    pub requests: u64,
    /// Tokens in prompts.
    pub prompt_tokens: u64,
    /// Tokens in answers.
    pub completion_tokens: u64,
    /// What they cost, in millionths of a US dollar.
    pub micros: u64,
    /// Requests whose cost nobody knows.
    pub unpriced: u64,
}

/// Requests that no sum tells apart. The minute comes second, so that an earlier one is added first.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Alike<'a> {
    tenant: &'a TenantId,
    minute: Millis,
    route: &'a Alias,
    model: &'a str,
    user: &'a str,
    agent: &'a str,
}

impl<'a> Alike<'a> {
    fn new(tenant: &'a TenantId, usage: &'a Usage) -> Self {
        let Usage { at, route, model, user, agent, .. } = usage;
        Self { tenant, minute: Span::Minute.begin(*at), route, model, user, agent }
    }
}

/// What they used together.
#[derive(Clone, Copy, Default)]
struct Sum {
    requests: i64,
    prompt: i64,
    completion: i64,
    micros: i64,
    unpriced: i64,
}

impl Sum {
    fn add(&mut self, usage: &Usage) -> Result<(), Error> {
        let more = |sum: &mut i64, by: u64| -> Result<(), Error> {
            *sum = sum.saturating_add(cut(by)?).min(MOST_SUM);
            Ok(())
        };
        more(&mut self.requests, 1)?;
        more(&mut self.prompt, usage.prompt_tokens)?;
        more(&mut self.completion, usage.completion_tokens)?;
        more(&mut self.micros, usage.micros.unwrap_or_default())?;
        more(&mut self.unpriced, usage.micros.is_none().into())
    }
}

impl Tables<'_> {
    /// Adds requests, all that no sum tells apart at once. Those of a tenant that is not there add nothing.
    pub fn add_usage(&self, uses: &[(TenantId, Usage)]) -> Result<(), Error> {
        let mut sums: BTreeMap<Alike<'_>, Sum> = BTreeMap::new();
        for (tenant, usage) in uses {
            sums.entry(Alike::new(tenant, usage)).or_default().add(usage)?;
        }
        sums.iter().try_for_each(|(alike, sum)| self.add_sum(alike, *sum))
    }

    fn add_sum(&self, alike: &Alike<'_>, sum: Sum) -> Result<(), Error> {
        let Alike { tenant, minute, route, model, user, agent } = alike;
        if !self.exists(tenant)? {
            return Ok(());
        }
        let day = number(minute.0 / 86_400_000)?;
        let full = "SELECT count(*) >= ?3 FROM used WHERE tenant = ?1 AND day = ?2";
        let mut full = self.0.prepare_cached(full)?;
        let full: bool = full.query_row(params![tenant.as_str(), day, MOST_ROWS], |row| row.get(0))?;
        let known = "SELECT count(*) > 0 FROM used
                     WHERE tenant = ?1 AND day = ?2 AND route = ?3 AND model = ?4 AND user = ?5 AND agent = ?6";
        let these = params![tenant.as_str(), day, route.as_str(), model, user, agent];
        let apart = !full || self.0.query_row(known, these, |row| row.get::<_, bool>(0))?;
        let (user, agent) = if apart { (*user, *agent) } else { (OTHERS, OTHERS) };
        let Sum { requests, prompt, completion, micros, unpriced } = sum;
        let mut add = self.0.prepare_cached(
            "INSERT INTO used VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?12, ?7, ?8, ?9, ?10)
             ON CONFLICT (tenant, day, route, model, user, agent) DO UPDATE SET
               requests = requests + ?12,
               prompt_tokens = min(prompt_tokens + ?7, ?11),
               completion_tokens = min(completion_tokens + ?8, ?11),
               micros = min(micros + ?9, ?11),
               unpriced = unpriced + ?10",
        )?;
        add.execute(params![
            tenant.as_str(),
            day,
            route.as_str(),
            model,
            user,
            agent,
            prompt,
            completion,
            micros,
            unpriced,
            MOST_SUM,
            requests
        ])?;
        Span::ALL.iter().try_for_each(|span| self.spend(alike, *span, prompt + completion, micros))
    }

    /// Adds to what a route used in a span. One that is over makes room for the next; a late
    /// word of it, or one by a clock that went back, counts in the one that is there.
    fn spend(&self, alike: &Alike<'_>, span: Span, tokens: i64, micros: i64) -> Result<(), Error> {
        let mut add = self.0.prepare_cached(
            "INSERT INTO spent VALUES (?1, ?2, ?3, ?4, ?5, ?6)
             ON CONFLICT (tenant, route, span) DO UPDATE SET
               tokens = min(CASE WHEN begin >= ?4 THEN tokens ELSE 0 END + ?5, ?7),
               micros = min(CASE WHEN begin >= ?4 THEN micros ELSE 0 END + ?6, ?7),
               begin = max(begin, ?4)",
        )?;
        add.execute(params![
            alike.tenant.as_str(),
            alike.route.as_str(),
            super::rows::text(&span)?,
            number(span.begin(alike.minute).0)?,
            tokens,
            micros,
            MOST_SUM
        ])?;
        Ok(())
    }

    /// What a tenant's routes used in the last minute, day and month in which they used anything. Of a route that is
    /// removed it is kept, for one of that name that comes back.
    pub fn spent(&self, id: &TenantId) -> Result<Vec<Spent>, Error> {
        let query = self.0.prepare(
            "SELECT * FROM spent WHERE tenant = ?1 AND route IN (SELECT alias FROM routes WHERE tenant = ?1)
             ORDER BY route, span",
        )?;
        all(query, [id.as_str()], |row| {
            Ok(Spent {
                route: word(row, "route")?,
                span: json(row, "span")?,
                begin: Millis(count(row, "begin")?),
                tokens: count(row, "tokens")?,
                micros: count(row, "micros")?,
            })
        })
    }

    /// What all routes of a tenant together used, removed ones included, in the last minute, day and month in which one
    /// of them used anything.
    pub fn spent_by_all(&self, id: &TenantId) -> Result<Vec<SpentByAll>, Error> {
        let query = self.0.prepare(
            "SELECT span, begin, sum(tokens) AS tokens, sum(micros) AS micros FROM spent AS one
             WHERE tenant = ?1 AND begin =
               (SELECT max(begin) FROM spent AS other WHERE other.tenant = ?1 AND other.span = one.span)
             GROUP BY span, begin ORDER BY span",
        )?;
        all(query, [id.as_str()], |row| {
            Ok(SpentByAll {
                span: json(row, "span")?,
                begin: Millis(count(row, "begin")?),
                tokens: count(row, "tokens")?,
                micros: count(row, "micros")?,
            })
        })
    }

    /// The sums of one tenant or all, from the day of this moment on, told apart by these.
    pub fn usage(&self, tenant: Option<&TenantId>, since: Millis, by: &[By]) -> Result<Vec<UsageRow>, Error> {
        let is = |it: &&By| by.contains(it) || (by.is_empty() && **it == By::Tenant);
        let kept = By::ALL.iter().filter(is).map(|it| it.column()).collect::<Vec<_>>().join(", ");
        let shown =
            |it: &By| if is(&it) { it.column().to_owned() } else { format!("NULL AS {}", it.column()) };
        let shown = By::ALL.iter().map(shown).collect::<Vec<_>>().join(", ");
        // All words of it are our own.
        let sql = format!(
            "SELECT {shown}, sum(requests) AS requests, sum(prompt_tokens) AS prompt_tokens,
               sum(completion_tokens) AS completion_tokens, sum(micros) AS micros, sum(unpriced) AS unpriced
             FROM used WHERE (?1 IS NULL OR tenant = ?1) AND day >= ?2 GROUP BY {kept} ORDER BY {kept}"
        );
        let since = number(since.0 / 86_400_000)?;
        all(self.0.prepare(&sql)?, params![tenant.map(TenantId::as_str), since], |row| {
            let name = |column: &str| row.get::<_, Option<String>>(column).map(Option::unwrap_or_default);
            Ok(UsageRow {
                tenant: name("tenant")?,
                day: row.get::<_, Option<i64>>("day")?.and_then(|day| u64::try_from(day).ok()),
                route: name("route")?,
                model: name("model")?,
                user: name("user")?,
                agent: name("agent")?,
                requests: count(row, "requests")?,
                prompt_tokens: count(row, "prompt_tokens")?,
                completion_tokens: count(row, "completion_tokens")?,
                micros: count(row, "micros")?,
                unpriced: count(row, "unpriced")?,
            })
        })
    }
}

fn cut(number: u64) -> Result<i64, Error> {
    i64::try_from(number.min(MOST)).map_err(|_| Error::Malformed("number"))
}
