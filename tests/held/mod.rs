//! What processes hold, as the kernel tells it to the host's root: ids, groups, sets of capabilities, filters,
//! namespaces, cgroups, and every open descriptor with what is at its other end.
//!
//! It reads and judges nothing. Of a socket `/proc` tells a number only, so it is duplicated out of its process and
//! asked; of a Unix socket the kernel's `sock_diag` tells the peer.
#![allow(dead_code, unreachable_pub, missing_debug_implementations, clippy::unwrap_used)]
#![allow(clippy::disallowed_methods)]

use cofferdam_sys::netns;
use rustix::{
    net::{AddressFamily, SocketFlags, SocketType, sockopt},
    process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open},
};
use std::{
    collections::BTreeMap,
    fs, io,
    os::{fd::AsFd, unix::fs::MetadataExt},
    path::{Path, PathBuf},
};

/// One process.
#[derive(Clone, Debug)]
pub struct Seen {
    pub pid: i32,
    pub parent: i32,
    pub argv: Vec<String>,
    pub zombie: bool,
    /// Its number in the innermost pid namespace.
    pub inner: i32,
    /// Of every thread: they can differ.
    pub threads: Vec<Credentials>,
    /// Who owns its files in `/proc`: root if nobody but the kernel may read it.
    pub owner: u32,
    /// By name, `pid_for_children` for example.
    pub namespaces: BTreeMap<String, u64>,
    /// By the list of controllers, which is empty for version 2.
    pub cgroups: BTreeMap<String, String>,
    pub descriptors: Vec<Descriptor>,
    /// What its root directory says that its host is called: in a cell, the tenant.
    pub hostname: Option<String>,
}

/// What one thread may.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// Real, effective, saved, of the file system.
    pub uids: Vec<u32>,
    pub gids: Vec<u32>,
    pub groups: Vec<u32>,
    /// Inheritable, permitted, effective, bounding, ambient.
    pub capabilities: [u64; 5],
    pub no_new_privs: bool,
    /// 2 is by filters.
    pub seccomp: u32,
    pub filters: u32,
}

/// One open descriptor.
#[derive(Clone, Debug)]
pub struct Descriptor {
    pub number: i32,
    pub object: Object,
}

/// What a descriptor is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Object {
    File(PathBuf),
    Pipe(u64),
    /// `eventpoll`, `signalfd` and their like.
    Anonymous(String),
    Pidfd(i32),
    Socket(Socket),
}

/// A socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Socket {
    pub inode: u64,
    pub family: &'static str,
    pub listening: bool,
    /// The cookie of the network namespace in which it was made.
    pub netns: u64,
}

/// This process; what it starts has the same, unless it is changed.
pub fn own() -> Credentials {
    credentials(Path::new("/proc/thread-self/status")).unwrap()
}

/// Every process of the machine that is there.
pub fn parents() -> BTreeMap<i32, i32> {
    let each = |entry: fs::DirEntry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let status = fs::read_to_string(entry.path().join("status")).ok()?;
        Some((pid, field(&status, "PPid")?.parse().ok()?))
    };
    fs::read_dir("/proc").unwrap().flatten().filter_map(each).collect()
}

/// A process; none if it is gone, or goes while it is read.
pub fn process(pid: i32) -> Option<Seen> {
    let proc = PathBuf::from(format!("/proc/{pid}"));
    let status = fs::read_to_string(proc.join("status")).ok()?;
    let argv = fs::read(proc.join("cmdline")).ok()?;
    let argv = argv.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned());
    let zombie = field(&status, "State")?.starts_with('Z');
    let threads = fs::read_dir(proc.join("task")).ok()?.flatten();
    let cgroups = fs::read_to_string(proc.join("cgroup")).ok()?;
    let cgroup = |line: &str| {
        let mut parts = line.splitn(3, ':').skip(1);
        Some((parts.next()?.to_owned(), parts.next()?.to_owned()))
    };
    Some(Seen {
        pid,
        parent: field(&status, "PPid")?.parse().ok()?,
        argv: argv.collect(),
        inner: field(&status, "NSpid")?.rsplit('\t').next()?.parse().ok()?,
        threads: threads.filter_map(|thread| credentials(&thread.path().join("status"))).collect(),
        owner: fs::metadata(proc.join("status")).ok()?.uid(),
        namespaces: if zombie { BTreeMap::new() } else { namespaces(&proc)? },
        cgroups: cgroups.lines().filter_map(cgroup).collect(),
        descriptors: if zombie { Vec::new() } else { descriptors(pid)? },
        hostname: fs::read_to_string(proc.join("root/etc/hostname")).ok().map(|name| name.trim().to_owned()),
        zombie,
    })
}

