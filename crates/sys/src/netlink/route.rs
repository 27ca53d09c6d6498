//! Links, addresses and routes.

use super::{
    message::{Message, attributes},
    wire::{ACK, REQUEST, Wire},
};
use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsRawFd, BorrowedFd},
};

/// A socket for requests about the namespace of the thread that opened it.
#[derive(Debug)]
pub struct RouteSocket(Wire);

/// An address of this namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostAddress {
    /// The interface's number.
    pub index: u32,
    /// The address.
    pub address: IpAddr,
    /// Bits of its network.
    pub prefix: u8,
}

const LOOPBACK: u32 = 1;

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
const DUMP: u16 = 0x300;
const CREATE: u16 = 0x400;
const EXCLUSIVE: u16 = 0x200;

const IFLA_IFNAME: u16 = 3;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
/// No duplicate address detection: the address is usable at once.
const IFA_F_NODAD: u8 = 2;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RT_TABLE_MAIN: u8 = 254;
const RT_TABLE_LOCAL: u8 = 255;
const RTPROT_STATIC: u8 = 4;
const RTN_UNICAST: u8 = 1;
const RTN_LOCAL: u8 = 2;
const RT_SCOPE_UNIVERSE: u8 = 0;
const RT_SCOPE_LINK: u8 = 253;
const RT_SCOPE_HOST: u8 = 254;

/// Brings `lo` up and makes every address of both families local to this thread's namespace, so that any
/// destination arrives at a socket in it. Needs CAP_NET_ADMIN over the namespace.
pub fn any_ip() -> io::Result<()> {
    let socket = RouteSocket::open()?;
    socket.link_up(LOOPBACK)?;
    socket.add_local_route(LOOPBACK, Ipv4Addr::UNSPECIFIED.into(), 0)?;
    socket.add_local_route(LOOPBACK, Ipv6Addr::UNSPECIFIED.into(), 0)
}

impl RouteSocket {
    /// The number of `lo`, in every namespace.
    pub const LOOPBACK: u32 = LOOPBACK;

    /// Opens a socket in this thread's namespace.
    pub fn open() -> io::Result<Self> {
        Ok(Self(Wire::open(None)?))
    }

    /// The number of the interface of this name, in this thread's namespace.
    pub fn index(name: &str) -> io::Result<u32> {
        let name = std::ffi::CString::new(name)?;
        // SAFETY: the name ends with a zero byte and lives through the call.
        match unsafe { libc::if_nametoindex(name.as_ptr()) } {
            0 => Err(io::Error::last_os_error()),
            index => Ok(index),
        }
    }

    /// Brings an interface up.
    pub fn link_up(&self, index: u32) -> io::Result<()> {
        self.request(Message::new(RTM_NEWLINK, REQUEST | ACK, 1, &link(index, true)))
    }

    /// Removes an interface, and with a veth its peer.
    pub fn remove_link(&self, index: u32) -> io::Result<()> {
        self.request(Message::new(RTM_DELLINK, REQUEST | ACK, 1, &link(index, false)))
    }

    /// Makes a veth pair: `name` here, `peer` in the other namespace.
    pub fn add_veth(&self, name: &str, peer: &str, peer_netns: BorrowedFd<'_>) -> io::Result<()> {
        let mut message = Message::new(RTM_NEWLINK, REQUEST | ACK | CREATE | EXCLUSIVE, 1, &link(0, false));
        message.text(IFLA_IFNAME, name);
        message.nest(IFLA_LINKINFO, |info| {
            info.text(IFLA_INFO_KIND, "veth");
            info.nest(IFLA_INFO_DATA, |data| {
                data.nest(VETH_INFO_PEER, |other| {
                    other.raw(&link(0, false));
                    other.text(IFLA_IFNAME, peer);
                    other.attribute(IFLA_NET_NS_FD, &peer_netns.as_raw_fd().to_ne_bytes());
                });
            });
        });
        self.request(message)
    }

    /// Gives an interface an address.
    pub fn add_address(&self, index: u32, address: IpAddr, prefix: u8) -> io::Result<()> {
        let flags = if address.is_ipv6() { IFA_F_NODAD } else { 0 };
        let mut fixed = vec![family(address), prefix, flags, RT_SCOPE_UNIVERSE];
        fixed.extend(index.to_ne_bytes());
        let mut message = Message::new(RTM_NEWADDR, REQUEST | ACK | CREATE | EXCLUSIVE, 1, &fixed);
        message.attribute(IFA_LOCAL, &octets(address));
        message.attribute(IFA_ADDRESS, &octets(address));
        self.request(message)
    }

    /// Makes a block of addresses local to the namespace.
    pub fn add_local_route(&self, index: u32, network: IpAddr, prefix: u8) -> io::Result<()> {
        // IPv6 knows no scopes of routes.
        let scope = if network.is_ipv4() { RT_SCOPE_HOST } else { RT_SCOPE_UNIVERSE };
        self.add(RT_TABLE_LOCAL, scope, RTN_LOCAL, index, network, prefix, None)
    }

