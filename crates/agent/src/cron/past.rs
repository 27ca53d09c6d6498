//! For how long what turns of their own leave behind is kept, those of jobs and those of hooks.
//!
//! The threat is state that grows by itself: each run of a job begins a transcript, and a hook a session.

use crate::{gateway::Gateway, store::Error};

/// How long the session of a hook that has one for itself is kept, in milliseconds. Source: upstream's own default.
const HOOK: u64 = 30 * 86_400_000;

/// Forgets what the session of this key was before, and the sessions that nobody uses any more. What cannot be forgotten
/// now is tried again when the next one begins.
pub(crate) fn forget(gateway: &Gateway, key: &str) {
    if let Err(error) = try_to_forget(gateway, key) {
        tracing::warn!(%error, key, "what is past is kept longer");
    }
}

fn try_to_forget(gateway: &Gateway, key: &str) -> Result<(), Error> {
    let Some(kept) = gateway.config().cron.session_retention.ms() else { return Ok(()) };
    let now = gateway.now();
    let before = now.saturating_sub(kept);
    gateway.store.forget_past(key, before)?;
    for key in gateway.store.left_behind(before, now.saturating_sub(HOOK.max(kept)))? {
        if gateway.running(&key).is_none() && gateway.store.remove_session(&key)? {
            gateway.sessions_changed(&key, "delete");
        }
    }
    Ok(())
}
