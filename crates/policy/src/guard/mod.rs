//! The guard: no address is dialled that it did not check, whatever policy, approvals or DNS say.
//!
//! The threat is server-side request forgery: a name that resolves to the host, to a metadata service or to
//! a neighbour, in any spelling of the address. The guard resolves nothing; who dials hands it every
//! resolved address and dials the [`CheckedAddress`] that comes back, which nothing else can make.

mod check;
mod cidr;
mod class;

pub use cidr::Cidr;
pub use class::{AddressClass, Embedding, refused_networks};

use crate::Reason;
use check::{Check, keeps};
use cofferdam_base::{Host, HostName};
use std::net::{IpAddr, SocketAddr};

/// What the operator opened, and what is never dialled.
#[derive(Clone, Debug, Default)]
pub struct Guard {
    /// Private networks that the operator opened in `cofferdam.toml`.
    pub operator_private: Vec<Cidr>,
    /// Addresses of the host and of its neighbours.
    pub host_addresses: Vec<IpAddr>,
}

/// An address that the guard let through. Only this may be dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CheckedAddress(IpAddr);

/// The guard's no.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .code.text())]
pub struct Refusal {
    /// Which no.
    pub code: Reason,
    /// May the operator open the address (in `cofferdam.toml`), so that policy and approvals then decide?
    /// False: nothing ever opens it.
    pub approvable: bool,
}

impl CheckedAddress {
    /// The address.
    pub const fn ip(self) -> IpAddr {
        self.0
    }

    /// The address with a port.
    pub const fn socket(self, port: std::num::NonZeroU16) -> SocketAddr {
        SocketAddr::new(self.0, port.get())
    }
}

impl Guard {
    /// Judges an address.
    pub fn check(&self, address: IpAddr) -> Result<CheckedAddress, Refusal> {
        let class = AddressClass::of(address);
        let inner = class.embedded();
        let never = |code| Err(Refusal { code, approvable: false });
        let either = |test: &dyn Fn(IpAddr) -> bool| test(address) || inner.is_some_and(test);
        if either(&|ip| AddressClass::of(ip) == AddressClass::Metadata) {
            return never(Reason::Metadata);
        }
        let own = |ip| self.host_addresses.iter().any(|own| own.to_canonical() == ip);
        if keeps(Check::HostAddresses) && either(&own) {
            return never(Reason::HostAddress);
        }
        let opened = |ip: IpAddr| self.operator_private.iter().any(|network| network.contains(ip));
        match (class, inner) {
            (AddressClass::Global, _) => Ok(CheckedAddress(address)),
            (class, _) if (class.is_private() || !keeps(Check::OnlyPrivateOpens)) && opened(address) => {
                Ok(CheckedAddress(address))
            }
            (class, _) if class.is_private() => {
                Err(Refusal { code: Reason::PrivateAddress, approvable: true })
            }
            // A translator is opened by its own prefix, and then what is behind it must pass by itself.
            (AddressClass::Embedded(Embedding::Nat64, _), Some(inner)) if opened(address) => {
                if keeps(Check::BehindTranslators) {
                    self.check(inner)?;
                }
                Ok(CheckedAddress(address))
            }
            (_, Some(inner)) => match self.check(inner) {
                Err(refusal) => Err(Refusal { code: refusal.code, approvable: false }),
                Ok(_) => never(Reason::ReservedAddress),
            },
            (AddressClass::Loopback | AddressClass::Unspecified | AddressClass::LinkLocal, _) => {
                never(Reason::HostAddress)
            }
            (_, None) => never(Reason::ReservedAddress),
        }
    }

    /// Judges a name before it is resolved or asked about: some names only ever mean the host or its
    /// metadata service.
    #[expect(clippy::unused_self, reason = "every judgement is asked of the guard")]
    pub fn check_name(&self, name: &HostName) -> Result<(), Refusal> {
        let text = name.as_str();
        let is = |table: &[&str]| {
            table.iter().any(|known| {
                text == *known || text.strip_suffix(known).is_some_and(|head| head.ends_with('.'))
            })
        };
        if keeps(Check::MetadataNames) && is(METADATA_NAMES) {
            Err(Refusal { code: Reason::Metadata, approvable: false })
        } else if keeps(Check::HostNames) && is(HOST_NAMES) {
            Err(Refusal { code: Reason::HostAddress, approvable: false })
        } else {
            Ok(())
        }
    }

    /// Judges a destination's host before anybody is asked about it. A name's addresses are judged again,
    /// each, once it is resolved.
    pub fn check_host(&self, host: &Host) -> Result<(), Refusal> {
        match host {
            Host::Address(address) => self.check(*address).map(|_| ()),
            Host::Name(name) => self.check_name(name),
        }
    }
}

/// Names, and everything under them, that mean a metadata service.
const METADATA_NAMES: &[&str] = &[
    // Google Cloud.
    "metadata.google.internal",
    "metadata.goog",
    // The short names that their DHCP search lists complete.
    "metadata",
    "instance-data",
    // AWS.
    "instance-data.ec2.internal",
    // Azure.
    "metadata.azure.internal",
    "metadata.azure.com",
    // Tencent, Alibaba, Oracle.
    "metadata.tencentyun.com",
    "metadata.aliyuncs.com",
    "metadata.oraclecloud.com",
];

/// Names, and everything under them, that mean the host.
const HOST_NAMES: &[&str] = &[
    // RFC 6761.
    "localhost",
    "localhost.localdomain",
    // /etc/hosts of Debian.
    "ip6-localhost",
    "ip6-loopback",
    // What container engines call their host.
    "host.docker.internal",
    "gateway.docker.internal",
    "host.containers.internal",
];

#[cfg(test)]
mod tests;
