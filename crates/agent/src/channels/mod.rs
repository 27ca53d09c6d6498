//! Channels: people write to the agent from outside, and its answers go back to where they were asked.
//!
//! Who may write is [`door`]'s to say. Each channel speaks its service's own wire format to a base URL, over the warden,
//! with placeholders for tokens. What was taken is durable before the service is told so, and an answer that is owed is
//! on disk until it was sent: a gateway that is killed answers after its next start.

mod discord;
mod door;
mod slack;
mod telegram;
mod webhook;

pub(crate) use door::{Inbound, PENDING, TTL_MS};
pub(crate) use webhook::{Posted, posted};

use crate::{
    config::{self, Channels as Configured},
    cron::heartbeat::{self, is_ack},
    gateway::Gateway,
    store::{Reply, Run},
    web,
};
use aws_lc_rs::digest::{SHA256, digest};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Method, Request, StatusCode, header, request};
use http_body_util::Full;
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::task::JoinHandle;

/// How long a request may take that is no long poll, and how much of an answer is read.
const PATIENCE: Duration = Duration::from_secs(30);
const LONGEST: usize = 4 * 1024 * 1024;
/// How long one waits after a failure: doubled each time, up to the longest.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_mins(5);
/// What a job says is old after so long, and whoever was refused is not told so again within so long; milliseconds.
const OLD_MS: u64 = 60 * 60 * 1000;
const REFUSED_MS: u64 = 60 * 1000;
/// The account that each channel has.
pub(crate) const ACCOUNT: &str = "default";

/// A service over which people write.
pub(crate) trait Channel: Send + Sync {
    /// As keys of sessions and configurations name it.
    fn name(&self) -> &str;
    /// Who may write.
    fn access(&self) -> config::Access;
    /// Takes what comes until something fails.
    fn run<'a>(&'a self, link: &'a Link) -> BoxFuture<'a, Failed>;
    /// Writes to a conversation.
    fn send<'a>(
        &'a self,
        gateway: &'a Arc<Gateway>,
        chat: &'a str,
        text: &'a str,
    ) -> BoxFuture<'a, Result<(), Failed>>;
    /// The longest message, in characters.
    fn longest(&self) -> usize;
}

/// What a channel that runs is tied to.
#[derive(Clone)]
pub(crate) struct Link {
    pub(crate) gateway: Arc<Gateway>,
    pub(crate) channel: Arc<dyn Channel>,
    pub(crate) state: Arc<State>,
}

impl Link {
    /// The service answered.
    pub(crate) fn connected(&self) {
        let mut known = self.state.known();
        if !known.connected {
            known.last_connected = Some(self.gateway.now());
        }
        (known.connected, known.last_error) = (true, None);
    }

    /// Is it the conversation of somebody who is known, or a group that is named?
    pub(crate) fn knows(&self, chat: &str) -> Result<bool, crate::store::Error> {
        let access = self.channel.access();
        if chat == "*" {
            return Ok(false);
        }
        let (store, name) = (&self.gateway.store, self.channel.name());
        let named = access.groups.contains_key(chat) || access.allow_from.iter().any(|it| it == chat);
        if named || store.is_paired_chat(name, chat)? {
            return Ok(true);
        }
        // Or where one of ours wrote from, as long as they would be heard there.
        Ok(match store.chat(name, chat)? {
            Some((sender, group)) => {
                door::is_ours(&access, store.is_paired(name, &sender)?, chat, group, &sender)
            }
            None => false,
        })
    }

    /// Tells somebody that their message was not taken, and nobody twice within a minute.
    fn refuse(&self, chat: &str, why: &str) {
        let now = self.gateway.now();
        {
            let refused = &mut self.state.known().refused;
            refused.retain(|_, at| now < at.saturating_add(REFUSED_MS));
            if refused.contains_key(chat) {
                return;
            }
            refused.insert(chat.to_owned(), now);
        }
        let (link, chat, text) =
            (self.clone(), chat.to_owned(), format!("Your message was not taken: {why}."));
        tokio::spawn(async move {
            if let Err(error) = link.say(&chat, &text).await {
                tracing::warn!(%error, channel = link.channel.name(), "somebody is not told");
            }
        });
    }

    /// Writes to a conversation, in as many messages as it takes.
    pub(crate) async fn say(&self, chat: &str, text: &str) -> Result<(), Failed> {
        for piece in pieces(text, self.channel.longest()) {
            self.send(chat, &piece).await?;
        }
        Ok(())
    }

