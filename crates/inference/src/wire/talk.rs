//! What OpenAI's chat completions and Anthropic's messages have in common: a conversation, its answer, and
//! the pieces in which an answer streams. Each wire's module reads its own form into this and writes it.

use super::fields::{At, Fault, Raw, list, text};
use crate::check::{Check, keeps};
use std::borrow::Cow;

/// A conversation and what is asked of the model.
#[derive(Debug, Default)]
pub(crate) struct Talk<'a> {
    pub(crate) system: Vec<Cow<'a, str>>,
    pub(crate) turns: Vec<Turn<'a>>,
    pub(crate) tools: Vec<Tool<'a>>,
    pub(crate) choice: Option<Choice<'a>>,
    /// May it call several tools at one time?
    pub(crate) parallel: Option<bool>,
    pub(crate) max_tokens: Option<u64>,
    pub(crate) temperature: Option<Raw<'a>>,
    pub(crate) top_p: Option<Raw<'a>>,
    pub(crate) stop: Vec<Cow<'a, str>>,
    pub(crate) user: Option<Cow<'a, str>>,
    pub(crate) stream: bool,
}

/// What one side says before the other speaks.
#[derive(Debug)]
pub(crate) struct Turn<'a> {
    pub(crate) role: Role,
    pub(crate) parts: Vec<Part<'a>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    User,
    Assistant,
}

/// A piece of a turn, or of an answer.
#[derive(Debug)]
pub(crate) enum Part<'a> {
    Text(Cow<'a, str>),
    Image { media_type: Cow<'a, str>, data: Cow<'a, str> },
    Call(ToolCall<'a>),
    Result { id: Cow<'a, str>, content: Vec<Part<'a>>, failed: bool },
}

impl<'a> Part<'a> {
    /// Content, which is a text or a list, each item of which is read to one or to nothing. Empty texts say nothing, and
    /// some providers refuse them.
    pub(crate) fn all(
        content: Option<Raw<'a>>,
        read: impl Fn(Raw<'a>) -> Result<Option<Self>, Fault>,
    ) -> Result<Vec<Self>, Fault> {
        let Some(content) = content else { return Ok(Vec::new()) };
        let mut parts = Vec::new();
        if content.get().starts_with('"') {
            parts.push(Self::Text(text(content)?));
        } else {
            for (index, raw) in list(content)?.into_iter().enumerate() {
                parts.extend(read(raw).nth(index)?);
            }
        }
        parts.retain(|part| !matches!(part, Self::Text(text) if text.is_empty()));
        Ok(parts)
    }
}

/// A call of a tool. Its arguments are the text of an object.
#[derive(Debug)]
pub(crate) struct ToolCall<'a> {
    pub(crate) id: Cow<'a, str>,
    pub(crate) name: Cow<'a, str>,
    pub(crate) arguments: Cow<'a, str>,
}

#[derive(Debug)]
pub(crate) struct Tool<'a> {
    pub(crate) name: Cow<'a, str>,
    pub(crate) description: Option<Cow<'a, str>>,
    /// The schema of its arguments.
    pub(crate) schema: Option<Raw<'a>>,
    pub(crate) strict: Option<bool>,
}

/// Which tool is to be called.
#[derive(Debug)]
pub(crate) enum Choice<'a> {
    Auto,
    None,
    /// One, whichever.
    Any,
    Named(Cow<'a, str>),
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    End,
    Length,
    Tools,
    Refused,
}

/// What a provider counted; both wires' clients read these.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Count {
    /// Of the prompt, with what was read from a cache.
    pub(crate) prompt: u64,
    pub(crate) cached: u64,
    pub(crate) completion: u64,
}

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Answer<'a> {
    pub(crate) id: Cow<'a, str>,
    pub(crate) model: Cow<'a, str>,
    pub(crate) parts: Vec<Part<'a>>,
    pub(crate) stop: Stop,
    pub(crate) count: Count,
}

/// A piece of an answer that streams.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Event<'a> {
    Start {
        id: Cow<'a, str>,
        model: Cow<'a, str>,
    },
    Text(Cow<'a, str>),
    /// A call begins: its number, which nothing else in this answer has.
    Call {
        number: u64,
        id: Cow<'a, str>,
        name: Cow<'a, str>,
    },
    /// More of a call's arguments.
    Arguments {
        number: u64,
        text: Cow<'a, str>,
    },
    Stop(Stop),
    Count(Count),
    /// Nothing follows.
    End,
    /// The provider gave up.
    Failed(Cow<'a, str>),
}

/// How many blocks or calls an answer may have, and how long an id, a model and a tool's name may be, in bytes: they
/// are kept while it streams, and some stand in each of its pieces.
const MOST_PARTS: usize = 128;
const LONGEST_NAME: usize = 256;

/// Is there room for one more block or call?
pub(super) fn room(parts: usize) -> Result<(), Fault> {
    if parts >= MOST_PARTS && keeps(Check::AnswerBounded) {
        return Err(Fault::new(format!("has more than {MOST_PARTS} blocks or calls"))).at("answer");
    }
    Ok(())
}

fn short(key: &str, name: &str) -> Result<(), Fault> {
    if name.len() > LONGEST_NAME && keeps(Check::AnswerBounded) {
        return Err(Fault::new(format!("is longer than {LONGEST_NAME} bytes"))).at(key);
    }
    Ok(())
}

impl Event<'_> {
    /// Nothing in it that has to be kept is long.
    pub(super) fn is_short(&self) -> Result<(), Fault> {
        match self {
            Self::Start { id, model } => short("id", id).and_then(|()| short("model", model)),
            Self::Call { id, name, .. } => short("id", id).and_then(|()| short("name", name)),
            _ => Ok(()),
        }
    }
}

impl Answer<'_> {
    /// As of an event, and it has not too many parts.
    pub(super) fn is_short(&self) -> Result<(), Fault> {
        short("id", &self.id)?;
        short("model", &self.model)?;
        room(self.parts.len().saturating_sub(1))?;
        self.parts.iter().try_for_each(|part| match part {
            Part::Call(call) => short("id", &call.id).and_then(|()| short("name", &call.name)),
            _ => Ok(()),
        })
    }
}

impl<'a> Talk<'a> {
    /// A tool cannot be asked for where there is none.
    pub(super) fn has_its_tools(&self) -> Result<(), Fault> {
        match self.choice {
            Some(Choice::Any | Choice::Named(_)) if self.tools.is_empty() => {
                Err(Fault::new("asks for a tool where there is none")).at("tool_choice")
            }
            _ => Ok(()),
        }
    }

    /// Adds to what one side says, if it is anything.
    pub(super) fn say(&mut self, role: Role, mut parts: Vec<Part<'a>>) {
        if parts.is_empty() {
            return;
        }
        match self.turns.last_mut() {
            Some(last) if last.role == role => last.parts.append(&mut parts),
            _ => self.turns.push(Turn { role, parts }),
        }
    }
}
