//! What a cell can use up: one more than its limit.

use super::{Row, Scene, one};
use cofferdam_sandbox::{
    Protection,
    probe::Attempt::{Files, Fill, Inodes, Limit, Memory, Processes},
};

/// `RLIMIT_CORE`.
const CORE: u32 = 4;

pub(super) fn rows(scene: &Scene) -> Vec<Row> {
    let limits = scene.plan.limits;
    vec![
        Row {
            id: "resources.processes",
            title: "have more processes than the limit",
            attempt: Processes { count: limits.pids + 1 },
            layers: vec![one(Protection::Pids)],
        },
        Row {
            id: "resources.memory",
            title: "use more memory than the limit",
            attempt: Memory { bytes: limits.memory_bytes + (1 << 20) },
            layers: vec![one(Protection::Memory)],
        },
        Row {
            id: "resources.disk",
            title: "fill /sandbox past its size",
            attempt: Fill { path: "/sandbox/fill".into(), bytes: limits.disk_bytes + (1 << 20) },
            layers: vec![one(Protection::HomeQuota)],
        },
        Row {
            id: "resources.inodes",
            title: "have more files in /sandbox than the limit",
            attempt: Inodes { path: "/sandbox/files".into(), count: limits.inodes + 1 },
            layers: vec![one(Protection::HomeQuota)],
        },
        Row {
            id: "resources.files",
            title: "open more files than the limit",
            attempt: Files { count: limits.open_files + 1 },
            layers: vec![one(Protection::OpenFiles)],
        },
        Row {
            id: "resources.core",
            title: "have its memory dumped to disk",
            attempt: Limit { resource: CORE, most: 1 },
            layers: vec![one(Protection::NoCoreDumps)],
        },
    ]
}
