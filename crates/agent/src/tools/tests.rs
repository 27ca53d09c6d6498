#![allow(clippy::unwrap_used)]

use super::*;
use crate::{config::Configured, store::Store, turn::model::Model};
use cofferdam_base::{Clock, Millis};

struct Never;

impl Clock for Never {
    fn now(&self) -> Millis {
        Millis(1_795_330_345_458)
    }
}

/// A gateway whose model nobody serves.
struct Shop {
    dir: tempfile::TempDir,
    gateway: Arc<Gateway>,
}

impl Shop {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (workspace, store) = (dir.path().join("ws"), Store::open(&dir.path().join("agent.db")).unwrap());
        std::fs::create_dir(&workspace).unwrap();
        let config = Configured::open(dir.path().join("config.json")).unwrap();
        let model = Model { proxy: ([127, 0, 0, 1], 1).into() };
        let gateway = Gateway::new(store, model, workspace, config, Box::new(Never)).unwrap();
        Self { dir, gateway }
    }

    async fn run(&self, name: &str, arguments: Value) -> Output {
        Bench { gateway: &self.gateway, run: None, call: "" }.run(name, &arguments.to_string()).await
    }
}

#[tokio::test]
async fn files_are_written_read_listed_and_edited() {
    let shop = Shop::new();
    let wrote = shop.run("write", json!({ "path": "a/b.txt", "content": "one\ntwo\nthree\n" })).await;
    assert!(!wrote.is_error, "{wrote:?}");
    assert_eq!(shop.run("read", json!({ "path": "a/b.txt", "offset": 2, "limit": 1 })).await.text, "two\n");
    assert_eq!(shop.run("ls", json!({})).await.text, "a/");
    let edit = |old: &str, new: &str| json!({ "path": "a/b.txt", "oldText": old, "newText": new });
    assert!(!shop.run("edit", edit("two", "2")).await.is_error);
    assert_eq!(shop.run("read", json!({ "path": "a/b.txt" })).await.text, "one\n2\nthree\n");
    for (old, why) in [("e", "occurs 3 times"), ("four", "does not occur"), ("", "is empty")] {
        let refused = shop.run("edit", edit(old, "x")).await;
        assert!(refused.is_error && refused.text.contains(why), "{refused:?}");
    }
    for (name, arguments, why) in [
        ("read", json!({ "path": "no" }), "cannot read"),
        ("read", json!({ "path": "/dev/zero" }), "no regular file"),
        ("read", json!({ "path": "a", "more": 1 }), "cannot be read"),
        ("fly", json!({}), "there is no tool"),
    ] {
        let refused = shop.run(name, arguments).await;
        assert!(refused.is_error && refused.text.contains(why), "{refused:?}");
    }
}

#[tokio::test]
async fn a_patch_changes_all_of_its_files_or_none() {
    let shop = Shop::new();
    let path = |name: &str| shop.dir.path().join("ws").join(name);
    for (name, text) in [("a", "one\ntwo\n"), ("b", "old\n"), ("c", "gone\n")] {
        std::fs::write(path(name), text).unwrap();
    }
    let patch = |last: &str| {
        format!(
            "*** Begin Patch\n*** Add File: d/e\n+new\n*** Update File: a\n@@ one\n-two\n+2\n\
             *** Update File: b\n*** Move to: f\n-old\n+moved\n*** Delete File: {last}\n*** End Patch\n"
        )
    };
    let failed = shop.run("apply_patch", json!({ "input": patch("nothing") })).await;
    assert!(failed.is_error && failed.text.starts_with("nothing was changed"), "{failed:?}");
    assert_eq!(std::fs::read_to_string(path("a")).unwrap(), "one\ntwo\n");
    assert!(!path("d").exists());
    let done = shop.run("apply_patch", json!({ "input": patch("c") })).await;
    assert!(!done.is_error, "{done:?}");
    for (name, text) in [("a", "one\n2\n"), ("d/e", "new\n"), ("f", "moved\n")] {
        assert_eq!(std::fs::read_to_string(path(name)).unwrap(), text, "{name}");
    }
    assert!(!path("b").exists() && !path("c").exists());
}

