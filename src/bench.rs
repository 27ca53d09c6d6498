//! The hidden entry of `cargo xtask bench cell`: cells of a plan as a tenant's is, from the start to the end of one
//! command in them.

use cofferdam_base::ipc::launcher::Limits;
use cofferdam_sandbox::{Cell, CellEvent, CellPlan, Network, Profile, Quota, group, launch};
use cofferdam_sys::pidfd::Ended;
use std::{io::Write, path::Path, process::ExitCode, time::Instant};

/// `__cell PROGRAM ARGUMENTS…`, as root: a cell for each line of standard input, as a running launcher makes
/// them. Prints how many milliseconds each took, from the plan to the end of the command.
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
    let home = std::env::temp_dir().join(format!("cofferdam-bench-{}", std::process::id()));
    std::fs::create_dir(&home)?;
    std::os::unix::fs::chown(&home, Some(UID), Some(UID))?;
    let argv: Vec<String> = std::env::args().skip(2).collect();
    // A neighbour that stays, as on a host: the groups above the cells are there already.
    let neighbour = start(&plan("neighbour", &home, vec!["/bin/sleep".to_owned(), "inf".to_owned()]))?;
    let mut failed = Ok(());
    for line in std::io::stdin().lines() {
        line?;
        failed = one(&plan("cell", &home, argv.clone()));
        if failed.is_err() {
            break;
        }
    }
    neighbour.kill()?;
    end(neighbour)?;
    std::fs::remove_dir(&home)?;
    failed
}

/// Timed to the moment at which the launcher knows that the command has ended; the cell is taken away after that.
fn one(plan: &CellPlan) -> Result<(), Box<dyn std::error::Error>> {
    let begun = Instant::now();
    let cell = start(plan)?;
    let code = loop {
        match cell.event()? {
            Some(CellEvent::RuntimeEnded { code, .. }) => break code,
            Some(CellEvent::Gone) => return Err("the cell was gone before its command ended".into()),
            None => rustix::event::poll(
                &mut [rustix::event::PollFd::from_borrowed_fd(cell.wire(), rustix::event::PollFlags::IN)],
                None,
            )?,
        };
    };
    let took = begun.elapsed();
    end(cell)?;
    if code != 0 {
        return Err(format!("the command ended with {code}").into());
    }
    writeln!(std::io::stdout().lock(), "{}", took.as_secs_f64() * 1e3)?;
    Ok(())
}

fn start(plan: &CellPlan) -> Result<Cell, Box<dyn std::error::Error>> {
    let null = || std::fs::OpenOptions::new().write(true).open("/dev/null");
    Ok(launch(plan, [null()?.into(), null()?.into()])?)
}

fn end(cell: Cell) -> Result<Ended, Box<dyn std::error::Error>> {
    let ended = cell.wait()?;
    cell.remove()?;
    Ok(ended)
}

/// A plan as a tenant's is, of a cell that is no tenant's.
pub(crate) fn plan(name: &str, home: &Path, argv: Vec<String>) -> CellPlan {
    CellPlan {
        name: name.to_owned(),
        generation: 1,
        profile: Profile::Strict,
        uid: UID,
        gid: UID,
        hostname: name.to_owned(),
        binds: Vec::new(),
        home: home.to_owned(),
        quota: Quota::Scratch,
        argv,
        env: vec![("PATH".to_owned(), "/usr/bin:/bin".to_owned())],
        cwd: "/sandbox".into(),
        network: Network::Captured { port: 8080, mark: 1 },
        limits: Limits::default(),
        cgroup: group(&format!("bench-{}", std::process::id()), name),
        without: Vec::new(),
    }
}

/// Of nobody else on this machine.
const UID: u32 = 1_499_999_998;
