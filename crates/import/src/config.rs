//! Upstream's configuration, `openclaw.json`: which of it has a place here, and which of it is a credential.
//!
//! It owns the reading of its keys. It refuses to write a command that a person would type with anything of the
//! document in it that a shell could read otherwise. The threat: a home whose keys are commands, and a credential under
//! a name that nobody thought of: whatever looks like one is one.

use crate::{
    Runtime,
    report::Report,
    secrets::Secrets,
    settings::{self, Leaf},
};
use cofferdam_agent::config::secret::is_sensitive;
use serde_json::{Map, Value};

/// What the configuration says of where things are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Places {
    /// The workspace of the agent `main`, as the document has it.
    pub(crate) workspace: Option<String>,
    /// What the native gateway heeds of it, as its configuration.
    pub(crate) settings: Option<String>,
}

/// Who reads it.
#[derive(Clone, Copy)]
pub(crate) struct Reader<'a> {
    pub(crate) tenant: &'a str,
    pub(crate) runtime: Runtime,
}

/// Keys that Cofferdam sets itself, by how their paths begin, and what takes their place.
const OURS: &[(&str, &str)] = &[
    ("gateway", "the edge is in front of the gateway, with addresses and tokens of its own"),
    ("discovery", "a cell announces itself to nobody"),
    ("update", "the host's operator decides which release runs"),
    ("proxy", "everything goes through the tenant's warden"),
    ("secrets", "secrets are in the vault"),
    ("auth", "secrets are in the vault"),
    ("models", "models are reached through the tenant's routes"),
    ("agents.defaults.model", "the tenant's default route is asked"),
    ("agents.defaults.workspace", "/sandbox/workspace"),
    ("logging", "cofferdam tenant logs"),
    ("meta", "of the program that wrote the file"),
    ("wizard", "of the program that wrote the file"),
    ("env", "a cell has an environment of its own"),
];

/// What a provider is called, where it is, and which wire it speaks; for those that the document only names.
const PROVIDERS: &[(&str, &str, &str)] = &[
    ("openai", "https://api.openai.com/v1", "openai"),
    ("anthropic", "https://api.anthropic.com/v1", "anthropic"),
    ("google", "https://generativelanguage.googleapis.com/v1beta", "gemini"),
    ("openrouter", "https://openrouter.ai/api/v1", "openai"),
    ("groq", "https://api.groq.com/openai/v1", "openai"),
    ("mistral", "https://api.mistral.ai/v1", "openai"),
    ("xai", "https://api.x.ai/v1", "openai"),
    ("deepseek", "https://api.deepseek.com/v1", "openai"),
    ("ollama", "http://127.0.0.1:11434", "ollama"),
];

