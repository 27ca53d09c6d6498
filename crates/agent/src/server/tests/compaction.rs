//! Long conversations: what is kept in a file, what a summary takes the place of, and what stays.

use super::*;

/// A small window of which little is kept.
fn small() -> Value {
    json!({ "agents": { "defaults": { "contextTokens": 8000, "compaction": {
        "keepRecentTokens": 60, "memoryFlush": { "softThresholdTokens": 500 },
    } } } })
}

/// What was sent to the model, by its number, as role and text.
fn sent(world: &World, number: usize) -> Vec<(String, String)> {
    let asked = world.script.asked.lock().unwrap();
    let messages = asked[number]["messages"].as_array().unwrap();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    messages.iter().map(|it| (text(&it["role"]), text(&it["content"]))).collect()
}

async fn say(client: &mut Socket, text: &str, id: &str) -> String {
    client.call("chat.send", message(text, id)).await.unwrap();
    client.chat("final").await["message"]["content"][0]["text"].as_str().unwrap().to_owned()
}

async fn history(client: &mut Socket) -> Vec<Value> {
    let history = client.call("chat.history", json!({ "sessionKey": "main" })).await.unwrap();
    history["messages"].as_array().unwrap().clone()
}

const BEFORE: &str = "The conversation history before this point was compacted into the following summary:";

#[tokio::test]
async fn what_is_worth_it_is_written_down_and_a_summary_takes_the_place_of_the_older_part() {
    let write = |path: &str, text: &str| ("write", json!({ "path": path, "content": text }));
    let world = World::configured(
        &small(),
        vec![
            Line::Says("blue, noted"),
            // So long by now that it must be compacted before the next answer.
            Line::Ends("as you say", "stop", 7000),
            Line::Calls(vec![
                write("memory/2026-11-22.md", "likes blue"),
                write("MEMORY.md", "no"),
                ("exec", json!({ "command": "touch ran" })),
            ]),
            Line::Says("NO_REPLY"),
            Line::Says("Goal: a blue house"),
            Line::Says("a roof"),
            Line::Says("a door"),
        ],
    )
    .await;
    let workspace = world.dir.path().join("workspace");
    std::fs::create_dir(workspace.join("memory")).unwrap();
    std::fs::write(workspace.join("memory/2026-11-22.md"), "before").unwrap();
    let mut client = world.client(ALL).await;
    client.call("sessions.subscribe", json!({})).await.unwrap();
    say(&mut client, "the house is blue", "r1").await;
    say(&mut client, &format!("build it {}", "x".repeat(400)), "r2").await;
    client.events.clear();
    client.call("chat.send", message("what is next?", "r3")).await.unwrap();
    let mut phases = Vec::new();
    let end = loop {
        let (name, payload) = client.event().await;
        if name == "agent" && payload["stream"] == "compaction" {
            phases.push(payload["data"].clone());
        }
        // Nothing of the silent turn is seen.
        assert!(!payload.to_string().contains("NO_REPLY") && payload["stream"] != "tool", "{payload}");
        if name == "chat" && payload["state"] == "final" {
            break payload;
        }
    };
    assert_eq!(end["message"]["content"][0]["text"], "a roof", "{phases:?}");
    assert_eq!((phases.len(), &phases[0]["phase"]), (2, &json!("start")));
    assert_eq!((&phases[1]["completed"], &phases[1]["willRetry"]), (&json!(true), &json!(false)));
    let kept = std::fs::read_to_string(workspace.join("memory/2026-11-22.md")).unwrap();
    assert_eq!(kept, "before\nlikes blue");
    assert!(!workspace.join("MEMORY.md").exists() && !workspace.join("ran").exists());
    // The silent turn saw the conversation, but not the question that waits.
    let flush = sent(&world, 2);
    assert!(
        flush.iter().any(|(_, text)| text == "blue, noted")
            && flush.last().unwrap().1.contains("memory flush")
    );
    assert!(flush.iter().all(|(_, text)| text != "what is next?"));
    let refused = sent(&world, 3);
    assert!(refused[refused.len() - 2].1.contains("only memory/2026-11-22.md"), "{refused:?}");
    assert!(refused.last().unwrap().1.contains("cannot be called now"), "{refused:?}");
    // The summary was written of the older part alone.
    let wanted = sent(&world, 4);
    assert!(wanted[1].1.contains("[Person]: the house is blue") && !wanted[1].1.contains("what is next?"));
    // And takes its place; the last words of the person are as they were.
    let then = sent(&world, 5);
    assert!(then[1].1.starts_with(BEFORE) && then[1].1.contains("Goal: a blue house"), "{then:?}");
    assert_eq!(then.last().unwrap(), &("user".to_owned(), "what is next?".to_owned()));
    assert!(then.iter().all(|(_, text)| text != "blue, noted"), "{then:?}");
    // The transcript has everything, and the mark of the compaction.
    let messages = history(&mut client).await;
    let roles: Vec<_> = messages.iter().map(|it| it["role"].as_str().unwrap()).collect();
    assert_eq!(roles, ["user", "assistant", "user", "assistant", "user", "system", "assistant"]);
    let mark = &messages[5];
    assert_eq!(
        (&mark["content"][0]["text"], &mark["__openclaw"]["kind"]),
        (&json!("Compaction"), &json!("compaction"))
    );
    assert!(mark["__openclaw"]["tokensBefore"].as_u64().unwrap() >= 7000 && mark.get("summary").is_none());
    let found =
        client.call("tools.invoke", json!({ "name": "memory_search", "args": { "query": "noted" } })).await;
    assert!(found.unwrap()["output"]["text"].as_str().unwrap().contains("blue, noted"));
    // It is not done again for nothing.
    assert_eq!(say(&mut client, "and then?", "r4").await, "a door");
    assert_eq!(world.count(), 7);
    assert!(say(&mut client, "/status", "r5").await.contains("compactions: 1"));
}

