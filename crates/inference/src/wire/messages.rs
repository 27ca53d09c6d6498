//! Requests of Anthropic's messages: read into a [`Talk`], and written from one.

use super::{
    fields::{At, Fault, Object, Raw, text},
    json::{self, Items, Writer},
    talk::{Choice, Part, Role, Talk, Tool, ToolCall},
};
use serde_json::value::RawValue;
use std::borrow::Cow;

/// How long an answer may be, in tokens, where a chat request does not say and this wire must: as much as
/// every model of it can.
const MAX_TOKENS: u64 = 4096;

impl<'a> Talk<'a> {
    /// Reads a messages request whose fields are these.
    pub(crate) fn from_messages(fields: &'a [(String, Box<RawValue>)]) -> Result<Self, Fault> {
        let mut body = Object::of(fields);
        let max = body.count("max_tokens")?.ok_or_else(|| Fault::new("is missing")).at("max_tokens")?;
        let mut talk = Talk {
            tools: tools(body.list("tools")?).at("tools")?,
            max_tokens: Some(max),
            temperature: body.number("temperature")?,
            top_p: body.number("top_p")?,
            stop: stops(body.list("stop_sequences")?).at("stop_sequences")?,
            stream: body.flag("stream")?.unwrap_or(false),
            ..Talk::default()
        };
        for part in blocks(body.take("system"), &["text"]).at("system")? {
            if let Part::Text(text) = part {
                talk.system.push(text);
            }
        }
        if let Some(mut choice) = body.object("tool_choice")? {
            tool_choice(&mut choice, &mut talk).and_then(|()| choice.end()).at("tool_choice")?;
        }
        if let Some(mut metadata) = body.object("metadata")? {
            talk.user = metadata.text("user_id").at("metadata")?;
            metadata.end().at("metadata")?;
        }
        for (index, raw) in body.list("messages")?.into_iter().enumerate() {
            message(raw, &mut talk).nth(index).at("messages")?;
        }
        if let Some(mut thinking) = body.object("thinking")? {
            thinking.leave_if("type", &["\"disabled\""]);
            thinking.end().at("thinking")?;
        }
        // The route's, and hints.
        body.leave(&["model", "cache_control"]);
        body.leave_if("service_tier", &["\"auto\""]);
        body.leave_if("mcp_servers", &["[]"]);
        body.end()?;
        Ok(talk)
    }

    /// The body of a messages request.
    pub(crate) fn to_messages(&self, model: &str) -> Result<Vec<u8>, Fault> {
        let high = |number: Raw<'_>| number.get().parse::<f64>().is_ok_and(|number| number > 1.0);
        if self.temperature.is_some_and(high) {
            return Err(Fault::new("is above 1, which is the provider's highest")).at("temperature");
        }
        self.has_its_tools()?;
        let mut fault = Ok(());
        let body = json::object(|body| {
            body.text("model", model);
            body.number("max_tokens", self.max_tokens.unwrap_or(MAX_TOKENS));
            self.messages_settings(body);
            body.list("messages", |messages| {
                for turn in &self.turns {
                    messages.object(|message| {
                        message.text("role", if turn.role == Role::User { "user" } else { "assistant" });
                        message.list("content", |content| {
                            for part in &turn.parts {
                                let written = write_block(content, part);
                                if fault.is_ok() {
                                    fault = written.at("messages");
                                }
                            }
                        });
                    });
                }
            });
        });
        fault.map(|()| body)
    }

    fn messages_settings(&self, body: &mut Writer<'_>) {
        if !self.system.is_empty() {
            body.list("system", |system| self.system.iter().for_each(|text| write_text(system, text)));
        }
        for (key, number) in [("temperature", self.temperature), ("top_p", self.top_p)] {
            if let Some(number) = number {
                body.raw(key, number.get());
            }
        }
        if !self.stop.is_empty() {
            body.list("stop_sequences", |stop| self.stop.iter().for_each(|it| stop.text(it)));
        }
        if !self.tools.is_empty() {
            body.list("tools", |tools| {
                for tool in &self.tools {
                    tools.object(|it| write_tool(it, tool));
                }
            });
            self.write_choice(body);
        }
        if let Some(user) = &self.user {
            body.object("metadata", |metadata| metadata.text("user_id", user));
        }
        if self.stream {
            body.flag("stream", true);
        }
    }

    fn write_choice(&self, body: &mut Writer<'_>) {
        let (kind, name) = match &self.choice {
            None if self.parallel != Some(false) => return,
            None | Some(Choice::Auto) => ("auto", None),
            Some(Choice::None) => ("none", None),
            Some(Choice::Any) => ("any", None),
            Some(Choice::Named(name)) => ("tool", Some(name)),
        };
        body.object("tool_choice", |choice| {
            choice.text("type", kind);
            if let Some(name) = name {
                choice.text("name", name);
            }
            if self.parallel == Some(false) && kind != "none" {
                choice.flag("disable_parallel_tool_use", true);
            }
        });
    }
}

fn message<'a>(raw: Raw<'a>, talk: &mut Talk<'a>) -> Result<(), Fault> {
    let mut message = Object::read(raw)?;
    let content = message.take("content");
    let (role, types): (_, &[&str]) = match &*message.needed("role")? {
        "user" => (Role::User, &["text", "image", "tool_result"]),
        "assistant" => (Role::Assistant, &["text", "tool_use", "thinking", "redacted_thinking"]),
        _ => return Err(Fault::new("is neither user nor assistant")).at("role"),
    };
    talk.say(role, blocks(content, types).at("content")?);
    message.end()
}

