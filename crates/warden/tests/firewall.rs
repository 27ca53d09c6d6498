//! The two walls around what a warden dials, against each other: its own guard, and the firewall by its uid.

use cofferdam_policy::guard::refused_networks;
use cofferdam_sys::nft::UidFirewall;

fn firewall(opened: &[&str]) -> UidFirewall {
    UidFirewall {
        table: "test".to_owned(),
        uids: 1..=1,
        nameservers: Vec::new(),
        proxy: None,
        opened: opened.iter().map(|block| block.parse().expect("a block")).collect(),
    }
}

#[test]
fn every_network_that_the_guard_refuses_is_refused_by_the_firewall() {
    let (closed, open) = (firewall(&[]), firewall(&["0.0.0.0/0", "::/0"]));
    for (network, class) in refused_networks() {
        let block = network.to_string().parse().expect("a block");
        assert!(closed.refuses(block), "{network}, {class:?}");
        // What an operator cannot open for the guard he cannot open here.
        assert!(class.is_private() || open.refuses(block), "{network}, {class:?}, with everything opened");
    }
    // The positive control: neither refuses these.
    for public in ["8.8.8.0/24", "93.184.216.34/32", "2606:4700::/32"] {
        assert!(!closed.refuses(public.parse().expect("a block")), "{public}");
    }
}
