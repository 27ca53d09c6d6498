//! What a process can do to everybody at once, and the measure of what somebody else has of it.
//!
//! A flood goes on until the standard input ends, so that whoever asked says for how long; never longer than a
//! proof waits.

use super::{
    Outcome,
    sockets::{self, PATIENCE},
};
use cofferdam_sys::process::{self, Forked};
use rustix::{
    net::{AddressFamily, SocketFlags, SocketType},
    process::{Pid, WaitOptions},
};
use std::{
    collections::VecDeque,
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, UdpSocket},
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

/// Nobody asks for a longer one.
const LONGEST: Duration = Duration::from_secs(20);
/// How long one of many processes works.
const WORK: Duration = Duration::from_millis(50);

/// Until the standard input ends.
pub(super) struct Until {
    ended: Arc<AtomicBool>,
    begun: Instant,
}

impl Until {
    pub(super) fn input_ends() -> Self {
        let ended = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&ended);
        std::thread::spawn(move || {
            let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
            flag.store(true, Ordering::Relaxed);
        });
        Self { ended, begun: Instant::now() }
    }

    pub(super) fn is_over(&self) -> bool {
        self.ended.load(Ordering::Relaxed) || self.begun.elapsed() > LONGEST
    }
}

pub(super) fn pace(to: SocketAddr, say: &str, expect: &str, millis: u64) -> Outcome {
    let begun = Instant::now();
    let (mut times, mut all) = (Vec::new(), true);
    while begun.elapsed() < Duration::from_millis(millis) {
        let asked = Instant::now();
        let came = sockets::tcp(to, say, expect).is_ok_and(|outcome| outcome.succeeded);
        let took = if came { asked.elapsed() } else { asked.elapsed().max(PATIENCE) };
        times.push(took.as_micros().to_string());
        all &= came;
    }
    Outcome { succeeded: all, errno: 0, seen: format!("[{}]", times.join(",")) }
}

pub(super) fn connections(to: &[SocketAddr], say: &str) -> io::Result<Outcome> {
    let until = Until::input_ends();
    let (mut open, mut made) = (VecDeque::new(), 0_u64);
    for to in to.iter().cycle() {
        if until.is_over() {
            break;
        }
        match begin(*to) {
            Ok(stream) => {
                made += 1;
                open.push_back(stream);
            }
            // No more descriptors: the oldest make room.
            Err(rustix::io::Errno::MFILE | rustix::io::Errno::NFILE) if !open.is_empty() => {
                drop(open.drain(..open.len().min(64)));
            }
            Err(errno) => return Err(errno.into()),
        }
        // What is connected by now says the beginning of something; the rest is tried another time.
        if let Some(stream) = open.len().checked_sub(8).and_then(|at| open.get(at)) {
            let _ = rustix::net::send(stream, say.as_bytes(), rustix::net::SendFlags::NOSIGNAL);
        }
    }
    Ok(Outcome::success(format!("{made} connections, {} at once", open.len())))
}

/// A connection that nobody waits for.
fn begin(to: SocketAddr) -> rustix::io::Result<OwnedFd> {
    let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let stream = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    match rustix::net::connect(&stream, &to) {
        // Refused at once is an attempt, too.
        Ok(())
        | Err(rustix::io::Errno::INPROGRESS | rustix::io::Errno::CONNREFUSED | rustix::io::Errno::AGAIN) => {
            Ok(stream)
        }
        Err(errno) => Err(errno),
    }
}

pub(super) fn bomb(bytes: u64) -> io::Result<Outcome> {
    let until = Until::input_ends();
    let (mut made, mut alive, mut eater) = (0_u64, 0_u64, None);
    let gone = |alive: &mut u64, eater: &mut Option<Pid>, options| -> io::Result<()> {
        if let Some((pid, _)) = rustix::process::wait(options)? {
            *alive = alive.saturating_sub(1);
            if *eater == Some(pid) {
                *eater = None;
            }
        }
        Ok(())
    };
    while !until.is_over() {
        let eats = eater.is_none();
        match process::fork() {
            Ok(Forked::Child) => {
                // Nothing of it outlives this process.
                let _ = process::die_with_parent();
                if eats {
                    eat(bytes);
                } else {
                    work();
                }
                process::exit(0)
            }
            Ok(Forked::Parent(pid)) => {
                if eats {
                    eater = Some(pid);
                }
                (made, alive) = (made + 1, alive + 1);
                gone(&mut alive, &mut eater, WaitOptions::NOHANG)?;
            }
            Err(_) => gone(&mut alive, &mut eater, WaitOptions::empty())?,
        }
    }
    while alive > 0 {
        gone(&mut alive, &mut eater, WaitOptions::empty())?;
    }
    Ok(Outcome::success(format!("{made} processes")))
}

fn work() {
    let begun = Instant::now();
    while begun.elapsed() < WORK {
        std::hint::spin_loop();
    }
}

/// Page by page, until the limit ends it.
fn eat(bytes: u64) {
    let length = usize::try_from(bytes).unwrap_or(usize::MAX);
    let mut held = Vec::<u8>::new();
    if held.try_reserve_exact(length).is_ok() {
        held.resize(length, 1);
    }
    std::hint::black_box(&held);
}

pub(super) fn steal(at: &[SocketAddr]) -> io::Result<Outcome> {
    const KEPT: usize = 40;
    let until = Until::input_ends();
    let (mut streams, mut datagrams) = (VecDeque::new(), VecDeque::new());
    let (mut tried, mut taken, mut stolen) = (0_u64, 0_u64, 0_u64);
    for at in at.iter().cycle() {
        if until.is_over() {
            break;
        }
        tried += 2;
        if let Ok(listener) = TcpListener::bind(at) {
            listener.set_nonblocking(true)?;
            streams.push_back(listener);
            taken += 1;
        }
        if let Ok(socket) = UdpSocket::bind(at) {
            socket.set_nonblocking(true)?;
            datagrams.push_back(socket);
            taken += 1;
        }
        stolen += streams.iter().filter(|listener| answered(listener)).count() as u64;
        stolen += datagrams.iter().filter(|socket| socket.recv(&mut [0; 64]).is_ok()).count() as u64;
        // Others get their turn; those that were held are let go, and taken again.
        if streams.len() > KEPT {
            streams.pop_front();
        }
        if datagrams.len() > KEPT {
            datagrams.pop_front();
        }
        std::thread::sleep(Duration::from_micros(100));
    }
    let seen = format!("{tried} binds, {taken} held, {stolen} answered");
    Ok(if stolen > 0 { Outcome::success(seen) } else { Outcome::failure(seen) })
}

/// Takes a connection and says so to who made it.
fn answered(listener: &TcpListener) -> bool {
    let Ok((mut stream, _)) = listener.accept() else { return false };
    let _ = stream.set_read_timeout(Some(Duration::from_millis(20)));
    let _ = stream.read(&mut [0; 64]);
    let _ = stream.write_all(b"stolen");
    true
}
