#![allow(clippy::unwrap_used)]
//! Routes, sums of usage and what was spent.

use super::{By, NewTenantRow, OTHERS, State, migrate};
use cofferdam_base::{
    Millis, TenantId,
    ipc::{
        launcher::{Limits, RuntimeRef},
        model::{ModelRoute, Span, Upstream},
        warden::Usage,
    },
};

const DAY: u64 = 86_400_000;

fn acme() -> TenantId {
    TenantId::try_from("acme").unwrap()
}

fn make_tenant(state: &mut State) {
    let new = NewTenantRow {
        id: acme(),
        runtime: RuntimeRef::Command("echo".to_owned()),
        limits: Limits::default(),
        desired: "\"stopped\"".to_owned(),
        created: Millis(1),
        data_key: "key".to_owned(),
        policy: "version: 1\n".to_owned(),
    };
    state.change_quietly(|tables| tables.create_tenant(&new)).unwrap();
}

fn host() -> (tempfile::TempDir, State) {
    let dir = tempfile::tempdir().unwrap();
    let mut state = State::open(dir.path(), Millis(1)).unwrap();
    make_tenant(&mut state);
    (dir, state)
}

fn route(alias: &str) -> ModelRoute {
    ModelRoute::new(alias.parse().unwrap(), Upstream::Builtin, "m")
}

fn usage(at: u64, user: &str, tokens: u64) -> Usage {
    Usage {
        seq: 1,
        request: 1,
        at: Millis(at),
        route: "fast".parse().unwrap(),
        model: "m".to_owned(),
        prompt_tokens: tokens,
        completion_tokens: 1,
        status: 200,
        estimated: false,
        micros: (tokens != 7).then_some(tokens * 2),
        user: user.to_owned(),
        agent: "main".to_owned(),
    }
}

#[test]
fn the_first_route_is_the_default_until_another_is_and_goes_last() {
    let (_dir, mut state) = host();
    let shown = |state: &State| -> Vec<(String, bool)> {
        let rows = state.read().routes(&acme()).unwrap();
        rows.into_iter().map(|row| (row.route.route.to_string(), row.main)).collect()
    };
    for alias in ["good", "fast", "good"] {
        state.change_quietly(|tables| tables.set_route(&acme(), &route(alias), Millis(5))).unwrap();
    }
    assert_eq!(shown(&state), [("fast".to_owned(), false), ("good".to_owned(), true)]);
    let alias = |text: &str| text.parse().unwrap();
    assert!(!state.change_quietly(|tables| tables.remove_route(&acme(), &alias("good"))).unwrap());
    assert!(!state.change_quietly(|tables| tables.set_default_route(&acme(), &alias("gone"))).unwrap());
    assert!(state.change_quietly(|tables| tables.set_default_route(&acme(), &alias("fast"))).unwrap());
    assert!(state.change_quietly(|tables| tables.remove_route(&acme(), &alias("good"))).unwrap());
    assert!(state.change_quietly(|tables| tables.remove_route(&acme(), &alias("fast"))).unwrap());
    assert!(shown(&state).is_empty());
}

#[test]
fn the_one_route_and_the_sums_of_the_schema_before_are_there_after_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut old = State::open_with(dir.path(), Millis(1), &migrate::ALL[..3]).unwrap();
    make_tenant(&mut old);
    old.connection
        .execute_batch(
            r#"INSERT INTO models VALUES ('acme',
                 '{"route":"default","upstream":{"url":"https://h/v1"},"model":"m","secret":"KEY"}', 7);
               INSERT INTO usage VALUES ('acme', 'default', 'm', 3, 20, 10);"#,
        )
        .unwrap();
    drop(old);
    let state = State::open(dir.path(), Millis(2)).unwrap();
    let rows = state.read().routes(&acme()).unwrap();
    assert!(rows.len() == 1 && rows[0].main && rows[0].at == Millis(7), "{rows:?}");
    assert_eq!(rows[0].route.upstream, Upstream::Url("https://h/v1".to_owned()));
    let sums = state.read().usage(None, Millis(0), &[By::Tenant, By::Route]).unwrap();
    assert_eq!((sums.len(), sums[0].requests, sums[0].prompt_tokens, sums[0].unpriced), (1, 3, 20, 3));
}

#[test]
fn usage_is_summed_by_what_is_asked_for_and_from_when_it_is() {
    let (_dir, mut state) = host();
    let uses = [(DAY, "ada", 10), (DAY + 5, "bob", 20), (2 * DAY, "ada", 7)];
    let uses = uses.map(|(at, user, tokens)| (acme(), usage(at, user, tokens)));
    state.change_quietly(|tables| tables.add_usage(&uses)).unwrap();
    let sums = |since, by: &[By]| state.read().usage(Some(&acme()), Millis(since), by).unwrap();
    let all = sums(0, &[]);
    assert_eq!((all.len(), all[0].requests, all[0].prompt_tokens, all[0].completion_tokens), (1, 3, 37, 3));
    assert_eq!((all[0].micros, all[0].unpriced, all[0].user.as_str()), (60, 1, ""));
    let users = sums(0, &[By::User]);
    assert_eq!(
        users.iter().map(|row| (row.user.as_str(), row.requests)).collect::<Vec<_>>(),
        [("ada", 2), ("bob", 1)]
    );
    let days = sums(2 * DAY, &[By::Day, By::User]);
    assert_eq!((days.len(), days[0].day, days[0].prompt_tokens), (1, Some(2), 7));
}

