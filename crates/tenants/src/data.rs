//! The data directory: its layout, who owns what, and the lock that keeps a second launcher out.
//!
//! ```text
//! cofferdam.toml          root's
//! lock                    held by the launcher
//! control/          0700  control's: state.db, ledger/, keys/, backups/
//! logs/             0750  root's, control may read: <id>.log
//! tenants/          0700  root's: nobody else passes, so a home is reached through a cell only
//!   <id>/           0711  root's
//!     home/         0700  the tenant's: the cell's /sandbox
//!     home.img      0600  root's: what is in it, if that has a quota
//!     config/       0755  root's: bound read-only into the cell
//! run/              0711  control's: control.sock
//! ```
//!
//! Without root everything is one user's, and the directory itself is 0700. The threat: a directory that
//! somebody else owns or may write to, so that they choose what root reads and runs; it is refused with the
//! command that mends it, never silently taken over. What is inside `home` is no concern of this module.

use crate::{Error, config, uids::Uids};
use cofferdam_base::TenantId;
use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

/// A data directory whose layout was checked.
#[derive(Debug, Clone)]
pub struct DataDir {
    root: PathBuf,
    owners: Owners,
}

/// What is planted in a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Planted {
    /// Files that hold placeholders.
    Placeholders,
    /// Files that hold canaries.
    Canaries,
}

/// To whom the parts belong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owners {
    /// Root, and the uids of the configuration.
    Apart(Uids),
    /// Whoever runs this program.
    OneUser,
}

