//! The native gateway: what runs in a cell when nobody says otherwise.
//!
//! Stock OpenClaw clients use it unchanged. It runs inside a cell, so it holds no key, speaks no TLS and is believed by
//! nobody: who a client is was settled by the edge, models are reached through the warden, and the cell is what keeps
//! its tools in.
//!
//! It owns the conversations of one tenant: [`store`] keeps them, `gateway` orders the runs, `turn` asks the model and
//! runs [`tools`], `calls` serves the methods, `server` the sockets.

mod calendar;
mod calls;
mod channels;
mod commands;
pub mod config;
mod cron;
#[cfg(feature = "fuzzing")]
pub mod fuzz;
mod gateway;
mod ids;
mod images;
pub mod log;
mod mcp;
pub mod protocol;
pub mod server;
mod skills;
pub mod store;
mod text;
mod tools;
pub mod turn;
mod web;

use cofferdam_base::Clock;
use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
};

/// The one agent.
pub const AGENT: &str = "main";
/// The session in which it talks if nobody names one.
pub const MAIN_SESSION: &str = "agent:main:main";
/// Below which all keys of sessions are.
const BELOW: &str = "agent:main:";
/// Where it listens in a cell, as upstream does.
pub const PORT: u16 = 18_789;
/// Where its state is, as clients are told.
const STATE: &str = "/sandbox/.cofferdam/agent.db";
/// How it is set up.
const CONFIG: &str = "/sandbox/.cofferdam/config.json";

/// What a gateway depends on.
#[derive(Debug)]
pub struct Settings {
    /// Where it listens.
    pub listen: SocketAddr,
    /// From where its clients must come; none: from anywhere, for tests on loopback.
    pub edge: Option<IpAddr>,
    /// Where models are asked.
    pub proxy: SocketAddr,
    /// Its state.
    pub state: PathBuf,
    /// How it is set up; there need not be such a file.
    pub config: PathBuf,
    /// Where its agent works.
    pub workspace: PathBuf,
}

impl Settings {
    /// Those of a cell.
    pub fn of_cell() -> Self {
        Self {
            listen: (Ipv4Addr::LOCALHOST, PORT).into(),
            edge: Some(Ipv4Addr::new(198, 19, 255, 1).into()),
            proxy: (Ipv4Addr::LOCALHOST, 3128).into(),
            state: PathBuf::from(STATE),
            config: PathBuf::from(CONFIG),
            workspace: PathBuf::from("/sandbox/workspace"),
        }
    }
}

/// Why a gateway does not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A directory, or the port.
    #[error("{what}: {why}")]
    Io {
        /// Of what.
        what: String,
        /// What the system says.
        why: std::io::Error,
    },
    /// The state.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// How it is set up.
    #[error(transparent)]
    Config(#[from] config::Error),
}

fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Error {
    let what = what.into();
    |why| Error::Io { what, why }
}

/// Serves until it is killed.
pub async fn serve(settings: Settings, clock: Box<dyn Clock>) -> Result<(), Error> {
    let Settings { listen, edge, proxy, state, config, workspace } = settings;
    let state_dir = state.parent().unwrap_or(Path::new("/"));
    for dir in [state_dir, &workspace] {
        std::fs::create_dir_all(dir).map_err(io(format!("the directory {}", dir.display())))?;
    }
    let store = store::Store::open(&state)?;
    let config = config::Configured::open(config)?;
    let gateway = gateway::Gateway::new(store, turn::model::Model { proxy }, workspace, config, clock)?;
    let listener =
        tokio::net::TcpListener::bind(listen).await.map_err(io(format!("the address {listen}")))?;
    gateway.report_cut()?;
    tokio::spawn(channels::begin(&gateway));
    tokio::select! {
        served = server::accept(listener, edge, Arc::clone(&gateway)) => served,
        never = cron::keep(gateway) => match never {},
    }
}
