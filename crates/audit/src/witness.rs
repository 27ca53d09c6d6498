//! The witness: a process of the throw-away world outside a cell, which is what a cell must not reach.
//!
//! It is the hidden entry `__witness`, under the uid of the cell, so that nothing but the seal stands between: it
//! answers on every address, TCP and UDP, holds an abstract socket, shared memory and semaphores. With the name of a
//! file it is the outside of a host instead (`outside`).

use crate::battery::{ABSTRACT, FLAG, SEGMENT};
use cofferdam_sys::world;
use std::{
    io::{self, Write},
    net::{TcpListener, UdpSocket},
    os::{linux::net::SocketAddrExt, unix::net},
    process::ExitCode,
    thread,
};

/// Where it listens: what the battery asks for.
const TCP: [u16; 5] = [80, 22, 53, 853, 18789];
const UDP: [u16; 4] = [53, 443, 5353, 9999];

/// The hidden entry `__witness`. Writes a byte to its standard output when everything is there; runs until it is
/// killed.
pub fn witness_main() -> ExitCode {
    let served = match std::env::args().nth(2) {
        Some(log) => {
            let ports = std::env::args().skip(3).filter_map(|port| port.parse().ok());
            crate::outside::serve(log.as_ref(), ports)
        }
        None => serve(),
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

fn serve() -> io::Result<()> {
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
    let mut out = io::stdout();
    out.write_all(b"!")?;
    out.flush()
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
