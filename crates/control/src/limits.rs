//! What a tenant's cell may use: the operator's `[limits]`, what the runtime needs, and what was asked for, as far as
//! the policy leaves it; and how that changes.
//!
//! What limits come out is pure; a change of them is durable before the launcher hears of it, and put back if they
//! cannot hold. The threat is a number by which a cell takes the host's memory or processes, or by which it cannot
//! start and nobody knows why.

use crate::{
    Error,
    api::types::{LimitsSet, WantedLimits},
    host::Host,
    tenant::Tenant,
};
use cofferdam_base::{
    TenantId,
    ipc::launcher::{BYTES_AN_INODE, Command, Event, LEAST_BYTES_AN_INODE, Limits, RuntimeRef, Usage},
};
use cofferdam_policy::Policy;
use cofferdam_store::ledger::Kind;
use serde_json::json;

/// An OpenClaw gateway was killed in its first turn at 1 GiB (`docs/decisions/0005`).
const OPENCLAW_MEMORY: u64 = 2 << 30;

impl Host {
    /// Holds a tenant to other limits, the running cell where that can be. If they cannot hold, the old ones do.
    pub async fn set_limits(&self, id: &TenantId, wanted: WantedLimits) -> Result<LimitsSet, Error> {
        let tenant = self.tenant(id)?;
        let mut limits = tenant.limits.lock().await;
        let (before, after) = (*limits, change(*limits, wanted)?);
        let changed = changed(&before, &after);
        if changed.is_empty() {
            let none = Vec::new;
            return Ok(LimitsSet {
                limits: before,
                in_force: none(),
                at_next_start: none(),
                policy_says_less: none(),
            });
        }
        let policy = self.policy_in_store(id).await?;
        self.keep_limits(&tenant, after, json!({ "limits": after })).await?;
        *limits = after;
        let later = match self.hold(&tenant, policy.lower(after)).await {
            Ok(later) => later,
            Err(error) => {
                let body = json!({ "limits": before, "put_back": error.to_string() });
                self.keep_limits(&tenant, before, body).await?;
                *limits = before;
                return Err(error);
            }
        };
        let lowered = self::changed(&after, &policy.lower(after));
        let (below, changed): (Vec<_>, Vec<_>) = changed.into_iter().partition(|name| lowered.contains(name));
        let (in_force, at_next_start) = split(changed, later.as_ref());
        let policy_says_less = below.into_iter().map(str::to_owned).collect();
        Ok(LimitsSet { limits: after, in_force, at_next_start, policy_says_less })
    }

    /// At the start: a running cell holds what is kept. One that cannot does so from its next start.
    pub(crate) async fn limit_again(&self, tenant: &Tenant) -> Result<(), Error> {
        let limits = tenant.limits.lock().await;
        match self.hold(tenant, self.left(&tenant.id, *limits).await?).await {
            Err(Error::Launcher(failure)) => {
                tracing::warn!(tenant = %tenant.id, "its limits hold from its next start: {}", failure.message);
                Ok(())
            }
            other => other.map(drop),
        }
    }

    /// Has a running cell hold what another policy leaves of its limits. `set` is what the operator set, and stays
    /// as it is while this is under way. Those that change and hold only from the next start.
    pub(crate) async fn lower(
        &self,
        tenant: &Tenant,
        set: Limits,
        policy: &Policy,
    ) -> Result<Vec<String>, Error> {
        // What is no policy any more lowered nothing that is known.
        let before = self.left(&tenant.id, set).await.unwrap_or(set);
        let after = policy.lower(set);
        let changed = changed(&before, &after);
        if changed.is_empty() {
            return Ok(Vec::new());
        }
        let later = self.hold(tenant, after).await?;
        Ok(split(changed, later.as_ref()).1)
    }

    /// Puts back what the kept policy leaves, after another was not kept.
    pub(crate) async fn limit_as_kept(&self, tenant: &Tenant, set: Limits) {
        let held = async { self.hold(tenant, self.left(&tenant.id, set).await?).await };
        if let Err(error) = held.await {
            tracing::error!(tenant = %tenant.id, %error, "its limits are those of a policy that is not kept");
        }
    }

    /// What the kept policy leaves of the limits that the operator set.
    pub(crate) async fn left(&self, id: &TenantId, set: Limits) -> Result<Limits, Error> {
        Ok(self.policy_in_store(id).await?.lower(set))
    }

    /// What a running cell uses; none if it has just ended.
    pub(crate) async fn measure(&self, tenant: &Tenant) -> Option<Usage> {
        let measure = Command::Measure { op: self.launcher().op(), tenant: tenant.id.clone() };
        match self.launcher().ask(&measure, &[]).await {
            Ok(Event::Measured { op: _, usage }) => Some(usage),
            _ => None,
        }
    }

