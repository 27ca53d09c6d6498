//! Runs: from a message to the end, with tools, stopped, queued, cut off.

use super::*;

#[tokio::test]
async fn a_message_is_answered_piece_by_piece_and_kept() {
    let world = World::new(vec![Line::Says("Hello there")]).await;
    let mut client = world.client(ALL).await;
    client.call("sessions.messages.subscribe", json!({ "key": "main" })).await.unwrap();
    let sent = client.call("chat.send", message("hi", "r1")).await.unwrap();
    assert_eq!(sent, json!({ "runId": "r1", "status": "started" }));
    assert_eq!(client.chat("delta").await["deltaText"], "Hello");
    let second = client.chat("delta").await;
    let told = (&second["deltaText"], &second["message"]["content"][0]["text"]);
    assert_eq!(told, (&json!(" there"), &json!("Hello there")));
    let end = client.chat("final").await;
    assert_eq!((&end["runId"], &end["message"]["content"][0]["text"]), (&json!("r1"), &json!("Hello there")));
    // Sent again, it is the same run.
    assert_eq!(client.call("chat.send", message("hi", "r1")).await.unwrap()["status"], "ok");
    let history = client.call("chat.history", json!({ "sessionKey": "main" })).await.unwrap();
    let messages = history["messages"].as_array().unwrap();
    let said: Vec<_> = messages.iter().map(|it| (&it["role"], &it["content"][0]["text"])).collect();
    assert_eq!(said, [(&json!("user"), &json!("hi")), (&json!("assistant"), &json!("Hello there"))]);
    assert_eq!((&history["totalMessages"], &history["hasMore"]), (&json!(2), &json!(false)));
    let list = client.call("sessions.list", json!({})).await.unwrap();
    let row = &list["sessions"][0];
    assert_eq!(
        (&row["inputTokens"], &row["outputTokens"], &row["status"]),
        (&json!(7), &json!(3), &json!("done"))
    );
    let asked = world.asked();
    assert_eq!((&asked["stream"], &asked["messages"][1]["content"]), (&json!(true), &json!("hi")));
}

#[tokio::test]
async fn tools_are_run_until_the_model_calls_none() {
    let write = json!({ "path": "a.txt", "content": "one" });
    let edit = json!({ "path": "a.txt", "oldText": "one", "newText": "two" });
    let world = World::new(vec![
        Line::Calls(vec![("write", write)]),
        Line::Calls(vec![("edit", edit), ("exec", json!({ "command": "cat a.txt" }))]),
        Line::Says("done"),
    ])
    .await;
    let mut client = world.client(ALL).await;
    let id = client.say("agent", json!({ "message": "go", "idempotencyKey": "r1" })).await;
    let accepted = client.answer("agent", &id).await.unwrap();
    assert_eq!((&accepted["status"], &accepted["runId"]), (&json!("accepted"), &json!("r1")));
    let ended = client.answer("agent", &id).await.unwrap();
    assert_eq!((&ended["status"], &ended["result"]["payloads"][0]["text"]), (&json!("ok"), &json!("done")));
    assert_eq!(ended["result"]["meta"]["agentMeta"]["usage"]["input"], 21);
    assert_eq!(std::fs::read_to_string(world.dir.path().join("workspace/a.txt")).unwrap(), "two");
    let is_result = |payload: &Value| payload["stream"] == "tool" && payload["data"]["phase"] == "result";
    let results: Vec<Value> = client
        .events
        .iter()
        .filter(|(name, payload)| name == "agent" && is_result(payload))
        .map(|(_, payload)| payload["data"]["result"]["content"][0]["text"].clone())
        .collect();
    assert_eq!((results.len(), &results[2]), (3, &json!("two")));
    // The model saw each result under the id of its call.
    let asked = world.asked();
    let last = asked["messages"].as_array().unwrap().last().unwrap().clone();
    assert_eq!(last, json!({ "role": "tool", "tool_call_id": "call_1", "content": "two" }));
    let waited = client.call("agent.wait", json!({ "runId": "r1" })).await.unwrap();
    assert_eq!(waited["status"], "ok");
}

