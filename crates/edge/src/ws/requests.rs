//! The requests of an admitted client: gathered one at a time, checked against the table, written anew.
//!
//! A request must be whole before its method can be judged, so this is the one place where the edge gathers
//! what people send. The threats: a client that begins long messages and does not end them, or a cell that
//! does not take them, until the memory that all tenants share is gone; so bytes are counted as they come
//! ([`Limits::held`](crate::limits::Limits::held)), and a begun message has an end in time.

use super::{
    MESSAGE,
    approvals::Desk,
    frame::{FrameError, Head, Opcode, Order, Reader, unmask},
    json::{self, Request},
    relay::{End, Shared},
};
use crate::{
    check::{Check, keeps, within},
    edge::Edge,
    limits::{FREE, Held},
    methods::{Gate, gate},
    token::Verified,
};
use cofferdam_base::Scope;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time,
};

/// How long a message may take from its first byte to its last, and a long one into the cell.
const WHOLE: Duration = Duration::from_secs(30);
/// The longest message of somebody who only reads: no method that reads takes long parameters.
const READERS: u64 = 256 * 1024;

/// Passes the client's requests on, each checked and made anew; a refused one is answered here.
pub(super) async fn requests<R, V, W>(
    from: &mut Reader<R>,
    to_cell: &Shared<V>,
    to_client: &Shared<W>,
    edge: &Edge,
    token: &Verified,
    desk: &Desk<'_>,
) -> Result<End, FrameError>
where
    R: AsyncRead + Unpin,
    V: AsyncWrite + Unpin,
    W: AsyncWrite + Unpin,
{
    let end = each(from, to_cell, to_client, edge, token, desk).await;
    match end {
        Err(FrameError::Slow) => edge.report("refused", token, "message_unfinished"),
        Err(FrameError::Crowded) => edge.report("refused", token, "messages_crowded"),
        _ => {}
    }
    end
}

async fn each<R, V, W>(
    from: &mut Reader<R>,
    to_cell: &Shared<V>,
    to_client: &Shared<W>,
    edge: &Edge,
    token: &Verified,
    desk: &Desk<'_>,
) -> Result<End, FrameError>
where
    R: AsyncRead + Unpin,
    V: AsyncWrite + Unpin,
    W: AsyncWrite + Unpin,
{
    let writes = [Scope::Write, Scope::Admin].iter().any(|scope| token.scopes.contains(scope));
    let limit = if writes || !keeps(Check::ReadersLength) { MESSAGE } else { READERS };
    // Between two messages a client may be silent for as long as its token lasts.
    while let Some(head) = from.head().await? {
        if head.opcode.is_control() {
            control(from, &head, to_cell).await?;
            if head.opcode == Opcode::Close {
                return Ok(End::Closed);
            }
            continue;
        }
        let mut held = edge.limits.held(&token.claims.tid);
        let whole =
            time::timeout(within(Check::MessageTime, WHOLE), gather(from, head, to_cell, limit, &mut held))
                .await;
        let message = match whole.unwrap_or(Err(FrameError::Slow))? {
            Ok(message) => message,
            Err(end) => return Ok(end),
        };
        let request = json::request(&message).map_err(|_| FrameError::Protocol("no request frame"))?;
        drop(message);
        match gate(&request.method, &token.scopes) {
            verdict if verdict == Gate::Open || !keeps(Check::Methods) => {
                if let Some(answer) = desk.hears(&request).await {
                    to_client.lock().await.text(answer.to_string().as_bytes()).await?;
                    continue;
                }
                let frame = request.write();
                drop(request);
                // What is written anew may be longer: a number in another spelling.
                if frame.len() as u64 > MESSAGE {
                    return Err(FrameError::TooLong);
                }
                if !held.cover(frame.len()) {
                    return Err(FrameError::Crowded);
                }
                let writing = async { to_cell.lock().await.masked_text(&frame).await };
                if frame.len() <= FREE {
                    writing.await?;
                } else {
                    time::timeout(WHOLE, writing).await.map_err(|_| FrameError::Slow)??;
                }
            }
            refused => {
                let (reason, frame) = refusal(&request, refused);
                drop((request, held));
                edge.report("refused", token, reason);
                to_client.lock().await.text(frame.to_string().as_bytes()).await?;
            }
        }
    }
    Ok(End::Left)
}

