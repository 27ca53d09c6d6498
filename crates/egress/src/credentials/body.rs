//! Bodies that stream, looked through on the way out and covered on the way back.

use super::{Finder, Patterns, Redactor, cover, find, messages::Messages};
use crate::{
    check::{Check, keeps},
    http::BodyError,
};
use bytes::Bytes;
use http::HeaderMap;
use hyper::body::{Body, Frame, SizeHint};
use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
};

/// A place for the first placeholder that is found in a body, and who is told of it at once: the body is about to
/// break off.
#[derive(Clone)]
pub struct Spotted(Arc<Place>);

struct Place {
    found: Mutex<Option<String>>,
    told: Box<dyn Fn(&str) + Send + Sync>,
}

impl std::fmt::Debug for Spotted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Spotted")
    }
}

impl Spotted {
    /// Tells this one.
    pub fn new(told: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self(Arc::new(Place { found: Mutex::default(), told: Box::new(told) }))
    }

    /// What was found.
    pub fn take(&self) -> Option<String> {
        self.0.found.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn put(&self, found: String) -> BodyError {
        (self.0.told)(&found);
        *self.0.found.lock().unwrap_or_else(PoisonError::into_inner) = Some(found);
        "a placeholder stands in the body".into()
    }
}

/// A request's body, which ends in an error before the last byte of a placeholder.
#[derive(Debug)]
pub struct Searched<B> {
    body: B,
    finder: Finder,
    spotted: Spotted,
    after: After,
}

/// What follows once the data is over.
#[derive(Debug, Default)]
enum After {
    /// It is not over.
    #[default]
    Data,
    /// These, if there are any.
    Trailers(Option<HeaderMap>),
}

impl After {
    /// Does nothing follow any more, once nothing is kept back?
    fn is_end(&self, body: &impl Body) -> bool {
        match self {
            Self::Data => body.is_end_stream(),
            Self::Trailers(trailers) => trailers.is_none(),
        }
    }
}

impl<B> Searched<B> {
    /// Looks through it; what is found is left in `spotted`.
    pub fn new(body: B, spotted: Spotted) -> Self {
        Self { body, finder: Finder::default(), spotted, after: After::Data }
    }
}

impl<B> Body for Searched<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BodyError>,
{
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        if !keeps(Check::BodySearched) {
            return Pin::new(&mut this.body).poll_frame(cx).map_err(Into::into);
        }
        loop {
            if let After::Trailers(trailers) = &mut this.after {
                let rest = this.finder.finish();
                if !rest.is_empty() {
                    return Poll::Ready(Some(Ok(Frame::data(rest.into()))));
                }
                return Poll::Ready(trailers.take().map(|trailers| Ok(Frame::trailers(trailers))));
            }
            let frame = ready!(Pin::new(&mut this.body).poll_frame(cx)).transpose().map_err(Into::into)?;
            match frame.map(Frame::into_data) {
                None => this.after = After::Trailers(None),
                Some(Ok(data)) => match this.finder.push(data) {
                    Ok(on) if on.is_empty() => {}
                    Ok(on) => return Poll::Ready(Some(Ok(Frame::data(on)))),
                    Err(found) => return Poll::Ready(Some(Err(this.spotted.put(found)))),
                },
                Some(Err(frame)) => {
                    let trailers = frame.into_trailers().unwrap_or_default();
                    for (name, value) in &trailers {
                        let found = find::placeholder(name.as_str().as_bytes());
                        if let Some(found) = found.or_else(|| find::placeholder(value.as_bytes())) {
                            return Poll::Ready(Some(Err(this.spotted.put(found.to_owned()))));
                        }
                    }
                    this.after = After::Trailers(Some(trailers));
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.finder.kept() == 0 && self.after.is_end(&self.body)
    }

    fn size_hint(&self) -> SizeHint {
        longer(&self.body.size_hint(), self.finder.kept())
    }
}

/// What is covered from now on, if that has changed since it was asked for last.
pub(crate) type Newer = Box<dyn FnMut() -> Option<Arc<Patterns>> + Send>;

/// An answer's body, covered.
pub struct Covered<B> {
    body: B,
    patterns: Arc<Patterns>,
    newer: Option<Newer>,
    redactor: Redactor,
    /// Of gRPC: nothing reaches over their ends.
    messages: Option<Messages>,
    after: After,
}

impl<B> std::fmt::Debug for Covered<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Covered").field("patterns", &self.patterns).finish_non_exhaustive()
    }
}

impl<B: Body> Covered<B> {
    /// Covers these.
    pub fn new(body: B, patterns: Arc<Patterns>) -> Self {
        Self {
            body,
            patterns,
            newer: None,
            redactor: Redactor::default(),
            messages: None,
            after: After::Data,
        }
    }

