//! Placeholders in bodies: a short body of JSON, of a form or of text is read whole and written anew with its secrets,
//! each as that kind of body writes it. Everything else goes on as it is, and is blocked if it holds a placeholder.

use super::{Credential, Credentials, escaped, find};
use crate::{
    Egress, Refusal,
    check::{Check, keeps},
    http::{Body, BodyError, full},
};
use bytes::{Bytes, BytesMut};
use cofferdam_base::{Destination, SecretName, binding::Spot};
use cofferdam_policy::Reason;
use http::{HeaderMap, Request, header};
use http_body_util::BodyExt;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use std::{
    pin::Pin,
    task::{Context, Poll},
};
use zeroize::Zeroizing;

/// A longer body is not written anew: what it holds of placeholders is blocked.
pub const LONGEST_BODY: usize = 64 * 1024;

/// How a body writes a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Json,
    Form,
    Text,
}

impl Kind {
    /// By its headers; none for what is not written anew.
    fn of(headers: &HeaderMap) -> Option<Self> {
        let mut kinds = headers.get_all(header::CONTENT_TYPE).iter();
        let (Some(kind), None) = (kinds.next()?.to_str().ok(), kinds.next()) else { return None };
        let kind = kind.to_ascii_lowercase();
        let mut parts = kind.split(';').map(str::trim);
        let essence = parts.next().unwrap_or_default();
        let plain = parts.all(|part| !part.starts_with("charset=") || part.contains("utf-8"));
        if !plain || headers.contains_key(header::CONTENT_ENCODING) {
            return None;
        }
        match essence.split_once('/')? {
            ("application", "json") => Some(Self::Json),
            ("application", "x-www-form-urlencoded") => Some(Self::Form),
            ("application", sub) if sub.ends_with("+json") => Some(Self::Json),
            ("text", _) => Some(Self::Text),
            _ => None,
        }
    }

    /// A value of visible ASCII, as such a body writes it.
    fn written(self, value: &[u8]) -> Zeroizing<Vec<u8>> {
        let json = |byte: &u8| {
            let escape = matches!(byte, b'"' | b'\\').then_some(b'\\');
            escape.into_iter().chain([*byte]).collect::<Vec<u8>>()
        };
        Zeroizing::new(match self {
            Self::Json => value.iter().flat_map(json).collect(),
            Self::Form => escaped(value).into_bytes(),
            Self::Text => value.to_vec(),
        })
    }
}

impl Egress {
    /// Exchanges in the body of a request, whose head says where it goes, the placeholders that are bound there.
    pub(crate) async fn filled<B>(
        &self,
        credentials: &Credentials,
        head: &mut Request<B>,
        destination: &Destination,
        body: Body,
    ) -> Result<(Body, Vec<SecretName>), Refusal> {
        let (path, query) = (head.uri().path(), head.uri().query());
        let bound = |it: &&Credential| {
            it.binding.spot == Spot::Body
                && (it.binding.admits(destination, path, query) || !keeps(Check::BodyBound))
        };
        let bound: Vec<&Credential> = credentials.all.iter().filter(bound).collect();
        let Some(kind) = Kind::of(head.headers()).filter(|_| !bound.is_empty() && !body.is_end_stream())
        else {
            return Ok((body, Vec::new()));
        };
        let late = |_| Refusal::new(Reason::BadRequest, "http").said("the body did not come in time");
        let (text, rest) = self.reads(short(body)).await.map_err(late)??;
        if let Some(rest) = rest {
            return Ok((Resumed { first: Some(text), rest }.boxed_unsync(), Vec::new()));
        }
        let (text, used) = exchanged(&text, kind, &bound);
        if head.headers().contains_key(header::CONTENT_LENGTH) {
            head.headers_mut().insert(header::CONTENT_LENGTH, text.len().into());
        }
        Ok((full(text), used))
    }
}

/// A body that is no longer than what is written anew; else its beginning and the rest.
async fn short(mut body: Body) -> Result<(Bytes, Option<Body>), Refusal> {
    let mut all = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Refusal::new(Reason::BadRequest, "http").said("the body broke off"))?;
        // Trailers stay behind: of a body that is written anew nobody vouches for them.
        let Ok(data) = frame.into_data() else { continue };
        all.extend_from_slice(&data);
        if all.len() > LONGEST_BODY {
            return Ok((all.freeze(), Some(body)));
        }
    }
    Ok((all.freeze(), None))
}

fn exchanged(text: &[u8], kind: Kind, bound: &[&Credential]) -> (Vec<u8>, Vec<SecretName>) {
    let (mut written, mut used, mut rest) = (Vec::with_capacity(text.len()), Vec::new(), text);
    while let Some((at, found)) = find::at(rest) {
        let (before, after) = rest.split_at(at);
        written.extend_from_slice(before);
        rest = &after[found.len()..];
        match bound.iter().find(|credential| credential.placeholder == found) {
            Some(credential) => {
                written.extend_from_slice(&kind.written(credential.value.expose()));
                if !used.contains(&credential.name) {
                    used.push(credential.name.clone());
                }
            }
            // It stays, and stops the body.
            None => written.extend_from_slice(found.as_bytes()),
        }
    }
    written.extend_from_slice(rest);
    (written, used)
}

/// A body of which the beginning was read.
struct Resumed {
    first: Option<Bytes>,
    rest: Body,
}

impl HttpBody for Resumed {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(Frame::data(first))));
        }
        Pin::new(&mut self.rest).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_none() && self.rest.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        super::body::longer(&self.rest.size_hint(), self.first.as_ref().map_or(0, Bytes::len))
    }
}
