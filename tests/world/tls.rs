//! A web server over TLS that speaks HTTP/1.1 and HTTP/2, under an authority of its own.

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    Request, Response, StatusCode,
    body::{Frame, Incoming},
    header,
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::{
    collections::HashMap,
    convert::Infallible,
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};
use tokio::{runtime::Runtime, sync::Notify};
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{handshake::derive_accept_key, protocol::Role},
};

/// An authority whose certificate nobody has unless he is given it.
pub struct Authority(Issuer<'static, KeyPair>, String);

/// What arrived: version, method, host and path.
pub type Seen = (String, String, String, String);

/// The server. Dropping it closes everything.
pub struct Server {
    shared: Arc<Shared>,
    _runtime: Runtime,
}

#[derive(Default)]
struct Shared {
    seen: Mutex<Vec<Seen>>,
    keys: Mutex<Vec<String>>,
    /// Answers the requests below a path with the files of a directory.
    files: Mutex<HashMap<String, PathBuf>>,
    /// Answers the requests below a path with `git http-backend` over a directory.
    git: Mutex<HashMap<String, PathBuf>>,
    /// Answers requests for a path, and what was asked of them.
    pages: Mutex<HashMap<String, Page>>,
    asked: Mutex<Vec<Asked>>,
    go: Notify,
    /// Streams of events and WebSockets that are under way.
    open: AtomicUsize,
}

/// One of them, as long as it lasts.
struct Open(Arc<Shared>);

impl Open {
    fn new(shared: &Arc<Shared>) -> Self {
        shared.open.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(shared))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}

type Page = Box<dyn Fn(&Asked) -> (u16, String) + Send + Sync>;

/// A request for a page of a test: its method, its target, its headers and its body.
#[derive(Clone, Debug)]
pub struct Asked {
    pub method: String,
    pub target: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Asked {
    /// The first header of this name (lower case).
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

type Body = UnsyncBoxBody<Bytes, Infallible>;

impl Authority {
    /// A new one.
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "the world's test authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let der = params.self_signed(&key).unwrap().der().to_vec();
        Self(Issuer::new(params, key), pem(&der))
    }

    /// Its certificate.
    pub fn pem(&self) -> &str {
        &self.1
    }

    /// A certificate for these names, and its key.
    pub fn leaf(&self, names: &[&str]) -> (rcgen::Certificate, KeyPair) {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let key = KeyPair::generate().unwrap();
        (CertificateParams::new(names).unwrap().signed_by(&key, &self.0).unwrap(), key)
    }

    /// The same as PEM.
    pub fn leaf_pem(&self, names: &[&str]) -> (String, String) {
        use base64::{Engine, engine::general_purpose::STANDARD};
        let (leaf, key) = self.leaf(names);
        let key = STANDARD.encode(key.serialize_der());
        (pem(leaf.der()), format!("-----BEGIN PRIVATE KEY-----\n{key}\n-----END PRIVATE KEY-----\n"))
    }
}

fn pem(der: &[u8]) -> String {
    use base64::{Engine, engine::general_purpose::STANDARD};
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", STANDARD.encode(der))
}

impl Server {
    /// Listens at this address of this thread's namespace, for these names.
    pub fn start(address: SocketAddr, authority: &Authority, names: &[&str]) -> Self {
        let (leaf, key) = authority.leaf(names);
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![CertificateDer::from(leaf.der().to_vec())],
                PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
            )
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind(address).unwrap();
        listener.set_nonblocking(true).unwrap();
        let shared = Arc::new(Shared::default());
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let for_task = Arc::clone(&shared);
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, shared) = (acceptor.clone(), Arc::clone(&for_task));
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let two = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                    let service = service_fn(move |request| {
                        let shared = Arc::clone(&shared);
                        async move { Ok::<_, Infallible>(answer(shared, request).await) }
                    });
                    let stream = TokioIo::new(stream);
                    if two {
                        let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                            .serve_connection(stream, service)
                            .await;
                    } else {
                        let _ = hyper::server::conn::http1::Builder::new()
                            .serve_connection(stream, service)
                            .with_upgrades()
                            .await;
                    }
                });
            }
        });
        Self { shared, _runtime: runtime }
    }

    /// What arrived so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.shared.seen.lock().unwrap().clone()
    }

    /// Each `X-Api-Key` that arrived.
    pub fn keys(&self) -> Vec<String> {
        self.shared.keys.lock().unwrap().clone()
    }

    /// How many streams of events and WebSockets are under way, as the server sees it.
    pub fn open(&self) -> usize {
        self.shared.open.load(Ordering::SeqCst)
    }

    /// Below this path git's own server serves the repositories of a directory.
    pub fn git(&self, path: &str, directory: PathBuf) {
        self.shared.git.lock().unwrap().insert(path.to_owned(), directory);
    }

    /// Answers requests for this path, or below it if it ends in a slash.
    pub fn page(&self, path: &str, page: impl Fn(&Asked) -> (u16, String) + Send + Sync + 'static) {
        self.shared.pages.lock().unwrap().insert(path.to_owned(), Box::new(page));
    }

    /// What was asked of pages so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.shared.asked.lock().unwrap().clone()
    }

    /// Below this path are the files of a directory.
    pub fn files(&self, path: &str, directory: PathBuf) {
        self.shared.files.lock().unwrap().insert(path.to_owned(), directory);
    }
}

