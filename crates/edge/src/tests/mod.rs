//! The edge as clients and cells see it, over real wires and sockets.
#![allow(clippy::unwrap_used)]

mod approvals;
mod gateways;
mod http;
mod missed;
mod openclaw;
mod socket;
mod wires;
mod world;