    /// Has the launcher hold them. Those that a running cell does not hold before its next start; none if none runs.
    async fn hold(&self, tenant: &Tenant, limits: Limits) -> Result<Option<Vec<String>>, Error> {
        let set = Command::SetLimits { op: self.launcher().op(), tenant: tenant.id.clone(), limits };
        match self.launcher().ask(&set, &[]).await? {
            Event::LimitsSet { op: _, receipt: None, later: _ } => Ok(None),
            Event::LimitsSet { op: _, receipt: Some(receipt), later } => {
                tenant.resealed(receipt);
                Ok(Some(later))
            }
            other => Err(Error::LauncherGone(format!("to SetLimits it answered {other:?}"))),
        }
    }

    async fn keep_limits(
        &self,
        tenant: &Tenant,
        limits: Limits,
        body: serde_json::Value,
    ) -> Result<(), Error> {
        let (id, row) = (tenant.id.clone(), self.row(Some(&tenant.id), Kind::LimitsSet, body));
        self.db.run(move |disk| disk.set_limits(&id, &limits, &row)).await
    }
}

/// Each limit that was asked for replaces its own default and no other. What a runtime needs is its default at
/// least; whoever asks for less gets less. A `/tmp` that nobody asked for takes at most half of the memory of
/// which it is a part, where it would not fit.
pub(crate) fn resolve(
    configured: Limits,
    runtime: &RuntimeRef,
    wanted: WantedLimits,
) -> Result<Limits, Error> {
    let least = match runtime {
        RuntimeRef::Openclaw(_) => OPENCLAW_MEMORY,
        RuntimeRef::Command(_) | RuntimeRef::Native => 0,
    };
    let memory_bytes = wanted.memory_bytes.unwrap_or(configured.memory_bytes.max(least));
    // An operator who names the bytes alone means as many inodes for them as there are by default.
    let inodes = match configured.inodes {
        inodes if inodes == Limits::default().inodes => configured.disk_bytes / BYTES_AN_INODE,
        inodes => inodes,
    };
    let fitting = match configured.tmp_bytes {
        tmp if tmp > memory_bytes => memory_bytes / 2,
        tmp => tmp,
    };
    change(Limits { memory_bytes, tmp_bytes: fitting, inodes, ..configured }, wanted)
}

/// Each limit that was asked for replaces the one before and no other; but inodes follow the bytes that they are
/// among, unless they were asked for too.
fn change(before: Limits, wanted: WantedLimits) -> Result<Limits, Error> {
    let WantedLimits { memory_bytes, pids, cpu_percent, tmp_bytes, open_files, io_bytes, disk_bytes, inodes } =
        wanted;
    let disk = disk_bytes.unwrap_or(before.disk_bytes);
    let following = u128::from(before.inodes) * u128::from(disk) / u128::from(before.disk_bytes.max(1));
    let limits = Limits {
        memory_bytes: memory_bytes.unwrap_or(before.memory_bytes),
        pids: pids.unwrap_or(before.pids),
        cpu_percent: cpu_percent.unwrap_or(before.cpu_percent),
        tmp_bytes: tmp_bytes.unwrap_or(before.tmp_bytes),
        open_files: open_files.unwrap_or(before.open_files),
        io_bytes: io_bytes.unwrap_or(before.io_bytes),
        disk_bytes: disk,
        inodes: inodes.unwrap_or(u64::try_from(following).unwrap_or(u64::MAX)),
    };
    check(&limits)?;
    Ok(limits)
}

/// Those that hold now, and those that do from the next start.
fn split(changed: Vec<&'static str>, later: Option<&Vec<String>>) -> (Vec<String>, Vec<String>) {
    let live = |name: &String| later.is_some_and(|later| !later.contains(name));
    changed.into_iter().map(str::to_owned).partition(live)
}

/// The names of those that differ.
fn changed(before: &Limits, after: &Limits) -> Vec<&'static str> {
    let Limits { memory_bytes, pids, cpu_percent, tmp_bytes, open_files, io_bytes, disk_bytes, inodes } =
        *after;
    let all = [
        ("memory_bytes", memory_bytes != before.memory_bytes),
        ("pids", pids != before.pids),
        ("cpu_percent", cpu_percent != before.cpu_percent),
        ("tmp_bytes", tmp_bytes != before.tmp_bytes),
        ("open_files", open_files != before.open_files),
        ("io_bytes", io_bytes != before.io_bytes),
        ("disk_bytes", disk_bytes != before.disk_bytes),
        ("inodes", inodes != before.inodes),
    ];
    all.into_iter().filter_map(|(name, differs)| differs.then_some(name)).collect()
}

