//! `cofferdam doctor`: what this machine can enforce, and what state a data directory is in. It needs no host,
//! changes nothing and reports, not mends.

use super::{
    Failure,
    commands::{Done, OK},
    print,
};
use cofferdam_base::ipc::receipt::LayerState;
use cofferdam_sandbox::Feature;
use cofferdam_tenants::config::{self, HostConfig, Profile};
use serde_json::json;
use std::{
    fs::{self, File},
    io::Read,
    os::unix::fs::MetadataExt,
    path::Path,
    process::ExitCode,
};

/// Exit 0: everything is there; 1: something is not, or the host would not start.
pub(super) fn run(data_dir: Option<&Path>, json: bool) -> Done {
    let mut rows = cofferdam_sandbox::host_features();
    let profile = if rustix::process::geteuid().is_root() { "strict" } else { "rootless" };
    let starts = |rows: &[Feature]| rows.iter().all(|row| !row.required || row.state == LayerState::Enforced);
    if let Some(dir) = data_dir {
        rows.extend(data_directory(dir));
    }
    let found = rows.iter().filter(|row| row.state != LayerState::Enforced).count();
    let starts = starts(&rows);
    if json {
        print::json(&json!({ "profile": profile, "starts": starts, "findings": found, "features": rows }))?;
    } else {
        show(&rows)?;
        print::line(&format!(
            "\nA host started by this user {} under the profile {profile}; {} of {} rows lack something.",
            if starts { "starts" } else { "does not start" },
            found,
            rows.len()
        ))?;
    }
    Ok(if found == 0 { OK } else { ExitCode::from(1) })
}

fn show(rows: &[Feature]) -> Result<(), Failure> {
    let cells = rows.iter().map(|row| {
        let state = match (row.state, row.required) {
            (LayerState::Enforced, _) => "ok",
            (_, true) => "ABSENT",
            (LayerState::Partial, false) => "partial",
            (LayerState::Absent, false) => "absent",
        };
        vec![row.name.clone(), state.to_owned(), row.buys.clone()]
    });
    print::table(&["FEATURE", "STATE", "WHAT IT BUYS"], cells.collect(), "nothing to report")?;
    for row in rows.iter().filter(|row| !row.mend.is_empty()) {
        print::line(&format!("{}: {}", row.name, row.mend))?;
    }
    Ok(())
}

/// What a host would find there.
fn data_directory(dir: &Path) -> Vec<Feature> {
    let shown = dir.display();
    let mut rows = vec![row("data directory", "where a host keeps everything", directory(dir))];
    if rows[0].state != LayerState::Enforced {
        return rows;
    }
    let root = rustix::process::geteuid().is_root();
    let config = HostConfig::load(&dir.join(config::FILE));
    let configured = match &config {
        Err(error) => Err(error.to_string()),
        Ok(config) => match config.profile {
            Some(Profile::Strict) if !root => {
                Err("it says profile strict: start the host as root".to_owned())
            }
            Some(Profile::Rootless) if root => {
                Err("it says profile rootless: start the host as another user".to_owned())
            }
            _ => Ok(()),
        },
    };
    rows.push(row("cofferdam.toml", "what the operator says", configured));
    if let Ok(config) = config {
        let me = rustix::process::geteuid().as_raw();
        let owner = if root { config.uids.base.control() } else { me };
        let control = owned(&dir.join("control"), owner);
        rows.push(row("control's directory", "state, ledger and keys, which control alone reads", control));
    }
    let state = database(&dir.join("control/state.db"))
        .map_err(|why| format!("{why}; backups are in {shown}/control/backups"));
    rows.push(row("state database", "tenants, policies, approvals, tokens", state));
    rows
}

fn row(name: &str, buys: &str, found: Result<(), String>) -> Feature {
    let (state, mend) = match found {
        Ok(()) => (LayerState::Enforced, String::new()),
        Err(mend) => (LayerState::Absent, mend),
    };
    Feature { name: name.to_owned(), state, required: true, buys: buys.to_owned(), mend }
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
        rows.map(|row| (row.name, row.state == LayerState::Enforced)).collect()
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
