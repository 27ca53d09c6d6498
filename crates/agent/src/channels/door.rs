//! Who may write to the agent over a channel, and as whom.
//!
//! Those who are on a list, or whom somebody paired, are the tenant's own people. Whoever else is let in is a stranger:
//! what they say is marked, and a slash at its beginning means nothing. The threat is a stranger who becomes one of ours
//! by what they say, by a name that they chose, or by asking often.

use super::{Failed, Link, pay};
use crate::{
    config::{Access, DmPolicy, Group, GroupPolicy},
    ids::uuid,
    protocol::params::Queue,
    store::{PairingRequest, Reply},
    text::untrusted,
    turn::Wish,
};
use std::fmt::Write as _;

/// How many may wait to be paired over one channel, and how long, in milliseconds.
pub(crate) const PENDING: u32 = 3;
pub(crate) const TTL_MS: u64 = 60 * 60 * 1000;
/// The longest message, in characters.
const LONGEST: usize = 16_000;

/// A message as a service brought it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Inbound {
    /// The service's own id of it: the same message is taken once.
    pub(crate) id: String,
    /// Where answers go.
    pub(crate) chat: String,
    /// Is it one of several people?
    pub(crate) group: bool,
    /// The service's own id of who wrote: a name is anybody's to choose.
    pub(crate) sender: String,
    /// As they call themselves.
    pub(crate) name: String,
    pub(crate) text: String,
    /// Is the agent named in it?
    pub(crate) mentioned: bool,
}

/// What becomes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Ours,
    Stranger,
    MayAsk,
    Unheard,
}

fn judge(access: &Access, inbound: &Inbound, paired: bool) -> Verdict {
    let listed = |id: &str| access.allow_from.iter().any(|it| it == id);
    // `*` is everybody, and nobody's id.
    let ours = inbound.sender != "*" && (listed(&inbound.sender) || paired);
    if !inbound.group {
        return match access.dm_policy {
            DmPolicy::Disabled => Verdict::Unheard,
            _ if ours => Verdict::Ours,
            DmPolicy::Pairing => Verdict::MayAsk,
            DmPolicy::Open if listed("*") => Verdict::Stranger,
            DmPolicy::Open | DmPolicy::Allowlist => Verdict::Unheard,
        };
    }
    let named = access.groups.get(&inbound.chat).or_else(|| access.groups.get("*"));
    let group = match access.group_policy {
        GroupPolicy::Disabled => None,
        GroupPolicy::Allowlist => named.cloned(),
        GroupPolicy::Open => Some(named.cloned().unwrap_or_default()),
    };
    match group {
        Some(Group { require_mention }) if inbound.mentioned || !require_mention => {
            if ours {
                Verdict::Ours
            } else {
                Verdict::Stranger
            }
        }
        _ => Verdict::Unheard,
    }
}

/// Would this sender be heard there as one of ours, in a group as who names the agent?
pub(super) fn is_ours(access: &Access, paired: bool, chat: &str, group: bool, sender: &str) -> bool {
    let inbound = Inbound {
        id: String::new(),
        chat: chat.to_owned(),
        group,
        sender: sender.to_owned(),
        name: String::new(),
        text: String::new(),
        mentioned: true,
    };
    judge(access, &inbound, paired) == Verdict::Ours
}

/// Takes a message. When this returns it is on disk, or is none that is heard.
pub(crate) async fn take(link: &Link, inbound: &Inbound) -> Result<(), Failed> {
    let Link { gateway, channel, state } = link;
    state.known().last_inbound = Some(gateway.now());
    let name = channel.name();
    let paired = gateway.store.is_paired(name, &inbound.sender)?;
    let verdict = judge(&channel.access(), inbound, paired);
    match verdict {
        Verdict::Unheard => Ok(()),
        Verdict::MayAsk => may_ask(link, inbound).await,
        Verdict::Ours | Verdict::Stranger => begin(link, inbound, verdict),
    }
}