/// Keeps other launchers away while it lives; the kernel releases it when the process is gone.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl DataDir {
    /// Makes what is missing of the layout and checks the rest.
    pub fn create(root: &Path, owners: Owners) -> Result<Self, Error> {
        let dir = Self { root: root.to_owned(), owners };
        let me = rustix::process::geteuid().as_raw();
        let (control, outer) = match owners {
            Owners::Apart(uids) => (uids.control(), 0o711),
            Owners::OneUser => (me, 0o700),
        };
        if let Some(parent) = root.parent() {
            fs::create_dir_all(parent).map_err(Error::io(parent))?;
        }
        directory(root, outer, me, me)?;
        directory(&dir.control(), 0o700, control, control)?;
        directory(&dir.tenants(), 0o700, me, me)?;
        directory(&dir.run(), outer, control, control)?;
        directory(&dir.logs(), 0o750, me, control)?;
        Ok(dir)
    }

    /// Checks a layout that must be there.
    pub fn open(root: &Path, owners: Owners) -> Result<Self, Error> {
        fs::symlink_metadata(root).map_err(Error::io(root))?;
        Self::create(root, owners)
    }

    /// Becomes the only launcher on this directory, or fails with [`Error::Conflict`].
    pub fn lock(&self) -> Result<Lock, Error> {
        let path = self.root.join("lock");
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed())
            .open(&path)
            .map_err(Error::io(&path))?;
        match file.try_lock() {
            Ok(()) => Ok(Lock { _file: file }),
            Err(TryLockError::WouldBlock) => Err(Error::Conflict(self.root.clone())),
            Err(TryLockError::Error(error)) => Err(Error::io(path)(error)),
        }
    }

    /// Makes a tenant's directories if they are not there. Both are ours until the last step, and their
    /// parent is not the tenant's, so no code of a tenant can have put something in the way.
    pub fn make_tenant(&self, tenant: &TenantId, uid: u32) -> Result<(), Error> {
        self.prepare_tenant(tenant)?;
        let owner = match self.owners {
            Owners::Apart(_) => uid,
            Owners::OneUser => rustix::process::geteuid().as_raw(),
        };
        directory(&self.home(tenant), 0o700, owner, owner)
    }

    /// The same, but for the home: a home that is there is one that is finished.
    pub(crate) fn prepare_tenant(&self, tenant: &TenantId) -> Result<(), Error> {
        let me = rustix::process::geteuid().as_raw();
        let (outer, shared) = match self.owners {
            Owners::Apart(_) => (0o711, 0o755),
            Owners::OneUser => (0o700, 0o700),
        };
        directory(&self.tenant(tenant), outer, me, me)?;
        directory(&self.tenant_config(tenant), shared, me, me)
    }

    /// Makes the files of this kind that a cell finds, and no others; none: no directory either.
    pub(crate) fn plant(
        &self,
        tenant: &TenantId,
        kind: Planted,
        files: &[(&str, String)],
    ) -> Result<Option<PathBuf>, Error> {
        let path = self.planted(tenant, kind);
        match fs::remove_dir_all(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(Error::io(&path)(error)),
            _ => {}
        }
        if files.is_empty() {
            return Ok(None);
        }
        let me = rustix::process::geteuid().as_raw();
        let (outer, inner) = match self.owners {
            Owners::Apart(_) => (0o755, 0o644),
            Owners::OneUser => (0o700, 0o600),
        };
        directory(&path, outer, me, me)?;
        for (name, text) in files {
            let file = path.join(name);
            let write = || {
                fs::write(&file, text)?;
                fs::set_permissions(&file, fs::Permissions::from_mode(inner))
            };
            write().map_err(Error::io(&file))?;
        }
        Ok(Some(path))
    }

    /// Removes what is ours of a tenant: its configuration, its placeholders and its log. Its home is the engine's to remove.
    pub fn forget_tenant(&self, tenant: &TenantId) -> Result<(), Error> {
        let gone = |path: &Path, outcome: io::Result<()>| match outcome {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io(path)(error)),
            _ => Ok(()),
        };
        let config = self.tenant_config(tenant);
        gone(&config, fs::remove_dir_all(&config))?;
        for kind in [Planted::Placeholders, Planted::Canaries] {
            let planted = self.planted(tenant, kind);
            gone(&planted, fs::remove_dir_all(&planted))?;
        }
        for log in [self.log(tenant), self.log(tenant).with_extension("log.1")] {
            gone(&log, fs::remove_file(&log))?;
        }
        Ok(())
    }

    /// The directory itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// To whom the parts belong.
    pub fn owners(&self) -> Owners {
        self.owners
    }

    /// `cofferdam.toml`.
    pub fn config_file(&self) -> PathBuf {
        self.root.join(config::FILE)
    }

    /// What is control's.
    pub fn control(&self) -> PathBuf {
        self.root.join("control")
    }

    /// All tenants.
    pub fn tenants(&self) -> PathBuf {
        self.root.join("tenants")
    }

    /// One tenant's directory.
    pub fn tenant(&self, tenant: &TenantId) -> PathBuf {
        self.tenants().join(tenant.as_str())
    }

    /// One tenant's home, the cell's `/sandbox`.
    pub fn home(&self, tenant: &TenantId) -> PathBuf {
        self.tenant(tenant).join("home")
    }

    /// The file that holds the home of a tenant with a quota; the home itself is then an empty directory.
    pub fn home_image(&self, tenant: &TenantId) -> PathBuf {
        self.tenant(tenant).join("home.img")
    }

    /// What a runtime of one tenant is told, bound read-only into the cell.
    pub fn tenant_config(&self, tenant: &TenantId) -> PathBuf {
        self.tenant(tenant).join("config")
    }

    /// The files of what one tenant's cell trusts.
    pub fn trust(&self, tenant: &TenantId) -> PathBuf {
        self.tenant_config(tenant).join("trust")
    }

    /// The directory of ours whose files a tenant's cell finds.
    fn planted(&self, tenant: &TenantId, kind: Planted) -> PathBuf {
        self.tenant(tenant).join(match kind {
            Planted::Placeholders => "placeholders",
            Planted::Canaries => "canaries",
        })
    }

    /// What lives as long as the host runs.
    pub fn run(&self) -> PathBuf {
        self.root.join("run")
    }

    /// Where control answers the command line.
    pub fn control_socket(&self) -> PathBuf {
        self.run().join("control.sock")
    }

    /// The output of cells. Not below `run`, whose owner could put a link in its place.
    pub fn logs(&self) -> PathBuf {
        self.root.join("logs")
    }

    /// One tenant's output.
    pub fn log(&self, tenant: &TenantId) -> PathBuf {
        self.logs().join(format!("{tenant}.log"))
    }
}

/// Makes a directory that is not there; checks one that is.
fn directory(path: &Path, mode: u32, uid: u32, gid: u32) -> Result<(), Error> {
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => {
            let opened = open_directory(path)?;
            std::os::unix::fs::fchown(&opened, Some(uid), Some(gid)).map_err(Error::io(path))?;
            opened.set_permissions(fs::Permissions::from_mode(mode)).map_err(Error::io(path))
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => check(path, mode, uid, gid),
        Err(error) => Err(Error::io(path)(error)),
    }
}

fn check(path: &Path, mode: u32, uid: u32, gid: u32) -> Result<(), Error> {
    let unsafe_ = |what: String, mend: String| Err(Error::Unsafe { path: path.to_owned(), what, mend });
    let shown = path.display();
    let meta = fs::symlink_metadata(path).map_err(Error::io(path))?;
    if !meta.is_dir() {
        return unsafe_("is no directory".to_owned(), format!("mv {shown} {shown}.old"));
    }
    let opened = open_directory(path)?;
    let meta = opened.metadata().map_err(Error::io(path))?;
    let me = rustix::process::geteuid().as_raw();
    // A death between the two steps of making it leaves it ours.
    if meta.uid() != uid && !(meta.uid() == me && is_empty(path)?) {
        return unsafe_(
            format!("belongs to uid {} where it should be {uid}'s", meta.uid()),
            format!("chown -R {uid}:{gid} {shown}"),
        );
    }
    if meta.mode() & 0o022 != 0 {
        return unsafe_("may be written by others".to_owned(), format!("chmod {mode:o} {shown}"));
    }
    std::os::unix::fs::fchown(&opened, Some(uid), Some(gid)).map_err(Error::io(path))?;
    opened.set_permissions(fs::Permissions::from_mode(mode)).map_err(Error::io(path))
}

