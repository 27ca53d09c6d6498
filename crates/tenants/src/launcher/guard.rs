//! The guard by uid: what no warden of this host may reach, put in force before the first warden starts and
//! taken away with the last. Which addresses these are is said in `cofferdam_sys::nft`.

use super::plan::Boot;
use crate::Error;
use cofferdam_sys::nft::{UidFirewall, remove_uid_firewall, uid_firewall};

/// The guard in force; it ends when this is dropped, and is replaced by the next start if that never happens.
#[derive(Debug)]
pub(super) struct Guard {
    table: String,
}

impl Guard {
    /// Puts it in force. None without root: a layer that this profile lists as absent.
    pub(super) fn raise(boot: &Boot) -> Result<Option<Self>, Error> {
        if !boot.strict {
            return Ok(None);
        }
        let firewall = firewall(boot);
        uid_firewall(&firewall).map_err(|error| Error::Start {
            what: "the guard by uid, without which profile strict does not start,".to_owned(),
            why: error.to_string(),
        })?;
        Ok(Some(Self { table: firewall.table }))
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Err(error) = remove_uid_firewall(&self.table) {
            tracing::error!("the table {} could not be removed: {error}", self.table);
        }
    }
}

/// One table for each range of uids, so that a host replaces its own and nobody else's.
fn firewall(boot: &Boot) -> UidFirewall {
    let (first, last) = boot.config.uids.base.wardens();
    UidFirewall {
        table: format!("cofferdam_{first}"),
        uids: first..=last,
        nameservers: boot.config.egress.nameservers.iter().map(|server| server.0).collect(),
        proxy: boot.config.egress.upstream_proxy.map(|proxy| proxy.0),
        opened: boot.config.egress.operator_private.clone(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::config::HostConfig;
    use std::{net::TcpStream, path::Path};

    fn boot(strict: bool) -> Boot {
        let text = "[egress]\nnameservers = [\"192.0.2.53\"]\noperator_private = [\"10.1.0.0/16\"]\n\
                    upstream_proxy = \"http://10.2.0.9:3128\"\n";
        let config = HostConfig::parse(Path::new("c"), text).unwrap();
        Boot { data_dir: "/d".into(), cache_dir: "/c".into(), config, strict, builtin_model: false }
    }

    #[test]
    fn the_guard_is_made_of_the_configuration_alone() {
        let firewall = firewall(&boot(true));
        assert_eq!(firewall.table, "cofferdam_1500065536");
        assert_eq!(firewall.uids, 1_500_065_536..=1_500_131_071);
        assert_eq!(firewall.nameservers, ["192.0.2.53:53".parse().unwrap()]);
        assert_eq!(firewall.proxy, Some("10.2.0.9:3128".parse().unwrap()));
        assert_eq!(firewall.opened, ["10.1.0.0/16".parse().unwrap()]);
    }

    #[test]
    fn without_root_there_is_no_guard_and_the_profile_says_so() {
        assert!(Guard::raise(&boot(false)).unwrap().is_none());
    }

    #[test]
    fn the_guard_binds_wardens_only_and_is_gone_when_it_ends() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: only root can raise the guard");
            return;
        }
        let netns = cofferdam_sys::netns::create().unwrap();
        let (guarded, ours, after) = cofferdam_sys::netns::inside(std::os::fd::AsFd::as_fd(&netns), || {
            cofferdam_sys::netlink::any_ip().unwrap();
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            let as_warden = || {
                std::thread::spawn(move || {
                    let uid = rustix::fs::Uid::from_raw(1_500_065_538);
                    rustix::thread::set_thread_res_uid(uid, uid, uid).unwrap();
                    TcpStream::connect(address).is_ok()
                })
                .join()
                .unwrap()
            };
            let guard = Guard::raise(&boot(true)).unwrap();
            let (guarded, ours) = (as_warden(), TcpStream::connect(address).is_ok());
            drop(guard);
            (guarded, ours, as_warden())
        })
        .unwrap();
        assert!(!guarded, "a warden must not reach the host's loopback");
        assert!(ours && after, "the positive controls: another uid, and a warden without the guard");
    }
}
