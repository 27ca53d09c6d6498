//! A cell's network from end to end, in network namespaces made for each test: whatever code in the cell
//! dials arrives at the warden's listeners with its true destination, and only marked sockets reach the
//! gateway.
#![allow(clippy::unwrap_used, missing_docs)]

use cofferdam_base::ipc::warden::Listener;
use cofferdam_sys::{
    netlink, netns,
    nft::{self, CellTable},
    socket,
};
use std::{
    io::{ErrorKind, Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket},
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};

const GATEWAY: u16 = 18789;
const MARK: u32 = 0x0cff_e4da;
const SOURCE: Ipv4Addr = Ipv4Addr::new(198, 19, 255, 1);

struct Cell {
    netns: OwnedFd,
    listeners: Vec<OwnedFd>,
}

impl Cell {
    fn new() -> Self {
        let netns = netns::create().unwrap();
        let listeners = netns::inside(netns.as_fd(), || {
            netlink::any_ip().unwrap();
            let listeners = socket::listeners().unwrap();
            let table = CellTable { capture_port: socket::CAPTURE_PORT, gateway_port: GATEWAY, mark: MARK };
            nft::seal_cell(table).unwrap();
            listeners.into()
        })
        .unwrap();
        Self { netns, listeners }
    }

    fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        netns::inside(self.netns.as_fd(), work).unwrap()
    }

    fn tcp(&self, which: Listener) -> TcpListener {
        let at = Listener::ALL.iter().position(|listener| *listener == which).unwrap();
        let listener = TcpListener::from(self.listeners[at].try_clone().unwrap());
        listener.set_nonblocking(false).unwrap();
        listener
    }

    fn dial(&self, target: &str) -> std::io::Result<TcpStream> {
        let target: SocketAddr = target.parse().unwrap();
        self.inside(|| TcpStream::connect_timeout(&target, Duration::from_secs(10)))
    }
}

#[test]
fn every_destination_arrives_with_its_true_address() {
    let cell = Cell::new();
    for (target, which) in [
        ("8.8.8.8:5432", Listener::Capture4),
        ("169.254.169.254:80", Listener::Capture4),
        ("198.18.0.7:443", Listener::Capture4),
        ("8.8.8.8:53", Listener::Capture4),
        ("8.8.8.8:18789", Listener::Capture4),
        ("8.8.8.8:15001", Listener::Capture4),
        ("[2606:4700::1]:6379", Listener::Capture6),
        ("[fd00::7]:443", Listener::Capture6),
    ] {
        let mut client = cell.dial(target).unwrap();
        let (mut arrived, _) = cell.tcp(which).accept().unwrap();
        assert_eq!(socket::local_address(&arrived).unwrap(), target.parse().unwrap());
        assert_eq!(arrived.local_addr().unwrap(), target.parse().unwrap());
        client.write_all(b"ping").unwrap();
        let mut bytes = [0; 4];
        arrived.read_exact(&mut bytes).unwrap();
        arrived.write_all(b"pong").unwrap();
        client.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"pong");
    }
}

#[test]
fn loopback_is_the_cells_own() {
    let cell = Cell::new();
    for address in ["127.0.0.1:8080", "[::1]:8080"] {
        let listener = cell.inside(|| TcpListener::bind(address).unwrap());
        let _client = cell.dial(address).unwrap();
        assert_eq!(listener.accept().unwrap().0.local_addr().unwrap(), address.parse().unwrap());
        assert_eq!(
            cell.dial(&address.replace("8080", "8081")).unwrap_err().kind(),
            ErrorKind::ConnectionRefused
        );
    }
}

