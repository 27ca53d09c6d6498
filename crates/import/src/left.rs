//! What of a home has no place in a tenant's, by its name, and why.
//!
//! A table, so that a person can read it. What is in no row is left as unknown: nothing is carried by accident.

/// Names at the top of the state directory, `/` after those of directories.
pub(crate) const TOP: &[(&str, &str)] = &[
    ("credentials/", CREDENTIALS),
    ("identity/", "keys of the old host's device"),
    ("devices/", "devices that were paired with the old host"),
    ("nodes/", "nodes that were paired with the old host"),
    ("pairing/", "who was paired with the old host"),
    ("secrets/", CREDENTIALS),
    (".env", CREDENTIALS),
    ("config-journal-fingerprint.key", "a key of the old host"),
    ("exec-approvals.json", "approvals of the old host: in a cell, the policy decides"),
    ("state/", "the old host's pairings, approvals, secrets and scheduled jobs"),
    ("cron/", "scheduled jobs: make them anew, so that nothing runs that nobody remembers"),
    ("hooks/", "code that ran in the gateway itself"),
    ("extensions/", "code that ran in the gateway itself"),
    ("plugins/", "code that ran in the gateway itself"),
    ("plugin-skills/", "links of plugins"),
    ("npm/", "packages of plugins"),
    ("git/", "packages of plugins"),
    ("memory/", "an index, made anew from the memory's files"),
    ("sandboxes/", "working copies of the old host's sandboxes"),
    ("browser/", "a browser's profile: it is signed in to places"),
    ("cache/", MADE_ANEW),
    ("tmp/", MADE_ANEW),
    ("logs/", "logs of the old host"),
    ("completions/", MADE_ANEW),
    ("canvas/", MADE_ANEW),
    ("session-sqlite-migration-runs/", "records of upstream's own migrations"),
    ("backups/", "backups of the old host"),
    ("update-check.json", MADE_ANEW),
    ("restart-sentinel.json", MADE_ANEW),
    ("openclaw.json.bak", "an old configuration"),
    ("openclaw.json.last-good", "an old configuration"),
];

/// Why a thing at the top is left.
pub(crate) fn top(name: &str, directory: bool) -> &'static str {
    let named = |row: &&(&str, &str)| match row.0.strip_suffix('/') {
        Some(row) => directory && row == name,
        None => !directory && row.0 == name,
    };
    if name.starts_with("openclaw.json.") {
        return "an old configuration";
    }
    TOP.iter().find(named).map_or("this command does not know it", |row| row.1)
}

/// Directories that are left wherever they are.
pub(crate) fn directory(path: &str) -> Option<String> {
    let why = match path.rsplit('/').next().unwrap_or(path) {
        ".git" => "its history is packed, and may hold secrets that were taken out since",
        ".aws" | ".ssh" | ".gnupg" | ".kube" | ".docker" => CREDENTIALS,
        "node_modules" | ".venv" | "__pycache__" => "programs that can be installed anew",
        _ => return None,
    };
    Some(why.to_owned())
}

/// Files that are secrets by their names.
pub(crate) fn is_credential(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path).to_ascii_lowercase();
    let sample = ["example", "sample", "template", "dist"].iter().any(|end| name.ends_with(end));
    let env = name == ".env" || (name.starts_with(".env.") && !sample);
    let ends =
        [".env", ".key", ".pem", ".p12", ".pfx", ".jks", ".kdbx"].iter().any(|end| name.ends_with(end));
    let named = matches!(
        name.as_str(),
        "auth-profiles.json"
            | "auth.json"
            | "credentials.json"
            | "credentials"
            | "oauth.json"
            | "device-auth.json"
            | ".netrc"
            | ".npmrc"
            | ".pypirc"
            | ".git-credentials"
            | "id_rsa"
            | "id_ed25519"
            | "id_ecdsa"
            | "id_dsa"
            | ".htpasswd"
    );
    env || ends || named
}

/// Credentials are asked for, not copied.
pub(crate) const CREDENTIALS: &str = "credentials are not copied";
const MADE_ANEW: &str = "made anew when it is needed";

/// A size as people say it.
pub(crate) fn size(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..0x10_0000 => format!("{} KiB", bytes >> 10),
        0x10_0000..0x4000_0000 => format!("{} MiB", bytes >> 20),
        _ => format!("{} GiB", bytes >> 30),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_known_by_their_names() {
        for name in
            [".env", "a/.env.local", "prod.env", "tls.key", "x/id_ed25519", "auth-profiles.json", ".netrc"]
        {
            assert!(is_credential(name), "{name}");
        }
        for name in [".env.example", "AGENTS.md", "keys.md", "environment", "monkey"] {
            assert!(!is_credential(name), "{name}");
        }
    }
}
