//! The native gateway in a cell, with the world outside: what its tools and channels reach, and with which keys.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, missing_docs)]

mod host;
mod world;

use host::{
    Host,
    gateway::{Socket, address, call, chat, connect},
    until,
};
use serde_json::{Value, json};
use std::{fs, os::unix::fs::PermissionsExt, time::Duration};
use world::{
    MODEL_NAME, WEB,
    model::Turn,
    tls::{Asked, Authority, Server},
};

const TENANT: &str = "small";
const API: &str = "api.example.com";
const TOKEN: &str = "123456:AA-the-token-of-a-bot";
const POLICY: &str = "version: 2
default: deny
rules:
  - allow: api.example.com
    protocol: https
    method: [GET, POST]
    path: /open/**
  - allow: api.example.com
    protocol: https
    method: POST
    path: /bot*/*
";

/// A host with one tenant whose gateway is our own, and a server that the operator's roots vouch for.
fn small() -> (Host, Server, Socket) {
    let mut host = Host::prepare("");
    let authority = Authority::new();
    let roots = host.dir.join("roots.pem");
    fs::write(&roots, authority.pem()).unwrap();
    fs::set_permissions(&roots, fs::Permissions::from_mode(0o644)).unwrap();
    let file = host.dir.join("cofferdam.toml");
    let config = fs::read_to_string(&file).unwrap();
    let with = format!("[egress]\nextra_roots = {:?}\n", roots.to_str().unwrap());
    fs::write(&file, config.replace("[egress]\n", &with)).unwrap();
    let at = format!("{}:443", WEB[0]).parse().unwrap();
    let server = host.world.outside(|| Server::start(at, &authority, &[API]));
    host.world.dns.answer(API, &WEB[..1]);
    host.serve();
    host.json(&["tenant", "create", TENANT, "--runtime", "native"]);
    assert!(host.feed(&["secret", "set", TENANT, "PROVIDER"], "sk-provider-key").status.success());
    let url = format!("http://{MODEL_NAME}/v1");
    host.json(&["model", "set", TENANT, "--url", &url, "--model", "mock-1", "--secret", "PROVIDER"]);
    let bind =
        ["--bind", "https://api.example.com/*/*", "--in", "path", "--format", "bot{}", "--env", "BOT_TOKEN"];
    let bound = host.feed(&[&["secret", "set", TENANT, "BOT"], &bind[..]].concat(), TOKEN);
    assert!(bound.status.success(), "{bound:?}");
    host.json(&["tenant", "start", TENANT]);
    host.policy(TENANT, POLICY);
    let (admin, _) = host.token(TENANT, "admin");
    let socket = connect(&host, address(0), &admin).unwrap();
    (host, server, socket)
}

/// The last result of a tool that the model was told.
fn result(host: &Host) -> String {
    let asked = host.world.model.requests();
    let asked: Value = serde_json::from_slice(&asked.last().unwrap().body).unwrap();
    let last = asked["messages"].as_array().unwrap().last().unwrap().clone();
    assert_eq!(last["role"], "tool", "{last}");
    last["content"].as_str().unwrap().to_owned()
}

#[test]
fn its_tools_and_channels_reach_what_policy_lets_through_with_keys_that_are_not_in_the_cell() {
    let (host, server, mut socket) = small();
    let mut fetched = |url: &str, id: &str| {
        host.world.model.say(Turn::Tool("web_fetch", json!({ "url": url })));
        host.world.model.say(Turn::Text("read".into()));
        chat(&mut socket, id);
        result(&host)
    };
    // The gateway speaks no TLS: the warden does, and judges by method and path.
    let page = fetched("https://api.example.com/open/page", "one");
    assert!(
        page.contains("the world answered GET /open/page") && page.contains("<untrusted source="),
        "{page}"
    );
    let denied = fetched("https://api.example.com/closed", "two");
    assert!(denied.contains("403") && denied.contains("no_rule"), "{denied}");
    let elsewhere = fetched("https://web.example.com/", "three");
    assert!(elsewhere.contains("no_rule"), "{elsewhere}");
    assert_eq!(server.seen().len(), 1, "{:?}", server.seen());

    // A bot of Telegram, whose token the service sees and the cell does not.
    let good = |result: Value| (200, json!({ "ok": true, "result": result }).to_string());
    let path = |method: &str| format!("/bot{TOKEN}/{method}");
    server.page(&path("getMe"), move |_| good(json!({ "username": "the_bot" })));
    server.page(&path("getUpdates"), move |asked: &Asked| {
        let asked: Value = serde_json::from_slice(&asked.body).unwrap();
        if asked["offset"] == 0 {
            let from = json!({ "id": 42, "is_bot": false, "first_name": "Ann" });
            let message = json!({ "message_id": 1, "text": "hi", "from": from, "chat": { "id": 42, "type": "private" } });
            return good(json!([{ "update_id": 5, "message": message }]));
        }
        std::thread::sleep(Duration::from_millis(200));
        good(json!([]))
    });
    server.page(&path("sendMessage"), move |_| good(json!({})));
    host.world.model.say(Turn::Text("hello Ann".into()));
    let telegram =
        json!({ "botToken": "${BOT_TOKEN}", "baseUrl": "https://api.example.com", "allowFrom": ["42"] });
    let raw = json!({ "channels": { "telegram": telegram } }).to_string();
    let base = call(&mut socket, "config.get", &json!({}))["payload"]["hash"].clone();
    let patched = call(&mut socket, "config.patch", &json!({ "raw": raw, "baseHash": base }));
    assert_eq!(patched["ok"], true, "{patched}");
    let sent =
        until("an answer", || server.asked().into_iter().find(|asked| asked.target == path("sendMessage")));
    assert_eq!(
        serde_json::from_slice::<Value>(&sent.body).unwrap(),
        json!({ "chat_id": 42, "text": "hello Ann" })
    );
    let status = call(&mut socket, "channels.status", &json!({}))["payload"].clone();
    assert_eq!(status["channelAccounts"]["telegram"][0]["connected"], true, "{status}");
    assert_eq!(host.places(TENANT, &[TOKEN, "the-token-of-a-bot"]), Vec::<String>::new());

    // A token itself is none that may be configured.
    let raw = json!({ "channels": { "telegram": { "botToken": TOKEN } } }).to_string();
    let base = call(&mut socket, "config.get", &json!({}))["payload"]["hash"].clone();
    let refused = call(&mut socket, "config.patch", &json!({ "raw": raw, "baseHash": base }));
    assert!(refused["ok"] == false && refused.to_string().contains("secret bind"), "{refused}");
    assert!(!refused.to_string().contains("the-token-of-a-bot"), "{refused}");
}
