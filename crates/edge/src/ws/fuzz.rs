//! What must hold of any frames and any `connect`, for `fuzz/`. See [`crate::fuzz`].

use super::{
    connect::{self, Connect},
    frame::{self, FrameError, Head, Order, Reader, Sender, unmask, write_head},
    json::{self, Request},
};
use bytes::Bytes;
use cofferdam_base::{Role, Scope};
use futures_util::FutureExt;
use serde_json::Value;

/// The most bytes of one message here.
const LIMIT: u64 = 4096;

/// Any bytes as a stream of frames, read at once and byte by byte.
pub(crate) fn framed(bytes: &[u8]) {
    for sender in [Sender::Client, Sender::Server] {
        let at_once = read(Reader::new(tokio::io::empty(), sender, Bytes::copy_from_slice(bytes)));
        let (first, rest) = bytes.split_at(bytes.len() / 2);
        let cut = read(Reader::new(rest, sender, Bytes::copy_from_slice(first)));
        assert_eq!(at_once, cut, "{sender:?}: read in two pieces it is another");
        let mut again = Vec::new();
        for (head, payload) in &at_once {
            assert_eq!(head.mask.is_some(), sender == Sender::Client);
            assert_eq!(head.length, payload.len() as u64);
            let start = again.len();
            write_head(head, &mut again);
            let read = frame::parse(&again[start..], sender);
            assert!(matches!(read, Ok(Some((same, _))) if same == *head), "{read:?}");
            let body = again.len();
            again.extend_from_slice(payload);
            unmask(&mut again[body..], head.mask.unwrap_or_default());
        }
        assert!(bytes.starts_with(&again), "{sender:?}: written anew it is another");
    }
}

/// The frames until the first that breaks a rule, unmasked.
fn read<R: tokio::io::AsyncRead + Unpin>(mut reader: Reader<R>) -> Vec<(Head, Vec<u8>)> {
    let mut frames = Vec::new();
    let mut order = Order::default();
    let reading = async {
        while let Some(head) = reader.head().await? {
            order.next(&head, LIMIT)?;
            let mut payload = Vec::new();
            reader.append(&head, &mut payload).await?;
            frames.push((head, payload));
        }
        Ok::<_, FrameError>(())
    };
    // Nothing here waits for anybody, and an end in the middle of a frame is an error.
    let _ = reading.now_or_never().expect("memory is always ready");
    frames
}

/// Any text as a request frame, and as the first one.
pub(crate) fn first_frame(text: &[u8]) {
    let Ok(request) = json::request(text) else { return };
    let written = request.write();
    // A number may be spelled longer, and an escape of six bytes is never more than it was.
    assert!(written.len() <= 24 * text.len() + 128, "{} bytes became {}", text.len(), written.len());
    let again = json::request(&written).expect("what was written parses");
    assert_eq!(again, request, "written anew it is another");
    assert_eq!(value(text), value(&written), "written anew it means something else");
    let Ok(apart) = connect::take_apart(&request) else { return };
    for role in [Role::Viewer, Role::Member, Role::Approver, Role::Admin] {
        capped(&request, &apart, role);
    }
}

/// What the gateway gets instead: no credential, no device, no scope past the role.
fn capped(request: &Request, apart: &Connect, role: Role) {
    let copy = json::request(&request.write()).expect("it was written by us");
    let frame = apart.rebuilt(copy, &role.ceiling());
    let strict = json::request(&frame).expect("what the gateway gets is strict JSON");
    assert_eq!((&strict.id, &strict.method), (&request.id, &request.method));
    let frame = value(&frame);
    let params = frame["params"].as_object().expect("the parameters are an object");
    assert!(!params.contains_key("auth") && !params.contains_key("device"));
    assert_eq!(params["role"], "operator");
    let scopes = params["scopes"].as_array().expect("scopes are a list");
    let known = |scope: &Value| role.ceiling().iter().any(|known: &Scope| *scope == known.as_str());
    assert!(scopes.iter().all(known), "{scopes:?} of {role}");
    let again = connect::take_apart(&strict).expect("what the gateway gets is a connect");
    assert_eq!(again.token, None);
}

fn value(text: &[u8]) -> Value {
    serde_json::from_slice(text).expect("it is JSON")
}
