#![allow(clippy::unwrap_used)]

use super::*;
use cofferdam_base::{Destination, Host, Millis, Protocol};

struct At(u64);
impl Clock for At {
    fn now(&self) -> Millis {
        Millis(self.0)
    }
}

fn outbox() -> Arc<Outbox> {
    Outbox::new("acme".parse().unwrap(), 7, Arc::new(At(5)))
}

fn row(what: RecordKind) -> Row {
    Row {
        what,
        destination: None,
        by: "rule".into(),
        reason: String::new(),
        request: String::new(),
        seen: None,
        count: 1,
    }
}

fn key() -> SecretName {
    "KEY".parse().unwrap()
}

async fn take(outbox: &Outbox) -> Report {
    let reports = outbox.next().await;
    outbox.sent(&reports[..1]);
    reports[0].clone()
}

#[tokio::test]
async fn a_full_queue_allows_nothing_more_and_still_takes_denials() {
    let outbox = outbox();
    for _ in 0..ROOM {
        assert!(outbox.record(row(RecordKind::Allow)).is_some());
    }
    assert!(outbox.record(row(RecordKind::Allow)).is_none());
    for _ in 0..ROOM_FOR_DENIALS {
        assert!(outbox.record(row(RecordKind::Deny)).is_some());
    }
    for _ in 0..3 {
        assert!(outbox.record(row(RecordKind::Deny)).is_none());
    }
    // The positive control: once the ledger has them there is room again, and the lost are counted.
    outbox.recorded((ROOM + ROOM_FOR_DENIALS) as u64);
    assert!(outbox.record(row(RecordKind::Allow)).is_some());
    outbox.attach(Vec::new());
    assert!(matches!(take(&outbox).await, Report::Hello { boot: 7, .. }));
    let Report::Record(lost) = take(&outbox).await else { panic!() };
    assert_eq!((lost.what, lost.count, lost.seq), (RecordKind::Deny, 3, 1281));
    let Report::Record(next) = take(&outbox).await else { panic!() };
    assert_eq!((next.what, next.seq), (RecordKind::Allow, 1282));
}

#[tokio::test]
async fn who_has_no_room_for_a_row_waits_until_there_is_some_and_its_secrets_have_room_of_their_own() {
    let outbox = outbox();
    assert!(outbox.room().is_none());
    for _ in 0..ROOM {
        assert!(outbox.record(row(RecordKind::Allow)).is_some());
    }
    for _ in 0..ROOM_FOR_USES {
        assert!(outbox.record_use(None, &destination(1), &key()));
    }
    assert!(!outbox.record_use(None, &destination(1), &key()) && outbox.is_full());
    assert!(outbox.record(row(RecordKind::Use)).is_none(), "of a request that had none");
    let mut room = outbox.room().unwrap();
    let others: Vec<_> = std::iter::from_fn(|| outbox.room()).collect();
    assert_eq!(others.len(), PATIENT - 1, "no more wait than may find some");
    drop(others);
    assert!(futures_util::poll!(&mut room).is_pending());
    outbox.recorded(ROOM_FOR_USES as u64);
    assert!(futures_util::poll!(&mut room).is_pending(), "what was let through has no more room by them");
    outbox.recorded(ROOM_FOR_USES as u64 + 1);
    room.await;
    assert!(outbox.record(row(RecordKind::Allow)).is_some());
}

#[tokio::test]
async fn a_secret_is_told_in_the_row_of_its_request_until_that_may_have_left_and_then_by_itself() {
    let outbox = outbox();
    let request = outbox.record(row(RecordKind::Allow));
    let other = outbox.record(row(RecordKind::Allow));
    let bears = |request| assert!(outbox.record_use(request, &destination(1), &key()));
    let many = |n: usize| outbox.record_use(request, &destination(1), &format!("KEY_{n}").parse().unwrap());
    assert!((0..=SECRETS).all(many) && many(0), "one that is named already needs no more room");
    bears(other);
    // Its wire ends before anybody knows whether it arrived: what control has already it does not take again.
    outbox.attach(Vec::new());
    outbox.next().await;
    bears(other);
    outbox.attach(Vec::new());
    bears(other);
    // Nor is there anything to add to once control has it.
    outbox.sent(&outbox.next().await);
    outbox.recorded(2);
    bears(other);
    outbox.attach(Vec::new());
    let told = outbox.next().await.into_iter().filter_map(|report| match report {
        Report::Record(record) => Some((record.seq, record.what, record.by.clone(), record.request.clone())),
        _ => None,
    });
    let of =
        |seq, name: &str, request: &str| (seq, RecordKind::Use, format!("secret {name}"), request.to_owned());
    let late = [4, 5, 6].map(|seq| of(seq, "KEY", "of record 2"));
    let too_many = of(3, &format!("KEY_{SECRETS}"), "of record 1");
    assert_eq!(told.collect::<Vec<_>>(), [&[too_many], &late[..]].concat());
}

