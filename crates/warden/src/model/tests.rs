#![allow(clippy::unwrap_used)]

use super::*;
use crate::{desk::Office, run};
use cofferdam_base::{Millis, Provider, ipc::model::Alias};
use cofferdam_egress::{
    BoxStream, Limits as GateLimits, Peer, Rules,
    dial::{Connect as DialConnect, Dialler, LookUp},
};
use cofferdam_policy::{CheckedAddress, Guard, Policy};
use std::{net::IpAddr, num::NonZeroU16};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    sync::mpsc,
};

struct Noon;

impl Clock for Noon {
    fn now(&self) -> Millis {
        Millis(1000)
    }
}

/// Resolves every name to one address and gives each dialled connection to the test.
#[derive(Clone, Debug)]
struct World(IpAddr, mpsc::UnboundedSender<(CheckedAddress, DuplexStream)>);

impl LookUp for World {
    fn look_up<'a>(&'a self, _: &'a HostName) -> BoxFuture<'a, io::Result<Vec<IpAddr>>> {
        Box::pin(async { Ok(vec![self.0]) })
    }
}

#[derive(Debug)]
struct Nowhere;

impl LookUp for Nowhere {
    fn look_up<'a>(&'a self, _: &'a HostName) -> BoxFuture<'a, io::Result<Vec<IpAddr>>> {
        Box::pin(async { Ok(Vec::new()) })
    }
}

impl DialConnect for World {
    fn connect(&self, address: CheckedAddress, _: NonZeroU16) -> BoxFuture<'_, io::Result<BoxStream>> {
        let (ours, theirs) = duplex(64 * 1024);
        self.1.send((address, theirs)).unwrap();
        Box::pin(async { Ok(Box::new(ours) as BoxStream) })
    }
}

struct Host {
    office: Office,
    dialled: mpsc::UnboundedReceiver<(CheckedAddress, DuplexStream)>,
}

const LIMITS: GateLimits =
    GateLimits { relays: 256, holds: 4, hold: Duration::from_secs(30), names_per_second: 20 };

/// A warden whose provider resolves to this address.
fn host(url: &str, address: &str) -> Host {
    let office =
        run::office("acme".parse().unwrap(), Arc::new(Noon), rustls::RootCertStore::empty()).unwrap();
    let (sender, dialled) = mpsc::unbounded_channel();
    let world = World(address.parse().unwrap(), sender);
    office.egress.set_dialler(Dialler { names: Box::new(world.clone()), connect: Box::new(world) });
    let host = Host { office, dialled };
    host.configure(&[], LIMITS);
    host.office.egress.gate.ready();
    host.route(vec![route("main", url)]);
    host
}

fn route(alias: &str, url: &str) -> ModelRoute {
    ModelRoute::new(alias.parse().unwrap(), Upstream::Url(url.into()), "real")
}

impl Host {
    /// These routes, the first of them the default.
    fn route(&self, routes: Vec<ModelRoute>) {
        let default = routes.first().map(|route| route.route.clone());
        self.office.model.set_routes(ModelRoutes { default, routes }, Vec::new(), Vec::new());
    }

    fn configure(&self, opened: &[&str], limits: GateLimits) {
        let operator_private = opened.iter().map(|network| network.parse().unwrap()).collect();
        let guard = Guard { operator_private, host_addresses: Vec::new() };
        // Whom the operator made the provider is not the policy's to allow or deny.
        let policy = "version: 1\ndefault: deny\nrules:\n  - deny: 93.184.216.34\n  - deny: api.example\n";
        let rules = Rules { policy: Policy::parse(policy).unwrap(), guard };
        self.office.egress.gate.configure(Arc::new(rules), limits);
    }

    /// Puts this policy in force.
    fn policy(&self, text: &str) {
        let guard = Guard { operator_private: Vec::new(), host_addresses: Vec::new() };
        let rules = Rules { policy: Policy::parse(text).unwrap(), guard };
        self.office.egress.gate.configure(Arc::new(rules), LIMITS);
    }

