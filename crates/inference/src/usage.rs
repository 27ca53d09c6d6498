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
}

/// Tokens as the provider counted them; 0 where it did not say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Tokens {
    /// In the prompt.
    #[serde(default, rename = "prompt_tokens")]
    pub prompt: u64,
    /// In the answer.
    #[serde(default, rename = "completion_tokens")]
    pub completion: u64,
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
            Format::Events => {
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
            Format::Events => self.end_of_line(),
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
        if !self.overlong && self.kept.starts_with(b"data:") {
            self.read_kept(b"data:".len());
        }
        self.kept.clear();
        self.overlong = false;
    }

    fn read_kept(&mut self, from: usize) {
        #[derive(Deserialize)]
        struct Answer {
            usage: Option<Tokens>,
        }
        let text = &self.kept[from..];
        // Most events bear no usage: a look at the bytes saves parsing them.
        if !text.windows(7).any(|window| window == b"\"usage\"") {
            return;
        }
        // Some providers repeat the running count in each event: the last one counts.
        if let Ok(Answer { usage: Some(tokens) }) = serde_json::from_slice(text) {
            self.tokens = Some(tokens);
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
}
