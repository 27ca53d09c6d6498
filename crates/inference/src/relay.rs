//! One exchange with a provider: the rebuilt request goes out over a connection that somebody else dialled
//! and checked; the answer streams back unchanged, or translated piece by piece, as fast as the cell takes it,
//! and is metered on the way.

use crate::{Api, Call, Error, Format, Keeper, Kept, Meter, Route, Tokens, wire::Translator};
use bytes::Bytes;
use cofferdam_base::Secret;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, header};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use std::{
    fmt,
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    runtime::Handle,
    sync::oneshot,
    time::{Instant, Sleep, sleep, timeout},
};

/// A connected stream to a provider: dialled to a checked address, TLS done.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// A connection on its way.
pub type Connecting<'a> = Pin<Box<dyn Future<Output = io::Result<Box<dyn Stream>>> + Send + 'a>>;

/// Who dials. Resolving, checking, the guard and TLS are its.
pub trait Connect: Send + Sync {
    /// A fresh connection to the route's provider.
    fn connect<'a>(&'a self, route: &'a Route) -> Connecting<'a>;

    /// One that is there already and may be used again.
    fn kept(&self, _: &Route) -> Option<Kept> {
        None
    }

    /// Who takes the connection back that was given last, once it is free; nobody unless it says so.
    fn keeper(&self, _: &Route) -> Option<Keeper> {
        None
    }
}

/// How long, and for how many bytes, an answer that nobody wants any more is read for what it used.
const DRAIN: Duration = Duration::from_secs(10);
const DRAIN_BYTES: usize = 1 << 20;
/// How long a connection may take to be free after its answer's last byte.
const FREE: Duration = Duration::from_secs(1);
/// How many bytes count as a token where the provider does not say.
const BYTES_A_TOKEN: u64 = 4;

/// What one request used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Used {
    /// How many tokens.
    pub tokens: Tokens,
    /// The provider did not say how many, or not to the end; they are guessed from what went by, or are all that the
    /// call could use.
    pub estimated: bool,
    /// Its status, 0 if there is none.
    pub status: u16,
}

/// Sends a request and gives back the provider's answer. `done` is called exactly once, with what was used:
/// when the answer ended, or, if it is dropped before, once the rest was read for its usage.
pub async fn relay(
    request: &Call,
    headers: &HeaderMap,
    route: &Route,
    key: Option<&Secret<Vec<u8>>>,
    connect: &dyn Connect,
    done: impl FnOnce(Used) + Send + 'static,
) -> Result<Response<Body>, Error> {
    let asked = request.len() as u64;
    let is_free = request.api().is_free();
    let most = request.most();
    let report = Report {
        done: Some(Box::new(done)),
        meter: None,
        status: 0,
        asked,
        answered: 0,
        most: Tokens { prompt: most.prompt, completion: most.completion },
        sent: false,
        whole: false,
        is_free,
    };
    let reading = Reading::new(request, route)?;
    let key = key.map(|key| key.expose().as_slice());
    let outgoing = request.rebuild(headers, route, key)?.map(|body| Full::new(Bytes::from(body)));
    let patience = route.patience.begin(request.streams());
    let mut kept = connect.kept(route);
    let mut outgoing = Sending { request: outgoing, report, reading };
    loop {
        let was_kept = kept.is_some();
        let connection = match kept.take() {
            Some(kept) => kept,
            None => Kept::new(connect.connect(route).await.map_err(Error::Connect)?).await?,
        };
        match exchange(outgoing, connection, connect.keeper(route), patience).await {
            Outcome::Over(answered) => return answered.map(|answer| *answer),
            // The provider closed it before it heard anything.
            Outcome::Unsent(unsent, _) if was_kept => outgoing = *unsent,
            Outcome::Unsent(_, error) => return Err(Error::Upstream(error)),
        }
    }
}

/// A request that is not yet sent, and what becomes of it.
struct Sending {
    request: Request<Full<Bytes>>,
    report: Report,
    reading: Reading,
}

enum Outcome {
    Over(Result<Box<Response<Body>>, Error>),
    Unsent(Box<Sending>, hyper::Error),
}

