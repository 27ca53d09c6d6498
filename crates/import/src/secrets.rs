//! Secrets in what is carried: the values that the configuration holds, and what looks like a key of a known kind.
//!
//! It owns the shapes. It refuses to keep a value longer than the reader lives, and to show one. The threat: a token
//! that somebody pasted into a note, a skill or a conversation, and that would come into the cell with it.

use memchr::memmem;

/// What stands in the place of a value.
pub(crate) const BLANK: &str = "[left out: a secret]";
/// The shortest value of the configuration that is looked for; shorter ones are words.
const SHORTEST: usize = 8;
/// As many values are looked for.
pub(crate) const MOST_VALUES: usize = 10_000;
/// The longest key of a shape.
const LONGEST: usize = 2048;

/// How often a text is looked through.
const MOST_ROUNDS: usize = 8;

/// One kind of key: how it begins, how many of which characters follow, and whether a digit must be among them.
struct Shape {
    name: &'static str,
    begins: &'static str,
    least: usize,
    more: &'static [u8],
    digit: bool,
}

const fn shape(name: &'static str, begins: &'static str, least: usize) -> Shape {
    Shape { name, begins, least, more: b"_-", digit: true }
}

/// What keys look like, as their makers publish it for scanners.
const SHAPES: &[Shape] = &[
    shape("an Anthropic key", "sk-ant-", 20),
    shape("an OpenAI key", "sk-proj-", 20),
    shape("a key that begins with sk-", "sk-", 20),
    shape("a Stripe key", "sk_live_", 16),
    shape("a Stripe key", "rk_live_", 16),
    shape("a GitHub token", "ghp_", 30),
    shape("a GitHub token", "gho_", 30),
    shape("a GitHub token", "ghs_", 30),
    shape("a GitHub token", "ghu_", 30),
    shape("a GitHub token", "github_pat_", 30),
    shape("a GitLab token", "glpat-", 18),
    shape("a Slack token", "xoxb-", 16),
    shape("a Slack token", "xoxp-", 16),
    shape("a Slack token", "xapp-", 16),
    shape("a Google key", "AIza", 30),
    shape("a Google token", "ya29.", 20),
    shape("an npm token", "npm_", 30),
    shape("a Hugging Face token", "hf_", 30),
    shape("a Groq key", "gsk_", 30),
    shape("an xAI key", "xai-", 30),
    Shape { name: "an AWS key", begins: "AKIA", least: 16, more: b"", digit: false },
    Shape { name: "an AWS key", begins: "ASIA", least: 16, more: b"", digit: false },
    Shape { name: "a SendGrid key", begins: "SG.", least: 40, more: b"_-.", digit: true },
    Shape { name: "a signed token", begins: "eyJ", least: 60, more: b"_-.", digit: true },
];

const KEY_BEGIN: &[u8] = b"-----BEGIN ";
const KEY_WORD: &[u8] = b"PRIVATE KEY";
const KEY_END: &[u8] = b"-----END ";

/// What is looked for.
#[derive(Default)]
pub(crate) struct Secrets(Vec<Vec<u8>>);

impl Secrets {
    /// A value that must not be carried.
    pub(crate) fn add(&mut self, value: &str) {
        if self.are_too_many() {
            return;
        }
        let value = value.trim();
        // What only names a secret is none.
        let names = value.starts_with("${") && value.ends_with('}');
        if value.len() >= SHORTEST && !names && !self.0.iter().any(|known| known == value.as_bytes()) {
            self.0.push(value.as_bytes().to_vec());
            // The longest first, so that none is blanked in pieces.
            self.0.sort_by_key(|value| std::cmp::Reverse(value.len()));
        }
    }

    /// Are there more than are looked for? Then some are not known.
    pub(crate) fn are_too_many(&self) -> bool {
        self.0.len() > MOST_VALUES
    }

    /// Is any in these bytes, whatever they are?
    pub(crate) fn first_in(&self, bytes: &[u8]) -> Option<&'static str> {
        self.spans(bytes).first().map(|span| span.kind)
    }

    /// The text without them, and what they were; none if there is none.
    pub(crate) fn blank(&self, text: &str) -> Option<(String, Vec<&'static str>)> {
        let (mut out, mut kinds) = (text.to_owned(), Vec::new());
        // What stands around a blank may look like another.
        for _ in 0..MOST_ROUNDS {
            let spans = self.spans(out.as_bytes());
            if spans.is_empty() {
                break;
            }
            let (mut next, mut at) = (String::new(), 0);
            for span in &spans {
                // A value and every shape begin and end with whole characters.
                next.push_str(out.get(at..span.start).unwrap_or_default());
                next.push_str(BLANK);
                at = span.end;
            }
            next.push_str(out.get(at..).unwrap_or_default());
            out = next;
            kinds.extend(spans.into_iter().map(|span| span.kind));
        }
        (!kinds.is_empty()).then_some((out, kinds))
    }

    /// All of them, in order; those that overlap are one.
    fn spans(&self, bytes: &[u8]) -> Vec<Span> {
        let mut all = Vec::new();
        for value in &self.0 {
            let kind = "a value of a credential";
            all.extend(memmem::find_iter(bytes, value).map(|start| Span {
                start,
                end: start + value.len(),
                kind,
            }));
        }
        for shape in SHAPES {
            shape.find(bytes, &mut all);
        }
        private_keys(bytes, &mut all);
        bot_tokens(bytes, &mut all);
        passwords(bytes, &mut all);
        all.sort_by_key(|span| (span.start, std::cmp::Reverse(span.end)));
        all.dedup_by(|next, before| {
            let one = next.start < before.end;
            before.end = if one { before.end.max(next.end) } else { before.end };
            one
        });
        all
    }
}

