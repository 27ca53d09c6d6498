//! A cell's request, parsed once and written anew for the route's provider.
//!
//! Of the body every top-level field is kept as it was written, except those that the route decides; for a
//! provider of another wire it is translated. A key given twice is refused, so that nobody downstream can
//! read another one than we did, and so is what would make the provider fetch, run or keep something for the
//! cell. Of the headers nothing is kept but what describes the body and traces the request: no credential of
//! the cell's travels, neither in a header nor in the query.

use crate::{
    Api, Error, Route, asked,
    check::{Check, keeps},
    wire::{Object, Talk, gemini_model, shape, tables},
};
use cofferdam_base::{Provider, ipc::model::Tokens};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, header};
use serde::de::{self, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::fmt;

/// The longest body that is read, in bytes.
pub const MAX_BODY: usize = 10 * 1024 * 1024;

/// A parsed call of one of the APIs.
#[derive(Debug)]
pub struct Call {
    api: Api,
    fields: Vec<(String, Box<RawValue>)>,
    model: Option<String>,
    streams: bool,
    /// A Messages client asked for what is not yet in the API, as some SDKs do with every call.
    beta: bool,
    most: Tokens,
}

impl Call {
    /// Parses a body that came to `uri`, whose path [`crate::accept`] took for this API.
    pub fn parse(api: Api, uri: &Uri, body: &[u8]) -> Result<Self, Error> {
        if body.len() > MAX_BODY && keeps(Check::BodyLength) {
            return Err(Error::TooLong);
        }
        let bad = |error: serde_json::Error| Error::Body(error.to_string().chars().take(200).collect());
        let Fields(fields) = serde_json::from_slice(body).map_err(bad)?;
        let capitals = |key: &str| api.wire() != Provider::Gemini && !is_low(key) && keeps(Check::KeyLow);
        if let Some((key, _)) = fields.iter().find(|(key, _)| capitals(key)) {
            return Err(Error::Body(format!("the key {key:?} has more in it than a-z, 0-9 and _")));
        }
        let field = |name: &str| fields.iter().find(|(key, _)| key == name).map(|(_, value)| value.get());
        if let Some(name) = list_of(api)
            && !field(name).is_some_and(|list| list.starts_with('['))
        {
            return Err(Error::Body(format!("`{name}` is a list")));
        }
        let stream = match field("stream") {
            None | Some("null") => None,
            Some("false") => Some(false),
            Some("true") => Some(true),
            Some(_) => return Err(Error::Body("`stream` is true or false".into())),
        };
        let streams = match api {
            Api::Chat | Api::Responses | Api::Messages => stream.unwrap_or(false),
            Api::OllamaChat | Api::OllamaGenerate => stream.unwrap_or(true),
            Api::GeminiStream => true,
            _ => false,
        };
        let model = match api.wire() {
            Provider::Gemini => gemini_model(uri.path()).map(str::to_owned),
            _ => field("model").and_then(|model| serde_json::from_str(model).ok()),
        };
        let beta = query(api, uri.query().unwrap_or_default())?;
        let call = Self { api, fields, model, streams, beta, most: Tokens::default() };
        Ok(Self { most: asked::tokens(&call)?, ..call })
    }

    /// The most that it could use.
    pub(crate) const fn most(&self) -> Tokens {
        self.most
    }

    /// Which API it calls.
    pub const fn api(&self) -> Api {
        self.api
    }

    /// The model that the cell named.
    pub fn model(&self) -> Option<&str> {
        self.model.as_deref()
    }

    /// One of its fields, as it was written.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(key, _)| key == name).map(|(_, value)| value.get())
    }

    /// How many bytes its fields have.
    pub(crate) fn len(&self) -> usize {
        self.fields.iter().map(|(key, value)| key.len() + value.get().len() + 4).sum()
    }

    /// Is the answer to be streamed?
    pub const fn streams(&self) -> bool {
        self.streams
    }

    /// Does its client want to read in a stream what was used? Others do so unasked.
    pub(crate) fn wants_usage(&self) -> bool {
        let asked = self.fields.iter().find(|(key, _)| key == "stream_options");
        asked.is_some_and(|(_, options)| {
            let read = Object::read(options).and_then(|mut it| it.flag("include_usage"));
            read.is_ok_and(|flag| flag == Some(true))
        })
    }

    /// Which API of the route's provider it becomes.
    pub(crate) fn served(&self, route: &Route) -> Result<Api, Error> {
        self.api
            .at(route.provider)
            .ok_or(Error::NotServed { path: self.api.path(), provider: route.provider })
    }

    /// The body for the route's provider.
    pub fn body(&self, route: &Route) -> Result<Vec<u8>, Error> {
        let served = self.served(route)?;
        if served != self.api || (!route.provider_tools && keeps(Check::Harmless)) {
            for (key, value) in &self.fields {
                shape::check(tables::fields(self.api), key, value).map_err(Error::harmful)?;
            }
        }
        if served == self.api {
            return self.rewritten(route);
        }
        let talk = match self.api {
            Api::Messages => Talk::from_messages(&self.fields),
            _ => Talk::from_chat(&self.fields),
        };
        let written = talk.and_then(|talk| match served {
            Api::Messages => talk.to_messages(&route.model),
            _ => talk.to_chat(&route.model, keep_nothing(served, route)),
        });
        written.map_err(Error::untranslated)
    }

    /// Every field as it came, but for those that the route decides.
    fn rewritten(&self, route: &Route) -> Result<Vec<u8>, Error> {
        let keep_nothing = keep_nothing(self.api, route);
        let model = match self.api {
            Api::GeminiGenerate | Api::GeminiStream | Api::GeminiCount => None,
            Api::GeminiEmbed => Some(format!("models/{}", route.model)),
            _ => Some(route.model.clone()),
        };
        let mut out = Writer(Vec::with_capacity(self.len() + 128));
        if let Some(model) = model {
            out.field("model", serde_json::to_string(&model).map_err(bad)?.as_bytes())?;
        }
        for (key, value) in &self.fields {
            let decided = match key.as_str() {
                "model" => keeps(Check::RouteModel),
                "stream_options" => self.api == Api::Chat,
                "store" => keep_nothing,
                _ => false,
            };
            if !decided {
                out.field(key, value.get().as_bytes())?;
            }
        }
        if self.api == Api::Chat && self.streams {
            out.field("stream_options", b"{\"include_usage\":true}")?;
        }
        if keep_nothing {
            out.field("store", b"false")?;
        }
        Ok(out.end())
    }

    /// The whole request for the provider. `key` goes into one sensitive header.
    pub fn rebuild(
        &self,
        headers: &HeaderMap,
        route: &Route,
        key: Option<&[u8]>,
    ) -> Result<Request<Vec<u8>>, Error> {
        let served = self.served(route)?;
        let mut request = Request::new(self.body(route)?);
        *request.method_mut() = Method::POST;
        let bad_base = || Error::BaseUrl(route.base.destination().to_string());
        *request.uri_mut() = self.target(served, route).parse().map_err(|_| bad_base())?;
        let out = request.headers_mut();
        for name in headers.keys().filter(|name| PASSED.contains(name) || !keeps(Check::HeadersStay)) {
            if let Some(value) = headers.get(name) {
                out.insert(name.clone(), value.clone());
            }
        }
        out.insert(header::HOST, HeaderValue::try_from(route.base.authority()).map_err(|_| bad_base())?);
        out.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        // The meter reads the answer, so it must come as it is.
        out.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        out.insert(header::USER_AGENT, HeaderValue::from_static("cofferdam"));
        let lines = served.wire() == Provider::Ollama;
        let accept = match self.streams {
            true if lines => "application/x-ndjson",
            true => "text/event-stream",
            false => "application/json",
        };
        out.insert(header::ACCEPT, HeaderValue::from_static(accept));
        if route.provider == Provider::Anthropic {
            out.insert(VERSION, HeaderValue::from_static("2023-06-01"));
            // It opens fields of the body, and those have been looked at.
            if let Some(beta) = headers.get(&BETA).filter(|_| served == self.api && beta_is_plain(headers)) {
                out.insert(BETA, beta.clone());
            }
        }
        if let Some(key) = key {
            let (name, value) = match route.provider {
                Provider::OpenAi | Provider::Ollama => {
                    (header::AUTHORIZATION, HeaderValue::from_bytes(&[b"Bearer ", key].concat()))
                }
                Provider::Anthropic => (HeaderName::from_static("x-api-key"), HeaderValue::from_bytes(key)),
                Provider::Gemini => (HeaderName::from_static("x-goog-api-key"), HeaderValue::from_bytes(key)),
            };
            let mut value = value.map_err(|_| Error::Key)?;
            value.set_sensitive(true);
            out.insert(name, value);
        }
        Ok(request)
    }

    fn target(&self, served: Api, route: &Route) -> String {
        let beta = if self.beta { "?beta=true" } else { "" };
        match served.wire() {
            Provider::OpenAi => {
                let path = served.path();
                route.base.join(path.strip_prefix("/v1").unwrap_or(path))
            }
            Provider::Anthropic => route.base.under("/v1", served.path()) + beta,
            Provider::Ollama => route.base.under("/api", served.path()),
            Provider::Gemini => {
                let sse = if self.streams { "?alt=sse" } else { "" };
                let operation = format!("/v1beta/models/{}{}{sse}", route.model, served.path());
                route.base.under("/v1beta", &operation)
            }
        }
    }
}

