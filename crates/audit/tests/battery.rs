//! The whole battery, as root and as nobody. This binary is also the init, probe and witness of its cells.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use cofferdam_audit::{Compared, Options, Peer, Report, Verdict, compare, prove};
use cofferdam_base::ipc::launcher::Limits;
use cofferdam_sandbox::{CellPlan, Network, Profile, Protection};
use cofferdam_sys::process::{self, Forked};
use std::{ffi::CString, fs::File, os::fd::AsFd};

fn main() {
    let argv: Vec<String> = std::env::args().collect();
    match argv.get(1).map(String::as_str) {
        Some("__nursery") => cofferdam_sandbox::nursery_main(),
        Some("__init") => cofferdam_sandbox::init_main(),
        Some("__probe") => {
            cofferdam_sandbox::probe::probe_main();
            return;
        }
        Some("__witness") => {
            cofferdam_audit::witness_main();
            return;
        }
        Some("__rootless") => return as_nobody(),
        _ => {}
    }
    if argv.iter().any(|argument| argument == "--list") {
        println!("the_battery_holds: test");
        return;
    }
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED the battery: it needs root");
        return;
    }
    strict();
    without_landlock();
    compared();
    rootless();
}

fn plan(profile: Profile, uid: u32) -> CellPlan {
    CellPlan {
        name: "acme".into(),
        generation: 1,
        profile,
        uid,
        gid: uid,
        hostname: "acme".into(),
        binds: Vec::new(),
        home: "/replaced".into(),
        argv: vec!["/replaced".into()],
        env: vec![("PATH".into(), "/usr/bin:/bin".into())],
        cwd: "/sandbox".into(),
        network: Network::Captured { port: 8080, mark: 77 },
        limits: Limits { memory_bytes: 256 << 20, pids: 64, tmp_bytes: 16 << 20, ..Limits::default() },
        cgroup: "replaced".into(),
        quota: cofferdam_sandbox::Quota::Scratch,
        without: Vec::new(),
    }
}

fn program() -> std::path::PathBuf {
    std::env::current_exe().unwrap()
}

fn show(report: &Report) {
    for row in report.rows.iter().filter(|row| row.verdict != Verdict::Blocked) {
        println!("{:?} {}: {} {:?} control {:?}", row.verdict, row.id, row.reason, row.sealed, row.control);
    }
    if let Some(mutants) = &report.mutants {
        let all = mutants.killed.len() + mutants.survivors.len();
        println!("cell protections: {} of {all} killed", mutants.killed.len());
        println!("survivors: {:?}\nidle: {:?}", mutants.survivors, mutants.idle);
    }
}

fn count(report: &Report, verdict: Verdict) -> usize {
    report.rows.iter().filter(|row| row.verdict == verdict).count()
}

fn strict() {
    let report =
        prove(&plan(Profile::Strict, 20_003), &program(), Options { mutants: true, ..Options::default() })
            .unwrap();
    show(&report);
    assert!(report.rows.len() >= 80, "{}", report.rows.len());
    assert_eq!((count(&report, Verdict::Escaped), count(&report, Verdict::Inconclusive)), (0, 0));
    let mutants = report.mutants.unwrap();
    assert_eq!((mutants.survivors, mutants.idle), (vec![], vec![]));
    println!("test every_attack_is_blocked_and_every_control_succeeds ... ok");
}

/// What an operator left out shows: in the receipt, and in rows that nothing answers any more.
fn without_landlock() {
    let whole = plan(Profile::Strict, 20_003);
    let without = Protection::of_layer("landlock");
    let report = prove(&CellPlan { without, ..whole }, &program(), Options::default()).unwrap();
    let escaped = count(&report, Verdict::Escaped);
    assert!(escaped >= 5, "{escaped}");
    assert!(report.receipt.iter().any(|row| row.layer == "landlock" && row.detail.contains("left out")));
    println!("test what_is_left_out_changes_rows_and_the_receipt ... ok");
}

/// Under an ordinary uid, and with no seal or one that is made by a command: what a sandbox of somebody else's is here.
fn compared() {
    use Verdict::{Blocked, Escaped, Inconclusive, Skipped};
    const UID: &str = "20003";
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let (world, copy) = (dir.path().join("world"), dir.path().join("probe"));
    std::fs::create_dir(&world).unwrap();
    std::fs::copy(program(), &copy).unwrap();
    let probe =
        ["setpriv", "--reuid", UID, "--regid", UID, "--clear-groups", copy.to_str().unwrap(), "__probe"];
    let peer = |name: &str, before: &[&str]| Peer {
        name: name.into(),
        argv: before.iter().chain(&probe).map(ToString::to_string).collect(),
    };
    let peers = [peer("nothing", &[]), peer("a network of its own", &["unshare", "--net"])];
    let rows = compare(&plan(Profile::Strict, 20_003), &program(), &world, &peers).unwrap();

    let bad = |row: &&Compared| matches!(row.cell.verdict, Escaped | Inconclusive);
    assert_eq!(rows.iter().filter(bad).count(), 0);
    let of = |id: &str| {
        let row = rows.iter().find(|row| row.cell.id == id).unwrap();
        (row.cell.verdict, row.peers[0].verdict, row.peers[1].verdict)
    };
    assert_eq!(of("network.address"), (Blocked, Escaped, Blocked));
    assert_eq!(of("processes.see"), (Blocked, Escaped, Escaped));
    assert_eq!(of("kernel.mount"), (Blocked, Blocked, Blocked));
    // What only a cell has is asked of nobody else, and of nothing more than that is it left out.
    let ours = |row: &&Compared| {
        let offered = row.cell.id.starts_with("files.offered-");
        row.cell.verdict != Skipped && row.peers[0].verdict == Skipped && !offered
    };
    let ours: Vec<&str> = rows.iter().filter(ours).map(|row| row.cell.id.as_str()).collect();
    assert_eq!(
        ours,
        ["processes.cgroup-name", "kernel.sweep", "network.low-port", "network.gateway-port"],
        "{ours:?}"
    );
    println!("test what_others_stop_is_told_by_the_same_probe_in_the_same_world ... ok");

    let silent = Peer { name: "silent".into(), argv: vec!["true".into()] };
    let error = compare(&plan(Profile::Strict, 20_003), &program(), &world, &[silent]).unwrap_err();
    assert!(error.to_string().contains("silent: the probe said nothing in it"), "{error}");
    println!("test a_sandbox_that_did_not_start_has_stopped_nothing ... ok");
}

fn rootless() {
    match process::fork().unwrap() {
        Forked::Child => {
            let program = File::open("/proc/self/exe").unwrap();
            process::become_user(65_534, 65_534, true).unwrap();
            let text = |text: &str| CString::new(text).unwrap();
            let error = process::exec_fd(program.as_fd(), &[text("battery"), text("__rootless")], &[]);
            println!("{error}");
            process::exit(9)
        }
        Forked::Parent(pid) => {
            let status = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty());
            assert_eq!(status.unwrap().unwrap().1.exit_status(), Some(0));
        }
    }
}

fn as_nobody() {
    let report = prove(&plan(Profile::Rootless, 65_534), &program(), Options::default()).unwrap();
    show(&report);
    assert_eq!((count(&report, Verdict::Escaped), count(&report, Verdict::Inconclusive)), (0, 0));
    println!("test without_root_every_attack_is_blocked_too ... ok");
}
