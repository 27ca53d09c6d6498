//! The files of a home, read through no link and never past a bound.
//!
//! It owns how a name is opened and what is no file. The threats: links that lead out, devices and pipes, names that
//! are no text, directories without end, and a name that becomes something else between two looks: what is read is
//! what was opened, and what was opened is a regular file.

use crate::{Error, io};
use cofferdam_sys::openat;
use rustix::{
    fs::{Dir, FileType, Mode, OFlags, ResolveFlags},
    io::Errno,
};
use std::{
    fs::File,
    io::Read as _,
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

/// The largest file that is carried.
pub(crate) const LARGEST: u64 = 256 << 20;
/// What is looked at altogether.
const MOST_FILES: u64 = 200_000;
const MOST_BYTES: u64 = 16 << 30;
const DEEPEST: usize = 32;
/// The longest path below the home.
const LONGEST: usize = 1024;

/// The home, opened.
pub(crate) struct Home {
    root: OwnedFd,
}

/// What a directory has under one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    /// A regular file, by its path below the home.
    File(Found),
    /// Something that is not carried whatever it holds, and why.
    Other(String, String),
}

/// A regular file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) path: String,
    pub(crate) size: u64,
    /// May its owner run it?
    pub(crate) runs: bool,
}

impl Home {
    /// The home that is this directory.
    pub(crate) fn new(root: OwnedFd) -> Self {
        Self { root }
    }

    /// Is there a directory of this name?
    pub(crate) fn has(&self, path: &str) -> bool {
        openat::directory(self.root.as_fd(), Path::new(path)).is_ok()
    }

    /// Is there anything of this name, whatever it is? What cannot be told counts as there.
    pub(crate) fn exists(&self, path: &str) -> bool {
        let safely = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let found = rustix::fs::openat2(&self.root, path, flags, Mode::empty(), safely);
        !matches!(found, Err(Errno::NOENT | Errno::NOTDIR))
    }

    /// A regular file by its path; none if there is none, or a link leads there.
    pub(crate) fn file(&self, path: &str) -> Option<File> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
        let safely = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        // What is no regular file is never opened for reading: opening alone can do something to a device.
        let look = rustix::fs::openat2(
            &self.root,
            path,
            OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
            safely,
        );
        let kind = |fd: &OwnedFd| rustix::fs::fstat(fd).map(|stat| FileType::from_raw_mode(stat.st_mode));
        if kind(&look.ok()?) != Ok(FileType::RegularFile) {
            return None;
        }
        let opened = rustix::fs::openat2(&self.root, path, flags, Mode::empty(), safely).ok()?;
        (kind(&opened) == Ok(FileType::RegularFile)).then(|| File::from(opened))
    }

    /// The whole content of a file of at most so many bytes.
    pub(crate) fn read(&self, path: &str, most: u64) -> Result<Vec<u8>, String> {
        let file = self.file(path).ok_or("it cannot be opened as a file")?;
        let mut bytes = Vec::new();
        file.take(most + 1).read_to_end(&mut bytes).map_err(|why| why.to_string())?;
        if bytes.len() as u64 > most {
            return Err(format!("it is larger than {}", crate::left::size(most)));
        }
        Ok(bytes)
    }

    /// Everything below a directory, by path; directories themselves are not in it. `skip` names directories that are
    /// not looked into, and says why.
    pub(crate) fn below(
        &self,
        start: &str,
        skip: impl Fn(&str) -> Option<String>,
    ) -> Result<Vec<Entry>, Error> {
        let (mut found, mut files, mut bytes) = (Vec::new(), 0, 0);
        let mut open = vec![(start.to_owned(), 0)];
        while let Some((path, depth)) = open.pop() {
            let here = if path.is_empty() { "." } else { &path };
            let Ok(directory) = openat::directory(self.root.as_fd(), Path::new(here)) else {
                found.push(Entry::Other(path, "it cannot be opened".to_owned()));
                continue;
            };
            for name in names(&directory).map_err(io(path.clone()))? {
                files += 1;
                if files > MOST_FILES {
                    return Err(Error::TooLarge(format!("{MOST_FILES} files")));
                }
                let below = match text_of(&name) {
                    Ok(name) if path.is_empty() => name.to_owned(),
                    Ok(name) => format!("{path}/{name}"),
                    Err(why) => {
                        let name = String::from_utf8_lossy(&name);
                        found.push(Entry::Other(format!("{path}/{name}"), why.to_owned()));
                        continue;
                    }
                };
                let entry = self.entry(&directory, &name, below, depth, &skip);
                match entry {
                    Ok(Some(Entry::File(file))) => {
                        bytes += file.size;
                        if bytes > MOST_BYTES {
                            return Err(Error::TooLarge(crate::left::size(MOST_BYTES)));
                        }
                        found.push(Entry::File(file));
                    }
                    Ok(Some(other)) => found.push(other),
                    Ok(None) => {
                        let name = String::from_utf8_lossy(&name);
                        let below =
                            if path.is_empty() { name.into_owned() } else { format!("{path}/{name}") };
                        open.push((below, depth + 1));
                    }
                    Err(why) => {
                        found.push(Entry::Other(format!("{path}/{}", String::from_utf8_lossy(&name)), why));
                    }
                }
            }
        }
        found.sort_by(|one, other| one.path().cmp(other.path()));
        Ok(found)
    }

    /// What stands under this name; none if it is a directory to be looked into.
    #[expect(clippy::unused_self, reason = "it reads beneath an open directory of this home")]
    fn entry(
        &self,
        directory: &OwnedFd,
        name: &[u8],
        path: String,
        depth: usize,
        skip: &impl Fn(&str) -> Option<String>,
    ) -> Result<Option<Entry>, String> {
        let stat = rustix::fs::statat(directory, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|why| why.to_string())?;
        let other = |path, why: &str| Ok(Some(Entry::Other(path, why.to_owned())));
        match FileType::from_raw_mode(stat.st_mode) {
            _ if path.len() > LONGEST => other(path, "its path is too long"),
            FileType::RegularFile => {
                let size = u64::try_from(stat.st_size).unwrap_or_default();
                if size > LARGEST {
                    return other(path, &format!("it is larger than {}", crate::left::size(LARGEST)));
                }
                Ok(Some(Entry::File(Found { path, size, runs: stat.st_mode & 0o100 != 0 })))
            }
            FileType::Directory if depth >= DEEPEST => other(path, "it is too deep"),
            FileType::Directory => Ok(skip(&path).map(|why| Entry::Other(path, why))),
            FileType::Symlink => other(path, "a link: links are not followed"),
            _ => other(path, "no file: a device, pipe or socket"),
        }
    }
}

