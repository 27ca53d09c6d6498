//! What is shipped can leave no check out.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, missing_docs)]

use memchr::memmem;

/// The positive control is in the crates' own tests: those programs, and no others, bear the mark.
#[test]
fn the_program_has_nothing_that_leaves_a_check_out() {
    let program = std::fs::read(env!("CARGO_BIN_EXE_cofferdam")).unwrap();
    assert!(memmem::find(&program, cofferdam_base::LEAVES_CHECKS_OUT.as_bytes()).is_none());
    // It is the program that is looked at, with what it says in plain text.
    assert!(memmem::find(&program, b"no rule of this tenant's policy names the destination").is_some());
}
