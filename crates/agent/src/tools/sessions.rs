//! `sessions_list`, `sessions_history` and `sessions_send`: the tenant's other conversations.

use super::{About, Bench, Output, cut, later, now};
use crate::{calls::key_of, protocol::params::Queue, store::Message, text::untrusted, turn::Wish};
use serde::Deserialize;
use std::{fmt::Write as _, time::Duration};

pub(super) const TOOLS: [About; 3] = [
    About {
        name: "sessions_list",
        group: "sessions",
        label: "List sessions",
        description: "List the newest sessions.",
        parameters: r#"{"type":"object","properties":{"limit":{"type":"integer"}}}"#,
        parallel: true,
        run: |bench, arguments| now(bench, arguments, list),
    },
    About {
        name: "sessions_history",
        group: "sessions",
        label: "Read a session",
        description: "Read the last messages of another session.",
        parameters: r#"{"type":"object","properties":{"sessionKey":{"type":"string"},"limit":{"type":"integer"}},"required":["sessionKey"]}"#,
        parallel: true,
        run: |bench, arguments| now(bench, arguments, history),
    },
    About {
        name: "sessions_send",
        group: "sessions",
        label: "Ask a session",
        description: "Send a message to another session and wait for its answer.",
        parameters: r#"{"type":"object","properties":{"sessionKey":{"type":"string"},"message":{"type":"string"},"timeoutSeconds":{"type":"integer"}},"required":["sessionKey","message"]}"#,
        parallel: false,
        run: |bench, arguments| later(arguments, async |asked| send(bench, &asked).await),
    },
];

/// How long one waits for another session, and how long it may be asked to, in seconds.
const USUAL: u64 = 60;
const LONGEST: u64 = 600;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    #[serde(default)]
    limit: Option<u32>,
}

fn list(bench: &Bench<'_>, asked: &List) -> Output {
    match bench.gateway.store.recent(asked.limit.unwrap_or(20).clamp(1, 200)) {
        Ok(sessions) => {
            let mut text = String::new();
            for session in sessions {
                let label = session.label.as_deref().unwrap_or("no label");
                let runs = if bench.gateway.running(&session.key).is_some() { ", runs" } else { "" };
                let _ = writeln!(text, "{} ({label}{runs})", session.key);
            }
            Output::ok(cut(text))
        }
        Err(error) => Output::error(error.to_string()),
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct History {
    session_key: String,
    #[serde(default)]
    limit: Option<u32>,
}

fn history(bench: &Bench<'_>, asked: &History) -> Output {
    let store = &bench.gateway.store;
    let key = match key_of(&asked.session_key) {
        Ok(key) => key,
        Err(fault) => return Output::error(fault.message),
    };
    let session = match store.session(&key) {
        Ok(Some(session)) => session,
        Ok(None) => return Output::error(format!("there is no session {key}: use sessions_list")),
        Err(error) => return Output::error(error.to_string()),
    };
    match store.messages(&session.id, asked.limit.unwrap_or(20).clamp(1, 200), 0) {
        Ok(messages) => {
            let line = |it: &Message| format!("{}: {}", it.role.as_str(), it.said());
            Output::ok(cut(messages.iter().map(line).collect::<Vec<_>>().join("\n")))
        }
        Err(error) => Output::error(error.to_string()),
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Send {
    session_key: String,
    message: String,
    #[serde(default)]
    timeout_seconds: Option<u64>,
}

async fn send(bench: &Bench<'_>, asked: &Send) -> Output {
    let key = match key_of(&asked.session_key) {
        Ok(key) => key,
        Err(fault) => return Output::error(fault.message),
    };
    if bench.run.is_some_and(|run| run.session_key == key) {
        return Output::error("that is this session: say it yourself");
    }
    match bench.gateway.store.session(&key) {
        Ok(Some(_)) => {}
        Ok(None) => return Output::error(format!("there is no session {key}: use sessions_list")),
        Err(error) => return Output::error(error.to_string()),
    }
    // The model's word, not a person's: a slash at its beginning means nothing.
    let wish = Wish { plain: true, ..Wish::default() };
    let message = untrusted(&format!("the session {}", from(bench)), &asked.message);
    let sent = bench.gateway.send(&key, &crate::ids::uuid(), &message, Queue::Followup, wish);
    let active = match sent {
        Ok((active, _)) => active,
        Err(fault) => return Output::error(fault.message),
    };
    let patience = Duration::from_secs(asked.timeout_seconds.unwrap_or(USUAL).min(LONGEST));
    match tokio::time::timeout(patience, active.ended()).await {
        Ok(run) => match (run.said, run.error) {
            (Some(said), _) => Output::ok(cut(said)),
            (None, error) => Output::error(error.unwrap_or_else(|| "it said nothing".to_owned())),
        },
        Err(_) => Output::ok(format!("it goes on in {key}: read it later with sessions_history")),
    }
}

fn from<'a>(bench: &'a Bench<'_>) -> &'a str {
    bench.run.map_or("of a client", |run| &run.session_key)
}