fn is_low(key: &str) -> bool {
    !key.bytes().any(|b| b.is_ascii_uppercase())
}

/// The field that has to be a list.
const fn list_of(api: Api) -> Option<&'static str> {
    match api {
        Api::Chat | Api::Messages | Api::CountTokens | Api::OllamaChat => Some("messages"),
        Api::GeminiGenerate | Api::GeminiStream | Api::GeminiCount => Some("contents"),
        _ => None,
    }
}

/// Reads a query: the cell's key is left behind, and what is not known is refused. Says if it asks for betas.
fn query(api: Api, query: &str) -> Result<bool, Error> {
    let mut beta = false;
    let mut sse = false;
    for field in query.split('&').filter(|field| !field.is_empty()) {
        match (field.split_once('=').unwrap_or((field, "")), api.wire()) {
            (("beta", "true"), Provider::Anthropic) => beta = true,
            (("key", _), Provider::Gemini) => {}
            (("alt", "sse"), Provider::Gemini) if api == Api::GeminiStream => sse = true,
            (("alt" | "$alt", "json"), Provider::Gemini) if api != Api::GeminiStream => {}
            _ if !keeps(Check::QueryKnown) => {}
            ((key, _), _) => {
                let shown: String = key.chars().take(40).collect();
                return Err(Error::Query(shown));
            }
        }
    }
    match api {
        Api::GeminiStream if !sse => Err(Error::Body("a stream is served as events: add ?alt=sse".into())),
        _ => Ok(beta),
    }
}

