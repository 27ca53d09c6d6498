//! The process that reads the home: what is carried, changed and left, and the stream of it.
//!
//! It reads twice, so that the stream begins with what is in it; a home that changed meanwhile is refused.

use crate::{
    Error, Report, Runtime,
    bundle::{self, Conversation, FileHead, Kind, PIECE, Said},
    config,
    database::Database,
    home::{Entry, Found, Home},
    io, left,
    report::{printable, shown},
    secrets::Secrets,
    sessions, sign_ins, transcript,
};
use cofferdam_agent::config as settings;
use rustix::thread::{CapabilitySet, CapabilitySets};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    io::{BufWriter, Write},
    os::fd::{AsFd, BorrowedFd},
    process::ExitCode,
};

/// What the reader is told, as JSON in its first argument.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wanted {
    /// For whom, in the commands that are named.
    pub tenant: String,
    /// Into which layout.
    pub runtime: Runtime,
    /// Is the stream wanted, or its report alone?
    pub carry: bool,
}

/// Where what is carried goes.
pub(crate) trait Sink {
    fn file(&mut self, path: &str, runs: bool, content: &[u8]) -> Result<(), Error>;
    fn session(&mut self, conversation: &Conversation) -> Result<(), Error>;
    fn message(&mut self, said: &Said) -> Result<(), Error>;
}

/// The native gateway's configuration, below `/sandbox`.
pub(crate) const SETTINGS: &str = ".cofferdam/config.json";

/// For the report alone.
struct Nowhere;

impl Sink for Nowhere {
    fn file(&mut self, _: &str, _: bool, _: &[u8]) -> Result<(), Error> {
        Ok(())
    }

    fn session(&mut self, _: &Conversation) -> Result<(), Error> {
        Ok(())
    }

    fn message(&mut self, _: &Said) -> Result<(), Error> {
        Ok(())
    }
}

impl<W: Write> Sink for BufWriter<W> {
    fn file(&mut self, path: &str, runs: bool, content: &[u8]) -> Result<(), Error> {
        let head = FileHead { path: path.to_owned(), size: content.len() as u64, runs };
        bundle::write_json(self, Kind::File, &head)?;
        content.chunks(PIECE).try_for_each(|piece| bundle::write(self, Kind::Data, piece))
    }

    fn session(&mut self, conversation: &Conversation) -> Result<(), Error> {
        bundle::write_json(self, Kind::Session, conversation)
    }

    fn message(&mut self, said: &Said) -> Result<(), Error> {
        bundle::write_json(self, Kind::Message, said)
    }
}

/// The entry of the reader: `__read-home WANTED`, with the home's directory as its standard input.
pub fn reader_main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}", printable(&error.to_string()));
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Error> {
    let wanted = std::env::args().nth(2).unwrap_or_default();
    let wanted: Wanted = serde_json::from_str(&wanted).map_err(|why| Error::Stream(why.to_string()))?;
    // The command line opened it, and nothing is looked up by its path again.
    let directory = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3);
    let directory = directory.map_err(|why| Error::NoHome(format!("the home was not handed over: {why}")))?;
    confine(directory.as_fd())?;
    let mut out = BufWriter::new(std::io::stdout().lock());
    stream(&wanted, &Home::new(directory), &mut out)?;
    out.flush().map_err(io("the stream"))
}

/// Nobody of the host.
const NOBODY: u32 = 65534;

/// Becomes the home's owner, so that nothing is read that they could not read, and then nothing but a reader of it.
fn confine(home: BorrowedFd<'_>) -> Result<(), Error> {
    let owner = rustix::fs::fstat(home).map_err(|why| io("the home")(why.into()))?;
    if rustix::process::geteuid().is_root() {
        let become_owner = || match owner.st_uid {
            0 => become_reader(),
            uid => cofferdam_sys::process::become_user(uid, owner.st_gid, true),
        };
        become_owner().map_err(io("becoming the home's owner"))?;
    }
    // Who it is for may be gone; to become somebody else would take this back.
    cofferdam_sys::process::die_with_parent().map_err(io("the reader"))?;
    cofferdam_sandbox::confine::reader(home).map_err(|why| Error::Confine(why.to_string()))
}

