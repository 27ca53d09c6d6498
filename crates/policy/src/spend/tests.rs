#![allow(clippy::unwrap_used)]

use super::*;
use proptest::prelude::*;

fn fast() -> Alias {
    "fast".parse().unwrap()
}

fn hard(text: &str) -> Limit {
    text.parse().unwrap()
}

fn soft(text: &str) -> Limit {
    Limit { soft: true, ..hard(text) }
}

fn tokens(prompt: u64) -> Tokens {
    Tokens { prompt, completion: 0 }
}

fn amount(tokens: u64) -> Amount {
    Amount { tokens, micros: 0 }
}

fn held(answer: Answer) -> Held {
    let Answer::Go(held) = answer else { panic!("{answer:?}") };
    held
}

const DAY: u64 = 86_400_000;

#[test]
fn a_hard_limit_stops_until_its_span_is_over_and_counts_what_is_under_way() {
    let (mut books, limits, now) = (Books::default(), [hard("tokens/minute=100")], Millis(DAY));
    let first = held(books.ask(&fast(), &limits, tokens(60), None, false, now));
    // Of the first nobody knows yet what it uses: it holds what it could.
    let second = books.ask(&fast(), &limits, tokens(60), None, true, now);
    assert_eq!(second, Answer::Stop(limits[0], Millis(DAY + 60_000)));
    books.settle(first, amount(10), now);
    let second = held(books.ask(&fast(), &limits, tokens(90), None, false, now));
    books.settle(second, amount(90), now);
    assert!(matches!(books.ask(&fast(), &limits, tokens(1), None, false, now), Answer::Stop(..)));
    // Another route has limits of its own, and so has the next minute.
    let good = "good".parse().unwrap();
    let other = held(books.ask(&good, &limits, tokens(100), None, false, now));
    books.settle(other, amount(0), now);
    let later = Millis(DAY + 60_000);
    let next = held(books.ask(&fast(), &limits, tokens(100), None, false, later));
    books.settle(next, amount(0), later);
}

#[test]
fn past_a_soft_limit_somebody_is_asked_and_past_a_hard_one_nobody() {
    let mut books = Books::default();
    let limits = [soft("tokens/day=50"), hard("tokens/day=100")];
    let now = Millis(DAY);
    assert_eq!(books.ask(&fast(), &limits, tokens(60), None, false, now), Answer::Ask(limits[0]));
    let first = held(books.ask(&fast(), &limits, tokens(60), None, true, now));
    books.settle(first, amount(60), now);
    assert!(
        matches!(books.ask(&fast(), &limits, tokens(60), None, true, now), Answer::Stop(limit, _) if limit == limits[1])
    );
    assert_eq!(books.ask(&fast(), &limits, tokens(10), None, false, now), Answer::Ask(limits[0]));
}

#[test]
fn money_is_limited_at_a_known_price_and_refused_at_an_unknown_one() {
    let mut books = Books::default();
    let limits = [hard("usd/month=1")];
    let now = Millis(40 * DAY);
    assert_eq!(books.ask(&fast(), &limits, tokens(1), None, true, now), Answer::Unpriced(limits[0]));
    let price = Some("2:10".parse().unwrap());
    let all = Tokens { prompt: 250_000, completion: 50_000 };
    let first = held(books.ask(&fast(), &limits, all, price, false, now));
    books.settle(first, Amount::new(all, price), now);
    // To the last micro-dollar.
    assert_eq!(
        books.ask(&fast(), &limits, tokens(1), price, true, now),
        Answer::Stop(limits[0], Millis(59 * DAY))
    );
    let free = Some("0:0".parse().unwrap());
    assert!(matches!(books.ask(&fast(), &limits, tokens(1), free, false, now), Answer::Go(_)));
}

#[test]
fn what_was_kept_counts_and_what_is_known_better_stays() {
    let limits = [hard("tokens/day=100")];
    let kept =
        |begin, tokens| Spent { route: fast(), span: Span::Day, begin: Millis(begin), tokens, micros: 0 };
    let stops = |books: &mut Books| {
        matches!(books.ask(&fast(), &limits, tokens(1), None, true, Millis(DAY + 1)), Answer::Stop(..))
    };
    let mut books = Books::default();
    books.restore(vec![kept(DAY, 100)], vec![]);
    assert!(stops(&mut books));
    // Less, or of another day: what is known here is more.
    books.restore(vec![kept(DAY, 3)], vec![]);
    books.restore(vec![kept(0, 3)], vec![]);
    assert!(stops(&mut books));
    let mut books = Books::default();
    books.restore(vec![kept(0, 100)], vec![]);
    assert!(!stops(&mut books));
}

