//! The outside of a host that is proved: a network namespace of its own with a web, a name server and everything
//! that must not be reached, all of which really answer and write down what they heard.

mod tls;

use crate::battery::{
    FLAG,
    wires::{NAMES, NAMESERVER, OUTSIDE, WEB},
};
use cofferdam_sys::{netlink::RouteSocket, netns, process, process::Forked, world};
use rustls::ServerConfig;
use std::{
    collections::BTreeSet,
    ffi::CString,
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsFd,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::Duration,
};

/// The host's end of the link, and the outside's.
const HOST: (Ipv4Addr, Ipv6Addr) =
    (Ipv4Addr::new(192, 0, 2, 1), Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 1));
const ROUTER: (Ipv4Addr, Ipv6Addr) =
    (Ipv4Addr::new(192, 0, 2, 2), Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 2));

/// What a client that speaks says at once.
const PATIENCE: Duration = Duration::from_millis(100);
/// How a record of a TLS handshake begins.
const HANDSHAKE: u8 = 22;

/// Joins this network namespace to a new outside, and starts the witness there, with more places than its own where
/// it answers. What it hears is in `log`.
pub(crate) fn join(log: &Path, more: &[SocketAddr]) -> io::Result<()> {
    let (here, outside) = (netns::current()?, netns::create()?);
    netns::inside(outside.as_fd(), || {
        let route = RouteSocket::open()?;
        route.link_up(RouteSocket::LOOPBACK)?;
        route.add_veth("out", "in", here.as_fd())?;
        let link = RouteSocket::index("out")?;
        route.link_up(link)?;
        route.add_address(link, ROUTER.0.into(), 24)?;
        route.add_address(link, ROUTER.1.into(), 64)?;
        let mut addresses: BTreeSet<IpAddr> = more.iter().map(SocketAddr::ip).collect();
        for address in OUTSIDE {
            addresses.insert(address.parse().map_err(io::Error::other)?);
        }
        for address in addresses {
            match address {
                address @ IpAddr::V4(_) => route.add_local_route(RouteSocket::LOOPBACK, address, 32)?,
                address @ IpAddr::V6(_) => route.add_address(RouteSocket::LOOPBACK, address, 128)?,
            }
        }
        world::open_ports()
    })??;
    let route = RouteSocket::open()?;
    route.link_up(RouteSocket::LOOPBACK)?;
    let link = RouteSocket::index("in")?;
    route.link_up(link)?;
    route.add_address(link, HOST.0.into(), 24)?;
    route.add_address(link, HOST.1.into(), 64)?;
    route.add_route(link, Ipv4Addr::UNSPECIFIED.into(), 0, Some(ROUTER.0.into()))?;
    route.add_route(link, Ipv6Addr::UNSPECIFIED.into(), 0, Some(ROUTER.1.into()))?;

    let (mut says, tells) = io::pipe()?;
    if let Forked::Parent(_) = process::fork()? {
        drop(tells);
        return says.read_exact(&mut [0]);
    }
    let become_it = || -> io::Result<()> {
        process::die_with_parent()?;
        netns::enter(outside.as_fd())?;
        process::place(tells.as_fd(), 1)?;
        process::close_on_exec_from(3)?;
        let text = |text: &str| CString::new(text).map_err(io::Error::other);
        let mut argv = vec![text("outside")?, text("__witness")?, text(log.to_str().unwrap_or_default())?];
        for to in more {
            argv.push(text(&to.port().to_string())?);
        }
        Err(process::exec(c"/proc/self/exe", &argv, &[]))
    };
    eprintln!("cofferdam: the outside of a proof: {:?}", become_it());
    process::exit(1)
}

/// The witness outside: everything answers, everything is written down.
pub(crate) fn serve(log: &Path, more: impl Iterator<Item = u16>) -> io::Result<()> {
    let file = OpenOptions::new().create(true).append(true).open(log)?;
    let secure = tls::serving(&roots(log))?;
    for port in more.chain([80, 22, 443, 53]).collect::<BTreeSet<_>>() {
        let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))?;
        let (file, secure) = (file.try_clone()?, Arc::clone(&secure));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (file, secure) = (file.try_clone(), Arc::clone(&secure));
                thread::spawn(move || file.and_then(|file| answer(stream, file, &secure)));
            }
        });
    }
    let names = UdpSocket::bind((NAMESERVER, 53))?;
    thread::spawn(move || resolve(&names, file));
    let mut out = io::stdout();
    out.write_all(b"!")?;
    out.flush()
}

