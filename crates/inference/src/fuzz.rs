//! What must hold of any chat request of a cell and any answer of a provider, for `fuzz/`.
//!
//! It owns no parser. The threats: a body that means one thing to us and another to the provider, and a meter
//! that counts by where the network cut.

use crate::{Api, Asked, BaseUrl, Call, Format, Meter, Patience, Route};
use cofferdam_base::Provider;
use serde_json::Value;

/// The model that the route decides, with something in it that must be escaped.
const MODEL: &str = "real-\"1\\";

/// A route to a provider of this wire.
fn route(provider: Provider) -> Route {
    let base = BaseUrl::parse("https://p.example/v1").expect("it is a base URL");
    let patience = Patience::default();
    Route { name: String::new(), base, model: MODEL.into(), provider, provider_tools: true, patience }
}

fn parse(api: Api, body: &[u8]) -> Option<Call> {
    Call::parse(api, &api.path().parse().expect("it is a path"), body).ok()
}

/// Any bytes as the body of a chat request.
pub fn chat(body: &[u8]) {
    let Some(request) = parse(Api::Chat, body) else { return };
    let asked = Asked::read(&http::HeaderMap::new(), &request);
    assert!(asked.user.len() <= 64 && asked.user.bytes().all(|b| b.is_ascii_graphic()), "{asked:?}");
    let route = route(Provider::OpenAi);
    let out = request.body(&route).expect("what was parsed can be written");
    assert!(out.len() <= body.len() + 128, "{} bytes became {}", body.len(), out.len());
    let written = parse(Api::Chat, &out).expect("what was written parses");
    assert_eq!(written.streams(), request.streams());
    assert_eq!(written.body(&route).ok().as_deref(), Some(&*out), "written anew it is another");
    // A number may be too long for a tree, while it is passed on as it came.
    let (Ok(before), Ok(after)) =
        (serde_json::from_slice::<Value>(body), serde_json::from_slice::<Value>(&out))
    else {
        return;
    };
    let (Value::Object(mut before), Value::Object(mut after)) = (before, after) else {
        panic!("a request that is no object")
    };
    assert_eq!(after.remove("model").as_ref().and_then(Value::as_str), Some(MODEL));
    let asked = after.remove("stream_options");
    assert_eq!(asked, request.streams().then(|| serde_json::json!({ "include_usage": true })));
    before.remove("model");
    before.remove("stream_options");
    assert_eq!(before, after, "what the route does not decide was changed");
}

/// Any bytes as an answer, whole and cut: the first byte says where.
pub fn meter(bytes: &[u8]) {
    let Some((step, answer)) = bytes.split_first() else { return };
    for format in [Format::Json, Format::Events, Format::Lines] {
        let (mut whole, mut cut) = (Meter::new(format), Meter::new(format));
        whole.feed(answer);
        answer.chunks(usize::from(*step % 16) + 1).for_each(|chunk| cut.feed(chunk));
        assert_eq!(whole.finish(), cut.finish(), "{format:?}");
    }
}
