//! What a secret is bound to: one destination, one path template, one place in the request, and how it is
//! written there; and the placeholder that stands for it in a cell.
//!
//! A binding is the purpose of its secret: the envelope opens only with the very text under which it was sealed,
//! so that nobody who can write to the store can bind it elsewhere. The threat: a request that we read as bound
//! and its server reads as another; so paths are read strictly, and what is ambiguous is not bound.

use crate::{Destination, Digest, Host, HostName, Protocol, kind::Kind};
use serde::{Deserialize, Serialize};
use std::{fmt, num::NonZeroU16};

/// What every placeholder begins with.
pub const PLACEHOLDER: &str = "cofferdam_placeholder_";
/// How many hex digits follow.
pub const PLACEHOLDER_DIGITS: usize = 48;
/// What the purpose of a bound secret begins with.
const PURPOSE: &str = "bound:";
/// No template, format, name or value in a binding is longer, in bytes.
const LONGEST: usize = 256;

/// The placeholder of a digest.
#[must_use]
pub fn placeholder(digest: &Digest) -> String {
    let digits = digest.to_string();
    format!("{PLACEHOLDER}{}", &digits[..PLACEHOLDER_DIGITS])
}

/// What a secret is bound to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Binding {
    /// Where it may be sent.
    pub to: Place,
    /// Where in the request.
    pub spot: Spot,
    /// How it is written there.
    pub format: Format,
    /// What of the API it is for, where that is said in the query.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource: Option<Resource>,
    /// The variable of the cell's environment that holds the placeholder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub env: Option<Variable>,
    /// The file of the cell that holds it, below [`PLACEHOLDERS`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<FileName>,
    /// What its value is, if that is not what is sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<Kind>,
}

/// Where in a cell the files with placeholders are.
pub const PLACEHOLDERS: &str = "/opt/cofferdam/placeholders";

/// `https://host:port/path-template`; without a scheme it is https.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Place {
    host: HostName,
    port: NonZeroU16,
    protocol: Protocol,
    path: Template,
}

/// Where in a request a secret goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Spot {
    /// The one header of this name, lower case.
    Header(String),
    /// The one parameter of the query with this name.
    Query(String),
    /// A body of JSON, of a form or of text, wherever in it the placeholder stands.
    Body,
    /// The one segment of the path in which the placeholder stands: an API that takes its key there (`/bot{}/send`).
    Path,
}

/// A text around the secret: `Bearer {}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Format {
    before: String,
    after: String,
}

/// `NAME=VALUE`: this parameter is in the query once, with this value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Resource {
    /// The parameter.
    pub name: String,
    /// Its value, decoded.
    pub value: String,
}

/// The name of a variable that may hold a placeholder: capitals, digits and `_`, and none that a shell, a loader or
/// an interpreter acts on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Variable(String);

/// The name of a file that may hold one: letters, digits, `.`, `_` and `-`, not beginning with a dot.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct FileName(String);

/// Segments of a path, each a text, `*` for any one, or, last, `**` for any rest.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Template(Vec<String>);

/// Why a text is no part of a binding.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no {what}")]
pub struct BindingError {
    what: &'static str,
    text: String,
}

impl Binding {
    /// The purpose of its secret.
    #[must_use]
    pub fn to_purpose(&self) -> String {
        // Strings only: there is nothing that JSON cannot say.
        format!("{PURPOSE}{}", serde_json::to_string(self).unwrap_or_default())
    }

    /// The binding of a secret with this purpose; none if it is not bound. An error is a binding that this program
    /// did not write.
    pub fn of_purpose(purpose: &str) -> Result<Option<Self>, BindingError> {
        let Some(json) = purpose.strip_prefix(PURPOSE) else { return Ok(None) };
        serde_json::from_str(json).map(Some).map_err(|_| error("binding", json))
    }

