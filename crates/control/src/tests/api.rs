//! The API over a real Unix socket.

use super::world::{World, world};
use crate::api::{Door, serve};
use std::path::PathBuf;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
};

async fn served() -> (World, PathBuf) {
    let world = world().await;
    let path = world.dir.path().join("control.sock");
    let door = Door::open(&path).unwrap();
    let host = std::sync::Arc::clone(&world.host);
    tokio::spawn(async move { serve(door, host).await });
    (world, path)
}

/// Status and body of one request.
async fn ask(path: &PathBuf, method: &str, route: &str, body: &str) -> (u16, String) {
    let mut stream = UnixStream::connect(path).await.unwrap();
    let length = body.len();
    let request = format!(
        "{method} /api/v1/{route} HTTP/1.1\r\nHost: c\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let status = answer.get(9..12).and_then(|s| s.parse().ok()).unwrap_or(0);
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body).to_owned();
    (status, body)
}

#[tokio::test]
async fn a_tenant_is_made_listed_and_explained_over_the_socket() {
    let (_world, path) = served().await;
    let (status, body) = ask(&path, "POST", "tenants", r#"{"id":"acme","runtime":"command:echo"}"#).await;
    assert_eq!(status, 200, "{body}");
    assert!(body.contains(r#""address":"http://127.18.0.2:"#), "{body}");
    assert!(ask(&path, "GET", "tenants", "").await.1.contains("acme"));
    assert_eq!(ask(&path, "GET", "status", "").await.0, 200);
    let request = r#"{"destination":{"host":"clawhub.ai","port":443,"protocol":"https"}}"#;
    let (status, body) = ask(&path, "POST", "tenants/acme/policy/explain", request).await;
    assert!(status == 200 && body.contains(r#""verdict":"deny""#), "{body}");
    let token = r#"{"tenant":"acme","subject":"ann","role":"member","ttl_seconds":60}"#;
    assert!(ask(&path, "POST", "tokens", token).await.1.contains(r#""token":"ey"#));
    assert!(ask(&path, "GET", "ledger/tail", "").await.1.contains("token_issued"));
    assert_eq!(ask(&path, "GET", "tenants/acme/logs", "").await.0, 200);
}

#[tokio::test]
async fn each_kind_of_mistake_has_its_status_and_a_document() {
    let (_world, path) = served().await;
    ask(&path, "POST", "tenants", r#"{"id":"acme","runtime":"command:echo"}"#).await;
    for (method, route, body, status) in [
        ("GET", "nothing", "", 404),
        ("GET", "tenants/globex", "", 404),
        ("GET", "tenants/Not_An_Id", "", 400),
        ("POST", "tenants", r#"{"id":"acme","runtime":"command:echo"}"#, 409),
        ("POST", "tenants", r#"{"id":"beta","runtime":"command:nope"}"#, 404),
        ("POST", "tenants", r#"{"id":"beta","runtime":"command:echo","shell":1}"#, 400),
        ("POST", "tenants", "{", 400),
        ("PUT", "tenants/acme/policy", r#"{"text":"version: 1\nallow: x\n"}"#, 422),
        ("POST", "tenants/acme/exec", "", 400),
        ("POST", "approvals/7/approve", r#"{"span":"once"}"#, 404),
        ("GET", "ledger/tail?count=99999999", "", 400),
    ] {
        let (found, answer) = ask(&path, method, route, body).await;
        assert_eq!(found, status, "{method} {route} {body}: {answer}");
        assert!(answer.contains(r#"{"error":{"code":"#), "{method} {route}: {answer}");
    }
}

#[tokio::test]
async fn a_mebibyte_of_garbage_ends_its_connection_and_nothing_else() {
    let (_world, path) = served().await;
    let mut stream = UnixStream::connect(&path).await.unwrap();
    let garbage: Vec<u8> = (0..1_u32 << 20).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    // It may be closed on us while we write.
    let _ = stream.write_all(&garbage).await;
    let _ = stream.shutdown().await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 4"));
    let long = format!(r#"{{"text":"{}"}}"#, "x".repeat(1 << 20));
    let mut stream = UnixStream::connect(&path).await.unwrap();
    let head = format!(
        "PUT /api/v1/tenants/acme/policy HTTP/1.1\r\nHost: c\r\nContent-Length: {}\r\n\r\n",
        long.len()
    );
    let sent = async {
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(long.as_bytes()).await
    };
    // Refused before it was all read.
    let _ = sent.await;
    let mut answer = [0; 12];
    if stream.read_exact(&mut answer).await.is_ok() {
        assert_eq!(&answer, b"HTTP/1.1 400");
    }
    assert_eq!(ask(&path, "GET", "status", "").await.0, 200);
}

#[tokio::test]
async fn the_socket_is_its_owners_alone() {
    use std::os::unix::fs::PermissionsExt;
    let (_world, path) = served().await;
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}
