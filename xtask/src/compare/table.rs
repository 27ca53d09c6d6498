//! The table of a comparison as Markdown, and what must be said beside it.
//!
//! The threat: a row that counts against a peer which never claimed it, or that harms nobody there.

use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::{collections::BTreeMap, fmt::Write as _};

/// What must be said of rows whose names begin so.
const NOTES: &[(&[&str], &str)] = &[
    (
        &["identity.effective", "identity.permitted", "identity.bounding"],
        "`runc spec` leaves root three capabilities on purpose: `AUDIT_WRITE`, `KILL`, `NET_BIND_SERVICE`.",
    ),
    (
        &["identity.foreign-limits", "files.hidden-init", "processes.signal-init"],
        "Pid 1 is the sandbox's own. No process of anybody else is reached.",
    ),
    (
        &[
            "processes.ptrace",
            "processes.read-memory",
            "processes.write-memory",
            "processes.take-descriptor",
            "processes.compare",
        ],
        "Among the sandbox's own processes, as the kernel has it for those of one uid.",
    ),
    (&["files.root-"], "bubblewrap's root is a tmpfs that ends with it. `--remount-ro /` shuts it."),
    (
        &["files.tree-device"],
        "The device is `zero`, which a container of runc has anyway. The mount option `nodev` shuts it.",
    ),
    (&["files.device-"], "Both give these devices on purpose, with the modes of the host's."),
    (&["files.kallsyms"], "With or without addresses, as `kptr_restrict` of the machine says."),
    (
        &["files.whiteout", "files.block-device"],
        "The kernel lets everybody make a device of number 0, and asks a capability of the machine for any other.",
    ),
    (
        &["files.tmp-size", "resources."],
        "No limit that they claim: bubblewrap sets none, and `runc spec` names open files alone; with it `/tmp` is \
         part of a root that is read-only. What is asked for are the limits of this cell.",
    ),
    (&["processes.host-name"], "bubblewrap gives another name only with `--hostname`."),
    (&["processes.parents-child"], "The parent is a process of the sandbox, which may have to reap it."),
    (
        &["kernel.user-namespace", "kernel.unshare"],
        "No escape: more of the kernel can be reached. `--disable-userns` of bubblewrap shuts it.",
    ),
    (
        &[
            "kernel.clock",
            "kernel.adjust-clock",
            "kernel.bpf",
            "kernel.perf",
            "files.name-to-handle",
            "network.ping",
        ],
        "A full call the kernel itself refuses, or permits by a setting of the machine: it asks for a capability that \
         they do not have.",
    ),
    (
        &["kernel.type", "kernel.paste", "kernel.line-discipline"],
        "No terminal was there. `--new-session` of bubblewrap and a terminal of its own in runc take the caller's \
         away.",
    ),
    (
        &[
            "kernel.segments",
            "kernel.placement",
            "kernel.filter",
            "identity.personality",
            "identity.core-helper",
        ],
        "On the caller's own process. That nobody needs it is our view.",
    ),
    (
        &["network.vsock", "network.netlink-"],
        "A socket is made. For most of what it could then say the kernel, or the hypervisor, asks again.",
    ),
    (&["network.protocol-in-tcp"], "One that does not exist was asked for, so none was loaded."),
    (
        &["network.mptcp"],
        "The mark is ours. In a network of somebody else's this is a connection like others.",
    ),
    (
        &[
            "network.address",
            "network.metadata",
            "network.private",
            "network.host-loopback",
            "network.neighbour",
            "network.ssh",
            "network.dns",
            "network.udp",
            "network.quic",
            "processes.abstract-socket",
        ],
        "**bwrap** and **runc** have no network here, so their agent reaches no model either; with the caller's \
         network they refuse no address, which neither claims to. The cell's answer is silence: its listeners take \
         the connection, and no warden ran. What a warden lets through `prove` asks in its second world.",
    ),
];

/// Verdicts, and how they are summed up. A row of which the kernel only looked at empty arguments is neither.
const SUMS: [&str; 5] = ["refused", "reached", "done", "not tried", "shows nothing"];

