//! Conversations: where upstream keeps them, which it knows by which key, and how each runtime gets them.
//!
//! Releases of this year keep them in an agent's database, older ones in a file each with an index beside them; both
//! are read. Of several agents only `main` has a place here.

use crate::{
    Error, Runtime,
    bundle::Conversation,
    database::{Database, Window},
    home::{Entry, Home},
    reader::Sink,
    report::Report,
    secrets::Secrets,
    transcript::{Transcript, moment},
};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, HashSet};

/// The agent whose conversations are carried.
pub(crate) const AGENT: &str = "main";
/// Upstream's database of that agent.
pub(crate) const DATABASE: &str = "agents/main/agent/openclaw-agent.sqlite";
const FILES: &str = "agents/main/sessions";
/// The largest file of a conversation.
const LARGEST: u64 = 64 << 20;
/// The longest key.
const LONGEST_KEY: usize = 256;

/// A conversation before it is read.
struct Source {
    key: String,
    id: String,
    label: Option<String>,
    created: u64,
    updated: u64,
    /// The file that it is in; none: the database.
    file: Option<String>,
}

/// Reads all conversations into the sink and counts them.
pub(crate) fn carry(
    home: &Home,
    database: Option<&Database>,
    runtime: Runtime,
    secrets: &Secrets,
    report: &mut Report,
    sink: &mut dyn Sink,
) -> Result<(), Error> {
    let mut sources = Vec::new();
    if let Some(database) = database {
        match database.windows() {
            Ok(windows) => sources.extend(windows.into_iter().map(of_window)),
            Err(error) => report.leave(DATABASE, format!("a database of another release: {error}"), None),
        }
    }
    files(home, &mut sources, report)?;
    let (mut index, mut seen) = (Map::new(), HashSet::new());
    for mut source in sources {
        if let Some((label, _)) = source.label.as_ref().and_then(|label| secrets.blank(label)) {
            source.label = Some(label);
        }
        let at = source.file.clone().unwrap_or_else(|| format!("{DATABASE}: session {}", source.id));
        if let Some(why) = unfit(&source, secrets, &mut seen) {
            report.leave(&at, why, None);
            continue;
        }
        let transcript = match transcript(home, database, &source, secrets) {
            Ok(transcript) => transcript,
            Err(why) => {
                report.leave(&at, why, None);
                continue;
            }
        };
        told(&transcript, &at, report);
        let (said, unreadable) = transcript.said();
        if unreadable > 0 {
            report.leave(
                &at,
                format!("{unreadable} messages of a kind that cannot be shown"),
                Some(unreadable),
            );
        }
        let bytes = said.iter().map(|said| said.body.to_string().len() as u64).sum();
        report.carry("sessions", place(runtime), 1, Some(said.len() as u64), bytes);
        match runtime {
            Runtime::Native => {
                let Source { key, id, label, created, updated, file: _ } = source;
                let created = said.first().map_or(created, |first| first.at);
                sink.session(&Conversation { key, id, created, updated, label })?;
                said.iter().try_for_each(|said| sink.message(said))?;
            }
            Runtime::Openclaw => {
                let name = format!("{}.jsonl", source.id);
                index.insert(source.key.clone(), entry(&source, &name));
                let path = format!(".openclaw/{FILES}/{name}");
                sink.file(&path, false, lines(&transcript, &source).as_bytes())?;
            }
        }
    }
    if runtime == Runtime::Openclaw && !index.is_empty() {
        let index = Value::Object(index).to_string();
        sink.file(&format!(".openclaw/{FILES}/sessions.json"), false, index.as_bytes())?;
    }
    Ok(())
}

/// Where conversations go.
fn place(runtime: Runtime) -> &'static str {
    match runtime {
        Runtime::Native => "the gateway's own state, with their keys",
        Runtime::Openclaw => "/sandbox/.openclaw, which upstream takes over at its start",
    }
}

fn of_window(window: Window) -> Source {
    let Window { key, id, current, label, created, updated } = window;
    let (key, label) = if current { (full(&key), label) } else { earlier(&id, &key) };
    Source { key, id, label, created, updated, file: None }
}

/// What a reset has ended is a conversation of its own: a key means one at a time.
fn earlier(id: &str, key: &str) -> (String, Option<String>) {
    (format!("agent:{AGENT}:dashboard:{id}"), Some(format!("earlier: {key}")))
}

/// Upstream's own rule for keys that name no agent.
fn full(key: &str) -> String {
    if key.starts_with("agent:") { key.to_owned() } else { format!("agent:{AGENT}:{key}") }
}

