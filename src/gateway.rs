//! The runtime `native`: the gateway of `cofferdam_agent`, in a cell.

use cofferdam_agent::{Settings, log::Keep, serve};
use cofferdam_sys::clock::SystemClock;
use std::process::ExitCode;

/// Keeps what it says of itself.
pub(crate) fn kept() -> Keep {
    Keep::new(Box::new(SystemClock))
}

/// Serves until it is killed.
pub(crate) fn main() -> ExitCode {
    match crate::cli::block_on(serve(Settings::of_cell(), Box::new(SystemClock))) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) => {
            eprintln!("gateway: {error}");
            ExitCode::FAILURE
        }
        Err(failure) => failure.report(false),
    }
}
