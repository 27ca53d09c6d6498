//! The methods: each reads its parameters, does its work and gives what clients read.

mod agents;
mod chat;
mod info;
mod sessions;

use crate::{
    gateway::{Gateway, permitted},
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
        "chat.send" => chat::send(gateway, params).into(),
        "chat.history" => chat::history(gateway, params).into(),
        "chat.abort" => chat::abort(gateway, params).into(),
        "chat.inject" => chat::inject(gateway, params).into(),
        "sessions.list" => sessions::list(gateway, params).into(),
        "sessions.describe" => sessions::describe(gateway, params).into(),
        "sessions.create" => sessions::create(gateway, params).into(),
        "sessions.patch" => sessions::patch(gateway, params).into(),
        "sessions.compact" => sessions::compact(gateway, params),
        "sessions.reset" => sessions::reset(gateway, params).into(),
        "sessions.delete" => sessions::delete(gateway, params).into(),
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
        "tools.catalog" => Ok(agents::catalog()).into(),
        "tools.invoke" => agents::invoke(gateway, params),
        "models.list" => Ok(info::models(gateway)).into(),
        "commands.list" => Ok(info::commands()).into(),
        "health" => health(gateway).into(),
        "status" => info::status(gateway).into(),
        "system-presence" => Ok(gateway.presence().0).into(),
        // Each method of the table is called by a test.
        other => Err(Fault::invalid(format!("unknown method: {other}"))).into(),
    }
}

pub(crate) use agents::run_tool;
pub(crate) use info::health;
