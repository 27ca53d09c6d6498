#![allow(clippy::unwrap_used)]

use super::*;
use crate::{config::Configured, store::Store, turn::model::Model};
use cofferdam_base::{Clock, Millis};

#[test]
fn globs_are_those_of_paths() {
    for (pattern, text, fits) in [
        ("/usr/bin/*", "/usr/bin/git", true),
        ("/usr/*", "/usr/bin/git", false),
        ("/usr/**/git", "/usr/local/bin/git", true),
        ("/usr/bin/gi?", "/usr/bin/git", true),
        ("/usr?bin/git", "/usr/bin/git", false),
        ("git", "git-evil", false),
        ("git*", "git-shell", true),
    ] {
        assert_eq!(glob(pattern.as_bytes(), text.as_bytes()), fits, "{pattern} {text}");
    }
}

#[test]
fn a_program_by_its_path_is_bound_only_where_its_directory_truly_is() {
    let dir = tempfile::tempdir().unwrap();
    let place = fs::canonicalize(dir.path()).unwrap();
    fs::create_dir_all(place.join("d")).unwrap();
    std::os::unix::fs::symlink("d", place.join("link")).unwrap();
    fs::write(place.join("d/ls"), "").unwrap();
    let found = |name: &str| resolved(name, &place).map(|found| found.path);
    let real = place.join("d/ls");
    for name in ["./d/ls", "d/./ls", real.to_str().unwrap()] {
        assert_eq!(found(name).as_ref(), Some(&real), "{name}");
    }
    for name in ["./link/ls", "link/ls", "d/../d/ls", place.join("link/ls").to_str().unwrap()] {
        assert_eq!(found(name), None, "{name}");
    }
    assert_eq!(resolved("./nothing", Path::new("/tmp")), None);
    assert!(resolved("sh", Path::new("/nowhere")).is_some_and(|found| found.path.ends_with("sh")));
}

struct Never;

impl Clock for Never {
    fn now(&self) -> Millis {
        Millis(0)
    }
}

#[tokio::test]
async fn what_is_listed_runs_in_the_directory_that_was_looked_at() {
    let dir = tempfile::tempdir().unwrap();
    let place = fs::canonicalize(dir.path()).unwrap();
    for name in ["ws", "state", "d"] {
        fs::create_dir(place.join(name)).unwrap();
    }
    std::os::unix::fs::symlink(place.join("d"), place.join("ws/link")).unwrap();
    let (config, store) = (place.join("state/config.json"), place.join("state/agent.db"));
    fs::write(&config, r#"{"tools":{"exec":{"security":"allowlist"}}}"#).unwrap();
    let model = Model { proxy: ([127, 0, 0, 1], 1).into() };
    let (store, config) = (Store::open(&store).unwrap(), Configured::open(config).unwrap());
    let gateway = Gateway::new(store, model, place.join("ws"), config, Box::new(Never)).unwrap();
    let list = json!([{ "pattern": "echo" }]);
    let document = json!({ "version": 1, "agents": { AGENT: { "allowlist": list } } });
    gateway.store.put_exec_approvals(&document.to_string()).unwrap();
    let bench = Bench { gateway: &gateway, run: None, call: "" };
    let (link, nothing) = (place.join("ws/link"), place.join("ws/nothing"));
    assert_eq!(consent(&bench, "echo x", &link, false).await.unwrap(), place.join("d"));
    // One that is not there could be any by the time.
    assert!(consent(&bench, "echo x", &nothing, false).await.is_err());
    assert!(consent(&bench, "echo x", &link, true).await.is_err(), "in the background");
}

#[test]
fn files_among_arguments_are_bound() {
    let dir = tempfile::tempdir().unwrap();
    let place = fs::canonicalize(dir.path()).unwrap();
    fs::write(place.join("f"), "").unwrap();
    std::os::unix::fs::symlink("/usr/bin/env", place.join("link")).unwrap();
    let files = |text: &str| {
        let simple = command::parse(text).unwrap().remove(0);
        Program::of(simple, &place).files
    };
    for text in ["sh f", "sh -x ./f", "sh --file=f", "sh <f", "sh link", "sh /usr/../usr/bin/env"] {
        let found = files(text);
        assert!(found.len() == 1 && !found[0].stays(Path::new("/nowhere")), "{text}: {found:?}");
    }
    let outside = files("sh /usr/bin/env");
    assert!(outside[0].stays(Path::new("/nowhere")) && !outside[0].stays(Path::new("/usr")));
    for text in ["sh g", "sh .", "sh >f", "echo f"] {
        assert_eq!(files(text), [], "{text}");
    }
}