/// One request and its answer's head, in a task of its own: the provider works on what it was asked, whether
/// or not its reader stays.
async fn exchange(sending: Sending, mut kept: Kept, keeper: Option<Keeper>, patience: Duration) -> Outcome {
    let (mut tell, told) = oneshot::channel();
    tokio::spawn(async move {
        let Sending { request, mut report, reading } = sending;
        report.sent = true;
        let answered = {
            let answering = timeout(patience, kept.send(request));
            tokio::pin!(answering);
            tokio::select! {
                answered = &mut answering => answered,
                () = tell.closed() => timeout(DRAIN, answering).await.and_then(|answered| answered),
            }
        };
        let outcome = match answered {
            Ok(Ok(response)) => {
                let line = Line { kept, keeper };
                Outcome::Over(answer(response, report, line, reading).map(Box::new))
            }
            Ok(Err((error, Some(request)))) => {
                report.sent = false;
                Outcome::Unsent(Box::new(Sending { request, report, reading }), error)
            }
            Ok(Err((error, None))) => Outcome::Over(Err(Error::Upstream(error))),
            Err(_) => Outcome::Over(Err(Error::Slow)),
        };
        // With nobody to take it, it is dropped here and read for what it used.
        drop(tell.send(outcome));
    });
    told.await.unwrap_or(Outcome::Over(Err(Error::Slow)))
}

/// The connection under an answer, and who takes it back.
struct Line {
    kept: Kept,
    keeper: Option<Keeper>,
}

impl Line {
    /// Gives the connection back, its answer read to the end.
    async fn give_back(mut self) {
        if let Some(keeper) = self.keeper.take()
            && timeout(FREE, self.kept.is_free()).await == Ok(true)
        {
            keeper(self.kept);
        }
    }
}

/// How an answer is to be read.
struct Reading {
    /// What the cell speaks, if its provider does not.
    translates: Option<Api>,
    streams: bool,
    wants_usage: bool,
    /// How long the answer may stand still.
    idle: Duration,
}

impl Reading {
    fn new(request: &Call, route: &Route) -> Result<Self, Error> {
        let api = request.api();
        let translates = (request.served(route)? != api).then_some(api);
        let (streams, wants_usage) = (request.streams(), request.wants_usage());
        Ok(Self { translates, streams, wants_usage, idle: route.patience.idle() })
    }
}

fn answer(
    response: Response<Incoming>,
    mut report: Report,
    line: Line,
    reading: Reading,
) -> Result<Response<Body>, Error> {
    let (parts, incoming) = response.into_parts();
    let format = parts.headers.get(header::CONTENT_TYPE).map_or(Format::Json, |it| Format::of(it.as_bytes()));
    report.meter = Some(Meter::new(format));
    report.status = parts.status.as_u16();
    let streams = format == Format::Events;
    let translator = match reading.translates {
        Some(_) if parts.status.is_success() && streams != reading.streams => {
            return Err(Error::Answer(format!("it is {}a stream", if streams { "" } else { "not " })));
        }
        Some(api) => Some(Translator::new(api, parts.status, streams, reading.wants_usage)),
        None => None,
    };
    let mut headers = HeaderMap::new();
    for name in &PASSED {
        if let Some(value) = parts.headers.get(name) {
            headers.insert(name.clone(), value.clone());
        }
    }
    if let Some(translator) = &translator {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(translator.content_type()));
    }
    let idle = Box::pin(sleep(reading.idle));
    let exchange = Exchange { incoming, report, idle, patience: reading.idle, translator, line: Some(line) };
    let mut answer = Response::new(Body(Some(exchange)));
    *answer.status_mut() = parts.status;
    *answer.headers_mut() = headers;
    Ok(answer)
}

/// What of a provider's headers travels on: what describes the body and tells when to come back.
const PASSED: [HeaderName; 6] = [
    header::CONTENT_TYPE,
    header::CONTENT_ENCODING,
    header::CACHE_CONTROL,
    header::RETRY_AFTER,
    HeaderName::from_static("x-request-id"),
    HeaderName::from_static("request-id"),
];

/// A provider's answer on its way.
pub struct Body(Option<Exchange>);

struct Exchange {
    incoming: Incoming,
    report: Report,
    idle: Pin<Box<Sleep>>,
    /// How long the answer may stand still.
    patience: Duration,
    /// Until the answer's last byte was translated.
    translator: Option<Translator>,
    /// Until the provider's last byte was read.
    line: Option<Line>,
}