fn begin(link: &Link, inbound: &Inbound, verdict: Verdict) -> Result<(), Failed> {
    let Link { gateway, channel, .. } = link;
    let Inbound { id, chat, group, sender, name, text, mentioned: _ } = inbound;
    let text: String = text.chars().take(LONGEST).collect();
    if text.trim().is_empty() {
        return Ok(());
    }
    let ours = verdict == Verdict::Ours;
    let name: String = name.chars().filter(|c| !c.is_control()).take(80).collect();
    let shown = match (ours, group) {
        (true, false) => text,
        (true, true) => format!("[{name} ({sender})] {text}"),
        (false, _) => {
            untrusted(&format!("a message over {} from the stranger {sender}", channel.name()), &text)
        }
    };
    let key = key_of(channel.name(), *group, if *group { chat } else { sender });
    let run = format!("{}:{id}", channel.name());
    let wish = Wish { plain: !ours || *group, stranger: !ours, ..Wish::default() };
    let reply = Reply { run: run.clone(), channel: channel.name().to_owned(), chat: chat.clone() };
    if gateway.run(&run)?.is_some() {
        // It came twice: whoever sends its answer is there.
        return Ok(());
    }
    if ours {
        gateway.store.wrote_from(channel.name(), chat, sender, *group)?;
    }
    // Owed before it is taken: an answer that nobody waits for is found by the next start.
    gateway.store.owe(&reply, gateway.now())?;
    match gateway.send(&key, &run, &shown, Queue::Followup, wish) {
        Ok(_) => pay(link.clone(), reply),
        Err(fault) => {
            // One conversation that is full is no reason to keep all others waiting.
            tracing::warn!(channel = channel.name(), why = fault.message, "a message is not taken");
            gateway.store.paid(&run)?;
            // A stranger could make it write without end.
            if ours {
                link.refuse(chat, &fault.message);
            }
        }
    }
    Ok(())
}

/// The session of a conversation: one for each person, and one for each group.
fn key_of(channel: &str, group: bool, id: &str) -> String {
    let kind = if group { "group" } else { "direct" };
    // No two ids are one key.
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.@+".contains(&byte);
    let id = id.bytes().fold(String::new(), |mut key, byte| {
        if plain(byte) {
            key.push(char::from(byte));
        } else {
            // Writing to a text does not fail.
            let _ = write!(key, "%{byte:02x}");
        }
        key
    });
    format!("agent:main:{channel}:{kind}:{id}")
}

async fn may_ask(link: &Link, inbound: &Inbound) -> Result<(), Failed> {
    let Link { gateway, channel, .. } = link;
    let now = gateway.now();
    let name: String = inbound.name.chars().filter(|c| !c.is_control()).take(80).collect();
    let wanted = PairingRequest {
        id: uuid()[..8].to_ascii_uppercase(),
        channel: channel.name().to_owned(),
        sender: inbound.sender.clone(),
        name,
        chat: inbound.chat.clone(),
        created: String::new(),
        seen: String::new(),
        expires: String::new(),
    };
    let known = gateway.store.wants(&wanted, now, now.saturating_sub(TTL_MS), PENDING)?;
    // Told once: whoever asks again, or one too many, hears nothing.
    let Some((id, true)) = known else { return Ok(()) };
    let text = format!(
        "This agent does not know you yet. Its owner can let you in with the code {id} (your id is {}).",
        inbound.sender
    );
    link.say(&inbound.chat, &text).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_becomes_one_of_ours_by_an_id_that_means_everybody_or_looks_like_anothers() {
        let access = Access {
            dm_policy: DmPolicy::Open,
            allow_from: vec!["*".to_owned(), "ann".to_owned()],
            ..Access::default()
        };
        let from = |sender: &str| Inbound {
            id: String::new(),
            chat: "c".to_owned(),
            group: false,
            sender: sender.to_owned(),
            name: String::new(),
            text: "hi".to_owned(),
            mentioned: false,
        };
        for (sender, verdict) in [
            ("ann", Verdict::Ours),
            ("*", Verdict::Stranger),
            ("ann ", Verdict::Stranger),
            ("", Verdict::Stranger),
        ] {
            assert_eq!(judge(&access, &from(sender), false), verdict, "{sender}");
        }
        let keys = ["alice", "alice!", "алиса", "иван", "a%21"].map(|id| key_of("x", false, id));
        assert!((1..keys.len()).all(|at| !keys[..at].contains(&keys[at])), "{keys:?}");
    }
}