#[tokio::test]
async fn a_long_file_is_read_in_parts() {
    let shop = Shop::new();
    let line = "x".repeat(99);
    let text = format!("{line}\n").repeat(1000);
    shop.run("write", json!({ "path": "long", "content": text })).await;
    let first = shop.run("read", json!({ "path": "long" })).await.text;
    let next: usize = first.rsplit("offset ").next().unwrap().split(' ').next().unwrap().parse().unwrap();
    assert_eq!(first.lines().filter(|it| *it == line).count(), next - 1);
    let rest = shop.run("read", json!({ "path": "long", "offset": next })).await.text;
    assert!(rest.starts_with(&line));
}

#[tokio::test]
async fn a_command_says_how_it_ended_and_leaves_nobody_behind() {
    let shop = Shop::new();
    let run = async |command: &str| shop.run("exec", json!({ "command": command, "timeout": 1 })).await;
    let good = run("echo out; echo err >&2").await;
    assert_eq!((&*good.text, good.is_error, &good.details["exitCode"]), ("out\nerr\n", false, &json!(0)));
    let bad = run("exit 3").await;
    assert_eq!((&*bad.text, bad.is_error), ("[it ended with 3]", true));
    // Its children are killed with it, those that it left in the background too.
    let mark = shop.dir.path().join("ws/left");
    let left = run("(sleep 5; touch left) & echo gone").await;
    assert_eq!(left.text, "gone\n");
    let late = run("(sleep 1.2; touch left) & sleep 30").await;
    assert!(late.is_error && late.text.contains("killed after 1 s"), "{late:?}");
    tokio::time::sleep(std::time::Duration::from_millis(400)).await;
    assert!(!mark.exists());
}

#[tokio::test]
async fn of_much_output_beginning_and_end_are_kept() {
    let shop = Shop::new();
    let much =
        shop.run("exec", json!({ "command": "echo begin; yes | head -c 200000; echo end" })).await.text;
    assert!(much.starts_with("begin\n") && much.ends_with("end\n") && much.contains("bytes left out"));
    assert!(much.len() < OUTPUT + 100);
}

#[test]
fn every_schema_can_be_read_and_what_is_sent_each_turn_is_small() {
    for about in all() {
        let schema: Value = serde_json::from_str(about.parameters).unwrap();
        assert_eq!(schema["type"], "object", "{}", about.name);
        assert_eq!(all().filter(|it| it.name == about.name).count(), 1, "{}", about.name);
    }
}

#[test]
fn what_is_sent_in_every_turn_is_small() {
    let shop = Shop::new();
    let tools = offered(&shop.gateway, "s");
    assert!(
        tools.iter().all(|tool| tool["function"]["name"] != "tool_search"),
        "nothing is left to be found"
    );
    let system = crate::turn::fixed::system(&shop.gateway, None);
    let body = crate::turn::context::request("default", &system, &[], None, tools);
    assert!(body.len() < 6_000, "{} bytes", body.len());
}

#[tokio::test]
async fn a_command_in_the_background_is_read_written_to_and_killed() {
    let shop = Shop::new();
    let begun =
        shop.run("exec", json!({ "command": "read x; echo got $x; sleep 600", "background": true })).await;
    assert_eq!(begun.text, "it runs in the background as 1");
    let act = async |action: &str, more: Value| {
        let mut asked = json!({ "action": action, "id": 1 });
        asked.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        shop.run("process", asked).await.text
    };
    assert!(act("list", json!({})).await.starts_with("1 runs: read x"));
    assert_eq!(act("read", json!({})).await, "\n[it runs]");
    assert_eq!(act("write", json!({ "input": "it\n" })).await, "written");
    assert_eq!(act("read", json!({ "wait": 20 })).await, "got it\n[it runs]");
    let killed = act("kill", json!({})).await;
    assert!(killed.contains("signal: 9"), "{killed}");
    assert!(act("list", json!({})).await.contains("signal: 9"));
    for number in 0..20 {
        let more = shop.run("exec", json!({ "command": "sleep 600", "background": true })).await;
        assert_eq!(more.is_error, number >= 16, "{number} {more:?}");
    }
    assert!(shop.run("process", json!({ "action": "read", "id": 99 })).await.is_error);
}
