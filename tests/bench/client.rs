//! A client that costs little: blocking sockets, one write and as few reads as possible for a request.

use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, pki_types::ServerName};
use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::Arc,
    time::{Duration, Instant},
};

/// How a client comes to its server.
#[derive(Clone, Debug)]
pub struct Way {
    /// Where its TCP connection goes.
    pub to: SocketAddr,
    /// The authority of a CONNECT before anything else.
    pub connect: Option<String>,
    /// TLS: the name, and whom to believe.
    pub tls: Option<(String, Arc<ClientConfig>)>,
    /// Each request, whole.
    pub request: Arc<[u8]>,
}

/// One open connection.
pub struct Open {
    stream: Box<dyn Both>,
    request: Arc<[u8]>,
    buffer: Vec<u8>,
}

trait Both: Read + Write {}
impl<T: Read + Write> Both for T {}

/// TLS as every client here speaks it: HTTP/1.1, no session taken up again.
pub fn trusting(roots: &[u8]) -> Arc<ClientConfig> {
    use rustls::pki_types::{CertificateDer, pem::PemObject};
    let mut store = RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(roots) {
        // A bundle may hold what nobody believes any more.
        let _ = store.add(root.unwrap());
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(store)
        .with_no_client_auth();
    config.resumption = rustls::client::Resumption::disabled();
    Arc::new(config)
}

impl Way {
    /// Opens a connection, up to the point at which a request can be sent.
    pub fn open(&self) -> Open {
        let mut stream = TcpStream::connect(self.to).unwrap_or_else(|error| panic!("{self:?}: {error}"));
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let mut buffer = vec![0; 256 * 1024];
        if let Some(authority) = &self.connect {
            stream
                .write_all(format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n").as_bytes())
                .unwrap();
            let mut filled = 0;
            while !buffer[..filled].ends_with(b"\r\n\r\n") {
                let read = stream.read(&mut buffer[filled..]).unwrap();
                assert!(read > 0, "no tunnel: {}", String::from_utf8_lossy(&buffer[..filled]));
                filled += read;
            }
            let said = String::from_utf8_lossy(&buffer[..filled]);
            assert!(said.split(' ').nth(1) == Some("200"), "no tunnel to {authority}: {said}");
        }
        let stream: Box<dyn Both> = match &self.tls {
            None => Box::new(stream),
            Some((name, config)) => {
                let name = ServerName::try_from(name.clone()).unwrap();
                let session = ClientConnection::new(Arc::clone(config), name).unwrap();
                Box::new(StreamOwned::new(session, stream))
            }
        };
        Open { stream, request: Arc::clone(&self.request), buffer }
    }

    /// A connection, a request, its answer, the end; microseconds.
    pub fn fresh(&self) -> f64 {
        let begun = Instant::now();
        let mut open = self.open();
        open.exchange();
        let taken = begun.elapsed();
        drop(open);
        taken.as_secs_f64() * 1e6
    }
}

impl Open {
    /// The same for a way that may be full: was it answered with 200? A connection that is closed is a failure.
    pub fn tries(&mut self) -> bool {
        self.once().1
    }

    /// One request and its whole answer, which is a 200; microseconds.
    pub fn exchange(&mut self) -> f64 {
        let (taken, good) = self.once();
        assert!(good, "{}", String::from_utf8_lossy(&self.buffer[..400]));
        taken
    }

    fn once(&mut self) -> (f64, bool) {
        let begun = Instant::now();
        self.stream.write_all(&self.request).unwrap();
        self.stream.flush().unwrap();
        let mut filled = 0;
        let whole = loop {
            let read = self.stream.read(&mut self.buffer[filled..]).unwrap();
            assert!(read > 0, "closed: {}", String::from_utf8_lossy(&self.buffer[..filled]));
            filled += read;
            if let Some(whole) = length(&self.buffer[..filled]) {
                break whole;
            }
        };
        let good = self.buffer.starts_with(b"HTTP/1.1 200");
        // What is more than the buffer is read over and over the same place: it is counted, not kept.
        while filled < whole {
            let read = self.stream.read(&mut self.buffer).unwrap();
            assert!(read > 0, "closed in the middle of an answer");
            filled += read;
        }
        assert_eq!(filled, whole);
        (begun.elapsed().as_secs_f64() * 1e6, good)
    }
}

/// Head and body length together, once the head is complete. A chunked answer is complete at its last chunk.
pub fn length(bytes: &[u8]) -> Option<usize> {
    let end = memchr::memmem::find(bytes, b"\r\n\r\n")?;
    let head = std::str::from_utf8(&bytes[..end]).unwrap();
    let field = |name: &str| {
        let mut fields = head.lines().filter_map(|line| line.split_once(':'));
        fields.find(|(it, _)| it.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    };
    if field("transfer-encoding") == Some("chunked") {
        return bytes.ends_with(b"\r\n0\r\n\r\n").then_some(bytes.len());
    }
    Some(end + 4 + field("content-length").map_or(0, |length| length.parse().unwrap()))
}