#[test]
fn what_all_routes_together_may_use_is_stopped_at_whichever_asks_next() {
    let (mut books, now) = (Books::default(), Millis(DAY));
    let budget = [hard("tokens/day=100"), hard("usd/month=1")];
    let price = Some("1:1".parse().unwrap());
    let (good, none) = ("good".parse().unwrap(), []);
    let stops = |books: &Books, want| books.stops(&budget, tokens(want), price, now);
    assert_eq!(stops(&books, 101), Some(Answer::Stop(budget[0], Millis(2 * DAY))));
    assert_eq!(stops(&books, 100), None);
    assert_eq!(books.stops(&budget, tokens(1), None, now), Some(Answer::Unpriced(budget[1])));
    assert_eq!(books.stops(&budget[..1], tokens(1), None, now), None);
    // What one route holds, and then what it used, is no room for another.
    let first = held(books.ask(&fast(), &none, tokens(60), price, false, now));
    let second = held(books.ask(&good, &none, tokens(40), price, false, now));
    assert!(stops(&books, 1).is_some());
    books.settle(first, amount(10), now);
    books.settle(second, amount(40), now);
    assert_eq!((stops(&books, 51).is_some(), stops(&books, 50)), (true, None));
    // What was kept of all counts, a route that is removed included; what is known better stays.
    let kept = |begin, tokens| SpentByAll { span: Span::Day, begin: Millis(begin), tokens, micros: 0 };
    books.restore(vec![], vec![kept(DAY, 99)]);
    books.restore(vec![], vec![kept(DAY, 3)]);
    assert_eq!((stops(&books, 2).is_some(), stops(&books, 1)), (true, None));
    assert_eq!(books.stops(&budget, tokens(100), price, Millis(2 * DAY)), None);
}

#[derive(Clone, Debug)]
enum Event {
    Ask { want: u64, approved: bool },
    Settle { which: usize, share: u64 },
    Pass { ms: u64 },
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        (0..80_u64, any::<bool>()).prop_map(|(want, approved)| Event::Ask { want, approved }),
        (any::<usize>(), 0..=100_u64).prop_map(|(which, share)| Event::Settle { which, share }),
        (0..40_000_u64).prop_map(|ms| Event::Pass { ms }),
    ]
}

proptest! {
    /// However requests and their ends interleave: where none uses more than was held for it, no span sees more than
    /// its hard limit, none sees more than its soft limit unasked, and what fits is never refused.
    #[test]
    fn no_order_of_events_passes_a_limit(events in proptest::collection::vec(event(), 0..200)) {
        let limits = [soft("tokens/minute=70"), hard("tokens/minute=100"), hard("tokens/day=400")];
        let (mut books, mut now) = (Books::default(), Millis(DAY - 90_000));
        let mut open: Vec<(Held, u64)> = Vec::new();
        let mut done: Vec<(u64, u64)> = Vec::new();
        for event in events {
            let within = |done: &[(u64, u64)], span: Span, now| -> u64 {
                done.iter().filter(|(at, _)| span.begin(Millis(*at)) == span.begin(now)).map(|(_, used)| used).sum()
            };
            let under_way: u64 = open.iter().map(|(_, want)| want).sum();
            match event {
                Event::Ask { want, approved } => {
                    let minute = within(&done, Span::Minute, now) + under_way + want;
                    let day = within(&done, Span::Day, now) + under_way + want;
                    match books.ask(&fast(), &limits, tokens(want), None, approved, now) {
                        Answer::Go(held) => {
                            prop_assert!(minute <= 100 && day <= 400 && (approved || minute <= 70));
                            open.push((held, want));
                        }
                        Answer::Ask(_) => prop_assert!(!approved && minute > 70 && minute <= 100 && day <= 400),
                        Answer::Stop(_, until) => prop_assert!((minute > 100 || day > 400) && until > now),
                        Answer::Unpriced(_) => prop_assert!(false),
                    }
                }
                Event::Settle { which, share } if !open.is_empty() => {
                    let (held, want) = open.swap_remove(which % open.len());
                    let used = want * share / 100;
                    books.settle(held, amount(used), now);
                    done.push((now.0, used));
                }
                Event::Settle { .. } => {}
                Event::Pass { ms } => now = now.plus(ms),
            }
        }
    }
}
