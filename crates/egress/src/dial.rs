//! From a name to a connection: one look-up on the host, every address before the guard, and only what the
//! guard let through is dialled.
//!
//! The threat is a name whose answers change or lead home (rebinding, CNAMEs to private addresses): between
//! check and use there is no second look-up, and what is remembered of a look-up, for no longer than its answer says
//! and a minute at most, is an address that the guard judges anew at every dial.

use crate::{Refusal, relay::BoxStream};
use cofferdam_base::{Host, HostName};
use cofferdam_policy::{CheckedAddress, Reason};
use futures_util::future::BoxFuture;
use hickory_resolver::{
    Resolver, TokioResolver,
    config::{
        ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
    },
};
use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
    num::NonZeroU16,
    time::Duration,
};
use tokio::time::timeout;

/// How long one look-up may take.
const LOOK_UP: Duration = Duration::from_secs(8);
/// How long one address may take to answer.
const CONNECT: Duration = Duration::from_secs(8);
/// How many addresses of a name are tried.
pub(crate) const TRIED: usize = 4;
/// `EAFNOSUPPORT`, for which there is no kind.
const NO_FAMILY: i32 = 97;

/// So many names are remembered, and no answer for longer than this, whatever it says.
const NAMES: u64 = 512;
const FRESH: Duration = Duration::from_mins(1);
/// The same of an answer that there is nothing, which may be mended at any moment.
const FRESH_NOTHING: Duration = Duration::from_secs(5);

/// Looks names up.
pub trait LookUp: Send + Sync + fmt::Debug {
    /// Every address of the name.
    fn look_up<'a>(&'a self, name: &'a HostName) -> BoxFuture<'a, io::Result<Vec<IpAddr>>>;
}

/// Connects to a checked address.
pub trait Connect: Send + Sync + fmt::Debug {
    /// A connection to this address and port.
    fn connect(&self, address: CheckedAddress, port: NonZeroU16) -> BoxFuture<'_, io::Result<BoxStream>>;
}

/// Dials destinations.
#[derive(Debug)]
pub struct Dialler {
    /// Looks names up.
    pub names: Box<dyn LookUp>,
    /// Connects.
    pub connect: Box<dyn Connect>,
}

/// What a connection leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reached {
    /// An address that the guard let through.
    At(CheckedAddress),
    /// Whatever the operator's proxy takes the name for: nobody here knows the address.
    ByProxy,
}

impl Dialler {
    /// Connects to a host: one look-up, `check` over every address, then those that it let through one after
    /// another.
    pub async fn dial(
        &self,
        host: &Host,
        port: NonZeroU16,
        check: impl Fn(IpAddr) -> Result<CheckedAddress, Refusal> + Send,
    ) -> Result<(CheckedAddress, BoxStream), Refusal> {
        let mut refusal = nowhere();
        for address in self.resolve(host, check).await?.into_iter().take(TRIED) {
            match self.connect(address, port).await {
                Ok(stream) => return Ok((address, stream)),
                Err(no) => refusal = no,
            }
        }
        Err(refusal)
    }

    /// The addresses of a host that `check` lets through: at least one.
    pub(crate) async fn resolve(
        &self,
        host: &Host,
        check: impl Fn(IpAddr) -> Result<CheckedAddress, Refusal> + Send,
    ) -> Result<Vec<CheckedAddress>, Refusal> {
        let addresses = match host {
            Host::Address(address) => vec![*address],
            Host::Name(name) => timeout(LOOK_UP, self.names.look_up(name))
                .await
                .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
                .map_err(|error| Refusal::new(Reason::ResolveFailed, "resolve").said(short(&error)))?,
        };
        let mut refusal = nowhere();
        let mut checked = Vec::new();
        for address in addresses {
            match check(address) {
                Ok(address) => checked.push(address),
                Err(no) => refusal = no,
            }
        }
        if checked.is_empty() { Err(refusal) } else { Ok(checked) }
    }

    /// A connection to a checked address.
    pub(crate) async fn connect(
        &self,
        address: CheckedAddress,
        port: NonZeroU16,
    ) -> Result<BoxStream, Refusal> {
        let no = |said: String| Refusal::new(Reason::ConnectFailed, "dial").said(said);
        match timeout(CONNECT, self.connect.connect(address, port)).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) if address.ip().is_ipv6() && has_no_way(&error) => {
                Err(no("its address is IPv6, and this host has no way to IPv6 addresses".to_owned()))
            }
            Ok(Err(error)) => Err(no(short(&error))),
            Err(_) => Err(no("it did not answer in time".to_owned())),
        }
    }
}

fn nowhere() -> Refusal {
    Refusal::new(Reason::ResolveFailed, "resolve").said("the name has no address")
}

/// Does the host lack what leads to such an address: a route, an address of its own, or the family?
fn has_no_way(error: &io::Error) -> bool {
    use io::ErrorKind::{AddrNotAvailable, NetworkUnreachable, Unsupported};
    matches!(error.kind(), NetworkUnreachable | AddrNotAvailable | Unsupported)
        || error.raw_os_error() == Some(NO_FAMILY)
}

/// The kind of an error, without addresses or paths of the host.
fn short(error: &io::Error) -> String {
    error.kind().to_string()
}

/// The host's resolver, pointed at the configured name servers and nothing else.
#[derive(Clone)]
pub struct NameServers(TokioResolver);

impl fmt::Debug for NameServers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NameServers")
    }
}