#[tokio::test]
async fn a_run_is_stopped_and_what_waits_for_it_goes_on() {
    let go = Arc::new(Notify::new());
    let world = World::new(vec![Line::Holds("half", Arc::clone(&go)), Line::Says("second")]).await;
    let mut client = world.client(ALL).await;
    client.call("chat.send", message("one", "r1")).await.unwrap();
    client.chat("delta").await;
    let mut next = message("two", "r2");
    next["queueMode"] = json!("followup");
    assert_eq!(client.call("chat.send", next).await.unwrap()["status"], "queued");
    let history = client.call("chat.history", json!({ "sessionKey": "main" })).await.unwrap();
    assert_eq!(history["inFlightRun"], json!({ "runId": "r1", "text": "half" }));
    let stopped = client.call("chat.abort", json!({ "sessionKey": "main", "runId": "r1" })).await.unwrap();
    assert_eq!(stopped, json!({ "ok": true, "aborted": true, "runIds": ["r1"] }));
    assert_eq!(client.chat("aborted").await["runId"], "r1");
    let end = client.chat("final").await;
    assert_eq!((&end["runId"], &end["message"]["content"][0]["text"]), (&json!("r2"), &json!("second")));
    let waited = client.call("agent.wait", json!({ "runId": "r1" })).await.unwrap();
    assert_eq!(waited["status"], "error");
    go.notify_waiters();
}

#[tokio::test]
async fn what_is_said_meanwhile_is_read_before_the_run_ends() {
    let go = Arc::new(Notify::new());
    let world = World::new(vec![Line::Holds("first", Arc::clone(&go)), Line::Says("second")]).await;
    let mut client = world.client(ALL).await;
    client.call("chat.send", message("one", "r1")).await.unwrap();
    client.chat("delta").await;
    assert_eq!(client.call("chat.send", message("and this", "r2")).await.unwrap()["status"], "steered");
    go.notify_one();
    assert_eq!(client.chat("final").await["message"]["content"][0]["text"], "second");
    let asked = world.asked();
    let last = asked["messages"].as_array().unwrap().last().unwrap().clone();
    assert_eq!(last, json!({ "role": "user", "content": "and this" }));
}

#[tokio::test]
async fn a_model_that_refuses_is_told_of() {
    let world = World::new(vec![Line::Fails(429, "Retry-After: 3600", "{}")]).await;
    let mut client = world.client(ALL).await;
    client.call("chat.send", message("one", "r1")).await.unwrap();
    let error = client.chat("error").await;
    assert_eq!(
        (&error["errorKind"], &error["errorDetail"]["httpStatus"]),
        (&json!("rate_limit"), &json!(429))
    );
    let described = client.call("sessions.describe", json!({ "key": "main" })).await.unwrap();
    assert_eq!(described["session"]["status"], "failed");
    // And the next message goes.
    client.call("chat.send", message("two", "r2")).await.unwrap();
    assert_eq!(client.chat("final").await["runId"], "r2");
}

#[tokio::test]
async fn what_was_acknowledged_is_there_after_the_gateway_was_killed() {
    let go = Arc::new(Notify::new());
    let world = World::new(vec![Line::Holds("half", go)]).await;
    let mut client = world.client(ALL).await;
    client.call("chat.send", message("one", "r1")).await.unwrap();
    client.chat("delta").await;
    let mut next = message("two", "r2");
    next["queueMode"] = json!("followup");
    client.call("chat.send", next).await.unwrap();
    let world = world.killed(vec![Line::Says("again")]).await;
    let mut client = world.client(ALL).await;
    let history = client.call("chat.history", json!({ "sessionKey": "main" })).await.unwrap();
    let messages = history["messages"].as_array().unwrap();
    let said: Vec<_> = messages.iter().map(|it| it["content"][0]["text"].clone()).collect();
    assert_eq!(said, [json!("one"), json!("two")]);
    assert_eq!(history["sessionInfo"]["status"], "failed");
    assert_eq!(client.call("chat.send", message("one", "r1")).await.unwrap()["status"], "error");
    client.call("chat.send", message("three", "r3")).await.unwrap();
    assert_eq!(client.chat("final").await["message"]["content"][0]["text"], "again");
    assert_eq!(world.store().sessions().unwrap().len(), 1);
}

#[tokio::test]
async fn a_connection_may_what_its_scopes_say() {
    let world = World::new(Vec::new()).await;
    let mut reader = world.client("operator.read").await;
    let error = reader.call("chat.send", message("hi", "r1")).await.unwrap_err();
    let wanted = ["operator.write"];
    let details = json!({ "code": "MISSING_SCOPE", "missingScope": wanted[0], "requiredScopes": wanted });
    assert_eq!((&error["code"], &error["details"]), (&json!("FORBIDDEN"), &details));
    reader.call("health", json!({})).await.unwrap();
    // What it asks for beyond what the edge says is not given.
    let greedy = Socket::open(world.address, "operator.read").await;
    let mut greedy = greedy.connect(&["operator.admin", "operator.read"]).await;
    assert!(greedy.call("sessions.reset", json!({ "key": "main" })).await.is_err());
    // And one that asks for nothing may nothing, and hears nothing.
    let mut nobody = Socket::open(world.address, ALL).await.connect(&[]).await;
    assert!(nobody.call("chat.history", json!({ "sessionKey": "main" })).await.is_err());
    let mut writer = world.client(ALL).await;
    writer.call("chat.send", message("hi", "r1")).await.unwrap();
    writer.chat("final").await;
    assert!(nobody.call("health", json!({})).await.is_err());
    assert!(nobody.events.is_empty(), "{:?}", nobody.events);
}

