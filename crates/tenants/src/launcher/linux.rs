//! The engine `linux`: cells and processes as `cofferdam_sandbox` makes them.
//!
//! It translates and keeps what has to be reaped; it decides nothing and owns no layer of the seal.

use super::{
    effects::{Cell, Ended, Launched, Process, failure},
    machine::Engine,
    plan::{Boot, CellSpec, PartSpec},
    strays::{Companion, Family, Member},
};
use crate::{Error, openclaw};
use cofferdam_base::{
    TenantId,
    ipc::{
        launcher::{CellOrder, ExecOrder, Failure, Limits, Usage},
        receipt::Receipt,
    },
};
use cofferdam_sandbox::{
    self as sandbox, CellEvent, CellPlan, Network, Quota, home_image, service, tenant_files,
};
use cofferdam_sys::{pidfd, process, socket};
use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

/// What the sockets bear that lead in. No process in a cell has the capability that gives a mark.
const MARK: u32 = 0x0c0f_fe4d;

/// Makes cells of namespaces, Landlock, seccomp and cgroups.
#[derive(Debug)]
pub struct Linux {
    strict: bool,
    family: Family,
    companion: Option<Companion>,
    /// Readable when a child has changed.
    children: OwnedFd,
}

/// Control, edge, model or a warden.
#[derive(Debug)]
pub struct LinuxPart(service::Service, #[expect(dead_code, reason = "held")] Member);

/// A cell.
#[derive(Debug)]
pub struct LinuxCell {
    /// None once it is reaped.
    cell: Option<sandbox::Cell>,
    pidfd: OwnedFd,
    /// What proves each listener.
    cookies: Vec<u64>,
    /// How the runtime ended, which init tells before it ends.
    runtime: Option<Ended>,
    _known: Member,
}

/// A command in a cell.
#[derive(Debug)]
pub struct LinuxExec(sandbox::Exec, #[expect(dead_code, reason = "held")] Member);

/// The removal of a home.
#[derive(Debug)]
pub struct LinuxWork(tenant_files::Removal, #[expect(dead_code, reason = "held")] Member);

impl Linux {
    /// Sweeps what an earlier launcher of this host left, then confines this process to what a launcher
    /// needs, for ever. To be called once, before there is a second thread. Any child that this process has
    /// already is reaped when it ends; `companion` keeps how it did.
    pub fn start(boot: &Boot, companion: Option<Companion>) -> Result<Self, Error> {
        let failed = |what: &str| {
            let what = what.to_owned();
            |error: sandbox::Error| Error::Start { what, why: error.to_string() }
        };
        let swept =
            sandbox::sweep(&boot.instance()).map_err(failed("the sweep of what an earlier launcher left"))?;
        match sandbox::settle().map_err(failed("the launcher's own cgroup")) {
            Err(error) if boot.strict => return Err(error),
            // The receipts of the cells say which limits they lack.
            Err(error) => tracing::warn!("{error}"),
            Ok(()) => {}
        }
        // A host does without the runtimes of a cache that it cannot use; a cell that needs one is refused.
        if let Err(error) = openclaw::install::sweep(&boot.cache_dir) {
            tracing::warn!("what an earlier installation left could not be removed: {error}");
        }
        sandbox::confine::launcher().map_err(failed("the launcher's own confinement"))?;
        if !swept.is_empty() {
            tracing::warn!("an earlier launcher left, and now are gone: {}", swept.join(", "));
        }
        let children = process::child_signal().map_err(|error| Error::Start {
            what: "the launcher's watch over its children".to_owned(),
            why: error.to_string(),
        })?;
        Ok(Self { strict: boot.strict, family: Family::default(), companion, children })
    }
}

impl Drop for Linux {
    fn drop(&mut self) {
        logged(sandbox::close_nursery());
    }
}

impl Engine for Linux {
    type Part = LinuxPart;
    type Cell = LinuxCell;
    type Exec = LinuxExec;
    type Work = LinuxWork;

    fn spawn(&mut self, part: &PartSpec, wire: OwnedFd) -> Result<LinuxPart, Failure> {
        let plan = service::Plan {
            role: format!(
                "cofferdam {}",
                part.arguments.first().map_or("", |name| name.trim_start_matches('_'))
            ),
            argv: part.arguments.clone(),
            env: Vec::new(),
            uid: part.uid.map(|uid| (uid, uid)),
            wire,
            cgroup: part.cgroup.clone(),
            limits: part.limits,
            profile: profile(self.strict),
        };
        let service = service::spawn(&plan)?;
        let known = self.family.welcome(service.pid);
        Ok(LinuxPart(service, known))
    }

    fn launch(&mut self, order: &CellOrder, spec: &CellSpec) -> Result<Launched<LinuxCell>, Failure> {
        let (output, writer) = std::io::pipe().map_err(|error| failure(format!("a pipe: {error}")))?;
        let nonblocking = rustix::io::ioctl_fionbio(&output, true);
        nonblocking.map_err(|errno| failure(format!("a pipe: {errno}")))?;
        let second = writer.try_clone().map_err(|error| failure(format!("a pipe: {error}")))?;
        let cell = sandbox::launch(
            &plan(self.strict, &order.tenant, order.generation, spec),
            [writer.into(), second.into()],
        )?;
        let (pid, receipt) = (u32::try_from(cell.pid).unwrap_or(0), cell.receipt.clone());
        let proved = prove(&cell);
        let (netns_cookie, cookies, pidfd) = match proved {
            Ok(proved) => proved,
            Err(failure) => {
                // It runs already; what cannot be held is ended, and waited for.
                end(cell);
                return Err(failure);
            }
        };
        let port = spec.runtime.port;
        let known = self.family.welcome(cell.pid);
        let cell = LinuxCell { cell: Some(cell), pidfd, cookies, runtime: None, _known: known };
        Ok(Launched { cell, pid, netns_cookie, port, receipt, output: output.into(), drift: spec.drift })
    }

    fn exec(
        &mut self,
        cell: &mut LinuxCell,
        order: &ExecOrder,
        stdio: [OwnedFd; 3],
    ) -> Result<LinuxExec, Failure> {
        let cell = cell.cell.as_ref().ok_or_else(|| failure("the cell is gone"))?;
        let exec = cell.exec(&order.argv, stdio, order.terminal)?;
        let known = self.family.welcome(exec.pid);
        Ok(LinuxExec(exec, known))
    }

    fn make_image(&mut self, image: &Path, uid: u32, limits: &Limits) -> Result<(), Failure> {
        if let Some(lacking) = home_image::lacking() {
            // Its receipt says so for ever.
            tracing::warn!("{} is not made, and its tenant's home has no quota: {lacking}", image.display());
            return Ok(());
        }
        Ok(home_image::make(image, (uid, uid), limits)?)
    }

    fn check_image(&mut self, image: &Path, limits: &Limits) -> Result<(), Failure> {
        Ok(home_image::check(image, limits)?)
    }

    fn remove_home(
        &mut self,
        tenants: &Path,
        tenant: &TenantId,
        uid: Option<u32>,
    ) -> Result<LinuxWork, Failure> {
        let owner = uid.map(|uid| (uid, uid));
        let removal = tenant_files::Removal::begin(tenants, tenant.as_str(), owner)?;
        let known = self.family.welcome(removal.pid);
        Ok(LinuxWork(removal, known))
    }

    fn children(&self) -> Option<BorrowedFd<'_>> {
        Some(self.children.as_fd())
    }

    fn sweep(&mut self) {
        // One signal may stand for several children, so all are looked at.
        let _ = rustix::io::read(&self.children, &mut [0_u8; 128][..]);
        self.family.sweep(self.companion.as_ref());
    }
}

fn profile(strict: bool) -> sandbox::Profile {
    if strict { sandbox::Profile::Strict } else { sandbox::Profile::Rootless }
}

/// The plan of a cell, complete.
pub(super) fn plan(strict: bool, tenant: &TenantId, generation: u64, spec: &CellSpec) -> CellPlan {
    let (uid, gid) = match spec.uid {
        Some(uid) => (uid, uid),
        None => (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw()),
    };
    let binds = spec.runtime.binds.iter().map(|bind| sandbox::Bind {
        source: bind.source.as_path().to_owned(),
        target: bind.target.as_path().to_owned(),
        access: sandbox::Access::ReadOnly,
        label: "runtime".to_owned(),
    });
    let trust = spec.trust.iter().flat_map(|dir| crate::trust::binds(dir));
    let trust = trust.map(|(source, target)| sandbox::Bind {
        source,
        target,
        access: sandbox::Access::ReadOnly,
        label: sandbox::TRUST.to_owned(),
    });
    CellPlan {
        name: tenant.to_string(),
        generation,
        profile: profile(strict),
        uid,
        gid,
        hostname: tenant.to_string(),
        binds: binds.chain(spec.offered.iter().cloned()).chain(trust).collect(),
        home: spec.home.clone(),
        quota: quota(strict, spec),
        argv: spec.runtime.argv.clone(),
        env: spec.runtime.env.clone(),
        cwd: "/sandbox".into(),
        network: Network::Captured { port: spec.runtime.port, mark: MARK },
        limits: spec.limits,
        cgroup: spec.cgroup.clone(),
        without: spec.without.clone(),
    }
}

/// What holds the home to its limits, or why nothing does.
fn quota(strict: bool, spec: &CellSpec) -> Quota {
    let anew = "this home was made without one; a tenant that is made anew has it";
    match (&spec.image, home_image::lacking()) {
        (Some(image), _) => Quota::Image(image.clone()),
        (None, _) if !strict => Quota::None { why: "needs root".to_owned() },
        (None, Some(lacking)) => Quota::None { why: format!("{lacking}; {anew}") },
        (None, None) => Quota::None { why: anew.to_owned() },
    }
}

/// The cookies of a new cell's network and listeners, and a descriptor of its init to wait on.
fn prove(cell: &sandbox::Cell) -> Result<(u64, Vec<u64>, OwnedFd), Failure> {
    let (Some(netns), Some(listeners)) = (cell.netns_cookie, &cell.listeners) else {
        return Err(failure("the cell came without listeners"));
    };
    let io = |error: std::io::Error| failure(format!("the cell's listeners: {error}"));
    let cookies = listeners.iter().map(|listener| socket::identity(listener.as_fd()));
    let cookies = cookies.collect::<Result<Vec<u64>, _>>().map_err(io)?;
    Ok((netns, cookies, cell.pidfd.try_clone().map_err(io)?))
}

fn end(cell: sandbox::Cell) {
    let ended = cell.kill().and_then(|()| cell.wait()).and_then(|_| cell.remove());
    if let Err(error) = ended {
        tracing::error!("a cell that did not start is swept at the next start: {error}");
    }
}

impl Process for LinuxPart {
    fn watch(&self) -> BorrowedFd<'_> {
        self.0.pidfd.as_fd()
    }

    fn reap(&mut self) -> Option<Ended> {
        reaped(self.0.try_wait())
    }

    fn kill(&mut self) {
        logged(self.0.kill());
    }
}

impl Process for LinuxExec {
    fn watch(&self) -> BorrowedFd<'_> {
        self.0.pidfd.as_fd()
    }

    fn reap(&mut self) -> Option<Ended> {
        reaped(self.0.try_wait())
    }

    fn kill(&mut self) {
        logged(self.0.kill());
    }
}

