//! `tenant import`: an existing OpenClaw home becomes a tenant's.
//!
//! Two processes that trust nothing of the home. [`reader_main`] runs beside the command line: as the home's owner,
//! confined to reading it, it decides what is carried and writes that as one stream. [`unpack_main`] runs in the new
//! tenant's cell, where only the tenant's own uid can write, and puts the stream into its `/sandbox`. Control passes
//! the stream on and reads nothing of it.
//!
//! It owns the layout of upstream's home and what of it has a place here. It refuses to carry credentials: each is
//! named with the command that puts it into the vault, and its value goes nowhere. The threats: links and devices
//! that lead out of the home, files without end, documents and databases made to break their parser, and secrets
//! that people left in notes and conversations.

mod bundle;
mod config;
mod database;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzz;
mod home;
mod left;
mod place;
mod reader;
mod report;
mod secrets;
mod sessions;
mod settings;
mod sign_ins;
#[cfg(test)]
mod tests;
mod transcript;
mod unpack;

pub use bundle::{Imported, first_report};
pub use place::Place;
pub use reader::{Wanted, reader_main};
pub use report::{Carried, Changed, Credential, Left, Report, printable};
pub use unpack::unpack_main;

use serde::{Deserialize, Serialize};

/// Into which gateway's layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Runtime {
    /// Our own.
    Native,
    /// Upstream's.
    Openclaw,
}

/// Why an import ends.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no home.
    #[error("{0}")]
    NoHome(String),
    /// A link leads to it: whose home that is, whoever made the link decided.
    #[error(
        "a link is in {0}, and no link is followed: if it is this home that you mean, give its real path: {1}"
    )]
    Linked(String, String),
    /// It is larger than any home that is imported.
    #[error("the home has more than {0}: that is no home that this command carries")]
    TooLarge(String),
    /// It has credentials that nobody could keep out of what is carried.
    #[error(
        "{0} may have credentials and cannot be read ({1}), so nobody knows what must not be carried: repair it, or move it out of the home, then import again"
    )]
    Credentials(String, String),
    /// Its gateway still runs.
    #[error(
        "{0} has changes that are not in it yet: stop the gateway of this home (openclaw gateway stop), then import again"
    )]
    InUse(String),
    /// It became another one between two looks.
    #[error("the home changed while it was read: stop its gateway, then import again")]
    Moved,
    /// The stream is not one of ours, or ended early.
    #[error("the stream of the import is damaged: {0}")]
    Stream(String),
    /// Something could not be read or written.
    #[error("{what}: {why}")]
    Io {
        /// What.
        what: String,
        /// Why.
        why: std::io::Error,
    },
    /// The gateway's own state.
    #[error(transparent)]
    Store(#[from] cofferdam_agent::store::Error),
    /// This process could not be confined.
    #[error("the reader could not be confined: {0}")]
    Confine(String),
}

fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Error {
    let what = what.into();
    |why| Error::Io { what, why }
}
