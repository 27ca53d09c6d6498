//! Answers of Anthropic's messages, whole and streamed: read from a provider, and written for a cell.

use super::{
    fields::{At, Fault, Object},
    json::{self, Writer},
    messages::{block, write_block},
    talk::{Answer, Count, Event, Part, Stop, ToolCall, room},
};

/// Reads a whole answer.
pub(super) fn read(text: &str) -> Result<Answer<'_>, Fault> {
    let mut answer = Object::parse(text)?;
    let count = answer.object("usage")?.map(count).transpose().at("usage")?.unwrap_or_default();
    let mut parts = Vec::new();
    for (index, raw) in answer.list("content")?.into_iter().enumerate() {
        let types = ["text", "tool_use", "thinking", "redacted_thinking"];
        parts.extend(block(raw, &types).nth(index).at("content")?);
    }
    let stop = answer.text("stop_reason")?.map_or(Stop::End, |reason| stop(&reason));
    let (id, model) = (answer.text("id")?, answer.text("model")?);
    Ok(Answer { id: id.unwrap_or_default(), model: model.unwrap_or_default(), parts, stop, count })
}

fn stop(reason: &str) -> Stop {
    match reason {
        "max_tokens" | "model_context_window_exceeded" => Stop::Length,
        "tool_use" => Stop::Tools,
        "refusal" => Stop::Refused,
        _ => Stop::End,
    }
}

const fn reason(stop: Stop) -> &'static str {
    match stop {
        Stop::End => "end_turn",
        Stop::Length => "max_tokens",
        Stop::Tools => "tool_use",
        Stop::Refused => "refusal",
    }
}

fn count(mut usage: Object<'_>) -> Result<Count, Fault> {
    let mut of = |key| usage.count(key).map(Option::unwrap_or_default);
    let (fresh, cached) = (of("input_tokens")?, of("cache_read_input_tokens")?);
    let prompt = fresh.saturating_add(cached).saturating_add(of("cache_creation_input_tokens")?);
    Ok(Count { prompt, cached, completion: of("output_tokens")? })
}

/// Writes a whole answer.
pub(super) fn write(answer: &Answer<'_>) -> Result<Vec<u8>, Fault> {
    let mut written = Ok(());
    let body = json::object(|out| {
        out.text("id", &answer.id);
        out.text("type", "message");
        out.text("role", "assistant");
        out.text("model", &answer.model);
        out.list("content", |content| {
            written = answer.parts.iter().try_for_each(|part| write_block(content, part));
        });
        out.text("stop_reason", reason(answer.stop));
        out.raw("stop_sequence", "null");
        out.object("usage", |usage| write_count(usage, answer.count));
    });
    written.map(|()| body)
}

fn write_count(usage: &mut Writer<'_>, count: Count) {
    usage.number("input_tokens", count.prompt.saturating_sub(count.cached));
    usage.number("cache_creation_input_tokens", 0);
    usage.number("cache_read_input_tokens", count.cached);
    usage.number("output_tokens", count.completion);
}

