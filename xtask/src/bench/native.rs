//! The native gateway beside real OpenClaw: `tests/speed.rs` has the host and the measures, and installs OpenClaw as a
//! tenant's runtime, into the cache that hosts share.

use super::leaving::measure;
use anyhow::{Result, bail};

const USAGE: &str = "cargo xtask bench native [--quick] [--tenants N,N…] [--turns N]";

/// What is measured by default, and in a hurry.
const WHOLE: Sizes<'_> = Sizes { tenants: "1,100,1000", turns: "100000" };
const QUICK: Sizes<'_> = Sizes { tenants: "1,20", turns: "2000" };

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sizes<'a> {
    /// Numbers of tenants, each at least the one before.
    tenants: &'a str,
    /// Turns of one gateway in the long run.
    turns: &'a str,
}

pub(super) fn run(arguments: &[String]) -> Result<()> {
    let Sizes { tenants, turns } = parse(arguments)?;
    measure("native", &[("COFFERDAM_BENCH_TENANTS", tenants), ("COFFERDAM_BENCH_TURNS", turns)])
}

fn parse(arguments: &[String]) -> Result<Sizes<'_>> {
    let mut sizes = WHOLE;
    let mut rest = arguments;
    while let [argument, after @ ..] = rest {
        rest = after;
        match (argument.as_str(), after) {
            ("--quick", _) => sizes = QUICK,
            ("--tenants", [tenants, after @ ..]) => {
                let numbers: Vec<usize> = tenants.split(',').map(str::parse).collect::<Result<_, _>>()?;
                if numbers.contains(&0) || !numbers.is_sorted() {
                    bail!("--tenants takes numbers that grow, from 1 on");
                }
                (sizes.tenants, rest) = (tenants, after);
            }
            ("--turns", [turns, after @ ..]) => {
                if turns.parse::<usize>()? < 100 {
                    bail!("--turns takes at least 100");
                }
                (sizes.turns, rest) = (turns, after);
            }
            _ => bail!("{USAGE}"),
        }
    }
    Ok(sizes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Option<(String, String)> {
        let arguments: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        parse(&arguments).ok().map(|sizes| (sizes.tenants.to_owned(), sizes.turns.to_owned()))
    }

    #[test]
    fn sizes_are_the_promised_ones_unless_others_are_asked_for() {
        let some = |tenants: &str, turns: &str| Some((tenants.to_owned(), turns.to_owned()));
        assert_eq!(parsed(""), some("1,100,1000", "100000"));
        assert_eq!(parsed("--quick --turns 500"), some("1,20", "500"));
        assert_eq!(parsed("--tenants 3,7"), some("3,7", "100000"));
        for bad in ["--tenants", "--tenants 0", "--tenants 9,3", "--tenants x", "--turns 1", "--fast"] {
            assert_eq!(parsed(bad), None, "{bad}");
        }
    }
}
