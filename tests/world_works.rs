//! The world of tests itself: what is scripted outside is reached from the host, hits are recorded, and
//! nothing of it stays.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, missing_docs)]

mod world;

use serde_json::{Value, json};
use std::{
    io::ErrorKind,
    net::{IpAddr, SocketAddr, TcpStream},
    os::unix::fs::MetadataExt,
    process::Command,
};
use world::{
    MODEL, MODEL_NAME, TRAP_PORTS, TRAPS, WEB, WEB_NAME, World,
    dns::{A, AAAA, ask},
    http::{Reply, get, post},
    model::Turn,
};

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn a_name_resolves_and_the_page_behind_it_is_read_over_both_families() {
    let world = World::new();
    world.web.page("/hello", Reply::text(200, "hello").with("X-Scripted", "yes"));
    for (kind, expected) in [(A, WEB[0]), (AAAA, WEB[1])] {
        let found = world.host(|| ask(world.nameserver(), "WEB.example.com", kind).unwrap());
        assert_eq!(found, [address(expected)]);
        let target = SocketAddr::new(found[0], 80);
        let reply = world.host(|| get(target, WEB_NAME, "/hello?q=1").unwrap());
        assert_eq!(
            (reply.status, reply.body().as_str(), reply.header("x-scripted")),
            (200, "hello", Some("yes"))
        );
        let request = world.web.requests().pop().unwrap();
        assert_eq!((request.to, request.path.as_str()), (target, "/hello?q=1"));
        assert_eq!(request.header("host"), Some(WEB_NAME));
        assert!(world::HOST.map(address).contains(&request.from.ip()));
    }
    assert_eq!(world.dns.questions().len(), 2);
    assert!(world.host(|| ask(world.nameserver(), "unknown.example.com", A)).unwrap().is_empty());
}

#[test]
fn the_name_server_rebinds_follows_aliases_and_speaks_tcp() {
    let world = World::new();
    let ask = |name: &str| world.host(|| ask(world.nameserver(), name, A).unwrap());
    world.dns.rebind("rebind.example.com", &[&[WEB[0]], &["10.9.9.9"]]);
    assert_eq!(ask("rebind.example.com"), [address(WEB[0])]);
    assert_eq!(ask("rebind.example.com"), [address("10.9.9.9")]);
    assert_eq!(ask("rebind.example.com"), [address("10.9.9.9")]);
    world.dns.answer("inside.example.com", &["192.168.9.9"]);
    world.dns.alias("alias.example.com", "inside.example.com");
    assert_eq!(ask("alias.example.com"), [address("192.168.9.9")]);
    world.dns.answer_over_tcp("large.example.com", &[WEB[0]]);
    assert_eq!(ask("large.example.com"), [address(WEB[0])]);
    assert!(world.dns.questions().last().unwrap().tcp);
}

#[test]
fn every_trap_really_listens_and_records_who_came() {
    let world = World::new();
    assert!(world.traps.hits().is_empty());
    for trap in TRAPS {
        for port in TRAP_PORTS {
            let target = SocketAddr::new(address(trap), port);
            assert_eq!(world.host(|| get(target, trap, "/").unwrap()).status, 200);
            assert_eq!(world.traps.hits().last().unwrap().0, target);
        }
    }
    // The controls: an address that nobody was given, and this process' own namespace, reach nothing.
    let nobody = SocketAddr::new(address("93.184.216.99"), 80);
    assert!(
        world.host(|| TcpStream::connect_timeout(&nobody, std::time::Duration::from_millis(200))).is_err()
    );
    world.add_address("93.184.216.99");
    assert_eq!(world.host(|| TcpStream::connect(nobody)).unwrap_err().kind(), ErrorKind::ConnectionRefused);
}

#[test]
fn the_model_follows_its_script_and_records_the_key() {
    let world = World::new();
    let target = SocketAddr::new(address(MODEL), 80);
    let chat = |stream: bool, key: &str| {
        let body = json!({"model": "m", "stream": stream, "stream_options": {"include_usage": true},
                          "messages": [{"role": "user", "content": "hi"}]});
        let header = format!("Authorization: Bearer {key}\r\n");
        world.host(|| post(target, MODEL_NAME, "/v1/chat/completions", &header, &body).unwrap())
    };
    world.model.say(Turn::Exec(json!({"command": "id"})));
    world.model.say(Turn::Exec(json!({"command": "id"})));
    world.model.say(Turn::Fail(429));
    let whole: Value = serde_json::from_str(&chat(false, "one").body()).unwrap();
    assert_eq!(whole["choices"][0]["finish_reason"], "tool_calls");
    assert_eq!(
        whole["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"],
        r#"{"command":"id"}"#
    );
    assert_eq!(whole["usage"]["total_tokens"], 18);

    let streamed = chat(true, "two");
    assert_eq!(streamed.header("content-type"), Some("text/event-stream"));
    let body = streamed.body();
    let events: Vec<&str> = body.split_terminator("\n\n").collect();
    assert_eq!(events.last(), Some(&"data: [DONE]"));
    let first: Value = serde_json::from_str(events[0].strip_prefix("data: ").unwrap()).unwrap();
    assert_eq!(first["choices"][0]["delta"]["tool_calls"][0]["function"]["name"], "exec");

    assert_eq!(chat(false, "three").status, 429);
    assert!(chat(false, "four").body().contains("done"));
    let keys = ["one", "two", "three", "four"].map(|key| Some(format!("Bearer {key}")));
    assert_eq!(world.model.authorizations(), keys);
}

#[test]
fn a_spawned_program_is_in_the_host_namespace_and_ends_with_its_handle() {
    let world = World::new();
    let inode = |path: &str| std::fs::metadata(path).unwrap().ino();
    let running = world.spawn(Command::new("sleep").arg("1000"));
    let path = format!("/proc/{}/ns/net", running.id());
    assert_eq!(inode(&path), world.host(|| inode("/proc/thread-self/ns/net")));
    assert_ne!(inode(&path), inode("/proc/thread-self/ns/net"));
    drop(running);
    assert!(std::fs::metadata(path).is_err());
    assert!(!world.spawn(Command::new("sleep").arg("1000")).terminate().unwrap().success());
    let found = world.output(Command::new("cat").arg("/proc/net/dev"));
    assert!(String::from_utf8(found.stdout).unwrap().contains("in:"));
}

#[test]
fn nothing_is_left_after_the_world_is_dropped() {
    // In a process of its own, since other tests have worlds too.
    const CHILD: &str = "COFFERDAM_WORLD_CHILD";
    if std::env::var_os(CHILD).is_none() {
        let this = std::env::current_exe().unwrap();
        let name = "nothing_is_left_after_the_world_is_dropped";
        let status = Command::new(this).args(["--exact", name, "--test-threads=1"]).env(CHILD, "1").status();
        assert!(status.unwrap().success());
        return;
    }
    let count = |directory: &str| std::fs::read_dir(directory).unwrap().count();
    let before = (count("/proc/self/fd"), count("/proc/self/task"));
    let world = World::new();
    world.host(|| get(SocketAddr::new(address(WEB[0]), 80), WEB_NAME, "/").unwrap());
    let idle = world.host(|| TcpStream::connect((WEB[0], 80)).unwrap());
    assert!(count("/proc/self/fd") > before.0 && count("/proc/self/task") > before.1);
    drop(world);
    drop(idle);
    assert_eq!((count("/proc/self/fd"), count("/proc/self/task")), before);
}
