#![allow(clippy::unwrap_used)]

use super::*;
use cofferdam_base::{Protocol, ipc::asked::RequestShown};
use cofferdam_policy::{Guard, Policy};

#[derive(Debug, Default)]
struct Deaf(Mutex<Vec<Notice>>);

impl Outlet for Deaf {
    fn record(&self, _: Row) -> Option<u64> {
        Some(1)
    }

    fn record_use(&self, _: Option<u64>, _: &Destination, _: &SecretName) -> bool {
        true
    }

    fn tell(&self, notice: Notice) -> bool {
        self.0.lock().unwrap().push(notice);
        true
    }
}

/// One without room until it is made.
#[derive(Debug, Default)]
struct Full(std::sync::atomic::AtomicBool, Notify);

impl Outlet for Full {
    fn record(&self, row: Row) -> Option<u64> {
        (!self.is_full() || row.what == RecordKind::Deny).then_some(1)
    }

    fn record_use(&self, _: Option<u64>, _: &Destination, _: &SecretName) -> bool {
        !self.is_full()
    }

    fn is_full(&self) -> bool {
        !self.0.load(std::sync::atomic::Ordering::SeqCst)
    }

    fn room(&self) -> Option<BoxFuture<'_, ()>> {
        self.is_full().then(|| Box::pin(self.1.notified()) as _)
    }

    fn tell(&self, _: Notice) -> bool {
        true
    }
}

#[tokio::test(start_paused = true)]
async fn what_would_pass_waits_a_moment_for_room_in_the_ledger_and_is_refused_when_there_is_none() {
    let outlet = Arc::new(Full::default());
    let gate = Gate::new(outlet.clone(), Arc::new(Noon));
    gate.configure(
        rules("version: 2\nrules:\n  - allow: new.example\n    budget: {requests_per_minute: 1}\n"),
        LIMITS,
    );
    gate.ready();
    let begun = tokio::time::Instant::now();
    assert_eq!(gate.admit(&destination()).await.unwrap_err().reason, Reason::LedgerUnavailable);
    assert_eq!(begun.elapsed(), STANDSTILL);
    let waiting = tokio::spawn({
        let gate = Arc::clone(&gate);
        async move { gate.admit(&destination()).await.map(drop) }
    });
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    outlet.0.store(true, std::sync::atomic::Ordering::SeqCst);
    outlet.1.notify_waiters();
    waiting.await.unwrap().expect("what waited counts against the budget once");
    assert_eq!(gate.admit(&destination()).await.unwrap_err().reason, Reason::BudgetSpent);
}

struct Noon;

impl Clock for Noon {
    fn now(&self) -> Millis {
        Millis(1000)
    }
}

fn destination() -> Destination {
    let host = Host::Name("new.example".parse().unwrap());
    Destination { host, port: 443.try_into().unwrap(), protocol: Protocol::Https }
}

fn gate() -> (Arc<Gate>, Arc<Deaf>) {
    let outlet = Arc::new(Deaf::default());
    let gate = Gate::new(outlet.clone(), Arc::new(Noon));
    let rules =
        Rules { policy: Policy::parse("version: 1\ndefault: ask\n").unwrap(), guard: Guard::default() };
    let limits = Limits { relays: 2, holds: 8, hold: Duration::from_secs(30), names_per_second: 20 };
    gate.configure(Arc::new(rules), limits);
    (gate, outlet)
}

fn always(id: u64) -> Grant {
    Grant { id, destination: destination(), span: GrantSpan::Always, request: None }
}

#[tokio::test]
async fn nothing_passes_before_control_said_everything() {
    let (gate, _) = gate();
    gate.grant(always(1));
    assert_eq!(gate.admit(&destination()).await.unwrap_err().reason, Reason::NotReady);
    gate.ready();
    gate.admit(&destination()).await.unwrap();
}

#[tokio::test]
async fn a_snapshot_takes_away_what_it_does_not_name() {
    let (gate, _) = gate();
    gate.ready();
    gate.grant(always(1));
    let pass = gate.admit(&destination()).await.unwrap();
    gate.begin_snapshot();
    gate.grant(always(2));
    assert!(!pass.withdrawn().is_cancelled());
    gate.ready();
    assert!(pass.withdrawn().is_cancelled());
    gate.admit(&destination()).await.unwrap();
}

