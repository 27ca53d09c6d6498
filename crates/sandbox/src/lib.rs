//! A launch plan as data becomes a sealed process: cells, their init, commands in them, and our own services.
//!
//! It owns the seal: namespaces, the root a cell sees, cgroups, capabilities, Landlock, seccomp, and the
//! receipt that says how far each holds. It refuses to own what runs in a cell, when, and for whom. The
//! threat: hostile native code in a cell. No decision here depends on anything that a cell says.
#![forbid(unsafe_code)]

mod cell;
mod cgroup;
pub mod confine;
mod error;
mod exec;
mod features;
pub mod home_image;
mod init;
mod launch;
mod network;
mod nursery;
mod offered;
mod plan;
pub mod probe;
mod proc;
mod promises;
mod proof;
mod protection;
mod root;
mod seal;
mod seccomp;
pub mod service;
pub mod tenant_files;
mod wire;

pub use cell::{Cell, CellEvent, Exec};
pub use cgroup::{group, settle, sweep};
pub use error::{Error, LayerFailure};
pub use features::{Feature, Known, Need, Verdict, host_features};
pub use init::init_main;
pub use launch::launch;
pub use nursery::{close_nursery, living_nursery, nursery_main};
pub use plan::{Access, Bind, CellPlan, Network, Profile, Quota, TRUST};
pub use promises::{ROOTLESS, Unkept};
pub use protection::Protection;
pub use seccomp::{Danger, locked};
