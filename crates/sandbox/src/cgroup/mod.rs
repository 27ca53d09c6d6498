//! A cell's cgroups: limits on memory, processes, CPU and the disk's traffic, and the switches that stop and kill
//! all at once.
//!
//! Each controller is taken from version 2 where it is there, else from its version 1 hierarchy; freezing and
//! killing are version 2's. Groups lie directly below the launcher's own, `<own>/cofferdam.<instance>.<cell>`: each
//! level between would be counted and scheduled at every wake of a cell. The threat: a limit that is asked for and
//! silently not set; what cannot be set is an error or, rootless and for io, a row.

mod controller;
mod hierarchy;
mod v1;
mod v2;

pub(crate) use self::hierarchy::available;
pub use self::hierarchy::{settle, sweep};
use self::{
    controller::{Disk, Kind, Wanted},
    hierarchy::Hierarchy,
};
use crate::{Error, LayerFailure, Profile, Protection};
use cofferdam_base::ipc::{
    launcher::{Limits, Usage},
    receipt::{LayerRow, LayerState},
};
use std::{
    fs, io,
    os::{fd::OwnedFd, unix::fs::MetadataExt},
    path::{Path, PathBuf},
    time::Duration,
};

/// How much of a busy processor control, edge and wardens have, where a cell has 100: a cell that spins must not make
/// the others' requests wait for their broker.
const SERVICE_WEIGHT: u32 = 1000;

/// The groups of one cell or service.
#[derive(Debug)]
pub(crate) struct Groups {
    /// Version 1 groups: a process moves itself by their `tasks`.
    joined: Vec<PathBuf>,
    /// The version 2 group: born into.
    pub(crate) unified: Option<PathBuf>,
    /// What holds, in the words of the receipt.
    pub(crate) rows: Vec<LayerRow>,
    /// In which group each kind of limit is set, and whether that is of version 2.
    set: Vec<(Kind, PathBuf, bool)>,
    wanted: Wanted,
    name: String,
    hierarchies: Vec<Hierarchy>,
    /// Of a cell; a service has none, and no limit of io.
    home: Option<PathBuf>,
}

impl Groups {
    /// Makes the version 2 group, in which a process can be born before there are limits. The disk to limit is that
    /// of `home`.
    pub(crate) fn create(
        name: &str,
        limits: &Limits,
        home: Option<&Path>,
        profile: Profile,
    ) -> Result<Self, Error> {
        let mut groups = Self {
            joined: Vec::new(),
            unified: None,
            rows: Vec::new(),
            set: Vec::new(),
            wanted: Wanted {
                limits: *limits,
                disk: None,
                weight: home.is_none().then_some(SERVICE_WEIGHT),
                attributed: false,
            },
            name: name.to_owned(),
            hierarchies: hierarchy::hierarchies().map_err(Error::io("/proc/self/cgroup"))?,
            home: home.map(Path::to_owned),
        };
        let unified = groups.hierarchies.iter().find(|hierarchy| hierarchy.unified);
        let made = unified.map(|unified| hierarchy::make(&unified.own, name, &unified.controllers));
        match made.unwrap_or_else(|| Err(io::Error::other("cgroup2 is not mounted"))) {
            Ok(path) => groups.unified = Some(path),
            Err(error) => groups.absent("cgroup kill", &error, profile)?,
        }
        Ok(groups)
    }

    /// Makes the other groups and sets the limits, but for those that are left out. After an error what was made
    /// is still there.
    pub(crate) fn limit(&mut self, profile: Profile, without: &[Protection]) -> Result<(), Error> {
        self.wanted.disk = self.home.as_deref().and_then(disk);
        for kind in Kind::ALL {
            let left_out = protection(kind).is_some_and(|protection| without.contains(&protection));
            if left_out || !(self.home.is_some() || kind.is_required()) {
                continue;
            }
            let limited = self.group_for(kind).and_then(|()| self.hold(kind));
            match limited {
                Ok(row) => self.rows.push(row),
                Err(error) if kind.is_required() => self.absent(&layer(kind), &error, profile)?,
                Err(error) => self.rows.push(LayerRow {
                    layer: layer(kind),
                    state: LayerState::Absent,
                    detail: error.to_string(),
                }),
            }
        }
        Ok(())
    }

