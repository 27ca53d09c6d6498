//! The commands that are one request to a running host.

use super::{
    Client, Exit, Failure,
    flags::{Approvals, Command, Ledger, Model, Secret, Span, Token},
    other,
    print::{self, moment},
    tenant,
};
use cofferdam_base::{Secret as Hidden, TenantId};
use cofferdam_control::api::types;
use http::Method;
use serde::{Serialize, de::DeserializeOwned};
use std::{
    io::{IsTerminal, Read},
    path::Path,
    process::ExitCode,
};

pub(super) type Done = Result<ExitCode, Failure>;
pub(super) const OK: ExitCode = ExitCode::SUCCESS;

/// Does one command.
pub(super) async fn run(command: Command, client: &Client, json: bool) -> Done {
    match command {
        Command::Status => status(client, json).await,
        Command::Tenant(command) => tenant::run(command, client, json).await,
        Command::Token(command) => token(command, client, json).await,
        Command::Secret(command) => secret(command, client, json).await,
        Command::Model(command) => model(command, client, json).await,
        Command::Policy(command) => super::policy::run(command, client, json).await,
        Command::Approvals(command) => approvals(command, client, json).await,
        Command::Usage { tenant } => usage(tenant.as_ref(), client, json).await,
        Command::Ledger(command) => ledger(command, client, json).await,
        Command::Demo { .. }
        | Command::Init
        | Command::Serve
        | Command::Doctor
        | Command::Runtime(_)
        | Command::Prove(_)
        | Command::Other(_) => Err(Failure::could_not("this command needs no host")),
    }
}

async fn status(client: &Client, json: bool) -> Done {
    let status: types::Status = client.fetch("status").await?;
    if json {
        print::json(&status)?;
        return Ok(OK);
    }
    let tenants: Vec<_> = status.tenants.iter().map(|row| format!("{} {}", row.count, row.state)).collect();
    let tenants = if tenants.is_empty() { "none".to_owned() } else { tenants.join(", ") };
    print::line(&format!(
        "cofferdam {} ({}), up since {}",
        status.version,
        status.profile,
        moment(status.started)
    ))?;
    print::line(&format!(
        "edge       {}{}",
        status.edge_url,
        if status.edge { "" } else { "  (not connected)" }
    ))?;
    print::line(&format!("tenants    {tenants}"))?;
    print::line(&format!("waiting    {} approvals", status.waiting))?;
    print::line(&format!("ledger     {} rows", status.ledger_rows))?;
    if status.profile == "strict" {
        // Strict does not start without it.
        print::line("guard      nftables by the wardens' uids, put in force at the start")?;
    }
    for degradation in &status.degradations {
        print::line(&format!("degraded   {degradation}"))?;
    }
    Ok(OK)
}

async fn token(command: Token, client: &Client, json: bool) -> Done {
    match command {
        Token::Issue { tenant, subject, role, ttl } => {
            let new = types::NewToken { tenant, subject, role, ttl_seconds: ttl };
            let issued: types::IssuedToken = client.call(Method::POST, "tokens", Some(&new)).await?;
            let text = issued.token.clone();
            say(json, &issued, &text)
        }
        Token::List { tenant } => {
            let all: types::Tokens = client.fetch(&format!("tokens{}", query(tenant.as_ref()))).await?;
            let row = |token: &types::Token| {
                let state =
                    token.revoked.map_or_else(|| "live".to_owned(), |at| format!("revoked {}", moment(at)));
                vec![
                    token.jti.clone(),
                    token.tenant.to_string(),
                    token.subject.clone(),
                    token.role.to_string(),
                    moment(token.expires),
                    state,
                ]
            };
            let head = ["JTI", "TENANT", "SUBJECT", "ROLE", "EXPIRES", "STATE"];
            list(json, &all, &head, all.tokens.iter().map(row).collect(), "no tokens")
        }
        Token::Other(words) => Err(other("token", &words)),
        Token::Revoke { jti } => {
            let token: types::Token =
                client.call(Method::DELETE, &format!("tokens/{}", segment(&jti)), None::<&()>).await?;
            say(json, &token, &format!("{} is revoked", token.jti))
        }
    }
}

