//! One tenant's warden: the process that holds this tenant's keys and is its cell's only way out.
//!
//! It owns the wires to launcher and control, the queue of records, the tenant's opened secrets and the
//! route to its model; the path of bytes is `egress`'s, the model's wire `inference`'s. It refuses to know a
//! second tenant, to allow before control said everything, and to allow what it cannot have recorded. The
//! threat is hostile bytes from the cell and from the world: it runs confined, holds one tenant's keys only,
//! and is as cheap to kill as to start again.
#![forbid(unsafe_code)]

mod check;
mod desk;
mod intake;
mod keys;
mod listeners;
mod model;
mod oauth;
mod outbox;
mod run;
mod tls;
mod webhook;

pub use run::main;

/// Why a warden ends or a wire of it does.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It was started by somebody else than the launcher.
    #[error("the warden is started by the launcher: {0}")]
    Start(&'static str),
    /// A wire broke, or its other end sent what it must not.
    #[error("a wire broke: {0}")]
    Wire(#[from] cofferdam_sys::channel::ChannelError),
    /// A received listener is not what it was said to be.
    #[error("a listener cannot be proved: {0}")]
    Listener(#[from] cofferdam_sys::socket::SocketError),
    /// A system call failed.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// TLS cannot be set up.
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
    /// The authority that vouches to the cell.
    #[error("{0}")]
    Authority(#[from] cofferdam_egress::Failed),
    /// The tenant's keys.
    #[error("{0}")]
    Vault(#[from] cofferdam_vault::Error),
    /// A root that the operator names cannot be read.
    #[error("the extra roots {path}: {why}")]
    Roots { path: std::path::PathBuf, why: String },
    /// The process cannot be confined.
    #[error("the warden cannot be confined: {0}")]
    Confine(String),
}
