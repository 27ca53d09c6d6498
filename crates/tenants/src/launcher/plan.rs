//! From a command to what is started: every path, uid, mount and environment comes from here, that is from
//! the operator's configuration, the data directory's layout and our own code.
//!
//! The threat: a control that was taken over and names a tenant or slot to reach somebody else's files. The
//! uid follows from the slot, the home from the id, and [`CellSpec`] is refused unless that home is a
//! directory of that very uid.

use super::effects::{Part, failure};
use crate::{
    config::{AbsolutePath, Bind, HostConfig},
    data::{DataDir, Owners},
    openclaw,
    runtime::{CELL_PROGRAM, RuntimePlan},
};
use cofferdam_base::{
    Digest, TenantId,
    binding::FileName,
    ipc::launcher::{CellOrder, Failure, Limits, MOST_OFFERED, OFFERED, RuntimeRef},
};
use cofferdam_sandbox::{Access, CellPlan, Protection};
use serde::{Deserialize, Serialize};
use std::{
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// A host: its data directory and what its operator said. Control gets it as JSON in its first argument.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Boot {
    /// The data directory.
    pub data_dir: PathBuf,
    /// The shared cache.
    pub cache_dir: PathBuf,
    /// `cofferdam.toml`, its name servers filled in.
    pub config: HostConfig,
    /// Does every part have a uid of its own?
    pub strict: bool,
    /// Is there a built-in model?
    pub builtin_model: bool,
}

/// One of our own processes, ready to be started from this program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartSpec {
    /// The arguments after the program's name; the first is the hidden entry.
    pub arguments: Vec<String>,
    /// Its uid and gid; none without root.
    pub uid: Option<u32>,
    /// Its cgroup, relative: `cofferdam.<instance>._warden.acme`. No tenant's id begins like that.
    pub cgroup: String,
    /// What it may use. What hostile bytes make of it stays within.
    pub limits: Limits,
}

/// A cell, ready to be made by an engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CellSpec {
    /// The host uid and gid of everything in it; none without root.
    pub uid: Option<u32>,
    /// Its cgroup, relative: `cofferdam.<instance>.<tenant>`.
    pub cgroup: String,
    /// The cell's `/sandbox`.
    pub home: PathBuf,
    /// The image that holds it, if it has a quota.
    pub image: Option<PathBuf>,
    /// What runs, what it sees and where it listens.
    pub runtime: RuntimePlan,
    /// What it sees besides of what the operator offers.
    pub offered: Vec<cofferdam_sandbox::Bind>,
    /// The files of what it trusts, if its warden has said its own authority.
    pub trust: Option<PathBuf>,
    /// What it may use.
    pub limits: Limits,
    /// What its seal leaves out, by the operator's word.
    pub without: Vec<Protection>,
    /// Somebody had changed what the runtime is told; it is ours again.
    pub drift: bool,
}

impl Boot {
    /// The data directory's owners.
    pub fn owners(&self) -> Owners {
        if self.strict { Owners::Apart(self.config.uids.base) } else { Owners::OneUser }
    }

    /// Names this host on this machine, for cgroups and what else is to be swept at its next start: 16 hex
    /// digits that follow from the data directory.
    pub fn instance(&self) -> String {
        instance(&self.data_dir)
    }

    /// Which entry of this program a part is, as whom. `__control BOOT`, `__edge DOMAIN`,
    /// `__warden TENANT`, `__model`.
    pub fn part(&self, part: &Part) -> Result<PartSpec, Failure> {
        let uids = self.config.uids.base;
        let (arguments, uid) = match part {
            Part::Control => {
                let boot = serde_json::to_string(self).map_err(|error| failure(error.to_string()))?;
                (vec!["__control".to_owned(), boot], uids.control())
            }
            Part::Edge => {
                (vec!["__edge".to_owned(), self.config.edge.domain.as_str().to_owned()], uids.edge())
            }
            Part::Model => (vec!["__model".to_owned()], uids.model()),
            Part::Warden(tenant, slot) => {
                let roots = self.config.egress.extra_roots.as_ref();
                let roots = roots.map(|path| path.as_path().display().to_string());
                let arguments = ["__warden".to_owned(), tenant.to_string()].into_iter().chain(roots);
                (arguments.collect(), uids.warden(*slot))
            }
        };
        let (group, memory_bytes, cpu_percent) = match part {
            Part::Control => ("_control".to_owned(), 1 << 30, UNBOUND),
            Part::Edge => ("_edge".to_owned(), 1 << 30, UNBOUND),
            Part::Model => ("_model".to_owned(), 256 << 20, 100),
            Part::Warden(tenant, _) => (format!("_warden.{tenant}"), 256 << 20, 200),
        };
        let limits = Limits { memory_bytes, pids: 64, cpu_percent, ..Limits::default() };
        let cgroup = cofferdam_sandbox::group(&self.instance(), &group);
        Ok(PartSpec { arguments, uid: self.strict.then_some(uid), cgroup, limits })
    }

