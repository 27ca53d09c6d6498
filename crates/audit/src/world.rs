//! The throw-away world of a proof: namespaces of its own around everything, and what a cell must not reach.
//!
//! A child of ours makes them, becomes their first process and does the work; when it ends, the kernel ends
//! everything in there. What a control gets out to is this world, never the host. The threat: a proof that harms
//! what it proves.

use crate::{
    Error,
    battery::{FLAG, HOST, NEIGHBOUR, offered},
    witness::INSIDE,
};
use cofferdam_sandbox::{CellPlan, Profile, Quota, home_image};
use cofferdam_sys::{
    mount::{self, Attributes},
    netlink,
    process::{self, Forked},
    userns, world,
};
use rustix::{
    fs::Mode,
    process::{Pid, WaitOptions},
};
use serde::{Serialize, de::DeserializeOwned};
use std::{
    ffi::CString,
    fs,
    io::{self, Read, Write},
    marker::PhantomData,
    os::fd::AsFd,
    path::{Path, PathBuf},
};

/// What lies where in the world.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    /// Becomes `/sandbox` of its cells.
    pub(crate) home: PathBuf,
    /// Everybody may write to it.
    pub(crate) tree: PathBuf,
    /// Is offered, with a file beside it.
    pub(crate) offered: PathBuf,
    /// Do both hold a device file?
    pub(crate) device: bool,
}

/// A world in which something is done.
pub(crate) struct World<T> {
    says: io::PipeReader,
    child: Pid,
    gives: PhantomData<T>,
}

/// Does something in a world of its own, of which nothing stays.
pub(crate) fn begin<T: Serialize + DeserializeOwned>(
    plan: &CellPlan,
    scratch: &Path,
    work: impl FnOnce() -> Result<T, Error>,
) -> Result<World<T>, Error> {
    let at = |what: &str| Error::world(what);
    let (says, tells) = io::pipe().map_err(at("a pipe"))?;
    let (waits, opener) = io::pipe().map_err(at("a pipe"))?;
    match process::fork().map_err(at("fork"))? {
        Forked::Child => {
            drop((says, opener));
            let done =
                process::die_with_parent()
                    .map_err(at("the parent's end"))
                    .and_then(|()| enter(plan, waits))
                    .and_then(|first| {
                        if first { inhabit(scratch).and_then(|()| work()).map(Some) } else { Ok(None) }
                    });
            let told = match done {
                Ok(None) => process::exit(0),
                Ok(Some(done)) => serde_json::to_vec(&Ok::<_, String>(done)),
                Err(error) => serde_json::to_vec(&Err::<(), _>(error.to_string())),
            };
            let _ = (&tells).write_all(&told.unwrap_or_default());
            process::exit(0)
        }
        Forked::Parent(child) => {
            drop((tells, waits));
            map(plan, child, opener)?;
            Ok(World { says, child, gives: PhantomData })
        }
    }
}

impl<T: DeserializeOwned> World<T> {
    /// Waits for its end: what it gave.
    pub(crate) fn end(mut self) -> Result<T, Error> {
        let at = |what: &str| Error::world(what);
        let mut told = Vec::new();
        let read = self.says.read_to_end(&mut told);
        rustix::process::waitpid(Some(self.child), WaitOptions::empty())
            .map_err(|errno| at("waiting for the world")(errno.into()))?;
        read.map_err(at("a pipe"))?;
        let told: Result<T, String> = serde_json::from_slice(&told)
            .map_err(|_| Error::BrokenOff("its process ended without a word".to_owned()))?;
        told.map_err(Error::BrokenOff)
    }
}

/// Without root the world needs the ids of its user; its parent may give them.
fn map(plan: &CellPlan, child: Pid, mut opener: io::PipeWriter) -> Result<(), Error> {
    if plan.profile == Profile::Rootless {
        // The child says by nothing when it is in its namespace, so it is asked until it is.
        let (uid, gid) = (plan.uid, plan.gid);
        let own = fs::read_link("/proc/self/ns/user").map_err(Error::world("user namespaces"))?;
        let theirs = format!("/proc/{}/ns/user", child.as_raw_nonzero());
        while fs::read_link(&theirs).is_ok_and(|there| there == own) {
            std::thread::sleep(std::time::Duration::from_micros(200));
        }
        userns::map_one(child.as_raw_nonzero().get(), uid, uid, gid, true)
            .map_err(Error::world("the ids of the world"))?;
    }
    opener.write_all(&[1]).map_err(Error::world("a pipe"))
}

/// Makes the namespaces; true in their first process, false in the one that only waits for it.
fn enter(plan: &CellPlan, mut waits: io::PipeReader) -> Result<bool, Error> {
    world::unshare(plan.profile == Profile::Rootless).map_err(Error::world("namespaces"))?;
    let mut byte = [0];
    waits.read_exact(&mut byte).map_err(Error::world("the parent of the world"))?;
    match process::fork().map_err(Error::world("fork"))? {
        Forked::Child => {
            process::die_with_parent().map_err(Error::world("the parent's end"))?;
            Ok(true)
        }
        Forked::Parent(first) => {
            rustix::process::waitpid(Some(first), WaitOptions::empty())
                .map_err(|errno| Error::world("waiting for the world")(errno.into()))?;
            Ok(false)
        }
    }
}