    /// The same with what a run owes: goes on behind the pieces that were sent before, of which `sent` are known here. One
    /// that was sent and not noted before the gateway ended is sent twice.
    async fn answer(&self, run: &str, chat: &str, text: &str, sent: &mut u32) -> Result<(), Failed> {
        let (store, all) = (&self.gateway.store, pieces(text, self.channel.longest()));
        // Another text, or the same in other pieces, begins at its first.
        let cut = digest(&SHA256, all.join("\0").as_bytes());
        *sent = store.pieces_sent(run, cut.as_ref())?.max(*sent);
        for piece in all.iter().skip(*sent as usize) {
            self.send(chat, piece).await?;
            *sent += 1;
            if let Err(error) = store.set_pieces_sent(run, cut.as_ref(), *sent) {
                tracing::error!(%error, run, "how much of an answer was sent is not kept");
            }
        }
        Ok(())
    }

    async fn send(&self, chat: &str, piece: &str) -> Result<(), Failed> {
        self.channel.send(&self.gateway, chat, piece).await?;
        self.state.known().last_outbound = Some(self.gateway.now());
        Ok(())
    }
}

/// Why a channel does not go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failed {
    /// The way to the service.
    #[error(transparent)]
    Web(#[from] web::Error),
    /// The gateway's state.
    #[error(transparent)]
    Store(#[from] crate::store::Error),
    /// The service asks to be left alone for so long.
    #[error("it wants to be left alone for {} s", .0.as_secs())]
    Slower(Duration),
    /// In words.
    #[error("{0}")]
    Said(String),
}

/// What is known of a channel that runs.
#[derive(Debug, Default)]
pub(crate) struct State(Mutex<Known>);

#[derive(Clone, Debug, Default)]
struct Known {
    connected: bool,
    last_error: Option<String>,
    last_connected: Option<u64>,
    last_inbound: Option<u64>,
    last_outbound: Option<u64>,
    /// Who was told of late that a message was not taken, and when.
    refused: BTreeMap<String, u64>,
}

impl State {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Was it connected before it broke?
    fn broke(&self, why: String) -> bool {
        let mut known = self.known();
        known.last_error = Some(why);
        std::mem::take(&mut known.connected)
    }
}

/// A channel that runs.
struct Live {
    link: Link,
    task: JoinHandle<()>,
}

impl Drop for Live {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Those that run, by name, and the runs whose answers are being sent.
#[derive(Default)]
pub(crate) struct Channels {
    all: Mutex<BTreeMap<String, Live>>,
    paying: Mutex<BTreeSet<String>>,
}

impl std::fmt::Debug for Channels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Channels").finish_non_exhaustive()
    }
}

/// Begins what is configured, so that whoever comes next finds it, and again whenever that changes. Ends with the gateway.
pub(crate) fn begin(gateway: &Arc<Gateway>) -> impl Future<Output = ()> + Send + use<> {
    let (gateway, mut watch) = (Arc::clone(gateway), gateway.watch_config());
    let mut before = watch.borrow_and_update().config.channels.clone();
    gateway.channels.apply(&gateway, &Configured::default(), &before);
    async move {
        while watch.changed().await.is_ok() {
            let now = watch.borrow_and_update().config.channels.clone();
            if now != before {
                gateway.channels.apply(&gateway, &before, &now);
                before = now;
            }
        }
    }
}

impl Channels {
    fn all(&self) -> MutexGuard<'_, BTreeMap<String, Live>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn paying(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.paying.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends what is configured otherwise now, and begins what is new.
    fn apply(&self, gateway: &Arc<Gateway>, before: &Configured, now: &Configured) {
        let mut begin: Vec<Arc<dyn Channel>> = Vec::new();
        let mut end: Vec<String> = Vec::new();
        if before.telegram != now.telegram {
            end.push("telegram".to_owned());
            begin.extend(
                now.telegram.clone().map(|it| Arc::new(telegram::Telegram::new(it)) as Arc<dyn Channel>),
            );
        }
        if before.slack != now.slack {
            end.push("slack".to_owned());
            begin.extend(now.slack.clone().map(|it| Arc::new(slack::Slack::new(it)) as Arc<dyn Channel>));
        }
        if before.discord != now.discord {
            end.push("discord".to_owned());
            begin.extend(
                now.discord.clone().map(|it| Arc::new(discord::Discord::new(it)) as Arc<dyn Channel>),
            );
        }
        for (name, hook) in &before.webhooks {
            if now.webhooks.get(name) != Some(hook) {
                end.push(webhook::channel(name));
            }
        }
        for (name, hook) in &now.webhooks {
            if before.webhooks.get(name) != Some(hook) {
                begin.push(Arc::new(webhook::Webhook::new(name, hook.clone())));
            }
        }
        let mut all = self.all();
        for name in end {
            all.remove(&name);
        }
        for channel in begin {
            let name = channel.name().to_owned();
            let link = Link { gateway: Arc::clone(gateway), channel, state: Arc::default() };
            let task = tokio::spawn(keep(link.clone()));
            all.insert(name, Live { link, task });
        }
    }