    /// What an order means on this host. Writes what the runtime is told into the tenant's `config`.
    pub fn cell(&self, data: &DataDir, order: &CellOrder) -> Result<CellSpec, Failure> {
        let uid = self.strict.then(|| self.config.uids.base.tenant(order.slot));
        let home = data.home(&order.tenant);
        let owner = uid.unwrap_or_else(|| rustix::process::geteuid().as_raw());
        check_home(&home, owner, order)?;
        let (mut runtime, drift) = match &order.runtime {
            RuntimeRef::Command(name) => (RuntimePlan::of_command(&self.config, name)?, false),
            RuntimeRef::Openclaw(lock) => self.openclaw(data, order, *lock)?,
            RuntimeRef::Native => (native()?, false),
        };
        super::placeholders::show(data, order, &mut runtime)?;
        let offered = self.offered(&order.offered)?;
        let cgroup = cofferdam_sandbox::group(&self.instance(), order.tenant.as_str());
        let without = self.config.left_out();
        let image = self.image(data, &order.tenant);
        let trust = data.trust(&order.tenant);
        if let Some(authority) = &order.authority {
            let roots = self.config.egress.extra_roots.as_ref().map(AbsolutePath::as_path);
            crate::trust::write(&trust, roots, authority).map_err(|error| failure(error.to_string()))?;
        }
        let trust = order.authority.is_some().then_some(trust);
        let limits = order.limits;
        Ok(CellSpec { uid, cgroup, home, image, runtime, offered, trust, limits, without, drift })
    }

    /// What a cell is shown of what the operator offers. A message names it and adds nothing to it.
    fn offered(&self, names: &[FileName]) -> Result<Vec<cofferdam_sandbox::Bind>, Failure> {
        if names.len() > MOST_OFFERED {
            return Err(failure(format!("a cell sees at most {MOST_OFFERED} offered directories")));
        }
        let one = |name: &FileName| {
            let Some(source) = self.config.filesystem.get(name) else {
                return Err(Failure {
                    message: format!("cofferdam.toml offers no directory {name}, which the policy asks for"),
                    mend: "add it to [filesystem] and start the host anew, or take it out of the policy"
                        .to_owned(),
                });
            };
            Ok(cofferdam_sandbox::Bind {
                source: source.as_path().to_owned(),
                target: format!("{OFFERED}/{name}").into(),
                access: Access::Offered { apart_from: self.data_dir.clone() },
                label: "offered".to_owned(),
            })
        };
        names.iter().map(one).collect()
    }

    /// The plan of a tenant's cell as it would be made now, for a proof. Changes nothing: what the tenant's runtime
    /// is told stays as it is.
    pub fn sibling(
        &self,
        tenant: &TenantId,
        runtime: &RuntimeRef,
        limits: Limits,
        offered: &[FileName],
    ) -> Result<CellPlan, Failure> {
        let data =
            DataDir::open(&self.data_dir, self.owners()).map_err(|error| failure(error.to_string()))?;
        let home = data.home(tenant);
        let owner = std::fs::symlink_metadata(&home)
            .map_err(|error| failure(format!("the home {} is not there: {error}", home.display())))?
            .uid();
        let runtime = match runtime {
            RuntimeRef::Command(name) => RuntimePlan::of_command(&self.config, name)?,
            RuntimeRef::Openclaw(lock) => self.gateway(&data, tenant, *lock, limits)?,
            RuntimeRef::Native => native()?,
        };
        let cgroup = cofferdam_sandbox::group(&self.instance(), tenant.as_str());
        let (uid, without) = (self.strict.then_some(owner), self.config.left_out());
        let image = self.image(&data, tenant);
        let trust = Some(data.trust(tenant)).filter(|trust| trust.exists());
        let offered = self.offered(offered)?;
        let drift = false;
        let spec = CellSpec { uid, cgroup, home, image, runtime, offered, trust, limits, without, drift };
        Ok(super::linux::plan(self.strict, tenant, 1, &spec))
    }

