//! The battery: what is tried, and which layers answer it. A table; every row says what it is about.
//!
//! A row lists every layer that answers it, so that its control may leave out all of them: then the attempt must
//! succeed, or the row proves nothing. And each layer of a row must answer it alone.

mod files;
mod identity;
mod kernel;
mod network;
pub(crate) mod offered;
mod processes;
mod resources;
pub(crate) mod wires;

use cofferdam_sandbox::{CellPlan, Danger, Network, Protection, probe::Attempt};
use cofferdam_sys::landlock::Right;
use std::path::PathBuf;

/// One layer of a row: all of these protections together.
pub type Layer = Vec<Protection>;

/// One attack.
#[derive(Clone, Debug)]
pub struct Row {
    /// Its name for machines: `kernel.mount`.
    pub id: &'static str,
    /// What is tried, for people.
    pub title: &'static str,
    /// How.
    pub attempt: Attempt,
    /// Every layer that answers it; none where only the cell's own root does, which every cell has.
    pub layers: Vec<Layer>,
}

/// What rows need to know of the cell and of the world around it.
#[derive(Clone, Debug)]
pub struct Scene {
    /// The cell's plan.
    pub plan: CellPlan,
}

/// Where the probe lies in a cell of a proof.
pub(crate) const PROBE: &str = "/opt/cofferdam-prove/cofferdam";
/// A tree of the world that a cell may read: everybody may write to its files.
pub(crate) const TREE: &str = "/opt/cofferdam-prove/tree";
/// What the witness outside says.
pub(crate) const FLAG: &str = "cofferdam-witness-flag";
/// The abstract socket of the witness outside.
pub(crate) const ABSTRACT: &str = "cofferdam-witness";
/// How the command line of a neighbour begins.
pub(crate) const NEIGHBOUR: &str = "cofferdam-neighbour";
/// The host name outside.
pub(crate) const HOST: &str = "cofferdam-witness";
/// The key of a segment of shared memory outside.
pub(crate) const SEGMENT: u64 = 0x0c0f_fe4d;

/// All rows, in order.
pub fn rows(scene: &Scene) -> Vec<Row> {
    let mut rows = identity::rows(scene);
    rows.extend(files::rows(scene));
    rows.extend(offered::rows());
    rows.extend(processes::rows());
    rows.extend(kernel::rows());
    rows.extend(network::rows(scene));
    rows.extend(resources::rows(scene));
    rows
}

impl Scene {
    /// The gateway's port in the cell.
    pub(crate) fn port(&self) -> u16 {
        match self.plan.network {
            Network::Captured { port, .. } => port,
            Network::None => 1,
        }
    }
}

/// A layer of one protection.
fn one(protection: Protection) -> Layer {
    vec![protection]
}

/// One right of the Landlock domain.
fn right(right: Right) -> Layer {
    vec![Protection::Landlock(right)]
}

/// A group of calls that are refused by name.
fn danger(danger: Danger) -> Layer {
    vec![Protection::Dangerous(danger)]
}

fn path(path: &str) -> PathBuf {
    path.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use cofferdam_base::ipc::launcher::Limits;
    use std::{collections::BTreeSet, path::Path};

    fn scene() -> Scene {
        Scene {
            plan: CellPlan {
                name: "acme".into(),
                generation: 1,
                profile: cofferdam_sandbox::Profile::Strict,
                uid: 1,
                gid: 1,
                hostname: "acme".into(),
                binds: Vec::new(),
                home: "/h".into(),
                argv: vec!["/x".into()],
                env: Vec::new(),
                cwd: "/".into(),
                network: Network::Captured { port: 8080, mark: 1 },
                limits: Limits::default(),
                cgroup: "x".into(),
                quota: cofferdam_sandbox::Quota::Scratch,
                without: Vec::new(),
            },
        }
    }

    #[test]
    fn every_row_has_a_name_of_its_own_a_title_and_a_layer() {
        let rows = rows(&scene());
        assert!(rows.len() >= 80, "{}", rows.len());
        let names: BTreeSet<&str> = rows.iter().map(|row| row.id).collect();
        assert_eq!(names.len(), rows.len());
        for row in &rows {
            let control = !row.layers.is_empty() || offered::outside(row.id, Path::new("/x")).is_some();
            assert!(!row.title.is_empty() && control, "{}", row.id);
            assert!(row.layers.iter().all(|layer| !layer.is_empty()), "{}", row.id);
        }
    }
}
