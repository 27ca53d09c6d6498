//! One tenant's reconciler: a task that feeds the pure life-cycle machine and carries out its effects.
//!
//! Every step that starts, stops or removes something is in the ledger before its command goes to the
//! launcher. The state here is a cache of what the store wants and the launcher has: a killed control reads
//! both again and goes on. The threat: two truths. There is one mailbox, read by one task.

use crate::{
    api::types::LastProof,
    host::Host,
    probe,
    under_way::UnderWay,
    warden::{Heard, Seat},
};
use cofferdam_base::{
    Clock, Millis, Slot, TenantId,
    ipc::{
        edge::{RuntimeKind, TenantRoute},
        launcher::{self, CellOrder, CellSeen, Command, Limits, RuntimeRef},
        receipt::Receipt,
    },
};
use cofferdam_store::ledger::Kind;
use cofferdam_sys::clock::SystemClock;
use cofferdam_tenants::lifecycle::{Action, Desired, Effect, Event, Phase, TenantState, step};
use serde_json::json;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::{Mutex, mpsc, oneshot, watch},
    task::AbortHandle,
    time::{Instant, sleep_until},
};

/// SIGTERM is followed by SIGKILL after this.
const GRACE_MS: u32 = 5_000;
/// How long a command may take until it answers.
const PATIENCE_COMMAND: Duration = Duration::from_secs(30);
/// How long an OpenClaw may take; its first start on a busy machine takes most of a minute.
const PATIENCE_OPENCLAW: Duration = Duration::from_mins(3);
/// The first wait before a deleted tenant is struck from the store again; it doubles.
const FORGET_AGAIN: Duration = Duration::from_millis(250);
/// The longest.
const FORGET_LONGEST: Duration = Duration::from_mins(1);
/// The first pause between two probes; it grows by half up to the last. Each probe leaves rows in the ledger.
const PROBE_PAUSE: Duration = Duration::from_millis(8);
const PROBE_PAUSE_LAST: Duration = Duration::from_secs(1);

/// What never changes about a tenant, and the ways to its task and warden.
#[derive(Debug)]
pub struct Tenant {
    /// The id.
    pub id: TenantId,
    /// The slot.
    pub slot: Slot,
    /// What runs in its cell.
    pub runtime: RuntimeRef,
    /// What its cell may use. Held while that changes and while a start is sent, so that the launcher hears both
    /// in the order in which they became durable.
    pub(crate) limits: Mutex<Limits>,
    /// When it was made.
    pub created: Millis,
    /// Its warden's link.
    pub seat: Seat,
    /// Held while a wire of a warden is read, so that one is read to its end before the next.
    pub reading: Mutex<()>,
    /// Held while policy, secrets, model or grants change and while a snapshot is sent, so that the warden
    /// gets them in the order in which they became durable.
    pub changes: Mutex<()>,
    /// How far its wardens' records were heard.
    pub heard: Heard,
    /// How far what they used of models was heard since the start of control.
    pub heard_uses: Heard,
    /// What its warden has under way at its models.
    pub under_way: UnderWay,
    /// Placeholders that were sent where they are not bound, and known values that were blocked.
    pub(crate) alerts: AtomicU64,
    /// A canary of its was sent, and it is being killed.
    pub(crate) tripped: AtomicBool,
    /// Is its home being filled?
    pub(crate) importing: AtomicBool,
    /// Why it was killed, as far as this control knows.
    pub(crate) killed_for: std::sync::Mutex<Option<String>>,
    /// What its last proof found.
    pub(crate) proof: std::sync::Mutex<Option<LastProof>>,
    /// Held while a wish becomes durable and is told.
    pub(crate) wishes: Mutex<()>,
    mailbox: mpsc::UnboundedSender<Mail>,
    view: watch::Sender<View>,
}