#[test]
fn a_thief_in_the_cell_gets_no_captured_connection() {
    let cell = Cell::new();
    let thieves: Vec<_> = cell.inside(|| {
        ["0.0.0.0:8443", "[::]:8444", "8.8.8.8:8445"]
            .map(|address| TcpListener::bind(address).unwrap())
            .into()
    });
    for target in ["8.8.8.8:8443", "[2606:4700::1]:8444", "8.8.8.8:8445"] {
        let _client = cell.dial(target).unwrap();
        let which = if target.starts_with('[') { Listener::Capture6 } else { Listener::Capture4 };
        assert_eq!(cell.tcp(which).accept().unwrap().0.local_addr().unwrap(), target.parse().unwrap());
    }
    for thief in &thieves {
        thief.set_nonblocking(true).unwrap();
        assert_eq!(thief.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
    }
    // The positive control: over loopback the same listener does get its connection.
    let _client = cell.dial("127.0.0.1:8443").unwrap();
    thieves[0].set_nonblocking(false).unwrap();
    thieves[0].accept().unwrap();
}

#[test]
fn the_ports_of_the_listeners_cannot_be_shared() {
    let cell = Cell::new();
    for address in ["127.0.0.1:15001", "8.8.8.8:15001", "[::1]:15001", "127.0.0.1:53", "127.0.0.1:3128"] {
        let refused = cell.inside(|| TcpListener::bind(address).unwrap_err());
        assert_eq!(refused.kind(), ErrorKind::AddrInUse, "{address}");
    }
    for address in ["127.0.0.1:53", "9.9.9.9:53", "[::1]:53"] {
        assert_eq!(cell.inside(|| UdpSocket::bind(address).unwrap_err()).kind(), ErrorKind::AddrInUse);
    }
    cell.inside(|| TcpListener::bind("127.0.0.1:15002").unwrap());
}

#[test]
fn without_its_listener_nothing_is_captured_and_nothing_is_stolen() {
    let mut cell = Cell::new();
    let thief = cell.inside(|| TcpListener::bind("0.0.0.0:8443").unwrap());
    drop(cell.dial("8.8.8.8:8443").unwrap());
    cell.listeners.clear();
    assert_eq!(cell.dial("8.8.8.8:8443").unwrap_err().kind(), ErrorKind::ConnectionRefused);
    thief.set_nonblocking(true).unwrap();
    assert_eq!(thief.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
}

#[test]
fn the_gateways_port_takes_marked_sockets_only() {
    let cell = Cell::new();
    let gateway = cell.inside(|| TcpListener::bind(("127.0.0.1", GATEWAY)).unwrap());
    let target = SocketAddrV4::new(Ipv4Addr::LOCALHOST, GATEWAY);

    assert_eq!(cell.dial("127.0.0.1:18789").unwrap_err().kind(), ErrorKind::ConnectionRefused);
    // A tool that takes the edge's source address is refused as well.
    let forged = cell.inside(|| socket::marked_stream(0).unwrap());
    assert_eq!(
        finish(socket::start_connect(forged, SocketAddrV4::new(SOURCE, 0), target)),
        Err(ErrorKind::ConnectionRefused)
    );
    assert_eq!(cell.inside(|| mptcp(target)).unwrap_err().kind(), ErrorKind::ConnectionRefused);

    let marked = cell.inside(|| socket::marked_stream(MARK).unwrap());
    let cookie = cell.inside(|| netns::current_cookie().unwrap());
    socket::fresh_stream(marked.as_fd(), cookie).unwrap();
    let stream = socket::start_connect(marked, SocketAddrV4::new(SOURCE, 0), target);
    assert_eq!(finish(stream), Ok(()));
    let (_, from) = gateway.accept().unwrap();
    assert_eq!(from.ip(), IpAddr::V4(SOURCE));
}

#[test]
fn the_mptcp_refusal_is_of_the_gateways_port() {
    let cell = Cell::new();
    let listener = cell.inside(|| TcpListener::bind("127.0.0.1:8080").unwrap());
    cell.inside(|| mptcp(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 8080))).unwrap();
    listener.accept().unwrap();
}

#[tokio::test(flavor = "current_thread")]
async fn tokio_finishes_a_connection_into_a_cell() {
    let cell = Cell::new();
    let gateway = cell.inside(|| TcpListener::bind(("127.0.0.1", GATEWAY)).unwrap());
    let target = SocketAddrV4::new(Ipv4Addr::LOCALHOST, GATEWAY);
    let source = SocketAddrV4::new(SOURCE, 0);
    let marked = cell.inside(|| socket::marked_stream(MARK).unwrap());
    let stream = socket::connect_through(marked, source, target).await.unwrap();
    socket::no_delay(&stream).unwrap();
    assert_eq!(gateway.accept().unwrap().1, stream.local_addr().unwrap());
    drop(gateway);
    let marked = cell.inside(|| socket::marked_stream(MARK).unwrap());
    let refused = socket::connect_through(marked, source, target).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
}

#[test]
fn a_received_descriptor_must_be_a_fresh_tcp_socket_of_that_namespace() {
    use socket::{SocketError, fresh_stream};
    let cell = Cell::new();
    let cookie = cell.inside(|| netns::current_cookie().unwrap());
    let sound = cell.inside(|| socket::marked_stream(MARK).unwrap());
    fresh_stream(sound.as_fd(), cookie).unwrap();

    let listener = cell.inside(|| TcpListener::bind("127.0.0.1:8080").unwrap());
    let connected = cell.dial("127.0.0.1:8080").unwrap();
    let udp = cell.inside(|| UdpSocket::bind("127.0.0.1:0").unwrap());
    let (unix, _other) = std::os::unix::net::UnixStream::pair().unwrap();
    let file = std::fs::File::open("/dev/null").unwrap();
    let ours = socket::marked_stream(0).unwrap();
    let mptcp = cell.inside(mptcp_socket);
    let check = |socket: &dyn AsFd| fresh_stream(socket.as_fd(), cookie);
    assert!(matches!(check(&listener), Err(SocketError::Listening)));
    assert!(matches!(check(&connected), Err(SocketError::Connected)));
    for not_tcp in [&udp as &dyn AsFd, &unix, &file, &mptcp] {
        assert!(matches!(check(not_tcp), Err(SocketError::NotTcp)));
    }
    assert!(matches!(check(&ours), Err(SocketError::OtherNamespace { .. })));
}

#[test]
fn a_listener_keeps_its_identity_over_duplicates_and_no_other_has_it() {
    let cell = Cell::new();
    let ours = &cell.listeners[0];
    assert_eq!(socket::identity(ours).unwrap(), socket::identity(ours.try_clone().unwrap()).unwrap());
    let other = Cell::new();
    assert_ne!(socket::identity(ours).unwrap(), socket::identity(&other.listeners[0]).unwrap());
    assert!(socket::is_listening(ours.as_fd()).unwrap());
}

#[test]
fn each_listener_is_proved_to_be_what_it_is_said_to_be() {
    use socket::{SocketError, proven_listener};
    let cell = Cell::new();
    let cookie = cell.inside(|| netns::current_cookie().unwrap());
    for (which, ours) in Listener::ALL.into_iter().zip(&cell.listeners) {
        proven_listener(ours.as_fd(), which, cookie).unwrap();
        let elsewhere = proven_listener(ours.as_fd(), which, cookie + 1);
        assert!(matches!(elsewhere, Err(SocketError::OtherNamespace { .. })));
        for other in Listener::ALL.into_iter().filter(|other| *other != which) {
            let refused = proven_listener(ours.as_fd(), other, cookie);
            assert!(matches!(refused, Err(SocketError::NotListener(_))), "{which:?} as {other:?}");
        }
    }
}

#[test]
fn names_are_asked_at_any_address_and_answered_from_it() {
    let cell = Cell::new();
    for (server, at) in [("9.9.9.9:53", 2), ("127.0.0.53:53", 2), ("[2620:fe::fe]:53", 3)] {
        let local = if at == 2 { "0.0.0.0:0" } else { "[::]:0" };
        let client = cell.inside(|| UdpSocket::bind(local).unwrap());
        client.connect(server).unwrap();
        client.send(b"question").unwrap();
        let resolver = cell.listeners[at].as_fd();
        rustix::io::ioctl_fionbio(resolver, false).unwrap();
        let mut buffer = [0; 512];
        let datagram = socket::udp_recv_from_to(resolver, &mut buffer).unwrap();
        assert_eq!(&buffer[..datagram.length], b"question");
        assert_eq!(datagram.to, server.parse::<SocketAddr>().unwrap().ip());
        assert_eq!(datagram.from, client.local_addr().unwrap());
        socket::udp_send_from(resolver, b"answer", datagram.to, datagram.from).unwrap();
        // Connected, so that it takes an answer from that very address only.
        let length = client.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"answer");

        client.send(&[0; 600]).unwrap();
        let cut = socket::udp_recv_from_to(resolver, &mut buffer).unwrap_err();
        assert_eq!(cut.kind(), ErrorKind::InvalidData);
    }
}

