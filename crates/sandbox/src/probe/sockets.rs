//! Attempts on networks: what would come back is known to the witness outside alone.

use super::Outcome;
use cofferdam_sys::attempt::{self, Argument};
use std::{
    collections::VecDeque,
    fs,
    io::{self, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs, UdpSocket},
    os::{
        fd::AsRawFd,
        linux::net::SocketAddrExt,
        unix::{fs::FileTypeExt, net},
    },
    path::PathBuf,
    time::Duration,
};

const EPERM: i32 = 1;
/// A witness answers at once; silence is a no.
pub(super) const PATIENCE: Duration = Duration::from_millis(250);

pub(super) fn tcp(to: SocketAddr, say: &str, expect: &str) -> io::Result<Outcome> {
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(&bytes(say))?;
    answered(&mut stream, expect)
}

/// One character a byte; there is no other.
pub(super) fn bytes(say: &str) -> Vec<u8> {
    say.chars().filter_map(|letter| u8::try_from(u32::from(letter)).ok()).collect()
}

/// Reads until the answer has come, or nothing more does.
pub(super) fn answered(stream: &mut impl Read, expect: &str) -> io::Result<Outcome> {
    let mut answer = Vec::new();
    let mut piece = [0; 1024];
    while answer.len() < 64 * 1024 && !answer.windows(expect.len().max(1)).any(|it| it == expect.as_bytes()) {
        match stream.read(&mut piece) {
            Ok(0) => break,
            Ok(length) => answer.extend_from_slice(&piece[..length]),
            Err(error) if answer.is_empty() => return Err(error),
            Err(_) => break,
        }
    }
    Ok(judged(&answer, expect))
}

pub(super) fn tcp_name(name: &str, port: u16, say: &str, expect: &str) -> io::Result<Outcome> {
    let to = (name, port).to_socket_addrs()?.next();
    tcp(to.ok_or_else(|| io::Error::other("the name means nothing"))?, say, expect)
}

pub(super) fn lookup(name: &str) -> io::Result<Outcome> {
    let found = (name, 80).to_socket_addrs()?.next();
    // Being told an address is no success: it may be one that the cell's own resolver made.
    Ok(Outcome::failure(format!("the name means {found:?}")))
}

pub(super) fn udp(to: SocketAddr, expect: &str) -> io::Result<Outcome> {
    let any: SocketAddr = if to.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0_u16; 8], 0).into() };
    let socket = UdpSocket::bind(any)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.send_to(b"witness?", to)?;
    let mut answer = [0; 1024];
    // From whomever: a witness that answers for every address may do it from another one.
    let (length, _) = socket.recv_from(&mut answer)?;
    Ok(judged(&answer[..length], expect))
}

fn judged(answer: &[u8], expect: &str) -> Outcome {
    let text = String::from_utf8_lossy(answer);
    if text.contains(expect) {
        return Outcome::success("the witness answered");
    }
    let first: String = text.lines().next().unwrap_or("nothing").chars().take(60).collect();
    Outcome::failure(format!("somebody else answered: {first}"))
}

pub(super) fn abstract_unix(name: &str) -> io::Result<Outcome> {
    net::UnixStream::connect_addr(&net::SocketAddr::from_abstract_name(name)?)?;
    Ok(Outcome::success("connected"))
}

/// So many names are looked at: an offered directory may hold any number.
const MOST_NAMES: usize = 20_000;

pub(super) fn unix(below: &[PathBuf]) -> Outcome {
    // It is a socket of another kind, and somebody's.
    const EPROTOTYPE: i32 = 91;
    let mut rest: VecDeque<PathBuf> = below.iter().cloned().collect();
    let (mut names, mut sockets) = (0, 0);
    while let Some(directory) = rest.pop_front() {
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten().take(MOST_NAMES - names) {
            names += 1;
            let Ok(kind) = entry.file_type() else { continue };
            if kind.is_dir() {
                rest.push_back(entry.path());
            }
            if !kind.is_socket() {
                continue;
            }
            sockets += 1;
            match net::UnixStream::connect(entry.path()) {
                Err(error) if error.raw_os_error() != Some(EPROTOTYPE) => {}
                _ => return Outcome::success(format!("{} took a connection", entry.path().display())),
            }
        }
    }
    Outcome::failure(format!("none of {sockets} sockets among {names} names"))
}

pub(super) fn bind(at: SocketAddr) -> io::Result<Outcome> {
    TcpListener::bind(at)?;
    Ok(Outcome::success("bound"))
}

pub(super) fn socket_option(v4: bool, level: i32, option: i32, value: &[u8]) -> io::Result<Outcome> {
    let family = if v4 { rustix::net::AddressFamily::INET } else { rustix::net::AddressFamily::INET6 };
    let socket = rustix::net::socket(family, rustix::net::SocketType::STREAM, None)?;
    let number = |value: i32| Argument::Number(u64::from(value.unsigned_abs()));
    let arguments = [
        number(socket.as_raw_fd()),
        number(level),
        number(option),
        Argument::Bytes(value.to_vec()),
        Argument::Number(value.len() as u64),
    ];
    // A value that the kernel refuses has been looked at.
    super::reached(attempt::SETSOCKOPT, &arguments, &[EPERM])
}

pub(super) fn own_port(port: u16) -> io::Result<Outcome> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
    let to = listener.local_addr()?;
    TcpStream::connect_timeout(&to, PATIENCE)?;
    Ok(Outcome::success("connected without the mark"))
}
