//! Discord's REST API, version 10: channels that are named, and conversations with people who are, are asked for new
//! messages every few seconds.
//!
//! Its gateway would tell of them by itself, but wants the token inside a WebSocket, where the warden exchanges nothing.

use super::{Channel, Failed, Inbound, Link, PATIENCE, ask, door, refused};
use crate::{
    config::{self, Access},
    gateway::Gateway,
};
use futures_util::future::BoxFuture;
use http::{Method, header};
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};

/// How long between two questions for new messages.
const BETWEEN: Duration = Duration::from_secs(5);
/// Messages of one question.
const PAGE: usize = 50;

/// A bot.
#[derive(Debug)]
pub(super) struct Discord {
    config: config::Discord,
}

/// A conversation that is asked for new messages.
struct Watched {
    id: String,
    group: bool,
}

impl Discord {
    pub(super) fn new(config: config::Discord) -> Self {
        Self { config }
    }

    async fn call(
        &self,
        gateway: &Gateway,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value, Failed> {
        let base = self.config.base_url.as_deref().unwrap_or("https://discord.com").trim_end_matches('/');
        let token = self.config.token.resolved().map_err(Failed::Said)?;
        let head = |it: http::request::Builder| it.header(header::AUTHORIZATION, format!("Bot {token}"));
        let url = format!("{base}/api/v10{path}");
        let (status, answer) = ask(gateway, method, &url, head, body, PATIENCE).await?;
        if status.is_success() { Ok(answer) } else { Err(refused(status, &answer["message"])) }
    }

    async fn take(&self, link: &Link) -> Result<std::convert::Infallible, Failed> {
        let gateway = &link.gateway;
        let me = self.call(gateway, Method::GET, "/users/@me", None).await?;
        let me = me["id"].as_str().unwrap_or_default().to_owned();
        let mut watched: Vec<Watched> = Vec::new();
        for id in self.config.groups.keys().filter(|id| is_id(id)) {
            watched.push(Watched { id: id.clone(), group: true });
        }
        for user in self.config.allow_from.iter().filter(|id| is_id(id)) {
            let body = json!({ "recipient_id": user });
            let dm = self.call(gateway, Method::POST, "/users/@me/channels", Some(&body)).await?;
            let id = dm["id"].as_str().filter(|id| is_id(id));
            let id = id.ok_or_else(|| Failed::Said(format!("there is no conversation with {user}")))?;
            watched.push(Watched { id: id.to_owned(), group: false });
        }
        link.connected();
        loop {
            for conversation in &watched {
                self.read(link, conversation, &me).await?;
            }
            tokio::time::sleep(BETWEEN).await;
        }
    }

    /// What is new in a conversation. Of one that is read for the first time, nothing is: what was said before is not
    /// meant for now.
    async fn read(&self, link: &Link, conversation: &Watched, me: &str) -> Result<(), Failed> {
        let (gateway, name) = (&link.gateway, self.name());
        let Watched { id, group } = conversation;
        let cursor = gateway.store.cursor(name, id)?;
        let path = match &cursor {
            Some(after) => format!("/channels/{id}/messages?limit={PAGE}&after={after}"),
            None => format!("/channels/{id}/messages?limit=1"),
        };
        let answer = self.call(gateway, Method::GET, &path, None).await?;
        link.connected();
        let mut messages: Vec<(u64, &Value)> = answer
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|it| Some((it["id"].as_str()?.parse().ok()?, it)))
            .collect();
        messages.sort_by_key(|(at, _)| *at);
        for (at, message) in &messages {
            if cursor.is_some()
                && let Some(inbound) = inbound(message, id, *group, me)
            {
                door::take(link, &inbound).await?;
            }
            gateway.store.set_cursor(name, id, &at.to_string())?;
        }
        if messages.is_empty() && cursor.is_none() {
            gateway.store.set_cursor(name, id, "0")?;
        }
        Ok(())
    }
}

/// Ids are numbers; nothing else goes into a path.
fn is_id(id: &str) -> bool {
    !id.is_empty() && id.len() <= 20 && id.bytes().all(|b| b.is_ascii_digit())
}

fn inbound(message: &Value, chat: &str, group: bool, me: &str) -> Option<Inbound> {
    let author = &message["author"];
    let sender = author["id"].as_str()?;
    if author["bot"] == true || sender == me {
        return None;
    }
    let named = |it: &Value| it["id"] == me;
    let mentioned = message["mentions"].as_array().is_some_and(|all| all.iter().any(named));
    Some(Inbound {
        id: message["id"].as_str()?.to_owned(),
        chat: chat.to_owned(),
        group,
        sender: sender.to_owned(),
        name: author["username"].as_str().unwrap_or_default().to_owned(),
        text: message["content"].as_str()?.to_owned(),
        mentioned,
    })
}

impl Channel for Discord {
    fn name(&self) -> &'static str {
        "discord"
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
            if !is_id(chat) {
                return Err(Failed::Said(format!("{chat:?} is no channel of Discord")));
            }
            // Nobody is called by what a model writes.
            let body = json!({ "content": text, "allowed_mentions": { "parse": [] } });
            let path = format!("/channels/{chat}/messages");
            self.call(gateway, Method::POST, &path, Some(&body)).await.map(drop)
        })
    }

    fn longest(&self) -> usize {
        2000
    }
}