/// What is known of the tenant now.
#[derive(Clone, Debug)]
pub struct View {
    /// What somebody asked for.
    pub desired: Desired,
    /// The state in one word.
    pub phase: Phase,
    /// The last start.
    pub generation: u64,
    /// What went wrong last; empty after all went well.
    pub trouble: String,
    /// The running cell.
    pub cell: Option<CellSeen>,
    /// Its seal; unknown for a cell that an earlier control started.
    pub receipt: Option<Receipt>,
    /// Was it struck from the store, once nothing else is left of it, or why not? None before that was tried.
    pub struck: Option<Result<(), String>>,
}

#[derive(Debug)]
enum Mail {
    /// Something happened; the sender may wait until it was taken in.
    Event(Event, Option<oneshot::Sender<()>>),
    /// The launcher started the cell; and whether its configuration had been changed before.
    Started(CellSeen, Receipt, bool),
}

/// What a new task is made of.
#[derive(Debug)]
pub struct Inbox(mpsc::UnboundedReceiver<Mail>);

impl Tenant {
    /// A tenant as the store has it. Its task is not running yet.
    pub fn new(
        (id, slot): (TenantId, Slot),
        (runtime, limits): (RuntimeRef, Limits),
        created: Millis,
        state: &TenantState,
        heard: Heard,
    ) -> (Arc<Self>, Inbox) {
        let (mailbox, inbox) = mpsc::unbounded_channel();
        let view = View {
            desired: state.desired,
            phase: state.phase(),
            generation: state.generation,
            trouble: String::new(),
            cell: None,
            receipt: None,
            struck: None,
        };
        let tenant = Self {
            id,
            slot,
            runtime,
            limits: Mutex::new(limits),
            created,
            seat: Seat::default(),
            reading: Mutex::default(),
            changes: Mutex::default(),
            wishes: Mutex::default(),
            alerts: AtomicU64::new(0),
            tripped: AtomicBool::new(false),
            importing: AtomicBool::new(false),
            killed_for: std::sync::Mutex::default(),
            proof: std::sync::Mutex::default(),
            heard,
            heard_uses: Heard::default(),
            under_way: UnderWay::default(),
            mailbox,
            view: watch::Sender::new(view),
        };
        (Arc::new(tenant), Inbox(inbox))
    }

    /// Tells the task what happened. A task that is over has nothing left to do with it.
    pub fn post(&self, event: Event) {
        let _ = self.mailbox.send(Mail::Event(event, None));
    }

    /// The same, and waits until the view shows it.
    pub async fn tell(&self, event: Event) {
        let (sender, taken) = oneshot::channel();
        let _ = self.mailbox.send(Mail::Event(event, Some(sender)));
        let _ = taken.await;
    }

    /// What is known now.
    pub fn view(&self) -> View {
        self.view.borrow().clone()
    }

    /// Waits for the first view of which this is true.
    pub async fn wait(&self, wanted: impl FnMut(&View) -> bool) -> View {
        let mut watch = self.view.subscribe();
        // The sender is in `self`, so the watch cannot end first.
        watch.wait_for(wanted).await.map_or_else(|_| self.view(), |view| view.clone())
    }

    /// Notes a cell that runs already.
    pub fn adopt(&self, cell: CellSeen) {
        self.view.send_modify(|view| view.cell = Some(cell));
    }

    /// Notes the seal of the running cell after it changed.
    pub(crate) fn resealed(&self, receipt: Receipt) {
        self.view.send_modify(|view| view.receipt = view.cell.is_some().then_some(receipt));
    }

    /// What answers in the cell.
    pub fn kind(&self) -> RuntimeKind {
        match &self.runtime {
            RuntimeRef::Command(_) => RuntimeKind::Command,
            RuntimeRef::Openclaw(_) | RuntimeRef::Native => RuntimeKind::Openclaw,
        }
    }

    /// What the edge is told. `running` is what is meant to be, not yet what is: the edge finds out itself
    /// whether there is a cell.
    pub fn route(&self) -> TenantRoute {
        TenantRoute {
            tenant: self.id.clone(),
            slot: self.slot,
            state: desired_word(self.view.borrow().desired).to_owned(),
            runtime: self.kind(),
        }
    }
}

