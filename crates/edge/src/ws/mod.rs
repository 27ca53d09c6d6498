//! WebSockets: frames, the strict JSON of clients, upgrades and the two relays.
//!
//! For a `command` runtime the token is on the upgrade and frames pass as they are. For OpenClaw the first
//! frame may carry it, so the upgrade is answered without dialling anybody.

mod approvals;
mod connect;
pub mod frame;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzz;
mod handshake;
mod json;
mod openclaw;
mod relay;
mod requests;
mod sift;

#[cfg(feature = "fuzzing")]
pub(crate) use handshake::answer as upgrade_answer;
pub(crate) use handshake::wanted;

use crate::{
    check::{Check, keeps},
    connection::Connection,
    edge::Edge,
    headers::Identity,
    limits::{Seat, Stranger},
    origin::OriginError,
    proxy::Reply,
    refusal::Refusal,
    token::Verified,
};
use bytes::Bytes;
use cofferdam_base::ipc::edge::{RuntimeKind, TenantRoute};
use http::{HeaderMap, HeaderValue, Request, Response, Uri, header};
use hyper::body::{Body, Incoming};
use std::{net::IpAddr, sync::Arc};
use tokio::net::TcpStream;

/// The longest message, either way: the gateway's own limit.
const MESSAGE: u64 = 25 << 20;

/// What is known of a client when its upgrade is answered.
struct Upgrade {
    edge: Arc<Edge>,
    connection: Arc<Connection>,
    route: Arc<TenantRoute>,
    peer: IpAddr,
    host: HeaderValue,
    uri: Uri,
    headers: HeaderMap,
    token: Option<Arc<Verified>>,
    stranger: Option<Stranger>,
    seat: Option<Seat>,
}

impl Upgrade {
    /// Connects to the gateway, as this member.
    async fn dial(&self, token: &Verified, uri: &Uri) -> Result<(TcpStream, Bytes, u64), Refusal> {
        let line = self.edge.dial(&self.route.tenant).await?;
        let generation = line.generation;
        let identity = Identity { token, peer: self.peer, host: &self.host };
        let (stream, read) = handshake::upgrade(line, uri, self.headers.clone(), &identity).await?;
        Ok((stream, read, generation))
    }
}

/// Answers an upgrade; the relay goes on by itself.
pub(crate) async fn accept(
    connection: &Arc<Connection>,
    mut request: Request<Incoming>,
    route: &Arc<TenantRoute>,
) -> Result<Response<Reply>, Refusal> {
    let response = handshake::answer(request.method(), request.headers())?;
    if keeps(Check::UpgradeBody) && !request.body().is_end_stream() {
        return Err(Refusal::bad_request("an upgrade has no body"));
    }
    let bearer = request.headers().contains_key(header::AUTHORIZATION);
    let token = if bearer || route.runtime == RuntimeKind::Command {
        Some(connection.authenticate(request.headers(), route)?)
    } else {
        None
    };
    let upgraded = hyper::upgrade::on(&mut request);
    let (stranger, seat) = connection.hand_over();
    let upgrade = Upgrade {
        edge: Arc::clone(&connection.edge),
        connection: Arc::clone(connection),
        route: Arc::clone(route),
        peer: connection.peer,
        host: request.headers().get(header::HOST).cloned().ok_or(OriginError::Misdirected)?,
        uri: request.uri().clone(),
        headers: std::mem::take(request.headers_mut()),
        token,
        stranger,
        seat,
    };
    match (route.runtime, upgrade.token.clone()) {
        (RuntimeKind::Command, Some(token)) => {
            Edge::serving(route)?;
            // Dialled first, so that a gateway that does not answer is an answer of HTTP.
            let uri = upgrade.uri.clone();
            let (stream, read, generation) = upgrade.dial(&token, &uri).await?;
            tokio::spawn(async move {
                if let Some(client) = upgraded.await.ok().and_then(handshake::bare) {
                    relay::command(&upgrade, &token, client, (stream, read), generation).await;
                }
            });
        }
        (RuntimeKind::Command, None) => return Err(Refusal::no_token()),
        (RuntimeKind::Openclaw, _) => {
            tokio::spawn(async move {
                if let Some(client) = upgraded.await.ok().and_then(handshake::bare) {
                    openclaw::serve(upgrade, client).await;
                }
            });
        }
    }
    Ok(response)
}
