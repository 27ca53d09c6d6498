//! The process: its two wires, its listeners and its threads.
//!
//! One thread listens and speaks with launcher and control; each other one serves the connections that it is
//! given, from first to last, so that both halves of a relay share a core. When the launcher's wire ends the
//! edge ends; when control's ends it serves on with what it knows until its reports find no room.

use crate::{
    Edge,
    edge::SOURCE,
    limits::{Limits, Socket},
    serve,
};
use cofferdam_base::{
    TenantId,
    ipc::{
        LAUNCHER_FD,
        edge::{Config, Feed, Message, SocketRequest},
    },
};
use cofferdam_sys::{
    channel::{AsyncChannel, ChannelError, exactly},
    clock::SystemClock,
    process, socket,
};
use std::{
    collections::HashMap,
    io,
    net::{SocketAddr, TcpListener},
    os::fd::{AsFd, OwnedFd},
    process::ExitCode,
    sync::Arc,
    thread,
    time::Duration,
};
use tokio::{net::TcpStream, runtime::Builder, sync::mpsc, task::JoinHandle, time};

/// Why the edge ended. The launcher starts it again.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It was started by somebody else.
    #[error("the edge is started by the launcher; its wire is missing")]
    NoWire,
    /// It cannot be confined, so it serves nobody.
    #[error("the edge cannot be confined: {0}")]
    Confine(#[from] cofferdam_sandbox::Error),
    /// The launcher is gone.
    #[error("the launcher hung up")]
    LauncherGone,
    /// A wire broke the protocol.
    #[error("the launcher's wire: {0}")]
    Wire(#[from] ChannelError),
    /// The system refused something that the edge cannot do without.
    #[error("the system refused: {0}")]
    Io(#[from] io::Error),
}

/// An accepted socket on its way to the thread that serves it.
type Accepted = (std::net::TcpStream, Option<TenantId>, Socket);

/// The hidden entry `__edge`, with the wire to the launcher at its descriptor.
pub fn main() -> ExitCode {
    match start() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "the edge ends");
            ExitCode::FAILURE
        }
    }
}

/// Confined before the first byte is read and the first thread is made.
fn start() -> Result<(), Error> {
    let launcher = process::inherited(LAUNCHER_FD).ok_or(Error::NoWire)?;
    let limits = Limits::new(process::open_files());
    cofferdam_sandbox::confine::edge(&[])?;
    let (requests, asked) = mpsc::unbounded_channel();
    let edge = Arc::new(Edge::new(Arc::new(SystemClock), limits, requests, SOURCE));
    let threads = thread::available_parallelism().map_or(2, usize::from);
    let workers = Workers::start(&edge, threads)?;
    let runtime = Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(wires(edge, launcher, asked, workers))
}

/// The threads that serve, in turn.
#[derive(Clone, Debug)]
pub(crate) struct Workers {
    workers: Vec<mpsc::UnboundedSender<Accepted>>,
    next: usize,
}

/// Serves what it is given.
async fn work(edge: Arc<Edge>, mut accepted: mpsc::UnboundedReceiver<Accepted>) {
    while let Some((stream, tenant, socket)) = accepted.recv().await {
        let edge = Arc::clone(&edge);
        tokio::spawn(async move {
            let ended = match TcpStream::from_std(stream) {
                Ok(stream) => serve(edge, stream, tenant, socket).await,
                Err(error) => Err(error),
            };
            if let Err(error) = ended {
                tracing::debug!(%error, "a client's socket failed");
            }
        });
    }
}

fn worker(edge: &Arc<Edge>) -> io::Result<mpsc::UnboundedSender<Accepted>> {
    let (sender, accepted) = mpsc::unbounded_channel::<Accepted>();
    let edge = Arc::clone(edge);
    let runtime = Builder::new_current_thread().enable_all().build()?;
    thread::Builder::new().name("edge".into()).spawn(move || runtime.block_on(work(edge, accepted)))?;
    Ok(sender)
}

impl Workers {
    /// Starts so many threads. They end when this is dropped.
    pub(crate) fn start(edge: &Arc<Edge>, threads: usize) -> io::Result<Self> {
        let workers = (0..threads).map(|_| worker(edge)).collect::<io::Result<_>>()?;
        Ok(Self { workers, next: 0 })
    }

    /// Serves on this thread.
    #[cfg(test)]
    pub(crate) fn here(edge: &Arc<Edge>) -> Self {
        let (sender, accepted) = mpsc::unbounded_channel();
        tokio::spawn(work(Arc::clone(edge), accepted));
        Self { workers: vec![sender], next: 0 }
    }

    fn give(&mut self, accepted: Accepted) {
        self.next = (self.next + 1) % self.workers.len().max(1);
        if let Some(worker) = self.workers.get(self.next) {
            // A thread that panicked takes no more; the client sees its connection close.
            let _ = worker.send(accepted);
        }
    }
}

