//! A small HTTP/1.1 server on threads, and a client for positive controls.

use rustix::net::Shutdown;
use std::{
    collections::HashMap,
    fmt::Write as _,
    io::{self, BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread::JoinHandle,
    time::Duration,
};

/// A request as it arrived.
#[derive(Clone, Debug)]
pub struct Request {
    /// Where it arrived.
    pub to: SocketAddr,
    /// Who sent it.
    pub from: SocketAddr,
    /// `GET` for example.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// In their order, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body, de-chunked.
    pub body: Vec<u8>,
}

/// What is answered, or was.
#[derive(Clone, Debug, Default)]
pub struct Reply {
    /// The status code.
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// One part goes with its length; several go as chunks, each written by itself.
    pub parts: Vec<Vec<u8>>,
}

/// One server at any number of addresses. Dropping it closes them all and every connection.
pub struct Server {
    shared: Arc<Shared>,
    listeners: Vec<TcpListener>,
    threads: Vec<JoinHandle<()>>,
}

/// A connection that arrived, even if no request did: to and from.
pub type Hit = (SocketAddr, SocketAddr);

type Handler = Box<dyn Fn(&Request) -> Reply + Send + Sync>;

struct Shared {
    handler: Handler,
    pages: Mutex<HashMap<String, Reply>>,
    requests: Mutex<Vec<Request>>,
    hits: Mutex<Vec<Hit>>,
    open: Mutex<Vec<(TcpStream, JoinHandle<()>)>>,
}

impl Server {
    /// Listens at these addresses of this thread's namespace; `otherwise` answers where no page was set.
    pub fn start(
        addresses: &[SocketAddr],
        otherwise: impl Fn(&Request) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let shared = Arc::new(Shared {
            handler: Box::new(otherwise),
            pages: Mutex::default(),
            requests: Mutex::default(),
            hits: Mutex::default(),
            open: Mutex::default(),
        });
        let listeners: Vec<_> = addresses.iter().map(|address| TcpListener::bind(address).unwrap()).collect();
        let listen = |listener: &TcpListener| {
            let (listener, shared) = (listener.try_clone().unwrap(), shared.clone());
            thread(move || accept(&listener, &shared))
        };
        let threads = listeners.iter().map(listen).collect();
        Self { shared, listeners, threads }
    }

    /// Answers this path, without its query, like this from now on.
    pub fn page(&self, path: &str, reply: Reply) {
        self.shared.pages.lock().unwrap().insert(path.into(), reply);
    }

    /// Every request so far.
    pub fn requests(&self) -> Vec<Request> {
        self.shared.requests.lock().unwrap().clone()
    }

    /// Every connection so far.
    pub fn hits(&self) -> Vec<Hit> {
        self.shared.hits.lock().unwrap().clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        for listener in &self.listeners {
            // A listener that is shut down ends the accept that waits on it.
            let _ = rustix::net::shutdown(listener, Shutdown::Both);
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
        for (stream, thread) in std::mem::take(&mut *self.shared.open.lock().unwrap()) {
            let _ = stream.shutdown(std::net::Shutdown::Both);
            let _ = thread.join();
        }
    }
}

impl Request {
    /// The first header of this name (lower case).
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|header| header.0 == name).map(|header| header.1.as_str())
    }

    /// The path without its query.
    pub fn route(&self) -> &str {
        self.path.split('?').next().unwrap_or_default()
    }
}

impl Reply {
    /// Plain text.
    pub fn text(status: u16, body: &str) -> Self {
        Self { status, headers: vec![("content-type".into(), "text/plain".into())], parts: vec![body.into()] }
    }

    /// A JSON document.
    pub fn json(status: u16, body: &serde_json::Value) -> Self {
        let headers = vec![("content-type".into(), "application/json".into())];
        Self { status, headers, parts: vec![body.to_string().into()] }
    }

    /// With one header more.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_ascii_lowercase(), value.into()));
        self
    }

    /// The first header of this name (lower case).
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|header| header.0 == name).map(|header| header.1.as_str())
    }

    /// The whole body as text.
    pub fn body(&self) -> String {
        String::from_utf8_lossy(&self.parts.concat()).into_owned()
    }
}

