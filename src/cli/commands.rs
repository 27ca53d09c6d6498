//! The commands that are one request to a running host.

use super::{
    Client, Exit, Failure, exec,
    flags::{Approvals, Command, Ledger, Limits, Model, Policy, Secret, Span, Tenant, Token},
    parse,
    print::{self, moment},
};
use cofferdam_base::{Secret as Hidden, TenantId, ipc::receipt::LayerState};
use cofferdam_control::api::types;
use http::Method;
use serde::{Serialize, de::DeserializeOwned};
use std::{
    io::{IsTerminal, Read, Write},
    path::Path,
    process::ExitCode,
};

type Done = Result<ExitCode, Failure>;
const OK: ExitCode = ExitCode::SUCCESS;

/// Does one command.
pub(super) async fn run(command: Command, client: &Client, json: bool) -> Done {
    match command {
        Command::Status => status(client, json).await,
        Command::Tenant(command) => tenant(command, client, json).await,
        Command::Token(command) => token(command, client, json).await,
        Command::Secret(command) => secret(command, client, json).await,
        Command::Model(command) => model(command, client, json).await,
        Command::Policy(command) => policy(command, client, json).await,
        Command::Approvals(command) => approvals(command, client, json).await,
        Command::Usage { tenant } => usage(tenant.as_ref(), client, json).await,
        Command::Ledger(command) => ledger(command, client, json).await,
        Command::Demo { .. }
        | Command::Init
        | Command::Serve
        | Command::Doctor
        | Command::Runtime(_)
        | Command::Other(_) => Err(Failure::could_not("this command needs no host")),
    }
}

/// Reports on this machine; needs no host. Exit 0 fine, 2 degraded, 3 cannot run.
pub(super) fn doctor(json: bool) -> Done {
    let features = cofferdam_sandbox::host_features();
    if json {
        print::json(&features)?;
    } else {
        let rows = features
            .iter()
            .map(|feature| {
                let state = match feature.state {
                    LayerState::Enforced => "ok",
                    LayerState::Partial => "partial",
                    LayerState::Absent => "absent",
                };
                vec![feature.name.clone(), state.to_owned(), feature.buys.clone(), feature.mend.clone()]
            })
            .collect();
        print::table(&["FEATURE", "STATE", "WHAT IT BUYS", "MEND"], rows, "nothing to report")?;
    }
    let worst = |state| features.iter().any(|feature| feature.state == state);
    let needed = features.iter().any(|feature| feature.required && feature.state == LayerState::Absent);
    Ok(match (needed, worst(LayerState::Absent) || worst(LayerState::Partial)) {
        (true, _) => ExitCode::from(3),
        (false, true) => ExitCode::from(2),
        (false, false) => OK,
    })
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
    for degradation in &status.degradations {
        print::line(&format!("degraded   {degradation}"))?;
    }
    Ok(OK)
}

async fn tenant(command: Tenant, client: &Client, json: bool) -> Done {
    match command {
        Tenant::Create { id, runtime, start, limits } => {
            let Limits { memory, tmp, pids, cpu, files } = limits;
            let limits = types::WantedLimits {
                memory_bytes: memory,
                tmp_bytes: tmp,
                pids,
                cpu_percent: cpu,
                open_files: files,
            };
            let new = types::NewTenant { id, runtime, limits: Some(limits), start, wait: start };
            show(&client.call(Method::POST, "tenants", Some(&new)).await?, json)
        }
        Tenant::List => {
            let all: types::Tenants = client.fetch("tenants").await?;
            if json {
                print::json(&all)?;
                return Ok(OK);
            }
            let row = |tenant: &types::Tenant| {
                let why = tenant.failure.as_ref().map(|failure| failure.message.clone()).unwrap_or_default();
                vec![
                    tenant.id.to_string(),
                    tenant.state.clone(),
                    sealed(tenant).to_owned(),
                    short_runtime(&tenant.runtime),
                    tenant.address.clone(),
                    why,
                ]
            };
            let rows = all.tenants.iter().map(row).collect();
            let head = ["TENANT", "STATE", "SEAL", "RUNTIME", "ADDRESS", ""];
            print::table(&head, rows, "no tenants; make one with: cofferdam tenant create ID")?;
            Ok(OK)
        }
        Tenant::Show { id } => show(&client.fetch(&format!("tenants/{id}")).await?, json),
        Tenant::Start { id } => verb(client, &id, "start", json).await,
        Tenant::Stop { id } => verb(client, &id, "stop", json).await,
        Tenant::Restart { id } => verb(client, &id, "restart", json).await,
        Tenant::Delete { id, yes } => {
            if !yes {
                let mend = format!("cofferdam tenant delete {id} --yes");
                let message = format!("deleting {id} removes its cell, its files and its secrets for good");
                return Err(Failure::new(Exit::Usage, "not_confirmed", message, mend));
            }
            let _: types::Empty = client.call(Method::DELETE, &format!("tenants/{id}"), None::<&()>).await?;
            say(json, &types::Empty {}, &format!("{id} is deleted"))
        }
        Tenant::Logs { id, follow, raw } => {
            let path = format!("tenants/{id}/logs?follow={follow}&raw={raw}");
            client.stream(&path, |chunk| Ok(std::io::stdout().lock().write_all(chunk)?)).await?;
            Ok(OK)
        }
        Tenant::Exec { id, raw, tty, argv } => exec::run(client, &id, argv, tty, raw).await,
    }
}

