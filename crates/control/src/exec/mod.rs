//! `tenant exec`: relays between the client's upgraded connection and a command in a cell.
//!
//! Whatever ends the client's connection ends the command. The threat: output that drives the operator's
//! terminal (filtered unless asked for raw), and a client or command that stops reading (each direction
//! waits for its reader, nothing piles up).

mod ends;

use crate::{
    Error,
    api::frames::{self, ExecRequest, HEAD, Kind, MAX_FRAME},
    launcher::Launcher,
    plain::Plain,
};
use axum::body::BodyDataStream;
use cofferdam_base::{
    TenantId,
    ipc::launcher::{Command, Event, ExecOrder},
};
use ends::{End, Ours};
use futures_util::StreamExt;
use std::{io, os::fd::AsFd, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::{mpsc, oneshot},
};

/// After the command ended, what it wrote is still read for so long; a process that it left behind and that
/// holds the pipe open does not hold up its exit status.
const DRAIN: Duration = Duration::from_secs(2);
/// What is kept of the output of a command that only answers.
const LONGEST_WORD: usize = 16 * 1024;
/// Arguments all together, in bytes, so that the order fits a packet whatever its bytes are escaped to.
const LONGEST_ARGV: usize = 16 * 1024;

/// Checks what is to be run.
pub(crate) fn check(request: &ExecRequest) -> Result<(), Error> {
    if request.argv.first().is_none_or(String::is_empty) {
        return Err(Error::Usage("exec needs a command".to_owned()));
    }
    if request.argv.iter().any(|a| a.contains('\0')) {
        return Err(Error::Usage("an argument of exec holds a NUL byte".to_owned()));
    }
    let length: usize = request.argv.iter().map(|a| a.len() + 1).sum();
    if length > LONGEST_ARGV {
        return Err(Error::Usage(format!("the arguments of exec are longer than {LONGEST_ARGV} bytes")));
    }
    Ok(())
}

/// Runs the command and relays until it ends or the client goes. The outcome is told to the client as its
/// last frame.
pub(crate) async fn relay<S>(stream: S, tenant: TenantId, request: ExecRequest, launcher: Arc<Launcher>)
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let (reader, mut writer) = tokio::io::split(stream);
    let last = match start(tenant, &request, &launcher).await {
        Err(error) => Some((Kind::Failed, failed(&error))),
        Ok(running) => running.relay(reader, &mut writer, &request, &launcher).await,
    };
    if let Some((kind, payload)) = last {
        // A client that is gone needs no last word.
        let _ = write_frame(&mut writer, kind, &payload).await;
        let _ = writer.shutdown().await;
    }
}

/// How a command ended, and the beginning of what it said.
pub(crate) struct Ended {
    pub(crate) code: u8,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
}

/// Runs a command on this input to its end. An input that breaks off ends the command.
pub(crate) async fn with_input(
    tenant: TenantId,
    argv: Vec<String>,
    input: &mut BodyDataStream,
    launcher: &Launcher,
) -> Result<Ended, Error> {
    let request = ExecRequest { argv, terminal: false, size: None, raw: true };
    check(&request)?;
    let Running { exec, mut ours, mut ended } = start(tenant, &request, launcher).await?;
    let stdout = tokio::spawn(beginning(Some(ours.stdout.clone())));
    let stderr = tokio::spawn(beginning(ours.stderr.take()));
    let fed = async {
        while let Some(piece) = input.next().await {
            let piece = piece.map_err(|error| Error::Usage(format!("the stream broke off: {error}")))?;
            let Some(stdin) = &ours.stdin else { break };
            if stdin.write_all(&piece).await.is_err() {
                // It reads no more, and says why.
                break;
            }
        }
        ours.end_input().await.map_err(|error| Error::io("exec", error))
    };
    let (fed, early) = tokio::select! {
        fed = fed => (fed, None),
        event = &mut ended => (Ok(()), Some(event)),
    };
    if let Err(error) = fed {
        let cancel = Command::CancelExec { op: launcher.op(), exec };
        if launcher.tell(&cancel).await.is_ok() {
            let _ = ended.await;
        }
        return Err(error);
    }
    let event = match early {
        Some(event) => event,
        None => ended.await,
    };
    let said = |task| async {
        tokio::time::timeout(DRAIN, task).await.ok().and_then(Result::ok).unwrap_or_default()
    };
    match event {
        Ok(Event::ExecEnded { op: _, code }) => {
            Ok(Ended { code, stdout: said(stdout).await, stderr: said(stderr).await })
        }
        Ok(Event::Failed { op: _, failure }) => Err(Error::Launcher(failure)),
        Ok(other) => Err(Error::LauncherGone(format!("it answered {other:?}"))),
        Err(_) => Err(Error::LauncherGone("no answer".to_owned())),
    }
}

/// The first bytes of an output, which is read to its end.
async fn beginning(end: Option<End>) -> Vec<u8> {
    let (mut kept, mut buffer) = (Vec::new(), vec![0; 4096]);
    let Some(end) = end else { return kept };
    while let Ok(length @ 1..) = end.read(&mut buffer).await {
        let room = LONGEST_WORD.saturating_sub(kept.len());
        kept.extend_from_slice(&buffer[..length.min(room)]);
    }
    kept
}

struct Running {
    exec: u64,
    ours: Ours,
    ended: oneshot::Receiver<Event>,
}

