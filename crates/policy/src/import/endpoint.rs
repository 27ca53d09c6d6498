//! One endpoint of a foreign policy: a place, what is spoken there, and which requests may be made.

use super::{Import, Outcome, said};
use cofferdam_base::HostName;
use serde_json::{Map, Value, json};

/// MCP's methods that call no tool, as the protocol of 2025-06-18 names them.
const MCP_METHODS: [&str; 14] = [
    "initialize",
    "ping",
    "tools/list",
    "resources/list",
    "resources/templates/list",
    "resources/read",
    "resources/subscribe",
    "resources/unsubscribe",
    "prompts/list",
    "prompts/get",
    "completion/complete",
    "logging/setLevel",
    "notifications/*",
    "roots/list",
];

/// A place, and how its rules begin.
struct Place<'a> {
    at: &'a str,
    host: String,
    ports: Vec<u16>,
    reason: String,
    /// The endpoint's own path, to which its rules are narrowed.
    path: Option<String>,
    spoken: &'a str,
}

impl Import {
    pub(super) fn endpoint(&mut self, at: &str, name: &str, endpoint: &Map<String, Value>) {
        let denies = endpoint.contains_key("deny_rules");
        let Some(host) = self.host(at, endpoint.get("host"), denies) else { return };
        let Some(ports) = self.ports(at, endpoint) else { return };
        let spoken = endpoint.get("protocol").and_then(Value::as_str).unwrap_or_default();
        let clean: String = name.chars().filter(|c| !c.is_control()).take(100).collect();
        let path = endpoint.get("path").and_then(Value::as_str).map(str::to_owned);
        let reason = format!("imported: {clean}");
        let place = Place { at, host, ports, reason, path, spoken };
        for (key, value) in endpoint {
            self.plain_field(&format!("{at}.{key}"), key, value, spoken);
        }
        match spoken {
            "" | "tcp" => self.opaque(&place, endpoint),
            "rest" | "websocket" | "graphql" | "mcp" | "json-rpc" => self.requests(&place, endpoint),
            other => {
                let note = format!("{other} is not spoken here: the endpoint stays closed");
                self.told(&format!("{at}.protocol"), Outcome::Inexpressible, note);
            }
        }
    }

    fn host(&mut self, at: &str, host: Option<&Value>, denies: bool) -> Option<String> {
        let field = format!("{at}.host");
        let Some(host) = host.and_then(Value::as_str) else {
            self.told(&field, Outcome::Inexpressible, "a rule names its host: the endpoint stays closed");
            return None;
        };
        let known = |base: &str| HostName::try_from(base).is_ok();
        if let Some(base) = host.strip_prefix("**.").filter(|base| known(base)) {
            self.told(&field, Outcome::Tightened, "a wildcard is one label wide");
            if denies {
                let note =
                    "deeper names, which these deny where another endpoint allows them, are not denied";
                self.told(&format!("{at}.deny_rules"), Outcome::Widened, note);
            }
            return Some(format!("*.{base}"));
        }
        let plain =
            known(host.strip_prefix("*.").unwrap_or(host)) || host.parse::<std::net::IpAddr>().is_ok();
        let note =
            if plain { "the same" } else { "such a wildcard cannot be said: the endpoint stays closed" };
        self.told(&field, if plain { Outcome::Mapped } else { Outcome::Inexpressible }, note);
        plain.then(|| host.to_owned())
    }

    fn ports(&mut self, at: &str, endpoint: &Map<String, Value>) -> Option<Vec<u16>> {
        let listed = endpoint.get("ports").and_then(Value::as_array);
        let all: Vec<&Value> = endpoint.get("port").into_iter().chain(listed.into_iter().flatten()).collect();
        let ports: Option<Vec<u16>> =
            all.iter().map(|port| u16::try_from(port.as_u64()?).ok().filter(|port| *port > 0)).collect();
        let ports = ports.filter(|ports| !ports.is_empty());
        let outcome = if ports.is_some() { Outcome::Mapped } else { Outcome::Inexpressible };
        let note =
            if ports.is_some() { "the same" } else { "no port from 1 to 65535: the endpoint stays closed" };
        self.told(&format!("{at}.ports"), outcome, note);
        ports
    }