/// The Unix sockets of this thread's network namespace: each with its peer, if that is there.
pub fn peers() -> BTreeMap<u64, Option<u64>> {
    // `SOCK_DIAG_BY_FAMILY` as a dump, of `AF_UNIX`, in every state, with peers.
    let mut request = Vec::new();
    for word in [40_u32, 0x0301_0014, 1, 0, 1, u32::MAX, 0, 4, u32::MAX, u32::MAX] {
        request.extend(word.to_ne_bytes());
    }
    let protocol = Some(rustix::net::netlink::SOCK_DIAG);
    let socket =
        rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol);
    let socket = socket.unwrap();
    rustix::net::send(&socket, &request, rustix::net::SendFlags::empty()).unwrap();
    let (mut found, mut buffer) = (BTreeMap::new(), vec![0; 1 << 16]);
    loop {
        let read = rustix::io::read(&socket, &mut buffer[..]).unwrap();
        let mut rest = &buffer[..read];
        while rest.len() >= 16 {
            let (length, kind) = (word(rest, 0), word(rest, 4) & 0xffff);
            match kind {
                3 => return found,
                20 => drop(found.insert(u64::from(word(rest, 20)), peer(&rest[32..length as usize]))),
                _ => panic!(
                    "sock_diag answers {kind}: {:?}",
                    io::Error::from_raw_os_error(-word(rest, 16).cast_signed())
                ),
            }
            rest = &rest[(length as usize).next_multiple_of(4).min(rest.len())..];
        }
    }
}

/// `UNIX_DIAG_PEER`.
fn peer(mut attributes: &[u8]) -> Option<u64> {
    while attributes.len() >= 4 {
        let (length, kind) = (word(attributes, 0) & 0xffff, word(attributes, 0) >> 16);
        if kind == 2 {
            return Some(u64::from(word(attributes, 4))).filter(|inode| *inode != 0);
        }
        attributes = &attributes[(length as usize).max(4).next_multiple_of(4).min(attributes.len())..];
    }
    None
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

fn credentials(path: &Path) -> Option<Credentials> {
    let status = fs::read_to_string(path).ok()?;
    let numbers = |name| -> Option<Vec<u32>> {
        field(&status, name)?.split_whitespace().map(|id| id.parse().ok()).collect()
    };
    let set = |name| u64::from_str_radix(field(&status, name)?, 16).ok();
    Some(Credentials {
        uids: numbers("Uid")?,
        gids: numbers("Gid")?,
        groups: numbers("Groups")?,
        capabilities: [set("CapInh")?, set("CapPrm")?, set("CapEff")?, set("CapBnd")?, set("CapAmb")?],
        no_new_privs: field(&status, "NoNewPrivs")? == "1",
        seccomp: field(&status, "Seccomp")?.parse().ok()?,
        filters: field(&status, "Seccomp_filters")?.parse().ok()?,
    })
}

fn namespaces(proc: &Path) -> Option<BTreeMap<String, u64>> {
    let each = |entry: fs::DirEntry| {
        let inode = number(fs::read_link(entry.path()).ok()?.to_str()?)?;
        Some((entry.file_name().into_string().ok()?, inode))
    };
    fs::read_dir(proc.join("ns")).ok()?.flatten().map(each).collect()
}

/// The number of `pipe:[7]`.
fn number(link: &str) -> Option<u64> {
    link.split_once('[')?.1.strip_suffix(']')?.parse().ok()
}

fn descriptors(pid: i32) -> Option<Vec<Descriptor>> {
    let process = pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
    let each = |entry: fs::DirEntry| {
        let number = entry.file_name().to_str()?.parse().ok()?;
        let link = fs::read_link(entry.path()).ok()?;
        Some(Descriptor { number, object: object(pid, &process, number, &link)? })
    };
    fs::read_dir(format!("/proc/{pid}/fd")).ok()?.flatten().map(each).collect()
}

fn object(pid: i32, process: impl AsFd, number: i32, link: &Path) -> Option<Object> {
    let text = link.to_str()?;
    if let Some(kind) = text.strip_prefix("anon_inode:") {
        if kind != "[pidfd]" {
            return Some(Object::Anonymous(kind.trim_matches(['[', ']']).to_owned()));
        }
        let info = fs::read_to_string(format!("/proc/{pid}/fdinfo/{number}")).ok()?;
        return Some(Object::Pidfd(field(&info, "Pid")?.parse().ok()?));
    }
    let inode = self::number(text);
    match (text.split_once(':').map(|(kind, _)| kind), inode) {
        // Kernels of 6.9 on know pidfds by a file system of their own.
        (Some("pidfd"), _) => {
            let info = fs::read_to_string(format!("/proc/{pid}/fdinfo/{number}")).ok()?;
            Some(Object::Pidfd(field(&info, "Pid")?.parse().ok()?))
        }
        (Some("pipe"), Some(inode)) => Some(Object::Pipe(inode)),
        (Some("socket"), Some(inode)) => socket(process, number, inode).map(Object::Socket),
        _ => Some(Object::File(link.to_owned())),
    }
}

fn socket(process: impl AsFd, number: i32, inode: u64) -> Option<Socket> {
    let copy = pidfd_getfd(process, number, PidfdGetfdFlags::empty()).ok()?;
    let (domain, kind) = (sockopt::socket_domain(&copy).ok()?, sockopt::socket_type(&copy).ok()?);
    let family = match (domain, kind) {
        (AddressFamily::UNIX, _) => "unix",
        (AddressFamily::NETLINK, _) => "netlink",
        (AddressFamily::INET | AddressFamily::INET6, SocketType::STREAM) => "tcp",
        (AddressFamily::INET | AddressFamily::INET6, SocketType::DGRAM) => "udp",
        _ => "other",
    };
    let listening = sockopt::socket_acceptconn(&copy).unwrap_or(false);
    Some(Socket { inode, family, listening, netns: netns::cookie(copy.as_fd()).ok()? })
}
