#![allow(clippy::unwrap_used)]

use super::*;

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("agent.db")).unwrap();
    (dir, store)
}

fn run(id: &str) -> Run {
    Run {
        id: id.to_owned(),
        session_key: "agent:main:main".to_owned(),
        state: RunState::Running,
        started_at: 5,
        ended_at: None,
        said: None,
        error: None,
    }
}

#[test]
fn what_was_begun_is_there_after_the_end_of_the_program_and_is_reported() {
    let (dir, store) = store();
    let session = Session::new("agent:main:main", "s1".to_owned(), 5);
    let hello = Message::text(&session, Some("r1"), Role::User, "hello there", 5);
    assert_eq!(store.begin(&session, &hello, &run("r1")).unwrap(), 1);
    let second = Message::text(&session, Some("r2"), Role::User, "and then?", 6);
    store.pend(&session, &second, &run("r2")).unwrap();
    // As after a kill: nothing is closed.
    std::mem::forget(store);
    let store = Store::open(&dir.path().join("agent.db")).unwrap();
    let cut = store.interrupt(9).unwrap();
    assert_eq!((cut.len(), cut[0].state, cut[0].ended_at), (2, RunState::Failed, Some(9)));
    assert_eq!(store.run("r1").unwrap().unwrap(), cut[0]);
    let both = [Message { seq: 1, ..hello }, Message { seq: 2, ..second }];
    assert_eq!(store.messages("s1", 10, 0).unwrap(), both);
    assert!(store.interrupt(10).unwrap().is_empty());
}

#[test]
fn messages_are_numbered_found_and_go_with_their_session() {
    let (_dir, store) = store();
    let session = Session::new("k", "s1".to_owned(), 1);
    store.put_session(&session).unwrap();
    for (at, text) in [(1, "one fish"), (2, "two \"fish\" AND"), (3, "three")] {
        assert_eq!(store.append(&Message::text(&session, None, Role::User, text, at)).unwrap(), at);
    }
    let last: Vec<u64> = store.messages("s1", 2, 1).unwrap().iter().map(|message| message.seq).collect();
    assert_eq!((last, store.count("s1").unwrap()), (vec![1, 2], 3));
    let found =
        |words: &str| store.search(words, 10).unwrap().into_iter().map(|row| row.1).collect::<Vec<_>>();
    assert_eq!(found("three"), [3]);
    assert_eq!(found("\"fish\" AND"), [2]);
    assert_eq!(found(" "), [0_u64; 0]);
    assert!(store.remove_session("k").unwrap());
    assert!(!store.remove_session("k").unwrap());
    assert_eq!((found("three"), store.count("s1").unwrap()), (vec![], 0));
}

#[test]
fn a_state_of_a_newer_program_is_refused() {
    let (dir, store) = store();
    store.db().pragma_update(None, "user_version", 99).unwrap();
    drop(store);
    let refused = Store::open(&dir.path().join("agent.db")).unwrap_err();
    assert!(matches!(refused, Error::Newer { found: 99, .. }), "{refused}");
}

#[test]
fn only_what_nobody_was_told_to_be_kept_waits_for_the_next_flush() {
    let (_dir, store) = store();
    let session = Session::new("agent:main:main", "s1".to_owned(), 5);
    let call =
        serde_json::json!({ "content": [{ "type": "toolCall", "id": "1", "name": "ls", "arguments": {} }] });
    let answer = |run: Option<&str>| Message::text(&session, run, Role::Assistant, "done", 6);
    assert!(answer(Some("r1")).is_last_answer());
    // A note that a client put there, the call of a tool, a person's words.
    for other in [
        answer(None),
        Message::new(&session, Some("r1"), Role::Assistant, call, 6),
        Message::text(&session, Some("r1"), Role::User, "hi", 6),
    ] {
        assert!(!other.is_last_answer(), "{other:?}");
    }
    store.append(&answer(Some("r1"))).unwrap();
    store.used(&session).unwrap();
    let full: u32 = store.db().pragma_query_value(None, "synchronous", |row| row.get(0)).unwrap();
    assert_eq!(full, 2, "what comes next is flushed");
}
