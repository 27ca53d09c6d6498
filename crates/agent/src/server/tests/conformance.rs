//! Frames against `protocol.schema.json`.

use super::*;
use jsonschema::Validator;
use std::{collections::HashMap, sync::LazyLock};

struct Schema {
    whole: Value,
    compiled: Mutex<HashMap<String, Arc<Validator>>>,
}

static SCHEMA: LazyLock<Option<Schema>> = LazyLock::new(|| {
    let Some(path) = std::env::var_os("COFFERDAM_PROTOCOL_SCHEMA") else {
        eprintln!("skipped: COFFERDAM_PROTOCOL_SCHEMA does not name protocol.schema.json");
        return None;
    };
    let whole = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    Some(Schema { whole, compiled: Mutex::default() })
});

/// Panics unless it is what the schema says; nothing is said of what has no definition there.
fn hold(definition: &str, value: &Value) {
    let Some(schema) = &*SCHEMA else { return };
    if schema.whole["definitions"].get(definition).is_none() {
        return;
    }
    let compiled = {
        let mut all = schema.compiled.lock().unwrap();
        let new = || {
            let one = json!({
                "$schema": schema.whole["$schema"], "definitions": schema.whole["definitions"],
                "$ref": format!("#/definitions/{definition}"),
            });
            Arc::new(jsonschema::validator_for(&one).unwrap())
        };
        Arc::clone(all.entry(definition.to_owned()).or_insert_with(new))
    };
    let wrong: Vec<String> =
        compiled.iter_errors(value).map(|error| format!("{}: {error}", error.instance_path())).collect();
    assert!(wrong.is_empty(), "{definition}: {wrong:#?} in {value:#}");
}

/// `chat.send` is described as `ChatSendParams` and so on.
fn camel(method: &str) -> String {
    method.split(['.', '-']).map(|part| part[..1].to_uppercase() + &part[1..]).collect()
}

pub(super) fn sent(method: &str, frame: &Value) {
    hold("RequestFrame", frame);
    let definition = if method == "connect" { "ConnectParams".to_owned() } else { camel(method) + "Params" };
    hold(&definition, &frame["params"]);
}

pub(super) fn answered(method: &str, frame: &Value) {
    hold("ResponseFrame", frame);
    if frame["ok"] == true {
        let definition = match method {
            "connect" => "HelloOk".to_owned(),
            "exec.approvals.get" | "exec.approvals.set" => "ExecApprovalsSnapshot".to_owned(),
            _ => camel(method) + "Result",
        };
        hold(&definition, &frame["payload"]);
        let rows = frame["payload"]["sessions"].as_array().map(Vec::as_slice).unwrap_or_default();
        for row in rows.iter().chain(frame["payload"].get("entry")).chain(frame["payload"].get("session")) {
            hold("SessionRow", row);
        }
    } else {
        hold("ErrorShape", &frame["error"]);
    }
}

pub(super) fn event(frame: &Value) {
    hold("EventFrame", frame);
    let definition = match frame["event"].as_str().unwrap() {
        "chat" => "ChatEvent",
        "tick" => "TickEvent",
        "agent" => {
            // Upstream sends more with it than its schema says; what is described must hold.
            let mut described = frame["payload"].clone();
            let known = ["runId", "seq", "stream", "ts", "spawnedBy", "isHeartbeat", "data"];
            described.as_object_mut().unwrap().retain(|key, _| known.contains(&key.as_str()));
            return hold("AgentEvent", &described);
        }
        _ => return,
    };
    hold(definition, &frame["payload"]);
}

/// The positive control: what is wrong is found.
#[test]
fn a_frame_that_is_not_of_the_schema_is_found() {
    if SCHEMA.is_none() {
        return;
    }
    for (definition, value) in [
        ("ResponseFrame", json!({ "type": "res", "id": "", "ok": true })),
        ("ChatEvent", json!({ "runId": "a", "sessionKey": "k", "seq": 1, "state": "final", "more": 1 })),
        ("HelloOk", json!({ "type": "hello-ok" })),
    ] {
        assert!(std::panic::catch_unwind(|| hold(definition, &value)).is_err(), "{definition}");
    }
}

