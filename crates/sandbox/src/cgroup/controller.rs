//! What a controller of either version is asked to do: hold a limit in a group, and tell what the group uses.
//!
//! It owns the words, not the files: those are in `v1` and `v2`, but for processes, whose files are the same. The threat: a limit that one version takes under
//! another meaning, so each says in its own words what it holds.

use super::{v1, v2};
use cofferdam_base::ipc::{
    launcher::{Limits, Usage},
    receipt::LayerState,
};
use std::{fmt::Debug, fs, io, path::Path};

/// A kind of limit, as both versions know it; io is `blkio` in version 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Memory,
    Pids,
    Cpu,
    Io,
}

/// What a group is to hold.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    pub(super) limits: Limits,
    /// The disk whose traffic is limited: its major and minor number.
    pub(super) disk: Option<Disk>,
    /// Our own processes' share of a busy processor, where a cell's is 100; a cell has that from the kernel.
    pub(super) weight: Option<u32>,
    /// Are memory and io of one hierarchy, so that what is written back later is known to be the cell's?
    pub(super) attributed: bool,
}

/// A whole disk, by its numbers.
pub(super) type Disk = (u32, u32);

/// How far a limit holds, and what it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) state: LayerState,
    pub(super) detail: String,
}

/// One controller of one version.
pub(super) trait Controller: Debug + Send + Sync {
    /// Sets the limit in a group, also one that is in use. What cannot be is an error, and then the old one holds.
    fn set(&self, group: &Path, wanted: &Wanted) -> io::Result<Held>;

    /// Adds what the group uses now, if it counts that.
    fn usage(&self, _group: &Path, _usage: &mut Usage) -> io::Result<()> {
        Ok(())
    }
}

/// The one whose files are the same in both versions; it names its own.
#[derive(Debug)]
pub(super) struct Pids(&'static str);

impl Controller for Pids {
    fn set(&self, group: &Path, wanted: &Wanted) -> io::Result<Held> {
        let (pids, version) = (wanted.limits.pids, self.0);
        write(group, "pids.max", &pids.to_string())?;
        Ok(Held::enforced(format!("{pids}, {version}")))
    }

    fn usage(&self, group: &Path, usage: &mut Usage) -> io::Result<()> {
        usage.pids = number(group, "pids.current")?;
        Ok(())
    }
}

impl Kind {
    /// All of them, in the order in which they are set: what may be refused comes first.
    pub(super) const ALL: [Self; 4] = [Self::Memory, Self::Pids, Self::Cpu, Self::Io];

    /// As version 2 and a version 1 hierarchy name it.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Pids => "pids",
            Self::Cpu => "cpu",
            Self::Io => "io",
        }
    }

    /// Does strict not start without it?
    pub(super) const fn is_required(self) -> bool {
        !matches!(self, Self::Io)
    }

    pub(super) fn of(self, unified: bool) -> &'static dyn Controller {
        match (self, unified) {
            (Self::Memory, true) => &v2::Memory,
            (Self::Memory, false) => &v1::Memory,
            (Self::Pids, true) => &Pids("v2"),
            (Self::Pids, false) => &Pids("v1"),
            (Self::Cpu, true) => &v2::Cpu,
            (Self::Cpu, false) => &v1::Cpu,
            (Self::Io, true) => &v2::Io,
            (Self::Io, false) => &v1::Io,
        }
    }
}

impl Held {
    pub(super) fn enforced(detail: String) -> Self {
        Self { state: LayerState::Enforced, detail }
    }

    pub(super) fn partial(detail: String) -> Self {
        Self { state: LayerState::Partial, detail }
    }

    pub(super) fn absent(detail: String) -> Self {
        Self { state: LayerState::Absent, detail }
    }
}

/// Writes a value; the error names the file.
pub(super) fn write(group: &Path, file: &str, value: &str) -> io::Result<()> {
    fs::write(group.join(file), value).map_err(|error| named(group, file, error))
}

/// Reads one number; none where the kernel says `max`.
pub(super) fn number(group: &Path, file: &str) -> io::Result<Option<u64>> {
    let text = fs::read_to_string(group.join(file)).map_err(|error| named(group, file, error))?;
    match text.trim() {
        "max" => Ok(None),
        text => text.parse().map(Some).map_err(|error| named(group, file, io::Error::other(error))),
    }
}

/// Reads one field of a file of names and numbers; 0 if it is not there.
pub(super) fn field(group: &Path, file: &str, name: &str) -> io::Result<u64> {
    let text = fs::read_to_string(group.join(file)).map_err(|error| named(group, file, error))?;
    let value = |line: &str| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok();
    Ok(text.lines().find_map(value).unwrap_or(0))
}

/// Of a limit below what is used and cannot be given back.
pub(super) fn in_use(group: &Path, used: u64, wanted: u64) -> io::Error {
    let what = format!("{}: {used} bytes are in use, which {wanted} would not hold", group.display());
    io::Error::new(io::ErrorKind::ResourceBusy, what)
}

fn named(group: &Path, file: &str, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}/{file}: {error}", group.display()))
}

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// A directory of plain files in the place of a group.
    pub(in super::super) fn group(files: &[(&str, &str)]) -> tempfile::TempDir {
        let group = tempfile::tempdir().unwrap();
        for (file, text) in files {
            fs::write(group.path().join(file), text).unwrap();
        }
        group
    }

    pub(in super::super) fn wanted() -> Wanted {
        Wanted { limits: Limits::default(), disk: Some((8, 16)), weight: None, attributed: true }
    }

    #[test]
    fn processes_are_held_and_counted_alike_in_both_versions() {
        for unified in [false, true] {
            let group = group(&[("pids.current", "7\n")]);
            let held = Kind::Pids.of(unified).set(group.path(), &wanted()).unwrap();
            assert_eq!(held, Held::enforced(format!("512, {}", if unified { "v2" } else { "v1" })));
            assert_eq!(fs::read_to_string(group.path().join("pids.max")).unwrap(), "512");
            let mut usage = Usage::default();
            Kind::Pids.of(unified).usage(group.path(), &mut usage).unwrap();
            assert_eq!(usage.pids, Some(7));
        }
    }

    #[test]
    fn a_service_weighs_more_than_a_cell_in_both_versions() {
        for (unified, file, weight) in [(true, "cpu.weight", "1000"), (false, "cpu.shares", "10240")] {
            let group = group(&[]);
            Kind::Cpu.of(unified).set(group.path(), &wanted()).unwrap();
            assert!(!group.path().join(file).exists(), "a cell keeps what the kernel gives");
            let service = Wanted { weight: Some(1000), ..wanted() };
            Kind::Cpu.of(unified).set(group.path(), &service).unwrap();
            assert_eq!(fs::read_to_string(group.path().join(file)).unwrap(), weight);
        }
    }

    #[test]
    fn a_file_that_is_not_a_number_is_an_error_with_its_name() {
        let group = group(&[("pids.max", "many")]);
        let error = number(group.path(), "pids.max").unwrap_err().to_string();
        assert!(error.contains("pids.max"), "{error}");
        assert!(number(group.path(), "none").unwrap_err().to_string().contains("none"));
    }
}
