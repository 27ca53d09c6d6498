//! What is known of a request before it is let through: its head, and its body where a rule asks for it.
//!
//! It owns the reading of bodies: whole, at most [`MAX_BODY`], few at one time, and only for rules about what they
//! hold.
//! The threat: a body that the server reads otherwise than the rule did, so what has a coding or another charset
//! counts as unreadable.

use super::{Body, BodyError, full, head};
use crate::{
    Egress, Refusal,
    check::{Check, keeps},
    loss::Alarm,
};
use bytes::{Bytes, BytesMut};
use cofferdam_base::Destination;
use cofferdam_policy::{Body as Known, Inspection, MAX_BODY, Reason, RequestFacts, Target};
use http::{HeaderMap, HeaderValue, Request, Version, header};
use http_body_util::BodyExt;
use std::time::Duration;

/// How long a client may take for a body that is judged, the wait for its turn included.
pub(crate) const READING: Duration = Duration::from_secs(30);

/// The request as it goes on, what rules judge of it, and who watches over its body.
pub(crate) async fn known<B>(
    egress: &Egress,
    destination: &Destination,
    request: Request<B>,
) -> Result<(Request<Body>, RequestFacts, Alarm), Refusal>
where
    B: hyper::body::Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BodyError>,
{
    let alarm = egress.alarm(destination);
    alarm.head(&request)?;
    let Some(rules) = egress.gate.rules() else {
        return Err(Refusal::new(Reason::NotReady, "warden"));
    };
    let (mut parts, body) = request.into_parts();
    if alarm.is_set() {
        // What is said in its frames is looked through, so it is not packed.
        parts.headers.remove(header::SEC_WEBSOCKET_EXTENSIONS);
    }
    let uri = head::origin_form(&parts.uri).ok_or_else(|| Refusal::new(Reason::BadRequest, "http"))?;
    let empty = body.is_end_stream();
    let goes_on = head::goes_on(&parts.headers);
    let mut facts = RequestFacts {
        destination: destination.clone(),
        method: parts.method.as_str().to_owned(),
        target: uri.to_string(),
        // What stays behind is nobody's.
        headers: parts
            .headers
            .keys()
            .filter(|name| goes_on(name))
            .map(|name| name.as_str().to_owned())
            .collect(),
        websocket: head::wants_websocket(&parts.headers),
        grpc: is_grpc(parts.version, &parts.headers),
        body: if empty { Known::None } else { Known::Unread },
    };
    if rules.policy.inspection(destination) != Inspection::Opaque
        && keeps(Check::RequestRebuilt)
        && let Ok(target) = Target::parse(&facts.target)
    {
        // What was judged is what goes on.
        parts.uri = if target.rebuilt() == facts.target {
            uri
        } else {
            target.rebuilt().parse().map_err(|_| Refusal::new(Reason::BadRequest, "http"))?
        };
    }
    let wanted = keeps(Check::BodyRead) && !empty && rules.policy.needs_body(&facts);
    if !wanted {
        if !keeps(Check::BodyRead) {
            facts.body = Known::None;
        }
        let head = Request::from_parts(parts, ());
        let body = if empty {
            body.map_err(Into::into).boxed_unsync()
        } else {
            alarm.body(&head, body)?.boxed_unsync()
        };
        return Ok((head.map(|()| body), facts, alarm));
    }
    // By what goes on: a server does not see the rest.
    let parse = reader(&head::end_to_end(&parts.headers));
    let head = Request::from_parts(parts, ());
    let before = alarm.unrecorded();
    let read = egress.reads(read(before.body(&head, body)?)).await;
    if let Some(refusal) = before.take() {
        return Err(refusal);
    }
    let Ok(read) = read else {
        let refusal = Refusal::new(Reason::BadRequest, "http").said("the body did not come in time");
        return Err(refusal);
    };
    let Some(bytes) = read? else {
        // The rest of it goes nowhere: what nobody read is refused by the rule that asks for it.
        return Ok((head.map(|()| full(Bytes::new())), facts, alarm));
    };
    facts.body = parse.map_or(Known::Other, |parse| parse(&bytes));
    Ok((head.map(|()| full(bytes)), facts, alarm))
}

