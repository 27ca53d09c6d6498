//! What of a conversation the model sees: a summary of its older part, and everything since.

use super::context;
use crate::{
    config::Limits,
    images,
    store::{Error, Message, Role, Session, Store},
};

/// How a summary is told, in upstream's words.
const BEFORE: &str =
    "The conversation history before this point was compacted into the following summary:\n\n<summary>\n";
const BEHIND: &str = "\n</summary>";
/// What is sent beside the conversation, in tokens.
const FIXED: u64 = 2_000;

#[derive(Clone, Debug)]
pub(super) struct Past {
    /// The number of the last compaction; 0: there was none.
    pub(super) cycle: u64,
    pub(super) summary: Option<String>,
    /// The last words of the person, if they are older than what follows.
    lead: Option<Message>,
    /// Everything since, as far as there is room for it.
    pub(super) tail: Vec<Message>,
    /// There is more than that.
    pub(super) more: bool,
}

impl Past {
    pub(super) fn load(store: &Store, session: &Session, limits: &Limits) -> Result<Self, Error> {
        let compaction = store.compaction(&session.id)?;
        let (cycle, from) =
            compaction.as_ref().map_or((0, 0), |it| (it.seq, it.body["keptFrom"].as_u64().unwrap_or(it.seq)));
        let summary = compaction.as_ref().and_then(|it| it.body["summary"].as_str()).map(str::to_owned);
        let tail = store.since(&session.id, from, context::PAST)?;
        let all = tail.len();
        // Four bytes are a token, more or less.
        let room = usize::try_from(limits.window.saturating_mul(4)).unwrap_or(usize::MAX);
        let mut tail = context::fitting(tail, room, || store.last_said(&session.id, Role::User))?;
        let lead = tail.first().is_some_and(|first| first.seq < from).then(|| tail.remove(0));
        let more = all >= context::PAST as usize || tail.len() < all;
        Ok(Self { cycle, summary, lead, tail, more })
    }

    /// As messages, without their images.
    pub(super) fn messages(self, session: &Session) -> Vec<Message> {
        let summary = self.summary.map(|summary| {
            Message::text(
                session,
                None,
                Role::User,
                &format!("{BEFORE}{summary}{BEHIND}"),
                session.updated_at,
            )
        });
        summary.into_iter().chain(self.lead).chain(self.tail).collect()
    }

    /// How many tokens it has: as the model counted them, and an estimate of what came since.
    pub(super) fn tokens(&self, session: &Session) -> u64 {
        let estimate = |messages: &[Message]| messages.iter().map(tokens).fold(0, u64::saturating_add);
        let counted = self.tail.iter().rposition(|message| {
            message.role == Role::Assistant
                && message.body["usage"]["input"].as_u64().is_some_and(|it| it > 0)
        });
        match counted {
            Some(at) if session.context_tokens > 0 => {
                session.context_tokens.saturating_add(estimate(&self.tail[at + 1..]))
            }
            _ => {
                let summary = self.summary.as_ref().map_or(0, |summary| summary.len() as u64 / 4);
                FIXED + summary + estimate(self.lead.as_slice()) + estimate(&self.tail)
            }
        }
    }

    /// Makes results of tools no longer than that.
    pub(super) fn squeeze(&mut self, longest: usize) {
        for message in self.tail.iter_mut().filter(|message| message.role == Role::ToolResult) {
            for block in message.body["content"].as_array_mut().into_iter().flatten() {
                if let Some(text) = block["text"].as_str().filter(|text| text.len() > longest) {
                    let cut = &text[..text.floor_char_boundary(longest)];
                    block["text"] =
                        format!("{cut}\n[… the rest is left out: there is no room for it …]").into();
                }
            }
        }
    }

    /// Where its end of so many tokens begins: never between a call and its result, never behind the last message.
    pub(super) fn cut(&self, keep: u64) -> usize {
        let mut room = keep;
        let fits = |message: &&Message| {
            let fit = tokens(message) <= room;
            room = room.saturating_sub(tokens(message));
            fit
        };
        let kept = self.tail.iter().rev().take_while(fits).count().max(1);
        let (mut whole, mut open) = (0, Vec::new());
        for (at, message) in self.tail.iter().enumerate().take(self.tail.len().saturating_sub(kept) + 1) {
            let id = &message.body["toolCallId"];
            if message.role != Role::ToolResult {
                if open.is_empty() || message.role == Role::User {
                    (whole, open) = (at, Vec::new());
                }
                open.extend(context::calls(message).map(|call| call["id"].clone()));
            } else if let Some(found) = open.iter().position(|call| call == id) {
                open.remove(found);
            }
        }
        whole
    }
}

/// An estimate.
pub(super) fn tokens(message: &Message) -> u64 {
    message.body.to_string().len() as u64 / 4 + 1 + images::count(message) * images::TOKENS
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn past(tail: Vec<Message>) -> Past {
        Past { cycle: 0, summary: None, lead: None, tail, more: false }
    }

    #[test]
    fn a_call_and_its_results_are_kept_together() {
        let session = Session::new("k", "s".to_owned(), 1);
        let say = |role, text: &str| Message::text(&session, None, role, text, 1);
        let result = |id: &str| {
            let body = json!({ "toolCallId": id, "content": [{ "type": "text", "text": "x".repeat(400) }] });
            Message::new(&session, None, Role::ToolResult, body, 1)
        };
        let calls =
            json!({ "content": [{ "type": "toolCall", "id": "1" }, { "type": "toolCall", "id": "2" }] });
        let calls = Message::new(&session, None, Role::Assistant, calls, 1);
        // A note that somebody put between.
        let tail = vec![
            say(Role::User, "a"),
            say(Role::Assistant, "b"),
            calls,
            result("1"),
            say(Role::Assistant, "note"),
            result("2"),
            say(Role::Assistant, "c"),
            say(Role::User, "d"),
        ];
        let of = |keep| past(tail.clone()).cut(keep);
        assert_eq!((of(0), of(20), of(40)), (7, 7, 6));
        // There is room for a result, but not for its call; and for both.
        assert_eq!((of(150), of(240), of(10_000)), (2, 2, 0));
        // In the middle of a turn the call is kept with what came of it.
        let open = past(tail[..4].to_vec());
        assert_eq!(open.cut(0), 2);
        assert_eq!(past(vec![say(Role::User, "a")]).cut(0), 0);
    }

    #[test]
    fn what_the_model_counted_is_believed_and_the_rest_is_estimated() {
        let mut session = Session::new("k", "s".to_owned(), 1);
        let long = Message::text(&session, None, Role::User, &"x".repeat(4000), 1);
        let answer = json!({ "content": [], "usage": { "input": 5 } });
        let answer = Message::new(&session, None, Role::Assistant, answer, 1);
        let past = past(vec![long.clone(), answer, long]);
        assert!((FIXED + 2000..FIXED + 2100).contains(&past.tokens(&session)));
        session.context_tokens = 50_000;
        assert!((51_000..51_100).contains(&past.tokens(&session)));
    }
}
