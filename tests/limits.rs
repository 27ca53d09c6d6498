//! Limits of whole tenants: held, changed while they run, durable, and gone with them.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, missing_docs)]

mod host;
mod world;

use host::{Host, until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::{
    fs,
    os::unix::{
        fs::PermissionsExt,
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    process::Command,
};

const FILL: &str = "import os\nf=open('/sandbox/fill','wb',0); n=0\ntry:\n  while n<400: f.write(b'x'*(1<<20)); n+=1\n  os.fsync(f.fileno())\nexcept OSError as e: print(n, e.errno)\nelse: print(n, 0)";
const MANY: &str = "n=0\ntry:\n  while n<100000: open(f'/sandbox/f{n}','w').close(); n+=1\nexcept OSError as e: print(n, e.errno)\nelse: print(n, 0)";
/// ENOSPC and EDQUOT.
const FULL: [u64; 2] = [28, 122];

fn create(host: &Host, id: &str, more: &[&str]) {
    let words = ["tenant", "create", id, "--runtime", "command:echo", "--start"];
    host.json(&[&words[..], more].concat());
    host.ready(id);
}

fn numbers(text: &str) -> (u64, u64) {
    let (count, errno) = text.trim().split_once(' ').unwrap();
    (count.parse().unwrap(), errno.parse().unwrap())
}

fn row(shown: &Value, layer: &str) -> (String, String) {
    let layers = shown["receipt"]["layers"].as_array().unwrap();
    let row = layers.iter().find(|row| row["layer"] == layer).unwrap();
    (row["state"].as_str().unwrap().to_owned(), row["detail"].as_str().unwrap().to_owned())
}

/// Loop devices over files below a directory.
fn devices(below: &Path) -> usize {
    let file = |entry: fs::DirEntry| fs::read_to_string(entry.path().join("loop/backing_file")).ok();
    let files = fs::read_dir("/sys/block").unwrap().flatten().filter_map(file);
    files.filter(|file| file.starts_with(below.to_str().unwrap())).count()
}

fn has_images() -> bool {
    let lacking = cofferdam_sandbox::home_image::lacking();
    if let Some(lacking) = lacking {
        eprintln!("skipped: {lacking}");
    }
    lacking.is_none()
}

#[test]
fn a_tenant_that_fills_its_home_stops_at_its_quota_and_takes_nothing_of_others() {
    if !has_images() {
        return;
    }
    let mut host = Host::start();
    create(&host, "acme", &["--disk", "64", "--inodes", "2048"]);
    create(&host, "globex", &["--disk", "64", "--inodes", "2048"]);
    let shown = host.json(&["tenant", "show", "acme"]);
    let (state, detail) = row(&shown, "home quota");
    assert!(state == "enforced" && detail.starts_with("67108864 bytes"), "{detail}");
    assert_eq!(row(&shown, "cgroup io").0, "partial");
    assert_eq!(host.python("acme", "import os; print(os.listdir('/sandbox'))"), "[]\n");

    let (wrote, errno) = numbers(&host.python("acme", FILL));
    assert!((32..64).contains(&wrote) && FULL.contains(&errno), "{wrote} MiB, {errno}");
    let usage = &host.json(&["tenant", "show", "acme"])["usage"];
    assert!(usage["disk_bytes"].as_u64().unwrap() > 60 << 20, "{usage}");
    assert!(usage["memory_bytes"].as_u64().unwrap() > 0 && usage["pids"].as_u64().unwrap() > 1, "{usage}");
    assert_eq!(
        host.python("globex", "open('/sandbox/own','w').write('x'*1000000); print('wrote')"),
        "wrote\n"
    );
    fs::write(host.dir.join("host"), vec![0; 8 << 20]).unwrap();
    host.json(&["policy", "show", "acme"]);
    assert_eq!(host.python("acme", "import os; os.unlink('/sandbox/fill'); print('freed')"), "freed\n");
    let (made, errno) = numbers(&host.python("acme", MANY));
    assert!((1900..2200).contains(&made) && FULL.contains(&errno), "{made} files, {errno}");
    assert_eq!(host.python("globex", "open('/sandbox/more','w').close(); print('made')"), "made\n");

    // Larger, at once or at the next start, and never smaller.
    let set = host.json(&["tenant", "limits", "acme", "--disk", "128"]);
    assert_eq!((&set["limits"]["disk_bytes"], &set["limits"]["inodes"]), (&(128 << 20).into(), &4096.into()));
    let smaller = host.cli(&["tenant", "limits", "acme", "--disk", "100"]);
    let text = String::from_utf8_lossy(&smaller.stderr).into_owned();
    if set["in_force"].as_array().unwrap().iter().any(|name| name == "disk_bytes") {
        assert!(!smaller.status.success() && text.contains("cannot be made smaller"), "{text}");
    }
    host.json(&["tenant", "limits", "acme", "--disk", "128"]);
    host.json(&["tenant", "restart", "acme"]);
    host.ready("acme");
    let smaller = host.cli(&["tenant", "limits", "acme", "--disk", "100"]);
    let text = String::from_utf8_lossy(&smaller.stderr).into_owned();
    assert!(!smaller.status.success() && text.contains("cannot be made smaller"), "{text}");
    let (wrote_more, errno) = numbers(&host.python("acme", FILL));
    assert!(wrote_more >= wrote + 40 && FULL.contains(&errno), "{wrote} {wrote_more} {errno}");
    assert!(row(&host.json(&["tenant", "show", "acme"]), "home quota").1.starts_with("134217728"));

    // What was written outlives the death of the whole host; what is deleted leaves neither file nor device.
    let launcher = Pid::from_raw(host.launcher()).unwrap();
    kill_process(launcher, Signal::KILL).unwrap();
    host.ended();
    host.serve();
    host.ready("globex");
    assert_eq!(host.python("globex", "print(len(open('/sandbox/own').read()))"), "1000000\n");
    assert_eq!(devices(&host.dir), 2);
    host.json(&["tenant", "delete", "acme", "--yes"]);
    assert!(!host.dir.join("tenants/acme").exists());
    until("one device less", || (devices(&host.dir) == 1).then_some(()));
    assert_eq!(host.stop(), Some(0));
    until("no device", || (devices(&host.dir) == 0).then_some(()));
}

#[test]
fn limits_change_while_a_tenant_runs_and_are_the_same_after_any_death() {
    let mut host = Host::with(&["acme"]);
    let bad = host.cli(&["tenant", "limits", "acme"]);
    assert_eq!(bad.status.code(), Some(2), "{bad:?}");
    let set = host.json(&["tenant", "limits", "acme", "--pids", "40", "--memory", "512", "--files", "128"]);
    let names = |key: &str| set[key].as_array().unwrap().iter().map(Value::to_string).collect::<String>();
    assert_eq!(
        (names("in_force"), names("at_next_start")),
        (r#""memory_bytes""pids""#.into(), r#""open_files""#.into())
    );
    let forks = "import os,time\nn=0\ntry:\n  while n<60:\n    if os.fork()==0: time.sleep(1); os._exit(0)\n    n+=1\nexcept OSError: pass\nprint(n<40)";
    assert_eq!(host.python("acme", forks), "True\n");
    // Less than it uses is refused, and then nothing of the wish holds, nor is it kept.
    let hold = "b=bytearray(b'x'*(96<<20)); print('held', flush=True); import time; time.sleep(100)";
    let mut holder = host.begin("acme", &["python3", "-c", hold]);
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(holder.stdout.take().unwrap()), &mut line)
        .unwrap();
    let refused = host.cli(&["tenant", "limits", "acme", "--memory", "64", "--tmp", "16", "--pids", "400"]);
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && text.contains("in use"), "{text}");
    let shown = host.json(&["tenant", "show", "acme"]);
    assert_eq!(
        (&shown["limits"]["pids"], &shown["limits"]["memory_bytes"]),
        (&40.into(), &(512 << 20).into())
    );
    assert!(row(&shown, "cgroup pids").1.starts_with("40,"), "{shown}");
    holder.kill().unwrap();
    holder.wait().unwrap();

    for part in ["__control", "launcher"] {
        let pid = Pid::from_raw(host.part(part).unwrap()).unwrap();
        kill_process(pid, Signal::KILL).unwrap();
        if part == "launcher" {
            host.ended();
            host.serve();
        }
        host.ready("acme");
        assert_eq!(host.json(&["tenant", "show", "acme"])["limits"], shown["limits"], "after {part}");
    }
    // Now it has the rest too.
    assert_eq!(
        host.python("acme", "import resource; print(resource.getrlimit(resource.RLIMIT_NOFILE)[1])"),
        "128\n"
    );
    let ledger = host.cli(&["--json", "ledger", "tail", "--count", "200"]);
    let ledger = String::from_utf8_lossy(&ledger.stdout).into_owned();
    assert!(ledger.contains("limits_set") && ledger.contains("put_back"), "{ledger}");
}

#[test]
fn a_policy_lowers_limits_and_shows_offered_directories_and_gives_nothing_back_that_is_the_operators() {
    let offered = host::fresh_dir();
    fs::write(offered.join("weights"), "from the host").unwrap();
    fs::set_permissions(&offered, fs::Permissions::from_mode(0o755)).unwrap();
    let daemon = UnixListener::bind(offered.join("socket")).unwrap();
    fs::set_permissions(offered.join("socket"), fs::Permissions::from_mode(0o777)).unwrap();
    let mut host = Host::prepare(&format!("[filesystem]\nmodels = {:?}\n", offered.to_str().unwrap()));
    host.serve();
    host.create("acme");
    host.ready("acme");
    let own = host.json(&["tenant", "show", "acme"])["limits"].clone();
    let text = "version: 2\ndefault: deny\nlimits: {pids: 40, memory_bytes: 536870912}\nfilesystem: {read_only: [models]}\n";
    let set = |text: &str| host.feed(&["--json", "policy", "set", "acme", "-"], text);
    let told: Value = serde_json::from_slice(&set(text).stdout).unwrap();
    assert_eq!(told["at_next_start"].to_string(), r#"["filesystem"]"#);
    let shown = host.json(&["tenant", "show", "acme"]);
    assert_eq!((&shown["limits"], &shown["policy_leaves"]["pids"]), (&own, &40.into()));
    assert!(row(&shown, "cgroup pids").1.starts_with("40,"), "{shown}");
    let forks = "import os,time\nn=0\ntry:\n  while n<60:\n    if os.fork()==0: time.sleep(1); os._exit(0)\n    n+=1\nexcept OSError: pass\nprint(n<40)";
    assert_eq!(host.python("acme", forks), "True\n");
    let look =
        "import os\ntry: print(open('/offered/models/weights').read())\nexcept OSError as e: print(e.errno)";
    assert_eq!(host.python("acme", look), "2\n", "not before its next start");
    host.json(&["tenant", "stop", "acme"]);
    host.json(&["tenant", "start", "acme"]);
    host.ready("acme");
    assert_eq!(host.python("acme", look), "from the host\n");
    let write =
        "try: open('/offered/models/weights','a'); print('written')\nexcept OSError as e: print(e.errno)";
    assert!(matches!(host.python("acme", write).as_str(), "30\n" | "13\n"), "read-only");
    // It sees the socket, and nobody listens behind it; on the host somebody does.
    let connect = "import socket,os\nprint(os.listdir('/offered/models').count('socket'))\ntry: socket.socket(socket.AF_UNIX).connect('/offered/models/socket')\nexcept OSError as e: print(e.errno)";
    assert_eq!(host.python("acme", connect), "1\n111\n");
    UnixStream::connect(offered.join("socket")).unwrap();
    daemon.accept().unwrap();
    // What the operator does not offer is no policy, and without a document the operator's limits hold again.
    let refused = set("version: 2\nfilesystem: {read_only: [etc]}\n");
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(set("version: 2\ndefault: deny\n").status.success());
    let shown = host.json(&["tenant", "show", "acme"]);
    assert!(shown["policy_leaves"].is_null() && !row(&shown, "cgroup pids").1.starts_with("40,"), "{shown}");
    host.stop();
    fs::remove_dir_all(offered).unwrap();
}

/// A directory of the host, seen at another place too.
struct Bound(PathBuf);

impl Bound {
    fn new(source: &Path, at: PathBuf) -> Self {
        let done = Command::new("mount").arg("--bind").args([source, &at]).status().unwrap();
        assert!(done.success());
        Self(at)
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        Command::new("umount").arg(&self.0).status().unwrap();
        fs::remove_dir(&self.0).unwrap();
    }
}

#[test]
fn what_is_the_hosts_own_is_offered_to_no_cell_whatever_it_is_called() {
    let (models, place) = (host::fresh_dir(), host::fresh_dir());
    let mut host = Host::prepare(&format!("[filesystem]\nmodels = {models:?}\npart = {place:?}\n"));
    host.serve();
    host.create("acme");
    host.json(&["tenant", "stop", "acme"]);
    // A part of the data directory, by a path that does not say so.
    let _bound = Bound::new(&host.dir.join("tenants"), place);
    for (name, refused) in [("part", true), ("models", false)] {
        let text = format!("version: 2\ndefault: deny\nfilesystem: {{read_only: [{name}]}}\n");
        assert!(host.feed(&["policy", "set", "acme", "-"], &text).status.success());
        let started = host.cli(&["--json", "tenant", "start", "acme"]);
        let said = String::from_utf8_lossy(&started.stderr).into_owned();
        let expected = (refused, !refused);
        assert_eq!(
            (said.contains("this host's own"), started.status.success()),
            expected,
            "{name}: {started:?}"
        );
        host.json(&["tenant", "stop", "acme"]);
    }
    host.stop();
    fs::remove_dir(models).unwrap();
}
