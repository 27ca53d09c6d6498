//! The witness: a process of the throw-away world outside a cell, which is what a cell must not reach.
//!
//! It is the hidden entry `__witness`, under the uid of the cell, so that nothing but the seal stands between: it
//! answers on every address, TCP and UDP, holds an abstract socket, shared memory and semaphores, and in an offered
//! directory a socket, a named pipe and a lock. With the name of a file it is the outside of a host (`outside`).

use crate::battery::{ABSTRACT, FLAG, SEGMENT, offered};
use cofferdam_sys::world;
use std::{
    fs,
    io::{self, Write},
    net::{TcpListener, UdpSocket},
    os::{linux::net::SocketAddrExt, unix::net},
    path::Path,
    process::ExitCode,
    thread,
};

/// Where it listens: what the battery asks for.
const TCP: [u16; 5] = [80, 22, 53, 853, 18789];
const UDP: [u16; 4] = [53, 443, 5353, 9999];

/// The hidden entry `__witness`. Writes a byte to its standard output when everything is there; runs until it is
/// killed.
pub fn witness_main() -> ExitCode {
    let mut told = std::env::args().skip(2);
    let (place, mut rest) = (told.next().unwrap_or_default(), told);
    let served = if place == INSIDE {
        serve(rest.next().unwrap_or_default().as_ref())
    } else {
        crate::outside::serve(place.as_ref(), rest.filter_map(|port| port.parse().ok()))
    };
    match served {
        Ok(()) => loop {
            thread::park();
        },
        Err(error) => {
            eprintln!("cofferdam: the witness of a proof: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Says that it is a witness beside cells, which lives in the directory that is named next.
pub(crate) const INSIDE: &str = "inside";

fn serve(lives: &Path) -> io::Result<()> {
    for port in TCP {
        // Of both families: every IPv4 address arrives here as a mapped one.
        let listener = TcpListener::bind(("::", port))?;
        thread::spawn(move || answer(&listener));
    }
    for port in UDP {
        let socket = UdpSocket::bind(("::", port))?;
        thread::spawn(move || echo(&socket));
    }
    let name = net::SocketAddr::from_abstract_name(ABSTRACT)?;
    let held = net::UnixListener::bind_addr(&name)?;
    thread::spawn(move || held.incoming().for_each(drop));
    world::make_shared(SEGMENT)?;
    // It stays locked as long as this runs.
    let locked = fs::File::open(lives.join(offered::LOCKED))?;
    rustix::fs::flock(&locked, rustix::fs::FlockOperation::LockExclusive)?;
    let socket = net::UnixListener::bind(lives.join(offered::SOCKET))?;
    thread::spawn(move || {
        let _locked = locked;
        socket.incoming().for_each(drop);
    });
    write_to(&lives.join(offered::PIPE))?;
    let mut out = io::stdout();
    out.write_all(b"!")?;
    out.flush()
}

/// Makes a named pipe, and sees to it that there is always something to read in it.
fn write_to(pipe: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, FileType, Mode, OFlags};
    rustix::fs::mknodat(CWD, pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?;
    // With both of its ends it never waits for somebody to open it.
    let mut pipe = fs::File::from(rustix::fs::open(pipe, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?);
    thread::spawn(move || while pipe.write_all(FLAG.as_bytes()).is_ok() {});
    Ok(())
}

fn answer(listener: &TcpListener) {
    for stream in listener.incoming() {
        // A client that is gone is none.
        let _ = stream.and_then(|mut stream| stream.write_all(FLAG.as_bytes()));
    }
}

fn echo(socket: &UdpSocket) {
    let mut bytes = [0; 64];
    while let Ok((_, from)) = socket.recv_from(&mut bytes) {
        let _ = socket.send_to(FLAG.as_bytes(), from);
    }
}
