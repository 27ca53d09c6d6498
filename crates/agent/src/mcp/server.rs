//! One server's life: it begins when it is first wanted, its tools are asked for again, it dies and begins again.

use super::{
    client::Client,
    tool::{Judged, Tool, sha256},
};
use crate::{
    config::mcp,
    gateway::{Decision, Gateway, Kind, Question},
    store,
};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

/// After so long its tools are asked for again, whether it says that they changed or not.
const LISTED: Duration = Duration::from_mins(5);
/// After so long a turn waits again for one for which another waited in vain.
const AWAITED: Duration = Duration::from_mins(5);
/// A server that did not begin is left alone for so long.
const RESTING: Duration = Duration::from_secs(30);
/// How long a person may take to say what they think of tools that changed.
const ASKED: Duration = Duration::from_hours(24 * 7);
/// The longest detail of a question, in characters.
const DETAIL: usize = 16_384;
/// What is said where it does not suffice.
const TOO_MUCH: &str = "They say more than a question can show, so no yes is taken and nobody can call them. Let fewer of \
    them through its toolFilter, or, if you trust what the server is now, configure it anew under another name";
/// It may begin so often in such a time.
const BEGUN: usize = 5;
const WITHIN: Duration = Duration::from_mins(10);

/// A server that is configured.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) name: String,
    pub(super) config: mcp::Server,
    life: tokio::sync::Mutex<Life>,
    seen: Mutex<Seen>,
}

/// Held while something is done about it.
#[derive(Debug, Default)]
struct Life {
    client: Option<Arc<Client>>,
    begun: VecDeque<Instant>,
    listed: Option<Instant>,
    failed: Option<Instant>,
}

/// What is known of it, for whoever does not wait.
#[derive(Debug, Default)]
struct Seen {
    tools: Vec<Arc<Tool>>,
    /// Not as they were accepted.
    others: Vec<Tool>,
    /// What a person is asked about them; none: the answer was no.
    asked: Option<Arc<Question>>,
    why: Option<String>,
    begun: bool,
    /// When a turn waited for it in vain; none: it was there in time since.
    late: Option<Instant>,
    /// How many have no name by which a model could call them.
    nameless: usize,
}

