//! `tenant import`: the reader's report on the screen, and its stream to the host.
//!
//! It reads nothing of the home itself: the reader is a process of its own, confined. What it hands on is for the
//! tenant's cell.

use super::{
    Client, Exit, Failure,
    commands::{Done, OK},
    flags::ImportRuntime,
    print,
};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use bytes::Bytes;
use cofferdam_base::TenantId;
use cofferdam_control::api::{
    frames::IMPORT_HEADER,
    types::{Imported, NewTenant, WantedLimits},
};
use cofferdam_import::{Place, Report, Runtime, Wanted, first_report, printable};
use http::{Method, Request, header};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use std::{
    convert::Infallible,
    io::{BufReader, Read},
    path::PathBuf,
    process::{Child, ChildStdout, Command, Stdio},
};
use tokio::sync::mpsc;

/// What was typed.
pub(super) struct Order {
    pub(super) dir: PathBuf,
    pub(super) tenant: TenantId,
    pub(super) runtime: ImportRuntime,
    pub(super) dry_run: bool,
    pub(super) all: bool,
}

/// Shows what would be imported and, unless that was all that was wanted, imports it.
pub(super) async fn run(order: Order, client: &Client, limits: WantedLimits, json: bool) -> Done {
    let place = Place::open(&order.dir).map_err(|error| no_home(error.to_string()))?;
    let source = Source::of(&place);
    let mut reader = Reader::start(&order, place)?;
    let report = reader.report()?;
    if order.dry_run {
        reader.end()?;
        return show(&order, &source, &report, None, json);
    }
    let runtime = word(order.runtime).to_owned();
    let id = order.tenant.clone();
    let new = NewTenant { id, runtime, limits: Some(limits), start: false, wait: false };
    let new = BASE64_URL_SAFE_NO_PAD.encode(serde_json::to_vec(&new).map_err(Failure::could_not)?);
    let request = Request::builder()
        .method(Method::POST)
        .uri("/api/v1/import")
        .header(header::HOST, "cofferdam")
        .header(IMPORT_HEADER, new)
        .body(StreamBody::new(Pieces::of(reader.stdout.take())).boxed())
        .map_err(Failure::could_not)?;
    let answer = client.send(request).await;
    // A reader that failed is why the host could not go on.
    match reader.end() {
        Err(failure) if answer.is_err() => return Err(failure),
        _ => {}
    }
    let answer = answer?.into_body().collect().await.map_err(Failure::could_not)?.to_bytes();
    let imported: Imported = serde_json::from_slice(&answer).map_err(Failure::could_not)?;
    show(&order, &source, &report, Some(&imported), json)
}

fn word(runtime: ImportRuntime) -> &'static str {
    match runtime {
        ImportRuntime::Native => "native",
        ImportRuntime::Openclaw => "openclaw",
    }
}

/// Whose home is read, for the operator to see before anything is done.
struct Source {
    path: String,
    uid: u32,
    /// As the host's own list of users has it.
    name: Option<String>,
}

impl Source {
    fn of(place: &Place) -> Self {
        let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
        let mut rows = users.lines().map(|row| row.split(':'));
        let name = rows.find_map(|mut row| {
            let name = row.next()?;
            (row.nth(1)?.parse() == Ok(place.owner)).then(|| name.to_owned())
        });
        Self { path: printable(&place.path.to_string_lossy()), uid: place.owner, name }
    }

    fn owner(&self) -> String {
        match &self.name {
            Some(name) => format!("{name} (uid {})", self.uid),
            None => format!("uid {}", self.uid),
        }
    }
}

/// The process that reads the home.
struct Reader {
    child: Child,
    stdout: Option<BufReader<ChildStdout>>,
}

impl Reader {
    fn start(order: &Order, place: Place) -> Result<Self, Failure> {
        let runtime = match order.runtime {
            ImportRuntime::Native => Runtime::Native,
            ImportRuntime::Openclaw => Runtime::Openclaw,
        };
        let wanted = Wanted { tenant: order.tenant.to_string(), runtime, carry: !order.dry_run };
        let wanted = serde_json::to_string(&wanted).map_err(Failure::could_not)?;
        #[expect(
            clippy::disallowed_methods,
            reason = "this very program, as a process that can do nothing but read"
        )]
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["__read-home", &wanted]).env_clear().stdin(place.directory);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let stdout = child.stdout.take().map(BufReader::new);
        Ok(Self { child, stdout })
    }

    fn report(&mut self) -> Result<Report, Failure> {
        let read = self.stdout.as_mut().ok_or_else(|| Failure::could_not("the reader says nothing"));
        // What is wrong the reader itself says best.
        first_report(read?).map_err(|error| self.end().err().unwrap_or_else(|| Failure::could_not(error)))
    }

    /// Waits for its end; its last words if it is not a good one.
    fn end(&mut self) -> Result<(), Failure> {
        self.stdout = None;
        let mut said = Vec::new();
        if let Some(stderr) = self.child.stderr.take() {
            stderr.take(4096).read_to_end(&mut said)?;
        }
        let status = self.child.wait()?;
        let said = printable(String::from_utf8_lossy(&said).trim());
        match (status.success(), said.as_str()) {
            (true, _) => Ok(()),
            (false, "") => Err(Failure::could_not(format!("the reader of the home ended with {status}"))),
            (false, said) => Err(no_home(said)),
        }
    }
}

fn no_home(message: impl Into<String>) -> Failure {
    Failure::new(
        Exit::Usage,
        "no_home",
        message,
        "give the directory of an OpenClaw home, ~/.openclaw for example",
    )
}

/// What the reader writes, as the body of a request. It ends where the reader does: whether that is the end of the
/// stream, the cell knows.
struct Pieces(mpsc::Receiver<Bytes>);