#[tokio::test]
async fn a_model_that_has_no_room_left_is_asked_again_after_a_compaction() {
    let long = r#"{"error":{"code":"context_length_exceeded","message":"too many tokens"}}"#;
    let world = World::configured(
        &json!({ "agents": { "defaults": { "compaction": {
            "keepRecentTokens": 60, "enabled": false, "memoryFlush": { "enabled": false },
        } } } }),
        vec![
            Line::Says("noted"),
            Line::Calls(vec![("ls", json!({})), ("ls", json!({}))]),
            Line::Fails(400, "X-A: b", long),
            Line::Says("Goal: to list"),
            Line::Says("two lists"),
        ],
    )
    .await;
    let mut client = world.client(ALL).await;
    say(&mut client, &format!("remember {}", "x".repeat(400)), "r1").await;
    assert_eq!(say(&mut client, "list it", "r2").await, "two lists");
    // What was called is there with its results, and nothing was called twice.
    let then = sent(&world, 4);
    let roles: Vec<_> = then.iter().map(|it| it.0.as_str()).collect();
    assert_eq!(roles, ["system", "user", "user", "assistant", "tool", "tool"]);
    assert!(then[1].1.contains("Goal: to list"));
    assert_eq!(then[2].1, "list it");
}

#[tokio::test]
async fn what_is_too_long_even_so_fails_with_what_to_do() {
    let long = r#"{"error":{"code":"context_length_exceeded","message":"too many tokens"}}"#;
    let fails = || Line::Fails(400, "X-A: b", long);
    let world = World::configured(
        &json!({ "agents": { "defaults": { "compaction": { "memoryFlush": { "enabled": false } } } } }),
        vec![fails(), fails(), Line::Says("here")],
    )
    .await;
    let mut client = world.client(ALL).await;
    client.call("chat.send", message("much too long", "r1")).await.unwrap();
    let error = client.chat("error").await;
    assert_eq!(error["errorKind"], "context_length");
    let said = error["errorMessage"].as_str().unwrap();
    assert!(said.contains("/new") && said.contains("/model") && said.contains("too many tokens"), "{said}");
    assert_eq!(say(&mut client, "short", "r2").await, "here");
    assert_eq!(sent(&world, 2).last().unwrap().1, "short");
}

