//! Whose origin does a request address, and may it come from where it comes?
//!
//! It owns host names, `Origin`, `Sec-Fetch-Site` and the like; pure, it sees headers and addresses only.
//! The threats: DNS rebinding and virtual-host confusion (the `Host` must be exactly one of ours, and must
//! agree with the address that was dialled), and web pages of other origins, other tenants' included, which
//! make a browser call us. No cookie is ever a credential, so a request without `Origin` needs a bearer token
//! like every other.

use crate::check::{Check, keeps};
use cofferdam_base::{Slot, TenantId};
use http::{HeaderMap, HeaderName, header};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// What a `Host` header names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Authority {
    /// `<id>.localhost:PORT`.
    Name(TenantId, u16),
    /// `127.18.x.y:PORT`.
    Address(Ipv4Addr, u16),
}

/// Where a connection arrived.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// The tenant whose own listener it is; none for the listener of all.
    pub tenant: Option<TenantId>,
    /// The address that was dialled.
    pub local: SocketAddr,
}

/// Why a request is refused for where it comes from or goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OriginError {
    /// `Host` is not exactly one of ours: 421.
    Misdirected,
    /// `Origin` is not the tenant's own: 403.
    Foreign,
    /// `Sec-Fetch-Site` says that another site asks: 403.
    CrossSite,
    /// A service worker's script is asked for: 403.
    ServiceWorker,
}

/// Reads the text of a `Host` header. Without a port it means port 80. No other spelling of an address, no
/// upper case, trailing dot, user or path is ours.
#[must_use]
pub fn parse_host(text: &str) -> Option<Authority> {
    let (name, port) = match text.split_once(':') {
        None => (text, 80),
        Some((name, digits)) => {
            let plain = (1..=5).contains(&digits.len())
                && digits.bytes().all(|b| b.is_ascii_digit())
                && !digits.starts_with('0');
            (name, digits.parse().ok().filter(|_| plain)?)
        }
    };
    if let Some(id) = name.strip_suffix(".localhost") {
        return Some(Authority::Name(TenantId::try_from(id).ok()?, port));
    }
    let address: Ipv4Addr = name.parse().ok()?;
    (address.octets()[..2] == [127, 18]).then_some(Authority::Address(address, port))
}

/// The slot whose loopback address this is.
fn slot_of(address: IpAddr) -> Option<Slot> {
    match address {
        IpAddr::V4(v4) => match v4.octets() {
            [127, 18, high, low] => Slot::try_from(u16::from_be_bytes([high, low])).ok(),
            _ => None,
        },
        IpAddr::V6(_) => None,
    }
}

/// The one tenant that `Host` and the dialled address both name; `by_slot` tells a slot's tenant.
pub fn addressed(
    headers: &HeaderMap,
    arrival: &Arrival,
    by_slot: impl Fn(Slot) -> Option<TenantId>,
) -> Result<TenantId, OriginError> {
    let text = only(headers, &header::HOST).ok_or(OriginError::Misdirected)?;
    let (named, port) = match parse_host(text).ok_or(OriginError::Misdirected)? {
        Authority::Name(tenant, port) => (tenant, port),
        Authority::Address(address, port) => {
            let dialled = IpAddr::V4(address) == arrival.local.ip() || !keeps(Check::HostIsDialled);
            let tenant = slot_of(arrival.local.ip()).filter(|_| dialled).and_then(&by_slot);
            (tenant.ok_or(OriginError::Misdirected)?, port)
        }
    };
    // An address inside 127.18.0.0/16 belongs to one tenant, whichever listener took the connection.
    let by_address = match slot_of(arrival.local.ip()) {
        Some(slot) => Some(by_slot(slot).ok_or(OriginError::Misdirected)?),
        None => None,
    };
    let agree = |other: &Option<TenantId>| other.as_ref().is_none_or(|tenant| *tenant == named);
    let port = port == arrival.local.port() || !keeps(Check::HostPort);
    let listener = agree(&arrival.tenant) || !keeps(Check::HostIsListeners);
    let address = agree(&by_address) || !keeps(Check::HostIsAddresses);
    if port && listener && address { Ok(named) } else { Err(OriginError::Misdirected) }
}

/// May a request with these headers come to this tenant's origin?
pub fn admissible(headers: &HeaderMap, tenant: &TenantId, slot: Slot, port: u16) -> Result<(), OriginError> {
    if headers.contains_key(&header::ORIGIN) {
        let origin = only(headers, &header::ORIGIN).ok_or(OriginError::Foreign)?;
        // An origin of port 80 is written without it; `Host` may come either way, the origin may not.
        let authority = origin.strip_prefix("http://").and_then(parse_host).ok_or(OriginError::Foreign)?;
        let own = authority == Authority::Name(tenant.clone(), port)
            || authority == Authority::Address(slot.loopback_address(), port);
        let spelled_twice = port == 80 && origin.ends_with(":80");
        if keeps(Check::Origin) && !own || keeps(Check::OriginSpelling) && spelled_twice {
            return Err(OriginError::Foreign);
        }
    }
    if keeps(Check::FetchSite)
        && headers.contains_key(&SEC_FETCH_SITE)
        && !matches!(only(headers, &SEC_FETCH_SITE), Some("same-origin" | "none"))
    {
        return Err(OriginError::CrossSite);
    }
    if keeps(Check::ServiceWorker) && headers.contains_key(&SERVICE_WORKER) {
        return Err(OriginError::ServiceWorker);
    }
    Ok(())
}

/// The header's text if it is there once, and is text.
pub(crate) fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), again) if again.is_none() || !keeps(Check::OnlyOnce) => value.to_str().ok(),
        _ => None,
    }
}

static SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
static SERVICE_WORKER: HeaderName = HeaderName::from_static("service-worker");

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use http::HeaderValue;
    use proptest::prelude::*;

    fn headers(rows: &[(&'static str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in rows {
            map.append(*name, HeaderValue::from_str(value).unwrap());
        }
        map
    }

    fn id(text: &str) -> TenantId {
        TenantId::try_from(text).unwrap()
    }

    fn by_slot(slot: Slot) -> Option<TenantId> {
        match slot.number() {
            2 => Some(id("acme")),
            3 => Some(id("globex")),
            _ => None,
        }
    }

    fn at(tenant: Option<&str>, local: &str, host: &str) -> Result<TenantId, OriginError> {
        let arrival = Arrival { tenant: tenant.map(id), local: local.parse().unwrap() };
        addressed(&headers(&[("host", host)]), &arrival, by_slot)
    }

    #[test]
    fn host_and_address_must_name_the_same_tenant() {
        let acme = Ok(id("acme"));
        assert_eq!(at(None, "127.0.0.1:8471", "acme.localhost:8471"), acme);
        assert_eq!(at(Some("acme"), "127.18.0.2:8471", "127.18.0.2:8471"), acme);
        assert_eq!(at(Some("acme"), "127.18.0.2:8471", "acme.localhost:8471"), acme);
        assert_eq!(at(None, "127.18.0.2:8471", "127.18.0.2:8471"), acme);
        assert_eq!(at(None, "127.0.0.1:80", "acme.localhost"), acme);
        for (tenant, local, host) in [
            (Some("acme"), "127.18.0.2:8471", "globex.localhost:8471"),
            (Some("acme"), "127.18.0.2:8471", "127.18.0.3:8471"),
            (None, "127.18.0.2:8471", "globex.localhost:8471"),
            (None, "127.18.0.9:8471", "acme.localhost:8471"),
            (None, "127.0.0.1:8471", "127.18.0.2:8471"),
            (None, "127.0.0.1:8471", "127.0.0.1:8471"),
            (None, "127.0.0.1:8471", "localhost:8471"),
            (None, "127.0.0.1:8471", "acme.localhost:8472"),
            (None, "127.0.0.1:8471", "acme.localhost"),
            (None, "127.0.0.1:8471", "ACME.localhost:8471"),
            (None, "127.0.0.1:8471", "acme.localhost.:8471"),
            (None, "127.0.0.1:8471", "acme.localhost:08471"),
            (None, "127.0.0.1:8471", "acme.localhost:+8471"),
            (None, "127.0.0.1:8471", "x.acme.localhost:8471"),
            (None, "127.0.0.1:8471", "evil.com"),
            (None, "127.0.0.1:8471", ""),
        ] {
            assert_eq!(at(tenant, local, host), Err(OriginError::Misdirected), "{tenant:?} {local} {host}");
        }
    }

    #[test]
    fn two_hosts_or_none_are_refused() {
        let arrival = Arrival { tenant: None, local: "127.0.0.1:8471".parse().unwrap() };
        let twice = headers(&[("host", "acme.localhost:8471"), ("host", "acme.localhost:8471")]);
        assert_eq!(addressed(&twice, &arrival, by_slot), Err(OriginError::Misdirected));
        assert_eq!(addressed(&HeaderMap::new(), &arrival, by_slot), Err(OriginError::Misdirected));
    }

    #[test]
    fn only_the_tenants_own_pages_may_ask() {
        let check = |rows: &[(&'static str, &str)]| {
            admissible(&headers(rows), &id("acme"), Slot::try_from(2).unwrap(), 8471)
        };
        assert_eq!(check(&[]), Ok(()));
        assert_eq!(check(&[("origin", "http://acme.localhost:8471")]), Ok(()));
        assert_eq!(check(&[("origin", "http://127.18.0.2:8471")]), Ok(()));
        assert_eq!(check(&[("sec-fetch-site", "same-origin")]), Ok(()));
        assert_eq!(check(&[("sec-fetch-site", "none")]), Ok(()));
        for foreign in [
            "null",
            "",
            "http://globex.localhost:8471",
            "http://127.18.0.3:8471",
            "https://acme.localhost:8471",
            "http://acme.localhost:8472",
            "http://acme.localhost",
            "http://acme.localhost:8471/",
            "http://acme.localhost:8471@evil.com",
            "http://evil.com",
        ] {
            assert_eq!(check(&[("origin", foreign)]), Err(OriginError::Foreign), "{foreign}");
        }
        let own = ("origin", "http://acme.localhost:8471");
        assert_eq!(check(&[own, own]), Err(OriginError::Foreign));
        assert_eq!(check(&[own, ("sec-fetch-site", "same-site")]), Err(OriginError::CrossSite));
        assert_eq!(check(&[("sec-fetch-site", "cross-site")]), Err(OriginError::CrossSite));
        assert_eq!(check(&[("service-worker", "script")]), Err(OriginError::ServiceWorker));
    }

    proptest! {
        #[test]
        fn no_host_text_panics_and_what_is_read_is_written_so(text in "\\PC{0,80}") {
            let _ = parse_host(&text);
        }

        #[test]
        fn near_hosts_do_not_panic(text in "[a-z0-9.:-]{0,40}(\\.localhost)?(:[0-9]{0,7})?") {
            if let Some(authority) = parse_host(&text) {
                let (name, port) = match authority {
                    Authority::Name(tenant, port) => (format!("{tenant}.localhost"), port),
                    Authority::Address(address, port) => (address.to_string(), port),
                };
                let whole = format!("{name}:{port}");
                prop_assert!(text == whole || (port == 80 && text == name), "{}", text);
            }
        }
    }
}
