//! The operator's proxy: what a host dials that has no way out of its own.
//!
//! It owns one CONNECT, whatever is spoken inside, and what is exempt from it. It refuses to weaken the guard: a name
//! is resolved here, its addresses are checked here, and the proxy is told an address. Where only the proxy can
//! resolve names the operator says so, and then what is behind a name is checked by nobody here: not by the guard,
//! not by rules about addresses, not against rebinding. The threat: a proxy that answers what it likes; its head is
//! read by the one HTTP parser there is, up to a cap and a time.

use crate::{
    BoxStream, Egress, Pass, Refusal, Rules,
    check::{Check, keeps},
    dial::{Dialler, Reached, TRIED},
    sniff::Rewound,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use cofferdam_base::{Destination, Host, HostName, Secret, ipc::proxy::UpstreamProxy};
use cofferdam_policy::{CheckedAddress, Reason, guard::Cidr};
use futures_util::future::BoxFuture;
use http::{HeaderValue, Request, StatusCode, header};
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
    num::NonZeroU16,
    sync::{Arc, PoisonError},
    time::Duration,
};
use tokio::time::timeout;

/// How long a proxy may take to be reached, and how long to open the way.
const REACHING: Duration = Duration::from_secs(8);
const OPENING: Duration = Duration::from_secs(15);
/// The longest head of its answer.
const LONGEST_HEAD: usize = 16 * 1024;

/// Connects to the proxy itself, whose address is the operator's word and no destination of a cell.
pub trait Reach: Send + Sync + fmt::Debug {
    /// A connection to this address.
    fn reach(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<BoxStream>>;
}

/// Where the proxy is and what it is for.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    exempt: Vec<Exempt>,
    resolves_names: bool,
    reach: Box<dyn Reach>,
}

/// What it wants to hear: `USER:PASSWORD`.
#[derive(Clone)]
pub struct Credentials(Arc<Secret<Vec<u8>>>);

impl Credentials {
    /// These.
    #[must_use]
    pub fn new(value: Secret<Vec<u8>>) -> Self {
        Self(Arc::new(value))
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials")
    }
}

#[derive(Debug)]
enum Exempt {
    /// This name and all beneath it.
    Name(HostName),
    Block(Cidr),
}

/// The proxy in force, and what it is told.
#[derive(Clone, Debug, Default)]
pub(crate) struct Proxied {
    proxy: Option<Arc<Proxy>>,
    credentials: Option<Credentials>,
}

impl Egress {
    /// Sets the proxy through which new connections go, or that they go through none.
    pub fn set_proxy(&self, proxy: Option<Proxy>) {
        self.proxied.write().unwrap_or_else(PoisonError::into_inner).proxy = proxy.map(Arc::new);
    }

    /// Sets what that proxy is told.
    pub fn set_proxy_credentials(&self, credentials: Option<Credentials>) {
        self.proxied.write().unwrap_or_else(PoisonError::into_inner).credentials = credentials;
    }

    /// A connection to where a pass leads, through the proxy if there is one.
    pub(crate) async fn dialled(
        &self,
        dialler: &Dialler,
        pass: &Pass,
        rules: &Rules,
    ) -> Result<(Reached, BoxStream), Refusal> {
        let Proxied { proxy, credentials } =
            self.proxied.read().unwrap_or_else(PoisonError::into_inner).clone();
        let Destination { host, port, protocol: _ } = pass.destination();
        let check = |address| pass.check(rules, address);
        if let Some(proxy) = proxy {
            return proxy.dial(dialler, credentials.as_ref(), (host, *port), check).await;
        }
        let (address, stream) = dialler.dial(host, *port, check).await?;
        Ok((Reached::At(address), stream))
    }
}

impl Proxy {
    /// As it is configured; an error names what cannot be read.
    pub fn new(configured: &UpstreamProxy, reach: Box<dyn Reach>) -> Result<Self, String> {
        let UpstreamProxy { address, no_proxy, resolves_names } = configured;
        let exempt = no_proxy.iter().map(|text| Exempt::read(text)).collect::<Result<_, _>>()?;
        Ok(Self { address: *address, exempt, resolves_names: *resolves_names, reach })
    }

