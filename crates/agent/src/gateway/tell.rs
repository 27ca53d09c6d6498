//! Who is told what: events to the clients that follow.

use super::{Active, Gateway};
use crate::{
    protocol::event,
    server::Client,
    store::{Error, Message, Role, Session},
};
use cofferdam_base::Scope;
use serde_json::{Value, json};
use std::sync::{Arc, atomic::Ordering};

impl Gateway {
    pub(super) fn tell_presence(&self) {
        let (presence, _) = self.presence();
        self.tell("presence", &json!({ "presence": presence }), |client| client.may(Scope::Read));
    }

    /// Tells an event to those who are to hear it.
    pub(crate) fn tell(&self, name: &str, payload: &Value, hears: impl Fn(&Client) -> bool) {
        let clients: Vec<_> = self.state().clients.values().filter(|it| hears(it)).map(Arc::clone).collect();
        for client in clients {
            client.event(|seq| event(name, payload, Some(seq)));
        }
    }

    /// Sessions were made, changed or removed.
    pub(crate) fn sessions_changed(&self, key: &str, reason: &str) {
        let payload = json!({ "sessionKey": key, "reason": reason, "ts": self.now() });
        self.tell("sessions.changed", &payload, |client| {
            client.may(Scope::Read) && client.follows_sessions()
        });
    }

    pub(crate) fn agent_event(&self, active: &Active, stream: &str, data: Value) {
        let seq = active.seq.fetch_add(1, Ordering::Relaxed) + 1;
        let payload = json!({
            "runId": active.id, "sessionKey": active.session_key, "sessionId": active.session_id,
            "agentId": crate::AGENT, "stream": stream, "data": data, "seq": seq, "ts": self.now(),
            "isHeartbeat": active.heartbeat,
        });
        let tools = matches!(stream, "tool" | "item");
        self.tell("agent", &payload, |client| {
            client.may(Scope::Read) && (!tools || client.can("tool-events"))
        });
    }

    pub(crate) fn chat_event(&self, active: &Active, mut fields: Value) {
        let unseen = active.heartbeat && !crate::cron::heartbeat::shows(&self.config(), &fields);
        if active.quiet || unseen {
            return;
        }
        fields["runId"] = active.id.as_str().into();
        fields["sessionKey"] = active.session_key.as_str().into();
        fields["agentId"] = crate::AGENT.into();
        fields["seq"] = active.seq.load(Ordering::Relaxed).into();
        self.tell("chat", &fields, |client| client.may(Scope::Read));
    }

    pub(crate) fn status(&self, active: &Active, phase: &str) {
        active.seq.fetch_add(1, Ordering::Relaxed);
        self.chat_event(active, json!({ "state": "status", "phase": phase }));
    }

    /// Keeps a message, and tells it to those who follow its session.
    pub(crate) fn append(&self, session: &Session, message: Message) -> Result<u64, Error> {
        let seq = self.store.append(&message)?;
        self.tell_message(&session.key, &Message { seq, ..message });
        Ok(seq)
    }

    pub(crate) fn tell_message(&self, key: &str, message: &Message) {
        let mut said = shown(message, None);
        // As upstream tells what a person wrote; its history has blocks, as ours.
        if message.role == Role::User
            && let Some([block]) = said["content"].as_array().map(Vec::as_slice)
            && block["type"] == "text"
        {
            said["content"] = block["text"].clone();
        }
        let payload = json!({
            "sessionKey": key, "agentId": crate::AGENT, "runId": message.run, "messageId": message.id,
            "messageSeq": message.seq, "message": said,
        });
        self.tell("session.message", &payload, |client| client.may(Scope::Read) && client.follows(key));
    }
}

/// A message as clients read it; of each text so many characters.
pub(crate) fn shown(message: &Message, max_chars: Option<usize>) -> Value {
    let mut out = message.body.clone();
    if let (Some(max), Some(blocks)) = (max_chars, out["content"].as_array_mut()) {
        for block in blocks {
            if let Some(text) = block["text"].as_str()
                && text.chars().count() > max
            {
                block["text"] = text.chars().take(max).collect::<String>().into();
            }
        }
    }
    out["role"] = message.role.as_str().into();
    out["timestamp"] = message.at.into();
    let mut meta = json!({
        "id": message.id, "seq": message.seq, "runId": message.run, "recordTimestampMs": message.at,
    });
    if message.role == Role::System {
        meta["kind"] = "compaction".into();
        for field in ["tokensBefore", "tokensAfter"] {
            meta[field] = out[field].take();
        }
        // The summary is the model's.
        out = json!({ "content": out["content"], "role": out["role"], "timestamp": out["timestamp"] });
    }
    out["__openclaw"] = meta;
    out
}
