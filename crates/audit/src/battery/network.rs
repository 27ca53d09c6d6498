//! The network as a cell sees it: nothing that answers is outside, whatever the address.
//!
//! The witness outside answers at every address, TCP and UDP. Here only the shape of the cell's network is proved;
//! what its warden lets through is proved with a warden.

use super::{FLAG, Row, Scene, danger, one};
use cofferdam_sandbox::{
    Danger, Protection,
    probe::Attempt::{self, Bind, Call, OwnPort, Reach, SocketOption, Tcp, Udp},
};
use cofferdam_sys::{attempt::Argument::Number, seccomp::call};
use std::net::SocketAddr;

/// What is reached by an address, and must not be.
const ADDRESSES: &[(&str, &str, &str)] = &[
    ("network.address", "reach an address of the Internet", "203.0.113.7:80"),
    ("network.address-6", "reach an address of the Internet, IPv6", "[2001:db8::7]:80"),
    ("network.metadata", "reach the cloud's metadata", "169.254.169.254:80"),
    ("network.metadata-6", "reach the cloud's metadata, IPv6", "[fd00:ec2::254]:80"),
    ("network.metadata-mapped", "reach the cloud's metadata, mapped", "[::ffff:169.254.169.254]:80"),
    ("network.metadata-nat64", "reach the cloud's metadata, NAT64", "[64:ff9b::a9fe:a9fe]:80"),
    ("network.metadata-other", "reach another cloud's metadata", "100.100.100.200:80"),
    ("network.private", "reach a private address", "10.0.0.1:80"),
    ("network.private-6", "reach a private address, IPv6", "[fc00::1]:80"),
    ("network.host-loopback", "reach a listener on the host's loopback", "127.0.0.1:80"),
    ("network.host-loopback-6", "reach a listener on the host's loopback, IPv6", "[::1]:80"),
    ("network.neighbour", "reach a neighbour's gateway", "127.18.0.3:18789"),
    ("network.ssh", "reach a port that is no web server's", "203.0.113.7:22"),
    ("network.dns-tcp", "ask a name server of one's own, TCP", "9.9.9.9:53"),
    ("network.dns-tls", "ask a name server of one's own, TLS", "9.9.9.9:853"),
];

/// The same with datagrams.
const DATAGRAMS: &[(&str, &str, &str)] = &[
    ("network.udp", "send a datagram", "203.0.113.7:9999"),
    ("network.udp-6", "send a datagram, IPv6", "[2001:db8::7]:9999"),
    ("network.dns", "ask a name server of one's own", "9.9.9.9:53"),
    ("network.quic", "speak QUIC", "203.0.113.7:443"),
];

/// Families of sockets, with type and protocol. What this kernel does not have either is skipped.
const FAMILIES: &[(&str, &str, [u64; 3])] = &[
    ("network.vsock", "speak with the hypervisor", [40, 1, 0]),
    ("network.netlink-netfilter", "speak with the packet filter", [16, 3, 12]),
    ("network.netlink-audit", "speak with the audit log", [16, 3, 9]),
    ("network.netlink-connector", "hear of every process of the host", [16, 3, 11]),
    ("network.algorithms", "use the kernel's ciphers", [38, 5, 0]),
    ("network.mptcp", "speak multipath TCP, past the gateway's mark", [2, 1, 262]),
];

pub(super) fn rows(scene: &Scene) -> Vec<Row> {
    let addresses = ADDRESSES.iter().filter_map(|(id, title, to)| {
        let to: SocketAddr = to.parse().ok()?;
        let say = "GET / HTTP/1.0\r\n\r\n".into();
        let attempt = Tcp { to, say, expect: FLAG.into() };
        Some(Row { id, title, attempt, layers: vec![one(Protection::NetworkNamespace)] })
    });
    let datagrams = DATAGRAMS.iter().filter_map(|(id, title, to)| {
        let attempt = Udp { to: to.parse().ok()?, expect: FLAG.into() };
        Some(Row { id, title, attempt, layers: vec![one(Protection::NetworkNamespace)] })
    });
    let families = FAMILIES.iter().map(|(id, title, numbers)| Row {
        id,
        title,
        attempt: socket(*numbers),
        layers: vec![one(Protection::Families)],
    });
    addresses.chain(datagrams).chain(families).chain(privileges()).chain(ports(scene)).collect()
}

fn socket(numbers: [u64; 3]) -> Attempt {
    Call { number: call::SYS_socket, arguments: numbers.map(Number).to_vec() }
}

/// What a network's own administrator could do.
fn privileges() -> Vec<Row> {
    let capabilities = || one(Protection::Capabilities);
    vec![
        Row {
            id: "network.raw",
            title: "make packets of one's own",
            attempt: socket([2, 3, 1]),
            layers: vec![danger(Danger::RawSockets), one(Protection::Families), capabilities()],
        },
        Row {
            id: "network.raw-6",
            title: "make packets of one's own, IPv6",
            attempt: socket([10, 3, 58]),
            layers: vec![danger(Danger::RawSockets), one(Protection::Families), capabilities()],
        },
        Row {
            id: "network.packet",
            title: "read all packets",
            attempt: socket([17, 3, 0x0300]),
            layers: vec![one(Protection::Families), capabilities()],
        },
        // The kernel's own answer without a filter depends on a sysctl of the cell's network.
        Row {
            id: "network.ping",
            title: "ping",
            attempt: Reach {
                number: call::SYS_socket,
                arguments: [2, 2, 1].map(Number).to_vec(),
                filtered: vec![1, 97],
            },
            layers: vec![danger(Danger::RawSockets), one(Protection::Families)],
        },
        Row {
            id: "network.mark",
            title: "put the edge's mark on a socket",
            attempt: SocketOption { v4: true, level: 1, option: 36, value: vec![1, 0, 0, 0] },
            layers: vec![capabilities()],
        },
        Row {
            id: "network.transparent",
            title: "take connections to foreign addresses",
            attempt: SocketOption { v4: true, level: 0, option: 19, value: vec![1, 0, 0, 0] },
            layers: vec![capabilities()],
        },
        Row {
            id: "network.protocol-in-tcp",
            title: "load a protocol within TCP",
            attempt: SocketOption { v4: true, level: 6, option: 31, value: b"no-such-one".to_vec() },
            layers: vec![danger(Danger::Modules)],
        },
    ]
}

fn ports(scene: &Scene) -> Vec<Row> {
    vec![
        Row {
            id: "network.low-port",
            title: "listen where the warden listens for the web",
            attempt: Bind { at: ([0, 0, 0, 0], 443).into() },
            layers: vec![one(Protection::Capabilities)],
        },
        // A tool in the cell that speaks to its own gateway as the edge does.
        Row {
            id: "network.gateway-port",
            title: "reach the gateway's port without the edge's mark",
            attempt: OwnPort { port: scene.port() },
            layers: vec![one(Protection::Capture)],
        },
    ]
}
