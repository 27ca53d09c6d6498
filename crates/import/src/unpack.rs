//! The process that puts the stream into the tenant's home: in its cell, as its uid, under its seal.
//!
//! It believes the stream as little as anything else that a home made: paths stay below `/sandbox`, and a stream that
//! does not come to its end makes it fail, upon which control removes the tenant.

use crate::{
    Error, Runtime,
    bundle::{self, Conversation, FileHead, Imported, Kind, Said},
    io,
    reader::SETTINGS,
};
use cofferdam_agent::store::{Message, Role, Session, Store};
use std::{
    fs::{self, File, OpenOptions},
    io::{BufReader, Read, Write},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Component, Path, PathBuf},
    process::ExitCode,
};

/// So many messages go to the disk at a time.
const AT_A_TIME: usize = 256;

/// The entry: `__unpack-home RUNTIME`, the stream on standard input, an [`Imported`] on standard output.
pub fn unpack_main() -> ExitCode {
    let done = match std::env::args().nth(2).as_deref() {
        Some("native") => {
            unpack(Runtime::Native, Path::new("/sandbox"), &mut BufReader::new(std::io::stdin().lock()))
        }
        Some("openclaw") => {
            unpack(Runtime::Openclaw, Path::new("/sandbox"), &mut BufReader::new(std::io::stdin().lock()))
        }
        _ => Err(Error::Stream("no runtime is named".to_owned())),
    };
    let written = done.and_then(|done| {
        let text = serde_json::to_vec(&done).map_err(|why| Error::Stream(why.to_string()))?;
        std::io::stdout().write_all(&text).map_err(io("the answer"))
    });
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Unpacks a stream, whose report was taken off it, below `root`.
pub(crate) fn unpack(runtime: Runtime, root: &Path, from: &mut impl Read) -> Result<Imported, Error> {
    let state = root.join(".cofferdam");
    let mut unpacker = Unpacker {
        root,
        store: None,
        file: None,
        session: None,
        waiting: Vec::new(),
        done: Imported::default(),
    };
    loop {
        let (kind, payload) = bundle::read(from)?;
        match kind {
            Kind::File => unpacker.begin(&bundle::parse(&payload)?)?,
            Kind::Data => unpacker.data(&payload)?,
            Kind::Session => unpacker.session(bundle::parse(&payload)?)?,
            Kind::Message => unpacker.message(bundle::parse(&payload)?)?,
            Kind::Report => return Err(Error::Stream("a report in its middle".to_owned())),
            Kind::End => break,
        }
    }
    unpacker.settle()?;
    let done = unpacker.done;
    drop(unpacker);
    if runtime == Runtime::Openclaw && state.exists() {
        // Of the gateway that ran while this was unpacked.
        fs::remove_dir_all(&state).map_err(io(".cofferdam"))?;
    }
    File::open(root).and_then(|root| root.sync_all()).map_err(io("/sandbox"))?;
    Ok(done)
}

struct Unpacker<'a> {
    root: &'a Path,
    /// The gateway's state, once there is a conversation.
    store: Option<Store>,
    /// The file that is written, and how much of it is to come.
    file: Option<(File, PathBuf, u64)>,
    session: Option<Session>,
    waiting: Vec<Message>,
    done: Imported,
}

impl Unpacker<'_> {
    fn begin(&mut self, head: &FileHead) -> Result<(), Error> {
        self.settle()?;
        let path = self.root.join(below(&head.path)?);
        if let Some(parent) = path.parent() {
            let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(parent);
            made.map_err(io(parent.display().to_string()))?;
        }
        let mode = if head.runs { 0o700 } else { 0o600 };
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&path);
        let file = file.map_err(io(path.display().to_string()))?;
        self.file = Some((file, path, head.size));
        self.done.files += 1;
        self.done.bytes += head.size;
        Ok(())
    }

    fn data(&mut self, piece: &[u8]) -> Result<(), Error> {
        let Some((file, path, left)) = &mut self.file else {
            return Err(Error::Stream("content of no file".to_owned()));
        };
        *left = left
            .checked_sub(piece.len() as u64)
            .ok_or_else(|| Error::Stream("too much of a file".to_owned()))?;
        file.write_all(piece).map_err(io(path.display().to_string()))
    }

    fn session(&mut self, conversation: Conversation) -> Result<(), Error> {
        self.settle()?;
        let Conversation { key, id, created, updated, label } = conversation;
        let session = Session { label, updated_at: updated, ..Session::new(key, id, created) };
        self.store()?.put_session(&session)?;
        self.session = Some(session);
        self.done.sessions += 1;
        Ok(())
    }

    fn message(&mut self, said: Said) -> Result<(), Error> {
        let Some(session) = &self.session else {
            return Err(Error::Stream("a message of no conversation".to_owned()));
        };
        let role = [Role::User, Role::Assistant, Role::ToolResult]
            .into_iter()
            .find(|role| role.as_str() == said.role);
        let role = role.ok_or_else(|| Error::Stream("a message of nobody".to_owned()))?;
        self.waiting.push(Message::new(session, None, role, said.body, said.at));
        self.done.messages += 1;
        if self.waiting.len() >= AT_A_TIME { self.flush() } else { Ok(()) }
    }

    /// Ends what was begun.
    fn settle(&mut self) -> Result<(), Error> {
        if let Some((file, path, left)) = self.file.take() {
            if left > 0 {
                return Err(Error::Stream("too little of a file".to_owned()));
            }
            file.sync_all().map_err(io(path.display().to_string()))?;
        }
        self.flush()
    }

    fn flush(&mut self) -> Result<(), Error> {
        let waiting = std::mem::take(&mut self.waiting);
        if waiting.is_empty() { Ok(()) } else { Ok(self.store()?.append_all(&waiting)?) }
    }

    fn store(&mut self) -> Result<&Store, Error> {
        if self.store.is_none() {
            let state = self.root.join(".cofferdam");
            fs::DirBuilder::new().recursive(true).mode(0o700).create(&state).map_err(io(".cofferdam"))?;
            self.store = Some(Store::open(&state.join("agent.db"))?);
        }
        self.store.as_ref().ok_or_else(|| Error::Stream("no state".to_owned()))
    }
}

/// A path that stays below where it begins.
fn below(path: &str) -> Result<&Path, Error> {
    let path = Path::new(path);
    let plain = path.components().all(|part| matches!(part, Component::Normal(_)));
    let ours = path.starts_with("workspace") || path.starts_with(".openclaw") || path == Path::new(SETTINGS);
    if plain && ours { Ok(path) } else { Err(Error::Stream("a path that leads elsewhere".to_owned())) }
}
