//! Requests of OpenAI's chat completions: read into a [`Talk`], and written from one.

use super::{
    fields::{At, Fault, Object, Raw, list, text},
    json::{self, Items, Writer},
    talk::{Choice, Part, Role, Talk, Tool, ToolCall},
};
use serde_json::value::RawValue;
use std::borrow::Cow;

impl<'a> Talk<'a> {
    /// Reads a chat request whose fields are these.
    pub(crate) fn from_chat(fields: &'a [(String, Box<RawValue>)]) -> Result<Self, Fault> {
        let mut body = Object::of(fields);
        let (max, newer) = (body.count("max_tokens")?, body.count("max_completion_tokens")?);
        let (choice, parallel) = (body.take("tool_choice"), body.flag("parallel_tool_calls")?);
        let mut talk = Talk {
            tools: tools(body.list("tools")?).at("tools")?,
            choice: choice.map(tool_choice).transpose().at("tool_choice")?,
            parallel,
            max_tokens: newer.or(max),
            temperature: body.number("temperature")?,
            top_p: body.number("top_p")?,
            stop: stops(body.take("stop")).at("stop")?,
            user: body.text("user")?,
            stream: body.flag("stream")?.unwrap_or(false),
            ..Talk::default()
        };
        for (index, raw) in body.list("messages")?.into_iter().enumerate() {
            message(raw, &mut talk).nth(index).at("messages")?;
        }
        // The route's, hints, and what says no more than what holds anyway.
        body.leave(&["model", "stream_options", "prompt_cache_key", "prompt_cache_retention"]);
        body.leave(&["safety_identifier"]);
        body.leave_if("n", &["1"]);
        body.leave_if("store", &["false"]);
        body.leave_if("logprobs", &["false"]);
        body.leave_if("top_logprobs", &["0"]);
        body.leave_if("service_tier", &["\"auto\"", "\"default\""]);
        body.leave_if("reasoning_effort", &["\"none\""]);
        for penalty in ["frequency_penalty", "presence_penalty"] {
            body.leave_if(penalty, &["0", "0.0"]);
        }
        body.leave_if("modalities", &["[\"text\"]"]);
        if let Some(mut format) = body.object("response_format")? {
            format.leave_if("type", &["\"text\""]);
            format.end().at("response_format")?;
        }
        body.end()?;
        Ok(talk)
    }

    /// The body of a chat request.
    pub(crate) fn to_chat(&self, model: &str, keep_nothing: bool) -> Result<Vec<u8>, Fault> {
        self.has_its_tools()?;
        let mut fault = Ok(());
        let body = json::object(|body| {
            body.text("model", model);
            body.list("messages", |messages| {
                if !self.system.is_empty() {
                    messages.object(|message| {
                        message.text("role", "system");
                        texts(message, &self.system);
                    });
                }
                for turn in &self.turns {
                    let said = match turn.role {
                        Role::User => user(messages, &turn.parts),
                        Role::Assistant => assistant(messages, &turn.parts),
                    };
                    if fault.is_ok() {
                        fault = said.at("messages");
                    }
                }
            });
            self.chat_settings(body);
            if keep_nothing {
                body.flag("store", false);
            }
        });
        fault.map(|()| body)
    }

    fn chat_settings(&self, body: &mut Writer<'_>) {
        if let Some(most) = self.max_tokens {
            body.number("max_tokens", most);
        }
        for (key, number) in [("temperature", self.temperature), ("top_p", self.top_p)] {
            if let Some(number) = number {
                body.raw(key, number.get());
            }
        }
        if !self.stop.is_empty() {
            body.list("stop", |stop| self.stop.iter().for_each(|it| stop.text(it)));
        }
        if !self.tools.is_empty() {
            self.write_tools(body);
        }
        if let Some(user) = &self.user {
            body.text("user", user);
        }
        if self.stream {
            body.flag("stream", true);
            body.object("stream_options", |options| options.flag("include_usage", true));
        }
    }
}

impl Talk<'_> {
    fn write_tools(&self, body: &mut Writer<'_>) {
        body.list("tools", |tools| {
            for tool in &self.tools {
                tools.object(|it| write_tool(it, tool));
            }
        });
        match &self.choice {
            None => {}
            Some(Choice::Auto) => body.text("tool_choice", "auto"),
            // Then it does not matter how many at a time.
            Some(Choice::None) => return body.text("tool_choice", "none"),
            Some(Choice::Any) => body.text("tool_choice", "required"),
            Some(Choice::Named(name)) => body.object("tool_choice", |choice| {
                choice.text("type", "function");
                choice.object("function", |function| function.text("name", name));
            }),
        }
        if let Some(parallel) = self.parallel {
            body.flag("parallel_tool_calls", parallel);
        }
    }
}

