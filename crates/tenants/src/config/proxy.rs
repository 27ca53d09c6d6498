//! The operator's proxy in `cofferdam.toml`: where it is, and what is dialled without it.

use cofferdam_base::HostName;
use cofferdam_sys::nft::Cidr;
use serde::{Deserialize, Serialize};
use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

/// `http://ADDRESS:PORT`. An address, because the firewall by uid opens exactly one, and the launcher, which raises
/// it, resolves no names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ProxyAddress(pub SocketAddr);

impl TryFrom<String> for ProxyAddress {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let (scheme, rest) = text.split_once("://").unwrap_or(("", &text));
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.contains('@') {
            return Err("credentials of a proxy do not belong into a file: \
                 leave USER:PASSWORD@ out and type `cofferdam upstream-proxy set`"
                .to_owned());
        }
        if scheme == "https" {
            return Err("a proxy over TLS is not supported: write http://ADDRESS:PORT".to_owned());
        }
        let address = rest.parse::<SocketAddr>().ok().filter(|address| address.port() != 0);
        match address {
            Some(address) if scheme == "http" => Ok(Self(address)),
            _ => Err(format!(
                "{text:?} is no http://ADDRESS:PORT, such as http://10.1.2.3:3128; \
                 not a name, because the firewall by uid opens exactly one address and port"
            )),
        }
    }
}

impl From<ProxyAddress> for String {
    fn from(proxy: ProxyAddress) -> Self {
        format!("http://{}", proxy.0)
    }
}

/// A name with all that is beneath it, or a block of addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum NoProxy {
    /// `corp.example`, also written `.corp.example` or `*.corp.example`.
    Name(HostName),
    /// `10.0.0.0/8`, or one address.
    Block(Cidr),
}

impl TryFrom<String> for NoProxy {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if let Ok(address) = text.parse::<IpAddr>() {
            let bits = if address.is_ipv4() { 32 } else { 128 };
            return format!("{address}/{bits}").parse().map(Self::Block).map_err(|_| text);
        }
        if text.contains('/') {
            return text
                .parse()
                .map(Self::Block)
                .map_err(|error: cofferdam_sys::nft::CidrError| error.to_string());
        }
        let name = text.strip_prefix("*.").or_else(|| text.strip_prefix('.')).unwrap_or(&text);
        HostName::try_from(name)
            .map(Self::Name)
            .map_err(|_| format!("{text:?} is no name such as corp.example and no block such as 10.0.0.0/8"))
    }
}

impl fmt::Display for NoProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => name.fmt(f),
            Self::Block(block) => block.fmt(f),
        }
    }
}

impl From<NoProxy> for String {
    fn from(rule: NoProxy) -> Self {
        rule.to_string()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_proxy_is_an_address_and_a_port_and_what_else_is_said_names_the_mend() {
        let read = |text: &str| ProxyAddress::try_from(text.to_owned()).map(String::from);
        assert_eq!(read("http://10.1.2.3:3128/").unwrap(), "http://10.1.2.3:3128");
        assert_eq!(read("http://[fd00::3]:8080").unwrap(), "http://[fd00::3]:8080");
        for (bad, mend) in [
            ("http://proxy.corp:3128", "not a name"),
            ("10.1.2.3:3128", "http://ADDRESS:PORT"),
            ("http://10.1.2.3", "http://ADDRESS:PORT"),
            ("http://10.1.2.3:0", "http://ADDRESS:PORT"),
            ("https://10.1.2.3:3128", "over TLS"),
            ("socks5://10.1.2.3:1080", "http://ADDRESS:PORT"),
            ("http://u:p@10.1.2.3:3128", "cofferdam upstream-proxy set"),
        ] {
            assert!(read(bad).unwrap_err().contains(mend), "{bad}");
        }
    }

    #[test]
    fn what_needs_no_proxy_is_a_name_or_a_block() {
        let read = |text: &str| NoProxy::try_from(text.to_owned()).map(String::from);
        for (text, shown) in [
            (".Corp.example", "corp.example"),
            ("*.corp.example", "corp.example"),
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("10.0.0.1", "10.0.0.1/32"),
            ("fd00::1", "fd00::1/128"),
        ] {
            assert_eq!(read(text).unwrap(), shown);
        }
        for bad in ["", "*", "10.0.0.1/8", "a b", "corp.example:80"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
