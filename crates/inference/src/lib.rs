//! Inference: the wire between a cell's agent and a model provider, in the APIs of OpenAI, Anthropic, Ollama and
//! Gemini.
//!
//! It rebuilds requests for the route's provider, passes answers on unchanged, or translated between OpenAI's
//! and Anthropic's APIs, while it reads what was used, and holds the built-in model of `demo`. It dials nothing and keeps no key: who calls it hands it a
//! checked connection and shows it the key for one request. The threat it answers is a cell that smuggles a
//! header, a model or a second meaning past the one parse of its body, or that gets to see the key.
#![forbid(unsafe_code)]

mod asked;
pub mod builtin;
mod check;
mod error;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzz;
mod kept;
mod relay;
mod request;
mod route;
mod usage;
mod wire;

pub use asked::{AGENT, Asked};
pub use error::Error;
pub use kept::{Keeper, Kept};
pub use relay::{Body, Connect, Connecting, Stream, Used, relay};
pub use request::{Call, MAX_BODY};
pub use route::{BaseUrl, Patience, Route};
pub use usage::{Format, Meter, Tokens};
pub use wire::api::{Api, Inbound, accept, models_answer};