    /// Makes, or has already, the group in which a kind of limit is set.
    fn group_for(&mut self, kind: Kind) -> io::Result<()> {
        let hierarchy = hierarchy::holder(&self.hierarchies, kind)?;
        let path = if hierarchy.unified {
            self.unified.clone().ok_or_else(|| io::Error::other("the group could not be made"))?
        } else {
            let path = hierarchy::make(&hierarchy.own, &self.name, &[])?;
            if !self.joined.contains(&path) {
                self.joined.push(path.clone());
            }
            path
        };
        if kind == Kind::Memory {
            self.wanted.attributed = hierarchy.unified;
        }
        self.set.push((kind, path, hierarchy.unified));
        Ok(())
    }

    /// Sets one limit in its group.
    fn hold(&self, kind: Kind) -> io::Result<LayerRow> {
        let place = self.set.iter().find(|(held, ..)| *held == kind);
        let (_, path, unified) = place.ok_or_else(|| io::Error::other("there is no group for it"))?;
        let held = kind.of(*unified).set(path, &self.wanted)?;
        Ok(LayerRow { layer: layer(kind), state: held.state, detail: held.detail })
    }

    fn absent(&mut self, layer: &str, error: &io::Error, profile: Profile) -> Result<(), Error> {
        if profile == Profile::Strict {
            return Err(Error::Layer(LayerFailure {
                layer: layer.to_owned(),
                message: error.to_string(),
                mend: "delegate the memory, pids and cpu controllers to this process's cgroup".into(),
            }));
        }
        self.rows.push(LayerRow {
            layer: layer.to_owned(),
            state: LayerState::Absent,
            detail: format!("not delegated: {error}"),
        });
        Ok(())
    }

    /// Sets other limits in groups that are in use: all of them, or on an error none. Those that held before.
    pub(crate) fn change(&mut self, limits: &Limits) -> Result<Limits, Error> {
        let before = std::mem::replace(&mut self.wanted.limits, *limits);
        let mut rows = Vec::new();
        for (kind, ..) in &self.set {
            match self.hold(*kind) {
                Ok(row) => rows.push(row),
                Err(_) if !kind.is_required() => {}
                Err(error) => {
                    let refused = refused(*kind, &error);
                    self.wanted.limits = before;
                    // They held a moment ago. One that does not is no looser than what was just refused.
                    self.set.iter().for_each(|(kind, ..)| drop(self.hold(*kind)));
                    return Err(refused);
                }
            }
        }
        for row in rows {
            if let Some(old) = self.rows.iter_mut().find(|old| old.layer == row.layer) {
                *old = row;
            }
        }
        Ok(before)
    }

    /// What is used now, of what the groups count.
    pub(crate) fn usage(&self) -> Usage {
        let mut usage = Usage::default();
        for (kind, path, unified) in &self.set {
            // A group that cannot be read has ended; its numbers are none.
            let _ = kind.of(*unified).usage(path, &mut usage);
        }
        if let Some(unified) = &self.unified {
            let _ = Kind::Cpu.of(true).usage(unified, &mut usage);
        }
        usage
    }

    /// Where a process of one thread writes `0` to move itself into the version 1 groups.
    pub(crate) fn tasks(&self) -> Result<Vec<OwnedFd>, Error> {
        let open = |group: &PathBuf| {
            let tasks = group.join("tasks");
            let file = fs::OpenOptions::new().write(true).open(&tasks);
            file.map(OwnedFd::from).map_err(Error::io(tasks.display().to_string()))
        };
        self.joined.iter().map(open).collect()
    }

    /// The version 2 group as a directory, if there is one: to be born in.
    pub(crate) fn cradle(&self) -> Result<Option<OwnedFd>, Error> {
        let open = |path: &PathBuf| {
            let directory = fs::File::open(path).map_err(Error::io(path.display().to_string()))?;
            Ok(OwnedFd::from(directory))
        };
        self.unified.as_ref().map(open).transpose()
    }

    /// The same, and of the version 2 group. What [`enter`] takes.
    pub(crate) fn entrances(&self) -> Result<Vec<OwnedFd>, Error> {
        let mut entrances = self.tasks()?;
        for procs in self.unified.iter().map(|group| group.join("cgroup.procs")) {
            let file = fs::OpenOptions::new().write(true).open(&procs);
            entrances.push(file.map_err(Error::io(procs.display().to_string()))?.into());
        }
        Ok(entrances)
    }

