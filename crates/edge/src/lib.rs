//! The edge: the only process that strangers reach. It authenticates, checks origins and roles, and relays
//! HTTP, server-sent events and WebSockets to the tenants' gateways over sockets of their namespaces.
//!
//! It holds public keys, the revocation set and no secret. What comes from clients and what comes from cells
//! is equally hostile; nothing is dialled before a token is verified.
#![forbid(unsafe_code)]

mod approvals;
mod check;
mod connection;
pub mod edge;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzz;
pub mod headers;
pub mod limits;
pub mod methods;
pub mod origin;
pub mod pool;
mod proxy;
mod refusal;
pub mod reports;
mod run;
pub mod state;
pub mod token;
pub mod ws;

pub use connection::serve;
pub use edge::Edge;
pub use run::{Error, main};

#[cfg(test)]
mod tests;
