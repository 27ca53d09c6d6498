//! Telegram's Bot API: new messages by a long poll, answers by `sendMessage`.
//!
//! The token is a segment of the path, so its placeholder is bound there, as `bot{}`.

use super::{Channel, Failed, Inbound, LONGEST_WAIT, Link, PATIENCE, ask, door, refused};
use crate::{
    config::{self, Access},
    gateway::Gateway,
};
use futures_util::future::BoxFuture;
use http::{Method, StatusCode};
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};

/// How long the service waits for a message, in seconds.
const POLL: u64 = 50;

/// A bot.
#[derive(Debug)]
pub(super) struct Telegram {
    config: config::Telegram,
}

impl Telegram {
    pub(super) fn new(config: config::Telegram) -> Self {
        Self { config }
    }

    async fn call(
        &self,
        gateway: &Gateway,
        method: &str,
        body: &Value,
        patience: Duration,
    ) -> Result<Value, Failed> {
        let base =
            self.config.base_url.as_deref().unwrap_or("https://api.telegram.org").trim_end_matches('/');
        let token = self.config.bot_token.resolved().map_err(Failed::Said)?;
        let url = format!("{base}/bot{token}/{method}");
        let (status, mut answer) = ask(gateway, Method::POST, &url, |it| it, Some(body), patience).await?;
        if let Some(seconds) = answer["parameters"]["retry_after"].as_u64() {
            return Err(Failed::Slower(Duration::from_secs(seconds).min(LONGEST_WAIT)));
        }
        if status != StatusCode::OK || answer["ok"] != true {
            return Err(refused(status, &answer["description"]));
        }
        Ok(answer["result"].take())
    }

    async fn take(&self, link: &Link) -> Result<std::convert::Infallible, Failed> {
        let (gateway, name) = (&link.gateway, self.name());
        let me = self.call(gateway, "getMe", &json!({}), PATIENCE).await?;
        let me = me["username"].as_str().unwrap_or_default().to_lowercase();
        link.connected();
        loop {
            let offset = gateway.store.cursor(name, "")?.and_then(|it| it.parse::<i64>().ok()).unwrap_or(0);
            let body = json!({ "offset": offset, "timeout": POLL, "allowed_updates": ["message"] });
            let patience = Duration::from_secs(POLL + 15);
            let updates = self.call(gateway, "getUpdates", &body, patience).await?;
            link.connected();
            for update in updates.as_array().map(Vec::as_slice).unwrap_or_default() {
                let Some(id) = update["update_id"].as_i64() else { continue };
                if let Some(inbound) = inbound(update, &me) {
                    door::take(link, &inbound).await?;
                }
                gateway.store.set_cursor(name, "", &(id + 1).to_string())?;
            }
        }
    }
}

/// A message of a person, in text.
fn inbound(update: &Value, me: &str) -> Option<Inbound> {
    let message = &update["message"];
    let (from, chat) = (&message["from"], &message["chat"]);
    if from["is_bot"] == true {
        return None;
    }
    let text = message["text"].as_str().or_else(|| message["caption"].as_str())?;
    let reply_to_me = message["reply_to_message"]["from"]["username"].as_str().map(str::to_lowercase);
    let mentioned = !me.is_empty()
        && (text.to_lowercase().contains(&format!("@{me}")) || reply_to_me.as_deref() == Some(me));
    let name = [&from["first_name"], &from["last_name"]].map(|it| it.as_str().unwrap_or_default()).join(" ");
    Some(Inbound {
        id: update["update_id"].as_i64()?.to_string(),
        chat: chat["id"].as_i64()?.to_string(),
        group: chat["type"] != "private",
        sender: from["id"].as_i64()?.to_string(),
        name: name.trim().to_owned(),
        text: text.to_owned(),
        mentioned,
    })
}

impl Channel for Telegram {
    fn name(&self) -> &'static str {
        "telegram"
    }

    fn access(&self) -> Access {
        self.config.access()
    }

    fn run<'a>(&'a self, link: &'a Link) -> BoxFuture<'a, Failed> {
        Box::pin(async move {
            let Err(failed) = self.take(link).await;
            failed
        })
    }

    fn send<'a>(
        &'a self,
        gateway: &'a Arc<Gateway>,
        chat: &'a str,
        text: &'a str,
    ) -> BoxFuture<'a, Result<(), Failed>> {
        Box::pin(async move {
            let chat: i64 =
                chat.parse().map_err(|_| Failed::Said(format!("{chat:?} is no chat of Telegram")))?;
            let body = json!({ "chat_id": chat, "text": text });
            self.call(gateway, "sendMessage", &body, PATIENCE).await.map(drop)
        })
    }

    fn longest(&self) -> usize {
        4096
    }
}
