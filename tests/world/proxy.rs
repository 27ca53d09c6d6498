//! A scripted corporate proxy: CONNECT on threads, with what it wants to hear and what it answers.

use super::http::thread;
use rustix::net::Shutdown;
use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs},
    sync::{Arc, Mutex},
    thread::JoinHandle,
};

/// The proxy. Dropping it closes its listener; tunnels end with their ends.
pub struct Proxy {
    shared: Arc<Shared>,
    listener: TcpListener,
    accepting: Option<JoinHandle<()>>,
}

/// What it does with a CONNECT.
#[derive(Clone, Debug)]
pub enum Does {
    /// Opens the way, to the address that it was told.
    Opens,
    /// Opens the way there whatever it was told: it is the one that resolves names.
    Leads(SocketAddr),
    /// Answers this text and closes.
    Answers(String),
    /// Says nothing.
    Waits,
}

struct Shared {
    does: Mutex<Does>,
    /// Each CONNECT: its target, and what was in `Proxy-Authorization`.
    asked: Mutex<Vec<(String, Option<String>)>>,
    /// What must be in it.
    wants: Mutex<Option<String>>,
    silent: Mutex<Vec<TcpStream>>,
}

impl Proxy {
    /// Listens at this address of this thread's namespace.
    pub fn start(address: SocketAddr) -> Self {
        let shared = Arc::new(Shared {
            does: Mutex::new(Does::Opens),
            asked: Mutex::default(),
            wants: Mutex::default(),
            silent: Mutex::default(),
        });
        let listener = TcpListener::bind(address).unwrap();
        let (ours, for_thread) = (listener.try_clone().unwrap(), shared.clone());
        let accepting = thread(move || {
            while let Ok((stream, _)) = ours.accept() {
                let shared = for_thread.clone();
                // They end with their streams; in a test nobody waits for them.
                drop(thread(move || drop(serve(stream, &shared))));
            }
        });
        Self { shared, listener, accepting: Some(accepting) }
    }

    /// From now on.
    pub fn does(&self, does: Does) {
        *self.shared.does.lock().unwrap() = does;
    }

    /// From now on it answers 407 to whoever does not say this.
    pub fn wants(&self, authorization: Option<&str>) {
        *self.shared.wants.lock().unwrap() = authorization.map(String::from);
    }

    /// Every CONNECT since the last call.
    pub fn asked(&self) -> Vec<(String, Option<String>)> {
        std::mem::take(&mut *self.shared.asked.lock().unwrap())
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = rustix::net::shutdown(&self.listener, Shutdown::Both);
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.join();
        }
    }
}

fn serve(stream: TcpStream, shared: &Shared) -> io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let (mut first, mut said) = (String::new(), None);
    reader.read_line(&mut first)?;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 || line.trim().is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("proxy-authorization")
        {
            said = Some(value.trim().to_owned());
        }
    }
    let target = first.strip_prefix("CONNECT ").and_then(|rest| rest.split(' ').next()).unwrap_or(&first);
    shared.asked.lock().unwrap().push((target.to_owned(), said.clone()));
    let wants = shared.wants.lock().unwrap().clone();
    if wants.is_some() && wants != said {
        let no = "HTTP/1.1 407 Who?\r\nProxy-Authenticate: Basic realm=\"corp\"\r\ncontent-length: 0\r\n\r\n";
        return (&stream).write_all(no.as_bytes());
    }
    let does = shared.does.lock().unwrap().clone();
    let to = match does {
        Does::Opens => target.to_socket_addrs()?.next().ok_or(io::ErrorKind::NotFound)?,
        Does::Leads(to) => to,
        Does::Answers(text) => return (&stream).write_all(text.as_bytes()),
        Does::Waits => {
            shared.silent.lock().unwrap().push(stream);
            return Ok(());
        }
    };
    let world = TcpStream::connect(to)?;
    (&stream).write_all(b"HTTP/1.1 200 Open\r\nVia: corp\r\n\r\n")?;
    let (mut there, cell) = (world.try_clone()?, stream.try_clone()?);
    let back = thread(move || copy(&world, &cell));
    let early = reader.buffer().to_vec();
    there.write_all(&early)?;
    copy(&stream, &there);
    let _ = back.join();
    Ok(())
}

fn copy(mut from: &TcpStream, mut to: &TcpStream) {
    let mut buffer = [0; 16 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(std::net::Shutdown::Write);
    let _ = from.shutdown(std::net::Shutdown::Read);
}