#[tokio::test]
async fn who_does_not_introduce_itself_is_told_and_closed() {
    let world = World::new(Vec::new()).await;
    let client = r#"{"id":"cli","version":"1","platform":"l","mode":"cli"}"#;
    let old = format!(
        r#"{{"type":"req","id":"1","method":"connect","params":{{"minProtocol":3,"maxProtocol":3,"client":{client}}}}}"#
    );
    for (first, why) in [
        (r#"{"type":"req","id":"1","method":"health"}"#, "first request must be connect"),
        ("nonsense", "invalid request frame"),
        (&old, "protocol mismatch"),
    ] {
        let mut socket = Socket::open(world.address, "operator.read").await;
        socket.event().await;
        socket.stream.send(Message::Text(first.into())).await.unwrap();
        let answer = socket.frame().await;
        assert!(answer["error"]["message"].as_str().unwrap().contains(why), "{answer}");
        let Some(Ok(Message::Close(Some(close)))) = socket.stream.next().await else {
            panic!("it stays open")
        };
        assert_eq!(u16::from(close.code), if why == "protocol mismatch" { 1002 } else { 1008 });
    }
}

#[tokio::test]
async fn what_is_said_into_a_run_that_is_stopped_begins_no_other() {
    let go = Arc::new(Notify::new());
    let world = World::new(vec![Line::Holds("half", Arc::clone(&go))]).await;
    let mut client = world.client(ALL).await;
    client.call("chat.send", message("one", "r1")).await.unwrap();
    client.chat("delta").await;
    assert_eq!(client.call("chat.send", message("and this", "r2")).await.unwrap()["status"], "steered");
    client.call("chat.abort", json!({ "sessionKey": "main" })).await.unwrap();
    assert_eq!(client.chat("aborted").await["runId"], "r1");
    let history = client.call("chat.history", json!({ "sessionKey": "main" })).await.unwrap();
    let messages = history["messages"].as_array().unwrap();
    let said: Vec<_> = messages.iter().map(|it| it["content"][0]["text"].clone()).collect();
    let kept = vec![json!("one"), json!("half"), json!("and this")];
    assert_eq!((said, history.get("inFlightRun")), (kept, None));
    assert_eq!(world.script.asked.lock().unwrap().len(), 1);
    // And a session that is deleted meanwhile stays so.
    let key = "agent:main:dashboard:1";
    world.script.lines.lock().unwrap().push_back(Line::Holds("half", Arc::clone(&go)));
    let to = |text: &str, id: &str| json!({ "sessionKey": key, "message": text, "idempotencyKey": id });
    client.call("chat.send", to("one", "d1")).await.unwrap();
    client.chat("delta").await;
    client.call("chat.send", to("two", "d2")).await.unwrap();
    client.call("sessions.delete", json!({ "key": key })).await.unwrap();
    client.chat("aborted").await;
    let list = client.call("sessions.list", json!({})).await.unwrap();
    assert_eq!(list["totalCount"], 1, "{list}");
    let wrong = json!({ "key": "agent:main:main", "deleteTranscript": false });
    assert!(client.call("sessions.delete", wrong).await.is_err());
}

#[tokio::test]
async fn a_conversation_is_put_away_and_deleted_only_while_it_is_the_one_that_was_read() {
    let world = World::new(Vec::new()).await;
    let mut client = world.client(ALL).await;
    let key = "agent:main:dashboard:1";
    let made = client.call("sessions.create", json!({ "key": key })).await.unwrap();
    let id = made["sessionId"].clone();
    let other = json!({ "key": key, "expectedSessionId": "another", "archived": true });
    assert!(client.call("sessions.patch", other).await.is_err());
    let unkept = json!({ "key": key, "deleteTranscript": true, "archivedOnly": true });
    assert!(client.call("sessions.delete", unkept).await.is_err(), "it is not put away");
    let mut writer = world.client("operator.read,operator.write").await;
    let error = writer.call("sessions.delete", json!({ "key": key })).await.unwrap_err();
    assert_eq!(error["code"], "FORBIDDEN", "{error}");
    let away = json!({ "key": key, "expectedSessionId": id, "archived": true });
    let at = client.call("sessions.patch", away.clone()).await.unwrap()["entry"]["archivedAt"].clone();
    assert!(at.is_u64(), "{at}");
    let again = client.call("sessions.patch", away).await.unwrap();
    assert_eq!((&again["entry"]["archivedAt"], &again["entry"]["archived"]), (&at, &json!(true)));
    assert_eq!(client.call("sessions.list", json!({})).await.unwrap()["totalCount"], 0);
    let all = client.call("sessions.list", json!({ "archived": "all" })).await.unwrap();
    assert_eq!(all["sessions"][0]["archivedAt"], at, "{all}");
    let gone = json!({ "key": key, "expectedSessionId": id, "deleteTranscript": true, "archivedOnly": true });
    assert_eq!(writer.call("sessions.delete", gone).await.unwrap()["deleted"], true);
    client.call("sessions.create", json!({ "key": "agent:main:main" })).await.unwrap();
    let main = json!({ "key": "agent:main:main", "archived": true });
    assert!(client.call("sessions.patch", main).await.is_err(), "the main one stays");
}

/// Whoever reads it would wait for a writer, and with it all others.
#[tokio::test]
async fn a_pipe_in_the_place_of_a_file_stops_nobody() {
    let world = World::new(Vec::new()).await;
    for name in ["IDENTITY.md", "SOUL.md"] {
        let path = world.dir.path().join("workspace").join(name);
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR)
            .unwrap();
    }
    let mut client = world.client(ALL).await;
    let identity = client.call("agent.identity.get", json!({})).await.unwrap();
    assert_eq!(identity["nameSource"], "default");
    let soul = json!({ "agentId": "main", "name": "SOUL.md" });
    assert!(client.call("agents.files.get", soul.clone()).await.is_err());
    let mut set = soul;
    set["content"] = json!("x");
    assert!(client.call("agents.files.set", set).await.is_err());
    client.call("chat.send", message("hi", "r1")).await.unwrap();
    assert_eq!(client.chat("final").await["runId"], "r1");
}

