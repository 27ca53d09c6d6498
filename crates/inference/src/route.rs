//! Where a provider is, and what the cell's model name becomes there.

use crate::Error;
use cofferdam_base::{Destination, Host, HostName, Protocol, Provider};
use std::{num::NonZeroU16, time::Duration};

/// A route of a tenant: provider, model and name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The route's name, shown in usage and in `/v1/models`.
    pub name: String,
    /// Where the provider is.
    pub base: BaseUrl,
    /// The model's name at the provider.
    pub model: String,
    /// Which wire the provider speaks.
    pub provider: Provider,
    /// May a cell have the provider fetch, run and keep things for it? Such tools are a way out that no policy
    /// of the tenant sees.
    pub provider_tools: bool,
    /// How long the provider is waited for.
    pub patience: Patience,
}

/// How long a provider is waited for, where that is not as long as we do by ourselves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Patience {
    /// For the first byte of its answer.
    pub first_byte: Option<Duration>,
    /// Between two pieces of it.
    pub idle: Option<Duration>,
}

impl Patience {
    /// How long the beginning of an answer is waited for. One in one piece begins when it is thought out.
    pub fn begin(&self, streams: bool) -> Duration {
        self.first_byte.unwrap_or(if streams { BEGIN } else { THINK })
    }

    /// How long an answer that began may stand still.
    pub fn idle(&self) -> Duration {
        self.idle.unwrap_or(IDLE)
    }
}

/// How long a provider may take to begin a stream.
const BEGIN: Duration = Duration::from_mins(2);
/// How long it may take for an answer in one piece.
const THINK: Duration = Duration::from_mins(10);
/// How long an answer that began may stand still.
const IDLE: Duration = Duration::from_mins(2);

/// A provider's base URL: `https://host[:port]/prefix`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseUrl {
    destination: Destination,
    prefix: String,
}

impl BaseUrl {
    /// Parses a base URL. Neither user, query, fragment, `..` nor percent signs.
    pub fn parse(text: &str) -> Result<Self, Error> {
        parse(text).ok_or_else(|| Error::BaseUrl(text.chars().take(200).collect()))
    }

    /// Where to connect: `Https` means TLS to that name.
    pub const fn destination(&self) -> &Destination {
        &self.destination
    }

    /// The request target of an operation, `/chat/completions` for example.
    pub fn join(&self, operation: &str) -> String {
        format!("{}{operation}", self.prefix)
    }

    /// The request target of an operation that begins with its API's version, which a base URL may end in.
    pub fn under(&self, version: &str, operation: &str) -> String {
        let prefix = self.prefix.strip_suffix(version).unwrap_or(&self.prefix);
        format!("{prefix}{operation}")
    }

    /// Is it OpenAI itself, in whatever region, and no server that only speaks as it does?
    pub(crate) fn is_openai(&self) -> bool {
        let Host::Name(name) = &self.destination.host else { return false };
        name.as_str()
            .strip_suffix("api.openai.com")
            .is_some_and(|region| region.is_empty() || region.ends_with('.'))
    }

    /// The value of the `Host` header.
    pub fn authority(&self) -> String {
        let usual = if self.destination.protocol == Protocol::Https { 443 } else { 80 };
        match self.destination.port.get() {
            port if port == usual => self.destination.host.to_string(),
            port => format!("{}:{port}", self.destination.host),
        }
    }
}

fn parse(text: &str) -> Option<BaseUrl> {
    let (protocol, rest, usual) = match text.split_once("://")? {
        ("https", rest) => (Protocol::Https, rest, 443),
        ("http", rest) => (Protocol::Http, rest, 80),
        _ => return None,
    };
    let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
    let safe =
        |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'/' | b'-' | b'_' | b'.' | b'~' | b':' | b'@');
    let prefix = path.trim_end_matches('/');
    if path.len() > 512
        || !prefix.bytes().all(safe)
        || prefix.split('/').any(|part| matches!(part, "." | ".."))
    {
        return None;
    }
    let (host, port) = if let Some(rest) = authority.strip_prefix('[') {
        let (address, port) = rest.split_once(']')?;
        let address: std::net::Ipv6Addr = address.parse().ok()?;
        let port = if port.is_empty() { None } else { Some(port.strip_prefix(':')?) };
        (Host::Address(address.into()), port)
    } else {
        let (host, port) = authority.split_once(':').map_or((authority, None), |(h, p)| (h, Some(p)));
        let host = match host.parse::<std::net::Ipv4Addr>() {
            Ok(address) => Host::Address(address.into()),
            Err(_) => Host::Name(HostName::try_from(host).ok()?),
        };
        (host, port)
    };
    let port = match port {
        Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => digits.parse().ok()?,
        Some(_) => return None,
        None => NonZeroU16::new(usual)?,
    };
    Some(BaseUrl { destination: Destination { host, port, protocol }, prefix: prefix.to_owned() })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn base_urls_parse_and_join() {
        for (text, destination, target, authority) in [
            ("https://api.example.com/v1", "https://api.example.com:443", "/v1/models", "api.example.com"),
            ("https://api.example.com/v1/", "https://api.example.com:443", "/v1/models", "api.example.com"),
            ("http://10.0.0.1:8000", "http://10.0.0.1:8000", "/models", "10.0.0.1:8000"),
            ("http://[fd12::1]:80/a/b", "http://[fd12::1]:80", "/a/b/models", "[fd12::1]"),
        ] {
            let base = BaseUrl::parse(text).unwrap();
            assert_eq!(base.destination().to_string(), destination);
            assert_eq!((base.join("/models").as_str(), base.authority().as_str()), (target, authority));
        }
        for base in ["https://api.example.com/a", "https://api.example.com/a/v1"] {
            assert_eq!(BaseUrl::parse(base).unwrap().under("/v1", "/v1/messages"), "/a/v1/messages");
        }
        for bad in [
            "",
            "api.example.com",
            "ftp://a.example",
            "https://",
            "https://u:p@a.example",
            "https://a.example/v1?x",
            "https://a.example/v1#x",
            "https://a.example/../x",
            "https://a.example/%2e",
            "https://a.example:0",
            "https://a.example:x",
            "https://[::1",
            "https://a.example/a b",
            "https://a.example/\r\nX: y",
            "https://2130706433",
        ] {
            assert!(BaseUrl::parse(bad).is_err(), "{bad:?}");
        }
    }
}
