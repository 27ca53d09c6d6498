//! Generic webhooks: whoever has a token of the tenant posts `{id, conversation, sender, name, text}` to
//! `/channels/NAME`, and answers are posted to a URL.

use super::{Channel, Failed, Inbound, Link, PATIENCE, ask, door, refused};
use crate::{
    config::{self, Access, DmPolicy},
    gateway::Gateway,
};
use futures_util::future::BoxFuture;
use http::{Method, header};
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;

/// A webhook.
#[derive(Debug)]
pub(super) struct Webhook {
    name: String,
    config: config::Webhook,
}

/// What is posted.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Posted {
    /// The sender's own: what comes twice is taken once.
    id: String,
    /// Where the answer goes; the sender if it does not say.
    #[serde(default)]
    conversation: Option<String>,
    sender: String,
    #[serde(default)]
    name: Option<String>,
    text: String,
}

/// The name of its channel.
pub(super) fn channel(name: &str) -> String {
    format!("webhook-{name}")
}

impl Webhook {
    pub(super) fn new(name: &str, config: config::Webhook) -> Self {
        Self { name: channel(name), config }
    }
}

/// Takes what was posted to a webhook. When this returns it is on disk. None: there is no such webhook.
pub(crate) async fn posted(gateway: &Arc<Gateway>, name: &str, posted: Posted) -> Option<Result<(), Failed>> {
    let link = gateway.channels.get(&channel(name))?;
    let Posted { id, conversation, sender, name, text } = posted;
    let fits = |it: &str| !it.is_empty() && it.len() <= 128;
    if !fits(&id) || !fits(&sender) || !conversation.as_deref().is_none_or(fits) {
        return Some(Err(Failed::Said("id, sender and conversation have 1 to 128 bytes".to_owned())));
    }
    let (chat, name) =
        (conversation.unwrap_or_else(|| sender.clone()), name.unwrap_or_else(|| sender.clone()));
    let inbound = Inbound { id, chat, group: false, sender, name, text, mentioned: false };
    Some(door::take(&link, &inbound).await)
}

impl Channel for Webhook {
    fn name(&self) -> &str {
        &self.name
    }

    /// Whoever posts has a token of the tenant: everybody is heard, those on the list as its own.
    fn access(&self) -> Access {
        let mut allow_from = self.config.allow_from.clone();
        allow_from.push("*".to_owned());
        Access { dm_policy: DmPolicy::Open, allow_from, ..Access::default() }
    }

    fn run<'a>(&'a self, link: &'a Link) -> BoxFuture<'a, Failed> {
        link.connected();
        Box::pin(std::future::pending())
    }

    fn send<'a>(
        &'a self,
        gateway: &'a Arc<Gateway>,
        chat: &'a str,
        text: &'a str,
    ) -> BoxFuture<'a, Result<(), Failed>> {
        Box::pin(async move {
            let Some(url) = &self.config.reply_url else { return Ok(()) };
            let token =
                self.config.token.as_ref().map(|it| it.resolved().map_err(Failed::Said)).transpose()?;
            let head = |it: http::request::Builder| match &token {
                Some(token) => it.header(header::AUTHORIZATION, format!("Bearer {token}")),
                None => it,
            };
            let body: Value = json!({ "conversation": chat, "text": text });
            let (status, answer) = ask(gateway, Method::POST, url, head, Some(&body), PATIENCE).await?;
            if status.is_success() { Ok(()) } else { Err(refused(status, &answer["error"])) }
        })
    }

    fn longest(&self) -> usize {
        16_000
    }
}
