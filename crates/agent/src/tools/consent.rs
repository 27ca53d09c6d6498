//! May a command run: by the knobs, the list, or a person's word.
//!
//! The cell is what keeps a command in; this is for those who want to see first what runs there. A list lets a command run if
//! every program of it is on the list, as it is found now. An answer is for the command, the directory, the programs and the
//! files they are given: if these are others when it comes, nothing runs.

use super::{
    Bench, Output,
    command::{self, Redirection, Simple},
};
use crate::{
    AGENT,
    config::consent::{Ask, Document, EXACT, Entry, Security, Source},
    gateway::{Decision, Gateway, Kind, Question},
    ids::uuid,
    store::Error,
};
use serde_json::{Value, json};
use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Component, Path, PathBuf},
    sync::Arc,
    time::Duration,
};

/// How long a person has. Upstream's.
const PATIENCE: Duration = Duration::from_mins(30);
/// The longest command that is shown to somebody.
const SHOWN: usize = 16 * 1024;
/// What is said of a command in the background.
const LATER: &str = "in the background: more can be written to it, which nobody is shown";

/// A file, and which one it is: another in its place, or a change of it, has another number, time or size.
#[derive(Debug, PartialEq, Eq)]
struct Found {
    path: PathBuf,
    /// Without links.
    real: PathBuf,
    stamp: (u64, i64, i64, u64),
}

impl Found {
    fn at(path: PathBuf) -> Option<Self> {
        let meta = fs::metadata(&path).ok().filter(fs::Metadata::is_file)?;
        let real = fs::canonicalize(&path).ok()?;
        Some(Self { path, real, stamp: (meta.ino(), meta.ctime(), meta.ctime_nsec(), meta.size()) })
    }

    /// Can no command write it, nor lead its name elsewhere?
    fn stays(&self, workspace: &Path) -> bool {
        let written = |path: &Path| {
            [Path::new("/sandbox"), Path::new("/tmp"), workspace].iter().any(|place| path.starts_with(place))
        };
        let about = self.path.components().any(|part| part == Component::ParentDir);
        !about && !written(&self.path) && !written(&self.real)
    }
}

/// A program as it is called.
#[derive(Debug, PartialEq, Eq)]
struct Program {
    simple: Simple,
    found: Option<Found>,
    /// What it is given that is a file: it may be a script.
    files: Vec<Found>,
}

impl Program {
    fn of(simple: Simple, workdir: &Path) -> Self {
        if simple.is_builtin() {
            return Self { simple, found: None, files: Vec::new() };
        }
        let found = resolved(simple.name(), workdir);
        let words = simple.words.iter().skip(1).map(|word| &*word.text);
        let reads = |it: &&Redirection| {
            matches!(it.operator.trim_start_matches(|c: char| c.is_ascii_digit()), "<" | "<>")
        };
        let all = words.chain(simple.redirections.iter().filter(reads).map(|it| &*it.target));
        let names = all.flat_map(|word| [Some(word), word.split_once('=').map(|(_, value)| value)]);
        let files = names.flatten().filter_map(|name| Found::at(workdir.join(name))).collect();
        Self { simple, found, files }
    }
}

/// What would run, as it is now.
#[derive(Debug, PartialEq, Eq)]
struct Bound {
    workdir: PathBuf,
    workspace: PathBuf,
    /// More is written to it later, which nobody saw.
    background: bool,
    /// None: what it runs is not understood.
    programs: Option<Vec<Program>>,
    why: String,
}

impl Bound {
    fn of(gateway: &Gateway, text: &str, workdir: &Path, background: bool) -> Self {
        let workspace = fs::canonicalize(&gateway.workspace).unwrap_or_else(|_| gateway.workspace.clone());
        let seen = gateway.apart(|| {
            let Ok(found) = fs::canonicalize(workdir) else {
                return (workdir.to_owned(), None, "its directory is not there".to_owned());
            };
            match command::parse(text) {
                Ok(all) => {
                    let programs = all.into_iter().map(|simple| Program::of(simple, &found)).collect();
                    (found, Some(programs), String::new())
                }
                Err(why) => (found, None, format!("not understood: {why}")),
            }
        });
        match seen {
            Ok((workdir, programs, why)) => Self { workdir, workspace, background, programs, why },
            Err(error) => {
                let why = error.to_string();
                Self { workdir: workdir.to_owned(), workspace, background, programs: None, why }
            }
        }
    }

    /// Does the list have all of it?
    fn is_listed(&self, list: &[Entry]) -> bool {
        let listed = |program: &Program| list.iter().any(|entry| self.covers(entry, program));
        !self.background && self.programs.as_ref().is_some_and(|programs| programs.iter().all(listed))
    }

