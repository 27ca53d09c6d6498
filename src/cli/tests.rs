//! The command line as a table: what it takes, what it says of what is not there, and how wide its help is.
#![allow(clippy::unwrap_used)]

use super::*;
use clap::CommandFactory;

fn typed(line: &str) -> Result<Flags, clap::Error> {
    Flags::try_parse_from(std::iter::once("cofferdam").chain(line.split(' ')))
}

#[test]
fn what_is_not_built_yet_says_so_and_what_never_was_says_where_to_look() {
    for (line, code) in [
        ("tenant hibernate acme", "not_built"),
        ("secret rotate acme KEY", "not_built"),
        ("ledger export", "not_built"),
        ("tenant craete acme", "no_such_command"),
        ("token mint", "no_such_command"),
        ("runtime prove", "no_such_command"),
        ("approvals maybe 3", "no_such_command"),
        ("nonsense", "no_such_command"),
    ] {
        let mut flags = typed(line).unwrap();
        // So that nothing but the words can decide.
        flags.data_dir = Some("/nonexistent".into());
        let failure = dispatch(flags).unwrap_err();
        assert_eq!((failure.code.as_str(), failure.exit), (code, Exit::Usage), "{line}");
    }
}

#[test]
fn what_is_built_is_no_longer_called_unbuilt() {
    let cli = Flags::command();
    for (noun, verbs) in NOT_BUILT {
        let of = if noun.is_empty() { &cli } else { cli.find_subcommand(noun).unwrap() };
        for verb in *verbs {
            assert!(of.find_subcommand(verb).is_none(), "{noun} {verb}");
        }
    }
}

#[test]
fn every_help_fits_eighty_columns_and_says_what_each_argument_is() {
    fn walk(mut command: clap::Command, name: &str) {
        command.build();
        for help in [command.render_help(), command.render_long_help()] {
            for line in help.to_string().lines() {
                assert!(line.chars().count() <= 80, "{name}: {line}");
            }
        }
        for argument in command.get_positionals() {
            let says =
                argument.get_help().is_some() || argument.get_id() == "id" || argument.get_id() == "tenant";
            assert!(says || argument.get_id() == "name", "{name}: nothing about {}", argument.get_id());
        }
        for below in command.get_subcommands().filter(|below| below.get_name() != "help") {
            walk(below.clone(), &format!("{name} {}", below.get_name()));
        }
    }
    Flags::command().debug_assert();
    walk(Flags::command(), "cofferdam");
}
