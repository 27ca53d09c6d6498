//! A home with a quota: a file system of its own, in a file of root's beside it.
//!
//! The file is as long as the home may be large, and sparse; its inodes are counted when it is made. It is mounted
//! detached, handed to the cell and nowhere else, so nothing stays mounted when the cell is gone, however it ended
//! (`docs/decisions/0008`). The threat: a tenant that fills the host's disk, or a file system that a tenant wrote
//! itself. A cell writes files, never the file that holds them, which is root's and 0600.

use crate::{Error, LayerFailure, Quota, error::Layer};
use cofferdam_base::ipc::{
    launcher::{Limits, Usage},
    receipt::{LayerRow, LayerState},
};
use cofferdam_sys::{
    loops,
    mount::{self, Attributes},
};
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read},
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::{FileExt, MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

/// The layer, as in the receipt.
pub const LAYER: &str = "home quota";
/// Blocks of this size, whatever the size of the file.
const BLOCK: u64 = 4096;
/// So many of them are a group, 32 MiB, and grow with their inodes together.
const GROUP: &str = "8192";
/// Where the program that makes the file system is, and nowhere else.
const MKFS: [&str; 2] = ["/usr/sbin/mkfs.ext4", "/sbin/mkfs.ext4"];
/// And that which makes it larger.
const RESIZE: [&str; 2] = ["/usr/sbin/resize2fs", "/sbin/resize2fs"];
/// Neither writes zeroes, so their time hardly grows with the size.
const PATIENCE: Duration = Duration::from_secs(20);
/// The kernel lets go of an image soon after the cell that had it is gone.
const LETTING_GO: Duration = Duration::from_secs(3);

/// What there is to say of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Geometry {
    /// The length of the file.
    bytes: u64,
    /// The blocks of the file system, which a crash may have kept from growing with the file.
    blocks: u64,
    /// So many blocks are a group,
    group: u64,
    /// and so many inodes each has.
    inodes: u64,
}

impl Geometry {
    /// How many inodes a file of so many bytes has.
    fn inodes_of(&self, bytes: u64) -> u64 {
        (bytes / BLOCK).div_ceil(self.group.max(1)).saturating_mul(self.inodes)
    }
}

/// What this machine lacks for a quota; nothing if it lacks nothing.
pub fn lacking() -> Option<&'static str> {
    let known = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    match () {
        () if found(MKFS).is_none() => Some("mkfs.ext4 is not here: install e2fsprogs"),
        () if !loops::available() => Some("there are no loop devices: modprobe loop"),
        () if !known.lines().any(|line| line.trim() == "ext4") => Some("no ext4 here: modprobe ext4"),
        () => None,
    }
}

/// Makes the image of a home, empty and its owner's, if it is not there. Until it is whole it has another name.
pub fn make(image: &Path, owner: (u32, u32), limits: &Limits) -> Result<(), Error> {
    if image.exists() {
        return Ok(());
    }
    let draft = draft(image);
    let made = (|| {
        match fs::remove_file(&draft) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&draft)?;
        file.set_len(limits.disk_bytes / BLOCK * BLOCK)?;
        format(&file, owner, limits)?;
        file.sync_all()?;
        drop(file);
        // Before anybody has written to it: what is taken away is what was just made.
        let root = mounted(&draft)?;
        rustix::fs::unlinkat(&root, "lost+found", AtFlags::REMOVEDIR)?;
        drop(root);
        fs::rename(&draft, image)
    })();
    made.map_err(Error::io(format!("making {}", image.display())))
}

/// The names that an image has, or had before it was whole, for whoever removes it.
pub(crate) const NAMES: [&str; 2] = ["home.img", "home.img.new"];

fn draft(image: &Path) -> PathBuf {
    image.with_extension("img.new")
}

fn found(programs: [&str; 2]) -> Option<&str> {
    programs.into_iter().find(|path| Path::new(path).exists())
}

