//! The world of a test: a "host" in which the whole product runs, and the "outside" that it is to reach or
//! not to reach, each a network namespace, joined by a veth pair.
//!
//! The outside holds globally routable addresses with a scripted name server, web servers and a model
//! provider, and traps that really listen: the metadata service, private, carrier and link-local neighbours.
//! So a refusal that a test sees is the product's own, and `Server::hits` tells whether anything arrived.
//! Needs root. Dropping the world ends what was spawned in it, its threads and both namespaces.
#![allow(dead_code, unreachable_pub, missing_debug_implementations, clippy::unwrap_used)]

pub mod dns;
pub mod git;
pub mod http;
pub mod mcp;
pub mod model;
pub mod proxy;
pub mod tls;

use cofferdam_sys::{netlink::RouteSocket, netns};
use dns::NameServer;
use http::{Reply, Server};
use model::Model;
use std::{
    io,
    net::{IpAddr, SocketAddr},
    ops::{Deref, DerefMut},
    os::fd::{AsFd, OwnedFd},
    process::{Child, Command, ExitStatus, Output},
};

/// The host's own addresses on the link.
pub const HOST: [&str; 2] = ["192.0.2.1", "2001:db8::1"];
/// The outside's end of the link.
pub const ROUTER: [&str; 2] = ["192.0.2.2", "2001:db8::2"];
/// The scripted name server, port 53 of UDP and TCP.
pub const NAMESERVER: &str = "9.9.9.9";
/// The web server of `WEB_NAME`, ports 80 and 8080.
pub const WEB: [&str; 2] = ["93.184.216.34", "2606:2800:220:1::1"];
/// Resolves to [`WEB`].
pub const WEB_NAME: &str = "web.example.com";
/// The model provider of `MODEL_NAME`, plain HTTP at port 80.
pub const MODEL: &str = "93.184.216.80";
/// Resolves to [`MODEL`].
pub const MODEL_NAME: &str = "models.example.com";
/// Addresses that nothing of a tenant may ever reach; each listens at the ports of [`TRAP_PORTS`].
pub const TRAPS: [&str; 9] = [
    "169.254.169.254",
    "169.254.7.7",
    "10.9.9.9",
    "172.16.9.9",
    "192.168.9.9",
    "100.64.9.9",
    "100.100.100.200",
    "fd00:ec2::254",
    "fd12:3456::9",
];
/// Where traps listen.
pub const TRAP_PORTS: [u16; 3] = [80, 443, 8080];

/// Both namespaces and everything that listens outside.
pub struct World {
    /// The name server; knows [`WEB_NAME`] and [`MODEL_NAME`] from the start.
    pub dns: NameServer,
    /// The web server.
    pub web: Server,
    /// The model provider.
    pub model: Model,
    /// Everything at [`TRAPS`].
    pub traps: Server,
    // Last, so that the servers end before the namespaces go.
    host: OwnedFd,
    outside: OwnedFd,
}

/// A process in the host namespace; killed when dropped, if it still runs.
pub struct Running(Child);

impl World {
    /// Makes the world.
    pub fn new() -> Self {
        let (host, outside) = (netns::create().unwrap(), netns::create().unwrap());
        let own: Vec<&str> = WEB.iter().chain(&TRAPS).chain(&[NAMESERVER, MODEL]).copied().collect();
        netns::inside(outside.as_fd(), || lay_outside(host.as_fd(), &own).unwrap()).unwrap();
        netns::inside(host.as_fd(), || lay_host().unwrap()).unwrap();

        let at = |addresses: &[&str], ports: &[u16]| -> Vec<SocketAddr> {
            let each = |address: &&str| {
                let address: IpAddr = address.parse().unwrap();
                ports.iter().map(move |port| SocketAddr::new(address, *port)).collect::<Vec<_>>()
            };
            addresses.iter().flat_map(each).collect()
        };
        netns::inside(outside.as_fd(), || {
            let dns = NameServer::start(at(&[NAMESERVER], &[53])[0]);
            dns.answer(WEB_NAME, &WEB);
            dns.answer(MODEL_NAME, &[MODEL]);
            let traps = Server::start(&at(&TRAPS, &TRAP_PORTS), |_| Reply::text(200, "a trap answered"));
            let web = Server::start(&at(&WEB, &[80, 8080]), |_| Reply::text(404, "no such page"));
            Self {
                dns,
                web,
                model: Model::start(&at(&[MODEL], &[80])),
                traps,
                host: host.try_clone().unwrap(),
                outside: outside.try_clone().unwrap(),
            }
        })
        .unwrap()
    }