impl Reader<'_> {
    /// Tells what of the document is carried, changed, left and asked for.
    pub(crate) fn read(self, document: &Value, secrets: &mut Secrets, report: &mut Report) -> Places {
        self.models(document, report);
        let (mut all, mut settings, mut asked) = (Vec::new(), Vec::new(), Vec::new());
        walk(document, &mut Vec::new(), &mut all);
        for (path, value) in all {
            let name = path.join(".");
            let ours = OURS.iter().find(|(begin, _)| below(&name, begin));
            if is_credential(&name, &value) {
                hide(&value, secrets);
                if !name.starts_with("models.providers.") {
                    self.ask(&name, report);
                }
                if ours.is_none() {
                    asked.push(settings.len());
                    settings.push((path, format!("${{{}}}", variable(&name)).into()));
                }
            } else if let Some((_, instead)) = ours {
                report.change(&format!("openclaw.json: {name}"), *instead);
            } else {
                settings.push((path, value));
            }
        }
        let settings = self.settings(&settings, &asked, report);
        let workspace = document["agents"]["defaults"]["workspace"].as_str();
        Places { workspace: workspace.map(str::to_owned), settings }
    }

    /// The gateway's configuration, if there is any. `asked` are those of the leaves that stand for a credential.
    fn settings(self, leaves: &[Leaf], asked: &[usize], report: &mut Report) -> Option<String> {
        let (document, taken) = match self.runtime {
            Runtime::Native => settings::heeded(leaves),
            Runtime::Openclaw => (Value::Null, Vec::new()),
        };
        for (at, (path, _)) in leaves.iter().enumerate() {
            let path = format!("openclaw.json: {}", path.join("."));
            match (taken.contains(&at), asked.contains(&at)) {
                (true, true) => report.change(&path, "a variable of the cell that holds a placeholder"),
                (false, false) => report.leave(&path, self.why(), None),
                // It is carried, or was asked for.
                (true, false) | (false, true) => {}
            }
        }
        (!taken.is_empty()).then(|| format!("{document:#}\n"))
    }

    fn why(self) -> &'static str {
        match self.runtime {
            Runtime::Native => "the native gateway has no such setting yet",
            Runtime::Openclaw => "the gateway's configuration is the host's own; set it there",
        }
    }

    /// One command for each provider of a model, the one that the agent uses first.
    fn models(self, document: &Value, report: &mut Report) {
        let empty = Map::new();
        let providers = document["models"]["providers"].as_object().unwrap_or(&empty);
        let model = &document["agents"]["defaults"]["model"];
        let primary = model.as_str().or_else(|| model["primary"].as_str()).unwrap_or_default();
        let (first, wanted) = primary.split_once('/').unwrap_or(("", primary));
        let mut names: Vec<&str> =
            providers.keys().map(String::as_str).filter(|name| *name != first).collect();
        if !first.is_empty() {
            names.insert(0, first);
        }
        for name in names {
            let provider = providers.get(name).unwrap_or(&Value::Null);
            let known = PROVIDERS.iter().find(|row| row.0 == name);
            let url = provider["baseUrl"]
                .as_str()
                .filter(|url| is_url(url))
                .or(known.map(|row| row.1))
                .unwrap_or("URL");
            let listed = provider["models"][0]["id"].as_str();
            let model =
                if name == first { Some(wanted) } else { listed }.filter(|it| is_word(it)).unwrap_or("MODEL");
            let wire = match provider["api"].as_str() {
                Some("anthropic-messages") => "anthropic",
                Some("google-generative-ai") => "gemini",
                Some("ollama") => "ollama",
                Some(_) => "openai",
                None => known.map_or("openai", |row| row.2),
            };
            let secret = variable(&format!("{name}_API_KEY"));
            let alias = if name == first { String::new() } else { format!(" {}", alias(name)) };
            let wire = if wire == "openai" { String::new() } else { format!(" --provider {wire}") };
            let at = format!("openclaw.json: models.providers.{name}");
            report.ask(
                &at,
                format!("cofferdam secret set {} {secret} < FILE", self.tenant),
                "the provider's key",
            );
            let route = format!(
                "cofferdam model set {}{alias} --url {url} --model {model}{wire} --secret {secret}",
                self.tenant
            );
            report.ask(&at, route, "the route to it");
        }
    }

    /// The command for one credential.
    fn ask(self, path: &str, report: &mut Report) {
        let tenant = self.tenant;
        let name =
            variable(path.strip_prefix("env.vars.").or_else(|| path.strip_prefix("env.")).unwrap_or(path));
        let (command, note) = if below(path, "gateway") || below(path, "hooks") {
            let subject = if below(path, "hooks") { "hooks" } else { "NAME" };
            (
                format!("cofferdam token issue {tenant} --subject {subject}"),
                "clients get tokens of their own from the edge",
            )
        } else if below(path, "channels.slack") {
            let bound = "--bind slack.com --in header:authorization --format 'Bearer {}'";
            (
                format!("cofferdam secret set {tenant} {name} {bound} --env {name} < FILE"),
                "the cell gets a placeholder",
            )
        } else if below(path, "channels.telegram") {
            let bound = "--bind 'api.telegram.org/**' --in path --format 'bot{}'";
            (
                format!("cofferdam secret set {tenant} {name} {bound} --env {name} < FILE"),
                "the cell gets a placeholder",
            )
        } else if below(path, "channels.discord") {
            let bound = "--bind discord.com --in header:authorization --format 'Bot {}'";
            (
                format!("cofferdam secret set {tenant} {name} {bound} --env {name} < FILE"),
                "the cell gets a placeholder",
            )
        } else {
            let bound = "--bind HOST --in header:authorization --format 'Bearer {}'";
            (
                format!("cofferdam secret set {tenant} {name} {bound} --env {name} < FILE"),
                "HOST: where it is sent to",
            )
        };
        report.ask(&format!("openclaw.json: {path}"), command, note);
    }
}

