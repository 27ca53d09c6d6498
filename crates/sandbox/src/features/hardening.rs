//! Settings of the host that no promise stands on, since cells and our own processes are shut off from what they
//! are about; they guard the host's other programs, and are a second wall behind ours.

use super::{Feature, Known, Need, text};
use cofferdam_base::ipc::receipt::LayerState;

/// A setting: where it is, what it says when it is as it should be, and what is known of it.
struct Setting {
    path: &'static str,
    good: fn(&str) -> bool,
    known: Known,
}

const PLAIN: Known = Known { group: "Host", name: "", need: Need::Informs, buys: "", used_by: "", mend: "" };

/// A missing file is a kernel without the setting, which is as if it were off.
const SETTINGS: &[Setting] = &[
    Setting {
        path: "/proc/sys/kernel/core_pattern",
        good: |value| !value.starts_with('|'),
        known: Known {
            name: "core_pattern",
            buys: "a crash starts no program of root's",
            used_by: "nothing: cells and services have the core limit at which the kernel starts none",
            mend: "sysctl kernel.core_pattern=core, if nobody needs the collector",
            ..PLAIN
        },
    },
    Setting {
        path: "/proc/sys/dev/tty/legacy_tiocsti",
        good: |value| value == "0",
        known: Known {
            name: "legacy TIOCSTI",
            buys: "no program types into its starter's terminal",
            used_by: "nothing: seccomp refuses it in cells, whose terminals are their own",
            mend: "sysctl dev.tty.legacy_tiocsti=0",
            ..PLAIN
        },
    },
    Setting {
        path: "/proc/sys/kernel/yama/ptrace_scope",
        good: at_least_one,
        known: Known {
            name: "yama",
            buys: "no process traces its user's others",
            used_by: "nothing: our processes hide themselves, cells may not trace and are in a domain of their own",
            mend: "sysctl kernel.yama.ptrace_scope=1, on a kernel with yama in lsm=",
            ..PLAIN
        },
    },
    Setting {
        path: "/proc/sys/kernel/unprivileged_bpf_disabled",
        good: at_least_one,
        known: Known {
            name: "unprivileged bpf",
            buys: "no user loads programs into the kernel",
            used_by: "nothing: seccomp refuses bpf in cells and services",
            mend: "sysctl kernel.unprivileged_bpf_disabled=2",
            ..PLAIN
        },
    },
    Setting {
        path: "/proc/sys/kernel/kptr_restrict",
        good: at_least_one,
        known: Known {
            name: "kptr_restrict",
            buys: "the kernel's addresses do not show",
            used_by: "nothing: a cell's /proc has none of the files that show them",
            mend: "sysctl kernel.kptr_restrict=1",
            ..PLAIN
        },
    },
    Setting {
        path: "/proc/sys/kernel/dmesg_restrict",
        good: at_least_one,
        known: Known {
            name: "dmesg_restrict",
            buys: "no user reads the kernel's log",
            used_by: "nothing: a cell has neither the call nor the device",
            mend: "sysctl kernel.dmesg_restrict=1",
            ..PLAIN
        },
    },
    Setting {
        path: "/proc/sys/vm/memfd_noexec",
        good: at_least_one,
        known: Known {
            name: "memfd noexec",
            buys: "no program runs from memory without a file",
            used_by: "nothing: what runs in a cell may execute what it wrote to /sandbox anyway",
            mend: "sysctl vm.memfd_noexec=1, if no program of the host needs it",
            ..PLAIN
        },
    },
];

pub(super) fn features() -> Vec<Feature> {
    SETTINGS.iter().map(|setting| judged(setting, &text(setting.path))).collect()
}

fn judged(setting: &Setting, value: &str) -> Feature {
    let good = !value.is_empty() && (setting.good)(value);
    let state = if good { LayerState::Enforced } else { LayerState::Absent };
    setting.known.in_state(state, if value.is_empty() { "not there" } else { value })
}

fn at_least_one(value: &str) -> bool {
    value.parse::<u64>().is_ok_and(|value| value > 0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn each_setting_is_good_bad_or_not_there() {
        let setting = |name: &str| SETTINGS.iter().find(|setting| setting.known.name == name).unwrap();
        for (name, value, state) in [
            ("core_pattern", "core", LayerState::Enforced),
            ("core_pattern", "|/usr/lib/collector %P", LayerState::Absent),
            ("legacy TIOCSTI", "0", LayerState::Enforced),
            ("legacy TIOCSTI", "1", LayerState::Absent),
            ("yama", "", LayerState::Absent),
            ("yama", "2", LayerState::Enforced),
            ("unprivileged bpf", "0", LayerState::Absent),
            ("memfd noexec", "2", LayerState::Enforced),
        ] {
            let row = judged(setting(name), value);
            assert_eq!((row.state, row.need), (state, Need::Informs), "{name} {value}");
            assert_eq!(row.mend.is_empty(), state == LayerState::Enforced, "{name} {value}");
        }
    }
}
