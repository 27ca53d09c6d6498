//! The control process: tenants, policies, approvals, tokens, the reconciler and the API.
//!
//! It decides nothing that a cell, a warden or the edge could decide, and holds what they must not: the
//! master key, the issuer's key, the store. It parses nothing from a cell but what the wardens and the edge
//! report. The threat: whoever takes over one of those, or reaches the control socket.
#![forbid(unsafe_code)]

pub mod api;
mod approvals;
pub mod canaries;
mod check;
mod counter;
mod db;
pub mod disk;
mod drafts;
mod edge;
mod effective;
mod error;
mod events;
mod exec;
pub mod facts;
pub mod host;
mod import;
pub mod keys;
mod kill;
pub mod launcher;
mod ledger;
mod limits;
mod metrics;
mod models;
mod plain;
mod policies;
mod probe;
mod proofs;
mod proxy;
pub mod scribe;
mod secrets;
pub mod start;
mod tenant;
mod tenants;
#[cfg(test)]
mod tests;
mod tokens;
mod under_way;
mod warden;
mod webhook;

pub use error::{EXIT_CONFIG, EXIT_CONFINE, EXIT_KEY, EXIT_LAUNCHER, EXIT_OTHER, EXIT_STORE, Error};
pub use start::main;