impl NameServers {
    /// A resolver that asks these servers. Reads no file of the system.
    pub fn new(servers: &[SocketAddr]) -> io::Result<Self> {
        let servers = servers
            .iter()
            .map(|server| {
                let (mut udp, mut tcp) = (ConnectionConfig::udp(), ConnectionConfig::tcp());
                udp.port = server.port();
                tcp.port = server.port();
                NameServerConfig::new(server.ip(), true, vec![udp, tcp])
            })
            .collect();
        let config = ResolverConfig::from_parts(None, Vec::new(), servers);
        let mut builder = Resolver::builder_with_config(
            config,
            hickory_resolver::net::runtime::TokioRuntimeProvider::default(),
        );
        let options: &mut ResolverOpts = builder.options_mut();
        options.use_hosts_file = ResolveHosts::Never;
        options.cache_size = NAMES;
        options.positive_max_ttl = Some(FRESH);
        options.negative_max_ttl = Some(FRESH_NOTHING);
        options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
        options.timeout = Duration::from_secs(2);
        options.attempts = 2;
        builder.build().map(Self).map_err(io::Error::other)
    }
}

impl LookUp for NameServers {
    fn look_up<'a>(&'a self, name: &'a HostName) -> BoxFuture<'a, io::Result<Vec<IpAddr>>> {
        Box::pin(async move {
            // The dot says that the name is whole: no search list ever applies.
            let found = self.0.lookup_ip(format!("{name}.")).await.map_err(io::Error::other)?;
            Ok(found.iter().collect())
        })
    }
}

/// Connects over TCP.
#[derive(Debug)]
pub struct Tcp;

impl crate::proxy::Reach for Tcp {
    fn reach(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<BoxStream>> {
        Box::pin(async move {
            let stream = tokio::net::TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            Ok(Box::new(stream) as BoxStream)
        })
    }
}

impl Connect for Tcp {
    fn connect(&self, address: CheckedAddress, port: NonZeroU16) -> BoxFuture<'_, io::Result<BoxStream>> {
        Box::pin(async move {
            let stream = tokio::net::TcpStream::connect(address.socket(port)).await?;
            stream.set_nodelay(true)?;
            Ok(Box::new(stream) as BoxStream)
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use hickory_proto::{
        op::{Message, OpCode},
        rr::{
            RData, Record, RecordType,
            rdata::{A, SOA},
        },
    };
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };
    use tokio::net::UdpSocket;

    /// A name server that has one address for every name, good for a minute if the name says so and else not at all;
    /// and how often it was asked.
    async fn server() -> (SocketAddr, Arc<AtomicUsize>) {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let (address, asked) = (socket.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
        let count = Arc::clone(&asked);
        tokio::spawn(async move {
            let mut buffer = [0; 1500];
            while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
                count.fetch_add(1, Ordering::Relaxed);
                let question = Message::from_vec(&buffer[..length]).unwrap();
                let query = question.queries[0].clone();
                let mut answer = Message::response(question.metadata.id, OpCode::Query);
                answer.add_query(query.clone());
                let ttl = if query.name().to_ascii().starts_with("minute.") { 60 } else { 0 };
                let owner = query.name().clone();
                if query.query_type() == RecordType::A {
                    let data = RData::A(A([93, 184, 216, 34].into()));
                    answer.add_answer(Record::from_rdata(owner, ttl, data));
                } else {
                    let soa = SOA::new(owner.clone(), owner.clone(), 1, 1, 1, 1, ttl);
                    answer.add_authority(Record::from_rdata(owner, ttl, RData::SOA(soa)));
                }
                socket.send_to(&answer.to_vec().unwrap(), from).await.unwrap();
            }
        });
        (address, asked)
    }

    #[derive(Debug)]
    struct Nowhere;

    impl Connect for Nowhere {
        fn connect(&self, _: CheckedAddress, _: NonZeroU16) -> BoxFuture<'_, io::Result<BoxStream>> {
            Box::pin(async { Ok(Box::new(tokio::io::duplex(1).0) as BoxStream) })
        }
    }

    #[tokio::test]
    async fn an_answer_is_asked_for_once_while_it_is_good_and_its_address_judged_at_every_dial() {
        let (address, asked) = server().await;
        let names = Box::new(NameServers::new(&[address]).unwrap());
        let dialler = Dialler { names, connect: Box::new(Nowhere) };
        let guard = cofferdam_policy::Guard::default();
        for (name, first, later) in [("minute.example", true, false), ("never.example", true, true)] {
            let host = Host::Name(name.parse().unwrap());
            for again in [first, later] {
                let (before, judged) = (asked.load(Ordering::Relaxed), AtomicUsize::new(0));
                let check = |address: IpAddr| {
                    judged.fetch_add(1, Ordering::Relaxed);
                    guard.check(address).map_err(|no| Refusal::new(no.code, "guard"))
                };
                dialler.dial(&host, NonZeroU16::MIN, check).await.unwrap();
                assert_eq!(asked.load(Ordering::Relaxed) > before, again, "{name}");
                assert_eq!(judged.into_inner(), 1, "{name}");
            }
            // What the guard refuses now is refused, though its look-up is remembered.
            let no = |_| Err(Refusal::new(Reason::ConnectFailed, "guard"));
            assert!(dialler.dial(&host, NonZeroU16::MIN, no).await.is_err(), "{name}");
        }
    }
}
