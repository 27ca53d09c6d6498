//! Answers of OpenAI's chat completions, whole and streamed: read from a provider, and written for a cell.

use super::{
    chat::{tool_call, write_call},
    fields::{At, Fault, Object, Raw, list},
    json::{self, Writer},
    talk::{Answer, Count, Event, Part, Stop, room},
};

/// Reads a whole answer.
pub(super) fn read(text: &str) -> Result<Answer<'_>, Fault> {
    let mut answer = Object::parse(text)?;
    let count = answer.object("usage")?.map(count).transpose().at("usage")?.unwrap_or_default();
    let choices = answer.list("choices")?;
    let [choice] = choices[..] else { return Err(Fault::new("is not one choice")).at("choices") };
    let mut choice = Object::read(choice).at("choices")?;
    let mut message = choice.object("message")?.ok_or_else(|| Fault::new("is missing")).at("message")?;
    let mut parts = Vec::new();
    let refusal = message.text("refusal")?;
    let was_refused = refusal.is_some();
    let said = [message.text("content")?, refusal].into_iter().flatten().filter(|text| !text.is_empty());
    parts.extend(said.map(Part::Text));
    let calls = message.list("tool_calls")?;
    let has_calls = !calls.is_empty();
    for (index, raw) in calls.into_iter().enumerate() {
        parts.push(Part::Call(tool_call(raw).nth(index).at("tool_calls")?));
    }
    let stop = match choice.text("finish_reason")? {
        _ if was_refused => Stop::Refused,
        // Some servers say that it ended where it waits for a tool.
        Some(reason) if has_calls && reason == "stop" => Stop::Tools,
        Some(reason) => stop(&reason),
        None => Stop::End,
    };
    let (id, model) = (answer.text("id")?, answer.text("model")?);
    Ok(Answer { id: id.unwrap_or_default(), model: model.unwrap_or_default(), parts, stop, count })
}

fn stop(reason: &str) -> Stop {
    match reason {
        "length" => Stop::Length,
        "tool_calls" | "function_call" => Stop::Tools,
        "content_filter" => Stop::Refused,
        _ => Stop::End,
    }
}

const fn reason(stop: Stop) -> &'static str {
    match stop {
        Stop::End => "stop",
        Stop::Length => "length",
        Stop::Tools => "tool_calls",
        Stop::Refused => "content_filter",
    }
}

fn count(mut usage: Object<'_>) -> Result<Count, Fault> {
    let details = usage.object("prompt_tokens_details")?;
    let cached = details.map(|mut details| details.count("cached_tokens")).transpose()?.flatten();
    Ok(Count {
        prompt: usage.count("prompt_tokens")?.unwrap_or(0),
        cached: cached.unwrap_or(0),
        completion: usage.count("completion_tokens")?.unwrap_or(0),
    })
}

/// Writes a whole answer.
pub(super) fn write(answer: &Answer<'_>) -> Vec<u8> {
    let mut text = String::new();
    let mut calls = Vec::new();
    for part in &answer.parts {
        match part {
            Part::Text(more) => text.push_str(more),
            Part::Call(call) => calls.push(call),
            // No model answers with these: the readers of answers make none.
            Part::Image { .. } | Part::Result { .. } => {}
        }
    }
    json::object(|out| {
        out.text("id", &answer.id);
        out.text("object", "chat.completion");
        out.number("created", 0);
        out.text("model", &answer.model);
        out.list("choices", |choices| {
            choices.object(|choice| {
                choice.number("index", 0);
                choice.object("message", |message| {
                    message.text("role", "assistant");
                    if text.is_empty() && !calls.is_empty() {
                        message.raw("content", "null");
                    } else {
                        message.text("content", &text);
                    }
                    message.raw("refusal", "null");
                    if !calls.is_empty() {
                        message.list("tool_calls", |list| {
                            for call in &calls {
                                list.object(|out| write_call(out, call));
                            }
                        });
                    }
                });
                choice.raw("logprobs", "null");
                choice.text("finish_reason", reason(answer.stop));
            });
        });
        out.object("usage", |usage| write_count(usage, answer.count));
    })
}

fn write_count(usage: &mut Writer<'_>, count: Count) {
    usage.number("prompt_tokens", count.prompt);
    usage.number("completion_tokens", count.completion);
    usage.number("total_tokens", count.prompt.saturating_add(count.completion));
    usage.object("prompt_tokens_details", |details| details.number("cached_tokens", count.cached));
}

/// Reads the data of one event of a stream.
pub(super) fn read_event(data: &str) -> Result<Vec<Event<'_>>, Fault> {
    if data == "[DONE]" {
        return Ok(vec![Event::End]);
    }
    let mut chunk = Object::parse(data)?;
    if let Some(error) = chunk.take("error") {
        return Ok(vec![Event::Failed(super::translate::error_text(error))]);
    }
    let (id, model) = (chunk.text("id")?.unwrap_or_default(), chunk.text("model")?.unwrap_or_default());
    let mut events = vec![Event::Start { id, model }];
    if let Some(usage) = chunk.object("usage")? {
        events.push(Event::Count(count(usage).at("usage")?));
    }
    for raw in chunk.list("choices")? {
        read_choice(Object::read(raw).at("choices")?, &mut events).at("choices")?;
    }
    Ok(events)
}

fn read_choice<'a>(mut choice: Object<'a>, events: &mut Vec<Event<'a>>) -> Result<(), Fault> {
    if choice.count("index")?.unwrap_or(0) != 0 {
        return Err(Fault::new("is of a second choice, which nobody asked for")).at("index");
    }
    if let Some(mut delta) = choice.object("delta")? {
        let refusal = delta.text("refusal")?;
        let said = [delta.text("content")?, refusal].into_iter().flatten();
        events.extend(said.filter(|text| !text.is_empty()).map(Event::Text));
        let calls = delta.take("tool_calls").map_or(Ok(Vec::new()), list).at("tool_calls")?;
        for (at, raw) in (0..).zip(calls) {
            read_call(raw, at, events).at("tool_calls")?;
        }
    }
    if let Some(reason) = choice.text("finish_reason")? {
        events.push(Event::Stop(stop(&reason)));
    }
    Ok(())
}

