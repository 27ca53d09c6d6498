//! One request onward: admitted, its head rebuilt, its body and its answer streamed.

use super::{Body, BodyError, head};
use crate::{Egress, Pass, Refusal};
use bytes::Bytes;
use cofferdam_base::Destination;
use cofferdam_policy::Reason;
use futures_util::future::BoxFuture;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use hyper::{body::Incoming, client::conn::http1::SendRequest};
use hyper_util::rt::TokioIo;
use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};
use tokio_util::sync::WaitForCancellationFutureOwned;

/// The kept connection to the world of one client connection. It is never shared with another.
#[derive(Default)]
pub(super) struct Upstream(Mutex<Option<(Destination, SendRequest<Body>)>>);

impl Upstream {
    fn take(&self, destination: &Destination) -> Option<SendRequest<Body>> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        (kept.0 == *destination && kept.1.is_ready()).then_some(kept.1)
    }

    fn keep(&self, destination: &Destination, sender: SendRequest<Body>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((destination.clone(), sender));
    }
}

/// Forwards a request to where it may go. A refusal is recorded already.
pub(super) async fn forward(
    egress: &Arc<Egress>,
    upstream: &Upstream,
    destination: &Destination,
    mut request: Request<Incoming>,
) -> Result<Response<Body>, Refusal> {
    let pass = egress.gate.admit(destination).await?;
    let websocket = head::wants_websocket(request.headers());
    let upgrade = websocket.then(|| hyper::upgrade::on(&mut request));
    let withdrawn = pass.withdrawn().clone();
    let answered = tokio::select! {
        biased;
        () = withdrawn.cancelled() => Err(Refusal::new(Reason::Revoked, "policy")),
        answered = exchange(egress, upstream, destination, request, websocket) => answered,
    };
    let mut response = answered.map_err(|refusal| egress.gate.refuse(Some(destination), refusal))?;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let Some(cell) = upgrade else {
            let refusal = Refusal::new(Reason::ConnectFailed, "http").said("it switched protocols unasked");
            return Err(egress.gate.refuse(Some(destination), refusal));
        };
        let world = hyper::upgrade::on(&mut response);
        tokio::spawn(async move {
            if let (Ok(world), Ok(cell)) = tokio::join!(world, cell) {
                super::tunnel(cell, world, pass).await;
            }
        });
        let (parts, _) = response.into_parts();
        let mut response = Response::new(super::full(Bytes::new()));
        *response.status_mut() = parts.status;
        *response.headers_mut() = head::end_to_end(&parts.headers);
        switch_headers(response.headers_mut());
        return Ok(response);
    }
    let (parts, body) = response.into_parts();
    let body = Passing { gone: Box::pin(pass.withdrawn().clone().cancelled_owned()), _pass: pass, body };
    let mut response = Response::new(BodyExt::boxed_unsync(body));
    *response.status_mut() = parts.status;
    *response.headers_mut() = head::end_to_end(&parts.headers);
    Ok(response)
}

/// Sends the rebuilt request, on the kept connection if there is one.
fn exchange<'a>(
    egress: &'a Egress,
    upstream: &'a Upstream,
    destination: &'a Destination,
    request: Request<Incoming>,
    websocket: bool,
) -> BoxFuture<'a, Result<Response<Incoming>, Refusal>> {
    Box::pin(async move {
        let mut request = rebuilt(destination, request, websocket)?;
        let failed = |error: &hyper::Error| {
            let said =
                if error.is_timeout() { "it did not answer in time" } else { "it broke the connection" };
            Refusal::new(Reason::ConnectFailed, "http").said(said)
        };
        if let Some(mut sender) = upstream.take(destination) {
            match sender.try_send_request(request).await {
                Ok(response) => {
                    upstream.keep(destination, sender);
                    return Ok(response);
                }
                // The server closed the kept connection before anything was sent: a new one.
                Err(mut error) => match error.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(failed(error.error())),
                },
            }
        }
        let stream = egress.dial(destination).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| failed(&error))?;
        tokio::spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "a connection to the world ended");
            }
        });
        let response = sender.send_request(request).await.map_err(|error| failed(&error))?;
        upstream.keep(destination, sender);
        Ok(response)
    })
}

/// The request as it goes on: from its parsed parts, under the judged host.
fn rebuilt(
    destination: &Destination,
    request: Request<Incoming>,
    websocket: bool,
) -> Result<Request<Body>, Refusal> {
    let bad = || Refusal::new(Reason::BadRequest, "http");
    let (parts, body) = request.into_parts();
    let mut headers = head::end_to_end(&parts.headers);
    let authority = head::Authority { host: destination.host.clone(), port: destination.port };
    let host = HeaderValue::try_from(authority.to_header()).map_err(|_| bad())?;
    headers.insert(header::HOST, host);
    headers.remove(header::EXPECT);
    if websocket {
        switch_headers(&mut headers);
    }
    let body = body.map_err(|error| Box::new(error) as BodyError).boxed_unsync();
    let mut request = Request::new(body);
    *request.method_mut() = parts.method;
    *request.uri_mut() = head::origin_form(&parts.uri).ok_or_else(bad)?;
    *request.headers_mut() = headers;
    Ok(request)
}

fn switch_headers(headers: &mut HeaderMap) {
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
}

/// An answer's body, as long as its pass is good.
struct Passing {
    gone: Pin<Box<WaitForCancellationFutureOwned>>,
    _pass: Pass,
    body: Incoming,
}

impl HttpBody for Passing {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if Future::poll(self.gone.as_mut(), cx).is_ready() {
            return Poll::Ready(Some(Err("the permission was withdrawn".into())));
        }
        Pin::new(&mut self.body).poll_frame(cx).map_err(Into::into)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
