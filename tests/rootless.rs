//! The profile `rootless`: the host is a user's, and every wall, question and token is as it is for root. What
//! the profile lists as not kept is not among these tests.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, missing_docs)]
#![expect(clippy::duplicate_mod, reason = "the same tests as without this file, with a host of another kind")]

#[path = "asking.rs"]
mod asking;
#[path = "bad_input.rs"]
mod bad_input;
#[path = "crashes.rs"]
mod crashes;
#[path = "holds.rs"]
mod holds;
#[path = "prove.rs"]
mod prove;
#[path = "switch.rs"]
mod switch;
#[path = "tokens.rs"]
mod tokens;
#[path = "walls.rs"]
mod walls;
