//! The meter: reads what an answer used while its bytes pass by, without changing or delaying them.
//!
//! It is handed each chunk after, or before, it was passed on, and keeps at most one line of a stream or
//! one plain answer, both bounded; what is too long for it is not metered, and passes all the same.

use serde::Deserialize;

/// How the answer is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One JSON document.
    Json,
    /// Server-sent events.
    Events,
    /// One JSON document a line.
    Lines,
}

impl Format {
    /// The format that a `Content-Type` names.
    pub fn of(content_type: &[u8]) -> Self {
        let is = |name: &[u8]| content_type.get(..name.len()).is_some_and(|it| it.eq_ignore_ascii_case(name));
        if is(b"text/event-stream") {
            Self::Events
        } else if is(b"application/x-ndjson") {
            Self::Lines
        } else {
            Self::Json
        }
    }
}

/// Tokens as the provider counted them; 0 where it did not say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tokens {
    /// In the prompt.
    pub prompt: u64,
    /// In the answer.
    pub completion: u64,
}

/// Where the wires put their counts.
#[derive(Deserialize)]
struct Counted {
    usage: Option<Usage>,
    /// Anthropic's first event has them one level deeper.
    message: Option<Inner>,
    /// OpenAI's last event of a response, too; Ollama has its text there.
    response: Option<Inner>,
    #[serde(rename = "usageMetadata")]
    metadata: Option<Metadata>,
    /// Ollama's last line.
    #[serde(default)]
    prompt_eval_count: u64,
    #[serde(default)]
    eval_count: u64,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Inner {
    Counted { usage: Option<Usage> },
    Other(serde::de::IgnoredAny),
}

/// OpenAI's two forms, and Anthropic's, which counts what a cache wrote and read by itself.
#[derive(Clone, Copy, Deserialize)]
struct Usage {
    #[serde(default, rename = "prompt_tokens")]
    prompt: u64,
    #[serde(default, rename = "completion_tokens")]
    completion: u64,
    #[serde(default, rename = "input_tokens")]
    input: u64,
    #[serde(default, rename = "output_tokens")]
    output: u64,
    #[serde(default, rename = "cache_creation_input_tokens", deserialize_with = "or_null")]
    written: u64,
    #[serde(default, rename = "cache_read_input_tokens", deserialize_with = "or_null")]
    read: u64,
}

/// Gemini's.
#[derive(Clone, Copy, Deserialize)]
struct Metadata {
    #[serde(default, rename = "promptTokenCount")]
    prompt: u64,
    #[serde(default, rename = "toolUsePromptTokenCount")]
    tools: u64,
    #[serde(default, rename = "candidatesTokenCount")]
    candidates: u64,
    #[serde(default, rename = "thoughtsTokenCount")]
    thoughts: u64,
}

fn or_null<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

impl Counted {
    fn tokens(&self) -> Option<Tokens> {
        let inner = |it: &Option<Inner>| match it {
            Some(Inner::Counted { usage }) => *usage,
            _ => None,
        };
        if let Some(usage) = self.usage.or_else(|| inner(&self.message)).or_else(|| inner(&self.response)) {
            let input = usage.input.saturating_add(usage.written).saturating_add(usage.read);
            return Some(Tokens {
                prompt: usage.prompt.max(input),
                completion: usage.completion.max(usage.output),
            });
        }
        if let Some(it) = self.metadata {
            return Some(Tokens {
                prompt: it.prompt.saturating_add(it.tools),
                completion: it.candidates.saturating_add(it.thoughts),
            });
        }
        let tokens = Tokens { prompt: self.prompt_eval_count, completion: self.eval_count };
        (tokens != Tokens::default()).then_some(tokens)
    }
}

/// Reads one answer.
#[derive(Debug)]
pub struct Meter {
    format: Format,
    kept: Vec<u8>,
    overlong: bool,
    tokens: Option<Tokens>,
}

impl Meter {
    /// A meter for one answer.
    pub const fn new(format: Format) -> Self {
        Self { format, kept: Vec::new(), overlong: false, tokens: None }
    }