/// In the place of root: nobody, with one thing of root's, to read whatever the modes of files say. What can be read at
/// all the domain says.
fn become_reader() -> std::io::Result<()> {
    let only = CapabilitySet::DAC_READ_SEARCH;
    rustix::thread::set_keep_capabilities(true)?;
    cofferdam_sys::process::become_user(NOBODY, NOBODY, true)?;
    rustix::thread::set_keep_capabilities(false)?;
    let sets = CapabilitySets { effective: only, permitted: only, inheritable: CapabilitySet::empty() };
    Ok(rustix::thread::set_capabilities(None, sets)?)
}

/// Reads the home and writes its stream.
pub(crate) fn stream<W: Write>(wanted: &Wanted, home: &Home, out: &mut BufWriter<W>) -> Result<(), Error> {
    let report = read(wanted, home, &mut Nowhere)?;
    bundle::write_json(out, Kind::Report, &report)?;
    if !wanted.carry {
        return Ok(());
    }
    if read(wanted, home, out)? != report {
        return Err(Error::Moved);
    }
    bundle::write(out, Kind::End, &[])
}

/// Reads the home into the sink.
pub(crate) fn read(wanted: &Wanted, home: &Home, sink: &mut dyn Sink) -> Result<Report, Error> {
    let (mut report, mut secrets) = (Report::default(), Secrets::default());
    // Without it nobody knows which values are secrets, and which workspace is meant.
    let document =
        document(home).map_err(|why| Error::NoHome(format!("openclaw.json cannot be read: {why}")))?;
    let reader = config::Reader { tenant: &wanted.tenant, runtime: wanted.runtime };
    let places = reader.read(&document, &mut secrets, &mut report);
    let database = database(home, &mut report)?;
    credentials(home, database.as_ref(), wanted, &mut secrets, &mut report)?;

    let mut carrier = Carrier { home, secrets: &secrets, report: &mut report, sink };
    let workspace = workspace(home, places.workspace.as_deref(), carrier.report);
    if let Some(workspace) = &workspace {
        carrier.tree(workspace, "workspace", "workspace")?;
    }
    match wanted.runtime {
        Runtime::Native => carrier.skills(workspace.as_deref())?,
        Runtime::Openclaw => {
            carrier.tree("skills", ".openclaw/skills", "skills")?;
            carrier.tree("media", ".openclaw/media", "media")?;
        }
    }
    if let Some(settings) = &places.settings {
        carrier.settings(settings)?;
    }
    sessions::carry(home, database.as_ref(), wanted.runtime, &secrets, &mut report, sink)?;
    rest(home, workspace.as_deref(), wanted.runtime, &mut report)?;
    Ok(purged(report, &secrets))
}

fn document(home: &Home) -> Result<Value, String> {
    let text = String::from_utf8(home.read("openclaw.json", settings::LONGEST as u64)?);
    let text = text.map_err(|_| "it is no text".to_owned())?;
    // What a parser says of a text may have a piece of it.
    settings::read(&text)
        .map_err(|error| Secrets::default().blank(&error.to_string()).map_or(error.to_string(), |it| it.0))
}

fn database(home: &Home, report: &mut Report) -> Result<Option<Database>, Error> {
    let database = Database::open(home, sessions::DATABASE)?;
    if database.is_some() {
        let why = "all but its conversations: it is made anew from them and the memory's files";
        report.leave(sessions::DATABASE, why, None);
    }
    Ok(database)
}