    /// What needs no rule of its own.
    fn plain_field(&mut self, field: &str, key: &str, value: &Value, spoken: &str) {
        let (outcome, note) = match key {
            "host" | "port" | "ports" | "protocol" | "access" | "rules" | "deny_rules" | "path" | "mcp" => {
                return;
            }
            "json_rpc" | "graphql_max_body_bytes" => (Outcome::Inexpressible, "1 MiB is read at most"),
            "persisted_queries" if value == "deny" => (Outcome::Mapped, "what brings no text is refused"),
            "persisted_queries" | "graphql_persisted_queries" => {
                (Outcome::Tightened, "what brings no text is refused, registered or not")
            }
            "enforcement" if value == "enforce" => (Outcome::Mapped, "every rule is enforced"),
            "enforcement" => (Outcome::Tightened, "what audit only logs is denied here"),
            "tls" if value != "skip" => (Outcome::Mapped, "TLS is looked into where a rule needs it"),
            "tls" if matches!(spoken, "" | "tcp") => (Outcome::Mapped, "inspect: never"),
            "tls" => (Outcome::Tightened, "rules about requests want to see them"),
            "allow_encoded_slash" => (Outcome::Tightened, "an encoded slash is ambiguous and refused"),
            "allowed_ips" => {
                (Outcome::Inexpressible, "private addresses are opened by the operator: operator_private")
            }
            "websocket_credential_rewrite"
            | "request_body_credential_rewrite"
            | "allow_uninspected_credentials"
            | "credential_signing"
            | "signing_service"
            | "signing_region"
            | "credential_binding" => (Outcome::Inexpressible, "credentials are bound with cofferdam secret"),
            _ => (Outcome::Inexpressible, "this key has no counterpart"),
        };
        self.told(field, outcome, note);
    }

    /// An endpoint whose bytes are not looked at.
    fn opaque(&mut self, place: &Place<'_>, endpoint: &Map<String, Value>) {
        let never = endpoint.get("tls").is_some_and(|tls| tls == "skip");
        for port in &place.ports {
            let spoken: &[&str] = match port {
                443 => &["https"],
                80 => &["http"],
                _ => &["https", "tcp"],
            };
            for spoken in spoken {
                let mut keys = vec![("protocol", json!(spoken))];
                if never && *spoken == "https" {
                    keys.push(("inspect", json!("never")));
                }
                self.rule("allow", place, *port, &keys);
            }
        }
        let note = "TLS on 443, plain HTTP on 80, TLS or anything but HTTP elsewhere";
        self.told(&format!("{}.protocol", place.at), Outcome::Tightened, note);
        for key in ["rules", "access", "path"].into_iter().filter(|key| endpoint.contains_key(*key)) {
            let note = "without a protocol it holds there no more than here";
            self.told(&format!("{}.{key}", place.at), Outcome::Mapped, note);
        }
        match endpoint.get("deny_rules").and_then(Value::as_array) {
            Some(denied) if !never => self.each(place, "deny", "deny_rules", denied),
            Some(_) => {
                self.told(&format!("{}.deny_rules", place.at), Outcome::Mapped, "with tls: skip none holds");
            }
            None => {}
        }
    }

    /// An endpoint whose requests are judged.
    fn requests(&mut self, place: &Place<'_>, endpoint: &Map<String, Value>) {
        self.told(&format!("{}.protocol", place.at), Outcome::Mapped, "TLS, and plain HTTP off port 443");
        if endpoint.contains_key("path") {
            self.told(&format!("{}.path", place.at), Outcome::Mapped, "the path of rules that name none");
        }
        if let Some(access) = endpoint.get("access") {
            let field = format!("{}.access", place.at);
            match preset(place.spoken, access.as_str().unwrap_or_default()) {
                Some(rule) => self.request("allow", place, &field, &rule),
                None => self.told(
                    &field,
                    Outcome::Inexpressible,
                    "what is spoken here needs rules: it stays closed",
                ),
            }
        }
        if let Some(mcp) = endpoint.get("mcp").and_then(Value::as_object) {
            self.mcp_options(place, mcp);
        }
        for (verb, key) in [("allow", "rules"), ("deny", "deny_rules")] {
            match endpoint.get(key) {
                Some(Value::Array(rules)) => self.each(place, verb, key, rules),
                Some(_) => self.told(&format!("{}.{key}", place.at), Outcome::Inexpressible, "it is no list"),
                None => {}
            }
        }
    }

