//! `apply_patch`: several files at once, in the format that models of this trade write.
//!
//! ```text
//! *** Begin Patch
//! *** Add File: new.txt
//! +its first line
//! *** Update File: old.txt
//! *** Move to: moved.txt
//! @@ a line before it
//!  context
//! -what goes
//! +what comes
//! *** Delete File: gone.txt
//! *** End Patch
//! ```
//!
//! Everything is worked out before anything is written: a patch that does not fit changes nothing.

use super::{
    About, Bench, Output,
    files::{replace, text_of},
    on_files,
};
use serde::Deserialize;
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

/// Files in one patch.
const MOST: usize = 200;

pub(super) const TOOLS: [About; 1] = [About {
    name: "apply_patch",
    group: "fs",
    label: "Change several files",
    description: "Apply a patch: *** Begin Patch, then *** Add File: / *** Update File: / *** Delete File: PATH with lines of +, -, blank and @@, then *** End Patch.",
    parameters: r#"{"type":"object","properties":{"input":{"type":"string"}},"required":["input"]}"#,
    parallel: false,
    run: |bench, arguments| on_files(bench, arguments, apply),
}];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Asked {
    input: String,
}

pub(super) fn apply(bench: &Bench<'_>, asked: &Asked) -> Output {
    match parse(&asked.input).and_then(|patch| worked_out(bench, &patch)) {
        Ok(after) => write(&after),
        Err(error) => Output::error(format!("nothing was changed: {error}")),
    }
}

/// One file of a patch.
#[derive(Debug, PartialEq, Eq)]
enum Change {
    Add { path: String, text: String },
    Delete { path: String },
    Update { path: String, to: Option<String>, hunks: Vec<Hunk> },
}

/// One piece of a file for another.
#[derive(Debug, Default, PartialEq, Eq)]
struct Hunk {
    /// Lines that come before it, in this order.
    anchors: Vec<String>,
    old: Vec<String>,
    new: Vec<String>,
}

fn parse(input: &str) -> Result<Vec<Change>, String> {
    let mut lines = input.trim().lines().peekable();
    if lines.next().map(str::trim_end) != Some("*** Begin Patch") {
        return Err("it does not begin with *** Begin Patch".to_owned());
    }
    let mut changes = Vec::new();
    while let Some(line) = lines.next() {
        let line = line.trim_end();
        if line == "*** End Patch" {
            return if lines.next().is_none() {
                Ok(changes)
            } else {
                Err("it goes on behind its end".to_owned())
            };
        }
        if changes.len() >= MOST {
            return Err(format!("it is about more than {MOST} files"));
        }
        // Up to the next file's line.
        let mut body = Vec::new();
        while let Some(line) =
            lines.next_if(|line| !line.starts_with("*** ") || line.starts_with("*** Move to: "))
        {
            body.push(line);
        }
        changes.push(if let Some(path) = line.strip_prefix("*** Add File: ") {
            Change::Add { path: path.to_owned(), text: added(path, &body)? }
        } else if let Some(path) = line.strip_prefix("*** Delete File: ") {
            Change::Delete { path: path.to_owned() }
        } else if let Some(path) = line.strip_prefix("*** Update File: ") {
            updated(path, &body)?
        } else {
            return Err(format!("{line:?} names no file"));
        });
    }
    Err("it does not end with *** End Patch".to_owned())
}

fn added(path: &str, body: &[&str]) -> Result<String, String> {
    let mut text = String::new();
    for line in body {
        let line = line.strip_prefix('+').ok_or_else(|| format!("a line of {path} does not begin with +"))?;
        text.push_str(line);
        text.push('\n');
    }
    Ok(text)
}

