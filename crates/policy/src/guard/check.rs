//! The checks of the guard, each by a name of its own, so that tests can show that each is missed.
//!
//! That a resolved address is judged at all is not among them: only the guard makes a [`super::CheckedAddress`], so
//! a dial without its word does not compile.

use super::class::Embedding;
#[cfg(test)]
use super::class::{METADATA, TABLE};

cofferdam_base::checks! {
    /// An address of a cloud's metadata service is refused.
    Metadata(usize in 0..METADATA.len()),
    /// An address of the host or a neighbour is refused.
    HostAddresses,
    /// A special-purpose network is refused.
    Range(usize in 0..TABLE.len()),
    /// An IPv6 address that carries an IPv4 address is judged by both.
    Embedded(Embedding in Embedding::ALL),
    /// IPv6 that nobody assigned is refused.
    Unassigned,
    /// What is behind an opened translator must pass by itself.
    BehindTranslators,
    /// The operator opens private networks and nothing else.
    OnlyPrivateOpens,
    /// Names of metadata services are refused before they are resolved.
    MetadataNames,
    /// Names of the host are refused before they are resolved.
    HostNames,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::{
        super::{AddressClass, Cidr, Guard, class::embedding},
        Check,
        left_out::{each_is_missed, tried},
    };
    use std::net::IpAddr;

    /// Every check that answers for this address, the named one first.
    fn layers(first: Check, address: IpAddr, answers: impl Fn(AddressClass) -> bool) -> Vec<Check> {
        let rows = super::TABLE.iter().enumerate();
        let rows = rows.filter(|(_, row)| row.contains(address) && answers(row.2));
        let mut layers: Vec<_> = std::iter::once(first).chain(rows.map(|(at, _)| Check::Range(at))).collect();
        if let IpAddr::V6(v6) = address {
            layers.extend(embedding(v6).map(|(how, _)| Check::Embedded(how)));
            if v6.segments()[0] >> 13 != 1 {
                layers.push(Check::Unassigned);
            }
        }
        let mut known = Vec::new();
        layers.retain(|layer| {
            !known.contains(layer) && {
                known.push(*layer);
                true
            }
        });
        layers
    }

    fn opened(networks: &[&str]) -> Guard {
        let operator_private = networks.iter().map(|network| network.parse::<Cidr>().unwrap()).collect();
        Guard { operator_private, host_addresses: Vec::new() }
    }

    fn passes(guard: &Guard, address: IpAddr) -> bool {
        guard.check(address).is_ok()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn attack(check: Check) -> Result<(), String> {
        let nothing = Guard::default();
        match check {
            Check::Metadata(at) => {
                let address = super::METADATA[at];
                // Private networks are opened, and a metadata service stays shut.
                let private = opened(&["100.64.0.0/10", "fc00::/7"]);
                let mut layers = layers(check, address, |class| !class.is_private());
                layers.retain(|layer| *layer != Check::Unassigned);
                tried(&layers, &|| passes(&private, address))
            }
            Check::HostAddresses => {
                let host = Guard { host_addresses: vec![ip("5.9.1.1")], ..Guard::default() };
                tried(&[check], &|| passes(&host, ip("5.9.1.1")))
            }
            Check::Range(at) => {
                let row = &super::TABLE[at];
                let address = match row.0 {
                    whole if row.1 == if whole.is_ipv4() { 32 } else { 128 } => whole,
                    IpAddr::V4(v4) => (v4.to_bits() + 2).to_be_bytes().into(),
                    IpAddr::V6(v6) => (v6.to_bits() + 2).to_be_bytes().into(),
                };
                tried(&layers(check, address, |_| true), &|| passes(&nothing, address))
            }
            Check::Embedded(how) => {
                let forms = [
                    "::10.0.0.1",
                    "::ffff:10.0.0.1",
                    "::ffff:0:10.0.0.1",
                    "64:ff9b::10.0.0.1",
                    "2002:a00:1::1",
                    "2001:0:1:1:1:1:f5ff:fffe",
                    "2a01:4f8:1:2:0:5efe:10.0.0.1",
                ];
                let carries = |form: &IpAddr| matches!(AddressClass::of(*form), AddressClass::Embedded(by, _) if by == how);
                let form = forms.map(ip).into_iter().find(carries).ok_or("no such form")?;
                tried(&layers(check, form, |_| true), &|| passes(&nothing, form))
            }
            Check::Unassigned => tried(&[check], &|| passes(&nothing, ip("4000::1"))),
            Check::BehindTranslators => {
                let nat64 = opened(&["64:ff9b::/96"]);
                tried(&[check], &|| passes(&nat64, ip("64:ff9b::10.0.0.1")))
            }
            Check::OnlyPrivateOpens => {
                let home = opened(&["127.0.0.0/8"]);
                tried(&[check], &|| passes(&home, ip("127.0.0.1")))
            }
            Check::MetadataNames => {
                let name = "metadata.google.internal".parse().unwrap();
                tried(&[check], &|| nothing.check_name(&name).is_ok())
            }
            Check::HostNames => {
                let name = "host.docker.internal".parse().unwrap();
                tried(&[check], &|| nothing.check_name(&name).is_ok())
            }
        }
    }

    #[test]
    fn every_check_of_the_guard_is_missed_when_it_is_gone() {
        each_is_missed("guard", attack);
    }
}
