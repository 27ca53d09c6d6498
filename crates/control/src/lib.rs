//! The control process: tenants, policies, approvals, tokens, the reconciler and the API.
#![forbid(unsafe_code)]

pub mod api;
