//! `cofferdam model` and `cofferdam usage`.

use super::{
    Client, Exit, Failure,
    commands::{Done, OK, list, say},
    other,
    print::{self, moment},
};
use clap::{Args, Subcommand};
use cofferdam_base::{
    Clock, Millis, Provider, SecretName, TenantId,
    ipc::model::{Alias, Limit, ModelRoute, Patience, Price, Spent, Unit, Upstream, Usd},
};
use cofferdam_control::api::types;
use cofferdam_sys::clock::SystemClock;
use http::Method;
use std::{fmt::Write, process::ExitCode};

#[derive(Debug, Subcommand)]
pub(crate) enum Model {
    /// Set a route; the first one is the default
    ///
    /// The cell asks http://inference.local/v1 for the model ALIAS. While a tenant has
    /// one route, every name leads there; with several, a name must be one of them, or
    /// `default`, or none. What is not given is not kept from before.
    #[command(verbatim_doc_comment)]
    Set(Box<Set>),
    /// List the routes, with what they used
    #[command(visible_alias = "show")]
    List { tenant: TenantId },
    /// Remove a route; the default goes last
    Rm {
        tenant: TenantId,
        /// Which
        #[arg(default_value = "default")]
        alias: Alias,
    },
    /// Make a route the default
    Default {
        tenant: TenantId,
        /// Which
        alias: Alias,
    },
    /// Call a route once, and explain a failure
    ///
    /// The tenant's warden makes the call, with the tenant's key, and it counts as any
    /// other. Exit status: 0 it answered, 1 it did not.
    #[command(verbatim_doc_comment)]
    Test {
        tenant: TenantId,
        /// Which
        #[arg(default_value = "default")]
        alias: Alias,
    },
    /// Anything else: perhaps a command of the design that is not built yet
    #[command(external_subcommand)]
    Other(Vec<String>),
}

#[derive(Debug, Args)]
pub(crate) struct Set {
    tenant: TenantId,
    /// Its name: 1 to 40 of a-z, 0-9, '-' and '.'
    #[arg(default_value = "default")]
    alias: Alias,
    /// The provider's base URL, https://host/v1; or `builtin`
    #[arg(long)]
    url: String,
    /// The model's name at the provider
    #[arg(long, value_name = "NAME")]
    model: String,
    /// Which wire it speaks: openai, anthropic, ollama or gemini
    #[arg(long, default_value = "openai")]
    provider: Provider,
    /// The secret that holds the provider's key
    #[arg(long)]
    secret: Option<SecretName>,
    /// Let the cell have the provider search, run code and keep things for it: a
    /// way out that no policy sees
    #[arg(long)]
    provider_tools: bool,
    /// A route to ask instead after 429, 5xx or no answer in time; repeated: in
    /// this order
    #[arg(long, value_name = "ALIAS")]
    fallback: Vec<Alias>,
    /// How long to wait for the first byte: 90s, 15m [default: 2m; 10m for an
    /// answer in one piece]
    #[arg(long, value_name = "TIME", value_parser = super::parse::seconds)]
    first_byte: Option<u64>,
    /// How long an answer that began may stand still [default: 2m]
    #[arg(long, value_name = "TIME", value_parser = super::parse::seconds)]
    idle: Option<u64>,
    /// Refuse past this: tokens/day=200000 or usd/month=12.50; spans are minute,
    /// day and month in UTC; repeated: each holds
    #[arg(long, value_name = "LIMIT")]
    limit: Vec<Limit>,
    /// Ask an approver past this, written likewise
    #[arg(long, value_name = "LIMIT")]
    ask_past: Vec<Limit>,
    /// What a million tokens cost in US dollars, prompt:answer, as in 2.50:10
    /// [default: the built-in list of prices]
    #[arg(long, value_name = "PRICE")]
    price: Option<Price>,
}

impl Set {
    fn route(self) -> (TenantId, ModelRoute) {
        let Self { tenant, alias, url, model, provider, secret, provider_tools, fallback, .. } = self;
        let upstream = if url == "builtin" { Upstream::Builtin } else { Upstream::Url(url) };
        let ms = |seconds: Option<u64>| seconds.map(|seconds| seconds.saturating_mul(1000));
        let patience = Patience { first_byte_ms: ms(self.first_byte), idle_ms: ms(self.idle) };
        let soft = self.ask_past.into_iter().map(|limit| Limit { soft: true, ..limit });
        let limits = self.limit.into_iter().chain(soft).collect();
        let price = self.price;
        let route = ModelRoute {
            route: alias,
            provider,
            upstream,
            model,
            secret,
            provider_tools,
            fallback,
            patience,
            limits,
            price,
        };
        (tenant, route)
    }
}