    /// The image that holds a tenant's home, if there is one.
    fn image(&self, data: &DataDir, tenant: &TenantId) -> Option<PathBuf> {
        Some(data.home_image(tenant)).filter(|image| self.strict && image.exists())
    }

    fn openclaw(
        &self,
        data: &DataDir,
        order: &CellOrder,
        lock: Digest,
    ) -> Result<(RuntimePlan, bool), Failure> {
        openclaw::install::find(&self.cache_dir, lock).map_err(refused)?;
        let config = data.tenant_config(&order.tenant);
        let gateway = openclaw::config::Gateway {
            tenant: &order.tenant,
            slot: order.slot,
            edge_port: self.config.edge.listen.port(),
            domain: self.config.edge.domain.as_str(),
            scheme: "http",
            mcp: &self.config.runtime.openclaw.mcp,
        };
        let found = openclaw::config::reassert(&config, &gateway).map_err(refused)?;
        let drift = found == openclaw::config::Drift::Changed;
        if drift {
            tracing::warn!(tenant = %order.tenant, "the gateway's configuration had been changed, and is ours again");
        }
        Ok((self.gateway(data, &order.tenant, lock, order.limits)?, drift))
    }

    fn gateway(
        &self,
        data: &DataDir,
        tenant: &TenantId,
        lock: Digest,
        limits: Limits,
    ) -> Result<RuntimePlan, Failure> {
        openclaw::install::find(&self.cache_dir, lock).map_err(refused)?;
        let tree = openclaw::install::tree_path(&self.cache_dir, lock);
        Ok(RuntimePlan {
            argv: openclaw::gateway_argv(),
            env: openclaw::gateway_env(limits.memory_bytes),
            binds: vec![
                bind(&tree, openclaw::CELL_TREE)?,
                bind(&data.tenant_config(tenant), openclaw::CELL_CONFIG)?,
            ],
            port: openclaw::PORT,
        })
    }
}

/// The plan of the gateway in this very program.
pub(super) fn native() -> Result<RuntimePlan, Failure> {
    let program = std::env::current_exe();
    let program = program.map_err(|error| failure(format!("this program's own path: {error}")))?;
    Ok(RuntimePlan::native(bind(&program, CELL_PROGRAM)?))
}

/// The same, of a data directory.
pub fn instance(data_dir: &Path) -> String {
    let path = data_dir.as_os_str().as_encoded_bytes();
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, path);
    let first = digest.as_ref().first_chunk().copied().map_or(0, u64::from_be_bytes);
    format!("{first:016x}")
}

/// Of a core, in hundredths: what all tenants need together may take the machine.
const UNBOUND: u32 = 100_000;

/// An installed runtime that cannot be used.
pub(super) fn refused(error: openclaw::Error) -> Failure {
    let mend = match &error {
        // Says itself what mends it.
        openclaw::Error::Unsafe { .. } => String::new(),
        _ => "cofferdam runtime install openclaw".to_owned(),
    };
    Failure { message: error.to_string(), mend }
}

fn bind(source: &Path, target: &str) -> Result<Bind, Failure> {
    let checked = |path: PathBuf| AbsolutePath::try_from(path).map_err(failure);
    Ok(Bind { source: checked(source.to_owned())?, target: checked(target.into())? })
}

