//! What `doctor` shows to people: a line a feature, then what mends what lacks, then the verdict, which is what
//! a terminal shows last.

use super::{Report, lacks};
use crate::cli::{Failure, print};
use cofferdam_base::ipc::receipt::LayerState;
use cofferdam_sandbox::{Feature, Need, Verdict};
use std::io::IsTerminal;

/// The columns of a state and of a name, with what is between them.
const STATE: usize = 10;
const NAME: usize = 20;
/// For a reader that is no terminal and says nothing.
const WIDTH: usize = 80;
/// Shorter lines than this help nobody.
const LEAST: usize = 60;

/// How lines are set: in how many columns, and whether with colours.
#[derive(Clone, Copy, Debug)]
struct Page {
    width: usize,
    colour: bool,
}

pub(super) fn show(report: &Report) -> Result<(), Failure> {
    for line in lines(report, Page::of_stdout()) {
        print::line(&line)?;
    }
    Ok(())
}

impl Page {
    fn of_stdout() -> Self {
        let out = std::io::stdout();
        let terminal = out.is_terminal();
        let given = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
        let asked = || rustix::termios::tcgetwinsize(&out).ok().map(|size| usize::from(size.ws_col));
        let width = given.or_else(|| asked().filter(|_| terminal)).filter(|width| *width >= LEAST);
        let colour = terminal && std::env::var_os("NO_COLOR").is_none();
        Self { width: width.unwrap_or(WIDTH), colour }
    }

    /// A head in the first column, and text beside it that never runs into it.
    fn beside(self, head: &str, column: usize, text: &str) -> Vec<String> {
        let mut lines = wrapped(text, self.width.saturating_sub(column).max(LEAST / 3)).into_iter();
        let first = format!("{head:column$}{}", lines.next().unwrap_or_default());
        let rest = lines.map(|line| format!("{:column$}{line}", ""));
        std::iter::once(first.trim_end().to_owned()).chain(rest).collect()
    }
}

fn lines(report: &Report, page: Page) -> Vec<String> {
    let mut lines = Vec::new();
    let mut group = "";
    for row in &report.features {
        if row.group != group {
            group = row.group;
            lines.extend(if lines.is_empty() { None } else { Some(String::new()) });
            lines.push(group.to_owned());
        }
        lines.extend(feature(row, page));
    }
    lines.extend(mends(report, page));
    lines.extend(unkept(report, page));
    lines.push(String::new());
    lines.extend(page.beside("", 0, &verdict(report)));
    lines
}

fn feature(row: &Feature, page: Page) -> Vec<String> {
    let found = if row.found.is_empty() { String::new() } else { format!(" [{}]", row.found) };
    let (word, colour) = state(row);
    let head = format!("  {word:width$}{:NAME$}", row.name, width = STATE - 2);
    let mut lines = page.beside(&head, STATE + NAME, &format!("{}{found}", row.buys));
    if let Some(first) = lines.first_mut().filter(|_| page.colour && !colour.is_empty()) {
        *first = first.replacen(word, &format!("\x1b[{colour}m{word}\x1b[0m"), 1);
    }
    lines
}

/// A word and the colour of it: green, yellow, bold red, or none for what only informs.
fn state(row: &Feature) -> (&'static str, &'static str) {
    match (row.state, row.need) {
        (LayerState::Enforced, _) => ("ok", "32"),
        (LayerState::Absent, Need::Required) => ("MISSING", "1;31"),
        (LayerState::Partial, Need::Informs) => ("in part", ""),
        (LayerState::Partial, _) => ("in part", "33"),
        (LayerState::Absent, Need::Degrades) => ("lacking", "33"),
        (LayerState::Absent, Need::Informs) => ("off", ""),
    }
}