pub(super) fn table(rows: &[Value], peers: &[&str]) -> Result<String> {
    let mut out = format!("| attempt | cell | {} | note |\n", peers.join(" | "));
    writeln!(out, "|---|---|{}---|", "---|".repeat(peers.len()))?;
    let mut sums = vec![BTreeMap::<&str, usize>::new(); peers.len() + 1];
    let mut reasons = Vec::new();
    let mut said = vec![false; NOTES.len()];
    for row in rows {
        let id = row["id"].as_str().context("a row has no name")?;
        write!(out, "| `{id}` {} |", row["title"].as_str().unwrap_or_default())?;
        let answers = row["answers"].as_array().context("a row has no answers")?;
        if answers.len() != sums.len() {
            bail!("{id} has {} answers", answers.len());
        }
        for (answer, sums) in answers.iter().zip(&mut sums) {
            let (sum, told) = told(answer)?;
            *sums.entry(sum).or_default() += 1;
            write!(out, " {told} |")?;
        }
        // Peers are asked for less than a cell.
        if let Some(reason) = answers.last().and_then(|answer| answer["reason"].as_str())
            && !reason.is_empty()
        {
            reasons.push(format!("`{id}`: {reason}"));
        }
        let about = |names: &[&str]| names.iter().any(|name| id.starts_with(name));
        let note = NOTES.iter().position(|(names, _)| about(names));
        let open = answers.iter().any(|answer| answer["verdict"] == "ESCAPED");
        if let Some(note) = note {
            said[note] |= open;
            write!(out, " {}", note + 1)?;
        }
        out += " |\n";
    }
    for sum in SUMS {
        write!(out, "| **{sum}** |")?;
        sums.iter().try_for_each(|sums| write!(out, " **{}** |", sums.get(sum).unwrap_or(&0)))?;
        out += " |\n";
    }
    if let Some(at) = said.iter().position(|said| !said) {
        bail!("note {} is about no row that a peer lets through: {}", at + 1, NOTES[at].1);
    }
    out += "\nNotes:\n\n";
    for (at, (_, text)) in NOTES.iter().enumerate() {
        writeln!(out, "{}. {text}", at + 1)?;
    }
    out += "\nNot tried:\n\n";
    reasons.iter().try_for_each(|reason| writeln!(out, "- {reason}"))?;
    Ok(out)
}

/// Where an answer counts, and its words.
fn told(answer: &Value) -> Result<(&'static str, String)> {
    let errno = answer["errno"].as_str().context("an answer has no errno")?;
    Ok(match (answer["verdict"].as_str(), errno) {
        (Some("BLOCKED"), "") => ("refused", "refused".to_owned()),
        (Some("BLOCKED"), errno) => ("refused", errno.to_owned()),
        (Some("ESCAPED"), "") => ("done", "**done**".to_owned()),
        (Some("ESCAPED"), errno) => ("reached", format!("*reached*, {errno}")),
        (Some("SKIPPED"), _) => ("not tried", "—".to_owned()),
        (Some("INCONCLUSIVE"), _) => ("shows nothing", "shows nothing".to_owned()),
        (other, _) => bail!("a verdict that is not known here: {other:?}"),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    fn answer(verdict: &str, errno: &str) -> Value {
        json!({ "verdict": verdict, "errno": errno, "reason": "" })
    }

    #[test]
    fn an_answer_is_told_and_counted_as_what_it_was() {
        let told = |verdict, errno| told(&answer(verdict, errno)).unwrap();
        assert_eq!(told("BLOCKED", "EPERM"), ("refused", "EPERM".to_owned()));
        assert_eq!(told("BLOCKED", ""), ("refused", "refused".to_owned()));
        assert_eq!(told("ESCAPED", "EFAULT"), ("reached", "*reached*, EFAULT".to_owned()));
        assert_eq!(told("ESCAPED", "").0, "done");
        assert_eq!(told("SKIPPED", "").0, "not tried");
        assert_eq!(told("INCONCLUSIVE", "EPERM").0, "shows nothing");
        assert!(super::told(&answer("CONTAINED", "")).is_err());
    }

    #[test]
    fn a_note_without_a_row_and_a_row_without_an_answer_are_errors() {
        let row = |id: &str, answers: Vec<Value>| json!({ "id": id, "title": "x", "answers": answers });
        let open = || vec![answer("BLOCKED", "EPERM"), answer("ESCAPED", "")];
        let all: Vec<Value> = NOTES.iter().map(|(names, _)| row(names[0], open())).collect();
        let text = table(&all, &["peer"]).unwrap();
        assert!(text.contains(&format!("| **done** | **0** | **{}** | |", NOTES.len())), "{text}");
        assert!(table(&all[1..], &["peer"]).unwrap_err().to_string().contains("note 1 "));
        assert!(table(&all, &["one", "another"]).is_err());
    }
}