/// The whole body; none if it is longer than what is read.
async fn read<B>(mut body: B) -> Result<Option<Bytes>, Refusal>
where
    B: hyper::body::Body<Data = Bytes> + Unpin,
{
    let mut all = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Refusal::new(Reason::BadRequest, "http").said("the body broke off"))?;
        // Trailers of a body that was judged stay behind: nobody judged them.
        let Ok(data) = frame.into_data() else { continue };
        if keeps(Check::BodyLength) && all.len() + data.len() > MAX_BODY {
            return Ok(None);
        }
        all.extend_from_slice(&data);
    }
    Ok(Some(all.freeze()))
}

/// Who reads such a body: one in UTF-8 and in no coding, of JSON or of GraphQL.
fn reader(headers: &HeaderMap) -> Option<fn(&[u8]) -> Known> {
    if !keeps(Check::BodyCoding) {
        return Some(Known::parse);
    }
    let mut kinds = headers.get_all(header::CONTENT_TYPE).iter();
    let (Some(kind), None) = (kinds.next().and_then(|kind| kind.to_str().ok()), kinds.next()) else {
        return None;
    };
    let kind = kind.to_ascii_lowercase();
    let mut parts = kind.split(';').map(str::trim);
    let essence = parts.next().unwrap_or_default();
    let json =
        essence == "application/json" || essence.starts_with("application/") && essence.ends_with("+json");
    let plain = parts.all(|part| matches!(part, "" | "charset=utf-8" | "charset=\"utf-8\""));
    match plain && !headers.contains_key(header::CONTENT_ENCODING) {
        true if json => Some(Known::parse),
        true if essence == "application/graphql" => Some(Known::parse_graphql),
        _ => None,
    }
}

/// Is it gRPC, as its client calls it?
pub(crate) fn is_grpc(version: Version, headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    let rest = kind.strip_prefix(b"application/grpc");
    version == Version::HTTP_2 && rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn only_json_and_graphql_in_utf_8_without_coding_are_read_as_such() {
        let (json, graphql) = (Some(r#"{"query":"{ a }"}"#), Some("{ a }"));
        for (kind, coding, read) in [
            (Some("application/json"), None, json),
            (Some("Application/JSON; charset=UTF-8"), None, json),
            (Some("application/vnd.api+json"), None, json),
            (Some("application/json; charset=utf-7"), None, None),
            (Some("application/graphql"), None, graphql),
            (Some("application/graphql; charset=utf-16"), None, None),
            (Some("application/graphql"), Some("br"), None),
            (Some("application/x-www-form-urlencoded"), None, None),
            (Some("text/plain"), None, None),
            (None, None, None),
            (Some("application/json"), Some("gzip"), None),
            (Some("application/json"), Some("identity"), None),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(kind) = kind {
                headers.insert(header::CONTENT_TYPE, kind.parse().unwrap());
            }
            if let Some(coding) = coding {
                headers.insert(header::CONTENT_ENCODING, coding.parse().unwrap());
            }
            let parse = reader(&headers);
            assert_eq!(parse.is_some(), read.is_some(), "{kind:?} {coding:?}");
            if let (Some(parse), Some(text)) = (parse, read) {
                assert!(
                    matches!(parse(text.as_bytes()), Known::Operations(all) if all.len() == 1),
                    "{kind:?}"
                );
            }
        }
    }

    #[test]
    fn grpc_is_what_calls_itself_so_over_http_2() {
        for (version, kind, is) in [
            (Version::HTTP_2, "application/grpc", true),
            (Version::HTTP_2, "application/grpc+proto", true),
            (Version::HTTP_2, "application/grpc;x", true),
            (Version::HTTP_2, "application/grpc-web", false),
            (Version::HTTP_2, "application/json", false),
            (Version::HTTP_11, "application/grpc", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, kind.parse().unwrap());
            assert_eq!(is_grpc(version, &headers), is, "{version:?} {kind}");
        }
    }
}
