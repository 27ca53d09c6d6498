//! The disk of control: the state database and the hash-chained ledger.
//!
//! It decides nothing and knows no policy: it keeps what it is given, durably and whole, and refuses to
//! open what is damaged. The threat: state that was half written, cut off or changed unseen.
#![forbid(unsafe_code)]

mod error;
pub mod ledger;
pub mod state;

pub use error::Error;
