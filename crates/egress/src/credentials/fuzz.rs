//! What must hold of any request of a cell that holds placeholders, and of any answer, however it is cut.

use super::{Credential, Credentials, Finder, Redactor, find, messages::Messages};
use bytes::Bytes;
use cofferdam_base::{
    Destination, Host, Protocol, Secret,
    binding::{Binding, PLACEHOLDER, PLACEHOLDER_DIGITS},
};
use http::{HeaderValue, Request};

pub use super::{aws::fuzz::signed, oauth::fuzz::answer};

const SECRET: &str = "sk-live/0123456789+abc";
/// Its longest form has 44 characters.
const HELD: usize = 64;

/// The first line is the target, the second the value of `authorization`, the rest a body and an answer; `@` stands
/// for the placeholder and `#` for the secret.
pub fn request_and_answer(bytes: &[u8]) {
    let token = format!("{PLACEHOLDER}{}", "0c".repeat(PLACEHOLDER_DIGITS / 2));
    let credentials = made(&token);
    let fill = |bytes: &[u8]| -> Vec<u8> {
        let one = |byte: &u8| match byte {
            b'@' => token.as_bytes().to_vec(),
            b'#' => SECRET.as_bytes().to_vec(),
            byte => vec![*byte],
        };
        bytes.iter().flat_map(one).collect()
    };
    let mut lines = bytes.splitn(3, |byte| *byte == b'\n');
    let [target, value, rest] = [(); 3].map(|()| fill(lines.next().unwrap_or_default()));
    head(&credentials, &target, &value);
    let cuts: Vec<usize> = bytes.iter().map(|byte| usize::from(*byte % 16) + 1).collect();
    stream(&credentials, &rest, &cuts);
    messages(&rest, &cuts);
}

/// Where messages of gRPC end does not depend on how they are cut.
fn messages(bytes: &[u8], cuts: &[usize]) {
    let (mut messages, mut rest, mut cuts) = (Messages::default(), bytes, cuts.iter().cycle());
    let mut last = Messages::default().read(&[]).ok();
    while !rest.is_empty() && last.is_some() {
        let (chunk, more) = rest.split_at(cuts.next().copied().unwrap_or(1).min(rest.len()));
        rest = more;
        last = messages.read(chunk).ok();
    }
    assert_eq!(last, Messages::default().read(bytes).ok());
}

fn made(token: &str) -> Credentials {
    // Literals that the tests of `base` read too.
    let binding = |spot: &str, format: &str| -> Option<Binding> {
        Some(Binding {
            to: "http://a.example/v1/*/x".parse().ok()?,
            spot: spot.parse().ok()?,
            format: format.parse().ok()?,
            resource: None,
            env: None,
            file: None,
            kind: None,
        })
    };
    let one = |binding| Credential {
        name: "KEY".parse().expect("a literal"),
        placeholder: token.to_owned(),
        binding,
        value: Secret::new(SECRET.as_bytes().to_vec()),
    };
    Credentials::new(binding("header:authorization", "Bearer {}").map(one).into_iter().collect())
}

/// Where the secret is bound.
fn place() -> Destination {
    Destination {
        host: Host::Name("a.example".parse().expect("a literal")),
        port: 80.try_into().expect("a literal"),
        protocol: Protocol::Http,
    }
}

fn head(credentials: &Credentials, target: &[u8], value: &[u8]) {
    let (Ok(target), Ok(value)) = (std::str::from_utf8(target), HeaderValue::from_bytes(value)) else {
        return;
    };
    let request = Request::builder().uri(target).header("authorization", value).body(());
    let Ok(mut request) = request else { return };
    let destination = place();
    let before = request.uri().clone();
    let Ok(outgoing) = credentials.outgoing(&mut request, &destination, false) else { return };
    let value = request.headers()["authorization"].as_bytes();
    assert!(find::placeholder(value).is_none() && find::in_uri(&request.uri().to_string()).is_none());
    assert_eq!(&before, request.uri(), "nothing is bound to the query");
    if outgoing.used.is_empty() {
        return;
    }
    assert_eq!(value, format!("Bearer {SECRET}").as_bytes());
    let segments: Vec<&str> = before.path().split('/').collect();
    assert!(matches!(segments[..], ["", "v1", any, "x"] if !any.contains(['%', ';', '\\']) && any != ".."));
}

fn stream(credentials: &Credentials, bytes: &[u8], cuts: &[usize]) {
    let patterns = &credentials.patterns(&place());
    let (mut finder, mut redactor) = (Finder::default(), Redactor::default());
    let (mut passed, mut covered, mut found) = (Vec::new(), Vec::new(), None);
    let mut come = 0;
    let (mut rest, mut cuts) = (bytes, cuts.iter().cycle());
    while !rest.is_empty() {
        let (chunk, more) = rest.split_at(cuts.next().copied().unwrap_or(1).min(rest.len()));
        rest = more;
        if found.is_none() {
            match finder.push(Bytes::copy_from_slice(chunk)) {
                Ok(on) => passed.extend(on),
                Err(what) => found = Some(what),
            }
        }
        covered.extend(redactor.push(patterns, Bytes::copy_from_slice(chunk), false));
        come += chunk.len();
        let word = bytes[..come].iter().rev().take_while(|byte| byte.is_ascii_graphic()).count();
        assert_eq!(
            redactor.kept(),
            word.min(HELD),
            "what is held back follows from more than where words end"
        );
    }
    covered.extend(redactor.finish(patterns));
    let whole = patterns.cover(bytes).unwrap_or_else(|| bytes.to_vec());
    assert_eq!(covered, whole, "it depends on how it is cut");
    assert!(patterns.cover(&covered).is_none() && covered.len() == bytes.len());
    // Whoever made it up.
    assert_eq!(found.as_deref(), find::placeholder(bytes), "the first, and only if there is one");
    if found.is_some() {
        assert!(find::placeholder(&passed).is_none());
    } else {
        passed.extend(finder.finish());
        assert_eq!(passed, bytes);
    }
}
