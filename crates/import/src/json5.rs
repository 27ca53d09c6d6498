//! JSON5, as upstream's configuration is written: comments, bare keys, single quotes, trailing commas, hexadecimal.
//!
//! It owns the syntax and its bounds. The threat: a document whose nesting exhausts the stack, or whose keys are
//! there twice so that two readers see two documents.

use serde_json::{Map, Number, Value};

/// The largest document, in bytes.
pub(crate) const LARGEST: usize = 4 << 20;
/// The deepest nesting.
const DEEPEST: usize = 64;

/// Why a text is not read. The position is a byte; nothing of the text is quoted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} at byte {at}")]
pub(crate) struct Wrong {
    what: &'static str,
    at: usize,
}

/// Reads a document.
pub(crate) fn parse(text: &str) -> Result<Value, Wrong> {
    let mut reader = Reader { text, at: text.strip_prefix('\u{feff}').map_or(0, |_| '\u{feff}'.len_utf8()) };
    if text.len() > LARGEST {
        return Err(reader.wrong("the document is too long"));
    }
    let value = reader.value(0)?;
    reader.space()?;
    if reader.peek().is_some() {
        return Err(reader.wrong("something stands after the document"));
    }
    Ok(value)
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl Reader<'_> {
    fn wrong(&self, what: &'static str) -> Wrong {
        Wrong { what, at: self.at }
    }

    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let next = self.peek()?;
        self.at += next.len_utf8();
        Some(next)
    }

    fn take(&mut self, wanted: &str) -> bool {
        let there = self.rest().starts_with(wanted);
        if there {
            self.at += wanted.len();
        }
        there
    }

    /// Over white space and comments.
    fn space(&mut self) -> Result<(), Wrong> {
        loop {
            if self.take("//") {
                while self.peek().is_some_and(|next| !is_line_end(next)) {
                    self.next();
                }
            } else if self.take("/*") {
                let Some(end) = self.rest().find("*/") else {
                    return Err(self.wrong("a comment has no end"));
                };
                self.at += end + 2;
            } else if self.peek().is_some_and(|next| next.is_whitespace() || next == '\u{feff}') {
                self.next();
            } else {
                return Ok(());
            }
        }
    }

    fn value(&mut self, depth: usize) -> Result<Value, Wrong> {
        if depth > DEEPEST {
            return Err(self.wrong("the document is nested too deeply"));
        }
        self.space()?;
        match self.peek() {
            Some('{') => self.object(depth),
            Some('[') => self.array(depth),
            Some(quote @ ('"' | '\'')) => self.string(quote).map(Value::String),
            Some('+' | '-' | '.' | '0'..='9' | 'I' | 'N') => self.number(),
            _ if self.word("true") => Ok(Value::Bool(true)),
            _ if self.word("false") => Ok(Value::Bool(false)),
            _ if self.word("null") => Ok(Value::Null),
            _ => Err(self.wrong("there is no value")),
        }
    }

    fn word(&mut self, wanted: &str) -> bool {
        let after = self.rest().strip_prefix(wanted).map(|rest| rest.chars().next());
        let whole = after.is_some_and(|next| !next.is_some_and(is_inner));
        whole && self.take(wanted)
    }

    fn object(&mut self, depth: usize) -> Result<Value, Wrong> {
        self.next();
        let mut fields = Map::new();
        loop {
            self.space()?;
            if self.take("}") {
                return Ok(Value::Object(fields));
            }
            let key = match self.peek() {
                Some(quote @ ('"' | '\'')) => self.string(quote)?,
                _ => self.bare_key()?,
            };
            self.space()?;
            if !self.take(":") {
                return Err(self.wrong("a key has no value"));
            }
            let value = self.value(depth + 1)?;
            if fields.insert(key, value).is_some() {
                return Err(self.wrong("a key is there twice"));
            }
            self.space()?;
            if !self.take(",") && self.peek() != Some('}') {
                return Err(self.wrong("an object goes on without a comma"));
            }
        }
    }

    fn array(&mut self, depth: usize) -> Result<Value, Wrong> {
        self.next();
        let mut rows = Vec::new();
        loop {
            self.space()?;
            if self.take("]") {
                return Ok(Value::Array(rows));
            }
            rows.push(self.value(depth + 1)?);
            self.space()?;
            if !self.take(",") && self.peek() != Some(']') {
                return Err(self.wrong("a list goes on without a comma"));
            }
        }
    }

    fn bare_key(&mut self) -> Result<String, Wrong> {
        let length: usize = self.rest().chars().take_while(|next| is_inner(*next)).map(char::len_utf8).sum();
        let key = self.rest()[..length].to_owned();
        if key.chars().next().is_none_or(|first| first.is_ascii_digit()) {
            return Err(self.wrong("there is no key"));
        }
        self.at += length;
        Ok(key)
    }

    fn string(&mut self, quote: char) -> Result<String, Wrong> {
        self.next();
        let mut text = String::new();
        loop {
            match self.next() {
                Some(end) if end == quote => return Ok(text),
                Some('\\') => self.escape(&mut text)?,
                None | Some('\n' | '\r') => return Err(self.wrong("a text has no end")),
                Some(other) => text.push(other),
            }
        }
    }

    fn escape(&mut self, text: &mut String) -> Result<(), Wrong> {
        let plain = match self.next() {
            Some('n') => '\n',
            Some('r') => '\r',
            Some('t') => '\t',
            Some('b') => '\u{8}',
            Some('f') => '\u{c}',
            Some('v') => '\u{b}',
            Some('0') if !self.peek().is_some_and(|next| next.is_ascii_digit()) => '\0',
            Some('x') => {
                self.unit(2).and_then(|unit| char::from_u32(unit).ok_or(self.wrong("an escape is wrong")))?
            }
            Some('u') => self.unicode()?,
            // A line that goes on.
            Some('\r') => {
                self.take("\n");
                return Ok(());
            }
            Some(end) if is_line_end(end) => return Ok(()),
            Some('1'..='9' | '0') | None => return Err(self.wrong("an escape is wrong")),
            Some(other) => other,
        };
        text.push(plain);
        Ok(())
    }

    fn unit(&mut self, digits: usize) -> Result<u32, Wrong> {
        let hex = self.rest().get(..digits).filter(|hex| hex.bytes().all(|byte| byte.is_ascii_hexdigit()));
        let unit = hex.and_then(|hex| u32::from_str_radix(hex, 16).ok());
        self.at += if unit.is_some() { digits } else { 0 };
        unit.ok_or_else(|| self.wrong("an escape is wrong"))
    }

    /// The rest of `\u`, and the second half if it is a pair.
    fn unicode(&mut self) -> Result<char, Wrong> {
        let first = self.unit(4)?;
        let code = if (0xd800..0xdc00).contains(&first) && self.take("\\u") {
            let second = self.unit(4)?;
            if !(0xdc00..0xe000).contains(&second) {
                return Err(self.wrong("an escape is half of a pair"));
            }
            0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00)
        } else {
            first
        };
        char::from_u32(code).ok_or_else(|| self.wrong("an escape is half of a pair"))
    }

    fn number(&mut self) -> Result<Value, Wrong> {
        let is_part = |next: &char| next.is_ascii_alphanumeric() || matches!(next, '+' | '-' | '.');
        let length: usize = self.rest().chars().take_while(is_part).map(char::len_utf8).sum();
        let text = &self.rest()[..length];
        let (negative, digits) = match text.strip_prefix('-') {
            Some(digits) => (true, digits),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        let number = number_of(negative, digits).ok_or_else(|| self.wrong("a number is none"))?;
        self.at += length;
        Ok(Value::Number(number))
    }
}