    fn covers(&self, entry: &Entry, program: &Program) -> bool {
        let simple = &program.simple;
        let path = program.found.as_ref().map(|found| &*found.path);
        if path.is_none() && !simple.is_builtin() {
            return false;
        }
        if let Some(exact) = entry.arg_pattern.as_deref().and_then(|exact| exact.strip_prefix(EXACT)) {
            // A file of the agent's own that was not there when somebody said yes was seen by nobody.
            return program.files.iter().all(|file| file.stays(&self.workspace))
                && self.exact(simple).is_some_and(|own| own == exact)
                && entry.pattern == pattern(simple, path);
        }
        let named = if entry.pattern.contains(['/', '~']) {
            let pattern =
                entry.pattern.replacen('~', "/sandbox/home", usize::from(entry.pattern.starts_with("~/")));
            path.and_then(Path::to_str).is_some_and(|path| glob(pattern.as_bytes(), path.as_bytes()))
        } else {
            !simple.name().contains('/') && glob(entry.pattern.as_bytes(), simple.name().as_bytes())
        };
        let inert = simple.redirections.iter().all(Redirection::is_inert);
        let fits = match entry.arguments() {
            Ok(None) => entry.arg_pattern.is_none(),
            Ok(Some(pattern)) => {
                let words: Vec<&str> = simple.words.iter().skip(1).map(|word| &*word.text).collect();
                simple.is_whole() && pattern.is_match(&words.join(" "))
            }
            Err(_) => false,
        };
        named && inert && fits
    }

    /// What an entry says that lets exactly this run; none if a part of it is not known.
    fn exact(&self, simple: &Simple) -> Option<String> {
        let words: Vec<&str> = simple.words.iter().map(|word| &*word.text).collect();
        let more: Vec<_> = simple.redirections.iter().map(|it| (&it.operator, &it.target)).collect();
        simple.is_whole().then(|| json!([words, more, self.workdir.display().to_string()]).to_string())
    }

    /// Entries that let exactly this run; none if there are none that would. What a command may write to can be another
    /// program tomorrow, or another script.
    fn entries(&self) -> Option<Vec<Entry>> {
        let one = |Program { simple, found, files }: &Program| {
            let path = found.as_ref().map(|found| &*found.path);
            let stays = (found.is_some() || simple.is_builtin())
                && found.iter().chain(files).all(|file| file.stays(&self.workspace));
            let exact = self.exact(simple).filter(|_| stays)?;
            Some(Entry {
                id: Some(uuid()),
                pattern: pattern(simple, path),
                arg_pattern: Some(format!("{EXACT}{exact}")),
                source: Some(Source::AllowAlways),
                ..Entry::default()
            })
        };
        self.programs.as_ref().filter(|_| !self.background)?.iter().map(one).collect()
    }

    /// What a person should know beside the command.
    fn warning(&self) -> Option<String> {
        let later = self.background.then(|| LATER.to_owned());
        let parts: Vec<String> = self.of_command().into_iter().chain(later).collect();
        (!parts.is_empty()).then(|| parts.join("; "))
    }

    fn of_command(&self) -> Option<String> {
        let Some(programs) = &self.programs else { return Some(self.why.clone()) };
        let files = programs.iter().flat_map(|it| &it.simple.redirections).filter(|it| !it.is_inert());
        let files: Vec<String> = files.map(|it| format!("{} {}", it.operator, it.target)).collect();
        let names: Vec<&str> = programs.iter().map(|it| it.simple.name()).collect();
        match (names.len(), files.is_empty()) {
            (1, true) => None,
            (_, true) => Some(format!("runs: {}", names.join(", "))),
            (_, false) => Some(format!("runs: {}; redirects: {}", names.join(", "), files.join(", "))),
        }
    }
}

/// What an entry names this program by.
fn pattern(simple: &Simple, path: Option<&Path>) -> String {
    path.map_or_else(|| simple.name().to_owned(), |path| path.display().to_string())
}

/// The program that a shell would find by this name.
fn resolved(name: &str, workdir: &Path) -> Option<Found> {
    let look = |path: PathBuf| Found::at(fs::canonicalize(path.parent()?).ok()?.join(path.file_name()?));
    if name.contains('/') {
        // Through a link or round about, it is elsewhere once the link is another.
        let path = workdir.join(name);
        return look(path.clone()).filter(|found| found.path == path);
    }
    let path = std::env::var_os("PATH")?;
    let mut all = std::env::split_paths(&path);
    // One that is not absolute depends on where the command is by then.
    if std::env::split_paths(&path).any(|directory| !directory.is_absolute()) {
        return None;
    }
    all.find_map(|directory| look(directory.join(name)))
}

/// `*` and `?` within a part of a path, `**` across parts.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    match pattern {
        [] => text.is_empty(),
        [b'*', b'*', rest @ ..] => (0..=text.len()).any(|at| glob(rest, &text[at..])),
        [b'*', rest @ ..] => {
            let part = text.iter().position(|byte| *byte == b'/').unwrap_or(text.len());
            (0..=part).any(|at| glob(rest, &text[at..]))
        }
        [b'?', rest @ ..] => text.first().is_some_and(|byte| *byte != b'/') && glob(rest, &text[1..]),
        [byte, rest @ ..] => text.first() == Some(byte) && glob(rest, &text[1..]),
    }
}