    /// A channel that runs.
    pub(crate) fn get(&self, name: &str) -> Option<Link> {
        self.all().get(name).map(|live| live.link.clone())
    }

    /// As `channels.status` tells them.
    pub(crate) fn shown(&self) -> Vec<(String, Value)> {
        let one = |(name, live): (&String, &Live)| {
            let Known { connected, last_error, last_connected, last_inbound, last_outbound, refused: _ } =
                live.link.state.known().clone();
            let access = live.link.channel.access();
            let account = json!({
                "accountId": ACCOUNT, "enabled": true, "configured": true, "running": true, "connected": connected,
                "lastError": last_error, "lastConnectedAt": last_connected, "lastInboundAt": last_inbound,
                "lastOutboundAt": last_outbound, "dmPolicy": access.dm_policy, "allowFrom": access.allow_from,
            });
            (name.clone(), account)
        };
        self.all().iter().map(one).collect()
    }
}

/// Runs a channel, and after a failure again.
async fn keep(link: Link) {
    let Link { gateway, channel, state } = &link;
    let mut wait = FIRST_WAIT;
    let old = gateway.now().saturating_sub(OLD_MS);
    if let Err(error) = gateway.store.forget_owed(channel.name(), old) {
        tracing::error!(%error, channel = channel.name(), "what is owed too long is not forgotten");
    }
    match gateway.store.owed(channel.name()) {
        Ok(owed) => owed.into_iter().for_each(|reply| pay(link.clone(), reply)),
        Err(error) => tracing::error!(%error, channel = channel.name(), "what is owed is not known"),
    }
    loop {
        let failed = channel.run(&link).await;
        tracing::warn!(error = %failed, channel = channel.name(), "a channel broke");
        if state.broke(failed.to_string()) {
            wait = FIRST_WAIT;
        }
        let asked = if let Failed::Slower(asked) = failed { asked.min(LONGEST_WAIT) } else { Duration::ZERO };
        tokio::time::sleep(wait.max(asked)).await;
        wait = (wait * 2).min(LONGEST_WAIT);
    }
}

/// Sends a run's answer to where it was asked from, when it has one.
pub(crate) fn pay(link: Link, reply: Reply) {
    // A channel that was configured anew finds what the one before it is still sending.
    if !link.gateway.channels.paying().insert(reply.run.clone()) {
        return;
    }
    tokio::spawn(async move {
        let id = reply.run.clone();
        sent(&link, reply).await;
        link.gateway.channels.paying().remove(&id);
    });
}

async fn sent(link: &Link, reply: Reply) {
    let (gateway, name) = (&link.gateway, link.channel.name());
    let Reply { run: id, chat, .. } = reply;
    let text = match gateway.run(&id) {
        Ok(Some(active)) => words(gateway, &id, active.ended().await),
        // The gateway ended before it was taken: the service brings it again.
        Ok(None) => String::new(),
        Err(error) => return tracing::error!(%error, run = id, "an answer that is owed is not known"),
    };
    let (mut wait, mut sent) = (FIRST_WAIT, 0);
    while !text.trim().is_empty() {
        // The channel as it is configured now: one that is gone takes it when it is there again.
        let Some(link) = gateway.channels.get(name) else { return };
        match link.knows(&chat) {
            Ok(true) => {}
            Ok(false) if !of_itself(&id) => {}
            Ok(false) => {
                tracing::warn!(
                    channel = name,
                    run = id,
                    "what a job or a heartbeat says is for nobody who is known any more"
                );
                break;
            }
            // It stays owed.
            Err(error) => return tracing::error!(%error, run = id, "for whom an answer is, is not known"),
        }
        let Err(failed) = link.answer(&id, &chat, &text, &mut sent).await else { break };
        tracing::warn!(error = %failed, channel = name, "an answer is not sent yet");
        if wait >= LONGEST_WAIT {
            // It stays owed: the next start tries again.
            return;
        }
        tokio::time::sleep(wait).await;
        wait *= 2;
    }
    if let Err(error) = gateway.store.paid(&id) {
        tracing::error!(%error, run = id, "an answer that was sent is still owed");
    }
}