#[test]
fn uses_that_come_together_are_summed_as_if_each_came_alone() {
    let gone: TenantId = "gone".parse().unwrap();
    let uses: Vec<_> =
        [(DAY, "ada"), (DAY + 59_999, "ada"), (DAY + 60_000, "ada"), (DAY, "bob"), (2 * DAY, "ada")]
            .into_iter()
            .enumerate()
            .map(|(at, (time, user))| {
                (
                    acme(),
                    Usage {
                        micros: (at != 1).then_some(9),
                        prompt_tokens: 1 << (8 * at),
                        ..usage(time, user, 0)
                    },
                )
            })
            .chain([
                (gone, usage(DAY, "ada", 1)),
                (acme(), Usage { completion_tokens: u64::MAX, ..usage(2 * DAY, "ada", 0) }),
            ])
            .collect();
    let counted = |each: usize| {
        let (_dir, mut state) = host();
        state.change_quietly(|tables| tables.set_route(&acme(), &route("fast"), Millis(1))).unwrap();
        for uses in uses.chunks(each) {
            state.change_quietly(|tables| tables.add_usage(uses)).unwrap();
        }
        let tables = state.read();
        (
            tables.usage(None, Millis(0), &[By::Tenant, By::Day, By::User]).unwrap(),
            tables.spent(&acme()).unwrap(),
        )
    };
    let (sums, spent) = counted(1);
    assert_eq!((sums.len(), spent.len()), (3, 3), "{sums:?} {spent:?}");
    assert_eq!(counted(uses.len()), (sums, spent));
}

#[test]
fn a_cell_that_asks_as_ever_another_user_fills_no_disk() {
    let (_dir, mut state) = host();
    state
        .change_quietly(|tables| {
            for number in 0..600 {
                tables.add_usage(&[(acme(), usage(DAY, &format!("user-{number}"), 1))])?;
            }
            // One that was told apart before still is.
            tables.add_usage(&[(acme(), usage(DAY, "user-3", 1))])
        })
        .unwrap();
    let rows = state.read().usage(None, Millis(0), &[By::User]).unwrap();
    let of = |user: &str| rows.iter().find(|row| row.user == user).map(|row| row.requests);
    assert_eq!((rows.len(), of(OTHERS), of("user-3"), of("user-599")), (513, Some(88), Some(2), None));
}

#[test]
fn what_was_spent_is_that_of_the_newest_minute_day_and_month() {
    let (_dir, mut state) = host();
    let set = |state: &mut State| {
        state.change_quietly(|tables| tables.set_route(&acme(), &route("fast"), Millis(1))).unwrap();
    };
    set(&mut state);
    for at in [DAY, DAY + 1, DAY + 60_000, DAY + 2, 40 * DAY] {
        state.change_quietly(|tables| tables.add_usage(&[(acme(), usage(at, "", 10))])).unwrap();
        let spent = state.read().spent(&acme()).unwrap();
        let of = |span: Span| {
            spent.iter().find(|it| it.span == span).map(|it| (it.begin.0, it.tokens, it.micros)).unwrap()
        };
        let (minute, day, month) = (of(Span::Minute), of(Span::Day), of(Span::Month));
        match at - DAY {
            0 => assert_eq!((minute, day, month), ((DAY, 11, 20), (DAY, 11, 20), (0, 11, 20))),
            1 => assert_eq!((minute, day), ((DAY, 22, 40), (DAY, 22, 40))),
            60_000 => assert_eq!((minute, day), ((DAY + 60_000, 11, 20), (DAY, 33, 60))),
            // Of a minute that is over: it counts in the one that is there.
            2 => assert_eq!((minute, day, month), ((DAY + 60_000, 22, 40), (DAY, 44, 80), (0, 44, 80))),
            _ => assert_eq!((day, month), ((40 * DAY, 11, 20), (31 * DAY, 11, 20))),
        }
    }
    // Of a route that is gone nobody need know; one of its name has used it all the same.
    state.change_quietly(|tables| tables.remove_route(&acme(), &"fast".parse().unwrap())).unwrap();
    assert!(state.read().spent(&acme()).unwrap().is_empty());
    set(&mut state);
    assert_eq!(state.read().spent(&acme()).unwrap().len(), 3);
}

#[test]
fn what_all_routes_used_is_that_of_one_span_and_of_removed_ones_too() {
    let (_dir, mut state) = host();
    let used = |state: &mut State, alias: &str, at| {
        let usage = Usage { route: alias.parse().unwrap(), ..usage(at, "", 10) };
        state.change_quietly(|tables| tables.set_route(&acme(), &route(alias), Millis(1))).unwrap();
        state.change_quietly(|tables| tables.add_usage(&[(acme(), usage.clone())])).unwrap();
    };
    used(&mut state, "fast", DAY);
    used(&mut state, "good", DAY + 60_000);
    state.change_quietly(|tables| tables.remove_route(&acme(), &"good".parse().unwrap())).unwrap();
    let all = state.read().spent_by_all(&acme()).unwrap();
    let of = |span: Span| all.iter().find(|it| it.span == span).map(|it| (it.begin.0, it.tokens, it.micros));
    assert_eq!(of(Span::Minute), Some((DAY + 60_000, 11, 20)), "the minute before is over");
    assert_eq!((of(Span::Day), of(Span::Month)), (Some((DAY, 22, 40)), Some((0, 22, 40))));
    assert_eq!(all.len(), 3);
}