/// Processes, names and files of the world.
fn inhabit(scratch: &Path) -> Result<(), Error> {
    let at = |what: &str| Error::world(what);
    mount::make_private().map_err(at("mounts"))?;
    let proc = mount::create("proc", &[], Attributes::empty()).map_err(at("/proc"))?;
    mount::attach_at(proc.as_fd(), Path::new("/proc")).map_err(at("/proc"))?;
    let options = [("mode", "0755"), ("size", "2g")];
    let files = mount::create("tmpfs", &options, Attributes::empty()).map_err(at("files"))?;
    mount::attach_at(files.as_fd(), scratch).map_err(at("files"))?;
    rustix::system::sethostname(HOST.as_bytes()).map_err(|errno| at("the host name")(errno.into()))?;
    world::open_ports().map_err(at("ports"))
}

/// What a cell alone must not reach: a witness that answers at every address, and files.
pub(crate) fn furnish(plan: &CellPlan, scratch: &Path) -> Result<Places, Error> {
    let at = |what: &str| Error::world(what);
    netlink::any_ip().map_err(at("addresses"))?;
    let (home, tree, offered) = (scratch.join("home"), scratch.join("tree"), scratch.join("offered"));
    fs::create_dir(&home).map_err(at("the home"))?;
    if plan.profile == Profile::Strict {
        std::os::unix::fs::chown(&home, Some(plan.uid), Some(plan.gid)).map_err(at("the home"))?;
    }
    if let Quota::Image(image) = &plan.quota {
        let made = home_image::make(image, (plan.uid, plan.gid), &plan.limits);
        made.map_err(|error| Error::Cell(error.to_string()))?;
    }
    let mut places = Places { home, tree, offered, device: false };
    places.offer().and_then(|()| places.plant()).map_err(at("files"))?;
    witness(plan, &places.offered).map_err(at("the witness"))?;
    Ok(places)
}

impl Places {
    /// Puts everything back as an attack must find it.
    pub(crate) fn plant(&mut self) -> io::Result<()> {
        let tree = &self.tree;
        for directory in [&self.home, tree] {
            // What is not there need not be removed.
            for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
                let removed = if entry.file_type()?.is_dir() {
                    fs::remove_dir_all(entry.path())
                } else {
                    fs::remove_file(entry.path())
                };
                removed?;
            }
        }
        for directory in [tree.clone(), tree.join("directory"), tree.join("empty")] {
            if !directory.exists() {
                fs::create_dir(&directory)?;
            }
            fs::set_permissions(&directory, mode(0o777))?;
        }
        for file in ["file", "victim"] {
            plant(&tree.join(file))?;
            plant(&self.offered.join(file))?;
        }
        match fs::remove_file(self.offered.join(offered::NODE)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let devices = [tree.join("zero"), self.offered.join("zero")];
        self.device = devices.iter().map(|device| device_file(device)).all(|made| made.is_ok());
        Ok(())
    }

    /// Makes the directory that is offered, for the witness to live in, and what a cell may leave it to.
    fn offer(&self) -> io::Result<()> {
        fs::create_dir(&self.offered)?;
        fs::set_permissions(&self.offered, mode(0o777))?;
        plant(&self.offered.join(offered::LOCKED))?;
        let beside = self.offered.with_file_name(offered::BESIDE);
        std::os::unix::fs::symlink(&beside, self.offered.join(offered::LINK))?;
        fs::write(&beside, FLAG)
    }
}

/// A file that everybody may write to.
fn plant(file: &Path) -> io::Result<()> {
    fs::write(file, "planted\n")?;
    fs::set_permissions(file, mode(0o666))
}

/// Needs root.
fn device_file(at: &Path) -> io::Result<()> {
    if !at.exists() {
        world::make_zero_device(at)?;
        fs::set_permissions(at, mode(0o666))?;
    }
    Ok(())
}

fn mode(bits: u32) -> fs::Permissions {
    std::os::unix::fs::PermissionsExt::from_mode(Mode::from_raw_mode(bits).as_raw_mode())
}

/// Starts the witness, under the cell's own uid; returns when it is there.
fn witness(plan: &CellPlan, lives: &Path) -> io::Result<()> {
    let (mut says, tells) = io::pipe()?;
    if let Forked::Parent(_) = process::fork()? {
        drop(tells);
        let mut byte = [0];
        return says.read_exact(&mut byte);
    }
    let become_it = || -> io::Result<()> {
        process::die_with_parent()?;
        process::place(tells.as_fd(), 1)?;
        process::close_on_exec_from(3)?;
        if plan.profile == Profile::Strict {
            process::become_user(plan.uid, plan.gid, true)?;
        }
        let text = |text: &str| CString::new(text).map_err(io::Error::other);
        let lives = text(lives.to_str().unwrap_or_default())?;
        let argv = [text(NEIGHBOUR)?, text("__witness")?, text(INSIDE)?, lives];
        Err(process::exec(c"/proc/self/exe", &argv, &[]))
    };
    let error = become_it();
    eprintln!("cofferdam: the witness of a proof: {error:?}");
    process::exit(1)
}