async fn secret(command: Secret, client: &Client, json: bool) -> Done {
    match command {
        Secret::Set { tenant, name, purpose } => {
            let value = Hidden::new(read_secret()?);
            let mut body = types::SecretValue { value: value.expose().clone(), purpose: Some(purpose) };
            let path = format!("tenants/{tenant}/secrets/{name}");
            let row: Result<types::SecretRow, _> = client.call(Method::PUT, &path, Some(&body)).await;
            zeroize::Zeroize::zeroize(&mut body.value);
            let row = row?;
            say(json, &row, &format!("{} is set, version {}", row.name, row.version))
        }
        Secret::List { tenant } => {
            let all: types::Secrets = client.fetch(&format!("tenants/{tenant}/secrets")).await?;
            let row = |secret: &types::SecretRow| {
                vec![
                    secret.name.to_string(),
                    secret.version.to_string(),
                    secret.purpose.clone(),
                    moment(secret.at),
                ]
            };
            let head = ["NAME", "VERSION", "PURPOSE", "SET"];
            list(json, &all, &head, all.secrets.iter().map(row).collect(), "no secrets")
        }
        Secret::Other(words) => Err(other("secret", &words)),
        Secret::Rm { tenant, name } => {
            let path = format!("tenants/{tenant}/secrets/{name}");
            let empty: types::Empty = client.call(Method::DELETE, &path, None::<&()>).await?;
            say(json, &empty, &format!("{name} is gone"))
        }
    }
}

/// A secret's value from standard input, one trailing newline apart.
fn read_secret() -> Result<String, Failure> {
    let mut input = std::io::stdin().lock();
    if std::io::stdin().is_terminal() {
        eprint!("value (it will show; better: cofferdam secret set … < file): ");
    }
    let mut value = String::new();
    if std::io::stdin().is_terminal() {
        std::io::BufRead::read_line(&mut input, &mut value)?;
    } else {
        input.take(128 * 1024).read_to_string(&mut value)?;
    }
    if value.ends_with('\n') {
        value.pop();
    }
    Ok(value)
}

async fn model(command: Model, client: &Client, json: bool) -> Done {
    let (tenant, answer): (TenantId, types::Model) = match command {
        Model::Set { tenant, url, model, secret } => {
            let upstream =
                if url == "builtin" { types::Upstream::Builtin } else { types::Upstream::Url(url) };
            let route = types::ModelRoute { route: "default".to_owned(), upstream, model, secret };
            let path = format!("tenants/{tenant}/model");
            let answer = client.call(Method::PUT, &path, Some(&route)).await?;
            (tenant, answer)
        }
        Model::Show { tenant } => {
            let answer = client.fetch(&format!("tenants/{tenant}/model")).await?;
            (tenant, answer)
        }
        Model::Other(words) => return Err(other("model", &words)),
        Model::Rm { tenant } => {
            let path = format!("tenants/{tenant}/model");
            let answer = client.call(Method::DELETE, &path, None::<&()>).await?;
            (tenant, answer)
        }
    };
    let text = answer.model.as_ref().map_or_else(
        || {
            format!(
                "{tenant} has no model; set one with: cofferdam model set {tenant} --url URL --model NAME"
            )
        },
        |route| {
            let place = match &route.upstream {
                types::Upstream::Url(url) => url.as_str(),
                types::Upstream::Builtin => "the built-in model",
            };
            let secret = route.secret.as_ref().map(|name| format!(", key {name}")).unwrap_or_default();
            format!("{} at {place}{secret}", route.model)
        },
    );
    say(json, &answer, &text)
}

/// A document from a file or, for `-`, standard input; a little more than the host accepts is read.
pub(super) fn read_document(file: &Path) -> Result<String, Failure> {
    let mut text = String::new();
    let named = |error: std::io::Error| {
        Failure::new(Exit::Usage, "unreadable", format!("{}: {error}", file.display()), "")
    };
    if file == Path::new("-") {
        std::io::stdin().lock().take(1 << 20).read_to_string(&mut text).map_err(named)?;
    } else {
        let opened = std::fs::File::open(file).map_err(named)?;
        opened.take(1 << 20).read_to_string(&mut text).map_err(named)?;
    }
    Ok(text)
}

async fn approvals(command: Approvals, client: &Client, json: bool) -> Done {
    match command {
        Approvals::List { tenant, all } => {
            let mut path = format!("approvals?all={all}");
            if let Some(tenant) = tenant {
                path += "&tenant=";
                path += tenant.as_str();
            }
            let found: types::Approvals = client.fetch(&path).await?;
            let head = ["ID", "TENANT", "DESTINATION", "STATE", "ASKED", "WHY"];
            list(json, &found, &head, found.approvals.iter().map(approval_row).collect(), "nothing waits")
        }
        Approvals::Watch { tenant } => {
            let path = format!("approvals/watch{}", query(tenant.as_ref()));
            lines(client, &path, |line| {
                if json {
                    return Ok(print::line(line)?);
                }
                let row: types::Approval = serde_json::from_str(line).map_err(Failure::could_not)?;
                Ok(print::line(&approval_row(&row).join("  "))?)
            })
            .await
        }
        Approvals::Approve { id, span: Span { for_seconds, always, once: _ } } => {
            let span = match (for_seconds, always) {
                (Some(seconds), _) => types::Span::ForSeconds(seconds),
                (None, true) => types::Span::Always,
                (None, false) => types::Span::Once,
            };
            let path = format!("approvals/{id}/approve");
            let row: types::Approval =
                client.call(Method::POST, &path, Some(&types::Approve { span })).await?;
            say(json, &row, &format!("{} may reach {}", row.tenant, row.destination))
        }
        Approvals::Revoke { id } => {
            let path = format!("approvals/{id}/revoke");
            let row: types::Approval = client.call(Method::POST, &path, None::<&()>).await?;
            say(json, &row, &format!("{} may not reach {} any more", row.tenant, row.destination))
        }
        Approvals::Other(words) => Err(other("approvals", &words)),
        Approvals::Deny { id, reason } => {
            let path = format!("approvals/{id}/deny");
            let row: types::Approval =
                client.call(Method::POST, &path, Some(&types::DenyRequest { reason })).await?;
            say(json, &row, &format!("{} may not reach {}", row.tenant, row.destination))
        }
    }
}

