//! Trials of two layers that a status of `/proc` says nothing of: the session keyring, and the capture.
//!
//! The keyring is tried before seccomp, which leaves no question about keys to ask afterwards. The capture is the
//! network's and not a process's, so init tries it while the process that will be the runtime seals itself: a
//! connection to nowhere is taken all the same, and one to the gateway's port, at which init listens for that moment,
//! is reset; the launcher then finds the first at its listener.

use super::Findings;
use crate::{CellPlan, Protection};
use cofferdam_sys::{keyring::Planted, socket};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    net::{self, AddressFamily, SocketFlags, SocketType, sockopt},
};
use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};

/// No name ever means one of these, and nothing of a cell listens at the port.
const NOWHERE: [SocketAddr; 2] = [
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(198, 19, 255, 254)), 1),
    SocketAddr::new(IpAddr::V6(Ipv6Addr::new(0xfdcf, 0xc0ff, 0xe2da, 0xffff, 0, 0, 0, 1)), 1),
];
const LOCAL: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
/// Loopback answers at once; who waits so long waits for nothing.
const PATIENCE: Duration = Duration::from_secs(2);

/// The session keyring, by a key that was left in the launcher's.
pub(crate) fn keyring(plan: &CellPlan, left: Option<&Planted>) -> Findings {
    let mut found = Findings::default();
    match left.map(Planted::still_there) {
        None if plan.keeps(Protection::Keyring) => found.note("keyring", "this kernel has none"),
        None => {}
        Some(Ok(wrong)) => {
            found.tried("keyring", wrong);
            found.note("keyring", "a session of its own");
        }
        Some(Err(error)) => found.tried("keyring", Some(format!("it cannot be tried: {error}"))),
    }
    found
}

/// The capture, as far as it shows from inside.
pub(super) fn capture(found: &mut Findings, plan: &CellPlan) {
    let Some((gateway, _)) = captured(plan) else { return };
    for to in NOWHERE {
        let went = stream(to.ip()).and_then(|stream| Ok(net::connect(stream, &to)?));
        found.tried("capture", went.err().map(|error| format!("a connection to {to}: {error}")));
    }
    for ip in LOCAL {
        found.tried("capture", unmarked(SocketAddr::new(ip, gateway)).err());
    }
}

/// A connection without the mark to a port where somebody listens: refused.
fn unmarked(to: SocketAddr) -> Result<(), String> {
    let tried = || -> io::Result<Result<(), Errno>> {
        let listener = stream(to.ip())?;
        if to.is_ipv6() {
            sockopt::set_ipv6_v6only(&listener, true)?;
        }
        net::bind(&listener, &to)?;
        net::listen(&listener, 1)?;
        Ok(net::connect(stream(to.ip())?, &to))
    };
    match tried() {
        Ok(Err(Errno::CONNREFUSED)) => Ok(()),
        Ok(Ok(())) => Err(format!("a connection to {to} without the mark is taken")),
        Ok(Err(errno)) => Err(format!("a connection to {to} without the mark: {errno}")),
        Err(error) => Err(format!("nobody can listen at {to}: {error}")),
    }
}

/// A socket that does not wait for ever.
fn stream(ip: IpAddr) -> io::Result<OwnedFd> {
    let family = if ip.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let stream = net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    sockopt::set_socket_timeout(&stream, sockopt::Timeout::Send, Some(PATIENCE))?;
    Ok(stream)
}

/// The capture, as the launcher sees it: what init sent nowhere is the first that its listeners have.
pub(crate) fn arrived(plan: &CellPlan, listeners: Option<&[OwnedFd; 6]>) -> Findings {
    let mut found = Findings::default();
    if captured(plan).is_none() {
        return found;
    }
    for (at, to) in NOWHERE.into_iter().enumerate() {
        let listener = listeners.and_then(|listeners| listeners.get(at));
        let first = listener.ok_or_else(|| io::Error::other("no such listener")).and_then(first);
        let wrong = match first {
            Ok(first) if first == to => None,
            Ok(first) => Some(format!("the first connection was to {first}, not to {to}")),
            Err(error) => Some(format!("a connection to {to} did not arrive: {error}")),
        };
        found.tried("capture", wrong);
    }
    found
}

/// Where the first connection that waits at a listener was to.
fn first(listener: &OwnedFd) -> io::Result<SocketAddr> {
    let patience = Timespec::try_from(PATIENCE).map_err(io::Error::other)?;
    poll(&mut [PollFd::new(listener, PollFlags::IN)], Some(&patience))?;
    let stream = net::accept_with(listener, SocketFlags::CLOEXEC)?;
    socket::local_address(stream.as_fd())
}

/// As of the plan, if it is not left out.
fn captured(plan: &CellPlan) -> Option<(u16, u32)> {
    plan.captured().filter(|_| plan.keeps(Protection::Capture))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::proof::{holds, tests::plan};
    use cofferdam_sys::netns;

    #[test]
    fn without_a_capture_both_of_its_trials_fail() {
        let mut plan = plan(Vec::new());
        plan.network = crate::Network::Captured { port: 18789, mark: 77 };
        let mut found = Findings::default();
        let namespace = netns::create().unwrap();
        let listeners = netns::inside(namespace.as_fd(), || {
            cofferdam_sys::netlink::any_ip().unwrap();
            let listeners = socket::listeners().unwrap();
            capture(&mut found, &plan);
            listeners
        })
        .unwrap();
        let told = holds(&plan, &found).unwrap_err().message;
        for wrong in ["198.19.255.254:1", "127.0.0.1:18789 without the mark is taken", "[::1]:18789"] {
            assert!(told.contains(wrong), "{told}");
        }
        // Nothing arrived, and somebody else's connection is none of ours.
        let other = netns::inside(namespace.as_fd(), || {
            let streams = ["127.0.0.1:15001", "[::1]:15001"].map(std::net::TcpStream::connect);
            streams.map(Result::unwrap)
        });
        let told = holds(&plan, &arrived(&plan, Some(&listeners))).unwrap_err().message;
        assert!(told.contains("the first connection was to 127.0.0.1:15001"), "{told}");
        drop(other);
    }
}