#[test]
fn other_udp_and_icmp_are_refused_at_once() {
    let cell = Cell::new();
    cell.inside(|| {
        // Somebody in the cell listens there; still nothing arrives.
        let thief = UdpSocket::bind("0.0.0.0:443").unwrap();
        let client = UdpSocket::bind("0.0.0.0:0").unwrap();
        let refused = client.send_to(b"quic", "8.8.8.8:443").unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::PermissionDenied);
        thief.set_nonblocking(true).unwrap();
        assert_eq!(thief.recv(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
        // The positive controls: loopback, and port 53 anywhere.
        client.send_to(b"local", "127.0.0.1:443").unwrap();
        thief.set_nonblocking(false).unwrap();
        assert_eq!(thief.recv(&mut [0; 9]).unwrap(), 5);
        client.send_to(b"name", "8.8.8.8:53").unwrap();

        for (target, allowed) in
            [("127.0.0.1:0", true), ("8.8.8.8:0", false), ("[::1]:0", true), ("[2606:4700::1]:0", false)]
        {
            let target: SocketAddr = target.parse().unwrap();
            assert_eq!(ping(target).is_ok(), allowed, "{target}");
        }
    });
}

/// Sends an echo request from a raw socket.
fn ping(target: SocketAddr) -> rustix::io::Result<usize> {
    use rustix::net::{AddressFamily, SendFlags, SocketType, ipproto, sendto, socket};
    let (family, protocol, kind) = if target.is_ipv4() {
        (AddressFamily::INET, ipproto::ICMP, 8)
    } else {
        (AddressFamily::INET6, ipproto::ICMPV6, 128)
    };
    let raw = socket(family, SocketType::RAW, Some(protocol))?;
    let checksum: u16 = !(u16::from(kind) << 8);
    let [high, low] = checksum.to_be_bytes();
    sendto(&raw, &[kind, 0, high, low, 0, 0, 0, 0], SendFlags::empty(), &target)
}

fn mptcp_socket() -> OwnedFd {
    let protocol = rustix::net::ipproto::MPTCP;
    let kind = rustix::net::SocketType::STREAM;
    rustix::net::socket(rustix::net::AddressFamily::INET, kind, Some(protocol)).unwrap()
}

fn mptcp(target: SocketAddrV4) -> std::io::Result<()> {
    Ok(rustix::net::connect(mptcp_socket(), &target)?)
}

/// Waits until a started connection is there or refused.
fn finish(stream: std::io::Result<TcpStream>) -> Result<(), ErrorKind> {
    use rustix::event::{PollFd, PollFlags, poll};
    let stream = stream.map_err(|error| error.kind())?;
    poll(&mut [PollFd::new(&stream, PollFlags::OUT)], None).unwrap();
    stream.take_error().unwrap().map_or(Ok(()), |error| Err(error.kind()))
}
