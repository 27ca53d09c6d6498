//! Children of the launcher that it does not know, reaped so that none stays a zombie.
//!
//! A cell's first process and a command are born as the launcher's children by a process that may be killed before
//! it has told of them, and whoever became the launcher may have had children. The threat: a host that runs for
//! years and fills the machine's table of processes; and the opposite, a reaper that takes away how a process
//! ended before whoever started it has asked. So whoever is known is named here for as long as it is held.

use cofferdam_sandbox as sandbox;
use cofferdam_sys::pidfd;
use rustix::process::Pid;
use std::{
    cell::RefCell,
    collections::HashMap,
    process::Child,
    rc::{Rc, Weak},
};

/// The children that somebody holds, and will reap.
#[derive(Clone, Debug, Default)]
pub(super) struct Family(Rc<RefCell<HashMap<Pid, u32>>>);

/// As long as this is there its child is known.
#[derive(Debug)]
pub(super) struct Member {
    pid: Option<Pid>,
    family: Weak<RefCell<HashMap<Pid, u32>>>,
}

/// A child that was started before there was a launcher, by whoever became it. It keeps how its child ended.
pub type Companion = Rc<RefCell<Child>>;

impl Family {
    /// Takes note of a child, before anything is swept again.
    pub(super) fn welcome(&self, pid: i32) -> Member {
        let pid = Pid::from_raw(pid);
        if let Some(pid) = pid {
            *self.0.borrow_mut().entry(pid).or_default() += 1;
        }
        Member { pid, family: Rc::downgrade(&self.0) }
    }

    /// Reaps every child that has ended and that nobody knows, and counts them. A known one that ended just now
    /// hides those that are younger; it is reaped by whoever holds it, and its end leads here again.
    pub(super) fn sweep(&self, companion: Option<&Companion>) -> usize {
        // These two keep how their child ended.
        let companion = companion.and_then(|child| {
            let mut child = child.borrow_mut();
            matches!(child.try_wait(), Ok(None)).then(|| child.id())
        });
        let ours =
            [companion, sandbox::living_nursery()].map(|pid| pid.and_then(|pid| i32::try_from(pid).ok()));
        let mut reaped = 0;
        while let Ok(Some(pid)) = pidfd::ended_child() {
            let known =
                self.0.borrow().contains_key(&pid) || ours.contains(&Some(pid.as_raw_nonzero().get()));
            if known || !matches!(pidfd::reap(pid), Ok(Some(_))) {
                break;
            }
            tracing::warn!("process {pid:?}, which nobody knew, has ended");
            reaped += 1;
        }
        reaped
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let (Some(pid), Some(family)) = (self.pid, self.family.upgrade()) else { return };
        let mut family = family.borrow_mut();
        // The number may have been given to the next child already.
        match family.get_mut(&pid) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(family.remove(&pid)),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::disallowed_methods)]
    use super::*;
    use cofferdam_sys::process::{self, Forked};
    use std::{os::fd::AsFd, process::Command};

    /// Does something in a process of its own, for other tests have children too.
    fn alone(work: impl FnOnce() -> bool) {
        match process::fork().unwrap() {
            Forked::Child => process::exit(u8::from(!work())),
            Forked::Parent(pid) => {
                let child = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).unwrap();
                assert_eq!(pidfd::wait(child.as_fd()).unwrap(), pidfd::Ended::Exit(0));
            }
        }
    }

    /// A child that ends at once, and has ended.
    fn ended(code: u8) -> Pid {
        match process::fork().unwrap() {
            Forked::Child => process::exit(code),
            Forked::Parent(pid) => {
                let options = rustix::process::WaitIdOptions::EXITED | rustix::process::WaitIdOptions::NOWAIT;
                rustix::process::waitid(rustix::process::WaitId::Pid(pid), options).unwrap();
                pid
            }
        }
    }

    fn is_there(pid: Pid) -> bool {
        std::fs::exists(format!("/proc/{}", pid.as_raw_nonzero())).unwrap()
    }

    #[test]
    fn who_is_not_known_is_reaped_and_who_is_known_keeps_its_end() {
        alone(|| {
            let family = Family::default();
            let strays = [ended(1), ended(2)];
            let known = ended(3);
            let member = family.welcome(known.as_raw_nonzero().get());
            let behind = ended(4);
            // Positive control: all four are zombies.
            let before = strays.iter().chain([&known, &behind]).all(|pid| is_there(*pid));
            let first = family.sweep(None) == 2 && !strays.iter().any(|pid| is_there(*pid));
            let hidden = family.sweep(None) == 0 && is_there(known) && is_there(behind);
            let kept = pidfd::reap(known).unwrap() == Some(pidfd::Ended::Exit(3));
            drop(member);
            before && first && hidden && kept && family.sweep(None) == 1 && !is_there(behind)
        });
    }

    #[test]
    fn a_number_that_was_given_again_is_known_until_its_last_holder_is_gone() {
        alone(|| {
            let family = Family::default();
            let child = ended(0);
            let [first, second] = [(); 2].map(|()| family.welcome(child.as_raw_nonzero().get()));
            drop(first);
            let known = family.sweep(None) == 0 && is_there(child);
            drop(second);
            known && family.sweep(None) == 1 && !is_there(child)
        });
    }

    #[test]
    fn a_companion_that_ended_hides_nobody_and_keeps_its_end() {
        alone(|| {
            let companion = Command::new("/bin/sh").args(["-c", "exit 7"]).spawn().unwrap();
            let pid = Pid::from_child(&companion);
            let companion: Companion = Rc::new(RefCell::new(companion));
            let options = rustix::process::WaitIdOptions::EXITED | rustix::process::WaitIdOptions::NOWAIT;
            rustix::process::waitid(rustix::process::WaitId::Pid(pid), options).unwrap();
            let stray = ended(1);
            let swept = Family::default().sweep(Some(&companion)) == 1 && !is_there(stray) && !is_there(pid);
            swept && companion.borrow_mut().wait().unwrap().code() == Some(7)
        });
    }

    #[test]
    fn without_children_there_is_nothing_to_do() {
        alone(|| Family::default().sweep(None) == 0);
    }
}
