//! The gateway: its sessions, the runs under way, and who is told what.
//!
//! It owns the order of runs: one at a time in a session, each told to its end. The threats are a client that does not
//! read, which is closed once too much waits for it, and the same message sent twice, which is one run.

mod active;
mod approvals;
mod collect;
mod compact;
mod devices;
mod questions;
mod queue;
mod skills;
mod spawn;
mod tell;

use collect::Waiting;

pub(crate) use active::Active;
pub(crate) use approvals::{Approvals, Decision, Kind, Question};
pub(crate) use compact::Compacted;
pub(crate) use devices::{Pending, fresh_token};
pub(crate) use questions::Outcome;
use questions::Questions;
pub(crate) use queue::Said;
pub(crate) use spawn::Task;
pub(crate) use tell::shown;

use crate::{
    channels::Channels,
    config::{Config, Configured, Loaded},
    cron::Timer,
    ids::uuid,
    mcp::Servers,
    protocol::{Fault, methods},
    server::{Client, Counts},
    skills::Shelf,
    store::{Error, RunState, Session, Store},
    tools::Processes,
    turn::model::Model,
    web::Web,
};
use cofferdam_base::{Clock, Scope};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::watch;

/// Runs whose end is remembered in memory; older ones are in the store.
const REMEMBERED: usize = 256;

/// Everything that one tenant's gateway is.
pub(crate) struct Gateway {
    pub(crate) store: Store,
    pub(crate) model: Model,
    pub(crate) workspace: PathBuf,
    config: Configured,
    /// Commands in the background.
    pub(crate) processes: Processes,
    waiting_devices: devices::Waiting,
    questions: Questions,
    pub(crate) channels: Channels,
    shelf: Shelf,
    pub(crate) mcp: Servers,
    /// When something begins by itself.
    pub(crate) timer: Timer,
    /// What is asked of people.
    pub(crate) approvals: Approvals,
    /// How often something was posted.
    pub(crate) hooks: Counts,
    /// Of this start.
    pub(crate) boot: String,
    pub(crate) started_at: u64,
    clock: Box<dyn Clock>,
    state: Mutex<State>,
}

impl fmt::Debug for Gateway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gateway").field("boot", &self.boot).finish_non_exhaustive()
    }
}

#[derive(Default)]
struct State {
    clients: BTreeMap<u64, Arc<Client>>,
    last_client: u64,
    /// How often somebody came or went.
    presence: u64,
    /// What runs, by session.
    active: HashMap<String, Arc<Active>>,
    /// What waits for its turn, by session.
    waiting: HashMap<String, VecDeque<Waiting>>,
    /// Runs by their ids, the newest last.
    ends: VecDeque<Arc<Active>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics between two changes that belong together.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How a message is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// It is a run of its own, which began.
    Started,
    /// It waits for its turn.
    Queued,
    /// It goes into the run that is under way.
    Steered,
    /// It was sent before.
    Known(RunState),
}

impl Gateway {
    pub(crate) fn new(
        store: Store,
        model: Model,
        workspace: PathBuf,
        config: Configured,
        clock: Box<dyn Clock>,
    ) -> Result<Arc<Self>, Error> {
        let now = clock.now().0;
        for run in store.interrupt(now)? {
            tracing::warn!(run = run.id, "a run was cut off by the end of the gateway");
            if let Some(session) = store.session(&run.session_key)? {
                store.put_session(&Session { last_error: run.error, ..session })?;
            }
        }
        // Nobody waits any more for what an earlier gateway asked.
        store.end_approvals(now, "gateway-restart")?;
        Ok(Arc::new(Self {
            store,
            model,
            workspace,
            config,
            processes: Processes::default(),
            questions: Questions::default(),
            waiting_devices: devices::Waiting::default(),
            channels: Channels::default(),
            shelf: Shelf::default(),
            mcp: Servers::default(),
            approvals: Approvals::default(),
            timer: Timer::default(),
            hooks: Counts::default(),
            boot: uuid(),
            started_at: now,
            clock,
            state: Mutex::default(),
        }))
    }

    /// How it is set up, as of now.
    pub(crate) fn config(&self) -> Arc<Config> {
        self.config.current()
    }

    /// The same, and whenever it changes.
    pub(crate) fn watch_config(&self) -> watch::Receiver<Loaded> {
        self.config.watch()
    }

    /// The way to the world.
    pub(crate) fn web(&self) -> Web {
        Web { proxy: self.model.proxy }
    }

    /// The same, with its file.
    pub(crate) fn configured(&self) -> &Configured {
        &self.config
    }

    /// Where its own state is, which no tool reaches.
    pub(crate) fn private(&self) -> &Path {
        self.config.path().parent().unwrap_or(Path::new("/"))
    }

    /// Does anything run?
    pub(crate) fn busy(&self) -> bool {
        !self.state().active.is_empty()
    }

    /// The model that a session uses.
    pub(crate) fn model_of(&self, session: &Session) -> String {
        let model = session.model.clone().or_else(|| self.config().agents.defaults.model.clone());
        model.unwrap_or_else(|| "default".to_owned())
    }

    /// How much it thinks there; none: as it does by itself.
    pub(crate) fn thinking_of(&self, session: &Session) -> Option<String> {
        let level =
            session.thinking.clone().or_else(|| self.config().agents.defaults.thinking_default.clone());
        level.filter(|level| level != "off")
    }

    pub(crate) fn now(&self) -> u64 {
        self.clock.now().0
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// A client that is in.
    pub(crate) fn join(&self, client: &Arc<Client>) -> u64 {
        let mut state = self.state();
        state.last_client += 1;
        let number = state.last_client;
        state.clients.insert(number, Arc::clone(client));
        state.presence += 1;
        drop(state);
        self.tell_presence();
        number
    }

    /// A client that left.
    pub(crate) fn leave(&self, number: u64) {
        let mut state = self.state();
        state.clients.remove(&number);
        state.presence += 1;
        drop(state);
        self.tell_presence();
    }

    /// Who is connected, and how often that changed.
    pub(crate) fn presence(&self) -> (Value, u64) {
        let state = self.state();
        let rows: Vec<Value> = state.clients.values().map(|client| client.presence()).collect();
        (rows.into(), state.presence)
    }

    /// A session that is there, or a new one of this key.
    pub(crate) fn session(&self, key: &str) -> Result<Session, Error> {
        Ok(self.store.session(key)?.unwrap_or_else(|| Session::new(key, uuid(), self.now())))
    }
}

impl State {
    fn remember(&mut self, active: &Arc<Active>) {
        if self.ends.len() >= REMEMBERED {
            // Of one that has not ended, whoever waits for it wants to hear.
            let ended = self.ends.iter().position(|it| it.end.borrow().is_some());
            self.ends.remove(ended.unwrap_or(0));
        }
        self.ends.push_back(Arc::clone(active));
    }
}

/// May this client call a method? The fault says which scope is missing.
pub(crate) fn permitted(client: &Client, method: &str) -> Result<(), Fault> {
    let Some(scope) = methods::scope(method) else {
        return Err(Fault::invalid(format!("unknown method: {method}")));
    };
    holds(client, scope)
}

/// Does this client hold a scope?
pub(crate) fn holds(client: &Client, scope: Scope) -> Result<(), Fault> {
    if client.may(scope) {
        return Ok(());
    }
    let scope = scope.as_str();
    Err(Fault {
        code: crate::protocol::Code::Forbidden,
        message: format!("missing scope: {scope}"),
        details: Some(json!({ "code": "MISSING_SCOPE", "missingScope": scope, "requiredScopes": [scope] })),
    })
}