/// Sums over all time, by tenant, route and model, unless told otherwise.
#[derive(Debug, Args)]
pub(crate) struct Usage {
    /// Only this tenant's
    tenant: Option<TenantId>,
    /// Tell apart by these, with commas between: tenant, day, route, model, user,
    /// agent; user and agent are what the cell claims
    #[arg(long, value_name = "WORDS")]
    by: Option<String>,
    /// From this day on, in UTC: 2026-11-01, or 7d for the last seven days
    #[arg(long, value_name = "WHEN", value_parser = since)]
    since: Option<Millis>,
    /// Print CSV
    #[arg(long, conflicts_with_all = ["json", "prometheus"])]
    csv: bool,
    /// Print what Prometheus reads; GET /metrics of run/control.sock is the same
    #[arg(long, conflicts_with_all = ["json", "since"])]
    prometheus: bool,
}

/// Does one command of `model`.
pub(super) async fn run(command: Model, client: &Client, json: bool) -> Done {
    let (tenant, answer): (TenantId, types::Models) = match command {
        Model::Set(set) => {
            let (tenant, route) = set.route();
            let path = format!("tenants/{tenant}/models/{}", route.route);
            let answer = client.call(Method::PUT, &path, Some(&route)).await?;
            (tenant, answer)
        }
        Model::List { tenant } => {
            let answer = client.fetch(&format!("tenants/{tenant}/models")).await?;
            (tenant, answer)
        }
        Model::Rm { tenant, alias } => {
            let path = format!("tenants/{tenant}/models/{alias}");
            let answer = client.call(Method::DELETE, &path, None::<&()>).await?;
            (tenant, answer)
        }
        Model::Default { tenant, alias } => {
            let path = format!("tenants/{tenant}/models/{alias}/default");
            let answer = client.call(Method::PUT, &path, None::<&()>).await?;
            (tenant, answer)
        }
        Model::Test { tenant, alias } => return test(&tenant, &alias, client, json).await,
        Model::Other(words) => return Err(other("model", &words)),
    };
    let row = |shown: &types::RouteShown| {
        let default = if answer.default.as_ref() == Some(&shown.route.route) { " (default)" } else { "" };
        vec![
            format!("{}{default}", shown.route.route),
            shown.route.model.clone(),
            place(&shown.route),
            details(shown),
        ]
    };
    let none =
        format!("{tenant} has no model; set one with: cofferdam model set {tenant} --url URL --model NAME");
    list(json, &answer, &["ALIAS", "MODEL", "AT", ""], answer.routes.iter().map(row).collect(), &none)
}

fn place(route: &ModelRoute) -> String {
    match &route.upstream {
        Upstream::Url(url) => url.clone(),
        Upstream::Builtin => "the built-in model".to_owned(),
    }
}

/// What else a route says, on one line.
fn details(shown: &types::RouteShown) -> String {
    let types::RouteShown { route, since: _, cost, spent } = shown;
    let mut words = vec![route.provider.to_string()];
    words.extend(route.secret.as_ref().map(|name| format!("key {name}")));
    words.extend(route.provider_tools.then(|| "the provider's tools allowed".to_owned()));
    words.extend(cost.map(|price| format!("{price} USD a million")));
    words.extend(route.fallback.iter().map(|alias| format!("else {alias}")));
    let patience = [("first byte", route.patience.first_byte_ms), ("idle", route.patience.idle_ms)];
    words.extend(
        patience.iter().filter_map(|(what, ms)| ms.map(|ms| format!("{what} {} s", ms.div_ceil(1000)))),
    );
    for limit in &route.limits {
        let used = spent.iter().find(|spent| spent.span == limit.span);
        let used = used.map(|Spent { tokens, micros, .. }| match limit.unit {
            Unit::Tokens => format!(", {tokens} used"),
            Unit::Usd => format!(", {} used", Usd(*micros)),
        });
        let kind = if limit.soft { "asks past" } else { "at most" };
        words.push(format!("{kind} {limit}{}", used.unwrap_or_default()));
    }
    words.join("; ")
}

async fn test(tenant: &TenantId, alias: &Alias, client: &Client, json: bool) -> Done {
    let path = format!("tenants/{tenant}/models/{alias}/test");
    let answer: types::ModelTested = client.call(Method::POST, &path, None::<&()>).await?;
    let mend = if answer.mend.is_empty() { String::new() } else { format!("\n  {}", answer.mend) };
    say(json, &answer, &format!("{alias}: {}{mend}", answer.text))?;
    Ok(if answer.works { OK } else { ExitCode::FAILURE })
}

