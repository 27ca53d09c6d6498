//! AWS Signature Version 4: a cell signs with a placeholder for its access key, or does not sign; what leaves is
//! signed here, with keys that no cell has.
//!
//! It owns the canonical request, made of the parsed parts that go on, and the signature over it. It refuses to hand
//! out signatures: a presigned query becomes a signature in the header of this one request. The threats: a signature
//! for another service or region than the binding's; one over a body that is not the one that goes on, so a body is
//! read and hashed up to a cap, or, where the service takes that, left out under TLS.

use crate::{
    Egress, Refusal,
    check::{Check, keeps},
    http::{Body, full},
};
use aws_lc_rs::{
    digest::{SHA256, digest},
    hmac::{HMAC_SHA256, Key, sign},
};
use bytes::{Bytes, BytesMut};
use cofferdam_base::{
    Destination, Millis, Protocol, SecretName,
    kind::{Aws, AwsValue, is_scope},
};
use cofferdam_policy::Reason;
use http::{HeaderMap, HeaderName, HeaderValue, Request, header};
use http_body_util::BodyExt;
use std::{fmt, fmt::Write, sync::Arc};
use zeroize::Zeroizing;

/// The longest body that is hashed.
const LONGEST: usize = 4 << 20;
const ALGORITHM: &str = "AWS4-HMAC-SHA256";
const UNSIGNED: &str = "UNSIGNED-PAYLOAD";
/// A body with checksums behind it and without signatures in it.
const TRAILER: &str = "STREAMING-UNSIGNED-PAYLOAD-TRAILER";
const S3: &str = "s3";

const DATE: HeaderName = HeaderName::from_static("x-amz-date");
const CONTENT_HASH: HeaderName = HeaderName::from_static("x-amz-content-sha256");
const TOKEN: HeaderName = HeaderName::from_static("x-amz-security-token");
const CONTENT_MD5: HeaderName = HeaderName::from_static("content-md5");

/// Parameters that sign a query.
const IN_QUERY: [&str; 7] = [
    "X-Amz-Algorithm",
    "X-Amz-Credential",
    "X-Amz-Date",
    "X-Amz-Expires",
    "X-Amz-SignedHeaders",
    "X-Amz-Signature",
    "X-Amz-Security-Token",
];

/// A signature that a request is to bear.
#[derive(Clone)]
pub struct Signing {
    keys: Arc<AwsValue>,
    secret: SecretName,
    service: String,
    region: String,
}

impl fmt::Debug for Signing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { keys: _, secret, service, region } = self;
        f.debug_struct("Signing").field("secret", secret).field("scope", &(service, region)).finish()
    }
}

/// How a cell asks for a signature.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Claim<'a> {
    /// By one of its own, for this.
    Scope(Scope<'a>),
    /// By the placeholder alone.
    Unsigned,
}

/// What a cell's own signature is for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Scope<'a> {
    region: &'a str,
    service: &'a str,
}

/// What the value of an `Authorization` header or of `X-Amz-Credential` claims by this access key.
pub(super) fn claimed<'a>(value: &'a str, key: &str) -> Option<Claim<'a>> {
    if value == key {
        return Some(Claim::Unsigned);
    }
    let credential = match value.strip_prefix(ALGORITHM) {
        Some(rest) => {
            let mut parts = rest.strip_prefix(' ')?.split(',').map(str::trim);
            parts.find_map(|part| part.strip_prefix("Credential="))?
        }
        None => value,
    };
    let mut parts = credential.strip_prefix(key)?.strip_prefix('/')?.split('/');
    let (Some(date), Some(region), Some(service), Some("aws4_request"), None) =
        (parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return None;
    };
    let day = date.len() == 8 && date.bytes().all(|b| b.is_ascii_digit());
    (day && is_scope(region) && is_scope(service)).then_some(Claim::Scope(Scope { region, service }))
}

/// A query without what signs it.
pub(super) fn unsigned(query: &str) -> String {
    let signs = |part: &&str| {
        let name = part.split('=').next().unwrap_or_default();
        !IN_QUERY.iter().any(|known| known.eq_ignore_ascii_case(name))
    };
    query.split('&').filter(signs).collect::<Vec<_>>().join("&")
}

impl Signing {
    /// Whose keys sign.
    pub(super) const fn secret(&self) -> &SecretName {
        &self.secret
    }

    /// One for what the cell claims, if the binding is for that; none if it is not.
    pub(super) fn new(secret: &SecretName, keys: &[u8], bound: &Aws, claim: &Claim<'_>) -> Option<Self> {
        let claimed = if let Claim::Scope(scope) = claim { Some(scope) } else { None };
        let region = bound.region().or(claimed.map(|scope| scope.region))?;
        let same = |scope: &Scope<'_>| scope.service == bound.service() && scope.region == region;
        if !claimed.is_none_or(same) && keeps(Check::SignatureScope) {
            return None;
        }
        let service = claimed.map_or(bound.service(), |scope| scope.service).to_owned();
        let region = claimed.map_or(region, |scope| scope.region).to_owned();
        let keys = Arc::new(AwsValue::read(keys)?);
        Some(Self { keys, secret: secret.clone(), service, region })
    }

