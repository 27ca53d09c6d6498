//! Upstream's own page in a real browser, at both gateways through the edge: a message is typed and answered.
//!
//! The page of a real gateway is its own; our own gateway serves none, so the browser is given the same files at its
//! address. What the page says over its socket is the same code for both, and none of it is ours.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::print_stdout)]

mod host;
mod world;

use host::{Host, PORT, gateway, until};
use rustix::process::{Pid, Signal, geteuid, kill_process};
use serde_json::{Value, json};
use std::{
    collections::VecDeque,
    net::{SocketAddr, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};
use tokio_tungstenite::tungstenite::{Message, WebSocket};
use world::{MODEL_NAME, http, model::Turn};

const BROWSER: &str = "/usr/bin/chromium-headless-shell";
/// Where the browser is told what to do.
const DEBUGGER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9222);
const TENANTS: [&str; 2] = ["acme", "small"];

#[test]
fn a_message_is_typed_and_answered_in_upstreams_page_at_both_gateways() {
    if !geteuid().is_root() {
        println!("skipped: needs root, for the world of the test");
        return;
    }
    if !Path::new(BROWSER).exists() {
        println!(
            "skipped: needs Debian's package chromium-headless-shell, which `cargo xtask test` installs"
        );
        return;
    }
    let mut host = Host::prepare("");
    // Before the host starts: it learns at its start what is installed.
    let tree = gateway::install(&host);
    let files = tree.join("node_modules/openclaw/dist/control-ui");
    host.serve();
    for (tenant, runtime) in TENANTS.into_iter().zip(["openclaw", "native"]) {
        host.json(&["tenant", "create", tenant, "--runtime", runtime]);
        assert!(host.feed(&["secret", "set", tenant, "PROVIDER"], "sk-canary").status.success());
        let url = format!("http://{MODEL_NAME}/v1");
        host.json(&["model", "set", tenant, "--url", &url, "--model", "mock-1", "--secret", "PROVIDER"]);
        host.json(&["tenant", "start", tenant]);
    }
    let mut shown = Vec::new();
    for tenant in TENANTS {
        let (token, _) = host.token(tenant, "admin");
        let files = (tenant == "small").then_some(&*files);
        let mut page = Page::open(&host, tenant, &token, files);
        page.type_into_the_composer("what is typed here");
        host.world.model.say(Turn::Text(format!("{tenant} has answered")));
        page.press_enter();
        shown.push(page.shows(&format!("{tenant} has answered")));
        let asked = host.world.model.requests();
        let asked = String::from_utf8_lossy(&asked.last().unwrap().body).into_owned();
        assert!(asked.contains("what is typed here"), "{asked}");
        println!("  ok: {tenant}");
    }
    assert!(shown.iter().all(|text| text.contains("what is typed here")), "{shown:#?}");
}

/// A tab of a browser of its own.
struct Page<'a> {
    browser: Child,
    _profile: tempfile::TempDir,
    socket: WebSocket<TcpStream>,
    last: u64,
    token: String,
    /// What the page asks for by HTTP comes from here, if not from its gateway.
    files: Option<&'a Path>,
    events: VecDeque<Value>,
}

impl Drop for Page<'_> {
    fn drop(&mut self) {
        let _ = kill_process(Pid::from_child(&self.browser), Signal::KILL);
        let _ = self.browser.wait();
    }
}