/// Is it a run that began by itself, and that nobody waits for?
fn of_itself(run: &str) -> bool {
    ["cron:", "manual:", heartbeat::RUN].iter().any(|begin| run.starts_with(begin))
}

/// What is sent of a run that ended; nothing if it is empty.
fn words(gateway: &Gateway, id: &str, run: Run) -> String {
    match (run.said, run.error) {
        // Upstream's words for nothing to say.
        (Some(said), _) if said.trim() == "NO_REPLY" => String::new(),
        (Some(said), _) if of_itself(id) && said.trim() == "HEARTBEAT_OK" => String::new(),
        (Some(said), _) if id.starts_with(heartbeat::RUN) && is_ack(&said) => String::new(),
        (Some(said), _) => said,
        (None, Some(_)) if id.starts_with(heartbeat::RUN) => String::new(),
        (None, Some(_)) if of_itself(id) => {
            // What comes again is tried again, and its failures are for `cron.runs`.
            let job = id.split(':').nth(1).and_then(|job| gateway.store.job(job).ok().flatten());
            let once = job.filter(|job| matches!(job.definition.schedule, crate::cron::Schedule::At { .. }));
            once.map(|job| format!("What was to be done now failed: {}.", job.definition.name))
                .unwrap_or_default()
        }
        (None, Some(error)) => format!("Your message was not answered: {error}."),
        (None, None) => String::new(),
    }
}

/// A text in pieces of at most so many characters, cut at ends of lines where there are some.
fn pieces(text: &str, longest: usize) -> Vec<String> {
    let (mut out, mut rest) = (Vec::new(), text.trim());
    while !rest.is_empty() {
        let Some((end, _)) = rest.char_indices().nth(longest) else {
            out.push(rest.to_owned());
            break;
        };
        let cut = rest[..end].rfind('\n').filter(|at| *at > end / 2).unwrap_or(end);
        out.push(rest[..cut].to_owned());
        rest = rest[cut..].trim_start_matches('\n');
    }
    out
}

/// A request to a service, and its answer as JSON, with the HTTP status.
pub(crate) async fn ask(
    gateway: &Gateway,
    method: Method,
    url: &str,
    head: impl FnOnce(request::Builder) -> request::Builder,
    body: Option<&Value>,
    patience: Duration,
) -> Result<(StatusCode, Value), Failed> {
    let body = body.map(Value::to_string).unwrap_or_default();
    let mut builder = Request::builder().method(method).uri(url).header(header::ACCEPT, "application/json");
    if !body.is_empty() {
        builder = builder.header(header::CONTENT_TYPE, "application/json; charset=utf-8");
    }
    let request = head(builder)
        .body(Full::new(Bytes::from(body)))
        .map_err(|error| Failed::Said(format!("a request cannot be written: {error}")))?;
    let reply = gateway.web().send(request, patience).await?;
    let (head, bytes) = reply.whole(LONGEST, patience).await?;
    let after = head.headers.get(header::RETRY_AFTER).and_then(|it| it.to_str().ok()?.parse::<f64>().ok());
    if head.status == StatusCode::TOO_MANY_REQUESTS {
        let seconds = after.filter(|it| it.is_finite()).unwrap_or(5.0).clamp(1.0, 3600.0);
        return Err(Failed::Slower(Duration::from_secs_f64(seconds)));
    }
    if bytes.is_empty() {
        return Ok((head.status, Value::Null));
    }
    let value =
        serde_json::from_slice(&bytes).map_err(|_| Failed::Said(format!("{}: no JSON", head.status)))?;
    Ok((head.status, value))
}

/// What a service says that it refuses, in its own words, shortened.
pub(crate) fn refused(status: StatusCode, said: &Value) -> Failed {
    let words: String =
        said.as_str().unwrap_or("no reason").chars().filter(|c| !c.is_control()).take(300).collect();
    Failed::Said(format!("{status}: {words}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_cut_at_ends_of_lines_and_nothing_is_lost() {
        assert_eq!(pieces("a\nb", 10), ["a\nb"]);
        assert_eq!(pieces("aaaa\nbb\ncccc", 9), ["aaaa\nbb", "cccc"]);
        assert_eq!(pieces("ääääää", 4), ["ääää", "ää"]);
        assert!(pieces("  \n", 4).is_empty());
    }
}
