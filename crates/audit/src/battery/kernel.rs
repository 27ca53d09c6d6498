//! The kernel: namespaces, mounts, and calls that no cell needs.

use super::{Layer, Row, danger, one};
use cofferdam_sandbox::{
    Danger, Protection,
    probe::Attempt::{self, Call, EnterNamespace, Reach, Sweep},
};
use cofferdam_sys::{
    attempt::Argument::{self, Bytes, Number, Text},
    landlock::Right,
    seccomp::call,
};

/// `SIGCHLD`: a plain fork, but for the flags beside it.
const FORK: u64 = 17;

fn text(text: &str) -> Argument {
    Text(text.into())
}

/// On no list, and refused by name.
fn refused(by: Danger) -> Vec<Layer> {
    vec![one(Protection::AllowList), danger(by)]
}

/// Likewise, and nothing for a process without a capability.
fn privileged(by: Danger) -> Vec<Layer> {
    vec![one(Protection::AllowList), danger(by), one(Protection::Capabilities)]
}

/// Likewise, and nothing for a process in a Landlock domain, whatever it handles.
fn mounting() -> Vec<Layer> {
    let domain = Right::ALL.map(Protection::Landlock).to_vec();
    [privileged(Danger::Mounts), vec![domain]].concat()
}

fn reach(number: i64, arguments: Vec<Argument>) -> Attempt {
    Reach { number, arguments, filtered: vec![1, 38] }
}

pub(super) fn rows() -> Vec<Row> {
    let row = |id, title, attempt, layers| Row { id, title, attempt, layers };
    let call = |number, arguments: Vec<Argument>| Call { number, arguments };
    let mut rows = vec![row(
        "kernel.sweep",
        "make every system call that is not on the list",
        Sweep {},
        vec![[vec![Protection::AllowList], Danger::ALL.map(Protection::Dangerous).to_vec()].concat()],
    )];
    rows.extend(namespaces());
    rows.extend([
        row(
            "kernel.mount",
            "mount a file system",
            call(call::SYS_mount, vec![text("none"), text("/tmp"), text("tmpfs"), Number(0), Number(0)]),
            mounting(),
        ),
        row(
            "kernel.umount",
            "take a mount away",
            call(call::SYS_umount2, vec![text("/tmp"), Number(2)]),
            mounting(),
        ),
        row(
            "kernel.chroot",
            "change the root directory",
            call(call::SYS_chroot, vec![text("/tmp")]),
            privileged(Danger::Mounts),
        ),
        row(
            "kernel.fsopen",
            "make a file system",
            call(call::SYS_fsopen, vec![text("tmpfs"), Number(0)]),
            privileged(Danger::Mounts),
        ),
        row(
            "kernel.open-tree",
            "copy a mount",
            call(call::SYS_open_tree, vec![Number((-100_i64).cast_unsigned()), text("/tmp"), Number(1)]),
            privileged(Danger::Mounts),
        ),
        row(
            "kernel.host-name",
            "set the host's name",
            call(call::SYS_sethostname, vec![text("x"), Number(1)]),
            privileged(Danger::Clocks),
        ),
        row(
            "kernel.clock",
            "set the host's clock",
            reach(call::SYS_clock_settime, vec![Number(0), Number(0)]),
            refused(Danger::Clocks),
        ),
        row(
            "kernel.adjust-clock",
            "steer the host's clock",
            reach(call::SYS_adjtimex, vec![Number(0)]),
            refused(Danger::Clocks),
        ),
        // More of the kernel's attack surface than everything else together.
        row(
            "kernel.io-uring",
            "make a ring of requests, which no filter reads",
            reach(call::SYS_io_uring_setup, vec![Number(0), Number(0)]),
            vec![one(Protection::AllowList)],
        ),
        row(
            "kernel.io-uring-register",
            "register with a ring of requests",
            reach(call::SYS_io_uring_register, vec![Number(9999), Number(0), Number(0), Number(0)]),
            vec![one(Protection::AllowList)],
        ),
        row(
            "kernel.aio",
            "take of the room for asynchronous requests that all cells share",
            call(call::SYS_io_setup, vec![Number(1), Bytes(vec![0; 8])]),
            vec![one(Protection::AllowList)],
        ),
        row(
            "kernel.sync",
            "flush everybody's disks",
            call(call::SYS_sync, vec![]),
            vec![one(Protection::AllowList)],
        ),
        row(
            "kernel.clone3",
            "make a process in a way that no filter reads",
            reach(call::SYS_clone3, vec![Number(0), Number(0)]),
            vec![one(Protection::AllowList)],
        ),
        // A size past a page is refused before anything else is asked.
        row(
            "kernel.bpf",
            "load a program into the kernel",
            reach(call::SYS_bpf, vec![Number(0), Number(0), Number(1 << 20)]),
            refused(Danger::Kernel),
        ),
        row(
            "kernel.perf",
            "count what the processor does for others",
            reach(
                call::SYS_perf_event_open,
                vec![Number(0), Number(0), Number(0), Number(0), Number(u64::MAX)],
            ),
            refused(Danger::Kernel),
        ),
        row(
            "kernel.userfaultfd",
            "stop the kernel at a page of one's own",
            call(call::SYS_userfaultfd, vec![Number(1)]),
            refused(Danger::Kernel),
        ),
        row(
            "kernel.iopl",
            "reach the processor's ports",
            call(call::SYS_iopl, vec![Number(0)]),
            refused(Danger::Kernel),
        ),
        row(
            "kernel.ioperm",
            "reach one of the processor's ports",
            call(call::SYS_ioperm, vec![Number(0), Number(1), Number(0)]),
            refused(Danger::Kernel),
        ),
        row(
            "kernel.segments",
            "change the processor's table of segments",
            call(call::SYS_modify_ldt, vec![Number(0), Bytes(vec![0; 64]), Number(64)]),
            refused(Danger::Placement),
        ),
        row(
            "kernel.placement",
            "say where in the machine memory lies",
            call(call::SYS_set_mempolicy, vec![Number(0), Number(0), Number(0)]),
            refused(Danger::Placement),
        ),
        row(
            "kernel.filter",
            "have somebody else answer for system calls",
            reach(call::SYS_seccomp, vec![Number(1), Number(8), Number(0)]),
            vec![danger(Danger::Filters)],
        ),
        row(
            "kernel.filter-by-prctl",
            "install a filter by the old door",
            reach(call::SYS_prctl, vec![Number(22), Number(2), Number(0)]),
            vec![danger(Danger::Filters)],
        ),
        row(
            "kernel.type",
            "type into a terminal",
            reach(call::SYS_ioctl, vec![Number(0), Number(0x5412), Number(0)]),
            vec![danger(Danger::Terminals)],
        ),
        // The kernel reads 32 bits of the number: so must the filter.
        row(
            "kernel.type-high-bits",
            "type into a terminal, with a number that is too long",
            reach(call::SYS_ioctl, vec![Number(0), Number(0x1_0000_5412), Number(0)]),
            vec![danger(Danger::Terminals)],
        ),
        row(
            "kernel.paste",
            "paste into the console",
            reach(call::SYS_ioctl, vec![Number(0), Number(0x541c), Number(0)]),
            vec![danger(Danger::Terminals)],
        ),
        row(
            "kernel.line-discipline",
            "load a line discipline",
            reach(call::SYS_ioctl, vec![Number(0), Number(0x5423), Number(0)]),
            vec![danger(Danger::Modules)],
        ),
    ]);
    rows
}

