//! The API on the control socket: routes, peers, limits. What the routes do lives in the modules they call.

pub mod frames;
pub mod types;