/// The credentials of providers that people signed in to, by profile, and of channels.
fn credentials(
    home: &Home,
    database: Option<&Database>,
    wanted: &Wanted,
    secrets: &mut Secrets,
    report: &mut Report,
) -> Result<(), Error> {
    for sign_ins::Profile { path, name } in sign_ins::read(home, database, secrets)? {
        let provider = name.split(':').next().unwrap_or_default();
        let variable = config::variable(&format!("{provider}_API_KEY"));
        let command = format!("cofferdam secret set {} {variable} < FILE", wanted.tenant);
        report.ask(
            &format!("{path}: {name}"),
            command,
            "a provider's key, or a new one for what was signed in to",
        );
    }
    if !home.exists("credentials") {
        return Ok(());
    }
    for entry in home.below("credentials", |_| None)? {
        if let Entry::File(Found { path, .. }) = entry {
            let command = format!(
                "cofferdam secret set {} NAME --bind HOST --in header:authorization < FILE",
                wanted.tenant
            );
            report.ask(&path, command, "if the channel has a token; pairings are made anew");
        }
    }
    Ok(())
}

/// Where the workspace is below the home: as the configuration says, if that is below it, else where upstream has it.
fn workspace(home: &Home, said: Option<&str>, report: &mut Report) -> Option<String> {
    let below =
        said.and_then(|path| path.split_once("/.openclaw/")).map(|(_, below)| below.trim_end_matches('/'));
    let found = below.into_iter().chain(["workspace"]).find(|path| !path.is_empty() && home.has(path));
    if let (Some(said), None) = (said, below) {
        report.leave(
            said,
            "the workspace is outside of the home: move it to its workspace/, then import",
            None,
        );
    }
    found.map(str::to_owned)
}

/// Carries files.
struct Carrier<'a> {
    home: &'a Home,
    secrets: &'a Secrets,
    report: &'a mut Report,
    sink: &'a mut dyn Sink,
}

impl Carrier<'_> {
    /// Everything below a directory of the home, to another below `/sandbox`.
    fn tree(&mut self, from: &str, to: &str, what: &str) -> Result<(), Error> {
        if !self.home.has(from) {
            return Ok(());
        }
        for entry in self.home.below(from, left::directory)? {
            match entry {
                Entry::Other(path, why) => self.report.leave(&path, why, None),
                Entry::File(file) => self.file(&file, from, to, what)?,
            }
        }
        Ok(())
    }

    fn file(&mut self, file: &Found, from: &str, to: &str, what: &str) -> Result<(), Error> {
        let Found { path, size: _, runs } = file;
        if left::is_credential(path) {
            self.report.leave(path, left::CREDENTIALS, None);
            self.report.warn(format!(
                "{} is a file of secrets: put what is needed of it into the vault",
                shown(path)
            ));
            return Ok(());
        }
        if let Some(kind) = self.secrets.first_in(path.as_bytes()) {
            self.report.leave(path, format!("its name holds {kind}"), None);
            return Ok(());
        }
        let content = match self.home.read(path, crate::home::LARGEST) {
            Ok(content) => content,
            Err(why) => {
                self.report.leave(path, why, None);
                return Ok(());
            }
        };
        let Some(content) = self.blanked(path, content) else { return Ok(()) };
        let below = path.strip_prefix(from).and_then(|below| below.strip_prefix('/')).unwrap_or(path);
        let what = match what {
            "workspace" if below == "MEMORY.md" || below.starts_with("memory/") => "memory",
            "workspace" if below.starts_with("skills/") => "skills",
            what => what,
        };
        self.report.carry(what, &format!("/sandbox/{to}"), 1, None, content.len() as u64);
        self.sink.file(&format!("{to}/{below}"), *runs, &content)
    }

    /// The gateway's configuration, without secrets that stand in a text of it, if it is one without them.
    fn settings(&mut self, text: &str) -> Result<(), Error> {
        let (mut document, mut blanked) = (settings::read(text).unwrap_or_default(), BTreeMap::new());
        transcript::blank(&mut document, self.secrets, &mut blanked);
        if settings::Config::of(&document).is_err() {
            let why = "its settings mean nothing without what is a secret elsewhere";
            self.report.leave("openclaw.json", why, None);
            return Ok(());
        }
        for (kind, count) in blanked {
            self.report.change("openclaw.json", format!("blanked {count} times: {kind}"));
        }
        let text = format!("{document:#}\n");
        self.report.carry("settings", "/sandbox/.cofferdam/config.json", 1, None, text.len() as u64);
        self.sink.file(SETTINGS, false, text.as_bytes())
    }

    /// The content without secrets; none if it cannot be freed from them.
    fn blanked(&mut self, path: &str, content: Vec<u8>) -> Option<Vec<u8>> {
        let found = self.secrets.first_in(&content);
        let Some(kind) = found else { return Some(content) };
        self.report.warn(format!("{} holds {kind}: give the service a new one", shown(path)));
        let Some((text, kinds)) =
            std::str::from_utf8(&content).ok().and_then(|text| self.secrets.blank(text))
        else {
            self.report.leave(path, format!("no text, and it holds {kind}"), None);
            return None;
        };
        self.report.change(path, format!("blanked {} times: {kind}", kinds.len()));
        Some(text.into_bytes())
    }

    /// The skills of all agents go to those of the workspace, which come first where both have one.
    fn skills(&mut self, workspace: Option<&str>) -> Result<(), Error> {
        if !self.home.has("skills") {
            return Ok(());
        }
        let hidden = |name: &str| {
            workspace.is_some_and(|workspace| self.home.has(&format!("{workspace}/skills/{name}")))
        };
        let mut names = Vec::new();
        for entry in self.home.below("skills", left::directory)? {
            if let Entry::File(file) = &entry {
                let name = file.path.split('/').nth(1).unwrap_or_default().to_owned();
                if !names.contains(&name) {
                    names.push(name);
                }
            }
        }
        for name in names {
            let path = format!("skills/{name}");
            if hidden(&name) {
                self.report.leave(&path, "the workspace has a skill of this name, which comes first", None);
            } else {
                self.tree(&path, &format!("workspace/{path}"), "skills")?;
            }
        }
        Ok(())
    }
}

