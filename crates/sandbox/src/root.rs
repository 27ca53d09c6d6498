//! The root that a cell sees: a small tmpfs with the host's `/usr`, its own `/etc`, `/dev`, `/tmp`, and `crate::proc`.
//!
//! Sources are listed by the launcher ([`sources`]) and attached by init ([`build`]). The traps it avoids: a
//! root that stays writable because a later mount made it so (read-only comes last, and is proved), and host
//! files that come along with a directory (`/etc` and `/dev` are made, not copied).

use crate::{
    Access, CellPlan, Protection,
    error::{Layer, LayerFailure},
    offered, proc,
    wire::{Kind, Link, Mount},
};
use cofferdam_sys::{
    clone::INNER_ID,
    mount::{self, Attributes},
};
use rustix::fs::{Mode, OFlags};
use std::{
    fs, io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

/// Where host trees lie in a cell as they do on the host.
const TREES: [&str; 5] = ["/usr", "/bin", "/sbin", "/lib", "/lib64"];
/// What of the host's `/etc` is shown: nothing that names the host, its users or its network.
const ETC: [&str; 5] =
    ["/etc/ssl/certs", "/etc/ssl/openssl.cnf", "/etc/alternatives", "/etc/ld.so.cache", "/etc/localtime"];
const DEVICES: [&str; 5] = ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"];
/// The mounts of a plan, and the links that the host has in place of directories.
pub(crate) fn sources(plan: &CellPlan) -> (Vec<Mount>, Vec<Link>) {
    let mut mounts = Vec::new();
    let mut links = Vec::new();
    let host = |path: &str, kind| Mount { source: path.into(), target: path.into(), kind };
    for tree in TREES {
        match fs::read_link(tree) {
            Ok(target) => links.push((tree.into(), target)),
            Err(_) if Path::new(tree).is_dir() => mounts.push(host(tree, Kind::Host)),
            Err(_) => {}
        }
    }
    mounts.extend(ETC.into_iter().filter(|path| Path::new(path).exists()).map(|path| host(path, Kind::Host)));
    mounts.extend(DEVICES.into_iter().map(|path| host(path, Kind::Device)));
    mounts.push(Mount { source: plan.home.clone(), target: "/sandbox".into(), kind: Kind::ReadWrite });
    mounts.extend(plan.binds.iter().map(|bind| Mount {
        source: bind.source.clone(),
        target: bind.target.clone(),
        kind: match &bind.access {
            Access::ReadOnly => Kind::ReadOnly,
            Access::Offered { apart_from } => Kind::Offered(apart_from.clone()),
            Access::ReadWrite => Kind::ReadWrite,
        },
    }));
    (mounts, links)
}

/// Opens a source: detached, and restricted before anybody can reach it.
pub(crate) fn open(plan: &CellPlan, mount: &Mount) -> Result<OwnedFd, LayerFailure> {
    let safe = safe(plan);
    let read_only = if plan.keeps(Protection::ReadOnlyTrees) {
        Attributes::MOUNT_ATTR_RDONLY
    } else {
        Attributes::empty()
    };
    let device = Attributes::MOUNT_ATTR_NOSUID | Attributes::MOUNT_ATTR_NOEXEC;
    let opened = match &mount.kind {
        Kind::Host => mount::copy(&mount.source, true, safe | read_only),
        Kind::Device => mount::copy(&mount.source, true, device),
        Kind::ReadOnly => mount::copy(&mount.source, false, safe | read_only),
        Kind::ReadWrite => mount::copy(&mount.source, false, safe),
        Kind::Offered(apart_from) => {
            let own_files = plan.keeps(Protection::OwnFiles);
            offered::open(&mount.source, apart_from, own_files, safe | read_only)
        }
    };
    opened
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", mount.source.display())))
        .layer("mount namespace")
}

/// What every mount that is not a device has.
fn safe(plan: &CellPlan) -> Attributes {
    let mut safe = Attributes::empty();
    safe.set(Attributes::MOUNT_ATTR_NOSUID, plan.keeps(Protection::Nosuid));
    safe.set(Attributes::MOUNT_ATTR_NODEV, plan.keeps(Protection::Nodev));
    safe
}

/// Makes the new root, with all that needs no source.
pub(crate) fn begin(plan: &CellPlan, links: &[Link]) -> Result<OwnedFd, LayerFailure> {
    let options = [("size", "1m"), ("nr_inodes", "512"), ("mode", "0755")];
    let root = mount::create("tmpfs", &options, safe(plan)).layer("mount namespace")?;
    populate(plan, root.as_fd(), links).layer("mount namespace")?;
    Ok(root)
}

/// Builds what [`begin`] began and moves into it. `trees` are the opened sources; without them init opens its own.
/// `made` is its `/proc` if that was made early.
pub(crate) fn build(
    plan: &CellPlan,
    root: OwnedFd,
    mounts: &[Mount],
    trees: Vec<OwnedFd>,
    made: Option<OwnedFd>,
) -> Result<(), LayerFailure> {
    let trees = if trees.is_empty() {
        mounts.iter().map(|mount| open(plan, mount)).collect::<Result<_, _>>()?
    } else {
        trees
    };
    mount::make_private().layer("mount namespace")?;
    let below = root.as_fd();
    // Until it is the root it needs a place in the tree: any that exists. Sources are open already.
    mount::attach_at(below, Path::new("/usr")).layer("mount namespace")?;
    for (mount, tree) in mounts.iter().zip(&trees) {
        place_for(below, &mount.target, tree.as_fd())
            .and_then(|()| mount::attach(tree.as_fd(), below, relative(&mount.target)))
            .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", mount.target.display())))
            .layer("mount namespace")?;
    }
    processes(plan, below, made)?;
    let size = if plan.keeps(Protection::TmpSize) { plan.limits.tmp_bytes } else { 1 << 40 }.to_string();
    let tmp =
        mount::create("tmpfs", &[("size", &size), ("nr_inodes", "65536"), ("mode", "1777")], safe(plan))
            .layer("mount namespace")?;
    mount::attach(tmp.as_fd(), below, Path::new("tmp")).layer("mount namespace")?;
    mount::become_root(below).layer("mount namespace")?;
    if !plan.keeps(Protection::ReadOnlyRoot) {
        return Ok(());
    }
    // Last, and proved: everything above was made through this very mount.
    mount::restrict(below, Attributes::MOUNT_ATTR_RDONLY, false).layer("mount namespace")?;
    match rustix::fs::mkdirat(below, "proof", Mode::RWXU) {
        Err(rustix::io::Errno::ROFS) => Ok(()),
        _ => Err(io::Error::other("the root stayed writable")).layer("mount namespace"),
    }
}

fn relative(target: &Path) -> &Path {
    target.strip_prefix("/").unwrap_or(target)
}

/// Makes the directories up to a target, and at the target what the tree is: a directory or a file.
fn place_for(root: BorrowedFd<'_>, target: &Path, tree: BorrowedFd<'_>) -> io::Result<()> {
    let target = relative(target);
    for parent in target.ancestors().skip(1).collect::<Vec<_>>().into_iter().rev() {
        if !parent.as_os_str().is_empty() {
            exists(rustix::fs::mkdirat(root, parent, Mode::from_raw_mode(0o755)))?;
        }
    }
    let kind = rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(tree)?.st_mode);
    if kind == rustix::fs::FileType::Directory {
        exists(rustix::fs::mkdirat(root, target, Mode::from_raw_mode(0o755)))
    } else {
        // One that is there stays as it is, below what is attached.
        match rustix::fs::statat(root, target, rustix::fs::AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if rustix::fs::FileType::from_raw_mode(stat.st_mode) == kind => Ok(()),
            _ => write(root, target, ""),
        }
    }
}

