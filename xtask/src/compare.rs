//! The battery of `prove` in a cell of ours, under bubblewrap and under runc: the table of `docs/comparison.md`.
//!
//! It owns how the others are started; what is tried, the world and the verdicts are the program's own (`__compare`),
//! so that nothing here knows of cells. The threat: a comparison that measures its own set-up; so the others get the
//! files that a row asks for.

mod table;

use crate::{programs, run};
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

const DOCUMENT: &str = "docs/comparison.md";
/// The table lies between these lines.
const MARKS: [&str; 2] = ["<!-- cargo xtask compare --write -->\n", "<!-- the end of what it wrote -->\n"];

/// Where the battery has the probe and its tree: if the program had them elsewhere, the others would not start.
const PROBE: &str = "/opt/cofferdam-prove/cofferdam";
const TREE: &str = "/opt/cofferdam-prove/tree";
/// Of nobody on this machine: cell, witness and bubblewrap have it.
const UID: u32 = 1_499_999_997;
/// Files that rows ask for.
const ETC: [(&str, &str); 3] = [
    ("hosts", "127.0.0.1 localhost\n"),
    ("passwd", "root:x:0:0::/:/bin/sh\n"),
    ("resolv.conf", "nameserver 9.9.9.9\n"),
];

pub(crate) fn run(arguments: &[String]) -> Result<()> {
    let write = match arguments {
        [] => false,
        [flag] if flag == "--write" => true,
        _ => bail!("cargo xtask compare [--write]"),
    };
    if fs::metadata("/proc/self")?.uid() != 0 {
        bail!("cargo xtask compare needs root: for runc, and for a cell of the profile strict");
    }
    programs::ensure(&[("bwrap", "bubblewrap"), ("runc", "runc"), ("setpriv", "util-linux")])?;
    let dir = tempfile::tempdir()?;
    let places = Places::make(dir.path(), &run::program(false)?)?;
    let peers = [
        ("bwrap", bwrap(&places, &["--unshare-all"])),
        ("bwrap, network shared", bwrap(&places, &["--unshare-all", "--share-net"])),
        ("runc", runc(&places)?),
    ];
    let rows = places.compare(&peers)?;
    let table = versions()? + &table::table(&rows, &peers.map(|(name, _)| name))?;
    print!("{table}");
    if write {
        put(&table)?;
    }
    let fell =
        |row: &Value| matches!(row["answers"][0]["verdict"].as_str(), Some("ESCAPED" | "INCONCLUSIVE"));
    if rows.iter().any(fell) {
        bail!("a cell did not hold, or its row shows nothing");
    }
    Ok(())
}

/// What lies where outside.
struct Places {
    program: PathBuf,
    /// The throw-away world's own files, in it alone.
    world: PathBuf,
    etc: PathBuf,
    bundle: PathBuf,
    state: PathBuf,
}

impl Places {
    fn make(dir: &Path, program: &Path) -> Result<Self> {
        let places = Self {
            // A copy that every user can reach.
            program: dir.join("cofferdam"),
            world: dir.join("world"),
            etc: dir.join("etc"),
            bundle: dir.join("bundle"),
            state: dir.join("runc"),
        };
        fs::set_permissions(dir, PermissionsExt::from_mode(0o755))?;
        fs::copy(program, &places.program)?;
        fs::create_dir(&places.world)?;
        etc(&places.etc, UID)?;
        Ok(places)
    }

    /// The rows and their answers, as the program tells them.
    fn compare(&self, peers: &[(&str, Vec<String>)]) -> Result<Vec<Value>> {
        let peers: Vec<Value> =
            peers.iter().map(|(name, argv)| json!({ "name": name, "argv": argv })).collect();
        let told = self.world.with_file_name("peers.json");
        fs::write(&told, serde_json::to_vec(&peers)?)?;
        let mut command = Command::new(&self.program);
        command.arg("__compare").arg(&self.world).arg(UID.to_string()).stdin(fs::File::open(told)?);
        Ok(serde_json::from_slice(&run::output(command.stderr(Stdio::inherit()))?)?)
    }
}

