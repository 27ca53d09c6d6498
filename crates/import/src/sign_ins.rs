//! What people signed in to, of every agent, and what the environment holds: values that must not be carried.
//!
//! It owns where upstream keeps them. What is carried is `main`'s alone, but a note of `main`'s may have a key of
//! another agent's. The threat is a secret that nobody knows to be one, so what cannot be read ends the import.

use crate::{
    Error,
    database::Database,
    home::{Entry, Home},
    secrets::Secrets,
    sessions,
};
use cofferdam_agent::config::{LONGEST, secret::is_sensitive};
use serde_json::Value;

/// Where an agent's are, and where they were before there was a database.
const NEWER: &str = "openclaw-agent.sqlite";
const OLDER: [&str; 2] = ["auth-profiles.json", "auth.json"];
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
        let profiles = taken(all, secrets)?;
        found.extend(profiles.into_iter().filter(|_| own));
    }
    let shared = text(home, SHARED)?.map(|document| (SHARED.to_owned(), document));
    found.extend(taken(shared, secrets)?);
    if let Some(variables) = text(home, ENVIRONMENT)? {
        environment(&variables, secrets);
    }
    Ok(found)
}

/// The directories of all agents, and whatever else there is in their place: a link ends the import, as what is behind it
/// cannot be read.
fn agents(home: &Home) -> Result<Vec<String>, Error> {
    if !home.exists("agents") {
        return Ok(Vec::new());
    }
    let only_these = |path: &str| (path.split('/').count() == 2).then(String::new);
    let names = home.below("agents", only_these)?.into_iter().filter_map(|entry| match entry {
        Entry::Other(path, _) => Some(path),
        Entry::File(_) => None,
    });
    Ok(names.collect())
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

/// Takes whatever a document of credentials calls one for a secret, wherever in it that is, and gives the names of its
/// profiles.
pub(crate) fn profiles(document: &str, secrets: &mut Secrets) -> Result<Vec<String>, String> {
    let document: Value = serde_json::from_str(document).map_err(|_| "it is no JSON".to_owned())?;
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
fn environment(text: &str, secrets: &mut Secrets) {
    const PARTS: [&str; 6] = ["KEY", "TOKEN", "SECRET", "PASSW", "PASSPHRASE", "CREDENTIAL"];
    // `AUTHOR` and `COMPASS` are none.
    const WORDS: [&str; 4] = ["PASS", "AUTH", "BEARER", "CREDS"];
    for line in text.lines() {
        let Some((name, value)) = line.split_once('=') else { continue };
        let name = name.to_ascii_uppercase();
        let is_secret = PARTS.iter().any(|part| name.contains(part))
            || name.trim().split('_').any(|word| WORDS.contains(&word));
        if name.trim_start().starts_with('#') || !is_secret {
            continue;
        }
        let value = value.trim();
        // A value of several lines is known by its first.
        let quoted = ["\"", "'", "`"].into_iter().find_map(|quote| Some((quote, value.strip_prefix(quote)?)));
        let (end, value) = quoted.unwrap_or((" #", value));
        secrets.add(value.split(end).next().unwrap_or_default());
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn secrets_of_an_environment_are_told_by_their_names() {
        let mut secrets = Secrets::default();
        environment(
            "A_KEY=walrus-of-one\n export B_TOKEN = \"walrus of two\" # mine\nc_password='walrus #3' \n\
             D_SECRET=walrus-four # old\n# E_KEY=walrus-five\nNODE_ENV=production\nAUTHOR=Walrus Smith\nX_AUTH=walrus-six\nF_KEY=\nno line\nG_KEY=\"walrus-of-seven",
            &mut secrets,
        );
        for value in
            ["walrus-of-one", "walrus of two", "walrus #3", "walrus-four", "walrus-six", "walrus-of-seven"]
        {
            assert!(secrets.first_in(value.as_bytes()).is_some(), "{value}");
        }
        for value in ["production", "Walrus Smith", "walrus-five", "mine", "no line", " old"] {
            assert!(secrets.first_in(value.as_bytes()).is_none(), "{value}");
        }
    }
}
