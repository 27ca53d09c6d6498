//! What is sent in every turn beside the conversation.

use super::context;
use crate::gateway::Gateway;
use std::io;

/// The beginning of a request that a stranger began.
pub(crate) fn for_strangers(gateway: &Gateway) -> io::Result<String> {
    gateway.apart(|| context::of_files(&gateway.workspace, gateway.now(), &["SOUL.md", "IDENTITY.md"], None))
}

/// The beginning of each request: rules, the files of the workspace, and the skills that there are. No link in the
/// workspace leads into the gateway's own state.
pub(crate) fn system(gateway: &Gateway, more: Option<&str>) -> io::Result<String> {
    gateway.apart(|| {
        let skills = gateway.skills().prompt(&gateway.config());
        let more: Vec<&str> = skills.as_deref().into_iter().chain(more).collect();
        let more = Some(more.join("\n\n")).filter(|more| !more.is_empty());
        context::system(&gateway.workspace, gateway.now(), more.as_deref())
    })
}