#[tokio::test]
async fn a_command_is_answered_by_the_gateway() {
    let world = World::new(vec![Line::Says("one"), Line::Says("two")]).await;
    let mut client = world.client(ALL).await;
    client.call("chat.send", message("hi", "r1")).await.unwrap();
    client.chat("final").await;
    let mut number = 0;
    let mut type_in = async |client: &mut Socket, text: &str| {
        number += 1;
        client.call("chat.send", message(text, &format!("c{number}"))).await.unwrap();
        client.chat("final").await["message"]["content"][0]["text"].as_str().unwrap().to_owned()
    };
    let status = type_in(&mut client, "/status").await;
    assert!(status.contains("beside the conversation:") && status.contains("7 in, 3 out"), "{status}");
    assert!(type_in(&mut client, "/think high").await.contains("high from now on"));
    assert!(type_in(&mut client, "/think").await.contains("off|minimal"));
    assert!(type_in(&mut client, "/model small").await.contains("small from now on"));
    assert!(type_in(&mut client, "/usage").await.contains("7 in"));
    assert!(type_in(&mut client, "/stop").await.contains("Nothing runs"));
    assert!(type_in(&mut client, "/compact").await.contains("Nothing to compact"));
    assert!(type_in(&mut client, "/help").await.contains("/think"));
    assert_eq!(world.script.asked.lock().unwrap().len(), 1, "the model was not asked");
    // What was chosen holds for the next turn, and what nobody knows is a message.
    assert_eq!(type_in(&mut client, "/whatever it is").await, "two");
    let asked = world.asked();
    assert_eq!((&asked["model"], &asked["reasoning_effort"]), (&json!("small"), &json!("high")));
    assert_eq!(asked["messages"].as_array().unwrap().last().unwrap()["content"], "/whatever it is");
    assert!(type_in(&mut client, "/new").await.contains("new conversation"));
    let history = client.call("chat.history", json!({ "sessionKey": "main" })).await.unwrap();
    assert_eq!(history["totalMessages"], 0);
    // Sent again, it is the same; and one may ask that a slash means nothing.
    assert_eq!(client.call("chat.send", message("/new", "c1")).await.unwrap()["status"], "ok");
    let mut plain = message("/help", "p1");
    plain["suppressCommandInterpretation"] = json!(true);
    client.call("chat.send", plain).await.unwrap();
    assert_eq!(client.chat("final").await["message"]["content"][0]["text"], "that is all");
}
