//! What the profile `rootless` does not keep: one table, which `doctor`, `status` and the last section of
//! `SPECIFICATION.md` show. The threat: a degradation that one of them forgets.

use serde::Serialize;

/// A promise that a profile keeps in part or not at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Unkept {
    /// Its number in `SPECIFICATION.md`.
    pub promise: &'static str,
    /// How its text there begins.
    pub title: &'static str,
    /// What is missing.
    pub lacks: &'static str,
}

/// In the order of `SPECIFICATION.md`.
pub const ROOTLESS: &[Unkept] = &[
    Unkept {
        promise: "4",
        title: "No capability, no_new_privs, a seccomp allow-list, a Landlock domain, limits of memory, processes and cores",
        lacks: "limits of memory, processes and cores hold only where cgroups are delegated to the user; cells share \
                one uid and keep its supplementary groups",
    },
    Unkept {
        promise: "4a",
        title: "A tenant that fills its home, with bytes or with files, stops at its quota",
        lacks: "a home has no quota of its own",
    },
    Unkept {
        promise: "4c",
        title: "Each controller is version 2's where that has it, else version 1's",
        lacks: "disk traffic is limited only where that controller is delegated to the user",
    },
    Unkept {
        promise: "6a",
        title: "No service of ours leaves a child behind or outlives the launcher",
        lacks: "edge, control and wardens share one uid; their memory, processes and cores are limited only where \
                cgroups are delegated to the user",
    },
    Unkept {
        promise: "14",
        title: "nftables refuses by the warden's uid what its own guard should have refused",
        lacks: "there is no uid firewall: only the warden itself refuses private and host addresses",
    },
    Unkept {
        promise: "16i",
        title: "What the guard refuses, nftables refuses",
        lacks: "there is no uid firewall to agree with",
    },
];

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const SPECIFICATION: &str = include_str!("../../../SPECIFICATION.md");
    const HEAD: &str = "## What `rootless` does not keep";

    fn in_one_line(text: &str) -> String {
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    /// The text of a numbered promise, up to the next one.
    fn promise(number: &str) -> String {
        let begin = format!("\n{number}. ");
        let after = SPECIFICATION.split_once(&begin).unwrap_or_else(|| panic!("no promise {number}")).1;
        let mut lines = after.lines();
        let first = lines.next().unwrap();
        let rest = lines.take_while(|line| line.starts_with(' '));
        in_one_line(&std::iter::once(first).chain(rest).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn every_row_names_a_promise_of_the_specification_by_its_own_words() {
        for row in ROOTLESS {
            let text = promise(row.promise);
            assert!(text.starts_with(row.title), "{}: {text}", row.promise);
        }
    }

    #[test]
    fn the_specification_lists_these_rows_and_no_others() {
        let section = SPECIFICATION.split_once(HEAD).unwrap().1;
        let items = section.split("\n- ").skip(1).map(|item| in_one_line(item.split("\n\n").next().unwrap()));
        let rows: Vec<String> =
            ROOTLESS.iter().map(|row| format!("**{}**: {}.", row.promise, row.lacks)).collect();
        assert_eq!(items.collect::<Vec<_>>(), rows);
    }
}
