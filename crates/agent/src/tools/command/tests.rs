#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use super::*;
use proptest::prelude::*;
use std::{fs, os::unix::fs::PermissionsExt as _, process::Command};

/// Programs with their arguments, and what they redirect, in short.
fn seen(text: &str) -> Result<String, String> {
    let one = |simple: &Simple| {
        let words =
            simple.words.iter().map(|word| format!("{}{}", word.text, if word.expands { "?" } else { "" }));
        let more = simple.redirections.iter().map(|it| format!("{}{:?}", it.operator, it.target));
        words.chain(more).collect::<Vec<_>>().join(",")
    };
    parse(text).map(|all| all.iter().map(one).collect::<Vec<_>>().join(" / ")).map_err(|why| why.to_string())
}

#[test]
fn what_a_command_runs_is_told() {
    for (text, runs) in [
        ("git status", "git,status"),
        ("a 'b c' \"d e\" f\\ g", "a,b c,d e,f g"),
        ("a | b && c || d; e & f\ng", "a / b / c / d / e / f / g"),
        ("a |\n b &&\n\n c", "a / b / c"),
        ("! a; (b; c) | d; { e; f; }", "a / b / c / d / e / f"),
        ("a >f 2>&1 <g", "a,>\"f\",2>&\"1\",<\"g\""),
        ("a x2>f", "a,x2,>\"f\""),
        (">f a", "a,>\"f\""),
        ("a $X \"$Y\" $(b c) ~ *.rs {d,e}", "a,$X?,$Y?,$(…)?,~?,*.rs?,{d,e}? / b,c"),
        ("a \"$(b \"c d\")\"", "a,$(…)? / b,c d"),
        ("a '$(b)' \\$X '*'", "a,$(b),$X,*"),
        ("a # b\nc", "a / c"),
        ("a b#c", "a,b#c"),
        ("a \\\n b", "a,b"),
        ("cat <<E\nx; rm -r y\nE\nb", "cat,<<\"x; rm -r y\\n\" / b"),
        ("cat <<'E' | b\n$(x)\nE", "cat,<<\"$(x)\\n\" / b"),
        ("cat <<-E\n\tx\n\tE", "cat,<<\"x\\n\""),
        ("find . -exec b {} +", "find,.,-exec,b,{},+"),
    ] {
        assert_eq!(seen(text).as_deref(), Ok(runs), "{text}");
    }
}

#[test]
fn what_is_not_understood_is_not_bound() {
    for text in [
        "",
        "  ",
        "# a",
        "$X",
        "$(a)",
        "a `b`",
        "X=1 a",
        "X=1",
        "a; PATH=. b",
        "if a; then b; fi",
        "for x in a; do b; done",
        "f() { a; }",
        "a (b)",
        "eval a",
        ". ./a",
        "exec a",
        "cd x && a",
        "export X",
        "command a",
        "a $((1))",
        "a $[1]",
        "((a 'x$(b)'))",
        "(\\\n(a 'x$(b)'))",
        "a | ((b))",
        "a ${X:-$(b)}",
        "a ${X:=1}",
        "a $'b'",
        "a $\"b\"",
        "a <(b)",
        "a <<<b",
        "a &>f",
        "a |& b",
        "a >&f",
        "a > $X",
        "a 10>f",
        "a &; b",
        "a;; b",
        "a &&",
        "| a",
        "a |",
        "(a",
        "a)",
        "{ a }",
        "{ a; } >f",
        "(a) 2>&1",
        "()",
        "a 'b",
        "a \"b",
        "a \\",
        "cat <<E\nx",
        "cat <<E\n$(a)\nE",
        "cat <<E\n\\a\nE",
        "cat <<E \"x\ny\"\nE",
        "a 2\\\n>f",
        "a\\\nb",
        "a\r",
        "a\0",
        "a\u{1b}",
        "*",
        "~/a",
        "{a,b}",
        "~",
        "'if' a",
        "'' a",
        "'a b'",
        "!",
        "time a",
        "[[ a ]]",
        "test a",
        "printf -v PATH x",
        "kill 1",
        "a > #f",
        "a <",
        "a {fd}>",
        "read x",
        "é",
    ] {
        assert!(seen(text).is_err(), "{text:?}: {:?}", seen(text));
    }
    assert!(parse(&"(".repeat(40)).is_err() && parse(&"a;".repeat(40_000)).is_err());
}

#[test]
fn what_a_redirection_touches_is_told() {
    let inert = |text: &str| parse(text).unwrap()[0].redirections.iter().all(Redirection::is_inert);
    for text in ["a", "a 2>&1", "a >/dev/null 2>&1 </dev/null", "a 2>&-"] {
        assert!(inert(text), "{text}");
    }
    for text in ["a >f", "a >1", "a <f", "a 2>/dev/nullx", "a <<E\n/dev/null\nE", "a <<E\n1\nE"] {
        assert!(!inert(text), "{text}");
    }
}

