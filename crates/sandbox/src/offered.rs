//! A directory that the operator offers: its files as they lie on the host, and nothing behind their names that lives
//! there.
//!
//! It is shown as the layer of an overlay of the cell's own, so to the kernel each file in it is another one than the
//! host's: behind a socket nobody listens, behind a named pipe nobody writes, and no lock is anybody else's. What is
//! mounted below it is not seen. The threats: a way past the warden through a socket of the host, which neither a
//! read-only mount nor Landlock closes; and a directory that turns out to be the host's own, whatever it is called.

use cofferdam_sys::mount::{self, Attributes};
use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, StatxFlags};
use std::{
    fs, io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::ffi::{OsStrExt, OsStringExt},
    },
    path::{Path, PathBuf},
};

/// Opens a directory, which must be apart from what is the host's own: detached, and restricted before anybody can
/// reach it. `own_files` says whether its files become the cell's own.
pub(crate) fn open(
    source: &Path,
    apart_from: &Path,
    own_files: bool,
    attributes: Attributes,
) -> io::Result<OwnedFd> {
    let source = directory(source, ResolveFlags::NO_SYMLINKS)?;
    apart(source.as_fd(), apart_from)?;
    if !own_files {
        return mount::copy_of(source.as_fd(), attributes);
    }
    // An overlay that is never written to needs two layers; this one is empty.
    let nothing = mount::create("tmpfs", &[("mode", "0555"), ("size", "4k")], Attributes::empty())?;
    let layers = format!("{}:{}", in_proc(source.as_fd()), in_proc(nothing.as_fd()));
    let options = [
        ("ro", ""),
        ("lowerdir", &layers),
        // Nothing in the directory says where its content is.
        ("redirect_dir", "nofollow"),
        ("metacopy", "off"),
        ("index", "off"),
        ("xino", "off"),
    ];
    mount::create("overlay", &options, attributes)
        .map_err(|error| io::Error::new(error.kind(), format!("an overlay, which needs Linux 6.15: {error}")))
}

/// Refuses a directory that holds what is the host's own, or is a part of it: by its path, and by where it lies in its
/// file system, however that is mounted. What cannot be found out is refused.
fn apart(offered: BorrowedFd<'_>, own: &Path) -> io::Result<()> {
    let own = directory(own, ResolveFlags::NO_MAGICLINKS)?;
    let mounts = mounts(&fs::read("/proc/self/mountinfo")?)?;
    let (offered_path, own_path) = (path_of(offered)?, path_of(own.as_fd())?);
    let place = place_of(offered, &mounts)?;
    let below = mounts.iter().filter(|mount| mount.at.starts_with(&own_path)).map(|mount| &mount.place);
    let touches = [place_of(own.as_fd(), &mounts)?].iter().chain(below).any(|own| own.touches(&place));
    if touches || one_holds_the_other(&offered_path, &own_path) {
        return Err(io::Error::other("it holds what is this host's own, or is a part of it"));
    }
    Ok(())
}

/// Where something lies in its file system, whatever the mount through which it is seen.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    device: String,
    path: PathBuf,
}

impl Place {
    fn touches(&self, other: &Self) -> bool {
        self.device == other.device && one_holds_the_other(&self.path, &other.path)
    }
}

fn one_holds_the_other(one: &Path, other: &Path) -> bool {
    one.starts_with(other) || other.starts_with(one)
}

/// A line of `/proc/self/mountinfo`.
#[derive(Debug, PartialEq, Eq)]
struct Mounted {
    id: u64,
    place: Place,
    at: PathBuf,
}

/// `36 35 98:0 /root/in/its/file/system /where/it/is/seen …`
fn mounts(text: &[u8]) -> io::Result<Vec<Mounted>> {
    let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let parsed = lines.map(|line| {
        let mut fields = line.split(|byte| *byte == b' ');
        let id = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
        let device = String::from_utf8(fields.nth(1)?.to_vec()).ok()?;
        let (root, at) = (unescaped(fields.next()?), unescaped(fields.next()?));
        Some(Mounted { id, place: Place { device, path: root }, at })
    });
    parsed.collect::<Option<_>>().ok_or_else(|| io::Error::other("/proc/self/mountinfo cannot be read"))
}