    /// Is a request for this path and query of this destination one that the secret is for?
    #[must_use]
    pub fn admits(&self, destination: &Destination, path: &str, query: Option<&str>) -> bool {
        let Place { host, port, protocol, path: template } = &self.to;
        let there = matches!(&destination.host, Host::Name(name) if name == host)
            && (destination.port, destination.protocol) == (*port, *protocol);
        let resource = self.resource.as_ref().is_none_or(|resource| {
            let values: Vec<_> = parameters(query.unwrap_or_default())
                .filter(|(name, _)| decoded(name).as_deref() == Some(&resource.name))
                .collect();
            matches!(&values[..], [(_, value)] if decoded(value).as_deref() == Some(&resource.value))
        });
        there && template.matches(path) && resource
    }
}

impl Place {
    /// Is it a place at this destination, whatever the path?
    #[must_use]
    pub fn is_at(&self, destination: &Destination) -> bool {
        matches!(&destination.host, Host::Name(name) if *name == self.host) && destination.port == self.port
    }

    /// Is every path there a part of it?
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.path.0 == ["**"]
    }
}

impl Format {
    /// The text with this in its place.
    #[must_use]
    pub fn around(&self, inside: &[u8]) -> Vec<u8> {
        [self.before.as_bytes(), inside, self.after.as_bytes()].concat()
    }
}

impl Variable {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FileName {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The parameters of a query, as they are written.
pub fn parameters(query: &str) -> impl Iterator<Item = (&str, &str)> {
    query.split('&').filter(|part| !part.is_empty()).map(|part| part.split_once('=').unwrap_or((part, "")))
}

/// Percent-decoded once, `+` as a space; none if an escape is broken or what it says is no UTF-8.
#[must_use]
pub fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit = || char::from(rest.next()?).to_digit(16);
                u8::try_from(digit()? << 4 | digit()?).ok()?
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok()
}

impl Template {
    /// Does the path lead there, however its server reads it?
    fn matches(&self, path: &str) -> bool {
        let Some(rest) = path.strip_prefix('/') else { return false };
        let segments: Vec<&str> = rest.split('/').collect();
        let sound = segments.iter().enumerate().all(|(at, segment)| {
            // A slash at the end is no segment; anywhere else two slashes are one to some servers.
            is_sound(segment) && (!segment.is_empty() || at + 1 == segments.len())
        });
        let mut wanted = self.0.iter().map(String::as_str);
        let mut found = segments.iter();
        sound
            && loop {
                match (wanted.next(), found.next()) {
                    (Some("**"), _) | (None, None) => break true,
                    (Some("*"), Some(segment)) if !segment.is_empty() => {}
                    (Some(text), Some(segment)) if text == *segment => {}
                    _ => break false,
                }
            }
    }
}

/// Is a segment one and the same to whoever reads it? Dots lead up, parameters and escapes are cut off or decoded by
/// some.
fn is_sound(segment: &str) -> bool {
    !matches!(segment, "." | "..")
        && segment.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~!$&'()*+,=:@".contains(&b))
}

pub(crate) fn error(what: &'static str, text: &str) -> BindingError {
    BindingError { what, text: text.chars().take(64).collect() }
}

fn is_short(text: &str) -> bool {
    (1..=LONGEST).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic())
}

/// Conversions for types that are read by `read` and written by `Display`.
macro_rules! text {
    ($($type:ident $what:literal)*) => {$(
        impl TryFrom<String> for $type {
            type Error = BindingError;

            fn try_from(text: String) -> Result<Self, BindingError> {
                text.parse()
            }
        }

        impl std::str::FromStr for $type {
            type Err = BindingError;

            fn from_str(text: &str) -> Result<Self, BindingError> {
                Self::read(text).ok_or_else(|| $crate::binding::error($what, text))
            }
        }

        impl From<$type> for String {
            fn from(value: $type) -> Self {
                value.to_string()
            }
        }
    )*};
}
pub(crate) use text;