    /// Routes a block of addresses out of an interface, by way of a gateway if there is one.
    pub fn add_route(
        &self,
        index: u32,
        network: IpAddr,
        prefix: u8,
        gateway: Option<IpAddr>,
    ) -> io::Result<()> {
        let scope = if gateway.is_none() && network.is_ipv4() { RT_SCOPE_LINK } else { RT_SCOPE_UNIVERSE };
        self.add(RT_TABLE_MAIN, scope, RTN_UNICAST, index, network, prefix, gateway)
    }

    /// Every address of the namespace, of both families.
    pub fn addresses(&self) -> io::Result<Vec<HostAddress>> {
        let mut found = Vec::new();
        self.0.dump(&Message::new(RTM_GETADDR, REQUEST | DUMP, 1, &[0; 8]).finish(), |received| {
            if received.kind == RTM_NEWADDR {
                found.extend(host_address(received.payload));
            }
        })?;
        Ok(found)
    }

    #[allow(clippy::too_many_arguments)] // The fields of one structure.
    fn add(
        &self,
        table: u8,
        scope: u8,
        kind: u8,
        index: u32,
        network: IpAddr,
        prefix: u8,
        gateway: Option<IpAddr>,
    ) -> io::Result<()> {
        let fixed = [family(network), prefix, 0, 0, table, RTPROT_STATIC, scope, kind, 0, 0, 0, 0];
        let mut message = Message::new(RTM_NEWROUTE, REQUEST | ACK | CREATE | EXCLUSIVE, 1, &fixed);
        if prefix > 0 {
            message.attribute(RTA_DST, &octets(network));
        }
        message.attribute(RTA_OIF, &index.to_ne_bytes());
        if let Some(gateway) = gateway {
            message.attribute(RTA_GATEWAY, &octets(gateway));
        }
        self.request(message)
    }

    fn request(&self, message: Message) -> io::Result<()> {
        self.0.acknowledged(&message.finish(), 1).map_err(|(_, error)| error)
    }
}

/// `struct ifinfomsg`.
fn link(index: u32, up: bool) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[4..8].copy_from_slice(&index.to_ne_bytes());
    if up {
        // IFF_UP, in the flags and in the mask of flags to change.
        bytes[8..12].copy_from_slice(&1_u32.to_ne_bytes());
        bytes[12..16].copy_from_slice(&1_u32.to_ne_bytes());
    }
    bytes
}

/// Reads a `struct ifaddrmsg` and its attributes. A point-to-point address is its local end.
fn host_address(payload: &[u8]) -> Option<HostAddress> {
    let prefix = *payload.get(1)?;
    let index = u32::from_ne_bytes(payload.get(4..8)?.try_into().ok()?);
    let find = |kind| attributes(payload.get(8..).unwrap_or_default()).find(|found| found.0 == kind);
    let (_, value) = find(IFA_LOCAL).or_else(|| find(IFA_ADDRESS))?;
    let address = match value.len() {
        4 => IpAddr::from(<[u8; 4]>::try_from(value).ok()?),
        16 => IpAddr::from(<[u8; 16]>::try_from(value).ok()?),
        _ => return None,
    };
    Some(HostAddress { index, address, prefix })
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // AF_INET is 2, AF_INET6 is 10.
const fn family(address: IpAddr) -> u8 {
    (if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 }) as u8
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::netns;
    use std::os::fd::AsFd;

    #[test]
    fn the_addresses_of_both_families_are_listed_and_a_veth_goes_with_its_peer() {
        let (near, far) = (netns::create().unwrap(), netns::create().unwrap());
        netns::inside(near.as_fd(), || {
            let socket = RouteSocket::open().unwrap();
            assert_eq!(socket.addresses().unwrap(), []);
            socket.add_veth("near", "far", far.as_fd()).unwrap();
            let index = RouteSocket::index("near").unwrap();
            let given: [(IpAddr, u8); 2] =
                [("192.0.2.1".parse().unwrap(), 24), ("2001:db8::1".parse().unwrap(), 64)];
            for (address, prefix) in given {
                socket.add_address(index, address, prefix).unwrap();
                let again = socket.add_address(index, address, prefix).unwrap_err();
                assert_eq!(again.raw_os_error(), Some(libc::EEXIST));
            }
            let expected = given.map(|(address, prefix)| HostAddress { index, address, prefix });
            assert_eq!(socket.addresses().unwrap(), expected);
            let far_index = || netns::inside(far.as_fd(), || RouteSocket::index("far")).unwrap();
            assert!(far_index().is_ok());
            socket.remove_link(index).unwrap();
            assert!(far_index().is_err() && RouteSocket::index("near").is_err());
        })
        .unwrap();
    }

    #[test]
    fn any_ip_makes_every_address_local() {
        let netns = netns::create().unwrap();
        netns::inside(netns.as_fd(), || {
            let bind = |address: &str| std::net::UdpSocket::bind(address);
            // With `lo` up there is a table of local addresses, and this one is not in it.
            RouteSocket::open().unwrap().link_up(LOOPBACK).unwrap();
            assert!(bind("8.8.8.8:0").is_err());
            any_ip().unwrap();
            bind("8.8.8.8:0").unwrap();
            std::net::UdpSocket::bind("[::]:0").unwrap().connect("[2606:4700::1]:9").unwrap();
        })
        .unwrap();
    }
}
