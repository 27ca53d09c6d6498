//! What is refused by name: families of sockets, and calls that are dangerous with certain arguments or always.
//!
//! These are not in the allow-list either, or only for other arguments. They are named so that a caller
//! learns "not permitted", and so that a slip in the allow-list opens nothing.

use super::Danger;
use cofferdam_sys::seccomp::{
    Is::{Equal, Given, Masked, Not},
    Row, call,
};

const UNIX: u32 = 1;
const INET: u32 = 2;
const INET6: u32 = 10;
const NETLINK: u32 = 16;
const RAW: u32 = 3;
const RDM: u32 = 4;
const SEQPACKET: u32 = 5;
const DCCP: u32 = 6;
const PACKET: u32 = 10;
/// `SOCK_NONBLOCK` and `SOCK_CLOEXEC` lie above these bits.
const TYPE: u32 = 0xf;
const ICMP: u32 = 1;
const ICMPV6: u32 = 58;
const TCP: u32 = 6;
const UDP: u32 = 17;
/// `RLIMIT_CORE`.
const CORE: u32 = 4;

/// Socket families that a cell does not have.
pub(super) const FAMILIES: &[Row] = &[
    // Four families remain: Unix, both of IP, and netlink (Node lists interfaces).
    Row {
        call: call::SYS_socket,
        when: &[(0, Not(UNIX)), (0, Not(INET)), (0, Not(INET6)), (0, Not(NETLINK))],
    },
    // Of netlink only the route protocol.
    Row { call: call::SYS_socket, when: &[(0, Equal(NETLINK)), (2, Not(0))] },
    // Of IP only TCP and UDP: multipath TCP (262) would pass the mark on the gateway's port by, SMC (256) is
    // TCP by another door, and SCTP, UDP-Lite, L2TP and DCCP load modules that nobody needs.
    Row { call: call::SYS_socket, when: &[(0, Equal(INET)), (2, Not(0)), (2, Not(TCP)), (2, Not(UDP))] },
    Row { call: call::SYS_socket, when: &[(0, Equal(INET6)), (2, Not(0)), (2, Not(TCP)), (2, Not(UDP))] },
    Row { call: call::SYS_socket, when: &[(0, Equal(INET)), (1, Masked(TYPE, RDM))] },
    Row { call: call::SYS_socket, when: &[(0, Equal(INET)), (1, Masked(TYPE, SEQPACKET))] },
    Row { call: call::SYS_socket, when: &[(0, Equal(INET)), (1, Masked(TYPE, DCCP))] },
    Row { call: call::SYS_socket, when: &[(0, Equal(INET6)), (1, Masked(TYPE, RDM))] },
    Row { call: call::SYS_socket, when: &[(0, Equal(INET6)), (1, Masked(TYPE, SEQPACKET))] },
    Row { call: call::SYS_socket, when: &[(0, Equal(INET6)), (1, Masked(TYPE, DCCP))] },
    Row { call: call::SYS_socketpair, when: &[(0, Not(UNIX))] },
];

