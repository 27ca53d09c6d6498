//! Protocols over HTTP that rules speak of, with the clients that people have: git's smart HTTP, gRPC, GraphQL, MCP,
//! and what goes before an answer.
//! Each denial stands beside what passes.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::format_collect, missing_docs)]

mod host;
mod world;

use host::{Host, until};
use serde_json::Value;
use std::{
    fs,
    io::{BufRead, BufReader, Read},
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::{Child, Command, Stdio},
};
use world::{
    WEB, mcp,
    tls::{Authority, Server},
};

const API: &str = "api.example.com";
const RPC: &str = "rpc.example.com";
const RAW: &str = "raw.example.com";
/// Where both of them are.
const RPC_ADDRESS: &str = "93.184.216.99";

/// Fetching is allowed, pushing is not: what both begin with tells them apart by its query.
const FETCH: &str = "version: 2
default: deny
rules:
  - allow: api.example.com
    method: GET
    path: /git/**/info/refs
    query: {service: git-upload-pack}
  - allow: api.example.com
    method: POST
    path: /git/**/git-upload-pack
  - deny: api.example.com
    path: /**/git-receive-pack
    reason: nothing is pushed from here
";

const PUSH: &str = "  - allow: api.example.com
    method: GET
    path: /git/**/info/refs
    query: {service: git-receive-pack}
  - allow: api.example.com
    method: POST
    path: /git/**/git-receive-pack
";

