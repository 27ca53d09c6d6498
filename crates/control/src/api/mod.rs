//! The API on the control socket: routes, peers, limits. What the routes do lives in the modules they call.

mod door;
mod exec;
mod extract;
pub mod frames;
mod routes;
mod streams;
pub mod types;

pub use door::Door;

use crate::{Error, host::Host};
use std::sync::Arc;

/// Answers the control socket until the process ends.
pub async fn serve(door: Door, host: Arc<Host>) -> Result<(), Error> {
    axum::serve(door, routes::routes(host)).await.map_err(|e| Error::io("the control socket", e))
}