#[tokio::test]
async fn the_row_of_a_request_names_its_secrets() {
    let outbox = outbox();
    outbox.attach(Vec::new());
    assert!(matches!(take(&outbox).await, Report::Hello { .. }));
    let [request, other] = [(); 2].map(|()| outbox.record(row(RecordKind::Allow)));
    assert!(outbox.record_use(other, &destination(1), &key()));
    assert_eq!((request, other), (Some(1), Some(2)));
    let secrets = async || match take(&outbox).await {
        Report::Record(record) => record.secrets.clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!((secrets().await, secrets().await), (vec![], vec![key()]));
}

#[tokio::test(start_paused = true)]
async fn rows_of_what_was_let_through_wait_for_company_and_nothing_else_does() {
    let outbox = outbox();
    outbox.attach(Vec::new());
    assert!(matches!(take(&outbox).await, Report::Hello { .. }));
    // Of the clock of a paused runtime, which moves only while everybody waits.
    let waited = async |what: &[RecordKind]| {
        let (begun, mut count) = (tokio::time::Instant::now(), 0);
        let writer = async {
            tokio::task::yield_now().await;
            for what in what {
                assert!(outbox.record(row(*what)).is_some());
            }
        };
        let reader = async {
            while count < what.len() {
                take(&outbox).await;
                count += 1;
            }
        };
        tokio::join!(reader, writer);
        begun.elapsed()
    };
    // The permit that is left from the first message.
    waited(&[RecordKind::Deny]).await;
    assert_eq!(waited(&[RecordKind::Allow]).await, GATHER);
    assert_eq!(waited(&[RecordKind::Deny]).await, Duration::ZERO);
    assert_eq!(waited(&[RecordKind::Allow, RecordKind::Deny, RecordKind::Allow]).await, Duration::ZERO);
    assert_eq!(waited(&[RecordKind::Use; COMPANY]).await, Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_wire_that_ends_while_rows_gather_lets_the_next_one_hear_of_more() {
    let outbox = outbox();
    let heard = async |patience: Duration| {
        let row = async {
            for _ in 0..5 {
                tokio::task::yield_now().await;
            }
            assert!(outbox.record(row(RecordKind::Allow)).is_some());
        };
        tokio::join!(tokio::time::timeout(patience, outbox.next()), row).0
    };
    for _ in 0..2 {
        outbox.attach(Vec::new());
        while let Ok(told) = tokio::time::timeout(2 * GATHER, outbox.next()).await {
            outbox.sent(&told);
        }
        assert!(heard(GATHER / 2).await.is_err(), "it gathers still");
        outbox.detach();
    }
    outbox.attach(Vec::new());
    while let Ok(told) = tokio::time::timeout(2 * GATHER, outbox.next()).await {
        outbox.sent(&told);
    }
    assert_eq!(heard(2 * GATHER).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_new_wire_gets_every_record_that_the_ledger_has_not() {
    let outbox = outbox();
    outbox.attach(Vec::new());
    for _ in 0..4 {
        outbox.record(row(RecordKind::Deny));
    }
    for _ in 0..4 {
        take(&outbox).await;
    }
    outbox.recorded(2);
    outbox.detach();
    assert!(!outbox.tell(Notice::Spend(1)));
    outbox.record(row(RecordKind::Deny));
    outbox.attach(Vec::new());
    assert!(matches!(take(&outbox).await, Report::Hello { .. }));
    for seq in 3..=5 {
        assert!(matches!(take(&outbox).await, Report::Record(record) if record.seq == seq));
    }
    assert!(outbox.tell(Notice::Spend(1)));
}

fn destination(n: u16) -> Destination {
    let host = Host::Name("new.example".parse().unwrap());
    Destination { host, port: n.try_into().unwrap(), protocol: Protocol::Https }
}

fn ask(n: u16) -> Notice {
    Notice::Ask { destination: destination(n), why: "default".into(), request: None }
}

fn usage() -> Usage {
    Usage {
        seq: 0,
        request: 0,
        at: Millis(1),
        route: "main".parse().unwrap(),
        model: "m".into(),
        prompt_tokens: 1,
        completion_tokens: 2,
        status: 200,
        estimated: false,
        micros: None,
        user: String::new(),
        agent: String::new(),
    }
}

#[tokio::test]
async fn a_flood_of_questions_holds_no_record_back() {
    let outbox = outbox();
    outbox.attach(Vec::new());
    take(&outbox).await;
    for n in 1..=500 {
        outbox.tell(ask(n));
    }
    outbox.usage_place(usage()).unwrap().fill(usage());
    outbox.record(row(RecordKind::Deny));
    outbox.record(row(RecordKind::Deny));
    let mut kinds = String::new();
    for _ in 0..7 {
        kinds.push(match take(&outbox).await {
            Report::Ask { .. } => 'a',
            Report::Usage(_) => 'u',
            Report::Record(_) => 'r',
            other => panic!("{other:?}"),
        });
    }
    assert_eq!(kinds, "uraraaa");
}

#[tokio::test]
async fn what_waits_goes_together_and_again_what_did_not_go_out() {
    let outbox = outbox();
    outbox.attach(Vec::new());
    take(&outbox).await;
    (1..=40).for_each(|n| assert!(outbox.tell(ask(n))));
    (0..40).for_each(|_| assert!(outbox.record(row(RecordKind::Deny)).is_some()));
    let all = outbox.next().await;
    assert_eq!(all.len(), TOGETHER);
    assert_eq!(outbox.next().await, all, "nothing of it was sent");
    outbox.sent(&all[..5]);
    let rest = outbox.next().await;
    assert_eq!(rest[..TOGETHER - 5], all[5..]);
    outbox.sent(&rest);
    let last = outbox.next().await;
    let records = |reports: &[Report]| reports.iter().filter(|it| matches!(it, Report::Record(_))).count();
    assert_eq!(
        (all[..5].len() + rest.len() + last.len(), records(&[&all[..5], &rest, &last].concat())),
        (80, 40)
    );
}

#[tokio::test]
async fn of_one_destination_one_question_and_one_end_wait() {
    let outbox = outbox();
    outbox.attach(Vec::new());
    take(&outbox).await;
    let ended = |n| Notice::HoldEnded(destination(n));
    for _ in 0..100 {
        assert!(outbox.tell(ask(1)));
        assert!(outbox.tell(ended(1)));
        assert!(outbox.tell(ended(1)));
    }
    assert!(outbox.tell(ended(2)));
    let rest = [take(&outbox).await, take(&outbox).await, take(&outbox).await];
    assert_eq!(rest, [report(ask(1)), report(ended(1)), report(ended(2))]);
    // What is held again has not ended.
    outbox.tell(ended(1));
    outbox.tell(ask(1));
    assert_eq!(take(&outbox).await, report(ask(1)));
    assert!(outbox.lock().pick().is_empty());
}

#[tokio::test]
async fn usage_is_kept_until_it_is_counted_and_no_model_is_asked_without_room_for_it() {
    let outbox = outbox();
    outbox.attach(Vec::new());
    take(&outbox).await;
    for _ in 0..3 {
        outbox.usage_place(usage()).unwrap().fill(usage());
    }
    for _ in 0..3 {
        take(&outbox).await;
    }
    outbox.counted(1);
    outbox.detach();
    outbox.attach(Vec::new());
    take(&outbox).await;
    for seq in 2..=3 {
        assert!(matches!(take(&outbox).await, Report::Usage(usage) if usage.seq == seq));
    }
    let mut places: Vec<_> = (2..ROOM_FOR_USAGE).map(|_| outbox.usage_place(usage()).unwrap()).collect();
    assert!(outbox.usage_place(usage()).is_none());
    // The positive control: a request that used nothing gives its place back, and so does what is counted.
    places.pop();
    places.push(outbox.usage_place(usage()).unwrap());
    assert!(outbox.usage_place(usage()).is_none());
    outbox.counted(2);
    assert!(outbox.usage_place(usage()).is_some());
}

#[tokio::test]
async fn what_a_request_could_use_is_said_before_it_is_made_and_again_until_it_is_known_what_it_did() {
    let outbox = outbox();
    outbox.attach(Vec::new());
    take(&outbox).await;
    let first = outbox.usage_place(usage()).unwrap();
    assert!(matches!(take(&outbox).await, Report::Asking(most) if most.request == 1));
    let (second, third) = (outbox.usage_place(usage()).unwrap(), outbox.usage_place(usage()).unwrap());
    // One that is over before it was said is not said after it; one that was never made used nothing.
    second.fill(usage());
    assert!(matches!(take(&outbox).await, Report::Usage(usage) if (usage.seq, usage.request) == (1, 2)));
    drop(first);
    assert!(matches!(take(&outbox).await, Report::Asking(most) if most.request == 3));
    let Report::Usage(unused) = take(&outbox).await else { panic!() };
    assert_eq!((unused.seq, unused.request, unused.prompt_tokens), (2, 1, 0));
    outbox.counted(2);
    outbox.detach();
    outbox.attach(Vec::new());
    assert!(matches!(take(&outbox).await, Report::Hello { .. }));
    assert!(matches!(take(&outbox).await, Report::Asking(most) if most.request == 3));
    drop(third);
}

#[tokio::test]
async fn a_canary_is_told_on_every_wire_and_the_first_one_counts() {
    let outbox = outbox();
    let host = Host::Name("a.example".parse().unwrap());
    let destination = Destination { host, port: 443.try_into().unwrap(), protocol: Protocol::Https };
    let tripped =
        |name: &str| Notice::Tripped { canary: name.parse().unwrap(), destination: destination.clone() };
    assert!(outbox.tell(tripped("BAIT")) && outbox.tell(tripped("OTHER")));
    for _ in 0..2 {
        outbox.attach(vec![]);
        assert!(matches!(take(&outbox).await, Report::Hello { .. }));
        assert_eq!(take(&outbox).await, report(tripped("BAIT")));
        outbox.detach();
    }
    // With a wire, it goes out at once, before all that waits but for the wire's first word.
    for greeted in [false, true] {
        let outbox = self::outbox();
        outbox.attach(vec![]);
        if greeted {
            assert!(matches!(take(&outbox).await, Report::Hello { .. }));
        }
        outbox.tell(ask(1));
        outbox.usage_place(usage()).unwrap().fill(usage());
        outbox.record(row(RecordKind::Deny));
        assert!(outbox.tell(tripped("BAIT")));
        if !greeted {
            assert!(matches!(take(&outbox).await, Report::Hello { .. }));
        }
        assert_eq!(take(&outbox).await, report(tripped("BAIT")));
    }
}

#[tokio::test]
async fn a_request_that_could_not_be_said_is_not_made_and_used_nothing() {
    let outbox = outbox();
    outbox.attach(Vec::new());
    take(&outbox).await;
    let mut asked = 0;
    while outbox.tell(ask(asked + 1)) {
        asked += 1;
    }
    assert!(outbox.usage_place(usage()).is_none());
    for _ in 0..asked {
        assert!(matches!(take(&outbox).await, Report::Ask { .. }));
    }
    // The positive control.
    let place = outbox.usage_place(usage()).unwrap();
    assert!(matches!(take(&outbox).await, Report::Asking(most) if most.request == 2));
    drop(place);
    assert!(matches!(take(&outbox).await, Report::Usage(unused) if unused.request == 2));
}

#[tokio::test(start_paused = true)]
async fn a_request_waits_a_moment_for_room_and_no_longer() {
    let outbox = outbox();
    outbox.attach(Vec::new());
    let waited = async || {
        let begun = tokio::time::Instant::now();
        outbox.room_soon().await;
        begun.elapsed()
    };
    assert_eq!(waited().await, Duration::ZERO);
    for _ in 0..ROOM {
        assert!(outbox.record(row(RecordKind::Allow)).is_some());
    }
    assert_eq!(waited().await, STANDSTILL);
    let (waited, ()) = tokio::join!(waited(), async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        outbox.recorded(1);
    });
    assert_eq!(waited, Duration::from_millis(300));
}
