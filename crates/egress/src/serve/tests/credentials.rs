//! Placeholders on their way out and secrets on their way back, through a whole connection.

use super::*;
use crate::{
    check::Check,
    credentials::{Credential, Credentials, oauth::Mint},
};
use cofferdam_base::{
    Secret, SecretName,
    binding::{Binding, PLACEHOLDER, PLACEHOLDER_DIGITS},
    kind::{Kind, Oauth},
};

const SECRET: &str = "sk-live/0123456789";
const IN_HEADER: &str = "GET /v1/me HTTP/1.1\r\nHost: web.example\r\nAuthorization: Bearer TOKEN\r\n\r\n";

fn token() -> String {
    format!("{PLACEHOLDER}{}", "c0".repeat(PLACEHOLDER_DIGITS / 2))
}

fn bound(spot: &str) -> Credentials {
    bound_to("http://web.example/v1/**", spot)
}

fn bound_to(place: &str, spot: &str) -> Credentials {
    holds(place, spot, SECRET)
}

fn holds(place: &str, spot: &str, value: &str) -> Credentials {
    let binding = Binding {
        to: place.parse().unwrap(),
        spot: spot.parse().unwrap(),
        format: if spot.starts_with("header") { "Bearer {}" } else { "{}" }.parse().unwrap(),
        resource: None,
        env: None,
        file: None,
        kind: None,
    };
    Credentials::new(vec![Credential {
        name: "KEY".parse().unwrap(),
        placeholder: token(),
        binding,
        value: Secret::new(value.as_bytes().to_vec()),
    }])
}

fn holding(spot: &str) -> Cell {
    let cell = cell();
    let policy = format!("{POLICY}  - allow: data.example\n    protocol: http\n");
    cell.egress.gate.configure(rules(&policy), LIMITS);
    cell.egress.set_credentials(bound(spot));
    cell
}

/// What reaches the world of this request, if its head does, and the client.
async fn sent(cell: &Cell, name: &str, request: &str) -> (Option<(String, DuplexStream)>, DuplexStream) {
    let mut client = cell.captured(name, 80);
    say(&mut client, &request.replace("TOKEN", &token())).await;
    for _ in 0..1000 {
        tokio::time::sleep(Duration::from_millis(1)).await;
        let peer = cell.world.peers.lock().unwrap().pop();
        if let Some(mut server) = peer {
            return (Some((message(&mut server).await, server)), client);
        }
    }
    (None, client)
}

async fn arrives(spot: &str, name: &str, request: &str) -> bool {
    sent(&holding(spot), name, request).await.0.is_some_and(|(head, _)| !head.is_empty())
}

/// How many secrets went out, each by a request whose row stands.
fn uses(cell: &Cell) -> usize {
    let (rows, uses) = (cell.told.rows.lock().unwrap(), cell.told.uses.lock().unwrap());
    for (request, name) in uses.iter() {
        let row = &rows[usize::try_from(request.unwrap()).unwrap() - 1];
        assert_eq!((row.what, name.as_str()), (RecordKind::Allow, "KEY"));
    }
    uses.len()
}