    /// From now on no name resolves.
    fn resolves_nothing(&mut self) {
        let (sender, _) = mpsc::unbounded_channel();
        let world = World("93.184.216.34".parse().unwrap(), sender);
        self.office.egress.set_dialler(Dialler { names: Box::new(Nowhere), connect: Box::new(world) });
    }

    fn client(&self) -> DuplexStream {
        let (client, server) = duplex(64 * 1024);
        let egress = Arc::clone(&self.office.egress);
        tokio::spawn(async move {
            let _ = egress.serve(server, Peer::Proxy).await;
        });
        client
    }

    /// Asks the model; the answer is still to be read.
    async fn ask(&self) -> DuplexStream {
        let mut client = self.client();
        let body = r#"{"stream":true,"messages":[]}"#;
        let request = format!(
            "POST http://inference.local/v1/chat/completions HTTP/1.1\r\nHost: inference.local\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        client.write_all(request.as_bytes()).await.unwrap();
        client
    }

    /// The provider's end of the next dialled connection, its answer begun.
    async fn answering(&mut self) -> DuplexStream {
        let (_, mut provider) = self.dialled.recv().await.unwrap();
        until(&mut provider, "}}").await;
        let head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: {}\n\n";
        provider.write_all(head).await.unwrap();
        provider
    }

    fn reasons(&self) -> Vec<Reason> {
        self.office.egress.gate.denied().iter().map(|denied| denied.denial.reason).collect()
    }
}

async fn until(stream: &mut DuplexStream, end: &str) -> String {
    let mut text = String::new();
    while !text.ends_with(end) {
        text.push(char::from(stream.read_u8().await.unwrap()));
    }
    text
}

#[tokio::test(start_paused = true)]
async fn a_private_provider_is_dialled_only_where_the_operator_opened_it() {
    for url in ["http://10.0.0.7/v1", "http://model.example/v1"] {
        let mut host = host(url, "10.0.0.7");
        let mut client = host.ask().await;
        let head = until(&mut client, "\r\n\r\n").await;
        assert!(head.starts_with("HTTP/1.1 502") && !head.contains("private"), "{head}");
        assert_eq!(host.reasons(), [Reason::PrivateAddress]);
        let shown = host.office.egress.gate.denied();
        assert!(shown.iter().all(|denied| denied.denial.destination.is_none()), "{shown:?}");
        assert!(host.dialled.try_recv().is_err());
        // The positive control: opened, it is.
        host.configure(&["10.0.0.0/24"], LIMITS);
        let mut client = host.ask().await;
        let _provider = host.answering().await;
        assert!(until(&mut client, "data: {}\n\n").await.starts_with("HTTP/1.1 200"));
        // And closed again, its answer ends.
        host.configure(&[], LIMITS);
        let mut rest = Vec::new();
        client.read_to_end(&mut rest).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn requests_to_the_model_have_their_limit_and_count_as_relays() {
    let mut host = host("http://api.example/v1", "93.184.216.34");
    let mut open = Vec::new();
    for _ in 0..CHATS {
        let mut client = host.ask().await;
        let provider = host.answering().await;
        until(&mut client, "data: {}\n\n").await;
        open.push((client, provider));
    }
    let told = until(&mut host.ask().await, "\r\n\r\n").await;
    assert!(told.starts_with("HTTP/1.1 429") && told.contains("too_many_chats"), "{told}");
    // One that is over, to its last event, makes room; as a relay it needs room too.
    let (mut client, mut provider) = open.pop().unwrap();
    provider.shutdown().await.unwrap();
    until(&mut client, "0\r\n\r\n").await;
    host.configure(&[], GateLimits { relays: CHATS - 1, ..LIMITS });
    let told = until(&mut host.ask().await, "\r\n\r\n").await;
    assert!(told.starts_with("HTTP/1.1 429") && told.contains("too_many_relays"), "{told}");
    host.configure(&[], LIMITS);
    let mut client = host.ask().await;
    let _provider = host.answering().await;
    assert!(until(&mut client, "data: {}\n\n").await.starts_with("HTTP/1.1 200"));
}

/// The provider's next answer on this connection, whole.
async fn answer_on(provider: &mut DuplexStream, client: &mut DuplexStream) {
    until(provider, "}}").await;
    let answer = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n[]";
    provider.write_all(answer).await.unwrap();
    assert!(until(client, "[]").await.starts_with("HTTP/1.1 200"));
    // What gives the connection back is another task.
    for _ in 0..64 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_is_used_again_only_while_its_address_may_be_dialled() {
    let mut host = host("http://model.example/v1", "10.0.0.7");
    host.configure(&["10.0.0.0/24"], LIMITS);
    let mut client = host.ask().await;
    let (_, mut provider) = host.dialled.recv().await.unwrap();
    answer_on(&mut provider, &mut client).await;
    // Again, on the same connection.
    let mut client = host.ask().await;
    answer_on(&mut provider, &mut client).await;
    assert!(host.dialled.try_recv().is_err(), "it was dialled once");
    // The operator closed the network: the connection that waits leads nowhere any more.
    host.configure(&[], LIMITS);
    let mut client = host.ask().await;
    assert!(until(&mut client, "\r\n\r\n").await.starts_with("HTTP/1.1 502"));
    let mut rest = Vec::new();
    provider.read_to_end(&mut rest).await.unwrap();
    assert!(rest.is_empty(), "nothing more was sent on it: {rest:?}");
    assert!(host.dialled.try_recv().is_err());
    // Opened again, it is dialled anew, and one that waited too long is closed.
    host.configure(&["10.0.0.0/24"], LIMITS);
    let mut client = host.ask().await;
    let (_, mut provider) = host.dialled.recv().await.unwrap();
    answer_on(&mut provider, &mut client).await;
    provider.read_to_end(&mut rest).await.unwrap();
    assert!(rest.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_request_of_anthropics_wire_is_translated_for_the_routes_provider() {
    let mut host = host("http://api.example/v1", "93.184.216.34");
    let mut client = host.client();
    let request = |body: &str| {
        format!(
            "POST http://inference.local/v1/messages HTTP/1.1\r\nHost: inference.local\r\nX-Api-Key: cells\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    let asked = request(r#"{"max_tokens":9,"messages":[{"role":"user","content":"hello"}]}"#);
    client.write_all(asked.as_bytes()).await.unwrap();
    let (_, mut provider) = host.dialled.recv().await.unwrap();
    let heard = until(&mut provider, "}]").await;
    assert!(
        heard.starts_with("POST /v1/chat/completions HTTP/1.1\r\n") && !heard.contains("cells"),
        "{heard}"
    );
    let answer =
        r#"{"id":"c","model":"real","choices":[{"message":{"content":"Hi"},"finish_reason":"stop"}]}"#;
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{answer}", answer.len());
    provider.write_all(head.as_bytes()).await.unwrap();
    let told = until(&mut client, "}}").await;
    assert!(told.contains(r#""content":[{"type":"text","text":"Hi"}],"stop_reason":"end_turn""#), "{told}");
    // And its errors are in the client's wire.
    let mut client = host.client();
    let asked = request(r#"{"max_tokens":9,"top_k":3,"messages":[]}"#);
    client.write_all(asked.as_bytes()).await.unwrap();
    let told = until(&mut client, r#""type":"error"}"#).await;
    assert!(
        told.starts_with("HTTP/1.1 400")
            && told.contains(r#""type":"invalid_request_error"},"type":"error"}"#),
        "{told}"
    );
    assert!(told.contains("`top_k`"), "{told}");
}

mod missed;
mod routes;
