//! Names that the warden serves itself, over TLS.

use super::{
    inspected::{H1, cell_authority, connect, inspecting, secured},
    *,
};

const MODELS: &str = "GET /v1/models HTTP/1.1\r\nHost: inference.local\r\n\r\n";

#[tokio::test(start_paused = true)]
async fn a_name_of_the_wardens_own_answers_over_tls_captured_and_by_connect() {
    let cell = inspecting();
    let mut client = connect(&cell, "inference.local", H1).await.unwrap();
    say(&mut client, MODELS).await;
    assert!(message(&mut client).await.ends_with("a model"));
    // Another host inside is none of ours.
    say(&mut client, "GET / HTTP/1.1\r\nHost: open.example\r\n\r\n").await;
    let text = message(&mut client).await;
    assert!(text.starts_with("HTTP/1.1 421") && !text.contains("a model"), "{text}");
    let mut denied = connect(&cell, "cofferdam.local", H1).await.unwrap();
    say(&mut denied, "GET /denied HTTP/1.1\r\nHost: cofferdam.local\r\n\r\n").await;
    assert!(message(&mut denied).await.contains("host_mismatch"));
    let mut proxy = cell.peer(Peer::Proxy);
    say(&mut proxy, "CONNECT inference.local:443 HTTP/1.1\r\nHost: inference.local:443\r\n\r\n").await;
    assert!(message(&mut proxy).await.starts_with("HTTP/1.1 200"));
    let mut client = secured(proxy, "inference.local", H1, &cell_authority()).await.unwrap();
    say(&mut client, MODELS).await;
    assert!(message(&mut client).await.ends_with("a model"));
    assert_eq!(cell.dialled(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_name_of_the_wardens_own_shows_no_certificate_of_another_name_and_answers_at_no_other_port() {
    let cell = inspecting();
    let stream = cell.captured("inference.local", 443);
    assert!(secured(stream, "open.example", H1, &cell_authority()).await.is_err());
    let stream = cell.captured("inference.local", 8443);
    assert!(secured(stream, "inference.local", H1, &cell_authority()).await.is_err());
    assert_eq!(cell.reasons(), ["name_mismatch", "protocol_mismatch"]);
    assert_eq!(cell.dialled(), 0);
}
