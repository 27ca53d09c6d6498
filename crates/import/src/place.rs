//! Where a home is: what was typed, opened once. Who owns it, what it is called and what is read is that directory.
//!
//! It refuses a path with a link in it. The threat: somebody whose home is imported makes it a link to somebody
//! else's, and the import would read as its owner.

use crate::{Error, report::shown};
use rustix::{
    fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags},
    io::Errno,
};
use std::{
    os::fd::{AsFd, AsRawFd as _, OwnedFd},
    path::{Path, PathBuf},
};

/// A home that was found. It has no rights of its own: whoever reads it must be allowed to.
#[derive(Debug)]
pub struct Place {
    /// The directory.
    pub directory: OwnedFd,
    /// Its path, free of links.
    pub path: PathBuf,
    /// Its owner's uid.
    pub owner: u32,
}

const FLAGS: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
const NO_LINKS: ResolveFlags = ResolveFlags::NO_SYMLINKS.union(ResolveFlags::NO_MAGICLINKS);

impl Place {
    /// Opens the home itself, or the one below a user's home.
    pub fn open(typed: &Path) -> Result<Self, Error> {
        let above = directory(CWD, typed, typed, NO_LINKS)?;
        if is_home(&above) {
            return Self::of(above);
        }
        let below = ".openclaw".as_ref();
        match directory(&above, below, &typed.join(below), NO_LINKS | ResolveFlags::BENEATH) {
            Ok(home) if is_home(&home) => Self::of(home),
            Err(linked @ Error::Linked(..)) => Err(linked),
            Ok(_) | Err(_) => Err(Error::NoHome(format!(
                "{} is no OpenClaw home: it has no file openclaw.json, and none in .openclaw",
                name(typed)
            ))),
        }
    }

    fn of(directory: OwnedFd) -> Result<Self, Error> {
        let failed = |why: std::io::Error| Error::Io { what: "the home".to_owned(), why };
        let owner = rustix::fs::fstat(&directory).map_err(|why| failed(why.into()))?.st_uid;
        let path = std::fs::read_link(format!("/proc/self/fd/{}", directory.as_raw_fd())).map_err(failed)?;
        Ok(Self { directory, path, owner })
    }
}

fn directory(above: impl AsFd, path: &Path, whole: &Path, resolve: ResolveFlags) -> Result<OwnedFd, Error> {
    rustix::fs::openat2(above, path, FLAGS, Mode::empty(), resolve).map_err(|why| match why {
        // Where it leads is looked up to be shown, and opened only if it is typed.
        Errno::LOOP => Error::Linked(
            name(whole),
            std::fs::canonicalize(whole).map_or_else(|why| why.to_string(), |real| name(&real)),
        ),
        why => Error::NoHome(format!("{}: {why}", name(whole))),
    })
}

fn is_home(directory: &OwnedFd) -> bool {
    rustix::fs::statat(directory, "openclaw.json", AtFlags::SYMLINK_NOFOLLOW).is_ok()
}

fn name(path: &Path) -> String {
    shown(&path.to_string_lossy())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::{
        fs,
        os::unix::fs::{MetadataExt as _, symlink},
    };

    #[test]
    fn a_link_anywhere_in_the_path_is_refused_with_where_it_leads() {
        let outer = tempfile::tempdir().unwrap();
        let at = |path: &str| outer.path().join(path);
        fs::create_dir_all(at("bob/.openclaw")).unwrap();
        fs::write(at("bob/.openclaw/openclaw.json"), "{}").unwrap();
        fs::create_dir(at("eve")).unwrap();
        symlink(at("bob/.openclaw"), at("eve/.openclaw")).unwrap();
        symlink("bob", at("alias")).unwrap();
        let bob = at("bob/.openclaw");
        for typed in ["eve/.openclaw", "eve", "alias/.openclaw", "alias", "eve/.openclaw/"] {
            let refused = Place::open(&at(typed)).unwrap_err();
            let Error::Linked(_, real) = &refused else { panic!("{typed}: {refused}") };
            assert!(bob.starts_with(real), "{typed}: {refused}");
        }
        for typed in ["bob", "bob/.openclaw", "eve/../bob"] {
            let place = Place::open(&at(typed)).unwrap();
            assert_eq!((&place.path, place.owner), (&bob, fs::metadata(&bob).unwrap().uid()), "{typed}");
        }
        assert!(matches!(Place::open(&at("nobody")), Err(Error::NoHome(_))));
    }
}
