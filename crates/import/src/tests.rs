//! Whole homes, from their files to a tenant's.
#![allow(clippy::unwrap_used)]

use crate::{
    Carried, Changed, Credential, Error, Left, Place, Report, Runtime,
    bundle::{self, Kind},
    first_report,
    home::Home,
    reader::{Wanted, stream},
    secrets::BLANK,
    unpack::unpack,
};
use cofferdam_agent::store::{Message, Store};
use serde_json::json;
use std::{
    ffi::OsStr,
    fs,
    io::{BufWriter, Cursor},
    os::unix::{
        ffi::OsStrExt,
        fs::{PermissionsExt, symlink},
    },
    path::Path,
};

const TOKEN: &str = "gateway-token-0123456789";
const KEY: &str = "sk-a1b2c3d4e5f6g7h8i9j0k1l2";

fn put(home: &Path, path: &str, content: impl AsRef<[u8]>) {
    let path = home.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

fn home() -> tempfile::TempDir {
    let outer = tempfile::tempdir().unwrap();
    let home = outer.path();
    put(
        home,
        "openclaw.json",
        format!(
            "{{ gateway: {{ auth: {{ token: '{TOKEN}' }} }}, models: {{ providers: {{ mock: {{ apiKey: '{KEY}' }} }} }} }}"
        ),
    );
    put(home, "workspace/MEMORY.md", format!("the boat is green\nand the key is {KEY}\n"));
    put(home, "workspace/memory/2026-09-01.md", "it rained");
    put(home, "workspace/run.sh", "#!/bin/sh\n");
    fs::set_permissions(home.join("workspace/run.sh"), fs::Permissions::from_mode(0o755)).unwrap();
    put(home, "workspace/.env", format!("KEY={KEY}"));
    put(home, "workspace/blob.bin", [b"\xff\xfe", TOKEN.as_bytes()].concat());
    put(home, "workspace/skills/boat/SKILL.md", "---\nname: boat\n---\n");
    put(home, "skills/boat/SKILL.md", "hidden");
    put(home, "skills/sea/SKILL.md", "---\nname: sea\n---\n");
    put(home, "credentials/telegram.json", "{}");
    put(home, "state/openclaw.sqlite", "x");
    put(home, "odd.txt", "x");
    symlink("/etc/passwd", home.join("workspace/passwd")).unwrap();
    let lines = [
        json!({ "type": "session", "version": 3, "id": "s1", "timestamp": "2026-09-01T10:00:00.000Z", "cwd": "/root" }),
        json!({ "type": "message", "id": "a", "parentId": null, "message":
            { "role": "user", "content": format!("remember the marmalade, {TOKEN}"), "timestamp": 7 } }),
        json!({ "type": "message", "id": "b", "parentId": "a", "message": { "role": "assistant", "timestamp": 8,
            "content": [{ "type": "text", "text": "I will" }] } }),
    ];
    let lines: Vec<String> = lines.iter().map(ToString::to_string).chain(["broken".to_owned()]).collect();
    put(home, "agents/main/sessions/s1.jsonl", lines.join("\n"));
    put(home, "agents/main/sessions/s2.jsonl", lines.join("\n"));
    let index = json!({ "agent:main:main": { "sessionId": "s1", "updatedAt": 9, "label": "Marmalade" } });
    put(home, "agents/main/sessions/sessions.json", index.to_string());
    put(home, "agents/other/sessions/s3.jsonl", "");
    outer
}

/// Reads a home and unpacks what comes of it.
fn carry(home: &Path, runtime: Runtime) -> (Report, tempfile::TempDir) {
    let root = tempfile::tempdir().unwrap();
    let stream = bytes(home, runtime).unwrap();
    let mut stream = Cursor::new(stream);
    let report = first_report(&mut stream).unwrap();
    unpack(runtime, root.path(), &mut stream).unwrap();
    (report, root)
}

fn bytes(home: &Path, runtime: Runtime) -> Result<Vec<u8>, Error> {
    read(Place::open(home)?, runtime)
}

fn read(place: Place, runtime: Runtime) -> Result<Vec<u8>, Error> {
    let wanted = Wanted { tenant: "acme".to_owned(), runtime, carry: true };
    let mut out = BufWriter::new(Vec::new());
    stream(&wanted, &Home::new(place.directory), &mut out)?;
    Ok(out.into_inner().unwrap())
}

/// Everything below a directory, in one piece.
fn all(root: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    for entry in fs::read_dir(root).unwrap() {
        let path = entry.unwrap().path();
        bytes.extend(path.to_string_lossy().bytes());
        bytes.extend(if path.is_dir() { all(&path) } else { fs::read(&path).unwrap() });
    }
    bytes
}

fn holds(bytes: &[u8], word: &str) -> bool {
    memchr::memmem::find(bytes, word.as_bytes()).is_some()
}

#[test]
fn a_home_becomes_a_native_one_and_what_stays_is_named_with_its_reason() {
    let home = home();
    let (report, root) = carry(home.path(), Runtime::Native);
    let text = |path: &str| fs::read_to_string(root.path().join(path)).unwrap();
    assert_eq!(text("workspace/MEMORY.md"), format!("the boat is green\nand the key is {BLANK}\n"));
    assert_eq!(text("workspace/skills/boat/SKILL.md"), "---\nname: boat\n---\n");
    assert!(text("workspace/skills/sea/SKILL.md").contains("sea"));
    let mode = fs::metadata(root.path().join("workspace/run.sh")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    for path in ["workspace/passwd", "workspace/.env", "workspace/blob.bin", ".openclaw"] {
        assert!(!root.path().join(path).exists(), "{path}");
    }

    let store = Store::open(&root.path().join(".cofferdam/agent.db")).unwrap();
    let session = store.session("agent:main:main").unwrap().unwrap();
    assert_eq!((&*session.id, session.label.as_deref(), session.updated_at), ("s1", Some("Marmalade"), 9));
    let said: Vec<String> = store.messages("s1", 10, 0).unwrap().iter().map(Message::said).collect();
    assert_eq!(said, [format!("remember the marmalade, {BLANK}"), "I will".to_owned()]);
    assert_eq!(store.search("marmalade", 10).unwrap().len(), 2, "the one without a key is there, too");
    assert!(store.session("agent:main:dashboard:s2").unwrap().is_some());

    let left = |path: &str| report.left.iter().find(|row| row.path == path).map(|row| row.why.clone());
    for (path, why) in [
        ("workspace/passwd", "a link"),
        ("workspace/.env", "credentials"),
        ("workspace/blob.bin", "no text, and it holds"),
        ("skills/boat", "comes first"),
        ("credentials", "credentials"),
        ("state", "scheduled jobs"),
        ("odd.txt", "does not know"),
        ("agents/main/sessions/s1.jsonl", "1 lines that cannot be read: 4"),
        ("agents/other/sessions", "of another agent"),
    ] {
        assert!(left(path).is_some_and(|said| said.contains(why)), "{path}: {:?}", report.left);
    }
    let carried: Vec<(&str, u64, Option<u64>)> =
        report.carried.iter().map(|row| (&*row.what, row.count, row.messages)).collect();
    assert_eq!(
        carried,
        [("memory", 2, None), ("workspace", 1, None), ("skills", 2, None), ("sessions", 2, Some(4))]
    );
}

#[test]
fn a_home_becomes_one_of_upstreams() {
    let home = home();
    let (report, root) = carry(home.path(), Runtime::Openclaw);
    let text = |path: &str| fs::read_to_string(root.path().join(path)).unwrap();
    let index: serde_json::Value =
        serde_json::from_str(&text(".openclaw/agents/main/sessions/sessions.json")).unwrap();
    assert_eq!(index["agent:main:main"]["sessionFile"], "s1.jsonl");
    let lines = text(".openclaw/agents/main/sessions/s1.jsonl");
    assert!(lines.lines().count() == 3 && lines.contains("\"cwd\":\"/sandbox/workspace\""), "{lines}");
    assert_eq!(text(".openclaw/skills/boat/SKILL.md"), "hidden");
    assert!(!root.path().join(".cofferdam").exists());
    assert!(
        report.changed.iter().any(|row| row.path == "openclaw.json: gateway.auth.token")
            || !report.credentials.is_empty()
    );
}

#[test]
fn a_secret_is_in_no_byte_of_what_comes_or_is_said() {
    let home = home();
    put(home.path(), &format!("workspace/{KEY}.md"), "a name");
    for runtime in [Runtime::Native, Runtime::Openclaw] {
        let (report, root) = carry(home.path(), runtime);
        let said = serde_json::to_vec(&report).unwrap();
        assert!(holds(&all(home.path()), KEY) && holds(&all(home.path()), TOKEN), "the control");
        for secret in [KEY, TOKEN] {
            assert!(!holds(&said, secret), "{}", String::from_utf8_lossy(&said));
            assert!(!holds(&all(root.path()), secret), "{secret}");
        }
        assert!(
            report.warnings.iter().any(|row| row.contains("workspace/MEMORY.md")),
            "{:?}",
            report.warnings
        );
    }
}

#[test]
fn what_is_no_home_or_in_use_is_refused() {
    let outer = tempfile::tempdir().unwrap();
    assert!(matches!(bytes(outer.path(), Runtime::Native), Err(Error::NoHome(_))));
    put(outer.path(), ".openclaw/openclaw.json", "{");
    assert!(matches!(bytes(outer.path(), Runtime::Native), Err(Error::NoHome(_))));
    put(outer.path(), ".openclaw/openclaw.json", "{}");
    bytes(outer.path(), Runtime::Native).unwrap();
    let database = ".openclaw/agents/main/agent/openclaw-agent.sqlite";
    put(outer.path(), database, "no database");
    put(outer.path(), &format!("{database}-wal"), "more");
    assert!(matches!(bytes(outer.path(), Runtime::Native), Err(Error::InUse(_))));
}

/// What is not known to be a secret is not blanked: without all credentials nothing is carried.
#[test]
fn credentials_that_cannot_be_read_are_the_end_of_an_import() {
    let refused = |home: &Path, file: &str| {
        let error = bytes(home, Runtime::Native).unwrap_err();
        assert!(matches!(&error, Error::Credentials(path, _) if path == file), "{file}: {error}");
        assert!(error.to_string().contains("move it out of the home"), "{error}");
    };
    for file in [
        "agents/main/agent/auth-profiles.json",
        "agents/main/agent/auth.json",
        "agents/other/agent/auth.json",
        "credentials/oauth.json",
    ] {
        let long = vec![b' '; (1 << 20) + 1];
        let broken: [&[u8]; 5] = [b"{", b"[]", b"\xff", b"{\"profiles\": 1}", &long];
        for content in broken {
            let home = home();
            put(home.path(), file, content);
            refused(home.path(), file);
        }
        let home = home();
        fs::create_dir_all(home.path().join(file).parent().unwrap()).unwrap();
        symlink("/etc/passwd", home.path().join(file)).unwrap();
        refused(home.path(), file);
    }
    let linked = home();
    symlink("/root", linked.path().join("agents/linked")).unwrap();
    refused(linked.path(), "agents/linked");
    let unnamed = home();
    fs::create_dir(unnamed.path().join("agents").join(OsStr::from_bytes(b"\xff"))).unwrap();
    refused(unnamed.path(), "agents/\u{fffd}");
    let closed = home();
    fs::remove_dir_all(closed.path().join("agents")).unwrap();
    put(closed.path(), "agents", "no directory");
    refused(closed.path(), "agents");
    let binary = home();
    put(binary.path(), ".env", b"KEY=\xff");
    refused(binary.path(), ".env");
    let database = "agents/main/agent/openclaw-agent.sqlite";
    for database in [database, "agents/other/agent/openclaw-agent.sqlite"] {
        let lone = home();
        put(lone.path(), database, "no database");
        refused(lone.path(), database);
    }
    for sql in [
        "CREATE TABLE auth_profile_store (other TEXT)",
        "CREATE VIEW auth_profile_store AS SELECT '{}' AS store_json",
        "CREATE TABLE auth_profile_store (store_json); INSERT INTO auth_profile_store VALUES (x'ff')",
        "CREATE TABLE auth_profile_store (store_json); INSERT INTO auth_profile_store VALUES ('{')",
        "CREATE TABLE auth_profile_store (store_json); INSERT INTO auth_profile_store
            WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1001) SELECT '{}' FROM n",
    ] {
        let home = home();
        let path = home.path().join(database);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        rusqlite::Connection::open(&path).unwrap().execute_batch(sql).unwrap();
        refused(home.path(), database);
    }
}

#[test]
fn sign_ins_of_every_form_are_blanked() {
    for document in [
        json!({ "profiles": { "openai:me": { "type": "oauth", "tokens": { "access": "walrus-one-two" } } } }),
        json!({ "openai": { "type": "api_key", "key": "walrus-one-two" } }),
        json!({ "profiles": { "openai": { "client_secret": "walrus-one-two" } } }),
    ] {
        let home = home();
        put(home.path(), "agents/main/agent/auth.json", document.to_string());
        put(home.path(), "workspace/note.md", "it is walrus-one-two");
        let (report, root) = carry(home.path(), Runtime::Native);
        let note = fs::read_to_string(root.path().join("workspace/note.md")).unwrap();
        assert_eq!(note, format!("it is {BLANK}"), "{document}");
        let asked = report.credentials.iter().any(|row| row.command.contains("OPENAI"));
        assert!(asked, "{document}: {:?}", report.credentials);
    }
}

/// A word of the configuration may be a secret elsewhere.
#[test]
fn settings_that_are_none_without_a_secret_are_left() {
    for (profile, carried) in [("coding", true), ("messaging", false)] {
        let home = home();
        let settings = format!("{{ tools: {{ profile: '{profile}' }} }}");
        put(home.path(), "openclaw.json", settings);
        put(home.path(), ".env", "A_KEY=messaging");
        let (report, root) = carry(home.path(), Runtime::Native);
        assert_eq!(root.path().join(".cofferdam/config.json").exists(), carried);
        assert_eq!(report.left.iter().any(|row| row.path == "openclaw.json"), !carried, "{:?}", report.left);
    }
}

/// What `main` was told may be what another agent, or the environment, has for a secret; nobody is asked for these.
#[test]
fn secrets_of_other_agents_and_of_the_environment_are_blanked() {
    let home = home();
    put(home.path(), "agents/other/agent/auth-profiles.json", r#"{ "openai": { "key": "walrus-one-two" } }"#);
    put(
        home.path(),
        "agents/other/agent/models.json",
        r#"{ "providers": { "x": { "apiKey": "walrus-seven-8" } } }"#,
    );
    put(home.path(), ".env", "CRM_TOKEN=walrus-three-four\n");
    let path = home.path().join("agents/third/agent/openclaw-agent.sqlite");
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let sql = "CREATE TABLE auth_profile_store (store_json TEXT);
        INSERT INTO auth_profile_store VALUES ('{\"profiles\":{\"x\":{\"token\":\"walrus-five-six\"}}}')";
    rusqlite::Connection::open(&path).unwrap().execute_batch(sql).unwrap();
    put(
        home.path(),
        "workspace/note.md",
        "walrus-one-two, walrus-three-four, walrus-five-six, walrus-seven-8, walrus",
    );
    let (report, root) = carry(home.path(), Runtime::Native);
    let note = fs::read_to_string(root.path().join("workspace/note.md")).unwrap();
    assert_eq!(note, format!("{BLANK}, {BLANK}, {BLANK}, {BLANK}, walrus"));
    assert!(!report.credentials.iter().any(|row| row.at.contains("agents/")), "{:?}", report.credentials);
}

/// Whoever owns what is above a home can put another in its place while it is imported.
#[test]
fn what_was_opened_is_read_whatever_its_path_leads_to_now() {
    let (home, other) = (home(), home());
    put(other.path(), "workspace/MEMORY.md", "the boat is somebody else's");
    let place = Place::open(home.path()).unwrap();
    let aside = home.path().with_extension("aside");
    fs::rename(home.path(), &aside).unwrap();
    symlink(other.path(), home.path()).unwrap();
    let stream = read(place, Runtime::Native).unwrap();
    assert!(holds(&stream, "the boat is green") && !holds(&stream, "somebody else's"));
    fs::remove_file(home.path()).unwrap();
    fs::rename(&aside, home.path()).unwrap();
}

#[test]
fn a_stream_that_was_cut_off_or_leads_elsewhere_is_refused() {
    let home = home();
    let stream = bytes(home.path(), Runtime::Native).unwrap();
    for cut in [6, stream.len() / 2, stream.len() - 1, stream.len() - 5] {
        let root = tempfile::tempdir().unwrap();
        let mut cursor = Cursor::new(&stream[..cut]);
        let read = first_report(&mut cursor).and_then(|_| unpack(Runtime::Native, root.path(), &mut cursor));
        assert!(matches!(read, Err(Error::Stream(_))), "{cut}: {read:?}");
    }
    for path in ["../x", "/etc/x", "workspace/../../x", ".cofferdam/agent.db", "", "workspace"] {
        let (outer, mut stream) = (tempfile::tempdir().unwrap(), Vec::new());
        let root = outer.path().join("root/workspace");
        fs::create_dir_all(&root).unwrap();
        bundle::write_json(&mut stream, Kind::File, &json!({ "path": path, "size": 0, "runs": false }))
            .unwrap();
        bundle::write(&mut stream, Kind::End, &[]).unwrap();
        let read = unpack(Runtime::Native, root.parent().unwrap(), &mut Cursor::new(stream));
        assert!(read.is_err(), "{path}");
        assert!(!outer.path().join("x").exists());
    }
}

/// A database as upstream makes it, with what of it is read.
#[test]
fn conversations_of_upstreams_database_are_carried_with_what_it_packed() {
    let home = home();
    fs::remove_dir_all(home.path().join("agents")).unwrap();
    let path = home.path().join("agents/main/agent/openclaw-agent.sqlite");
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let db = rusqlite::Connection::open(&path).unwrap();
    db.execute_batch(
        "CREATE TABLE session_nodes (session_key TEXT, current_session_id TEXT, label TEXT, display_name TEXT);
         CREATE TABLE session_windows (session_id TEXT, session_key TEXT, started_at INTEGER, created_at INTEGER, updated_at INTEGER);
         CREATE TABLE transcript_events (session_id TEXT, seq INTEGER, event_json TEXT, event_zstd BLOB);
         CREATE TABLE auth_profile_store (store_json TEXT);
         INSERT INTO session_nodes VALUES ('agent:main:main', 'new', NULL, 'Talk');
         INSERT INTO session_windows VALUES ('new', 'agent:main:main', NULL, 5, 6), ('old', 'agent:main:main', 1, 2, 3);
         INSERT INTO auth_profile_store VALUES ('{\"profiles\":{\"openai:default\":{\"key\":\"a-key-that-has-no-shape\"}}}');",
    )
    .unwrap();
    let event = |id: &str, text: &str| {
        json!({ "type": "message", "id": id, "message": { "role": "user", "content": text, "timestamp": 7 } })
            .to_string()
    };
    let long = "long ".repeat(1000);
    let packed = ruzstd::encoding::compress_to_vec(
        event("b", &long).as_bytes(),
        ruzstd::encoding::CompressionLevel::Fastest,
    );
    let mut put = db.prepare("INSERT INTO transcript_events VALUES (?1, ?2, ?3, ?4)").unwrap();
    put.execute(("new", 0, event("a", "hello a-key-that-has-no-shape"), None::<Vec<u8>>)).unwrap();
    put.execute(("new", 1, None::<String>, packed)).unwrap();
    put.execute(("new", 2, None::<String>, b"\xff\xff".to_vec())).unwrap();
    put.execute(("old", 0, event("c", "before"), None::<Vec<u8>>)).unwrap();
    drop(put);
    drop(db);

    let (report, root) = carry(home.path(), Runtime::Native);
    let store = Store::open(&root.path().join(".cofferdam/agent.db")).unwrap();
    let said = |key: &str| {
        let session = store.session(key).unwrap().unwrap();
        store.messages(&session.id, 10, 0).unwrap().iter().map(Message::said).collect::<Vec<_>>()
    };
    assert_eq!(said("agent:main:main"), [format!("hello {BLANK}"), long]);
    assert_eq!(said("agent:main:dashboard:old"), ["before"]);
    assert!(
        report.left.iter().any(|row| row.why.contains("1 lines that cannot be read: 3")),
        "{:?}",
        report.left
    );
    assert!(
        report.credentials.iter().any(|row| row.command.contains("OPENAI_API_KEY")),
        "{:?}",
        report.credentials
    );
}

const ESCAPES: &str = "\u{1b}[2Jx\u{9b}1A\u{202e}\u{2066}\u{61c}\u{200b}\r\nfake";

/// Is there a text in it that is not as it may be shown?
fn is_clean(report: &Report) -> bool {
    // JSON escapes some itself: of its texts, as they are.
    fn clean(value: &serde_json::Value) -> bool {
        let bad = |next: char| next.is_control() || "\u{202e}\u{2066}\u{61c}\u{200b}".contains(next);
        match value {
            serde_json::Value::String(text) => !text.contains(bad),
            serde_json::Value::Array(rows) => rows.iter().all(clean),
            serde_json::Value::Object(fields) => fields.values().all(clean),
            _ => true,
        }
    }
    clean(&serde_json::to_value(report).unwrap())
}

#[test]
fn nothing_of_a_home_moves_the_cursor_of_who_reads_the_report() {
    let home = home();
    let path = home.path().join("agents/main/agent/openclaw-agent.sqlite");
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let db = rusqlite::Connection::open(&path).unwrap();
    // SQLite's error names what the database names.
    db.execute_batch(&format!(
        "CREATE TABLE session_nodes (session_key TEXT, current_session_id TEXT, label TEXT, display_name TEXT);
         PRAGMA writable_schema = ON;
         INSERT INTO sqlite_master VALUES ('table', 'session_windows', 'session_windows', 0,
            'CREATE VIRTUAL TABLE session_windows USING \"m{ESCAPES}\"');"
    ))
    .unwrap();
    drop(db);
    put(
        home.path(),
        "openclaw.json",
        json!({ format!("key{ESCAPES}"): { "token": "long-enough-to-hide" } }).to_string(),
    );
    // As it is made,
    let mut report = &bytes(home.path(), Runtime::Native).unwrap()[..];
    let (_, made) = bundle::read(&mut report).unwrap();
    let made: Report = bundle::parse(&made).unwrap();
    assert!(is_clean(&made), "{made:#?}");
    assert!(made.left.iter().any(|row| row.why.contains("no such module: m\\u{1b}")), "{made:#?}");

    // and as it is received from a reader that was taken over.
    let text = || ESCAPES.to_owned();
    let forged = Report {
        carried: vec![Carried { what: text(), count: 1, messages: None, bytes: 1, to: text() }],
        changed: vec![Changed { path: text(), how: text() }],
        left: vec![Left { path: text(), why: text(), count: None }],
        credentials: vec![Credential { at: text(), command: text(), note: text() }],
        warnings: vec![text()],
        more: 0,
    };
    assert!(!is_clean(&forged), "the control");
    let mut stream = Vec::new();
    bundle::write_json(&mut stream, Kind::Report, &forged).unwrap();
    let received = first_report(&mut Cursor::new(stream)).unwrap();
    assert!(is_clean(&received), "{received:#?}");
    let again = received.clone().printable();
    assert_eq!(again, received);
}

#[test]
fn a_database_whose_tables_are_views_is_left() {
    let home = home();
    let path = home.path().join("agents/main/agent/openclaw-agent.sqlite");
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let db = rusqlite::Connection::open(&path).unwrap();
    db.execute_batch(
        "CREATE TABLE session_nodes (session_key TEXT, current_session_id TEXT, label TEXT, display_name TEXT);
         CREATE VIEW session_windows AS WITH RECURSIVE n(session_id) AS (SELECT 1 UNION ALL SELECT session_id + 1 FROM n)
            SELECT session_id, 'k' AS session_key, 0 AS started_at, 0 AS created_at, 0 AS updated_at FROM n;",
    )
    .unwrap();
    drop(db);
    let (report, _) = carry(home.path(), Runtime::Native);
    assert!(
        report.left.iter().any(|row| row.why.contains("a database of another release")),
        "{:?}",
        report.left
    );
}