impl Entry {
    fn path(&self) -> &str {
        match self {
            Self::File(found) => &found.path,
            Self::Other(path, _) => path,
        }
    }
}

/// The names in a directory, in order.
fn names(directory: &OwnedFd) -> std::io::Result<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(name.to_vec());
            // The caller counts the same, and says so.
            if names.len() as u64 > MOST_FILES {
                break;
            }
        }
    }
    names.sort();
    Ok(names)
}

/// A name that a person can read and type.
fn text_of(name: &[u8]) -> Result<&str, &'static str> {
    let text = std::str::from_utf8(name).map_err(|_| "its name is no UTF-8")?;
    if text.chars().any(char::is_control) { Err("its name has control characters") } else { Ok(text) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::{
        ffi::OsStr,
        fs,
        os::unix::{ffi::OsStrExt, fs::symlink},
    };

    #[test]
    fn links_devices_and_names_that_are_no_text_are_named_and_not_followed() {
        let outer = tempfile::tempdir().unwrap();
        fs::write(outer.path().join("secret"), "not yours").unwrap();
        let home = outer.path().join("home");
        fs::create_dir_all(home.join("w/deep")).unwrap();
        fs::write(home.join("w/deep/a.md"), "kept").unwrap();
        symlink(outer.path().join("secret"), home.join("w/out")).unwrap();
        symlink(outer.path(), home.join("w/up")).unwrap();
        symlink("deep/a.md", home.join("w/inside")).unwrap();
        fs::write(home.join("w").join(OsStr::from_bytes(b"\xff\xfe")), "x").unwrap();
        fs::write(home.join("w").join("line\nbreak"), "x").unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, home.join("w/pipe"), FileType::Fifo, Mode::RWXU, 0).unwrap();
        let huge = File::create(home.join("w/huge")).unwrap();
        huge.set_len(LARGEST + 1).unwrap();

        let home = Home::new(File::open(&home).unwrap().into());
        let found = home.below("w", |_| None).unwrap();
        let files: Vec<&str> = found
            .iter()
            .filter_map(|it| if let Entry::File(file) = it { Some(&*file.path) } else { None })
            .collect();
        assert_eq!(files, ["w/deep/a.md"]);
        assert_eq!(found.len(), 8, "{found:?}");
        for path in ["w/out", "w/up/secret", "w/inside", "w/pipe", "../secret", "/etc/passwd", "w/deep"] {
            assert!(home.file(path).is_none(), "{path}");
        }
        assert_eq!(home.read("w/deep/a.md", 4).unwrap(), b"kept");
        assert!(home.read("w/deep/a.md", 3).is_err());
    }

    #[test]
    fn depth_has_an_end() {
        let outer = tempfile::tempdir().unwrap();
        let mut path = outer.path().to_owned();
        for _ in 0..DEEPEST + 5 {
            path.push("d");
        }
        fs::create_dir_all(&path).unwrap();
        let found = Home::new(File::open(outer.path()).unwrap().into()).below("", |_| None).unwrap();
        assert!(matches!(&found[..], [Entry::Other(_, why)] if why == "it is too deep"), "{found:?}");
    }
}