#[tokio::test(start_paused = true)]
async fn a_placeholder_becomes_its_secret_where_it_is_bound_and_the_use_is_recorded() {
    for (spot, request, expected) in [
        ("header:authorization", IN_HEADER, "authorization: Bearer sk-live/0123456789\r\n"),
        (
            "query:key",
            "GET /v1/me?a=1&key=TOKEN HTTP/1.1\r\nHost: web.example\r\n\r\n",
            "GET /v1/me?a=1&key=sk-live%2F0123456789 HTTP/1.1\r\n",
        ),
        (
            "path",
            "GET /v1/TOKEN/me?a=1 HTTP/1.1\r\nHost: web.example\r\n\r\n",
            "GET /v1/sk-live%2F0123456789/me?a=1 HTTP/1.1\r\n",
        ),
    ] {
        let cell = holding(spot);
        let (arrived, _client) = sent(&cell, "web.example", request).await;
        let head = arrived.unwrap().0;
        assert!(head.contains(expected) && !head.contains(PLACEHOLDER), "{head}");
        assert!(head.contains("accept-encoding: identity"), "{head}");
        assert_eq!((uses(&cell), cell.reasons().len()), (1, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn a_placeholder_in_a_path_is_one_whole_segment_of_it_and_in_no_other_place() {
    for request in [
        "GET /v1/xTOKEN/me HTTP/1.1\r\nHost: HOST\r\n\r\n",
        "GET /v1/TOKEN/TOKEN HTTP/1.1\r\nHost: HOST\r\n\r\n",
        "GET /v1/TOKEN/xTOKEN HTTP/1.1\r\nHost: HOST\r\n\r\n",
        "GET /v1/TOKEN?a=TOKEN HTTP/1.1\r\nHost: HOST\r\n\r\n",
        "GET /v1/me HTTP/1.1\r\nHost: HOST\r\nX-Key: TOKEN\r\n\r\n",
        "GET /v2/TOKEN HTTP/1.1\r\nHost: HOST\r\n\r\n",
    ] {
        assert!(!arrives("path", "web.example", &request.replace("HOST", "web.example")).await, "{request}");
    }
    let elsewhere = "GET /v1/TOKEN HTTP/1.1\r\nHost: data.example\r\n\r\n";
    assert!(!arrives("path", "data.example", elsewhere).await);
}

#[tokio::test(start_paused = true)]
async fn a_placeholder_anywhere_else_is_blocked_and_recorded_and_nothing_of_it_arrives() {
    let body = format!("POST /v1/me HTTP/1.1\r\nHost: HOST\r\nContent-Length: {}\r\n\r\n", token().len() + 2);
    for (name, request) in [
        // Another path, another host, another header, twice, another format.
        ("web.example", "GET /v2/me HTTP/1.1\r\nHost: HOST\r\nAuthorization: Bearer TOKEN\r\n\r\n"),
        ("web.example", "GET /v1/../v2 HTTP/1.1\r\nHost: HOST\r\nAuthorization: Bearer TOKEN\r\n\r\n"),
        ("data.example", "GET /v1/me HTTP/1.1\r\nHost: HOST\r\nAuthorization: Bearer TOKEN\r\n\r\n"),
        ("web.example", "GET /v1/me HTTP/1.1\r\nHost: HOST\r\nX-Key: TOKEN\r\n\r\n"),
        ("web.example", "GET /v1/me HTTP/1.1\r\nHost: HOST\r\nAuthorization: Basic TOKEN\r\n\r\n"),
        (
            "web.example",
            "GET /v1/me HTTP/1.1\r\nHost: HOST\r\nAuthorization: Bearer TOKEN\r\nAuthorization: Bearer x\r\n\r\n",
        ),
        // The path, the query, a name, and what is escaped.
        ("web.example", "GET /v1/TOKEN HTTP/1.1\r\nHost: HOST\r\n\r\n"),
        ("web.example", "GET /v1/me?x=TOKEN HTTP/1.1\r\nHost: HOST\r\n\r\n"),
        ("web.example", "GET /v1/me?TOKEN=x HTTP/1.1\r\nHost: HOST\r\n\r\n"),
        ("web.example", "GET /v1/me HTTP/1.1\r\nHost: HOST\r\nTOKEN: x\r\n\r\n"),
        ("web.example", "GET /v1/%63offerdam%5FREST HTTP/1.1\r\nHost: HOST\r\n\r\n"),
        // Its body, and a switch to what is not looked through.
        ("web.example", &format!("{body}<TOKEN>")),
        (
            "web.example",
            "GET /v1/me HTTP/1.1\r\nHost: HOST\r\nAuthorization: Bearer TOKEN\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
        ),
    ] {
        let cell = holding("header:authorization");
        let request = request
            .replace("HOST", name)
            .replace("%5FREST", &format!("%5F{}", &token()["cofferdam_".len()..]));
        let (arrived, mut client) = sent(&cell, name, &request).await;
        // Of a body that was begun the head has arrived, and not its end.
        if let Some((text, mut server)) = arrived {
            let rest = String::from_utf8_lossy(&all(&mut server).await).into_owned();
            assert!(request.contains('<') && !(text + &rest).contains(PLACEHOLDER), "{request}");
        }
        let answer = message(&mut client).await;
        assert!(
            answer.starts_with("HTTP/1.1 403") && answer.contains("placeholder_elsewhere"),
            "{request}: {answer}"
        );
        assert_eq!((cell.reasons(), uses(&cell)), (vec!["placeholder_elsewhere".to_owned()], 0), "{request}");
    }
}

#[tokio::test(start_paused = true)]
async fn one_that_stands_for_nothing_any_more_is_blocked_too() {
    let cell = holding("header:authorization");
    cell.egress.set_credentials(Credentials::default());
    let (arrived, mut client) = sent(&cell, "web.example", IN_HEADER).await;
    assert!(arrived.is_none() && message(&mut client).await.contains("placeholder_elsewhere"));
}

#[tokio::test(start_paused = true)]
async fn a_use_is_told_of_the_request_that_bears_it() {
    let cell = holding("header:authorization");
    for request in ["GET /v1/other HTTP/1.1\r\nHost: web.example\r\n\r\n", IN_HEADER] {
        assert!(sent(&cell, "web.example", request).await.0.is_some());
    }
    let uses = cell.told.uses.lock().unwrap().clone();
    assert_eq!(uses, [(Some(2), "KEY".parse().unwrap())]);
}

#[tokio::test]
async fn a_use_that_cannot_be_recorded_is_none() {
    let cell = holding("header:authorization");
    let to = of(&Host::Name("web.example".parse().unwrap()), 80.try_into().unwrap(), Protocol::Http);
    let pass = cell.egress.gate.admit(&to).await.unwrap();
    assert!(cell.egress.gate.use_secret(&pass, &"KEY".parse().unwrap()).is_ok());
    cell.told.full.store(true, SeqCst);
    let refused = cell.egress.gate.use_secret(&pass, &"KEY".parse().unwrap()).unwrap_err();
    assert_eq!(refused.reason, Reason::LedgerUnavailable);
}

#[tokio::test(start_paused = true)]
async fn a_secret_that_comes_back_is_covered_in_head_and_body_however_it_is_cut() {
    let cell = holding("header:authorization");
    let (arrived, mut client) = sent(&cell, "web.example", IN_HEADER).await;
    let (_, mut server) = arrived.unwrap();
    let text = format!("you sent {SECRET}!");
    let head = format!("HTTP/1.1 200 OK\r\nX-Echo: {SECRET}\r\nContent-Length: {}\r\n\r\n", text.len());
    say(&mut server, &head).await;
    for piece in text.as_bytes().chunks(3) {
        say(&mut server, std::str::from_utf8(piece).unwrap()).await;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let answer = message(&mut client).await;
    assert!(!answer.contains(SECRET), "{answer}");
    assert!(answer.ends_with(&format!("you sent {}!", "*".repeat(SECRET.len()))), "{answer}");
    assert!(answer.contains(&format!("x-echo: {}", "*".repeat(SECRET.len()))), "{answer}");
}

/// What a cell has of an answer whose server says these bytes of it and then nothing.
async fn arrived_of(said: &str) -> String {
    let cell = holding("header:authorization");
    let (arrived, mut client) = sent(&cell, "web.example", IN_HEADER).await;
    let (_, mut server) = arrived.unwrap();
    say(&mut server, "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n").await;
    say(&mut server, said).await;
    let mut bytes = Vec::new();
    // The clock stands still while anything moves.
    while let Ok(Ok(1..)) = tokio::time::timeout(Duration::from_secs(5), client.read_buf(&mut bytes)).await {}
    let text = String::from_utf8(bytes).unwrap();
    text.split_once("\r\n\r\n").unwrap().1.to_owned()
}

/// A server that is in league with a cell would tell it by this whether a guess is right, one letter after the other.
#[tokio::test(start_paused = true)]
async fn what_is_held_back_of_an_answer_follows_from_no_secret() {
    for length in 1..SECRET.len() {
        let (right, wrong) = (&SECRET[..length], "x".repeat(length));
        let [right, wrong] =
            [arrived_of(&format!("a {right}")).await, arrived_of(&format!("a {wrong}")).await];
        assert_eq!(right.len(), wrong.len(), "{length} letters: {right:?}, {wrong:?}");
    }
}

/// What the cell has of an answer with a guess that is right, of a host to which nothing is bound.
async fn answered_elsewhere() -> String {
    let request = "GET / HTTP/1.1\r\nHost: data.example\r\n\r\n";
    let (arrived, mut client) = sent(&holding("header:authorization"), "data.example", request).await;
    let (_, mut server) = arrived.unwrap();
    let length = SECRET.len();
    let head = format!("HTTP/1.1 200 OK\r\nX-Guess: {SECRET}\r\nContent-Length: {length}\r\n\r\n");
    say(&mut server, &format!("{head}{SECRET}")).await;
    message(&mut client).await
}

#[tokio::test(start_paused = true)]
async fn a_host_to_which_it_is_not_bound_learns_of_no_guess_whether_it_is_right() {
    let answer = answered_elsewhere().await;
    assert!(answer.contains(&format!("x-guess: {SECRET}\r\n")), "{answer}");
    assert!(answer.ends_with(&format!("\r\n\r\n{SECRET}")), "{answer}");
}

/// What ends with a line, as events do, is not held back.
#[tokio::test(start_paused = true)]
async fn an_event_that_is_whole_arrives_at_once() {
    for event in ["data: sk-live\n\n", "{\"a\": \"sk-live/\"}\n", "log line s\r\n"] {
        assert_eq!(arrived_of(event).await, event);
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_set_while_an_answer_lasts_is_covered_in_it() {
    let cell = holding("header:authorization");
    let (arrived, mut client) =
        sent(&cell, "web.example", "GET /log HTTP/1.1\r\nHost: web.example\r\n\r\n").await;
    let (_, mut server) = arrived.unwrap();
    let new = "another-value-of-theirs\n";
    say(&mut server, &format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{new}", 2 * new.len())).await;
    let mut before = String::new();
    while !before.ends_with('\n') || !before.contains("\r\n\r\n") {
        before.push(char::from(client.read_u8().await.unwrap()));
    }
    let mut line = vec![0; new.len()];
    client.read_exact(&mut line).await.unwrap();
    assert_eq!(line, new.as_bytes(), "the positive control");
    cell.egress.set_credentials(holds("http://web.example/v1/**", "header:authorization", new.trim()));
    say(&mut server, new).await;
    client.read_exact(&mut line).await.unwrap();
    assert_eq!(String::from_utf8(line).unwrap(), format!("{}\n", "*".repeat(new.len() - 1)));
}

#[tokio::test(start_paused = true)]
async fn an_answer_of_a_bound_host_that_cannot_be_read_is_refused() {
    let cell = holding("header:authorization");
    let plain = "GET / HTTP/1.1\r\nHost: web.example\r\nAccept-Encoding: gzip\r\nRange: bytes=0-3\r\n\r\n";
    let (arrived, mut client) = sent(&cell, "web.example", plain).await;
    let (head, mut server) = arrived.unwrap();
    assert!(head.contains("accept-encoding: identity") && !head.contains("range"), "{head}");
    say(&mut server, "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nxxx").await;
    assert!(message(&mut client).await.starts_with("HTTP/1.1 502"));
    let (arrived, mut client) = sent(&cell, "data.example", &plain.replace("web.", "data.")).await;
    let (head, mut server) = arrived.unwrap();
    assert!(head.contains("accept-encoding: gzip"), "{head}");
    say(&mut server, "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nxxx").await;
    assert!(message(&mut client).await.ends_with("xxx"), "the positive control");
}

#[tokio::test(start_paused = true)]
async fn bodies_and_lengths_go_on_as_they_were() {
    let cell = holding("header:authorization");
    // It ends as one would begin.
    let request = format!(
        "POST /v1/me HTTP/1.1\r\nHost: web.example\r\nAuthorization: Bearer TOKEN\r\nContent-Length: {}\r\n\r\n{PLACEHOLDER}",
        PLACEHOLDER.len()
    );
    let (arrived, mut client) = sent(&cell, "web.example", &request).await;
    let (text, mut server) = arrived.unwrap();
    assert!(text.ends_with(PLACEHOLDER) && text.contains(SECRET), "{text}");
    let reply = &SECRET[..5];
    say(&mut server, &format!("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n{reply}")).await;
    assert!(message(&mut client).await.ends_with(reply));
}

fn posted(path: &str, kind: &str, body: &str) -> String {
    let body = body.replace("TOKEN", &token());
    format!(
        "POST {path} HTTP/1.1\r\nHost: web.example\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

#[tokio::test(start_paused = true)]
async fn in_a_body_it_becomes_its_secret_as_json_forms_and_text_write_it_and_the_length_is_right() {
    const ODD: &str = "a\"b\\c&d/0123456789";
    for (kind, body, expected) in [
        (
            "application/json",
            "{\"a\": \"TOKEN\", \"b\": \"x TOKEN\"}",
            "{\"a\": \"ODD\", \"b\": \"x ODD\"}".replace("ODD", "a\\\"b\\\\c&d/0123456789"),
        ),
        ("application/vnd.api+json; charset=UTF-8", "\"TOKEN\"", "\"a\\\"b\\\\c&d/0123456789\"".to_owned()),
        (
            "application/x-www-form-urlencoded",
            "a=1&key=TOKEN&b=2",
            "a=1&key=a%22b%5Cc%26d%2F0123456789&b=2".to_owned(),
        ),
        ("text/plain", "key TOKEN", format!("key {ODD}")),
        ("text/plain", "nothing", "nothing".to_owned()),
    ] {
        let cell = holding("body");
        cell.egress.set_credentials(holds("http://web.example/v1/**", "body", ODD));
        let (arrived, mut client) = sent(&cell, "web.example", &posted("/v1/me", kind, body)).await;
        let (text, mut server) = arrived.unwrap();
        assert!(text.ends_with(&format!("\r\n\r\n{expected}")), "{text}");
        assert!(text.contains(&format!("content-length: {}\r\n", expected.len())), "{text}");
        say(&mut server, OK).await;
        assert!(message(&mut client).await.ends_with("hi"));
        assert_eq!((uses(&cell), cell.reasons().len()), (usize::from(body.contains("TOKEN")), 0));
    }
}

#[tokio::test(start_paused = true)]
async fn in_a_body_it_is_blocked_where_it_is_not_bound_or_the_body_is_too_long_or_of_another_kind() {
    let json = "application/json";
    let long = format!("{{\"a\": \"{}TOKEN\"}}", "x".repeat(crate::credentials::LONGEST_BODY));
    let packed = posted("/v1/me", json, "\"TOKEN\"")
        .replace("Content-Length", "Content-Encoding: gzip\r\nContent-Length");
    for (spot, request) in [
        ("body", posted("/v2/me", json, "\"TOKEN\"")),
        ("body", posted("/v1/me", "application/octet-stream", "TOKEN")),
        ("body", posted("/v1/me", "application/json; charset=utf-16", "\"TOKEN\"")),
        ("body", packed),
        ("body", posted("/v1/me", json, &long)),
        ("body", IN_HEADER.to_owned()),
        ("header:authorization", posted("/v1/me", json, "\"TOKEN\"")),
    ] {
        let cell = holding(spot);
        let (_, mut client) = sent(&cell, "web.example", &request).await;
        let answer = message(&mut client).await;
        assert!(answer.contains("placeholder_elsewhere"), "{answer}");
        assert_eq!(uses(&cell), 0);
    }
    // A long one without goes on as it is, with its length.
    let cell = holding("body");
    let plain = posted("/v1/me", json, &long.replace("TOKEN", "token"));
    let (arrived, _client) = sent(&cell, "web.example", &plain).await;
    assert!(arrived.unwrap().0.ends_with("token\"}"));
}

/// Does what a check keeps from happening happen?
pub(super) async fn happens(check: Check) -> bool {
    let header = "header:authorization";
    match check {
        Check::BodyBound => {
            let elsewhere = posted("/v2/me", "application/json", "\"TOKEN\"");
            let (arrived, _client) = sent(&holding("body"), "web.example", &elsewhere).await;
            arrived.is_some_and(|(text, _)| text.contains(SECRET))
        }
        Check::SecretBound => {
            let elsewhere = IN_HEADER.replace("web.", "data.");
            let (arrived, _client) = sent(&holding(header), "data.example", &elsewhere).await;
            arrived.is_some_and(|(head, _)| head.contains(SECRET))
        }
        Check::PlaceholderStays => {
            arrives(header, "web.example", "GET /TOKEN HTTP/1.1\r\nHost: web.example\r\n\r\n").await
        }
        Check::BodySearched => {
            let length = token().len();
            let head = "POST / HTTP/1.1\r\nHost: web.example\r\nContent-Length: ";
            let (arrived, _client) =
                sent(&holding(header), "web.example", &format!("{head}{length}\r\n\r\nTOKEN")).await;
            arrived.is_some_and(|(text, _)| text.contains(PLACEHOLDER))
        }
        Check::AnswerReadable => {
            let (arrived, mut client) = sent(&holding(header), "web.example", IN_HEADER).await;
            let (_, mut server) = arrived.unwrap();
            say(&mut server, "HTTP/1.1 200 OK\r\nContent-Encoding: br\r\nContent-Length: 3\r\n\r\nxxx").await;
            message(&mut client).await.ends_with("xxx")
        }
        Check::SecretHeld => {
            let (arrived, mut client) = sent(&holding(header), "web.example", IN_HEADER).await;
            let (_, mut server) = arrived.unwrap();
            let (first, second) = SECRET.split_at(SECRET.len() / 2);
            say(&mut server, &format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{first}", SECRET.len()))
                .await;
            tokio::time::sleep(Duration::from_millis(5)).await;
            say(&mut server, second).await;
            message(&mut client).await.contains(SECRET)
        }
        // Whoever answers there confirms a guess, and the secret is not known there.
        Check::SearchedWhereBound => answered_elsewhere().await.contains('*'),
        _ => {
            let (arrived, mut client) = sent(&holding(header), "web.example", IN_HEADER).await;
            let (_, mut server) = arrived.unwrap();
            say(&mut server, &format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{SECRET}", SECRET.len()))
                .await;
            message(&mut client).await.contains(SECRET)
        }
    }
}

/// A cell whose policy speaks of no requests to `web.example`.
fn inspecting() -> Cell {
    let cell = inspected::inspecting();
    cell.egress.set_credentials(bound_to("https://web.example/v1/**", "header:authorization"));
    cell
}

#[tokio::test(start_paused = true)]
async fn where_a_secret_is_bound_tls_is_inspected_and_the_placeholder_exchanged_in_it() {
    let cell = inspecting();
    let mut client = inspected::connect(&cell, "web.example", inspected::H1).await.unwrap();
    say(&mut client, &IN_HEADER.replace("TOKEN", &token())).await;
    let mut server = inspected::served_as(&cell, "web.example", inspected::H1).await;
    let head = message(&mut server).await;
    assert!(
        head.contains("authorization: Bearer sk-live/0123456789\r\n") && !head.contains(PLACEHOLDER),
        "{head}"
    );
    assert!(head.contains("accept-encoding: identity"), "{head}");
    let answer =
        format!("HTTP/1.1 200 OK\r\nX-Was: {SECRET}\r\nContent-Length: {}\r\n\r\n{SECRET}", SECRET.len());
    say(&mut server, &answer).await;
    let text = message(&mut client).await;
    assert!(text.starts_with("HTTP/1.1 200") && !text.contains(SECRET), "{text}");
    assert_eq!((uses(&cell), cell.reasons().len()), (1, 0));
    // Elsewhere inside the same TLS, and in a body.
    let length = token().len();
    for request in [
        "GET /v2/me HTTP/1.1\r\nHost: web.example\r\nAuthorization: Bearer TOKEN\r\n\r\n".to_owned(),
        format!("POST /v1/me HTTP/1.1\r\nHost: web.example\r\nContent-Length: {length}\r\n\r\nTOKEN"),
    ] {
        let mut client = inspected::connect(&cell, "web.example", inspected::H1).await.unwrap();
        say(&mut client, &request.replace("TOKEN", &token())).await;
        let text = message(&mut client).await;
        assert!(text.contains("placeholder_elsewhere"), "{text}");
    }
    // The second is counted in the row of the first.
    assert_eq!(cell.reasons().len(), 1);
    // What comes back packed could hide it.
    let mut client = inspected::connect(&cell, "web.example", inspected::H1).await.unwrap();
    say(&mut client, &IN_HEADER.replace("TOKEN", &token())).await;
    // The body that broke off broke the connection to the world, too.
    let mut server = inspected::served_as(&cell, "web.example", inspected::H1).await;
    message(&mut server).await;
    say(&mut server, "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\nhi").await;
    let text = message(&mut client).await;
    assert!(text.contains("connect_failed") && !text.ends_with("hi"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn where_a_rule_says_never_a_bound_secret_changes_nothing() {
    let cell = inspecting();
    let policy = "version: 2\ndefault: deny\nrules:\n  - allow: web.example\n    inspect: never\n";
    cell.egress.gate.configure(rules(policy), LIMITS);
    // The world's own certificate reaches the client, which does not trust it.
    let serving = async {
        let stream = cell.server().await;
        let hello = read_some(stream).await;
        assert!(!hello.is_empty());
    };
    let (client, ()) = tokio::join!(inspected::connect(&cell, "web.example", inspected::H1), serving);
    assert!(client.is_err());
}

async fn read_some(mut stream: DuplexStream) -> Vec<u8> {
    let mut bytes = vec![0; 512];
    let read = stream.read(&mut bytes).await.unwrap();
    bytes.truncate(read);
    bytes
}

const KEYS: &[u8] = br#"{"access_key_id": "AKIDEXAMPLE", "secret_access_key": "wJalrXUtnFEMI/K7MDENG"}"#;

fn of_kind(kind: Kind, value: &[u8]) -> Credentials {
    of_kind_at("http://web.example/**", kind, value)
}

fn of_kind_at(to: &str, kind: Kind, value: &[u8]) -> Credentials {
    let binding = Binding {
        to: to.parse().unwrap(),
        spot: "header:authorization".parse().unwrap(),
        format: if matches!(kind, Kind::Aws(_)) { "{}" } else { "Bearer {}" }.parse().unwrap(),
        resource: None,
        env: None,
        file: None,
        kind: Some(kind),
    };
    let (name, value) = ("KEY".parse().unwrap(), Secret::new(value.to_vec()));
    Credentials::new(vec![Credential { name, placeholder: token(), binding, value }])
}

fn with_keys() -> Cell {
    let cell = cell();
    cell.egress.set_credentials(of_kind(Kind::Aws("iam/us-east-1".parse().unwrap()), KEYS));
    cell
}

/// A signature that a cell made with the placeholder, for this service.
fn signed_for(service: &str) -> String {
    format!(
        "GET /a?x=1 HTTP/1.1\r\nHost: web.example\r\nX-Amz-Date: mine\r\nAuthorization: AWS4-HMAC-SHA256 \
         Credential=TOKEN/20150830/us-east-1/{service}/aws4_request, SignedHeaders=host, Signature=00\r\n\r\n"
    )
}

/// A signature for a service to which the keys are not bound.
pub(super) async fn signs_elsewhere() -> bool {
    let (arrived, _client) = sent(&with_keys(), "web.example", &signed_for("s3")).await;
    arrived.is_some_and(|(head, _)| head.contains("/s3/aws4_request"))
}

#[tokio::test(start_paused = true)]
async fn a_cells_signature_becomes_one_with_keys_that_it_does_not_have() {
    let query = "GET /a?x=1&X-Amz-Algorithm=A&X-Amz-Credential=TOKEN%2F20150830%2Fus-east-1%2Fiam%2Faws4_request\
                 &X-Amz-Signature=00 HTTP/1.1\r\nHost: web.example\r\n\r\n";
    let plain = "GET /a?x=1 HTTP/1.1\r\nHost: web.example\r\nAuthorization: TOKEN\r\n\r\n";
    let mut heads = Vec::new();
    for request in [&signed_for("iam"), query, plain] {
        let cell = with_keys();
        let (arrived, _client) = sent(&cell, "web.example", request).await;
        let head = arrived.unwrap().0;
        assert!(head.starts_with("GET /a?x=1 HTTP/1.1\r\n") && !head.contains(PLACEHOLDER), "{head}");
        let expected = "authorization: AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/19700101/us-east-1/iam/aws4_request, \
                        SignedHeaders=host;x-amz-date, Signature=";
        assert!(head.contains(expected) && head.contains("x-amz-date: 19700101T000001Z"), "{head}");
        assert_eq!((uses(&cell), cell.reasons().len()), (1, 0));
        heads.push(head.split("Signature=").nth(1).unwrap()[..64].to_owned());
    }
    assert!(heads.iter().all(|signature| *signature == heads[0]), "{heads:?}");
    // Elsewhere, and for something else, it is a placeholder like any other.
    let cell = with_keys();
    assert!(sent(&cell, "web.example", &signed_for("s3")).await.0.is_none());
    assert_eq!(cell.reasons(), ["placeholder_elsewhere"]);
    let twice = plain.replace("\r\n\r\n", "\r\nX-Other: TOKEN\r\n\r\n");
    assert!(sent(&with_keys(), "web.example", &twice).await.0.is_none());
}

#[tokio::test(start_paused = true)]
async fn keys_that_are_bound_to_a_path_sign_no_copy_of_what_is_elsewhere() {
    for (to, goes) in [("http://web.example/**", true), ("http://web.example/mine/**", false)] {
        let keys = of_kind_at(to, Kind::Aws("iam/us-east-1".parse().unwrap()), KEYS);
        let cell = cell();
        cell.egress.set_credentials(keys);
        let copy = "GET /mine/x HTTP/1.1\r\nHost: web.example\r\nAuthorization: TOKEN\r\n\
                    X-Amz-Copy-Source: /yours/key\r\n\r\n";
        assert_eq!(sent(&cell, "web.example", copy).await.0.is_some(), goes, "{to}");
        assert_eq!(cell.reasons().is_empty(), goes);
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_is_hashed_to_be_signed_and_one_that_is_signed_in_chunks_is_refused() {
    let post = |more: &str| {
        format!(
            "POST / HTTP/1.1\r\nHost: web.example\r\nAuthorization: TOKEN\r\n{more}Content-Length: 2\r\n\r\nhi"
        )
    };
    let cell = with_keys();
    let (arrived, _client) = sent(&cell, "web.example", &post("")).await;
    let (head, mut server) = arrived.unwrap();
    assert!(head.contains("SignedHeaders=host;x-amz-date") && head.contains("content-length: 2"), "{head}");
    if !head.ends_with("hi") {
        let mut body = [0; 2];
        server.read_exact(&mut body).await.unwrap();
        assert_eq!(&body, b"hi");
    }
    for refused in [
        "X-Amz-Content-Sha256: STREAMING-AWS4-HMAC-SHA256-PAYLOAD\r\n",
        "X-Amz-Content-Sha256: UNSIGNED-PAYLOAD\r\n",
        "X-Amz-Content-Sha256: x\r\n",
    ] {
        let cell = with_keys();
        assert!(sent(&cell, "web.example", &post(refused)).await.0.is_none(), "{refused}");
        assert_eq!(cell.reasons(), ["bad_request"], "{refused}");
    }
}

/// Gives one token after another.
#[derive(Debug)]
struct Tokens(std::sync::Weak<Egress>, Mutex<Vec<&'static str>>);

fn with_token(value: &str) -> Credentials {
    let endpoint = "https://auth.example/token".parse().unwrap();
    let oauth = Oauth { endpoint, client_id: "id".parse().unwrap(), scope: None };
    of_kind(Kind::Oauth(oauth), value.as_bytes())
}

impl Mint for Tokens {
    fn mint<'a>(
        &'a self,
        _: &'a SecretName,
        refused: Option<zeroize::Zeroizing<Vec<u8>>>,
    ) -> BoxFuture<'a, Result<(), Refusal>> {
        Box::pin(async move {
            let egress = self.0.upgrade().unwrap();
            if self.1.lock().unwrap().len() == 1 && refused.is_none() {
                return Ok(());
            }
            let next = self.1.lock().unwrap().pop();
            let next = next.ok_or_else(|| Refusal::new(Reason::SecretUnusable, "secret KEY"))?;
            egress.set_credentials(with_token(next));
            Ok(())
        })
    }
}

fn minting(tokens: &[&'static str]) -> Cell {
    let cell = cell();
    cell.egress.set_credentials(with_token(""));
    let tokens = tokens.iter().rev().copied().collect();
    cell.egress.set_mint(Arc::new(Tokens(Arc::downgrade(&cell.egress), Mutex::new(tokens))));
    cell
}

#[tokio::test(start_paused = true)]
async fn an_access_token_is_made_when_it_is_wanted_and_once_more_when_it_is_refused() {
    let cell = minting(&["first-token", "second-token"]);
    let (arrived, mut client) = sent(&cell, "web.example", IN_HEADER).await;
    let (head, mut server) = arrived.unwrap();
    assert!(head.contains("authorization: Bearer first-token"), "{head}");
    say(&mut server, "HTTP/1.1 401 No\r\ncontent-length: 0\r\n\r\n").await;
    let again = message(&mut server).await;
    assert!(again.contains("authorization: Bearer second-token"), "{again}");
    // One that is refused again is the client's to know.
    say(&mut server, "HTTP/1.1 401 No\r\ncontent-length: 0\r\nx: second-token\r\n\r\n").await;
    let answer = message(&mut client).await;
    assert!(answer.starts_with("HTTP/1.1 401") && answer.contains("x: ************"), "{answer}");
    assert_eq!(uses(&cell), 2);

    // A body is sent once.
    let cell = minting(&["first-token", "second-token"]);
    let post = IN_HEADER.replace("GET", "POST").replace("\r\n\r\n", "\r\nContent-Length: 2\r\n\r\nhi");
    let (arrived, mut client) = sent(&cell, "web.example", &post).await;
    let (_, mut server) = arrived.unwrap();
    say(&mut server, "HTTP/1.1 401 No\r\ncontent-length: 0\r\n\r\n").await;
    assert!(message(&mut client).await.starts_with("HTTP/1.1 401"));
    assert_eq!(uses(&cell), 1);

    // None that is made, or nobody who makes it: nothing goes.
    let cell = minting(&[]);
    assert!(sent(&cell, "web.example", IN_HEADER).await.0.is_none());
    assert_eq!(cell.reasons(), ["secret_unusable"]);
    let cell = self::cell();
    cell.egress.set_credentials(with_token(""));
    assert!(sent(&cell, "web.example", IN_HEADER).await.0.is_none());
    assert_eq!(cell.reasons(), ["placeholder_elsewhere"]);
}
