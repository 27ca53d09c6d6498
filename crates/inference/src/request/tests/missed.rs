//! An attack for each check: stopped while the check is there, through when it is gone.

use super::*;
use crate::{
    check::left_out::{each_is_missed, tried},
    wire::Translator,
};
use http::StatusCode;

/// What a route's provider is sent of this body.
fn sent(api: Api, text: &str) -> Option<String> {
    let body = parse(api, text).ok()?.body(&route()).ok()?;
    Some(String::from_utf8(body).unwrap())
}

/// What it is sent of these headers, and by which wire.
fn headed(provider: Provider, headers: &HeaderMap) -> Request<Vec<u8>> {
    let (api, base) = match provider {
        Provider::Anthropic => (Api::Messages, "https://api.example.com"),
        _ => (Api::Chat, "https://api.example.com/v1"),
    };
    let call = parse(api, r#"{"max_tokens":1,"messages":[]}"#).unwrap();
    call.rebuild(headers, &to(provider, base, "real"), Some(b"key")).unwrap()
}

fn attack(check: Check) -> Result<(), String> {
    let alone = |attack: &dyn Fn() -> bool| tried(&[check], attack);
    let parses = |text: &str| chat(text).is_ok();
    match check {
        Check::BodyLength => {
            let long = format!(r#"{{"messages":[]{}}}"#, " ".repeat(MAX_BODY));
            alone(&|| parses(&long))
        }
        Check::KeyOnce => alone(&|| parses(r#"{"model":"a","model":"b","messages":[]}"#)),
        Check::KeyOnceInside => alone(&|| {
            let twice =
                r#"{"messages":[],"tools":[{"type":"function","type":"function","function":{"name":"a"}}]}"#;
            sent(Api::Chat, twice).is_some()
        }),
        Check::KeyPlain => alone(&|| parses("{\"messages\":[],\"\u{17f}tream\":true}")),
        Check::KeyLow => alone(&|| parses(r#"{"messages":[],"Stream":true}"#)),
        Check::Harmless => alone(&|| {
            let search = r#"{"input":"a","tools":[{"type":"web_search"}]}"#;
            sent(Api::Responses, search).is_some_and(|text| text.contains("web_search"))
        }),
        Check::KeepsNothing => alone(&|| {
            let kept = |body: Result<Vec<u8>, Error>| {
                body.is_ok_and(|body| !String::from_utf8(body).unwrap().contains(r#""store":false"#))
            };
            let openai = to(Provider::OpenAi, "https://eu.api.openai.com/v1", "real");
            let chat = chat(r#"{"messages":[]}"#).unwrap();
            let translated = parse(Api::Messages, r#"{"messages":[],"max_tokens":1}"#).unwrap();
            let responses = parse(Api::Responses, r#"{"input":"a"}"#).unwrap();
            kept(responses.body(&route())) && kept(chat.body(&openai)) && kept(translated.body(&openai))
        }),
        Check::RouteModel => alone(&|| {
            sent(Api::Chat, r#"{"model":"dear","messages":[]}"#).is_some_and(|text| text.contains("dear"))
        }),
        Check::QueryKnown => alone(&|| {
            let uri = "http://inference.local/v1/chat/completions?api_key=mine".parse().unwrap();
            Call::parse(Api::Chat, &uri, br#"{"messages":[]}"#).is_ok()
        }),
        Check::HeadersStay => alone(&|| {
            let headers = HeaderMap::from_iter([(header::COOKIE, HeaderValue::from_static("mine"))]);
            headed(Provider::OpenAi, &headers).headers().contains_key(header::COOKIE)
        }),
        Check::BetaPlain => alone(&|| {
            let headers = HeaderMap::from_iter([(BETA, HeaderValue::from_static("a;b"))]);
            headed(Provider::Anthropic, &headers).headers().contains_key(BETA)
        }),
        Check::AnswerBounded => alone(&|| {
            let mut translator = Translator::new(Api::Chat, StatusCode::OK, true, false);
            let id = "x".repeat(1000);
            let event = format!("data: {{\"type\":\"message_start\",\"message\":{{\"id\":\"{id}\"}}}}\n\n");
            translator.feed(event.as_bytes()).is_ok()
        }),
        Check::BoundRead => alone(&|| parses(r#"{"messages":[],"max_tokens":"900000"}"#)),
    }
}

#[test]
fn every_check_of_inference_is_missed_when_it_is_gone() {
    each_is_missed("inference", attack);
}
