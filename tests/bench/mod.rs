//! The speed of what leaves a cell, and of the native gateway, on a whole host: the real warden, with policy, guard and ledger, beside squid,
//! tinyproxy, mitmproxy and LiteLLM, which stand where the host stands in the same world.
//!
//! *Direct* goes from the host's namespace over the same link to the same server. The peers listen on the host's
//! loopback, the warden inside its cell's namespace, where its client is: so every proxy has one hop to its client
//! and one to the world. The client is one program for all of them, this one.
#![allow(
    dead_code,
    unreachable_pub,
    missing_debug_implementations,
    clippy::unwrap_used,
    clippy::print_stdout
)]
#![allow(clippy::disallowed_methods, clippy::must_use_candidate)]

pub mod admin;
pub mod bare;
pub mod client;
pub mod decisions;
pub mod egress;
pub mod footprint;
pub mod gateway;
pub mod inference;
pub mod native;
pub mod peers;
pub mod stats;
pub mod upstream;

use super::host::Host;
use cofferdam_sys::netns;
use std::{
    fs::{self, File},
    os::fd::AsFd,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

/// What a page weighs, and what a bulk answer does.
pub const PAGE: usize = 1024;
pub const BULK: usize = 64 << 20;

/// Work inside one network namespace.
pub struct Inside(File);

impl Inside {
    /// That of a tenant's cell.
    pub fn cell(host: &Host, tenant: &str) -> Self {
        let init = host.cell_processes(tenant).into_iter().min().unwrap();
        Self(File::open(format!("/proc/{init}/ns/net")).unwrap())
    }

    /// Does something on a thread there, on the clients' processor.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.unpinned(|| {
            keep_on(0);
            work()
        })
    }

    /// The same on any processor.
    pub fn unpinned<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        netns::inside(self.0.as_fd(), work).unwrap()
    }
}

/// The same in the host's namespace of the world.
pub fn at_host<T: Send>(host: &Host, work: impl FnOnce() -> T + Send) -> T {
    host.world.host(|| {
        keep_on(0);
        work()
    })
}

/// Loops that run only when nobody else does, one on each processor: a processor that sleeps would be charged to
/// whoever wakes it, which in a virtual machine costs more than all the work on the way.
pub struct Awake(Vec<Child>);

impl Awake {
    pub fn keep() -> Self {
        let spin = |processor: usize| {
            let mut command = Command::new("chrt");
            command.args(["--idle", "0", "taskset", "--cpu-list", &processor.to_string()]);
            command.args(["sh", "-c", "while :; do :; done"]).stdin(Stdio::null()).stdout(Stdio::null());
            command.spawn().unwrap()
        };
        Self((0..std::thread::available_parallelism().unwrap().get()).map(spin).collect())
    }
}

impl Drop for Awake {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The wardens of a host.
pub fn wardens(host: &Host) -> Vec<i32> {
    own(host, "__warden")
}

/// The processes of a host that were started for this.
pub fn own(host: &Host, entry: &str) -> Vec<i32> {
    let mut found = host.own_processes();
    found.retain(|(_, _, line)| line.contains(entry));
    found.into_iter().map(|(pid, ..)| pid).collect()
}

/// Gives these processes, and this one, the same real-time priority: whatever else the machine does then waits for
/// them, and none of them for a time slice of another.
pub fn in_front(pids: &[i32]) {
    let own = i32::try_from(std::process::id()).unwrap();
    for pid in pids.iter().chain([&own]) {
        allow_real_time(*pid, 800_000 / pids.len());
        scheduled(*pid, "--rr", "5");
    }
}

/// Takes that back.
pub fn like_the_rest(pids: &[i32]) {
    let own = i32::try_from(std::process::id()).unwrap();
    pids.iter().chain([&own]).for_each(|pid| scheduled(*pid, "--other", "0"));
}

fn scheduled(pid: i32, class: &str, priority: &str) {
    let mut command = Command::new("chrt");
    command.args(["--all-tasks", class, "--pid", priority, &pid.to_string()]);
    let status = command.status().unwrap();
    assert!(status.success(), "{pid} is not scheduled {class}: {status}");
}

/// Keeps this thread on one processor: clients on the first, the world's servers on the second, proxies where the
/// scheduler wants them. A client and a server that share one by chance would make *direct* a function call, and
/// every proxy be charged for a network that is none.
pub fn keep_on(processor: usize) {
    let mut set = rustix::thread::CpuSet::new();
    let there = std::thread::available_parallelism().unwrap().get();
    set.set(processor % there);
    rustix::thread::sched_setaffinity(None, &set).unwrap();
}

/// Where groups of version 1 ration real time, a new one has none: each from the root to this process gets
/// this many microseconds of a second.
fn allow_real_time(pid: i32, share: usize) {
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let of_cpu = |line: &str| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        controllers.split(',').any(|it| it == "cpu").then(|| path.trim_start_matches('/').to_owned())
    };
    let Some(path) = groups.lines().find_map(of_cpu) else { return };
    let mut directory = PathBuf::from("/sys/fs/cgroup/cpu");
    for part in path.split('/').filter(|part| !part.is_empty()) {
        directory.push(part);
        let file = directory.join("cpu.rt_runtime_us");
        if fs::read_to_string(&file).is_ok_and(|now| now.trim() == "0") {
            fs::write(&file, share.to_string()).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        }
    }
}

/// Processor time of a process so far, in milliseconds: of its own and of the system for it.
pub fn cpu(pid: i32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    let ticks = |at: usize| fields[at].parse::<f64>().unwrap();
    // A tick is a hundredth of a second on every Linux that there is.
    (ticks(11) + ticks(12)) * 10.0
}