    fn mcp_options(&mut self, place: &Place<'_>, mcp: &Map<String, Value>) {
        for (key, value) in mcp {
            let field = format!("{}.mcp.{key}", place.at);
            match (key.as_str(), value) {
                ("allow_all_known_mcp_methods", Value::Bool(true)) => {
                    let rule = Map::from_iter([("method".to_owned(), json!(MCP_METHODS))]);
                    self.request("allow", place, &field, &rule);
                    self.told(&field, Outcome::Tightened, "the methods that call no tool, by name");
                }
                ("allow_all_known_mcp_methods", _) => self.told(&field, Outcome::Mapped, "the same"),
                ("max_body_bytes", _) => self.told(&field, Outcome::Inexpressible, "1 MiB is read at most"),
                ("strict_tool_names", _) => self.told(&field, Outcome::Tightened, "names are always exact"),
                _ => self.told(&field, Outcome::Inexpressible, "this key is not known"),
            }
        }
    }

    fn each(&mut self, place: &Place<'_>, verb: &str, key: &str, rules: &[Value]) {
        let method = |rule: &Value| {
            let rule = rule.get("allow").unwrap_or(rule);
            rule.get("method").and_then(Value::as_str).unwrap_or_default().to_ascii_uppercase()
        };
        let speaks = rules.iter().any(|rule| ["WEBSOCKET_TEXT", "*"].contains(&method(rule).as_str()));
        for (number, rule) in rules.iter().enumerate() {
            let field = format!("{}.{key}[{number}]", place.at);
            let inner = if verb == "allow" { rule.get("allow").unwrap_or(rule) } else { rule };
            let Value::Object(fields) = inner else {
                self.told(&field, Outcome::Inexpressible, "it is no mapping");
                continue;
            };
            if place.spoken == "websocket" && verb == "allow" {
                if method(rule) == "WEBSOCKET_TEXT" {
                    self.told(&field, Outcome::Mapped, "what is said in a WebSocket passes with it");
                    continue;
                }
                if !speaks {
                    let note = "a WebSocket in which nothing may be said cannot be had: it stays closed";
                    self.told(&field, Outcome::Inexpressible, note);
                    continue;
                }
            }
            self.request(verb, place, &field, fields);
        }
    }

