//! `config.*`: how the gateway is set up, read and changed.
//!
//! Whoever reads sees no secret. A change is made of a state that its author has read, is refused whole if a key of it
//! is wrong, and is in force when it is answered.

use crate::{
    calendar,
    config::{self, Config, Error, Issue, Loaded, change, schema, secret},
    gateway::Gateway,
    protocol::{
        Fault,
        config::{Change, Get, Lookup},
        params,
    },
    server::Client,
};
use cofferdam_base::Scope;
use serde_json::{Value, json, value::RawValue};
use std::collections::BTreeSet;

/// As every change is written that is not kept as its author wrote it.
fn pretty(value: &Value) -> String {
    // Its keys are texts, and what writes them does not fail.
    serde_json::to_string_pretty(value).unwrap_or_default() + "\n"
}

fn effective(config: &Config) -> Value {
    serde_json::to_value(config).map_or_else(|_| json!({}), |config| secret::shown(&config))
}

fn invalid(issue: &Issue) -> Fault {
    Fault::invalid(format!("invalid config: {issue}")).with(json!({ "issues": [issue] }))
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        match error {
            Error::Issue(issue) => invalid(&issue),
            Error::Unread(said) => Self::invalid(format!("invalid config: {said}")),
            kept @ (Error::Io { .. } | Error::Broken { .. }) => Self::unavailable(kept.to_string()),
        }
    }
}

fn hash(gateway: &Gateway, loaded: &Loaded) -> String {
    gateway.configured().revision(&format!("raw {}", loaded.raw.as_deref().unwrap_or_default()))
}

pub(super) fn get(gateway: &Gateway, client: &Client, params: Option<&RawValue>) -> Result<Value, Fault> {
    let Get {} = params::read("config.get", params)?;
    let loaded = gateway.configured().loaded();
    let written = loaded.written();
    // Remarks in the text may say what no key does, so it is for those who may change it.
    let text = loaded.raw.as_deref().filter(|_| client.may(Scope::Admin));
    let raw = text.and_then(|raw| secret::shown_text(raw, &written));
    let (shown, effective) = (secret::shown(&written), effective(&loaded.config));
    let revision = gateway.configured().revision(&format!("read {effective}"));
    Ok(json!({
        "path": gateway.configured().path(),
        "exists": loaded.raw.is_some(),
        "raw": raw,
        "parsed": shown,
        "sourceConfig": shown,
        "resolved": shown,
        "runtimeConfig": effective,
        "config": effective,
        "valid": true,
        "issues": [],
        "warnings": [],
        "legacyIssues": [],
        "hash": hash(gateway, &loaded),
        "configRevisionHash": revision,
        "appliedConfigHash": revision,
    }))
}

pub(super) fn whole_schema(gateway: &Gateway, params: Option<&RawValue>) -> Result<Value, Fault> {
    let Get {} = params::read("config.schema", params)?;
    Ok(json!({
        "schema": schema::whole(), "uiHints": schema::hints(), "version": env!("CARGO_PKG_VERSION"),
        "generatedAt": calendar::written(gateway.started_at),
    }))
}

pub(super) fn lookup(params: Option<&RawValue>) -> Result<Value, Fault> {
    let Lookup { path } = params::read("config.schema.lookup", params)?;
    schema::lookup(&path).ok_or_else(|| Fault::invalid("config schema path not found"))
}

/// Was it made of what is there now?
fn is_current(gateway: &Gateway, loaded: &Loaded, base: Option<&str>) -> Result<(), Fault> {
    match base.map(str::trim).filter(|base| !base.is_empty()) {
        _ if loaded.raw.is_none() => Ok(()),
        None => Err(Fault::invalid("config base hash required; re-run config.get and retry")),
        Some(base) if base != hash(gateway, loaded) => {
            Err(Fault::invalid("config changed since last load; re-run config.get and retry"))
        }
        Some(_) => Ok(()),
    }
}

/// What every change is answered with.
fn done(gateway: &Gateway, mut more: Value) -> Value {
    let loaded = gateway.configured().loaded();
    more["ok"] = true.into();
    more["path"] = gateway.configured().path().to_string_lossy().into();
    more["hash"] = hash(gateway, &loaded).into();
    more["config"] = effective(&loaded.config);
    more
}

/// `config.set` and `config.apply`: the whole. It is kept as it was written, remarks and all, unless marks in it stand
/// for secrets.
pub(super) fn set(gateway: &Gateway, method: &str, params: Option<&RawValue>) -> Result<Value, Fault> {
    let asked: Change = params::read(method, params)?;
    if !asked.replace_paths.is_empty() {
        return Err(Fault::invalid(format!("invalid {method} params: `replacePaths` is of config.patch")));
    }
    gateway.configured().change(|loaded| {
        is_current(gateway, loaded, asked.base_hash.as_deref())?;
        let written = config::read(&asked.raw)?;
        let restored = secret::restored(written.clone(), Some(&loaded.written())).map_err(Fault::invalid)?;
        Ok::<_, Fault>(Some(if restored == written { asked.raw.clone() } else { pretty(&restored) }))
    })?;
    tracing::info!(method, "the configuration is another");
    Ok(done(gateway, json!({})))
}

/// `config.patch`: what is there, with this merged into it.
pub(super) fn patch(gateway: &Gateway, params: Option<&RawValue>) -> Result<Value, Fault> {
    let asked: Change = params::read("config.patch", params)?;
    let base = asked.base_hash.as_deref().filter(|base| !base.trim().is_empty());
    let replace: BTreeSet<String> =
        asked.replace_paths.iter().map(|path| path.trim().trim_end_matches("[]").to_owned()).collect();
    let mut changed = Vec::new();
    gateway.configured().change(|loaded| {
        if base.is_some() {
            is_current(gateway, loaded, base)?;
        }
        let (old, patch) = (loaded.written(), config::read(&asked.raw)?);
        let merged = change::merged(&old, &patch, &replace);
        let new = secret::restored(merged, Some(&old)).map_err(Fault::invalid)?;
        let shorter = change::shortened(&old, &patch, &new, &replace).join(", ");
        if !shorter.is_empty() {
            return Err(Fault::invalid(format!(
                "config.patch would remove entries from array path(s): {shorter}. Pass replacePaths with the exact \
                 path(s) when this is intentional, or use config.apply for full-config replacement."
            )));
        }
        changed = change::changed(&old, &new);
        if changed.is_empty() {
            return Ok(None);
        }
        if base.is_none() {
            let paths = changed.join(", ");
            return Err(Fault::invalid(format!(
                "config base hash required for {paths}; re-run config.get and retry with baseHash"
            )));
        }
        Ok(Some(pretty(&new)))
    })?;
    if changed.is_empty() {
        return Ok(done(gateway, json!({ "noop": true, "changedPaths": [] })));
    }
    tracing::info!(paths = changed.join(" "), "the configuration is another");
    Ok(done(gateway, json!({ "changedPaths": changed })))
}