    /// Signs a request whose head is as it goes on; gives back its body, which may have been read.
    pub(crate) async fn apply(
        &self,
        egress: &Egress,
        head: &mut Request<()>,
        destination: &Destination,
        host: &str,
        body: Body,
    ) -> Result<Body, Refusal> {
        let bad = |said: &str| Refusal::new(Reason::BadRequest, format!("secret {}", self.secret)).said(said);
        let over_tls = destination.protocol == Protocol::Https;
        let said = match one(head.headers(), &CONTENT_HASH) {
            Ok(said) => said.map(str::to_owned),
            Err(()) => return Err(bad("x-amz-content-sha256 comes twice")),
        };
        let (hash, body) = match said.as_deref() {
            Some(UNSIGNED | TRAILER) if self.service == S3 && over_tls => {
                (said.clone().unwrap_or_default(), body)
            }
            Some(text) if is_hash(text) => (text.to_owned(), body),
            Some(text) if text.starts_with("STREAMING-") => {
                return Err(bad(
                    "a body that is signed in chunks cannot be signed anew: have the client sign no payload",
                ));
            }
            Some(_) => return Err(bad("x-amz-content-sha256 is none that can be signed here")),
            None if self.service == S3 && over_tls => (UNSIGNED.to_owned(), body),
            None => {
                let read = egress.reads(whole(body)).await;
                let read = read.map_err(|_| bad("the body did not come in time"))??;
                (hex(digest(&SHA256, &read).as_ref()), full(read))
            }
        };
        if self.service == S3 || said.is_some() {
            let value = HeaderValue::from_str(&hash).map_err(|_| bad("it cannot be signed"))?;
            head.headers_mut().insert(CONTENT_HASH, value);
        }
        self.sign(head, host, &hash, egress.gate.now()).ok_or_else(|| bad("it cannot be signed"))?;
        Ok(body)
    }

    /// Writes date, token and signature into a head.
    fn sign(&self, head: &mut Request<()>, host: &str, hash: &str, now: Millis) -> Option<()> {
        let at = stamp(now)?;
        let headers = head.headers_mut();
        headers.remove(header::AUTHORIZATION);
        headers.remove(TOKEN);
        headers.insert(DATE, HeaderValue::from_str(&at).ok()?);
        if let Some(token) = &self.keys.session_token {
            let mut token = HeaderValue::from_str(token).ok()?;
            token.set_sensitive(true);
            headers.insert(TOKEN, token);
        }
        let mut signed: Vec<(String, String)> = Vec::new();
        for name in head.headers().keys().filter(|name| is_signed(name)) {
            signed.push((name.as_str().to_owned(), joined(head.headers(), name)?));
        }
        signed.push(("host".to_owned(), host.to_owned()));
        signed.sort();
        let authorization = self.authorization(head, &signed, hash, &at)?;
        let mut value = HeaderValue::from_str(&authorization).ok()?;
        value.set_sensitive(true);
        head.headers_mut().insert(header::AUTHORIZATION, value);
        Some(())
    }

    fn authorization(
        &self,
        head: &Request<()>,
        signed: &[(String, String)],
        hash: &str,
        at: &str,
    ) -> Option<String> {
        let Self { keys, secret: _, service, region } = self;
        let names = signed.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(";");
        let lines = signed.iter().fold(String::new(), |mut lines, (name, value)| {
            let _ = writeln!(lines, "{name}:{value}");
            lines
        });
        let canonical = format!(
            "{}\n{}\n{}\n{lines}\n{names}\n{hash}",
            head.method(),
            path(head.uri().path(), service == S3),
            query(head.uri().query().unwrap_or_default())?,
        );
        let day = at.get(..8)?;
        let scope = format!("{day}/{region}/{service}/aws4_request");
        let digest = hex(digest(&SHA256, canonical.as_bytes()).as_ref());
        let text = format!("{ALGORITHM}\n{at}\n{scope}\n{digest}");
        let secret = Zeroizing::new(format!("AWS4{}", keys.secret_access_key));
        let mut key = Zeroizing::new(secret.as_bytes().to_vec());
        for part in [day, region, service, "aws4_request"] {
            *key = sign(&Key::new(HMAC_SHA256, &key), part.as_bytes()).as_ref().to_vec();
        }
        let signature = hex(sign(&Key::new(HMAC_SHA256, &key), text.as_bytes()).as_ref());
        let id = &keys.access_key_id;
        Some(format!("{ALGORITHM} Credential={id}/{scope}, SignedHeaders={names}, Signature={signature}"))
    }
}

/// Headers that servers demand to be signed, if they are there.
fn is_signed(name: &HeaderName) -> bool {
    name.as_str().starts_with("x-amz-") || *name == header::CONTENT_TYPE || *name == CONTENT_MD5
}