    /// Does something on a thread in the host namespace.
    pub fn host<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        netns::inside(self.host.as_fd(), work).unwrap()
    }

    /// Does something on a thread in the outside namespace, such as starting one more [`Server`].
    pub fn outside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        netns::inside(self.outside.as_fd(), work).unwrap()
    }

    /// Gives the outside one more address.
    pub fn add_address(&self, address: &str) {
        let address: IpAddr = address.parse().unwrap();
        self.outside(|| own(&RouteSocket::open().unwrap(), address).unwrap());
    }

    /// Starts a program in the host namespace, where its children stay too.
    pub fn spawn(&self, command: &mut Command) -> Running {
        Running(self.host(|| command.spawn()).unwrap())
    }

    /// Runs a program in the host namespace to its end.
    pub fn output(&self, command: &mut Command) -> Output {
        self.host(|| command.output()).unwrap()
    }

    /// The name server's address, as the product's configuration wants it.
    pub fn nameserver(&self) -> SocketAddr {
        self.dns.address()
    }
}

impl Running {
    /// SIGTERM, then waits for the end.
    pub fn terminate(mut self) -> io::Result<ExitStatus> {
        let pid = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        self.0.wait()
    }
}

impl Deref for Running {
    type Target = Child;

    fn deref(&self) -> &Child {
        &self.0
    }
}

impl DerefMut for Running {
    fn deref_mut(&mut self) -> &mut Child {
        &mut self.0
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Ok(None) = self.0.try_wait() {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
}

fn lay_outside(host: impl AsFd, addresses: &[&str]) -> io::Result<()> {
    let route = RouteSocket::open()?;
    route.link_up(RouteSocket::LOOPBACK)?;
    route.add_veth("out", "in", host.as_fd())?;
    let link = RouteSocket::index("out")?;
    route.link_up(link)?;
    route.add_address(link, ROUTER[0].parse().unwrap(), 24)?;
    route.add_address(link, ROUTER[1].parse().unwrap(), 64)?;
    addresses.iter().try_for_each(|address| own(&route, address.parse().unwrap()))
}

fn lay_host() -> io::Result<()> {
    let route = RouteSocket::open()?;
    route.link_up(RouteSocket::LOOPBACK)?;
    let link = RouteSocket::index("in")?;
    route.link_up(link)?;
    route.add_address(link, HOST[0].parse().unwrap(), 24)?;
    route.add_address(link, HOST[1].parse().unwrap(), 64)?;
    route.add_route(link, "0.0.0.0".parse().unwrap(), 0, Some(ROUTER[0].parse().unwrap()))?;
    route.add_route(link, "::".parse().unwrap(), 0, Some(ROUTER[1].parse().unwrap()))
}

/// Makes an address the outside's own. IPv4 by a local route, since no interface takes every kind of address;
/// IPv6 by an address, since nothing can be bound to a mere route.
fn own(route: &RouteSocket, address: IpAddr) -> io::Result<()> {
    match address {
        IpAddr::V4(_) => route.add_local_route(RouteSocket::LOOPBACK, address, 32),
        IpAddr::V6(_) => route.add_address(RouteSocket::LOOPBACK, address, 128),
    }
}
