//! The upgrade of `tenant exec`: from a request to two streams of frames.

use super::{
    extract::{in_header, parse},
    frames::{ExecRequest, PROTOCOL, REQUEST_HEADER},
};
use crate::{Error, exec, host::Host};
use axum::{
    body::Body,
    extract::{Path, Request, State},
    http::{StatusCode, header},
    response::Response,
};
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
    if request.headers().get(header::UPGRADE).is_none_or(|value| value != PROTOCOL) {
        return Err(Error::Usage("exec: the request must ask for `Upgrade: cofferdam-exec`".to_owned()));
    }
    in_header(request, REQUEST_HEADER, "exec")
}
