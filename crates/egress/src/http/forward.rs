//! One request onward: admitted, its head rebuilt, its body and its answer streamed.

use super::{Body, elsewhere, head, passing, sending, unreadable};
use crate::{
    Egress, Pass, Refusal,
    check::{Check, keeps},
    credentials::{Covered, Credentials, Outgoing, Searched, Spotted},
    dial::Reached,
    gate::Severed,
    loss::Alarm,
};
use bytes::Bytes;
use cofferdam_base::Destination;
use cofferdam_policy::{Reason, RequestFacts};
use futures_util::future::BoxFuture;
use http::{Request, Response, StatusCode};
use hyper::{
    body::{Body as _, Incoming},
    client::conn::http1::SendRequest,
};
use hyper_util::rt::TokioIo;
use std::sync::{Arc, Mutex, PoisonError};
use tokio_util::sync::CancellationToken;

/// The kept connection to the world of one client connection. It is never shared with another.
#[derive(Default)]
pub(super) struct Upstream(Mutex<Option<Kept>>);

struct Kept {
    destination: Destination,
    address: Reached,
    sender: SendRequest<Body>,
    flight: Flight,
}

impl Upstream {
    /// The kept connection, if it leads there and would still be let through.
    fn take(&self, pass: &Pass) -> Option<Kept> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        let there = kept.destination == *pass.destination() || !keeps(Check::KeptPlace);
        let fits = there && kept.sender.is_ready();
        let stands = || !keeps(Check::KeptStands) || pass.dialled(kept.address).is_ok();
        (fits && stands()).then_some(kept)
    }

    fn keep(&self, kept: Kept) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(kept);
    }
}

/// Forwards a request to where it may go. A refusal is recorded already.
pub(super) async fn forward(
    egress: &Arc<Egress>,
    upstream: &Upstream,
    facts: RequestFacts,
    mut request: Request<Body>,
    alarm: &Alarm,
) -> Result<Response<Body>, Refusal> {
    let destination = &facts.destination.clone();
    let websocket = facts.websocket;
    // Request, answer and tunnel each keep the pass: it is given back when the last of them is over.
    let pass = Arc::new(if keeps(Check::RequestJudged) {
        let shows = head::shows(&request);
        egress.gate.admit_request(facts, shows).await?
    } else {
        egress.gate.admit_service(destination)?
    });
    let upgrade = websocket.then(|| hyper::upgrade::on(&mut request));
    let (parts, body) = request.into_parts();
    let minted = !websocket && egress.minted(&parts, destination, None).await?;
    // What has no body can be sent once more.
    let again = (minted && body.is_end_stream()).then(|| parts.clone());
    let sending = Sending { egress, upstream, pass: &pass, websocket, alarm };
    let (mut response, mut bound, mut credentials) = sending.send(Request::from_parts(parts, body)).await?;
    if let Some(parts) = again.filter(|_| response.status() == StatusCode::UNAUTHORIZED) {
        // An access token may be refused before its end.
        egress.minted(&parts, destination, Some(&credentials)).await?;
        let request = Request::from_parts(parts, super::full(Bytes::new()));
        (response, bound, credentials) = sending.send(request).await?;
    }
    let mut headers = head::from_world(response.headers());
    let patterns = credentials.patterns(destination);
    if !Credentials::incoming(&patterns, &mut headers, bound) {
        return Err(egress.gate.refuse(Some(destination), unreadable("http")));
    }
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let Some(cell) = upgrade else {
            let refusal = Refusal::new(Reason::ConnectFailed, "http").said("it switched protocols unasked");
            return Err(egress.gate.refuse(Some(destination), refusal));
        };
        let world = hyper::upgrade::on(&mut response);
        let alarm = alarm.clone();
        tokio::spawn(async move {
            if let (Ok(world), Ok(cell)) = tokio::join!(world, cell) {
                super::tunnel(cell, world, &pass, alarm).await;
            }
        });
        let (parts, _) = response.into_parts();
        let mut response = Response::new(super::full(Bytes::new()));
        *response.status_mut() = parts.status;
        *response.headers_mut() = headers;
        head::switch_headers(response.headers_mut());
        return Ok(response);
    }
    let (parts, body) = response.into_parts();
    let body = Covered::new(body, patterns).following(egress.newer(credentials, destination));
    let mut response = Response::new(passing(pass, body));
    *response.status_mut() = parts.status;
    *response.headers_mut() = headers;
    Ok(response)
}

/// How a request is sent.
struct Sending<'a> {
    egress: &'a Arc<Egress>,
    upstream: &'a Upstream,
    pass: &'a Arc<Pass>,
    websocket: bool,
    alarm: &'a Alarm,
}

