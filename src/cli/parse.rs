//! Small texts that people type, parsed.

use cofferdam_base::{Destination, Host, HostName, Protocol};
use std::num::NonZeroU16;

/// `90s`, `15m`, `1h`, `7d` → seconds.
pub(crate) fn seconds(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is no time; write 90s, 15m, 1h or 7d");
    let unit = match text.chars().last() {
        Some('s') => 1,
        Some('m') => 60,
        Some('h') => 3600,
        Some('d') => 86_400,
        _ => return Err(wrong()),
    };
    let number: u64 = text[..text.len() - 1].parse().map_err(|_| wrong())?;
    number.checked_mul(unit).filter(|seconds| *seconds > 0).ok_or_else(wrong)
}

/// A number of mebibytes → bytes.
pub(crate) fn mebibytes(text: &str) -> Result<u64, String> {
    let bytes = text.parse::<u64>().ok().and_then(|mib| mib.checked_mul(1 << 20));
    bytes.ok_or_else(|| format!("{text:?} is no number of MiB"))
}

/// `https://api.example.com`, `tcp://10.0.0.1:22` → destination; http and https know their ports.
pub(crate) fn destination(text: &str) -> Result<Destination, String> {
    let wrong = |why: &str| {
        format!("{text:?} is no destination ({why}); write https://host:port, http://… or tcp://…")
    };
    let (scheme, rest) = text.split_once("://").ok_or_else(|| wrong("no scheme"))?;
    let (protocol, default) = match scheme {
        "http" => (Protocol::Http, NonZeroU16::new(80)),
        "https" => (Protocol::Https, NonZeroU16::new(443)),
        "tcp" => (Protocol::Tcp, None),
        _ => return Err(wrong("unknown scheme")),
    };
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let (host, port) = match rest.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => {
            (host, Some(port.parse().map_err(|_| wrong("a port is 1 to 65535"))?))
        }
        _ => (rest, default),
    };
    let port = port.ok_or_else(|| wrong("tcp needs a port"))?;
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let host = match bare.parse() {
        Ok(address) => Host::Address(address),
        Err(_) => Host::Name(HostName::try_from(host).map_err(|error| wrong(&error.to_string()))?),
    };
    Ok(Destination { host, port, protocol })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn times_have_a_unit() {
        assert_eq!(seconds("90s"), Ok(90));
        assert_eq!(seconds("1h"), Ok(3600));
        for bad in ["", "1", "h", "0s", "-1s", "99999999999999999999d", "1é"] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn memory_is_given_in_mebibytes() {
        assert_eq!(mebibytes("128"), Ok(128 << 20));
        for bad in ["", "-1", "1g", "99999999999999999"] {
            assert!(mebibytes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn destinations_read_as_they_are_shown() {
        for text in ["https://api.example.com:443", "http://example.com:8080", "tcp://[2606:4700::1]:22"] {
            assert_eq!(destination(text).unwrap().to_string(), text);
        }
        assert_eq!(destination("https://example.com/").unwrap().port.get(), 443);
        assert_eq!(destination("http://[::1]").unwrap().port.get(), 80);
        for bad in ["example.com", "ftp://x", "tcp://x", "http://x:0", "http://x:y", "http://a b"] {
            assert!(destination(bad).is_err(), "{bad}");
        }
    }
}
