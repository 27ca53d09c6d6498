//! `tenant exec`: the caller's standard streams, relayed over the control socket. The caller's own
//! descriptors never reach the cell.

use super::{Client, Failure};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use cofferdam_base::TenantId;
use cofferdam_control::api::{
    frames::{self, ExecRequest, Kind},
    types::ErrorBody,
};
use http::{Method, Request, header};
use http_body_util::Full;
use hyper_util::rt::TokioIo;
use rustix::termios;
use std::{io::Write, process::ExitCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};

type Stream = TokioIo<hyper::upgrade::Upgraded>;

/// Runs a command in a tenant's cell and gives back its exit status.
pub(super) async fn run(
    client: &Client,
    id: &TenantId,
    argv: Vec<String>,
    terminal: bool,
    raw: bool,
) -> Result<ExitCode, Failure> {
    let size = terminal.then(window_size).flatten();
    let order = ExecRequest { argv, terminal, size, raw };
    let order = BASE64_URL_SAFE_NO_PAD.encode(serde_json::to_vec(&order).map_err(Failure::could_not)?);
    let request = Request::builder()
        .method(Method::POST)
        .uri(format!("/api/v1/tenants/{id}/exec"))
        .header(header::HOST, "cofferdam")
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, frames::PROTOCOL)
        .header(frames::REQUEST_HEADER, order)
        .body(Full::default())
        .map_err(Failure::could_not)?;
    let response = client.send(request).await?;
    let upgraded = hyper::upgrade::on(response).await.map_err(Failure::could_not)?;
    let (from, to) = tokio::io::split(TokioIo::new(upgraded));

    let _raw = terminal.then(RawTerminal::enter).flatten();
    // Reading standard input blocks a thread that nothing can wake; the process ends with the command.
    std::thread::spawn({
        let handle = tokio::runtime::Handle::current();
        move || forward_input(&handle, to)
    });
    let code = receive(from).await?;
    Ok(ExitCode::from(code))
}

fn forward_input(handle: &tokio::runtime::Handle, mut to: WriteHalf<Stream>) {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let read = std::io::Read::read(&mut std::io::stdin(), &mut buffer).unwrap_or(0);
        let kind = if read == 0 { Kind::StdinEnd } else { Kind::Stdin };
        let Ok(head) = frames::head(kind, read) else { return };
        let sent = handle.block_on(async {
            to.write_all(&head).await?;
            to.write_all(&buffer[..read]).await?;
            to.flush().await
        });
        if read == 0 || sent.is_err() {
            // The half stays open: closing it would be a disconnect, which cancels the command.
            std::mem::forget(to);
            return;
        }
    }
}

async fn receive(mut from: ReadHalf<Stream>) -> Result<u8, Failure> {
    let mut payload = Vec::new();
    loop {
        let mut head = [0; frames::HEAD];
        from.read_exact(&mut head).await.map_err(|_| Failure::could_not("the host went away"))?;
        let (kind, length) = frames::parse_head(head).map_err(Failure::could_not)?;
        payload.resize(length, 0);
        from.read_exact(&mut payload).await?;
        match kind {
            Kind::Stdout => write(&mut std::io::stdout().lock(), &payload)?,
            Kind::Stderr => write(&mut std::io::stderr().lock(), &payload)?,
            Kind::Exit => return Ok(payload.first().copied().unwrap_or(2)),
            Kind::Failed => {
                let body: ErrorBody = serde_json::from_slice(&payload).map_err(Failure::could_not)?;
                return Err(Failure::answered(http::StatusCode::FORBIDDEN, body.error));
            }
            Kind::Stdin | Kind::Size | Kind::StdinEnd => {
                return Err(Failure::could_not("the host sent a frame that only clients send"));
            }
        }
    }
}

fn write(out: &mut impl Write, bytes: &[u8]) -> Result<(), Failure> {
    out.write_all(bytes)?;
    Ok(out.flush()?)
}

fn window_size() -> Option<(u16, u16)> {
    termios::tcgetwinsize(std::io::stdin()).ok().map(|size| (size.ws_row, size.ws_col))
}

/// The caller's terminal without line editing, until dropped.
struct RawTerminal(termios::Termios);

impl RawTerminal {
    fn enter() -> Option<Self> {
        let before = termios::tcgetattr(std::io::stdin()).ok()?;
        let mut raw = before.clone();
        raw.make_raw();
        termios::tcsetattr(std::io::stdin(), termios::OptionalActions::Now, &raw).ok()?;
        Some(Self(before))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // A terminal that is gone needs no restoring.
        let _ = termios::tcsetattr(std::io::stdin(), termios::OptionalActions::Now, &self.0);
    }
}