/// Every value that is no object with other values in it, by its path.
fn walk(value: &Value, path: &mut Vec<String>, leaves: &mut Vec<Leaf>) {
    // A reference to a secret is one value.
    let reference = value["source"].is_string() && value["id"].is_string();
    let rows: Vec<(String, &Value)> = match value {
        Value::Object(fields) if !fields.is_empty() && !reference => {
            fields.iter().map(|(key, field)| (key.clone(), field)).collect()
        }
        Value::Array(rows) if rows.iter().any(Value::is_object) => {
            rows.iter().enumerate().map(|(at, row)| (at.to_string(), row)).collect()
        }
        _ => {
            if !path.is_empty() {
                leaves.push((path.clone(), value.clone()));
            }
            return;
        }
    };
    for (key, field) in rows {
        path.push(key);
        walk(field, path, leaves);
        path.pop();
    }
}

fn below(path: &str, begin: &str) -> bool {
    path.strip_prefix(begin).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// Does its name, or what it looks like, say that it is a secret?
fn is_credential(path: &str, value: &Value) -> bool {
    let name: String = path.rsplit('.').next().unwrap_or(path).to_ascii_lowercase();
    let name: String = name.chars().filter(char::is_ascii_alphanumeric).collect();
    let ends = [
        "token",
        "apikey",
        "password",
        "passwd",
        "secret",
        "passphrase",
        "privatekey",
        "credential",
        "authorization",
        "cookie",
        "accesskey",
        "secretkey",
        "encryptkey",
        "signingkey",
        "authkey",
        "serviceaccount",
    ];
    let named = ends.iter().any(|end| name.ends_with(end))
        || matches!(&*name, "key" | "pass" | "auth" | "credentials");
    // Whatever goes into an environment or a header, under a name that anybody chose.
    let handed = path.split('.').any(|part| matches!(&*part.to_ascii_lowercase(), "env" | "headers"));
    holds_secret(value, named || handed, named || handed || is_sensitive(path))
}

/// Is there a secret in this value? `number`, `text`: is a number or a text there one, whatever it looks like? A yes or
/// no is none.
fn holds_secret(value: &Value, number: bool, text: bool) -> bool {
    match value {
        Value::String(value) if value.is_empty() => false,
        Value::String(value) => text || Secrets::default().first_in(value.as_bytes()).is_some(),
        Value::Number(_) => number,
        Value::Object(reference) => text && reference.contains_key("source"),
        Value::Array(rows) => rows.iter().any(|row| holds_secret(row, number, text)),
        Value::Null | Value::Bool(_) => false,
    }
}

fn hide(value: &Value, secrets: &mut Secrets) {
    match value {
        Value::String(text) => secrets.add(text),
        Value::Number(number) => secrets.add(&number.to_string()),
        Value::Array(rows) => rows.iter().for_each(|row| hide(row, secrets)),
        // A reference names a secret and has none.
        Value::Object(_) | Value::Null | Value::Bool(_) => {}
    }
}

/// An address that a shell reads as it is, without a user in it.
fn is_url(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || b":/._~-[]".contains(&byte);
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    rest.is_some_and(|rest| !rest.is_empty() && rest.len() <= 200 && rest.bytes().all(inner))
}

fn is_word(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || b":/._-".contains(&byte);
    !text.is_empty() && text.len() <= 100 && !text.starts_with('-') && text.bytes().all(inner)
}

/// A name that the vault and an environment take: `CHANNELS_TELEGRAM_BOTTOKEN`.
pub(crate) fn variable(path: &str) -> String {
    let upper =
        path.chars().map(|next| if next.is_ascii_alphanumeric() { next.to_ascii_uppercase() } else { '_' });
    let name: String = upper.skip_while(|next| !next.is_ascii_alphabetic()).take(60).collect();
    if name.is_empty() { "SECRET".to_owned() } else { name }
}

fn alias(name: &str) -> String {
    let lower =
        name.chars().map(|next| if next.is_ascii_alphanumeric() { next.to_ascii_lowercase() } else { '-' });
    let alias: String = lower.skip_while(|next| *next == '-').take(40).collect();
    if alias.is_empty() { "other".to_owned() } else { alias }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const DOCUMENT: &str = r#"{
        gateway: { port: 19123, auth: { mode: "token", token: "gw-secret-0123456789" } },
        models: { providers: {
            mock: { baseUrl: "https://models.example/v1", apiKey: "provider-secret", api: "openai-completions", models: [{ id: "m1" }] },
            evil: { baseUrl: "https://x/$(reboot)", apiKey: { source: "env", id: "EVIL" }, models: [{ id: "`id`" }] },
        } },
        agents: { defaults: { model: { primary: "mock/m1" }, workspace: "/root/ws", thinkingDefault: "low" } },
        channels: { alien: { botToken: "tele-secret-1", enabled: true }, odd: { list: ["sk-a1b2c3d4e5f6a1b2c3d4e5f6"] } },
        env: { vars: { WEATHER: "weather-secret" } },
    }"#;

    fn read() -> (Report, Secrets, Places) {
        let (mut secrets, mut report) = (Secrets::default(), Report::default());
        let reader = Reader { tenant: "acme", runtime: Runtime::Native };
        let places =
            reader.read(&cofferdam_agent::config::read(DOCUMENT).unwrap(), &mut secrets, &mut report);
        (report, secrets, places)
    }

    #[test]
    fn each_credential_has_a_command_and_no_value_is_in_the_report() {
        let (report, secrets, places) = read();
        let text = serde_json::to_string(&report).unwrap();
        for value in [
            "gw-secret-0123456789",
            "provider-secret",
            "tele-secret-1",
            "sk-a1b2c3d4e5f6a1b2c3d4e5f6",
            "weather-secret",
        ] {
            assert!(!text.contains(value), "{value}: {text}");
            assert!(secrets.first_in(value.as_bytes()).is_some(), "{value}");
        }
        let commands: Vec<&str> = report.credentials.iter().map(|row| &*row.command).collect();
        for wanted in [
            "cofferdam secret set acme MOCK_API_KEY < FILE",
            "cofferdam model set acme --url https://models.example/v1 --model m1 --secret MOCK_API_KEY",
            "cofferdam model set acme evil --url URL --model MODEL --secret EVIL_API_KEY",
            "cofferdam token issue acme --subject NAME",
        ] {
            assert!(commands.contains(&wanted), "{wanted}: {commands:#?}");
        }
        assert!(commands.iter().any(|it| it.contains(" WEATHER --bind")), "{commands:#?}");
        assert!(!text.contains("reboot") && !text.contains("`id`"));
        assert_eq!(places.workspace.as_deref(), Some("/root/ws"));
    }

    #[test]
    fn what_goes_into_an_environment_or_a_header_is_a_credential_whatever_its_name() {
        let document = serde_json::json!({
            "mcp": { "servers": { "crm": {
                "command": "crm",
                "env": { "CRM_LOGIN": "walrus-1", "CRM_PIN": 1_234_567_890, "CRM_DEBUG": true, "DEEP": { "X": "walrus-2" } },
                "url": "https://crm.example/mcp", "headers": { "X-Who": "walrus-3", "X-Many": ["walrus-4"] },
            } } },
            "channels": { "alien": { "encryptKeyOld": "walrus-5", "webhookUrl": "walrus-6", "maxTokens": 5 } },
        });
        for runtime in [Runtime::Native, Runtime::Openclaw] {
            let (mut secrets, mut report) = (Secrets::default(), Report::default());
            let places = Reader { tenant: "acme", runtime }.read(&document, &mut secrets, &mut report);
            let said = format!("{}{:?}", serde_json::to_string(&report).unwrap(), places.settings);
            for value in
                ["walrus-1", "walrus-2", "walrus-3", "walrus-4", "walrus-5", "walrus-6", "1234567890"]
            {
                assert!(!said.contains(value), "{value}: {said}");
                assert!(secrets.first_in(value.as_bytes()).is_some(), "{value}");
            }
            assert_eq!(report.credentials.len(), 7, "{:#?}", report.credentials);
        }
    }

    #[test]
    fn every_key_is_carried_changed_left_or_asked_for() {
        let (report, _, places) = read();
        let left: Vec<&str> = report.left.iter().map(|row| &*row.path).collect();
        assert_eq!(left, ["openclaw.json: channels.alien.enabled"]);
        let settings: Value = serde_json::from_str(&places.settings.unwrap()).unwrap();
        assert_eq!(settings, serde_json::json!({ "agents": { "defaults": { "thinkingDefault": "low" } } }));
        let changed: Vec<&str> = report.changed.iter().map(|row| &*row.path).collect();
        assert!(
            changed.contains(&"openclaw.json: gateway.port")
                && changed.contains(&"openclaw.json: gateway.auth.mode")
        );
    }
}