/// Every method that is served, called with little, answers as its schema says or with an error of upstream's shape.
#[tokio::test]
async fn every_method_answers_in_the_schemas_shapes() {
    let world = World::new(Vec::new()).await;
    let mut client = world.client(ALL).await;
    let ask = json!({ "id": "e-1", "command": "ls", "twoPhase": true });
    client.call("exec.approval.request", ask).await.unwrap();
    let ask = json!({ "title": "one", "description": "more", "twoPhase": true });
    let plugin = client.call("plugin.approval.request", ask).await.unwrap()["id"].clone();
    let params = |method: &str| match method {
        "exec.approval.get" | "exec.approval.waitDecision" => json!({ "id": "e-1" }),
        "exec.approval.request" => json!({ "command": "ls", "timeoutMs": 1 }),
        "exec.approval.resolve" => json!({ "id": "e-1", "decision": "deny" }),
        "exec.approvals.set" => json!({ "file": { "version": 1 } }),
        "plugin.approval.request" => json!({ "title": "two", "description": "more", "timeoutMs": 1 }),
        "plugin.approval.resolve" => json!({ "id": plugin, "decision": "allow-once" }),
        "plugin.approval.waitDecision" => json!({ "id": plugin }),
        "agent" => json!({ "message": "hi", "idempotencyKey": "r-agent" }),
        "agent.wait" => json!({ "runId": "r-agent", "timeoutMs": 5000 }),
        "agents.files.get" => json!({ "agentId": "main", "name": "AGENTS.md" }),
        "agents.files.list" | "agent.identity.get" => json!({ "agentId": "main" }),
        "agents.files.set" => json!({ "agentId": "main", "name": "SOUL.md", "content": "be brief" }),
        "chat.abort" | "chat.history" => json!({ "sessionKey": "agent:main:main" }),
        "chat.inject" => json!({ "sessionKey": "agent:main:main", "message": "a note", "label": "note" }),
        "chat.send" => {
            json!({ "sessionKey": "agent:main:main", "message": "hi", "idempotencyKey": "r-send" })
        }
        "sessions.create" => json!({ "key": "agent:main:dashboard:1", "label": "one" }),
        "sessions.abort"
        | "sessions.describe"
        | "sessions.messages.subscribe"
        | "sessions.messages.unsubscribe"
        | "sessions.reset" => json!({ "key": "agent:main:main" }),
        "sessions.delete" => json!({ "key": "agent:main:dashboard:1" }),
        "sessions.patch" => json!({ "key": "agent:main:main", "label": "two", "thinkingLevel": null }),
        "sessions.send" => json!({ "key": "agent:main:main", "message": "hi" }),
        "tools.invoke" => json!({ "name": "ls", "args": {} }),
        _ => json!({}),
    };
    for (method, _) in crate::protocol::methods::METHODS {
        let answer = client.call(method, params(method)).await;
        assert!(answer.is_ok(), "{method}: {answer:?}");
        // What nobody knows is refused by name, where the schema is closed.
        let mut more = params(method);
        more["nobodyKnowsThis"] = json!(1);
        if matches!(*method, "chat.send" | "agent" | "sessions.patch" | "agents.files.set") {
            client.last += 1;
            let id = client.last.to_string();
            let frame = json!({ "type": "req", "id": id, "method": method, "params": more });
            client.stream.send(Message::Text(frame.to_string().into())).await.unwrap();
            let error = client.answer(method, &id).await.unwrap_err();
            assert!(error["message"].as_str().unwrap().contains("nobodyKnowsThis"), "{error}");
        }
    }
    let unknown = client.call("wizard.start", json!({})).await.unwrap_err();
    assert_eq!(unknown, json!({ "code": "INVALID_REQUEST", "message": "unknown method: wizard.start" }));
}
