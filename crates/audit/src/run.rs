//! The run of a proof: the sealed sibling, a control for every row, and, where it is asked for, every protection
//! left out alone.
//!
//! Rows whose controls leave out the same protections share a cell, so that a whole battery takes seconds.

use crate::{
    Error,
    battery::{self, PROBE, Row, Scene, TREE, offered},
    host,
    peers::{self, Compared},
    place::{Peer, Place},
    rules::Rules,
    verdict::{Control, Judged, Mutants, Verdict, verdict},
    world::{self, Places, World},
};
use cofferdam_base::ipc::{
    launcher::{Limits, OFFERED},
    receipt::{LayerRow, LayerState},
};
use cofferdam_sandbox::{
    Access, Bind, CellPlan, Profile, Protection, Quota,
    probe::{Attempt, Line, Outcome},
};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Read, Write},
    path::Path,
};

/// What is asked for besides the battery.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Try a whole host, too: the program is one that serves.
    pub host: Option<WholeHost>,
    /// Leave out each protection alone, too.
    pub mutants: bool,
}

/// What a whole host needs.
#[derive(Clone, Debug)]
pub struct WholeHost {
    /// How a host names its groups, by its data directory.
    pub named: fn(&Path) -> String,
    /// The tenant's policy, in force beside the battery's.
    pub rules: Rules,
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// The receipt of the sealed sibling.
    pub receipt: Vec<LayerRow>,
    /// Every row.
    pub rows: Vec<Judged>,
    /// If it was asked for.
    pub mutants: Option<Mutants>,
}

/// Tries the battery on a sibling of a planned cell. `program` is this program, which the sibling runs; nothing of
/// the tenant's own is touched: home, name and groups are the proof's. The caller has one thread.
pub fn prove(plan: &CellPlan, program: &Path, options: Options) -> Result<Report, Error> {
    let scratch = tempfile::tempdir().map_err(Error::world("a directory"))?;
    std::fs::set_permissions(scratch.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .map_err(Error::world("a directory"))?;
    let instance = instance();
    let plan = sibling(plan, program, scratch.path(), &instance);
    let (mut waits, opener) = io::pipe().map_err(Error::world("a pipe"))?;
    // A world of its own: in the other one every address is one of the host's. It is quiet before it is flooded.
    let quiet = || waits.read_exact(&mut [0]).map_err(Error::world("a pipe"));
    let host = options.host.as_ref().map(|WholeHost { named: _, rules }| {
        world::begin(&plan, scratch.path(), || host::tried(&plan, program, scratch.path(), rules, quiet))
    });
    let report = world::begin(&plan, scratch.path(), || {
        Run::new(&plan, world::furnish(&plan, scratch.path())?).whole(options.mutants)
    })
    .and_then(World::end);
    let told = (&opener).write_all(&[1]).map_err(Error::world("a pipe"));
    let wires = match host {
        Some(host) => host.and_then(World::end),
        None => Ok(Vec::new()),
    };
    // Everything died with its world, but the groups of a host, and of a proof that broke off, are left.
    let hosts = options.host.map(|whole| (whole.named)(&host::data_dir(scratch.path())));
    for instance in hosts.into_iter().chain([instance]) {
        cofferdam_sandbox::sweep(&instance).map_err(|error| Error::Cell(error.to_string()))?;
    }
    let mut report = report?;
    told?;
    report.rows.extend(wires?);
    Ok(report)
}

/// Tries the battery on a cell of this plan and, in the same world, in sandboxes of others. They find the home and the
/// tree of the proof in `scratch`, an empty directory, as `home` and `tree`. The caller has one thread.
pub fn compare(
    plan: &CellPlan,
    program: &Path,
    scratch: &Path,
    peers: &[Peer],
) -> Result<Vec<Compared>, Error> {
    let instance = instance();
    let plan = sibling(plan, program, scratch, &instance);
    let compared =
        world::begin(&plan, scratch, || Run::new(&plan, world::furnish(&plan, scratch)?).compared(peers))
            .and_then(World::end);
    cofferdam_sandbox::sweep(&instance).map_err(|error| Error::Cell(error.to_string()))?;
    compared
}

fn instance() -> String {
    format!("prove-{}", std::process::id())
}

/// The tenant's plan with a home, a name and groups of the proof's own, and the probe in reach.
fn sibling(plan: &CellPlan, program: &Path, scratch: &Path, instance: &str) -> CellPlan {
    let bind = |source: &Path, target: &str, label: &str| Bind {
        source: source.to_owned(),
        target: target.into(),
        access: Access::ReadOnly,
        label: label.to_owned(),
    };
    let mut binds = plan.binds.clone();
    binds.push(bind(program, PROBE, "the probe"));
    binds.push(bind(&scratch.join("tree"), TREE, "a tree of the proof"));
    binds.push(Bind {
        access: Access::Offered { apart_from: scratch.join("home") },
        ..bind(&scratch.join("offered"), &format!("{OFFERED}/{}", offered::NAME), "a directory of the proof")
    });
    // A smaller quota, so that a control which fills it needs no gigabytes.
    let (quota, limits) = match &plan.quota {
        Quota::Image(_) => {
            let limits = Limits { disk_bytes: 64 << 20, inodes: 4096, ..plan.limits };
            (Quota::Image(scratch.join("home.img")), limits)
        }
        other => (other.clone(), plan.limits),
    };
    CellPlan {
        quota,
        limits,
        name: "prove".to_owned(),
        hostname: "prove".to_owned(),
        generation: 1,
        binds,
        home: scratch.join("home"),
        cgroup: cofferdam_sandbox::group(instance, "cell"),
        ..plan.clone()
    }
}

/// What answers a row that no layer answers which can be left out.
const OWN_ROOT: &str = "mount namespace";

type Tried = BTreeMap<String, Line>;

struct Run<'a> {
    plan: &'a CellPlan,
    places: Places,
    rows: Vec<Row>,
}