/// Whatever else there is, by name.
fn rest(home: &Home, workspace: Option<&str>, runtime: Runtime, report: &mut Report) -> Result<(), Error> {
    let workspace = workspace.and_then(|path| path.split('/').next()).unwrap_or("workspace");
    // One level: what is below is of one kind.
    for entry in home.below("", |path| Some(path.to_owned()))? {
        let (path, directory) = match &entry {
            Entry::File(found) => (&found.path, false),
            Entry::Other(path, why) if path == why => (path, true),
            Entry::Other(path, why) => {
                report.leave(path, why.clone(), None);
                continue;
            }
        };
        let carried = match path.as_str() {
            "openclaw.json" | "agents" | "skills" => true,
            "media" => runtime == Runtime::Openclaw,
            path => path == workspace,
        };
        if !carried {
            let why = match (path.as_str(), directory) {
                ("media", true) => "the native gateway keeps no media",
                (name, true) if name.starts_with("workspace-") => "of another agent: a tenant has one, main",
                (name, directory) => left::top(name, directory),
            };
            report.leave(path, why, None);
        }
    }
    agents(home, report)
}

/// What agents have besides their conversations.
fn agents(home: &Home, report: &mut Report) -> Result<(), Error> {
    if !home.has("agents") {
        return Ok(());
    }
    for entry in home.below("agents", |path| (path.split('/').count() > 2).then(|| path.to_owned()))? {
        let (path, why) = match entry {
            Entry::File(found) => (found.path, "this command does not know it".to_owned()),
            Entry::Other(path, why) if path != why => (path, why),
            Entry::Other(path, _) => {
                let mut parts = path.split('/').skip(1);
                match (parts.next(), parts.next()) {
                    (Some(sessions::AGENT), Some("agent" | "sessions")) => continue,
                    (Some(sessions::AGENT), Some("session-sqlite-import-archive")) => {
                        (path, "conversations that upstream took into its database".to_owned())
                    }
                    (Some(sessions::AGENT), _) => (path, "this command does not know it".to_owned()),
                    _ => (path, "of another agent: a tenant has one, main".to_owned()),
                }
            }
        };
        report.leave(&path, why, None);
    }
    Ok(())
}