fn message<'a>(raw: Raw<'a>, talk: &mut Talk<'a>) -> Result<(), Fault> {
    let mut message = Object::read(raw)?;
    message.leave(&["cache_control"]);
    let content = message.take("content");
    match &*message.needed("role")? {
        "system" | "developer" => {
            if !talk.turns.is_empty() {
                return Err(Fault::new("is a system message after others")).at("role");
            }
            let parts = parts(content, &["text"]).at("content")?;
            talk.system.extend(parts.into_iter().filter_map(|part| match part {
                Part::Text(text) => Some(text),
                _ => None,
            }));
        }
        "user" => talk.say(Role::User, parts(content, &["text", "image_url"]).at("content")?),
        "assistant" => {
            let mut said = parts(content, &["text"]).at("content")?;
            for (index, raw) in message.list("tool_calls")?.into_iter().enumerate() {
                said.push(Part::Call(tool_call(raw).nth(index).at("tool_calls")?));
            }
            // What it thought is not said again, and marks of provenance are none of the model's.
            message.leave(&["reasoning", "reasoning_content", "reasoning_details", "reasoning_text"]);
            message.leave_if("annotations", &["[]"]);
            talk.say(Role::Assistant, said);
        }
        "tool" => {
            let id = message.needed("tool_call_id")?;
            let content = parts(content, &["text"]).at("content")?;
            talk.say(Role::User, vec![Part::Result { id, content, failed: false }]);
        }
        _ => return Err(Fault::new("is neither system, developer, user, assistant nor tool")).at("role"),
    }
    message.end()
}

/// Content, of parts of these types.
fn parts<'a>(content: Option<Raw<'a>>, types: &[&str]) -> Result<Vec<Part<'a>>, Fault> {
    Part::all(content, |raw| part(raw, types).map(Some))
}

fn part<'a>(raw: Raw<'a>, types: &[&str]) -> Result<Part<'a>, Fault> {
    let mut part = Object::read(raw)?;
    part.leave(&["cache_control"]);
    let kind = part.needed("type")?;
    let read = match &*kind {
        _ if !types.contains(&&*kind) => return Err(Fault::new("is none that translates here")).at("type"),
        "text" => Part::Text(part.needed("text")?),
        _ => image(part.object("image_url")?.ok_or_else(|| Fault::new("is missing")).at("image_url")?)
            .at("image_url")?,
    };
    part.end()?;
    Ok(read)
}

