//! The values of `cofferdam.toml` that are more than a number or a text, each checked when it is read.

use serde::{Deserialize, Serialize};
use std::{
    net::{IpAddr, SocketAddr},
    path::{Component, Path, PathBuf},
};

/// An absolute path without `.` or `..`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "PathBuf", into = "PathBuf")]
pub struct AbsolutePath(PathBuf);

impl AbsolutePath {
    /// The path.
    pub fn as_path(&self) -> &Path {
        &self.0
    }
}

impl TryFrom<PathBuf> for AbsolutePath {
    type Error = String;

    fn try_from(path: PathBuf) -> Result<Self, String> {
        let plain = path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
        let text = path.to_str().filter(|text| !text.contains('\0'));
        if path.is_absolute() && plain && text.is_some() {
            Ok(Self(path))
        } else {
            Err(format!("\"{}\" is not an absolute path without '..'", path.display()))
        }
    }
}

impl From<AbsolutePath> for PathBuf {
    fn from(path: AbsolutePath) -> Self {
        path.0
    }
}

/// A block of addresses, `10.1.0.0/16`; a single address is a block of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Block {
    address: IpAddr,
    bits: u8,
}

impl TryFrom<String> for Block {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not a block of addresses such as 10.1.0.0/16");
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text.as_str(), None),
        };
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.map_or(Ok(most), |bits| bits.parse::<u8>().map_err(|_| wrong()))?;
        let host_bits_are_zero = match address {
            IpAddr::V4(v4) => bits <= 32 && v4.to_bits().checked_shl(bits.into()).unwrap_or(0) == 0,
            IpAddr::V6(v6) => bits <= 128 && v6.to_bits().checked_shl(bits.into()).unwrap_or(0) == 0,
        };
        if host_bits_are_zero { Ok(Self { address, bits }) } else { Err(wrong()) }
    }
}

impl From<Block> for String {
    fn from(block: Block) -> Self {
        block.to_string()
    }
}

impl std::fmt::Display for Block {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

/// A name server: an address, port 53 unless another is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NameServer(pub SocketAddr);

impl TryFrom<String> for NameServer {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse::<IpAddr>()
            .map(|address| SocketAddr::new(address, 53))
            .or_else(|_| text.parse())
            .map(Self)
            .map_err(|_| format!("{text:?} is not the address of a name server, such as 192.0.2.53"))
    }
}

impl From<NameServer> for String {
    fn from(server: NameServer) -> Self {
        server.0.to_string()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn paths_are_absolute_and_go_straight() {
        for bad in ["", "a", "./a", "/a/../b", "/..", "../a", "/a\0b"] {
            assert!(AbsolutePath::try_from(PathBuf::from(bad)).is_err(), "{bad}");
        }
        assert!(AbsolutePath::try_from(PathBuf::from("/usr/lib")).is_ok());
    }

    #[test]
    fn blocks_have_no_bits_beyond_their_length() {
        for (text, read) in [
            ("10.0.0.0/8", Some("10.0.0.0/8")),
            ("10.0.0.1", Some("10.0.0.1/32")),
            ("0.0.0.0/0", Some("0.0.0.0/0")),
            ("fd00::/8", Some("fd00::/8")),
            ("::/0", Some("::/0")),
            ("10.0.0.1/8", None),
            ("10.0.0.0/33", None),
            ("fd00::1/64", None),
            ("::/129", None),
            ("ten/8", None),
            ("10.0.0.0/", None),
        ] {
            let block = Block::try_from(text.to_owned()).ok().map(String::from);
            assert_eq!(block.as_deref(), read, "{text}");
        }
    }

    #[test]
    fn name_servers_answer_on_port_53_unless_said() {
        let read = |text: &str| NameServer::try_from(text.to_owned()).map(String::from);
        assert_eq!(read("192.0.2.53").unwrap(), "192.0.2.53:53");
        assert_eq!(read("[2001:db8::1]:5353").unwrap(), "[2001:db8::1]:5353");
        assert!(read("dns.example").is_err());
    }
}