impl Pieces {
    fn of(stdout: Option<BufReader<ChildStdout>>) -> Self {
        let (sender, pieces) = mpsc::channel(4);
        std::thread::spawn(move || {
            let mut buffer = vec![0; 256 * 1024];
            let Some(mut stdout) = stdout else { return };
            while let Ok(length @ 1..) = stdout.read(&mut buffer) {
                if sender.blocking_send(Bytes::copy_from_slice(&buffer[..length])).is_err() {
                    return;
                }
            }
        });
        Self(pieces)
    }
}

impl futures_util::Stream for Pieces {
    type Item = Result<Frame<Bytes>, Infallible>;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        self.0.poll_recv(context).map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
    }
}

/// The report for a person, or as a document.
fn show(order: &Order, source: &Source, report: &Report, imported: Option<&Imported>, json: bool) -> Done {
    let Order { dir: _, tenant, runtime, dry_run: _, all } = order;
    if json {
        let runtime = word(*runtime);
        print::json(&serde_json::json!({
            "home": { "path": source.path, "uid": source.uid, "owner": source.name },
            "tenant": tenant, "runtime": runtime, "dry_run": imported.is_none(), "report": report,
            "imported": imported.map(|imported| imported.unpacked),
        }))?;
        return Ok(OK);
    }
    let Report { carried, changed, left, credentials, warnings, more } = report;
    let tense = if imported.is_some() { "is now" } else { "would be" };
    let home = format!("{}, owned by {},", source.path, source.owner());
    wrapped(&format!("{home} {tense} the tenant {tenant}, runtime {}", word(*runtime)), 0)?;
    print::line(if imported.is_some() { "\nCARRIED" } else { "\nCARRIED (dry run: nothing was done)" })?;
    for row in carried {
        let count = match row.messages {
            Some(messages) => format!("{}, {messages} messages", row.count),
            None => format!("{} files", row.count),
        };
        print::line(&format!("  {:<10} {count:<22} {:>8}", row.what, size(row.bytes)))?;
        wrapped(&format!("to {}", row.to), 13)?;
    }
    if carried.is_empty() {
        print::line("  nothing")?;
    }
    let changed: Vec<_> = changed.iter().map(|row| (row.how.as_str(), row.path.as_str())).collect();
    groups("CHANGED", &changed, *all)?;
    let left: Vec<_> = left.iter().map(|row| (row.why.as_str(), row.path.as_str())).collect();
    groups("LEFT", &left, *all)?;
    if !credentials.is_empty() {
        print::line(&format!(
            "\nCREDENTIALS ({}): none was copied; type, with each value in a FILE",
            credentials.len()
        ))?;
        for row in credentials {
            let note = if row.note.is_empty() { String::new() } else { format!(" ({})", row.note) };
            wrapped(&format!("{}{note}", row.at), 2)?;
            command(&row.command)?;
        }
    }
    if !warnings.is_empty() {
        print::line(&format!("\nBEWARE ({})", warnings.len()))?;
        warnings.iter().try_for_each(|text| wrapped(text, 2))?;
    }
    if *more > 0 {
        print::line(&format!("\n{more} more rows are not shown"))?;
    }
    let next = match imported {
        Some(_) => format!("it is stopped; after the credentials: cofferdam tenant start {tenant}"),
        None => "import it with the same command without --dry-run".to_owned(),
    };
    print::line(&format!("\n{next}"))?;
    Ok(OK)
}

/// Rows below what they have in common, the largest group first.
fn groups(title: &str, rows: &[(&str, &str)], all: bool) -> Result<(), Failure> {
    const SHOWN: usize = 4;
    print::line(&format!("\n{title} ({})", rows.len()))?;
    let mut groups: Vec<(&str, Vec<&str>)> = Vec::new();
    for (why, path) in rows {
        match groups.iter_mut().find(|group| group.0 == *why) {
            Some(group) => group.1.push(path),
            None => groups.push((why, vec![path])),
        }
    }
    groups.sort_by_key(|group| std::cmp::Reverse(group.1.len()));
    for (why, paths) in groups {
        if let [path] = paths[..] {
            wrapped(&format!("{path}: {why}"), 2)?;
            continue;
        }
        wrapped(&format!("{} {why}:", paths.len()), 2)?;
        let shown = if all { paths.len() } else { SHOWN };
        for path in paths.iter().take(shown) {
            wrapped(path, 6)?;
        }
        if paths.len() > shown {
            print::line(&format!("      … and {} more: --all shows them", paths.len() - shown))?;
        }
    }
    Ok(())
}

/// A command that can be copied: it goes on behind a backslash where the line ends.
fn command(text: &str) -> Result<(), Failure> {
    let mut line = String::from("     ");
    for (at, part) in text.split(" --").enumerate() {
        let part = if at == 0 { format!(" {part}") } else { format!(" --{part}") };
        if line.len() + part.len() + 2 > print::width() && at > 0 {
            print::line(&format!("{line} \\"))?;
            line = String::from("       ");
        }
        line.push_str(&part);
    }
    Ok(print::line(&line)?)
}

/// A text below the margin, broken at words.
fn wrapped(text: &str, margin: usize) -> Result<(), Failure> {
    let (room, indent) = (print::width().saturating_sub(margin), " ".repeat(margin));
    let mut line = String::new();
    for word in text.split(' ') {
        if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > room {
            print::line(&format!("{indent}{line}"))?;
            line = String::from("  ");
        }
        if !line.trim().is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    Ok(print::line(&format!("{indent}{line}"))?)
}

/// A size as people say it.
fn size(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..0x10_0000 => format!("{} KiB", bytes >> 10),
        _ => format!("{} MiB", bytes >> 20),
    }
}
