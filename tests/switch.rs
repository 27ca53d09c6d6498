//! The kill switch where it cannot freeze, and where control cannot help: what is left is done, and what is not is
//! said. As root cells can be frozen; without root this is `rootless`, where they cannot.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, missing_docs)]

mod host;
mod world;

use host::{Host, ROOTLESS, until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::{io::Read, net::TcpStream};

/// The end of a stream, however it ends.
fn ended(stream: &mut TcpStream) {
    let mut rest = [0; 4096];
    while matches!(stream.read(&mut rest), Ok(1..)) {}
}

fn kill(host: &Host) -> (Option<i32>, Value) {
    let output = host.own(&["--json", "kill", "acme", "--reason", "by hand"]);
    let told =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}\n{}", host.log()));
    (output.status.code(), told)
}

fn fits(cell: &Value) {
    if ROOTLESS {
        // There is a cgroup of version 2 and it may not be written, or there is none.
        assert!(cell["killed"].as_str().is_some_and(|why| !why.is_empty()), "{cell}");
    } else {
        assert_eq!(cell, "frozen");
    }
}

fn state(host: &Host) -> Value {
    host.json(&["tenant", "show", "acme"])["state"].clone()
}

fn recorded(host: &Host) -> usize {
    let rows = String::from_utf8(host.cli(&["--json", "ledger", "tail", "--count", "1000"]).stdout).unwrap();
    rows.lines().filter(|row| row.contains("\"tenant_killed\"") && row.contains("by hand")).count()
}

#[test]
fn a_cell_that_cannot_be_frozen_is_killed_and_its_connections_close_all_the_same() {
    let mut host = Host::with(&["acme"]);
    let (token, _) = host.token("acme", "member");
    let mut socket = host.ws("acme", &token).unwrap();
    let (code, told) = kill(&host);
    assert_eq!(code, Some(0), "{told}");
    fits(&told["killed"][0]["cell"]);
    ended(socket.get_mut());
    if ROOTLESS {
        until("an end of the cell", || host.cell_processes("acme").is_empty().then_some(()));
    }
    until("an end of the warden", || host.process("__warden acme").is_none().then_some(()));
    assert_eq!((state(&host), recorded(&host)), ("killed".into(), 1));
    assert_eq!(host.get("acme", "/", &token).status, 401);
    host.restart();
    assert_eq!((state(&host), host.cell_processes("acme").len()), ("killed".into(), 0));
    host.json(&["tenant", "resume", "acme"]);
    host.ready("acme");
    assert_eq!(host.get("acme", "/", &token).status, 401, "its old token stays revoked");
}

#[test]
fn the_switch_works_while_control_does_not_and_says_what_is_not_done() {
    let host = Host::with(&["acme"]);
    let (token, _) = host.token("acme", "member");
    let mut socket = host.ws("acme", &token).unwrap();
    let control = Pid::from_raw(host.part("__control").unwrap()).unwrap();
    kill_process(control, Signal::STOP).unwrap();
    let (code, told) = kill(&host);
    ended(socket.get_mut());
    assert_eq!(code, Some(1), "{told}");
    fits(&told["killed"][0]["cell"]);
    assert!(told["killed"][0]["not_done"][0].as_str().unwrap().contains("not on disk"), "{told}");
    kill_process(control, Signal::CONT).unwrap();
    // It makes durable what the launcher tells it.
    until("a kill on disk", || (recorded(&host) == 1).then_some(()));
    until("a killed tenant", || (state(&host) == "killed").then_some(()));
}

#[test]
fn nobody_but_the_operator_reaches_the_switch() {
    let host = Host::with(&["acme"]);
    let socket = host.dir.join("kill.sock");
    let meta = std::fs::metadata(&socket).unwrap();
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&meta.permissions()) & 0o777, 0o600);
    // A process of acme's own uid, outside of any cell.
    let home = host.dir.join("tenants/acme/home");
    let (uid, gid) = (std::os::unix::fs::MetadataExt::uid(&meta), 65_534);
    let tenant = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(home).unwrap());
    let other = if ROOTLESS { uid + 7 } else { tenant };
    let mut command = std::process::Command::new("python3");
    let program = "import socket, sys; s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET); s.connect(sys.argv[1])";
    command.args(["-I", "-c", program, socket.to_str().unwrap()]);
    let reaches = |command: &mut std::process::Command| command.output().unwrap();
    assert!(reaches(&mut command).status.success(), "the positive control");
    let refused = reaches(std::os::unix::process::CommandExt::gid(
        std::os::unix::process::CommandExt::uid(&mut command, other),
        gid,
    ));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("PermissionError"), "{refused:?}");
    assert_eq!(state(&host), "running");
}
