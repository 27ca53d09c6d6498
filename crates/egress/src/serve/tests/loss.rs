//! Known values on their way out, through a whole connection: nothing that holds one arrives.

#![allow(clippy::format_collect)]

use super::*;
use crate::{
    check::Check,
    loss::{Known, Watch},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use cofferdam_base::Secret;
use std::io::Write;

const SECRET: &str = "sk-live/0123456789abcdefgh";
const CANARY: &str = "AKIA-planted-0123456789";
/// A client of WebSocket that offers to pack its messages.
const SWITCH: &str = "GET /ws HTTP/1.1\r\nHost: web.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n";
/// `web.example` and any host below `deep.example` may be sent anything.
const OPEN: &str = "version: 1\ndefault: deny\nrules:\n  - {allow: web.example, protocol: http}\n  - {allow: '*.deep.example'}\n";

fn watch() -> Watch {
    let known = |name: &str, canary, value: &str| Known {
        name: name.parse().unwrap(),
        canary,
        value: Secret::new(value.as_bytes().to_vec()),
    };
    Watch::new(&[known("KEY", false, SECRET), known("BAIT", true, CANARY)])
}

fn watching() -> Cell {
    let cell = cell();
    cell.egress.gate.configure(rules(OPEN), LIMITS);
    cell.egress.set_watch(watch());
    cell
}

fn post(headers: &str, body: &[u8]) -> Vec<u8> {
    let head =
        format!("POST /in HTTP/1.1\r\nHost: web.example\r\n{headers}Content-Length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

fn get(target: &str, headers: &str) -> Vec<u8> {
    format!("GET {target} HTTP/1.1\r\nHost: web.example\r\n{headers}\r\n").into_bytes()
}

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    packer.write_all(text).unwrap();
    packer.finish().unwrap()
}

fn zlib(text: &[u8]) -> Vec<u8> {
    let mut packer = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
    packer.write_all(text).unwrap();
    packer.finish().unwrap()
}

fn deflate(text: &[u8]) -> Vec<u8> {
    let mut packer = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::default());
    packer.write_all(text).unwrap();
    packer.finish().unwrap()
}

/// What reaches the world of these bytes, and what their sender is told.
async fn sent(cell: &Cell, bytes: &[u8]) -> (Vec<u8>, String) {
    let mut client = cell.captured("web.example", 80);
    client.write_all(bytes).await.unwrap();
    let mut arrived = Vec::new();
    for _ in 0..200 {
        tokio::time::sleep(Duration::from_millis(1)).await;
        let peer = cell.world.peers.lock().unwrap().pop();
        if let Some(mut server) = peer {
            let mut piece = vec![0; 64 * 1024];
            while let Ok(Ok(read @ 1..)) =
                tokio::time::timeout(Duration::from_secs(1), server.read(&mut piece)).await
            {
                arrived.extend_from_slice(&piece[..read]);
            }
            let _ = server.write_all(OK.as_bytes()).await;
            break;
        }
    }
    (arrived, message(&mut client).await)
}

fn holds(bytes: &[u8], text: &[u8]) -> bool {
    bytes.windows(text.len()).any(|window| window == text)
}

#[tokio::test(start_paused = true)]
async fn a_known_value_leaves_neither_in_a_head_nor_in_a_body_however_it_is_written() {
    let escaped: String = SECRET.bytes().map(|byte| format!("%{byte:02x}")).collect();
    let basic = STANDARD.encode(format!("user:{SECRET}"));
    let packed = gzip(format!("x={SECRET}").as_bytes());
    let mut later = b"--boundary\r\ncontent-type: application/gzip\r\n\r\n".to_vec();
    later.extend(gzip(format!("{} {SECRET}", "a tar of things ".repeat(1000)).as_bytes()));
    later.extend(b"\r\n--boundary--");
    for request in [
        get(&format!("/{SECRET}"), ""),
        get(&format!("/?q={escaped}"), ""),
        get("/", &format!("Authorization: Basic {basic}\r\n")),
        get("/", &format!("Cookie: a={}\r\n", SECRET.chars().rev().collect::<String>())),
        post("", format!("{{\"key\": \"{}\"}}", SECRET.replace('/', "\\/")).as_bytes()),
        post("", STANDARD.encode(SECRET).as_bytes()),
        post("Content-Encoding: gzip\r\n", &packed),
        post("Content-Encoding: deflate\r\n", &zlib(SECRET.as_bytes())),
        post("Content-Encoding: deflate\r\n", &deflate(SECRET.as_bytes())),
        post("", &packed),
        post("", &later),
        post("Content-Encoding: identity\r\n", SECRET.as_bytes()),
    ] {
        let cell = watching();
        let shown = String::from_utf8_lossy(&request).into_owned();
        let (arrived, answer) = sent(&cell, &request).await;
        let end = &request[request.len().saturating_sub(8)..];
        assert!(arrived.is_empty() || !holds(&arrived, end), "{shown}");
        assert!(
            answer.starts_with("HTTP/1.1 403") && answer.contains("cofferdam-reason: loss_blocked"),
            "{shown}: {answer}"
        );
        assert!(!answer.contains("KEY") && !answer.contains("secret"), "{answer}");
        assert_eq!(cell.reasons(), ["loss_blocked"], "{shown}");
        let rows = format!("{:?}", cell.told.rows.lock().unwrap());
        assert!(rows.contains("secret KEY") && !rows.contains(SECRET), "{rows}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_holds_no_known_value_arrives_as_it_was_sent() {
    let long: Vec<u8> = (0..200_000u32).map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
    for request in [
        get("/?q=sk-live", "Authorization: Basic abc\r\n"),
        post("", &SECRET.as_bytes()[..SECRET.len() / 2]),
        post("Content-Encoding: gzip\r\n", &gzip(b"nothing of it")),
        post("Content-Encoding: deflate\r\n", &zlib(b"nothing of it")),
        post("", &gzip(&[gzip(b"a"), vec![b'x'; 100_000]].concat())),
        post("", &long),
    ] {
        let cell = watching();
        let (arrived, answer) = sent(&cell, &request).await;
        let body = request.windows(4).position(|it| it == b"\r\n\r\n").unwrap() + 4;
        assert!(arrived.ends_with(&request[body..]) && answer.ends_with("hi"), "{answer}");
        assert_eq!(cell.reasons().len(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_cannot_be_unpacked_or_unpacks_to_too_much_is_refused() {
    let bomb = gzip(&vec![0; 64 << 20]);
    let mut members = vec![];
    for _ in 0..40 {
        // A stored block that is as long as what follows: each one is open to the end.
        members.extend([0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 0, 0xff, 0xff, 0, 0]);
    }
    for request in [
        post("Content-Encoding: br\r\n", b"whatever"),
        post("Content-Encoding: gzip, gzip\r\n", &gzip(&gzip(b"x"))),
        post("Content-Encoding: gzip\r\n", b"this is no gzip"),
        post("Content-Encoding: gzip\r\n", &[gzip(b"a whole one, and"), b"more".to_vec()].concat()),
        post("Content-Encoding: gzip\r\n", &bomb),
        post("", &bomb),
        post("", &[members, vec![b'x'; 1000]].concat()),
    ] {
        let cell = watching();
        let (_, answer) = sent(&cell, &request).await;
        let shown = String::from_utf8_lossy(&request[..100.min(request.len())]).into_owned();
        assert!(answer.contains("cofferdam-reason: loss_unreadable"), "{shown}: {answer}");
        // Where nothing is known nothing is looked through.
        cell.egress.set_watch(Watch::default());
        assert!(sent(&cell, &request).await.1.ends_with("hi"));
    }
}

#[tokio::test(start_paused = true)]
async fn pieces_in_several_requests_to_several_places_are_one_leak() {
    let cell = watching();
    let (first, rest) = SECRET.split_at(13);
    assert!(sent(&cell, &get(&format!("/?a={first}"), "")).await.1.ends_with("hi"));
    assert!(sent(&cell, &post("", STANDARD.encode(rest).as_bytes())).await.1.contains("loss_blocked"));
}

#[tokio::test(start_paused = true)]
async fn a_canary_closes_everything_and_is_told_apart_from_a_secret_by_nobody_in_the_cell() {
    let cell = watching();
    let mut open = cell.captured("web.example", 80);
    open.write_all(b"POST / HTTP/1.1\r\nHost: web.example\r\nContent-Length: 9\r\n\r\n").await.unwrap();
    let mut server = cell.server().await;
    let secret = sent(&cell, &get(&format!("/{SECRET}"), "")).await.1;
    assert!(cell.told.notices.lock().unwrap().is_empty());
    let canary = sent(&cell, &get(&format!("/{CANARY}"), "")).await.1;
    assert_eq!(secret, canary);
    let notices = format!("{:?}", cell.told.notices.lock().unwrap());
    assert!(
        notices.contains("Tripped") && notices.contains("BAIT") && !notices.contains(CANARY),
        "{notices}"
    );
    // What was open is cut, and nothing begins.
    assert!(message(&mut open).await.contains("revoked"));
    let _ = tokio::time::timeout(LONG, all(&mut server)).await.unwrap();
    let (arrived, answer) = sent(&cell, &get("/", "")).await;
    assert!(arrived.is_empty() && answer.contains("loss_blocked"), "{answer}");
    let to = of(&Host::Name("web.example".parse().unwrap()), 80.try_into().unwrap(), Protocol::Http);
    assert!(cell.egress.gate.admit_service(&to).is_err(), "nor by a service for the cell");
    assert!(cell.egress.gate.admit_delivery(&to).is_ok(), "but it can be told");
}

#[tokio::test(start_paused = true)]
async fn a_value_in_the_name_of_a_host_is_not_looked_up() {
    let hex: String = SECRET.bytes().map(|byte| format!("{byte:02x}")).collect();
    let name = format!("{}.{}.deep.example", &hex[..30], &hex[30..]);
    for (name, good) in [(name.as_str(), false), ("0123456789abcdef.deep.example", true)] {
        let cell = watching();
        cell.egress.gate.configure(rules(&format!("{OPEN}  - allow: '{name}'\n")), LIMITS);
        cell.resolves(name, &["93.184.216.34"]);
        // Of TLS that nobody looks into the name is all that is seen.
        let mut client = cell.captured(name, 443);
        client.write_all(&real(name)).await.unwrap();
        if good {
            cell.server().await;
        } else {
            assert_eq!(all(&mut client).await, ALERT);
            assert_eq!((cell.dialled(), cell.reasons()), (0, vec!["loss_blocked".to_owned()]));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_cell_asks_its_model_is_looked_through_too() {
    for (headers, body, good) in [
        (String::new(), format!("{{\"messages\": [\"{SECRET}\"]}}"), false),
        (format!("Authorization: Bearer {SECRET}\r\n"), "{}".to_owned(), false),
        (String::new(), "{\"messages\": []}".to_owned(), true),
    ] {
        let cell = watching();
        let mut client = cell.peer(Peer::Proxy);
        let head = "POST http://inference.local/v1/chat HTTP/1.1\r\nHost: inference.local\r\n";
        say(&mut client, &format!("{head}{headers}Content-Length: {}\r\n\r\n{body}", body.len())).await;
        let answer = message(&mut client).await;
        assert_eq!((answer.ends_with("a model"), answer.contains("loss_blocked")), (good, !good), "{answer}");
        assert_eq!(cell.reasons().is_empty(), good);
    }
}

#[tokio::test(start_paused = true)]
async fn inside_tls_that_is_inspected_the_same_is_stopped() {
    let cell = inspected::inspecting();
    cell.egress.set_watch(watch());
    let mut client = inspected::connect(&cell, "open.example", inspected::H1).await.unwrap();
    say(&mut client, "GET /open HTTP/1.1\r\nHost: open.example\r\n\r\n").await;
    let mut server = inspected::served(&cell, inspected::H1).await;
    message(&mut server).await;
    say(&mut server, OK).await;
    assert!(message(&mut client).await.ends_with("hi"), "the positive control");
    let length = SECRET.len();
    for request in [
        format!("GET /open?{SECRET} HTTP/1.1\r\nHost: open.example\r\n\r\n"),
        format!("POST /open HTTP/1.1\r\nHost: open.example\r\nContent-Length: {length}\r\n\r\n{SECRET}"),
    ] {
        let mut client = inspected::connect(&cell, "open.example", inspected::H1).await.unwrap();
        say(&mut client, &request).await;
        let answer = message(&mut client).await;
        assert!(answer.contains("loss_blocked"), "{answer}");
    }
    // The second began on the connection that was kept.
    let arrived = String::from_utf8(all_of(&mut server).await).unwrap();
    assert!(!arrived.contains("sk-live"), "{arrived}");
}

/// What arrives of what is said in a relay in clear, in pieces.
async fn relayed(cell: &Cell, pieces: &[&str]) -> String {
    let mut client = cell.captured("data.example", 5432);
    say(&mut client, "hello\n").await;
    let mut server = cell.server().await;
    for piece in pieces {
        let _ = client.write_all(piece.as_bytes()).await;
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
    drop(client);
    String::from_utf8(all(&mut server).await).unwrap()
}

/// What arrives of the payloads of these frames, once it is a WebSocket.
async fn framed(cell: &Cell, frames: &[Vec<u8>]) -> Vec<u8> {
    let mut client = cell.captured("web.example", 80);
    say(&mut client, SWITCH).await;
    let mut server = cell.server().await;
    let head = message(&mut server).await;
    assert!(!head.contains("permessage-deflate"), "{head}");
    say(&mut server, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        .await;
    assert!(message(&mut client).await.starts_with("HTTP/1.1 101"));
    for frame in frames {
        let _ = client.write_all(frame).await;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    drop(client);
    all(&mut server).await
}

#[tokio::test(start_paused = true)]
async fn a_relay_in_clear_breaks_before_a_known_value_is_out() {
    let tcp = format!("{OPEN}  - {{allow: data.example, protocol: tcp, ports: [5432]}}\n");
    let (first, rest) = SECRET.split_at(11);
    for (pieces, whole) in
        [(vec![SECRET], false), (vec![first, rest], false), (vec![first, "and no more"], true)]
    {
        let cell = watching();
        cell.egress.gate.configure(rules(&tcp), LIMITS);
        let arrived = relayed(&cell, &pieces).await;
        assert!(arrived.starts_with("hello\n") && !arrived.contains(rest), "{arrived}");
        assert_eq!(arrived.ends_with("and no more"), whole);
        assert_eq!(cell.reasons().is_empty(), whole);
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_set_while_a_relay_lasts_is_looked_for_in_it() {
    let tcp = format!("{OPEN}  - {{allow: data.example, protocol: tcp, ports: [5432]}}\n");
    for later in [false, true] {
        let cell = cell();
        cell.egress.gate.configure(rules(&tcp), LIMITS);
        let mut client = cell.captured("data.example", 5432);
        say(&mut client, "hello\n").await;
        let mut server = cell.server().await;
        if later {
            cell.egress.set_watch(watch());
        }
        let _ = client.write_all(SECRET.as_bytes()).await;
        tokio::time::sleep(Duration::from_secs(5)).await;
        drop(client);
        let arrived = String::from_utf8(all(&mut server).await).unwrap();
        assert_eq!(arrived.contains(SECRET), !later, "{arrived}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_websocket_breaks_before_a_known_value_is_out_in_however_many_frames() {
    use crate::loss::frame;
    let (first, rest) = SECRET.as_bytes().split_at(11);
    for (frames, whole) in [
        (vec![frame(0x81, SECRET.as_bytes())], false),
        (vec![frame(0x02, first), frame(0x80, rest)], false),
        (vec![frame(0x82, first), frame(0x89, b"ping")], true),
    ] {
        let cell = watching();
        let arrived = framed(&cell, &frames).await;
        assert_eq!(arrived == frames.concat(), whole);
        assert_eq!(cell.reasons().is_empty(), whole);
    }
}

#[tokio::test(start_paused = true)]
async fn a_websocket_over_http_2_breaks_before_a_known_value_is_out() {
    use crate::loss::frame;
    let hello = frame(0x81, b"hello");
    for (text, whole) in [("and no more", true), (SECRET, false)] {
        let cell = inspected::inspecting();
        cell.egress.set_watch(watch());
        let (mut socket, mut server) = inspected::over_two(&cell).await;
        let last = frame(0x81, text.as_bytes());
        for frame in [&hello, &last] {
            let _ = socket.write_all(frame).await;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        drop(socket);
        let arrived = all_of(&mut server).await;
        assert_eq!(arrived == [&hello[..], &last].concat(), whole);
        assert!(arrived.starts_with(&hello));
        assert_eq!(cell.reasons().contains(&"loss_blocked".to_owned()), !whole, "{:?}", cell.reasons());
    }
}

/// What comes until the connection ends, in whatever way.
async fn all_of(stream: &mut inspected::Server) -> Vec<u8> {
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes).await;
    bytes
}

const LONG: Duration = Duration::from_mins(10);

/// Does what a check keeps from happening happen?
pub(super) async fn happens(check: Check) -> bool {
    let passes = |request: Vec<u8>| async move { sent(&watching(), &request).await.1.ends_with("hi") };
    match check {
        Check::LossInHead => passes(get(&format!("/{SECRET}"), "")).await,
        Check::LossInBody => passes(post("", SECRET.as_bytes())).await,
        Check::LossPacked => passes(post("Content-Encoding: gzip\r\n", &gzip(SECRET.as_bytes()))).await,
        Check::LossReadable => passes(post("Content-Encoding: br\r\n", b"x")).await,
        Check::LossInName => {
            let cell = watching();
            let name = format!("{}.deep.example", hex(&SECRET[..24]));
            cell.resolves(&name, &["93.184.216.34"]);
            let mut client = cell.captured(&name, 443);
            client.write_all(&real(&name)).await.unwrap();
            for _ in 0..100 {
                tokio::time::sleep(Duration::from_millis(1)).await;
                if cell.dialled() > 0 {
                    return true;
                }
            }
            false
        }
        Check::LossInRelay => {
            let cell = watching();
            let tcp = format!("{OPEN}  - {{allow: data.example, protocol: tcp, ports: [5432]}}\n");
            cell.egress.gate.configure(rules(&tcp), LIMITS);
            relayed(&cell, &[SECRET]).await.contains(SECRET)
        }
        Check::LossInFrame => {
            let frame = crate::loss::frame(0x81, SECRET.as_bytes());
            framed(&watching(), std::slice::from_ref(&frame)).await == frame
        }
        _ => {
            let cell = watching();
            sent(&cell, &get(&format!("/{CANARY}"), "")).await;
            sent(&cell, &get("/", "")).await.1.ends_with("hi")
        }
    }
}

fn hex(text: &str) -> String {
    text.bytes().map(|byte| format!("{byte:02x}")).collect()
}
