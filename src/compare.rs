//! The hidden entry of `cargo xtask compare`: the battery in a cell of ours and in sandboxes of others.

use crate::{bench, cli::errno};
use cofferdam_audit::{Compared, Judged, Peer, compare};
use cofferdam_base::ipc::launcher::Limits;
use cofferdam_sandbox::{CellPlan, Quota};
use serde_json::{Value, json};
use std::{io, path::Path, process::ExitCode};

/// `__compare SCRATCH UID`, as root: cell and witness have this uid, and the others come from standard input, a JSON
/// list of names and commands. Prints a JSON list of rows, each with an answer of the cell's and of each of the others.
pub(crate) fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn std::error::Error>> {
    let scratch = std::env::args().nth(2).ok_or("where is the world to be?")?;
    let uid: u32 = std::env::args().nth(3).ok_or("under which uid?")?.parse()?;
    let peers: Vec<Peer> = serde_json::from_reader(io::stdin())?;
    let rows =
        compare(&plan(Path::new(&scratch), uid), &std::env::current_exe()?, Path::new(&scratch), &peers)?;
    serde_json::to_writer(io::stdout(), &rows.iter().map(told).collect::<Vec<_>>())?;
    Ok(())
}

/// Small limits, so that what fills them is soon done.
fn plan(home: &Path, uid: u32) -> CellPlan {
    CellPlan {
        uid,
        gid: uid,
        limits: Limits { memory_bytes: 256 << 20, pids: 64, tmp_bytes: 16 << 20, ..Limits::default() },
        quota: Quota::Image("/replaced".into()),
        ..bench::plan("compared", home, vec!["/replaced".to_owned()])
    }
}

fn told(row: &Compared) -> Value {
    let answers: Vec<Value> = std::iter::once(&row.cell).chain(&row.peers).map(answer).collect();
    json!({ "id": row.cell.id, "title": row.cell.title, "answers": answers })
}

/// A refusal or an answer of the kernel is told by its errno, if it has one.
fn answer(row: &Judged) -> Value {
    let Judged { verdict, sealed, reason, .. } = row;
    let code = sealed.as_ref().map_or(0, |outcome| outcome.errno);
    let told = if code == 0 { "" } else { errno(code).unwrap_or("another errno") };
    json!({ "verdict": verdict, "errno": told, "reason": reason })
}
