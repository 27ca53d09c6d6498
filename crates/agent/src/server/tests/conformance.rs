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
        hold(&(camel(method) + "Response"), &frame["payload"]);
        if method == "sessions.usage" {
            // Its rows are others, and not described.
            return;
        }
        let rows = frame["payload"]["sessions"].as_array().map(Vec::as_slice).unwrap_or_default();
        conformance_of_jobs(method, &frame["payload"]);
        for row in rows.iter().chain(frame["payload"].get("entry")).chain(frame["payload"].get("session")) {
            hold("SessionRow", row);
        }
    } else {
        hold("ErrorShape", &frame["error"]);
    }
}

/// What is said of jobs and their runs.
fn conformance_of_jobs(method: &str, payload: &Value) {
    let all = |key: &str| payload[key].as_array().cloned().unwrap_or_default();
    match method {
        "cron.get" | "cron.update" => hold("CronJob", payload),
        "cron.list" => {
            for mut job in all("jobs") {
                // Upstream says it in its list alone, where its schema has none.
                job.as_object_mut().unwrap().remove("effectiveAgentId");
                hold("CronJob", &job);
            }
        }
        "cron.runs" => all("entries").iter().for_each(|entry| hold("CronRunLogEntry", entry)),
        _ => {}
    }
}

pub(super) fn event(frame: &Value) {
    hold("EventFrame", frame);
    let definition = match frame["event"].as_str().unwrap() {
        "chat" => "ChatEvent",
        "tick" => "TickEvent",
        "device.pair.requested" => "DevicePairRequestedEvent",
        "device.pair.resolved" => "DevicePairResolvedEvent",
        "question.requested" => "QuestionRecord",
        "question.resolved" => "QuestionResolvedEvent",
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

fn one_question() -> Value {
    json!({ "questionId": "color", "header": "Color", "question": "Which?", "options": [{ "label": "red" }] })
}

/// Every method that is served, called with little, answers as its schema says or with an error of upstream's shape.
#[tokio::test]
async fn every_method_answers_in_the_schemas_shapes() {
    let config = json!({ "channels": { "webhooks": { "ci": {} } }, "cron": { "enabled": true } });
    let world = World::in_dir(channels::home(&config), Vec::new()).await;
    for id in ["A", "B"] {
        channels::wants(&world.store(), id);
    }
    let skill = world.dir.path().join("workspace/skills/one");
    std::fs::create_dir_all(&skill).unwrap();
    std::fs::write(skill.join("SKILL.md"), "---\ndescription: one\n---\n").unwrap();
    let mut client = world.client(ALL).await;
    let decide = |id: &str| json!({ "channel": "webhook-ci", "accountId": "default", "requestId": id });
    let job = client.call("cron.add", cron::reminder("tea", cron::LATER)).await.unwrap()["id"].clone();
    let added = Mutex::new(Value::Null);
    let ask = json!({ "id": "e-1", "command": "ls", "twoPhase": true });
    client.call("exec.approval.request", ask).await.unwrap();
    let ask = json!({ "title": "one", "description": "more", "twoPhase": true });
    let plugin = client.call("plugin.approval.request", ask).await.unwrap()["id"].clone();
    let params = |method: &str| match method {
        "channels.pairing.approve" => decide("A"),
        "channels.pairing.dismiss" => decide("B"),
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
        "chat.abort" | "chat.history" | "chat.startup" => json!({ "sessionKey": "agent:main:main" }),
        "chat.inject" => json!({ "sessionKey": "agent:main:main", "message": "a note", "label": "note" }),
        "chat.send" => {
            json!({ "sessionKey": "agent:main:main", "message": "hi", "idempotencyKey": "r-send" })
        }
        "question.get" => json!({ "id": "q0" }),
        "question.request" => json!({ "id": "q1", "questions": [one_question()], "timeoutMs": 60_000 }),
        "question.resolve" => json!({ "id": "q1", "answers": { "answers": { "color": ["red"] } } }),
        "question.waitAnswer" => json!({ "id": "q1", "timeoutMs": 5000 }),
        "config.apply" | "config.patch" | "config.set" => json!({ "raw": r#"{"cron":{"enabled":true}}"# }),
        "config.schema.lookup" => json!({ "path": "agents.defaults" }),
        "cron.add" => cron::reminder("coffee", cron::LATER),
        "cron.get" | "cron.run" | "cron.runs" => json!({ "id": job }),
        "cron.remove" => json!({ "jobId": added.lock().unwrap().clone() }),
        "cron.update" => json!({ "id": job, "patch": { "enabled": false } }),
        "set-heartbeats" => json!({ "enabled": true }),
        "wake" => json!({ "mode": "next-heartbeat", "text": "the door" }),
        "device.pair.approve" | "device.pair.reject" => json!({ "requestId": "none" }),
        "device.pair.remove" => json!({ "deviceId": "none" }),
        "device.token.revoke" | "device.token.rotate" => json!({ "deviceId": "none", "role": "operator" }),
        "sessions.create" => json!({ "key": "agent:main:dashboard:1", "label": "one" }),
        "sessions.abort"
        | "sessions.compact"
        | "sessions.describe"
        | "sessions.messages.subscribe"
        | "sessions.messages.unsubscribe"
        | "sessions.reset" => json!({ "key": "agent:main:main" }),
        "sessions.delete" => json!({ "key": "agent:main:dashboard:1" }),
        "sessions.patch" => json!({ "key": "agent:main:main", "label": "two", "thinkingLevel": null }),
        "sessions.send" => json!({ "key": "agent:main:main", "message": "hi" }),
        "skills.update" => json!({ "skillKey": "one", "enabled": true }),
        "tools.invoke" => json!({ "name": "ls", "args": {} }),
        _ => json!({}),
    };
    client.call("question.request", json!({ "id": "q0", "questions": [one_question()] })).await.unwrap();
    for (method, _) in crate::protocol::methods::METHODS {
        let mut given = params(method);
        if matches!(*method, "config.apply" | "config.patch" | "config.set") {
            given["baseHash"] = client.call("config.get", json!({})).await.unwrap()["hash"].clone();
        }
        let answer = client.call(method, given).await;
        // There is no device: `devices` has them.
        let about = method.starts_with("device.") && *method != "device.pair.list";
        assert_eq!(answer.is_ok(), !about, "{method}: {answer:?}");
        if *method == "cron.add" {
            *added.lock().unwrap() = answer.unwrap()["id"].clone();
        }
        // What nobody knows is refused by name, where the schema is closed.
        let mut more = params(method);
        more["nobodyKnowsThis"] = json!(1);
        if matches!(
            *method,
            "chat.send" | "agent" | "sessions.patch" | "agents.files.set" | "cron.add" | "cron.list"
        ) {
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