    /// One rule about requests. What cannot be said closes an allow and widens a denial.
    fn request(&mut self, verb: &str, place: &Place<'_>, field: &str, fields: &Map<String, Value>) {
        let mut keys: Vec<(&str, Value)> = Vec::new();
        let mut calls = Map::new();
        let mut lost: Vec<String> = Vec::new();
        for (key, value) in fields {
            let mut add = |key: &str, value| drop(calls.insert(key.into(), value));
            let understood = match (key.as_str(), place.spoken) {
                ("path", "rest" | "websocket") => Some(()),
                ("method", "mcp" | "json-rpc") => said::texts(value).map(|texts| add("method", texts)),
                ("tool", "mcp") => said::texts(value).map(|texts| add("tool", texts)),
                ("params", "mcp") => said::params(value).map(|texts| add("tool", texts)),
                ("operation_type", "graphql") => said::operations(value).map(|kinds| {
                    if !kinds.is_null() {
                        add("operation", kinds);
                    }
                }),
                ("operation_name", "graphql") => said::texts(value).map(|texts| add("name", texts)),
                ("fields", "graphql") => said::texts(value).map(|texts| add("fields", texts)),
                ("method", _) => match value {
                    Value::String(any) if any == "*" => Some(()),
                    value => said::methods(value).map(|methods| keys.push(("method", methods))),
                },
                ("query", _) => said::query(value).map(|query| keys.push(("query", query))),
                _ => None,
            };
            if understood.is_none() {
                lost.push(key.clone());
            }
        }
        let path = match (fields.get("path"), verb) {
            (Some(path), _) if !path.is_string() => None,
            (path, "allow") => said::allowed(path.and_then(Value::as_str), place.path.as_deref()),
            (path, _) => said::denied(path.and_then(Value::as_str), place.path.as_deref()),
        };
        let same = path.as_ref().is_some_and(|path| path.same);
        match path.map(|path| path.text) {
            None => lost.push("path".to_owned()),
            Some(None) if place.spoken == "graphql" => keys.push(("path", json!("/**"))),
            Some(text) => keys.extend(text.map(|text| ("path", json!(text)))),
        }
        if !lost.is_empty() && verb == "allow" {
            let note = format!("{} cannot be said: it stays closed", lost.join(", "));
            return self.told(field, Outcome::Inexpressible, note);
        }
        if place.spoken == "graphql" && lost.iter().any(|key| key == "path") {
            keys.push(("path", json!("/**")));
        }
        match place.spoken {
            "mcp" => keys.push(("mcp", Value::Object(calls))),
            "json-rpc" => keys.push(("jsonrpc", Value::Object(calls))),
            "graphql" => keys.push(("graphql", Value::Object(calls))),
            "websocket" if verb == "allow" => keys.push(("protocol", json!("ws"))),
            _ => {}
        }
        for port in &place.ports {
            self.rule(verb, place, *port, &keys);
        }
        let (outcome, note) = match (lost.is_empty(), same, verb) {
            (false, ..) => (Outcome::Tightened, format!("denied whatever its {}", lost.join(", "))),
            (true, true, _) => (Outcome::Mapped, "a rule".to_owned()),
            (true, false, "allow") => (Outcome::Tightened, "a rule: `*` is one segment".to_owned()),
            (true, false, _) => {
                (Outcome::Tightened, "a denial of more paths: `*` runs over slashes".to_owned())
            }
        };
        self.told(field, outcome, note);
    }

    /// Writes a rule at one port: over TLS, and in plain HTTP as well off port 443.
    fn rule(&mut self, verb: &str, place: &Place<'_>, port: u16, keys: &[(&str, Value)]) {
        let layered = keys
            .iter()
            .any(|(key, value)| matches!(*key, "mcp" | "jsonrpc" | "graphql") || *value == json!("ws"));
        let given = keys.iter().any(|(key, _)| *key == "protocol");
        let variants: Vec<Vec<(&str, Value)>> = match (verb, layered, given, port) {
            ("deny", ..) | (_, true, _, 443) | (_, false, true, _) => vec![vec![]],
            (_, true, _, 80) => vec![vec![("plain", json!(true))]],
            (_, true, ..) => vec![vec![], vec![("plain", json!(true))]],
            (_, false, false, 443) => vec![vec![("protocol", json!("https"))]],
            (_, false, false, 80) => vec![vec![("protocol", json!("http"))]],
            (_, false, false, _) => {
                vec![vec![("protocol", json!("https"))], vec![("protocol", json!("http"))]]
            }
        };
        for variant in variants {
            let host = json!(place.host);
            let mut text = format!("  - {verb}: {host}\n    ports: [{port}]\n");
            for (key, value) in keys.iter().chain(&variant) {
                // JSON is YAML; what a person reads most stands without quotes.
                let plain = value.as_str().filter(|_| *key == "protocol" || *key == "inspect");
                let value = plain.map_or_else(|| value.to_string(), str::to_owned);
                text.extend(["    ", key, ": ", &value, "\n"]);
            }
            text.extend(["    reason: ", &json!(place.reason).to_string(), "\n"]);
            self.rules.push(text);
        }
    }
}

/// What a preset allows; none: nothing that could be said.
fn preset(spoken: &str, access: &str) -> Option<Map<String, Value>> {
    let of = |key: &str, all: &[&str]| Map::from_iter([(key.to_owned(), json!(all))]);
    match (spoken, access) {
        ("rest" | "graphql", "full") | ("websocket", "full" | "read-write") => Some(Map::new()),
        ("rest", "read-only") => Some(of("method", &["GET", "HEAD", "OPTIONS"])),
        ("rest", "read-write") => Some(of("method", &["GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH"])),
        ("graphql", "read-only") => Some(of("operation_type", &["query"])),
        ("graphql", "read-write") => Some(of("operation_type", &["query", "mutation"])),
        _ => None,
    }
}