/// What is there already, or lies in a read-only mount, is judged by the attaching that follows.
fn exists(made: rustix::io::Result<()>) -> io::Result<()> {
    match made {
        Err(rustix::io::Errno::EXIST | rustix::io::Errno::ROFS) | Ok(()) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

fn write(root: BorrowedFd<'_>, path: &Path, text: &str) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = rustix::fs::openat(root, path, flags, Mode::from_raw_mode(0o644))?;
    if !text.is_empty() {
        io::Write::write_all(&mut fs::File::from(file), text.as_bytes())?;
    }
    Ok(())
}

fn populate(plan: &CellPlan, root: BorrowedFd<'_>, links: &[Link]) -> io::Result<()> {
    for directory in ["dev", "etc", "proc", "tmp", "sandbox"] {
        rustix::fs::mkdirat(root, directory, Mode::from_raw_mode(0o755))?;
    }
    for (link, target) in links {
        rustix::fs::symlinkat(target, root, relative(link))?;
    }
    for (link, target) in [
        ("dev/fd", "/proc/self/fd"),
        ("dev/stdin", "/proc/self/fd/0"),
        ("dev/stdout", "/proc/self/fd/1"),
        ("dev/stderr", "/proc/self/fd/2"),
        ("etc/mtab", "/proc/self/mounts"),
    ] {
        rustix::fs::symlinkat(target, root, link)?;
    }
    let id = INNER_ID;
    for (file, text) in [
        (
            "etc/passwd",
            format!("agent:x:{id}:{id}:agent:/sandbox:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n"),
        ),
        ("etc/group", format!("agent:x:{id}:\nnogroup:x:65534:\n")),
        ("etc/hosts", format!("127.0.0.1 localhost {}\n::1 localhost\n", plan.hostname)),
        ("etc/hostname", format!("{}\n", plan.hostname)),
        ("etc/resolv.conf", "nameserver 127.0.0.1\noptions timeout:40 attempts:1\n".into()),
        ("etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n".into()),
    ] {
        write(root, Path::new(file), &text)?;
    }
    Ok(())
}

/// The pid namespace's own `/proc`.
fn processes(plan: &CellPlan, root: BorrowedFd<'_>, made: Option<OwnedFd>) -> Result<(), LayerFailure> {
    let place = |proc: &OwnedFd| mount::attach(proc.as_fd(), root, Path::new("proc")).layer("proc");
    if let Some(proc) = made {
        return place(&proc);
    }
    let keeps = |protection| plan.keeps(protection);
    let proc = proc::mount(keeps)?;
    place(&proc)?;
    let null =
        rustix::fs::openat(root, "dev/null", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).layer("proc")?;
    proc::cover(proc.as_fd(), null.as_fd(), keeps)
}