impl Process for LinuxWork {
    fn watch(&self) -> BorrowedFd<'_> {
        self.0.pidfd()
    }

    fn reap(&mut self) -> Option<Ended> {
        reaped(self.0.try_wait())
    }

    fn kill(&mut self) {
        logged(self.0.kill());
    }
}

impl Process for LinuxCell {
    fn watch(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    fn reap(&mut self) -> Option<Ended> {
        let init = reaped(self.cell.as_ref()?.try_wait())?;
        let cell = self.cell.take()?;
        // What init told before it ended is still on its wire.
        while let Ok(Some(CellEvent::RuntimeEnded { status, code })) = cell.event() {
            let signal = status.strip_prefix("signal ").and_then(|number| number.parse().ok());
            self.runtime = Some(signal.map_or(Ended::Exit(code), Ended::Signal));
        }
        if let Err(error) = cell.remove() {
            tracing::error!("the groups of a cell are swept at the next start: {error}");
        }
        Some(self.runtime.unwrap_or(init))
    }

    fn kill(&mut self) {
        if let Some(cell) = &self.cell {
            logged(cell.kill());
        }
    }
}

impl Cell for LinuxCell {
    fn terminate(&mut self) {
        if let Some(cell) = &self.cell {
            logged(cell.terminate());
        }
    }

