//! What a person types that begins with a slash: it is answered by the gateway, and the model is not asked.
//!
//! A command that nobody knows is a message like any other.

use crate::{
    gateway::Gateway,
    store::{Error, Session},
    tools,
    turn::{context, fixed},
};
use std::{fmt::Write as _, sync::Arc};

/// A command.
#[derive(Debug)]
pub(crate) struct Command {
    pub(crate) name: &'static str,
    pub(crate) description: &'static str,
    pub(crate) category: &'static str,
    /// Does it take something behind its name?
    pub(crate) takes: bool,
}

pub(crate) const COMMANDS: [Command; 10] = [
    Command { name: "new", description: "Begin a new conversation", category: "session", takes: false },
    Command { name: "reset", description: "Begin a new conversation", category: "session", takes: false },
    Command { name: "stop", description: "Stop what runs and what waits", category: "session", takes: false },
    Command {
        name: "status",
        description: "Show the session and what it uses",
        category: "status",
        takes: false,
    },
    Command {
        name: "usage",
        description: "Show how many tokens were used",
        category: "status",
        takes: false,
    },
    Command { name: "model", description: "Show or choose the model", category: "options", takes: true },
    Command {
        name: "think",
        description: "Choose how much the model thinks",
        category: "options",
        takes: true,
    },
    Command {
        name: "mcp",
        description: "Show the MCP servers and what waits for a person",
        category: "management",
        takes: false,
    },
    Command { name: "approve", description: "Answer an approval", category: "management", takes: true },
    Command { name: "help", description: "List the commands", category: "status", takes: false },
];
/// Known to upstream and not built here: nobody shall believe that they were heeded.
const NOT_BUILT: [&str; 1] = ["compact"];
/// How much a model may think.
pub(crate) const LEVELS: [&str; 5] = ["off", "minimal", "low", "medium", "high"];

/// Is it the name of a command of the gateway's own?
pub(crate) fn is_taken(name: &str) -> bool {
    NOT_BUILT.contains(&name) || COMMANDS.iter().any(|command| command.name == name)
}

/// What a command answers; none if the text is none.
pub(crate) fn answer(gateway: &Arc<Gateway>, key: &str, text: &str) -> Option<Result<String, Error>> {
    let (name, rest) = match text.trim().strip_prefix('/')?.split_once(char::is_whitespace) {
        Some((name, rest)) => (name, rest.trim()),
        None => (text.trim().strip_prefix('/')?, ""),
    };
    if NOT_BUILT.contains(&name) {
        return Some(Ok(format!("/{name} is not built in this gateway yet.")));
    }
    COMMANDS.iter().find(|command| command.name == name)?;
    Some(run(gateway, key, name, rest))
}

fn run(gateway: &Arc<Gateway>, key: &str, name: &str, rest: &str) -> Result<String, Error> {
    let session = gateway.session(key)?;
    Ok(match name {
        "new" | "reset" => {
            gateway.reset(key)?;
            "A new conversation begins.".to_owned()
        }
        "stop" => match gateway.abort(key, None).len() {
            0 => "Nothing runs.".to_owned(),
            count => format!("Stopped: {count}."),
        },
        "status" => status(gateway, &session),
        "usage" => used(&session),
        "mcp" => gateway.mcp.told(gateway),
        "model" if rest.is_empty() => {
            format!("The model is {}.", gateway.model_of(&session))
        }
        "model" => {
            let model = (rest != "default").then(|| rest.to_owned());
            gateway.store.put_session(&Session { model, ..session })?;
            format!("The model is {rest} from now on.")
        }
        // Who may is known only where a client's own words come in.
        "approve" => {
            "Approvals are answered by chat.send of a client that has operator.approvals.".to_owned()
        }
        "think" if LEVELS.contains(&rest) => {
            let thinking = Some(rest.to_owned());
            gateway.store.put_session(&Session { thinking, ..session })?;
            format!("Thinking is {rest} from now on.")
        }
        "think" => format!("Say how much: /think {}.", LEVELS.join("|")),
        _ => {
            let mut text = String::new();
            for Command { name, description, .. } in &COMMANDS {
                let _ = writeln!(text, "/{name}: {description}");
            }
            text
        }
    })
}

fn used(session: &Session) -> String {
    let Session { input_tokens, output_tokens, .. } = session;
    format!("Tokens of this session: {input_tokens} in, {output_tokens} out.")
}

fn status(gateway: &Gateway, session: &Session) -> String {
    let model = &gateway.model_of(session);
    // Without its files it is shorter, and what keeps them from being read is said where a run needs them.
    let system = fixed::system(gateway, None).unwrap_or_default();
    let fixed = context::request(model, &system, &[], None, tools::offered(gateway, &session.id)).len();
    let runs = if gateway.running(&session.key).is_some() { "something runs" } else { "nothing runs" };
    format!(
        "cofferdam {version}, session {key}: {runs}.\nModel {model}, thinking {thinking}; {context} tokens in the last \
         request.\n{used}\nSent in every turn beside the conversation: {fixed} bytes.",
        version = env!("CARGO_PKG_VERSION"),
        key = session.key,
        thinking = gateway.thinking_of(session).unwrap_or_else(|| "off".to_owned()),
        context = session.context_tokens,
        used = used(session),
    )
}
