//! The kernel, typed: every `unsafe` block of the program is in this crate.
//!
//! System calls are grouped by the object they act on and hand out [`std::os::fd::OwnedFd`]s. Nothing here
//! decides anything: plans, policies and verdicts live above.
#![allow(unsafe_code)]

pub mod attempt;
pub mod caps;
pub mod channel;
pub mod clock;
pub mod clone;
pub mod keyring;
pub mod landlock;
pub mod loops;
pub mod mount;
pub mod netlink;
pub mod netns;
pub mod nft;
pub mod openat;
pub mod peer;
pub mod pidfd;
pub mod process;
pub mod seccomp;
pub mod socket;
pub mod userns;
pub mod world;