/// `running`, `stopped` or `deleted`.
pub(crate) fn desired_word(desired: Desired) -> &'static str {
    match desired {
        Desired::Running => "running",
        Desired::Stopped => "stopped",
        Desired::Killed => "killed",
        Desired::Deleted => "deleted",
    }
}

/// The task: ends when nothing is left of the tenant.
pub(crate) async fn run(host: Arc<Host>, tenant: Arc<Tenant>, mut state: TenantState, mut inbox: Inbox) {
    let mut wake: Option<Instant> = None;
    let mut probing: Option<AbortHandle> = None;
    let mut forgetting: Option<Forgetting> = None;
    loop {
        let mail = tokio::select! {
            mail = inbox.0.recv() => mail,
            () = sleep_until(forgetting.map_or_else(Instant::now, |f| f.again_at)), if forgetting.is_some() => {
                forgetting = forget(&host, &tenant, forgetting).await;
                if forgetting.is_none() {
                    return;
                }
                continue;
            }
            () = sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => {
                wake = None;
                Some(Mail::Event(Event::Woken, None))
            }
        };
        let Some(mail) = mail else { return };
        let (event, taken) = match mail {
            Mail::Event(event, taken) => (event, taken),
            Mail::Started(cell, receipt, drift) => {
                if drift {
                    let body = json!({ "generation": cell.generation });
                    host.observe(Some(&tenant.id), Kind::ConfigDrift, body).await;
                }
                let body = json!({ "generation": cell.generation, "layers": receipt.layers });
                host.observe(Some(&tenant.id), Kind::CellSealed, body).await;
                tenant.view.send_modify(|view| {
                    view.cell = Some(cell);
                    view.receipt = Some(receipt);
                });
                (Event::Done(Action::StartCell), None)
            }
        };
        note(&host, &tenant, &event).await;
        let (next, effects) = step(&state, event, SystemClock.now());
        state = next;
        publish(&host, &tenant, &state).await;
        drop(taken);
        for effect in effects {
            match effect {
                Effect::WakeAt(moment) => {
                    wake = Some(Instant::now() + Duration::from_millis(moment.since(SystemClock.now())));
                }
                Effect::Launch(action) => act(&host, &tenant, action).await,
                Effect::StartCell { generation } => start_cell(&host, &tenant, generation).await,
                Effect::ConfigureWarden => {
                    tokio::spawn(configure(Arc::clone(&host), Arc::clone(&tenant)));
                }
                Effect::Probe { generation } => {
                    let task = tokio::spawn(probe(Arc::clone(&host), Arc::clone(&tenant), generation));
                    if let Some(old) = probing.replace(task.abort_handle()) {
                        old.abort();
                    }
                }
                Effect::Forget => {
                    forgetting = forget(&host, &tenant, None).await;
                    if forgetting.is_none() {
                        return;
                    }
                }
            }
        }
    }
}

/// What happened by itself is in the ledger too.
async fn note(host: &Host, tenant: &Tenant, event: &Event) {
    let (kind, body) = match event {
        Event::CellEnded { generation, status } => {
            if let Err(error) = host.cell_ended(&tenant.id, *generation).await {
                // The next cell is not started before it could be.
                tracing::error!(tenant = %tenant.id, %error, "what was granted for a cell's life is not over");
            }
            (Kind::CellEnded, json!({ "generation": generation, "status": status }))
        }
        Event::WardenEnded => (Kind::WardenEnded, tail(tenant)),
        Event::WardenLost => (Kind::WardenLost, tail(tenant)),
        Event::CellReady { generation } => (Kind::CellReady, json!({ "generation": generation })),
        Event::CellNotReady { generation } => (Kind::CellNotReady, json!({ "generation": generation })),
        Event::Failed(action, why) => (Kind::Failed, json!({ "action": action, "why": why })),
        _ => return,
    };
    host.observe(Some(&tenant.id), kind, body).await;
}

