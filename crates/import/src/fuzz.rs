//! What must hold of any bytes of a home, for `fuzz/`.

use crate::{config, report::Report, secrets::Secrets, transcript::Transcript, unpack};
use serde_json::Value;
use std::io::Cursor;

/// A configuration: whatever is in it, no value of a credential is in the report, and no command that a shell reads
/// as another.
pub fn configuration(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(document) = cofferdam_agent::config::read(text) else { return };
    let (mut secrets, mut report) = (Secrets::default(), Report::default());
    let reader = config::Reader { tenant: "acme", runtime: crate::Runtime::Native };
    reader.read(&document, &mut secrets, &mut report);
    for row in &report.credentials {
        let plain = row
            .command
            .replace("'Bearer {}'", "")
            .replace("'Bot {}'", "")
            .replace("'bot{}'", "")
            .replace("/**'", "")
            .replace("--bind '", "")
            .replace(" < FILE", "");
        assert!(
            plain.bytes().all(|byte| byte.is_ascii_alphanumeric() || b" :/._~-[]".contains(&byte)),
            "{plain}"
        );
    }
}

/// A transcript: each message is there once, or given up; and no secret is left in what is carried.
pub fn transcript(bytes: &[u8]) {
    let mut secrets = Secrets::default();
    secrets.add("a-value-of-the-configuration");
    let transcript = Transcript::read(bytes.split(|byte| *byte == b'\n').map(Some), &secrets);
    let messages = transcript.entries.iter().filter(|entry| entry["type"] == "message").count() as u64;
    let (said, unreadable) = transcript.said();
    assert_eq!(said.len() as u64 + unreadable + transcript.given_up(), messages);
    for said in said {
        holds_none(&secrets, &said.body);
    }
}

/// No text of it is or has a secret. As JSON they would run together, and an end of a line would be none.
fn holds_none(secrets: &Secrets, value: &Value) {
    match value {
        Value::String(text) => assert_eq!(secrets.first_in(text.as_bytes()), None, "{text:?}"),
        Value::Array(rows) => rows.iter().for_each(|row| holds_none(secrets, row)),
        Value::Object(fields) => {
            for (key, field) in fields {
                assert_eq!(secrets.first_in(key.as_bytes()), None, "{key:?}");
                holds_none(secrets, field);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// A stream to the unpacker: whatever it is, nothing is written outside.
pub fn stream(bytes: &[u8]) {
    let Ok(outer) = tempdir() else { return };
    let root = outer.join("root");
    let _ = std::fs::create_dir_all(&root);
    let _ = unpack::unpack(crate::Runtime::Native, &root, &mut Cursor::new(bytes));
    let names: Vec<_> =
        std::fs::read_dir(&outer).into_iter().flatten().flatten().map(|entry| entry.file_name()).collect();
    let _ = std::fs::remove_dir_all(&outer);
    assert_eq!(names, ["root"]);
}

fn tempdir() -> std::io::Result<std::path::PathBuf> {
    let mut name = [0; 8];
    rustix::rand::getrandom(&mut name, rustix::rand::GetRandomFlags::empty())?;
    let path = std::env::temp_dir().join(format!("cofferdam-fuzz-{:016x}", u64::from_le_bytes(name)));
    std::fs::create_dir(&path)?;
    Ok(path)
}
