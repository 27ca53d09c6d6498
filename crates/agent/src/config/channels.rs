//! `channels`: where people write to the agent from outside.

use super::{Placeholder, is_default};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The section.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Channels {
    /// A bot of Telegram.
    #[serde(skip_serializing_if = "is_default")]
    pub telegram: Option<Telegram>,
    /// An app of Slack in socket mode.
    #[serde(skip_serializing_if = "is_default")]
    pub slack: Option<Slack>,
    /// A bot of Discord.
    #[serde(skip_serializing_if = "is_default")]
    pub discord: Option<Discord>,
    /// Anything that can post JSON, by name.
    #[serde(skip_serializing_if = "is_default")]
    pub webhooks: BTreeMap<String, Webhook>,
}

/// Who may write.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Access {
    /// Of strangers who write to the agent alone.
    pub dm_policy: DmPolicy,
    /// Ids of those who may; `*` is everybody, who then is a stranger still.
    pub allow_from: Vec<String>,
    /// Of groups.
    pub group_policy: GroupPolicy,
    /// The groups that are heard, by their ids; `*` is every one.
    pub groups: BTreeMap<String, Group>,
}

/// What becomes of somebody who is not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DmPolicy {
    /// They are asked to wait until somebody lets them in.
    #[default]
    Pairing,
    /// They are not heard.
    Allowlist,
    /// They are heard, as strangers.
    Open,
    /// Nobody is heard.
    Disabled,
}

/// Which groups are heard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum GroupPolicy {
    /// Those that are named.
    #[default]
    Allowlist,
    /// All.
    Open,
    /// None.
    Disabled,
}

/// A group.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Group {
    /// Only what names the agent is heard.
    pub require_mention: bool,
}

impl Default for Group {
    fn default() -> Self {
        Self { require_mention: true }
    }
}

macro_rules! channel {
    ($(#[$about:meta])* $name:ident { $($(#[$doc:meta])* $field:ident : $of:ty),* }) => {
        $(#[$about])*
        #[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
        #[serde(rename_all = "camelCase", deny_unknown_fields)]
        pub struct $name {
            $($(#[$doc])* pub $field: $of,)*
            /// Where the API is, if not at its usual place.
            #[serde(default, skip_serializing_if = "is_default")]
            pub base_url: Option<String>,
            /// Of strangers who write to the agent alone.
            #[serde(default, skip_serializing_if = "is_default")]
            pub dm_policy: DmPolicy,
            /// Ids of those who may write.
            #[serde(default, skip_serializing_if = "is_default")]
            pub allow_from: Vec<String>,
            /// Of groups.
            #[serde(default, skip_serializing_if = "is_default")]
            pub group_policy: GroupPolicy,
            /// The groups that are heard.
            #[serde(default, skip_serializing_if = "is_default")]
            pub groups: BTreeMap<String, Group>,
        }

        impl $name {
            /// Who may write.
            pub fn access(&self) -> Access {
                Access {
                    dm_policy: self.dm_policy,
                    allow_from: self.allow_from.clone(),
                    group_policy: self.group_policy,
                    groups: self.groups.clone(),
                }
            }
        }
    };
}

channel! {
    /// A bot of Telegram.
    Telegram {
        /// What stands for its token: a secret that is bound to the path, with the format `bot{}`.
        bot_token: Placeholder
    }
}
channel! {
    /// An app of Slack in socket mode.
    Slack {
        /// What stands for its token (`xapp-`), which opens the socket.
        app_token: Placeholder,
        /// What stands for its bot's token (`xoxb-`), which writes.
        bot_token: Placeholder
    }
}
channel! {
    /// A bot of Discord: it is asked for new messages over its REST API, where the warden can put its token. What `groups`
    /// names are channels.
    Discord {
        /// What stands for its token.
        token: Placeholder
    }
}

/// Anything that can post JSON. Who posts is known to the edge by a token of its own.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Webhook {
    /// Where answers are posted; none: they are only in the session.
    #[serde(default, skip_serializing_if = "is_default")]
    pub reply_url: Option<String>,
    /// What stands for the token that is sent there, as `Authorization: Bearer`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub token: Option<Placeholder>,
    /// Ids of senders whose words are the tenant's own; those of all others are a stranger's.
    #[serde(default, skip_serializing_if = "is_default")]
    pub allow_from: Vec<String>,
}

impl Channels {
    /// Is there one of this name, and does it send?
    pub(super) fn has(&self, name: &str) -> bool {
        match name {
            "telegram" => self.telegram.is_some(),
            "slack" => self.slack.is_some(),
            "discord" => self.discord.is_some(),
            _ => {
                let hook = name.strip_prefix("webhook-").and_then(|name| self.webhooks.get(name));
                hook.is_some_and(|hook| hook.reply_url.is_some())
            }
        }
    }

    /// Is each value one that can be used?
    pub(super) fn check(&self) -> Result<(), String> {
        let addresses = [
            ("telegram.baseUrl", self.telegram.as_ref().and_then(|it| it.base_url.as_ref())),
            ("slack.baseUrl", self.slack.as_ref().and_then(|it| it.base_url.as_ref())),
            ("discord.baseUrl", self.discord.as_ref().and_then(|it| it.base_url.as_ref())),
        ];
        let replies = self.webhooks.values().map(|it| ("webhooks.*.replyUrl", it.reply_url.as_ref()));
        for (key, url) in addresses.into_iter().chain(replies) {
            let fits = |url: &String| {
                url.parse::<http::Uri>().is_ok_and(|uri| matches!(uri.scheme_str(), Some("http" | "https")))
            };
            if url.is_some_and(|url| !fits(url)) {
                return Err(format!("channels.{key} is no http or https address"));
            }
        }
        let named = |name: &String| {
            !name.is_empty()
                && name.len() <= 32
                && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
        };
        match self.webhooks.keys().find(|name| !named(name)) {
            Some(name) => {
                Err(format!("channels.webhooks: {name:?} is no name: 1 to 32 letters, digits, - and _"))
            }
            None => Ok(()),
        }
    }
}
