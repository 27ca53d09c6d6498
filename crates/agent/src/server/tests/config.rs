//! The configuration over the wire.

use super::*;

async fn refused(client: &mut Socket, method: &str, params: Value) -> String {
    client.call(method, params).await.unwrap_err()["message"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_change_is_made_of_what_was_read_and_is_in_force_at_once() {
    let world = World::new(vec![Line::Says("one"), Line::Says("two")]).await;
    let mut admin = world.client(ALL).await;
    let none = admin.call("config.get", json!({})).await.unwrap();
    assert_eq!((&none["exists"], &none["raw"], &none["parsed"]), (&json!(false), &Value::Null, &json!({})));
    let written = "// mine\n{ agents: { defaults: { model: 'quick' } } }";
    let set = admin.call("config.set", json!({ "raw": written })).await.unwrap();
    assert_eq!((&set["ok"], &set["config"]["agents"]["defaults"]["model"]), (&json!(true), &json!("quick")));
    let file = world.dir.path().join("state/config.json");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), written, "the file keeps what was written");
    let read = admin.call("config.get", json!({})).await.unwrap();
    assert_eq!((&read["raw"], &read["hash"]), (&json!(written), &set["hash"]));

    admin.call("chat.send", message("hi", "r1")).await.unwrap();
    admin.chat("final").await;
    assert_eq!(world.asked()["model"], "quick");
    let patch = json!({ "raw": "{agents:{defaults:{model:'slow',thinkingDefault:'low'}}}", "baseHash": read["hash"] });
    let patched = admin.call("config.patch", patch.clone()).await.unwrap();
    assert_eq!(patched["changedPaths"], json!(["agents.defaults.model", "agents.defaults.thinkingDefault"]));
    admin.call("chat.send", message("hi", "r2")).await.unwrap();
    admin.chat("final").await;
    assert_eq!(world.asked()["model"], "slow", "no start in between");

    // Of what was read before.
    let stale = refused(&mut admin, "config.patch", patch.clone()).await;
    assert_eq!(stale, "config changed since last load; re-run config.get and retry");
    let stale = refused(&mut admin, "config.apply", json!({ "raw": "{}", "baseHash": read["hash"] })).await;
    assert!(stale.contains("config changed"), "{stale}");
    // Of nothing that was read: only if nothing is another afterwards.
    let noop = admin.call("config.patch", json!({ "raw": patch["raw"] })).await.unwrap();
    assert_eq!(
        (&noop["noop"], &noop["changedPaths"], &noop["hash"]),
        (&json!(true), &json!([]), &patched["hash"])
    );
    let hashless = refused(&mut admin, "config.patch", json!({ "raw": "{agents:null}" })).await;
    assert_eq!(
        hashless,
        "config base hash required for agents.defaults.model, agents.defaults.thinkingDefault; re-run config.get and \
         retry with baseHash"
    );
    assert!(
        refused(&mut admin, "config.set", json!({ "raw": "{}" })).await.contains("config base hash required")
    );
}

#[tokio::test]
async fn what_is_wrong_changes_nothing_and_is_named() {
    let world = World::new(Vec::new()).await;
    let mut admin = world.client(ALL).await;
    let file = world.dir.path().join("state/config.json");
    for (raw, path, message) in [
        ("{agents:{defaults:{modle:'m'}}}", "agents.defaults.modle", "unknown field `modle`"),
        ("{agents:{defaults:{model:1}}}", "agents.defaults.model", "invalid type"),
        ("{agents:{defaults:{thinkingDefault:'x'}}}", "agents.defaults.thinkingDefault", "is none of"),
    ] {
        let error = admin.call("config.set", json!({ "raw": raw })).await.unwrap_err();
        let issue = &error["details"]["issues"][0];
        assert_eq!(issue["path"], path, "{error}");
        assert!(issue["message"].as_str().unwrap().contains(message), "{error}");
        assert!(
            error["message"].as_str().unwrap().starts_with(&format!("invalid config: {path}: ")),
            "{error}"
        );
    }
    for raw in ["{", "[]", "7", "{agents:{},agents:{}}"] {
        assert!(
            refused(&mut admin, "config.apply", json!({ "raw": raw })).await.starts_with("invalid config: ")
        );
    }
    let mark = json!({ "raw": "{agents:{defaults:{model:'__OPENCLAW_REDACTED__'}}}" });
    assert!(refused(&mut admin, "config.set", mark).await.contains("agents.defaults.model"));
    assert!(!file.exists());
}

#[tokio::test]
async fn who_may_read_sees_no_remark_and_changes_nothing() {
    let world = World::new(Vec::new()).await;
    let mut admin = world.client(ALL).await;
    let raw = "{ /* the old token was hush */ agents: { defaults: { model: 'm' } } }";
    admin.call("config.set", json!({ "raw": raw })).await.unwrap();
    let mut member = world.client("operator.read,operator.write").await;
    let read = member.call("config.get", json!({})).await.unwrap();
    assert_eq!((&read["raw"], &read["config"]["agents"]["defaults"]["model"]), (&Value::Null, &json!("m")));
    assert!(!read.to_string().contains("hush"));
    for method in ["config.set", "config.apply", "config.patch"] {
        let error = member.call(method, json!({ "raw": "{}", "baseHash": read["hash"] })).await.unwrap_err();
        assert_eq!(error["details"]["missingScope"], "operator.admin", "{method}");
    }
    let schema = member.call("config.schema", json!({})).await.unwrap();
    assert!(schema["schema"]["properties"]["agents"].is_object());
    assert!(
        refused(&mut member, "config.schema.lookup", json!({ "path": "agents.nothing" }))
            .await
            .contains("not found")
    );
}