/// Shows sums of usage.
pub(super) async fn usage(usage: Usage, client: &Client, json: bool) -> Done {
    let Usage { tenant, by, since, csv, prometheus } = usage;
    let by = by.unwrap_or_else(|| "tenant,route,model".to_owned());
    if by.split(',').any(|word| !COLUMNS.iter().any(|(name, ..)| *name == word)) {
        let words = COLUMNS.map(|(name, ..)| name).join(", ");
        let message = format!("usage is not told apart by {by:?}");
        return Err(Failure::new(Exit::Usage, "no_such_column", message, format!("use some of {words}")));
    }
    let tenant = tenant.map(|id| format!("&tenant={id}")).unwrap_or_default();
    if prometheus {
        client.stream(&format!("metrics?by={by}{tenant}"), |chunk| Ok(print::raw(chunk)?)).await?;
        return Ok(OK);
    }
    let since = since.map(|since| format!("&since={}", since.0)).unwrap_or_default();
    let report: types::UsageReport = client.fetch(&format!("usage?by={by}{tenant}{since}")).await?;
    let shown: Vec<_> = COLUMNS.iter().filter(|(name, ..)| by.split(',').any(|word| word == *name)).collect();
    let rows = |row: &types::UsageRow| -> Vec<String> {
        let numbers = [row.requests, row.prompt_tokens, row.completion_tokens].map(|it| it.to_string());
        let cost = [Usd(row.micros).to_string(), row.unpriced.to_string()];
        shown.iter().map(|(_, _, of)| of(row)).chain(numbers).chain(cost).collect()
    };
    let rows: Vec<_> = report.rows.iter().map(rows).collect();
    if csv {
        let head = shown.iter().map(|(name, ..)| *name).chain(NUMBERS);
        print::raw(csv_line(head).as_bytes())?;
        for row in &rows {
            print::raw(csv_line(row.iter().map(String::as_str)).as_bytes())?;
        }
        return Ok(OK);
    }
    let head: Vec<_> = shown.iter().map(|(_, head, _)| *head).chain(HEAD).collect();
    list(json, &report, &head, rows, "nothing was used")
}

/// Name, head and value.
type Column = (&'static str, &'static str, fn(&types::UsageRow) -> String);

const COLUMNS: [Column; 6] = [
    ("tenant", "TENANT", |row| row.tenant.clone()),
    ("day", "DAY", |row| match row.day {
        None | Some(Millis(0)) => "before days".to_owned(),
        Some(day) => moment(day).chars().take(10).collect(),
    }),
    ("route", "ROUTE", |row| row.route.clone()),
    ("model", "MODEL", |row| row.model.clone()),
    ("user", "USER (CLAIMED)", |row| row.user.clone()),
    ("agent", "AGENT (CLAIMED)", |row| row.agent.clone()),
];
const HEAD: [&str; 5] = ["REQUESTS", "PROMPT", "COMPLETION", "USD", "UNPRICED"];
const NUMBERS: [&str; 5] = ["requests", "prompt_tokens", "completion_tokens", "usd", "unpriced_requests"];

/// One line of CSV (RFC 4180). What a spreadsheet would take for a formula is a cell's claim: it gets a quote before it.
fn csv_line<'a>(fields: impl Iterator<Item = &'a str>) -> String {
    let mut line = String::new();
    for (number, field) in fields.enumerate() {
        let comma = if number > 0 { "," } else { "" };
        let formula = if field.starts_with(['=', '+', '-', '@', '\t', '\r']) { "'" } else { "" };
        // Into a string nothing fails.
        let _ = if field.contains([',', '"', '\n', '\r']) {
            write!(line, "{comma}\"{formula}{}\"", field.replace('"', "\"\""))
        } else {
            write!(line, "{comma}{formula}{field}")
        };
    }
    line.push_str("\r\n");
    line
}

/// `2026-11-01`, or `7d` for so long ago.
fn since(text: &str) -> Result<Millis, String> {
    if let Ok(seconds) = super::parse::seconds(text) {
        let now = SystemClock.now();
        return Ok(Millis(now.0.saturating_sub(seconds.saturating_mul(1000))));
    }
    day(text).ok_or_else(|| format!("{text:?} is no day; write 2026-11-01, or 7d for the last seven days"))
}

fn day(text: &str) -> Option<Millis> {
    let mut parts = text.split('-').map(|part| part.parse::<u64>().ok());
    let (year, month, day) = (parts.next()??, parts.next()??, parts.next()??);
    if text.len() != 10 || parts.next().is_some() || !(1970..=9999).contains(&year) {
        return None;
    }
    // Days since the epoch of a civil day, counted from 1 March as `print::civil` does.
    let (shifted, index) = if month > 2 { (year, month.checked_sub(3)?) } else { (year - 1, month + 9) };
    let of_year = (153 * index + 2) / 5 + day.checked_sub(1)?;
    let days = shifted * 365 + shifted / 4 - shifted / 100 + shifted / 400 + of_year;
    let at = Millis(days.checked_sub(719_468)?.checked_mul(86_400_000)?);
    // A day that is none (31 February) comes back as another.
    moment(at).starts_with(text).then_some(at)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn days_are_read_as_they_are_shown() {
        for text in ["1970-01-01", "2024-02-29", "2026-11-26", "2100-03-01"] {
            assert!(moment(day(text).unwrap()).starts_with(text), "{text}");
        }
        for bad in [
            "",
            "2026-02-30",
            "2025-02-29",
            "2026-13-01",
            "2026-00-01",
            "2026-1-1",
            "2026-01-00",
            "1969-12-31",
        ] {
            assert_eq!(day(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_claim_is_no_formula_and_no_field_of_its_own() {
        let line = csv_line(["acme", "=cmd|'/c'", "a,\"b", "12"].into_iter());
        assert_eq!(line, "acme,'=cmd|'/c',\"a,\"\"b\",12\r\n");
    }
}