/// Content, of blocks of these types.
fn blocks<'a>(content: Option<Raw<'a>>, types: &[&str]) -> Result<Vec<Part<'a>>, Fault> {
    Part::all(content, |raw| block(raw, types))
}

/// One block; none if it is what the model thought, which is not said again.
pub(super) fn block<'a>(raw: Raw<'a>, types: &[&str]) -> Result<Option<Part<'a>>, Fault> {
    let mut block = Object::read(raw)?;
    block.leave(&["cache_control"]);
    let kind = block.needed("type")?;
    let read = match &*kind {
        _ if !types.contains(&&*kind) => return Err(Fault::new("is none that translates here")).at("type"),
        "text" => {
            block.leave_if("citations", &["[]"]);
            Part::Text(block.needed("text")?)
        }
        "image" => image(block.object("source")?.ok_or_else(|| Fault::new("is missing")).at("source")?)
            .at("source")?,
        "tool_use" => Part::Call(tool_use(&mut block)?),
        "tool_result" => Part::Result {
            id: block.needed("tool_use_id")?,
            content: blocks(block.take("content"), &["text", "image"]).at("content")?,
            failed: block.flag("is_error")?.unwrap_or(false),
        },
        _ => return Ok(None),
    };
    block.end()?;
    Ok(Some(read))
}

fn image(mut source: Object<'_>) -> Result<Part<'_>, Fault> {
    source.leave_if("type", &["\"base64\""]);
    let (media_type, data) = (source.needed("media_type")?, source.needed("data")?);
    source.end()?;
    Ok(Part::Image { media_type, data })
}

fn tool_use<'a>(block: &mut Object<'a>) -> Result<ToolCall<'a>, Fault> {
    let (id, name) = (block.needed("id")?, block.needed("name")?);
    block.leave_if("caller", &["{\"type\":\"direct\"}"]);
    let input = block.take("input").map_or("{}", RawValue::get);
    if !input.starts_with('{') {
        return Err(Fault::new("is no object")).at("input");
    }
    Ok(ToolCall { id, name, arguments: Cow::Borrowed(input) })
}

fn tools(raws: Vec<Raw<'_>>) -> Result<Vec<Tool<'_>>, Fault> {
    raws.into_iter().enumerate().map(|(index, raw)| tool(raw).nth(index)).collect()
}

fn tool(raw: Raw<'_>) -> Result<Tool<'_>, Fault> {
    let mut tool = Object::read(raw)?;
    tool.leave(&["cache_control", "eager_input_streaming"]);
    tool.leave_if("type", &["\"custom\""]);
    let read = Tool {
        name: tool.needed("name")?,
        description: tool.text("description")?,
        schema: tool.take("input_schema"),
        strict: tool.flag("strict")?,
    };
    tool.end()?;
    Ok(read)
}

fn tool_choice<'a>(choice: &mut Object<'a>, talk: &mut Talk<'a>) -> Result<(), Fault> {
    talk.parallel = choice.flag("disable_parallel_tool_use")?.map(|disabled| !disabled);
    talk.choice = Some(match &*choice.needed("type")? {
        "auto" => Choice::Auto,
        "none" => Choice::None,
        "any" => Choice::Any,
        "tool" => Choice::Named(choice.needed("name")?),
        _ => return Err(Fault::new("is neither auto, any, tool nor none")).at("type"),
    });
    Ok(())
}

fn stops(raws: Vec<Raw<'_>>) -> Result<Vec<Cow<'_, str>>, Fault> {
    raws.into_iter().enumerate().map(|(index, raw)| text(raw).nth(index)).collect()
}

fn write_text(list: &mut Items<'_>, text: &str) {
    list.object(|block| {
        block.text("type", "text");
        block.text("text", text);
    });
}

/// Writes one block.
pub(super) fn write_block(list: &mut Items<'_>, part: &Part<'_>) -> Result<(), Fault> {
    match part {
        Part::Text(text) => write_text(list, text),
        Part::Image { media_type, data } => list.object(|block| {
            block.text("type", "image");
            block.object("source", |source| {
                source.text("type", "base64");
                source.text("media_type", media_type);
                source.text("data", data);
            });
        }),
        Part::Call(call) => {
            let input = arguments(&call.arguments).at("arguments").at("function").at("tool_calls")?;
            list.object(|block| {
                block.text("type", "tool_use");
                block.text("id", &call.id);
                block.text("name", &call.name);
                block.raw("input", input);
            });
        }
        Part::Result { id, content, failed } => {
            let mut written = Ok(());
            list.object(|block| {
                block.text("type", "tool_result");
                block.text("tool_use_id", id);
                block.list("content", |list| {
                    written = content.iter().try_for_each(|part| write_block(list, part));
                });
                if *failed {
                    block.flag("is_error", true);
                }
            });
            written?;
        }
    }
    Ok(())
}

/// A call's arguments, which are an object here and the text of one there.
fn arguments(text: &str) -> Result<&str, Fault> {
    match text.trim() {
        "" => Ok("{}"),
        text if text.starts_with('{') && serde_json::from_str::<Raw<'_>>(text).is_ok() => Ok(text),
        _ => Err(Fault::new("is not the text of an object")),
    }
}

fn write_tool(out: &mut Writer<'_>, tool: &Tool<'_>) {
    out.text("name", &tool.name);
    if let Some(description) = &tool.description {
        out.text("description", description);
    }
    out.raw("input_schema", tool.schema.map_or(r#"{"type":"object","properties":{}}"#, RawValue::get));
    if tool.strict == Some(true) {
        out.flag("strict", true);
    }
}