/// A place in which some programs are there that say how they were called.
struct Stage(tempfile::TempDir);

impl Stage {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a", "b", "c", "rm", "2", "x y"] {
            let path = dir.path().join("bin").join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            // One write, so that those of several do not mix.
            let said = "#!/bin/sh\nprintf '%s\\037' \"${0##*/}\" \"$@\" '\u{1e}' >> \"$LOG\"\n";
            fs::write(&path, said).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        fs::create_dir(dir.path().join("at")).unwrap();
        Self(dir)
    }

    /// What a shell runs, and the files that it makes.
    fn run(&self, shell: &[&str], text: &str) -> (Vec<Vec<String>>, Vec<String>) {
        let at = self.0.path().join("at");
        fs::remove_dir_all(&at).unwrap();
        fs::create_dir(&at).unwrap();
        let log = self.0.path().join("log");
        fs::write(&log, "").unwrap();
        let mut command = Command::new(shell[0]);
        command.args(&shell[1..]).args(["-c", text]).current_dir(&at).env_clear();
        let (path, x) = (self.0.path().join("bin"), "one two");
        command
            .env("PATH", path)
            .env("LOG", &log)
            .env("X", x)
            .env("HOME", "/h")
            .stdin(std::process::Stdio::null());
        // Its pipes end with the last of those that it left behind.
        command.output().unwrap();
        let ran = fs::read_to_string(log).unwrap();
        let words = |line: &str| line.split('\u{1f}').map(str::to_owned).collect();
        let ran = ran.split_terminator("\u{1f}\u{1e}\u{1f}").map(words).collect();
        let made =
            fs::read_dir(&at).unwrap().map(|it| it.unwrap().file_name().into_string().unwrap()).collect();
        (ran, made)
    }
}

/// Is all that a shell did among what was told?
fn is_told(stage: &Stage, text: &str) {
    let Ok(told) = parse(text) else { return };
    let shells: &[&[&str]] = &[&["/bin/sh"], &["/bin/bash", "--posix"]];
    for shell in shells.iter().filter(|shell| std::path::Path::new(shell[0]).exists()) {
        let (ran, made) = stage.run(shell, text);
        for argv in ran {
            let same = |simple: &Simple| {
                let names = simple.name().rsplit('/').next() == argv.first().map(String::as_str);
                let words = || simple.words.iter().skip(1).map(|word| &word.text).eq(argv.iter().skip(1));
                names && (!simple.is_whole() || words())
            };
            assert!(told.iter().any(same), "{shell:?} {text:?} ran {argv:?}, told {told:?}");
        }
        for name in made {
            let writes = |it: &Redirection| it.operator.contains('>') && it.target == name;
            assert!(
                told.iter().any(|simple| simple.redirections.iter().any(writes)),
                "{shell:?} {text:?} made {name:?}, told {told:?}"
            );
        }
    }
}

/// The control: what runs is seen by the stage.
#[test]
fn the_stage_sees_what_runs() {
    let stage = Stage::new();
    let (ran, made) = stage.run(&["/bin/sh"], "a 'x y' | b >f; (c)");
    assert_eq!((ran.len(), made), (3, vec!["f".to_owned()]));
    assert!(ran.contains(&vec!["a".to_owned(), "x y".to_owned()]), "{ran:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]
    #[test]
    fn a_shell_runs_nothing_that_was_not_told(
        parts in prop::collection::vec(prop::sample::select(&[
            "a", "b", "c", "rm", " ", " ", " ", "\n", ";", "&", "&&", "|", "||", "(", ")", "{ ", " }", "; }", "!", "'", "\"",
            "\\", "$", "$(", "`", "$X", "${X}", "$'", ">", ">>", "<", "<<", "<<-", ">&", "2>&1", "2>", "&>", "f", "g", "E", "E\n",
            "\nE\n", "'E'", "#", "~", "*", "?", "[", "]", "{a,b}", "=", "X=", "2", "1", "10", "-", "echo", "/dev/null", "\t", "\\\n",
            " \\\n", "if", "then", "fi", "x y", "é", "^", "%", "@", "+", "$((", "))", "[[", "\"$X\"", "$(b)", "<(", ">|", "<>", ",",
        ][..]), 1..14),
    ) {
        is_told(&STAGE.with(Clone::clone), &parts.concat());
    }

    #[test]
    fn no_command_panics(text in "\\PC{0,60}", mixed in "[ab'\"$(){}<>|&;#\\\\\n E`*]{0,40}") {
        let _ = parse(&text);
        let _ = parse(&mixed);
    }
}

thread_local! {
    static STAGE: std::rc::Rc<Stage> = std::rc::Rc::new(Stage::new());
}