const CALLS: &str = "version: 2
default: deny
rules:
  - allow: rpc.example.com
    grpc: {service: acme.Notes, method: [Get, \"List*\"]}
  - deny: rpc.example.com
    grpc: {method: Delete}
    reason: notes stay
  - allow: raw.example.com
  - allow: api.example.com
    path: /graphql
    graphql: {operation: query, fields: [viewer]}
  - allow: api.example.com
    method: GET
    path: /open/**
";

/// A host whose operator trusts the world's authority. The cell has these directories of the test's.
fn trusting(authority: &Authority, binds: &[(&str, &str)]) -> Host {
    let host = Host::prepare("");
    let roots = host.dir.join("roots.pem");
    fs::write(&roots, authority.pem()).unwrap();
    fs::set_permissions(&roots, fs::Permissions::from_mode(0o644)).unwrap();
    let file = host.dir.join("cofferdam.toml");
    let more: String = binds
        .iter()
        .map(|(source, target)| format!("binds = [{{ source = {source:?}, target = {target:?} }}, "))
        .collect();
    let config = fs::read_to_string(&file)
        .unwrap()
        .replace("[egress]\n", &format!("[egress]\nextra_roots = {:?}\n", roots.to_str().unwrap()));
    let config = if more.is_empty() { config } else { config.replace("binds = [", &more) };
    fs::write(&file, config).unwrap();
    host
}

fn serving(host: &mut Host, authority: &Authority) -> Server {
    let address = format!("{}:443", WEB[0]).parse().unwrap();
    let server = host.world.outside(|| Server::start(address, authority, &[API]));
    host.world.dns.answer(API, &WEB[..1]);
    host.serve();
    host.create("acme");
    server
}

fn sh(host: &Host, line: &str) -> (bool, String) {
    let output = host.exec("acme", &["/bin/sh", "-c", line]);
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    (output.status.success(), said.into_owned())
}

#[test]
fn git_fetches_by_smart_http_and_pushes_only_where_a_rule_says_so() {
    let authority = Authority::new();
    let mut host = trusting(&authority, &[]);
    let server = serving(&mut host, &authority);
    let dir = tempfile::tempdir().unwrap();
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).current_dir(dir.path()).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let name = ["-c", "user.name=a", "-c", "user.email=a@example.com", "-c", "init.defaultBranch=main"];
    git(&[&name[..], &["init", "-q", "work"]].concat());
    fs::write(dir.path().join("work/file"), "what was committed").unwrap();
    git(&["-C", "work", "add", "file"]);
    git(&[&name[..], &["-C", "work", "commit", "-q", "-m", "one"]].concat());
    git(&["clone", "-q", "--bare", "work", "team/repo.git"]);
    git(&["-C", "team/repo.git", "config", "http.receivepack", "true"]);
    server.git("/git/", dir.path().to_owned());
    host.policy("acme", FETCH);
    let clone =
        "git clone -q https://api.example.com/git/team/repo.git /sandbox/clone && cat /sandbox/clone/file";
    let (ok, said) = sh(&host, clone);
    assert!(ok && said.contains("what was committed"), "{said}");
    let commit = "cd /sandbox/clone && echo more >> file && git -c user.name=b -c user.email=b@example.com commit -q -a -m two";
    assert!(sh(&host, commit).0);
    let push = "cd /sandbox/clone && git push -q origin HEAD:main";
    let (ok, said) = sh(&host, push);
    assert!(!ok && said.contains("403"), "{said}");
    assert_eq!(git(&["-C", "team/repo.git", "log", "--format=%s"]).trim(), "one");
    assert!(server.seen().iter().all(|(.., path)| !path.ends_with("git-receive-pack")));
    // The same client passes once a rule lets it.
    let open = FETCH.split("  - deny").next().unwrap().to_owned() + PUSH;
    host.policy("acme", &open);
    let (ok, said) = sh(&host, push);
    assert!(ok, "{said}");
    assert_eq!(git(&["-C", "team/repo.git", "log", "--format=%s"]).trim(), "two\none");
    assert!(server.seen().iter().any(|(.., path)| path.ends_with("/git-receive-pack")));
}

/// Python's own gRPC, as its registry has it.
fn grpcio() -> PathBuf {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("grpcio");
    if !dir.join("grpc").exists() {
        let pip = ["-m", "pip", "install", "-q", "--no-cache-dir", "--only-binary=:all:", "--target"];
        let output = Command::new("/usr/bin/python3").args(pip).arg(&dir).arg("grpcio").output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }
    dir
}

/// Says each call that arrives on a line.
const SERVER: &str = "
import grpc, sys
from concurrent import futures
def told(name, context):
    print(name, flush=True)
    context.set_trailing_metadata((('kept', 'yes'),))
def get(request, context):
    told('Get', context)
    return b'got ' + request
def listed(request, context):
    told('List', context)
    for number in range(3):
        yield b'note %d' % number
def delete(request, context):
    told('Delete', context)
    return b'gone'
server = grpc.server(futures.ThreadPoolExecutor(4))
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler('acme.Notes', {
    'Get': grpc.unary_unary_rpc_method_handler(get),
    'ListAll': grpc.unary_stream_rpc_method_handler(listed),
    'Delete': grpc.unary_unary_rpc_method_handler(delete)}),))
key, leaf = (open(path, 'rb').read() for path in sys.argv[2:])
server.add_secure_port(sys.argv[1], grpc.ssl_server_credentials([(key, leaf)]))
server.start()
print('ready', flush=True)
server.wait_for_termination()
";

const CLIENT: &str = "
import json, sys
sys.path.insert(0, '/opt/grpcio')
import grpc
found = []
for host in sys.argv[1:]:
    channel = grpc.secure_channel(host + ':443', grpc.ssl_channel_credentials())
    for name in ('Get', 'Delete', 'Other'):
        try:
            answer, call = channel.unary_unary('/acme.Notes/' + name).with_call(b'7', timeout=60)
            found.append([host, name, answer.decode(), dict(call.trailing_metadata()).get('kept')])
        except grpc.RpcError as error:
            found.append([host, name, error.code().name, error.details()])
    stream = channel.unary_stream('/acme.Notes/ListAll')(b'', timeout=60)
    found.append([host, 'ListAll', b','.join(stream).decode(), dict(stream.trailing_metadata()).get('kept')])
print(json.dumps(found))
";

/// A server outside, ended when dropped.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a server outside, which says that it is ready; what it says after that. Its program's last arguments are
/// the paths of its key and of its certificate for these names.
fn outside(
    host: &Host,
    authority: &Authority,
    names: &[&str],
    command: &mut Command,
) -> (Ended, impl Iterator<Item = String> + use<>) {
    let (leaf, key) = authority.leaf_pem(names);
    for (name, text) in [("key", key), ("leaf", leaf)] {
        let path = host.dir.join(name);
        fs::write(&path, text).unwrap();
        command.arg(path);
    }
    host.world.add_address(RPC_ADDRESS);
    for name in names {
        host.world.dns.answer(name, &[RPC_ADDRESS]);
    }
    let mut server = Ended(host.world.outside(|| command.stdout(Stdio::piped()).spawn()).unwrap());
    let mut lines = BufReader::new(server.0.stdout.take().unwrap()).lines().map_while(Result::ok);
    assert_eq!(lines.next().as_deref(), Some("ready"));
    (server, lines)
}

#[test]
fn grpc_passes_by_service_and_method_inspected_and_wholly_through_a_tunnel() {
    let (authority, library) = (Authority::new(), grpcio());
    let mut host = trusting(&authority, &[(library.to_str().unwrap(), "/opt/grpcio")]);
    let mut command = Command::new("/usr/bin/python3");
    command.args(["-c", SERVER, &format!("{RPC_ADDRESS}:443")]).env("PYTHONPATH", &library);
    let (server, lines) = outside(&host, &authority, &[RPC, RAW], &mut command);
    host.serve();
    host.create("acme");
    host.policy("acme", CALLS);
    for way in ["", "no_grpc_proxy='*' no_proxy='*' "] {
        let line = format!("{way}/usr/bin/python3 -c \"$1\" {RPC} {RAW}");
        let output = host.exec("acme", &["/bin/sh", "-c", &line, "sh", CLIENT]);
        let found: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
        let row = |host: &str, name: &str| {
            let rows = found.as_array().unwrap();
            let row = rows.iter().find(|row| row[0] == host && row[1] == name).unwrap();
            (row[2].as_str().unwrap().to_owned(), row[3].as_str().unwrap_or_default().to_owned())
        };
        let passed = |text: &str| (text.to_owned(), "yes".to_owned());
        assert_eq!(row(RPC, "Get"), passed("got 7"), "{found}");
        assert_eq!(row(RPC, "ListAll"), passed("note 0,note 1,note 2"), "{found}");
        let (status, why) = row(RPC, "Delete");
        assert!(
            status == "PERMISSION_DENIED" && why.starts_with("denied_by_rule") && why.ends_with("notes stay"),
            "{found}"
        );
        let (status, why) = row(RPC, "Other");
        assert!(status == "PERMISSION_DENIED" && why.starts_with("no_rule"), "{found}");
        // Nobody looks into a tunnel: the server's own words.
        assert_eq!(row(RAW, "Delete"), passed("gone"), "{found}");
        assert_eq!(row(RAW, "Other").0, "UNIMPLEMENTED", "{found}");
    }
    drop(server);
    let arrived: Vec<String> = lines.collect();
    let count = |name: &str| arrived.iter().filter(|line| *line == name).count();
    // Of the two hosts and the two ways, deletion arrived by the tunnels alone.
    assert_eq!((count("Get"), count("List"), count("Delete")), (4, 4, 2), "{arrived:?}");
}

#[test]
fn graphql_is_judged_by_its_root_fields_and_a_line_feed_alone_is_refused() {
    let authority = Authority::new();
    let mut host = trusting(&authority, &[]);
    let server = serving(&mut host, &authority);
    host.policy("acme", CALLS);
    let post = |body: &str| {
        let line = format!(
            "curl -sS -H 'Content-Type: application/json' -d '{body}' https://api.example.com/graphql"
        );
        sh(&host, &line).1
    };
    assert!(post(r#"{"query":"{ me: viewer { login } }"}"#).contains("answered POST /graphql"));
    for (body, reason) in [
        (r#"{"query":"{ viewer: secrets }"}"#, "no_rule"),
        (r#"{"query":"{ viewer ...F } fragment F on Query { secrets }"}"#, "no_rule"),
        (r#"{"query":"mutation { viewer }"}"#, "no_rule"),
        (r#"{"extensions":{"persistedQuery":{"sha256Hash":"0"}}}"#, "no_rule"),
    ] {
        let said = post(body);
        assert!(said.contains(reason) && !said.contains("the world answered"), "{body}: {said}");
    }
    assert_eq!(server.seen().iter().filter(|(.., path)| path == "/graphql").count(), 1);
    let lines = "
import socket, ssl
def said(text):
    trust = ssl.create_default_context()
    with trust.wrap_socket(socket.create_connection(('api.example.com', 443)), server_hostname='api.example.com') as stream:
        stream.sendall(text)
        return stream.recv(100).split(b'\\r\\n')[0].decode()
print(said(b'GET /open/a HTTP/1.1\\r\\nHost: api.example.com\\r\\n\\r\\n'))
print(said(b'GET /open/b HTTP/1.1\\r\\nHost: api.example.com\\nX: y\\r\\n\\r\\n'))
";
    assert_eq!(host.python("acme", lines), "HTTP/1.1 200 OK\nHTTP/1.1 400 Bad Request\n");
    assert!(server.seen().iter().all(|(.., path)| path != "/open/b"));
}

/// Streamable HTTP with sessions. Says each request and each call; answers calls as a stream of events.
const MCP_SERVER: &str = "
import https from 'node:https';
import fs from 'node:fs';
import { randomUUID } from 'node:crypto';
const [address, modules, key, cert] = process.argv.slice(1);
const sdk = modules + '/@modelcontextprotocol/sdk/dist/esm/';
const { McpServer } = await import(sdk + 'server/mcp.js');
const { StreamableHTTPServerTransport } = await import(sdk + 'server/streamableHttp.js');
const { z } = await import(modules + '/zod/index.js');
const sessions = {};
const made = () => {
  const server = new McpServer({ name: 'notes', version: '1' });
  for (const name of ['read_note', 'delete_note', 'send_note'])
    server.registerTool(name, { inputSchema: { path: z.string() } }, async ({ path }, extra) => {
      console.log(`${name} ${path}`);
      for (const progress of [1, 2])
        await extra.sendNotification({
          method: 'notifications/progress', params: { progressToken: extra._meta.progressToken, progress } });
      return { content: [{ type: 'text', text: `${name} did ${path}` }] };
    });
  return server;
};
https.createServer({ key: fs.readFileSync(key), cert: fs.readFileSync(cert) }, async (request, response) => {
  console.log(request.method);
  let transport = sessions[request.headers['mcp-session-id']];
  if (!transport) {
    transport = new StreamableHTTPServerTransport({
      sessionIdGenerator: randomUUID, onsessioninitialized: (id) => { sessions[id] = transport; } });
    await made().connect(transport);
  }
  await transport.handleRequest(request, response);
}).listen(443, address, () => console.log('ready'));
";

const MCP_CLIENT: &str = "
const sdk = '/opt/mcp/node_modules/@modelcontextprotocol/sdk/dist/esm/client/';
const { Client } = await import(sdk + 'index.js');
const { StreamableHTTPClientTransport } = await import(sdk + 'streamableHttp.js');
const client = new Client({ name: 'cell', version: '1' });
const transport = new StreamableHTTPClientTransport(new URL('https://rpc.example.com/mcp'));
await client.connect(transport);
const found = { tools: (await client.listTools()).tools.map((tool) => tool.name) };
for (const [name, path] of [
  ['read_note', '/notes/a'], ['read_note', '/etc/passwd'], ['delete_note', '/notes/a'], ['send_note', '/notes/b']]) {
  let steps = 0;
  try {
    const answer = await client.callTool(
      { name, arguments: { path } }, undefined, { onprogress: () => steps++, timeout: 100000 });
    found[name + path] = `${answer.content[0].text} in ${steps} steps`;
  } catch (error) {
    found[name + path] = String(error);
  }
}
try {
  await client.listResources();
} catch (error) {
  found.resources = String(error);
}
await transport.terminateSession();
await client.close();
console.log(JSON.stringify(found));
";

const MCP_RULES: &str = "version: 2
default: deny
rules:
  - allow: rpc.example.com
    path: /mcp
    mcp: {method: [initialize, notifications/*, tools/list]}
  - allow: rpc.example.com
    path: /mcp
    method: [GET, DELETE]
  - allow: rpc.example.com
    mcp: {tool: read_note, arguments: {path: \"/notes/*\"}}
  - deny: rpc.example.com
    mcp: {tool: delete_*}
    reason: notes stay
  - ask: rpc.example.com
    mcp: {tool: send_note}
";

#[test]
fn mcp_is_judged_by_method_tool_and_arguments_with_its_official_client() {
    let (authority, sdk) = (Authority::new(), mcp::sdk());
    let mut host = trusting(&authority, &[(sdk.to_str().unwrap(), "/opt/mcp")]);
    let mut command = Command::new("node");
    command.args(["--input-type=module", "-e", MCP_SERVER, RPC_ADDRESS]).arg(sdk.join("node_modules"));
    let (server, lines) = outside(&host, &authority, &[RPC], &mut command);
    host.serve();
    host.create("acme");
    host.policy("acme", MCP_RULES);
    let mut client = host.begin("acme", &["node", "--input-type=module", "-e", MCP_CLIENT]);
    let row = until("a question", || {
        if client.try_wait().unwrap().is_some() {
            let mut said = String::new();
            client.stderr.take().unwrap().read_to_string(&mut said).unwrap();
            panic!("{said}");
        }
        let all = host.json(&["approvals", "list", "--tenant", "acme"]);
        all["approvals"].as_array()?.iter().find(|row| row["state"] == "waiting").cloned()
    });
    let shown = &row["request"];
    assert_eq!((&shown["method"], &shown["tool"]), (&"POST".into(), &"send_note".into()), "{row}");
    assert!(shown["arguments"].as_str().unwrap().contains(r#""path":"/notes/b""#), "{row}");
    host.json(&["approvals", "approve", &row["id"].to_string(), "--once"]);
    let output = client.wait_with_output().unwrap();
    let found: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
    assert_eq!(found["tools"], serde_json::json!(["read_note", "delete_note", "send_note"]));
    assert_eq!(found["read_note/notes/a"], "read_note did /notes/a in 2 steps", "{found}");
    assert_eq!(found["send_note/notes/b"], "send_note did /notes/b in 2 steps", "{found}");
    for (what, reason) in
        [("read_note/etc/passwd", "no_rule"), ("delete_note/notes/a", "notes stay"), ("resources", "no_rule")]
    {
        let said = found[what].as_str().unwrap();
        assert!(said.contains("denied") && said.contains(reason), "{found}");
    }
    drop(server);
    let arrived: Vec<String> = lines.collect();
    let calls: Vec<&String> = arrived.iter().filter(|line| line.contains("_note")).collect();
    assert_eq!(calls, ["read_note /notes/a", "send_note /notes/b"]);
    // The stream of what the server says by itself, and the end of the session.
    assert!(["GET", "DELETE"].iter().all(|method| arrived.iter().any(|line| line == method)), "{arrived:?}");
}

/// HTTP/2 and HTTP/1.1 at port 443, the latter alone at 8443, plain HTTP at 80; before each answer it gives hints.
const HINTING: &str = "
const fs = require('node:fs');
const [address, key, cert] = process.argv.slice(1);
const tls = { key: fs.readFileSync(key), cert: fs.readFileSync(cert), allowHTTP1: true };
const answer = (request, response) => {
  let count = 0;
  for (const name of ['style', 'more']) response.writeEarlyHints({ link: `</${name}.css>; rel=preload` });
  request.on('data', (data) => { count += data.length; });
  request.on('end', () => response.end(`read ${count} bytes`));
};
const servers = [
  [require('node:http2').createSecureServer(tls, answer), 443],
  [require('node:https').createServer(tls, answer), 8443],
  [require('node:http').createServer(answer), 80],
];
let left = servers.length;
for (const [server, port] of servers) server.listen(port, address, () => { if (--left === 0) console.log('ready'); });
";

#[test]
fn what_goes_before_an_answer_stays_out_of_the_cell_and_a_body_is_asked_for_once_it_may_go() {
    let authority = Authority::new();
    let mut host = trusting(&authority, &[]);
    let mut command = Command::new("node");
    command.args(["-e", HINTING, RPC_ADDRESS]);
    let _server = outside(&host, &authority, &[RPC], &mut command);
    host.serve();
    host.create("acme");
    host.policy(
        "acme",
        "version: 2
default: deny
rules:
  - {allow: rpc.example.com, ports: [443, 8443], path: /open}
  - {allow: rpc.example.com, protocol: http, path: /open}
",
    );
    let curl = format!("curl -sSik --http2 https://{RPC_ADDRESS}/open");
    let control = host.world.outside(|| Command::new("sh").args(["-c", &curl]).output()).unwrap();
    let control = String::from_utf8(control.stdout).unwrap();
    assert!(control.starts_with("HTTP/2 103") && control.contains("style.css"), "{control}");
    for (flag, first, origin) in [
        ("--http1.1", "HTTP/1.1 ", "https://rpc.example.com"),
        ("--http2", "HTTP/2 ", "https://rpc.example.com"),
        ("--http1.1", "HTTP/1.1 ", "https://rpc.example.com:8443"),
        ("--http2", "HTTP/2 ", "https://rpc.example.com:8443"),
        ("--http1.1", "HTTP/1.1 ", "http://rpc.example.com"),
    ] {
        let (ok, said) = sh(&host, &format!("curl -sSi --suppress-connect-headers {flag} {origin}/open"));
        assert!(ok && said.starts_with(&format!("{first}200")) && said.ends_with("read 0 bytes"), "{said}");
        assert!(!said.contains(".css"), "{said}");
        // Who is to be told that he may send waits for it, for longer than this test has.
        let wait = if first == "HTTP/1.1 " { "--expect100-timeout 1000" } else { "" };
        let post = |path: &str| {
            let to = format!("{wait} -H 'Expect: 100-continue' --data-binary @- {origin}{path}");
            sh(&host, &format!("head -c 100000 /dev/zero | curl -sSi --suppress-connect-headers {flag} {to}"))
        };
        let (ok, said) = post("/open");
        assert!(ok && said.ends_with("read 100000 bytes"), "{said}");
        assert!(said.starts_with(&format!("{first}{}", if wait.is_empty() { 200 } else { 100 })), "{said}");
        // Whoever sends without being told hears of a refusal, too.
        let plain = format!("--data-binary @- {origin}/closed");
        let plain = format!("head -c 100000 /dev/zero | curl -sSi --suppress-connect-headers {flag} {plain}");
        for said in [post("/closed").1, sh(&host, &plain).1] {
            assert!(said.starts_with(&format!("{first}403")) && said.contains("no_rule"), "{said}");
        }
    }
}
