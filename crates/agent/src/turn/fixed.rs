//! What is sent in every turn beside the conversation.

use super::context;
use crate::gateway::Gateway;

/// The beginning of each request: rules, the files of the workspace, and the skills that there are.
pub(crate) fn system(gateway: &Gateway, more: Option<&str>) -> String {
    let skills = gateway.skills().prompt(&gateway.config());
    let more: Vec<&str> = skills.as_deref().into_iter().chain(more).collect();
    let more = Some(more.join("\n\n")).filter(|more| !more.is_empty());
    context::system(&gateway.workspace, gateway.now(), more.as_deref())
}
