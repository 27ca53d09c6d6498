//! Proxies that decide nothing and write nothing down: what one of a single thread costs on this machine, and so what a
//! row's ratio can be at best. The gates of rows 8 and 10 were set beside the like of them.

use super::{client::trusting, upstream};
use hyper::{
    Request, body::Incoming, client::conn::http1 as client, server::conn::http1 as server,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use std::{fs, net::SocketAddr, path::Path, sync::Arc};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Mutex,
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// Where one listens.
pub const RELAY: u16 = 3133;
pub const INTERCEPTOR: u16 = 3134;

/// A tunnel, to the end of the process.
pub fn relay() {
    serve(RELAY, |mut client| async move {
        let mut world = tunnel(&mut client).await?;
        // A client that resets its connection ends it, too.
        let _ = tokio::io::copy_bidirectional(&mut client, &mut world).await;
        Some(())
    });
}

/// What ends TLS on both sides, with one certificate made ahead, and parses requests and answers; to the end of the
/// process. `dir` has what [`prepared`] wrote.
pub fn interceptor(dir: &Path) {
    let read = |name: &str| fs::read(dir.join(name)).unwrap();
    let name = String::from_utf8(read("name")).unwrap();
    let acceptor = TlsAcceptor::from(upstream::serving(read("leaf"), read("key")));
    let connector = TlsConnector::from(trusting(&read("roots")));
    serve(INTERCEPTOR, move |mut client| {
        let (acceptor, connector, name) = (acceptor.clone(), connector.clone(), name.clone());
        async move {
            let world = tunnel(&mut client).await?;
            let client = acceptor.accept(client).await.ok()?;
            let world = connector.connect(name.try_into().unwrap(), world).await.ok()?;
            let (sender, connection) = client::handshake(TokioIo::new(world)).await.ok()?;
            tokio::spawn(connection);
            let sender = Arc::new(Mutex::new(sender));
            let service = service_fn(move |request: Request<Incoming>| {
                let sender = Arc::clone(&sender);
                async move { sender.lock().await.send_request(request).await }
            });
            server::Builder::new().serve_connection(TokioIo::new(client), service).await.ok()
        }
    });
}

/// Writes what an interceptor needs to stand for a name.
pub fn prepared(dir: &Path, name: &str, leaf: &rcgen::Certificate, key: &rcgen::KeyPair, roots: &[u8]) {
    fs::create_dir(dir).unwrap();
    let write = |file: &str, bytes: &[u8]| fs::write(dir.join(file), bytes).unwrap();
    write("name", name.as_bytes());
    write("leaf", leaf.der());
    write("key", key.serialized_der());
    write("roots", roots);
}

fn serve<F: Future<Output = Option<()>> + Send + 'static>(port: u16, answer: impl Fn(TcpStream) -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async move {
        let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(stream));
        }
    });
}

/// Takes a CONNECT to an address.
async fn tunnel(client: &mut TcpStream) -> Option<TcpStream> {
    let (mut buffer, mut filled) = ([0; 1024], 0);
    while !buffer[..filled].ends_with(b"\r\n\r\n") {
        let read = client.read(&mut buffer[filled..]).await.ok().filter(|read| *read > 0)?;
        filled += read;
    }
    let head = std::str::from_utf8(&buffer[..filled]).ok()?;
    let authority: SocketAddr = head.split(' ').nth(1)?.parse().ok()?;
    let world = TcpStream::connect(authority).await.ok()?;
    client.set_nodelay(true).ok()?;
    world.set_nodelay(true).ok()?;
    client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.ok()?;
    Some(world)
}
