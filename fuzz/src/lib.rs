//! The fuzz targets: one function for each parser that a tenant, a client or a broken process can reach.
//!
//! A target reads any bytes as its parser does in the product and asserts what must hold of the outcome; the
//! assertions are beside the parsers, in the `fuzz` modules of their crates. `corpus/` has inputs for each
//! target, real ones and those that once broke something; `cargo test` runs all of them.
#![forbid(unsafe_code)]

mod http;

/// What a target is called, and what it runs.
pub type Target = (&'static str, fn(&[u8]));

/// Every target, by the name of its folder in `corpus/`.
pub const TARGETS: &[Target] = &[
    ("aws", cofferdam_egress::credentials::fuzz::signed),
    ("chat", cofferdam_inference::fuzz::chat),
    ("client_hello", cofferdam_egress::fuzz::first_bytes),
    ("connect_authority", cofferdam_egress::fuzz::authority),
    ("control_wires", cofferdam_base::fuzz::control_wires),
    ("credentials", cofferdam_egress::credentials::fuzz::request_and_answer),
    ("dns", cofferdam_egress::fuzz::resolve),
    ("edge_http", http::inward),
    ("egress_http", http::outward),
    ("import_config", cofferdam_import::fuzz::configuration),
    ("import_stream", cofferdam_import::fuzz::stream),
    ("import_transcript", cofferdam_import::fuzz::transcript),
    ("jwt", cofferdam_edge::fuzz::token),
    ("launcher_wires", cofferdam_base::fuzz::launcher_wires),
    ("lines", http::lines),
    ("loss", cofferdam_egress::loss::fuzz::outward),
    ("meter", cofferdam_inference::fuzz::meter),
    ("oauth", cofferdam_egress::credentials::fuzz::answer),
    ("policy", cofferdam_policy::fuzz::policy),
    ("policy_import", cofferdam_policy::fuzz::foreign),
    ("policy_request", cofferdam_policy::fuzz::request),
    ("shell", cofferdam_agent::fuzz::shell),
    ("translate", cofferdam_inference::fuzz::translate),
    ("ws_connect", cofferdam_edge::fuzz::connect),
    ("ws_frames", cofferdam_edge::fuzz::frames),
];

/// The target of this name.
#[must_use]
pub fn target(name: &str) -> Option<fn(&[u8])> {
    TARGETS.iter().find(|(known, _)| *known == name).map(|(_, run)| *run)
}