/// Space, tab, line feed and backslash stand there as three octal digits.
fn unescaped(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        let octal = after.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) if *first == b'\\' => {
                bytes.push(byte);
                rest = &after[3..];
            }
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    std::ffi::OsString::from_vec(bytes).into()
}

fn place_of(file: BorrowedFd<'_>, mounts: &[Mounted]) -> io::Result<Place> {
    let stat = rustix::fs::statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)?;
    let known = stat.stx_mask & StatxFlags::MNT_ID.bits() != 0;
    let mounted = mounts.iter().find(|mount| known && mount.id == stat.stx_mnt_id);
    let found = mounted.and_then(|Mounted { place, at, .. }| {
        let below = path_of(file).ok()?.strip_prefix(at).ok()?.to_owned();
        Some(Place { device: place.device.clone(), path: place.path.join(below) })
    });
    found.ok_or_else(|| io::Error::other("where it lies in its file system cannot be found out"))
}

fn directory(path: &Path, resolve: ResolveFlags) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat2(rustix::fs::CWD, path, flags, Mode::empty(), resolve)
        .map_err(|errno| io::Error::new(errno.kind(), format!("{}: {errno}", path.display())))
}

/// Its path, every link on the way followed.
fn path_of(file: BorrowedFd<'_>) -> io::Result<PathBuf> {
    let path = fs::read_link(in_proc(file))?;
    // One that was removed meanwhile has no place any more.
    let gone = !path.is_absolute() || path.as_os_str().as_bytes().ends_with(b" (deleted)");
    if gone { Err(io::Error::other("it was removed meanwhile")) } else { Ok(path) }
}

fn in_proc(file: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn place(device: &str, path: &str) -> Place {
        Place { device: device.into(), path: path.into() }
    }

    #[test]
    fn a_mount_is_read_with_the_place_that_it_shows_and_a_line_that_is_none_is_an_error() {
        let text =
            b"68 44 0:40 /a\\040b /mnt/c\\134d ro,nosuid - overlay none ro\n1 0 8:1 / / rw - ext4 x rw\n";
        let read = mounts(text).unwrap();
        let first = Mounted { id: 68, place: place("0:40", "/a b"), at: "/mnt/c\\d".into() };
        assert_eq!((&read[0], read.len()), (&first, 2));
        for bad in ["68 44 0:40 /a", "x 44 0:40 / / rw", "68"] {
            assert!(mounts(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_place_touches_what_it_holds_and_what_holds_it_on_the_same_device_only() {
        let own = place("8:1", "/var/lib/cofferdam");
        for (other, touches) in [
            (place("8:1", "/var/lib/cofferdam"), true),
            (place("8:1", "/var/lib/cofferdam/tenants/acme"), true),
            (place("8:1", "/var/lib"), true),
            (place("8:1", "/"), true),
            (place("8:1", "/var/lib/cofferdam-models"), false),
            (place("8:2", "/var/lib/cofferdam"), false),
        ] {
            assert_eq!((own.touches(&other), other.touches(&own)), (touches, touches), "{other:?}");
        }
    }

    #[test]
    fn what_leads_to_the_hosts_own_is_refused_whatever_it_is_called() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        for below in ["real/data/tenants", "models", "real/data-models"] {
            fs::create_dir_all(dir.join(below)).unwrap();
        }
        std::os::unix::fs::symlink(dir.join("real/data"), dir.join("data")).unwrap();
        let told = |offered: &str, own: &str| {
            let offered = directory(&dir.join(offered), ResolveFlags::NO_SYMLINKS).unwrap();
            apart(offered.as_fd(), &dir.join(own)).map_err(|error| error.to_string())
        };
        for own in ["data", "real/data"] {
            for offered in ["real/data", "real/data/tenants", "real", ""] {
                assert!(told(offered, own).unwrap_err().contains("this host's own"), "{offered:?} {own}");
            }
            assert_eq!((told("models", own), told("real/data-models", own)), (Ok(()), Ok(())));
        }
        assert!(told("models", "nowhere").is_err(), "what cannot be compared is refused");
        let link = open(&dir.join("data"), &dir.join("models"), true, Attributes::empty());
        assert!(link.is_err(), "no link on the way is followed");
    }
}
