//! `process`, and `exec` in the background: commands that go on while the agent does something else.
//!
//! They are bounded in number, and of each the last of its output is kept. All of them end with the gateway.

use super::{
    About, Bench, Output,
    apart::{Domain, start},
    cut,
    exec::shell,
    later,
};
use crate::gateway::Gateway;
use serde::Deserialize;
use std::{
    collections::BTreeMap,
    fmt::Write as _,
    path::Path,
    process::Stdio,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::{Child, ChildStdin, ChildStdout},
    sync::watch,
};

pub(super) const TOOLS: [About; 1] = [About {
    name: "process",
    group: "runtime",
    label: "Background commands",
    description: "List background commands, read what one printed since (wait in seconds), write to it, kill it.",
    parameters: r#"{"type":"object","properties":{"action":{"enum":["list","read","write","kill"]},"id":{"type":"integer"},"input":{"type":"string"},"wait":{"type":"integer"}},"required":["action"]}"#,
    parallel: false,
    run: |bench, arguments| later(arguments, async |asked| process(bench, &asked).await),
}];

/// How many may run, and how many that ended are remembered besides.
const RUNNING: usize = 16;
const ENDED: usize = 16;
/// So much of what was not read is kept, the last of it.
const KEPT: usize = 256 * 1024;
/// How long one may wait for more, in seconds.
const LONGEST_WAIT: u64 = 60;

/// All that were begun.
#[derive(Debug, Default)]
pub(crate) struct Processes(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    last: u64,
    all: BTreeMap<u64, Arc<Process>>,
}

#[derive(Debug)]
struct Process {
    command: String,
    domain: Mutex<Option<Domain>>,
    input: tokio::sync::Mutex<Option<ChildStdin>>,
    unread: Mutex<Unread>,
    /// Counts what came, and says how it ended.
    state: watch::Sender<(u64, Option<String>)>,
}

#[derive(Debug, Default)]
struct Unread {
    bytes: Vec<u8>,
    lost: usize,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Process {
    fn end(&self) -> Option<String> {
        self.state.borrow().1.clone()
    }

    /// What came since it was read last.
    fn take(&self) -> String {
        let Unread { bytes, lost } = std::mem::take(&mut *lock(&self.unread));
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if lost > 0 { format!("[… {lost} bytes lost …]\n{text}") } else { text }
    }

    async fn follow(&self, mut child: Child, mut stdout: ChildStdout) {
        let mut buffer = vec![0; 8 * 1024];
        while let Ok(count @ 1..) = stdout.read(&mut buffer).await {
            let mut unread = lock(&self.unread);
            unread.bytes.extend_from_slice(&buffer[..count]);
            let over = unread.bytes.len().saturating_sub(KEPT);
            unread.bytes.drain(..over);
            unread.lost += over;
            drop(unread);
            self.state.send_modify(|state| state.0 += count as u64);
        }
        let end = match child.wait().await {
            Ok(status) => status.to_string(),
            Err(error) => format!("it could not be waited for: {error}"),
        };
        // What it left behind goes with it.
        drop(lock(&self.domain).take());
        self.state.send_modify(|state| state.1 = Some(end));
    }
}

impl Processes {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        lock(&self.0)
    }

    /// Begins one.
    pub(super) fn begin(&self, gateway: &Gateway, command: &str, workdir: &Path) -> Output {
        let mut inner = self.inner();
        let running = inner.all.values().filter(|it| it.end().is_none()).count();
        if running >= RUNNING {
            return Output::error(format!("{RUNNING} commands run in the background already: kill one"));
        }
        let mut shell = shell(command, workdir);
        shell.stdin(Stdio::piped());
        let (mut child, domain) = match start(gateway, shell) {
            Ok(started) => started,
            Err(error) => return Output::error(format!("the command does not start: {error}")),
        };
        let Some(stdout) = child.stdout.take() else { return Output::error("the command has no output") };
        let process = Arc::new(Process {
            command: command.chars().take(200).collect(),
            domain: Mutex::new(Some(domain)),
            input: tokio::sync::Mutex::new(child.stdin.take()),
            unread: Mutex::default(),
            state: watch::Sender::new((0, None)),
        });
        inner.last += 1;
        let id = inner.last;
        let ended: Vec<u64> =
            inner.all.iter().filter(|(_, it)| it.end().is_some()).map(|(id, _)| *id).collect();
        for old in ended.iter().rev().skip(ENDED - 1) {
            inner.all.remove(old);
        }
        inner.all.insert(id, Arc::clone(&process));
        drop(inner);
        tokio::spawn(async move { process.follow(child, stdout).await });
        Output::ok(format!("it runs in the background as {id}"))
    }

    fn get(&self, id: Option<u64>) -> Result<Arc<Process>, Output> {
        let found = id.and_then(|id| self.inner().all.get(&id).map(Arc::clone));
        found.ok_or_else(|| Output::error("there is no such process: use list"))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Asked {
    action: Action,
    #[serde(default)]
    id: Option<u64>,
    #[serde(default)]
    input: Option<String>,
    #[serde(default)]
    wait: Option<u64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Action {
    List,
    Read,
    Write,
    Kill,
}

pub(super) async fn process(bench: &Bench<'_>, asked: &Asked) -> Output {
    let processes = &bench.gateway.processes;
    if matches!(asked.action, Action::List) {
        let mut text = String::new();
        for (id, process) in &processes.inner().all {
            let _ =
                writeln!(text, "{id} {}: {}", process.end().as_deref().unwrap_or("runs"), process.command);
        }
        return Output::ok(if text.is_empty() { "nothing runs".to_owned() } else { text });
    }
    let process = match processes.get(asked.id) {
        Ok(process) => process,
        Err(output) => return output,
    };
    match asked.action {
        Action::Write => {
            let mut input = process.input.lock().await;
            let Some(to) = input.as_mut() else { return Output::error("it takes no input any more") };
            match to.write_all(asked.input.as_deref().unwrap_or_default().as_bytes()).await {
                Ok(()) => Output::ok("written"),
                Err(error) => {
                    *input = None;
                    Output::error(format!("it takes no input any more: {error}"))
                }
            }
        }
        Action::Kill => {
            drop(lock(&process.domain).take());
            shown(&process, 1).await
        }
        Action::List | Action::Read => shown(&process, asked.wait.unwrap_or(0).min(LONGEST_WAIT)).await,
    }
}

/// What came, waiting for something if nothing did.
async fn shown(process: &Process, wait: u64) -> Output {
    if lock(&process.unread).bytes.is_empty() && process.end().is_none() {
        let mut state = process.state.subscribe();
        // In time or not, what is there is told.
        let _ = tokio::time::timeout(Duration::from_secs(wait), state.changed()).await;
    }
    let state = process.end().unwrap_or_else(|| "it runs".to_owned());
    Output::ok(format!("{}\n[{state}]", cut(process.take()).trim_end()))
}
