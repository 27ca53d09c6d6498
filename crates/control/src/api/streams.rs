//! Answers that go on: logs, the watch of approvals, the tail of the ledger.
//!
//! Each is a task that feeds a bounded channel, so that a reader who is slow slows only itself, and a reader
//! who goes ends the task.

use super::{
    extract::{Params, parse},
    types::{ApprovalsQuery, Happening, LogsQuery, TailQuery},
};
use crate::{Error, host::Host, plain::Plain};
use axum::{
    body::{Body, Bytes},
    extract::{Path, State},
    http::header,
    response::{IntoResponse, Response},
};
use cofferdam_base::TenantId;
use serde::Serialize;
use std::{convert::Infallible, sync::Arc, time::Duration};
use tokio::sync::{broadcast::error::RecvError, mpsc};

/// How often a file or the ledger is looked at while it is followed.
const PAUSE: Duration = Duration::from_millis(100);

type Sink = mpsc::Sender<Bytes>;

/// An answer whose body is what the channel brings.
fn stream(kind: &'static str, feed: impl FnOnce(Sink)) -> Response {
    let (sender, receiver) = mpsc::channel::<Bytes>(16);
    feed(sender);
    let body = futures_util::stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|bytes| (Ok::<_, Infallible>(bytes), receiver))
    });
    ([(header::CONTENT_TYPE, kind)], Body::from_stream(body)).into_response()
}

/// One document as a line; false if the reader is gone.
async fn line(sink: &Sink, document: &impl Serialize) -> bool {
    let Ok(mut bytes) = serde_json::to_vec(document) else { return false };
    bytes.push(b'\n');
    sink.send(bytes.into()).await.is_ok()
}

const NDJSON: &str = "application/x-ndjson";

pub(super) async fn watch_approvals(
    State(host): State<Arc<Host>>,
    Params(query): Params<ApprovalsQuery>,
) -> Result<Response, Error> {
    // Subscribed before the list is read: what changes in between comes twice rather than never.
    let mut changes = host.watch();
    let now = host.approvals(&query).await?;
    Ok(stream(NDJSON, |sink| {
        tokio::spawn(async move {
            for approval in &now {
                if !line(&sink, approval).await {
                    return;
                }
            }
            loop {
                let change = tokio::select! {
                    change = changes.recv() => change,
                    () = sink.closed() => return,
                };
                let rows = match change {
                    Ok(Happening::Approval(approval)) => vec![*approval],
                    Ok(Happening::Alarm(_)) => continue,
                    // Too slow: what was missed is in the list.
                    Err(RecvError::Lagged(_)) => host.approvals(&query).await.unwrap_or_default(),
                    Err(RecvError::Closed) => return,
                };
                for row in rows.iter().filter(|row| query.tenant.as_ref().is_none_or(|t| *t == row.tenant)) {
                    if !line(&sink, row).await {
                        return;
                    }
                }
            }
        });
    }))
}

/// A blank event after so long a silence, so that whoever left is noticed.
const BREATH: Duration = Duration::from_secs(15);

/// What waits now, and everything that happens from here on, as server-sent events.
pub(super) async fn events(
    State(host): State<Arc<Host>>,
    Params(query): Params<ApprovalsQuery>,
) -> Result<Response, Error> {
    let mut changes = host.watch();
    let now = host.approvals(&query).await?;
    let mut answer = stream("text/event-stream", |sink| {
        tokio::spawn(async move {
            for approval in now {
                if !event(&sink, &Happening::Approval(Box::new(approval))).await {
                    return;
                }
            }
            loop {
                let change = tokio::select! {
                    change = changes.recv() => change,
                    () = tokio::time::sleep(BREATH) => {
                        if sink.send(Bytes::from_static(b":\n\n")).await.is_err() {
                            return;
                        }
                        continue;
                    }
                    () = sink.closed() => return,
                };
                let happened = match change {
                    Ok(happened) => vec![happened],
                    // Too slow: what was missed of approvals is in the list, and of alarms in the ledger.
                    Err(RecvError::Lagged(_)) => {
                        let rows = host.approvals(&query).await.unwrap_or_default();
                        rows.into_iter().map(|row| Happening::Approval(Box::new(row))).collect()
                    }
                    Err(RecvError::Closed) => return,
                };
                for happened in happened.iter().filter(|it| is_about(it, query.tenant.as_ref())) {
                    if !event(&sink, happened).await {
                        return;
                    }
                }
            }
        });
    });
    answer.headers_mut().insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-store"));
    Ok(answer)
}

fn is_about(happened: &Happening, tenant: Option<&TenantId>) -> bool {
    let about = match happened {
        Happening::Approval(approval) => Some(&approval.tenant),
        Happening::Alarm(alarm) => alarm.tenant.as_ref(),
    };
    tenant.is_none() || about == tenant
}

/// One event; JSON has no line breaks of its own. False if the reader is gone.
async fn event(sink: &Sink, happened: &Happening) -> bool {
    let name = match happened {
        Happening::Approval(_) => "approval",
        Happening::Alarm(_) => "alarm",
    };
    let Ok(data) = serde_json::to_string(happened) else { return false };
    sink.send(format!("event: {name}\ndata: {data}\n\n").into()).await.is_ok()
}

pub(super) async fn ledger_tail(
    State(host): State<Arc<Host>>,
    Params(query): Params<TailQuery>,
) -> Result<Response, Error> {
    let count = query.count.unwrap_or(50);
    if count > 10_000 {
        return Err(Error::Usage("at most 10000 rows at once".to_owned()));
    }
    let (rows, mut last) = host.ledger_tail(count, query.tenant.clone()).await?;
    Ok(stream(NDJSON, |sink| {
        tokio::spawn(async move {
            for row in &rows {
                if !line(&sink, row).await {
                    return;
                }
            }
            while query.follow && !sink.is_closed() {
                tokio::time::sleep(PAUSE).await;
                let Ok((rows, through)) = host.ledger_after(last, query.tenant.clone()).await else { return };
                // Past what is another tenant's too, or it would be read again and again.
                last = through;
                for row in &rows {
                    if !line(&sink, row).await {
                        return;
                    }
                }
            }
        });
    }))
}

pub(super) async fn logs(
    State(host): State<Arc<Host>>,
    Path(id): Path<String>,
    Params(query): Params<LogsQuery>,
) -> Result<Response, Error> {
    let mut log = host.log(&parse(&id)?, query.tail)?;
    Ok(stream("text/plain; charset=utf-8", |sink| {
        tokio::spawn(async move {
            let mut plain = Plain::default();
            loop {
                // Files are local and reads are of 64 KiB: no reader of a socket waits behind this.
                let Ok(bytes) = log.read() else { return };
                if bytes.is_empty() {
                    if !query.follow || sink.is_closed() {
                        return;
                    }
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
                let shown = if query.raw {
                    bytes
                } else {
                    let mut shown = Vec::with_capacity(bytes.len());
                    plain.filter(&bytes, &mut shown);
                    shown
                };
                if !shown.is_empty() && sink.send(shown.into()).await.is_err() {
                    return;
                }
            }
        });
    }))
}
