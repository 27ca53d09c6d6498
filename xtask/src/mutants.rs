//! The kill rate: of all that can be left out, one by one, how much is missed when it is gone.

use crate::run;
use anyhow::{Context, Result, bail};
use std::process::Command;

/// What each part of the run must have said, by the word that its line begins with.
const PARTS: &[&str] = &[
    "guard checks",
    "egress checks",
    "inference checks",
    "edge checks",
    "control checks",
    "warden checks",
    "cell protections",
];

pub(crate) fn run() -> Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let tests = ["test", "--workspace", "--lib", "--test", "battery", "is_missed_when_it_is_gone"];
    let printed =
        run::output(Command::new(cargo).args(tests).args(["--", "--nocapture"]).current_dir(run::root()))?;
    let printed = String::from_utf8(printed)?;
    let (mut killed, mut all) = (0, 0);
    for part in PARTS {
        // The test's own name may come before it.
        let Some(line) = printed.lines().find_map(|line| Some(&line[line.find(part)?..])) else {
            bail!("no line says how many {part} are killed (as root, the battery does)\n{printed}");
        };
        println!("{line}");
        let (these, of) = counts(line).with_context(|| format!("{line:?} is no kill rate"))?;
        killed += these;
        all += of;
    }
    println!("mutants: {killed} of {all} killed");
    if killed < all {
        bail!("a survivor is a bug");
    }
    Ok(())
}

/// `edge checks: 77 of 77 killed`.
fn counts(line: &str) -> Option<(usize, usize)> {
    let (killed, all) = line.split_once(": ")?.1.strip_suffix(" killed")?.split_once(" of ")?;
    Some((killed.parse().ok()?, all.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::counts;

    #[test]
    fn a_kill_rate_is_read_and_nothing_else_is() {
        assert_eq!(counts("edge checks: 76 of 77 killed"), Some((76, 77)));
        for other in
            ["edge checks: 76 of 77", "edge checks 76 of 77 killed", "edge checks: x of 77 killed", ""]
        {
            assert_eq!(counts(other), None, "{other}");
        }
    }
}
