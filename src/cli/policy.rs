//! `cofferdam policy`: its flags, and what each verb asks the host.

use super::{
    Client, Exit, Failure,
    commands::{Done, OK, list, read_document, say},
    other, parse,
    print::{self, moment},
};
use clap::{Args, Subcommand};
use cofferdam_base::TenantId;
use cofferdam_control::api::types;
use http::Method;
use std::path::PathBuf;

#[derive(Debug, Subcommand)]
pub(crate) enum Policy {
    /// Show the policy document
    Show {
        tenant: TenantId,
        /// All that is reachable, why, since when, and when it was last used
        #[arg(long)]
        effective: bool,
    },
    /// Set the policy; in force when this returns
    Set {
        tenant: TenantId,
        /// YAML; - for standard input
        file: PathBuf,
        /// Only if this revision is the one that is kept
        #[arg(long, value_name = "N")]
        revision: Option<u64>,
    },
    /// Check a document without setting it
    Check {
        tenant: TenantId,
        /// YAML; - for standard input
        file: PathBuf,
    },
    /// What a draft would open and close
    Diff {
        tenant: TenantId,
        /// YAML; - for standard input
        file: PathBuf,
    },
    /// Which rule decides about a destination or a request, and why
    Explain(Explain),
    /// What a draft would have decided otherwise
    Simulate {
        tenant: TenantId,
        /// YAML; - for standard input
        file: PathBuf,
        /// The decisions of so many days
        #[arg(long, value_name = "N", default_value_t = 7)]
        days: u32,
    },
    /// Turn an OpenShell policy or a NemoClaw preset into a document
    ///
    /// Prints the document; its comments say of each field what became of it.
    /// Sets nothing.
    Import {
        /// YAML; - for standard input
        file: PathBuf,
    },
    /// Anything else: perhaps a command of the design that is not built yet
    #[command(external_subcommand)]
    Other(Vec<String>),
}

#[derive(Debug, Args)]
pub(crate) struct Explain {
    tenant: TenantId,
    /// https://host:port, http://…, or tcp://…; with a path: a request
    url: String,
    /// The request's method; GET if left out, POST for a tool or a call
    #[arg(long)]
    method: Option<String>,
    /// A header that the request has
    #[arg(long = "header", value_name = "NAME")]
    headers: Vec<String>,
    /// The request asks for a WebSocket
    #[arg(long)]
    websocket: bool,
    /// The request calls this MCP tool
    #[arg(long)]
    tool: Option<String>,
    /// An argument of the tool
    #[arg(long = "argument", value_name = "NAME=VALUE", requires = "tool")]
    arguments: Vec<String>,
    /// The request calls this JSON-RPC method
    #[arg(long, value_name = "METHOD", conflicts_with = "tool")]
    call: Option<String>,
    /// The request asks for this GraphQL document
    #[arg(long, value_name = "DOCUMENT", conflicts_with_all = ["tool", "call"])]
    graphql: Option<String>,
    /// The request is gRPC: https://host/package.Service/Method
    #[arg(long, conflicts_with_all = ["tool", "call", "graphql", "method"])]
    grpc: bool,
}

