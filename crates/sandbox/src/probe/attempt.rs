//! What is tried from inside a cell, as data: so that a battery is a table, and the same probe runs it anywhere.
//!
//! An attempt changes nothing that outlasts the cell, allowed or not: it sends signal 0, opens without writing,
//! takes back what it made.

use cofferdam_sys::attempt::Argument;
use serde::{Deserialize, Serialize};
use std::{net::SocketAddr, path::PathBuf};

/// One attempt. It says what succeeding would mean.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Attempt {
    /// A system call is made, and does not fail.
    Call {
        /// Its number.
        number: i64,
        /// Up to six.
        arguments: Vec<Argument>,
    },
    /// A system call reaches the kernel: it fails otherwise than with one of these, which our filters give.
    Reach {
        /// Its number.
        number: i64,
        /// Up to six, such that the kernel itself refuses them.
        arguments: Vec<Argument>,
        /// Errnos of a filter.
        filtered: Vec<i32>,
    },
    /// Every system call that the profile does not list is made: one of them is not refused as it says.
    Sweep {},
    /// A file is opened for writing.
    Write {
        /// Which.
        path: PathBuf,
    },
    /// A file is read, and holds this; an empty text is anything.
    Read {
        /// Which.
        path: PathBuf,
        /// What.
        holds: String,
    },
    /// Words are in the environment of a process that is listed, or in a file of these directories.
    Find {
        /// Which words.
        words: String,
        /// Where.
        below: Vec<PathBuf>,
    },
    /// A file is made.
    Create {
        /// Where.
        path: PathBuf,
    },
    /// A directory is made.
    MakeDirectory {
        /// Where.
        path: PathBuf,
    },
    /// A symbolic link is made.
    MakeLink {
        /// Where.
        path: PathBuf,
    },
    /// A Unix socket is bound.
    MakeSocket {
        /// Where.
        path: PathBuf,
    },
    /// A file gets a second name.
    Link {
        /// Which.
        from: PathBuf,
        /// The name.
        to: PathBuf,
    },
    /// A file gets another name, and its old one again.
    Rename {
        /// Which.
        from: PathBuf,
        /// The name.
        to: PathBuf,
    },
    /// A device is asked something.
    Ioctl {
        /// Which.
        path: PathBuf,
        /// The question.
        request: u32,
    },
    /// A file is watched.
    Watch {
        /// Which.
        path: PathBuf,
        /// For what, as `inotify_add_watch` takes it.
        mask: u32,
    },
    /// A namespace of this process is entered anew.
    EnterNamespace {
        /// Its file in `/proc/self/ns`.
        kind: String,
    },
    /// A line of `/proc/self/status` says something else than this.
    Status {
        /// Which line.
        field: String,
        /// What it says under the seal.
        holds: String,
    },
    /// A process whose command line holds this is listed.
    SeeProcess {
        /// What.
        named: String,
    },
    /// Such a process can be signalled.
    SignalProcess {
        /// What.
        named: String,
    },
    /// The host has this name.
    HostName {
        /// Which.
        is: String,
    },
    /// A TCP connection brings this answer.
    Tcp {
        /// Where to.
        to: SocketAddr,
        /// What is said first, one character a byte.
        say: String,
        /// What would come back.
        expect: String,
    },
    /// The same, to a name.
    TcpName {
        /// Which.
        name: String,
        /// Where.
        port: u16,
        /// What is said first, one character a byte.
        say: String,
        /// What would come back.
        expect: String,
    },
    /// A TLS connection to a name brings this answer.
    Tls(Tls),
    /// A name is looked up. Whether anybody outside heard of it the witness knows alone.
    Lookup {
        /// Which.
        name: String,
    },
    /// A datagram brings this answer.
    Udp {
        /// Where to.
        to: SocketAddr,
        /// What would come back.
        expect: String,
    },
    /// An abstract Unix socket takes a connection.
    Abstract {
        /// Its name.
        name: String,
    },
    /// One of the Unix sockets that lie below these directories takes a connection.
    Connect {
        /// In this order; nothing is asked any more when one did.
        below: Vec<PathBuf>,
    },
    /// A named pipe brings this.
    Pipe {
        /// Which.
        path: PathBuf,
        /// What.
        holds: String,
    },
    /// A file shows that another process has locked it.
    Locked {
        /// Which.
        path: PathBuf,
    },
    /// A TCP port is bound.
    Bind {
        /// Where.
        at: SocketAddr,
    },
    /// A socket takes an option, or refuses its value and not the caller.
    SocketOption {
        /// TCP over IPv4, else IPv6.
        v4: bool,
        /// The option's level.
        level: i32,
        /// Its number.
        option: i32,
        /// Four bytes or a text.
        value: Vec<u8>,
    },
    /// A connection of this process to a port that it listens on itself arrives.
    OwnPort {
        /// On 127.0.0.1.
        port: u16,
    },
    /// So many processes exist at once.
    Processes {
        /// How many.
        count: u32,
    },
    /// So much memory is in use.
    Memory {
        /// How much.
        bytes: u64,
    },
    /// So many files are open.
    Files {
        /// How many.
        count: u32,
    },
    /// A file grows to this size.
    Fill {
        /// Which; it is removed afterwards.
        path: PathBuf,
        /// How much.
        bytes: u64,
    },
    /// So many files are in a directory.
    Inodes {
        /// Which; it is made, and removed with all of them.
        path: PathBuf,
        /// How many.
        count: u64,
    },
    /// A page is asked for again and again. What is seen are the times in microseconds, as a list in JSON; one
    /// that does not come took as long as anybody waits for it.
    Pace {
        /// Where.
        to: SocketAddr,
        /// The request.
        say: String,
        /// What the page holds.
        expect: String,
        /// For so long.
        millis: u64,
    },
    /// Connections are opened, and kept as long as there is room, until the standard input ends.
    Connections {
        /// Where to.
        to: Vec<SocketAddr>,
        /// The beginning of a request.
        say: String,
    },
    /// Processes are made that do nothing but work, and one that takes memory, until the standard input ends.
    Bomb {
        /// How much memory.
        bytes: u64,
    },
    /// A connection or a datagram of somebody else arrives at a port that this process takes meanwhile, until the
    /// standard input ends.
    Steal {
        /// Which ports.
        at: Vec<SocketAddr>,
    },
    /// A tree is made that does harm to whoever walks it carelessly.
    Traps {
        /// Where.
        below: PathBuf,
        /// Where its links lead.
        victim: PathBuf,
    },
    /// A link and a directory of such a tree change places, until the standard input ends.
    Swap {
        /// Where it is.
        below: PathBuf,
    },
    /// A limit is higher than this.
    Limit {
        /// As `getrlimit` numbers it.
        resource: u32,
        /// The highest under the seal.
        most: u64,
    },
}

/// An attempt within TLS.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tls {
    /// To port 443 of which name; the certificate must be its own.
    pub name: String,
    /// In a tunnel of the explicit proxy.
    pub tunnelled: bool,
    /// The protocol within, as ALPN names it.
    pub protocol: String,
    /// The authorities that are trusted, PEM; those that the cell is told to trust if it is empty.
    pub authorities: String,
    /// What is said first, one character a byte.
    pub say: String,
    /// What would come back.
    pub expect: String,
}

/// What became of an attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Outcome {
    /// It did what it was to do.
    pub succeeded: bool,
    /// The errno with which it failed, or with which the kernel answered where to reach it was enough; 0 if there is
    /// none.
    pub errno: i32,
    /// What was seen, for people.
    pub seen: String,
}

impl Outcome {
    pub(super) fn success(seen: impl Into<String>) -> Self {
        Self { succeeded: true, errno: 0, seen: seen.into() }
    }

    pub(super) fn failure(seen: impl Into<String>) -> Self {
        Self { succeeded: false, errno: 0, seen: seen.into() }
    }
}
