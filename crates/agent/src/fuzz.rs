//! What must hold of a shell command that a model wrote, for `fuzz/`.

use crate::tools::command::{Simple, parse};
use std::fmt::Write as _;

/// A command that is understood has programs with plain names, and written anew, with everything quoted, it is understood as
/// the same.
pub fn shell(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(all) = parse(text) else { return };
    assert!(!all.is_empty());
    let name = |simple: &Simple| {
        let first = &simple.words[0];
        assert!(
            !first.expands
                && !first.text.is_empty()
                && first.text.bytes().all(|byte| byte.is_ascii_graphic())
        );
    };
    all.iter().for_each(name);
    for simple in all.into_iter().filter(Simple::is_whole) {
        let again = written(&simple);
        assert_eq!(parse(&again).as_deref(), Ok(&[simple][..]), "{again:?}");
    }
}

/// Anew, with everything quoted. A backslash never stands before the end of a line, where it is not understood.
fn written(simple: &Simple) -> String {
    let quoted = |text: &str| format!("'{}'", text.replace('\'', "'\\''").replace("\\\n", "\\''\n"));
    let (mut line, mut documents) = (String::new(), String::new());
    for word in &simple.words {
        let _ = write!(line, "{} ", quoted(&word.text));
    }
    for (number, it) in simple.redirections.iter().enumerate() {
        if it.operator.ends_with("<<") {
            let mut end = format!("E{number}");
            while it.target.lines().any(|line| line == end) {
                end.push('E');
            }
            // Only one whose tabs were taken away has such a line.
            let (dash, tab) = if it.target.lines().any(|line| line == "\\") { ("-", "\t") } else { ("", "") };
            let _ = write!(line, "{}{dash}'{end}' ", it.operator);
            for line in it.target.lines().chain([&*end]) {
                let _ = writeln!(documents, "{tab}{line}");
            }
        } else {
            let _ = write!(line, "{}{} ", it.operator, quoted(&it.target));
        }
    }
    format!("{line}\n{documents}")
}
