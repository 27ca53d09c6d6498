//! The host's guard by uid, in two network namespaces made for each test: a "host" that is joined to an
//! "outside" in which every refused address really listens, so that a refusal is the guard's own doing.
#![allow(clippy::unwrap_used, missing_docs)]

use cofferdam_sys::{
    netlink::RouteSocket,
    netns,
    nft::{self, UidFirewall},
};
use std::{
    io::ErrorKind,
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};

const WARDEN: u32 = 70_000;
const OTHER: u32 = 60_000;
/// On the host itself, besides its loopback.
const HOST: [&str; 4] = ["192.0.2.1/24", "2001:db8::1/64", "93.184.216.1/32", "2606:2800:220:1::100/128"];
const PUBLIC: [&str; 3] = ["93.184.216.34", "9.9.9.9", "2606:2800:220:1::1"];
const REFUSED: [&str; 20] = [
    "10.9.9.9",
    "172.16.0.9",
    "192.168.1.9",
    "100.64.0.9",
    "100.100.100.200",
    "169.254.169.254",
    "168.63.129.16",
    "198.18.0.9",
    "198.51.100.9",
    "203.0.113.9",
    "192.0.2.2",
    "240.0.0.9",
    "64:ff9b::808:808",
    "2002::9",
    "2001::9",
    "fd12::9",
    "fd00:ec2::254",
    "2001:db8::2",
    "100::9",
    "3fff::9",
];

struct World {
    host: OwnedFd,
    _outside: OwnedFd,
    _listeners: Vec<TcpListener>,
    _datagrams: Vec<UdpSocket>,
}

impl World {
    fn new() -> Self {
        let (host, outside) = (netns::create().unwrap(), netns::create().unwrap());
        let (listeners, datagrams) = netns::inside(outside.as_fd(), || {
            let route = RouteSocket::open().unwrap();
            route.link_up(RouteSocket::LOOPBACK).unwrap();
            route.add_veth("out", "in", host.as_fd()).unwrap();
            let out = RouteSocket::index("out").unwrap();
            route.link_up(out).unwrap();
            for (address, prefix) in [("192.0.2.2", 24), ("2001:db8::2", 64)] {
                route.add_address(out, address.parse().unwrap(), prefix).unwrap();
            }
            for address in PUBLIC
                .iter()
                .chain(&REFUSED)
                .filter(|address| !["192.0.2.2", "2001:db8::2"].contains(address))
            {
                let address: IpAddr = address.parse().unwrap();
                let whole = if address.is_ipv4() { 32 } else { 128 };
                // A local route, since the kernel gives no interface an address such as 240.0.0.9.
                route.add_local_route(RouteSocket::LOOPBACK, address, whole).unwrap();
            }
            for (back, gateway) in [("93.184.216.1", "192.0.2.1"), ("2606:2800:220:1::100", "2001:db8::1")] {
                let back: IpAddr = back.parse().unwrap();
                let whole = if back.is_ipv4() { 32 } else { 128 };
                route.add_route(out, back, whole, Some(gateway.parse().unwrap())).unwrap();
            }
            let tcp: Vec<_> = [80, 53].map(|port| TcpListener::bind(("::", port)).unwrap()).into();
            (tcp, vec![UdpSocket::bind("[::]:53").unwrap(), UdpSocket::bind("[::]:443").unwrap()])
        })
        .unwrap();
        netns::inside(host.as_fd(), || {
            let route = RouteSocket::open().unwrap();
            route.link_up(RouteSocket::LOOPBACK).unwrap();
            let inward = RouteSocket::index("in").unwrap();
            route.link_up(inward).unwrap();
            for block in HOST {
                let (address, prefix) = block.split_once('/').unwrap();
                route.add_address(inward, address.parse().unwrap(), prefix.parse().unwrap()).unwrap();
            }
            for (all, gateway) in [("0.0.0.0", "192.0.2.2"), ("::", "2001:db8::2")] {
                route.add_route(inward, all.parse().unwrap(), 0, Some(gateway.parse().unwrap())).unwrap();
            }
        })
        .unwrap();
        Self { host, _outside: outside, _listeners: listeners, _datagrams: datagrams }
    }

    fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        netns::inside(self.host.as_fd(), work).unwrap()
    }

    /// Does it on a thread that has this uid.
    fn with_uid<T: Send>(&self, uid: u32, work: impl FnOnce() -> T + Send) -> T {
        self.inside(|| {
            rustix::thread::set_thread_uid(rustix::process::Uid::from_raw(uid)).unwrap();
            work()
        })
    }

    fn dial(&self, uid: u32, address: &str, port: u16) -> Result<(), ErrorKind> {
        let target = SocketAddr::new(address.parse().unwrap(), port);
        self.with_uid(uid, || TcpStream::connect_timeout(&target, Duration::from_secs(10)))
            .map(drop)
            .map_err(|error| error.kind())
    }

    fn ask(&self, uid: u32, address: &str, port: u16) -> Result<usize, ErrorKind> {
        let local = if address.contains(':') { "[::]:0" } else { "0.0.0.0:0" };
        let target = SocketAddr::new(address.parse().unwrap(), port);
        self.with_uid(uid, || UdpSocket::bind(local)?.send_to(b"?", target)).map_err(|error| error.kind())
    }

    fn guard(&self, firewall: &UidFirewall) {
        self.inside(|| nft::uid_firewall(firewall).unwrap());
    }
}

fn firewall() -> UidFirewall {
    UidFirewall {
        table: "cofferdam-test".into(),
        uids: WARDEN - 10..=WARDEN + 10,
        nameservers: Vec::new(),
        proxy: None,
        opened: Vec::new(),
    }
}

const RESET: Result<(), ErrorKind> = Err(ErrorKind::ConnectionRefused);

#[test]
fn a_warden_reaches_public_addresses_and_no_other() {
    let world = World::new();
    let own = world.inside(|| TcpListener::bind("[::]:80").unwrap());
    let of_host =
        ["127.0.0.1", "::1", "127.18.0.2", "192.0.2.1", "93.184.216.1", "2606:2800:220:1::100", "0.0.0.0"];
    // Without the guard all of them answer, so what refuses below is the guard.
    for address in PUBLIC.iter().chain(&REFUSED).chain(&of_host) {
        assert_eq!(world.dial(WARDEN, address, 80), Ok(()), "{address}");
    }
    world.guard(&firewall());
    for address in PUBLIC {
        assert_eq!(world.dial(WARDEN, address, 80), Ok(()), "{address}");
        assert_eq!(world.ask(WARDEN, address, 443), Ok(1), "{address}");
    }
    for address in REFUSED.iter().chain(&of_host) {
        assert_eq!(world.dial(WARDEN, address, 80), RESET, "{address}");
        assert_eq!(world.ask(WARDEN, address, 443), Err(ErrorKind::PermissionDenied), "{address}");
        assert_eq!(world.dial(OTHER, address, 80), Ok(()), "the guard binds wardens only: {address}");
    }
    drop(own);
}

#[test]
fn the_guard_binds_the_whole_range_of_uids_and_not_one_more() {
    let world = World::new();
    world.guard(&firewall());
    for (uid, bound) in
        [(WARDEN - 11, false), (WARDEN - 10, true), (WARDEN + 10, true), (WARDEN + 11, false), (0, false)]
    {
        assert_eq!(world.dial(uid, "10.9.9.9", 80), if bound { RESET } else { Ok(()) }, "{uid}");
    }
}

#[test]
fn name_servers_and_opened_blocks_are_open_and_nothing_beside_them() {
    let world = World::new();
    let resolver = world.inside(|| UdpSocket::bind("127.0.0.53:53").unwrap());
    world.guard(&UidFirewall {
        nameservers: ["127.0.0.53:53", "192.168.1.9:53", "[fd12::9]:53"]
            .map(|text| text.parse().unwrap())
            .into(),
        opened: ["10.9.0.0/16", "fd12::/64", "169.254.0.0/16", "127.0.0.0/8"]
            .map(|text| text.parse().unwrap())
            .into(),
        ..firewall()
    });
    assert_eq!(world.ask(WARDEN, "127.0.0.53", 53), Ok(1));
    resolver.recv(&mut [0]).unwrap();
    assert_eq!(world.ask(WARDEN, "192.168.1.9", 53), Ok(1));
    assert_eq!(world.dial(WARDEN, "192.168.1.9", 53), Ok(()));
    assert_eq!(world.dial(WARDEN, "fd12::9", 53), Ok(()));
    assert_eq!(world.ask(WARDEN, "192.168.1.9", 443), Err(ErrorKind::PermissionDenied));
    assert_eq!(world.dial(WARDEN, "192.168.1.9", 80), RESET);
    assert_eq!(world.ask(WARDEN, "127.0.0.1", 53), Err(ErrorKind::PermissionDenied));

    assert_eq!(world.dial(WARDEN, "10.9.9.9", 80), Ok(()));
    assert_eq!(world.dial(WARDEN, "fd12::9", 80), Ok(()));
    assert_eq!(world.dial(WARDEN, "172.16.0.9", 80), RESET);
    assert_eq!(world.dial(WARDEN, "169.254.169.254", 80), RESET, "no operator opens the metadata service");
}

