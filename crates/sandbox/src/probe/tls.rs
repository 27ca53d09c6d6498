//! Attempts within TLS, as a client makes them that trusts what its cell tells it to.

use super::{
    Outcome, Tls,
    sockets::{answered, bytes},
};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use std::{
    fs,
    io::{self, Read, Write},
    net::{Ipv4Addr, TcpStream, ToSocketAddrs},
    sync::Arc,
    time::Duration,
};

/// What every cell is told to trust.
const BUNDLE: &str = "/etc/cofferdam/trust/bundle.pem";
const PROXY: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 3128);
const PORT: u16 = 443;
/// Two handshakes take longer than a page, above all the first.
const PATIENCE: Duration = Duration::from_secs(2);
/// The longest answer of a proxy to CONNECT.
const LONGEST: usize = 1024;

pub(super) fn tls(attempt: &Tls) -> io::Result<Outcome> {
    let name = ServerName::try_from(attempt.name.clone()).map_err(io::Error::other)?;
    let config = Arc::new(config(attempt)?);
    let connection = ClientConnection::new(config, name).map_err(io::Error::other)?;
    let mut stream = StreamOwned::new(connection, stream(attempt)?);
    stream.write_all(&bytes(&attempt.say))?;
    answered(&mut stream, &attempt.expect)
}

fn config(attempt: &Tls) -> io::Result<ClientConfig> {
    let text = if attempt.authorities.is_empty() {
        fs::read(BUNDLE)?
    } else {
        attempt.authorities.clone().into_bytes()
    };
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(CertificateDer::pem_slice_iter(&text).flatten());
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![attempt.protocol.clone().into_bytes()];
    Ok(config)
}

/// By capture, or through the proxy.
fn stream(attempt: &Tls) -> io::Result<TcpStream> {
    let to = if attempt.tunnelled {
        PROXY.into()
    } else {
        let found = (attempt.name.as_str(), PORT).to_socket_addrs()?.next();
        found.ok_or_else(|| io::Error::other("the name means nothing"))?
    };
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    if attempt.tunnelled {
        let place = format!("{}:{PORT}", attempt.name);
        write!(stream, "CONNECT {place} HTTP/1.1\r\nHost: {place}\r\n\r\n")?;
        tunnel(&mut stream)?;
    }
    Ok(stream)
}

/// Reads the proxy's answer and no byte more: what follows is TLS.
fn tunnel(stream: &mut impl Read) -> io::Result<()> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && head.len() < LONGEST {
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    if head.starts_with(b"HTTP/1.1 200") {
        return Ok(());
    }
    let first = String::from_utf8_lossy(&head).lines().next().unwrap_or_default().to_owned();
    Err(io::Error::other(format!("the proxy says {first}")))
}
