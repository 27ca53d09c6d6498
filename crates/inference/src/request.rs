//! A cell's request, parsed once and written anew for the route's provider.
//!
//! Of the body every top-level field is kept as it was written, except the three that the route decides.
//! A key given twice is refused, so that nobody downstream can read another one than we did. Of the headers
//! nothing is kept but what describes the body and traces the request: no credential of the cell's travels.

use crate::{Error, Route};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, header};
use serde::de::{self, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::fmt;

/// The longest body that is read, in bytes.
pub const MAX_BODY: usize = 10 * 1024 * 1024;

/// What a cell asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inbound {
    /// `POST /v1/chat/completions`: its body goes to [`ChatRequest::parse`].
    Chat,
    /// `GET /v1/models`: answered by [`models_answer`].
    Models,
}

/// Which operation a request is, or why it is none. `path` is without query.
pub fn accept(method: &Method, path: &str) -> Result<Inbound, Error> {
    match (path, method) {
        ("/v1/chat/completions", &Method::POST) => Ok(Inbound::Chat),
        ("/v1/models", &Method::GET) => Ok(Inbound::Models),
        ("/v1/chat/completions", _) => Err(Error::Method("POST")),
        ("/v1/models", _) => Err(Error::Method("GET")),
        _ => Err(Error::UnknownPath(path.chars().take(200).collect())),
    }
}

/// The answer to `GET /v1/models`: the route's model and nothing else.
pub fn models_answer(model: &str) -> String {
    let model = serde_json::json!({"id": model, "object": "model", "created": 0, "owned_by": "cofferdam"});
    serde_json::json!({"object": "list", "data": [model]}).to_string()
}

/// A parsed chat completion request.
#[derive(Debug)]
pub struct ChatRequest {
    fields: Vec<(String, Box<RawValue>)>,
    streams: bool,
}

impl ChatRequest {
    /// Parses a body.
    pub fn parse(body: &[u8]) -> Result<Self, Error> {
        if body.len() > MAX_BODY {
            return Err(Error::TooLong);
        }
        let bad = |error: serde_json::Error| Error::Body(error.to_string().chars().take(200).collect());
        let Fields(fields) = serde_json::from_slice(body).map_err(bad)?;
        let field = |name: &str| fields.iter().find(|(key, _)| key == name).map(|(_, value)| value.get());
        let streams = match field("stream") {
            None | Some("null" | "false") => false,
            Some("true") => true,
            Some(_) => return Err(Error::Body("`stream` is true or false".into())),
        };
        if !field("messages").is_some_and(|messages| messages.starts_with('[')) {
            return Err(Error::Body("`messages` is a list".into()));
        }
        Ok(Self { fields, streams })
    }

    /// How many bytes its fields have.
    pub(crate) fn len(&self) -> usize {
        self.fields.iter().map(|(key, value)| key.len() + value.get().len() + 4).sum()
    }

    /// Is the answer to be streamed?
    pub const fn streams(&self) -> bool {
        self.streams
    }

    /// The body for the provider.
    pub fn body(&self, model: &str) -> Result<Vec<u8>, Error> {
        let bad = |error: serde_json::Error| Error::Body(error.to_string());
        let mut body = Vec::with_capacity(self.len());
        body.extend_from_slice(b"{\"model\":");
        serde_json::to_writer(&mut body, model).map_err(bad)?;
        for (key, value) in &self.fields {
            if key == "model" || key == "stream_options" {
                continue;
            }
            body.push(b',');
            serde_json::to_writer(&mut body, key).map_err(bad)?;
            body.push(b':');
            body.extend_from_slice(value.get().as_bytes());
        }
        if self.streams {
            body.extend_from_slice(b",\"stream_options\":{\"include_usage\":true}");
        }
        body.push(b'}');
        Ok(body)
    }

    /// The whole request for the provider. `key` goes into one sensitive header.
    pub fn rebuild(
        &self,
        headers: &HeaderMap,
        route: &Route,
        key: Option<&[u8]>,
    ) -> Result<Request<Vec<u8>>, Error> {
        let body = self.body(&route.model)?;
        let mut request = Request::new(body);
        *request.method_mut() = Method::POST;
        *request.uri_mut() = route
            .base
            .join("/chat/completions")
            .parse()
            .map_err(|_| Error::BaseUrl(route.base.destination().to_string()))?;
        let out = request.headers_mut();
        for name in &PASSED {
            if let Some(value) = headers.get(name) {
                out.insert(name.clone(), value.clone());
            }
        }
        let authority = HeaderValue::try_from(route.base.authority());
        out.insert(header::HOST, authority.map_err(|_| Error::BaseUrl(route.base.authority()))?);
        out.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        // The meter reads the answer, so it must come as it is.
        out.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        out.insert(header::USER_AGENT, HeaderValue::from_static("cofferdam"));
        let accept = if self.streams { "text/event-stream" } else { "application/json" };
        out.insert(header::ACCEPT, HeaderValue::from_static(accept));
        if let Some(key) = key {
            let mut bearer = HeaderValue::from_bytes(&[b"Bearer ", key].concat()).map_err(|_| Error::Key)?;
            bearer.set_sensitive(true);
            out.insert(header::AUTHORIZATION, bearer);
        }
        Ok(request)
    }
}

/// What of a cell's headers travels on: W3C trace context, which names no one.
const PASSED: [HeaderName; 1] = [HeaderName::from_static("traceparent")];

/// The fields of one JSON object, each key once.
struct Fields(Vec<(String, Box<RawValue>)>);

