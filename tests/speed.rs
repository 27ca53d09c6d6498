//! The speed of what leaves a cell and of the native gateway: `cargo xtask bench egress`, `inference` and `native`.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::cast_precision_loss, missing_docs)]

mod bench;
mod host;
mod world;

/// All of it, or the part that `COFFERDAM_BENCH_PART` names.
#[test]
#[ignore = "a bench: cargo xtask bench egress"]
fn egress() {
    bench::egress::run(std::env::var("COFFERDAM_BENCH_PART").ok().as_deref());
}

#[test]
#[ignore = "a bench: cargo xtask bench inference"]
fn inference() {
    bench::inference::run(std::env::var("COFFERDAM_BENCH_PART").ok().as_deref());
}

#[test]
#[ignore = "a bench: cargo xtask bench native"]
fn native() {
    bench::native::run(std::env::var("COFFERDAM_BENCH_PART").ok().as_deref());
}

#[test]
#[ignore = "a peer of the bench of egress"]
fn bare_relay() {
    bench::bare::relay();
}

#[test]
#[ignore = "a peer of the bench of egress"]
fn bare_interceptor() {
    bench::bare::interceptor(std::path::Path::new(&std::env::var_os(bench::peers::BARE).unwrap()));
}