impl Exchange {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        loop {
            let polled = self.poll_provider(cx);
            let Some(translator) = &mut self.translator else { return polled };
            let translated = match polled {
                Poll::Ready(Some(Ok(frame))) => match frame.data_ref() {
                    Some(data) => translator.feed(data),
                    None => continue,
                },
                Poll::Ready(None) => {
                    let last = translator.finish();
                    self.translator = None;
                    last
                }
                other => return other,
            };
            match translated {
                Ok(bytes) if bytes.is_empty() && self.translator.is_some() => {}
                Ok(bytes) if bytes.is_empty() => return Poll::Ready(None),
                Ok(bytes) => return Poll::Ready(Some(Ok(Frame::data(Bytes::from(bytes))))),
                Err(error) => return Poll::Ready(Some(Err(error))),
            }
        }
    }

    fn poll_provider(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let polled = Pin::new(&mut self.incoming).poll_frame(cx).map_err(Error::Upstream);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                self.report.saw(frame);
                // Whoever knows its length does not ask for what comes after it.
                if self.incoming.is_end_stream() {
                    self.over();
                } else {
                    self.idle.as_mut().reset(Instant::now() + self.patience);
                }
            }
            Poll::Ready(None) => self.over(),
            Poll::Ready(Some(Err(_))) => self.report.end(),
            Poll::Pending if self.idle.as_mut().poll(cx).is_ready() => {
                self.report.end();
                return Poll::Ready(Some(Err(Error::Slow)));
            }
            Poll::Pending => {}
        }
        polled
    }

    /// The provider's last byte was read.
    fn over(&mut self) {
        self.report.whole = true;
        self.report.end();
        if let (Some(line), Ok(runtime)) = (self.line.take(), Handle::try_current()) {
            runtime.spawn(line.give_back());
        }
    }

    /// Reads on for the usage, which comes last.
    async fn drain(mut self) {
        let rest = async {
            let mut read = 0;
            while read < DRAIN_BYTES {
                match self.incoming.frame().await {
                    Some(Ok(frame)) => {
                        read += frame.data_ref().map_or(0, Bytes::len);
                        self.report.saw(&frame);
                    }
                    Some(Err(_)) => return false,
                    None => return true,
                }
            }
            false
        };
        // Whether it ended or is cut off, what was seen is reported.
        self.report.whole = timeout(DRAIN, rest).await == Ok(true);
        self.report.end();
        if let Some(line) = self.line.take().filter(|_| self.report.whole) {
            line.give_back().await;
        }
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        if let Some(exchange) = self.0.take()
            && exchange.report.done.is_some()
            && let Ok(runtime) = Handle::try_current()
        {
            runtime.spawn(exchange.drain());
        }
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        self.0.as_mut().map_or(Poll::Ready(None), |exchange| exchange.poll(cx))
    }

    fn is_end_stream(&self) -> bool {
        self.0
            .as_ref()
            .is_none_or(|exchange| exchange.translator.is_none() && exchange.incoming.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        let passed = self.0.as_ref().filter(|exchange| exchange.translator.is_none());
        passed.map_or_else(SizeHint::default, |exchange| exchange.incoming.size_hint())
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Body").finish_non_exhaustive()
    }
}

/// Reports once, however the exchange ends.
struct Report {
    done: Option<Box<dyn FnOnce(Used) + Send>>,
    meter: Option<Meter>,
    status: u16,
    /// Bytes of the request, and of the answer so far.
    asked: u64,
    answered: u64,
    /// What it could use.
    most: Tokens,
    /// The provider may have heard it, and may be at work.
    sent: bool,
    /// The answer was read to its end.
    whole: bool,
    /// It counts tokens, and uses none.
    is_free: bool,
}

impl Report {
    fn saw(&mut self, frame: &Frame<Bytes>) {
        if let (Some(data), Some(meter)) = (frame.data_ref(), &mut self.meter) {
            self.answered += data.len() as u64;
            meter.feed(data);
        }
    }

    fn end(&mut self) {
        let Some(done) = self.done.take() else { return };
        let status = self.status;
        let [asked, answered] = [self.asked, self.answered].map(|it| it.div_ceil(BYTES_A_TOKEN));
        let exact = |tokens| Used { tokens, estimated: false, status };
        let guess =
            |prompt, completion| Used { tokens: Tokens { prompt, completion }, estimated: true, status };
        let may_answer = self.sent && (status == 0 || (200..300).contains(&status));
        let used = match self.meter.take().and_then(Meter::finish) {
            Some(tokens) if self.whole || self.is_free => exact(tokens),
            // What it counted so far need not be all: Anthropic begins with an answer of one token.
            Some(tokens) => guess(tokens.prompt, tokens.completion.max(answered)),
            None if self.is_free => exact(Tokens::default()),
            None if may_answer && self.whole => guess(asked, answered),
            // It is at work on what nobody reads, and bills it.
            None if may_answer => guess(self.most.prompt, self.most.completion.max(answered)),
            // A provider that refused, failed or heard nothing has used nothing.
            None => exact(Tokens::default()),
        };
        done(used);
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        self.end();
    }
}
