//! The same agent over HTTP.

use super::*;

/// One request of its own connection: status and body.
pub(super) async fn ask(address: SocketAddr, head: &str, body: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request =
        format!("{head}Host: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    let status = text.split(' ').nth(1).unwrap().parse().unwrap();
    (status, text.split_once("\r\n\r\n").unwrap().1.to_owned())
}

const WHO: &str = "x-cofferdam-user: m001\r\nx-openclaw-scopes: operator.read,operator.write\r\n";

#[tokio::test]
async fn health_is_everybodys_and_the_rest_is_the_edges() {
    let world = World::new(Vec::new()).await;
    for path in ["/health", "/healthz", "/ready", "/readyz"] {
        let (status, body) = ask(world.address, &format!("GET {path} HTTP/1.1\r\n"), "").await;
        assert_eq!(status, 200, "{path} {body}");
    }
    let twice = format!("{WHO}x-cofferdam-user: m002\r\n");
    for who in ["", "x-cofferdam-user: m001\r\n", "x-openclaw-scopes: operator.read\r\n", &twice] {
        let (status, body) = ask(world.address, &format!("GET /v1/models HTTP/1.1\r\n{who}"), "").await;
        assert_eq!(status, 401, "{who}");
        assert_eq!(body, r#"{"error":{"message":"Unauthorized","type":"unauthorized"}}"#);
    }
    assert_eq!(ask(world.address, &format!("GET /v1/models HTTP/1.1\r\n{WHO}"), "").await.0, 200);
    assert_eq!(ask(world.address, &format!("GET /nothing HTTP/1.1\r\n{WHO}"), "").await.0, 404);
}

#[tokio::test]
async fn a_chat_completion_is_a_turn_whole_or_streamed() {
    let world =
        World::new(vec![Line::Says("Hello there"), Line::Says("Hello again"), Line::Refuses(400)]).await;
    let head = format!("POST /v1/chat/completions HTTP/1.1\r\n{WHO}");
    let messages = json!([{ "role": "system", "content": "be kind" }, { "role": "user", "content": "hi" }]);
    let asked = json!({ "model": "openclaw", "messages": messages });
    let (status, body) = ask(world.address, &head, &asked.to_string()).await;
    let answer: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((status, &answer["choices"][0]["message"]["content"]), (200, &json!("Hello there")));
    assert_eq!(answer["usage"]["total_tokens"], 10);
    assert!(world.asked()["messages"][0]["content"].as_str().unwrap().ends_with("be kind"));
    let (status, body) =
        ask(world.address, &head, &json!({ "stream": true, "messages": messages }).to_string()).await;
    let mut said = String::new();
    for chunk in body.lines().filter_map(|line| line.strip_prefix("data: ")).filter(|data| *data != "[DONE]")
    {
        let chunk: Value = serde_json::from_str(chunk).unwrap();
        said += chunk["choices"][0]["delta"]["content"].as_str().unwrap_or_default();
    }
    assert_eq!((status, &*said, body.contains("data: [DONE]")), (200, "Hello again", true));
    assert_eq!(ask(world.address, &head, &json!({ "messages": messages }).to_string()).await.0, 502);
    for (body, why) in [
        (r#"{"messages":[]}"#, "role user"),
        (r#"{"model":"gpt-4","messages":[{"role":"user","content":"a"}]}"#, "unknown model"),
        ("{", "cannot be read"),
    ] {
        let (status, said) = ask(world.address, &head, body).await;
        assert!(status == 400 && said.contains(why), "{status} {said}");
    }
    let reader = "POST /v1/chat/completions HTTP/1.1\r\nx-cofferdam-user: m001\r\nx-openclaw-scopes: operator.read\r\n";
    assert_eq!(ask(world.address, reader, r#"{"messages":[]}"#).await.0, 403);
}

#[tokio::test]
async fn a_client_that_leaves_ends_its_run() {
    let go = Arc::new(Notify::new());
    let world = World::new(vec![Line::Holds("half", go)]).await;
    let mut watcher = world.client(ALL).await;
    let mut stream = TcpStream::connect(world.address).await.unwrap();
    let body = r#"{"stream":true,"messages":[{"role":"user","content":"hi"}]}"#;
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n{WHO}Content-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all((head + body).as_bytes()).await.unwrap();
    watcher.chat("delta").await;
    drop(stream);
    watcher.chat("aborted").await;
}

#[tokio::test]
async fn a_tool_is_run_by_itself_unless_it_writes_or_runs_commands() {
    let world = World::new(Vec::new()).await;
    std::fs::write(world.dir.path().join("workspace/a.txt"), "one").unwrap();
    let head = format!("POST /tools/invoke HTTP/1.1\r\n{WHO}");
    let (status, body) = ask(world.address, &head, r#"{"tool":"read","args":{"path":"a.txt"}}"#).await;
    let answer: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((status, &answer["result"]["content"][0]["text"]), (200, &json!("one")));
    for (body, status, why) in [
        (r#"{"name":"exec","args":{"command":"id"}}"#, 404, "not_found"),
        (r#"{"name":"write","args":{"path":"b","content":""}}"#, 404, "not_found"),
        (r#"{"tool":"read","args":{"path":"b"}}"#, 200, "tool_error"),
        (r#"{"tool":"read","more":1}"#, 400, "more"),
    ] {
        let (got, said) = ask(world.address, &head, body).await;
        assert!(got == status && said.contains(why), "{got} {said}");
    }
    assert!(!world.dir.path().join("workspace/b").exists());
}

#[tokio::test]
async fn a_response_is_a_turn_whole_or_streamed() {
    let world =
        World::new(vec![Line::Says("Hello there"), Line::Says("Hello again"), Line::Refuses(400)]).await;
    let head = format!("POST /v1/responses HTTP/1.1\r\n{WHO}");
    let asked = json!({ "model": "openclaw", "input": "hi", "instructions": "be kind" });
    let (status, body) = ask(world.address, &head, &asked.to_string()).await;
    let answer: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((status, &answer["output"][0]["content"][0]["text"]), (200, &json!("Hello there")));
    assert_eq!((&answer["status"], &answer["usage"]["total_tokens"]), (&json!("completed"), &json!(10)));
    assert!(world.asked()["messages"][0]["content"].as_str().unwrap().ends_with("be kind"));
    let input = json!([{ "role": "user", "content": [{ "type": "input_text", "text": "hi" }] }]);
    let (status, body) =
        ask(world.address, &head, &json!({ "input": input, "stream": true }).to_string()).await;
    assert_eq!(status, 200);
    let (mut kinds, mut said) = (Vec::new(), String::new());
    for (number, data) in body.lines().filter_map(|line| line.strip_prefix("data: ")).enumerate() {
        let event: Value = serde_json::from_str(data).unwrap();
        assert_eq!(event["sequence_number"], number);
        said += event["delta"].as_str().unwrap_or_default();
        kinds.push(event["type"].as_str().unwrap().rsplit('.').next().unwrap().to_owned());
    }
    assert_eq!(
        (&*said, kinds[0].as_str(), kinds.last().unwrap().as_str()),
        ("Hello again", "created", "completed")
    );
    let (_, failed) = ask(world.address, &head, &json!({ "input": "hi", "stream": true }).to_string()).await;
    assert!(failed.contains("response.failed") && failed.contains("not now"), "{failed}");
    for (body, why) in
        [(r#"{"input":[]}"#, "role user"), (r#"{"input":"a","previous_response_id":"r"}"#, "names nothing")]
    {
        let (status, said) = ask(world.address, &head, body).await;
        assert!(status == 400 && said.contains(why), "{status} {said}");
    }
}

#[tokio::test]
async fn why_an_answer_ended_is_told_and_steps_are_paragraphs() {
    let world = World::new(vec![
        Line::Speaks("I look", "ls", json!({})),
        Line::Ends("too lo", "length", 7),
        Line::Speaks("I look", "ls", json!({})),
        Line::Ends("too lo", "length", 7),
        Line::Ends("too lo", "length", 7),
    ])
    .await;
    let head = format!("POST /v1/chat/completions HTTP/1.1\r\n{WHO}");
    let messages = json!([{ "role": "user", "content": "hi" }]);
    let (_, body) = ask(world.address, &head, &json!({ "messages": messages }).to_string()).await;
    let answer: Value = serde_json::from_str(&body).unwrap();
    let choice = &answer["choices"][0];
    let told = (&choice["finish_reason"], &choice["message"]["content"]);
    assert_eq!(told, (&json!("length"), &json!("I look\n\ntoo lo")));
    let (_, body) =
        ask(world.address, &head, &json!({ "stream": true, "messages": messages }).to_string()).await;
    let (mut said, mut stop) = (String::new(), Value::Null);
    for data in body.lines().filter_map(|line| line.strip_prefix("data: ")).filter(|data| *data != "[DONE]") {
        let chunk: Value = serde_json::from_str(data).unwrap();
        said += chunk["choices"][0]["delta"]["content"].as_str().unwrap_or_default();
        stop = chunk["choices"][0]["finish_reason"].clone();
    }
    assert_eq!((&*said, stop), ("I look\n\ntoo lo", json!("length")));
    let head = format!("POST /v1/responses HTTP/1.1\r\n{WHO}");
    let (_, body) = ask(world.address, &head, r#"{"input":"hi"}"#).await;
    let answer: Value = serde_json::from_str(&body).unwrap();
    let why = (&answer["status"], &answer["incomplete_details"]["reason"]);
    assert_eq!(why, (&json!("incomplete"), &json!("max_output_tokens")));
}