impl Server {
    pub(super) fn new(name: &str, config: &mcp::Server) -> Self {
        Self {
            name: name.to_owned(),
            config: config.clone(),
            life: tokio::sync::Mutex::default(),
            seen: Mutex::default(),
        }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those of its tools that may be called.
    pub(super) fn tools(&self) -> Vec<Arc<Tool>> {
        self.seen().tools.clone()
    }

    /// Did a turn wait for it in vain a while ago, and was it not there in time since?
    pub(super) fn is_late(&self) -> bool {
        self.seen().late.is_some_and(|at| at.elapsed() < AWAITED)
    }

    /// A turn waited for it in vain.
    pub(super) fn was_late(&self) {
        self.seen().late = Some(Instant::now());
    }

    /// Does a tool of this name wait for a person?
    pub(super) fn waits(&self, id: &str) -> bool {
        self.seen().others.iter().any(|tool| tool.id == id)
    }

    /// How it is, in words.
    pub(super) fn told(&self) -> String {
        let Seen { tools, others, asked, why, begun, late: _, nameless } = &*self.seen();
        let waiting = match (others.len(), asked) {
            (0, _) => String::new(),
            (count, Some(asked)) => {
                format!("; {count} changed and wait for the answer to approval {}", asked.id)
            }
            (count, None) => format!("; {count} changed and were refused"),
        };
        let how = match why {
            Some(why) => format!(", {why}"),
            None if !begun => ", not begun yet".to_owned(),
            None => String::new(),
        };
        let left = match nameless {
            0 => String::new(),
            count => format!("; {count} left out, with no name or too long a one"),
        };
        format!("{} tools{waiting}{left}{how}", tools.len())
    }

    /// It is configured no more: nothing of it is asked.
    pub(super) fn leave(&self, gateway: &Gateway) {
        let asked = self.seen().asked.take();
        if let Some(asked) = asked {
            gateway.lapse(&asked, "withdrawn");
        }
    }

    /// Sees to it that it runs and that its tools are known.
    pub(super) async fn ready(self: &Arc<Self>, gateway: &Arc<Gateway>) -> Result<Arc<Client>, String> {
        let began = Instant::now();
        let mut life = self.life.lock().await;
        let ready = self.live(&mut life, gateway).await;
        let mut seen = self.seen();
        seen.begun = true;
        seen.why = ready.as_ref().err().cloned();
        if ready.is_ok() && began.elapsed() < super::BEGINNING {
            seen.late = None;
        }
        if ready.is_err() {
            // What nobody answers for is offered to nobody.
            seen.tools.clear();
        }
        ready
    }

    async fn live(self: &Arc<Self>, life: &mut Life, gateway: &Arc<Gateway>) -> Result<Arc<Client>, String> {
        let ended = life.client.as_ref().and_then(|client| client.link.why_ended());
        if ended.is_some() {
            life.client = None;
        }
        let client = match &life.client {
            Some(client) => Arc::clone(client),
            None => self.begin(life, gateway, ended).await?,
        };
        let fresh = life.listed.is_some_and(|at| at.elapsed() < LISTED);
        if client.link.take_changed() || !fresh {
            // One that does not tell of its tools is begun anew the next time.
            let listed = client.tools().await.and_then(|told| self.judge(gateway, &told));
            if let Err(why) = listed {
                (life.client, life.listed, life.failed) = (None, None, Some(Instant::now()));
                return Err(why);
            }
            life.listed = Some(Instant::now());
        }
        Ok(client)
    }

    async fn begin(
        &self,
        life: &mut Life,
        gateway: &Gateway,
        ended: Option<String>,
    ) -> Result<Arc<Client>, String> {
        if life.failed.is_some_and(|at| at.elapsed() < RESTING) {
            let why = self.seen().why.clone();
            return Err(why.unwrap_or_else(|| "it is left alone for a while".to_owned()));
        }
        life.begun.retain(|at| at.elapsed() < WITHIN);
        if life.begun.len() >= BEGUN {
            let ended = ended.or_else(|| self.seen().why.clone()).unwrap_or_default();
            return Err(format!("it began {BEGUN} times in ten minutes and is left alone: {ended}"));
        }
        life.begun.push_back(Instant::now());
        life.listed = None;
        match Client::connect(&self.config, gateway).await {
            Ok(client) => {
                let client = Arc::new(client);
                (life.client, life.failed) = (Some(Arc::clone(&client)), None);
                Ok(client)
            }
            Err(why) => {
                life.failed = Some(Instant::now());
                Err(why)
            }
        }
    }

    /// Calls a tool. A server that died since is begun again first.
    pub(super) async fn call(
        self: &Arc<Self>,
        gateway: &Arc<Gateway>,
        tool: &Tool,
        arguments: Value,
    ) -> Result<Value, String> {
        let client = self.ready(gateway).await?;
        // It may be another one by now.
        if !self.seen().tools.iter().any(|now| **now == *tool) {
            return Err(
                "it is not what it was when it was accepted: it waits until a person accepts it".to_owned()
            );
        }
        client.call("tools/call", json!({ "name": tool.name, "arguments": arguments })).await
    }

    /// Which server this is: the same name with another command is another one.
    fn identity(&self) -> String {
        let mcp::Server { command, args, env, cwd, url, headers, .. } = &self.config;
        sha256(&json!([command, args, env, cwd, url, headers]).to_string())
    }

    /// Holds a list against what was accepted, and asks a person about the rest.
    fn judge(self: &Arc<Self>, gateway: &Arc<Gateway>, told: &[Value]) -> Result<(), String> {
        let lost = |error: store::Error| error.to_string();
        let parallel = self.config.supports_parallel_tool_calls;
        let tools: Vec<Tool> = told.iter().filter_map(|one| Tool::read(&self.name, parallel, one)).collect();
        let nameless = told.len() - tools.len();
        let identity = self.identity();
        let pins = if let Some(pins) = gateway.store.pins(&self.name, &identity).map_err(lost)? {
            pins
        } else {
            let first: BTreeMap<_, _> = tools.iter().map(|tool| (tool.name.clone(), tool.pin())).collect();
            gateway.store.put_pins(&self.name, &identity, &first).map_err(lost)?;
            first
        };
        let mut judged = Judged::of(tools, &pins);
        judged.others.retain(|tool| self.config.tool_filter.passes(&tool.name));
        let mut seen = self.seen();
        seen.nameless = nameless;
        let passing = judged.same.iter().filter(|tool| self.config.tool_filter.passes(&tool.name));
        seen.tools = passing.map(|tool| Arc::new(tool.clone())).collect();
        if seen.others == judged.others {
            return Ok(());
        }
        seen.others.clone_from(&judged.others);
        let before = seen.asked.take();
        drop(seen);
        if let Some(before) = before {
            gateway.lapse(&before, "withdrawn");
        }
        if !judged.others.is_empty() {
            let asked = self.ask(gateway, &judged, &pins)?;
            self.seen().asked = Some(asked);
        }
        Ok(())
    }

    fn ask(
        &self,
        gateway: &Arc<Gateway>,
        judged: &Judged,
        pins: &BTreeMap<String, store::Pin>,
    ) -> Result<Arc<Question>, String> {
        let (count, detail) = (judged.others.len(), judged.detail(pins));
        let names: Vec<&str> = judged.others.iter().map(|tool| tool.id.as_str()).collect();
        // A yes is to what was shown, all of it. What is accepted stays so: once is none of the answers.
        let (allowed, how) = if detail.chars().count() <= DETAIL {
            (vec![Decision::AllowAlways, Decision::Deny], "Until you say yes nobody can call them")
        } else {
            (vec![Decision::Deny], TOO_MUCH)
        };
        let names = names.join(", ");
        let description =
            format!("{count} tools are not what they were when they were accepted. {how}: {names}");
        let request = json!({
            "pluginId": "mcp", "title": cut(&format!("MCP server {}: tools changed", self.name), 80),
            "description": cut(&description, 512), "detail": cut(&detail, DETAIL), "severity": "warning",
            "allowedDecisions": allowed,
        });
        gateway.ask(Kind::Plugin, None, request, allowed, ASKED).map_err(|fault| fault.message)
    }

    /// A question has its end: a yes, a no, or none, and then the next list asks again. False: it was not about this
    /// server.
    pub(super) fn ended(
        &self,
        gateway: &Gateway,
        question: &str,
        decision: Option<Decision>,
    ) -> Result<bool, store::Error> {
        let mut seen = self.seen();
        if seen.asked.as_ref().is_none_or(|asked| asked.id != question) {
            return Ok(false);
        }
        seen.asked = None;
        match decision {
            None => seen.others.clear(),
            Some(Decision::Deny) => {}
            Some(Decision::AllowAlways | Decision::AllowOnce) => {
                let identity = self.identity();
                let mut pins = gateway.store.pins(&self.name, &identity)?.unwrap_or_default();
                pins.extend(seen.others.iter().map(|tool| (tool.name.clone(), tool.pin())));
                gateway.store.put_pins(&self.name, &identity, &pins)?;
                let accepted = std::mem::take(&mut seen.others);
                seen.tools.extend(accepted.into_iter().map(Arc::new));
            }
        }
        Ok(true)
    }
}

fn cut(text: &str, most: usize) -> String {
    text.chars().take(most).collect()
}