impl<'a> Run<'a> {
    fn new(plan: &'a CellPlan, places: Places) -> Self {
        Self { plan, places, rows: battery::rows(&Scene { plan: plan.clone() }) }
    }

    fn whole(mut self, mutants: bool) -> Result<Report, Error> {
        let rows = self.rows.clone();
        let tried: Vec<&Row> = rows.iter().filter(|row| self.skipped(row).is_none()).collect();
        let (receipt, sealed) = self.cell(&[], &tried)?;
        let controls = self.controls(&tried)?;
        let judged = rows.iter().map(|row| judge(row, self.skipped(row), &sealed, &controls)).collect();
        let mutants = if mutants { Some(self.mutants(&tried)?) } else { None };
        Ok(Report { receipt, rows: judged, mutants })
    }

    fn compared(mut self, peers: &[Peer]) -> Result<Vec<Compared>, Error> {
        let rows = self.rows.clone();
        let tried: Vec<&Row> = rows.iter().filter(|row| self.skipped(row).is_none()).collect();
        let sealed = self.cell(&[], &tried)?.1;
        let controls = self.controls(&tried)?;
        let theirs: Vec<&Row> = tried.iter().filter(|row| peers::ours(row.id).is_none()).copied().collect();
        let answers = peers.iter().map(|peer| Ok(self.tried(peer, &theirs)?.1));
        let answers: Vec<Tried> = answers.collect::<Result<_, Error>>()?;
        let compare = |row: &Row| {
            let skipped = || self.skipped(row).or_else(|| peers::ours(row.id).map(str::to_owned));
            let judged = |lines| Judged { layers: Vec::new(), ..judge(row, skipped(), lines, &controls) };
            Compared {
                cell: judge(row, self.skipped(row), &sealed, &controls),
                peers: answers.iter().map(judged).collect(),
            }
        };
        Ok(rows.iter().map(compare).collect())
    }