    fn freeze(&mut self) -> Result<(), Failure> {
        Ok(self.cell.as_ref().ok_or_else(|| failure("the cell is gone"))?.begin_freeze()?)
    }

    fn frozen(&mut self) -> Result<(), Failure> {
        Ok(self.cell.as_ref().ok_or_else(|| failure("the cell is gone"))?.frozen()?)
    }

    fn sockets(&mut self, count: u8) -> Result<Vec<OwnedFd>, Failure> {
        let cell = self.cell.as_ref().ok_or_else(|| failure("the cell is gone"))?;
        Ok(cell.sockets(count)?)
    }

    fn set_limits(
        &mut self,
        limits: &Limits,
        receipt: &Receipt,
    ) -> Result<(Receipt, Vec<&'static str>), Failure> {
        let cell = self.cell.as_mut().ok_or_else(|| failure("the cell is gone"))?;
        // A running cell has its `/tmp`, and its processes have limits of their own already.
        let mut later = vec!["tmp_bytes", "open_files"];
        if !cell.change_limits(limits)? {
            later.extend(["disk_bytes", "inodes"]);
        }
        let mut now = receipt.clone();
        for row in &cell.receipt.layers {
            now.layers.iter_mut().filter(|old| old.layer == row.layer).for_each(|old| old.clone_from(row));
        }
        Ok((now, later))
    }