    /// Reads the next bytes, cut anywhere.
    pub fn feed(&mut self, chunk: &[u8]) {
        match self.format {
            Format::Json => self.keep(chunk, MAX_JSON),
            Format::Events | Format::Lines => {
                for part in chunk.split_inclusive(|byte| matches!(byte, b'\n' | b'\r')) {
                    match part.split_last() {
                        Some((b'\n' | b'\r', line)) => {
                            self.keep(line, MAX_LINE);
                            self.end_of_line();
                        }
                        _ => self.keep(part, MAX_LINE),
                    }
                }
            }
        }
    }

    /// What was used, once the last byte was fed; none if the provider did not say.
    #[must_use]
    pub fn finish(mut self) -> Option<Tokens> {
        match self.format {
            Format::Json if !self.overlong => self.read_kept(0),
            Format::Json => {}
            Format::Events | Format::Lines => self.end_of_line(),
        }
        self.tokens
    }

    fn keep(&mut self, bytes: &[u8], most: usize) {
        if self.kept.len() + bytes.len() > most {
            self.overlong = true;
            self.kept.clear();
        } else if !self.overlong {
            self.kept.extend_from_slice(bytes);
        }
    }

    fn end_of_line(&mut self) {
        match self.format {
            _ if self.overlong => {}
            Format::Events if self.kept.starts_with(b"data:") => self.read_kept(b"data:".len()),
            Format::Lines => self.read_kept(0),
            _ => {}
        }
        self.kept.clear();
        self.overlong = false;
    }

    fn read_kept(&mut self, from: usize) {
        let text = &self.kept[from..];
        // Most events bear no usage: a look at the bytes saves parsing them.
        let has = |name: &[u8]| text.windows(name.len()).any(|window| window == name);
        if !has(b"\"usage") && !has(b"eval_count\"") {
            return;
        }
        // Some providers repeat the running count in each event, Anthropic says the prompt's first and the
        // answer's later: a count never falls.
        if let Ok(counted) = serde_json::from_slice::<Counted>(text)
            && let Some(tokens) = counted.tokens()
        {
            let known = self.tokens.get_or_insert_default();
            known.prompt = known.prompt.max(tokens.prompt);
            known.completion = known.completion.max(tokens.completion);
        }
    }
}

/// The longest event line that is read, in bytes.
const MAX_LINE: usize = 256 * 1024;

/// The longest plain answer that is read, in bytes.
const MAX_JSON: usize = 4 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"\\\"usage\\\" x\"}}],\"usage\":null}\r\n\r\n: comment\n\ndata: {\"choices\":[],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":3,\"total_tokens\":10}}\n\ndata: [DONE]\n\n";
    const USED: Option<Tokens> = Some(Tokens { prompt: 7, completion: 3 });

    #[test]
    fn a_stream_is_metered_wherever_it_is_cut() {
        for at in 0..=STREAM.len() {
            let (head, tail) = STREAM.as_bytes().split_at(at);
            let mut meter = Meter::new(Format::Events);
            meter.feed(head);
            meter.feed(tail);
            assert_eq!(meter.finish(), USED, "cut at {at}");
        }
        let mut meter = Meter::new(Format::Events);
        STREAM.as_bytes().iter().for_each(|byte| meter.feed(std::slice::from_ref(byte)));
        assert_eq!(meter.finish(), USED);
    }

    #[test]
    fn a_last_line_without_its_end_counts() {
        let mut meter = Meter::new(Format::Events);
        meter.feed(STREAM.trim_end().trim_end_matches("data: [DONE]").trim_end().as_bytes());
        assert_eq!(meter.finish(), USED);
    }

    #[test]
    fn a_plain_answer_is_metered_wherever_it_is_cut() {
        let body = br#"{"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3}}"#;
        for at in 0..=body.len() {
            let mut meter = Meter::new(Format::Json);
            meter.feed(&body[..at]);
            meter.feed(&body[at..]);
            assert_eq!(meter.finish(), USED, "cut at {at}");
        }
    }

