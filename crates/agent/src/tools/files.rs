//! `ls`, `read` and `write`.

use super::{About, Bench, OUTPUT, Output, cut, on_files};
use serde::Deserialize;
use std::{
    fmt::Write as _,
    fs,
    io::{self, Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

pub(super) const TOOLS: [About; 3] = [
    About {
        name: "ls",
        group: "fs",
        label: "List a directory",
        description: "List a directory.",
        parameters: r#"{"type":"object","properties":{"path":{"type":"string"}}}"#,
        parallel: true,
        run: |bench, arguments| on_files(bench, arguments, ls),
    },
    About {
        name: "read",
        group: "fs",
        label: "Read a file",
        description: "Read a text file; offset (from 1) and limit count lines.",
        parameters: r#"{"type":"object","properties":{"path":{"type":"string"},"offset":{"type":"integer"},"limit":{"type":"integer"}},"required":["path"]}"#,
        parallel: true,
        run: |bench, arguments| on_files(bench, arguments, read),
    },
    About {
        name: "write",
        group: "fs",
        label: "Write a file",
        description: "Write a whole file, making its directories.",
        parameters: r#"{"type":"object","properties":{"path":{"type":"string"},"content":{"type":"string"}},"required":["path","content"]}"#,
        parallel: false,
        run: |bench, arguments| on_files(bench, arguments, write),
    },
];

/// The largest file that is read.
const LARGEST: u64 = 8 * 1024 * 1024;
/// The longest list.
const ENTRIES: usize = 1000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Ls {
    #[serde(default)]
    path: Option<String>,
}

pub(super) fn ls(bench: &Bench<'_>, asked: &Ls) -> Output {
    let path = bench.path(asked.path.as_deref().unwrap_or("."));
    let list = || -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&path)?.take(ENTRIES + 1) {
            let entry = entry?;
            let slash = if entry.file_type()?.is_dir() { "/" } else { "" };
            names.push(format!("{}{slash}", entry.file_name().to_string_lossy()));
        }
        names.sort();
        Ok(names)
    };
    match list() {
        Ok(names) if names.is_empty() => Output::ok("it is empty"),
        Ok(names) if names.len() > ENTRIES => {
            Output::ok(cut(format!("{}\n[… there is more …]", names[..ENTRIES].join("\n"))))
        }
        Ok(names) => Output::ok(cut(names.join("\n"))),
        Err(error) => failed("list", &path, &error),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Read {
    path: String,
    #[serde(default)]
    offset: Option<usize>,
    #[serde(default)]
    limit: Option<usize>,
}

pub(super) fn read(bench: &Bench<'_>, asked: &Read) -> Output {
    let path = bench.path(&asked.path);
    let text = match text_of(&path) {
        Ok(text) => text,
        Err(error) => return failed("read", &path, &error),
    };
    let skip = asked.offset.unwrap_or(1).saturating_sub(1);
    let mut lines = text.split_inclusive('\n').skip(skip);
    let (mut out, mut taken) = (String::new(), 0);
    while taken < asked.limit.unwrap_or(usize::MAX)
        && let Some(line) = lines.next()
    {
        if out.len() + line.len() > OUTPUT {
            if taken == 0 {
                out.push_str(&line[..line.floor_char_boundary(OUTPUT)]);
            }
            let _ = write!(out, "\n[… goes on at offset {} …]", skip + taken.max(1) + 1);
            break;
        }
        out.push_str(line);
        taken += 1;
    }
    Output::ok(out)
}

fn other(why: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.into())
}

/// A regular file, and what is known of it. Pipes and devices would block the gateway, so they are none; that is asked
/// of what was opened, and not of its name.
pub(crate) fn open(path: &Path) -> io::Result<(fs::File, fs::Metadata)> {
    let file = opened(fs::OpenOptions::new().read(true), path)?;
    let meta = file.metadata()?;
    Ok((file, meta))
}

fn opened(how: &mut fs::OpenOptions, path: &Path) -> io::Result<fs::File> {
    let file = how.custom_flags(NONBLOCK).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(other("it is no regular file")) }
}

/// Nobody is waited for at the other end of a pipe.
const NONBLOCK: i32 = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();

/// So much of a regular file's text, and an error if it is longer.
pub(crate) fn text_within(path: &Path, most: u64) -> io::Result<String> {
    let (file, meta) = open(path)?;
    if meta.len() > most {
        return Err(other(format!("it has {} bytes, and at most {most} are read", meta.len())));
    }
    let mut bytes = Vec::new();
    file.take(most).read_to_end(&mut bytes)?;
    String::from_utf8(bytes).map_err(|_| other("it is no UTF-8 text"))
}

pub(super) fn text_of(path: &Path) -> io::Result<String> {
    text_within(path, LARGEST)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Write {
    path: String,
    content: String,
}

pub(super) fn write(bench: &Bench<'_>, asked: &Write) -> Output {
    let path = bench.path(&asked.path);
    match replace(&path, &asked.content) {
        Ok(()) => Output::ok(format!("wrote {} bytes to {}", asked.content.len(), path.display())),
        Err(error) => failed("write", &path, &error),
    }
}

/// Replaces a file by rename, so that nobody reads half of it.
pub(crate) fn replace(path: &Path, text: &str) -> io::Result<()> {
    let name = path.file_name().ok_or_else(|| io::Error::from(io::ErrorKind::IsADirectory))?;
    let dir = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(dir)?;
    // A link is written through: whoever made it so meant it.
    match fs::symlink_metadata(path) {
        Ok(meta) if !meta.is_file() => {
            let mut file = opened(fs::OpenOptions::new().write(true), path)?;
            return file.set_len(0).and_then(|()| file.write_all(text.as_bytes()));
        }
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let new = dir.join(format!(".{}.{}", name.to_string_lossy(), crate::ids::uuid()));
    let written = fs::write(&new, text).and_then(|()| match fs::metadata(path) {
        Ok(meta) => fs::set_permissions(&new, meta.permissions()),
        Err(_) => Ok(()),
    });
    written.and_then(|()| fs::rename(&new, path)).inspect_err(|_| {
        // There may be none, and the first error is the one to tell.
        let _ = fs::remove_file(&new);
    })
}

pub(super) fn failed(what: &str, path: &Path, error: &io::Error) -> Output {
    Output::error(format!("cannot {what} {}: {error}", path.display()))
}