text! {
    Place "destination: write host, host:port/path/*, or http://host/path/** for plain HTTP"
    Spot "place in a request: write header:NAME, query:NAME or body"
    Format "format: write {} once, with printable ASCII around it"
    Resource "resource: write NAME=VALUE"
    Variable "variable for a placeholder: capitals, digits and '_', and none that programs act on"
    FileName "file name: letters, digits, '.', '_' and '-', not beginning with a dot"
}

impl Place {
    fn read(text: &str) -> Option<Self> {
        let (protocol, rest) = match text.split_once("://") {
            Some(("http", rest)) => (Protocol::Http, rest),
            Some(("https", rest)) => (Protocol::Https, rest),
            Some(_) => return None,
            None => (Protocol::Https, text),
        };
        let (authority, path) = rest.find('/').map_or((rest, "/**"), |at| rest.split_at(at));
        let (host, port) = match authority.split_once(':') {
            Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => (host, port.parse().ok()?),
            Some(_) => return None,
            None => (authority, NonZeroU16::new(if protocol == Protocol::Http { 80 } else { 443 })?),
        };
        Some(Self { host: host.parse().ok()?, port, protocol, path: Template::read(path)? })
    }
}

impl Template {
    fn read(text: &str) -> Option<Self> {
        let segments: Vec<String> = text.strip_prefix('/')?.split('/').map(str::to_owned).collect();
        let last = segments.len() - 1;
        let fits = |(at, segment): (usize, &String)| match segment.as_str() {
            "**" | "" => at == last,
            "*" => true,
            text => is_sound(text) && !text.contains('*'),
        };
        (text.len() <= LONGEST && segments.iter().enumerate().all(fits)).then_some(Self(segments))
    }
}

impl Spot {
    fn read(text: &str) -> Option<Self> {
        if text == "body" {
            return Some(Self::Body);
        }
        if text == "path" {
            return Some(Self::Path);
        }
        let (kind, name) = text.split_once(':')?;
        let token = |b: u8| b.is_ascii_alphanumeric() || b"-_".contains(&b);
        if !is_short(name) || !name.bytes().all(token) {
            return None;
        }
        match kind {
            "header" => {
                let name = name.to_ascii_lowercase();
                (!FRAMING.contains(&name.as_str())).then_some(Self::Header(name))
            }
            "query" => Some(Self::Query(name.to_owned())),
            _ => None,
        }
    }
}

impl Format {
    /// Is it the secret alone?
    #[must_use]
    pub fn is_plain(&self) -> bool {
        self.before.is_empty() && self.after.is_empty()
    }

    fn read(text: &str) -> Option<Self> {
        let (before, after) = text.split_once("{}")?;
        let plain = text.len() <= LONGEST && text.bytes().all(|b| b == b' ' || b.is_ascii_graphic());
        let one = !before.contains(['{', '}']) && !after.contains(['{', '}']);
        let trimmed = !before.starts_with(' ') && !after.ends_with(' ');
        (plain && one && trimmed).then(|| Self { before: before.to_owned(), after: after.to_owned() })
    }
}

impl Resource {
    fn read(text: &str) -> Option<Self> {
        let (name, value) = text.split_once('=')?;
        (is_short(name) && is_short(value)).then(|| Self { name: name.to_owned(), value: value.to_owned() })
    }
}

impl Variable {
    fn read(text: &str) -> Option<Self> {
        let inner = |b: u8| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_';
        let first = text.as_bytes().first().is_some_and(u8::is_ascii_uppercase);
        let acted_on = ACTED_ON.iter().any(|name| match name.strip_suffix('*') {
            Some(begin) => text.starts_with(begin),
            None => text == *name,
        });
        (first && text.len() <= 64 && text.bytes().all(inner) && !acted_on).then(|| Self(text.to_owned()))
    }
}

impl FileName {
    fn read(text: &str) -> Option<Self> {
        let inner = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
        let sound = (1..=64).contains(&text.len()) && text.bytes().all(inner) && !text.starts_with('.');
        sound.then(|| Self(text.to_owned()))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port, protocol, path: Template(segments) } = self;
        write!(f, "{}://{host}:{port}/{}", protocol.as_str(), segments.join("/"))
    }
}

