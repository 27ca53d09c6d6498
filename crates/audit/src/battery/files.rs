//! What a process of a cell can read, change and leave behind.

use super::{Layer, Row, Scene, TREE, one, path, right};
use cofferdam_sandbox::{Danger, Protection, probe::Attempt};
use cofferdam_sys::{
    attempt::Argument::{Bytes, Number, Text},
    landlock::Right,
    seccomp::call,
};

/// `S_IFIFO`, `S_IFCHR` and `S_IFBLK`, all with mode 0600.
const FIFO: u64 = 0o010_600;
const CHARACTER: u64 = 0o020_600;
const BLOCK: u64 = 0o060_600;
/// `RNDGETENTCNT`.
const ENTROPY: u32 = 0x8004_5200;

fn row(id: &'static str, title: &'static str, attempt: Attempt, layers: Vec<Layer>) -> Row {
    Row { id, title, attempt, layers }
}

fn node(at: &str, kind: u64) -> Attempt {
    let arguments = vec![Text(at.into()), Number(kind), Number(0)];
    Attempt::Call { number: call::SYS_mknod, arguments }
}

pub(super) fn rows(scene: &Scene) -> Vec<Row> {
    let mut rows = root();
    rows.extend(tree());
    rows.extend(devices());
    rows.extend(proc());
    rows.push(row(
        "files.tmp-size",
        "fill /tmp past its size",
        Attempt::Fill { path: path("/tmp/fill"), bytes: scene.plan.limits.tmp_bytes + (1 << 20) },
        vec![one(Protection::TmpSize)],
    ));
    rows
}

/// The root belongs to the cell's own uid, so no permission of files stands in the way.
fn root() -> Vec<Row> {
    let read_only = || one(Protection::ReadOnlyRoot);
    vec![
        row(
            "files.root-directory",
            "make a directory in /",
            Attempt::MakeDirectory { path: path("/x") },
            vec![read_only(), right(Right::MakeDir)],
        ),
        row(
            "files.root-file",
            "make a file in /",
            Attempt::Create { path: path("/x") },
            vec![read_only(), right(Right::MakeReg), right(Right::WriteFile)],
        ),
        row(
            "files.root-link",
            "make a symbolic link in /",
            Attempt::MakeLink { path: path("/x") },
            vec![read_only(), right(Right::MakeSym)],
        ),
        row(
            "files.root-socket",
            "bind a Unix socket in /",
            Attempt::MakeSocket { path: path("/x") },
            vec![read_only(), right(Right::MakeSock)],
        ),
        row(
            "files.root-fifo",
            "make a named pipe in /",
            node("/x", FIFO),
            vec![read_only(), right(Right::MakeFifo)],
        ),
        row(
            "files.hosts-write",
            "write to /etc/hosts",
            Attempt::Write { path: path("/etc/hosts") },
            vec![read_only(), right(Right::WriteFile)],
        ),
        row(
            "files.hosts-truncate",
            "truncate /etc/hosts",
            Attempt::Call {
                number: call::SYS_truncate,
                arguments: vec![Text("/etc/hosts".into()), Number(4096)],
            },
            vec![read_only(), right(Right::Truncate)],
        ),
        row(
            "files.passwd-rename",
            "rename /etc/passwd",
            Attempt::Rename { from: path("/etc/passwd"), to: path("/etc/passwd-") },
            vec![read_only(), right(Right::RemoveFile), right(Right::MakeReg)],
        ),
        row(
            "files.resolver-unlink",
            "remove /etc/resolv.conf",
            Attempt::Call { number: call::SYS_unlink, arguments: vec![Text("/etc/resolv.conf".into())] },
            vec![read_only(), right(Right::RemoveFile)],
        ),
    ]
}

