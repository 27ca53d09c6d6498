//! What the host does with a tenant's files, whatever the tenant made of them.
//!
//! A third tenant makes a tree of traps and goes on changing it. The host shows it, stops it, starts it and deletes it,
//! and must neither hang, nor follow, nor believe. The control is code without care, in a tree made alike.

use super::{Host, failed};
use crate::{
    Error,
    verdict::{Control, Judged},
};
use cofferdam_sandbox::probe::{Attempt, Outcome};
use serde_json::Value;
use std::{
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
    process::Stdio,
    sync::mpsc,
    time::{Duration, Instant},
};

/// Whose files these are.
const OWNER: &str = "initech";
/// Nothing that the host does with files takes so long.
const HANGS: Duration = Duration::from_secs(10);
/// How long careless code hangs, to be called hanging.
const SOON: Duration = Duration::from_millis(100);

/// What the host's operations came to.
#[derive(Default)]
struct Done {
    /// The first that failed.
    failed: Option<String>,
    slowest: Duration,
    /// Bytes that the host says are used, and how many may be.
    used: Option<u64>,
    most: u64,
    /// Directories that the deletion left.
    left: bool,
    /// What links lead to is another.
    changed: bool,
}

impl Host {
    /// Every trap, judged.
    pub(super) fn traps(&self, scratch: &Path) -> Result<Vec<Judged>, Error> {
        let at = Error::world("traps");
        let begun = Instant::now();
        let victim = victim(scratch, "victim").map_err(&at)?;
        let done = self.operated(&victim)?;
        let micros = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        // A tree for careless code, which is this world's own.
        let (tree, bait) = (scratch.join("careless"), self::victim(scratch, "bait").map_err(&at)?);
        let made = Attempt::Traps { below: tree.clone(), victim: bait }.make();
        if !made.succeeded {
            return Err(Error::BrokenOff(format!("no traps can be made: {}", made.seen)));
        }
        let outcome = |harm: bool, seen: String| Outcome { succeeded: harm, errno: 0, seen };
        let whole = done.failed.clone().unwrap_or_else(|| "shown, stopped, started and deleted".to_owned());
        let beneath: &[&str] = &["opened beneath", "a file system of its own"];
        let rows = [
            (
                "host-files.swap",
                "have the host follow a link, where a directory was a moment ago",
                beneath,
                outcome(done.changed, format!("{whole}; what links lead to is as it was: {}", !done.changed)),
                followed(&tree),
            ),
            (
                "host-files.fifo",
                "have the host wait for a FIFO that nobody writes to",
                &["nothing in a home is opened but directories"],
                outcome(done.slowest > HANGS, format!("the longest took {} ms", done.slowest.as_millis())),
                waited(&tree),
            ),
            (
                "host-files.sparse",
                "have the host count a file of a tebibyte that takes no room",
                &["blocks are counted"],
                outcome(
                    done.used.is_some_and(|used| used > done.most),
                    format!("{} bytes are in use", done.used.unwrap_or(0)),
                ),
                counted(&tree, done.most),
            ),
            (
                "host-files.deep",
                "have the host walk a tree that is deeper than a path, closed directories and all",
                &["one level at a time", "a file system of its own"],
                outcome(done.left || done.failed.is_some(), whole.clone()),
                walked(&tree),
            ),
        ];
        let counts = done.used.is_some();
        let judge = |(id, title, layers, sealed, control): (_, _, &'static [&'static str], _, _)| {
            if id == "host-files.sparse" && !counts {
                return Judged::skipped(id, title, layers, "here nobody counts what a home takes");
            }
            let control = Control { without: vec!["code without care".to_owned()], outcome: control };
            Judged::tried(id, title, layers, sealed, micros, Some(control))
        };
        Ok(rows.into_iter().map(judge).collect())
    }

    fn operated(&self, victim: &Path) -> Result<Done, Error> {
        let mut done = Done::default();
        self.done(&["tenant", "create", OWNER, "--runtime", "command:prove", "--start"], "")?;
        let below = PathBuf::from("/sandbox/traps");
        let make = Attempt::Traps { below: below.clone(), victim: victim.to_owned() };
        let trapper = self.begin(OWNER, &[make, Attempt::Swap { below }])?;
        let made = trapper.next()?;
        if !made.outcome.succeeded {
            return Err(Error::BrokenOff(format!("no traps can be made: {}", made.outcome.seen)));
        }
        for _ in 0..3 {
            let shown = self.timed(&mut done, &["tenant", "show", OWNER]);
            // Without a file system of its own nothing is counted.
            done.used = done.used.max(shown["usage"]["disk_bytes"].as_u64());
            done.most = shown["limits"]["disk_bytes"].as_u64().unwrap_or(0);
        }
        let swaps = trapper.end()?;
        if !swaps.iter().all(|line| line.outcome.succeeded) {
            return Err(Error::BrokenOff(String::from("nothing was swapped")));
        }
        for operation in
            [&["tenant", "stop", OWNER][..], &["tenant", "start", OWNER], &["tenant", "stop", OWNER]]
        {
            self.timed(&mut done, operation);
        }
        self.timed(&mut done, &["tenant", "delete", OWNER, "--yes"]);
        done.left = self.data.join("tenants").join(OWNER).exists();
        let kept = fs::read_to_string(victim.join("kept")).is_ok_and(|text| text == "kept");
        done.changed = !kept || fs::symlink_metadata(victim).is_ok_and(|meta| mode(&meta) != 0o755);
        Ok(done)
    }

    /// An operation of the host, which is given up if it hangs.
    fn timed(&self, done: &mut Done, arguments: &[&str]) -> Value {
        let begun = Instant::now();
        let told = self.within(HANGS, arguments);
        done.slowest = done.slowest.max(begun.elapsed());
        told.unwrap_or_else(|error| {
            done.failed.get_or_insert(format!("{}: {error}", arguments.join(" ")));
            Value::Null
        })
    }

    fn within(&self, most: Duration, arguments: &[&str]) -> io::Result<Value> {
        let mut child = self.command(arguments).stdout(Stdio::piped()).spawn()?;
        let begun = Instant::now();
        let status = loop {
            match child.try_wait()? {
                Some(status) => break status,
                None if begun.elapsed() > most => {
                    child.kill()?;
                    child.wait()?;
                    return Err(io::ErrorKind::TimedOut.into());
                }
                None => std::thread::sleep(Duration::from_millis(2)),
            }
        };
        let mut answer = Vec::new();
        if let Some(mut stdout) = child.stdout.take() {
            stdout.read_to_end(&mut answer)?;
        }
        if !status.success() {
            return Err(io::Error::other(status.to_string()));
        }
        Ok(serde_json::from_slice(&answer).unwrap_or_default())
    }
}