fn check(limits: &Limits) -> Result<(), Error> {
    let Limits { memory_bytes, pids, cpu_percent, tmp_bytes, open_files, io_bytes, disk_bytes, inodes } =
        *limits;
    let usage = |what: &str| Err(Error::Usage(format!("limits: {what}")));
    let least = Limits::LEAST;
    match () {
        () if memory_bytes < least.memory_bytes => usage("memory_bytes must be at least 16777216, 16 MiB"),
        () if !(least.pids..=1 << 22).contains(&pids) => usage("pids must be 8 to 4194304"),
        () if !(least.cpu_percent..=100_000).contains(&cpu_percent) => {
            usage("cpu_percent must be 1 to 100000")
        }
        () if !(least.tmp_bytes..=memory_bytes).contains(&tmp_bytes) => usage(
            "tmp_bytes must be at least 1048576, 1 MiB, and no more than memory_bytes, of which it is a part",
        ),
        () if !(least.open_files..=1 << 20).contains(&open_files) => {
            usage("open_files must be 64 to 1048576")
        }
        () if io_bytes < least.io_bytes => usage("io_bytes must be at least 1048576, 1 MiB a second"),
        () if !(least.disk_bytes..=8 << 40).contains(&disk_bytes) => {
            usage("disk_bytes must be 67108864, 64 MiB, to 8796093022208, 8 TiB")
        }
        () if !(least.inodes..=disk_bytes / LEAST_BYTES_AN_INODE).contains(&inodes) => {
            usage("inodes must be at least 1024, and at most one for each KiB of disk_bytes")
        }
        () => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use cofferdam_base::Digest;

    fn command() -> RuntimeRef {
        RuntimeRef::Command("echo".to_owned())
    }

    fn openclaw() -> RuntimeRef {
        RuntimeRef::Openclaw(Digest::from_bytes([1; 32]))
    }

    #[test]
    fn each_wish_changes_its_own_limit_and_a_gateway_keeps_what_it_needs() {
        let pids = WantedLimits { pids: Some(99), ..WantedLimits::default() };
        let limits = resolve(Limits::default(), &openclaw(), pids).unwrap();
        assert_eq!(limits, Limits { memory_bytes: 2 << 30, pids: 99, ..Limits::default() });
        let less = WantedLimits { memory_bytes: Some(1 << 30), ..WantedLimits::default() };
        assert_eq!(resolve(Limits::default(), &openclaw(), less).unwrap(), Limits::default());
    }

    #[test]
    fn the_operators_limits_are_the_defaults() {
        let configured = Limits { memory_bytes: 3 << 30, pids: 64, cpu_percent: 50, ..Limits::default() };
        for runtime in [command(), openclaw()] {
            assert_eq!(resolve(configured, &runtime, WantedLimits::default()).unwrap(), configured);
        }
        let small = Limits { memory_bytes: 1 << 29, ..configured };
        assert_eq!(resolve(small, &command(), WantedLimits::default()).unwrap(), small);
        let raised = resolve(small, &openclaw(), WantedLimits::default()).unwrap();
        assert_eq!(raised, Limits { memory_bytes: 2 << 30, ..small });
    }

    #[test]
    fn a_tmp_that_nobody_asked_for_follows_the_memory_and_one_that_was_asked_for_must_fit() {
        let wanted = |memory: u64, tmp: Option<u64>| WantedLimits {
            memory_bytes: Some(memory << 20),
            tmp_bytes: tmp.map(|tmp| tmp << 20),
            ..WantedLimits::default()
        };
        let tmp = |memory, tmp| {
            resolve(Limits::default(), &command(), wanted(memory, tmp)).map(|limits| limits.tmp_bytes >> 20)
        };
        assert_eq!((tmp(128, None).unwrap(), tmp(256, None).unwrap()), (64, 256));
        assert_eq!(tmp(128, Some(100)).unwrap(), 100);
        assert!(tmp(128, Some(129)).unwrap_err().to_string().contains("tmp_bytes"));
    }

    #[test]
    fn a_change_is_of_what_was_asked_for_and_inodes_follow_their_bytes() {
        let before = Limits { memory_bytes: 3 << 30, pids: 64, ..Limits::default() };
        let wanted = WantedLimits { pids: Some(65), disk_bytes: Some(8 << 30), ..WantedLimits::default() };
        let after = change(before, wanted).unwrap();
        assert_eq!(after, Limits { pids: 65, disk_bytes: 8 << 30, inodes: 2 * before.inodes, ..before });
        assert_eq!(changed(&before, &after), ["pids", "disk_bytes", "inodes"]);
        let both = WantedLimits { inodes: Some(5000), ..wanted };
        assert_eq!(change(before, both).unwrap().inodes, 5000);
    }

    #[test]
    fn numbers_that_no_cell_can_have_are_refused() {
        let none = WantedLimits::default();
        for wrong in [
            WantedLimits { memory_bytes: Some(1), ..none },
            WantedLimits { pids: Some(0), ..none },
            WantedLimits { cpu_percent: Some(0), ..none },
            WantedLimits { tmp_bytes: Some(0), ..none },
            WantedLimits { open_files: Some(1), ..none },
            WantedLimits { io_bytes: Some(1), ..none },
            WantedLimits { disk_bytes: Some(1 << 20), ..none },
            WantedLimits { disk_bytes: Some(u64::MAX), ..none },
            WantedLimits { inodes: Some(1), ..none },
            WantedLimits { inodes: Some(u64::MAX), ..none },
        ] {
            assert!(resolve(Limits::default(), &command(), wrong).is_err(), "{wrong:?}");
        }
        let configured = Limits { pids: 1, ..Limits::default() };
        assert!(resolve(configured, &command(), none).is_err());
    }
}