/// The file system.
fn format(file: &File, (uid, gid): (u32, u32), limits: &Limits) -> io::Result<()> {
    let journal = format!("size={}", (limits.disk_bytes >> 27).clamp(4, 64));
    let extended = format!("lazy_itable_init=1,lazy_journal_init=1,nodiscard,root_owner={uid}:{gid}");
    let inodes = limits.inodes.to_string();
    let numbers = ["-J", &journal, "-N", &inodes, "-E", &extended];
    let arguments =
        ["-q", "-F", "-b", "4096", "-g", GROUP, "-I", "256", "-m", "0"].into_iter().chain(numbers);
    run(MKFS, &arguments.collect::<Vec<_>>(), file)
}

/// The file system as large as its file, where the kernel may not do it under a mount.
fn enlarge(image: &Path) -> io::Result<()> {
    let file = opened(image)?;
    // Held by the child as well: nobody mounts it meanwhile, also when we are gone.
    waited(|| Ok(rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?))?;
    run(RESIZE, &["-f"], &file)?;
    file.sync_all()
}

/// A program with an image as its input and nothing else of ours: one that outlives us can reach no other file.
#[expect(
    clippy::disallowed_methods,
    reason = "a fixed program with numbers for arguments, and no environment"
)]
fn run(programs: [&str; 2], arguments: &[&str], file: &File) -> io::Result<()> {
    let program = found(programs);
    let program =
        program.ok_or_else(|| io::Error::other(format!("{} is not here: install e2fsprogs", programs[0])))?;
    let mut child = Command::new(program)
        .args(arguments)
        .arg("/dev/stdin")
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::from(file.try_clone()?))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    let given_up = Instant::now() + PATIENCE;
    let status = loop {
        match child.try_wait()? {
            Some(status) => break status,
            None if Instant::now() > given_up => {
                child.kill()?;
                break child.wait()?;
            }
            None => std::thread::sleep(Duration::from_millis(1)),
        }
    };
    if status.success() {
        return Ok(());
    }
    let mut says = String::new();
    if let Some(errors) = child.stderr.take() {
        errors.take(500).read_to_string(&mut says)?;
    }
    Err(io::Error::other(format!("{program}: {status}: {}", says.trim())))
}

/// Tries until the kernel has let go of an image.
fn waited<T>(mut attempt: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let given_up = Instant::now() + LETTING_GO;
    loop {
        match attempt() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < given_up => {
                std::thread::sleep(Duration::from_millis(2));
            }
            other => return other,
        }
    }
}

/// Can a home that is this image be held to these limits?
pub fn check(image: &Path, limits: &Limits) -> Result<(), Error> {
    let file = opened(image).map_err(Error::io(image.display().to_string()))?;
    let now = geometry(&file).map_err(Error::io(image.display().to_string()))?;
    let refuse = |message: String, mend: String| Err(Error::Limits { what: LAYER.to_owned(), message, mend });
    let wanted = limits.disk_bytes / BLOCK * BLOCK;
    if wanted < now.bytes {
        return refuse(
            format!("/sandbox is {} bytes large, and cannot be made smaller", now.bytes),
            format!("take at least --disk {}, or make a tenant anew", now.bytes.div_ceil(1 << 20)),
        );
    }
    let given = now.inodes_of(wanted);
    if limits.inodes.abs_diff(given) > now.inodes + given / 20 {
        return refuse(
            format!("its inodes grow with its bytes alone: {given} are those of {wanted} bytes"),
            "leave --inodes out, or make a tenant anew".to_owned(),
        );
    }
    Ok(())
}

/// The content of an image as a detached tree, as large as the limits say.
pub(crate) fn mount(image: &Path, limits: &Limits) -> Result<OwnedFd, LayerFailure> {
    let mount = || {
        let file = opened(image)?;
        let wanted = limits.disk_bytes / BLOCK * BLOCK;
        if file.metadata()?.len() < wanted {
            file.set_len(wanted)?;
        }
        let Geometry { bytes, blocks, group: _, inodes: _ } = geometry(&file)?;
        drop(file);
        let root = mounted(image)?;
        if blocks < bytes / BLOCK {
            let top = rustix::fs::openat(&root, ".", TOP, Mode::empty())?;
            match loops::grow_ext4(top.as_fd(), bytes / BLOCK) {
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                    // The mount has mended what a crash left; so it can be done without one.
                    drop((top, root));
                    enlarge(image)?;
                    return mounted(image);
                }
                grown => grown?,
            }
        }
        Ok(root)
    };
    mount()
        .map_err(|error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", image.display())))
        .layer(LAYER)
}

