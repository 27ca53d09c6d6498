//! Turns a provider's answer into the wire that the cell speaks, while it arrives.

use super::{
    Api, chat_answer,
    fields::{Fault, Object, Raw, text},
    messages_answer,
    talk::Event,
};
use crate::{Error, error::said};
use http::StatusCode;
use std::{borrow::Cow, mem};

/// The longest answer in one piece, and the longest event of a stream, in bytes.
const MAX_WHOLE: usize = 4 * 1024 * 1024;
const MAX_EVENT: usize = 1024 * 1024;

/// Translates one answer.
#[derive(Debug)]
pub(crate) struct Translator {
    /// What the cell speaks: chat completions or messages.
    to: Api,
    kept: Vec<u8>,
    form: Form,
}

#[derive(Debug)]
enum Form {
    Whole,
    Refusal(StatusCode),
    Stream { data: String, writing: Writing, is_over: bool },
}

#[derive(Debug)]
enum Writing {
    Chat(chat_answer::Writing),
    Messages(messages_answer::Writing),
}

impl Translator {
    /// A translator of an answer that came with this status. `usage` says whether a chat client wants to read
    /// in a stream what was used.
    pub(crate) fn new(to: Api, status: StatusCode, streams: bool, usage: bool) -> Self {
        let writing = match to {
            Api::Messages => Writing::Messages(messages_answer::Writing::default()),
            _ => Writing::Chat(chat_answer::Writing::new(usage)),
        };
        let form = match streams {
            _ if !status.is_success() => Form::Refusal(status),
            true => Form::Stream { data: String::new(), writing, is_over: false },
            false => Form::Whole,
        };
        Self { to, kept: Vec::new(), form }
    }

    /// What the translated answer is.
    pub(crate) const fn content_type(&self) -> &'static str {
        match self.form {
            Form::Stream { .. } => "text/event-stream",
            _ => "application/json",
        }
    }

    /// Takes the next bytes, cut anywhere, and gives what follows from them.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Result<Vec<u8>, Error> {
        let mut out = Vec::new();
        let Form::Stream { .. } = self.form else {
            if self.kept.len() + bytes.len() > MAX_WHOLE {
                return Err(Error::Answer("it is too long".into()));
            }
            self.kept.extend_from_slice(bytes);
            return Ok(out);
        };
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            if self.kept.len() + part.len() > MAX_EVENT {
                return Err(Error::Answer("an event is too long".into()));
            }
            self.kept.extend_from_slice(part);
            if part.ends_with(b"\n") {
                let line = mem::take(&mut self.kept);
                self.line(&line, &mut out)?;
            }
        }
        Ok(out)
    }

    /// What follows from the end.
    pub(crate) fn finish(&mut self) -> Result<Vec<u8>, Error> {
        let kept = mem::take(&mut self.kept);
        match &self.form {
            Form::Whole => whole(self.to, &kept),
            Form::Refusal(status) => Ok(refusal(self.to, *status, &kept)),
            Form::Stream { .. } => {
                let mut out = Vec::new();
                self.line(&kept, &mut out)?;
                self.line(b"", &mut out)?;
                self.end(&mut out)?;
                Ok(out)
            }
        }
    }

    /// The stream is over: was the answer?
    fn end(&mut self, out: &mut Vec<u8>) -> Result<(), Error> {
        let Form::Stream { writing, is_over, .. } = &mut self.form else { return Ok(()) };
        if mem::replace(is_over, true) {
            return Ok(());
        }
        if !writing.has_stopped() {
            return Err(Error::Answer("it broke off".into()));
        }
        // Some servers leave out the last event.
        writing.write(Event::End, out).map_err(Error::answer)
    }

    fn line(&mut self, line: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        let to = self.to;
        let Form::Stream { data, writing, is_over } = &mut self.form else { return Ok(()) };
        let line = line.trim_ascii_end();
        if !line.is_empty() {
            if let Some(more) = line.strip_prefix(b"data:") {
                let more = str::from_utf8(more).map_err(|_| Error::Answer("it is no text".into()))?;
                if data.len() + more.len() > MAX_EVENT {
                    return Err(Error::Answer("an event is too long".into()));
                }
                data.push_str(more);
            }
            return Ok(());
        }
        let data = mem::take(data);
        if *is_over || data.trim().is_empty() {
            return Ok(());
        }
        let events = match to {
            Api::Messages => chat_answer::read_event(data.trim()),
            _ => messages_answer::read_event(data.trim()),
        };
        for event in events.map_err(Error::answer)? {
            event.is_short().map_err(Error::answer)?;
            *is_over |= matches!(event, Event::End | Event::Failed(_));
            writing.write(event, out).map_err(Error::answer)?;
        }
        Ok(())
    }
}

impl Writing {
    fn write(&mut self, event: Event<'_>, out: &mut Vec<u8>) -> Result<(), Fault> {
        match self {
            Self::Chat(writing) => writing.write(event, out),
            Self::Messages(writing) => writing.write(event, out),
        }
    }

    const fn has_stopped(&self) -> bool {
        match self {
            Self::Chat(writing) => writing.has_stopped(),
            Self::Messages(writing) => writing.has_stopped(),
        }
    }
}

fn whole(to: Api, body: &[u8]) -> Result<Vec<u8>, Error> {
    let body = str::from_utf8(body).map_err(|_| Error::Answer("it is no text".into()))?;
    let read = match to {
        Api::Messages => chat_answer::read(body),
        _ => messages_answer::read(body),
    };
    let answer = read.and_then(|answer| answer.is_short().map(|()| answer)).map_err(Error::answer)?;
    match to {
        Api::Messages => messages_answer::write(&answer).map_err(Error::answer),
        _ => Ok(chat_answer::write(&answer)),
    }
}

/// A provider's refusal in the cell's wire.
fn refusal(to: Api, status: StatusCode, body: &[u8]) -> Vec<u8> {
    let body = str::from_utf8(body).unwrap_or_default();
    let error = Object::parse(body).ok().and_then(|mut it| it.take("error").or_else(|| it.take("message")));
    let text =
        error.map_or_else(|| Cow::Owned(format!("the provider answered {}", status.as_u16())), error_text);
    said(to.wire(), status, &text).into_bytes()
}

/// The words of an error, which is a text or an object with a message, in either wire.
pub(super) fn error_text(error: Raw<'_>) -> Cow<'_, str> {
    let message = match Object::read(error) {
        Ok(mut error) => error.text("message").ok().flatten(),
        Err(_) => text(error).ok(),
    };
    message.unwrap_or(Cow::Borrowed("the provider failed"))
}