#[tokio::test]
async fn no_more_relays_than_the_limit() {
    let (gate, _) = gate();
    gate.ready();
    gate.grant(always(1));
    let first = gate.admit(&destination()).await.unwrap();
    let _second = gate.admit(&destination()).await.unwrap();
    assert_eq!(gate.admit(&destination()).await.unwrap_err().reason, Reason::TooManyRelays);
    drop(first);
    gate.admit(&destination()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn many_who_wait_are_one_question_and_a_once_grant_frees_one_of_them() {
    let (gate, outlet) = gate();
    gate.ready();
    let waiting: Vec<_> = (0..3)
        .map(|_| {
            let gate = Arc::clone(&gate);
            tokio::spawn(async move { gate.admit(&destination()).await.map(|_| ()) })
        })
        .collect();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let asks =
        |outlet: &Deaf| outlet.0.lock().unwrap().iter().filter(|it| matches!(it, Notice::Ask { .. })).count();
    assert_eq!(asks(&outlet), 1);
    gate.grant(Grant {
        id: 5,
        destination: destination(),
        span: GrantSpan::Once { until: Millis(2000) },
        request: None,
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    gate.spent(5, true);
    // The answer was for one: the others are asked about again.
    assert_eq!(asks(&outlet), 2);
    let mut passed = 0;
    for task in waiting {
        passed += usize::from(task.await.unwrap().is_ok());
    }
    assert_eq!(passed, 1);
    assert_eq!(outlet.0.lock().unwrap().iter().filter(|it| matches!(it, Notice::HoldEnded(_))).count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_grant_that_is_over_opens_nothing() {
    let (gate, _) = gate();
    gate.ready();
    gate.grant(Grant {
        id: 5,
        destination: destination(),
        span: GrantSpan::Until(Millis(1000)),
        request: None,
    });
    assert_eq!(gate.admit(&destination()).await.unwrap_err().reason, Reason::NoAnswer);
    gate.grant(Grant {
        id: 6,
        destination: destination(),
        span: GrantSpan::Until(Millis(1001)),
        request: None,
    });
    gate.admit(&destination()).await.unwrap();
}

const LIMITS: Limits = Limits { relays: 2, holds: 8, hold: Duration::from_secs(30), names_per_second: 20 };

fn rules(policy: &str) -> Arc<Rules> {
    Arc::new(Rules { policy: Policy::parse(policy).unwrap(), guard: Guard::default() })
}

/// A connection that waits for its once-grant to be spent.
async fn spending(gate: &Arc<Gate>) -> tokio::task::JoinHandle<Result<Pass, Refusal>> {
    gate.ready();
    gate.grant(Grant {
        id: 5,
        destination: destination(),
        span: GrantSpan::Once { until: Millis(2000) },
        request: None,
    });
    let waiter = Arc::clone(gate);
    let task = tokio::spawn(async move { waiter.admit(&destination()).await });
    while gate.lock().spending.is_empty() {
        tokio::task::yield_now().await;
    }
    task
}

#[tokio::test(start_paused = true)]
async fn a_spent_grant_is_judged_again_by_the_rules_that_came_meanwhile() {
    let deny = "version: 1\ndefault: ask\nrules:\n  - deny: new.example\n";
    for (policy, passes) in [("version: 1\ndefault: ask\n", true), (deny, false)] {
        let (gate, _) = gate();
        let waiting = spending(&gate).await;
        gate.configure(rules(policy), LIMITS);
        gate.spent(5, true);
        match waiting.await.unwrap() {
            Ok(_) => assert!(passes),
            Err(refusal) => assert_eq!((passes, refusal.reason), (false, Reason::DeniedByRule)),
        }
        assert!(gate.lock().open.is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_withdrawn_right_after_a_grant_was_spent_opens_nothing() {
    for revoked in [true, false] {
        let (gate, _) = gate();
        let waiting = spending(&gate).await;
        gate.spent(5, true);
        // Before the waiter runs again.
        if revoked {
            gate.revoke(5);
        }
        let pass = waiting.await.unwrap().unwrap();
        assert_eq!(pass.withdrawn().is_cancelled(), revoked);
    }
}

#[tokio::test]
async fn a_waiter_that_left_before_its_grant_was_spent_takes_no_place() {
    let (gate, _) = gate();
    let waiting = spending(&gate).await;
    waiting.abort();
    assert!(waiting.await.is_err());
    gate.spent(5, true);
    assert!(gate.lock().open.is_empty());
}

struct Later(std::sync::atomic::AtomicU64);

impl Clock for Later {
    fn now(&self) -> Millis {
        Millis(self.0.load(std::sync::atomic::Ordering::SeqCst))
    }
}

#[tokio::test]
async fn the_address_of_a_name_is_not_given_away_while_a_connection_to_it_is_open() {
    let clock = Arc::new(Later(1000.into()));
    let gate = Gate::new(Arc::new(Deaf::default()), clock.clone());
    gate.configure(rules("version: 1\ndefault: ask\n"), LIMITS);
    gate.ready();
    gate.grant(always(1));
    let names = |text: &str| text.parse::<HostName>().unwrap();
    {
        let mut state = gate.lock();
        state.names = Names::with_capacity(20, 2);
        for name in ["new.example", "idle.example"] {
            state.names.look_up(&names(name), Millis(1000)).unwrap();
        }
    }
    let _pass = gate.admit(&destination()).await.unwrap();
    for _ in 0..2 {
        clock.0.fetch_add(crate::names::REST_MS, std::sync::atomic::Ordering::SeqCst);
        gate.tick();
    }
    let mut state = gate.lock();
    let now = gate.now();
    let kept = state.names.look_up(&names("new.example"), now).unwrap();
    // The positive control: the address that nobody uses is given to another name.
    state.names.look_up(&names("other.example"), now).unwrap();
    assert_eq!(state.names.look_up(&names("another.example"), now), Err(crate::names::NoAddress::Full));
    assert_eq!(state.names.meaning(kept.v4.into(), now), Meaning::Name(names("new.example")));
}

fn facts() -> RequestFacts {
    RequestFacts {
        destination: destination(),
        method: "GET".into(),
        target: "/".into(),
        headers: Vec::new(),
        websocket: false,
        grpc: false,
        body: cofferdam_policy::Body::None,
    }
}

fn request(url: &str) -> RequestShown {
    RequestShown {
        method: "GET".into(),
        url: url.into(),
        tool: None,
        arguments: None,
        size: None,
        whole: None,
    }
}

#[tokio::test(start_paused = true)]
async fn a_yes_for_once_is_for_the_request_that_was_shown_and_the_others_are_asked_for() {
    let (gate, outlet) = gate();
    gate.ready();
    let admit = |url: &str| {
        let (gate, request) = (Arc::clone(&gate), request(url));
        tokio::spawn(async move { gate.admit_request(facts(), move |_| request.clone()).await.map(drop) })
    };
    let first = admit("http://a/1");
    tokio::task::yield_now().await;
    let second = admit("http://a/2");
    tokio::task::yield_now().await;
    let asked = |outlet: &Deaf| -> Vec<String> {
        let notices = outlet.0.lock().unwrap();
        let url = |it: &Notice| match it {
            Notice::Ask { request, .. } => Some(request.clone().unwrap().url),
            _ => None,
        };
        notices.iter().filter_map(url).collect()
    };
    assert_eq!(asked(&outlet), ["http://a/1"], "one question at a time");
    let span = GrantSpan::Once { until: Millis(2000) };
    gate.grant(Grant { id: 5, destination: destination(), span, request: Some(request("http://a/1")) });
    assert_eq!(asked(&outlet), ["http://a/1", "http://a/2"]);
    tokio::task::yield_now().await;
    assert!(outlet.0.lock().unwrap().contains(&Notice::Spend(5)));
    gate.spent(5, true);
    first.await.unwrap().unwrap();
    assert!(!second.is_finished());
    // A yes that is for a time is for all of them.
    gate.grant(Grant {
        id: 6,
        destination: destination(),
        span: GrantSpan::Until(Millis(2000)),
        request: None,
    });
    second.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_yes_for_a_cells_life_ends_with_the_next_cells_first_connection() {
    let (gate, _) = gate();
    gate.ready();
    gate.begin_cell(3);
    let cell = |id, generation| Grant {
        id,
        destination: destination(),
        span: GrantSpan::Cell { generation },
        request: None,
    };
    gate.grant(cell(5, 2));
    assert_eq!(gate.admit(&destination()).await.unwrap_err().reason, Reason::NoAnswer, "of an older cell");
    gate.grant(cell(6, 3));
    let pass = gate.admit(&destination()).await.unwrap();
    gate.begin_cell(4);
    assert!(pass.withdrawn().is_cancelled());
    assert_eq!(gate.admit(&destination()).await.unwrap_err().reason, Reason::NoAnswer);
}

#[tokio::test]
async fn a_gate_with_nothing_to_look_after_says_so_until_somebody_comes() {
    let clock = Arc::new(Later(1000.into()));
    let gate = Gate::new(Arc::new(Deaf::default()), clock.clone());
    gate.configure(rules("version: 1\ndefault: ask\n"), LIMITS);
    gate.ready();
    let stirred = async || tokio::time::timeout(Duration::ZERO, gate.stirred()).await.is_ok();
    assert!(stirred().await);
    assert!(!gate.tick());
    assert!(!stirred().await, "a look does not stir");
    gate.grant(always(1));
    assert!(stirred().await, "a grant does");
    assert!(!gate.tick(), "one without an end needs no looking after");
    let pass = gate.admit(&destination()).await.unwrap();
    assert!(gate.tick());
    drop(pass);
    assert!(!gate.tick());
    gate.grant(Grant { span: GrantSpan::Until(Millis(9000)), ..always(2) });
    assert!(gate.tick());
    clock.0.store(9000, std::sync::atomic::Ordering::SeqCst);
    assert!(!gate.tick());
    let rule = "version: 2\nrules:\n  - allow: a.example\n    expires: 2030-01-01T00:00:00Z\n";
    gate.configure(rules(rule), LIMITS);
    assert!(gate.tick(), "a rule that ends is looked after");
}
