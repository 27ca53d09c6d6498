//! Completing upstream's package lifecycle: code from the registry, run once over the staging copy, in a cell
//! without network.

use super::{CELL_TREE, Error, command_argv};
use cofferdam_base::ipc::launcher::Limits;
use cofferdam_sandbox::{Access, Bind, CellEvent, CellPlan, Network, Profile, launch};
use std::{fs, io::Read, os::unix::fs::PermissionsExt, path::Path};

/// The uid of the sealing cell as root: no tenant, warden or part of a host ever has it.
const UID: u32 = 1_499_999_999;

/// Runs `openclaw --version` over the tree, which may be changed by it.
pub fn complete(tree: &Path) -> Result<(), Error> {
    let tree = fs::canonicalize(tree).map_err(Error::io(tree))?;
    let root = rustix::process::geteuid().is_root();
    let home = tree.with_file_name("home");
    fs::create_dir(&home).map_err(Error::io(&home))?;
    let (uid, gid) = if root {
        (UID, UID)
    } else {
        (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw())
    };
    if root {
        give(&tree, uid)?;
        give(&home, uid)?;
    }
    fs::set_permissions(&home, fs::Permissions::from_mode(0o700)).map_err(Error::io(&home))?;
    let plan = CellPlan {
        name: "sealing".to_owned(),
        generation: 1,
        profile: if root { Profile::Strict } else { Profile::Rootless },
        uid,
        gid,
        hostname: "sealing".to_owned(),
        binds: vec![Bind {
            source: tree.clone(),
            target: CELL_TREE.into(),
            access: Access::ReadWrite,
            label: "runtime".to_owned(),
        }],
        home: home.clone(),
        argv: command_argv(&["--version"]),
        env: vec![
            ("HOME".to_owned(), "/sandbox".to_owned()),
            ("PATH".to_owned(), "/usr/bin:/bin".to_owned()),
        ],
        cwd: "/sandbox".into(),
        network: Network::None,
        limits: Limits::default(),
        cgroup: format!("cofferdam/sealing-{}/cell", std::process::id()),
    };
    let said = run(&plan)?;
    if root {
        give(&tree, 0)?;
    }
    super::tree::remove(&home)?;
    match said {
        Ok(()) => Ok(()),
        Err(why) => Err(Error::Lifecycle(why)),
    }
}

/// Runs the cell to its end; the inner error is what it printed.
fn run(plan: &CellPlan) -> Result<Result<(), String>, Error> {
    let lifecycle = |error: cofferdam_sandbox::Error| Error::Lifecycle(error.to_string());
    let pipe = |source| Error::Io { path: "a pipe".into(), source };
    let (mut output, writer) = std::io::pipe().map_err(pipe)?;
    let second = writer.try_clone().map_err(pipe)?;
    let cell = launch(plan, [writer.into(), second.into()]).map_err(lifecycle)?;
    let mut text = String::new();
    let read = output.by_ref().take(64 * 1024).read_to_string(&mut text);
    // Its output has ended, so it has too, or is about to; init tells how.
    let code = loop {
        match cell.event().map_err(lifecycle)? {
            Some(CellEvent::RuntimeEnded { code, .. }) => break Some(code),
            Some(CellEvent::Gone) => break None,
            None => {
                let wire = cell.wire();
                let mut wires = [rustix::event::PollFd::new(&wire, rustix::event::PollFlags::IN)];
                rustix::event::poll(&mut wires, None).map_err(|errno| pipe(errno.into()))?;
            }
        }
    };
    cell.kill().map_err(lifecycle)?;
    cell.wait().map_err(lifecycle)?;
    cell.remove().map_err(lifecycle)?;
    read.map_err(pipe)?;
    Ok(if code == Some(0) { Ok(()) } else { Err(text.trim().to_owned()) })
}

/// Gives a tree to a user, links themselves included.
fn give(root: &Path, uid: u32) -> Result<(), Error> {
    let mut pending = vec![root.to_owned()];
    while let Some(path) = pending.pop() {
        std::os::unix::fs::lchown(&path, Some(uid), Some(uid)).map_err(Error::io(&path))?;
        if fs::symlink_metadata(&path).map_err(Error::io(&path))?.is_dir() {
            for entry in fs::read_dir(&path).map_err(Error::io(&path))? {
                pending.push(entry.map_err(Error::io(&path))?.path());
            }
        }
    }
    Ok(())
}
