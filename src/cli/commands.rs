//! The commands that are one request to a running host.

use super::{
    Client, Exit, Failure, approvals,
    flags::{Command, Ledger, Secret, Token},
    models, other,
    print::{self, moment},
    tenant,
};
use cofferdam_base::{
    Secret as Hidden, TenantId,
    binding::{Binding, PLACEHOLDERS},
};
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
        Command::Canary(command) => super::canary::run(command, client, json).await,
        Command::Secret(command) => secret(command, client, json).await,
        Command::UpstreamProxy(command) => super::proxy::run(command, client, json).await,
        Command::Model(command) => models::run(command, client, json).await,
        Command::Policy(command) => super::policy::run(command, client, json).await,
        Command::Approvals(command) => approvals::run(command, client, json).await,
        Command::Usage(command) => models::usage(command, client, json).await,
        Command::Ledger(command) => ledger(command, client, json).await,
        Command::Demo { .. }
        | Command::Init
        | Command::Serve
        | Command::Doctor
        | Command::Runtime(_)
        | Command::Prove(_)
        | Command::Kill { .. }
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
    if status.alerts > 0 {
        print::line(&format!(
            "ALERTS     {} placeholders or known values were to be sent out",
            status.alerts
        ))?;
    }
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
        Secret::Set { tenant, name, purpose, bound } => {
            let binding = bound.binding();
            let purpose = purpose.or_else(|| binding.is_none().then(|| "model".to_owned()));
            let value = Hidden::new(read_secret()?);
            let mut body = types::SecretValue { value: value.expose().clone(), purpose, binding };
            let path = format!("tenants/{tenant}/secrets/{name}");
            let row: Result<types::SecretRow, _> = client.call(Method::PUT, &path, Some(&body)).await;
            zeroize::Zeroize::zeroize(&mut body.value);
            let row = row?;
            let seen = row.placeholder.as_ref().map(|text| format!("; its placeholder is {text}"));
            let unwatched = row.unwatched.as_ref().map(|why| format!("\nBEWARE {why}"));
            say(
                json,
                &row,
                &format!(
                    "{} is set, version {}{}{}",
                    row.name,
                    row.version,
                    seen.unwrap_or_default(),
                    unwatched.unwrap_or_default()
                ),
            )
        }
        Secret::List { tenant } => {
            let all: types::Secrets = client.fetch(&format!("tenants/{tenant}/secrets")).await?;
            let row = |secret: &types::SecretRow| {
                vec![
                    secret.name.to_string(),
                    secret.version.to_string(),
                    secret.purpose.clone(),
                    secret.binding.as_ref().map(bound_line).unwrap_or_default(),
                    moment(secret.at),
                ]
            };
            let head = ["NAME", "VERSION", "PURPOSE", "BOUND TO", "SET"];
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

/// Where a secret goes, and where its placeholder is, on one line.
fn bound_line(binding: &Binding) -> String {
    let Binding { to, spot, format, resource, env, file, kind } = binding;
    let kind = kind.as_ref().map(|kind| format!(", {kind}")).unwrap_or_default();
    let resource = resource.as_ref().map(|it| format!(" with {it}")).unwrap_or_default();
    let env = env.as_ref().map(|it| format!(", env {it}")).unwrap_or_default();
    let file = file.as_ref().map(|it| format!(", file {PLACEHOLDERS}/{it}")).unwrap_or_default();
    format!("{to}{resource} in {spot} as \"{format}\"{kind}{env}{file}")
}

/// A secret's value from standard input, one trailing newline apart.
pub(super) fn read_secret() -> Result<String, Failure> {
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
pub(super) async fn lines(
    client: &Client,
    path: &str,
    mut each: impl FnMut(&str) -> Result<(), Failure>,
) -> Done {
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

pub(super) fn query(tenant: Option<&TenantId>) -> String {
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