fn read_call<'a>(raw: Raw<'a>, at: u64, events: &mut Vec<Event<'a>>) -> Result<(), Fault> {
    let mut call = Object::read(raw)?;
    let number = call.count("index")?.unwrap_or(at);
    let id = call.text("id")?;
    let Some(mut function) = call.object("function")? else { return Ok(()) };
    if let (Some(id), Some(name)) = (id, function.text("name")?) {
        events.push(Event::Call { number, id, name });
    }
    match function.text("arguments")? {
        Some(text) if !text.is_empty() => events.push(Event::Arguments { number, text }),
        _ => {}
    }
    Ok(())
}

/// Writes a stream for a cell.
#[derive(Debug, Default)]
pub(super) struct Writing {
    started: bool,
    id: String,
    model: String,
    /// The calls by their numbers at the provider, and whether they have arguments yet.
    calls: Vec<(u64, bool)>,
    count: Count,
    stopped: bool,
    wants_usage: bool,
}

impl Writing {
    pub(super) fn new(wants_usage: bool) -> Self {
        Self { wants_usage, ..Self::default() }
    }

    /// Did the provider say why it ended?
    pub(super) const fn has_stopped(&self) -> bool {
        self.stopped
    }

    pub(super) fn write(&mut self, event: Event<'_>, out: &mut Vec<u8>) -> Result<(), Fault> {
        match event {
            Event::Start { id, model } if !self.started => {
                self.started = true;
                (self.id, self.model) = (id.into_owned(), model.into_owned());
                self.delta(out, None, |delta| {
                    delta.text("role", "assistant");
                    delta.text("content", "");
                });
            }
            Event::Start { .. } => {}
            Event::Text(text) => self.delta(out, None, |delta| delta.text("content", &text)),
            Event::Call { number, id, name } => {
                if self.calls.iter().all(|(known, _)| *known != number) {
                    room(self.calls.len())?;
                    let index = self.calls.len() as u64;
                    self.calls.push((number, false));
                    self.call(out, index, |call| {
                        call.text("id", &id);
                        call.text("type", "function");
                        call.object("function", |function| {
                            function.text("name", &name);
                            function.text("arguments", "");
                        });
                    });
                }
            }
            Event::Arguments { number, text } => {
                let at = self.calls.iter().position(|(known, _)| *known == number);
                let at = at.ok_or_else(|| Fault::new("are arguments of no call"))?;
                self.calls[at].1 = true;
                self.arguments(out, at as u64, &text);
            }
            Event::Stop(stop) => {
                // A call without arguments has an object of none.
                for at in 0..self.calls.len() {
                    if !std::mem::replace(&mut self.calls[at].1, true) {
                        self.arguments(out, at as u64, "{}");
                    }
                }
                self.stopped = true;
                self.delta(out, Some(reason(stop)), |_| ());
            }
            Event::Count(count) => self.count.merge(count),
            Event::End => {
                if !self.stopped {
                    self.write(Event::Stop(Stop::End), out)?;
                }
                if self.wants_usage {
                    let count = self.count;
                    self.chunk(out, |chunk| {
                        chunk.raw("choices", "[]");
                        chunk.object("usage", |usage| write_count(usage, count));
                    });
                }
                out.extend_from_slice(b"data: [DONE]\n\n");
            }
            Event::Failed(said) => {
                let text = crate::error::said(
                    cofferdam_base::Provider::OpenAi,
                    http::StatusCode::BAD_GATEWAY,
                    &said,
                );
                out.extend_from_slice(format!("data: {text}\n\n").as_bytes());
            }
        }
        Ok(())
    }

    fn arguments(&self, out: &mut Vec<u8>, index: u64, text: &str) {
        self.call(out, index, |call| call.object("function", |function| function.text("arguments", text)));
    }

    fn call(&self, out: &mut Vec<u8>, index: u64, fill: impl FnOnce(&mut Writer<'_>)) {
        self.delta(out, None, |delta| {
            delta.list("tool_calls", |calls| {
                calls.object(|call| {
                    call.number("index", index);
                    fill(call);
                });
            });
        });
    }

    fn delta(&self, out: &mut Vec<u8>, finish: Option<&str>, fill: impl FnOnce(&mut Writer<'_>)) {
        self.chunk(out, |chunk| {
            chunk.list("choices", |choices| {
                choices.object(|choice| {
                    choice.number("index", 0);
                    choice.object("delta", fill);
                    match finish {
                        Some(reason) => choice.text("finish_reason", reason),
                        None => choice.raw("finish_reason", "null"),
                    }
                });
            });
        });
    }

    fn chunk(&self, out: &mut Vec<u8>, fill: impl FnOnce(&mut Writer<'_>)) {
        out.extend_from_slice(b"data: ");
        json::write(out, |chunk| {
            chunk.text("id", &self.id);
            chunk.text("object", "chat.completion.chunk");
            chunk.number("created", 0);
            chunk.text("model", &self.model);
            fill(chunk);
        });
        out.extend_from_slice(b"\n\n");
    }
}

impl Count {
    /// Later counts are of the whole answer so far; what they do not say, an earlier one did.
    pub(super) fn merge(&mut self, later: Self) {
        self.prompt = self.prompt.max(later.prompt);
        self.cached = self.cached.max(later.cached);
        self.completion = self.completion.max(later.completion);
    }
}
