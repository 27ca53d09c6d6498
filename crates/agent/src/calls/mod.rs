//! The methods: each reads its parameters, does its work and gives what clients read.

mod agents;
mod approvals;
mod channels;
mod chat;
mod config;
mod cron;
mod devices;
mod info;
mod lists;
mod questions;
mod sessions;
mod skills;
mod usage;

use crate::{
    gateway::{Gateway, Kind, permitted},
    protocol::{Fault, Request},
    server::Client,
    store::Error,
};
use futures_util::future::BoxFuture;
use serde_json::Value;
use std::sync::Arc;

/// What a method gives.
pub(crate) enum Answer {
    /// At once.
    Now(Result<Value, Fault>),
    /// Later, while others are served.
    Later(BoxFuture<'static, Result<Value, Fault>>),
    /// Twice: that it begins, and how it ended.
    Twice(Value, BoxFuture<'static, Result<Value, Fault>>),
}

impl From<Result<Value, Fault>> for Answer {
    fn from(answer: Result<Value, Fault>) -> Self {
        Self::Now(answer)
    }
}

/// Beginnings of the ids of runs that begin by themselves, or for somebody who is no client.
const OURS: [&str; 10] = [
    "telegram:",
    "slack:",
    "discord:",
    "webhook-",
    "cron:",
    "manual:",
    "hook:",
    "wake:",
    "announce:",
    "heartbeat:",
];

/// May a client choose this id for its run?
fn is_free(id: &str) -> Result<(), Fault> {
    match OURS.into_iter().find(|begin| id.starts_with(begin)) {
        Some(begin) => Err(Fault::invalid(format!("ids that begin with {begin} are the gateway's own"))),
        None => Ok(()),
    }
}

/// A session's key in full, if it is one.
pub(crate) fn key_of(given: &str) -> Result<String, Fault> {
    chat::is_key(given)?;
    Ok(chat::full_key(given.to_owned()))
}

/// State that cannot be read or written.
fn lost(error: Error) -> Fault {
    tracing::error!(%error, "the gateway's state");
    Fault::unavailable(error.to_string())
}

/// Serves one request of a client that is in.
pub(crate) fn call(gateway: &Arc<Gateway>, client: &Arc<Client>, request: &Request) -> Answer {
    let Request { method, params, .. } = request;
    if let Err(fault) = permitted(client, method) {
        return Answer::Now(Err(fault));
    }
    let params = params.as_deref();
    match method.as_str() {
        "agent" => chat::agent(gateway, params),
        "agent.wait" => chat::wait(gateway, params),
        "channels.pairing.approve" => channels::approve(gateway, params),
        "channels.pairing.dismiss" => channels::dismiss(gateway, params).into(),
        "channels.pairing.list" => channels::requests(gateway, params).into(),
        "channels.status" => channels::status(gateway, params).into(),
        "chat.history" | "chat.startup" => chat::history(gateway, method, params).into(),
        "chat.send" => chat::send(gateway, client, params).into(),
        "chat.abort" => chat::abort(gateway, params).into(),
        "chat.inject" => chat::inject(gateway, params).into(),
        "question.get" => questions::get(gateway, params).into(),
        "question.list" => questions::list(gateway, params).into(),
        "question.request" => questions::request(gateway, params).into(),
        "question.resolve" => questions::resolve(gateway, params).into(),
        "question.waitAnswer" => questions::wait(gateway, params),
        "sessions.list" => sessions::list(gateway, params).into(),
        "sessions.describe" => sessions::describe(gateway, params).into(),
        "sessions.create" => sessions::create(gateway, params).into(),
        "sessions.patch" => sessions::patch(gateway, params).into(),
        "sessions.compact" => sessions::compact(gateway, params),
        "sessions.reset" => sessions::reset(gateway, params).into(),
        "sessions.delete" => sessions::delete(gateway, client, params).into(),
        "sessions.send" => sessions::send(gateway, params).into(),
        "sessions.abort" => sessions::abort(gateway, params).into(),
        "sessions.subscribe" => Ok(sessions::subscribe(client, true)).into(),
        "sessions.unsubscribe" => Ok(sessions::subscribe(client, false)).into(),
        "sessions.messages.subscribe" => sessions::follow(client, params, true).into(),
        "sessions.messages.unsubscribe" => sessions::follow(client, params, false).into(),
        "agents.list" => Ok(agents::list(gateway)).into(),
        "agents.files.list" => agents::files(gateway, params).into(),
        "agents.files.get" => agents::file(gateway, params).into(),
        "agents.files.set" => agents::set_file(gateway, params).into(),
        "agent.identity.get" => agents::identity(gateway, params).into(),
        "cron.add" => cron::add(gateway, params).into(),
        "cron.get" => cron::get(gateway, params).into(),
        "cron.list" => cron::list(gateway, params).into(),
        "cron.remove" => cron::remove(gateway, params).into(),
        "cron.run" => cron::run(gateway, params).into(),
        "cron.runs" => cron::runs(gateway, params).into(),
        "cron.status" => cron::status(gateway).into(),
        "cron.update" => cron::update(gateway, params).into(),
        "wake" => cron::wake(gateway, params).into(),
        "last-heartbeat" => Ok(cron::last_heartbeat(gateway)).into(),
        "set-heartbeats" => cron::set_heartbeats(gateway, params).into(),
        "tools.catalog" => Ok(agents::catalog(gateway)).into(),
        "tools.invoke" => agents::invoke(gateway, params),
        "config.get" => config::get(gateway, client, params).into(),
        "config.schema" => config::whole_schema(gateway, params).into(),
        "config.schema.lookup" => config::lookup(params).into(),
        "config.set" | "config.apply" => config::set(gateway, method, params).into(),
        "config.patch" => config::patch(gateway, params).into(),
        "device.pair.list" => devices::list(gateway, client, params).into(),
        "device.pair.approve" => devices::approve(gateway, client, params).into(),
        "device.pair.reject" => devices::reject(gateway, client, params).into(),
        "device.pair.remove" => devices::remove(gateway, client, params).into(),
        "device.token.rotate" => devices::rotate(gateway, client, params).into(),
        "device.token.revoke" => devices::revoke(gateway, client, params).into(),
        "usage.status" => Ok(usage::status(gateway)).into(),
        "usage.cost" => usage::cost(gateway, params).into(),
        "sessions.usage" => usage::sessions(gateway, params).into(),
        "logs.tail" => usage::logs(gateway, params).into(),
        "exec.approval.get" => approvals::get(gateway, params).into(),
        "exec.approval.list" => approvals::list(gateway, Kind::Exec, params).into(),
        "exec.approval.request" => approvals::ask_exec(gateway, params),
        "exec.approval.resolve" => approvals::resolve(gateway, client, Kind::Exec, params).into(),
        "exec.approval.waitDecision" => approvals::wait(gateway, Kind::Exec, params),
        "exec.approvals.get" => approvals::policy(gateway, params).into(),
        "exec.approvals.set" => approvals::set_policy(gateway, params).into(),
        "plugin.approval.list" => approvals::list(gateway, Kind::Plugin, params).into(),
        "plugin.approval.request" => approvals::ask_plugin(gateway, params),
        "plugin.approval.resolve" => approvals::resolve(gateway, client, Kind::Plugin, params).into(),
        "plugin.approval.waitDecision" => approvals::wait(gateway, Kind::Plugin, params),
        "models.list" => Ok(info::models(gateway)).into(),
        "commands.list" => info::commands(gateway).into(),
        "skills.status" => skills::status(gateway, params).into(),
        "skills.update" => skills::update(gateway, params).into(),
        "health" => health(gateway).into(),
        "status" => info::status(gateway).into(),
        "system-presence" => Ok(gateway.presence().0).into(),
        // Each method of the table is called by a test.
        other => lists::none(gateway, other).into(),
    }
}

pub(crate) use agents::run_tool;
pub(crate) use chat::is_session_key;
pub(crate) use info::health;