/// Gathers the message that this head begins, unless the client ends before it.
async fn gather<R, V>(
    from: &mut Reader<R>,
    first: Head,
    to_cell: &Shared<V>,
    limit: u64,
    held: &mut Held,
) -> Result<Result<Vec<u8>, End>, FrameError>
where
    R: AsyncRead + Unpin,
    V: AsyncWrite + Unpin,
{
    let mut order = Order::default();
    let mut message = Vec::new();
    let mut head = first;
    loop {
        match order.next(&head, limit)? {
            Some(Opcode::Text) => from.append_while(&head, &mut message, |bytes| held.cover(bytes)).await?,
            Some(_) => return Err(FrameError::Protocol("only text is spoken here")),
            None => {
                control(from, &head, to_cell).await?;
                if head.opcode == Opcode::Close {
                    return Ok(Err(End::Closed));
                }
            }
        }
        if !order.is_open() {
            return Ok(Ok(message));
        }
        match from.head().await? {
            Some(next) => head = next,
            None => return Ok(Err(End::Left)),
        }
    }
}

/// Passes a control frame on.
async fn control<R, V>(from: &mut Reader<R>, head: &Head, to_cell: &Shared<V>) -> Result<(), FrameError>
where
    R: AsyncRead + Unpin,
    V: AsyncWrite + Unpin,
{
    let mut payload = Vec::new();
    from.append(head, &mut payload).await?;
    unmask(&mut payload, head.mask.unwrap_or_default());
    Ok(to_cell.lock().await.frame(head, &payload).await?)
}

/// A refused request's answer, in the gateway's own words.
fn refusal(request: &Request, gate: Gate) -> (&'static str, Value) {
    let id = &request.id;
    match gate {
        Gate::Missing(scope) => {
            let details =
                json!({ "code": "MISSING_SCOPE", "missingScope": scope, "requiredScopes": [scope] });
            ("missing_scope", failed(id, "FORBIDDEN", &format!("missing scope: {scope}"), details))
        }
        Gate::ControlOnly => {
            let message = format!("{} is for the control plane alone", request.method);
            ("control_only", failed(id, "FORBIDDEN", &message, json!({ "code": "CONTROL_ONLY" })))
        }
        // A call that passes is not refused; were it asked about, no is the safe answer.
        Gate::Open | Gate::Unknown => {
            let message = format!("unknown method: {}", request.method);
            ("unknown_method", failed(id, "INVALID_REQUEST", &message, json!({ "code": "UNKNOWN_METHOD" })))
        }
    }
}