fn number_of(negative: bool, digits: &str) -> Option<Number> {
    let hex = digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X"));
    let whole = match hex {
        Some(hex) if hex.bytes().all(|byte| byte.is_ascii_hexdigit()) => u64::from_str_radix(hex, 16).ok(),
        Some(_) => return None,
        None if digits.bytes().all(|byte| byte.is_ascii_digit()) => digits.parse().ok(),
        None => None,
    };
    match whole {
        Some(whole) if negative => i64::try_from(whole).ok().map(|whole| Number::from(-whole)),
        Some(whole) => Some(Number::from(whole)),
        // What has no end or no value is no value of a configuration.
        None if hex.is_none() && digits.starts_with(|first: char| first.is_ascii_digit() || first == '.') => {
            let value: f64 = digits.parse().ok()?;
            Number::from_f64(if negative { -value } else { value })
        }
        None => None,
    }
}

fn is_line_end(next: char) -> bool {
    matches!(next, '\n' | '\r' | '\u{2028}' | '\u{2029}')
}

fn is_inner(next: char) -> bool {
    next.is_alphanumeric() || matches!(next, '_' | '$')
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn what_json5_adds_to_json_is_read() {
        let text = "// a\n{ bare: 'single \\' \\u00e9 \\x41', $d_1: [1, +2, .5, -0x10, 3e2,], /* b */ \"q\": null,\n\
                    'long': 'one \\\n two', t: true, \"pair\": \"\\ud83d\\ude00\", }";
        let wanted = json!({ "bare": "single ' é A", "$d_1": [1, 2, 0.5, -16, 300.0], "q": null,
            "long": "one  two", "t": true, "pair": "😀" });
        assert_eq!(parse(text).unwrap(), wanted);
    }

    #[test]
    fn what_is_wrong_is_refused() {
        let deep = "[".repeat(100_000);
        let wrong = [
            "",
            "{",
            "{a:1",
            "{a:1 b:2}",
            "{a:1,a:2}",
            "[1 2]",
            "'x",
            "/*",
            "truex",
            "1 2",
            "{1a:2}",
            "'\\u12'",
            "'\\ud800'",
            "Infinity",
            "NaN",
            "0xg",
            "--1",
            "1e999",
            &deep,
        ];
        for text in wrong {
            assert!(parse(text).is_err(), "{}", &text[..text.len().min(20)]);
        }
    }

    proptest! {
        #[test]
        fn json_is_read_as_json_reads_it(text in "[\\[\\]{}:,\"a-c0-9 .eE+\\\\-]{0,40}") {
            if let Ok(value) = serde_json::from_str::<Value>(&text)
                && let Ok(ours) = parse(&text)
            {
                prop_assert_eq!(ours.to_string(), value.to_string());
            }
        }

        #[test]
        fn nothing_panics(text in "\\PC{0,200}") {
            let _ = parse(&text);
        }
    }
}
