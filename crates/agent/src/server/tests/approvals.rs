//! Commands that ask, and who answers.

use super::*;

const APPROVER: &str = "operator.approvals,operator.read";

/// A gateway whose commands ask for what is not on the list.
async fn asking(tools: Value, lines: Vec<Line>) -> World {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("state")).unwrap();
    std::fs::write(dir.path().join("state/config.json"), json!({ "tools": tools }).to_string()).unwrap();
    World::in_dir(dir, lines).await
}

fn exec(command: &str) -> Line {
    Line::Calls(vec![("exec", json!({ "command": command }))])
}

/// What the model was told of its last call.
fn told(world: &World) -> String {
    let last = world.asked()["messages"].as_array().unwrap().last().unwrap().clone();
    assert_eq!(last["role"], "tool", "{last}");
    last["content"].as_str().unwrap().to_owned()
}

async fn next(client: &mut Socket, wanted: &str) -> Value {
    loop {
        let (name, payload) = client.event().await;
        if name == wanted {
            return payload;
        }
    }
}

async fn asked(approver: &mut Socket) -> Value {
    next(approver, "exec.approval.requested").await
}

/// Waits for the end of a run.
async fn ended(client: &mut Socket, run: &str) {
    while client.chat("final").await["runId"] != run {}
}

#[tokio::test]
async fn a_command_runs_as_it_was_shown_once_somebody_who_may_says_so() {
    let line = "echo a >f && echo b; cat f";
    let lines = vec![
        exec(line),
        Line::Says("1"),
        exec(line),
        Line::Says("2"),
        exec("echo c"),
        Line::Says("3"),
        exec("echo c"),
        Line::Says("4"),
        exec("echo c >f"),
        Line::Says("5"),
    ];
    let world = asking(json!({ "exec": { "mode": "ask" } }), lines).await;
    let (mut client, mut approver) = (world.client("operator.write").await, world.client(APPROVER).await);
    let file = world.dir.path().join("workspace/f");

    client.call("chat.send", message("go", "r1")).await.unwrap();
    let question = asked(&mut approver).await;
    let (id, request) = (question["id"].as_str().unwrap().to_owned(), &question["request"]);
    assert_eq!((&request["command"], &request["ask"]), (&json!(line), &json!("on-miss")));
    assert_eq!(request["warningText"], "runs: echo, echo, cat; redirects: > f");
    assert_eq!(request["runId"], "r1");
    assert!(!file.exists());
    // Whoever may only write neither sees nor answers it.
    for (method, params) in [
        ("exec.approval.list", json!({})),
        ("exec.approval.resolve", json!({ "id": id, "decision": "allow-once" })),
        ("exec.approvals.set", json!({ "file": { "version": 1 } })),
    ] {
        assert_eq!(client.call(method, params).await.unwrap_err()["code"], "FORBIDDEN", "{method}");
    }
    client.call("chat.send", message(&format!("/approve {id} allow-once"), "a0")).await.unwrap();
    let said = client.chat("final").await;
    assert!(said.to_string().contains("requires operator.approvals"), "{said}");
    // By another way the same words come to nothing, too.
    let mut other = world.client(ALL).await;
    let typed = json!({ "message": format!("/approve {id} deny"), "idempotencyKey": "a1", "sessionKey": "agent:main:x" });
    other.call("agent", typed).await.unwrap();
    assert!(other.chat("final").await.to_string().contains("answered by chat.send"));
    assert!(!file.exists());

    let rows = approver.call("exec.approval.list", json!({})).await.unwrap();
    assert_eq!(rows, json!([question]));
    let got = approver.call("exec.approval.get", json!({ "id": id })).await.unwrap();
    assert_eq!(got["commandText"], line);
    let bad =
        approver.call("exec.approval.resolve", json!({ "id": id, "decision": "yes" })).await.unwrap_err();
    assert_eq!(bad["message"], "invalid decision");
    approver
        .call("exec.approval.resolve", json!({ "id": &id[..8], "decision": "allow-once" }))
        .await
        .unwrap();
    ended(&mut client, "r1").await;
    assert_eq!((told(&world), file.exists()), ("b\na\n".to_owned(), true));
    // Once is once, the same answer again is no other, and another is refused.
    approver.call("exec.approval.resolve", json!({ "id": id, "decision": "allow-once" })).await.unwrap();
    let twice =
        approver.call("exec.approval.resolve", json!({ "id": id, "decision": "deny" })).await.unwrap_err();
    assert_eq!(twice["details"]["reason"], "APPROVAL_ALREADY_RESOLVED");
    std::fs::remove_file(&file).unwrap();

    client.call("chat.send", message("again", "r2")).await.unwrap();
    let resolved = next(&mut approver, "exec.approval.resolved").await;
    assert_eq!((&resolved["decision"], &resolved["resolvedBy"]), (&json!("allow-once"), &json!("m001")));
    let second = asked(&mut approver).await["id"].as_str().unwrap().to_owned();
    assert_ne!(second, id);
    approver.call("exec.approval.resolve", json!({ "id": second, "decision": "deny" })).await.unwrap();
    ended(&mut client, "r2").await;
    assert_eq!((told(&world), file.exists()), ("exec denied: somebody said no".to_owned(), false));

    // For good, by the command of a client that may: exactly this, in this directory.
    let mut both = world.client("operator.write,operator.read,operator.approvals").await;
    both.call("chat.send", message("c", "r3")).await.unwrap();
    let third = asked(&mut both).await["id"].as_str().unwrap().to_owned();
    both.call("chat.send", message(&format!("/approve {third} always"), "a3")).await.unwrap();
    ended(&mut client, "r3").await;
    assert_eq!(told(&world), "c\n");
    client.call("chat.send", message("c again", "r4")).await.unwrap();
    ended(&mut client, "r4").await;
    assert_eq!(told(&world), "c\n");
    client.call("chat.send", message("c elsewhere", "r5")).await.unwrap();
    let fifth = asked(&mut both).await;
    assert_eq!(fifth["request"]["command"], "echo c >f");
    let policy = other.call("exec.approvals.get", json!({})).await.unwrap();
    let list = policy["file"]["agents"]["main"]["allowlist"].as_array().unwrap();
    assert_eq!(
        (list.len(), &list[0]["pattern"], &list[0]["source"]),
        (1, &json!("echo"), &json!("allow-always"))
    );
    // What is stopped is asked no more, and nothing came of it.
    client.call("chat.abort", json!({ "sessionKey": "main" })).await.unwrap();
    client.chat("aborted").await;
    assert_eq!(approver.call("exec.approval.list", json!({})).await.unwrap(), json!([]));
    assert!(!file.exists());
}

