//! `exec`: a shell command, with an end.
//!
//! It runs [`apart`](super::apart) from the gateway. The threat is a command that never ends, or that says more than there
//! is room for: time, output and memory are bounded, and whatever it started is killed with it.

use super::{About, Bench, Output, apart::start, consent::consent, cut, later};
use serde::Deserialize;
use serde_json::json;
use std::{
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    time::{Instant, timeout},
};

pub(super) const TOOLS: [About; 1] = [About {
    name: "exec",
    group: "runtime",
    label: "Run a command",
    description: "Run a shell command and wait for its end; timeout in seconds; or in the background.",
    parameters: r#"{"type":"object","properties":{"command":{"type":"string"},"workdir":{"type":"string"},"timeout":{"type":"integer"},"background":{"type":"boolean"}},"required":["command"]}"#,
    parallel: false,
    run: |bench, arguments| later(arguments, async |asked| exec(bench, &asked).await),
}];

/// How long a command may take, and how long one may ask for, in seconds.
const USUAL: u64 = 120;
const LONGEST: u64 = 3600;
/// So much of its output is kept.
const KEPT: usize = 1024 * 1024;
/// How long the output of a command that ended may still be held open by what it left behind.
const LEFT: Duration = Duration::from_millis(200);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Exec {
    command: String,
    #[serde(default)]
    workdir: Option<String>,
    #[serde(default)]
    timeout: Option<u64>,
    #[serde(default)]
    background: bool,
}

pub(super) async fn exec(bench: &Bench<'_>, asked: &Exec) -> Output {
    let workdir = bench.path(asked.workdir.as_deref().unwrap_or("."));
    let patience = Duration::from_secs(asked.timeout.unwrap_or(USUAL).clamp(1, LONGEST));
    let workdir = match consent(bench, &asked.command, &workdir, asked.background).await {
        Ok(workdir) => workdir,
        Err(refused) => return refused,
    };
    let begun = Instant::now();
    if asked.background {
        return bench.gateway.processes.begin(bench.gateway, &asked.command, &workdir);
    }
    let command = shell(&asked.command, &workdir);
    let (mut child, domain) = match start(bench.gateway, command) {
        Ok(started) => started,
        Err(error) => {
            return Output::error(format!("the command does not start in {}: {error}", workdir.display()));
        }
    };
    let Some(mut stdout) = child.stdout.take() else { return Output::error("the command has no output") };
    let mut kept = Vec::new();
    let waited = timeout(patience, async {
        tokio::select! {
            () = drain(&mut stdout, &mut kept) => {}
            _ = child.wait() => {}
        }
        child.wait().await
    })
    .await;
    drop(domain);
    // Of what it wrote before its end nothing is lost.
    let _ = timeout(LEFT, drain(&mut stdout, &mut kept)).await;
    let text = cut(String::from_utf8_lossy(&kept).into_owned());
    let took = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    let (said, code) = match &waited {
        Ok(Ok(status)) => match (status.code(), status.signal()) {
            (Some(0), _) => (None, Some(0)),
            (Some(code), _) => (Some(format!("it ended with {code}")), Some(code)),
            (None, signal) => (Some(format!("it was ended by signal {}", signal.unwrap_or_default())), None),
        },
        Ok(Err(error)) => (Some(format!("it could not be waited for: {error}")), None),
        Err(_) => (Some(format!("it was killed after {} s", patience.as_secs())), None),
    };
    let shown = match &said {
        Some(said) if text.is_empty() => format!("[{said}]"),
        Some(said) => format!("{text}\n[{said}]"),
        None if text.is_empty() => "[it ended with 0 and said nothing]".to_owned(),
        None => text,
    };
    let details =
        json!({ "exitCode": code, "durationMs": took, "timedOut": waited.is_err(), "cwd": workdir });
    Output { text: shown, is_error: said.is_some(), details }
}

/// Reads to the end; what is more than is kept is read and left.
async fn drain(from: &mut (impl AsyncRead + Unpin), kept: &mut Vec<u8>) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        let room = KEPT.saturating_sub(kept.len());
        kept.extend_from_slice(&buffer[..count.min(room)]);
    }
}

/// A shell command, ready to be started.
pub(super) fn shell(command: &str, workdir: &Path) -> Command {
    #[expect(
        clippy::disallowed_methods,
        reason = "tools of an agent are programs, and its cell is the boundary"
    )]
    let mut shell = Command::new("/bin/sh");
    // Both outputs are one pipe: they are read in the order in which they were written.
    shell.arg("-c").arg(format!("exec 2>&1\n{command}")).current_dir(workdir);
    shell.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    shell.process_group(0);
    shell
}
