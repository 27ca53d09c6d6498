//! What is open stays open only as long as it may, and counts as long as it is.

use super::*;

/// The head of an endless upload, and its first chunk.
const UPLOAD: &str =
    "POST /up HTTP/1.1\r\nHost: web.example\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nleak\r\n";
const DONE: &str = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";

async fn until(stream: &mut DuplexStream, end: &str) {
    let mut text = String::new();
    while !text.ends_with(end) {
        text.push(char::from(stream.read_u8().await.unwrap()));
    }
}

/// An upload whose server answered before it was over.
async fn upload(cell: &Cell) -> (DuplexStream, DuplexStream) {
    let mut client = cell.captured("web.example", 80);
    say(&mut client, UPLOAD).await;
    let mut server = cell.server().await;
    until(&mut server, "leak\r\n").await;
    say(&mut server, DONE).await;
    assert!(message(&mut client).await.starts_with("HTTP/1.1 200"));
    // The positive control: it goes on after its answer.
    say(&mut client, "4\r\nmore\r\n").await;
    until(&mut server, "more\r\n").await;
    (client, server)
}

#[tokio::test(start_paused = true)]
async fn an_upload_that_outlives_its_answer_ends_with_its_permission() {
    let cell = cell();
    let (_client, mut server) = upload(&cell).await;
    cell.egress.gate.configure(rules("version: 1\ndefault: deny\n"), LIMITS);
    assert!(all(&mut server).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_upload_that_outlives_its_answer_still_counts_as_a_relay() {
    let cell = cell();
    cell.egress.gate.configure(rules(POLICY), Limits { relays: 1, ..LIMITS });
    let (mut client, mut server) = upload(&cell).await;
    let get = "GET / HTTP/1.1\r\nHost: web.example\r\n\r\n";
    let mut other = cell.captured("web.example", 80);
    say(&mut other, get).await;
    assert!(message(&mut other).await.contains("too_many_relays"));
    say(&mut client, "0\r\n\r\n").await;
    until(&mut server, "0\r\n\r\n").await;
    say(&mut client, get).await;
    until(&mut server, "\r\n\r\n").await;
    say(&mut server, OK).await;
    assert!(message(&mut client).await.ends_with("hi"));
}

#[tokio::test(start_paused = true)]
async fn of_a_stalled_upload_nothing_goes_on_once_its_permission_is_gone() {
    let cell = cell();
    let (mut client, mut server) = upload(&cell).await;
    // Nobody reads: every buffer on the way fills.
    let chunk = format!("10000\r\n{}\r\n", "x".repeat(1 << 16));
    let endless = async { while client.write_all(chunk.as_bytes()).await.is_ok() {} };
    assert!(tokio::time::timeout(Duration::from_secs(1), endless).await.is_err(), "it is not stalled");
    cell.egress.gate.configure(rules("version: 1\ndefault: deny\n"), LIMITS);
    tokio::time::sleep(Duration::from_secs(1)).await;
    // What is in the pipe to the server already is all that it gets.
    assert!(all(&mut server).await.len() <= 64 * 1024);
}

#[tokio::test(start_paused = true)]
async fn what_was_said_before_the_permission_went_is_not_passed_on_after() {
    let cell = cell();
    let destination =
        of(&Host::Name("open.example".parse().unwrap()), 443.try_into().unwrap(), Protocol::Https);
    let pass = cell.egress.gate.admit(&destination).await.unwrap();
    let carried = async || {
        let (client, ours) = duplex(64);
        let (theirs, mut server) = duplex(64);
        drop(client);
        server.shutdown().await.unwrap();
        cell.egress.carry(ours, b"hello".as_slice().into(), Box::new(theirs), &pass).await;
        all(&mut server).await
    };
    assert_eq!(carried().await, b"hello");
    cell.egress.gate.configure(rules("version: 1\ndefault: deny\n"), LIMITS);
    assert!(carried().await.is_empty());
}

/// A world in which nothing answers.
#[derive(Debug)]
struct Silence(tokio::sync::mpsc::UnboundedSender<()>);

impl Connect for Silence {
    fn connect(&self, _: CheckedAddress, _: NonZeroU16) -> BoxFuture<'_, io::Result<BoxStream>> {
        self.0.send(()).unwrap();
        Box::pin(std::future::pending())
    }
}

#[tokio::test(start_paused = true)]
async fn a_dial_ends_with_its_permission_however_it_was_asked_for() {
    for connect in [true, false] {
        let cell = cell();
        let (dialling, mut dialled) = tokio::sync::mpsc::unbounded_channel();
        let names = Box::new(cell.world.clone());
        cell.egress.set_dialler(Dialler { names, connect: Box::new(Silence(dialling)) });
        let mut client = if connect { cell.peer(Peer::Proxy) } else { cell.captured("open.example", 443) };
        if connect {
            say(&mut client, "CONNECT open.example:443 HTTP/1.1\r\nHost: open.example:443\r\n\r\n").await;
        } else {
            client.write_all(&real("open.example")).await.unwrap();
        }
        dialled.recv().await.unwrap();
        cell.egress.gate.configure(rules("version: 1\ndefault: deny\n"), LIMITS);
        let told = if connect { message(&mut client).await } else { String::new() };
        assert!(!connect || told.contains("revoked"), "{told}");
        assert!(connect || all(&mut client).await == ALERT);
        assert_eq!(cell.reasons(), ["revoked"]);
    }
}

#[tokio::test]
async fn a_tunnel_keeps_its_place_among_the_cells_connections_until_it_is_closed() {
    let cell = cell();
    cell.egress.places.forget_permits(CONNECTIONS - 1);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(Arc::clone(&cell.egress).accept(listener, |_| Ok(Peer::Proxy)));
    let open = || async {
        let mut client = tokio::net::TcpStream::connect(address).await.unwrap();
        let _ =
            client.write_all(b"CONNECT open.example:443 HTTP/1.1\r\nHost: open.example:443\r\n\r\n").await;
        let mut head = [0; 12];
        (client.read_exact(&mut head).await.is_ok() && head.ends_with(b" 200")).then_some(client)
    };
    let first = open().await.expect("the first gets its place");
    assert!(open().await.is_none(), "there is one place");
    drop(first);
    let place = cell.egress.places.acquire().await.unwrap();
    drop(place);
    assert!(open().await.is_some());
}

#[tokio::test(start_paused = true)]
async fn who_holds_over_half_of_the_places_gets_the_next_ones_slowly() {
    let cell = cell();
    cell.egress.places.forget_permits(CONNECTIONS / 2 + 1);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (accepted, mut seen) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(Arc::clone(&cell.egress).accept(listener, move |_| {
        accepted.send(()).unwrap();
        Ok(Peer::Proxy)
    }));
    let begun = tokio::time::Instant::now();
    for _ in 0..20 {
        let _client = tokio::net::TcpStream::connect(address).await.unwrap();
        seen.recv().await.unwrap();
    }
    assert!(begun.elapsed() >= Duration::from_millis(16), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_kept_connection_is_not_used_again_once_its_address_is_refused() {
    let cell = cell();
    let mut client = cell.captured("web.example", 80);
    let get = "GET / HTTP/1.1\r\nHost: web.example\r\n\r\n";
    say(&mut client, get).await;
    let mut server = cell.server().await;
    message(&mut server).await;
    say(&mut server, OK).await;
    message(&mut client).await;
    let denying = format!("{POLICY}  - deny: 93.184.216.34\n");
    cell.egress.gate.configure(rules(&denying), LIMITS);
    say(&mut client, get).await;
    let text = message(&mut client).await;
    assert!(text.contains("denied_by_rule"), "{text}");
    // The positive control: as before, it is used again.
    cell.egress.gate.configure(rules(POLICY), LIMITS);
    for _ in 0..2 {
        say(&mut client, get).await;
        let mut server = cell.server().await;
        message(&mut server).await;
        say(&mut server, OK).await;
        cell.world.peers.lock().unwrap().push(server);
        assert!(message(&mut client).await.ends_with("hi"));
    }
    assert_eq!(cell.dialled(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_relay_closes_when_the_guard_comes_to_refuse_its_address() {
    let cell = cell();
    let mut client = cell.captured("open.example", 443);
    client.write_all(&real("open.example")).await.unwrap();
    let mut server = cell.server().await;
    say(&mut server, "x").await;
    assert_eq!(client.read_u8().await.unwrap(), b'x');
    // The control: a configuration that changes nothing for it.
    cell.egress.gate.configure(rules(POLICY), LIMITS);
    say(&mut server, "y").await;
    assert_eq!(client.read_u8().await.unwrap(), b'y');
    let guard = Guard { host_addresses: vec!["93.184.216.34".parse().unwrap()], ..Guard::default() };
    let rules = Rules { policy: Policy::parse(POLICY).unwrap(), guard };
    cell.egress.gate.configure(Arc::new(rules), LIMITS);
    assert!(all(&mut client).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_cell_that_asks_in_a_loop_is_refused_and_asks_again_later() {
    let cell = cell();
    let get = "GET / HTTP/1.1\r\nHost: new.example\r\n\r\n";
    for _ in 0..3 {
        let mut client = cell.captured("new.example", 80);
        say(&mut client, get).await;
        while !cell.told.notices.lock().unwrap().iter().any(|it| matches!(it, Notice::Ask { .. })) {
            tokio::task::yield_now().await;
        }
        drop(client);
        while !cell.told.notices.lock().unwrap().iter().any(|it| matches!(it, Notice::HoldEnded(_))) {
            tokio::task::yield_now().await;
        }
        cell.told.notices.lock().unwrap().clear();
    }
    let mut client = cell.captured("new.example", 80);
    say(&mut client, get).await;
    let text = message(&mut client).await;
    assert!(text.starts_with("HTTP/1.1 429") && text.contains("too_many_waiting"), "{text}");
    assert!(cell.told.notices.lock().unwrap().is_empty());
    assert_eq!(cell.dialled(), 0);
    cell.time.store(2000, SeqCst);
    say(&mut client, get).await;
    assert_eq!(cell.asked().await.to_string(), "http://new.example:80");
}
