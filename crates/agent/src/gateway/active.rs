//! One run: what is known of it while it lasts, and how those who wait hear of its end.

use super::lock;
use crate::{
    store::{Message, Run, RunState, Session},
    turn::Wish,
};
use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, atomic::AtomicU64},
    time::Duration,
};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

/// A run, from the moment at which it was asked for.
#[derive(Debug)]
pub(crate) struct Active {
    /// The client's own key.
    pub(crate) id: String,
    pub(crate) session_key: String,
    pub(crate) session_id: String,
    pub(crate) started_at: u64,
    /// Nobody asked for it, and nobody is shown that it has nothing to say.
    pub(crate) heartbeat: bool,
    /// What is written meanwhile is no part of it.
    pub(super) apart: bool,
    /// It is no part of the chat.
    pub(super) quiet: bool,
    /// Ends it.
    pub(crate) stop: CancellationToken,
    pub(super) seq: AtomicU64,
    /// Its answers so far.
    text: watch::Sender<String>,
    told: Mutex<Told>,
    /// Said between two of its steps.
    pub(super) steering: Mutex<VecDeque<Message>>,
    /// Runs whose messages it answers besides its own.
    pub(super) collected: Mutex<Vec<Arc<Self>>>,
    pub(super) end: watch::Sender<Option<Run>>,
    pub(super) usage: Mutex<Used>,
}

/// What of a run's text clients know: where its answer begins there, how far it was told, and when.
#[derive(Debug, Default)]
struct Told {
    begin: usize,
    end: usize,
    at: Option<Instant>,
}

/// How long more of an answer waits for still more.
const BETWEEN: Duration = Duration::from_millis(50);

/// What a run used.
#[derive(Clone, Debug, Default)]
pub(crate) struct Used {
    pub(crate) input: u64,
    pub(crate) output: u64,
    pub(crate) model: String,
    /// Why its last answer ended.
    pub(crate) stop: String,
}

impl Active {
    pub(super) fn new(id: String, session: &Session, now: u64) -> Self {
        Self {
            id,
            session_key: session.key.clone(),
            session_id: session.id.clone(),
            started_at: now,
            heartbeat: false,
            apart: false,
            quiet: false,
            stop: CancellationToken::new(),
            seq: AtomicU64::new(0),
            text: watch::Sender::new(String::new()),
            told: Mutex::default(),
            steering: Mutex::default(),
            collected: Mutex::default(),
            end: watch::Sender::new(None),
            usage: Mutex::default(),
        }
    }

    pub(super) fn wished(self, wish: &Wish) -> Self {
        // An answer to a person would be forgotten with a heartbeat's that says nothing.
        Self { heartbeat: wish.heartbeat, apart: wish.apart || wish.heartbeat, ..self }
    }

    /// Does it hear what is said between two of its steps?
    pub(super) fn hears(&self, wish: &Wish) -> bool {
        let meant = !self.apart || wish.awaited_by.as_deref() == Some(&self.id);
        meant && !self.stop.is_cancelled()
    }

    /// May it be one that is no part of the chat?
    pub(super) fn quiet(self, quiet: bool) -> Self {
        Self { quiet, ..self }
    }

    /// Its row while it runs.
    pub(crate) fn row(&self) -> Run {
        Run {
            id: self.id.clone(),
            session_key: self.session_key.clone(),
            state: RunState::Running,
            started_at: self.started_at,
            ended_at: None,
            said: None,
            error: None,
        }
    }

    /// The next answer begins.
    pub(crate) fn begin_answer(&self) {
        let length = self.text.borrow().len();
        *lock(&self.told) = Told { begin: length, end: length, at: None };
    }

    /// More of its answer. Another answer is another paragraph.
    pub(crate) fn grow(&self, delta: &str) {
        let mut told = lock(&self.told);
        self.text.send_modify(|text| {
            if told.begin == text.len() && !text.is_empty() {
                text.push_str("\n\n");
                (told.begin, told.end) = (text.len(), text.len());
            }
            text.push_str(delta);
        });
    }

    /// What was shown of an answer that has no end yet.
    pub(crate) fn partial(&self) -> Option<String> {
        let (told, text) = (lock(&self.told), self.text.borrow());
        text.get(told.begin..).filter(|partial| !partial.is_empty()).map(str::to_owned)
    }

    /// Is it the run of this id, or does it answer that one too?
    pub(crate) fn is(&self, id: &str) -> bool {
        self.id == id || lock(&self.collected).iter().any(|other| other.id == id)
    }

    /// What of its answer is to be told, and the answer so far; none if nothing is, or something was told just now.
    /// Clients are told the whole each time, so each token by itself would be too much.
    pub(crate) fn untold(&self, now: Instant, all: bool) -> Option<(String, String)> {
        let (mut told, text) = (lock(&self.told), self.text.borrow());
        let late = told.at.is_none_or(|at| now.duration_since(at) >= BETWEEN);
        let delta = text.get(told.end..).filter(|delta| !delta.is_empty() && (all || late))?.to_owned();
        let answer = text.get(told.begin..).unwrap_or_default().to_owned();
        (told.end, told.at) = (text.len(), Some(now));
        Some((delta, answer))
    }

    pub(crate) fn text(&self) -> String {
        self.text.borrow().clone()
    }

    /// Its answers as they grow.
    pub(crate) fn texts(&self) -> watch::Receiver<String> {
        self.text.subscribe()
    }

    pub(crate) fn used(&self) -> Used {
        lock(&self.usage).clone()
    }

    /// Waits for its end.
    pub(crate) async fn ended(&self) -> Run {
        let mut end = self.end.subscribe();
        match end.wait_for(Option::is_some).await.ok().and_then(|end| end.clone()) {
            Some(run) => run,
            // Its sender lives in itself.
            None => self.row(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_apart_hears_only_what_it_waits_for() {
        let session = Session::new(crate::MAIN_SESSION, "s".to_owned(), 0);
        let active = |wish: &Wish| Active::new("r".to_owned(), &session, 0).wished(wish);
        let result_for = |run: &str| Wish { awaited_by: Some(run.to_owned()), ..Wish::default() };
        let open = active(&Wish::default());
        assert!(open.hears(&Wish::default()) && open.hears(&result_for("other")));
        for apart in [Wish { apart: true, ..Wish::default() }, Wish { heartbeat: true, ..Wish::default() }] {
            let apart = active(&apart);
            assert!(!apart.hears(&Wish::default()) && !apart.hears(&result_for("other")));
            assert!(apart.hears(&result_for("r")));
        }
        open.stop.cancel();
        assert!(!open.hears(&Wish::default()));
    }
}