/// What is known of a warden's last words: what came after them, if anything did, died with it.
fn tail(tenant: &Tenant) -> serde_json::Value {
    let last = tenant.heard.last();
    json!({ "boot": last.map(|(boot, _)| boot), "after": last.map(|(_, seq)| seq), "may_be_lost": true })
}

/// Shows the state to whoever waits for it, and to the edge.
async fn publish(host: &Host, tenant: &Tenant, state: &TenantState) {
    let mut changed = false;
    tenant.view.send_modify(|view| {
        changed = view.desired != state.desired;
        view.desired = state.desired;
        view.phase = state.phase();
        view.generation = state.generation;
        view.trouble.clone_from(&state.trouble);
        if state.cell == cofferdam_tenants::lifecycle::Cell::Absent {
            view.cell = None;
            view.receipt = None;
        }
    });
    if changed {
        host.edge().tell(&cofferdam_base::ipc::edge::Config::Tenant(tenant.route())).await;
    }
}

async fn act(host: &Host, tenant: &Arc<Tenant>, action: Action) {
    let (op, id, slot) = (host.launcher().op(), tenant.id.clone(), tenant.slot);
    let (kind, command) = match action {
        Action::MakeHome => {
            let set = tenant.limits.lock().await;
            let limits = match host.left(&tenant.id, *set).await {
                Ok(limits) => limits,
                Err(error) => return tenant.post(Event::Failed(action, error.to_string())),
            };
            (Kind::MakeHome, Command::MakeHome { op, tenant: id, slot, limits })
        }
        Action::RemoveHome => (Kind::RemoveHome, Command::RemoveHome { op, tenant: id, slot }),
        Action::StartWarden => (Kind::StartWarden, Command::StartWarden { op, tenant: id, slot }),
        Action::StopWarden => (Kind::StopWarden, Command::StopWarden { op, tenant: id }),
        Action::StopCell => (Kind::StopCell, Command::StopCell { op, tenant: id, grace_ms: GRACE_MS }),
        // The machine starts cells by an effect of its own, which bears the generation.
        Action::StartCell => return,
    };
    if let Err(error) = host.journal(&tenant.id, kind, json!({})).await {
        tenant.post(Event::Failed(action, error.to_string()));
        return;
    }
    let mailbox = tenant.mailbox.clone();
    let answer = move |event| {
        let event = match event {
            launcher::Event::Done { op: _ } => Event::Done(action),
            launcher::Event::Failed { op: _, failure } => Event::Failed(action, failure.message),
            other => Event::Failed(action, format!("the launcher answered {other:?}")),
        };
        let _ = mailbox.send(Mail::Event(event, None));
    };
    if let Err(error) = host.launcher().send(&command, &[], answer).await {
        tenant.post(Event::Failed(action, error.to_string()));
    }
}