/// Names, too, may hold what nobody is to see.
fn purged(mut report: Report, secrets: &Secrets) -> Report {
    let clean = |text: &mut String| {
        if let Some((blank, _)) = secrets.blank(text) {
            *text = blank;
        }
    };
    let Report { carried: _, changed, left, credentials, warnings, more: _ } = &mut report;
    for row in changed {
        clean(&mut row.path);
        clean(&mut row.how);
    }
    for row in left {
        clean(&mut row.path);
        clean(&mut row.why);
    }
    for row in credentials {
        clean(&mut row.at);
        clean(&mut row.command);
    }
    warnings.iter_mut().for_each(clean);
    report
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use cofferdam_sys::process::{self, Forked};
    use rustix::net::{AddressFamily, SocketType, socket};
    use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

    /// What a confined reader can do, as a child, because it cannot be undone: the number of the first thing that is
    /// wrong.
    fn tried(home: &Path, uid: u32, rights: CapabilitySet) -> u8 {
        let directory = fs::File::open(home).unwrap();
        if confine(directory.as_fd()).is_err() {
            return 1;
        }
        let own = rustix::process::geteuid().as_raw() == uid;
        let capable = rustix::thread::capabilities(None).unwrap();
        let all = capable.effective | capable.permitted | capable.inheritable;
        let denied = |path: &str| {
            fs::read(path).is_err_and(|error| error.kind() == std::io::ErrorKind::PermissionDenied)
        };
        let read = reads(directory.as_fd());
        let writes = fs::write(home.join("new"), "x").is_ok();
        let talks = [AddressFamily::UNIX, AddressFamily::INET]
            .into_iter()
            .any(|family| socket(family, SocketType::STREAM, None).err() != Some(rustix::io::Errno::PERM));
        let seen = ["/etc/passwd", "/proc/self/status", "/proc/1/cmdline", "/usr/bin/env"];
        let wrong = [!own, all != rights, !read, writes, talks, !seen.into_iter().all(denied)];
        wrong.iter().position(|wrong| *wrong).map_or(0, |at| u8::try_from(at).unwrap() + 2)
    }

    fn reads(home: BorrowedFd<'_>) -> bool {
        let home = Home::new(rustix::io::fcntl_dupfd_cloexec(home, 3).unwrap());
        home.read("openclaw.json", 100).is_ok_and(|text| text == b"{}")
    }

    #[test]
    fn whoever_owns_a_home_its_reader_has_no_rights_but_to_read_it() {
        let me = rustix::process::geteuid().as_raw();
        let none = CapabilitySet::empty();
        // A home of root's, and one of somebody's: only root can make these.
        let cases: &[(u32, u32, CapabilitySet)] = if me == 0 {
            &[(0, NOBODY, CapabilitySet::DAC_READ_SEARCH), (1_499_000_078, 1_499_000_078, none)]
        } else {
            &[(me, me, none)]
        };
        for (owner, uid, rights) in cases {
            let home = tempfile::tempdir().unwrap();
            let file = home.path().join("openclaw.json");
            fs::write(&file, "{}").unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
            for path in [file.as_path(), home.path()] {
                std::os::unix::fs::chown(path, Some(*owner), Some(*owner)).unwrap();
            }
            match process::fork().unwrap() {
                Forked::Child => process::exit(tried(home.path(), *uid, *rights)),
                Forked::Parent(pid) => {
                    let options = rustix::process::WaitOptions::empty();
                    let (_, status) = rustix::process::waitpid(Some(pid), options).unwrap().unwrap();
                    assert_eq!(status.exit_status(), Some(0), "a home of {owner}");
                }
            }
        }
    }
}
