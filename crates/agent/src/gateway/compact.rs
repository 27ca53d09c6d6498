//! A run that compacts its session, and nothing else: `/compact` and `sessions.compact`.

use super::{Active, Gateway, Taken};
use crate::{
    ids::uuid,
    protocol::Fault,
    store::{Error, Message, Session},
    turn,
};
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::sync::oneshot;

/// How a compaction ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Compacted {
    /// So many tokens became so many.
    Done { before: u64, after: u64 },
    /// There is no older part.
    Nothing,
    /// Nothing was changed.
    Failed(String),
}

impl Compacted {
    /// For a person.
    pub(crate) fn said(&self) -> String {
        match self {
            Self::Done { before, after } => format!("Compacted: about {before} tokens became {after}."),
            Self::Nothing => "Nothing to compact yet.".to_owned(),
            Self::Failed(why) => format!("The conversation is not compacted: {why}."),
        }
    }
}

impl Gateway {
    /// Begins one, unless something runs or waits. `quiet`: it is no part of the chat.
    pub(crate) fn compact(
        self: &Arc<Self>,
        key: &str,
        id: &str,
        focus: Option<String>,
        quiet: bool,
    ) -> Result<(Arc<Active>, oneshot::Receiver<Compacted>), Fault> {
        let lost = |error: Error| Fault::unavailable(error.to_string());
        let (session, now) = (self.session(key).map_err(lost)?, self.now());
        let active = Arc::new(Active::new(id.to_owned(), &session, now).quiet(quiet));
        let mut state = self.state();
        if state.active.contains_key(key) {
            return Err(Fault::invalid(format!(
                "session {key} has a run under way: stop it, or ask again later"
            )));
        }
        self.store.end(&session, &active.row()).map_err(lost)?;
        state.active.insert(key.to_owned(), Arc::clone(&active));
        state.remember(&active);
        drop(state);
        let (tell, told) = oneshot::channel();
        let (gateway, run) = (Arc::clone(self), Arc::clone(&active));
        tokio::spawn(async move {
            let operation = uuid();
            gateway.operation(&run, json!({ "operationId": operation, "phase": "start" }));
            let outcome = turn::compact(&gateway, &run, focus.as_deref()).await;
            let completed = matches!(outcome, Some(Compacted::Done { .. }));
            let mut end = json!({ "operationId": operation, "phase": "end", "completed": completed });
            if let Some(Compacted::Failed(why)) = &outcome {
                end["reason"] = why.as_str().into();
            }
            gateway.operation(&run, end);
            if let Some(outcome) = outcome {
                // Nobody may wait for it.
                let _ = tell.send(outcome);
            }
        });
        Ok((active, told))
    }

    /// The same as a message.
    pub(super) fn compact_command(
        self: &Arc<Self>,
        key: &str,
        id: &str,
        focus: &str,
    ) -> Result<(Arc<Active>, Taken), Fault> {
        let focus = (!focus.is_empty()).then(|| focus.to_owned());
        match self.compact(key, id, focus, false) {
            Ok((active, _)) => Ok((active, Taken::Started)),
            Err(fault) if self.running(key).is_some() => {
                self.answered(key, id, fault.message).map_err(|error| Fault::unavailable(error.to_string()))
            }
            Err(fault) => Err(fault),
        }
    }

    /// Keeps a compaction, and tells it to those who follow its session.
    pub(crate) fn keep_compaction(&self, session: &Session, message: Message) -> Result<(), Error> {
        let seq = self.store.compact(session, &message)?;
        self.tell_message(&session.key, &Message { seq, ..message });
        self.sessions_changed(&session.key, "compact");
        Ok(())
    }

    fn operation(&self, active: &Active, mut fields: Value) {
        fields["operation"] = "compact".into();
        fields["sessionKey"] = active.session_key.as_str().into();
        fields["ts"] = self.now().into();
        self.tell("session.operation", &fields, |client| {
            client.may(cofferdam_base::Scope::Read) && client.follows_sessions()
        });
    }
}
