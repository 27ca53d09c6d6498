//! Every message between two of our processes, so that a reviewer sees all internal wires in one place.
//!
//! Each wire is one `SOCK_SEQPACKET` Unix socket pair made by the launcher. One packet is one JSON
//! document, at most [`MAX_PACKET`] bytes, unknown fields refused; descriptors ride along with
//! `SCM_RIGHTS` in the order that the message's comment gives. A packet that does not parse, or carries
//! another number of descriptors than its message says, ends the wire.
//!
//! | wire | messages |
//! |---|---|
//! | control → launcher | [`launcher::Command`] |
//! | launcher → control | [`launcher::Event`] |
//! | edge → launcher | [`edge::SocketRequest`] |
//! | launcher → edge | [`edge::Feed`] |
//! | launcher → warden | [`warden::Feed`] |
//! | control → edge | [`edge::Config`] |
//! | edge → control | [`edge::Message`] |
//! | control → warden | [`warden::Command`] |
//! | warden → control | [`warden::Report`] |
//! | operator → launcher | [`kill::Order`] |
//! | launcher → operator | [`kill::Answer`] |
//!
//! Every child of the launcher finds its wire to the launcher at descriptor [`LAUNCHER_FD`].

pub mod asked;
pub mod edge;
pub mod kill;
pub mod launcher;
pub mod model;
pub mod proxy;
pub mod receipt;
pub mod seen;
pub mod warden;

/// The longest packet on any internal wire, in bytes.
pub const MAX_PACKET: usize = 128 * 1024;

/// Where edge, control and wardens find their wire to the launcher.
pub const LAUNCHER_FD: i32 = 3;
