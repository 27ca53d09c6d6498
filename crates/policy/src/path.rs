//! Targets of requests and the templates over them.
//!
//! It owns what a path means: percent-decoded once, without dot segments and empty segments. What a server
//! might read otherwise (an encoded slash, something encoded twice, `..` above the root) is ambiguous, and an
//! ambiguous target is refused wherever a rule speaks of paths. The threat: a path that the rule and the
//! server read differently; so what goes on is [`Target::rebuilt`], never the text that came.

use crate::glob::Glob;
use std::fmt;

/// A request's path and query, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The path's segments, decoded.
    pub(crate) segments: Vec<String>,
    /// The query's names and values, decoded.
    pub(crate) query: Vec<(String, String)>,
    rebuilt: String,
}

/// Why a target is ambiguous.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Ambiguous(&'static str);

/// More segments than this are not read.
const MAX_SEGMENTS: usize = 256;

impl Target {
    /// Reads a target in origin form.
    pub fn parse(text: &str) -> Result<Self, Ambiguous> {
        let (path, query) = text.split_once('?').map_or((text, None), |(path, query)| (path, Some(query)));
        let rest = path.strip_prefix('/').ok_or(Ambiguous("the path does not begin with a slash"))?;
        let mut segments: Vec<String> = Vec::new();
        let mut raw: Vec<&str> = Vec::new();
        let mut folder = false;
        for part in rest.split('/') {
            let segment = decoded(part, false)?;
            if segment.contains(['/', '\\']) {
                return Err(Ambiguous("the path has an encoded slash or a backslash"));
            }
            folder = matches!(segment.as_str(), "" | "." | "..");
            match segment.as_str() {
                "" | "." => {}
                ".." => {
                    if segments.pop().is_none() {
                        return Err(Ambiguous("the path leads above its root"));
                    }
                    raw.pop();
                }
                // Some servers cut it off, and what is before it is another segment than the rule's.
                other if other.contains(';') => return Err(Ambiguous("the path has a parameter")),
                _ => {
                    segments.push(segment);
                    raw.push(part);
                }
            }
        }
        if segments.len() > MAX_SEGMENTS {
            return Err(Ambiguous("the path has too many segments"));
        }
        let mut rebuilt = String::with_capacity(text.len());
        for part in &raw {
            rebuilt.extend(["/", part]);
        }
        if folder || raw.is_empty() {
            rebuilt.push('/');
        }
        let mut pairs = Vec::new();
        if let Some(query) = query {
            rebuilt.push('?');
            rebuilt.push_str(query);
            for pair in query.split('&').filter(|pair| !pair.is_empty()) {
                if pair.contains(';') {
                    return Err(Ambiguous("the query has a semicolon"));
                }
                let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                pairs.push((decoded(name, true)?, decoded(value, true)?));
            }
        }
        Ok(Self { segments, query: pairs, rebuilt })
    }

    /// The path and query as they go on: without dot and empty segments.
    pub fn rebuilt(&self) -> &str {
        &self.rebuilt
    }
}

fn decoded(text: &str, plus: bool) -> Result<String, Ambiguous> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'%' => {
                let pair = bytes.get(at + 1..at + 3).and_then(hex);
                out.push(pair.ok_or(Ambiguous("a percent sign encodes nothing"))?);
                at += 3;
                continue;
            }
            b'+' if plus => out.push(b' '),
            0x21..=0x7e => out.push(*byte),
            _ => return Err(Ambiguous("it has characters that must be encoded")),
        }
        at += 1;
    }
    let text = String::from_utf8(out).map_err(|_| Ambiguous("it is not UTF-8"))?;
    let twice = text.as_bytes().windows(3).any(|three| three[0] == b'%' && hex(&three[1..]).is_some());
    if !plus && twice {
        return Err(Ambiguous("the path is encoded twice"));
    }
    if text.chars().any(char::is_control) && !plus {
        return Err(Ambiguous("the path has control characters"));
    }
    Ok(text)
}

fn hex(pair: &[u8]) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    match pair {
        [high, low] => Some(digit(*high)? * 16 + digit(*low)?),
        _ => None,
    }
}

/// One part of a template.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Segment {
    /// This text.
    Literal(String),
    /// A segment that fits a pattern: `v*`.
    Fits(Glob),
    /// Any one segment: `*` or `{name}`.
    Any,
    /// Any run of segments, none included: `**` before the end. A template has one at most.
    Run,
}

/// A path template: `/repos/{owner}/{repo}/**`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Template {
    pub(crate) segments: Vec<Segment>,
    /// Does anything follow: `**` at the end?
    pub(crate) rest: bool,
    text: String,
}