pub(super) fn failed(id: &str, code: &str, message: &str, details: Value) -> Value {
    let error = json!({ "code": code, "message": message, "details": details });
    json!({ "type": "res", "id": id, "ok": false, "error": error })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{
        edge::SOURCE,
        limits::{HELD, Limits},
        token::tests::{Signer, claims},
        ws::frame::{Sender, Writer, write_head},
    };
    use bytes::Bytes;
    use cofferdam_base::{Clock, Millis, Role};
    use std::{future::pending, sync::Arc};
    use tokio::{
        io::{AsyncWriteExt, DuplexStream, duplex, sink},
        sync::{Mutex, mpsc},
    };

    #[derive(Debug)]
    struct Still;
    impl Clock for Still {
        fn now(&self) -> Millis {
            Millis(1_500_000)
        }
    }

    fn edge() -> Edge {
        Edge::new(Arc::new(Still), Limits::new(1024), mpsc::unbounded_channel().0, SOURCE)
    }

    fn token(role: Role) -> Verified {
        let mut claims = claims("acme");
        claims.role = role;
        claims.scp = role.ceiling();
        Signer::new("k1").verified(&claims)
    }

    /// Serves a client to its end, with a cell that takes everything.
    async fn served(edge: &Edge, role: Role, client: DuplexStream) -> Result<End, FrameError> {
        let mut from = Reader::new(client, Sender::Client, Bytes::new());
        let (to_cell, to_client) = (Mutex::new(Writer::new(sink())), Mutex::new(Writer::new(sink())));
        let token = token(role);
        let desk = Desk::new(edge, &token, "", false);
        requests(&mut from, &to_cell, &to_client, edge, &token, &desk).await
    }

    /// A frame of a client, of which so many bytes are sent.
    async fn part(client: &mut DuplexStream, opcode: Opcode, last: bool, length: usize, sent: usize) {
        let mut bytes = Vec::new();
        write_head(&Head { last, opcode, mask: Some([0; 4]), length: length as u64 }, &mut bytes);
        bytes.resize(bytes.len() + sent, b' ');
        client.write_all(&bytes).await.unwrap();
    }

    /// A whole request, after so many blanks.
    async fn whole(client: &mut DuplexStream, method: &str, blanks: usize) {
        let text = format!(r#"{{"type":"req","id":"1","method":"{method}"}}"#);
        part(client, Opcode::Text, true, blanks + text.len(), blanks).await;
        client.write_all(text.as_bytes()).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_begun_message_must_end_in_time_and_silence_between_messages_may_last() {
        for stops_inside in [true, false] {
            let (mut client, theirs) = duplex(1 << 20);
            let talking = async move {
                whole(&mut client, "health", 0).await;
                time::sleep(WHOLE * 100).await;
                whole(&mut client, "health", 0).await;
                if stops_inside {
                    part(&mut client, Opcode::Text, false, 10, 10).await;
                    part(&mut client, Opcode::Ping, true, 0, 0).await;
                    part(&mut client, Opcode::Continuation, true, 10, 9).await;
                    pending::<()>().await;
                }
                drop(client);
                pending::<End>().await
            };
            let edge = edge();
            let end = tokio::select! {
                end = served(&edge, Role::Member, theirs) => end,
                end = talking => Ok(end),
            };
            if stops_inside {
                assert!(matches!(end, Err(FrameError::Slow)), "{end:?}");
                assert_eq!(edge.reports.next().await.reason, "message_unfinished");
            } else {
                assert!(matches!(end, Ok(End::Left)), "{end:?}");
            }
        }
    }

    #[tokio::test]
    async fn who_only_reads_sends_no_long_messages() {
        for (role, blanks, passes) in [
            (Role::Viewer, 200_000, true),
            (Role::Viewer, 300_000, false),
            (Role::Member, 300_000, true),
            (Role::Admin, 300_000, true),
        ] {
            let (mut client, theirs) = duplex(1 << 20);
            whole(&mut client, "health", blanks).await;
            drop(client);
            let end = served(&edge(), role, theirs).await;
            assert_eq!(matches!(end, Ok(End::Left)), passes, "{role} {blanks} {end:?}");
            assert_eq!(matches!(end, Err(FrameError::TooLong)), !passes, "{role} {blanks} {end:?}");
        }
    }

    #[tokio::test]
    async fn a_long_message_is_refused_while_its_tenant_holds_too_many_bytes_and_a_short_one_is_not() {
        let edge = edge();
        let acme = token(Role::Member).claims.tid;
        let mut others = edge.limits.held(&acme);
        assert!(others.cover(HELD));
        for (crowded, blanks, passes) in
            [(true, 100_000, false), (true, 10_000, true), (false, 100_000, true)]
        {
            if !crowded {
                assert!(others.cover(0));
            }
            let (mut client, theirs) = duplex(1 << 20);
            whole(&mut client, "health", blanks).await;
            drop(client);
            let end = served(&edge, Role::Member, theirs).await;
            assert_eq!(matches!(end, Ok(End::Left)), passes, "{blanks} {end:?}");
            assert_eq!(matches!(end, Err(FrameError::Crowded)), !passes, "{blanks} {end:?}");
        }
        assert_eq!(edge.reports.next().await.reason, "messages_crowded");
    }

    #[tokio::test(start_paused = true)]
    async fn a_cell_that_takes_nothing_holds_no_long_message_for_ever() {
        for (length, ends) in [(100_000, true), (1_000, false)] {
            let edge = edge();
            let (mut client, theirs) = duplex(1 << 20);
            let text = format!(
                r#"{{"type":"req","id":"1","method":"chat.send","params":"{}"}}"#,
                "x".repeat(length)
            );
            part(&mut client, Opcode::Text, true, text.len(), 0).await;
            client.write_all(text.as_bytes()).await.unwrap();
            let (_cell, to_cell) = duplex(16);
            let mut from = Reader::new(theirs, Sender::Client, Bytes::new());
            let (to_cell, to_client) = (Mutex::new(Writer::new(to_cell)), Mutex::new(Writer::new(sink())));
            let member = token(Role::Member);
            let desk = Desk::new(&edge, &member, "", false);
            let serving = requests(&mut from, &to_cell, &to_client, &edge, &member, &desk);
            let end = time::timeout(WHOLE * 100, serving).await;
            assert_eq!(matches!(end, Ok(Err(FrameError::Slow))), ends, "{length} {end:?}");
            assert_eq!(end.is_err(), !ends, "a short one waits: the cell stops its client");
        }
    }
}
