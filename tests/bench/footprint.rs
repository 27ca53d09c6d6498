//! What tenants take of the machine: memory by the fall of MemAvailable, and whose it is; processor time while nobody
//! asks anything.

use crate::host::Host;
use std::{collections::BTreeMap, fs, time::Duration};

/// Parts of a host, in the order in which they are shown.
pub const PARTS: [&str; 6] = ["init", "gateway", "warden", "control", "edge", "launcher"];
/// What the kernel holds that no process is charged for.
const KERNEL: [&str; 5] = ["SUnreclaim", "SReclaimable", "KernelStack", "PageTables", "Percpu"];

/// The machine's memory at a moment, in kB.
#[derive(Clone, Debug, Default)]
pub struct Memory(BTreeMap<String, f64>);

impl Memory {
    /// Now.
    pub fn now() -> Self {
        Self::read(&fs::read_to_string("/proc/meminfo").unwrap())
    }

    fn read(text: &str) -> Self {
        let one = |line: &str| {
            let (name, rest) = line.split_once(':')?;
            Some((name.to_owned(), rest.split_whitespace().next()?.parse().ok()?))
        };
        Self(text.lines().filter_map(one).collect())
    }

    fn of(&self, name: &str) -> f64 {
        self.0.get(name).copied().unwrap_or_default()
    }

    /// What each of so many tenants took since, in MB.
    pub fn each(&self, before: &Self, tenants: usize) -> f64 {
        (before.of("MemAvailable") - self.of("MemAvailable")) * 1.024 / 1e3 / tenants as f64
    }

    /// The same of what the kernel holds, by name, in kB.
    pub fn kernel(&self, before: &Self, tenants: usize) -> Vec<(&'static str, f64)> {
        KERNEL.map(|name| (name, (self.of(name) - before.of(name)) / tenants as f64)).into()
    }
}

/// The processes of a host by part.
pub fn parts(host: &Host) -> BTreeMap<&'static str, Vec<i32>> {
    let mut parts: BTreeMap<&str, Vec<i32>> = BTreeMap::new();
    for (pid, uid, line) in host.own_processes() {
        let named = PARTS.into_iter().find(|part| line.contains(&format!("__{part}")));
        // A clone of the nursery in a cell bears the nursery's name; what else is in cells of others is their gateway.
        let cell = uid >= host.uids().start + 0x2_0000;
        let part = match named {
            Some(part) => part,
            None if pid == host.launcher() => "launcher",
            None if cell && line.contains("__nursery") => "init",
            None if cell => "gateway",
            None => continue,
        };
        parts.entry(part).or_default().push(pid);
    }
    parts
}

/// What a process is charged for, its part of what is shared included: Pss, and what is its alone, in kB.
pub fn pss(pid: i32) -> [f64; 2] {
    rollup(&fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default())
}

fn rollup(text: &str) -> [f64; 2] {
    let memory = Memory::read(text);
    [memory.of("Pss"), memory.of("Private_Clean") + memory.of("Private_Dirty")]
}

/// The processor time that each thread of a host has had so far, in milliseconds, with the part that it is of.
pub struct Spent(BTreeMap<i32, (&'static str, f64)>);

impl Spent {
    /// Now.
    pub fn now(host: &Host) -> Self {
        let all = parts(host).into_iter();
        let of_part = |(part, pids): (&'static str, Vec<i32>)| {
            pids.into_iter().flat_map(spent).map(move |(thread, ms)| (thread, (part, ms)))
        };
        Self(all.flat_map(of_part).collect())
    }

    /// What each part took of a core in this time, in hundredths. Who came or went meanwhile is left out.
    pub fn since(&self, before: &Self, time: Duration) -> [(&'static str, f64); PARTS.len()] {
        PARTS.map(|part| {
            let of_part = self.0.iter().filter(|(_, (of, _))| *of == part);
            let took = of_part.filter_map(|(pid, (_, now))| Some(now - before.0.get(pid)?.1)).sum::<f64>();
            (part, took / (time.as_secs_f64() * 1e3) * 100.0)
        })
    }
}

/// Of each thread of a process.
fn spent(pid: i32) -> Vec<(i32, f64)> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let one = |task: fs::DirEntry| {
        let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
        let nanoseconds: f64 = text.split(' ').next()?.parse().ok()?;
        Some((task.file_name().to_str()?.parse().ok()?, nanoseconds / 1e6))
    };
    tasks.filter_map(one).collect()
}

/// The growth from one figure to another, in hundredths of the first.
pub fn growth(first: f64, last: f64) -> f64 {
    (last - first) / first * 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_counted_in_megabytes_of_ten_to_the_sixth() {
        let read = |available: u32, stacks: u32| {
            Memory::read(&format!(
                "MemTotal: 9 kB\nMemAvailable:   {available} kB\nKernelStack: {stacks} kB\n"
            ))
        };
        let (before, after) = (read(3_000_000, 100), read(1_000_000, 300));
        assert!((after.each(&before, 1000) - 2.048).abs() < 1e-9);
        assert!((after.kernel(&before, 100)[2].1 - 2.0).abs() < 1e-9);
        let [pss, alone] = rollup("00-ff [rollup]\nPss:  120 kB\nPrivate_Clean: 4 kB\nPrivate_Dirty: 6 kB\n");
        assert!((pss - 120.0).abs() < 1e-9 && (alone - 10.0).abs() < 1e-9);
    }

    #[test]
    fn growth_is_of_the_first_figure() {
        assert!((growth(200.0, 210.0) - 5.0).abs() < 1e-9);
        assert!(growth(200.0, 190.0) < 0.0);
    }

    #[test]
    fn a_share_is_of_one_core_and_of_those_who_were_there_all_the_time() {
        let spent = |all: &[(i32, &'static str, f64)]| {
            Spent(all.iter().map(|(pid, part, ms)| (*pid, (*part, *ms))).collect())
        };
        let before = spent(&[(1, "warden", 5.0), (2, "warden", 7.0), (3, "init", 100.0)]);
        let after = spent(&[(1, "warden", 8.0), (2, "warden", 7.0), (4, "init", 50.0)]);
        let took = after.since(&before, Duration::from_secs(30));
        let of = |part: &str| took.iter().find(|(of, _)| *of == part).unwrap().1;
        assert!((of("warden") - 0.01).abs() < 1e-9 && of("init") == 0.0, "{took:?}");
    }

    #[test]
    fn the_time_of_this_thread_is_more_after_some_work() {
        let own = i32::try_from(std::process::id()).unwrap();
        let all = || spent(own).iter().map(|(_, ms)| ms).sum::<f64>();
        let (before, mut sum) = (all(), 0_u64);
        while all() <= before {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
    }
}
