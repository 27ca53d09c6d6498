//! What is said about a destination: the same however it is asked for, whatever it turns out to speak, and
//! whatever its name resolves to.

use super::*;

const MIXED: &str = "version: 1
default: ask
rules:
  - allow: data.example
    protocol: tcp
    ports: [80, 443, 5432]
  - deny: data.example
    protocol: https
  - ask: data.example
    protocol: http
  - allow: asked.example
    protocol: tcp
    ports: [80, 443, 5432]
  - ask: asked.example
    protocol: https
  - allow: plain.example
    protocol: tcp
    ports: [80, 443, 5432]
  - allow: web.example
";

fn mixed() -> Cell {
    let cell = cell();
    for name in ["asked.example", "plain.example"] {
        cell.resolves(name, &["93.184.216.34"]);
    }
    cell.egress.gate.configure(rules(MIXED), LIMITS);
    cell
}

#[tokio::test(start_paused = true)]
async fn an_ask_rule_for_tls_is_asked_though_a_tcp_rule_allows() {
    let cell = mixed();
    let mut client = cell.captured("asked.example", 443);
    client.write_all(&real("asked.example")).await.unwrap();
    assert_eq!(cell.asked().await.to_string(), "https://asked.example:443");
    assert_eq!(cell.dialled(), 0);
    // The positive control: where no rule speaks of TLS the tcp rule lets it through, unseen.
    let mut client = cell.captured("plain.example", 443);
    client.write_all(&real("other.example")).await.unwrap();
    let mut server = cell.server().await;
    assert_eq!(server.read_u8().await.unwrap(), 22);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_is_silent_first_does_not_slip_tls_or_http_under_a_tcp_rule() {
    let cell = mixed();
    let silent = async |name: &str, port| {
        let client = cell.captured(name, port);
        tokio::time::sleep(PATIENCE).await;
        (client, cell.server().await)
    };
    let (mut client, mut server) = silent("data.example", 5432).await;
    // The positive control: the server speaks first, and what is neither passes.
    say(&mut server, "220 hello").await;
    let mut greeting = [0; 9];
    client.read_exact(&mut greeting).await.unwrap();
    say(&mut client, "EHLO x\r\n").await;
    let mut said = [0; 8];
    server.read_exact(&mut said).await.unwrap();
    assert_eq!(&said, b"EHLO x\r\n");

    let (mut client, mut server) = silent("data.example", 443).await;
    client.write_all(&real("data.example")).await.unwrap();
    assert_eq!(all(&mut client).await, ALERT);
    assert!(all(&mut server).await.is_empty());

    let (mut client, mut server) = silent("data.example", 80).await;
    // In two parts, with more than every patience between them.
    say(&mut client, "GET / HTT").await;
    tokio::time::sleep(PATIENCE * 2).await;
    say(&mut client, "P/1.1\r\nHost: data.example\r\n\r\n").await;
    assert_eq!(cell.asked().await.to_string(), "http://data.example:80");
    assert!(all(&mut server).await.is_empty());

    // A name that is not the one that was looked up.
    let (mut client, _server) = silent("asked.example", 443).await;
    client.write_all(&real("other.example")).await.unwrap();
    assert_eq!(all(&mut client).await, ALERT);
    assert_eq!(cell.reasons(), ["denied_by_rule", "name_mismatch"]);
}

/// The reason with which a client is refused; empty if it is let through.
async fn verdict(client: &mut DuplexStream, request: &str) -> String {
    say(client, request).await;
    let text = message(client).await.to_ascii_lowercase();
    let reason = text.split("cofferdam-reason: ").nth(1).and_then(|rest| rest.split("\r\n").next());
    reason.unwrap_or_default().to_owned()
}

#[tokio::test(start_paused = true)]
async fn captured_and_proxied_connections_get_the_same_verdict() {
    for (host, port, reason) in [
        ("web.example", 80, ""),
        ("web.example", 8080, "no_rule"),
        ("closed.example", 80, "denied_by_rule"),
        ("open.example", 80, "no_rule"),
        ("nowhere.example", 80, "no_rule"),
        ("metadata.google.internal", 80, "metadata"),
        ("127.0.0.1", 80, "host_address"),
        ("169.254.169.254", 80, "metadata"),
        ("10.0.0.1", 80, "private_address"),
        ("93.184.216.34", 80, "no_rule"),
        ("198.18.77.7", 80, "never_handed_out"),
        ("rebound.example", 80, "host_address"),
    ] {
        let policy = POLICY.replace("default: ask", "default: deny");
        let new = || {
            let cell = cell();
            cell.egress.gate.configure(rules(&policy), LIMITS);
            cell.resolves("rebound.example", &["127.0.0.1"]);
            cell
        };
        let authority = if port == 80 { host.to_owned() } else { format!("{host}:{port}") };
        let get = format!("GET / HTTP/1.1\r\nHost: {authority}\r\n\r\n");
        let absolute = format!("GET http://{authority}/ HTTP/1.1\r\nHost: {authority}\r\n\r\n");
        let answers = |cell: &Cell| {
            let peers = Arc::clone(&cell.world.peers);
            tokio::spawn(async move {
                loop {
                    let peer = peers.lock().unwrap().pop();
                    if let Some(mut peer) = peer {
                        message(&mut peer).await;
                        say(&mut peer, OK).await;
                        all(&mut peer).await;
                    }
                    tokio::task::yield_now().await;
                }
            })
        };
        let cell = new();
        let task = answers(&cell);
        let mut captured = match host.parse() {
            Ok(address) => cell.to(SocketAddr::new(address, port)),
            Err(_) => cell.captured(host, port),
        };
        assert_eq!(verdict(&mut captured, &get).await, reason, "{authority}, captured");
        task.abort();

        let cell = new();
        let task = answers(&cell);
        let mut proxied = cell.peer(Peer::Proxy);
        assert_eq!(verdict(&mut proxied, &absolute).await, reason, "{authority}, absolute form");
        task.abort();

        let cell = new();
        let task = answers(&cell);
        let mut tunnel = cell.peer(Peer::Proxy);
        let connect = format!("CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n");
        let mut told = verdict(&mut tunnel, &connect).await;
        if told.is_empty() {
            // Let through as far as can be known before it speaks.
            told = verdict(&mut tunnel, &get).await;
        }
        assert_eq!(told, reason, "{authority}, CONNECT");
        task.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn a_grant_for_what_is_never_approvable_opens_nothing() {
    let cell = cell();
    cell.resolves("new.example", &["169.254.169.254"]);
    let http = |host: Host| of(&host, HTTP_PORT, Protocol::Http);
    let metadata = http(Host::Address("169.254.169.254".parse().unwrap()));
    let name = http(Host::Name("new.example".parse().unwrap()));
    for (id, destination) in [(1, &metadata), (2, &name)] {
        let grant = Grant { id, destination: destination.clone(), span: GrantSpan::Always, request: None };
        cell.egress.gate.grant(grant);
    }
    let mut client = cell.to("169.254.169.254:80".parse().unwrap());
    let get = "GET / HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n";
    assert_eq!(verdict(&mut client, get).await, "metadata");
    let mut client = cell.captured("new.example", 80);
    let get = "GET / HTTP/1.1\r\nHost: new.example\r\n\r\n";
    assert_eq!(verdict(&mut client, get).await, "metadata");
    assert_eq!(cell.dialled(), 0);
    // The positive control: the same grant, once the name leads where the guard lets one go.
    cell.resolves("new.example", &["93.184.216.34"]);
    say(&mut client, get).await;
    say(&mut cell.server().await, OK).await;
    assert!(message(&mut client).await.ends_with("hi"));
}

#[tokio::test(start_paused = true)]
async fn a_rule_that_denies_an_address_binds_the_names_that_resolve_to_it() {
    let cell = cell();
    let policy = format!("{POLICY}  - deny: 93.184.216.34\n    reason: not there\n  - ask: 93.184.216.35\n");
    cell.egress.gate.configure(rules(&policy), LIMITS);
    let mut client = cell.captured("web.example", 80);
    let get = "GET / HTTP/1.1\r\nHost: web.example\r\n\r\n";
    say(&mut client, get).await;
    let text = message(&mut client).await;
    assert!(text.contains("denied_by_rule") && text.contains("not there"), "{text}");
    assert_eq!(cell.dialled(), 0);
    // The positive control: a rule that asks about an address says nothing about a name, nor does a default.
    cell.resolves("web.example", &["93.184.216.34", "93.184.216.35"]);
    say(&mut client, get).await;
    say(&mut cell.server().await, OK).await;
    assert!(message(&mut client).await.ends_with("hi"));
    assert_eq!(cell.world.dialled.lock().unwrap()[0].0.to_string(), "93.184.216.35");
}

/// Answers another address each time it is asked.
#[derive(Debug)]
struct Fickle(AtomicU64);

impl LookUp for Fickle {
    fn look_up<'a>(&'a self, _: &'a HostName) -> BoxFuture<'a, io::Result<Vec<IpAddr>>> {
        let address = if self.0.fetch_add(1, SeqCst) == 0 { "93.184.216.34" } else { "127.0.0.1" };
        Box::pin(async move { Ok(vec![address.parse().unwrap()]) })
    }
}

#[tokio::test(start_paused = true)]
async fn a_resolver_that_changes_its_mind_is_asked_once_a_dial() {
    let cell = cell();
    let names = Box::new(Fickle(AtomicU64::new(0)));
    cell.egress.set_dialler(Dialler { names, connect: Box::new(cell.world.clone()) });
    let get = "GET / HTTP/1.1\r\nHost: web.example\r\n\r\n";
    let mut client = cell.captured("web.example", 80);
    say(&mut client, get).await;
    say(&mut cell.server().await, OK).await;
    assert!(message(&mut client).await.ends_with("hi"));
    let mut client = cell.captured("web.example", 80);
    assert_eq!(verdict(&mut client, get).await, "host_address");
    assert_eq!(*cell.world.dialled.lock().unwrap(), [("93.184.216.34".parse().unwrap(), 80)]);
}

#[tokio::test(start_paused = true)]
async fn of_mixed_answers_only_those_that_may_be_are_dialled() {
    let cell = cell();
    cell.resolves("web.example", &["10.0.0.1", "::1", "93.184.216.34", "169.254.169.254"]);
    let mut client = cell.captured("web.example", 80);
    say(&mut client, "GET / HTTP/1.1\r\nHost: web.example\r\n\r\n").await;
    say(&mut cell.server().await, OK).await;
    assert!(message(&mut client).await.ends_with("hi"));
    assert_eq!(*cell.world.dialled.lock().unwrap(), [("93.184.216.34".parse().unwrap(), 80)]);
}

#[tokio::test(start_paused = true)]
async fn a_web_site_cannot_speak_as_the_warden() {
    let cell = cell();
    let mut client = cell.captured("web.example", 80);
    say(&mut client, "GET / HTTP/1.1\r\nHost: web.example\r\n\r\n").await;
    let forged = "HTTP/1.1 403 Forbidden\r\nCofferdam-Reason: metadata\r\ncofferdam-x: y\r\nX-Own: kept\r\ncontent-length: 0\r\n\r\n";
    say(&mut cell.server().await, forged).await;
    let text = message(&mut client).await.to_ascii_lowercase();
    assert!(text.contains("x-own: kept") && !text.contains("cofferdam-"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn new_names_in_proxy_requests_count_like_those_that_are_looked_up() {
    let cell = cell();
    let limits = Limits { names_per_second: 2, ..LIMITS };
    cell.egress.gate.configure(rules("version: 1\ndefault: deny\n"), limits);
    let connect = |name: String| {
        let mut client = cell.peer(Peer::Proxy);
        async move {
            let request = format!("CONNECT {name}:443 HTTP/1.1\r\nHost: {name}:443\r\n\r\n");
            verdict(&mut client, &request).await
        }
    };
    for n in 0..1002 {
        let told = connect(format!("n{n}.example")).await;
        // A full second's worth of the limit before is there at first.
        assert!(told == "no_rule" || (n >= 2 && told == "too_many_names"), "{n}: {told}");
    }
    assert_eq!(connect("n9999.example".into()).await, "too_many_names");
    assert_eq!(connect("n0.example".into()).await, "no_rule");
}

#[tokio::test(start_paused = true)]
async fn a_client_is_told_that_too_many_approvals_wait() {
    let cell = cell();
    let mut client = cell.captured("new.example", 80);
    say(&mut client, "GET / HTTP/1.1\r\nHost: new.example\r\n\r\n").await;
    let destination = cell.asked().await;
    cell.egress.gate.refuse_held(&destination, Refusal::new(Reason::TooManyWaiting, "approval"));
    let text = message(&mut client).await;
    assert!(
        text.starts_with("HTTP/1.1 429") && text.contains("cofferdam-reason: too_many_waiting"),
        "{text}"
    );
    assert!(text.contains("cofferdam approvals list"), "{text}");
}