    #[test]
    fn garbage_and_overlong_lines_count_nothing_and_keep_no_memory() {
        let mut meter = Meter::new(Format::Events);
        for _ in 0..64 {
            meter.feed(&vec![b'x'; 64 * 1024]);
            assert!(meter.kept.capacity() <= 2 * MAX_LINE);
        }
        // After the overlong line the next one counts again.
        meter.feed(b"\n");
        meter.feed(STREAM.as_bytes());
        assert_eq!(meter.finish(), USED);
        for garbage in ["data: {\"usage\":{\"prompt_tokens\":-1}}\n", "data: \"usage\"\n", "\u{0}\u{1}"] {
            let mut meter = Meter::new(Format::Events);
            meter.feed(garbage.as_bytes());
            assert_eq!(meter.finish(), None);
        }
    }

    #[test]
    fn each_wire_is_metered_in_its_own_words() {
        let responses = "event: response.created\ndata: {\"type\":\"response.created\",\"response\":{\"usage\":null}}\n\nevent: response.completed\ndata: {\"type\":\"response.completed\",\"response\":{\"id\":\"resp_1\",\"usage\":{\"input_tokens\":7,\"input_tokens_details\":{\"cached_tokens\":2},\"output_tokens\":3,\"total_tokens\":10}}}\n\n";
        let messages = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"role\":\"assistant\",\"usage\":{\"input_tokens\":1,\"cache_creation_input_tokens\":2,\"cache_read_input_tokens\":4,\"output_tokens\":1}}}\n\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"},\"usage\":{\"output_tokens\":3}}\n\ndata: {\"type\":\"message_stop\"}\n\n";
        let ollama = "{\"model\":\"m\",\"message\":{\"role\":\"assistant\",\"content\":\"a\"},\"done\":false}\n{\"model\":\"m\",\"message\":{\"role\":\"assistant\",\"content\":\"\"},\"done\":true,\"prompt_eval_count\":7,\"eval_count\":3}\n";
        let gemini = "data: {\"candidates\":[],\"usageMetadata\":{\"promptTokenCount\":7,\"totalTokenCount\":7}}\r\n\r\ndata: {\"usageMetadata\":{\"promptTokenCount\":7,\"candidatesTokenCount\":1,\"thoughtsTokenCount\":2,\"totalTokenCount\":10}}\r\n\r\n";
        for (format, answer) in [
            (Format::Events, responses),
            (Format::Events, messages),
            (Format::Lines, ollama),
            (Format::Events, gemini),
            (Format::Json, "{\"object\":\"response\",\"usage\":{\"input_tokens\":7,\"output_tokens\":3}}"),
            (
                Format::Json,
                "{\"type\":\"message\",\"usage\":{\"input_tokens\":5,\"cache_read_input_tokens\":2,\"cache_creation_input_tokens\":null,\"output_tokens\":3}}",
            ),
            (Format::Json, "{\"response\":\"hi\",\"prompt_eval_count\":7,\"eval_count\":3}"),
            (
                Format::Json,
                "{\"usageMetadata\":{\"promptTokenCount\":5,\"toolUsePromptTokenCount\":2,\"candidatesTokenCount\":3}}",
            ),
        ] {
            for step in [1, 7, 4096] {
                let mut meter = Meter::new(format);
                answer.as_bytes().chunks(step).for_each(|chunk| meter.feed(chunk));
                assert_eq!(meter.finish(), USED, "{answer}");
            }
        }
        let mut embeddings = Meter::new(Format::Json);
        embeddings.feed(b"{\"data\":[],\"usage\":{\"prompt_tokens\":7,\"total_tokens\":7}}");
        assert_eq!(embeddings.finish(), Some(Tokens { prompt: 7, completion: 0 }));
    }

    #[test]
    fn the_format_is_what_the_content_type_says() {
        assert_eq!(Format::of(b"Text/Event-Stream; charset=utf-8"), Format::Events);
        assert_eq!(Format::of(b"application/x-ndjson"), Format::Lines);
        assert_eq!(Format::of(b"application/json"), Format::Json);
        assert_eq!(Format::of(b""), Format::Json);
    }
}
