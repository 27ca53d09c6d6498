//! The network of a cell, tried out in a namespace that a child of ours makes and that goes with it.

use super::{Feature, Known, Need, strictly};
use cofferdam_sys::{
    netlink, netns,
    nft::{self, CellTable, NftError, UidFirewall},
    process::{self, Forked},
    userns,
};
use serde::{Deserialize, Serialize};
use std::io::{self, Read, Write};

const NETWORK: Known = Known {
    group: "Network",
    name: "anyip",
    need: Need::Required,
    buys: "all that a cell dials arrives at its warden",
    used_by: "every cell; promises 1, 7 and 11",
    mend: "a kernel that makes network namespaces and takes local routes for whole families",
};
const TABLES: Known = Known {
    name: "nf_tables",
    buys: "a gateway's port is shut to its cell's tools",
    used_by: "promise 6",
    mend: "modprobe nf_tables nft_reject_inet",
    ..NETWORK
};
const TPROXY: Known = Known {
    name: "nft tproxy",
    buys: "every TCP port is captured, not only known ones",
    used_by: "promise 8 on ports that no rule names",
    mend: "modprobe nft_tproxy",
    ..NETWORK
};
const FIREWALL: Known = Known {
    name: "uid firewall",
    buys: "a broken warden reaches no private network",
    used_by: "promises 14 and 16i",
    mend: "modprobe nf_tables nft_reject_inet nft_fib_inet",
    ..NETWORK
};

/// What became of the trial; none is fine.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Trial {
    namespace: Option<String>,
    any_ip: Option<String>,
    absent: Option<String>,
    table: Option<String>,
    firewall: Option<String>,
}

pub(super) fn features(root: bool) -> Vec<Feature> {
    let trial = tried(root).unwrap_or_else(|error| Trial {
        namespace: Some(format!("it could not be tried: {error}")),
        ..Trial::default()
    });
    rows(root, &trial)
}

/// A row fails by the first thing on its way that failed.
pub(super) fn rows(root: bool, trial: &Trial) -> Vec<Feature> {
    let Trial { namespace, any_ip, absent, table, firewall } = trial;
    let row = |known: Known, whys: &[&Option<String>]| {
        let why = whys.iter().find_map(|why| why.as_deref());
        known.is(why.is_none(), why.unwrap_or_default())
    };
    let need = strictly(root);
    let mut rows = vec![
        row(NETWORK, &[namespace, any_ip]),
        row(TABLES.needed(need), &[namespace, any_ip, absent]),
        row(TPROXY.needed(need), &[namespace, any_ip, absent, table]),
    ];
    if root {
        rows.push(row(FIREWALL, &[namespace, absent, firewall]));
    } else {
        let known = Known { need: Need::Degrades, mend: "start the host as root", ..FIREWALL };
        rows.push(known.is(false, ""));
    }
    rows
}

/// Makes in a child what a cell and a host make, in a network that ends with it.
fn tried(root: bool) -> io::Result<Trial> {
    let (mut reader, mut writer) = io::pipe()?;
    match process::fork()? {
        Forked::Child => {
            let trial = serde_json::to_vec(&trial(root)).unwrap_or_default();
            process::exit(u8::from(writer.write_all(&trial).is_err()))
        }
        Forked::Parent(child) => {
            drop(writer);
            let mut bytes = Vec::new();
            let read = reader.read_to_end(&mut bytes);
            rustix::process::waitpid(Some(child), rustix::process::WaitOptions::empty())?;
            read?;
            serde_json::from_slice(&bytes).map_err(io::Error::other)
        }
    }
}

fn trial(root: bool) -> Trial {
    let mut trial = Trial::default();
    let entered = if root { netns::unshare() } else { userns::unshare_with_network() };
    if let Err(error) = entered {
        return Trial { namespace: Some(format!("no new network namespace: {error}")), ..trial };
    }
    trial.any_ip = netlink::any_ip().err().map(|error| error.to_string());
    match nft::seal_cell(CellTable { capture_port: 1, gateway_port: 2, mark: 3 }) {
        Ok(_) => {}
        Err(NftError::Absent(error)) => trial.absent = Some(error.to_string()),
        Err(error) => trial.table = Some(error.to_string()),
    }
    if root {
        let firewall = UidFirewall {
            table: "cofferdam_doctor".to_owned(),
            uids: 1..=2,
            nameservers: Vec::new(),
            proxy: None,
            opened: Vec::new(),
        };
        trial.firewall = nft::uid_firewall(&firewall).err().map(|error| error.to_string());
    }
    trial
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use cofferdam_base::ipc::receipt::LayerState;

    #[test]
    fn the_network_of_a_cell_is_tried_and_nothing_of_the_trial_stays() {
        let root = rustix::process::geteuid().is_root();
        let before = netns::current_cookie().unwrap();
        let trial = tried(root).unwrap();
        assert!(trial.any_ip.is_none() && trial.table.is_none(), "{trial:?}");
        assert_eq!(netns::current_cookie().unwrap(), before);
    }

    #[test]
    fn what_could_not_be_tried_is_no_feature() {
        let failed = || Some("no".to_owned());
        let lacking = |root, trial: Trial| -> Vec<&str> {
            let rows = rows(root, &trial).into_iter();
            rows.filter(|row| row.state != LayerState::Enforced).map(|row| row.name).collect()
        };
        assert!(lacking(true, Trial::default()).is_empty());
        assert_eq!(lacking(false, Trial::default()), ["uid firewall"]);
        let all = ["anyip", "nf_tables", "nft tproxy", "uid firewall"];
        assert_eq!(lacking(true, Trial { namespace: failed(), ..Trial::default() }), all);
        assert_eq!(lacking(true, Trial { absent: failed(), ..Trial::default() }), all[1..]);
        assert_eq!(lacking(true, Trial { table: failed(), ..Trial::default() }), ["nft tproxy"]);
        assert_eq!(lacking(true, Trial { firewall: failed(), ..Trial::default() }), ["uid firewall"]);
    }
}
