//! The binary: the command line, and the hidden entries of the processes that the launcher starts from it.
//!
//! No logic lives here. Every process of a host is this program under another first argument; the hidden
//! ones take their orders from an inherited socket and are of no use when typed.
#![forbid(unsafe_code)]

mod bench;
mod cli;
mod compare;
mod demo;
mod echo;
mod gateway;
mod model;
mod serve;

use std::process::ExitCode;

fn main() -> ExitCode {
    let hidden = std::env::args().nth(1).is_some_and(|first| first.starts_with("__"));
    if hidden
        && !matches!(
            std::env::args().nth(1).as_deref(),
            Some(
                "__nursery" | "__init" | "__cell" | "__compare" | "__probe" | "__read-home" | "__unpack-home"
            )
        )
    {
        let gateway = std::env::args().nth(1).as_deref() == Some("__gateway");
        serve::log_to_stderr(gateway.then(gateway::kept));
    }
    match std::env::args().nth(1).as_deref() {
        Some("__nursery") => cofferdam_sandbox::nursery_main(),
        Some("__init") => cofferdam_sandbox::init_main(),
        Some("__control") => cofferdam_control::main(cofferdam_control::disk::open),
        Some("__edge") => cofferdam_edge::main(),
        Some("__warden") => cofferdam_warden::main(),
        Some("__model") => model::main(),
        Some("__echo") => echo::main(),
        Some("__gateway") => gateway::main(),
        Some("__read-home") => cofferdam_import::reader_main(),
        Some("__unpack-home") => cofferdam_import::unpack_main(),
        Some("__guide") => demo::guide_main(),
        Some("__cell") => bench::main(),
        Some("__compare") => compare::main(),
        Some("__witness") => cofferdam_audit::witness_main(),
        Some("__probe") => cofferdam_sandbox::probe::probe_main(),
        _ => cli::main(),
    }
}
