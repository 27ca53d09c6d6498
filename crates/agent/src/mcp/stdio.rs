//! A server that is a program in the cell: messages are lines of its input and output.
//!
//! It runs apart from the gateway, as commands do, and whatever it started is killed when this goes. Of what it says on its standard error the last
//! is kept.

use super::wire::{LONGEST, Link};
use crate::{
    config::mcp,
    gateway::Gateway,
    text,
    tools::{Domain, start},
};
use std::{
    os::unix::process::CommandExt as _,
    process::Stdio as Pipe,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    process::{Child, ChildStderr, ChildStdin, ChildStdout},
    sync::mpsc,
    task::JoinHandle,
};

/// Messages that wait to be read by it.
const QUEUE: usize = 64;
/// So much of its standard error is kept, and told, in bytes.
const KEPT: usize = 8 * 1024;
const TOLD: usize = 400;

/// A program that runs.
#[derive(Debug)]
pub(super) struct Stdio {
    input: mpsc::Sender<Vec<u8>>,
    tasks: [JoinHandle<()>; 3],
    _domain: Domain,
}

impl Drop for Stdio {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Stdio {
    /// Starts it.
    pub(super) fn start(server: &mcp::Server, gateway: &Gateway, link: &Arc<Link>) -> Result<Self, String> {
        let program = server.command.as_deref().unwrap_or_default();
        #[expect(
            clippy::disallowed_methods,
            reason = "servers of an agent are programs, and its cell is the boundary"
        )]
        let mut command = std::process::Command::new(program);
        command.args(&server.args).current_dir(gateway.workspace.join(server.cwd.as_deref().unwrap_or(".")));
        command.envs(server.env.iter().map(|(name, value)| (name, mcp::text(value))));
        command.stdin(Pipe::piped()).stdout(Pipe::piped()).stderr(Pipe::piped());
        command.process_group(0);
        let (mut child, domain) =
            start(gateway, command).map_err(|error| format!("{program:?} does not start: {error}"))?;
        let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (Some(stdin), Some(stdout), Some(stderr)) = pipes else {
            return Err("it has no pipes".to_owned());
        };
        let (input, queue) = mpsc::channel(QUEUE);
        let tail = Arc::new(Mutex::new(Vec::new()));
        let tasks = [
            tokio::spawn(write(stdin, queue)),
            tokio::spawn(keep(stderr, Arc::clone(&tail))),
            tokio::spawn(read(child, stdout, Arc::clone(link), input.clone(), tail)),
        ];
        Ok(Self { input, tasks, _domain: domain })
    }

    /// Sends one message.
    pub(super) async fn send(&self, message: &serde_json::Value) -> Result<(), String> {
        self.input.send(line(message)).await.map_err(|_| "it reads no more".to_owned())
    }

    /// Sends one if there is room for it: nobody waits.
    pub(super) fn try_send(&self, message: &serde_json::Value) {
        let _ = self.input.try_send(line(message));
    }
}

fn line(message: &serde_json::Value) -> Vec<u8> {
    let mut line = message.to_string().into_bytes();
    line.push(b'\n');
    line
}

async fn write(mut stdin: ChildStdin, mut queue: mpsc::Receiver<Vec<u8>>) {
    while let Some(line) = queue.recv().await {
        if stdin.write_all(&line).await.is_err() {
            return;
        }
    }
}

async fn keep(mut stderr: ChildStderr, tail: Arc<Mutex<Vec<u8>>>) {
    let mut buffer = [0; 1024];
    while let Ok(count @ 1..) = stderr.read(&mut buffer).await {
        let mut tail = tail.lock().unwrap_or_else(PoisonError::into_inner);
        tail.extend_from_slice(&buffer[..count]);
        let over = tail.len().saturating_sub(KEPT);
        tail.drain(..over);
    }
}

/// Reads until it ends, and says why it did.
async fn read(
    mut child: Child,
    stdout: ChildStdout,
    link: Arc<Link>,
    input: mpsc::Sender<Vec<u8>>,
    tail: Arc<Mutex<Vec<u8>>>,
) {
    let mut stdout = BufReader::new(stdout);
    let mut message = Vec::new();
    let too_long = loop {
        message.clear();
        let got = (&mut stdout).take(LONGEST as u64).read_until(b'\n', &mut message).await;
        if !matches!(got, Ok(1..)) {
            break false;
        }
        if message.len() >= LONGEST {
            break true;
        }
        for back in link.heard(&message) {
            // One that does not read what it asked for gets no more.
            let _ = input.try_send(line(&back));
        }
        // A large answer is not kept for the next small one.
        message.shrink_to(64 * 1024);
    };
    if too_long {
        return link.end(format!("it sent a message of more than {LONGEST} bytes"));
    }
    // Its last words come beside its end.
    let status = tokio::time::timeout(Duration::from_secs(1), child.wait()).await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    let tail = String::from_utf8_lossy(&tail.lock().unwrap_or_else(PoisonError::into_inner)).into_owned();
    let tail = tail.trim();
    let last = text::shown(&tail[tail.ceil_char_boundary(tail.len().saturating_sub(TOLD))..], TOLD);
    let how = match status {
        Ok(Ok(status)) => format!("it ended: {status}"),
        _ => "it closed its output".to_owned(),
    };
    link.end(if last.is_empty() { how } else { format!("{how}; its last words: {last}") });
}
