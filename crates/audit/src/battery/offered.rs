//! What a directory must not allow that the operator offers: one of the proof's own, made as carelessly as can be and
//! shown to the cell in the way of the others, which are there too.

use super::{FLAG, Row, one, path, right};
use cofferdam_base::ipc::launcher::OFFERED;
use cofferdam_sandbox::{Protection, probe::Attempt};
use cofferdam_sys::{
    attempt::Argument::{Number, Text},
    landlock::Right,
    seccomp::call,
};
use std::path::Path;

/// What it is called.
pub(crate) const NAME: &str = "cofferdam-prove";
/// Files of it: a Unix socket, a named pipe and a locked file of the witness's; a link to what lies beside it.
pub(crate) const SOCKET: &str = "socket";
pub(crate) const PIPE: &str = "pipe";
pub(crate) const LOCKED: &str = "locked";
pub(crate) const LINK: &str = "link";
/// The file beside it, which holds the witness's words.
pub(crate) const BESIDE: &str = "beside";
/// A named pipe that a cell makes, and does not take back.
pub(crate) const NODE: &str = "node";
/// `S_IFIFO` with mode 0600.
const FIFO: u64 = 0o010_600;

pub(super) fn rows() -> Vec<Row> {
    let row = |id, title, attempt, layers| Row { id, title, attempt, layers };
    let directory = format!("{OFFERED}/{NAME}");
    let inside = |name: &str| path(&format!("{directory}/{name}"));
    let own = || one(Protection::OwnFiles);
    // An overlay of one's own cannot be written to, either.
    let unwritable = |rights: &[Right]| {
        let rights = rights.iter().map(|it| right(*it));
        [one(Protection::ReadOnlyTrees), own()].into_iter().chain(rights).collect()
    };
    vec![
        row(
            "files.offered-socket",
            "connect to a Unix socket of the host in an offered directory",
            // The proof's own first: that is where the control ends, before it asks anybody else.
            Attempt::Connect { below: vec![path(&directory), path(OFFERED)] },
            vec![own()],
        ),
        row(
            "files.offered-pipe",
            "read what the host writes to a named pipe in an offered directory",
            Attempt::Pipe { path: inside(PIPE), holds: FLAG.to_owned() },
            vec![own()],
        ),
        row(
            "files.offered-lock",
            "see that the host has locked a file in an offered directory",
            Attempt::Locked { path: inside(LOCKED) },
            vec![own()],
        ),
        row(
            "files.offered-write",
            "write to a file in an offered directory",
            Attempt::Write { path: inside("file") },
            unwritable(&[Right::WriteFile]),
        ),
        row(
            "files.offered-create",
            "add a file to an offered directory",
            Attempt::Create { path: inside("new") },
            unwritable(&[Right::MakeReg, Right::WriteFile]),
        ),
        row(
            "files.offered-unlink",
            "remove a file of an offered directory",
            Attempt::Call { number: call::SYS_unlink, arguments: vec![Text(format!("{directory}/victim"))] },
            unwritable(&[Right::RemoveFile]),
        ),
        row(
            "files.offered-hard-link",
            "give a file in an offered directory a second name",
            Attempt::Link { from: inside("file"), to: inside("second") },
            unwritable(&[Right::MakeReg]),
        ),
        row(
            "files.offered-node",
            "make a named pipe in an offered directory",
            Attempt::Call {
                number: call::SYS_mknod,
                arguments: vec![Text(format!("{directory}/{NODE}")), Number(FIFO), Number(0)],
            },
            unwritable(&[Right::MakeFifo]),
        ),
        row(
            "files.offered-device",
            "open a device file that lies in an offered directory",
            Attempt::Read { path: inside("zero"), holds: String::new() },
            vec![one(Protection::Nodev)],
        ),
        row(
            "files.offered-parent",
            "leave an offered directory by its parent",
            leaves(&directory, &format!("../{BESIDE}")),
            Vec::new(),
        ),
        row(
            "files.offered-link",
            "leave an offered directory by a symbolic link",
            leaves(&directory, LINK),
            Vec::new(),
        ),
    ]
}

fn leaves(directory: &str, by: &str) -> Attempt {
    Attempt::Read { path: path(&format!("{directory}/{by}")), holds: FLAG.to_owned() }
}

/// The control of a row that no layer answers which could be left out, for no cell is without a root of its own: the
/// same attempt on the directory itself, outside.
pub(crate) fn outside(id: &str, directory: &Path) -> Option<Attempt> {
    let by = match id {
        "files.offered-parent" => format!("../{BESIDE}"),
        "files.offered-link" => LINK.to_owned(),
        _ => return None,
    };
    Some(leaves(&directory.display().to_string(), &by))
}