fn image(mut image: Object<'_>) -> Result<Part<'_>, Fault> {
    let url = image.needed("url")?;
    image.leave(&["detail"]);
    image.end()?;
    let split = |url: &str| {
        let rest = url.strip_prefix("data:")?;
        let (media_type, data) = rest.split_once(";base64,")?;
        Some((media_type.to_owned(), "data:".len() + media_type.len() + ";base64,".len(), data.len()))
    };
    let (media_type, from, length) =
        split(&url).ok_or_else(|| Fault::new("is no data: URL in base64")).at("url")?;
    let data = match url {
        Cow::Borrowed(url) => Cow::Borrowed(&url[from..from + length]),
        Cow::Owned(url) => Cow::Owned(url[from..from + length].to_owned()),
    };
    Ok(Part::Image { media_type: Cow::Owned(media_type), data })
}

/// A call of a function, in a request or an answer.
pub(super) fn tool_call(raw: Raw<'_>) -> Result<ToolCall<'_>, Fault> {
    let mut call = Object::read(raw)?;
    call.leave_if("type", &["\"function\""]);
    call.leave(&["index"]);
    let id = call.needed("id")?;
    let mut function = call.object("function")?.ok_or_else(|| Fault::new("is missing")).at("function")?;
    let name = function.needed("name").at("function")?;
    let arguments = function.text("arguments").at("function")?.unwrap_or_default();
    function.end().at("function")?;
    call.end()?;
    Ok(ToolCall { id, name, arguments })
}

fn tools(raws: Vec<Raw<'_>>) -> Result<Vec<Tool<'_>>, Fault> {
    raws.into_iter().enumerate().map(|(index, raw)| tool(raw).nth(index)).collect()
}

fn tool(raw: Raw<'_>) -> Result<Tool<'_>, Fault> {
    let mut tool = Object::read(raw)?;
    tool.leave(&["cache_control"]);
    tool.leave_if("type", &["\"function\""]);
    let function = tool.object("function")?;
    tool.end()?;
    let mut function = function.ok_or_else(|| Fault::new("is missing")).at("function")?;
    let tool = Tool {
        name: function.needed("name").at("function")?,
        description: function.text("description").at("function")?,
        schema: function.take("parameters"),
        strict: function.flag("strict").at("function")?,
    };
    function.end().at("function")?;
    Ok(tool)
}

fn tool_choice(raw: Raw<'_>) -> Result<Choice<'_>, Fault> {
    if raw.get().starts_with('"') {
        return match &*text(raw)? {
            "auto" => Ok(Choice::Auto),
            "none" => Ok(Choice::None),
            "required" => Ok(Choice::Any),
            _ => Err(Fault::new("is neither auto, none, required nor a function")),
        };
    }
    let mut choice = Object::read(raw)?;
    choice.leave_if("type", &["\"function\""]);
    let function = choice.object("function")?;
    choice.end()?;
    let mut function = function.ok_or_else(|| Fault::new("is missing")).at("function")?;
    let name = function.needed("name").at("function")?;
    function.end().at("function")?;
    Ok(Choice::Named(name))
}

fn stops(raw: Option<Raw<'_>>) -> Result<Vec<Cow<'_, str>>, Fault> {
    match raw {
        None => Ok(Vec::new()),
        Some(raw) if raw.get().starts_with('"') => Ok(vec![text(raw)?]),
        Some(raw) => list(raw)?.into_iter().enumerate().map(|(index, raw)| text(raw).nth(index)).collect(),
    }
}

/// A user's turn: results of tools are messages of their own, in the order that they were given.
fn user(messages: &mut Items<'_>, parts: &[Part<'_>]) -> Result<(), Fault> {
    let is_result = |part: &Part<'_>| matches!(part, Part::Result { .. });
    for chunk in parts.chunk_by(|one, next| !is_result(one) && !is_result(next)) {
        if let [Part::Result { id, content, failed }] = chunk {
            result(messages, id, content, *failed)?;
            continue;
        }
        messages.object(|message| {
            message.text("role", "user");
            content(message, chunk);
        });
    }
    Ok(())
}

/// What a tool answered. This wire has no mark for a failure, so the text says it.
fn result(messages: &mut Items<'_>, id: &str, content: &[Part<'_>], failed: bool) -> Result<(), Fault> {
    let mut said: Vec<Cow<'_, str>> = Vec::new();
    if failed {
        said.push(Cow::Borrowed("The tool failed:"));
    }
    for part in content {
        let Part::Text(text) = part else {
            return Err(Fault::new("has more than text in a tool's result")).at("content");
        };
        said.push(Cow::Borrowed(text));
    }
    messages.object(|message| {
        message.text("role", "tool");
        message.text("tool_call_id", id);
        texts(message, &said);
    });
    Ok(())
}

fn assistant(messages: &mut Items<'_>, parts: &[Part<'_>]) -> Result<(), Fault> {
    let mut said = Vec::new();
    let mut calls = Vec::new();
    for part in parts {
        match part {
            Part::Text(text) if calls.is_empty() => said.push(Cow::Borrowed(&**text)),
            Part::Text(_) => return Err(Fault::new("has text after a tool's call")).at("content"),
            Part::Call(call) => calls.push(call),
            _ => return Err(Fault::new("has more than text and calls")).at("content"),
        }
    }
    messages.object(|message| {
        message.text("role", "assistant");
        if said.is_empty() {
            message.raw("content", "null");
        } else {
            texts(message, &said);
        }
        if !calls.is_empty() {
            message.list("tool_calls", |list| {
                for call in &calls {
                    list.object(|out| write_call(out, call));
                }
            });
        }
    });
    Ok(())
}

pub(super) fn write_call(out: &mut Writer<'_>, call: &ToolCall<'_>) {
    out.text("id", &call.id);
    out.text("type", "function");
    out.object("function", |function| {
        function.text("name", &call.name);
        function.text("arguments", &call.arguments);
    });
}

fn write_tool(out: &mut Writer<'_>, tool: &Tool<'_>) {
    out.text("type", "function");
    out.object("function", |function| {
        function.text("name", &tool.name);
        if let Some(description) = &tool.description {
            function.text("description", description);
        }
        if let Some(schema) = tool.schema {
            function.raw("parameters", schema.get());
        }
        if let Some(strict) = tool.strict {
            function.flag("strict", strict);
        }
    });
}

/// One text is a text, several are parts.
fn texts(message: &mut Writer<'_>, said: &[Cow<'_, str>]) {
    match said {
        [] => message.text("content", ""),
        [one] => message.text("content", one),
        several => message.list("content", |parts| {
            for text in several {
                parts.object(|part| {
                    part.text("type", "text");
                    part.text("text", text);
                });
            }
        }),
    }
}

fn content(message: &mut Writer<'_>, parts: &[Part<'_>]) {
    if let [Part::Text(text)] = parts {
        return message.text("content", text);
    }
    message.list("content", |list| {
        for part in parts {
            list.object(|out| match part {
                Part::Text(text) => {
                    out.text("type", "text");
                    out.text("text", text);
                }
                Part::Image { media_type, data } => {
                    out.text("type", "image_url");
                    out.object("image_url", |it| it.text("url", &format!("data:{media_type};base64,{data}")));
                }
                // Calls and results are never of a user's content: `user` has taken them out.
                Part::Call(_) | Part::Result { .. } => {}
            });
        }
    });
}