impl Template {
    /// Reads a template; the error says what is wrong with it.
    pub(crate) fn parse(text: &str) -> Result<Self, &'static str> {
        let inner = text.strip_prefix('/').ok_or("a path begins with a slash")?;
        if text.len() > 1024 || !text.bytes().all(|byte| (0x21..=0x7e).contains(&byte)) {
            return Err("a path is at most 1024 characters of ASCII, decoded, without spaces");
        }
        if text.contains(['%', '?', '#', '\\', ';']) {
            return Err("a path is written decoded, without query");
        }
        let mut parts: Vec<&str> = inner.split('/').collect();
        if parts.last() == Some(&"") {
            parts.pop();
        }
        let rest = parts.last() == Some(&"**");
        if rest {
            parts.pop();
        }
        let segment = |part: &&str| match *part {
            "" | "." | ".." => Err("a path has no empty and no dot segments"),
            "*" => Ok(Segment::Any),
            "**" => Ok(Segment::Run),
            part if part.contains("**") => Err("`**` stands alone between slashes"),
            part if part.starts_with('{') || part.ends_with('}') => {
                let name = part.strip_prefix('{').and_then(|part| part.strip_suffix('}'));
                let named = |name: &str| {
                    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
                };
                name.filter(|name| named(name)).map(|_| Segment::Any).ok_or("write {name} for one segment")
            }
            part if part.contains('*') => Glob::parse(part).map(Segment::Fits).ok_or("a segment is too long"),
            part => Ok(Segment::Literal(part.to_owned())),
        };
        let segments: Vec<Segment> = parts.iter().map(segment).collect::<Result<_, _>>()?;
        if segments.iter().filter(|segment| **segment == Segment::Run).count() > 1 {
            return Err("a path has one `**` before its end at most");
        }
        Ok(Self { segments, rest, text: text.to_owned() })
    }

    /// Does the path fit? `folded`: in whatever case.
    pub(crate) fn matches(&self, path: &[String], folded: bool) -> bool {
        fits(&self.segments, path, self.rest, folded)
    }
}

fn fits(segments: &[Segment], path: &[String], rest: bool, folded: bool) -> bool {
    match (segments.split_first(), path.split_first()) {
        (None, first) => rest || first.is_none(),
        (Some((Segment::Run, after)), _) => {
            (0..=path.len()).any(|skipped| fits(after, &path[skipped..], rest, folded))
        }
        (Some((segment, after)), Some((text, left))) => {
            segment.matches(text, folded) && fits(after, left, rest, folded)
        }
        (Some(_), None) => false,
    }
}

impl Segment {
    fn matches(&self, text: &str, folded: bool) -> bool {
        match self {
            Self::Any | Self::Run => true,
            Self::Literal(mine) if folded => mine.eq_ignore_ascii_case(text),
            Self::Literal(mine) => mine == text,
            Self::Fits(glob) if folded => glob.folded().matches(&text.to_ascii_lowercase()),
            Self::Fits(glob) => glob.matches(text),
        }
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn fits(template: &str, path: &str) -> bool {
        Template::parse(template).unwrap().matches(&Target::parse(path).unwrap().segments, false)
    }

    #[test]
    fn a_template_takes_whole_segments_of_the_path_that_is_meant() {
        for (template, path, expected) in [
            ("/repos/{owner}/{repo}/**", "/repos/a/b", true),
            ("/repos/{owner}/{repo}/**", "/repos/a/b/c/d?x=1", true),
            ("/repos/{owner}/{repo}/**", "/repos/a", false),
            ("/a/*", "/a/b/c", false),
            ("/a/*", "/a//b/", true),
            ("/public/**", "/public/../admin", false),
            ("/admin", "/public/%2e%2e/admin", true),
            ("/bot*/send", "/bot12:ab/send", true),
            ("/bot*/send", "/robot/send", false),
            ("/**/git-upload-pack", "/a/b.git/git-upload-pack", true),
            ("/**/git-upload-pack", "/git-upload-pack", true),
            ("/**/git-upload-pack", "/a/git-upload-pack/b", false),
            ("/a/**/c/*/**", "/a/b/b/c/d/e", true),
            ("/a/**/c/*/**", "/a/b/c", false),
            ("/a b", "/", false),
        ] {
            if template.contains(' ') {
                assert!(Template::parse(template).is_err());
                continue;
            }
            assert_eq!(fits(template, path), expected, "{template} {path}");
        }
    }

    #[test]
    fn a_path_with_a_parameter_is_two_paths() {
        for path in ["/admin;x/users", "/admin%3bx", "/r/secret;.json", "/..;/admin"] {
            assert!(Target::parse(path).is_err(), "{path}");
        }
    }

    #[test]
    fn a_template_has_one_run_before_its_end() {
        for bad in ["/**/a/**/b", "/a**/b", "/**/**/a/b"] {
            assert!(Template::parse(bad).is_err(), "{bad}");
        }
        assert!(Template::parse("/**/a/**").is_ok());
    }

    #[test]
    fn what_two_servers_read_differently_is_no_target() {
        for bad in [
            "*",
            "x",
            "/a%2fb",
            "/a%5Cb",
            "/a\\b",
            "/..",
            "/a/../..",
            "/%252e%252e/x",
            "/a%",
            "/a%zz",
            "/..;/x",
            "/.;a/x",
            "/%00",
            "/\u{e9}",
            "/%ff",
            "/a b",
            "/x?a=1;b=2",
            "/x?a=%g",
        ] {
            assert!(Target::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_goes_on_is_what_was_read() {
        for (text, rebuilt) in [
            ("/", "/"),
            ("/a/../b//c/./", "/b/c/"),
            ("/a%20b?x=%2f&y", "/a%20b?x=%2f&y"),
            ("//a", "/a"),
            ("/a/%2e", "/a/"),
        ] {
            let target = Target::parse(text).unwrap();
            assert_eq!(target.rebuilt(), rebuilt);
            let again = Target::parse(rebuilt).unwrap();
            assert_eq!((again.segments, again.query), (target.segments, target.query), "{text}");
        }
    }
}