/// Asks from this thread's namespace, with `host` as the Host header.
pub fn get(address: SocketAddr, host: &str, path: &str) -> io::Result<Reply> {
    send(address, &format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"))
}

/// Posts a JSON document; `headers` are whole lines, each with its end.
pub fn post(
    address: SocketAddr,
    host: &str,
    path: &str,
    headers: &str,
    body: &serde_json::Value,
) -> io::Result<Reply> {
    let body = body.to_string();
    let length = body.len();
    let head =
        format!("POST {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Length: {length}\r\n");
    send(address, &format!("{head}{headers}\r\n{body}"))
}

/// Sends a whole request as text and reads the answer.
pub fn send(address: SocketAddr, request: &str) -> io::Result<Reply> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(20))?;
    stream.write_all(request.as_bytes())?;
    let mut reader = BufReader::new(stream);
    let (first, headers) = head(&mut reader)?.ok_or(io::ErrorKind::UnexpectedEof)?;
    let status = first.split(' ').nth(1).and_then(|status| status.parse().ok());
    let parts = vec![body(&mut reader, &headers, true)?];
    Ok(Reply { status: status.ok_or(io::ErrorKind::InvalidData)?, headers, parts })
}

pub(super) fn thread(work: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
    std::thread::Builder::new().name("world".into()).spawn(work).unwrap()
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    while let Ok((stream, from)) = listener.accept() {
        let Ok(to) = stream.local_addr() else { continue };
        shared.hits.lock().unwrap().push((to, from));
        let Ok(ours) = stream.try_clone() else { continue };
        let for_thread = shared.clone();
        let thread = thread(move || {
            let _ = serve(&ours, to, from, &for_thread);
            let _ = ours.shutdown(std::net::Shutdown::Both);
        });
        shared.open.lock().unwrap().push((stream, thread));
    }
}

fn serve(stream: &TcpStream, to: SocketAddr, from: SocketAddr, shared: &Shared) -> io::Result<()> {
    let mut reader = BufReader::new(stream);
    while let Some((first, headers)) = head(&mut reader)? {
        let mut words = first.split(' ').map(String::from);
        let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let body = body(&mut reader, &headers, false)?;
        let request = Request { to, from, method, path, headers, body };
        shared.requests.lock().unwrap().push(request.clone());
        let page = shared.pages.lock().unwrap().get(request.route()).cloned();
        write(stream, &page.unwrap_or_else(|| (shared.handler)(&request)))?;
        if request.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close")) {
            break;
        }
    }
    Ok(())
}

fn write(mut stream: &TcpStream, reply: &Reply) -> io::Result<()> {
    let mut head = format!("HTTP/1.1 {} Scripted\r\n", reply.status);
    for (name, value) in &reply.headers {
        let _ = write!(head, "{name}: {value}\r\n");
    }
    if let [only] = &reply.parts[..] {
        let _ = write!(head, "content-length: {}\r\n\r\n", only.len());
        stream.write_all(&[head.as_bytes(), only].concat())
    } else {
        stream.write_all(format!("{head}transfer-encoding: chunked\r\n\r\n").as_bytes())?;
        for part in &reply.parts {
            let size = format!("{:x}\r\n", part.len());
            stream.write_all(&[size.as_bytes(), part, b"\r\n"].concat())?;
        }
        stream.write_all(b"0\r\n\r\n")
    }
}

type Head = (String, Vec<(String, String)>);

fn head(reader: &mut impl BufRead) -> io::Result<Option<Head>> {
    let Some(first) = line(reader)? else { return Ok(None) };
    let mut headers = Vec::new();
    loop {
        match line(reader)? {
            None => return Err(io::ErrorKind::UnexpectedEof.into()),
            Some(line) if line.is_empty() => return Ok(Some((first, headers))),
            Some(line) => {
                let (name, value) = line.split_once(':').ok_or(io::ErrorKind::InvalidData)?;
                headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
            }
        }
    }
}

fn line(reader: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    Ok(Some(line.trim_end_matches(['\r', '\n']).to_owned()))
}

/// Reads a body: chunked, of a length, or, of an answer, up to the end.
fn body(reader: &mut impl BufRead, headers: &[(String, String)], to_end: bool) -> io::Result<Vec<u8>> {
    let find = |name| headers.iter().find(|header| header.0 == name).map(|header| header.1.as_str());
    let mut body = Vec::new();
    if find("transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked")) {
        loop {
            let size = line(reader)?.ok_or(io::ErrorKind::UnexpectedEof)?;
            let size = u64::from_str_radix(size.trim(), 16).map_err(|_| io::ErrorKind::InvalidData)?;
            reader.take(size).read_to_end(&mut body)?;
            line(reader)?;
            if size == 0 {
                return Ok(body);
            }
        }
    }
    match find("content-length").and_then(|length| length.parse().ok()) {
        Some(length) => reader.take(length).read_to_end(&mut body)?,
        None if to_end => reader.read_to_end(&mut body)?,
        None => 0,
    };
    Ok(body)
}