/// The files of conversations and their index. A file that the index does not name was ended by a reset.
fn files(home: &Home, sources: &mut Vec<Source>, report: &mut Report) -> Result<(), Error> {
    if !home.has(FILES) {
        return Ok(());
    }
    let index = match home.read(&format!("{FILES}/sessions.json"), LARGEST) {
        Ok(text) => serde_json::from_slice::<Map<String, Value>>(&text).unwrap_or_else(|_| {
            report.leave(
                &format!("{FILES}/sessions.json"),
                "it cannot be read: conversations lose their keys",
                None,
            );
            Map::new()
        }),
        Err(_) => Map::new(),
    };
    let by_id: BTreeMap<&str, (&String, &Value)> =
        index.iter().filter_map(|row| Some((row.1["sessionId"].as_str()?, row))).collect();
    let known: HashSet<String> = sources.iter().map(|source| source.id.clone()).collect();
    for found in home.below(FILES, |_| None)? {
        let file = match found {
            Entry::File(file) => file,
            Entry::Other(path, why) => {
                report.leave(&path, why, None);
                continue;
            }
        };
        let name = file.path.strip_prefix(FILES).and_then(|name| name.strip_prefix('/')).unwrap_or_default();
        if name == "sessions.json" {
            continue;
        }
        let Some(id) = name.strip_suffix(".jsonl").filter(|id| !known.contains(*id)) else {
            report.leave(&file.path, "no conversation, or one that is carried already", None);
            continue;
        };
        let (key, label, updated) = if let Some((key, row)) = by_id.get(id) {
            let label = row["label"].as_str().or(row["displayName"].as_str());
            (full(key), label.map(str::to_owned), row["updatedAt"].as_u64().unwrap_or_default())
        } else {
            report.change(&file.path, "no key names it: it is a conversation of its own");
            (earlier(id, "").0, None, 0)
        };
        sources.push(Source { key, id: id.to_owned(), label, created: 0, updated, file: Some(file.path) });
    }
    for (id, (key, _)) in by_id {
        if !sources.iter().any(|source| source.id == id) {
            report.leave(&format!("{FILES}/sessions.json: {key}"), "its transcript is not there", None);
        }
    }
    Ok(())
}

/// Why a conversation has no place here.
fn unfit(source: &Source, secrets: &Secrets, seen: &mut HashSet<String>) -> Option<&'static str> {
    let Source { key, id, .. } = source;
    let plain =
        |text: &str| text.len() <= LONGEST_KEY && !text.is_empty() && !text.chars().any(char::is_control);
    let name = id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    let hides = |text: &str| secrets.first_in(text.as_bytes()).is_some();
    if !plain(key) || !plain(id) || !name || hides(key) || hides(id) {
        Some("its key or id is none")
    } else if !key.starts_with(&format!("agent:{AGENT}:")) {
        Some("of another agent: a tenant has one, main")
    } else if !seen.insert(key.clone()) || !seen.insert(format!("id {id}")) {
        Some("another conversation has its key")
    } else {
        None
    }
}

fn transcript(
    home: &Home,
    database: Option<&Database>,
    source: &Source,
    secrets: &Secrets,
) -> Result<Transcript, String> {
    match (&source.file, database) {
        (Some(file), _) => {
            let bytes = home.read(file, LARGEST)?;
            Ok(Transcript::read(bytes.split(|byte| *byte == b'\n').map(Some), secrets))
        }
        (None, Some(database)) => {
            let events = database.events(&source.id)?;
            Ok(Transcript::read(events.iter().map(|event| event.as_deref()), secrets))
        }
        (None, None) => Err("it is not there".to_owned()),
    }
}

/// What of a transcript is another, or stays.
fn told(transcript: &Transcript, at: &str, report: &mut Report) {
    if transcript.broken_count > 0 {
        let lines: Vec<String> = transcript.broken.iter().map(ToString::to_string).collect();
        let more = if transcript.broken_count > lines.len() as u64 { ", …" } else { "" };
        let why =
            format!("{} lines that cannot be read: {}{more}", transcript.broken_count, lines.join(", "));
        report.leave(at, why, Some(transcript.broken_count));
    }
    let given_up = transcript.given_up();
    if given_up > 0 {
        report.leave(at, format!("{given_up} messages that were given up for others"), Some(given_up));
    }
    for (kind, count) in &transcript.blanked {
        report.change(at, format!("blanked {count} times: {kind}"));
        report.warn(format!("{at} holds {kind}: give the service a new one"));
    }
}

/// The row of upstream's index.
fn entry(source: &Source, name: &str) -> Value {
    let mut entry = json!({ "sessionId": source.id, "updatedAt": source.updated, "sessionFile": name });
    if let Some(label) = &source.label {
        entry["label"] = label.chars().take(80).collect::<String>().into();
    }
    entry
}

/// The transcript as upstream reads it, with a head of its own if it lost it.
fn lines(transcript: &Transcript, source: &Source) -> String {
    let headed = transcript.entries.first().is_some_and(|entry| entry["type"] == "session");
    let head = json!({ "type": "session", "version": 3, "id": source.id, "timestamp": "1970-01-01T00:00:00.000Z",
        "cwd": "/sandbox/workspace" });
    let mut text = if headed { String::new() } else { format!("{head}\n") };
    for entry in &transcript.entries {
        if entry["type"] == "session" {
            let mut entry = entry.clone();
            entry["cwd"] = "/sandbox/workspace".into();
            entry["id"] = source.id.clone().into();
            if entry["timestamp"].as_str().and_then(moment).is_none() {
                entry["timestamp"] = head["timestamp"].clone();
            }
            text.push_str(&entry.to_string());
        } else {
            text.push_str(&entry.to_string());
        }
        text.push('\n');
    }
    text
}
