//! What answers in the world: as cheap as a server can be, so that what a proxy adds to a request is seen.
//!
//! `GET /bulk` gives 64 MiB, anything else one kibibyte of JSON that is a chat completion, too; or, for a gateway's
//! turn, a short completion as events. One thread, no parsing beyond the length of a request.

use super::{BULK, PAGE};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::{
    io,
    net::{SocketAddr, TcpListener},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_rustls::TlsAcceptor;

/// The server; it ends with the process.
pub struct Upstream;

impl Upstream {
    /// Plain, at this address of this thread's namespace.
    pub fn plain(address: SocketAddr) {
        Self::start(address, None, page(), Arc::default());
    }

    /// Plain, and every answer is one word as events; gives the length of the last request's body.
    pub fn events(address: SocketAddr) -> Arc<AtomicUsize> {
        let body = Arc::default();
        Self::start(address, None, word(), Arc::clone(&body));
        body
    }

    /// Over TLS with this certificate and key.
    pub fn tls(address: SocketAddr, leaf: &rcgen::Certificate, key: &rcgen::KeyPair) {
        Self::start(
            address,
            Some(TlsAcceptor::from(serving(leaf.der().to_vec(), key.serialize_der()))),
            page(),
            Arc::default(),
        );
    }

    fn start(address: SocketAddr, acceptor: Option<TlsAcceptor>, page: Vec<u8>, body: Arc<AtomicUsize>) {
        let page: Arc<[u8]> = page.into();
        let listener = TcpListener::bind(address).unwrap();
        listener.set_nonblocking(true).unwrap();
        let serve = move || {
            super::keep_on(1);
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                while let Ok((stream, _)) = listener.accept().await {
                    let (acceptor, page, body) = (acceptor.clone(), Arc::clone(&page), Arc::clone(&body));
                    stream.set_nodelay(true).unwrap();
                    tokio::spawn(async move {
                        match acceptor {
                            None => answer(stream, &page, &body).await,
                            Some(acceptor) => answer(acceptor.accept(stream).await?, &page, &body).await,
                        }
                    });
                }
            });
        };
        std::thread::Builder::new().name("upstream".into()).spawn(serve).unwrap();
    }
}

/// TLS with this certificate and key, DER.
pub fn serving(leaf: Vec<u8>, key: Vec<u8>) -> Arc<rustls::ServerConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![CertificateDer::from(leaf)], PrivateKeyDer::try_from(key).unwrap())
        .unwrap();
    Arc::new(config)
}

async fn answer<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    page: &[u8],
    body: &AtomicUsize,
) -> io::Result<()> {
    let (mut buffer, mut filled) = (vec![0; 64 * 1024], 0);
    loop {
        if filled == buffer.len() {
            buffer.resize(2 * filled, 0);
        }
        let read = stream.read(&mut buffer[filled..]).await?;
        if read == 0 {
            return Ok(());
        }
        filled += read;
        let Some(whole) = super::client::length(&buffer[..filled]) else { continue };
        if filled < whole {
            continue;
        }
        let head = memchr::memmem::find(&buffer, b"\r\n\r\n").map_or(whole, |at| at + 4);
        body.store(whole - head, Ordering::Relaxed);
        if buffer.starts_with(b"GET /bulk") {
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {BULK}\r\n\r\n");
            stream.write_all(head.as_bytes()).await?;
            let piece = vec![b'.'; 1 << 20];
            for _ in 0..BULK / piece.len() {
                stream.write_all(&piece).await?;
            }
        } else {
            stream.write_all(page).await?;
        }
        stream.flush().await?;
        buffer.copy_within(whole..filled, 0);
        filled -= whole;
    }
}

/// The answer to everything: a chat completion of a kibibyte.
fn page() -> Vec<u8> {
    let body = |text: &str| {
        serde_json::json!({"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "mock-1",
            "choices": [{"index": 0, "message": {"role": "assistant", "content": text},
                         "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}})
        .to_string()
    };
    let text = "x".repeat(PAGE - body("").len());
    let head = format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {PAGE}\r\n\r\n");
    [head, body(&text)].concat().into_bytes()
}

/// A completion of one word, as a streaming provider sends it, in one write.
fn word() -> Vec<u8> {
    let event = |choices: serde_json::Value, usage: serde_json::Value| {
        let event = serde_json::json!({"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1,
            "model": "mock-1", "choices": choices, "usage": usage});
        format!("data: {event}\n\n")
    };
    let choice = |delta: serde_json::Value, reason: Option<&str>| serde_json::json!([{"index": 0, "delta": delta, "finish_reason": reason}]);
    let word = choice(serde_json::json!({"role": "assistant", "content": "hello"}), None);
    let usage = serde_json::json!({"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18});
    let text = [
        event(word, serde_json::Value::Null),
        event(choice(serde_json::json!({}), Some("stop")), serde_json::Value::Null),
        event(serde_json::json!([]), usage),
        "data: [DONE]\n\n".to_owned(),
    ]
    .concat();
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
    format!("{head}{:x}\r\n{text}\r\n0\r\n\r\n", text.len()).into_bytes()
}
