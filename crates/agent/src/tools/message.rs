//! `message`: words to somebody over a channel.
//!
//! Only conversations that are known are written to: those of people and groups that are on a list or were paired, and
//! the one in which the agent was asked. What a stranger wrote to the agent makes it write to nobody new.

use super::{About, Bench, Output, later};
use serde::Deserialize;

pub(super) const TOOLS: [About; 1] = [About {
    name: "message",
    group: "messaging",
    label: "Write to somebody",
    description: "Send a message over a channel to a known conversation.",
    parameters: r#"{"type":"object","properties":{"channel":{"type":"string"},"to":{"type":"string"},"message":{"type":"string"}},"required":["channel","to","message"]}"#,
    parallel: false,
    run: |bench, arguments| later(arguments, async |asked| send(bench, &asked).await),
}];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Send {
    channel: String,
    to: String,
    message: String,
}

async fn send(bench: &Bench<'_>, asked: &Send) -> Output {
    let Send { channel, to, message } = asked;
    let Some(link) = bench.gateway.channels.get(channel) else {
        let known: Vec<String> = bench.gateway.channels.shown().into_iter().map(|(name, _)| name).collect();
        return Output::error(format!("there is no channel {channel:?}; there are: {}", known.join(", ")));
    };
    match link.knows(to) {
        Ok(true) => {}
        Ok(false) => {
            return Output::error(format!("{to} is nobody's conversation that is known on {channel}"));
        }
        Err(error) => return Output::error(error.to_string()),
    }
    match link.say(to, message).await {
        Ok(()) => Output::ok("sent"),
        Err(failed) => Output::error(format!("it was not sent: {failed}")),
    }
}