/// As it is shown: what would hide or turn around what is beside it is spelled out.
pub(crate) fn plain(text: &str) -> String {
    let hides = |c: char| {
        c.is_control() && c != '\n' && c != '\t'
            || matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
    };
    text.chars().flat_map(|c| if hides(c) { c.escape_unicode().collect() } else { vec![c] }).collect()
}

/// What became of a question, if whoever asks is stopped before.
struct Asking<'a>(&'a Gateway, Arc<Question>);

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.0.lapse(&self.1, "run-aborted");
    }
}

/// The document as it is now. What cannot be read allows nothing.
pub(crate) fn document(gateway: &Gateway) -> Result<Document, String> {
    let raw = gateway.store.exec_approvals().map_err(|error: Error| error.to_string())?;
    raw.map_or_else(|| Ok(Document::default()), |raw| Document::parse(&raw))
}

/// Waits until a command may run, and says in which directory; else says why not.
pub(super) async fn consent(
    bench: &Bench<'_>,
    text: &str,
    workdir: &Path,
    background: bool,
) -> Result<PathBuf, Output> {
    let gateway = bench.gateway;
    let refused = |why: String| Output::error(format!("exec denied: {why}"));
    let document = document(gateway).map_err(refused)?;
    let (security, ask) = document.narrowed(gateway.config().tools.exec.knobs());
    match (security, ask) {
        (Security::Deny, _) => {
            return Err(refused("commands are off (tools.exec.security is deny)".to_owned()));
        }
        (Security::Full, Ask::Off | Ask::OnMiss) => return Ok(workdir.to_owned()),
        _ => {}
    }
    let bound = Bound::of(gateway, text, workdir, background);
    let list = document.rules().map(|rules| &*rules.allowlist).unwrap_or_default();
    if ask != Ask::Always {
        if bound.is_listed(list) {
            return Ok(bound.workdir);
        }
        if ask == Ask::Off {
            let why = bound.warning().map(|why| format!(" ({why})")).unwrap_or_default();
            return Err(refused(format!("it is not on the list of commands that may run{why}")));
        }
    }
    if text.len() > SHOWN {
        return Err(refused("it is too long to be shown to somebody who could approve it".to_owned()));
    }
    let entries = bound.entries().filter(|_| ask != Ask::Always);
    let allowed: Vec<_> = Decision::ALL
        .into_iter()
        .filter(|decision| *decision != Decision::AllowAlways || entries.is_some())
        .collect();
    let request = request(bench, text, &bound, (security, ask), &allowed);
    let asked = gateway.ask(Kind::Exec, None, request, allowed, PATIENCE);
    let asking = Asking(gateway, asked.map_err(|fault| refused(fault.message))?);
    let decision = asking.1.ended().await.decision;
    match decision {
        Some(Decision::AllowOnce | Decision::AllowAlways) => {}
        Some(Decision::Deny) => return Err(refused("somebody said no".to_owned())),
        None => return Err(refused("nobody approved it in time".to_owned())),
    }
    if Bound::of(gateway, text, workdir, background) != bound {
        return Err(refused("what would run now is not what was approved: ask again".to_owned()));
    }
    if let (Some(Decision::AllowAlways), Some(entries)) = (decision, entries) {
        remember(gateway, entries).map_err(refused)?;
    }
    Ok(bound.workdir)
}

fn request(
    bench: &Bench<'_>,
    text: &str,
    bound: &Bound,
    (security, ask): (Security, Ask),
    allowed: &[Decision],
) -> Value {
    let first = bound.programs.as_ref().and_then(|all| all.first()).and_then(|it| it.found.as_ref());
    json!({
        "command": plain(text), "cwd": plain(&bound.workdir.display().to_string()), "host": "gateway", "nodeId": null,
        "security": security, "ask": ask, "warningText": bound.warning().map(|text| plain(&text)),
        "allowedDecisions": allowed, "agentId": AGENT, "resolvedPath": first.map(|found| plain(&found.path.display().to_string())),
        "sessionKey": bench.run.map(|run| &run.session_key), "sessionId": bench.run.map(|run| &run.session_id),
        "runId": bench.run.map(|run| &run.id), "toolCallId": Some(bench.call).filter(|call| !call.is_empty()),
    })
}

/// Adds entries to the list of the one agent.
fn remember(gateway: &Gateway, entries: Vec<Entry>) -> Result<(), String> {
    let mut document = document(gateway)?;
    let list = &mut document.agents.entry(AGENT.to_owned()).or_default().allowlist;
    for entry in entries {
        if !list.iter().any(|it| it.pattern == entry.pattern && it.arg_pattern == entry.arg_pattern) {
            list.push(entry);
        }
    }
    let raw = serde_json::to_string(&document).map_err(|error| error.to_string())?;
    Document::parse(&raw)?;
    gateway.store.put_exec_approvals(&raw).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests;
