//! The network of a captured cell: routes that make every address local, six listeners, and the table that brings
//! each connection to them.
//!
//! It is made in an empty namespace by a cell's init, or, as root, by the nursery before there is a cell: it takes a
//! quarter of a start. The threat of the second: two cells in one namespace, or one in the host's. So a nursery enters
//! a namespace only to bear one cell, and goes home or ends; and init compares the cookie with that of its own.

use crate::{
    CellPlan, Protection,
    error::{Layer, LayerFailure},
};
use cofferdam_sys::{netlink, netns, nft, socket};
use serde::{Deserialize, Serialize};
use std::{
    io,
    os::fd::{AsFd, OwnedFd},
};

/// What differs between the networks of cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Shape {
    /// Where the gateway listens, and the mark of those who may reach it.
    gateway: (u16, u32),
    /// Is there a capture? Only a throw-away cell of a proof has none.
    capture: bool,
}

/// A network that is ready.
#[derive(Debug)]
pub(crate) struct Network {
    pub(crate) cookie: u64,
    /// The six listeners, and the socket that made the capture, if there is one.
    pub(crate) descriptors: Vec<OwnedFd>,
}

impl Shape {
    /// What a plan wants, if its network is captured.
    pub(crate) fn of(plan: &CellPlan) -> Option<Self> {
        let gateway = plan.captured()?;
        Some(Self { gateway, capture: plan.keeps(Protection::Capture) })
    }

    /// Makes it in this thread's namespace, which is empty.
    pub(crate) fn make(self) -> Result<Network, LayerFailure> {
        let (gateway_port, mark) = self.gateway;
        netlink::any_ip().layer("network")?;
        let mut descriptors = Vec::from(socket::listeners().layer("network")?);
        if self.capture {
            let table = nft::CellTable { capture_port: socket::CAPTURE_PORT, gateway_port, mark };
            // Closing it here would cost more than all the rest of the start.
            descriptors.push(nft::seal_cell(table).layer("capture")?);
        }
        Ok(Network { cookie: netns::current_cookie().layer("network")?, descriptors })
    }
}

/// Is this thread in the namespace of this cookie?
pub(crate) fn is_in(cookie: u64) -> Result<(), LayerFailure> {
    let own = netns::current_cookie().layer("network")?;
    if own == cookie {
        Ok(())
    } else {
        Err(io::Error::other(format!("namespace {own} instead of {cookie}"))).layer("network namespace")
    }
}

/// The nursery's: the network of the next cell, and the way back from it.
#[derive(Debug, Default)]
pub(crate) struct Spare {
    home: Option<(OwnedFd, u64)>,
    ready: Option<(Shape, OwnedFd, Network)>,
}

impl Spare {
    /// Takes the one that is ready, if it is as wanted, and moves this thread into it.
    pub(crate) fn enter(&mut self, wanted: Option<Shape>) -> Option<Network> {
        let (_, namespace, network) = self.ready.take_if(|(shape, ..)| Some(*shape) == wanted)?;
        netns::enter(namespace.as_fd()).ok().map(|()| network)
    }

    /// Back home. Who cannot leave a network that is a cell's now must not go on.
    pub(crate) fn leave(&self) -> io::Result<()> {
        let Some((home, cookie)) = &self.home else { return Ok(()) };
        netns::enter(home.as_fd())?;
        if netns::current_cookie()? == *cookie {
            Ok(())
        } else {
            Err(io::Error::other("it is not where it began"))
        }
    }

    /// Makes the next one. One that cannot be made is left to init, which says why. Home is where the first is
    /// wanted.
    pub(crate) fn make(&mut self, shape: Shape) -> io::Result<()> {
        let home = match self.home.take() {
            Some(home) => home,
            None => (netns::current()?, netns::current_cookie()?),
        };
        let (_, cookie) = *self.home.insert(home);
        netns::unshare()?;
        // A kernel that only says so would have it made in the host's.
        if netns::current_cookie()? != cookie {
            let namespace = netns::current()?;
            self.ready = shape.make().ok().map(|network| (shape, namespace, network));
        }
        self.leave()
    }
}