#[test]
fn the_operators_proxy_is_open_at_its_one_port_and_nothing_beside_it() {
    let world = World::new();
    assert_eq!(world.dial(WARDEN, "10.9.9.9", 53), Ok(()));
    world.guard(&UidFirewall { proxy: Some("10.9.9.9:80".parse().unwrap()), ..firewall() });
    assert_eq!(world.dial(WARDEN, "10.9.9.9", 80), Ok(()));
    assert_eq!(world.dial(WARDEN, "10.9.9.9", 53), RESET);
    assert_eq!(world.ask(WARDEN, "10.9.9.9", 80), Err(ErrorKind::PermissionDenied));
    assert_eq!(world.dial(WARDEN, "192.168.1.9", 80), RESET);
}

#[test]
fn an_ipv4_address_in_the_clothes_of_ipv6_is_refused_as_what_it_is() {
    let world = World::new();
    let _own = world.inside(|| TcpListener::bind("[::]:80").unwrap());
    world.guard(&firewall());
    for refused in ["::ffff:10.9.9.9", "::ffff:169.254.169.254", "::ffff:127.0.0.1", "::ffff:192.0.2.1"] {
        assert_eq!(world.dial(WARDEN, refused, 80), RESET, "{refused}");
        assert_eq!(world.dial(OTHER, refused, 80), Ok(()), "{refused}");
    }
    assert_eq!(world.dial(WARDEN, "::ffff:93.184.216.34", 80), Ok(()));
}

#[test]
fn an_address_that_the_host_gets_later_is_refused_at_once() {
    let world = World::new();
    world.guard(&UidFirewall { opened: vec!["10.0.0.0/8".parse().unwrap()], ..firewall() });
    let _own = world.inside(|| TcpListener::bind("0.0.0.0:80").unwrap());
    assert_eq!(world.dial(WARDEN, "10.9.9.9", 80), Ok(()));
    world.inside(|| {
        let index = RouteSocket::index("in").unwrap();
        RouteSocket::open().unwrap().add_address(index, "10.9.9.9".parse().unwrap(), 32).unwrap();
    });
    assert_eq!(world.dial(OTHER, "10.9.9.9", 80), Ok(()));
    assert_eq!(world.dial(WARDEN, "10.9.9.9", 80), RESET);
}

#[test]
fn the_guard_is_replaced_by_name_and_removed_on_request() {
    let world = World::new();
    world.guard(&firewall());
    world.guard(&UidFirewall { opened: vec!["10.9.9.0/24".parse().unwrap()], ..firewall() });
    assert_eq!(world.dial(WARDEN, "10.9.9.9", 80), Ok(()), "the old table is gone");
    assert_eq!(world.dial(WARDEN, "172.16.0.9", 80), RESET);
    world.guard(&UidFirewall { table: "another".into(), ..firewall() });
    assert_eq!(world.dial(WARDEN, "10.9.9.9", 80), RESET, "two tables both hold");
    for table in ["another", "cofferdam-test", "never-made"] {
        world.inside(|| nft::remove_uid_firewall(table).unwrap());
    }
    assert_eq!(world.dial(WARDEN, "172.16.0.9", 80), Ok(()));
}

#[test]
fn a_refusal_of_the_kernel_names_the_part() {
    let error = std::thread::spawn(|| {
        netns::unshare().unwrap();
        let nobody = rustix::process::Uid::from_raw(OTHER);
        rustix::thread::set_thread_uid(nobody).unwrap();
        nft::uid_firewall(&firewall()).unwrap_err()
    })
    .join()
    .unwrap();
    let nft::NftError::Refused { what, source } = error else { panic!("{error}") };
    assert!(what == "the transaction" && source.kind() == ErrorKind::PermissionDenied, "{what}: {source}");

    let world = World::new();
    let long = UidFirewall { table: "x".repeat(300), ..firewall() };
    let error = world.inside(|| nft::uid_firewall(&long).unwrap_err());
    assert!(matches!(error, nft::NftError::Refused { what, .. } if what.starts_with("table xxx")));
}
