//! Skills, from a file in the workspace to what a model is told.

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