fn namespaces() -> Vec<Row> {
    let clone = |id, title, flag: u64, more: bool| Row {
        id,
        title,
        attempt: Call { number: call::SYS_clone, arguments: vec![Number(flag | FORK)] },
        layers: if more {
            vec![danger(Danger::Namespaces), one(Protection::Capabilities)]
        } else {
            vec![danger(Danger::Namespaces)]
        },
    };
    vec![
        // Anybody may make one of these, and is root in it.
        clone("kernel.user-namespace", "become root in a user namespace", 0x1000_0000, false),
        clone("kernel.mount-namespace", "make a mount namespace", 0x0002_0000, true),
        clone("kernel.cgroup-namespace", "make a cgroup namespace", 0x0200_0000, true),
        clone("kernel.uts-namespace", "make a uts namespace", 0x0400_0000, true),
        clone("kernel.ipc-namespace", "make an ipc namespace", 0x0800_0000, true),
        clone("kernel.pid-namespace", "make a pid namespace", 0x2000_0000, true),
        clone("kernel.network-namespace", "make a network namespace", 0x4000_0000, true),
        Row {
            id: "kernel.unshare",
            title: "become root in a user namespace by unshare",
            attempt: Call { number: call::SYS_unshare, arguments: vec![Number(0x1000_0000)] },
            layers: refused(Danger::Mounts),
        },
        Row {
            id: "kernel.setns",
            title: "enter a namespace",
            attempt: EnterNamespace { kind: "uts".into() },
            layers: privileged(Danger::Mounts),
        },
    ]
}
