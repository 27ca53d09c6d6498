//! `cofferdam doctor`: what this machine can enforce, and what state a data directory is in. It needs no host,
//! changes nothing and reports, not mends.

mod screen;

use super::commands::Done;
use cofferdam_base::ipc::receipt::LayerState;
use cofferdam_sandbox::{Feature, Known, Need, ROOTLESS, Unkept, Verdict};
use cofferdam_tenants::config::{self, HostConfig, Profile};
use serde::Serialize;
use std::{
    fs::{self, File},
    io::Read,
    os::unix::fs::MetadataExt,
    path::Path,
    process::ExitCode,
};

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Report {
    /// That a host which this user starts would have.
    profile: &'static str,
    verdict: Verdict,
    /// The exit code.
    exit: u8,
    /// Does such a host start?
    starts: bool,
    /// Rows that make it worse than fine.
    findings: usize,
    features: Vec<Feature>,
    /// What the profile does not keep.
    unkept: &'static [Unkept],
}

/// Exit 0: fine; 2: a host starts, degraded; 3: it cannot run.
pub(super) fn run(data_dir: Option<&Path>, json: bool) -> Done {
    let mut rows = cofferdam_sandbox::host_features();
    if let Some(dir) = data_dir {
        rows.extend(data_directory(dir));
    }
    let report = Report::of(rows, rustix::process::geteuid().is_root());
    if json {
        super::print::json(&report)?;
    } else {
        screen::show(&report)?;
    }
    Ok(ExitCode::from(report.exit))
}

impl Report {
    fn of(features: Vec<Feature>, root: bool) -> Self {
        let verdict = Verdict::of(&features);
        let findings = features.iter().filter(|row| lacks(row)).count();
        Self {
            profile: if root { "strict" } else { "rootless" },
            verdict,
            exit: verdict.code(),
            starts: verdict != Verdict::CannotRun,
            findings,
            features,
            unkept: if root { &[] } else { ROOTLESS },
        }
    }
}

/// Does this row make the verdict worse than fine?
fn lacks(row: &Feature) -> bool {
    row.state != LayerState::Enforced && row.need != Need::Informs
}

const DIRECTORY: Known = Known {
    group: "Data directory",
    name: "data directory",
    need: Need::Required,
    buys: "where a host keeps everything",
    used_by: "the host",
    mend: "",
};
const CONFIG: Known =
    Known { name: "cofferdam.toml", buys: "what the operator says", used_by: "the host", ..DIRECTORY };
const CONTROL: Known = Known {
    name: "control's directory",
    buys: "state, ledger and keys, which control alone reads",
    used_by: "control",
    ..DIRECTORY
};
const DATABASE: Known = Known {
    name: "state database",
    buys: "tenants, policies, approvals, tokens",
    used_by: "control",
    ..DIRECTORY
};

const WITHOUT: Known = Known {
    name: "[[without]]",
    need: Need::Degrades,
    buys: "a layer of every cell's seal, which the operator leaves out",
    used_by: "every cell",
    ..DIRECTORY
};

const ACCEPTED: Known = Known {
    name: "[[accepted]]",
    buys: "an attack of prove that bars no start though it gets through",
    used_by: "every tenant",
    ..WITHOUT
};

/// What a host would find there.
fn data_directory(dir: &Path) -> Vec<Feature> {
    let shown = dir.display();
    let mut rows = vec![row(DIRECTORY, directory(dir))];
    if rows[0].state != LayerState::Enforced {
        return rows;
    }
    let root = rustix::process::geteuid().is_root();
    let config = HostConfig::load(&dir.join(config::FILE));
    rows.push(row(
        CONFIG,
        config.as_ref().map_err(ToString::to_string).and_then(|config| profile(config, root)),
    ));
    if let Ok(config) = config {
        let me = rustix::process::geteuid().as_raw();
        let owner = if root { config.uids.base.control() } else { me };
        rows.push(row(CONTROL, owned(&dir.join("control"), owner)));
        rows.extend(config.without.iter().map(|left| {
            let found = WITHOUT.is(false, format!("{}: {}", left.layer, left.reason));
            Feature { mend: format!("take [[without]] {} out of cofferdam.toml", left.layer), ..found }
        }));
        rows.extend(config.accepted.iter().map(|accepted| {
            let found = ACCEPTED.is(false, format!("{}: {}", accepted.row, accepted.reason));
            Feature { mend: format!("take [[accepted]] {} out of cofferdam.toml", accepted.row), ..found }
        }));
    }
    let state = database(&dir.join("control/state.db"))
        .map_err(|why| format!("{why}; backups are in {shown}/control/backups"));
    rows.push(row(DATABASE, state));
    rows
}

/// Is the configured profile one that this user can have?
fn profile(config: &HostConfig, root: bool) -> Result<(), String> {
    match config.profile {
        Some(Profile::Strict) if !root => Err("it says profile strict: start the host as root".to_owned()),
        Some(Profile::Rootless) if root => {
            Err("it says profile rootless: start the host as another user".to_owned())
        }
        _ => Ok(()),
    }
}

