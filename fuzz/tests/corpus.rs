//! Every input of the corpus, as it is and damaged, on the stable toolchain and without libFuzzer: what once
//! broke a parser stays mended, and each target has a property test of the same assertions.

#![allow(clippy::unwrap_used)]
use proptest::{prelude::*, test_runner::TestRunner};
use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")
}

/// The inputs of one target, by their paths.
fn inputs(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = folder().join(target);
    let listed = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<PathBuf> = listed.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.into_iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

#[test]
fn every_input_of_the_corpus_keeps_what_its_target_asserts() {
    for (name, run) in fuzz::TARGETS {
        let inputs = inputs(name);
        assert!(inputs.len() > 3, "{name} has next to no corpus");
        for (path, bytes) in inputs {
            let kept = catch_unwind(AssertUnwindSafe(|| run(&bytes)));
            assert!(kept.is_ok(), "cargo run -p fuzz -- {name} {}", path.display());
        }
    }
}

#[test]
fn the_corpus_has_a_folder_for_each_target_and_no_other_and_stays_small() {
    let mut folders: Vec<String> = fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    folders.sort();
    let names: Vec<&str> = fuzz::TARGETS.iter().map(|(name, _)| *name).collect();
    assert_eq!(folders, names);
    let bytes: usize = names.iter().flat_map(|name| inputs(name)).map(|(_, bytes)| bytes.len()).sum();
    assert!(bytes < 200 << 10, "{bytes} bytes");
}

/// One change of an input.
#[derive(Clone, Debug)]
enum Damage {
    Set(prop::sample::Index, u8),
    Insert(prop::sample::Index, Vec<u8>),
    Remove(prop::sample::Index, usize),
    Repeat(prop::sample::Index, usize),
    Cut(prop::sample::Index),
}

fn damage() -> impl Strategy<Value = Damage> {
    let at = any::<prop::sample::Index>;
    // Bytes that mean something in one of the formats.
    let telling = prop::sample::select(&b"\0\x01\x16\xff\r\n\t \"\\{}[]:,./%;@_-*0A"[..]);
    prop_oneof![
        (at(), prop_oneof![any::<u8>(), telling]).prop_map(|(at, byte)| Damage::Set(at, byte)),
        (at(), prop::collection::vec(any::<u8>(), 1..4)).prop_map(|(at, bytes)| Damage::Insert(at, bytes)),
        (at(), 1..8_usize).prop_map(|(at, count)| Damage::Remove(at, count)),
        (at(), 1..40_usize).prop_map(|(at, count)| Damage::Repeat(at, count)),
        at().prop_map(Damage::Cut),
    ]
}

fn damaged(mut bytes: Vec<u8>, damages: &[Damage]) -> Vec<u8> {
    for damage in damages {
        let length = bytes.len() + 1;
        let end = |at: usize, count: usize| (at + count).min(bytes.len());
        match damage {
            Damage::Set(at, byte) => {
                if let Some(place) = bytes.get_mut(at.index(length)) {
                    *place = *byte;
                }
            }
            Damage::Insert(at, more) => {
                let at = at.index(length);
                bytes.splice(at..at, more.iter().copied());
            }
            Damage::Remove(at, count) => {
                let at = at.index(length);
                bytes.drain(at..end(at, *count));
            }
            Damage::Repeat(at, count) => {
                let at = at.index(length);
                let again = bytes[at..end(at, *count)].to_vec();
                bytes.splice(at..at, again);
            }
            Damage::Cut(at) => bytes.truncate(at.index(length)),
        }
    }
    bytes
}

#[test]
fn no_damaged_input_and_no_random_bytes_break_what_a_target_asserts() {
    for (name, run) in fuzz::TARGETS {
        let inputs: Vec<Vec<u8>> = inputs(name).into_iter().map(|(_, bytes)| bytes).collect();
        let broken = (prop::sample::select(inputs), prop::collection::vec(damage(), 1..5))
            .prop_map(|(input, damages)| damaged(input, &damages));
        let random = prop::collection::vec(any::<u8>(), 0..300);
        let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) };
        let outcome = TestRunner::new(config).run(&prop_oneof![9 => broken, 1 => random], |bytes| {
            run(&bytes);
            Ok(())
        });
        assert!(outcome.is_ok(), "{name}: {}", outcome.unwrap_err());
    }
}
