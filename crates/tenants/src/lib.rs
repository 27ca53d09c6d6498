//! Tenants on this machine: the host's configuration and data directory, uids, the life-cycle machine,
//! readiness, runtimes, and the launcher, which is the only privileged process.
//!
//! The pure parts (`config`, `uids`, `lifecycle`, `ready`) decide; `launcher` has the effects. Policies,
//! secrets and tokens are no concern of this crate.
#![forbid(unsafe_code)]

pub mod config;
pub mod data;
mod error;
pub mod launcher;
pub mod lifecycle;
pub mod openclaw;
pub mod runtime;
pub mod trust;
pub mod uids;

pub use error::Error;