#[tokio::test]
async fn a_kill_in_the_middle_of_a_compaction_loses_nothing() {
    let go = Arc::new(Notify::new());
    let mut config = small();
    config["agents"]["defaults"]["compaction"]["memoryFlush"] = json!({ "enabled": false });
    let lines = vec![Line::Ends("noted", "stop", 7000), Line::Holds("Goal: half", Arc::clone(&go))];
    let world = World::configured(&config, lines).await;
    let mut client = world.client(ALL).await;
    say(&mut client, &format!("remember {}", "x".repeat(400)), "r1").await;
    client.call("chat.send", message("and this", "r2")).await.unwrap();
    while world.count() < 2 {
        client.event().await;
        tokio::task::yield_now().await;
    }
    let world = world.killed(vec![Line::Says("Goal: whole"), Line::Says("again")]).await;
    let mut client = world.client(ALL).await;
    let said: Vec<_> = history(&mut client).await.iter().map(|it| it["content"][0]["text"].clone()).collect();
    assert_eq!((said.len(), &said[2]), (3, &json!("and this")));
    // It is done then, once.
    assert_eq!(say(&mut client, "go on", "r3").await, "again");
    let then = sent(&world, 1);
    assert!(then[1].1.contains("Goal: whole"), "{then:?}");
    assert!(then.iter().any(|(_, text)| text == "and this") && then.last().unwrap().1 == "go on", "{then:?}");
    // And is there after the next kill.
    let world = world.killed(vec![Line::Says("still")]).await;
    let mut client = world.client(ALL).await;
    assert_eq!(say(&mut client, "more", "r4").await, "still");
    assert!(sent(&world, 0)[1].1.contains("Goal: whole"));
    go.notify_waiters();
}

#[tokio::test]
async fn a_person_asks_for_it() {
    let go = Arc::new(Notify::new());
    let world = World::configured(
        &json!({ "agents": { "defaults": { "compaction": {
            "keepRecentTokens": 60, "model": "cheap", "memoryFlush": { "enabled": false },
        } } } }),
        vec![
            Line::Says("noted"),
            Line::Says("Goal: names"),
            Line::Says("second"),
            Line::Holds("half", Arc::clone(&go)),
        ],
    )
    .await;
    let mut client = world.client(ALL).await;
    client.call("sessions.subscribe", json!({})).await.unwrap();
    let none = client.call("sessions.compact", json!({ "key": "agent:main:nothing" })).await.unwrap();
    assert_eq!((&none["compacted"], &none["reason"]), (&json!(false), &json!("no sessionId")));
    say(&mut client, &format!("remember {}", "x".repeat(400)), "r1").await;
    let done = say(&mut client, "/compact the names", "r2").await;
    assert!(done.starts_with("Compacted: about"), "{done}");
    let asked = world.asked();
    assert_eq!(asked["model"], "cheap");
    assert!(asked["messages"][1]["content"].as_str().unwrap().ends_with("above all: the names"));
    assert!(asked.get("tools").is_none());
    // Of nothing but the newest there is nothing to compact.
    let none = client.call("sessions.compact", json!({ "key": "main" })).await.unwrap();
    assert_eq!((&none["ok"], &none["reason"]), (&json!(true), &json!("nothing to compact")));
    let operations: Vec<_> = client.events.iter().filter(|(name, _)| name == "session.operation").collect();
    let [.., begun, ended] = &operations[..] else { panic!("{operations:?}") };
    assert_eq!((&begun.1["phase"], &ended.1["completed"]), (&json!("start"), &json!(false)));
    client.events.clear();
    assert!(client.call("sessions.compact", json!({ "key": "main", "maxLines": 3 })).await.is_err());
    assert_eq!(say(&mut client, "/compactly", "r3").await, "second");
    client.call("chat.send", message("long", "r5")).await.unwrap();
    client.chat("delta").await;
    let busy = client.call("sessions.compact", json!({ "key": "main" })).await.unwrap_err();
    assert!(busy["message"].as_str().unwrap().contains("stop it"), "{busy}");
    go.notify_one();
}