fn updated(path: &str, body: &[&str]) -> Result<Change, String> {
    let (to, body) =
        match body.split_first().and_then(|(first, rest)| Some((first.strip_prefix("*** Move to: ")?, rest)))
        {
            Some((to, rest)) => (Some(to.trim_end().to_owned()), rest),
            None => (None, body),
        };
    let mut hunks: Vec<Hunk> = Vec::new();
    for line in body {
        if let Some(anchor) = line.strip_prefix("@@") {
            let anchor = anchor.trim();
            let fresh = hunks.last().is_none_or(|hunk| !(hunk.old.is_empty() && hunk.new.is_empty()));
            if fresh {
                hunks.push(Hunk::default());
            }
            if let Some(hunk) = hunks.last_mut().filter(|_| !anchor.is_empty()) {
                hunk.anchors.push(anchor.to_owned());
            }
            continue;
        }
        if hunks.is_empty() {
            hunks.push(Hunk::default());
        }
        let Some(hunk) = hunks.last_mut() else { continue };
        match line.split_at_checked(1) {
            Some(("-", rest)) => hunk.old.push(rest.to_owned()),
            Some(("+", rest)) => hunk.new.push(rest.to_owned()),
            // An empty line of context may have lost its blank.
            Some((" ", _)) | None => {
                let rest = line.get(1..).unwrap_or_default().to_owned();
                hunk.old.push(rest.clone());
                hunk.new.push(rest);
            }
            Some(_) => return Err(format!("a line of {path} begins with none of blank, + and -: {line:?}")),
        }
    }
    Ok(Change::Update { path: path.to_owned(), to, hunks })
}

/// What is to be where; none: nothing.
type After = BTreeMap<PathBuf, Option<String>>;

fn worked_out(bench: &Bench<'_>, patch: &[Change]) -> Result<After, String> {
    let mut after = After::new();
    let read = |after: &After, path: &Path| match after.get(path) {
        Some(Some(text)) => Ok(text.clone()),
        Some(None) => Err(format!("{} is deleted before", path.display())),
        None => text_of(path).map_err(|error| format!("cannot read {}: {error}", path.display())),
    };
    for change in patch {
        match change {
            Change::Add { path, text } => {
                after.insert(bench.path(path), Some(text.clone()));
            }
            Change::Delete { path } => {
                let path = bench.path(path);
                read(&after, &path)?;
                after.insert(path, None);
            }
            Change::Update { path, to, hunks } => {
                let from = bench.path(path);
                let text =
                    changed(&read(&after, &from)?, hunks).map_err(|error| format!("{path}: {error}"))?;
                if let Some(to) = to {
                    after.insert(from, None);
                    after.insert(bench.path(to), Some(text));
                } else {
                    after.insert(from, Some(text));
                }
            }
        }
    }
    Ok(after)
}

/// A text with its hunks, each of which is found behind the one before.
fn changed(text: &str, hunks: &[Hunk]) -> Result<String, String> {
    // A carriage return stays a part of its line.
    let mut lines: Vec<String> = text.split_terminator('\n').map(str::to_owned).collect();
    let mut from = 0;
    for hunk in hunks {
        for anchor in &hunk.anchors {
            let at = lines[from..].iter().position(|line| line.trim() == anchor);
            from += at.ok_or_else(|| format!("there is no line {anchor:?}"))? + 1;
        }
        let at = if hunk.old.is_empty() {
            // With nothing to stand beside it goes where its anchor ends, or to the end.
            if hunk.anchors.is_empty() { lines.len() } else { from }
        } else {
            let fits = |exact: bool| {
                let same = |a: &String, b: &String| if exact { a == b } else { a.trim_end() == b.trim_end() };
                lines[from..]
                    .windows(hunk.old.len())
                    .position(|run| run.iter().zip(&hunk.old).all(|(a, b)| same(a, b)))
            };
            let found = fits(true).or_else(|| fits(false));
            from + found.ok_or_else(|| format!("these lines are not there:\n{}", hunk.old.join("\n")))?
        };
        lines.splice(at..at + hunk.old.len(), hunk.new.iter().cloned());
        from = at + hunk.new.len();
    }
    let mut out = lines.join("\n");
    // As the text ended; an empty last line is none without it.
    let ends = text.is_empty() || text.ends_with('\n');
    if lines.last().is_some_and(|last| ends || last.is_empty()) {
        out.push('\n');
    }
    Ok(out)
}

