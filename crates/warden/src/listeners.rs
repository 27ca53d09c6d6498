//! The cell's listeners: proved to be that cell's, then served until the next cell's replace them.

use crate::Error;
use cofferdam_base::ipc::warden::Listener;
use cofferdam_egress::{Egress, Peer, dns};
use cofferdam_sys::socket::{local_address, proven_listener};
use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
};
use tokio::{net::TcpListener, task::JoinSet};

/// The tasks that serve one generation's listeners. Dropping it ends them.
#[derive(Debug, Default)]
pub(crate) struct Serving(
    #[expect(dead_code, reason = "held so that dropping it ends the tasks")] JoinSet<()>,
);

impl Serving {
    /// Proves every listener, then serves them all.
    pub(crate) fn start(
        egress: &Arc<Egress>,
        descriptors: [OwnedFd; Listener::ALL.len()],
        netns_cookie: u64,
    ) -> Result<Self, Error> {
        for (listener, descriptor) in Listener::ALL.into_iter().zip(&descriptors) {
            proven_listener(descriptor.as_fd(), listener, netns_cookie)?;
        }
        let mut tasks = JoinSet::new();
        for (listener, descriptor) in Listener::ALL.into_iter().zip(descriptors) {
            let egress = Arc::clone(egress);
            match listener {
                Listener::DnsUdp4 | Listener::DnsUdp6 => {
                    tasks.spawn(async move {
                        let gate = Arc::clone(&egress.gate);
                        let error = dns::serve_udp(descriptor, move |packet| gate.dns(packet)).await;
                        tracing::error!(%error, ?listener, "a listener broke");
                    });
                }
                Listener::Capture4 | Listener::Capture6 => {
                    let tcp = tcp(descriptor)?;
                    tasks.spawn(async move {
                        let error = egress
                            .accept(tcp, |stream| Ok(Peer::Captured(local_address(stream.as_fd())?)))
                            .await;
                        tracing::error!(%error, ?listener, "a listener broke");
                    });
                }
                Listener::DnsTcp | Listener::Proxy => {
                    let peer = if listener == Listener::Proxy { Peer::Proxy } else { Peer::Dns };
                    let tcp = tcp(descriptor)?;
                    tasks.spawn(async move {
                        let error = egress.accept(tcp, |_| Ok(peer)).await;
                        tracing::error!(%error, ?listener, "a listener broke");
                    });
                }
            }
        }
        Ok(Self(tasks))
    }
}

fn tcp(descriptor: OwnedFd) -> io::Result<TcpListener> {
    let listener = std::net::TcpListener::from(descriptor);
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}
