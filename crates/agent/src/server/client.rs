//! One connection that is in, as the gateway knows it: what it may, what it follows, and what waits for it.

use crate::protocol::{MAX_BUFFERED, connect::Connect};
use cofferdam_base::Scope;
use serde_json::{Value, json};
use std::{
    collections::{BTreeSet, HashSet},
    sync::{
        Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Sessions that one connection may follow.
const FOLLOWED: usize = 256;

/// One connection.
#[derive(Debug)]
pub(crate) struct Client {
    scopes: BTreeSet<Scope>,
    /// The device that it proved to be.
    device: Option<String>,
    caps: BTreeSet<String>,
    presence: Value,
    follows_sessions: AtomicBool,
    followed: Mutex<HashSet<String>>,
    /// Frames on their way; how many bytes they are.
    frames: mpsc::UnboundedSender<String>,
    waiting: AtomicUsize,
    seq: Mutex<u64>,
    /// It is to be closed, and why.
    pub(crate) over: CancellationToken,
    why: OnceLock<&'static str>,
}

impl Client {
    /// A client that introduced itself, and the frames for it.
    pub(crate) fn new(
        connect: &Connect,
        scopes: BTreeSet<Scope>,
        device: Option<String>,
        user: &str,
        now: u64,
    ) -> (Self, mpsc::UnboundedReceiver<String>) {
        let (frames, outgoing) = mpsc::unbounded_channel();
        let client = &connect.client;
        let names: Vec<&str> = scopes.iter().map(|scope| scope.as_str()).collect();
        let mut presence = json!({
            "host": client.id, "version": client.version, "platform": client.platform, "mode": client.mode,
            "reason": "connect", "ts": now, "roles": ["operator"], "scopes": names, "user": { "id": user },
        });
        if let Some(instance) = &client.instance_id {
            presence["instanceId"] = instance.as_str().into();
        }
        if let Some(device) = &device {
            presence["deviceId"] = device.as_str().into();
        }
        let client = Self {
            scopes,
            device,
            caps: connect.caps.clone(),
            presence,
            follows_sessions: AtomicBool::new(false),
            followed: Mutex::default(),
            frames,
            waiting: AtomicUsize::new(0),
            seq: Mutex::default(),
            over: CancellationToken::new(),
            why: OnceLock::new(),
        };
        (client, outgoing)
    }

    pub(crate) fn may(&self, scope: Scope) -> bool {
        crate::protocol::methods::allows(&self.scopes, scope)
    }

    pub(crate) fn scopes(&self) -> &BTreeSet<Scope> {
        &self.scopes
    }

    /// The device that it proved to be.
    pub(crate) fn device(&self) -> Option<&str> {
        self.device.as_deref()
    }

    /// Closes it.
    pub(crate) fn end(&self, why: &'static str) {
        // The first reason is the one to tell.
        let _ = self.why.set(why);
        self.over.cancel();
    }

    /// Why it is closed.
    pub(crate) fn why(&self) -> &'static str {
        self.why.get().copied().unwrap_or_default()
    }

    /// Does it understand this?
    pub(crate) fn can(&self, cap: &str) -> bool {
        self.caps.contains(cap)
    }

    /// Who it is, as the edge says.
    pub(crate) fn user(&self) -> &str {
        self.presence["user"]["id"].as_str().unwrap_or_default()
    }

    pub(crate) fn presence(&self) -> Value {
        self.presence.clone()
    }

    pub(crate) fn follows_sessions(&self) -> bool {
        self.follows_sessions.load(Ordering::Relaxed)
    }

    pub(crate) fn follow_sessions(&self, on: bool) {
        self.follows_sessions.store(on, Ordering::Relaxed);
    }

    fn followed(&self) -> MutexGuard<'_, HashSet<String>> {
        self.followed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn follows(&self, key: &str) -> bool {
        self.followed().contains(key)
    }

    /// False: it follows as many as it may.
    pub(crate) fn follow(&self, key: &str, on: bool) -> bool {
        let mut followed = self.followed();
        if !on {
            followed.remove(key);
        } else if followed.len() < FOLLOWED || followed.contains(key) {
            followed.insert(key.to_owned());
        } else {
            return false;
        }
        true
    }

    /// Tells it an event, by its next number.
    pub(crate) fn event(&self, frame: impl FnOnce(u64) -> String) {
        // Numbers go out in their order.
        let mut seq = self.seq.lock().unwrap_or_else(PoisonError::into_inner);
        *seq += 1;
        self.send(frame(*seq));
    }

    /// Puts a frame on its way. One that does not read is closed.
    pub(crate) fn send(&self, frame: String) {
        let waiting = self.waiting.fetch_add(frame.len(), Ordering::Relaxed) + frame.len();
        if waiting > MAX_BUFFERED {
            self.end("slow consumer");
        } else {
            // A connection that has ended wants nothing.
            let _ = self.frames.send(frame);
        }
    }

    /// A frame went out.
    pub(crate) fn sent(&self, length: usize) {
        self.waiting.fetch_sub(length, Ordering::Relaxed);
    }
}