    /// Covers what is made or set while the body lasts, too: a host may write an access token into a log that it streams
    /// since before. Not where nothing was to be covered at first: then it need not be readable, either.
    #[must_use]
    pub(crate) fn following(mut self, newer: Newer) -> Self {
        self.newer = (!self.patterns.is_empty()).then_some(newer);
        self
    }

    /// The same for messages of gRPC: each arrives once it is whole.
    #[must_use]
    pub(crate) fn messages(mut self, grpc: bool) -> Self {
        self.messages = grpc.then(Messages::default);
        self
    }

    /// What of this goes on now.
    fn covered(&mut self, data: Bytes) -> Result<Bytes, BodyError> {
        self.patterns =
            self.newer.as_mut().and_then(|newer| newer()).unwrap_or_else(|| Arc::clone(&self.patterns));
        let whole = self.messages.as_mut().map_or(Ok(false), |messages| messages.read(&data))?;
        // What is kept back waits for what may follow.
        let last = whole || self.body.is_end_stream();
        Ok(self.redactor.push(&self.patterns, data, last))
    }
}

impl<B> Body for Covered<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BodyError>,
{
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        let never = this.patterns.is_empty() && this.newer.is_none();
        if never || !keeps(Check::SecretCovered) {
            return Pin::new(&mut this.body).poll_frame(cx).map_err(Into::into);
        }
        loop {
            if let After::Trailers(trailers) = &mut this.after {
                let rest = this.redactor.finish(&this.patterns);
                if !rest.is_empty() {
                    return Poll::Ready(Some(Ok(Frame::data(rest.into()))));
                }
                return Poll::Ready(trailers.take().map(|trailers| Ok(Frame::trailers(trailers))));
            }
            let frame = ready!(Pin::new(&mut this.body).poll_frame(cx)).transpose().map_err(Into::into)?;
            match frame.map(Frame::into_data) {
                None => this.after = After::Trailers(None),
                Some(Ok(data)) => match this.covered(data) {
                    Ok(on) if on.is_empty() => {}
                    Ok(on) => return Poll::Ready(Some(Ok(Frame::data(on)))),
                    Err(error) => return Poll::Ready(Some(Err(error))),
                },
                Some(Err(frame)) => {
                    let mut trailers = frame.into_trailers().unwrap_or_default();
                    cover(&this.patterns, &mut trailers);
                    this.after = After::Trailers(Some(trailers));
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.redactor.kept() == 0 && self.after.is_end(&self.body)
    }

    fn size_hint(&self) -> SizeHint {
        longer(&self.body.size_hint(), self.redactor.kept())
    }
}

/// What is to come, and what was kept back of what has come.
pub(super) fn longer(hint: &SizeHint, kept: usize) -> SizeHint {
    let kept = kept as u64;
    let mut longer = SizeHint::new();
    longer.set_lower(hint.lower().saturating_add(kept));
    if let Some(upper) = hint.upper() {
        longer.set_upper(upper.saturating_add(kept));
    }
    longer
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use cofferdam_base::binding::{PLACEHOLDER, PLACEHOLDER_DIGITS};
    use futures_util::stream;
    use http_body_util::{BodyExt, StreamBody};
    use std::convert::Infallible;

    fn frames(
        data: &[&str],
        trailer: (&'static str, &str),
    ) -> impl Body<Data = Bytes, Error = Infallible> + Unpin {
        let mut all: Vec<_> =
            data.iter().map(|text| Ok(Frame::data(Bytes::copy_from_slice(text.as_bytes())))).collect();
        let mut trailers = HeaderMap::new();
        trailers.insert(trailer.0, trailer.1.parse().unwrap());
        all.push(Ok(Frame::trailers(trailers)));
        StreamBody::new(stream::iter(all))
    }

    fn nobody() -> Spotted {
        Spotted::new(|_| {})
    }

    #[tokio::test]
    async fn trailers_come_after_what_was_kept_back_and_are_looked_through_too() {
        let token = format!("{PLACEHOLDER}{}", "1".repeat(PLACEHOLDER_DIGITS));
        let body = Searched::new(frames(&["a", "cofferdam_pl"], ("x-sum", "7")), nobody());
        let whole = body.collect().await.unwrap();
        assert_eq!(whole.trailers().unwrap()["x-sum"], "7");
        assert_eq!(whole.to_bytes(), "acofferdam_pl");
        let spotted = nobody();
        let body = Searched::new(frames(&["a"], ("x-sum", &token)), spotted.clone());
        assert!(body.collect().await.is_err());
        assert_eq!(spotted.take(), Some(token));

        let mut patterns = Patterns::default();
        patterns.add(b"0123456789");
        let patterns = Arc::new(patterns);
        let body = Covered::new(frames(&["x0123", "456789y012"], ("x-sum", "=0123456789")), patterns);
        let whole = body.collect().await.unwrap();
        assert_eq!(whole.trailers().unwrap()["x-sum"], "=**********");
        assert_eq!(whole.to_bytes(), "x**********y012");
    }

    #[tokio::test]
    async fn a_message_of_grpc_arrives_once_it_is_whole_and_what_only_says_that_it_is_grpc_breaks_off() {
        let mut patterns = Patterns::default();
        patterns.add(b"0123456789");
        let patterns = Arc::new(patterns);
        let grpc =
            frames(&["\0\0\0\0\x040123", "\0\0\0\0\x0a012", "3456789", "\0\0\0\0\0"], ("grpc-status", "0"));
        let mut body = Covered::new(grpc, Arc::clone(&patterns)).messages(true);
        let mut pieces = Vec::new();
        while let Some(Some(data)) = body.frame().await.map(|frame| frame.unwrap().into_data().ok()) {
            pieces.push(String::from_utf8(data.to_vec()).unwrap());
        }
        assert_eq!(pieces, ["\0\0\0\0\x040123", "\0\0\0\0\n", "**********", "\0\0\0\0\0"]);
        // Else a server could be made to end a message in the middle of a secret.
        let other = frames(&["\0\0\0\0\x040123", "456789"], ("grpc-status", "0"));
        let mut body = Covered::new(other, patterns).messages(true);
        assert!(body.frame().await.unwrap().is_ok() && body.frame().await.unwrap().is_err());
    }

    /// Two pieces, of which the length is known.
    struct Two(Option<Bytes>, Option<Bytes>);

    impl Body for Two {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
            let piece = self.0.take().or_else(|| self.1.take());
            Poll::Ready(piece.map(|piece| Ok(Frame::data(piece))))
        }

        fn is_end_stream(&self) -> bool {
            self.0.is_none() && self.1.is_none()
        }

        fn size_hint(&self) -> SizeHint {
            let left = self.0.iter().chain(&self.1).map(|piece| piece.len() as u64).sum();
            SizeHint::with_exact(left)
        }
    }

    #[tokio::test]
    async fn what_was_said_of_a_length_holds_at_every_moment() {
        let mut patterns = Patterns::default();
        patterns.add(b"0123456789");
        let pieces = ["x\n0123", "45\n67"].map(|piece| Some(Bytes::from_static(piece.as_bytes())));
        let [first, second] = pieces;
        let mut body = Covered::new(Two(first, second), Arc::new(patterns));
        assert_eq!(body.size_hint().exact(), Some(11));
        let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(
            (&first[..], body.size_hint().exact(), body.is_end_stream()),
            (&b"x\n"[..], Some(9), false)
        );
        // What nothing can follow is kept back for nothing.
        let rest = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(
            (&rest[..], body.size_hint().exact(), body.is_end_stream()),
            (&b"012345\n67"[..], Some(0), true)
        );
        assert!(body.frame().await.is_none());
    }

    #[tokio::test]
    async fn a_body_that_has_nothing_to_cover_any_more_loses_nothing_and_covers_what_comes_after_that() {
        let of = |value: &[u8]| {
            let mut patterns = Patterns::default();
            patterns.add(value);
            Arc::new(patterns)
        };
        let mut newer = [of(b"0123456789"), Arc::default(), of(b"abcdefghij")].into_iter();
        let body = Covered::new(frames(&["x0123", "45", "-abcdefghij"], ("x-sum", "7")), of(b"0123456789"));
        let body = body.following(Box::new(move || newer.next()));
        assert_eq!(body.collect().await.unwrap().to_bytes(), "x012345-**********");
    }
}