/// A task that ends with its handle.
struct Task(JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Reads the launcher's wire to its end.
pub(crate) async fn wires(
    edge: Arc<Edge>,
    launcher: OwnedFd,
    mut asked: mpsc::UnboundedReceiver<SocketRequest>,
    workers: Workers,
) -> Result<(), Error> {
    let launcher = AsyncChannel::new(launcher)?;
    let mut listeners: HashMap<(Option<TenantId>, SocketAddr), Task> = HashMap::new();
    let mut control: Option<Task> = None;
    let mut second = time::interval(Duration::from_secs(1));
    loop {
        tokio::select! {
            _ = second.tick() => edge.reports.tick(edge.state.now()),
            request = asked.recv() => {
                let Some(request) = request else { return Err(Error::LauncherGone) };
                launcher.send(&request, &[]).await?;
            }
            // Sockets that find no descriptor here are none; only their tenant is short of them.
            packet = launcher.recv_or_bare::<Feed>() => {
                let Some((feed, descriptors)) = packet? else { return Err(Error::LauncherGone) };
                match feed {
                    Feed::Control {} => {
                        let [wire] = exactly(descriptors)?;
                        // The old wire ends before the new one carries anything.
                        drop(control.take());
                        let wire = AsyncChannel::new(wire)?;
                        control = Some(Task(tokio::spawn(speak(Arc::clone(&edge), wire))));
                    }
                    Feed::Listener { tenant, address } => {
                        let [listener] = exactly(descriptors)?;
                        let task = listen(&edge, listener, address, tenant.clone(), workers.clone())?;
                        listeners.insert((tenant, address), task);
                    }
                    Feed::ListenerGone { tenant } => {
                        let [] = exactly(descriptors)?;
                        listeners.retain(|(of, _), _| of.as_ref() != Some(&tenant));
                    }
                    Feed::Sockets { tenant, generation, netns_cookie, port } => {
                        edge.pool.stock(&tenant, generation, netns_cookie, port, descriptors);
                    }
                    Feed::NoCell { tenant } => {
                        let [] = exactly(descriptors)?;
                        edge.pool.absent(&tenant);
                    }
                    Feed::CellGone { tenant, generation } => {
                        let [] = exactly(descriptors)?;
                        edge.pool.gone(&tenant, generation);
                        edge.state.touch();
                    }
                }
            }
        }
    }
}

/// Accepts from a listener that the launcher made.
fn listen(
    edge: &Arc<Edge>,
    listener: OwnedFd,
    address: SocketAddr,
    tenant: Option<TenantId>,
    mut workers: Workers,
) -> Result<Task, Error> {
    let ours = socket::is_listening(listener.as_fd())? && socket::local_address(&listener)? == address;
    if !ours {
        return Err(io::Error::other("a descriptor is not the listener that it should be").into());
    }
    let listener = TcpListener::from(listener);
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let edge = Arc::clone(edge);
    Ok(Task(tokio::spawn(async move {
        loop {
            match listener.accept().await.and_then(|(stream, _)| stream.into_std()) {
                Ok(stream) => match edge.limits.socket() {
                    Some(socket) => workers.give((stream, tenant.clone(), socket)),
                    None => edge.report_refused(tenant.clone(), "too_many_sockets"),
                },
                Err(error) => {
                    // Out of descriptors, most likely: others must close theirs first.
                    tracing::warn!(%error, "no connection can be accepted");
                    time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    })))
}

/// When a wire ends, however it ends, nobody waits for what would have come over it.
struct Lost<'a>(&'a Edge);

impl Drop for Lost<'_> {
    fn drop(&mut self) {
        self.0.answers.lost();
    }
}

/// Speaks with control until its wire ends.
async fn speak(edge: Arc<Edge>, wire: AsyncChannel) {
    edge.reports.rewind();
    let _lost = Lost(&edge);
    let reading = async {
        loop {
            match wire.recv::<Config>().await {
                Ok(Some((config, descriptors))) if descriptors.is_empty() => {
                    match &config {
                        Config::Recorded { through } => edge.reports.recorded(*through),
                        Config::TenantGone { tenant } => edge.pool.forget(tenant),
                        Config::AskedNoMore { tenant, approval, .. } => edge.cards.end(tenant, *approval),
                        Config::Answered { op, refused } => edge.answers.told(*op, refused.clone()),
                        _ => {}
                    }
                    edge.state.apply(config);
                }
                Ok(Some(_)) => return tracing::error!("control sent descriptors"),
                Ok(None) => return tracing::info!("control hung up"),
                Err(error) => return tracing::error!(%error, "control's wire broke"),
            }
        }
    };
    let writing = async {
        loop {
            let message = tokio::select! {
                answer = edge.answers.next() => Message::Answer(answer),
                report = edge.reports.next() => Message::Report(report),
            };
            if let Err(error) = wire.send(&message, &[]).await {
                return tracing::info!(%error, "control takes no reports");
            }
        }
    };
    tokio::select! {
        () = reading => {}
        () = writing => {}
    }
}
