//! The rule of the verdict as a table, and rows from what a kernel might say.
#![allow(clippy::unwrap_used)]

use super::{kernel::*, *};
use LayerState::{Absent, Enforced, Partial};
use Need::{Degrades, Informs, Required};
use Verdict::{CannotRun, Degraded, Fine};

/// What the rows are, what they say together, and the exit code.
type Case = (&'static [(LayerState, Need)], Verdict, u8);

fn row(state: LayerState, need: Need) -> Feature {
    let known = Known { group: "g", name: "n", need, buys: "b", used_by: "u", mend: "m" };
    known.in_state(state, "")
}

#[test]
fn the_worst_row_decides_and_what_informs_never_does() {
    const TABLE: &[Case] = &[
        (&[], Fine, 0),
        (&[(Enforced, Required)], Fine, 0),
        (&[(Enforced, Degrades)], Fine, 0),
        (&[(Absent, Informs)], Fine, 0),
        (&[(Partial, Informs)], Fine, 0),
        (&[(Absent, Degrades)], Degraded, 2),
        (&[(Partial, Degrades)], Degraded, 2),
        (&[(Partial, Required)], Degraded, 2),
        (&[(Absent, Required)], CannotRun, 3),
        (&[(Enforced, Required), (Absent, Informs), (Absent, Degrades)], Degraded, 2),
        (&[(Absent, Required), (Absent, Degrades), (Enforced, Required)], CannotRun, 3),
        (&[(Absent, Degrades), (Absent, Required)], CannotRun, 3),
    ];
    for (rows, verdict, code) in TABLE {
        let rows: Vec<Feature> = rows.iter().map(|(state, need)| row(*state, *need)).collect();
        assert_eq!((Verdict::of(&rows), Verdict::of(&rows).code()), (*verdict, *code), "{rows:?}");
    }
}

#[test]
fn a_mend_is_told_only_for_what_lacks() {
    assert_eq!(row(Enforced, Required).mend, "");
    assert_eq!(row(Partial, Required).mend, "m");
    assert_eq!(row(Absent, Informs).mend, "m");
}

#[test]
fn the_levels_of_landlock_are_required_up_to_what_a_cell_is_built_on() {
    for (abi, verdict) in [(0, CannotRun), (5, CannotRun), (6, Fine), (7, Fine), (99, Fine)] {
        assert_eq!(Verdict::of(&landlock_levels(abi)), verdict, "abi {abi}");
    }
    let rows = landlock_levels(7);
    let there = rows.iter().filter(|row| row.state == Enforced).count();
    assert_eq!((rows.len(), there), (10, 7));
}

#[test]
fn versions_and_actions_are_read_as_the_kernel_writes_them() {
    for (release, expected) in [("6.18.44-fc", (6, 18)), ("5.4", (5, 4)), ("7.2-rc1", (7, 2)), ("", (0, 0))] {
        assert_eq!(version(release), expected, "{release}");
    }
    let all = "kill_process kill_thread trap errno user_notif trace log allow";
    assert_eq!(seccomp(all).state, Enforced);
    assert_eq!(seccomp("").state, Absent);
    assert_eq!(seccomp("errno allow").found, "without kill_process");
}

#[test]
fn swap_must_be_counted_where_there_is_swap() {
    let head = "Filename\tType\tSize\tUsed\tPriority";
    let on = format!("{head}\n/dev/sda2\tpartition\t1\t0\t-2");
    for (swaps, counted, state) in [(head, false, Enforced), (&on, true, Enforced), (&on, false, Absent)] {
        assert_eq!(groups::swap(swaps, counted).state, state, "{swaps} {counted}");
    }
    assert_eq!(groups::io("cpu io memory", "").state, Enforced);
    assert_eq!(groups::io("", "7:blkio:/").state, Partial);
    assert_eq!(groups::io("", "").state, Absent);
}

#[test]
fn every_row_of_this_machine_says_what_it_buys_and_who_needs_it_and_mends_its_lack() {
    let rows = host_features();
    let mut names: Vec<&str> = rows.iter().map(|row| row.name).collect();
    for row in &rows {
        assert!(!row.buys.is_empty() && !row.used_by.is_empty(), "{row:?}");
        assert_eq!(row.state == Enforced, row.mend.is_empty(), "{row:?}");
    }
    let all = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), all, "two rows of one name");
}
