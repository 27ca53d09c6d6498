//! The network of a captured cell: routes that make every address local, six listeners, and the table that brings
//! each connection to them.
//!
//! It is made in an empty namespace by a cell's init, or, as root, by the nursery before there is a cell: it takes a
//! quarter of a start. The threat of the second: two cells in one namespace. So a nursery leaves a namespace the
//! moment it gave it away, or ends; and init compares the cookie with that of its own.

use crate::{
    CellPlan, Protection,
    error::{Layer, LayerFailure},
};
use cofferdam_sys::{netlink, netns, nft, socket};
use rustix::fd::OwnedFd;
use serde::{Deserialize, Serialize};

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
        Err(std::io::Error::other(format!("namespace {own} instead of {cookie}"))).layer("network namespace")
    }
}

/// The nursery's: the network of the next cell, in whose namespace the nursery waits.
#[derive(Debug, Default)]
pub(crate) struct Spare(Option<(Shape, Network)>);

impl Spare {
    /// The one that is ready, if it is as wanted.
    pub(crate) fn take(&mut self, wanted: Option<Shape>) -> Option<Network> {
        self.0.take_if(|(shape, _)| Some(*shape) == wanted).map(|(_, network)| network)
    }

    /// Leaves the namespace in which this process is, and makes the next network of this shape. An error if it could
    /// not leave; a network that could not be made is left to init, which says why.
    pub(crate) fn refill(&mut self, shape: Shape) -> std::io::Result<()> {
        // A kernel that only says so would have the next network made in the last cell's, or in the host's.
        let before = netns::current_cookie()?;
        netns::unshare()?;
        if netns::current_cookie()? == before {
            return Err(std::io::Error::other("it is where it was"));
        }
        self.0 = shape.make().ok().map(|network| (shape, network));
        Ok(())
    }
}