/// What is never permitted in a cell.
pub(super) const DANGEROUS: &[(Danger, &[Row])] = &[
    (
        Danger::RawSockets,
        &[
            // Raw and ping sockets speak past the warden's TCP and DNS.
            Row { call: call::SYS_socket, when: &[(0, Equal(INET)), (1, Masked(TYPE, RAW))] },
            Row { call: call::SYS_socket, when: &[(0, Equal(INET6)), (1, Masked(TYPE, RAW))] },
            Row { call: call::SYS_socket, when: &[(1, Masked(TYPE, PACKET))] },
            Row { call: call::SYS_socket, when: &[(0, Equal(INET)), (2, Equal(ICMP))] },
            Row { call: call::SYS_socket, when: &[(0, Equal(INET6)), (2, Equal(ICMPV6))] },
        ],
    ),
    (
        Danger::Namespaces,
        &[
            // Namespaces: a nested user namespace opens most of the kernel's attack surface.
            Row { call: call::SYS_clone, when: &[(0, Masked(0x0002_0000, 0x0002_0000))] }, // mount
            Row { call: call::SYS_clone, when: &[(0, Masked(0x0200_0000, 0x0200_0000))] }, // cgroup
            Row { call: call::SYS_clone, when: &[(0, Masked(0x0400_0000, 0x0400_0000))] }, // uts
            Row { call: call::SYS_clone, when: &[(0, Masked(0x0800_0000, 0x0800_0000))] }, // ipc
            Row { call: call::SYS_clone, when: &[(0, Masked(0x1000_0000, 0x1000_0000))] }, // user
            Row { call: call::SYS_clone, when: &[(0, Masked(0x2000_0000, 0x2000_0000))] }, // pid
            Row { call: call::SYS_clone, when: &[(0, Masked(0x4000_0000, 0x4000_0000))] }, // network
            // A child of one's parent: for a command that is the launcher, which would have to reap what it never made.
            Row { call: call::SYS_clone, when: &[(0, Masked(0x8000, 0x8000))] }, // CLONE_PARENT
        ],
    ),
    (
        Danger::Watches,
        &[
            // Watching who opens and runs the files that all cells and the host share: the kernel hangs a watch on the
            // file itself, not on this mount of it, and Landlock does not ask.
            Row { call: call::SYS_inotify_add_watch, when: &[(2, Masked(0x01, 0x01))] }, // IN_ACCESS
            Row { call: call::SYS_inotify_add_watch, when: &[(2, Masked(0x10, 0x10))] }, // IN_CLOSE_NOWRITE
            Row { call: call::SYS_inotify_add_watch, when: &[(2, Masked(0x20, 0x20))] }, // IN_OPEN
            Row { call: call::SYS_fcntl, when: &[(1, Equal(1026))] },                    // F_NOTIFY
        ],
    ),
    (
        Danger::Limits,
        &[
            // Limits of another process of the same uid: the kernel asks for no more than that.
            Row { call: call::SYS_prlimit64, when: &[(0, Not(0))] },
            // The core limit is 1: with 0 the kernel would still start the host's core dump helper.
            Row { call: call::SYS_prlimit64, when: &[(1, Equal(CORE)), (2, Given)] },
            Row { call: call::SYS_setrlimit, when: &[(0, Equal(CORE))] },
        ],
    ),
    (
        Danger::Modules,
        &[
            // Protocols within TCP (kTLS and the like), which load modules.
            Row { call: call::SYS_setsockopt, when: &[(1, Equal(TCP)), (2, Equal(31))] }, // TCP_ULP
            // Line disciplines likewise.
            Row { call: call::SYS_ioctl, when: &[(1, Equal(0x5423))] }, // TIOCSETD
        ],
    ),
    (
        Danger::Terminals,
        &[
            // Typing into somebody's terminal. The kernel reads 32 bits of the number, and so does the filter.
            Row { call: call::SYS_ioctl, when: &[(1, Equal(0x5412))] }, // TIOCSTI
            Row { call: call::SYS_ioctl, when: &[(1, Equal(0x541c))] }, // TIOCLINUX
        ],
    ),
    (
        Danger::Filters,
        &[
            // The other way to install a filter.
            Row { call: call::SYS_prctl, when: &[(0, Equal(22))] }, // PR_SET_SECCOMP
            // A filter that somebody else answers.
            Row { call: call::SYS_seccomp, when: &[] },
        ],
    ),
    (
        Danger::Personality,
        &[
            // Turning address randomisation off, or emulating another system. 0 is Linux, all ones asks.
            Row { call: call::SYS_personality, when: &[(0, Not(0)), (0, Not(u32::MAX))] },
        ],
    ),
    (
        Danger::Mounts,
        &[
            // Mounts and roots: the mount namespace is part of the seal.
            Row { call: call::SYS_mount, when: &[] },
            Row { call: call::SYS_umount2, when: &[] },
            Row { call: call::SYS_pivot_root, when: &[] },
            Row { call: call::SYS_chroot, when: &[] },
            Row { call: call::SYS_fsopen, when: &[] },
            Row { call: call::SYS_fsmount, when: &[] },
            Row { call: call::SYS_fsconfig, when: &[] },
            Row { call: call::SYS_fspick, when: &[] },
            Row { call: call::SYS_open_tree, when: &[] },
            Row { call: call::SYS_move_mount, when: &[] },
            Row { call: call::SYS_mount_setattr, when: &[] },
            Row { call: call::SYS_unshare, when: &[] },
            Row { call: call::SYS_setns, when: &[] },
        ],
    ),
    (
        Danger::Processes,
        &[
            // Reading or steering another process.
            Row { call: call::SYS_ptrace, when: &[] },
            Row { call: call::SYS_process_vm_readv, when: &[] },
            Row { call: call::SYS_process_vm_writev, when: &[] },
            Row { call: call::SYS_pidfd_getfd, when: &[] },
            Row { call: call::SYS_kcmp, when: &[] },
            Row { call: call::SYS_process_madvise, when: &[] },
        ],
    ),
    (
        Danger::Kernel,
        &[
            // The kernel itself.
            Row { call: call::SYS_bpf, when: &[] },
            Row { call: call::SYS_perf_event_open, when: &[] },
            Row { call: call::SYS_userfaultfd, when: &[] },
            Row { call: call::SYS_kexec_load, when: &[] },
            Row { call: call::SYS_kexec_file_load, when: &[] },
            Row { call: call::SYS_init_module, when: &[] },
            Row { call: call::SYS_finit_module, when: &[] },
            Row { call: call::SYS_delete_module, when: &[] },
            Row { call: call::SYS_iopl, when: &[] },
            Row { call: call::SYS_ioperm, when: &[] },
            Row { call: call::SYS_swapon, when: &[] },
            Row { call: call::SYS_swapoff, when: &[] },
            Row { call: call::SYS_reboot, when: &[] },
            Row { call: call::SYS_syslog, when: &[] },
            Row { call: call::SYS_acct, when: &[] },
            Row { call: call::SYS_quotactl, when: &[] },
        ],
    ),
    (
        Danger::Handles,
        &[
            // Handles that bypass paths.
            Row { call: call::SYS_open_by_handle_at, when: &[] },
            Row { call: call::SYS_fanotify_init, when: &[] },
            Row { call: call::SYS_fanotify_mark, when: &[] },
        ],
    ),
    (
        Danger::Clocks,
        &[
            // The host's clocks and name.
            Row { call: call::SYS_settimeofday, when: &[] },
            Row { call: call::SYS_clock_settime, when: &[] },
            Row { call: call::SYS_clock_adjtime, when: &[] },
            Row { call: call::SYS_adjtimex, when: &[] },
            Row { call: call::SYS_sethostname, when: &[] },
            Row { call: call::SYS_setdomainname, when: &[] },
        ],
    ),
    (
        Danger::Placement,
        &[
            // Other namespaces' terminals and memory placement.
            Row { call: call::SYS_vhangup, when: &[] },
            Row { call: call::SYS_lookup_dcookie, when: &[] },
            Row { call: call::SYS_modify_ldt, when: &[] },
            Row { call: call::SYS_move_pages, when: &[] },
            Row { call: call::SYS_migrate_pages, when: &[] },
            Row { call: call::SYS_mbind, when: &[] },
            Row { call: call::SYS_set_mempolicy, when: &[] },
        ],
    ),
];