fn check_home(home: &Path, owner: u32, order: &CellOrder) -> Result<(), Failure> {
    let meta = std::fs::symlink_metadata(home)
        .map_err(|error| failure(format!("the home {} is not there: {error}", home.display())))?;
    if meta.is_dir() && meta.uid() == owner {
        return Ok(());
    }
    let (tenant, slot) = (&order.tenant, order.slot);
    Err(failure(format!(
        "the home {} is not a directory of uid {owner}, which is that of slot {slot}: {tenant} has another slot",
        home.display()
    )))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::tests::double::{order, slot, tenant};
    use super::*;

    fn host(dir: &Path) -> (Boot, DataDir) {
        let strict = rustix::process::geteuid().is_root();
        let text = "[runtime.command.echo]\nargv = [\"/opt/echo\"]\nport = 9000\n";
        let config = HostConfig::parse(Path::new("c"), text).unwrap();
        let (data_dir, cache_dir) = (dir.join("data"), dir.join("cache"));
        let boot = Boot { data_dir: data_dir.clone(), cache_dir, config, strict, builtin_model: false };
        let data = DataDir::create(&data_dir, boot.owners()).unwrap();
        (boot, data)
    }

    #[test]
    fn a_cell_is_built_from_the_hosts_own_configuration() {
        let dir = tempfile::tempdir().unwrap();
        let (boot, data) = host(dir.path());
        let refused = boot.cell(&data, &order("acme", 2, 1)).unwrap_err();
        assert!(refused.message.contains("is not there"), "{refused:?}");
        data.make_tenant(&tenant("acme"), boot.config.uids.base.tenant(slot(2))).unwrap();
        let spec = boot.cell(&data, &order("acme", 2, 1)).unwrap();
        assert_eq!((spec.home, spec.runtime.port, spec.drift), (data.home(&tenant("acme")), 9000, false));
        assert_eq!(spec.cgroup, format!("cofferdam.{}.acme", boot.instance()));
        assert_eq!(boot.instance().len(), 16);
        assert_eq!(spec.uid, boot.strict.then_some(1_500_131_074));
    }

    #[test]
    fn a_cell_sees_of_the_host_what_the_operator_offers_by_its_name_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let (mut boot, data) = host(dir.path());
        data.make_tenant(&tenant("acme"), boot.config.uids.base.tenant(slot(2))).unwrap();
        let offer = |boot: &mut Boot, name: &str, path: &Path| {
            let path = AbsolutePath::try_from(path.to_owned()).unwrap();
            boot.config.filesystem.insert(name.parse().unwrap(), path);
        };
        offer(&mut boot, "models", Path::new("/srv/models"));
        let asks = |names: &[&str]| {
            let offered = names.iter().map(|name| name.parse().unwrap()).collect();
            CellOrder { offered, ..order("acme", 2, 1) }
        };
        let offered = |names: &[&str]| boot.cell(&data, &asks(names)).map(|spec| spec.offered);
        assert_eq!(offered(&[]).unwrap(), []);
        let [shown] = offered(&["models"]).unwrap().try_into().unwrap();
        assert_eq!(
            (shown.source, shown.target, shown.access),
            (
                "/srv/models".into(),
                "/offered/models".into(),
                Access::Offered { apart_from: data.root().to_owned() }
            )
        );
        for (names, said) in [(&["else"][..], "offers no directory else"), (&["models"; 17], "at most 16")] {
            let refused = offered(names).unwrap_err();
            assert!(refused.message.contains(said), "{refused:?}");
        }
    }

    #[test]
    fn a_slot_that_is_not_the_tenants_opens_nobody_elses_home() {
        let dir = tempfile::tempdir().unwrap();
        let (boot, data) = host(dir.path());
        if !boot.strict {
            eprintln!("skipped: without root all tenants share one uid");
            return;
        }
        data.make_tenant(&tenant("acme"), boot.config.uids.base.tenant(slot(2))).unwrap();
        let refused = boot.cell(&data, &order("acme", 3, 1)).unwrap_err();
        assert!(refused.message.contains("acme has another slot"), "{refused:?}");
        boot.cell(&data, &order("acme", 2, 1)).unwrap();
    }

    #[test]
    fn an_openclaw_that_is_not_installed_is_refused_with_the_mend() {
        let dir = tempfile::tempdir().unwrap();
        let (boot, data) = host(dir.path());
        data.make_tenant(&tenant("acme"), boot.config.uids.base.tenant(slot(2))).unwrap();
        let runtime = RuntimeRef::Openclaw(Digest::from_bytes([7; 32]));
        let refused = boot.cell(&data, &CellOrder { runtime, ..order("acme", 2, 1) }).unwrap_err();
        assert!(refused.mend.contains("runtime install"), "{refused:?}");
    }

    #[test]
    fn each_part_has_its_entry_and_its_uid_and_control_reads_the_boot_back() {
        let dir = tempfile::tempdir().unwrap();
        let (boot, _) = host(dir.path());
        let boot = Boot { strict: true, ..boot };
        let control = boot.part(&Part::Control).unwrap();
        assert_eq!(serde_json::from_str::<Boot>(&control.arguments[1]).unwrap(), boot);
        let warden = boot.part(&Part::Warden(tenant("acme"), slot(2))).unwrap();
        assert_eq!(warden.arguments, ["__warden", "acme"]);
        assert_eq!((control.uid, warden.uid), (Some(1_500_000_000), Some(1_500_065_538)));
        let rootless = Boot { strict: false, ..boot };
        assert_eq!(rootless.part(&Part::Edge).unwrap().uid, None);
    }
}