/// A tree of the host that everybody may write to, but for its mount: as a runtime's would be if its mode were wrong.
fn tree() -> Vec<Row> {
    let read_only = || one(Protection::ReadOnlyTrees);
    let inside = |name: &str| path(&format!("{TREE}/{name}"));
    vec![
        row(
            "files.tree-write",
            "write to a file of the runtime",
            Attempt::Write { path: inside("file") },
            vec![read_only(), right(Right::WriteFile)],
        ),
        row(
            "files.tree-create",
            "add a file to the runtime",
            Attempt::Create { path: inside("new") },
            vec![read_only(), right(Right::MakeReg), right(Right::WriteFile)],
        ),
        row(
            "files.tree-directory",
            "add a directory to the runtime",
            Attempt::MakeDirectory { path: inside("new") },
            vec![read_only(), right(Right::MakeDir)],
        ),
        row(
            "files.tree-symlink",
            "add a symbolic link to the runtime",
            Attempt::MakeLink { path: inside("new") },
            vec![read_only(), right(Right::MakeSym)],
        ),
        row(
            "files.tree-hard-link",
            "give a file of the runtime a second name",
            Attempt::Link { from: inside("file"), to: inside("new") },
            vec![read_only(), right(Right::MakeReg)],
        ),
        row(
            "files.tree-move",
            "move a file of the runtime to another directory",
            Attempt::Rename { from: inside("file"), to: inside("directory/file") },
            // A domain denies this whatever it handles, unless a rule grants it.
            vec![read_only(), Right::ALL.map(Protection::Landlock).to_vec()],
        ),
        row(
            "files.tree-rmdir",
            "remove a directory of the runtime",
            Attempt::Call { number: call::SYS_rmdir, arguments: vec![Text(format!("{TREE}/empty"))] },
            vec![read_only(), right(Right::RemoveDir)],
        ),
        row(
            "files.tree-unlink",
            "remove a file of the runtime",
            Attempt::Call { number: call::SYS_unlink, arguments: vec![Text(format!("{TREE}/victim"))] },
            vec![read_only(), right(Right::RemoveFile)],
        ),
        row(
            "files.tree-truncate",
            "truncate a file of the runtime",
            Attempt::Call {
                number: call::SYS_truncate,
                arguments: vec![Text(format!("{TREE}/file")), Number(8)],
            },
            vec![read_only(), right(Right::Truncate)],
        ),
        row(
            "files.tree-device",
            "open a device file that lies in the runtime",
            Attempt::Read { path: inside("zero"), holds: String::new() },
            vec![one(Protection::Nodev)],
        ),
    ]
}

fn devices() -> Vec<Row> {
    vec![
        row(
            "files.device-write",
            "write to a device other than /dev/null",
            Attempt::Write { path: path("/dev/zero") },
            vec![right(Right::WriteFile)],
        ),
        row(
            "files.device-entropy",
            "feed the machine's source of random numbers",
            Attempt::Write { path: path("/dev/urandom") },
            vec![right(Right::WriteFile)],
        ),
        row(
            "files.device-ioctl",
            "ask a device something else than to read",
            Attempt::Ioctl { path: path("/dev/urandom"), request: ENTROPY },
            vec![right(Right::IoctlDev)],
        ),
        // Device 0:0 is the one that the kernel lets anybody make; it covers files in overlays.
        row(
            "files.whiteout",
            "make a character device",
            node("/sandbox/character", CHARACTER),
            vec![right(Right::MakeChar)],
        ),
        // Without Landlock the kernel itself says that this needs a capability of the host.
        row(
            "files.block-device",
            "have a block device looked at",
            Attempt::Reach {
                number: call::SYS_mknod,
                arguments: vec![Text("/sandbox/block".into()), Number(BLOCK), Number(0x800)],
                filtered: vec![13],
            },
            vec![right(Right::MakeBlock)],
        ),
        // A watch hangs on the file itself, which all cells and the host share.
        row(
            "files.watch-open",
            "see who runs the host's programs",
            Attempt::Watch { path: path("/usr/bin"), mask: 0x20 },
            vec![super::danger(Danger::Watches)],
        ),
        row(
            "files.watch-access",
            "see who reads the host's files",
            Attempt::Watch { path: path("/usr/bin"), mask: 0x01 },
            vec![super::danger(Danger::Watches)],
        ),
    ]
}

fn proc() -> Vec<Row> {
    let masked = |id, title, file: &str| {
        let attempt = Attempt::Read { path: path(file), holds: String::new() };
        row(id, title, attempt, vec![one(Protection::MaskedProc)])
    };
    vec![
        // Of the network namespace's own settings, which its own administrator might write.
        row(
            "files.sysctl",
            "write to /proc/sys",
            Attempt::Write { path: path("/proc/sys/net/ipv4/ip_forward") },
            vec![one(Protection::ReadOnlySys), one(Protection::Capabilities), right(Right::WriteFile)],
        ),
        masked("files.kallsyms", "read the kernel's symbols", "/proc/kallsyms"),
        masked("files.cmdline", "read the host's boot command line", "/proc/cmdline"),
        masked("files.modules", "read the host's modules", "/proc/modules"),
        masked(
            "files.boot-id",
            "read the boot's id, which is the same in all cells",
            "/proc/sys/kernel/random/boot_id",
        ),
        masked(
            "files.interrupts",
            "count the host's interrupts, a clock of what others type",
            "/proc/interrupts",
        ),
        row(
            "files.hidden-init",
            "look at a process that one may not trace",
            Attempt::Read { path: path("/proc/1/status"), holds: String::new() },
            vec![one(Protection::HiddenProcesses)],
        ),
        row(
            "files.name-to-handle",
            "open a file by its handle, past all paths",
            Attempt::Reach {
                number: call::SYS_open_by_handle_at,
                arguments: vec![Number(0), Bytes(vec![0; 8]), Number(0)],
                filtered: vec![38, 1],
            },
            vec![one(Protection::AllowList), super::danger(Danger::Handles)],
        ),
        row(
            "files.fanotify",
            "watch a whole file system",
            Attempt::Call { number: call::SYS_fanotify_init, arguments: vec![Number(0x200), Number(0)] },
            vec![one(Protection::AllowList), super::danger(Danger::Handles)],
        ),
    ]
}
