//! Other processes: those of neighbours and of the host, which the witness outside stands for.

use super::{ABSTRACT, HOST, NEIGHBOUR, Row, SEGMENT, danger, one, path, right};
use cofferdam_sandbox::{Danger, Protection, probe::Attempt};
use cofferdam_sys::{attempt::Argument::Number, landlock::Right, seccomp::call};

pub(super) fn rows() -> Vec<Row> {
    let traced = || vec![one(Protection::AllowList), danger(Danger::Processes)];
    let reach = |number, arguments| Attempt::Reach { number, arguments, filtered: vec![38, 1] };
    vec![
        Row {
            id: "processes.see",
            title: "list a neighbour's process",
            attempt: Attempt::SeeProcess { named: NEIGHBOUR.into() },
            layers: vec![one(Protection::PidNamespace)],
        },
        // Of the same uid, which strict never gives twice: no permission stands in the way.
        Row {
            id: "processes.signal",
            title: "signal a neighbour's process",
            attempt: Attempt::SignalProcess { named: NEIGHBOUR.into() },
            layers: vec![one(Protection::PidNamespace), right(Right::Signal)],
        },
        // Init of the cell is of the same uid, too.
        Row {
            id: "processes.signal-init",
            title: "signal init",
            attempt: Attempt::Call { number: call::SYS_kill, arguments: vec![Number(1), Number(0)] },
            layers: vec![right(Right::Signal)],
        },
        Row {
            id: "processes.abstract-socket",
            title: "connect to an abstract Unix socket of the host",
            attempt: Attempt::Abstract { name: ABSTRACT.into() },
            layers: vec![one(Protection::NetworkNamespace), right(Right::AbstractUnixSocket)],
        },
        Row {
            id: "processes.shared-memory",
            title: "find a neighbour's shared memory",
            attempt: Attempt::Call {
                number: call::SYS_shmget,
                arguments: vec![Number(SEGMENT), Number(0), Number(0)],
            },
            layers: vec![one(Protection::IpcNamespace)],
        },
        Row {
            id: "processes.semaphores",
            title: "find a neighbour's semaphores",
            attempt: Attempt::Call {
                number: call::SYS_semget,
                arguments: vec![Number(SEGMENT), Number(0), Number(0)],
            },
            layers: vec![one(Protection::IpcNamespace)],
        },
        Row {
            id: "processes.host-name",
            title: "learn the host's name",
            attempt: Attempt::HostName { is: HOST.into() },
            layers: vec![one(Protection::UtsNamespace)],
        },
        Row {
            id: "processes.cgroup-name",
            title: "learn the name of its own cgroup",
            attempt: Attempt::Read { path: path("/proc/self/cgroup"), holds: "cofferdam.".into() },
            layers: vec![one(Protection::CgroupNamespace)],
        },
        Row {
            id: "processes.ptrace",
            title: "trace a process",
            attempt: Attempt::Call { number: call::SYS_ptrace, arguments: vec![Number(0); 4] },
            layers: traced(),
        },
        Row {
            id: "processes.read-memory",
            title: "read another process's memory",
            attempt: reach(
                call::SYS_process_vm_readv,
                vec![Number(1), Number(0), Number(0), Number(0), Number(0), Number(9)],
            ),
            layers: traced(),
        },
        Row {
            id: "processes.write-memory",
            title: "write to another process's memory",
            attempt: reach(
                call::SYS_process_vm_writev,
                vec![Number(1), Number(0), Number(0), Number(0), Number(0), Number(9)],
            ),
            layers: traced(),
        },
        Row {
            id: "processes.take-descriptor",
            title: "take another process's descriptor",
            attempt: reach(call::SYS_pidfd_getfd, vec![Number(9999), Number(0), Number(0)]),
            layers: traced(),
        },
        Row {
            id: "processes.compare",
            title: "compare another process's kernel objects",
            attempt: reach(
                call::SYS_kcmp,
                vec![Number(99_999), Number(99_998), Number(0), Number(0), Number(0)],
            ),
            layers: traced(),
        },
        Row {
            id: "processes.parents-child",
            title: "leave a child to one's parent, which may be the launcher",
            attempt: Attempt::Call { number: call::SYS_clone, arguments: vec![Number(0x8011)] },
            layers: vec![danger(Danger::Namespaces)],
        },
    ]
}