struct Span {
    start: usize,
    end: usize,
    kind: &'static str,
}

impl Shape {
    fn find(&self, bytes: &[u8], all: &mut Vec<Span>) {
        let mut after = 0;
        for start in memmem::find_iter(bytes, self.begins) {
            if start < after || (start > 0 && is_word(bytes[start - 1])) {
                continue;
            }
            let body = bytes[start + self.begins.len()..].iter().take(LONGEST);
            let inner = |byte: &&u8| byte.is_ascii_alphanumeric() || self.more.contains(byte);
            let (mut length, mut digit) = (0, !self.digit);
            for byte in body.take_while(inner) {
                length += 1;
                digit |= byte.is_ascii_digit();
            }
            if length >= self.least && digit {
                after = start + self.begins.len() + length;
                all.push(Span { start, end: after, kind: self.name });
            }
        }
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// PEM blocks, each to its end or to the end of the text.
fn private_keys(bytes: &[u8], all: &mut Vec<Span>) {
    let mut after = 0;
    for start in memmem::find_iter(bytes, KEY_BEGIN) {
        let line = &bytes[start..(start + 64).min(bytes.len())];
        let line = line.split(|byte| *byte == b'\n').next().unwrap_or_default();
        if start < after || memmem::find(line, KEY_WORD).is_none() {
            continue;
        }
        let end =
            memmem::find(&bytes[start..], KEY_END).map_or(bytes.len(), |end| start + end + KEY_END.len());
        // The rest of its line, up to the five dashes.
        let dashes = memmem::find(&bytes[end..], b"-----").filter(|at| *at < 64);
        after = dashes.map_or(end, |at| end + at + 5);
        all.push(Span { start, end: after, kind: "a private key" });
    }
}

/// `123456789:` and 35 characters.
fn bot_tokens(bytes: &[u8], all: &mut Vec<Span>) {
    for colon in memchr::memchr_iter(b':', bytes) {
        let digits = bytes[..colon].iter().rev().take(16).take_while(|byte| byte.is_ascii_digit()).count();
        let inner = |byte: &&u8| is_word(**byte) || **byte == b'-';
        let body = bytes[colon + 1..].iter().take(64).take_while(inner).count();
        let start = colon - digits;
        let alone = start == 0 || !is_word(bytes[start - 1]);
        if (8..=12).contains(&digits) && (34..=40).contains(&body) && alone {
            all.push(Span { start, end: colon + 1 + body, kind: "a Telegram bot's token" });
        }
    }
}

/// The password of `://user:password@`.
fn passwords(bytes: &[u8], all: &mut Vec<Span>) {
    for at in memmem::find_iter(bytes, "://") {
        let rest = &bytes[at + 3..];
        let inner = |byte: &&u8| byte.is_ascii_graphic() && !b"/\"'<>`@".contains(byte);
        let length = rest.iter().take(256).take_while(inner).count();
        let Some(colon) = memchr::memchr(b':', &rest[..length]) else { continue };
        let value = &rest[colon + 1..length];
        if colon > 0 && value.len() >= 4 && rest.get(length) == Some(&b'@') && !value.starts_with(b"$") {
            all.push(Span {
                start: at + 3 + colon + 1,
                end: at + 3 + length,
                kind: "a password in an address",
            });
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn blanked(text: &str) -> String {
        Secrets::default().blank(text).map_or_else(|| text.to_owned(), |(text, _)| text)
    }

    #[test]
    fn keys_are_blanked_and_prose_stays() {
        let keys = [
            format!("sk-{}", "a1b2".repeat(8)),
            format!("sk-ant-api03-{}", "a1b2".repeat(8)),
            format!("ghp_{}", "a1b2".repeat(9)),
            format!("AKIA{}", "ABCD".repeat(4)),
            format!("123456789:{}", "AAbb_".repeat(7)),
            format!("xoxb-{}", "1234-".repeat(4)),
            "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----".to_owned(),
        ];
        for key in keys {
            assert_eq!(blanked(&format!("it is {key} so é")), format!("it is {BLANK} so é"), "{key}");
        }
        assert_eq!(blanked("https://me:hunter22@host/x"), format!("https://me:{BLANK}@host/x"));
        let prose = "a risk-assessment-of-the-long-thing-2026, sk-learn-is-a-library-for-people, at 12:30, http://a:b@c, \
                     https://host/path:with@sign -----BEGIN CERTIFICATE-----";
        assert_eq!(blanked(prose), prose);
    }

    #[test]
    fn values_of_the_configuration_are_found_in_any_bytes() {
        let mut secrets = Secrets::default();
        secrets.add("correct horse");
        secrets.add("short");
        secrets.add("${NAME_OF_ONE}");
        assert!(secrets.first_in(b"\xff\x00correct horse\xff").is_some());
        assert_eq!(
            secrets.blank("a correct horse, short ${NAME_OF_ONE}").unwrap().0,
            format!("a {BLANK}, short ${{NAME_OF_ONE}}")
        );
    }

    proptest! {
        #[test]
        fn what_was_blanked_has_nothing_left_to_blank(text in "(\\PC|sk-|ghp_|://|@|:|[a-z0-9]{8,40}|-----BEGIN |PRIVATE KEY){0,40}") {
            let mut secrets = Secrets::default();
            secrets.add("abcdefgh");
            if let Some((text, kinds)) = secrets.blank(&text) {
                prop_assert!(!kinds.is_empty());
                prop_assert_eq!(secrets.first_in(text.as_bytes()), None, "{}", text);
            }
        }
    }
}
