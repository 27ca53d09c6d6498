//! The words of the domain: ids, names, hosts, digests, secrets, roles, time, and every message that
//! crosses a boundary between two of our processes.
//!
//! Pure: no I/O, no clock, no async. A value of one of these types was checked when it was made, so
//! nothing downstream checks it again (parse, don't validate).
#![forbid(unsafe_code)]

pub mod binding;
pub mod canary;
mod certificate;
mod check;
mod claims;
mod clock;
mod destination;
mod digest;
#[cfg(any(test, feature = "explore"))]
#[doc(hidden)]
pub mod explore;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzz;
mod host;
pub mod ipc;
pub mod kind;
mod proof;
mod provider;
mod role;
mod secret;
mod slot;
mod tenant;

pub use certificate::{Certificate, CertificateError};
#[doc(hidden)]
pub use check::LEAVES_CHECKS_OUT;
pub use claims::{AUDIENCE, Claims, MAX_TOKEN, MemberId, MemberIdError, TOKEN_TYPE};
pub use clock::{Clock, Millis};
pub use destination::{Destination, Host, Protocol};
pub use digest::{Digest, DigestError};
pub use host::{HostName, HostNameError};
pub use proof::proof_message;
pub use provider::{Provider, ProviderError};
pub use role::{Role, RoleError, Scope};
pub use secret::{Secret, SecretName, SecretNameError};
pub use slot::{Slot, SlotError};
pub use tenant::{TenantId, TenantIdError};
