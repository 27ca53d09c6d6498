//! Plain HTTP where rules judge requests: each by itself, also on a kept connection, in a tunnel and under an
//! approval.

use super::*;

const RULES: &str = "version: 2
default: deny
rules:
  - allow: web.example
    protocol: http
    method: GET
    path: /repos/{owner}/**
    content: untrusted
  - ask: web.example
    protocol: http
    method: POST
    path: /repos/{owner}/issues
  - deny: web.example
    path: /repos/acme/secret/**
    reason: not the secret one
  - allow: web.example
    protocol: http
    path: /mcp
    mcp: {tool: read, arguments: {path: \"/notes/*\"}}
  - allow: web.example
    protocol: http
    method: PUT
    path: /upload
";

fn judged() -> Cell {
    let cell = cell();
    cell.egress.gate.configure(rules(RULES), LIMITS);
    cell
}

fn request(line: &str, body: &str) -> String {
    let kind = if body.is_empty() { "" } else { "Content-Type: application/json\r\n" };
    format!("{line} HTTP/1.1\r\nHost: web.example\r\n{kind}Content-Length: {}\r\n\r\n{body}", body.len())
}

fn tool(name: &str, path: &str) -> String {
    format!(
        r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"{name}","arguments":{{"path":"{path}"}}}}}}"#
    )
}

/// The rules that denied, or the layers.
fn deniers(cell: &Cell) -> Vec<String> {
    let rows = cell.told.rows.lock().unwrap();
    rows.iter().filter(|row| row.what == RecordKind::Deny).map(|row| row.by.clone()).collect()
}

#[tokio::test(start_paused = true)]
async fn each_request_of_a_kept_connection_is_judged_and_a_denial_names_its_rule() {
    let cell = judged();
    let mut client = cell.captured("web.example", 80);
    say(&mut client, &request("GET /repos/acme/site", "")).await;
    let mut server = cell.server().await;
    assert!(message(&mut server).await.starts_with("GET /repos/acme/site HTTP/1.1"));
    say(&mut server, OK).await;
    assert!(message(&mut client).await.starts_with("HTTP/1.1 200"));

    say(&mut client, &request("GET /repos/acme/secret/key", "")).await;
    let answer = message(&mut client).await;
    assert!(answer.starts_with("HTTP/1.1 403") && answer.contains("not the secret one"), "{answer}");
    say(&mut client, &request("DELETE /repos/acme/site", "")).await;
    let answer = message(&mut client).await;
    assert!(answer.starts_with("HTTP/1.1 403") && answer.contains("no_rule"), "{answer}");
    let by = deniers(&cell);
    assert!(by[0].starts_with("rule 3 (line 13): deny") && by[1] == "default", "{by:?}");

    // And the connection goes on for what is allowed.
    say(&mut client, &request("GET /repos/acme/./b//c?d=%2F", "")).await;
    assert!(message(&mut server).await.starts_with("GET /repos/acme/b/c?d=%2F HTTP/1.1"));
    assert_eq!(cell.dialled(), 1);
    let rows = cell.told.rows.lock().unwrap();
    let allowed: Vec<_> = rows.iter().filter(|row| row.what == RecordKind::Allow).collect();
    assert_eq!(allowed.len(), 2);
    assert!(allowed[0].by.starts_with("rule 1 (line 4)") && allowed[0].by.ends_with("content untrusted"));
}

#[tokio::test(start_paused = true)]
async fn the_proxys_absolute_form_is_judged_like_a_captured_request() {
    let cell = judged();
    let mut client = cell.peer(Peer::Proxy);
    let ask = async |client: &mut DuplexStream, line: &str| {
        say(client, &request(&line.replace(" /", " http://web.example/"), "")).await;
    };
    ask(&mut client, "PUT /repos/acme/site").await;
    assert!(message(&mut client).await.starts_with("HTTP/1.1 403"));
    ask(&mut client, "GET /repos/acme%2Fsecret/x").await;
    let answer = message(&mut client).await;
    assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("ambiguous_request"), "{answer}");
    let mut client = cell.peer(Peer::Proxy);
    ask(&mut client, "GET /repos/acme/site").await;
    assert!(message(&mut cell.server().await).await.starts_with("GET /repos/acme/site HTTP/1.1"));
}

#[tokio::test(start_paused = true)]
async fn a_request_that_a_rule_asks_about_is_held_and_the_question_shows_it() {
    let cell = judged();
    let mut client = cell.captured("web.example", 80);
    say(&mut client, &request("POST /repos/acme/issues?draft=1", "{}")).await;
    let destination = cell.asked().await;
    let why = cell.told.notices.lock().unwrap().iter().find_map(|notice| match notice {
        Notice::Ask { why, .. } => Some(why.clone()),
        _ => None,
    });
    assert!(why.is_some_and(|why| why.starts_with("rule 2 ") && why.ends_with(": POST /repos/acme/issues")));
    assert_eq!(cell.dialled(), 0);
    cell.egress.gate.grant(grant(&destination, GrantSpan::Until(Millis(600_000))));
    let mut server = cell.server().await;
    assert!(message(&mut server).await.ends_with("{}"));
    say(&mut server, OK).await;
    message(&mut client).await;
    // What was granted is what a rule asks about, and not what a rule denies.
    say(&mut client, &request("POST /repos/acme/secret", "")).await;
    assert!(message(&mut client).await.starts_with("HTTP/1.1 403"));
}

#[tokio::test(start_paused = true)]
async fn a_tools_arguments_decide_and_the_body_goes_on_as_it_was_judged() {
    let cell = judged();
    let mut client = cell.captured("web.example", 80);
    say(&mut client, &request("POST /mcp", &tool("read", "/notes/../etc/passwd"))).await;
    assert!(message(&mut client).await.starts_with("HTTP/1.1 403"));
    say(&mut client, &request("POST /mcp", &tool("write", "/notes/a"))).await;
    assert!(message(&mut client).await.starts_with("HTTP/1.1 403"));
    let body = tool("read", "/notes/a");
    say(&mut client, &request("POST /mcp", &body)).await;
    let sent = message(&mut cell.server().await).await;
    assert!(sent.starts_with("POST /mcp HTTP/1.1") && sent.ends_with(&body), "{sent}");
}

#[tokio::test(start_paused = true)]
async fn a_body_that_no_rule_asks_about_is_streamed_and_one_over_the_cap_is_refused() {
    let cell = judged();
    let mut client = cell.captured("web.example", 80);
    let head = "PUT /upload HTTP/1.1\r\nHost: web.example\r\nContent-Length: 3000000\r\n\r\n";
    say(&mut client, head).await;
    say(&mut client, "begun").await;
    let mut server = cell.server().await;
    let mut seen = String::new();
    while !seen.ends_with("begun") {
        seen.push(char::from(server.read_u8().await.unwrap()));
    }
    let mut client = cell.captured("web.example", 80);
    let head = "POST /mcp HTTP/1.1\r\nHost: web.example\r\nContent-Type: application/json\r\nContent-Length: 3000000\r\n\r\n";
    say(&mut client, head).await;
    let piece = " ".repeat(32 * 1024);
    for _ in 0..33 {
        if client.write_all(piece.as_bytes()).await.is_err() {
            break;
        }
    }
    let answer = message(&mut client).await;
    assert!(answer.starts_with("HTTP/1.1 413") && answer.contains("body_too_long"), "{answer}");
    assert!(deniers(&cell)[0].starts_with("rule 4 "), "{:?}", deniers(&cell));
    assert_eq!(cell.dialled(), 1);
}

#[tokio::test(start_paused = true)]
async fn new_rules_end_a_request_that_they_deny_and_leave_its_neighbour() {
    let cell = judged();
    let open = async |path: &str| {
        let mut client = cell.captured("web.example", 80);
        say(&mut client, &request(&format!("GET /repos/acme/{path}"), "")).await;
        let mut server = cell.server().await;
        message(&mut server).await;
        say(&mut server, "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nbegin").await;
        let mut seen = String::new();
        while !seen.ends_with("begin") {
            seen.push(char::from(client.read_u8().await.unwrap()));
        }
        (client, server)
    };
    let (mut closed, _server) = open("old/x").await;
    let (mut kept, mut server) = open("new/x").await;
    let more = RULES.replace("/repos/acme/secret/**", "/repos/acme/old/**");
    cell.egress.gate.configure(rules(&more), LIMITS);
    assert_eq!(all(&mut closed).await, b"");
    say(&mut server, "over").await;
    let mut rest = [0; 4];
    kept.read_exact(&mut rest).await.unwrap();
    assert_eq!(&rest, b"over");
}

#[tokio::test(start_paused = true)]
async fn tls_that_cannot_be_looked_into_is_refused_where_rules_judge_requests() {
    let cell = cell();
    let text = "version: 2\ndefault: deny\nrules:\n  - allow: open.example\n    method: GET\n  - allow: data.example\n";
    cell.egress.gate.configure(rules(text), LIMITS);
    let mut client = cell.captured("open.example", 443);
    client.write_all(&real("open.example")).await.unwrap();
    assert_eq!(all(&mut client).await, ALERT);
    assert_eq!(cell.reasons(), ["not_ready"]);
    // The positive control: one whose requests no rule judges.
    let mut client = cell.captured("data.example", 443);
    client.write_all(&real("data.example")).await.unwrap();
    cell.server().await;
    // New rules about its requests end it.
    let text = text.replace(
        "  - allow: data.example\n",
        "  - allow: data.example\n  - deny: data.example\n    method: PUT\n",
    );
    cell.egress.gate.configure(rules(&text), LIMITS);
    assert_eq!(all(&mut client).await, b"");
}
