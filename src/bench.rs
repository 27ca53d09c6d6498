//! The hidden entry of `cargo xtask bench cell`: one cell of the tenant's own plan, from its start to the end
//! of one command in it.

use cofferdam_base::ipc::launcher::Limits;
use cofferdam_sandbox::{CellPlan, Network, Profile, launch};
use std::process::ExitCode;

/// `__cell PROGRAM ARGUMENTS…`, as root.
pub(crate) fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<ExitCode, Box<dyn std::error::Error>> {
    let home = std::env::temp_dir().join(format!("cofferdam-bench-{}", std::process::id()));
    std::fs::create_dir(&home)?;
    let uid = 1_499_999_998;
    std::os::unix::fs::chown(&home, Some(uid), Some(uid))?;
    let plan = CellPlan {
        name: "bench".to_owned(),
        generation: 1,
        profile: Profile::Strict,
        uid,
        gid: uid,
        hostname: "bench".to_owned(),
        binds: Vec::new(),
        home: home.clone(),
        argv: std::env::args().skip(2).collect(),
        env: vec![("PATH".to_owned(), "/usr/bin:/bin".to_owned())],
        cwd: "/sandbox".into(),
        network: Network::Captured { port: 8080, mark: 1 },
        limits: Limits::default(),
        cgroup: format!("cofferdam/bench-{}/cell", std::process::id()),
    };
    let null = || std::fs::OpenOptions::new().write(true).open("/dev/null");
    let cell = launch(&plan, [null()?.into(), null()?.into()])?;
    let ended = cell.wait()?;
    cell.remove()?;
    std::fs::remove_dir(&home)?;
    Ok(ExitCode::from(ended.code()))
}