    fn usage(&self) -> Usage {
        self.cell.as_ref().map(sandbox::Cell::usage).unwrap_or_default()
    }

    fn listeners(&mut self) -> Result<Vec<OwnedFd>, Failure> {
        let kept = self.cell.as_ref().and_then(|cell| cell.listeners.as_ref());
        let kept = kept.ok_or_else(|| failure("the cell is gone"))?;
        let io = |error: std::io::Error| failure(format!("a listener: {error}"));
        let mut passed = Vec::with_capacity(kept.len());
        for (listener, cookie) in kept.iter().zip(&self.cookies) {
            if socket::identity(listener.as_fd()).map_err(io)? != *cookie {
                return Err(failure("a listener is not the socket that was opened at the cell's start"));
            }
            passed.push(listener.try_clone().map_err(io)?);
        }
        Ok(passed)
    }
}

/// A child that cannot be waited for is not ours any more.
fn reaped(outcome: Result<Option<pidfd::Ended>, sandbox::Error>) -> Option<Ended> {
    match outcome {
        Ok(ended) => ended.map(|ended| match ended {
            pidfd::Ended::Exit(code) => Ended::Exit(code),
            pidfd::Ended::Signal(signal) => Ended::Signal(signal),
        }),
        Err(error) => {
            tracing::error!("{error}");
            Some(Ended::Signal(9))
        }
    }
}

fn logged(outcome: Result<(), sandbox::Error>) {
    if let Err(error) = outcome {
        tracing::error!("{error}");
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::tests::double::order;
    use super::*;
    use crate::{config::HostConfig, runtime::RuntimePlan};

    fn spec(target: &str) -> CellSpec {
        let text = format!(
            "[runtime.command.echo]\nargv = [\"/opt/echo\"]\nbinds = [{{ source = \"/srv/echo\", target = \"{target}\" }}]\n"
        );
        let config = HostConfig::parse(Path::new("c"), &text).unwrap();
        let runtime = RuntimePlan::of_command(&config, "echo").unwrap();
        let (uid, cgroup) = (Some(1_500_131_074), "cofferdam.0123456789abcdef.acme".to_owned());
        CellSpec {
            uid,
            cgroup,
            home: "/data/tenants/acme/home".into(),
            image: Some("/data/tenants/acme/home.img".into()),
            runtime,
            offered: Vec::new(),
            trust: None,
            limits: order("acme", 2, 1).limits,
            without: Vec::new(),
            drift: false,
        }
    }

    #[test]
    fn the_plan_of_a_command_is_one_that_the_sandbox_takes() {
        let plan_of = |target: &str| plan(true, &order("acme", 2, 7).tenant, 7, &spec(target));
        plan_of("/opt/echo").check().unwrap();
        assert!(plan_of("/usr/bin/env").check().is_err(), "what is the cell's own is not covered");
        let plan = plan_of("/opt/echo");
        assert_eq!(plan.quota, Quota::Image("/data/tenants/acme/home.img".into()));
        let bare = CellSpec { image: None, ..spec("/opt/echo") };
        assert!(matches!(quota(true, &bare), Quota::None { why } if why.contains("made anew")));
        assert_eq!((plan.uid, plan.gid, plan.generation), (1_500_131_074, 1_500_131_074, 7));
        assert_eq!(plan.network, Network::Captured { port: 8080, mark: MARK });
        assert!(plan.binds.iter().all(|bind| bind.access == sandbox::Access::ReadOnly));
    }
}