    /// Stops every process of the groups where it is, or lets them go on. A stopped one can still be killed.
    pub(crate) fn freeze(&self, frozen: bool) -> Result<(), Error> {
        self.begin_freeze(frozen)?;
        self.settle(frozen)
    }

    /// Tells them to stop or to go on, and does not wait until they have.
    pub(crate) fn begin_freeze(&self, frozen: bool) -> Result<(), Error> {
        controller::write(self.freezable()?, "cgroup.freeze", if frozen { "1" } else { "0" })
            .map_err(no_freeze)
    }

    /// Waits until they have stopped, or go on.
    pub(crate) fn settle(&self, frozen: bool) -> Result<(), Error> {
        let unified = self.freezable()?;
        let mut pause = Duration::from_micros(50);
        while controller::field(unified, "cgroup.events", "frozen").map_err(no_freeze)? != u64::from(frozen) {
            if pause > Duration::from_millis(250) {
                return Err(no_freeze(io::Error::other("the processes did not come to a stop in time")));
            }
            std::thread::sleep(pause);
            pause = pause * 3 / 2;
        }
        Ok(())
    }

    fn freezable(&self) -> Result<&Path, Error> {
        let unified = self.unified.as_deref();
        unified.ok_or_else(|| no_freeze(io::Error::other("there is no version 2 group")))
    }

    /// Kills everything in the groups.
    pub(crate) fn kill(&self) {
        if let Some(unified) = &self.unified {
            // A group that is gone has nobody to kill; init's own death kills its pid namespace besides.
            let _ = fs::write(unified.join("cgroup.kill"), "1");
        }
    }

    /// Removes the groups once they are empty; waits for the kernel to notice that they are.
    pub(crate) fn remove(&self) -> Result<(), Error> {
        for group in self.joined.iter().chain(&self.unified) {
            hierarchy::remove(group).map_err(Error::io(group.display().to_string()))?;
        }
        Ok(())
    }
}

fn no_freeze(error: io::Error) -> Error {
    Error::Layer(LayerFailure {
        layer: "cgroup freeze".into(),
        message: error.to_string(),
        mend: "mount cgroup2 at /sys/fs/cgroup".into(),
    })
}

/// The name of a group of an instance, which has no dot in its own name.
pub fn group(instance: &str, name: &str) -> String {
    format!("cofferdam.{instance}.{name}")
}

/// Moves the caller, a process of one thread, into groups. The kernel asks whether whoever opened them may.
pub(crate) fn enter(entrances: &[OwnedFd]) -> io::Result<()> {
    entrances.iter().try_for_each(|entrance| rustix::io::write(entrance, b"0").map(drop)).map_err(Into::into)
}

/// What may be left out; io never stops a start.
const fn protection(kind: Kind) -> Option<Protection> {
    match kind {
        Kind::Memory => Some(Protection::Memory),
        Kind::Pids => Some(Protection::Pids),
        Kind::Cpu => Some(Protection::Cpu),
        Kind::Io => None,
    }
}

fn layer(kind: Kind) -> String {
    format!("cgroup {}", kind.name())
}

/// Why other limits do not hold in a cell that runs.
fn refused(kind: Kind, error: &io::Error) -> Error {
    let mend = match (kind, error.kind()) {
        (Kind::Memory, io::ErrorKind::ResourceBusy) => {
            "ask for more than is in use, or stop the tenant first"
        }
        _ => "stop the tenant, set its limits and start it again",
    };
    Error::Limits { what: layer(kind), message: error.to_string(), mend: mend.to_owned() }
}

/// The whole disk on which a path lies; none for what lies on no disk, or on several.
fn disk(path: &Path) -> Option<Disk> {
    let device = fs::metadata(path).ok()?.dev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let own = Path::new("/sys/dev/block").join(format!("{major}:{minor}"));
    if !own.join("partition").exists() {
        return own.exists().then_some((major, minor));
    }
    // A part of a disk is a directory below it.
    let whole = fs::canonicalize(&own).ok()?;
    let numbers = fs::read_to_string(whole.parent()?.join("dev")).ok()?;
    let (major, minor) = numbers.trim().split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}