#[tokio::test]
async fn a_list_lets_run_what_it_has_and_nothing_that_is_not_understood() {
    let commands = [
        ("cat f 2>/dev/null | wc -c >/dev/null; echo ok", Some("ok\n")),
        ("echo $HOME >/dev/null; echo $(echo in)", Some("in\n")),
        ("echo x; ls", None),
        ("echo x >f", None),
        ("echo $(ls)", None),
        ("echo `ls`", None),
        ("./cat f", None),
        ("PATH=. cat f", None),
        ("wc -l f", None),
        ("wc -c $X", None),
        ("eval echo x", None),
        ("if true; then echo x; fi", None),
    ];
    let lines = commands.iter().flat_map(|(command, _)| [exec(command), Line::Says("done")]).collect();
    let world = asking(json!({ "exec": { "security": "allowlist" } }), lines).await;
    let mut client = world.client(ALL).await;
    let list = json!([
        { "pattern": "/usr/bin/cat" }, { "pattern": "/bin/cat" }, { "pattern": "echo" }, { "pattern": "wc", "argPattern": "^-c$" },
    ]);
    let file = json!({ "version": 1, "agents": { "main": { "allowlist": list } } });
    let set = client.call("exec.approvals.set", json!({ "file": file })).await.unwrap();
    assert_eq!(set["resolvedDefaults"]["security"], "allowlist");
    assert!(
        client.call("exec.approvals.set", json!({ "file": file })).await.is_err(),
        "without the hash of what is there"
    );
    for bad in [
        json!({ "version": 1, "agents": { "other": {} } }),
        json!({ "version": 1, "defaults": { "askFallback": "full" } }),
        json!({ "version": 1, "agents": { "main": { "allowlist": [{ "pattern": "a", "argPattern": "(" }] } } }),
        json!({ "version": 1, "defaults": { "autoAllowSkills": true } }),
    ] {
        let set = json!({ "file": bad, "baseHash": set["hash"] });
        assert!(client.call("exec.approvals.set", set.clone()).await.is_err(), "{set}");
    }
    std::fs::create_dir_all(world.dir.path().join("workspace")).unwrap();
    for (number, (command, said)) in commands.iter().enumerate() {
        let id = format!("r{number}");
        client.call("chat.send", message("go", &id)).await.unwrap();
        client.chat("final").await;
        match said {
            Some(said) => assert_eq!(told(&world), *said, "{command}"),
            None => assert!(
                told(&world).starts_with("exec denied: it is not on the list"),
                "{command}: {}",
                told(&world)
            ),
        }
    }
    assert!(!world.dir.path().join("workspace/f").exists());
}

