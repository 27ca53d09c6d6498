//! TLS that is ended here: what passes, what does not, and what both sides see of it.

use super::*;
use crate::Authority;
use bytes::Bytes;
use cofferdam_base::Secret;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use hyper_util::rt::TokioExecutor;
use rustls::{ClientConfig, RootCertStore, ServerConfig, pki_types::ServerName};
use std::time::SystemTime;
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

/// Who vouches for the servers of the world.
pub(super) fn world_authority() -> Arc<Authority> {
    Arc::new(Authority::of_seed("the world", &Secret::new([9; 32])).unwrap())
}

/// Who vouches to the cell.
pub(super) fn cell_authority() -> Arc<Authority> {
    Arc::new(Authority::of_seed("acme", &Secret::new([7; 32])).unwrap())
}

pub(super) fn inspector() -> Inspector {
    Inspector::new(roots(&world_authority())).unwrap()
}

fn roots(authority: &Authority) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add(authority.certificate().clone()).unwrap();
    roots
}

fn now() -> Millis {
    Millis(SystemTime::UNIX_EPOCH.elapsed().unwrap().as_millis().try_into().unwrap())
}

/// Of `open.example` only `/open` and below may be read and written to.
pub(super) const SEEN: &str = "version: 2
default: deny
rules:
  - allow: open.example
    protocol: https
    method: [GET, POST]
    path: /open/**
  - allow: open.example
    protocol: ws
    path: /open/ws
  - deny: open.example
    path: /other
    reason: only /open
  - allow: web.example
    protocol: https
";

/// Nobody reads what goes to `open.example`.
pub(super) const NEVER: &str = "version: 2
default: deny
rules:
  - allow: open.example
    protocol: https
    inspect: never
";

pub(super) fn inspecting() -> Cell {
    let cell = cell();
    cell.time.store(now().0, SeqCst);
    cell.egress.inspector.set_authority(cell_authority());
    cell.egress.gate.configure(rules(SEEN), LIMITS);
    cell
}

pub(super) type Client = client::TlsStream<DuplexStream>;
pub(super) type Server = server::TlsStream<DuplexStream>;

/// A TLS client of the cell that trusts what cells trust.
pub(super) async fn connect(cell: &Cell, name: &str, alpn: &[&str]) -> io::Result<Client> {
    trusting(cell, name, alpn, &cell_authority()).await
}

async fn trusting(cell: &Cell, name: &str, alpn: &[&str], authority: &Authority) -> io::Result<Client> {
    secured(cell.captured(name, 443), name, alpn, authority).await
}

/// The client's side of TLS to this name over a stream.
pub(super) async fn secured(
    stream: DuplexStream,
    name: &str,
    alpn: &[&str],
    authority: &Authority,
) -> io::Result<Client> {
    let mut config =
        ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots(authority))
            .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|it| it.as_bytes().to_vec()).collect();
    TlsConnector::from(Arc::new(config)).connect(ServerName::try_from(name.to_owned()).unwrap(), stream).await
}

/// The server that is dialled next, as itself.
pub(super) async fn served(cell: &Cell, alpn: &[&str]) -> Server {
    served_as(cell, "open.example", alpn).await
}

pub(super) async fn served_as(cell: &Cell, name: &str, alpn: &[&str]) -> Server {
    let host = Host::Name(name.parse().unwrap());
    let mut config = ServerConfig::clone(&world_authority().config(&host, now()).unwrap());
    config.alpn_protocols = alpn.iter().map(|it| it.as_bytes().to_vec()).collect();
    TlsAcceptor::from(Arc::new(config)).accept(cell.server().await).await.unwrap()
}

pub(super) const H1: &[&str] = &["http/1.1"];
const H2: &[&str] = &["h2"];
const GET: &str = "GET /open HTTP/1.1\r\nHost: open.example\r\n\r\n";

#[tokio::test(start_paused = true)]
async fn a_request_is_read_judged_and_passed_on_rebuilt() {
    let cell = inspecting();
    let mut client = connect(&cell, "open.example", H1).await.unwrap();
    say(&mut client, "GET /open?x HTTP/1.1\r\nHost: OPEN.example:443\r\nProxy-Foo: a\r\nConnection: x-mine\r\nX-Mine: 1\r\n\r\n").await;
    let mut server = served(&cell, H1).await;
    let head = message(&mut server).await;
    assert!(
        head.starts_with("GET /open?x HTTP/1.1\r\n") && head.contains("host: open.example\r\n"),
        "{head}"
    );
    assert!(!head.to_ascii_lowercase().contains("x-mine"), "{head}");
    say(&mut server, OK).await;
    assert!(message(&mut client).await.ends_with("hi"));
    // What policy does not let through never leaves.
    for (line, reason) in
        [("GET /other", "denied_by_rule"), ("DELETE /open", "no_rule"), ("GET /", "no_rule")]
    {
        say(&mut client, &format!("{line} HTTP/1.1\r\nHost: open.example\r\n\r\n")).await;
        let text = message(&mut client).await;
        assert!(
            text.starts_with("HTTP/1.1 403") && text.contains(&format!("cofferdam-reason: {reason}")),
            "{text}"
        );
        assert_eq!(text.contains("only /open"), reason == "denied_by_rule", "{text}");
    }
    // The next one goes on the connection that is there.
    say(&mut client, GET).await;
    assert!(message(&mut server).await.starts_with("GET /open HTTP/1.1\r\n"));
    say(&mut server, OK).await;
    assert!(message(&mut client).await.ends_with("hi"));
    assert_eq!(cell.dialled(), 1);
    assert_eq!(allowed(&cell), ["", ""]);
}

/// What is recorded of each thing that was let through.
fn allowed(cell: &Cell) -> Vec<String> {
    let rows = cell.told.rows.lock().unwrap();
    rows.iter().filter(|row| row.what == RecordKind::Allow).map(|row| row.reason.clone()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_budget_counts_what_is_sent_inside_tls() {
    let cell = inspecting();
    let policy =
        SEEN.replacen("    path: /open/**\n", "    path: /open/**\n    budget: {bytes_per_hour: 2000}\n", 1);
    cell.egress.gate.configure(rules(&policy), LIMITS);
    let mut client = connect(&cell, "open.example", H1).await.unwrap();
    let post = |length: usize| {
        let body = "x".repeat(length);
        format!("POST /open HTTP/1.1\r\nHost: open.example\r\nContent-Length: {length}\r\n\r\n{body}")
    };
    say(&mut client, &post(1500)).await;
    let mut server = served(&cell, H1).await;
    assert!(message(&mut server).await.ends_with("xxx"));
    say(&mut server, OK).await;
    assert!(message(&mut client).await.ends_with("hi"));
    say(&mut client, &post(1500)).await;
    let text = message(&mut client).await;
    assert!(!text.contains("200 OK"), "{text}");
    assert!(
        cell.reasons().iter().all(|reason| reason == "budget_spent" || reason == "revoked"),
        "{:?}",
        cell.reasons()
    );
    assert!(cell.reasons().contains(&"budget_spent".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_second_host_on_a_kept_connection_is_misdirected_and_closes_it() {
    let cell = inspecting();
    let mut client = connect(&cell, "open.example", H1).await.unwrap();
    say(&mut client, GET).await;
    let mut server = served(&cell, H1).await;
    message(&mut server).await;
    say(&mut server, OK).await;
    message(&mut client).await;
    say(&mut client, "GET /open HTTP/1.1\r\nHost: web.example\r\n\r\n").await;
    let text = message(&mut client).await;
    assert!(text.starts_with("HTTP/1.1 421") && text.contains("host_mismatch"), "{text}");
    assert!(all(&mut client).await.is_empty());
    assert_eq!((cell.dialled(), cell.reasons()), (1, vec!["host_mismatch".to_owned()]));
}

#[tokio::test(start_paused = true)]
async fn smuggling_inside_tls_is_refused_and_nothing_is_dialled() {
    let cell = inspecting();
    for head in [
        "POST /open HTTP/1.1\r\nHost: open.example\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        "POST /open HTTP/1.1\r\nHost: open.example\r\nContent-Length: 1, 1\r\n\r\na",
        "POST /open HTTP/1.1\r\nHost: open.example\r\nContent-Length: +1\r\n\r\na",
        "POST /open HTTP/1.1\r\nHost: open.example\r\nTransfer-Encoding: gzip\r\n\r\n",
        "POST /open HTTP/1.1\r\nHost: open.example\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
        "POST /open HTTP/1.0\r\nHost: open.example\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "GET /open HTTP/1.1\r\nHost: open.example\r\n folded: 1\r\n\r\n",
        "GET /open HTTP/1.1\r\nHost: open.example\r\nA: b\r\n\tc\r\n\r\n",
        "GET /open HTTP/1.1\r\nHost : open.example\r\n\r\n",
        "GET /open HTTP/1.1\r\nHost: open.example\r\nA: b\rc\r\n\r\n",
        "GET /open HTTP/1.1\r\nHost: open.example\r\nHost: open.example\r\n\r\n",
        "GET /open HTTP/1.1\r\nHost: open.example\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n",
        "GET /open HTTP/1.1\r\nHost: open.example\r\nConnection: Upgrade\r\nUpgrade: tls/1.0\r\n\r\n",
        "GET /open HTTP/1.1\r\nHost: open.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nContent-Length: 4\r\n\r\nGET ",
        "CONNECT open.example:443 HTTP/1.1\r\nHost: open.example:443\r\n\r\n",
        "GET /open HTTP/1.1\nHost: open.example\nA: b\n\n",
        "GET /open HTTP/1.1\r\nHost: open.example\nA: b\r\n\r\n",
        "GET /open HTTP/1.1\r\nHost: open.example\r\n\n",
    ] {
        let mut client = connect(&cell, "open.example", H1).await.unwrap();
        say(&mut client, head).await;
        let text = message(&mut client).await;
        assert!(text.starts_with("HTTP/1.1 400"), "{head:?}: {text:?}");
    }
    assert_eq!(cell.dialled(), 0);
}

/// The one parser drops a length beside chunks, as RFC 9112 allows; what matters is that the other side is never left
/// to choose.
#[tokio::test(start_paused = true)]
async fn what_the_parser_tolerates_leaves_without_it() {
    for (head, forbidden) in [
        (
            "POST /open HTTP/1.1\r\nHost: open.example\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "content-length",
        ),
        (
            "POST /open HTTP/1.1\r\nHost: open.example\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
            "content-length",
        ),
    ] {
        let cell = inspecting();
        let mut client = connect(&cell, "open.example", H1).await.unwrap();
        say(&mut client, head).await;
        let onward = message(&mut served(&cell, H1).await).await.to_ascii_lowercase();
        assert!(!onward.contains(forbidden), "{onward}");
        assert_eq!(onward.matches('\n').count(), onward.matches("\r\n").count(), "{onward:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_sees_a_certificate_of_its_name_only_and_of_a_day_only() {
    let cell = inspecting();
    let client = connect(&cell, "open.example", H1).await.unwrap();
    let shown = client.get_ref().1.peer_certificates().unwrap().to_vec();
    assert_eq!(shown.len(), 1);
    // What it was made for, and nothing else: it is no good for another name.
    let host = Host::Name("open.example".parse().unwrap());
    let other: ServerName<'_> = "web.example".try_into().unwrap();
    let parsed = rustls::server::ParsedCertificate::try_from(&shown[0]).unwrap();
    rustls::client::verify_server_name(&parsed, &"open.example".try_into().unwrap()).unwrap();
    assert!(rustls::client::verify_server_name(&parsed, &other).is_err());
    // It is kept while it is fresh, and made anew after.
    let authority = cell_authority();
    let first = authority.config(&host, now()).unwrap();
    assert!(Arc::ptr_eq(&first, &authority.config(&host, now()).unwrap()));
    assert!(!Arc::ptr_eq(&first, &authority.config(&host, Millis(now().0 + 13 * 3_600_000)).unwrap()));
}

#[tokio::test(start_paused = true)]
async fn who_trusted_an_authority_trusts_the_next_one_of_its_seed() {
    let cell = inspecting();
    // As after a restart of the warden.
    cell.egress.inspector.set_authority(cell_authority());
    trusting(&cell, "open.example", H1, &cell_authority()).await.unwrap();
    let other = Authority::of_seed("acme", &Secret::new([8; 32])).unwrap();
    assert!(trusting(&cell, "open.example", H1, &other).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_believe_the_certificate_is_recorded() {
    let cell = inspecting();
    assert!(trusting(&cell, "open.example", H1, &world_authority()).await.is_err());
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!(cell.reasons(), ["certificate_refused"]);
}

/// Shows its certificate whatever name is said.
#[derive(Debug)]
struct Any(Arc<rustls::sign::CertifiedKey>);
impl rustls::server::ResolvesServerCert for Any {
    fn resolve(&self, _: rustls::server::ClientHello<'_>) -> Option<Arc<rustls::sign::CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_not_who_it_says_gets_no_request() {
    let cell = inspecting();
    let mut client = connect(&cell, "open.example", H1).await.unwrap();
    say(&mut client, GET).await;
    let host = Host::Name("web.example".parse().unwrap());
    let mut config = ServerConfig::clone(&world_authority().config(&host, now()).unwrap());
    let key = world_authority().key(&host, now());
    config.cert_resolver = Arc::new(Any(key));
    let server = cell.server().await;
    assert!(TlsAcceptor::from(Arc::new(config)).accept(server).await.is_err());
    let text = message(&mut client).await;
    assert!(text.starts_with("HTTP/1.1 502") && text.contains("certificate_invalid"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn a_host_without_rules_of_its_inside_is_tunnelled_as_it_came() {
    let cell = inspecting();
    let mut client = cell.captured("web.example", 443);
    let hello = real("web.example");
    client.write_all(&hello).await.unwrap();
    let mut server = cell.server().await;
    let mut got = vec![0; hello.len()];
    server.read_exact(&mut got).await.unwrap();
    assert_eq!(got, hello);
    assert_eq!(allowed(&cell), ["opaque"]);
}

#[tokio::test(start_paused = true)]
async fn without_an_authority_what_must_be_seen_is_refused() {
    let cell = cell();
    cell.egress.gate.configure(rules(SEEN), LIMITS);
    let mut client = cell.captured("open.example", 443);
    client.write_all(&real("open.example")).await.unwrap();
    assert_eq!(all(&mut client).await, ALERT);
    assert_eq!((cell.dialled(), cell.reasons()), (0, vec!["not_ready".to_owned()]));
}

#[tokio::test(start_paused = true)]
async fn a_tunnel_of_the_proxy_is_inspected_too() {
    let cell = inspecting();
    let mut proxy = cell.peer(Peer::Proxy);
    say(&mut proxy, "CONNECT open.example:443 HTTP/1.1\r\nHost: open.example:443\r\n\r\n").await;
    assert!(message(&mut proxy).await.starts_with("HTTP/1.1 200"));
    assert_eq!(cell.dialled(), 0);
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots(&cell_authority()))
        .with_no_client_auth();
    let name = ServerName::try_from("open.example").unwrap();
    let mut client = TlsConnector::from(Arc::new(config)).connect(name, proxy).await.unwrap();
    say(&mut client, "GET /other HTTP/1.1\r\nHost: open.example\r\n\r\n").await;
    assert!(message(&mut client).await.starts_with("HTTP/1.1 403"));
    say(&mut client, GET).await;
    let mut server = served(&cell, H1).await;
    message(&mut server).await;
    say(&mut server, OK).await;
    assert!(message(&mut client).await.ends_with("hi"));
}

#[tokio::test(start_paused = true)]
async fn a_websocket_passes_after_it_was_judged() {
    let cell = inspecting();
    let ask = |path: &str| {
        format!(
            "GET {path} HTTP/1.1\r\nHost: open.example\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        )
    };
    let mut client = connect(&cell, "open.example", H1).await.unwrap();
    say(&mut client, &ask("/other")).await;
    assert!(message(&mut client).await.starts_with("HTTP/1.1 403"));
    say(&mut client, &ask("/open/ws")).await;
    // A server that would rather speak HTTP/2 is not asked whether it does.
    let mut server = served(&cell, &["h2", "http/1.1"]).await;
    let head = message(&mut server).await.to_ascii_lowercase();
    assert!(head.contains("upgrade: websocket") && head.contains("sec-websocket-key: "), "{head}");
    say(
        &mut server,
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nfirst",
    )
    .await;
    assert!(message(&mut client).await.starts_with("HTTP/1.1 101"));
    let mut frame = [0; 5];
    client.read_exact(&mut frame).await.unwrap();
    assert_eq!(&frame, b"first");
    say(&mut client, "frame").await;
    server.read_exact(&mut frame).await.unwrap();
    assert_eq!(&frame, b"frame");
    cell.egress.gate.configure(rules("version: 1\ndefault: deny\n"), LIMITS);
    // Broken off, not closed: nobody takes it for a proper end.
    assert!(client.read_u8().await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_stream_of_events_passes_as_it_comes_and_ends_with_its_permission() {
    let cell = inspecting();
    let mut client = connect(&cell, "open.example", H1).await.unwrap();
    say(&mut client, GET).await;
    let mut server = served(&cell, H1).await;
    message(&mut server).await;
    say(&mut server, "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n9\r\ndata: 1\n\n\r\n").await;
    message(&mut client).await;
    let mut chunk = [0; 14];
    client.read_exact(&mut chunk).await.unwrap();
    assert_eq!(&chunk, b"9\r\ndata: 1\n\n\r\n");
    cell.egress.gate.configure(rules("version: 1\ndefault: deny\n"), LIMITS);
    // Not a proper end, so that nobody takes it for the whole.
    let mut rest = Vec::new();
    let _ = client.read_to_end(&mut rest).await;
    assert!(!rest.ends_with(b"0\r\n\r\n"), "{rest:?}");
    assert!(server.read(&mut [0; 9]).await.map_or(true, |count| count == 0));
}

/// A client of HTTP/2.
pub(super) async fn two(cell: &Cell) -> hyper::client::conn::http2::SendRequest<http::Body> {
    let tls = connect(cell, "open.example", H2).await.unwrap();
    assert_eq!(tls.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(tls)).await.unwrap();
    tokio::spawn(connection);
    sender
}

fn ask(uri: &str) -> Request<http::Body> {
    Request::builder().version(::http::Version::HTTP_2).uri(uri).body(http::full("")).unwrap()
}

/// A server of HTTP/2 that says what it was asked, with a trailer.
async fn echo(server: Server) {
    let service = hyper::service::service_fn(|request: Request<Incoming>| async move {
        let line = format!("{} {} te={:?}", request.method(), request.uri(), request.headers().get("te"));
        let body = request.into_body().collect().await.unwrap().to_bytes();
        let mut trailers = ::http::HeaderMap::new();
        trailers.insert("grpc-status", "0".parse().unwrap());
        let frames = [Frame::data(Bytes::from(line)), Frame::data(body), Frame::trailers(trailers)];
        let frames = futures_util::stream::iter(frames.map(Ok::<_, std::convert::Infallible>));
        Ok::<_, std::convert::Infallible>(Response::new(StreamBody::new(frames)))
    });
    let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(server), service)
        .await;
}

/// What asks for a WebSocket over HTTP/2.
fn extended(path: &str) -> Request<http::Body> {
    let mut socket = ask(&format!("https://open.example{path}"));
    *socket.method_mut() = ::http::Method::CONNECT;
    socket.headers_mut().insert("sec-websocket-version", "13".parse().unwrap());
    socket.extensions_mut().insert(hyper::ext::Protocol::from_static("websocket"));
    socket
}

/// How a server of HTTP/1.1 agrees to the WebSocket of this head.
fn agreed(head: &str) -> String {
    use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
    use base64::{Engine, engine::general_purpose::STANDARD};
    let key = head.lines().find_map(|line| line.strip_prefix("sec-websocket-key: ")).unwrap();
    let shown =
        digest(&SHA1_FOR_LEGACY_USE_ONLY, format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11").as_bytes());
    let shown = STANDARD.encode(shown);
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Accept: {shown}\r\n\r\n"
    )
}

/// A client of HTTP/2 that knows that it may ask for WebSockets.
async fn two_that_may(cell: &Cell) -> hyper::client::conn::http2::SendRequest<http::Body> {
    let mut client = two(cell).await;
    assert_eq!(client.send_request(ask("https://open.example/other")).await.unwrap().status(), 403);
    client
}

type Socket = TokioIo<hyper::upgrade::Upgraded>;

/// Both ends of a WebSocket that a client of HTTP/2 has with a server of HTTP/1.1.
pub(super) async fn over_two(cell: &Cell) -> (Socket, Server) {
    let mut client = two_that_may(cell).await;
    let asking = tokio::spawn(async move {
        let answer = client.send_request(extended("/open/ws")).await.unwrap();
        assert_eq!(answer.status(), 200);
        assert!(!answer.headers().contains_key("sec-websocket-accept"), "{answer:?}");
        (hyper::upgrade::on(answer).await.unwrap(), client)
    });
    let mut server = served(cell, &["h2", "http/1.1"]).await;
    let head = message(&mut server).await;
    assert!(head.starts_with("GET /open/ws HTTP/1.1\r\n"), "{head}");
    assert!(head.to_ascii_lowercase().contains("upgrade: websocket\r\n"), "{head}");
    say(&mut server, &agreed(&head)).await;
    let (socket, client) = asking.await.unwrap();
    // What its client is dropped for would end the connection.
    tokio::spawn(async move {
        let _client = client;
        std::future::pending::<()>().await;
    });
    (TokioIo::new(socket), server)
}

#[tokio::test(start_paused = true)]
async fn a_websocket_over_http_2_passes_after_it_was_judged_and_ends_with_its_permission() {
    let cell = inspecting();
    let (mut socket, mut server) = over_two(&cell).await;
    let mut frame = [0; 5];
    say(&mut server, "first").await;
    socket.read_exact(&mut frame).await.unwrap();
    assert_eq!(&frame, b"first");
    say(&mut socket, "frame").await;
    server.read_exact(&mut frame).await.unwrap();
    assert_eq!(&frame, b"frame");
    cell.egress.gate.configure(rules("version: 1\ndefault: deny\n"), LIMITS);
    assert!(matches!(socket.read(&mut frame).await, Ok(0) | Err(_)));
}

#[tokio::test(start_paused = true)]
async fn what_is_no_websocket_over_http_2_is_refused_before_anything_is_dialled() {
    let cell = inspecting();
    let mut client = two_that_may(&cell).await;
    let mut refused = async |request| {
        let answer = client.send_request(request).await.unwrap();
        (answer.status().as_u16(), answer.headers()["cofferdam-reason"].to_str().unwrap().to_owned())
    };
    let denied = |reason: &str| (403, reason.to_owned());
    assert_eq!(refused(extended("/other")).await, denied("denied_by_rule"));
    // Only `ws` is allowed there, and here only `https`.
    assert_eq!(refused(ask("https://open.example/elsewhere")).await, denied("no_rule"));
    assert_eq!(refused(extended("/open/page")).await, denied("no_rule"));
    let mut elsewhere = extended("/open/ws");
    *elsewhere.uri_mut() = "https://web.example/open/ws".parse().unwrap();
    assert_eq!(refused(elsewhere).await, (421, "host_mismatch".to_owned()));
    let bad = || (400, "bad_request".to_owned());
    let mut other = extended("/open/ws");
    other.extensions_mut().insert(hyper::ext::Protocol::from_static("connect-udp"));
    assert_eq!(refused(other).await, bad());
    let mut keyed = extended("/open/ws");
    keyed.headers_mut().insert("sec-websocket-key", "AAAAAAAAAAAAAAAAAAAAAA==".parse().unwrap());
    assert_eq!(refused(keyed).await, bad());
    let mut old = extended("/open/ws");
    old.headers_mut().insert("sec-websocket-version", "8".parse().unwrap());
    assert_eq!(refused(old).await, bad());
    assert_eq!(cell.dialled(), 0);
}

/// What a client of HTTP/2 is told when its server answers a WebSocket so.
pub(super) async fn answered_with(cell: &Cell, text: &str) -> u16 {
    let mut client = two_that_may(cell).await;
    let asking =
        tokio::spawn(
            async move { client.send_request(extended("/open/ws")).await.unwrap().status().as_u16() },
        );
    let mut server = served(cell, H1).await;
    message(&mut server).await;
    say(&mut server, text).await;
    asking.await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_client_of_http_2_has_no_websocket_to_which_its_server_did_not_agree() {
    for (text, status) in
        [(OK, 502), (SWITCHED, 502), ("HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\n\r\nno", 404)]
    {
        assert_eq!(answered_with(&inspecting(), text).await, status, "{text}");
    }
}

/// A switch that whoever says it need not have seen a key for.
pub(super) const SWITCHED: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\
    Upgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

#[tokio::test(start_paused = true)]
async fn http_2_passes_with_trailers_on_one_connection_and_each_of_its_requests_is_judged() {
    let cell = inspecting();
    let mut client = two(&cell).await;
    let mut first = ask("https://open.example/open/1");
    first.headers_mut().insert("te", "trailers".parse().unwrap());
    let sending = tokio::spawn(client.send_request(first));
    let server = served(&cell, &["h2", "http/1.1"]).await;
    tokio::spawn(echo(server));
    let answer = sending.await.unwrap().unwrap();
    assert_eq!(answer.status(), 200);
    let collected = answer.into_body().collect().await.unwrap();
    assert_eq!(collected.trailers().unwrap()["grpc-status"], "0");
    assert_eq!(collected.to_bytes(), "GET https://open.example/open/1 te=Some(\"trailers\")");
    let refused = client.send_request(ask("https://open.example/other")).await.unwrap();
    assert_eq!(
        (refused.status().as_u16(), &refused.headers()["cofferdam-reason"]),
        (403, &"denied_by_rule".parse().unwrap())
    );
    // Another name in a stream is misdirected, and only that stream.
    let misdirected = client.send_request(ask("https://web.example/open")).await.unwrap();
    assert_eq!(misdirected.status(), 421);
    let again = client.send_request(ask("https://open.example/open/2")).await.unwrap();
    assert_eq!(again.status(), 200);
    // Another client of the tenant is served on the same connection to the world.
    let mut other = two(&cell).await;
    assert_eq!(other.send_request(ask("https://open.example/open/3")).await.unwrap().status(), 200);
    assert_eq!(cell.dialled(), 1);
}

#[tokio::test(start_paused = true)]
async fn one_side_may_speak_http_2_and_the_other_http_1() {
    let cell = inspecting();
    let mut client = two(&cell).await;
    let sending = tokio::spawn(client.send_request(ask("https://open.example/open")));
    let mut server = served(&cell, H1).await;
    let head = message(&mut server).await;
    assert!(
        head.starts_with("GET /open HTTP/1.1\r\nhost: open.example\r\n")
            || head.contains("\r\nhost: open.example\r\n"),
        "{head}"
    );
    say(&mut server, OK).await;
    let answer = sending.await.unwrap().unwrap();
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "hi");

    let cell = inspecting();
    let mut client = connect(&cell, "open.example", H1).await.unwrap();
    say(&mut client, "POST /open HTTP/1.1\r\nHost: open.example\r\nContent-Length: 4\r\n\r\nbody").await;
    tokio::spawn(echo(served(&cell, H2).await));
    let head = message(&mut client).await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let mut text = [0; 200];
    let mut seen = String::new();
    while !seen.contains("body") {
        let count = client.read(&mut text).await.unwrap();
        assert!(count > 0, "{seen}");
        seen.push_str(std::str::from_utf8(&text[..count]).unwrap());
    }
    assert!(seen.contains("POST https://open.example/open"), "{seen}");
}

#[tokio::test(start_paused = true)]
async fn a_stream_of_http_2_ends_with_its_permission_and_so_does_its_other_side() {
    let cell = inspecting();
    let mut client = two(&cell).await;
    let sending = tokio::spawn(client.send_request(ask("https://open.example/open")));
    let server = served(&cell, H2).await;
    let (closed, mut is_closed) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        let service = hyper::service::service_fn(move |_: Request<Incoming>| {
            let closed = closed.clone();
            async move {
                let (sender, receiver) = tokio::sync::mpsc::channel::<Bytes>(1);
                tokio::spawn(async move {
                    sender.send(Bytes::from_static(b"tick")).await.unwrap();
                    sender.closed().await;
                    closed.send(()).unwrap();
                });
                let frames = futures_util::stream::unfold(receiver, |mut receiver| async move {
                    let data = receiver.recv().await?;
                    Some((Ok::<_, std::convert::Infallible>(Frame::data(data)), receiver))
                });
                Ok::<_, std::convert::Infallible>(Response::new(StreamBody::new(Box::pin(frames))))
            }
        });
        let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .serve_connection(TokioIo::new(server), service)
            .await;
    });
    let mut body = sending.await.unwrap().unwrap().into_body();
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "tick");
    cell.egress.gate.configure(rules("version: 1\ndefault: deny\n"), LIMITS);
    assert!(body.frame().await.unwrap().is_err());
    // And the world is told, whether or not the client reads on.
    is_closed.recv().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_request_that_a_rule_asks_about_is_held_inside_tls_and_goes_on_when_it_is_granted() {
    let cell = inspecting();
    let policy =
        format!("{SEEN}  - ask: open.example\n    protocol: https\n    method: PUT\n    path: /asked\n");
    cell.egress.gate.configure(rules(&policy), LIMITS);
    let mut client = connect(&cell, "open.example", H1).await.unwrap();
    say(&mut client, "PUT /asked HTTP/1.1\r\nHost: open.example\r\nContent-Length: 4\r\n\r\nbody").await;
    let destination = cell.asked().await;
    assert_eq!((destination.to_string().as_str(), cell.dialled()), ("https://open.example:443", 0));
    cell.egress.gate.grant(grant(&destination, GrantSpan::Until(Millis(now().0 + 600_000))));
    let mut server = served(&cell, H1).await;
    assert!(message(&mut server).await.ends_with("body"));
    say(&mut server, OK).await;
    assert!(message(&mut client).await.ends_with("hi"));
}

#[tokio::test(start_paused = true)]
async fn a_call_in_a_body_is_judged_inside_tls() {
    let cell = inspecting();
    let rule = "  - allow: open.example\n    protocol: mcp\n    path: /mcp\n    mcp: {tool: read}\n";
    cell.egress.gate.configure(rules(&format!("{SEEN}{rule}")), LIMITS);
    let call = |tool: &str| {
        let body =
            format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"{tool}"}}}}"#);
        let length = body.len();
        format!(
            "POST /mcp HTTP/1.1\r\nHost: open.example\r\nContent-Type: application/json\r\n\
             Content-Length: {length}\r\n\r\n{body}"
        )
    };
    let mut client = connect(&cell, "open.example", H1).await.unwrap();
    say(&mut client, &call("delete")).await;
    assert!(message(&mut client).await.starts_with("HTTP/1.1 403"));
    say(&mut client, &call("read")).await;
    let mut server = served(&cell, H1).await;
    assert!(message(&mut server).await.contains("tools/call"));
    say(&mut server, OK).await;
    assert!(message(&mut client).await.ends_with("hi"));
}

#[tokio::test(start_paused = true)]
async fn an_answer_without_a_body_keeps_its_length_and_the_connection() {
    let cell = inspecting();
    let policy = SEEN.replace("[GET, POST]", "[GET, HEAD]");
    cell.egress.gate.configure(rules(&policy), LIMITS);
    let mut client = connect(&cell, "open.example", H1).await.unwrap();
    say(&mut client, "HEAD /open HTTP/1.1\r\nHost: open.example\r\n\r\n").await;
    let mut server = served(&cell, H1).await;
    message(&mut server).await;
    say(&mut server, "HTTP/1.1 200 OK\r\ncontent-length: 7777\r\n\r\n").await;
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        head.push(char::from(client.read_u8().await.unwrap()));
    }
    assert!(head.contains("content-length: 7777"), "{head}");
    say(&mut client, GET).await;
    assert!(message(&mut server).await.starts_with("GET /open "));
    say(&mut server, "HTTP/1.1 204 No Content\r\n\r\n").await;
    assert!(message(&mut client).await.starts_with("HTTP/1.1 204"));
}

#[tokio::test(start_paused = true)]
async fn a_second_connection_takes_the_session_of_the_first_up_again() {
    let cell = inspecting();
    let host = Host::Name("open.example".parse().unwrap());
    let mut config = ServerConfig::clone(&world_authority().config(&host, now()).unwrap());
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let mut kinds = Vec::new();
    for _ in 0..2 {
        let mut client = connect(&cell, "open.example", H1).await.unwrap();
        say(&mut client, GET).await;
        let mut server = acceptor.accept(cell.server().await).await.unwrap();
        kinds.push(server.get_ref().1.handshake_kind().unwrap());
        message(&mut server).await;
        say(&mut server, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nhi").await;
        assert!(message(&mut client).await.ends_with("hi"));
    }
    assert_eq!(kinds, [rustls::HandshakeKind::Full, rustls::HandshakeKind::Resumed]);
}

#[tokio::test(start_paused = true)]
async fn a_client_without_tls_asks_the_proxy_for_https_and_is_judged_as_if_it_had_some() {
    let cell = inspecting();
    let mut client = cell.peer(Peer::Proxy);
    let ask = |line: &str, host: &str| format!("{line} HTTP/1.1\r\nHost: {host}\r\nX-Mine: 1\r\n\r\n");
    say(&mut client, &ask("GET https://open.example/open?x", "open.example")).await;
    let mut server = served(&cell, H1).await;
    let head = message(&mut server).await;
    assert!(
        head.starts_with("GET /open?x HTTP/1.1\r\n") && head.contains("host: open.example\r\n"),
        "{head}"
    );
    say(&mut server, OK).await;
    assert!(message(&mut client).await.ends_with("hi"));
    for (line, host, reason) in [
        ("GET https://open.example/other", "open.example", "denied_by_rule"),
        ("DELETE https://open.example/open", "open.example", "no_rule"),
        ("GET https://open.example:444/open", "open.example:444", "no_rule"),
        ("GET https://else.example/", "else.example", "no_rule"),
        ("GET https://web.example/", "open.example", "host_mismatch"),
    ] {
        let mut client = cell.peer(Peer::Proxy);
        say(&mut client, &ask(line, host)).await;
        let text = message(&mut client).await;
        assert!(text.contains(&format!("cofferdam-reason: {reason}")), "{line}: {text}");
    }
    assert_eq!(cell.dialled(), 1);
    // Nobody else's certificate is believed for it.
    let mut client = cell.peer(Peer::Proxy);
    cell.egress.inspector.forget();
    say(&mut client, &ask("GET https://web.example/", "web.example")).await;
    let other = Host::Name("open.example".parse().unwrap());
    let mut config = ServerConfig::clone(&world_authority().config(&other, now()).unwrap());
    config.cert_resolver = Arc::new(Any(world_authority().key(&other, now())));
    assert!(TlsAcceptor::from(Arc::new(config)).accept(cell.server().await).await.is_err());
    let text = message(&mut client).await;
    assert!(text.contains("cofferdam-reason: certificate_invalid"), "{text}");
    // What a rule says nobody reads is not read for it either.
    cell.egress.gate.configure(rules(NEVER), LIMITS);
    let mut client = cell.peer(Peer::Proxy);
    say(&mut client, &ask("GET https://open.example/open", "open.example")).await;
    let text = message(&mut client).await;
    assert!(text.contains("cofferdam-reason: protocol_mismatch") && text.contains("CONNECT"), "{text}");
    // Only the explicit proxy is asked so: a captured request means the host that it was captured on the way to.
    let mut captured = cell.captured("open.example", 80);
    say(&mut captured, &ask("GET https://open.example/open", "open.example")).await;
    let text = message(&mut captured).await;
    assert!(text.contains("cofferdam-reason: bad_request"), "{text}");
}
