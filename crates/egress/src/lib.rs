//! The way out of one cell: its resolver, its captured and proxied connections, what is asked about them,
//! what is dialled for them and what their clients learn.
//!
//! It owns the path of bytes from a listener inside the cell to a checked address outside. It refuses to
//! decide (that is `policy`'s), to know secrets but the key of the cell's certificate authority, and to talk to control: rows and notices leave through
//! [`Outlet`]. The threat is everything that runs in a cell: no byte that comes from there is believed, and
//! every head that is passed on is rebuilt from its parsed parts. Listeners and streams are generic, so all of
//! this runs in a test without a namespace.
#![forbid(unsafe_code)]

mod budget;
mod check;
pub mod credentials;
pub mod dial;
mod digits;
pub mod dns;
mod fold;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzz;
mod gate;
pub mod hello;
mod hold;
pub mod http;
mod inspect;
pub mod loss;
pub mod names;
mod pace;
mod place;
pub mod proxy;
mod rate;
mod refusal;
mod relay;
mod rules;
mod serve;
pub mod sniff;

pub use gate::{Foresight, Gate, Limits, Notice, OPAQUE, Outlet, Pass, Row};
pub use inspect::{Authority, Failed, Inspector};
pub use refusal::{ACCESS_DENIED, Denied, Refusal};
pub use relay::{BoxStream, End, Moved, Stream, relay};
pub use rules::{Rules, Ruling};
pub use serve::{Egress, Peer};

/// An error of this crate: a refusal that its client learns, or a client's connection that broke.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The destination was refused; it is recorded.
    #[error("refused: {}", .0.reason.code())]
    Refused(Refusal),
    /// The cell's side of the connection broke.
    #[error("the client's connection broke: {0}")]
    Client(#[from] std::io::Error),
    /// The client's HTTP broke.
    #[error("the client's HTTP connection broke: {0}")]
    Http(#[from] hyper::Error),
}
