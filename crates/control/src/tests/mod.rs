//! Control as a whole, in process: a launcher, wardens and an edge that are threads on real wires, a disk in
//! memory, and the API over a real Unix socket.
#![allow(clippy::unwrap_used)]

mod api;
mod approvals;
mod canaries;
mod drafts;
mod hubs;
mod kills;
mod memory;
mod missed;
mod proofs;
mod rotated;
mod world;
