//! One program for all targets. Linked with libFuzzer (`cargo xtask fuzz`) it runs the target that
//! `COFFERDAM_FUZZ` names; without, it runs a target on files: `cargo run -p fuzz -- TARGET FILE…`.
#![cfg_attr(feature = "libfuzzer", no_main)]

#[cfg(feature = "libfuzzer")]
mod fuzzing {
    use std::sync::LazyLock;

    static TARGET: LazyLock<fn(&[u8])> = LazyLock::new(|| {
        let name = std::env::var("COFFERDAM_FUZZ").unwrap_or_default();
        fuzz::target(&name).unwrap_or_else(|| panic!("COFFERDAM_FUZZ names no target: {name:?}"))
    });

    libfuzzer_sys::fuzz_target!(|bytes: &[u8]| TARGET(bytes));
}

#[cfg(not(feature = "libfuzzer"))]
fn main() -> Result<(), String> {
    let mut arguments = std::env::args().skip(1);
    let name = arguments.next().unwrap_or_default();
    let known: Vec<&str> = fuzz::TARGETS.iter().map(|(name, _)| *name).collect();
    let run = fuzz::target(&name).ok_or_else(|| format!("the targets are {known:?}"))?;
    for file in arguments {
        run(&std::fs::read(&file).map_err(|error| format!("{file}: {error}"))?);
    }
    Ok(())
}