    /// Each row in a cell that leaves out all that answers it.
    fn controls(&mut self, tried: &[&Row]) -> Result<Tried, Error> {
        let outside = |row: &&Row| {
            let outcome = offered::outside(row.id, &self.places.offered)?.make();
            Some((row.id.to_owned(), Line { id: row.id.to_owned(), outcome, micros: 0 }))
        };
        let mut controls: Tried = tried.iter().filter_map(outside).collect();
        // Twice, if need be: a busy machine may keep a witness from answering in time.
        for _ in 0..2 {
            let failed = |row: &&&Row| {
                !row.layers.is_empty() && !controls.get(row.id).is_some_and(|line| line.outcome.succeeded)
            };
            let failed: Vec<&Row> = tried.iter().filter(failed).copied().collect();
            for (without, rows) in grouped(&failed, Row::all_layers) {
                controls.extend(self.cell(&without, &rows)?.1);
            }
        }
        Ok(controls)
    }

    /// Why a row is not tried.
    fn skipped(&self, row: &Row) -> Option<String> {
        if ["files.tree-device", "files.offered-device"].contains(&row.id) && !self.places.device {
            return Some("without root no device file can be planted".to_owned());
        }
        let groups = [Protection::Memory, Protection::Pids, Protection::Cpu, Protection::HomeQuota];
        let of_groups = row.layers.iter().flatten().any(|protection| groups.contains(protection));
        if of_groups && self.plan.profile == Profile::Rootless {
            return Some("the profile rootless promises no such limit".to_owned());
        }
        if row.id.starts_with("resources.") && matches!(self.plan.quota, Quota::None { .. } | Quota::Scratch)
        {
            let of_home = row.layers == [vec![Protection::HomeQuota]];
            if of_home {
                return Some("this tenant's home has no quota; the receipt says why".to_owned());
            }
        }
        if row.id == "processes.cgroup-name" && self.plan.profile == Profile::Rootless {
            return Some("without a cgroup of its own a cell has no name of one to learn".to_owned());
        }
        None
    }

    /// Leaves out each protection alone, and keeps each layer of a row alone.
    fn mutants(&mut self, tried: &[&Row]) -> Result<Mutants, Error> {
        let mut mutants = Mutants::default();
        let mut suffices: BTreeSet<Protection> = BTreeSet::new();
        let pairs: Vec<(&Row, usize)> =
            tried.iter().flat_map(|row| (0..row.layers.len()).map(move |kept| (*row, kept))).collect();
        let mut sets: BTreeMap<Vec<Protection>, Vec<(&Row, usize)>> = BTreeMap::new();
        for (row, kept) in pairs {
            sets.entry(row.all_but(kept)).or_default().push((row, kept));
        }
        for (without, pairs) in sets {
            let rows: Vec<&Row> = pairs.iter().map(|(row, _)| *row).collect();
            let lines = self.cell(&without, &rows)?.1;
            for (row, kept) in pairs {
                match lines.get(row.id) {
                    Some(line) if !line.outcome.succeeded => suffices.extend(&row.layers[kept]),
                    _ => mutants.idle.push(format!("{}: {}", row.id, named(&row.layers[kept]))),
                }
            }
        }
        for protection in Protection::all() {
            let (receipt, _) = self.cell(&[protection], &[])?;
            let noticed = receipt
                .iter()
                .any(|row| row.layer == protection.layer() && row.state != LayerState::Enforced);
            let killed = noticed || suffices.contains(&protection);
            if killed { &mut mutants.killed } else { &mut mutants.survivors }.push(protection.to_string());
        }
        Ok(mutants)
    }

    /// A cell without these protections, in which these rows are tried: its receipt, and what the probe said.
    fn cell(&mut self, without: &[Protection], rows: &[&Row]) -> Result<(Vec<LayerRow>, Tried), Error> {
        let all: BTreeSet<Protection> = self.plan.without.iter().chain(without).copied().collect();
        self.tried(&CellPlan { without: all.into_iter().collect(), ..self.plan.clone() }, rows)
    }

