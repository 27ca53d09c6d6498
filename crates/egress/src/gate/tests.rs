#![allow(clippy::unwrap_used)]

use super::*;
use cofferdam_base::Protocol;
use cofferdam_policy::{Guard, Policy};

#[derive(Debug, Default)]
struct Deaf(Mutex<Vec<Notice>>);

impl Outlet for Deaf {
    fn record(&self, _: Row) -> bool {
        true
    }

    fn tell(&self, notice: Notice) -> bool {
        self.0.lock().unwrap().push(notice);
        true
    }
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
    Grant { id, destination: destination(), span: GrantSpan::Always }
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
    gate.grant(Grant { id: 5, destination: destination(), span: GrantSpan::Once { until: Millis(2000) } });
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
    gate.grant(Grant { id: 5, destination: destination(), span: GrantSpan::Until(Millis(999)) });
    assert_eq!(gate.admit(&destination()).await.unwrap_err().reason, Reason::NoAnswer);
    gate.grant(Grant { id: 6, destination: destination(), span: GrantSpan::Until(Millis(1001)) });
    gate.admit(&destination()).await.unwrap();
}
