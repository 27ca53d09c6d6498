#![allow(clippy::unwrap_used)]
use super::*;
use proptest::prelude::*;
use std::net::{Ipv4Addr, Ipv6Addr};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A host with addresses of its own, whose operator opened one network of each private kind.
fn guard() -> Guard {
    Guard {
        operator_private: [
            "10.1.0.0/16",
            "100.64.5.0/24",
            "fd12::/16",
            "64:ff9b::/96",
            "fd00:ec2::/32",
            "fd00:42::/32",
        ]
        .iter()
        .map(|network| network.parse().unwrap())
        .collect(),
        host_addresses: vec![ip("5.9.1.1"), ip("10.1.0.1"), ip("2a01:4f8::1")],
    }
}

fn refused(address: &str) -> Refusal {
    guard().check(ip(address)).expect_err(address)
}

#[test]
fn global_addresses_pass() {
    for address in
        ["8.8.8.8", "1.1.1.1", "93.184.216.34", "172.32.0.1", "100.128.0.1", "2606:4700::1", "2a01:4f8::2"]
    {
        assert_eq!(guard().check(ip(address)).expect(address).ip(), ip(address));
    }
}

#[test]
fn metadata_is_refused_in_every_spelling_and_nothing_opens_it() {
    for address in [
        "169.254.169.254",
        "169.254.170.2",
        "100.100.100.200",
        "192.0.0.192",
        "168.63.129.16",
        "fd00:ec2::254",
        "fd00:ec2::23",
        "fd00:ec2::253",
        "fd00:42::42",
        "fd20:ce::254",
        "::ffff:169.254.169.254",
        "::169.254.169.254",
        "::ffff:0:169.254.169.254",
        "64:ff9b::169.254.169.254",
        "2002:a9fe:a9fe::1",
        "2001:0:4136:e378:8000:63bf:5601:5601",
        "2a01:4f8:1:2:0:5efe:169.254.169.254",
        "::ffff:100.100.100.200",
    ] {
        assert_eq!(refused(address), Refusal { code: Reason::Metadata, approvable: false }, "{address}");
    }
    // Control: the next address of an opened network passes.
    assert!(guard().check(ip("fd00:ec2::255")).is_ok());
}

#[test]
fn the_host_and_its_neighbours_are_refused_whatever_the_operator_opened() {
    for address in [
        "5.9.1.1",
        "10.1.0.1",
        "2a01:4f8::1",
        "::ffff:5.9.1.1",
        "64:ff9b::5.9.1.1",
        "2002:509:101::",
        "127.0.0.1",
        "127.18.0.2",
        "0.0.0.0",
        "::",
        "::1",
        "::ffff:127.0.0.1",
        "64:ff9b::127.0.0.1",
        "fe80::1",
        "169.254.1.1",
    ] {
        assert_eq!(refused(address), Refusal { code: Reason::HostAddress, approvable: false }, "{address}");
    }
    assert!(guard().check(ip("5.9.1.2")).is_ok() && guard().check(ip("10.1.0.2")).is_ok());
}

#[test]
fn private_addresses_pass_only_where_the_operator_opened_them() {
    for address in [
        "10.0.0.1",
        "172.16.0.1",
        "172.31.255.255",
        "192.168.1.1",
        "100.64.0.1",
        "100.127.255.255",
        "fc00::1",
        "fd11::1",
        "fec0::1",
    ] {
        assert_eq!(refused(address), Refusal { code: Reason::PrivateAddress, approvable: true }, "{address}");
    }
    for address in ["10.1.2.3", "100.64.5.9", "fd12::1"] {
        assert!(guard().check(ip(address)).is_ok(), "{address}");
    }
}

#[test]
fn forms_that_carry_another_address_are_judged_by_the_stricter_of_both() {
    for address in ["::ffff:8.8.8.8", "::8.8.8.8", "2002:808:808::1", "2001:0:1:1:1:1:f7f7:f7f7"] {
        assert_eq!(refused(address).code, Reason::ReservedAddress, "{address}");
    }
    // An opened network does not open a form around it.
    assert!(!refused("::ffff:10.0.0.1").approvable);
    assert!(guard().check(ip("::ffff:10.1.2.3")).is_err());
    // A translator that the operator opened leads where the guard lets one go, and nowhere else.
    assert!(guard().check(ip("64:ff9b::8.8.8.8")).is_ok());
    assert!(guard().check(ip("64:ff9b::10.0.0.1")).is_err());
    assert!(Guard::default().check(ip("64:ff9b::8.8.8.8")).is_err());
}

#[test]
fn what_is_no_destination_is_refused() {
    for address in [
        "224.0.0.1",
        "239.1.1.1",
        "255.255.255.255",
        "240.0.0.1",
        "0.1.2.3",
        "192.0.0.1",
        "192.0.2.1",
        "198.51.100.1",
        "203.0.113.1",
        "198.18.0.1",
        "198.19.255.1",
        "192.88.99.1",
        "ff02::1",
        "100::1",
        "2001:db8::1",
        "3fff::1",
        "2001:2::1",
        "2001:20::1",
        "5f00::1",
        "4000::1",
        "64:ff9b:1::1",
    ] {
        assert_eq!(
            refused(address),
            Refusal { code: Reason::ReservedAddress, approvable: false },
            "{address}"
        );
    }
}

#[test]
fn names_of_metadata_services_and_of_the_host_are_refused() {
    let check = |name: &str| guard().check_name(&name.parse().unwrap());
    for name in ["metadata.google.internal", "METADATA.google.internal", "x.metadata.goog", "metadata"] {
        assert_eq!(check(name).unwrap_err().code, Reason::Metadata, "{name}");
    }
    for name in ["localhost", "acme.localhost", "host.docker.internal"] {
        assert_eq!(check(name).unwrap_err().code, Reason::HostAddress, "{name}");
    }
    for name in ["example.com", "notlocalhost", "metadata.example.com"] {
        assert_eq!(check(name), Ok(()), "{name}");
    }
}

proptest! {
    #[test]
    fn no_ipv6_form_of_a_refused_ipv4_address_passes(bits: u32) {
        let inner = Ipv4Addr::from_bits(bits);
        let low = u128::from(bits);
        let guard = guard();
        if guard.check(inner.into()).is_err() {
            for form in [low, 0xffff << 32 | low, 0xffff << 48 | low, 0x64_ff9b << 96 | low,
                0x2002 << 112 | low << 80, 0x2001 << 112 | u128::from(!bits)] {
                prop_assert!(guard.check(Ipv6Addr::from_bits(form).into()).is_err());
            }
        }
    }

    #[test]
    fn every_address_of_a_refused_network_is_refused_by_a_plain_guard(bits: u128) {
        for (network, _) in refused_networks() {
            let address = match network.address() {
                IpAddr::V4(base) => {
                    let free = u32::MAX.checked_shr(network.prefix().into()).unwrap_or(0);
                    IpAddr::from(Ipv4Addr::from_bits(base.to_bits() | (u32::try_from(bits >> 96).unwrap() & free)))
                }
                IpAddr::V6(base) => {
                    let free = u128::MAX.checked_shr(network.prefix().into()).unwrap_or(0);
                    IpAddr::from(Ipv6Addr::from_bits(base.to_bits() | (bits & free)))
                }
            };
            prop_assert!(network.contains(address));
            prop_assert!(Guard::default().check(address).is_err());
        }
    }
}