fn mode(meta: &fs::Metadata) -> u32 {
    std::os::unix::fs::PermissionsExt::mode(&meta.permissions()) & 0o7777
}

/// A directory that nobody who is careful gets to.
fn victim(scratch: &Path, name: &str) -> io::Result<PathBuf> {
    let victim = scratch.join(name);
    fs::create_dir(&victim)?;
    fs::set_permissions(&victim, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    fs::write(victim.join("kept"), "kept")?;
    Ok(victim)
}

fn followed(tree: &Path) -> Outcome {
    match fs::read(tree.join("link/kept")) {
        Ok(text) if text == b"kept" => Outcome { succeeded: true, errno: 0, seen: "it followed".into() },
        other => failed(&format!("{other:?}")),
    }
}

fn waited(tree: &Path) -> Outcome {
    let (tells, told) = mpsc::channel();
    let path = tree.join("fifo");
    // It ends with the world, at the latest.
    std::thread::spawn(move || {
        let _ = tells.send(fs::read(path).is_ok());
    });
    match told.recv_timeout(SOON) {
        Err(mpsc::RecvTimeoutError::Timeout) => {
            Outcome { succeeded: true, errno: 0, seen: "it hangs".into() }
        }
        other => failed(&format!("it came back: {other:?}")),
    }
}

fn counted(tree: &Path, most: u64) -> Outcome {
    match fs::metadata(tree.join("sparse")) {
        Ok(meta) => Outcome { succeeded: meta.len() > most, errno: 0, seen: format!("{} bytes", meta.len()) },
        Err(error) => failed(&error.to_string()),
    }
}

fn walked(tree: &Path) -> Outcome {
    let mut here = tree.to_owned();
    for level in 0_u32.. {
        here.push("deep");
        match fs::symlink_metadata(&here) {
            Ok(_) => {}
            Err(error) => {
                let errno = error.raw_os_error().unwrap_or(0);
                let lost = errno == rustix::io::Errno::NAMETOOLONG.raw_os_error();
                return Outcome { succeeded: lost, errno, seen: format!("lost at level {level}: {error}") };
            }
        }
    }
    failed("it has no end")
}
