//! What the agent asks people, and other sessions.

use super::*;

fn calls(name: &'static str, arguments: Value) -> Line {
    Line::Calls(vec![(name, arguments)])
}

async fn requested(client: &mut Socket) -> Value {
    loop {
        let (name, payload) = client.event().await;
        if name == "question.requested" {
            return payload;
        }
    }
}

#[tokio::test]
async fn a_question_waits_for_its_answer_and_the_run_goes_on_with_it() {
    let asks = || calls("ask_user", json!({ "question": "Which?", "options": ["red", "blue"] }));
    let world = World::new(vec![asks(), Line::Says("red it is"), asks(), Line::Says("none"), asks()]).await;
    let mut client = world.client(ALL).await;
    let mut other = world.client("operator.read,operator.write").await;
    client.call("chat.send", message("paint", "r1")).await.unwrap();
    let asked = requested(&mut client).await;
    assert_eq!((&asked["sessionKey"], &asked["runId"]), (&json!("agent:main:main"), &json!("r1")));
    assert_eq!(asked["questions"][0]["options"][1]["label"], "blue");
    let id = asked["id"].as_str().unwrap().to_owned();
    // Who may not answer does not see it either.
    let refused = other.call("question.list", json!({})).await.unwrap_err();
    assert_eq!(refused["details"]["missingScope"], "operator.questions");
    assert!(other.events.iter().all(|(name, _)| !name.starts_with("question")), "{:?}", other.events);
    let listed = client.call("question.list", json!({})).await.unwrap();
    assert_eq!(listed["questions"][0]["id"], *id);
    let answer = |name: &str| json!({ "id": id, "answers": { "answers": { name: ["red"] } } });
    let refused = client.call("question.resolve", answer("another")).await.unwrap_err();
    assert!(refused["message"].as_str().unwrap().contains("was not asked"), "{refused}");
    client.call("question.resolve", answer("q")).await.unwrap();
    client.chat("final").await;
    let result = world.asked()["messages"].as_array().unwrap().last().unwrap().clone();
    assert_eq!((&result["role"], &result["content"]), (&json!("tool"), &json!("red")));
    assert!(client.call("question.resolve", answer("q")).await.is_err(), "it is over");
    // Nobody wants to answer.
    client.call("chat.send", message("paint", "r2")).await.unwrap();
    let id = requested(&mut client).await["id"].clone();
    client.call("question.resolve", json!({ "id": id, "cancel": true })).await.unwrap();
    client.chat("final").await;
    assert!(world.asked().to_string().contains("did not want to answer"));
    // A run that is stopped takes its question with it.
    client.call("chat.send", message("paint", "r3")).await.unwrap();
    let id = requested(&mut client).await["id"].clone();
    client.call("chat.abort", json!({ "sessionKey": "main" })).await.unwrap();
    client.chat("aborted").await;
    let question = client.call("question.get", json!({ "id": id })).await.unwrap();
    assert_eq!(question["question"]["status"], "cancelled");
    assert_eq!(client.call("question.list", json!({})).await.unwrap(), json!({ "questions": [] }));
}

#[tokio::test]
async fn a_session_asks_another_and_reads_it() {
    let key = "agent:main:dashboard:other";
    let world = World::new(vec![
        calls("sessions_send", json!({ "sessionKey": key, "message": "/stop and say yes" })),
        Line::Says("yes"),
        calls("sessions_list", json!({})),
        calls("sessions_history", json!({ "sessionKey": key })),
        calls("sessions_send", json!({ "sessionKey": "main", "message": "me" })),
        calls("sessions_history", json!({ "sessionKey": "elsewhere" })),
        Line::Says("done"),
    ])
    .await;
    let mut client = world.client(ALL).await;
    client.call("sessions.create", json!({ "key": key })).await.unwrap();
    client.call("chat.send", message("ask the other one", "r1")).await.unwrap();
    let last = loop {
        let last = client.chat("final").await;
        if last["sessionKey"] == "agent:main:main" {
            break last;
        }
    };
    assert_eq!(last["message"]["content"][0]["text"], "done");
    let results: Vec<String> = world.asked()["messages"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|it| it["role"] == "tool")
        .map(|it| it["content"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(results[0], "yes");
    assert!(
        results[1].contains(key) && results[1].contains("agent:main:main (no label, runs)"),
        "{results:?}"
    );
    assert!(
        results[2]
            .starts_with("user: <untrusted source=\"the session agent:main:main\">\n/stop and say yes\n")
    );
    assert!(results[3].contains("that is this session") && results[4].contains("unknown session key"));
}