impl<'de> de::Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Fields;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let mut fields: Vec<(String, Box<RawValue>)> = Vec::new();
                while let Some((key, value)) = map.next_entry::<String, Box<RawValue>>()? {
                    // Providers' parsers differ in which of two equal keys they take, and some take `Model`,
                    // or a long s in `\u017ftream`, for the key that we decide.
                    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
                    if key.is_empty() || !key.bytes().all(plain) {
                        let shown: String = key.chars().take(40).collect();
                        let why = format!("the key {shown:?} has more in it than a-z, 0-9 and _");
                        return Err(de::Error::custom(why));
                    }
                    if fields.iter().any(|(known, _)| *known == key) {
                        return Err(de::Error::custom(format!("the key {key:.40} is given twice")));
                    }
                    if fields.len() >= 128 {
                        return Err(de::Error::custom("more than 128 keys"));
                    }
                    fields.push((key, value));
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{BaseUrl, Patience};

    fn route() -> Route {
        let base = BaseUrl::parse("https://api.example.com/v1").unwrap();
        Route { name: "main".into(), base, model: "real-\"1".into(), patience: Patience::default() }
    }

    #[test]
    fn a_streaming_request_is_written_anew() {
        let body = br#" {"model":"openclaw", "stream": true,"stream_options":{"include_usage":false,"x":1},
            "messages":[{"role":"user","content":"a\u0041"}],"temperature":1.50} "#;
        let request = ChatRequest::parse(body).unwrap();
        assert_eq!(
            String::from_utf8(request.body("real-\"1").unwrap()).unwrap(),
            r#"{"model":"real-\"1","stream":true,"messages":[{"role":"user","content":"a\u0041"}],"temperature":1.50,"stream_options":{"include_usage":true}}"#
        );
    }

    #[test]
    fn a_plain_request_gets_no_stream_options() {
        let request = ChatRequest::parse(br#"{"messages":[],"stream_options":{},"model":"m"}"#).unwrap();
        assert_eq!(request.body("r").unwrap(), br#"{"model":"r","messages":[]}"#);
    }

    #[test]
    fn ambiguous_and_malformed_bodies_are_refused() {
        for bad in [
            r#"{"model":"a","model":"b","messages":[]}"#,
            r#"{"model":"a","\u006dodel":"b","messages":[]}"#,
            r#"{"Model":"a","model":"b","messages":[]}"#,
            r#"{"Model":"a","Stream":true,"messages":[]}"#,
            "{\"\u{17f}tream\":true,\"messages\":[]}",
            r#"{"\u017ftream":true,"messages":[]}"#,
            "{\"messages\":[],\"to\u{212a}ens\":1}",
            r#"{"messages":[],"max-tokens":1}"#,
            r#"{"messages":[],"":1}"#,
            r#"{"messages":[],"model ":1}"#,
            r#"{"messages":[],"stream":"true"}"#,
            r#"{"messages":{}}"#,
            r#"{"messages":[]} {}"#,
            "[]",
            "",
            "\u{0}",
            "{\"messages\":[",
        ] {
            assert!(matches!(ChatRequest::parse(bad.as_bytes()), Err(Error::Body(_))), "{bad}");
        }
        assert!(matches!(ChatRequest::parse(&vec![b' '; MAX_BODY + 1]), Err(Error::TooLong)));
        assert!(ChatRequest::parse(br#"{"messages":[],"top_p":1,"logit_bias2":{"A-b":1}}"#).is_ok());
        let error = ChatRequest::parse(br#"{"messages":[],"Stream":true}"#).unwrap_err();
        assert!(error.to_string().contains("\"Stream\""), "{error}");
    }

    #[test]
    fn the_cells_credentials_stay_and_the_tenants_key_is_added() {
        let mut headers = HeaderMap::new();
        for name in [
            "authorization",
            "x-api-key",
            "api-key",
            "cookie",
            "openai-organization",
            "proxy-authorization",
            "x-forwarded-for",
            "traceparent",
        ] {
            headers.insert(name, HeaderValue::from_static("from-the-cell"));
        }
        let request = ChatRequest::parse(br#"{"messages":[]}"#).unwrap();
        let out = request.rebuild(&headers, &route(), Some(b"real-key")).unwrap();
        assert_eq!(out.uri(), "/v1/chat/completions");
        assert_eq!(out.headers()["host"], "api.example.com");
        assert_eq!(out.headers()["authorization"], "Bearer real-key");
        assert!(out.headers()["authorization"].is_sensitive());
        let kept: Vec<_> = out.headers().iter().filter(|(_, value)| *value == "from-the-cell").collect();
        assert_eq!(kept.len(), 1, "only the trace context travels: {kept:?}");
        assert!(!format!("{out:?}").contains("real-key"));
        // Without a key none is sent.
        assert!(!request.rebuild(&headers, &route(), None).unwrap().headers().contains_key("authorization"));
        assert!(matches!(request.rebuild(&headers, &route(), Some(b"a\r\nb: c")), Err(Error::Key)));
    }

    #[test]
    fn only_two_operations_are_served() {
        assert_eq!(accept(&Method::POST, "/v1/chat/completions").unwrap(), Inbound::Chat);
        assert_eq!(accept(&Method::GET, "/v1/models").unwrap(), Inbound::Models);
        for (method, path, status) in [
            (Method::GET, "/v1/chat/completions", 405),
            (Method::POST, "/v1/models", 405),
            (Method::POST, "/v1/embeddings", 404),
            (Method::POST, "/v1/chat/completions/", 404),
            (Method::POST, "/v1/../admin", 404),
        ] {
            assert_eq!(accept(&method, path).unwrap_err().status(), status, "{method} {path}");
        }
    }
}
