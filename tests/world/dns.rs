//! A scripted name server over UDP and TCP, and a client for positive controls.

use super::http::thread;
use rustix::net::Shutdown;
use std::{
    collections::HashMap,
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

/// The numbers of record types.
pub const A: u16 = 1;
/// IPv6 addresses.
pub const AAAA: u16 = 28;
const CNAME: u16 = 5;

/// A question that arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Lower case, without the last dot.
    pub name: String,
    /// The number of the record type.
    pub kind: u16,
    /// Came over TCP.
    pub tcp: bool,
}

/// The name server. Dropping it closes its sockets.
pub struct NameServer {
    shared: Arc<Shared>,
    udp: UdpSocket,
    tcp: TcpListener,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    ending: AtomicBool,
    table: Mutex<HashMap<String, Entry>>,
    questions: Mutex<Vec<Question>>,
}

#[derive(Clone, Default)]
struct Entry {
    /// One set of addresses for each question of one type; the last one stays.
    sets: Vec<Vec<IpAddr>>,
    asked: HashMap<u16, usize>,
    alias: Option<String>,
    ttl: u32,
    /// Over UDP only "ask again over TCP" is answered.
    tcp_only: bool,
}

impl NameServer {
    /// Listens at this address of this thread's namespace.
    pub fn start(address: SocketAddr) -> Self {
        let shared = Arc::new(Shared::default());
        let (udp, tcp) = (UdpSocket::bind(address).unwrap(), TcpListener::bind(address).unwrap());
        let (udp_side, tcp_side) =
            ((udp.try_clone().unwrap(), shared.clone()), (tcp.try_clone().unwrap(), shared.clone()));
        let threads = vec![
            thread(move || serve_udp(&udp_side.0, &udp_side.1)),
            thread(move || serve_tcp(&tcp_side.0, &tcp_side.1)),
        ];
        Self { shared, udp, tcp, threads }
    }

    /// The name has these addresses, with a TTL of 60 seconds.
    pub fn answer(&self, name: &str, addresses: &[&str]) {
        self.set(name, Entry { sets: vec![parse(addresses)], ttl: 60, ..Entry::default() });
    }

    /// The name's first question (of each type) gets the first set, the next one the next, and so on to the
    /// last, which stays; TTL 0.
    pub fn rebind(&self, name: &str, sets: &[&[&str]]) {
        let sets = sets.iter().map(|set| parse(set)).collect();
        self.set(name, Entry { sets, ..Entry::default() });
    }

    /// The name is an alias of another; TTL 0.
    pub fn alias(&self, name: &str, target: &str) {
        self.set(name, Entry { alias: Some(target.to_ascii_lowercase()), ..Entry::default() });
    }

    /// The name has these addresses, told over TCP only.
    pub fn answer_over_tcp(&self, name: &str, addresses: &[&str]) {
        self.set(name, Entry { sets: vec![parse(addresses)], ttl: 60, tcp_only: true, ..Entry::default() });
    }

    /// Forgets a name.
    pub fn forget(&self, name: &str) {
        self.shared.table.lock().unwrap().remove(&name.to_ascii_lowercase());
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.udp.local_addr().unwrap()
    }

    /// Every question so far.
    pub fn questions(&self) -> Vec<Question> {
        self.shared.questions.lock().unwrap().clone()
    }