/// Reads the data of one event of a stream.
pub(super) fn read_event(data: &str) -> Result<Vec<Event<'_>>, Fault> {
    let mut event = Object::parse(data)?;
    let kind = event.needed("type")?;
    let mut events = Vec::new();
    match &*kind {
        "message_start" => {
            let message = event.object("message")?.ok_or_else(|| Fault::new("is missing"));
            let mut message = message.at("message")?;
            let (id, model) = (message.text("id")?, message.text("model")?);
            events.push(Event::Start { id: id.unwrap_or_default(), model: model.unwrap_or_default() });
            if let Some(usage) = message.object("usage")? {
                events.push(Event::Count(count(usage).at("usage")?));
            }
        }
        "content_block_start" => {
            let number = event.count("index")?.unwrap_or(0);
            let raw = event.take("content_block").ok_or_else(|| Fault::new("is missing"));
            let types = ["text", "tool_use", "thinking", "redacted_thinking"];
            match block(raw.at("content_block")?, &types).at("content_block")? {
                Some(Part::Text(text)) if !text.is_empty() => events.push(Event::Text(text)),
                Some(Part::Call(ToolCall { id, name, arguments })) => {
                    events.push(Event::Call { number, id, name });
                    if arguments != "{}" {
                        events.push(Event::Arguments { number, text: arguments });
                    }
                }
                _ => {}
            }
        }
        "content_block_delta" => {
            let number = event.count("index")?.unwrap_or(0);
            let mut delta = event.object("delta")?.ok_or_else(|| Fault::new("is missing")).at("delta")?;
            let text = match &*delta.needed("type").at("delta")? {
                "text_delta" => delta.text("text").at("delta")?.map(Event::Text),
                "input_json_delta" => {
                    delta.text("partial_json").at("delta")?.map(|text| Event::Arguments { number, text })
                }
                // What it thinks, and whence it has it.
                _ => None,
            };
            let says = |event: &Event<'_>| !matches!(event, Event::Text(text) | Event::Arguments { text, .. } if text.is_empty());
            events.extend(text.filter(says));
        }
        "message_delta" => {
            if let Some(usage) = event.object("usage")? {
                events.push(Event::Count(count(usage).at("usage")?));
            }
            if let Some(mut delta) = event.object("delta")?
                && let Some(reason) = delta.text("stop_reason").at("delta")?
            {
                events.push(Event::Stop(stop(&reason)));
            }
        }
        "message_stop" => events.push(Event::End),
        "error" => {
            let said = event.take("error").map_or("the provider failed".into(), super::translate::error_text);
            events.push(Event::Failed(said));
        }
        // A ping, the end of a block, and what later versions add: none of them carries text.
        _ => {}
    }
    Ok(events)
}

/// How much of later blocks waits for the one before them, in bytes.
const MOST_HELD: usize = 4 * 1024 * 1024;

/// Writes a stream for a cell. Its blocks follow each other, while a provider of the other wire may write at
/// several calls by turns: the first that is open streams, those behind it wait.
#[derive(Debug, Default)]
pub(super) struct Writing {
    started: bool,
    blocks: Vec<Block>,
    /// The block that streams; one beyond the last if none does.
    live: usize,
    held: usize,
    count: Count,
    stop: Option<Stop>,
}

#[derive(Debug)]
struct Block {
    /// Number, id and name, if it is a call.
    call: Option<(u64, String, String)>,
    held: String,
}

impl Writing {
    /// Did the provider say why it ended?
    pub(super) const fn has_stopped(&self) -> bool {
        self.stop.is_some()
    }

    pub(super) fn write(&mut self, event: Event<'_>, out: &mut Vec<u8>) -> Result<(), Fault> {
        match event {
            Event::Start { id, model } if !self.started => {
                self.started = true;
                start(out, &id, &model);
            }
            Event::Start { .. } => {}
            Event::Text(text) => {
                if self.blocks.last().is_none_or(|last| last.call.is_some()) {
                    self.add(out, None)?;
                }
                self.more(out, self.blocks.len() - 1, &text)?;
            }
            Event::Call { number, id, name } => {
                if self.place(number).is_none() {
                    // Text is over where a call begins.
                    if self.blocks.get(self.live).is_some_and(|block| block.call.is_none()) {
                        self.close(out);
                    }
                    self.add(out, Some((number, id.into_owned(), name.into_owned())))?;
                }
            }
            Event::Arguments { number, text } => {
                let at = self.place(number).ok_or_else(|| Fault::new("are arguments of no call"))?;
                self.more(out, at, &text)?;
            }
            Event::Stop(stop) => {
                let calls = self.blocks.iter().any(|block| block.call.is_some());
                // Some servers say that it ended where it waits for a tool.
                self.stop = Some(if calls && stop == Stop::End { Stop::Tools } else { stop });
            }
            Event::Count(count) => self.count.merge(count),
            Event::End => self.end(out),
            Event::Failed(said) => {
                let (wire, status) = (cofferdam_base::Provider::Anthropic, http::StatusCode::BAD_GATEWAY);
                let text = crate::error::said(wire, status, &said);
                out.extend_from_slice(format!("event: error\ndata: {text}\n\n").as_bytes());
            }
        }
        Ok(())
    }