fn write(after: &After) -> Output {
    let mut done = Vec::new();
    for (path, text) in after {
        let (word, written) = match text {
            Some(text) => ("wrote", replace(path, text)),
            None => ("deleted", fs::remove_file(path)),
        };
        if let Err(error) = written {
            let before = if done.is_empty() { "nothing".to_owned() } else { done.join("; ") };
            return Output::error(format!(
                "{before} was done before this failed: {}: {error}",
                path.display()
            ));
        }
        done.push(format!("{word} {}", path.display()));
    }
    Output::ok(if done.is_empty() { "the patch is empty".to_owned() } else { done.join("\n") })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn hunks(body: &str) -> Vec<Hunk> {
        let Change::Update { hunks, .. } = updated("a", &body.lines().collect::<Vec<_>>()).unwrap() else {
            panic!()
        };
        hunks
    }

    #[test]
    fn hunks_are_found_behind_each_other_by_their_lines_and_anchors() {
        let text = "fn a() {\n    one\n}\n\nfn b() {\n    one\n}\n";
        let second = changed(text, &hunks("@@ fn b() {\n-    one\n+    two\n+    three")).unwrap();
        assert_eq!(second, "fn a() {\n    one\n}\n\nfn b() {\n    two\n    three\n}\n");
        let both = changed(text, &hunks("@@\n-    one\n+    1\n@@\n \n fn b() {\n-    one\n+    2")).unwrap();
        assert_eq!(both, "fn a() {\n    1\n}\n\nfn b() {\n    2\n}\n");
        assert_eq!(
            changed("a  \nb", &hunks("-a\n+c")).unwrap(),
            "c\nb",
            "blanks at a line's end do not count"
        );
        assert_eq!(changed("a\n", &hunks("+b")).unwrap(), "a\nb\n");
        assert_eq!(changed("", &hunks("+b")).unwrap(), "b\n");
        assert_eq!(changed("", &hunks("+")).unwrap(), "\n");
        assert_eq!(changed("a\r\nb\r\n", &hunks("-b\n+c")).unwrap(), "a\r\nc\n");
        for (body, why) in [("@@ fn c() {\n+x", "no line"), ("-four\n+x", "not there")] {
            assert!(changed(text, &hunks(body)).unwrap_err().contains(why), "{body}");
        }
    }

    #[test]
    fn what_is_no_patch_is_refused() {
        for (text, why) in [
            ("", "begin"),
            ("*** Begin Patch\n*** Add File: a\n+x", "end"),
            ("*** Begin Patch\n*** Add File: a\nx\n*** End Patch", "does not begin with +"),
            ("*** Begin Patch\n*** Rename File: a\n*** End Patch", "names no file"),
            ("*** Begin Patch\n*** Update File: a\n!x\n*** End Patch", "none of blank"),
            ("*** Begin Patch\n*** End Patch\nmore", "behind its end"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(why), "{text:?}: {error}");
        }
    }

    proptest::proptest! {
        /// Whatever a model writes: no panic, and lines that no hunk names stay as they are.
        #[test]
        fn no_patch_panics(
            pieces in proptest::collection::vec("(\\*\\*\\* (Begin|End) Patch|\\*\\*\\* (Add|Delete|Update) File: a|\\*\\*\\* Move to: b|@@ ?é?|[-+ ][é\\ta]{0,2}|)", 0..12),
            text in "(a\n|é\n|\t|\n){0,6}",
        ) {
            let body = pieces.join("\n");
            let _ = parse(&body);
            let whole = format!("*** Begin Patch\n{body}\n*** End Patch");
            for change in parse(&whole).unwrap_or_default() {
                if let Change::Update { hunks, .. } = change
                    && let Ok(after) = changed(&text, &hunks)
                {
                    let gone: usize = hunks.iter().map(|hunk| hunk.old.len()).sum();
                    let come: usize = hunks.iter().map(|hunk| hunk.new.len()).sum();
                    proptest::prop_assert_eq!(after.lines().count() + gone, text.lines().count() + come);
                }
            }
        }
    }
}