/// Does one of them.
pub(super) async fn run(command: Policy, client: &Client, json: bool) -> Done {
    match command {
        Policy::Show { tenant, effective: false } => {
            let policy: types::Policy = client.fetch(&format!("tenants/{tenant}/policy")).await?;
            say(json, &policy, policy.text.trim_end())
        }
        Policy::Show { tenant, effective: true } => effective(&tenant, client, json).await,
        Policy::Set { tenant, file, revision } => {
            let body = types::PolicyText { text: read_document(&file)?, expected: revision };
            let path = format!("tenants/{tenant}/policy");
            let set: types::PolicySet = client.call(Method::PUT, &path, Some(&body)).await?;
            let force = if set.in_force { "is in force" } else { "is kept, in force at the next start" };
            let later = match set.at_next_start.join(", ") {
                names if names.is_empty() => names,
                names => format!("; from the next start of the cell: {names}"),
            };
            say(json, &set, &format!("revision {} {force}{later}", set.revision))
        }
        Policy::Check { tenant, file } => {
            let body = types::PolicyText { text: read_document(&file)?, expected: None };
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
        Policy::Diff { tenant, file } => {
            let body = types::PolicyText { text: read_document(&file)?, expected: None };
            let path = format!("tenants/{tenant}/policy/diff");
            let diff: types::PolicyDiff = client.call(Method::POST, &path, Some(&body)).await?;
            say(json, &diff, &difference(&diff))
        }
        Policy::Explain(explain) => {
            let tenant = explain.tenant.clone();
            let body = explain.request()?;
            let path = format!("tenants/{tenant}/policy/explain");
            let explained: types::Explained = client.call(Method::POST, &path, Some(&body)).await?;
            say(json, &explained, explained.text.trim_end())
        }
        Policy::Simulate { tenant, file, days } => {
            simulate(&tenant, read_document(&file)?, days, client, json).await
        }
        Policy::Import { file } => import(&read_document(&file)?, json),
        Policy::Other(words) => Err(other("policy", &words)),
    }
}

async fn effective(tenant: &TenantId, client: &Client, json: bool) -> Done {
    let all: types::Effective = client.fetch(&format!("tenants/{tenant}/policy/effective")).await?;
    let row = |row: &types::EffectiveRow| {
        let until = row.until.map(moment).unwrap_or_default();
        let used = match (row.used.map(moment), row.unused) {
            (Some(used), false) => used,
            (Some(used), true) => format!("{used}: unused for 30 days"),
            (None, true) => "unused for 30 days".to_owned(),
            (None, false) => String::new(),
        };
        vec![row.verdict.clone(), row.destination.clone(), row.why.clone(), moment(row.since), until, used]
    };
    let head = ["VERDICT", "DESTINATION", "WHY", "SINCE", "UNTIL", "LAST USED"];
    list(json, &all, &head, all.rows.iter().map(row).collect(), "nothing is reachable")?;
    if !json {
        print::line(&format!("everything else: {}", all.default))?;
        for term in &all.terms {
            print::line(term)?;
        }
    }
    Ok(OK)
}

async fn simulate(tenant: &TenantId, text: String, days: u32, client: &Client, json: bool) -> Done {
    let body = types::SimulateRequest { text, days };
    let path = format!("tenants/{tenant}/policy/simulate");
    let simulated: types::Simulated = client.call(Method::POST, &path, Some(&body)).await?;
    let row = |it: &types::SimulatedChange| {
        let what = format!("{} {}", it.destination, it.request).trim_end().to_owned();
        vec![it.was.clone(), it.becomes.clone(), what, it.count.to_string(), moment(it.last), it.by.clone()]
    };
    let head = ["WAS", "BECOMES", "WHAT", "COUNT", "LAST", "BY"];
    let none = format!("nothing changes among {} decisions", simulated.replayed);
    list(json, &simulated, &head, simulated.changes.iter().map(row).collect(), &none)?;
    if simulated.unknown > 0 && !json {
        print::line(&format!(
            "{} of {} decisions cannot be replayed: what they depend on is not recorded",
            simulated.unknown, simulated.replayed
        ))?;
    }
    Ok(OK)
}

fn difference(diff: &types::PolicyDiff) -> String {
    let signed = |sign: &'static str, all: &[String]| -> Vec<String> {
        all.iter().map(|line| format!("{sign} {line}")).collect()
    };
    let mut lines = signed("+ reachable", &diff.opened);
    lines.extend(signed("- reachable", &diff.closed));
    lines.extend(signed("+", &diff.added));
    lines.extend(signed("-", &diff.removed));
    lines.extend(diff.default.iter().map(|(before, now)| format!("default: {before} becomes {now}")));
    if lines.is_empty() {
        return format!("the same as revision {}", diff.revision);
    }
    lines.join("\n")
}

impl Explain {
    fn request(self) -> Result<types::ExplainRequest, Failure> {
        let Self { tenant: _, url, method, headers, websocket, tool, arguments, call, graphql, grpc } = self;
        let wrong = |code: &'static str, why: String| Failure::new(Exit::Usage, code, why, "");
        let from = url.find("://").map_or(0, |at| at + 3);
        let split = url[from..].find(['/', '?']).map_or(url.len(), |at| from + at);
        let (place, target) = url.split_at(split);
        let destination = parse::destination(place).map_err(|why| wrong("bad_destination", why))?;
        let body = match (tool, call) {
            (Some(tool), _) => {
                let pairs = arguments.iter().map(|pair| pair.split_once('='));
                let pairs: Option<serde_json::Map<_, _>> =
                    pairs.map(|pair| pair.map(|(name, value)| (name.to_owned(), value.into()))).collect();
                let arguments =
                    pairs.ok_or_else(|| wrong("bad_argument", "an argument is NAME=VALUE".to_owned()))?;
                let params = serde_json::json!({ "name": tool, "arguments": arguments });
                Some(
                    serde_json::json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params }),
                )
            }
            (None, Some(call)) => Some(serde_json::json!({ "jsonrpc": "2.0", "id": 1, "method": call })),
            (None, None) => graphql.map(|query| serde_json::json!({ "query": query })),
        };
        let posted = body.is_some() || grpc;
        let is_request = target.len() > 1 || method.is_some() || posted || websocket || !headers.is_empty();
        let request = is_request.then(|| types::ExplainedRequest {
            method: method.unwrap_or_else(|| if posted { "POST" } else { "GET" }.to_owned()),
            target: if target.starts_with('/') { target.to_owned() } else { format!("/{target}") },
            headers,
            websocket,
            grpc,
            body: body.map(|body| body.to_string()),
        });
        Ok(types::ExplainRequest { destination, text: None, request })
    }
}

fn import(text: &str, json: bool) -> Done {
    let refused =
        |error: cofferdam_policy::Error| Failure::new(Exit::Refused, "not_imported", error.to_string(), "");
    let imported = cofferdam_policy::import::import(text).map_err(refused)?;
    say(json, &imported, imported.document.trim_end())
}