/// They belong to whoever tries to write to them, so that no permission of files stands in the way.
fn etc(at: &Path, owner: u32) -> Result<()> {
    fs::create_dir(at)?;
    for (name, text) in ETC {
        let path = at.join(name);
        fs::write(&path, text)?;
        chown(&path, Some(owner), Some(owner))?;
    }
    Ok(chown(at, Some(owner), Some(owner))?)
}

/// What is shown of the host as on most of them.
const LINKS: [(&str, &str); 4] =
    [("usr/bin", "/bin"), ("usr/sbin", "/sbin"), ("usr/lib", "/lib"), ("usr/lib64", "/lib64")];

/// As most wrappers call it, by an ordinary user.
fn bwrap(places: &Places, namespaces: &[&str]) -> Vec<String> {
    let mut argv = words(&format!("setpriv --reuid {UID} --regid {UID} --clear-groups bwrap"));
    argv.extend(namespaces.iter().map(ToString::to_string));
    argv.extend(words("--die-with-parent --ro-bind /usr /usr"));
    for (target, link) in LINKS {
        argv.extend(words(&format!("--symlink {target} {link}")));
    }
    argv.extend(words("--proc /proc --dev /dev --tmpfs /tmp --tmpfs /sandbox --chdir /sandbox"));
    let tree = places.world.join("tree");
    let binds = [(places.etc.as_path(), "/etc"), (&places.program, PROBE), (&tree, TREE)];
    for (source, target) in binds {
        argv.extend(["--ro-bind".to_owned(), source.display().to_string(), target.to_owned()]);
    }
    argv.extend([PROBE.to_owned(), "__probe".to_owned()]);
    argv
}

/// As `runc spec` has it, but for the terminal, the program and the files that the rows ask for.
fn runc(places: &Places) -> Result<Vec<String>> {
    let root = places.bundle.join("rootfs");
    for dir in ["usr", "dev", "proc", "sys", "tmp", "sandbox", "opt"] {
        fs::create_dir_all(root.join(dir))?;
    }
    for (target, link) in LINKS {
        symlink(target, root.join(link.trim_start_matches('/')))?;
    }
    etc(&root.join("etc"), 0)?;
    run::output(Command::new("runc").arg("spec").current_dir(&places.bundle))?;
    let file = places.bundle.join("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&file)?)?;
    config["process"]["terminal"] = json!(false);
    config["process"]["args"] = json!([PROBE, "__probe"]);
    let mounts = [
        bind(Path::new("/usr"), "/usr"),
        bind(&places.program, PROBE),
        bind(&places.world.join("tree"), TREE),
        json!({ "destination": "/sandbox", "type": "tmpfs", "source": "tmpfs" }),
    ];
    config["mounts"].as_array_mut().context("runc spec lists no mounts")?.extend(mounts);
    fs::write(&file, serde_json::to_vec_pretty(&config)?)?;
    let mut argv = words("runc --root");
    argv.push(places.state.display().to_string());
    argv.extend(words("run --bundle"));
    argv.push(places.bundle.display().to_string());
    argv.push(format!("cofferdam-compare-{}", std::process::id()));
    Ok(argv)
}

fn bind(source: &Path, target: &str) -> Value {
    json!({ "destination": target, "type": "bind", "source": source, "options": ["rbind", "ro"] })
}

/// What was compared, in one line.
fn versions() -> Result<String> {
    let first = |program: &str, flag: &str| -> Result<String> {
        let told = String::from_utf8(run::output(Command::new(program).arg(flag))?)?;
        Ok(told.lines().next().unwrap_or_default().trim().to_owned())
    };
    let (bwrap, runc, linux) =
        (first("bwrap", "--version")?, first("runc", "--version")?, first("uname", "-r")?);
    Ok(format!("{bwrap}, {runc}, Linux {linux}.\n\n"))
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

/// Puts the table where the document has it.
fn put(table: &str) -> Result<()> {
    let path = run::root().join(DOCUMENT);
    let text = fs::read_to_string(&path)?;
    let lacks = || format!("{DOCUMENT} has no place for the table");
    let (before, rest) = text.split_once(MARKS[0]).with_context(lacks)?;
    let (_, after) = rest.split_once(MARKS[1]).with_context(lacks)?;
    fs::write(path, [before, MARKS[0], table, MARKS[1], after].concat())?;
    Ok(())
}