    /// What the probe said of these rows in some place.
    fn tried(&mut self, place: &impl Place, rows: &[&Row]) -> Result<(Vec<LayerRow>, Tried), Error> {
        self.places.plant().map_err(Error::world("files"))?;
        let attempts: Vec<(&str, &Attempt)> = rows.iter().map(|row| (row.id, &row.attempt)).collect();
        let attempts = serde_json::to_string(&attempts).map_err(|error| Error::Cell(error.to_string()))?;
        let (receipt, text) = place.run(attempts)?;
        let lines = text.lines().filter_map(|line| serde_json::from_str::<Line>(line).ok());
        Ok((receipt, lines.map(|line| (line.id.clone(), line)).collect()))
    }
}

impl Row {
    /// Everything that its control leaves out.
    fn all_layers(&self) -> Vec<Protection> {
        self.but(None)
    }

    /// Everything but one layer.
    fn all_but(&self, kept: usize) -> Vec<Protection> {
        self.but(Some(kept))
    }

    fn but(&self, kept: Option<usize>) -> Vec<Protection> {
        let layers = self.layers.iter().enumerate().filter(|(at, _)| Some(*at) != kept);
        let all: BTreeSet<Protection> = layers.flat_map(|(_, layer)| layer).copied().collect();
        all.into_iter().collect()
    }
}

/// The verdict on one row, which may have been skipped for a reason.
fn judge(row: &Row, skipped: Option<String>, sealed: &Tried, controls: &Tried) -> Judged {
    let names = |protections: &[Protection]| protections.iter().map(ToString::to_string).collect();
    let mut judged = Judged {
        id: row.id.to_owned(),
        title: row.title.to_owned(),
        verdict: Verdict::Skipped,
        layers: if row.layers.is_empty() {
            vec![OWN_ROOT.to_owned()]
        } else {
            row.layers.iter().map(|layer| named(layer)).collect()
        },
        checks: Vec::new(),
        sealed: None,
        micros: 0,
        control: None,
        reason: skipped.unwrap_or_default(),
    };
    if !judged.reason.is_empty() {
        return judged;
    }
    let (Some(line), Some(control)) = (sealed.get(row.id), controls.get(row.id)) else {
        judged.verdict = Verdict::Inconclusive;
        judged.reason = String::from("the probe did not say what became of it");
        return judged;
    };
    judged.verdict = verdict(&line.outcome, &control.outcome);
    if judged.verdict == Verdict::Inconclusive && lacking(row, &control.outcome) {
        judged.verdict = Verdict::Skipped;
        judged.reason = String::from("this kernel has no such thing");
    }
    judged.micros = line.micros;
    judged.sealed = Some(line.outcome.clone());
    let without = if row.layers.is_empty() { vec!["any cell".to_owned()] } else { names(&row.all_layers()) };
    judged.control = Some(Control { without, outcome: control.outcome.clone() });
    judged
}

/// Rows by what their cell leaves out.
fn grouped<'r>(
    rows: &[&'r Row],
    without: impl Fn(&Row) -> Vec<Protection>,
) -> BTreeMap<Vec<Protection>, Vec<&'r Row>> {
    let mut sets: BTreeMap<Vec<Protection>, Vec<&Row>> = BTreeMap::new();
    for row in rows {
        sets.entry(without(row)).or_default().push(row);
    }
    sets
}

/// What is not built into this kernel fails as our filter has it fail, or is not there.
fn lacking(row: &Row, control: &Outcome) -> bool {
    const ENOENT: i32 = 2;
    const ENOSYS: i32 = 38;
    const EPROTONOSUPPORT: i32 = 93;
    const EAFNOSUPPORT: i32 = 97;
    let answered_by = |protection| row.layers.contains(&vec![protection]);
    match control.errno {
        ENOENT => answered_by(Protection::MaskedProc),
        ENOSYS => answered_by(Protection::AllowList),
        EPROTONOSUPPORT | EAFNOSUPPORT => answered_by(Protection::Families),
        _ => false,
    }
}

fn named(layer: &[Protection]) -> String {
    let mut names: Vec<String> = layer.iter().map(ToString::to_string).collect();
    if layer.len() > 3 {
        names = layer.iter().map(|one| one.layer().to_owned()).collect();
        names.dedup();
    }
    names.join(" and ")
}
