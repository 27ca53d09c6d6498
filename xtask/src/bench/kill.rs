//! The time that the kill switch takes, on a whole host: `tests/kill.rs` has the host and the measure.

use crate::run;
use anyhow::Result;

pub(super) fn run() -> Result<()> {
    run::cargo(&[
        "test",
        "--release",
        "--package",
        "cofferdam",
        "--test",
        "kill",
        "bench",
        "--",
        "--ignored",
        "--nocapture",
    ])
}