async fn start_cell(host: &Host, tenant: &Arc<Tenant>, generation: u64) {
    // The number is durable before a cell bears it, so that no later start bears it again.
    if let Err(error) = host.started(&tenant.id, generation).await {
        tenant.post(Event::Failed(Action::StartCell, error.to_string()));
        return;
    }
    let placeholders = match host.placeholders(&tenant.id).await {
        Ok(placeholders) => placeholders,
        Err(error) => {
            return tenant.post(Event::Failed(Action::StartCell, error.to_string()));
        }
    };
    let set = tenant.limits.lock().await;
    let policy = match host.policy_in_store(&tenant.id).await {
        Ok(policy) => policy,
        Err(error) => return tenant.post(Event::Failed(Action::StartCell, error.to_string())),
    };
    // A proof may have ended since this start was begun.
    if let Some(bar) = host.barred(tenant) {
        return tenant.post(Event::Failed(Action::StartCell, format!("{}; {}", bar.message, bar.mend)));
    }
    let order = CellOrder {
        op: host.launcher().op(),
        tenant: tenant.id.clone(),
        slot: tenant.slot,
        generation,
        // What fills a home is in this program, which upstream's cells do not see.
        runtime: if tenant.importing.load(Ordering::Relaxed) {
            RuntimeRef::Native
        } else {
            tenant.runtime.clone()
        },
        limits: policy.lower(*set),
        authority: tenant.seat.link().and_then(|link| link.authority()),
        placeholders,
        offered: policy.read_only().into_iter().collect(),
    };
    let mailbox = tenant.mailbox.clone();
    let answer = move |event| {
        let failed = |why| Mail::Event(Event::Failed(Action::StartCell, why), None);
        let mail = match event {
            launcher::Event::CellStarted { op: _, cell, receipt, drift } => {
                Mail::Started(cell, receipt, drift)
            }
            launcher::Event::Failed { op: _, failure } => failed(match failure.mend.as_str() {
                "" => failure.message,
                mend => format!("{}; {mend}", failure.message),
            }),
            other => failed(format!("the launcher answered {other:?}")),
        };
        let _ = mailbox.send(mail);
    };
    if let Err(error) = host.launcher().send(&Command::StartCell(order), &[], answer).await {
        tenant.post(Event::Failed(Action::StartCell, error.to_string()));
    }
}

async fn configure(host: Arc<Host>, tenant: Arc<Tenant>) {
    let before = tenant.seat.link();
    let event = match host.configure(&tenant).await {
        Ok(()) => Event::WardenConfigured,
        Err(crate::host::NotConfigured::Refused(why)) => Event::WardenRefused(why),
        Err(crate::host::NotConfigured::Lost) => {
            let now = tenant.seat.link();
            if before.zip(now).is_some_and(|(before, now)| !Arc::ptr_eq(&before, &now)) {
                // The end of that one was told when its wire ended, and the next one is none of its business.
                return;
            }
            Event::WardenLost
        }
    };
    tenant.post(event);
}

async fn probe(host: Arc<Host>, tenant: Arc<Tenant>, generation: u64) {
    let patience = match tenant.kind() {
        RuntimeKind::Command => PATIENCE_COMMAND,
        RuntimeKind::Openclaw => PATIENCE_OPENCLAW,
    };
    let deadline = Instant::now() + patience;
    let (mut last, mut pause) = (String::new(), PROBE_PAUSE);
    // One for the whole start.
    let token = match host.probe_token(&tenant) {
        Ok(token) => token,
        Err(error) => {
            tracing::warn!(tenant = %tenant.id, %error, "no token for the readiness probe");
            return tenant.post(Event::CellNotReady { generation });
        }
    };
    while Instant::now() < deadline {
        let asked = probe::ask(tenant.kind(), host.address(&tenant), &token).await;
        match asked {
            Ok(()) => return tenant.post(Event::CellReady { generation }),
            Err(error) => last = error.to_string(),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 3 / 2).min(PROBE_PAUSE_LAST);
    }
    tracing::warn!(tenant = %tenant.id, %last, "the runtime did not become ready");
    tenant.post(Event::CellNotReady { generation });
}

/// A tenant of whom nothing is left but its rows, and when these are tried again.
#[derive(Clone, Copy, Debug)]
struct Forgetting {
    again_at: Instant,
    wait: Duration,
}

/// Strikes the tenant from the store; if that failed, when it is tried again.
async fn forget(host: &Host, tenant: &Tenant, earlier: Option<Forgetting>) -> Option<Forgetting> {
    let struck = host.forget(tenant).await;
    let told = struck.as_ref().copied().map_err(ToString::to_string);
    tenant.view.send_modify(|view| view.struck = Some(told));
    let error = struck.err()?;
    tracing::error!(tenant = %tenant.id, %error, "a deleted tenant is still in the store");
    let wait = earlier.map_or(FORGET_AGAIN, |forgetting| (forgetting.wait * 2).min(FORGET_LONGEST));
    Some(Forgetting { again_at: Instant::now() + wait, wait })
}
