//! One call of a route for a person: the same way as a cell's, and every failure told apart.

use super::{Missed, Model, Once};
use cofferdam_base::{
    Provider,
    ipc::model::{Alias, Tested, Tokens, Trouble},
};
use cofferdam_egress::http::Body;
use cofferdam_inference::{Api, Asked, Call};
use http::HeaderMap;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// How long a provider may take to begin, if the route does not say, and then to end.
const BEGINS: Duration = Duration::from_mins(1);
const ENDS: Duration = Duration::from_mins(1);
/// So much of an answer is read.
const MOST: usize = 256 * 1024;
/// So much of it is told, in characters.
const TOLD: usize = 300;

impl Model {
    /// Calls a route, and no other in its place.
    pub(crate) async fn test(&self, alias: &Alias) -> Tested {
        let begun = Instant::now();
        let mut tested = Tested {
            trouble: Some(Trouble::NotReady),
            status: 0,
            said: String::new(),
            first_byte_ms: 0,
            whole_ms: 0,
            tokens: Tokens::default(),
        };
        if !self.gate.is_ready() {
            return tested;
        }
        let routes = self.routes();
        let Some(route) = routes.named(alias.as_str()) else {
            return Tested { trouble: Some(Trouble::NoRoute), ..tested };
        };
        let (api, path, body) = question(route.provider);
        let call = path.parse().ok().and_then(|uri| Call::parse(api, &uri, body.as_bytes()).ok());
        let (Some(call), Ok(seat)) = (call, Arc::clone(&self.limits.seats).try_acquire_owned()) else {
            let said = "the tenant's model requests are as many as may be under way".to_owned();
            return Tested { said, ..tested };
        };
        let headers = HeaderMap::new();
        let (user, agent) = ("operator".to_owned(), "model-test".to_owned());
        let asked = Asked { user, agent, ..Asked::read(&headers, &call) };
        let seat = Arc::new(seat);
        let once = Once { call: &call, headers: &headers, asked: &asked, seat, begins: Some(BEGINS) };
        let ms = || u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        let answer = match self.attempt(&once, route, false).await {
            Ok(answer) => answer,
            Err(missed) => {
                let Missed { trouble, said, response: _ } = missed;
                return Tested { trouble: Some(trouble), said, whole_ms: ms(), ..tested };
            }
        };
        tested.first_byte_ms = ms();
        tested.status = answer.status().as_u16();
        tested.trouble = Trouble::of_status(tested.status);
        let read = tokio::time::timeout(ENDS, beginning(answer.into_body())).await;
        tested.whole_ms = ms();
        match read {
            Err(_) => Tested { trouble: Some(Trouble::Slow), ..tested },
            Ok(None) => Tested { trouble: Some(tested.trouble.unwrap_or(Trouble::BrokeOff)), ..tested },
            Ok(Some(body)) => judged(tested, route.provider, &body),
        }
    }
}

/// As much of an answer as is read; none if it broke off before.
async fn beginning(mut body: Body) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    while bytes.len() < MOST
        && let Some(frame) = body.frame().await
    {
        // What is no data is a trailer.
        if let Ok(data) = frame.ok()?.into_data() {
            bytes.extend_from_slice(&data);
        }
    }
    Some(bytes)
}

/// Is it an answer, and what does it say?
fn judged(tested: Tested, provider: Provider, body: &[u8]) -> Tested {
    let short = |text: &str| {
        text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(TOLD).collect::<String>()
    };
    let value: Value = serde_json::from_slice(body).unwrap_or_default();
    if tested.trouble.is_some() {
        let error =
            value.pointer("/error/message").or_else(|| value.get("error")).or_else(|| value.get("message"));
        let said = error.and_then(Value::as_str).map_or_else(|| short(&String::from_utf8_lossy(body)), short);
        return Tested { said, ..tested };
    }
    let (answer, text, prompt, completion) = places(provider);
    if value.pointer(answer).is_none() {
        let said = short(&String::from_utf8_lossy(body));
        return Tested { trouble: Some(Trouble::NoAnswer), said, ..tested };
    }
    let count = |place: &str| value.pointer(place).and_then(Value::as_u64).unwrap_or_default();
    let tokens = Tokens { prompt: count(prompt), completion: count(completion) };
    let said = value.pointer(text).and_then(Value::as_str).map(short).unwrap_or_default();
    Tested { said, tokens, ..tested }
}

/// What is asked in the words of each wire: which API, at what path, with what body.
fn question(provider: Provider) -> (Api, &'static str, String) {
    const WORDS: &str = "Answer with one word: ok";
    let messages = json!([{ "role": "user", "content": WORDS }]);
    match provider {
        Provider::OpenAi => (Api::Chat, Api::Chat.path(), json!({ "messages": messages }).to_string()),
        Provider::Anthropic => {
            let body = json!({ "messages": messages, "max_tokens": 64 });
            (Api::Messages, Api::Messages.path(), body.to_string())
        }
        Provider::Ollama => {
            let body = json!({ "messages": messages, "stream": false });
            (Api::OllamaChat, Api::OllamaChat.path(), body.to_string())
        }
        Provider::Gemini => {
            let body = json!({ "contents": [{ "role": "user", "parts": [{ "text": WORDS }] }] });
            (Api::GeminiGenerate, "/v1beta/models/default:generateContent", body.to_string())
        }
    }
}

/// Where in an answer of each wire are: what makes it one, its text, and the tokens of prompt and answer.
const fn places(provider: Provider) -> (&'static str, &'static str, &'static str, &'static str) {
    match provider {
        Provider::OpenAi => (
            "/choices/0/message",
            "/choices/0/message/content",
            "/usage/prompt_tokens",
            "/usage/completion_tokens",
        ),
        Provider::Anthropic => ("/content", "/content/0/text", "/usage/input_tokens", "/usage/output_tokens"),
        Provider::Ollama => ("/message", "/message/content", "/prompt_eval_count", "/eval_count"),
        Provider::Gemini => (
            "/candidates/0",
            "/candidates/0/content/parts/0/text",
            "/usageMetadata/promptTokenCount",
            "/usageMetadata/candidatesTokenCount",
        ),
    }
}
