//! What people signed in to, of every agent, and what the environment holds: values that must not be carried.
//!
//! It owns where upstream keeps them. What is carried is `main`'s alone, but a note of `main`'s may have a key of
//! another agent's. The threat is a secret that nobody knows to be one, so what cannot be read ends the import.

use crate::{
    Error,
    database::Database,
    home::{Entry, Home},
    secrets::{MOST_VALUES, Secrets},
    sessions,
};
use cofferdam_agent::config::{LONGEST, secret::is_sensitive};
use serde_json::Value;

/// Where an agent's are, and where they were before there was a database.
const NEWER: &str = "openclaw-agent.sqlite";
const OLDER: [&str; 2] = ["auth-profiles.json", "auth.json"];
/// Providers, which may have keys.
const MODELS: &str = "models.json";
/// What all agents share.
const SHARED: &str = "credentials/oauth.json";
/// What upstream's gateway takes into its environment.
const ENVIRONMENT: &str = ".env";

/// A profile of `main`'s or of all agents.
pub(crate) struct Profile {
    /// The file that it is in.
    pub(crate) path: String,
    /// As `openai:me`.
    pub(crate) name: String,
}

/// Takes all of their values for secrets.
pub(crate) fn read(
    home: &Home,
    main: Option<&Database>,
    secrets: &mut Secrets,
) -> Result<Vec<Profile>, Error> {
    let mut found = Vec::new();
    for agent in agents(home)? {
        let path = format!("{agent}/agent/{NEWER}");
        let own = path == sessions::DATABASE;
        let other = if own { None } else { Database::open(home, &path)? };
        let documents = main.filter(|_| own).or(other.as_ref()).map(Database::credentials).transpose();
        let mut all: Vec<(String, String)> = Vec::new();
        for document in documents.map_err(unreadable(&path))?.unwrap_or_default() {
            all.push((path.clone(), document));
        }
        for name in OLDER {
            let path = format!("{agent}/agent/{name}");
            all.extend(text(home, &path)?.map(|document| (path, document)));
        }
        let path = format!("{agent}/agent/{MODELS}");
        if let Some(models) = text(home, &path)? {
            hide(&json(&models).map_err(unreadable(&path))?, "", secrets);
        }
        let profiles = taken(all, secrets)?;
        found.extend(profiles.into_iter().filter(|_| own));
    }
    let shared = text(home, SHARED)?.map(|document| (SHARED.to_owned(), document));
    found.extend(taken(shared, secrets)?);
    if let Some(variables) = text(home, ENVIRONMENT)? {
        environment(&variables, secrets);
    }
    if secrets.are_too_many() {
        return Err(Error::TooLarge(format!("{MOST_VALUES} secrets")));
    }
    Ok(found)
}

/// The directories of all agents. What is there and cannot be looked into, a link for one, ends the import.
fn agents(home: &Home) -> Result<Vec<String>, Error> {
    if !home.exists("agents") {
        return Ok(Vec::new());
    }
    let only_these = |path: &str| (path.split('/').count() == 2).then(String::new);
    let mut agents = Vec::new();
    for entry in home.below("agents", only_these)? {
        match entry {
            Entry::Other(path, why) if why.is_empty() => agents.push(path),
            Entry::Other(path, why) => return Err(Error::Credentials(path, why)),
            Entry::File(_) => {}
        }
    }
    Ok(agents)
}

fn unreadable(path: &str) -> impl FnOnce(String) -> Error + use<> {
    let path = path.to_owned();
    move |why| Error::Credentials(path, why)
}

/// A file of credentials; none if there is none.
fn text(home: &Home, path: &str) -> Result<Option<String>, Error> {
    if !home.exists(path) {
        return Ok(None);
    }
    let bytes = home.read(path, LONGEST as u64).map_err(unreadable(path))?;
    let text = String::from_utf8(bytes).map_err(|_| unreadable(path)("it is no text".to_owned()))?;
    Ok(Some(text))
}

fn taken(
    documents: impl IntoIterator<Item = (String, String)>,
    secrets: &mut Secrets,
) -> Result<Vec<Profile>, Error> {
    let mut found = Vec::new();
    for (path, document) in documents {
        let names = profiles(&document, secrets).map_err(unreadable(&path))?;
        found.extend(names.into_iter().map(|name| Profile { path: path.clone(), name }));
    }
    Ok(found)
}

fn json(document: &str) -> Result<Value, String> {
    serde_json::from_str(document).map_err(|_| "it is no JSON".to_owned())
}

/// Takes whatever a document of credentials calls one for a secret, wherever in it that is, and gives the names of its
/// profiles.
fn profiles(document: &str, secrets: &mut Secrets) -> Result<Vec<String>, String> {
    let document = json(document)?;
    let fields = document.as_object().ok_or("it is no document of profiles")?;
    hide(&document, "", secrets);
    // Older releases have the profiles themselves at the top.
    let profiles = match fields.get("profiles") {
        None => fields,
        Some(profiles) => profiles.as_object().ok_or("its profiles are none")?,
    };
    let named = profiles.iter().filter(|(_, profile)| profile.is_object());
    Ok(named.map(|(name, _)| name.clone()).collect())
}

