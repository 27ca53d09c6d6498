//! `edit`: one piece of a file for another.

use super::{
    About, Bench, Output,
    files::{failed, replace, text_of},
    on_files,
};
use serde::Deserialize;

pub(super) const TOOLS: [About; 1] = [About {
    name: "edit",
    group: "fs",
    label: "Edit a file",
    description: "Replace oldText, which must occur exactly once, by newText.",
    parameters: r#"{"type":"object","properties":{"path":{"type":"string"},"oldText":{"type":"string"},"newText":{"type":"string"}},"required":["path","oldText","newText"]}"#,
    parallel: false,
    run: |bench, arguments| on_files(bench, arguments, edit),
}];

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Edit {
    path: String,
    old_text: String,
    new_text: String,
}

pub(super) fn edit(bench: &Bench<'_>, asked: &Edit) -> Output {
    let path = bench.path(&asked.path);
    let text = match text_of(&path) {
        Ok(text) => text,
        Err(error) => return failed("read", &path, &error),
    };
    if asked.old_text.is_empty() {
        return Output::error("oldText is empty: use write for a new file");
    }
    match text.matches(&asked.old_text).count() {
        1 => {}
        0 => return Output::error("oldText does not occur in the file: read it again"),
        count => {
            return Output::error(format!("oldText occurs {count} times: give more of what is around it"));
        }
    }
    match replace(&path, &text.replacen(&asked.old_text, &asked.new_text, 1)) {
        Ok(()) => Output::ok(format!("edited {}", path.display())),
        Err(error) => failed("write", &path, &error),
    }
}