impl<'a> Page<'a> {
    fn open(host: &Host, tenant: &str, token: &str, files: Option<&'a Path>) -> Self {
        let profile = tempfile::tempdir().unwrap();
        // In a namespace of its own for processes: it has many, and all end with the first.
        let mut command = Command::new("unshare");
        command.args(["--pid", "--fork", "--kill-child", BROWSER]);
        command.args(["--no-sandbox", "--disable-gpu", "--no-first-run", "about:blank"]);
        // A page that came from nowhere is public to the browser, and would not be let speak to this machine.
        command.arg("--disable-features=LocalNetworkAccessChecks,LocalNetworkAccessChecksWebSockets,BlockInsecurePrivateNetworkRequests");
        command.arg(format!("--remote-debugging-port={}", DEBUGGER.port()));
        command.arg(format!("--user-data-dir={}", profile.path().display()));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let browser = host.world.host(|| command.spawn()).unwrap();
        let list = "GET /json/list HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        let tab = until("the browser", || {
            let reply = host.world.host(|| http::send(DEBUGGER, list)).ok()?;
            let tabs: Value = serde_json::from_slice(&reply.parts.concat()).ok()?;
            let tab = tabs.as_array()?.iter().find(|tab| tab["type"] == "page")?;
            tab["webSocketDebuggerUrl"].as_str().map(str::to_owned)
        });
        let stream = host.world.host(|| TcpStream::connect(DEBUGGER)).unwrap();
        stream.set_read_timeout(Some(Duration::from_mins(1))).unwrap();
        let (socket, _) = tokio_tungstenite::tungstenite::client(tab, stream).unwrap();
        let (token, events) = (token.to_owned(), VecDeque::new());
        let mut page = Self { browser, _profile: profile, socket, last: 0, token, files, events };
        page.call("Fetch.enable", &json!({ "patterns": [{ "urlPattern": "http://*" }] }));
        let last = 2 + TENANTS.iter().position(|it| *it == tenant).unwrap();
        let origin = format!("http://127.18.0.{last}:{PORT}");
        let url = format!("{origin}/#token={}", page.token);
        page.call("Page.navigate", &json!({ "url": url }));
        page
    }

    /// Tells the browser something; what it gives. What it asks meanwhile is served.
    fn call(&mut self, method: &str, params: &Value) -> Value {
        let id = self.say(method, params);
        loop {
            let frame = self.receive();
            if frame["id"] == id {
                assert!(frame.get("error").is_none(), "{method}: {frame}");
                return frame["result"].clone();
            }
            if frame["method"] == "Fetch.requestPaused" {
                self.events.push_back(frame["params"].clone());
            }
            self.serve();
        }
    }

    fn say(&mut self, method: &str, params: &Value) -> u64 {
        self.last += 1;
        let frame = json!({ "id": self.last, "method": method, "params": params });
        self.socket.send(Message::text(frame.to_string())).unwrap();
        self.last
    }

    fn receive(&mut self) -> Value {
        loop {
            match self.socket.read().unwrap() {
                Message::Text(text) => return serde_json::from_str(&text).unwrap(),
                Message::Close(frame) => panic!("closed: {frame:?}"),
                _ => {}
            }
        }
    }

    /// Serves what the page asks for: from the files, or by its gateway, to which it says who it is.
    fn serve(&mut self) {
        while let Some(paused) = self.events.pop_front() {
            let (id, request) = (&paused["requestId"], &paused["request"]);
            let path = request["url"].as_str().unwrap().split('/').skip(3).collect::<Vec<_>>().join("/");
            let path = path.split(['?', '#']).next().unwrap();
            let Some(files) = self.files else {
                let mut headers: Vec<Value> = request["headers"]
                    .as_object()
                    .into_iter()
                    .flatten()
                    .map(|(name, value)| json!({ "name": name, "value": value }))
                    .collect();
                headers.push(json!({ "name": "Authorization", "value": format!("Bearer {}", self.token) }));
                self.say("Fetch.continueRequest", &json!({ "requestId": id, "headers": headers }));
                continue;
            };
            let (kind, body) = file(files, path);
            let headers = json!([{ "name": "Content-Type", "value": kind }]);
            let body = base64(&body);
            let answer =
                json!({ "requestId": id, "responseCode": 200, "responseHeaders": headers, "body": body });
            self.say("Fetch.fulfillRequest", &answer);
        }
    }

    fn evaluate(&mut self, script: &str) -> Value {
        let asked = json!({ "expression": script, "returnByValue": true });
        self.call("Runtime.evaluate", &asked)["result"]["value"].clone()
    }

    fn type_into_the_composer(&mut self, text: &str) {
        let find = "(() => { const area = document.querySelector('textarea'); \
            if (!area || area.disabled || !area.placeholder.startsWith('Message')) return false; \
            area.focus(); return document.activeElement === area })()";
        self.until("the composer", |page| (page.evaluate(find) == true).then_some(()));
        self.call("Input.insertText", &json!({ "text": text }));
        let typed = "document.querySelector('textarea').value";
        assert_eq!(self.evaluate(typed), text);
    }

    fn press_enter(&mut self) {
        for (kind, text) in [("keyDown", "\r"), ("keyUp", "")] {
            let key = json!({
                "type": kind, "key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13, "text": text,
            });
            self.call("Input.dispatchKeyEvent", &key);
        }
    }

    /// The page's text, as soon as this is in it.
    fn shows(&mut self, text: &str) -> String {
        self.until(text, |page| {
            let shown = page.evaluate("document.body.innerText");
            shown.as_str().filter(|shown| shown.contains(text)).map(str::to_owned)
        })
    }

    /// Nothing here takes as long as this waits; then it says what the page shows.
    fn until<T>(&mut self, what: &str, mut look: impl FnMut(&mut Self) -> Option<T>) -> T {
        for _ in 0..1200 {
            if let Some(found) = look(self) {
                return found;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        panic!("{what} does not come: {}", self.evaluate("document.body.innerText"));
    }
}

/// A file of the page, or the page itself.
fn file(files: &Path, path: &str) -> (&'static str, Vec<u8>) {
    if path.ends_with("control-ui-config.json") {
        let config = json!({ "basePath": "", "assistantName": "Agent", "assistantAvatar": "", "assistantAgentId": "main" });
        return ("application/json", config.to_string().into_bytes());
    }
    let asked = files.join(path);
    let found = if !path.is_empty() && asked.is_file() { asked } else { files.join("index.html") };
    let kind = match found.extension().and_then(|end| end.to_str()) {
        Some("html") => "text/html",
        Some("js") => "text/javascript",
        Some("css") => "text/css",
        Some("svg") => "image/svg+xml",
        Some("json" | "webmanifest") => "application/json",
        _ => "application/octet-stream",
    };
    (kind, std::fs::read(found).unwrap())
}

fn base64(bytes: &[u8]) -> String {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    STANDARD.encode(bytes)
}
