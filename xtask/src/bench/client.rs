//! A client that costs little: blocking sockets, one write and as few reads as possible a request.

use anyhow::{Context, Result, bail};
use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

/// One way to the mock.
#[derive(Clone)]
pub(super) struct Contender {
    pub(super) name: &'static str,
    pub(super) address: SocketAddr,
    /// `Authorization: Bearer …` and the like, each line ending in CRLF.
    pub(super) headers: String,
}

/// A keep-alive HTTP connection.
pub(super) struct Http {
    stream: TcpStream,
    request: Vec<u8>,
    buffer: Vec<u8>,
}

impl Http {
    pub(super) fn open(contender: &Contender, path: &str) -> Result<Self> {
        let stream = connect(contender)?;
        let Contender { address, headers, .. } = contender;
        let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n{headers}\r\n").into_bytes();
        Ok(Self { stream, request, buffer: vec![0; 64 * 1024] })
    }

    /// One request and its whole answer; microseconds.
    pub(super) fn exchange(&mut self) -> Result<f64> {
        let start = Instant::now();
        self.stream.write_all(&self.request)?;
        let mut filled = 0;
        let whole = loop {
            let read = self.stream.read(&mut self.buffer[filled..])?;
            if read == 0 {
                bail!("closed in the middle of an answer");
            }
            filled += read;
            if let Some(whole) = answer_length(&self.buffer[..filled])? {
                break whole;
            }
        };
        while filled < whole {
            filled += self.stream.read(&mut self.buffer[filled..])?;
        }
        Ok(start.elapsed().as_secs_f64() * 1e6)
    }
}

/// Head and body length together, once the head is complete.
fn answer_length(bytes: &[u8]) -> Result<Option<usize>> {
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(None) };
    let head = std::str::from_utf8(&bytes[..end])?;
    if !head.starts_with("HTTP/1.1 200") {
        bail!("{}", head.lines().next().unwrap_or_default());
    }
    let length = head
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .context("the answer has no length")?
        .1;
    Ok(Some(end + 4 + length.trim().parse::<usize>()?))
}

/// A WebSocket connection that echoes 64 bytes of text.
pub(super) struct Echo {
    stream: TcpStream,
}

impl Echo {
    pub(super) fn open(contender: &Contender) -> Result<Self> {
        let mut stream = connect(contender)?;
        let Contender { address, headers, .. } = contender;
        write!(
            stream,
            "GET /ws HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{headers}\r\n"
        )?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte)?;
            head.push(byte[0]);
        }
        if !head.starts_with(b"HTTP/1.1 101") {
            bail!("no upgrade: {}", String::from_utf8_lossy(&head));
        }
        Ok(Self { stream })
    }

    /// One message there and back; microseconds.
    pub(super) fn exchange(&mut self) -> Result<f64> {
        // FIN + text, masked with zeroes, 64 bytes.
        let mut frame = [b'x'; 70];
        frame[..6].copy_from_slice(&[0x81, 0x80 | 64, 0, 0, 0, 0]);
        let start = Instant::now();
        self.stream.write_all(&frame)?;
        let mut answer = [0; 66];
        self.stream.read_exact(&mut answer)?;
        if answer[..2] != [0x81, 64] {
            bail!("not the frame that was sent");
        }
        Ok(start.elapsed().as_secs_f64() * 1e6)
    }
}

fn connect(contender: &Contender) -> Result<TcpStream> {
    let stream = TcpStream::connect(contender.address)
        .with_context(|| format!("{} at {}", contender.name, contender.address))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    Ok(stream)
}