const TOP: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

fn mounted(image: &Path) -> io::Result<OwnedFd> {
    let device = waited(|| loops::attach(opened(image)?.into()))?;
    let source = device.path.to_string_lossy();
    // What is freed inside is freed outside; tables of zeroes need no writing; a fault stops the writing.
    let options =
        [("source", source.as_ref()), ("discard", ""), ("noinit_itable", ""), ("errors", "remount-ro")];
    mount::create("ext4", &options, Attributes::MOUNT_ATTR_NOSUID | Attributes::MOUNT_ATTR_NODEV)
}

/// Root's own file, or none.
fn opened(image: &Path) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW.bits().cast_signed();
    let file = OpenOptions::new().read(true).write(true).custom_flags(flags).open(image)?;
    let meta = file.metadata()?;
    if !meta.is_file() || meta.uid() != 0 || meta.mode() & 0o077 != 0 {
        return Err(io::Error::other("it is no file of root's alone"));
    }
    Ok(file)
}

/// Of the superblock, which lies 1024 bytes into the file; see `Documentation/filesystems/ext4`.
fn geometry(file: &File) -> io::Result<Geometry> {
    let mut block = [0; 0x154];
    file.read_exact_at(&mut block, 1024)?;
    let number = |at: usize| {
        let bytes = block.get(at..at + 4).and_then(|bytes| bytes.first_chunk().copied());
        bytes.map_or(0, u32::from_le_bytes)
    };
    // The magic number, and the size of a block as a power of two above 1024.
    if number(0x38) & 0xffff != 0xef53 || number(0x18) != 2 {
        return Err(io::Error::other("it holds no file system of ours"));
    }
    let blocks = u64::from(number(0x4)) | u64::from(number(0x150)) << 32;
    let (group, inodes) = (number(0x20).into(), number(0x28).into());
    Ok(Geometry { bytes: file.metadata()?.len(), blocks, group, inodes })
}

/// Grows the home of a running cell. False if it will at its next start: the kernel asks for `CAP_SYS_RESOURCE`.
pub(crate) fn grow(pid: i32, image: &Path, limits: &Limits) -> Result<bool, Error> {
    check(image, limits)?;
    let grow = || {
        let file = opened(image)?;
        let wanted = limits.disk_bytes / BLOCK * BLOCK;
        let now = file.metadata()?.len();
        if now == wanted {
            return Ok(true);
        }
        let top = top_of(pid)?;
        // Asked for the size that it has, it only says whether it would.
        match loops::grow_ext4(top.as_fd(), now / BLOCK) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Ok(false),
            may => may?,
        }
        file.set_len(wanted)?;
        loops::grown(top.as_fd(), file.as_fd())?;
        loops::grow_ext4(top.as_fd(), wanted / BLOCK)?;
        Ok(true)
    };
    grow().map_err(|error: io::Error| Error::Limits {
        what: LAYER.to_owned(),
        message: format!("{}: {error}", image.display()),
        mend: "stop the tenant, set its limits and start it again".to_owned(),
    })
}

/// The top directory of a cell's home: a mount in a root that nobody in the cell can change.
fn top_of(pid: i32) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(format!("/proc/{pid}/root/sandbox"), TOP, Mode::empty())?)
}

/// Adds what a running cell's home uses; nothing if the cell has just ended.
pub(crate) fn usage(pid: i32, image: &Path, usage: &mut Usage) {
    let Ok(stat) = top_of(pid).and_then(|top| Ok(rustix::fs::fstatvfs(top)?)) else { return };
    let Ok(bytes) = fs::metadata(image).map(|meta| meta.len()) else { return };
    usage.disk_bytes = Some(bytes.saturating_sub(stat.f_bfree.saturating_mul(stat.f_frsize)));
    usage.inodes = Some(stat.f_files.saturating_sub(stat.f_ffree));
}

