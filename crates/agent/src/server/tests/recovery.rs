//! What goes wrong at the model: asked again, kept as far as it came, told.

use super::*;

/// The messages of the main session.
async fn history(client: &mut Socket) -> Vec<Value> {
    let history = client.call("chat.history", json!({ "sessionKey": "main" })).await.unwrap();
    history["messages"].as_array().unwrap().clone()
}

fn retries(client: &Socket) -> Vec<Value> {
    let told = client.events.iter().filter(|(name, it)| name == "agent" && it["stream"] == "run_status");
    told.map(|(_, it)| it["data"].clone()).collect()
}

#[tokio::test]
async fn what_fails_before_anything_was_shown_is_asked_again() {
    let busy = Line::Fails(429, "Retry-After-Ms: 1300", r#"{"error":{"message":"slower"}}"#);
    let world = World::new(vec![busy, Line::Breaks(""), Line::Ends("", "stop", 7), Line::Says("here")]).await;
    let mut client = world.client(ALL).await;
    let id = client.say("agent", json!({ "message": "hi", "idempotencyKey": "r1" })).await;
    client.answer("agent", &id).await.unwrap();
    let ended = client.answer("agent", &id).await.unwrap();
    assert_eq!((&ended["status"], &ended["result"]["payloads"][0]["text"]), (&json!("ok"), &json!("here")));
    // An answer of nothing was paid for, too.
    assert_eq!(ended["result"]["meta"]["agentMeta"]["usage"]["input"], 14);
    let told = retries(&client);
    let reasons: Vec<_> = told.iter().map(|it| it["reason"].as_str().unwrap()).collect();
    assert_eq!(reasons, ["rate_limit", "timeout", "empty_response"]);
    assert_eq!((&told[0]["phase"], &told[0]["attempt"]), (&json!("retrying"), &json!(2)));
    assert!(told[0]["delayMs"].as_u64().unwrap() >= 1300, "{told:?}");
    let said: Vec<_> = history(&mut client).await.iter().map(|it| it["content"][0]["text"].clone()).collect();
    assert_eq!((said, world.count()), (vec![json!("hi"), json!("here")], 4));
}

#[tokio::test]
async fn a_run_that_waits_to_ask_again_is_stopped() {
    let world = World::new(vec![Line::Fails(503, "Retry-After: 200", "{}")]).await;
    let mut client = world.client(ALL).await;
    client.call("chat.send", message("hi", "r1")).await.unwrap();
    loop {
        let (name, payload) = client.event().await;
        if name == "agent" && payload["stream"] == "run_status" {
            assert_eq!(payload["data"]["reason"], "overloaded");
            break;
        }
    }
    client.call("chat.abort", json!({ "sessionKey": "main" })).await.unwrap();
    client.chat("aborted").await;
    assert_eq!(world.count(), 1);
}

#[tokio::test]
async fn what_helps_nobody_is_not_asked_again() {
    let used_up = Line::Fails(429, "X-A: b", r#"{"error":{"code":"insufficient_quota","message":"pay"}}"#);
    let world = World::new(vec![Line::Refuses(400), Line::Refuses(401), used_up]).await;
    let mut client = world.client(ALL).await;
    for number in 1..=3 {
        client.call("chat.send", message("hi", &format!("r{number}"))).await.unwrap();
        client.chat("error").await;
        assert_eq!(world.count(), number);
    }
}

#[tokio::test]
async fn text_that_was_shown_is_kept_and_not_asked_for_again() {
    let go = Arc::new(Notify::new());
    let world = World::new(vec![
        Line::Breaks("the first half"),
        Line::Speaks("let me see", "ls", json!({})),
        Line::Holds("and the second", Arc::clone(&go)),
    ])
    .await;
    let mut client = world.client(ALL).await;
    client.call("chat.send", message("one", "r1")).await.unwrap();
    let error = client.chat("error").await;
    assert!(error["errorMessage"].as_str().unwrap().contains("broke off"), "{error}");
    assert_eq!(world.count(), 1);
    client.call("chat.send", message("two", "r2")).await.unwrap();
    while client.chat("delta").await["deltaText"] != "and the second" {}
    client.call("chat.abort", json!({ "sessionKey": "main" })).await.unwrap();
    let aborted = client.chat("aborted").await;
    assert_eq!(aborted["message"]["content"][0]["text"], "and the second");
    let messages = history(&mut client).await;
    let broken = &messages[1];
    assert_eq!(
        (&broken["content"][0]["text"], &broken["stopReason"]),
        (&json!("the first half"), &json!("error"))
    );
    assert_eq!(broken["openclawAbort"], json!({ "aborted": true, "origin": "error", "runId": "r1" }));
    let last = messages.last().unwrap();
    assert_eq!(
        (&last["content"][0]["text"], &last["stopReason"]),
        (&json!("and the second"), &json!("aborted"))
    );
    assert_eq!(last["openclawAbort"], json!({ "aborted": true, "origin": "rpc", "runId": "r2" }));
    assert_eq!(messages.len(), 6, "what was whole is there once: {messages:?}");
    // The model knows how far it came.
    client.call("chat.send", message("three", "r3")).await.unwrap();
    client.chat("final").await;
    let asked = world.asked();
    let said: Vec<_> = asked["messages"].as_array().unwrap().iter().map(|it| it["content"].clone()).collect();
    assert!(said.contains(&json!("the first half")) && said.contains(&json!("and the second")), "{said:?}");
}

#[tokio::test]
async fn what_waits_is_listed_and_what_is_collected_is_one_run() {
    let go = Arc::new(Notify::new());
    let world = World::new(vec![Line::Holds("half", Arc::clone(&go)), Line::Says("both")]).await;
    let mut client = world.client(ALL).await;
    client.call("chat.send", message("one", "r1")).await.unwrap();
    client.chat("delta").await;
    for (text, id) in [("two", "r2"), ("three", "r3")] {
        let mut next = message(text, id);
        next["queueMode"] = json!("collect");
        assert_eq!(client.call("chat.send", next).await.unwrap()["status"], "queued");
    }
    let waiting = client.call("chat.history", json!({ "sessionKey": "main" })).await.unwrap();
    let waiting = &waiting["pendingInputs"];
    let item = &waiting["items"][1];
    assert_eq!(
        (&waiting["total"], &item["runId"], &item["state"]),
        (&json!(2), &json!("r3"), &json!("queued"))
    );
    assert_eq!(item["message"]["content"][0]["text"], "three");
    go.notify_one();
    for id in ["r1", "r2", "r3"] {
        assert_eq!(client.chat("final").await["runId"], id);
    }
    let asked = world.asked();
    let last = asked["messages"].as_array().unwrap().last().unwrap()["content"].clone();
    let all = "[Queued messages while agent was busy]\n\n---\nQueued #1\ntwo\n\n---\nQueued #2\nthree";
    assert_eq!((last, world.count()), (json!(all), 2));
    let waited = client.call("agent.wait", json!({ "runId": "r3" })).await.unwrap();
    assert_eq!(waited["status"], "ok");
    let history = client.call("chat.history", json!({ "sessionKey": "main" })).await.unwrap();
    assert_eq!((&history["pendingInputs"]["total"], &history["totalMessages"]), (&json!(0), &json!(4)));
    assert_eq!(client.call("chat.send", message("two", "r2")).await.unwrap()["status"], "ok");
}