impl fmt::Display for Spot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header(name) => write!(f, "header:{name}"),
            Self::Query(name) => write!(f, "query:{name}"),
            Self::Body => f.write_str("body"),
            Self::Path => f.write_str("path"),
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{{}}{}", self.before, self.after)
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.name, self.value)
    }
}

impl fmt::Display for Variable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Headers by which a request is framed and led: no secret goes there.
const FRAMING: &[&str] = &[
    "host",
    "content-length",
    "content-type",
    "content-encoding",
    "transfer-encoding",
    "connection",
    "upgrade",
    "te",
    "trailer",
    "keep-alive",
    "expect",
    "proxy-authorization",
    "proxy-connection",
    "accept-encoding",
    "range",
];

/// Variables that shells, loaders and interpreters act on, and those of every cell.
const ACTED_ON: &[&str] = &[
    "PATH",
    "HOME",
    "SHELL",
    "USER",
    "LOGNAME",
    "PWD",
    "OLDPWD",
    "IFS",
    "ENV",
    "TERM",
    "LANG",
    "LC_*",
    "TMPDIR",
    "TZ",
    "LD_*",
    "GCONV_*",
    "MALLOC_*",
    "GLIBC_*",
    "BASH_*",
    "NODE_*",
    "NPM_*",
    "PYTHON*",
    "PERL*",
    "RUBY*",
    "JAVA_*",
    "JDK_*",
    "CLASSPATH",
    "GIT_*",
    "SSH_*",
    "SSL_*",
    "CURL_*",
    "OPENSSL_*",
    "OPENCLAW_*",
    "COFFERDAM_*",
    "XDG_*",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "HOSTALIASES",
    "LOCALDOMAIN",
    "RES_OPTIONS",
    "EDITOR",
    "VISUAL",
    "PAGER",
];

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn binding(to: &str) -> Binding {
        Binding {
            to: to.parse().unwrap(),
            spot: "header:Authorization".parse().unwrap(),
            format: "Bearer {}".parse().unwrap(),
            resource: None,
            env: None,
            file: None,
            kind: None,
        }
    }

    fn admits(to: &str, at: &str, path: &str) -> bool {
        let (scheme, rest) = at.split_once("://").unwrap();
        let (host, port) = rest.split_once(':').unwrap();
        let destination = Destination {
            host: Host::Name(host.parse().unwrap()),
            port: port.parse().unwrap(),
            protocol: if scheme == "http" { Protocol::Http } else { Protocol::Https },
        };
        let (path, query) = path.split_once('?').map_or((path, None), |(path, query)| (path, Some(query)));
        binding(to).admits(&destination, path, query)
    }

    #[test]
    fn a_binding_admits_its_own_destination_and_paths_and_nothing_that_could_be_read_as_another() {
        let (to, at) = ("api.example.com/repos/acme/site/**", "https://api.example.com:443");
        for path in ["/repos/acme/site/", "/repos/acme/site/pulls", "/repos/acme/site/pulls/1"] {
            assert!(admits(to, at, path), "{path}");
        }
        for path in [
            "/repos/acme/other/pulls",
            "/repos/acme/site/../other",
            "/repos/acme/site/%2e%2e/other",
            "/repos//acme/site/x",
            "/repos/acme/site/..;/other",
            "/repos/acme/site/x%2f..",
            "/repos/acme/site\\..",
            "repos/acme/site/x",
            "/Repos/acme/site/x",
            "/repos/acme/site;x/y",
            "/repos/acme/site/./x",
            "/",
        ] {
            assert!(!admits(to, at, path), "{path}");
        }
        for elsewhere in
            ["http://api.example.com:443", "https://api.example.com:8443", "https://www.example.com:443"]
        {
            assert!(!admits(to, elsewhere, "/repos/acme/site/x"), "{elsewhere}");
        }
        assert!(admits("http://a.example/bot/*/send", "http://a.example:80", "/bot/7/send"));
        assert!(!admits("http://a.example/bot/*/send", "http://a.example:80", "/bot/7/8/send"));
        assert!(admits("a.example", "https://a.example:443", "/anything/at/all"));
    }

    #[test]
    fn a_resource_is_in_the_query_once() {
        let to = Destination {
            host: Host::Name("a.example".parse().unwrap()),
            port: 443.try_into().unwrap(),
            protocol: Protocol::Https,
        };
        let bound = Binding { resource: Some("chat_id=-42".parse().unwrap()), ..binding("a.example") };
        assert!(bound.admits(&to, "/send", Some("text=x&chat_id=-42")));
        assert!(bound.admits(&to, "/send", Some("chat_id=%2d42")));
        for query in
            [None, Some("chat_id=43"), Some("chat_id=-42&chat_id=43"), Some("chat_id=-42&chat%5fid=43")]
        {
            assert!(!bound.admits(&to, "/send", query), "{query:?}");
        }
    }

    #[test]
    fn what_is_no_part_of_a_binding_is_refused() {
        for bad in [
            "",
            "ftp://a.example",
            "a.example:0",
            "a.example:x",
            "a.example/a/**/b",
            "a.example/a*",
            "a.example/../x",
            "10.0.0.1",
            "u@a.example",
            "a.example/a?b",
        ] {
            assert!(bad.parse::<Place>().is_err(), "{bad}");
        }
        for bad in [
            "header:Host",
            "header:",
            "header:a b",
            "body:x",
            "Authorization",
            "query:a&b",
            "header:Content-Length",
        ] {
            assert!(bad.parse::<Spot>().is_err(), "{bad}");
        }
        for bad in ["", "Bearer", "{}{}", "a{b}{}", "{}\r\n", " {}"] {
            assert!(bad.parse::<Format>().is_err(), "{bad}");
        }
        for bad in ["PATH", "LD_PRELOAD", "NODE_OPTIONS", "a", "A-B", "1A", "", "HTTPS_PROXY"] {
            assert!(bad.parse::<Variable>().is_err(), "{bad}");
        }
        for bad in ["", ".x", "a/b", "..", "a b"] {
            assert!(bad.parse::<FileName>().is_err(), "{bad}");
        }
        assert!("GITHUB_TOKEN".parse::<Variable>().is_ok() && "github.token".parse::<FileName>().is_ok());
    }

    #[test]
    fn a_binding_is_the_purpose_of_its_secret_and_reads_back() {
        let whole = Binding {
            resource: Some("chat_id=42".parse().unwrap()),
            env: Some("TOKEN".parse().unwrap()),
            file: Some("token".parse().unwrap()),
            ..binding("http://a.example:8080/v1/*")
        };
        assert_eq!(Binding::of_purpose(&whole.to_purpose()), Ok(Some(whole.clone())));
        // One that is sent as it is has the purpose that it always had.
        assert!(!whole.to_purpose().contains("kind"));
        let aws = Binding { kind: Some(Kind::Aws("s3/*".parse().unwrap())), ..whole.clone() };
        assert_eq!(Binding::of_purpose(&aws.to_purpose()), Ok(Some(aws)));
        assert_eq!(whole.to.to_string(), "http://a.example:8080/v1/*");
        assert_eq!(Binding::of_purpose("model"), Ok(None));
        assert!(Binding::of_purpose("bound:{}").is_err());
        assert_eq!(
            placeholder(&Digest::from_bytes([0xab; 32])).len(),
            PLACEHOLDER.len() + PLACEHOLDER_DIGITS
        );
    }

    proptest! {
        #[test]
        fn no_path_escapes_its_template(path in "/repos/acme/site/[a-z./%;\\\\2ef]{0,24}") {
            if admits("a.example/repos/acme/site/**", "https://a.example:443", &path) {
                // However often it is decoded and normalised, it stays below.
                let read = decoded(&path).unwrap();
                prop_assert_eq!(&read, &path);
                prop_assert!(read.split('/').all(|segment| segment != ".." && segment != "."));
            }
        }
    }
}
