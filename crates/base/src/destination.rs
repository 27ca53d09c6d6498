//! Where a cell wants to go: what policy decides on and approvals are about.

use crate::{HostName, host::HostNameError};
use serde::{Deserialize, Serialize, Serializer};
use std::{fmt, net::IpAddr};

/// A name, or a literal address when the cell dialled one that no look-up of ours gave it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(try_from = "String")]
pub enum Host {
    /// A literal address. Its text is never taken for a name.
    Address(IpAddr),
    /// A name.
    Name(HostName),
}

impl TryFrom<String> for Host {
    type Error = HostNameError;

    fn try_from(text: String) -> Result<Self, HostNameError> {
        text.parse().map(Self::Address).or_else(|_| HostName::try_from(text).map(Self::Name))
    }
}

impl Serialize for Host {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Address(address) => address.serialize(serializer),
            Self::Name(name) => name.serialize(serializer),
        }
    }
}

/// What is spoken to the destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// Plain HTTP/1.
    Http,
    /// TLS; the name in its ClientHello is checked.
    Https,
    /// Anything else over TCP.
    Tcp,
}

/// A host, a port (1 to 65,535) and what is spoken.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Destination {
    /// The name or literal address.
    pub host: Host,
    /// The TCP port.
    pub port: std::num::NonZeroU16,
    /// What is spoken.
    pub protocol: Protocol,
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(IpAddr::V6(address)) => write!(f, "[{address}]"),
            Self::Address(IpAddr::V4(address)) => address.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

impl Protocol {
    /// `http`, `https` or `tcp`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
            Self::Tcp => "tcp",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a text is no destination.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no destination: https://host:port, http://host:port or tcp://host:port")]
pub struct DestinationError(String);

impl std::str::FromStr for Destination {
    type Err = DestinationError;

    /// Reads what `Display` writes.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || DestinationError(text.chars().take(300).collect());
        let (scheme, rest) = text.split_once("://").ok_or_else(wrong)?;
        let protocol = match scheme {
            "http" => Protocol::Http,
            "https" => Protocol::Https,
            "tcp" => Protocol::Tcp,
            _ => return Err(wrong()),
        };
        let (host, port) = rest.rsplit_once(':').ok_or_else(wrong)?;
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let host = match bare.parse() {
            Ok(address) => Host::Address(address),
            Err(_) => Host::Name(HostName::try_from(host).map_err(|_| wrong())?),
        };
        Ok(Self { host, port: port.parse().map_err(|_| wrong())?, protocol })
    }
}

impl fmt::Display for Destination {
    /// `https://api.example.com:443`, the way approvals and records show it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}:{}", self.protocol, self.host, self.port)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_destination_is_read_as_it_is_written() {
        for text in ["https://a.example:443", "http://192.0.2.1:80", "tcp://[2001:db8::1]:22"] {
            assert_eq!(text.parse::<Destination>().unwrap().to_string(), text);
        }
        for bad in [
            "a.example:443",
            "https://a.example",
            "udp://a.example:1",
            "https://a.example:0",
            "https://:1",
            "",
        ] {
            assert!(bad.parse::<Destination>().is_err(), "{bad}");
        }
    }
}