    fn set(&self, name: &str, entry: Entry) {
        self.shared.table.lock().unwrap().insert(name.to_ascii_lowercase(), entry);
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.shared.ending.store(true, Ordering::Release);
        // Both wake whoever waits, though the kernel calls the first one not connected.
        let _ = rustix::net::shutdown(&self.udp, Shutdown::Both);
        let _ = rustix::net::shutdown(&self.tcp, Shutdown::Both);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Asks from this thread's namespace and gives the addresses of the answer; over TCP if told to.
pub fn ask(server: SocketAddr, name: &str, kind: u16) -> io::Result<Vec<IpAddr>> {
    let mut question = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    question.extend(encode(name));
    question.extend([kind.to_be_bytes(), [0, 1]].concat());
    let socket = UdpSocket::bind(if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
    socket.set_read_timeout(Some(Duration::from_secs(20)))?;
    socket.connect(server)?;
    socket.send(&question)?;
    let mut answer = vec![0; 4096];
    let length = socket.recv(&mut answer)?;
    answer.truncate(length);
    if answer.get(2).is_some_and(|flags| flags & 2 != 0) {
        let mut stream = TcpStream::connect(server)?;
        stream.write_all(&framed(&question))?;
        answer = read_framed(&mut stream)?;
    }
    addresses(&answer).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

fn parse(addresses: &[&str]) -> Vec<IpAddr> {
    addresses.iter().map(|address| address.parse().unwrap()).collect()
}

fn serve_udp(socket: &UdpSocket, shared: &Shared) {
    let mut buffer = [0; 4096];
    while let Ok((length, from)) = socket.recv_from(&mut buffer) {
        if shared.ending.load(Ordering::Acquire) {
            break;
        }
        if let Some(answer) = shared.reply(&buffer[..length], false) {
            let _ = socket.send_to(&answer, from);
        }
    }
}

fn serve_tcp(listener: &TcpListener, shared: &Shared) {
    while let Ok((mut stream, _)) = listener.accept() {
        // One at a time; a silent client is dropped, so that the world always ends.
        let _ = stream.set_read_timeout(Some(Duration::from_secs(2)));
        while let Ok(question) = read_framed(&mut stream) {
            let Some(answer) = shared.reply(&question, true) else { break };
            if stream.write_all(&framed(&answer)).is_err() {
                break;
            }
        }
    }
}

impl Shared {
    fn reply(&self, question: &[u8], tcp: bool) -> Option<Vec<u8>> {
        let (name, end) = decode(question, 12)?;
        let kind = u16::from_be_bytes([*question.get(end)?, *question.get(end + 1)?]);
        self.questions.lock().unwrap().push(Question { name: name.clone(), kind, tcp });
        let mut table = self.table.lock().unwrap();
        let known = table.contains_key(&name);
        let cut = !tcp && table.get(&name).is_some_and(|entry| entry.tcp_only);
        let records = if cut { Vec::new() } else { find(&mut table, &name, kind) };
        // An answer with authority, recursion available; "no such name" where the table has none.
        let mut answer = question.get(..2)?.to_vec();
        answer.extend([0x85 | if cut { 2 } else { 0 }, if known { 0x80 } else { 0x83 }, 0, 1]);
        answer.extend(u16::try_from(records.len()).ok()?.to_be_bytes());
        answer.extend([0; 4]);
        answer.extend(question.get(12..end + 4)?);
        answer.extend(records.concat());
        Some(answer)
    }
}

/// The records for a name, aliases followed.
fn find(table: &mut HashMap<String, Entry>, name: &str, kind: u16) -> Vec<Vec<u8>> {
    let (mut records, mut name) = (Vec::new(), name.to_owned());
    for _ in 0..8 {
        let Some(entry) = table.get_mut(&name) else { break };
        if let Some(alias) = entry.alias.clone() {
            records.push(record(&name, CNAME, entry.ttl, &encode(&alias)));
            name = alias;
            continue;
        }
        let asked = entry.asked.entry(kind).or_insert(0);
        let set = entry.sets.get((*asked).min(entry.sets.len() - 1)).cloned().unwrap_or_default();
        *asked += 1;
        for address in set {
            match address {
                IpAddr::V4(address) if kind == A => {
                    records.push(record(&name, A, entry.ttl, &address.octets()));
                }
                IpAddr::V6(address) if kind == AAAA => {
                    records.push(record(&name, AAAA, entry.ttl, &address.octets()));
                }
                _ => {}
            }
        }
        break;
    }
    records
}

fn record(name: &str, kind: u16, ttl: u32, data: &[u8]) -> Vec<u8> {
    let mut record = encode(name);
    record.extend(kind.to_be_bytes());
    record.extend([0, 1]);
    record.extend(ttl.to_be_bytes());
    record.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
    record.extend(data);
    record
}

fn encode(name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for label in name.split('.') {
        bytes.push(u8::try_from(label.len()).unwrap());
        bytes.extend(label.as_bytes());
    }
    bytes.push(0);
    bytes
}

/// A name without compression, in lower case, and where it ends.
fn decode(bytes: &[u8], mut at: usize) -> Option<(String, usize)> {
    let mut labels = Vec::new();
    loop {
        let length = usize::from(*bytes.get(at)?);
        at += 1;
        if length == 0 {
            return Some((labels.join("."), at));
        }
        if length > 63 {
            return None;
        }
        labels.push(String::from_utf8_lossy(bytes.get(at..at + length)?).to_ascii_lowercase());
        at += length;
    }
}

/// The addresses in an answer of ours.
fn addresses(answer: &[u8]) -> Option<Vec<IpAddr>> {
    let count = u16::from_be_bytes([*answer.get(6)?, *answer.get(7)?]);
    let mut at = decode(answer, 12)?.1 + 4;
    let mut found = Vec::new();
    for _ in 0..count {
        at = decode(answer, at)?.1;
        let length = usize::from(u16::from_be_bytes([*answer.get(at + 8)?, *answer.get(at + 9)?]));
        let data = answer.get(at + 10..at + 10 + length)?;
        match *answer.get(at + 1)? {
            1 => found.push(IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(data).ok()?))),
            28 => found.push(IpAddr::from(<[u8; 16]>::try_from(data).ok()?)),
            _ => {}
        }
        at += 10 + length;
    }
    Some(found)
}

fn framed(message: &[u8]) -> Vec<u8> {
    let length = u16::try_from(message.len()).unwrap();
    [&length.to_be_bytes(), message].concat()
}

fn read_framed(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut message)?;
    Ok(message)
}