fn hide(value: &Value, path: &str, secrets: &mut Secrets) {
    const NAMES: [&str; 9] =
        ["key", "token", "access", "refresh", "apiKey", "password", "secret", "idToken", "id_token"];
    match value {
        Value::Object(fields) => {
            fields.iter().for_each(|(name, field)| hide(field, &format!("{path}.{name}"), secrets));
        }
        Value::Array(rows) => rows.iter().for_each(|row| hide(row, path, secrets)),
        Value::String(text) => {
            let name = path.rsplit('.').next().unwrap_or_default();
            if NAMES.contains(&name) || is_sensitive(path) {
                secrets.add(text);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Takes the values of variables whose names say that they are secrets. Others are words of every text: `production`.
/// The grammar is dotenv's, and where it is read in two ways both values are taken.
fn environment(text: &str, secrets: &mut Secrets) {
    let mut rest = text;
    while !rest.is_empty() {
        let (line, after) = rest.split_once('\n').unwrap_or((rest, ""));
        let Some((name, _)) = line.split_once(['=', ':']) else {
            rest = after;
            continue;
        };
        let value = rest[name.len() + 1..].trim_start_matches([' ', '\t']);
        let quoted =
            ['"', '\'', '`'].into_iter().find_map(|quote| value.strip_prefix(quote)?.split_once(quote));
        let is_secret = !name.trim_start().starts_with('#') && names_a_secret(name);
        if let Some((value, behind)) = quoted {
            if is_secret {
                std::iter::once(value).chain(value.lines()).for_each(|value| secrets.add(value));
            }
            rest = behind.split_once('\n').map_or("", |(_, after)| after);
        } else {
            if is_secret {
                let value = value.lines().next().unwrap_or_default().trim_start_matches(['"', '\'', '`']);
                for end in [" #", "#"] {
                    secrets.add(value.split(end).next().unwrap_or_default());
                }
            }
            rest = after;
        }
    }
}

fn names_a_secret(name: &str) -> bool {
    #[rustfmt::skip]
    const WORDS: [&str; 11] = [
        "KEYS", "TOKENS", "PASS", "PASSPHRASE", "PASSWD", "AUTH", "BEARER", "CREDS", "CREDENTIALS", "COOKIE", "DSN",
    ];
    const ENDS: [&str; 6] = ["KEY", "TOKEN", "SECRET", "PASSWORD", "CREDENTIAL", "_PWD"];
    /// Of such names what is about a secret and none.
    #[rustfmt::skip]
    const ABOUT: [&str; 13] = [
        "PROVIDER", "TYPE", "MODE", "URL", "URI", "HOST", "PATH", "FILE", "DIR", "HEADER", "NAME", "CHANNEL", "ID",
    ];
    let name = name.trim().to_ascii_uppercase();
    let words: Vec<&str> = name.split(|c: char| !c.is_ascii_alphanumeric()).collect();
    if words.last().is_some_and(|last| ABOUT.contains(last)) && !name.contains("WEBHOOK") {
        return false;
    }
    words.iter().any(|word| WORDS.contains(word))
        || ENDS.iter().any(|end| name.ends_with(end))
        || is_sensitive(&name)
        || name.contains("WEBHOOK")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn secrets_of_an_environment_are_told_by_their_names() {
        let mut secrets = Secrets::default();
        let text = [
            "A_KEY=walrus-of-one",
            " export B_TOKEN = \"walrus of two\" # mine",
            "c_password='walrus #3' ",
            "D_SECRET=walrus-four # older and older",
            "# E_KEY=walrus-five",
            "NODE_ENV=production",
            "AUTHOR=Walrus Smith",
            "AUTH_PROVIDER=anthropic",
            "PASSWORD_RESET_CHANNEL=telegram",
            "KEYBOARD_LAYOUT=walrus-dvorak",
            "X_AUTH=walrus-six",
            "F_KEY=",
            "no line of it",
            "G_PWD: walrus-seven",
            "H_KEY=walrus-eight#or-not",
            "I_CREDENTIALS='{",
            "  \"walrus\": \"nine\"",
            "}' # J_KEY=walrus-ten",
            "SLACK_WEBHOOK_URL=https://walrus-eleven",
            "K_KEY=\"walrus-twelve",
        ];
        environment(&text.join("\n"), &mut secrets);
        let known = |value: &str| secrets.first_in(value.as_bytes()).is_some();
        for value in [
            "walrus-of-one",
            "walrus of two",
            "walrus #3",
            "walrus-four",
            "walrus-six",
            "walrus-seven",
            "walrus-eight",
            "\"walrus\": \"nine\"",
            "https://walrus-eleven",
            "walrus-twelve",
        ] {
            assert!(known(value), "{value}");
        }
        for value in [
            "production",
            "Walrus Smith",
            "walrus-five",
            "older and older",
            "no line of it",
            "anthropic",
            "telegram",
            "walrus-dvorak",
            "walrus-ten",
        ] {
            assert!(!known(value), "{value}");
        }
    }

    #[test]
    fn more_values_than_are_looked_for_are_the_end_of_an_import() {
        let mut secrets = Secrets::default();
        let all: Vec<String> = (0..=MOST_VALUES).map(|number| format!("A_KEY=walrus-{number:06}")).collect();
        environment(&all[1..].join("\n"), &mut secrets);
        assert!(!secrets.are_too_many());
        environment(&all[0], &mut secrets);
        assert!(secrets.are_too_many());
    }
}