async fn verb(client: &Client, id: &TenantId, verb: &str, json: bool) -> Done {
    let wait = types::Wait { wait: true };
    show(&client.call(Method::POST, &format!("tenants/{id}/{verb}"), Some(&wait)).await?, json)
}

fn show(tenant: &types::Tenant, json: bool) -> Done {
    if json {
        print::json(tenant)?;
        return Ok(OK);
    }
    let in_force = match tenant.policy_in_force {
        Some(revision) if revision == tenant.policy_revision => "in force".to_owned(),
        Some(revision) => format!("not in force, {revision} is"),
        None => "not in force, no warden runs".to_owned(),
    };
    print::line(&format!(
        "tenant     {} (slot {}), made {}",
        tenant.id,
        tenant.slot,
        moment(tenant.created)
    ))?;
    print::line(&format!(
        "state      {}, wanted {}, start {}",
        tenant.state, tenant.desired, tenant.generation
    ))?;
    print::line(&format!("runtime    {}", tenant.runtime))?;
    print::line(&format!("origin     {}", tenant.origin))?;
    print::line(&format!("address    {}", tenant.address))?;
    print::line(&format!("policy     revision {}, {in_force}", tenant.policy_revision))?;
    let limits = tenant.limits;
    print::line(&format!(
        "limits     {} MiB memory, {} processes, {} % of a core, {} MiB /tmp, {} open files",
        limits.memory_bytes >> 20,
        limits.pids,
        limits.cpu_percent,
        limits.tmp_bytes >> 20,
        limits.open_files
    ))?;
    print::line(&format!("warden     {}", if tenant.warden { "connected" } else { "none" }))?;
    if let Some(failure) = &tenant.failure {
        print::line(&format!("failure    {}", failure.message))?;
        if !failure.mend.is_empty() {
            print::line(&format!("  mend     {}", failure.mend))?;
        }
    }
    if let Some(receipt) = &tenant.receipt {
        print::line(&format!("seal       {}", sealed(tenant)))?;
        for row in &receipt.layers {
            let state = match row.state {
                LayerState::Enforced => "enforced",
                LayerState::Partial => "PARTIAL",
                LayerState::Absent => "ABSENT",
            };
            print::line(format!("  {:<22} {state:<9} {}", row.layer, row.detail).trim_end())?;
        }
    }
    Ok(OK)
}

/// The seal of a tenant's cell in one word.
fn sealed(tenant: &types::Tenant) -> &'static str {
    match &tenant.receipt {
        None => "-",
        Some(receipt) if receipt.layers.iter().all(|row| row.state == LayerState::Enforced) => "sealed",
        Some(_) => "degraded",
    }
}

/// A lock's digest is too long for a table.
fn short_runtime(runtime: &str) -> String {
    runtime.chars().take(20).collect()
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

async fn policy(command: Policy, client: &Client, json: bool) -> Done {
    match command {
        Policy::Show { tenant, effective: false } => {
            let policy: types::Policy = client.fetch(&format!("tenants/{tenant}/policy")).await?;
            say(json, &policy, policy.text.trim_end())
        }
        Policy::Show { tenant, effective: true } => {
            let all: types::Effective = client.fetch(&format!("tenants/{tenant}/policy/effective")).await?;
            let row = |row: &types::EffectiveRow| {
                let until = row.until.map(moment).unwrap_or_default();
                vec![row.verdict.clone(), row.destination.clone(), row.why.clone(), moment(row.since), until]
            };
            let head = ["VERDICT", "DESTINATION", "WHY", "SINCE", "UNTIL"];
            list(json, &all, &head, all.rows.iter().map(row).collect(), "nothing is reachable")?;
            if !json {
                print::line(&format!("everything else: {}", all.default))?;
            }
            Ok(OK)
        }
        Policy::Set { tenant, file } => {
            let body = types::PolicyText { text: read_document(&file)? };
            let path = format!("tenants/{tenant}/policy");
            let set: types::PolicySet = client.call(Method::PUT, &path, Some(&body)).await?;
            let force = if set.in_force { "is in force" } else { "is kept, in force at the next start" };
            say(json, &set, &format!("revision {} {force}", set.revision))
        }
        Policy::Check { tenant, file } => {
            let body = types::PolicyText { text: read_document(&file)? };
            let path = format!("tenants/{tenant}/policy/check");
            let checked: types::PolicyChecked = client.call(Method::POST, &path, Some(&body)).await?;
            say(json, &checked, &format!("{} rules, no error", checked.rules))?;
            if !json {
                for warning in &checked.warnings {
                    print::line(&format!("warning: {warning}"))?;
                }
            }
            Ok(OK)
        }
        Policy::Explain { tenant, destination } => {
            let destination = parse::destination(&destination)
                .map_err(|why| Failure::new(Exit::Usage, "bad_destination", why, ""))?;
            let body = types::ExplainRequest { destination, text: None };
            let path = format!("tenants/{tenant}/policy/explain");
            let explained: types::Explained = client.call(Method::POST, &path, Some(&body)).await?;
            say(json, &explained, explained.text.trim_end())
        }
    }
}

/// A document from a file or, for `-`, standard input; a little more than the host accepts is read.
fn read_document(file: &Path) -> Result<String, Failure> {
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

fn say(json: bool, value: &impl Serialize, text: &str) -> Done {
    if json {
        print::json(value)?;
    } else {
        print::line(text)?;
    }
    Ok(OK)
}

fn list<T: Serialize + DeserializeOwned>(
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