    /// Connects to a host as [`Dialler::dial`] does, through the proxy where it is not exempt.
    pub(crate) async fn dial(
        &self,
        dialler: &Dialler,
        credentials: Option<&Credentials>,
        (host, port): (&Host, NonZeroU16),
        check: impl Fn(IpAddr) -> Result<CheckedAddress, Refusal> + Send,
    ) -> Result<(Reached, BoxStream), Refusal> {
        let direct = matches!(host, Host::Name(name) if self.exempts_name(name));
        if let Host::Name(name) = host
            && (self.resolves_names || !keeps(Check::ProxyIsTold))
            && !direct
        {
            let stream = self.open(&format!("{name}:{port}"), credentials).await?;
            return Ok((Reached::ByProxy, stream));
        }
        let checked = dialler.resolve(host, check).await?;
        let mut refusal = failed("nothing was asked of it");
        for address in checked.into_iter().take(TRIED) {
            let dialled = if direct || self.exempts_address(address.ip()) {
                dialler.connect(address, port).await
            } else {
                self.open(&address.socket(port).to_string(), credentials).await
            };
            match dialled {
                Ok(stream) => return Ok((Reached::At(address), stream)),
                Err(no) => refusal = no,
            }
        }
        Err(refusal)
    }

    fn exempts_name(&self, name: &HostName) -> bool {
        self.exempt.iter().any(|it| match it {
            Exempt::Name(known) => {
                let above = name.as_str().strip_suffix(known.as_str());
                above.is_some_and(|above| above.is_empty() || above.ends_with('.'))
            }
            Exempt::Block(_) => false,
        })
    }

    fn exempts_address(&self, address: IpAddr) -> bool {
        self.exempt.iter().any(|it| matches!(it, Exempt::Block(block) if block.contains(address)))
    }

    /// A way through the proxy to this `HOST:PORT`.
    async fn open(&self, to: &str, credentials: Option<&Credentials>) -> Result<BoxStream, Refusal> {
        let stream = match timeout(REACHING, self.reach.reach(self.address)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(failed(format!("it is not reached: {}", error.kind()))),
            Err(_) => return Err(failed("it is not reached in time")),
        };
        let opened = timeout(OPENING, self.ask(stream, to, credentials)).await;
        opened.unwrap_or_else(|_| Err(failed("it did not answer in time")))
    }

    async fn ask(
        &self,
        stream: BoxStream,
        to: &str,
        credentials: Option<&Credentials>,
    ) -> Result<BoxStream, Refusal> {
        let broke = |_| failed("it broke the connection, or answered no HTTP");
        let mut request = Request::connect(to).header(header::HOST, to);
        if let Some(credentials) = credentials {
            let basic = zeroize::Zeroizing::new(format!("Basic {}", STANDARD.encode(credentials.0.expose())));
            let mut value =
                HeaderValue::from_str(&basic).map_err(|_| failed("its credentials fit no header"))?;
            value.set_sensitive(true);
            request = request.header(header::PROXY_AUTHORIZATION, value);
        }
        let request = request
            .body(Empty::<bytes::Bytes>::new())
            .map_err(|_| failed("it can be asked for no such host"))?;
        let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
            .max_buf_size(LONGEST_HEAD)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(broke)?;
        // It ends when the way is open, or with `sender`.
        tokio::spawn(connection.with_upgrades());
        let answer = sender.send_request(request).await.map_err(broke)?;
        if !answer.status().is_success() {
            return Err(self.refused(answer.status(), credentials.is_some()));
        }
        let upgraded = hyper::upgrade::on(answer).await.map_err(broke)?;
        let parts =
            upgraded.downcast::<TokioIo<BoxStream>>().map_err(|_| failed("its connection is another"))?;
        let stream = parts.io.into_inner();
        if parts.read_buf.is_empty() {
            return Ok(stream);
        }
        Ok(Box::new(Rewound::new(parts.read_buf, stream)))
    }

    fn refused(&self, status: StatusCode, credentials: bool) -> Refusal {
        let number = status.as_u16();
        failed(match status {
            StatusCode::PROXY_AUTHENTICATION_REQUIRED if credentials => {
                format!("it does not take our credentials ({number}): cofferdam upstream-proxy set")
            }
            StatusCode::PROXY_AUTHENTICATION_REQUIRED => {
                format!("it wants credentials ({number}): cofferdam upstream-proxy set")
            }
            StatusCode::FORBIDDEN | StatusCode::METHOD_NOT_ALLOWED if !self.resolves_names => format!(
                "it refused ({number}); it was told an address, and one that judges by name \
                 needs upstream_proxy_resolves_names"
            ),
            _ => format!("it answered {number}"),
        })
    }
}

impl Exempt {
    fn read(text: &str) -> Result<Self, String> {
        if text.contains('/') {
            return text.parse().map(Self::Block).map_err(|error: cofferdam_policy::Error| error.to_string());
        }
        HostName::try_from(text).map(Self::Name).map_err(|error| error.to_string())
    }
}

fn failed(said: impl Into<String>) -> Refusal {
    Refusal::new(Reason::UpstreamProxyFailed, "upstream proxy").said(said)
}