/// What lacks comes first; what only informs is worth a line. What is as for the row above is not said again.
fn mends(report: &Report, page: Page) -> Vec<String> {
    let lacking = report.features.iter().filter(|row| lacks(row));
    let informing = report.features.iter().filter(|row| !lacks(row) && !row.mend.is_empty());
    let mut lines = Vec::new();
    let begin = |head: &str, lines: &mut Vec<String>| lines.extend([String::new(), head.to_owned()]);
    let mut last = ("", "");
    for (number, row) in lacking.enumerate() {
        if number == 0 {
            begin("To mend", &mut lines);
        }
        let head = format!("  {}", row.name);
        if (row.used_by, row.mend.as_str()) == last {
            lines.extend(page.beside(&head, STATE + NAME, "likewise"));
            continue;
        }
        lines.extend(page.beside(&head, STATE + NAME, &format!("needed by {}", row.used_by)));
        lines.extend(page.beside("", STATE + NAME, &row.mend));
        last = (row.used_by, &row.mend);
    }
    let mut last = "";
    for (number, row) in informing.enumerate() {
        if number == 0 {
            begin("Could be better, and no promise stands on it", &mut lines);
        }
        if row.mend != last {
            lines.extend(page.beside(&format!("  {}", row.name), STATE + NAME, &row.mend));
        }
        last = &row.mend;
    }
    lines
}

fn unkept(report: &Report, page: Page) -> Vec<String> {
    if report.unkept.is_empty() {
        return Vec::new();
    }
    let head = format!("Promises of SPECIFICATION.md that {} does not keep", report.profile);
    let mut lines = vec![String::new(), head];
    for row in report.unkept {
        lines.extend(page.beside(&format!("  {}", row.promise), 8, row.title));
        lines.extend(page.beside("", 8, &format!("- {}", row.lacks)));
    }
    lines
}

fn verdict(report: &Report) -> String {
    let host = format!("a host of this user, profile {},", report.profile);
    let rows = match report.findings {
        1 => "1 thing above lacks".to_owned(),
        count => format!("{count} things above lack"),
    };
    match report.verdict {
        Verdict::Fine => format!("Fine: {host} keeps every promise."),
        Verdict::Degraded => format!("Degraded: {host} starts; {rows}."),
        Verdict::CannotRun => format!("Cannot run: {host} does not start; {rows}."),
    }
}

/// Lines of at most this many columns, broken between words.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use cofferdam_sandbox::Known;

    fn report(root: bool) -> Report {
        let known = Known {
            group: "Kernel",
            name: "a name",
            need: Need::Required,
            buys: "what it buys, which takes more than what is left of a line of eighty columns",
            used_by: "promise 4",
            mend: "modprobe it",
        };
        let rows = vec![
            known.is(true, "v2"),
            Known { need: Need::Degrades, ..known }.is(false, ""),
            Known { group: "Host", name: "another", need: Need::Informs, ..known }.is(false, ""),
        ];
        Report::of(rows, root)
    }

    #[test]
    fn every_line_fits_and_the_verdict_is_the_last() {
        let page = Page { width: 80, colour: false };
        for root in [true, false] {
            let lines = lines(&report(root), page);
            assert!(lines.iter().all(|line| line.chars().count() <= 80), "{lines:#?}");
            assert!(lines.last().unwrap().starts_with("Degraded: a host of this user"), "{lines:#?}");
            assert_eq!(lines.iter().any(|line| line.contains("does not keep")), !root);
        }
    }

    #[test]
    fn a_lack_is_shown_with_who_needs_it_and_its_mend_before_what_only_informs() {
        let text = lines(&report(true), Page { width: 80, colour: false }).join("\n");
        let at = |what: &str| text.find(what).unwrap_or_else(|| panic!("{what}: {text}"));
        assert!(at("ok") < at("lacking") && at("lacking") < at("To mend"));
        assert!(at("needed by promise 4") < at("modprobe it") && at("modprobe it") < at("Could be better"));
    }

    #[test]
    fn colours_are_for_terminals() {
        let plain = lines(&report(true), Page { width: 80, colour: false }).join("\n");
        let coloured = lines(&report(true), Page { width: 80, colour: true }).join("\n");
        assert!(!plain.contains('\x1b') && coloured.contains("\x1b[33mlacking\x1b[0m"), "{coloured}");
    }
}