/// The one value of this header, if there is one.
fn one<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, ()> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => value.to_str().map(Some).map_err(drop),
        _ => Err(()),
    }
}

/// All values of a header, each trimmed and with one space for several.
fn joined(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    let one = |value: &HeaderValue| {
        let words: Vec<&str> = value.to_str().ok()?.split(' ').filter(|word| !word.is_empty()).collect();
        Some(words.join(" "))
    };
    let values: Option<Vec<String>> = headers.get_all(name).iter().map(one).collect();
    Some(values?.join(","))
}

/// The canonical path: of what was sent for S3, else normalised and encoded once more.
fn path(path: &str, s3: bool) -> String {
    if s3 {
        return encoded(&unescaped(path.as_bytes()), true);
    }
    let mut kept: Vec<&str> = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => drop(kept.pop()),
            segment => kept.push(segment),
        }
    }
    let end = if path.ends_with('/') && !kept.is_empty() { "/" } else { "" };
    encoded(format!("/{}{end}", kept.join("/")).as_bytes(), true)
}

/// The canonical query: decoded, encoded in one way, sorted.
fn query(query: &str) -> Option<String> {
    let parts = query.split('&').filter(|part| !part.is_empty());
    let one = |part: &str| {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        // A plus is a space to some servers and a plus to others.
        (!part.contains('+')).then(|| {
            let [name, value] = [name, value].map(|text| encoded(&unescaped(text.as_bytes()), false));
            (name, value)
        })
    };
    let mut all = parts.map(one).collect::<Option<Vec<_>>>()?;
    all.sort();
    Some(all.into_iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&"))
}

/// With its escapes read; one that is broken stays.
fn unescaped(text: &[u8]) -> Vec<u8> {
    let digit = |at: usize| text.get(at).and_then(|b| char::from(*b).to_digit(16));
    let (mut bytes, mut at) = (Vec::with_capacity(text.len()), 0);
    while let Some(byte) = text.get(at) {
        let escape = (*byte == b'%').then(|| Some(digit(at + 1)? << 4 | digit(at + 2)?)).flatten();
        let escape = escape.and_then(|byte| u8::try_from(byte).ok());
        bytes.push(escape.unwrap_or(*byte));
        at += if escape.is_some() { 3 } else { 1 };
    }
    bytes
}

fn encoded(bytes: &[u8], slash: bool) -> String {
    let mut text = String::with_capacity(bytes.len());
    for byte in bytes {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(byte) || slash && *byte == b'/' {
            text.push(char::from(*byte));
        } else {
            let _ = write!(text, "%{byte:02X}");
        }
    }
    text
}

/// `20150830T123600Z`.
fn stamp(now: Millis) -> Option<String> {
    let at = time::OffsetDateTime::from_unix_timestamp(i64::try_from(now.seconds()).ok()?).ok()?;
    let (year, month, day) = (at.year(), u8::from(at.month()), at.day());
    let (hour, minute, second) = (at.hour(), at.minute(), at.second());
    Some(format!("{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}Z"))
}

fn is_hash(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The whole body.
async fn whole(mut body: Body) -> Result<Bytes, Refusal> {
    let broke = |_| Refusal::new(Reason::BadRequest, "http").said("the body broke off");
    let mut all = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(broke)?.into_data() else { continue };
        if all.len() + data.len() > LONGEST {
            let said = format!("only bodies of up to {} MiB are hashed to be signed", LONGEST >> 20);
            return Err(Refusal::new(Reason::BodyTooLong, "http").said(said));
        }
        all.extend_from_slice(&data);
    }
    Ok(all.freeze())
}

#[cfg(feature = "fuzzing")]
pub(super) mod fuzz {
    //! What must hold of whatever a cell signs.

    use super::{Claim, claimed, encoded, path, query, unescaped, unsigned};

    /// The first line is a value of `Authorization`, the second a path, the third a query.
    pub fn signed(bytes: &[u8]) {
        let Ok(text) = std::str::from_utf8(bytes) else { return };
        let mut lines = text.splitn(3, '\n');
        let [value, target, asked] = [(); 3].map(|()| lines.next().unwrap_or_default());
        if let Some(Claim::Scope(scope)) = claimed(value, "KEY") {
            let whole = format!("/{}/{}/aws4_request", scope.region, scope.service);
            assert!(value.contains("KEY/") && value.contains(&whole));
        }
        let plain = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~/%&=".contains(&b));
        for s3 in [false, true] {
            assert!(plain(&path(target, s3)));
        }
        if let Some(canonical) = query(asked) {
            assert!(plain(&canonical));
            assert_eq!(query(&canonical).as_ref(), Some(&canonical), "it is canonical already");
        }
        assert_eq!(unescaped(encoded(bytes, false).as_bytes()), bytes);
        let rest = unsigned(asked);
        assert!(rest.len() <= asked.len() && unsigned(&rest) == rest);
    }
}

#[cfg(test)]
mod tests;
