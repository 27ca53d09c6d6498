//! Skills and tools of MCP servers, from a file to what a model is told and does.

use super::*;

fn write(world: &World, name: &str, text: &str) -> std::path::PathBuf {
    let dir = world.dir.path().join("workspace/skills").join(name);
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("SKILL.md"), text).unwrap();
    dir.join("SKILL.md")
}

#[tokio::test]
async fn a_skill_is_told_of_read_on_demand_called_and_switched_off() {
    let world = World::new(Vec::new()).await;
    let path =
        write(&world, "notes", "---\nname: Release Notes\ndescription: Writes them\n---\nSecret steps.");
    write(&world, "broken", "no head");
    let mut client = world.client(ALL).await;
    world.script.lines.lock().unwrap().push_back(Line::Calls(vec![("read", json!({ "path": path }))]));
    client.call("chat.send", message("hi", "r1")).await.unwrap();
    client.chat("final").await;
    let asked = world.script.asked.lock().unwrap().clone();
    let system = asked[0]["messages"][0]["content"].as_str().unwrap();
    assert!(system.contains("<name>Release Notes</name><description>Writes them</description>"), "{system}");
    assert!(system.contains("writable=\"yes\"") && !system.contains("Secret steps"), "{system}");
    assert!(asked[1]["messages"].to_string().contains("Secret steps."), "the body is read when it is wanted");
    let status = client.call("skills.status", json!({})).await.unwrap();
    assert_eq!(
        (&status["skills"][0]["name"], &status["skills"][0]["writable"]),
        (&json!("Release Notes"), &json!(true))
    );
    assert!(status["broken"][0]["reason"].as_str().unwrap().contains("does not begin"), "{status}");
    // A person calls it.
    let commands = client.call("commands.list", json!({})).await.unwrap();
    let ours: Vec<_> =
        commands["commands"].as_array().unwrap().iter().filter(|it| it["source"] == "skill").collect();
    assert_eq!((ours.len(), &ours[0]["name"]), (1, &json!("release_notes")));
    client.call("chat.send", message("/release_notes for 2.0", "r2")).await.unwrap();
    client.chat("final").await;
    let said =
        world.asked()["messages"].as_array().unwrap().last().unwrap()["content"].as_str().unwrap().to_owned();
    assert!(said.contains("SKILL.md first") && said.ends_with("for 2.0"), "{said}");
    assert!(said.contains("may have written that file"), "{said}");
    // Off is off, on disk too.
    let off = json!({ "skillKey": "Release Notes", "enabled": false });
    assert!(
        world.client("operator.read,operator.write").await.call("skills.update", off.clone()).await.is_err()
    );
    client.call("skills.update", off).await.unwrap();
    assert!(client.call("skills.update", json!({ "skillKey": "none", "enabled": true })).await.is_err());
    let status = client.call("skills.status", json!({})).await.unwrap();
    assert_eq!(
        (&status["skills"][0]["disabled"], &status["skills"][0]["eligible"]),
        (&json!(true), &json!(false))
    );
    client.call("chat.send", message("/release_notes", "r3")).await.unwrap();
    client.chat("final").await;
    let asked = world.asked();
    assert_eq!(asked["messages"].as_array().unwrap().last().unwrap()["content"], "/release_notes");
    assert!(!asked["messages"][0]["content"].as_str().unwrap().contains("Release Notes"));
    let kept = std::fs::read_to_string(world.dir.path().join("state/config.json")).unwrap();
    assert!(kept.contains("Release Notes"), "{kept}");
}

#[tokio::test]
async fn skills_are_not_looked_for_in_the_gateways_own_state() {
    let world = World::new(Vec::new()).await;
    let hidden = world.dir.path().join("state/hidden");
    std::fs::create_dir(&hidden).unwrap();
    std::fs::write(hidden.join("SKILL.md"), "---\nname: hidden\ndescription: of the state\n---\n").unwrap();
    std::os::unix::fs::symlink("../state", world.dir.path().join("workspace/skills")).unwrap();
    let mut client = world.client(ALL).await;
    let status = client.call("skills.status", json!({})).await.unwrap();
    assert_eq!(status["skills"], json!([]));
    let commands = client.call("commands.list", json!({})).await.unwrap();
    assert!(!commands.to_string().contains("of the state"), "{commands}");
    let update = json!({ "skillKey": "hidden", "enabled": true });
    assert!(client.call("skills.update", update).await.is_err());
    client.call("chat.send", message("/hidden", "r1")).await.unwrap();
    client.chat("final").await;
    assert_eq!(world.asked()["messages"].as_array().unwrap().last().unwrap()["content"], "/hidden");
}