fn is_empty(path: &Path) -> Result<bool, Error> {
    Ok(fs::read_dir(path).map_err(Error::io(path))?.next().is_none())
}

fn open_directory(path: &Path) -> Result<File, Error> {
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::DIRECTORY;
    OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path).map_err(Error::io(path))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn root() -> bool {
        rustix::process::geteuid().is_root()
    }

    fn owners() -> Owners {
        if root() { Owners::Apart(Uids::default()) } else { Owners::OneUser }
    }

    fn made() -> (tempfile::TempDir, DataDir) {
        let outer = tempfile::tempdir().unwrap();
        let dir = DataDir::create(&outer.path().join("data"), owners()).unwrap();
        (outer, dir)
    }

    fn acme() -> TenantId {
        TenantId::try_from("acme").unwrap()
    }

    #[test]
    fn what_was_created_opens_again_and_each_part_has_its_owner() {
        let (_outer, dir) = made();
        DataDir::open(dir.root(), owners()).unwrap();
        if root() {
            let of = |path: PathBuf| {
                let meta = fs::metadata(path).unwrap();
                (meta.uid(), meta.mode() & 0o7777)
            };
            assert_eq!(of(dir.root().to_owned()), (0, 0o711));
            assert_eq!(of(dir.control()), (1_500_000_000, 0o700));
            assert_eq!(of(dir.tenants()), (0, 0o700));
            assert_eq!(of(dir.logs()), (0, 0o750));
            dir.make_tenant(&acme(), 1_500_131_074).unwrap();
            dir.make_tenant(&acme(), 1_500_131_074).unwrap();
            assert_eq!(of(dir.home(&acme())), (1_500_131_074, 0o700));
            assert_eq!(of(dir.tenant_config(&acme())), (0, 0o755));
        }
    }

    #[test]
    fn a_directory_that_is_not_there_is_created_but_never_opened() {
        let outer = tempfile::tempdir().unwrap();
        assert!(matches!(DataDir::open(&outer.path().join("none"), owners()), Err(Error::Io { .. })));
    }

    #[test]
    fn a_directory_that_others_may_write_is_refused_with_the_mend() {
        let (_outer, dir) = made();
        fs::set_permissions(dir.tenants(), fs::Permissions::from_mode(0o777)).unwrap();
        let error = DataDir::open(dir.root(), owners()).unwrap_err();
        assert!(error.to_string().contains("mend it with: chmod 7"), "{error}");
        fs::set_permissions(dir.tenants(), fs::Permissions::from_mode(0o700)).unwrap();
        DataDir::open(dir.root(), owners()).unwrap();
    }

    #[test]
    fn a_link_in_the_place_of_a_directory_is_refused() {
        let (outer, dir) = made();
        fs::remove_dir(dir.logs()).unwrap();
        std::os::unix::fs::symlink(outer.path(), dir.logs()).unwrap();
        assert!(matches!(DataDir::open(dir.root(), owners()), Err(Error::Unsafe { .. })));
    }

    #[test]
    fn somebody_elses_directory_is_refused() {
        if !root() {
            eprintln!("skipped: only root can give a directory away");
            return;
        }
        let (_outer, dir) = made();
        fs::write(dir.tenants().join("x"), "").unwrap();
        std::os::unix::fs::chown(dir.tenants(), Some(65_534), None).unwrap();
        let error = DataDir::open(dir.root(), owners()).unwrap_err().to_string();
        assert!(error.contains("belongs to uid 65534") && error.contains("chown -R 0:0"), "{error}");
    }

    #[test]
    fn a_second_launcher_is_a_conflict_until_the_first_is_gone() {
        let (_outer, dir) = made();
        let lock = dir.lock().unwrap();
        assert!(matches!(dir.lock(), Err(Error::Conflict(_))));
        drop(lock);
        dir.lock().unwrap();
    }

    #[test]
    fn a_forgotten_tenant_leaves_its_home_only_and_is_forgotten_twice_without_complaint() {
        let (_outer, dir) = made();
        dir.make_tenant(&acme(), 1_500_131_074).unwrap();
        fs::write(dir.log(&acme()), "out").unwrap();
        dir.forget_tenant(&acme()).unwrap();
        dir.forget_tenant(&acme()).unwrap();
        assert!(dir.home(&acme()).exists());
        assert!(!dir.tenant_config(&acme()).exists() && !dir.log(&acme()).exists());
    }
}