#[tokio::test]
async fn what_waited_when_the_gateway_was_killed_is_over_and_nothing_ran() {
    let mut world = asking(json!({ "exec": { "ask": "always" } }), vec![exec("touch f")]).await;
    let (mut client, mut approver) = (world.client(ALL).await, world.client(APPROVER).await);
    client.call("chat.send", message("go", "r1")).await.unwrap();
    let question = asked(&mut approver).await;
    assert_eq!(question["request"]["allowedDecisions"], json!(["allow-once", "deny"]));
    let id = question["id"].clone();
    let always = json!({ "id": id, "decision": "allow-always" });
    let refused = approver.call("exec.approval.resolve", always).await.unwrap_err();
    assert_eq!(refused["details"]["reason"], "APPROVAL_ALLOW_ALWAYS_UNAVAILABLE");
    // As by a kill: the state as it is on disk now, under another gateway.
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("state")).unwrap();
    for entry in std::fs::read_dir(world.dir.path().join("state")).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, dir.path().join("state").join(path.file_name().unwrap())).unwrap();
    }
    world.tasks.drain(..).for_each(|task| task.abort());
    let next = World::in_dir(dir, Vec::new()).await;
    let mut approver = next.client(APPROVER).await;
    assert_eq!(approver.call("exec.approval.list", json!({})).await.unwrap(), json!([]));
    let end = approver.call("exec.approval.waitDecision", json!({ "id": id })).await.unwrap();
    assert_eq!((&end["decision"], &end["terminalReason"]), (&Value::Null, &json!("gateway-restart")));
    let late = json!({ "id": id, "decision": "allow-once" });
    let late = approver.call("exec.approval.resolve", late).await.unwrap_err();
    assert_eq!(late["details"]["reason"], "APPROVAL_NOT_FOUND");
    assert!(!next.dir.path().join("workspace/f").exists() && !world.dir.path().join("workspace/f").exists());
}

#[tokio::test]
async fn plugins_ask_in_the_same_way_and_never_in_the_hosts_name() {
    let world = World::new(Vec::new()).await;
    let (mut client, mut approver) = (world.client(ALL).await, world.client(APPROVER).await);
    let ask = json!({ "title": "Publish\u{202e}", "description": "a page", "twoPhase": true, "allowedDecisions": ["allow-once"] });
    let accepted = client.call("plugin.approval.request", ask).await.unwrap();
    assert_eq!(
        (&accepted["status"], &accepted["deliveryRoute"]),
        (&json!("accepted"), &json!("approval-client"))
    );
    let id = accepted["id"].as_str().unwrap().to_owned();
    assert!(id.starts_with("plugin:") && !id.starts_with("plugin:cofferdam-"), "{id}");
    let rows = approver.call("plugin.approval.list", json!({})).await.unwrap();
    assert_eq!(rows[0]["request"]["title"], "Publish\\u{202e}", "what turns text around is spelled out");
    assert_eq!(rows[0]["request"]["allowedDecisions"], json!(["allow-once", "deny"]));
    let other = json!({ "id": id, "decision": "deny" });
    assert!(approver.call("exec.approval.resolve", other.clone()).await.is_err(), "another family");
    approver.call("plugin.approval.resolve", other).await.unwrap();
    let end = client.call("plugin.approval.waitDecision", json!({ "id": id })).await.unwrap();
    assert_eq!((&end["decision"], &end["terminalReason"]), (&json!("deny"), &json!("user")));
    for forged in ["plugin:cofferdam-1", "plugin:1"] {
        let ask = json!({ "id": forged, "command": "ls" });
        assert!(client.call("exec.approval.request", ask).await.is_err(), "{forged}");
    }
    // Nobody answers: it is over, and no yes.
    let ask = json!({ "command": "ls", "timeoutMs": 1 });
    assert_eq!(client.call("exec.approval.request", ask).await.unwrap()["decision"], Value::Null);
}

#[tokio::test]
async fn what_the_policy_leaves_out_is_neither_told_nor_called() {
    let lines = vec![exec("echo x"), Line::Says("done")];
    let world = asking(json!({ "profile": "coding", "deny": ["group:runtime", "ls"] }), lines).await;
    let mut client = world.client(ALL).await;
    client.call("chat.send", message("go", "r1")).await.unwrap();
    client.chat("final").await;
    assert!(told(&world).starts_with("there is no tool \"exec\""), "{}", told(&world));
    let tools = world.asked()["tools"].to_string();
    assert!(
        tools.contains("\"read\"") && !tools.contains("\"exec\"") && !tools.contains("\"ls\""),
        "{tools}"
    );
    let catalog = client.call("tools.catalog", json!({})).await.unwrap().to_string();
    assert!(
        catalog.contains("\"read\"") && !catalog.contains("\"exec\"") && !catalog.contains("\"ls\""),
        "{catalog}"
    );
    let invoked = client.call("tools.invoke", json!({ "name": "ls", "args": {} })).await.unwrap();
    assert_eq!((&invoked["ok"], &invoked["error"]["code"]), (&json!(false), &json!("not_found")));
}

