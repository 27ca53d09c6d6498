//! The upgrade of `tenant exec`: from a request to two streams of frames.

use super::{
    extract::parse,
    frames::{ExecRequest, PROTOCOL, REQUEST_HEADER},
};
use crate::{Error, exec, host::Host};
use axum::{
    body::Body,
    extract::{Path, Request, State},
    http::{StatusCode, header},
    response::Response,
};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use cofferdam_base::TenantId;
use hyper_util::rt::TokioIo;
use std::sync::Arc;

pub(super) async fn exec(
    State(host): State<Arc<Host>>,
    Path(id): Path<String>,
    mut request: Request,
) -> Result<Response, Error> {
    let tenant: TenantId = parse(&id)?;
    let wanted = read(&request)?;
    exec::check(&wanted)?;
    host.runs(&tenant)?;
    let upgrade = hyper::upgrade::on(&mut request);
    let launcher = Arc::clone(host.launcher());
    tokio::spawn(async move {
        match upgrade.await {
            Ok(stream) => exec::relay(TokioIo::new(stream), tenant, wanted, launcher).await,
            Err(error) => tracing::warn!(%error, "exec: the client did not take the upgrade"),
        }
    });
    Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(header::CONNECTION, "upgrade")
        .header(header::UPGRADE, PROTOCOL)
        .body(Body::empty())
        .map_err(|_| Error::Usage("no answer could be made".to_owned()))
}

fn read(request: &Request) -> Result<ExecRequest, Error> {
    let usage = |what: &str| Error::Usage(format!("exec: {what}"));
    if request.headers().get(header::UPGRADE).is_none_or(|value| value != PROTOCOL) {
        return Err(usage("the request must ask for `Upgrade: cofferdam-exec`"));
    }
    let header = request.headers().get(REQUEST_HEADER).ok_or_else(|| usage("no request header"))?;
    let bytes =
        BASE64_URL_SAFE_NO_PAD.decode(header.as_bytes()).map_err(|_| usage("its header is no base64url"))?;
    serde_json::from_slice(&bytes).map_err(|error| usage(&error.to_string()))
}