/// What every service is refused besides: it dies with the launcher, and cannot wish otherwise.
pub(super) const SERVICE: &[Row] = &[Row { call: call::SYS_prctl, when: &[(0, Equal(1))] }]; // PR_SET_PDEATHSIG

/// What a service that starts no program is refused besides: a child would outlive its end, with all of its
/// descriptors. Threads it may have.
pub(super) const EXEC: &[Row] = &[
    Row { call: call::SYS_execve, when: &[] },
    Row { call: call::SYS_execveat, when: &[] },
    Row { call: call::SYS_fork, when: &[] },
    Row { call: call::SYS_vfork, when: &[] },
    Row { call: call::SYS_clone, when: &[(0, Masked(0x1_0000, 0))] }, // without CLONE_THREAD
];

/// What a process that talks to nobody is refused besides: to make a socket, and to use one that it was given.
pub(super) const SOCKETS: &[Row] = &[
    Row { call: call::SYS_socket, when: &[] },
    Row { call: call::SYS_socketpair, when: &[] },
    Row { call: call::SYS_bind, when: &[] },
    Row { call: call::SYS_connect, when: &[] },
    Row { call: call::SYS_listen, when: &[] },
    Row { call: call::SYS_accept, when: &[] },
    Row { call: call::SYS_accept4, when: &[] },
    Row { call: call::SYS_sendto, when: &[] },
    Row { call: call::SYS_sendmsg, when: &[] },
    Row { call: call::SYS_sendmmsg, when: &[] },
];

/// What of [`DANGEROUS`] neither the launcher nor a child of it needs. Its children inherit this. It mounts, enters
/// namespaces and names hosts, so the other groups are not its.
pub(super) const LAUNCHER_GROUPS: [Danger; 3] = [Danger::Processes, Danger::Kernel, Danger::Handles];

/// What else it does not need: clocks, and what no cell has at all.
pub(super) const LAUNCHER: &[Row] = &[
    Row { call: call::SYS_settimeofday, when: &[] },
    Row { call: call::SYS_clock_settime, when: &[] },
    Row { call: call::SYS_clock_adjtime, when: &[] },
    Row { call: call::SYS_adjtimex, when: &[] },
    Row { call: call::SYS_io_uring_setup, when: &[] },
    Row { call: call::SYS_io_uring_enter, when: &[] },
    Row { call: call::SYS_io_uring_register, when: &[] },
    Row { call: call::SYS_add_key, when: &[] },
    Row { call: call::SYS_request_key, when: &[] },
    Row { call: call::SYS_modify_ldt, when: &[] },
];