#[tokio::test]
async fn what_is_written_to_later_is_on_no_list_and_never_allowed_for_good() {
    let call = || Line::Calls(vec![("exec", json!({ "command": "cat", "background": true }))]);
    let world = asking(json!({ "exec": { "mode": "ask" } }), vec![call(), Line::Says("1")]).await;
    let mut client = world.client(ALL).await;
    let file = json!({ "version": 1, "agents": { "main": { "allowlist": [{ "pattern": "cat" }] } } });
    client.call("exec.approvals.set", json!({ "file": file })).await.unwrap();
    client.call("chat.send", message("go", "r1")).await.unwrap();
    let question = asked(&mut client).await;
    let request = &question["request"];
    assert_eq!(request["allowedDecisions"], json!(["allow-once", "deny"]));
    assert!(request["warningText"].as_str().unwrap().contains("more can be written to it"), "{request}");
    let deny = json!({ "id": question["id"], "decision": "deny" });
    client.call("exec.approval.resolve", deny).await.unwrap();
    ended(&mut client, "r1").await;
    assert_eq!(told(&world), "exec denied: somebody said no");
}

#[tokio::test]
async fn a_link_is_not_what_it_leads_to() {
    let calls = [json!({ "command": "./d/cat /dev/null" }), json!({ "command": "./cat f", "workdir": "d" })];
    let lines = calls.into_iter().flat_map(|call| [Line::Calls(vec![("exec", call)]), Line::Says("done")]);
    let world = asking(json!({ "exec": { "mode": "ask" } }), lines.collect()).await;
    let mut client = world.client(ALL).await;
    let place = std::fs::canonicalize(world.dir.path()).unwrap();
    let (true_one, link) = (place.join("true"), place.join("workspace/d"));
    std::fs::create_dir_all(&true_one).unwrap();
    std::fs::create_dir_all(place.join("workspace")).unwrap();
    std::fs::copy("/bin/cat", true_one.join("cat")).unwrap();
    std::os::unix::fs::symlink(&true_one, &link).unwrap();
    let list = json!([{ "pattern": format!("{}/*", true_one.display()) }]);
    let file = json!({ "version": 1, "agents": { "main": { "allowlist": list } } });
    client.call("exec.approvals.set", json!({ "file": file })).await.unwrap();

    client.call("chat.send", message("go", "r1")).await.unwrap();
    let question = asked(&mut client).await;
    assert_eq!(question["request"]["resolvedPath"], Value::Null);
    let deny = json!({ "id": question["id"], "decision": "deny" });
    client.call("exec.approval.resolve", deny).await.unwrap();
    ended(&mut client, "r1").await;

    // The control: in that directory, which the link as it is now leads to, it is on the list.
    std::fs::write(true_one.join("f"), "of the true one").unwrap();
    client.call("chat.send", message("go", "r2")).await.unwrap();
    ended(&mut client, "r2").await;
    assert_eq!(told(&world), "of the true one");
}

#[tokio::test]
async fn an_answer_is_for_the_script_as_it_was_and_never_for_good() {
    let line = "sh check.sh";
    let lines = (1..=4).flat_map(|_| [exec(line), Line::Says("done")]);
    let world = asking(json!({ "exec": { "mode": "ask" } }), lines.collect()).await;
    let mut client = world.client(ALL).await;
    let script = world.dir.path().join("workspace/check.sh");
    std::fs::create_dir_all(script.parent().unwrap()).unwrap();
    let once = json!(["allow-once", "deny"]);
    // What is said: before the script is there, as it is, after another is written, as it is.
    for (number, (before, after, decision, said)) in [
        (None, None, "allow-always", "check.sh"),
        (Some("echo a"), None, "allow-once", "a\n"),
        (
            Some("echo a"),
            Some("echo evil"),
            "allow-once",
            "exec denied: what would run now is not what was approved",
        ),
        (Some("echo b"), None, "allow-once", "b\n"),
    ]
    .into_iter()
    .enumerate()
    {
        if let Some(text) = before {
            std::fs::write(&script, text).unwrap();
        }
        let run = format!("r{number}");
        client.call("chat.send", message("go", &run)).await.unwrap();
        let question = asked(&mut client).await;
        assert_eq!(question["request"]["allowedDecisions"] == once, before.is_some(), "{question}");
        if let Some(text) = after {
            std::fs::write(&script, text).unwrap();
        }
        let answer = json!({ "id": question["id"], "decision": decision });
        client.call("exec.approval.resolve", answer).await.unwrap();
        ended(&mut client, &run).await;
        assert!(told(&world).contains(said), "{number}: {}", told(&world));
    }
}
