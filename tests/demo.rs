//! The throw-away host: it comes up, and leaves the machine as it was, whenever it is ended.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use serde_json::Value;
use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    process::{Child, Command, Stdio},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// The tests look at the whole machine, so one at a time.
static ALONE: Mutex<()> = Mutex::new(());

const PROGRAM: &str = env!("CARGO_BIN_EXE_cofferdam");

/// What a host could leave: processes of this program, mounts, its directories, its cgroups.
fn machine() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if line.contains("cofferdam-demo-")
            || ["__guide", "__model", "__nursery"].iter().any(|entry| line.contains(entry))
        {
            found.insert(format!("process {line}"));
        }
    }
    let temporary = std::env::temp_dir();
    for entry in std::fs::read_dir(temporary).unwrap().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with("cofferdam-demo-") {
            found.insert(format!("directory {name}"));
        }
    }
    for line in std::fs::read_to_string("/proc/self/mounts").unwrap().lines() {
        found.insert(format!("mount {line}"));
    }
    groups(std::path::Path::new("/sys/fs/cgroup"), &mut found);
    found
}

/// The cgroups of hosts: `cofferdam.<instance>.<name>`. Other tests have some too, and they go.
fn groups(dir: &std::path::Path, found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            if entry.path().to_string_lossy().contains("/cofferdam.") {
                found.insert(format!("cgroup {}", entry.path().display()));
            }
            groups(&entry.path(), found);
        }
    }
}

/// A demo, in a process group of its own, as a terminal would have it.
fn demo() -> Child {
    use std::os::unix::process::CommandExt;
    Command::new(PROGRAM)
        .args(["demo", "--runtime", "command", "--json"])
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Ctrl-C: SIGINT to the whole group.
fn interrupt(child: &mut Child) {
    let group = rustix::process::Pid::from_child(child);
    rustix::process::kill_process_group(group, rustix::process::Signal::INT).unwrap();
    child.wait().unwrap();
}

fn assert_as_before(before: &BTreeSet<String>, when: &str) {
    // What was killed with the host is reaped by somebody else, a moment later.
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        let left: Vec<_> = machine().difference(before).cloned().collect();
        if left.is_empty() {
            return;
        }
        assert!(Instant::now() < end, "{when}: {left:#?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_demo_serves_both_tenants_and_twice_in_a_row_leaves_nothing() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let before = machine();
    for run in ["the first run", "the second run"] {
        let mut child = demo();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let ready: Value = serde_json::from_str(&line).unwrap();
        let tenants = ready["tenants"].as_array().unwrap();
        assert_eq!(tenants.iter().map(|it| &it["id"]).collect::<Vec<_>>(), ["acme", "globex"]);
        for tenant in tenants {
            let address = tenant["address"].as_str().unwrap().strip_prefix("http://").unwrap();
            let token = tenant["token"].as_str().unwrap();
            let mut stream = TcpStream::connect(address).unwrap();
            write!(stream, "GET / HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nAuthorization: Bearer {token}\r\n\r\n")
                .unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        }
        interrupt(&mut child);
        assert_as_before(&before, run);
    }
}

#[test]
fn a_demo_that_is_interrupted_at_any_moment_leaves_nothing() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let before = machine();
    for milliseconds in [0, 5, 20, 50, 100, 150, 200, 300, 500] {
        let mut child = demo();
        std::thread::sleep(Duration::from_millis(milliseconds));
        interrupt(&mut child);
        assert_as_before(&before, &format!("after {milliseconds} ms"));
    }
}