/// `/v1/echo` gives back the `X-Api-Key`; `/open/events` sends one event, and the next one once `/open/go` was asked for; `/ws` echoes; below a path of
/// files are these; anything else tells what it was asked.
async fn answer(shared: Arc<Shared>, request: Request<Incoming>) -> Response<Body> {
    let host = request.headers().get(header::HOST).map(|host| host.to_str().unwrap().to_owned());
    let host = request.uri().authority().map_or(host.unwrap_or_default(), ToString::to_string);
    let (version, path) = (format!("{:?}", request.version()), request.uri().path().to_owned());
    shared.seen.lock().unwrap().push((version, request.method().to_string(), host, path.clone()));
    let key = request.headers().get("x-api-key").map(|key| key.to_str().unwrap().to_owned());
    shared.keys.lock().unwrap().extend(key.clone());
    let has_page =
        |known: &String| *known == path || known.ends_with('/') && path.starts_with(known.as_str());
    if shared.pages.lock().unwrap().keys().any(has_page) {
        return page(&shared, request, has_page).await;
    }
    match path.as_str() {
        "/v1/echo" => return Response::new(Full::from(key.unwrap_or_default()).boxed_unsync()),
        "/open/go" => shared.go.notify_one(),
        "/open/events" => {
            let events = futures_util::stream::unfold((0, Open::new(&shared)), |(at, open)| async move {
                if at > 0 {
                    open.0.go.notified().await;
                }
                let event = Frame::data(Bytes::from(format!("data: {at}\n\n")));
                Some((Ok::<_, Infallible>(event), (at + 1, open)))
            });
            return Response::builder()
                .header(header::CONTENT_TYPE, "text/event-stream")
                .body(StreamBody::new(events).boxed_unsync())
                .unwrap();
        }
        "/ws" => return websocket(request, Open::new(&shared)),
        _ => {}
    }
    let git = {
        let git = shared.git.lock().unwrap();
        git.iter().find_map(|(below, dir)| Some((dir.clone(), format!("/{}", path.strip_prefix(below)?))))
    };
    if let Some((directory, path)) = git {
        return super::git::answer(directory, path, request).await;
    }
    let file = {
        let files = shared.files.lock().unwrap();
        let under = files.iter().find_map(|(below, dir)| Some(dir.join(path.strip_prefix(below)?)));
        under.map(std::fs::read)
    };
    match file {
        Some(Ok(bytes)) => Response::new(Full::new(bytes.into()).boxed_unsync()),
        Some(Err(_)) => {
            let mut response = Response::new(Full::default().boxed_unsync());
            *response.status_mut() = StatusCode::NOT_FOUND;
            response
        }
        None => {
            let method = request.method().clone();
            let body = request.into_body().collect().await.map_or(0, |body| body.to_bytes().len());
            let text = format!("the world answered {method} {path} of {body} bytes");
            Response::new(Full::new(text.into()).boxed_unsync())
        }
    }
}

async fn page(
    shared: &Shared,
    request: Request<Incoming>,
    is_it: impl Fn(&String) -> bool,
) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let mut headers: Vec<(String, String)> = parts
        .headers
        .iter()
        .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
        .collect();
    if let Some(host) = parts.uri.authority() {
        headers.push(("host".to_owned(), host.to_string()));
    }
    let target = parts.uri.path_and_query().unwrap().to_string();
    let body = body.collect().await.map(|body| body.to_bytes().to_vec()).unwrap_or_default();
    let asked = Asked { method: parts.method.to_string(), target, headers, body };
    shared.asked.lock().unwrap().push(asked.clone());
    let (status, text) = {
        let pages = shared.pages.lock().unwrap();
        // The one that says most.
        pages.iter().filter(|(known, _)| is_it(known)).max_by_key(|(known, _)| known.len()).unwrap().1(&asked)
    };
    let mut response = Response::new(Full::new(text.into()).boxed_unsync());
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    response
}

fn websocket(mut request: Request<Incoming>, open: Open) -> Response<Body> {
    let Some(key) = request.headers().get(header::SEC_WEBSOCKET_KEY) else {
        return Response::new(Full::from("no WebSocket").boxed_unsync());
    };
    let accept = derive_accept_key(key.as_bytes());
    tokio::spawn(async move {
        let _open = open;
        let Ok(upgraded) = hyper::upgrade::on(&mut request).await else { return };
        let mut socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await;
        while let Some(Ok(message)) = socket.next().await {
            if !(message.is_text() || message.is_binary()) || socket.send(message).await.is_err() {
                break;
            }
        }
    });
    Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, "websocket")
        .header(header::SEC_WEBSOCKET_ACCEPT, accept)
        .body(Full::default().boxed_unsync())
        .unwrap()
}