    fn place(&self, number: u64) -> Option<usize> {
        self.blocks.iter().position(|block| block.call.as_ref().is_some_and(|(known, ..)| *known == number))
    }

    fn add(&mut self, out: &mut Vec<u8>, call: Option<(u64, String, String)>) -> Result<(), Fault> {
        room(self.blocks.len())?;
        self.blocks.push(Block { call, held: String::new() });
        if self.live + 1 == self.blocks.len() {
            self.open(out);
        }
        Ok(())
    }

    fn more(&mut self, out: &mut Vec<u8>, at: usize, text: &str) -> Result<(), Fault> {
        if at == self.live {
            delta(out, at, self.blocks[at].call.is_some(), text);
            return Ok(());
        }
        self.held += text.len();
        if at < self.live || self.held > MOST_HELD {
            return Err(Fault::new("are too many pieces out of order"));
        }
        self.blocks[at].held.push_str(text);
        Ok(())
    }

    fn open(&self, out: &mut Vec<u8>) {
        event(out, "content_block_start", |event| {
            event.number("index", self.live as u64);
            event.object("content_block", |block| match &self.blocks[self.live].call {
                None => {
                    block.text("type", "text");
                    block.text("text", "");
                }
                Some((_, id, name)) => {
                    block.text("type", "tool_use");
                    block.text("id", id);
                    block.text("name", name);
                    block.raw("input", "{}");
                }
            });
        });
    }

    /// Closes the block that streams.
    fn close(&mut self, out: &mut Vec<u8>) {
        event(out, "content_block_stop", |event| event.number("index", self.live as u64));
        self.live += 1;
    }

    fn end(&mut self, out: &mut Vec<u8>) {
        if self.live < self.blocks.len() {
            self.close(out);
        }
        while self.live < self.blocks.len() {
            self.open(out);
            let Block { call, held } = &self.blocks[self.live];
            if !held.is_empty() {
                delta(out, self.live, call.is_some(), held);
            }
            self.close(out);
        }
        event(out, "message_delta", |event| {
            event.object("delta", |delta| {
                delta.text("stop_reason", reason(self.stop.unwrap_or(Stop::End)));
                delta.raw("stop_sequence", "null");
            });
            event.object("usage", |usage| write_count(usage, self.count));
        });
        event(out, "message_stop", |_| ());
    }
}

fn start(out: &mut Vec<u8>, id: &str, model: &str) {
    event(out, "message_start", |event| {
        event.object("message", |message| {
            message.text("id", id);
            message.text("type", "message");
            message.text("role", "assistant");
            message.text("model", model);
            message.raw("content", "[]");
            message.raw("stop_reason", "null");
            message.raw("stop_sequence", "null");
            // The other wire counts at the end only.
            message.object("usage", |usage| write_count(usage, Count::default()));
        });
    });
}

fn delta(out: &mut Vec<u8>, at: usize, is_call: bool, text: &str) {
    event(out, "content_block_delta", |event| {
        event.number("index", at as u64);
        event.object("delta", |delta| {
            let (kind, key) =
                if is_call { ("input_json_delta", "partial_json") } else { ("text_delta", "text") };
            delta.text("type", kind);
            delta.text(key, text);
        });
    });
}

fn event(out: &mut Vec<u8>, name: &str, fill: impl FnOnce(&mut Writer<'_>)) {
    out.extend_from_slice(format!("event: {name}\ndata: ").as_bytes());
    json::write(out, |event| {
        event.text("type", name);
        fill(event);
    });
    out.extend_from_slice(b"\n\n");
}