async fn start(tenant: TenantId, request: &ExecRequest, launcher: &Launcher) -> Result<Running, Error> {
    let (ours, theirs) = ends::make(request.terminal, request.size)?;
    let exec = launcher.op();
    let order = ExecOrder { op: exec, tenant, argv: request.argv.clone(), terminal: request.terminal };
    let (sender, ended) = oneshot::channel();
    let descriptors = [theirs[0].as_fd(), theirs[1].as_fd(), theirs[2].as_fd()];
    launcher.send(&Command::Exec(order), &descriptors, move |event| drop(sender.send(event))).await?;
    Ok(Running { exec, ours, ended })
}

impl Running {
    /// The last frame for the client; none if it is gone.
    async fn relay(
        mut self,
        reader: impl AsyncRead + Unpin + Send + 'static,
        writer: &mut (impl AsyncWrite + Unpin),
        request: &ExecRequest,
        launcher: &Launcher,
    ) -> Option<(Kind, Vec<u8>)> {
        let (sender, mut output) = mpsc::channel(4);
        let mut pumps = tokio::task::JoinSet::new();
        pumps.spawn(pump(self.ours.stdout.clone(), Kind::Stdout, request.raw, sender.clone()));
        if let Some(stderr) = self.ours.stderr.clone() {
            pumps.spawn(pump(stderr, Kind::Stderr, request.raw, sender.clone()));
        }
        drop(sender);
        let mut input = tokio::spawn(feed(reader, self.ours));
        let mut drained = false;
        let event = loop {
            tokio::select! {
                event = &mut self.ended => break Some(event),
                frame = output.recv(), if !drained => match frame {
                    Some((kind, bytes)) => if write_frame(writer, kind, &bytes).await.is_err() { break None },
                    None => drained = true,
                },
                // Only a client that is gone, or that sent no frames, ends the feed.
                _ = &mut input => break None,
            }
        };
        let Some(event) = event else {
            let cancel = Command::CancelExec { op: launcher.op(), exec: self.exec };
            if launcher.tell(&cancel).await.is_ok() {
                let _ = self.ended.await;
            }
            return None;
        };
        let deadline = tokio::time::Instant::now() + DRAIN;
        while let Ok(Some((kind, bytes))) = tokio::time::timeout_at(deadline, output.recv()).await {
            if write_frame(writer, kind, &bytes).await.is_err() {
                return None;
            }
        }
        input.abort();
        Some(match event {
            Ok(Event::ExecEnded { op: _, code }) => (Kind::Exit, vec![code]),
            Ok(Event::Failed { op: _, failure }) => (Kind::Failed, failed(&Error::Launcher(failure))),
            Ok(other) => (Kind::Failed, failed(&Error::LauncherGone(format!("it answered {other:?}")))),
            Err(_) => (Kind::Failed, failed(&Error::LauncherGone("no answer".to_owned()))),
        })
    }
}

/// Output of the command to the writer's queue.
async fn pump(end: End, kind: Kind, raw: bool, queue: mpsc::Sender<(Kind, Vec<u8>)>) {
    let mut buffer = vec![0; MAX_FRAME / 2];
    let mut plain = Plain::default();
    while let Ok(length @ 1..) = end.read(&mut buffer).await {
        let mut bytes = Vec::with_capacity(length);
        if raw {
            bytes.extend_from_slice(&buffer[..length]);
        } else {
            plain.filter(&buffer[..length], &mut bytes);
        }
        if !bytes.is_empty() && queue.send((kind, bytes)).await.is_err() {
            return;
        }
    }
}

/// Input from the client to the command; ends when the client goes or is no client of ours.
async fn feed(mut reader: impl AsyncRead + Unpin, mut ours: Ours) {
    while let Ok((kind, payload)) = read_frame(&mut reader).await {
        let outcome = match kind {
            Kind::Stdin => match &ours.stdin {
                Some(stdin) => stdin.write_all(&payload).await,
                None => Ok(()),
            },
            Kind::StdinEnd => ours.end_input().await,
            Kind::Size => match payload[..] {
                [a, b, c, d] => ours.resize(u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])),
                _ => return,
            },
            Kind::Stdout | Kind::Stderr | Kind::Exit | Kind::Failed => return,
        };
        if outcome.is_err() {
            // The command reads no more; that alone does not end it.
            ours.stdin = None;
        }
    }
}

async fn read_frame(reader: &mut (impl AsyncRead + Unpin)) -> io::Result<(Kind, Vec<u8>)> {
    let mut head = [0; HEAD];
    reader.read_exact(&mut head).await?;
    let (kind, length) = frames::parse_head(head).map_err(io::Error::other)?;
    let mut payload = vec![0; length];
    reader.read_exact(&mut payload).await?;
    Ok((kind, payload))
}

async fn write_frame(writer: &mut (impl AsyncWrite + Unpin), kind: Kind, payload: &[u8]) -> io::Result<()> {
    let head = frames::head(kind, payload.len()).map_err(io::Error::other)?;
    writer.write_all(&head).await?;
    writer.write_all(payload).await?;
    writer.flush().await
}

fn failed(error: &Error) -> Vec<u8> {
    // An error body is two strings and a code: it always serialises.
    serde_json::to_vec(&error.body()).unwrap_or_default()
}

#[cfg(test)]
mod tests;