/// From the configuration to a turn: a server's tool is searched for, brought in, called, and changes.
#[tokio::test]
async fn a_tool_of_a_server_is_called_in_a_turn_and_waits_for_a_person_when_it_changed() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("state")).unwrap();
    // Where the program may write: beside the gateway's state it may not.
    let double = dir.path().join("double");
    std::fs::create_dir(&double).unwrap();
    std::fs::write(double.join("double.py"), include_str!("../../mcp/double.py")).unwrap();
    let names: Vec<String> = (0..30).map(|at| format!("tool{at}")).collect();
    std::fs::write(double.join("tools"), names.join(" ")).unwrap();
    let server = json!({ "command": "python3", "args": [double.join("double.py"), double] });
    let config = json!({ "mcp": { "servers": { "many": server } } });
    std::fs::write(dir.path().join("state/config.json"), config.to_string()).unwrap();
    let world = World::in_dir(
        dir,
        vec![
            Line::Calls(vec![("tool_search", json!({ "query": "many__tool7" }))]),
            Line::Calls(vec![("many__tool7", json!({ "what": "hi" }))]),
            Line::Says("done"),
        ],
    )
    .await;
    let mut client = world.client(&format!("{ALL},operator.approvals")).await;
    client.call("chat.send", message("go", "r1")).await.unwrap();
    client.chat("final").await;
    let asked = world.script.asked.lock().unwrap().clone();
    let sent = |body: &Value| {
        let tools = body["tools"].as_array().unwrap();
        tools.iter().map(|it| it["function"]["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert!(
        sent(&asked[0]).contains(&"tool_search".to_owned())
            && !sent(&asked[0]).contains(&"many__tool7".to_owned())
    );
    assert_eq!(sent(&asked[1]).last().unwrap(), "many__tool7");
    let results = asked[2]["messages"].to_string();
    assert!(results.contains("tool7 says hi") && results.contains("untrusted source"), "{results}");
    // It stays for this conversation, and goes with it.
    let say = async |client: &mut Socket, text: &str, id: &str| {
        client.call("chat.send", message(text, id)).await.unwrap();
        client.chat("final").await["message"]["content"][0]["text"].as_str().unwrap().to_owned()
    };
    say(&mut client, "again", "r2").await;
    assert_eq!(sent(&world.asked()).last().unwrap(), "many__tool7");
    let status = say(&mut client, "/status", "c1").await;
    say(&mut client, "/new", "c2").await;
    let fresh = say(&mut client, "/status", "c3").await;
    let bytes = |status: &str| {
        status.rsplit_once(": ").unwrap().1.trim_end_matches(" bytes.").parse::<usize>().unwrap()
    };
    assert!(bytes(&fresh) < bytes(&status) && bytes(&fresh) < 6_000, "{status} {fresh}");
    assert!(say(&mut client, "/mcp", "c4").await.contains("many: 30 tools"));
    // After the next start all of them say something else, and only a person with that scope says yes.
    std::fs::write(world.dir.path().join("double/says"), "Other words").unwrap();
    let world = world.again(vec![Line::Calls(vec![("many__tool7", json!({}))]), Line::Says("done")]).await;
    let mut client = world.client(ALL.trim_start_matches("operator.admin,")).await;
    say(&mut client, "go", "r3").await;
    let results = world.asked()["messages"].to_string();
    assert!(results.contains("waits until a person accepts it"), "{results}");
    assert!(client.call("plugin.approval.list", json!({})).await.is_err());
    let mut approver = world.client("operator.approvals").await;
    let list = approver.call("plugin.approval.list", json!({})).await.unwrap();
    let id = list[0]["id"].as_str().unwrap();
    assert!(list[0]["request"]["detail"].as_str().unwrap().contains("now: Other words"), "{list}");
    approver.call("plugin.approval.resolve", json!({ "id": id, "decision": "allow-always" })).await.unwrap();
    assert!(say(&mut client, "/mcp", "c5").await.contains("many: 30 tools\n"));
}
