//! The values of `cofferdam.toml` that are more than a number or a text, each checked when it is read.

use cofferdam_base::HostName;
use serde::{Deserialize, Deserializer, Serialize, de::Error};
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

/// An address that nobody outside this machine reaches. The edge speaks no TLS yet, and a token must not
/// cross a network in plain text.
pub(super) fn loopback<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SocketAddr, D::Error> {
    let address = SocketAddr::deserialize(deserializer)?;
    if address.ip().is_loopback() {
        return Ok(address);
    }
    Err(D::Error::custom(format!(
        "{address} is no loopback address, and without TLS tokens would cross the network in plain text: \
         listen on 127.0.0.1:{}, and reach it from elsewhere through a tunnel such as `ssh -L`",
        address.port()
    )))
}

/// The one domain whose origins the edge answers to without TLS.
pub(super) fn localhost<'de, D: Deserializer<'de>>(deserializer: D) -> Result<HostName, D::Error> {
    let domain = HostName::deserialize(deserializer)?;
    if domain.as_str() == "localhost" {
        return Ok(domain);
    }
    Err(D::Error::custom(format!(
        "{domain} would need TLS, which this version does not speak: leave `domain` out, and tenants answer \
         as <id>.localhost"
    )))
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
    fn name_servers_answer_on_port_53_unless_said() {
        let read = |text: &str| NameServer::try_from(text.to_owned()).map(String::from);
        assert_eq!(read("192.0.2.53").unwrap(), "192.0.2.53:53");
        assert_eq!(read("[2001:db8::1]:5353").unwrap(), "[2001:db8::1]:5353");
        assert!(read("dns.example").is_err());
    }
}