fn row(known: Known, found: Result<(), String>) -> Feature {
    let there = known.is(found.is_ok(), "");
    Feature { mend: found.err().unwrap_or_default(), ..there }
}

fn directory(dir: &Path) -> Result<(), String> {
    let shown = dir.display();
    let meta = fs::symlink_metadata(dir)
        .map_err(|error| format!("{shown}: {error}; make it with: cofferdam init --data-dir {shown}"))?;
    let me = rustix::process::geteuid().as_raw();
    match () {
        () if !meta.is_dir() => Err(format!("{shown} is no directory")),
        () if meta.uid() != me => {
            Err(format!("{shown} belongs to uid {}; run this as that user, or chown it", meta.uid()))
        }
        () if meta.mode() & 0o022 != 0 => {
            Err(format!("{shown} may be written by others; mend it with: chmod go-w {shown}"))
        }
        () => Ok(()),
    }
}

/// One that was never made is fine.
fn owned(dir: &Path, owner: u32) -> Result<(), String> {
    let shown = dir.display();
    match fs::symlink_metadata(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(format!("{shown}: {error}")),
        Ok(meta) if meta.uid() == owner => Ok(()),
        Ok(meta) => Err(format!(
            "{shown} belongs to uid {} where it should be {owner}'s: was [uids] base changed?",
            meta.uid()
        )),
    }
}

/// Looks at the head of a database: is it one, and is it as long as it says? One that was never made is
/// fine.
fn database(path: &Path) -> Result<(), String> {
    let mut file = match File::open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(|error| format!("{}: {error}", path.display()))?,
    };
    let mut head = [0; 32];
    let shown = path.display();
    file.read_exact(&mut head).map_err(|_| format!("{shown} is cut off"))?;
    if head[..16] != *b"SQLite format 3\0" {
        return Err(format!("{shown} is no database"));
    }
    // Big-endian at 16: the size of a page, 1 for 65,536; at 28: how many there are.
    let page = match u64::from(u16::from_be_bytes([head[16], head[17]])) {
        1 => 65_536,
        size => size,
    };
    let pages = u64::from(u32::from_be_bytes([head[28], head[29], head[30], head[31]]));
    let length = file.metadata().map_err(|error| format!("{shown}: {error}"))?.len();
    if length < page * pages { Err(format!("{shown} is cut off")) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn found(dir: &Path) -> Vec<(String, bool)> {
        let rows = data_directory(dir).into_iter();
        rows.map(|row| (row.name.to_owned(), row.state == LayerState::Enforced)).collect()
    }

    #[test]
    fn what_the_rows_say_is_what_the_report_says() {
        let report = |there, need, root| {
            let known = Known { need, ..CONFIG };
            Report::of(vec![known.is(there, "")], root)
        };
        let fine = report(true, Need::Required, true);
        assert_eq!((fine.exit, fine.starts, fine.findings, fine.unkept.len()), (0, true, 0, 0));
        let informed = report(false, Need::Informs, true);
        assert_eq!((informed.exit, informed.findings), (0, 0));
        let degraded = report(false, Need::Degrades, false);
        assert_eq!((degraded.exit, degraded.starts, degraded.findings), (2, true, 1));
        assert_eq!((degraded.profile, degraded.unkept), ("rootless", ROOTLESS));
        let broken = report(false, Need::Required, true);
        assert_eq!((broken.exit, broken.starts, broken.findings), (3, false, 1));
    }

    #[test]
    fn a_data_directory_is_looked_at_and_left_as_it_is() {
        let outer = tempfile::tempdir().unwrap();
        let dir = outer.path().join("data");
        assert_eq!(found(&dir), [("data directory".to_owned(), false)]);
        assert!(!dir.exists());
        fs::create_dir_all(dir.join("control")).unwrap();
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(dir.join("control"), Some(1_500_000_000), None).unwrap();
        }
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).unwrap();
        assert_eq!(found(&dir), [("data directory".to_owned(), false)]);
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o711)).unwrap();
        assert!(found(&dir).iter().all(|(_, fine)| *fine), "one without a database is a new one");

        fs::write(dir.join(config::FILE), "[edges]\n").unwrap();
        let mut head = b"SQLite format 3\0\x10\0".to_vec();
        head.resize(4096, 0);
        head[31] = 2;
        fs::write(dir.join("control/state.db"), &head).unwrap();
        let names: Vec<_> = found(&dir).into_iter().filter(|(_, fine)| !fine).map(|(name, _)| name).collect();
        assert_eq!(names, ["cofferdam.toml", "state database"]);
        head.resize(8192, 0);
        fs::write(dir.join("control/state.db"), &head).unwrap();
        fs::write(dir.join(config::FILE), "[edge]\n").unwrap();
        assert!(found(&dir).iter().all(|(_, fine)| *fine));
    }
}
