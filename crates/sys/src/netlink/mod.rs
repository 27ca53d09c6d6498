//! Netlink, by hand: messages, the socket, and the few requests that set up links, addresses and routes.
//!
//! It owns the wire format and nothing of what the answers mean. Every request acts on the network namespace
//! of the thread that opened the socket. Formats: `linux/netlink.h`, `linux/rtnetlink.h`, `linux/if_link.h`,
//! `linux/veth.h`.

pub(crate) mod message;
mod route;
pub(crate) mod wire;

pub use route::{HostAddress, RouteSocket, any_ip};