fn approval_row(row: &types::Approval) -> Vec<String> {
    vec![
        row.id.to_string(),
        row.tenant.to_string(),
        row.destination.to_string(),
        row.state.clone(),
        moment(row.asked),
        row.why.clone(),
    ]
}

async fn usage(tenant: Option<&TenantId>, client: &Client, json: bool) -> Done {
    let report: types::UsageReport = client.fetch(&format!("usage{}", query(tenant))).await?;
    let row = |row: &types::UsageRow| {
        vec![
            row.tenant.to_string(),
            row.route.clone(),
            row.model.clone(),
            row.requests.to_string(),
            row.prompt_tokens.to_string(),
            row.completion_tokens.to_string(),
        ]
    };
    let head = ["TENANT", "ROUTE", "MODEL", "REQUESTS", "PROMPT", "COMPLETION"];
    list(json, &report, &head, report.rows.iter().map(row).collect(), "nothing was used")
}

async fn ledger(command: Ledger, client: &Client, json: bool) -> Done {
    match command {
        Ledger::Tail { follow, count, tenant } => {
            let mut path = format!("ledger/tail?follow={follow}&count={count}");
            if let Some(tenant) = tenant {
                path += "&tenant=";
                path += tenant.as_str();
            }
            lines(client, &path, |line| {
                if json {
                    return Ok(print::line(line)?);
                }
                let row: types::LedgerRow = serde_json::from_str(line).map_err(Failure::could_not)?;
                let tenant = row.tenant.map_or_else(|| "-".to_owned(), |tenant| tenant.to_string());
                let text = format!(
                    "{:>6} {} {} {tenant:<12} {:<16} {}",
                    row.seq,
                    moment(row.at),
                    row.class,
                    row.kind,
                    row.body
                );
                Ok(print::line(&text)?)
            })
            .await
        }
        Ledger::Other(words) => Err(other("ledger", &words)),
        Ledger::Verify => {
            let found: types::LedgerVerified = client.fetch("ledger/verify").await?;
            let text = if found.whole {
                format!("{} rows, every link fits; head {}", found.rows, found.head)
            } else {
                format!("the chain is broken after {} rows: {}", found.rows, found.problem)
            };
            say(json, &found, &text)?;
            Ok(if found.whole { OK } else { ExitCode::from(1) })
        }
    }
}

/// Streams an answer of one JSON document a line.
async fn lines(client: &Client, path: &str, mut each: impl FnMut(&str) -> Result<(), Failure>) -> Done {
    let mut rest = Vec::new();
    client
        .stream(path, |chunk| {
            rest.extend_from_slice(chunk);
            while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = rest.drain(..=end).collect();
                each(String::from_utf8_lossy(&line).trim_end())?;
            }
            Ok(())
        })
        .await?;
    Ok(OK)
}

pub(super) fn say(json: bool, value: &impl Serialize, text: &str) -> Done {
    if json {
        print::json(value)?;
    } else {
        print::line(text)?;
    }
    Ok(OK)
}

pub(super) fn list<T: Serialize + DeserializeOwned>(
    json: bool,
    value: &T,
    head: &[&str],
    rows: Vec<Vec<String>>,
    none: &str,
) -> Done {
    if json {
        print::json(value)?;
    } else {
        print::table(head, rows, none)?;
    }
    Ok(OK)
}

fn query(tenant: Option<&TenantId>) -> String {
    tenant.map(|tenant| format!("?tenant={tenant}")).unwrap_or_default()
}

/// A path segment that a person typed: everything but letters, digits, `-`, `_` and `.` escaped.
fn segment(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => char::from(byte).to_string(),
            other => format!("%{other:02X}"),
        })
        .collect()
}
