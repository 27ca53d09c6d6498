//! One connection to a server: its beginning, requests with an end, and the list of its tools.

use super::{
    http::Http,
    stdio::Stdio,
    wire::{Link, Said, notice, request},
};
use crate::{config::mcp, gateway::Gateway};
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};
use tokio::time::{Instant, sleep_until, timeout};

/// The versions that are spoken, the newest first.
const VERSIONS: [&str; 3] = ["2025-06-18", "2025-03-26", "2024-11-05"];
/// However much progress it tells of, a request ends.
const LONGEST: Duration = Duration::from_mins(30);
const INITIALIZE: &str = "initialize";
/// Pages of one list of tools, and tools in it.
const PAGES: usize = 64;
pub(super) const TOOLS: usize = 256;

#[derive(Debug)]
enum Wire {
    Stdio(Stdio),
    Http(Arc<Http>),
}

/// A server that is there.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) link: Arc<Link>,
    wire: Wire,
    patience: Duration,
}

impl Client {
    /// Begins, within the time that the server has for it.
    pub(super) async fn connect(server: &mcp::Server, gateway: &Gateway) -> Result<Self, String> {
        let link = Arc::new(Link::new());
        let wire = if server.url.is_some() {
            Wire::Http(Arc::new(Http::new(server, gateway.web())?))
        } else {
            Wire::Stdio(Stdio::start(server, gateway, &link)?)
        };
        let client = Self { link, wire, patience: server.answering() };
        let late = |_| format!("it did not begin within {} ms", server.connecting().as_millis());
        timeout(server.connecting(), client.initialize()).await.map_err(late)??;
        Ok(client)
    }

    async fn initialize(&self) -> Result<(), String> {
        let asked = json!({
            "protocolVersion": VERSIONS[0], "capabilities": {},
            "clientInfo": { "name": "cofferdam", "version": env!("CARGO_PKG_VERSION") },
        });
        // It has as long as beginning may take.
        let said = self.call(INITIALIZE, asked).await?;
        let version = said["protocolVersion"].as_str().unwrap_or_default();
        let Some(known) = VERSIONS.into_iter().find(|known| *known == version) else {
            return Err(format!("it speaks version {version:?}, and the gateway {}", VERSIONS.join(", ")));
        };
        if let Wire::Http(http) = &self.wire {
            http.agree(known);
        }
        self.send(&notice("notifications/initialized", json!({}))).await
    }

    async fn send(&self, message: &Value) -> Result<(), String> {
        match &self.wire {
            Wire::Stdio(stdio) => stdio.send(message).await,
            Wire::Http(http) => http.send(&self.link, message).await,
        }
    }

    /// Asks for something. It ends with the answer, with the server, or when the server says nothing for too long; if
    /// the caller goes, the server is told.
    pub(super) async fn call(&self, method: &str, mut params: Value) -> Said {
        let mut pending = self.link.begin();
        params["_meta"] = json!({ "progressToken": pending.id });
        let message = request(pending.id, method, params);
        // The beginning cannot be taken back.
        let begins = method == INITIALIZE;
        let mut guard = Guard { client: self, id: pending.id, tells: !begins };
        let (sending, ended) = (self.send(&message), self.link.ended());
        tokio::pin!(sending, ended);
        let last = Instant::now() + LONGEST;
        let (mut late, mut sent) = (if begins { last } else { Instant::now() + self.patience }, false);
        loop {
            tokio::select! {
                biased;
                said = &mut pending.answer => {
                    guard.tells = false;
                    return match said {
                        Ok(said) => said,
                        Err(_) => Err(self.link.why_ended().unwrap_or_else(|| "it ended".to_owned())),
                    };
                }
                why = &mut ended => return Err(why),
                done = &mut sending, if !sent => {
                    done.inspect_err(|_| guard.tells = false)?;
                    sent = true;
                    // What answers over HTTP has been read to its end by now.
                    if matches!(self.wire, Wire::Http(_)) && self.link.give_up(pending.id) {
                        guard.tells = false;
                        return Err("it answered, and not what it was asked".to_owned());
                    }
                }
                () = pending.heard.notified() => late = (Instant::now() + self.patience).min(last),
                () = sleep_until(late) => {
                    return Err(format!("it said nothing for {} ms", self.patience.as_millis()));
                }
            }
        }
    }

    /// All tools that it has, as it tells of them.
    pub(super) async fn tools(&self) -> Result<Vec<Value>, String> {
        let (mut all, mut cursor) = (Vec::new(), Value::Null);
        for _ in 0..PAGES {
            let asked = if cursor.is_null() { json!({}) } else { json!({ "cursor": cursor }) };
            let mut said = self.call("tools/list", asked).await?;
            let Value::Array(tools) = said["tools"].take() else {
                return Err("its list of tools is none".to_owned());
            };
            all.extend(tools);
            if all.len() > TOOLS {
                return Err(format!(
                    "it has more than {TOOLS} tools: name those that are wanted in toolFilter.include"
                ));
            }
            cursor = said["nextCursor"].take();
            if cursor.is_null() {
                return Ok(all);
            }
        }
        Err(format!("its list of tools has more than {PAGES} pages"))
    }
}

/// Takes a request back that nobody waits for any more.
struct Guard<'a> {
    client: &'a Client,
    id: u64,
    tells: bool,
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        let Client { link, wire, .. } = self.client;
        link.give_up(self.id);
        if !self.tells || link.why_ended().is_some() {
            return;
        }
        let told = notice(
            "notifications/cancelled",
            json!({ "requestId": self.id, "reason": "nobody waits for it" }),
        );
        match wire {
            Wire::Stdio(stdio) => stdio.try_send(&told),
            // Outside of a runtime there is nobody to send it.
            Wire::Http(http) => {
                if let Ok(runtime) = tokio::runtime::Handle::try_current() {
                    runtime.spawn(http.tell(link, told));
                }
            }
        }
    }
}
