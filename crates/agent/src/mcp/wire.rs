//! JSON-RPC, as MCP speaks it, and what waits for its answers.
//!
//! The threat is a server that sends what it likes: a message is bounded in length, an answer that nobody waits for is
//! dropped, and what it asks of us is refused.

use crate::text;
use serde_json::{Value, json};
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};
use tokio::sync::{Notify, oneshot, watch};

/// The longest message, in bytes.
pub(super) const LONGEST: usize = 4 * 1024 * 1024;
/// Of what one message asks, so many are answered.
pub(super) const ANSWERED: usize = 16;
/// Characters of an error that are told.
const ERROR: usize = 500;

/// What an answer says: its result, or the server's words on why there is none.
pub(super) type Said = Result<Value, String>;

/// One connection to a server, as those see it who wait for answers.
#[derive(Debug)]
pub(super) struct Link {
    next: AtomicU64,
    waiting: Mutex<HashMap<u64, Waiting>>,
    /// Why it is over.
    ended: watch::Sender<Option<String>>,
    /// The server said that its tools are others now.
    changed: AtomicBool,
}

#[derive(Debug)]
struct Waiting {
    answer: oneshot::Sender<Said>,
    heard: Arc<Notify>,
}

/// A request that waits for its answer.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) id: u64,
    pub(super) answer: oneshot::Receiver<Said>,
    /// Told at each sign of progress.
    pub(super) heard: Arc<Notify>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn request(id: u64, method: &str, params: Value) -> Value {
    json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params })
}

pub(super) fn notice(method: &str, params: Value) -> Value {
    json!({ "jsonrpc": "2.0", "method": method, "params": params })
}

impl Link {
    pub(super) fn new() -> Self {
        Self {
            next: AtomicU64::new(1),
            waiting: Mutex::default(),
            ended: watch::Sender::new(None),
            changed: AtomicBool::new(false),
        }
    }

    /// A request is about to be sent.
    pub(super) fn begin(&self) -> Pending {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, answer) = oneshot::channel();
        let heard = Arc::new(Notify::new());
        lock(&self.waiting).insert(id, Waiting { answer: sender, heard: Arc::clone(&heard) });
        Pending { id, answer, heard }
    }

    /// Nobody waits for it any more; false if it was answered.
    pub(super) fn give_up(&self, id: u64) -> bool {
        lock(&self.waiting).remove(&id).is_some()
    }

    /// It is over; the first reason counts.
    pub(super) fn end(&self, why: String) {
        self.ended.send_if_modified(|ended| ended.is_none() && ended.replace(why).is_none());
        lock(&self.waiting).clear();
    }

    pub(super) fn why_ended(&self) -> Option<String> {
        self.ended.borrow().clone()
    }

    /// Waits for its end.
    pub(super) async fn ended(&self) -> String {
        let mut ended = self.ended.subscribe();
        let why = ended.wait_for(Option::is_some).await.ok().and_then(|why| why.clone());
        why.unwrap_or_else(|| "it ended".to_owned())
    }

    /// Did the server say, since this was asked last, that its tools are others?
    pub(super) fn take_changed(&self) -> bool {
        self.changed.swap(false, Ordering::Relaxed)
    }

    /// One message came, or several in a list; gives what is to be sent back. What is none is dropped.
    pub(super) fn heard(&self, bytes: &[u8]) -> Vec<Value> {
        let all = match serde_json::from_slice(bytes) {
            Ok(Value::Array(all)) => all,
            Ok(one) => vec![one],
            Err(_) => Vec::new(),
        };
        let mut back = Vec::new();
        for one in all {
            back.extend(self.one(one).filter(|_| back.len() < ANSWERED));
        }
        back
    }

    fn one(&self, mut message: Value) -> Option<Value> {
        let Some(method) = message["method"].as_str() else {
            let waiting = lock(&self.waiting).remove(&message["id"].as_u64()?)?;
            let said = match message.get_mut("error") {
                Some(error) => Err(refused(error)),
                None => Ok(message["result"].take()),
            };
            // Whoever waited may have left.
            let _ = waiting.answer.send(said);
            return None;
        };
        match method {
            "ping" => Some(json!({ "jsonrpc": "2.0", "id": message.get("id")?, "result": {} })),
            "notifications/tools/list_changed" => {
                self.changed.store(true, Ordering::Relaxed);
                None
            }
            "notifications/progress" => {
                let waiting = lock(&self.waiting);
                waiting.get(&message["params"]["progressToken"].as_u64()?)?.heard.notify_one();
                None
            }
            // Neither roots nor samples nor questions to a person are offered.
            _ => {
                let error = json!({ "code": -32601, "message": "method not found" });
                Some(json!({ "jsonrpc": "2.0", "id": message.get("id")?, "error": error }))
            }
        }
    }
}

fn refused(error: &Value) -> String {
    let said = error["message"].as_str().map_or_else(|| error.to_string(), str::to_owned);
    text::shown(&said, ERROR)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn answers_reach_those_who_wait_and_nobody_else() {
        let link = Link::new();
        let (mut one, mut two) = (link.begin(), link.begin());
        let both = json!([
            { "jsonrpc": "2.0", "id": one.id, "result": 1 },
            { "jsonrpc": "2.0", "id": two.id, "error": { "code": 1, "message": "no\u{202e}" } },
            { "jsonrpc": "2.0", "id": 99, "result": 1 },
            { "jsonrpc": "2.0", "id": "x", "result": 1 },
        ]);
        assert!(link.heard(both.to_string().as_bytes()).is_empty());
        assert_eq!(one.answer.try_recv().unwrap(), Ok(json!(1)));
        assert_eq!(two.answer.try_recv().unwrap(), Err("no".to_owned()));
        assert!(!link.give_up(one.id));
        for (said, back) in [
            (json!({ "id": 7, "method": "ping" }), json!([{ "jsonrpc": "2.0", "id": 7, "result": {} }])),
            (json!({ "method": "notifications/tools/list_changed" }), json!([])),
            (json!({ "method": "sampling/createMessage" }), json!([])),
        ] {
            assert_eq!(json!(link.heard(said.to_string().as_bytes())), back);
        }
        let back = link.heard(br#"{"id":8,"method":"sampling/createMessage"}"#);
        assert_eq!(back[0]["error"]["code"], -32601);
        let many = json!(vec![json!({ "id": 1, "method": "ping" }); 1000]);
        assert_eq!(link.heard(many.to_string().as_bytes()).len(), ANSWERED);
        assert!(link.take_changed() && !link.take_changed());
        let mut three = link.begin();
        link.end("first".to_owned());
        link.end("second".to_owned());
        assert_eq!(link.why_ended().unwrap(), "first");
        assert!(three.answer.try_recv().is_err());
    }

    proptest::proptest! {
        #[test]
        fn no_message_panics(bytes in "(\\{|\\}|\\[|\\]|\"id\"|\"method\"|\"ping\"|:|,|1|\"result\"|\"params\"|null|\"x\"){0,30}") {
            let link = Link::new();
            let pending = link.begin();
            link.heard(bytes.as_bytes());
            drop(pending);
        }
    }
}