/// The receipt's row; none for a scratch cell.
pub(crate) fn row(quota: &Quota) -> Option<LayerRow> {
    let (state, detail) = match quota {
        Quota::Scratch => return None,
        Quota::None { why } => (LayerState::Absent, why.clone()),
        Quota::Image(image) => match opened(image).and_then(|file| geometry(&file)) {
            Ok(now) => {
                let inodes = now.inodes_of(now.bytes);
                (LayerState::Enforced, format!("{} bytes, {inodes} inodes, an image of its own", now.bytes))
            }
            Err(error) => (LayerState::Partial, format!("the image cannot be read any more: {error}")),
        },
    };
    Some(LayerRow { layer: LAYER.to_owned(), state, detail })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn made(limits: &Limits) -> Option<(tempfile::TempDir, PathBuf)> {
        if !rustix::process::geteuid().is_root() || lacking().is_some() {
            eprintln!("skipped: an image needs root, mkfs.ext4 and loop devices");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("home.img");
        make(&image, (20_001, 20_001), limits).unwrap();
        Some((dir, image))
    }

    const SMALL: u64 = 64 << 20;

    fn small() -> Limits {
        Limits { disk_bytes: SMALL, inodes: 2048, ..Limits::default() }
    }

    #[test]
    fn an_image_is_roots_alone_sparse_and_as_large_as_was_asked_for() {
        let Some((dir, image)) = made(&small()) else { return };
        let meta = fs::metadata(&image).unwrap();
        assert_eq!((meta.uid(), meta.mode() & 0o777, meta.len()), (0, 0o600, SMALL));
        assert!(meta.blocks() * 512 < SMALL / 4, "{}", meta.blocks());
        let now = geometry(&File::open(&image).unwrap()).unwrap();
        assert_eq!((now.bytes, now.blocks * BLOCK), (SMALL, SMALL));
        assert!((2048..2200).contains(&now.inodes_of(SMALL)), "{now:?}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        // Made again it stays what it is.
        make(&image, (1, 1), &Limits::default()).unwrap();
        assert_eq!(fs::metadata(&image).unwrap().ino(), meta.ino());
    }

    #[test]
    fn what_a_crash_left_half_made_is_made_anew() {
        let Some((dir, image)) = made(&small()) else { return };
        fs::remove_file(&image).unwrap();
        fs::write(dir.path().join("home.img.new"), "half").unwrap();
        make(&image, (20_001, 20_001), &small()).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn an_image_is_mounted_once_and_again_when_it_was_let_go() {
        let Some((_dir, image)) = made(&small()) else { return };
        let first = mount(&image, &small()).unwrap();
        let second = loops::attach(opened(&image).unwrap().into());
        assert_eq!(second.unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(first);
        drop(mount(&image, &small()).unwrap());
    }

    #[test]
    fn an_image_grows_at_its_next_mount_also_when_a_crash_came_between() {
        let Some((_dir, image)) = made(&small()) else { return };
        let free = |limits: &Limits| {
            let root = mount(&image, limits).unwrap();
            rustix::fs::fstatvfs(&root).unwrap().f_bfree * BLOCK
        };
        let before = free(&small());
        let larger = Limits { disk_bytes: 2 * SMALL, inodes: 4096, ..small() };
        check(&image, &larger).unwrap();
        // The file has grown, and then the machine stopped.
        opened(&image).unwrap().set_len(2 * SMALL).unwrap();
        assert!(free(&larger) > before + SMALL / 2);
        let failure = check(&image, &small()).unwrap_err();
        assert!(failure.to_string().contains("cannot be made smaller"), "{failure}");
        let more = Limits { inodes: 90_000, ..larger };
        assert!(check(&image, &more).unwrap_err().to_string().contains("inodes"));
    }

    #[test]
    fn what_is_no_image_of_ours_is_not_mounted() {
        let Some((dir, image)) = made(&small()) else { return };
        let link = dir.path().join("link.img");
        std::os::unix::fs::symlink(&image, &link).unwrap();
        assert!(mount(&link, &small()).is_err());
        let zero = dir.path().join("zero.img");
        fs::copy(&image, &zero).unwrap();
        OpenOptions::new().write(true).open(&zero).unwrap().write_all_at(&[0; 2048], 0).unwrap();
        assert_eq!(mount(&zero, &small()).unwrap_err().layer, LAYER);
        std::os::unix::fs::chown(&image, Some(20_001), None).unwrap();
        assert!(mount(&image, &small()).is_err());
    }
}
