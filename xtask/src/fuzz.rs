//! Fuzzing: every target of `fuzz/`, built once with the toolchain that is there and run two at a time.
//!
//! No nightly compiler and no cargo-fuzz: coverage comes from LLVM's own pass, which the stable compiler takes
//! by name, and AddressSanitizer has nothing to find in parsers without `unsafe`. What libFuzzer needs besides
//! is a C++ compiler. New inputs stay in `target/fuzz`; the corpus in the repository grows by hand.

use crate::{programs, run};
use anyhow::{Context, Result, bail};
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Mutex, PoisonError},
    thread,
};

/// Coverage that libFuzzer reads: cargo-fuzz's own flags without the sanitizer.
const COVERAGE: &str = "-Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares";

/// How many run at a time.
const JOBS: usize = 2;

/// The bounds of one run: bytes of an input, seconds that one may take, mebibytes of memory.
const BOUNDS: [&str; 3] = ["-max_len=4096", "-timeout=10", "-rss_limit_mb=1024"];

#[derive(Debug, PartialEq, Eq)]
struct Wish {
    seconds: u32,
    if_possible: bool,
    targets: Vec<String>,
}

pub(crate) fn run(arguments: &[String]) -> Result<()> {
    let wish = Wish::parse(arguments)?;
    if let Err(error) = programs::ensure(&[("c++", "g++")]).and_then(|()| compiles_cpp()) {
        let why = format!("libFuzzer is C++ and cannot be built: {error:#}; install g++ and try again");
        if !wish.if_possible {
            bail!(why);
        }
        println!("fuzz: SKIPPED: {why}");
        return Ok(());
    }
    let targets = targets(&wish.targets)?;
    let program = build()?;
    let queue = Mutex::new(targets.into_iter());
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
    let broken = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..JOBS {
            scope.spawn(|| {
                while let Some(target) = next() {
                    if let Err(error) = fuzz(&program, &target, wish.seconds) {
                        println!("fuzz: {target}: {error:#}");
                        broken.lock().unwrap_or_else(PoisonError::into_inner).push(target);
                    }
                }
            });
        }
    });
    let broken = broken.into_inner().unwrap_or_else(PoisonError::into_inner);
    if !broken.is_empty() {
        bail!("broken: {}", broken.join(", "));
    }
    Ok(())
}

impl Wish {
    fn parse(arguments: &[String]) -> Result<Self> {
        let mut wish = Self { seconds: 60, if_possible: false, targets: Vec::new() };
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--seconds" => {
                    let number = arguments.next().context("--seconds takes a number")?;
                    wish.seconds = number.parse().with_context(|| format!("--seconds {number}"))?;
                }
                "--if-possible" => wish.if_possible = true,
                flag if flag.starts_with('-') => bail!("fuzz takes --seconds, --if-possible and targets"),
                target => wish.targets.push(target.to_owned()),
            }
        }
        Ok(wish)
    }
}

/// The wanted targets, or all: each has a folder of inputs.
fn targets(wanted: &[String]) -> Result<Vec<String>> {
    let corpus = run::root().join("fuzz/corpus");
    let mut known = Vec::new();
    for entry in fs::read_dir(&corpus).with_context(|| corpus.display().to_string())? {
        known.push(entry?.file_name().to_string_lossy().into_owned());
    }
    known.sort();
    if let Some(unknown) = wanted.iter().find(|target| !known.contains(target)) {
        bail!("{unknown} is no target; there are {}", known.join(", "));
    }
    known.retain(|target| wanted.is_empty() || wanted.contains(target));
    Ok(known)
}

/// Can libFuzzer be built here?
fn compiles_cpp() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let source = dir.path().join("probe.cc");
    fs::write(&source, "#include <vector>\nint main() { return std::vector<int>(1)[0]; }\n")?;
    let compiler = std::env::var_os("CXX").unwrap_or_else(|| "c++".into());
    run::output(Command::new(compiler).arg(&source).arg("-o").arg(dir.path().join("probe"))).map(drop)
}

/// Builds the one program that has all targets, in a directory of its own: its flags are no one else's.
fn build() -> Result<PathBuf> {
    let version = String::from_utf8(run::output(Command::new("rustc").arg("-vV"))?)?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).context("rustc names no host")?;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let dir = run::root().join("target/fuzz");
    // With `--target` the flags are not those of build scripts and macros.
    run::run(
        Command::new(cargo)
            .args(["build", "--quiet", "--package", "fuzz", "--features", "libfuzzer", "--profile", "fuzz"])
            .args(["--target", host, "--target-dir"])
            .arg(&dir)
            .env("RUSTFLAGS", COVERAGE)
            .env_remove("CARGO_ENCODED_RUSTFLAGS")
            .current_dir(run::root()),
    )?;
    Ok(dir.join(host).join("fuzz/fuzz"))
}

/// Runs one target, and says how it went.
fn fuzz(program: &Path, target: &str, seconds: u32) -> Result<()> {
    let dir = run::root().join("target/fuzz");
    let [found, crashes, logs] = ["corpus", "crashes", "logs"].map(|name| dir.join(name));
    let found = found.join(target);
    for dir in [&found, &crashes, &logs] {
        fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
    }
    let log = logs.join(format!("{target}.log"));
    let ended = Command::new(program)
        .env("COFFERDAM_FUZZ", target)
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-artifact_prefix={}/{target}-", crashes.display()))
        .arg("-print_final_stats=1")
        .args(BOUNDS)
        .args([&found, &run::root().join("fuzz/corpus").join(target)])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(fs::File::create(&log)?)
        .status()
        .with_context(|| program.display().to_string())?;
    let said = String::from_utf8_lossy(&fs::read(&log)?).into_owned();
    let runs = after(&said, "stat::number_of_executed_units:").unwrap_or("0");
    if !ended.success() {
        let input = after(&said, "Test unit written to").unwrap_or("nowhere");
        bail!(
            "BROKEN after {runs} runs by {input}; see {}\n  again: cargo run -p fuzz -- {target} {input}\n  \
             then: keep it in fuzz/corpus/{target}/ and mend what it broke",
            log.display()
        );
    }
    println!("fuzz: {target}: {runs} runs, {} inputs, ok", fs::read_dir(&found)?.count());
    Ok(())
}

/// What follows a word on its line, in a log.
fn after<'a>(log: &'a str, word: &str) -> Option<&'a str> {
    log.lines().rev().find_map(|line| line.split_once(word)).map(|(_, rest)| rest.trim())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn wishes_are_read_and_what_is_none_is_refused() {
        let parse = |text: &str| Wish::parse(&text.split(' ').map(str::to_owned).collect::<Vec<_>>());
        let wish = Wish { seconds: 5, if_possible: true, targets: vec!["dns".into()] };
        assert_eq!(parse("--seconds 5 --if-possible dns").unwrap(), wish);
        for bad in ["--seconds", "--seconds x", "--fast"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        assert!(targets(&["no_such_target".to_owned()]).is_err());
        assert_eq!(targets(&["dns".to_owned()]).unwrap(), ["dns"]);
    }

    #[test]
    fn a_log_tells_how_much_was_run_and_what_broke() {
        let log = "x\nartifact_prefix='a'; Test unit written to /a/dns-crash-1\nstat::number_of_executed_units: 7\n";
        assert_eq!(after(log, "Test unit written to"), Some("/a/dns-crash-1"));
        assert_eq!(after(log, "stat::number_of_executed_units:"), Some("7"));
        assert_eq!(after(log, "other"), None);
    }
}