/// Hears what is said at once, writes it down, and gives the flag.
fn answer(mut stream: TcpStream, mut log: File, secure: &Arc<ServerConfig>) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let heard = hear(&mut stream);
    log.write_all(&heard)?;
    if heard.first() == Some(&HANDSHAKE)
        && let Ok(mut inside) = tls::accept(secure, &heard, &stream)
    {
        log.write_all(&hear(&mut inside))?;
        return inside.write_all(flag().as_bytes()).and_then(|()| inside.end());
    }
    // What is no TLS after all got here, too.
    stream.write_all(flag().as_bytes())
}

/// What is said at once.
fn hear(stream: &mut impl Read) -> Vec<u8> {
    let mut heard = Vec::new();
    let mut piece = [0; 4096];
    while heard.len() < 64 * 1024 {
        match stream.read(&mut piece) {
            Ok(length) if length > 0 => heard.extend_from_slice(&piece[..length]),
            _ => break,
        }
        // The rest of a handshake is its reader's.
        if heard.first() == Some(&HANDSHAKE) && heard.len() > 60 {
            break;
        }
        if heard.windows(4).any(|four| four == b"\r\n\r\n") && !heard.starts_with(b"POST") {
            break;
        }
    }
    heard
}

fn flag() -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{FLAG}", FLAG.len())
}

/// Where the certificate of the authority lies under which the outside speaks TLS.
pub(crate) fn roots(log: &Path) -> PathBuf {
    log.with_extension("pem")
}

/// A name server that knows [`NAMES`].
fn resolve(socket: &UdpSocket, mut log: File) {
    let mut packet = [0; 512];
    while let Ok((length, from)) = socket.recv_from(&mut packet) {
        let Some((name, kind, end)) = question(&packet[..length]) else { continue };
        let _ = writeln!(log, "look-up of {name}");
        let told = NAMES.iter().find(|(known, _)| *known == name).map_or(WEB, |(_, address)| address);
        let rdata = match (told.parse(), kind) {
            (Ok(IpAddr::V4(address)), 1) => address.octets().to_vec(),
            (Ok(IpAddr::V6(address)), 28) => address.octets().to_vec(),
            _ => Vec::new(),
        };
        let _ = socket.send_to(&reply(&packet[..end], kind, &rdata), from);
    }
}

/// Name, type and end of the one question of a query.
fn question(packet: &[u8]) -> Option<(String, u16, usize)> {
    let mut at = 12;
    let mut labels = Vec::new();
    loop {
        let length = usize::from(*packet.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        labels.push(String::from_utf8_lossy(packet.get(at..at + length)?).to_lowercase());
        at += length;
    }
    let kind = u16::from_be_bytes([*packet.get(at)?, *packet.get(at + 1)?]);
    Some((labels.join("."), kind, (at + 4).min(packet.len())))
}

/// An answer with one address, or none.
fn reply(query: &[u8], kind: u16, rdata: &[u8]) -> Vec<u8> {
    let mut reply = query.to_vec();
    let count = u16::from(!rdata.is_empty()).to_be_bytes();
    reply[2..12].copy_from_slice(&[0x84, 0x00, 0, 1, count[0], count[1], 0, 0, 0, 0]);
    if !rdata.is_empty() {
        reply.extend([0xc0, 0x0c]);
        reply.extend(kind.to_be_bytes());
        reply.extend([0, 1, 0, 0, 0, 0]);
        reply.extend(u16::try_from(rdata.len()).unwrap_or(0).to_be_bytes());
        reply.extend(rdata);
    }
    reply
}

/// Asks the name server outside, as a process in no cell could.
pub(crate) fn ask(name: &str) -> io::Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.set_read_timeout(Some(Duration::from_millis(500)))?;
    let to: SocketAddr = (NAMESERVER.parse::<IpAddr>().map_err(io::Error::other)?, 53).into();
    let mut query = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        query.push(u8::try_from(label.len()).unwrap_or(0));
        query.extend(label.as_bytes());
    }
    query.extend([0, 0, 1, 0, 1]);
    socket.send_to(&query, to)?;
    socket.recv(&mut [0; 512]).map(drop)
}
