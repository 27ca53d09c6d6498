//! Slack in socket mode: a WebSocket that Slack opens for an app's token brings events, `chat.postMessage` answers.
//!
//! The tokens go in headers of the Web API; the socket's own address holds a ticket that Slack made.

use super::{Channel, Failed, Inbound, Link, PATIENCE, ask, door, refused};
use crate::{
    config::{self, Access, Placeholder},
    gateway::Gateway,
};
use futures_util::{SinkExt, StreamExt, future::BoxFuture};
use http::{Method, StatusCode, header};
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};
use tokio_tungstenite::tungstenite::Message;

/// How long the socket may be silent: Slack pings more often.
const SILENCE: Duration = Duration::from_mins(2);

/// An app.
#[derive(Debug)]
pub(super) struct Slack {
    config: config::Slack,
}

impl Slack {
    pub(super) fn new(config: config::Slack) -> Self {
        Self { config }
    }

    async fn call(
        &self,
        gateway: &Gateway,
        token: &Placeholder,
        method: &str,
        body: &Value,
    ) -> Result<Value, Failed> {
        let base = self.config.base_url.as_deref().unwrap_or("https://slack.com").trim_end_matches('/');
        let token = token.resolved().map_err(Failed::Said)?;
        let head = |it: http::request::Builder| it.header(header::AUTHORIZATION, format!("Bearer {token}"));
        let url = format!("{base}/api/{method}");
        let (status, answer) = ask(gateway, Method::POST, &url, head, Some(body), PATIENCE).await?;
        if status != StatusCode::OK || answer["ok"] != true {
            return Err(refused(status, &answer["error"]));
        }
        Ok(answer)
    }

    async fn take(&self, link: &Link) -> Result<std::convert::Infallible, Failed> {
        let gateway = &link.gateway;
        let me = self.call(gateway, &self.config.bot_token, "auth.test", &json!({})).await?;
        let me = me["user_id"].as_str().unwrap_or_default().to_owned();
        loop {
            let opened =
                self.call(gateway, &self.config.app_token, "apps.connections.open", &json!({})).await?;
            let url =
                opened["url"].as_str().ok_or_else(|| Failed::Said("no socket was opened".to_owned()))?;
            let mut socket = gateway.web().websocket(url, PATIENCE).await?;
            link.connected();
            loop {
                let next = tokio::time::timeout(SILENCE, socket.next()).await;
                let next = next.map_err(|_| Failed::Said("the socket is silent".to_owned()))?;
                let text = match next {
                    Some(Ok(Message::Text(text))) => text,
                    // Slack moves sockets now and then.
                    None | Some(Ok(Message::Close(_))) => break,
                    Some(Ok(_)) => continue,
                    Some(Err(error)) => return Err(Failed::Said(format!("the socket broke: {error}"))),
                };
                let Ok(frame) = serde_json::from_str::<Value>(&text) else { continue };
                if frame["type"] == "disconnect" {
                    break;
                }
                if let Some(inbound) = inbound(&frame, &me) {
                    door::take(link, &inbound).await?;
                }
                // What was taken is on disk: Slack need not send it again.
                if let Some(id) = frame["envelope_id"].as_str() {
                    let ack = Message::Text(json!({ "envelope_id": id }).to_string().into());
                    socket
                        .send(ack)
                        .await
                        .map_err(|error| Failed::Said(format!("the socket broke: {error}")))?;
                }
            }
        }
    }
}

/// A message of a person in text.
fn inbound(frame: &Value, me: &str) -> Option<Inbound> {
    let event = &frame["payload"]["event"];
    let kind = event["type"].as_str()?;
    if frame["type"] != "events_api" || !matches!(kind, "message" | "app_mention") {
        return None;
    }
    // An edit, a bot, a file without words.
    if event.get("subtype").is_some() || event.get("bot_id").is_some() {
        return None;
    }
    let (sender, text) = (event["user"].as_str()?, event["text"].as_str()?);
    let (chat, at) = (event["channel"].as_str()?, event["ts"].as_str()?);
    if sender == me {
        return None;
    }
    Some(Inbound {
        // A mention comes twice, as each of its kinds.
        id: format!("{chat}:{at}"),
        chat: chat.to_owned(),
        group: event["channel_type"] != "im",
        sender: sender.to_owned(),
        name: sender.to_owned(),
        text: text.to_owned(),
        mentioned: kind == "app_mention" || (!me.is_empty() && text.contains(&format!("<@{me}>"))),
    })
}

impl Channel for Slack {
    fn name(&self) -> &'static str {
        "slack"
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
            let body = json!({ "channel": chat, "text": text });
            self.call(gateway, &self.config.bot_token, "chat.postMessage", &body).await.map(drop)
        })
    }

    fn longest(&self) -> usize {
        4000
    }
}