/// What of a cell's headers travels on: W3C trace context, which names no one.
const PASSED: [HeaderName; 1] = [HeaderName::from_static("traceparent")];

const VERSION: HeaderName = HeaderName::from_static("anthropic-version");
const BETA: HeaderName = HeaderName::from_static("anthropic-beta");

fn beta_is_plain(headers: &HeaderMap) -> bool {
    let plain = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b',' | b' ');
    if !keeps(Check::BetaPlain) {
        return true;
    }
    let mut all = headers.get_all(&BETA).iter();
    matches!((all.next(), all.next()), (Some(one), None) if one.len() <= 512 && one.as_bytes().iter().all(plain))
}

fn bad(error: serde_json::Error) -> Error {
    Error::Body(error.to_string())
}

/// Writes one object, field by field.
struct Writer(Vec<u8>);

impl Writer {
    fn field(&mut self, key: &str, value: &[u8]) -> Result<(), Error> {
        self.0.push(if self.0.is_empty() { b'{' } else { b',' });
        serde_json::to_writer(&mut self.0, key).map_err(bad)?;
        self.0.push(b':');
        self.0.extend_from_slice(value);
        Ok(())
    }

    fn end(mut self) -> Vec<u8> {
        if self.0.is_empty() {
            self.0.push(b'{');
        }
        self.0.push(b'}');
        self.0
    }
}

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
                    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
                    let same = |(known, _): &(String, _)| known.eq_ignore_ascii_case(&key);
                    if (key.is_empty() || !key.bytes().all(plain)) && keeps(Check::KeyPlain) {
                        let shown: String = key.chars().take(40).collect();
                        let why = format!("the key {shown:?} has more in it than a-z, A-Z, 0-9 and _");
                        return Err(de::Error::custom(why));
                    }
                    if fields.iter().any(same) && keeps(Check::KeyOnce) {
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

/// Is the provider told to keep nothing, because it keeps answers unasked? Of servers that only speak as OpenAI does, not
/// all know the field in a chat.
fn keep_nothing(served: Api, route: &Route) -> bool {
    let unasked = match served {
        Api::Responses => true,
        Api::Chat => route.base.is_openai(),
        _ => false,
    };
    unasked && !route.provider_tools && keeps(Check::KeepsNothing)
}

#[cfg(test)]
mod tests;