impl Sending<'_> {
    /// Sends it with what is in force: the answer, whether that must be readable, and what it may hold. A refusal is
    /// recorded.
    async fn send(
        &self,
        request: Request<Body>,
    ) -> Result<(Response<Incoming>, bool, Arc<Credentials>), Refusal> {
        let Self { egress, upstream, pass, websocket, alarm } = *self;
        let destination = pass.destination();
        let (credentials, spotted) = egress.spotted(destination);
        let answered = tokio::select! {
            biased;
            () = pass.withdrawn().cancelled(), if keeps(Check::WithdrawnRequest) => {
                Err(Refusal::new(Reason::Revoked, "policy"))
            }
            answered = exchange(egress, upstream, pass, request, websocket, (&credentials, &spotted)) => answered,
        };
        let (response, bound) = answered.map_err(|refusal| match (alarm.take(), spotted.take()) {
            // Recorded when it was found.
            (Some(refusal), _) => refusal,
            (None, Some(found)) => elsewhere(credentials.in_body(&found)),
            (None, None) => egress.gate.refuse(Some(destination), refusal),
        })?;
        Ok((response, bound, credentials))
    }
}

/// Sends the rebuilt request, on the kept connection if there is one.
fn exchange<'a>(
    egress: &'a Egress,
    upstream: &'a Upstream,
    pass: &'a Arc<Pass>,
    request: Request<Body>,
    websocket: bool,
    (credentials, spotted): (&'a Credentials, &'a Spotted),
) -> BoxFuture<'a, Result<(Response<Incoming>, bool), Refusal>> {
    Box::pin(async move {
        let (parts, body) = request.into_parts();
        let onward = head::onward(&parts, pass.destination(), websocket);
        let mut onward = onward.ok_or_else(|| Refusal::new(Reason::BadRequest, "http"))?;
        let Outgoing { used, bound, sign } =
            credentials.outgoing(&mut onward, pass.destination(), websocket).map_err(elsewhere)?;
        for name in &used {
            egress.gate.use_secret(pass, name)?;
        }
        let (mut body, filled) = if websocket {
            (body, Vec::new())
        } else {
            egress.filled(credentials, &mut onward, pass.destination(), body).await?
        };
        for name in &filled {
            egress.gate.use_secret(pass, name)?;
        }
        if let Some(signing) = sign {
            let host = head::authority(pass.destination());
            body = signing.apply(egress, &mut onward, pass.destination(), &host, body).await?;
        }
        let head: usize =
            onward.headers().iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
        let line = onward.uri().path_and_query().map_or(1, |target| target.as_str().len());
        pass.charge(head + line)?;
        let body = Searched::new(body, spotted.clone());
        let mut request = onward.map(|()| sending(Arc::clone(pass), body));
        let failed = |error: &hyper::Error| {
            let said =
                if error.is_timeout() { "it did not answer in time" } else { "it broke the connection" };
            Refusal::new(Reason::ConnectFailed, "http").said(said)
        };
        if let Some(mut kept) = upstream.take(pass) {
            kept.flight.carries(pass);
            match kept.sender.try_send_request(request).await {
                Ok(response) => {
                    upstream.keep(kept);
                    return Ok((response, bound));
                }
                // The server closed the kept connection before anything was sent: a new one.
                Err(mut error) => match error.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(failed(error.error())),
                },
            }
        }
        let (address, stream) = egress.dial(pass).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| failed(&error))?;
        let flight = Flight::driving(connection.with_upgrades());
        flight.carries(pass);
        let response = sender.send_request(request).await.map_err(|error| failed(&error))?;
        upstream.keep(Kept { destination: pass.destination().clone(), address, sender, flight });
        Ok((response, bound))
    })
}

/// A connection to the world: it ends when the request in flight may not go on, whichever of its bodies moves or stalls.
#[derive(Clone, Debug, Default)]
pub(crate) struct Flight(Arc<Driven>);

#[derive(Debug, Default)]
struct Driven {
    end: CancellationToken,
    /// What ends it with the request in flight, and no longer with the ones before.
    request: Mutex<Option<Arc<InFlight>>>,
}

#[derive(Debug)]
struct InFlight(CancellationToken);

impl Severed for InFlight {
    fn sever(self: Arc<Self>) {
        self.0.cancel();
    }
}

impl Flight {
    /// Drives this connection, whoever keeps it, until it ends.
    pub(crate) fn driving(connection: impl Future<Output = hyper::Result<()>> + Send + 'static) -> Self {
        let flight = Self::default();
        // It is kept here as well: once nobody keeps the connection, its last request's withdrawal still ends it.
        let driven = flight.clone();
        tokio::spawn(async move {
            tokio::select! {
                biased;
                () = driven.0.end.cancelled(), if keeps(Check::WithdrawnDrive) => {}
                ended = connection => {
                    if let Err(error) = ended {
                        tracing::debug!(%error, "a connection to the world ended");
                    }
                }
            }
            drop(driven);
        });
        flight
    }

    /// From now on it carries a request of this pass.
    pub(crate) fn carries(&self, pass: &Pass) {
        let request = Arc::new(InFlight(self.0.end.clone()));
        pass.severs(&request);
        *self.0.request.lock().unwrap_or_else(PoisonError::into_inner) = Some(request);
    }
}
