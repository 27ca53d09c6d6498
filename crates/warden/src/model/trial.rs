//! One call of a route for a person: the same way as a cell's, and every failure told apart.

use super::{Missed, Model, Once};
use cofferdam_base::ipc::model::{Alias, Tested, Tokens, Trouble};
use cofferdam_egress::http::Body;
use cofferdam_inference::{Asked, ChatRequest};
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
        let body =
            json!({ "messages": [{ "role": "user", "content": "Answer with one word: ok" }] }).to_string();
        let (Ok(chat), Ok(seat)) =
            (ChatRequest::parse(body.as_bytes()), Arc::clone(&self.limits.seats).try_acquire_owned())
        else {
            tested.said = "the tenant's model requests are as many as may be under way".to_owned();
            return tested;
        };
        let asked = Asked {
            user: "operator".to_owned(),
            agent: "model-test".to_owned(),
            ..Asked::read(&HeaderMap::new(), body.as_bytes())
        };
        let headers = HeaderMap::new();
        let once = Once {
            chat: &chat,
            headers: &headers,
            asked: &asked,
            seat: Arc::new(seat),
            begins: Some(BEGINS),
        };
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
            Ok(Some(body)) => judged(tested, &body),
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
fn judged(tested: Tested, body: &[u8]) -> Tested {
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
    let Some(message) = value.pointer("/choices/0/message") else {
        let said = short(&String::from_utf8_lossy(body));
        return Tested { trouble: Some(Trouble::NoAnswer), said, ..tested };
    };
    let count =
        |name: &str| value.pointer(&format!("/usage/{name}")).and_then(Value::as_u64).unwrap_or_default();
    let tokens = Tokens { prompt: count("prompt_tokens"), completion: count("completion_tokens") };
    Tested { said: short(message["content"].as_str().unwrap_or_default()), tokens, ..tested }
}
