//! The methods that are served, and the scope that each wants.

use cofferdam_base::Scope;
use std::collections::BTreeSet;

/// Method and scope, sorted by name. What is not here is answered `unknown method`.
pub const METHODS: &[(&str, Scope)] = &[
    ("agent", Scope::Write),
    ("agent.identity.get", Scope::Read),
    ("agent.wait", Scope::Write),
    ("agents.files.get", Scope::Read),
    ("agents.files.list", Scope::Read),
    ("agents.files.set", Scope::Admin),
    ("agents.list", Scope::Read),
    ("channels.pairing.approve", Scope::Admin),
    ("channels.pairing.dismiss", Scope::Admin),
    ("channels.pairing.list", Scope::Pairing),
    ("channels.status", Scope::Read),
    ("chat.abort", Scope::Write),
    ("chat.history", Scope::Read),
    ("chat.inject", Scope::Admin),
    ("chat.send", Scope::Write),
    ("chat.startup", Scope::Read),
    ("commands.list", Scope::Read),
    ("config.apply", Scope::Admin),
    ("config.get", Scope::Read),
    ("config.patch", Scope::Admin),
    ("config.schema", Scope::Read),
    ("config.schema.lookup", Scope::Read),
    ("config.set", Scope::Admin),
    ("cron.add", Scope::Admin),
    ("cron.get", Scope::Read),
    ("cron.list", Scope::Read),
    ("cron.remove", Scope::Admin),
    ("cron.run", Scope::Admin),
    ("cron.runs", Scope::Read),
    ("cron.status", Scope::Read),
    ("cron.update", Scope::Admin),
    ("device.pair.approve", Scope::Pairing),
    ("device.pair.list", Scope::Pairing),
    ("device.pair.reject", Scope::Pairing),
    ("device.pair.remove", Scope::Pairing),
    ("device.token.revoke", Scope::Pairing),
    ("device.token.rotate", Scope::Pairing),
    ("exec.approval.get", Scope::Approvals),
    ("exec.approval.list", Scope::Approvals),
    ("exec.approval.request", Scope::Approvals),
    ("exec.approval.resolve", Scope::Approvals),
    ("exec.approval.waitDecision", Scope::Approvals),
    ("exec.approvals.get", Scope::Admin),
    ("exec.approvals.set", Scope::Admin),
    ("health", Scope::Read),
    ("last-heartbeat", Scope::Read),
    ("logs.tail", Scope::Read),
    ("models.list", Scope::Read),
    ("node.list", Scope::Read),
    ("plugin.approval.list", Scope::Approvals),
    ("plugin.approval.request", Scope::Approvals),
    ("plugin.approval.resolve", Scope::Approvals),
    ("plugin.approval.waitDecision", Scope::Approvals),
    ("question.get", Scope::Questions),
    ("question.list", Scope::Questions),
    ("question.request", Scope::Questions),
    ("question.resolve", Scope::Questions),
    ("question.waitAnswer", Scope::Questions),
    ("sessions.abort", Scope::Write),
    ("sessions.compact", Scope::Admin),
    ("sessions.create", Scope::Write),
    // And admin for what is not put away yet.
    ("sessions.delete", Scope::Write),
    ("sessions.describe", Scope::Read),
    ("sessions.list", Scope::Read),
    ("sessions.messages.subscribe", Scope::Read),
    ("sessions.messages.unsubscribe", Scope::Read),
    ("sessions.patch", Scope::Write),
    ("sessions.reset", Scope::Admin),
    ("sessions.send", Scope::Write),
    ("sessions.subscribe", Scope::Read),
    ("sessions.unsubscribe", Scope::Read),
    ("sessions.usage", Scope::Read),
    ("set-heartbeats", Scope::Admin),
    ("skills.status", Scope::Read),
    ("skills.update", Scope::Admin),
    ("status", Scope::Read),
    ("system-presence", Scope::Read),
    ("taskSuggestions.list", Scope::Read),
    ("tools.catalog", Scope::Read),
    ("tools.invoke", Scope::Write),
    ("usage.cost", Scope::Read),
    ("usage.status", Scope::Read),
    ("wake", Scope::Write),
];

/// The events that are sent.
pub const EVENTS: &[&str] = &[
    "agent",
    "chat",
    "connect.challenge",
    "cron",
    "device.pair.requested",
    "device.pair.resolved",
    "exec.approval.removed",
    "exec.approval.requested",
    "exec.approval.resolved",
    "heartbeat",
    "plugin.approval.removed",
    "plugin.approval.requested",
    "plugin.approval.resolved",
    "presence",
    "question.requested",
    "question.resolved",
    "session.message",
    "session.operation",
    "sessions.changed",
    "tick",
];

/// The scope that a method wants; none: there is no such method.
pub fn scope(method: &str) -> Option<Scope> {
    METHODS.binary_search_by_key(&method, |row| row.0).ok().map(|at| METHODS[at].1)
}

/// Do these scopes allow what wants that one?
pub fn allows(held: &BTreeSet<Scope>, wanted: Scope) -> bool {
    held.contains(&wanted)
        || held.contains(&Scope::Admin)
        || (matches!(wanted, Scope::Read | Scope::Talk) && held.contains(&Scope::Write))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_scopes_include_each_other() {
        assert!(METHODS.is_sorted_by(|a, b| a.0 < b.0));
        assert_eq!((scope("health"), scope("wizard.start")), (Some(Scope::Read), None));
        let held = |scopes: &[Scope]| scopes.iter().copied().collect::<BTreeSet<_>>();
        assert!(allows(&held(&[Scope::Write]), Scope::Read));
        assert!(allows(&held(&[Scope::Admin]), Scope::Approvals));
        assert!(!allows(&held(&[Scope::Read, Scope::Approvals]), Scope::Write));
    }
}
