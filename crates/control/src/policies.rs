//! Policies: show, set, check, explain, and all that is reachable.
//!
//! A document that does not parse changes nothing. A new one is durable before the warden gets it, and the
//! answer says whether the warden enforces it. The threat: an operator who believes in a policy that is not
//! the one in force.

use crate::{
    Error,
    api::types::{
        Effective, EffectiveRow, ExplainRequest, Explained, Policy as Shown, PolicyChecked, PolicySet,
    },
    host::Host,
    warden::InForce,
};
use cofferdam_base::{TenantId, ipc::warden::Command};
use cofferdam_policy::{Policy, Verb};
use cofferdam_store::ledger::Kind;
use serde_json::json;

/// The first policy of a tenant: everything is asked for, but what upstream looks up unasked.
pub(crate) const FIRST: &str = "\
version: 1
default: ask
rules:
  - deny: clawhub.ai
    silent: true
  - deny: telemetry.openclaw.ai
    silent: true
  - deny: catalog.openclaw.ai
    silent: true
";

impl Host {
    /// The kept document.
    pub async fn policy_show(&self, id: &TenantId) -> Result<Shown, Error> {
        let tenant = self.tenant(id)?;
        let kept = id.clone();
        let policy = self.db.run(move |disk| disk.policy(&kept)).await?;
        Ok(Shown { in_force: tenant.seat.link().and_then(|link| link.revision()), ..policy })
    }

    /// The number of the kept document.
    pub(crate) async fn revision(&self, id: &TenantId) -> Result<u64, Error> {
        let id = id.clone();
        Ok(self.db.run(move |disk| disk.policy(&id)).await?.revision)
    }

    /// Keeps a document and puts it in force.
    pub async fn policy_set(&self, id: &TenantId, text: String) -> Result<PolicySet, Error> {
        let tenant = self.tenant(id)?;
        let policy = Policy::parse(&text).map_err(|error| refused(id, &error))?;
        let _in_order = tenant.changes.lock().await;
        let row = self.row(Some(id), Kind::PolicySet, json!({ "policy": text }));
        let (kept, stored) = (id.clone(), text.clone());
        let revision = self.db.run(move |disk| disk.add_policy(&kept, &stored, "operator", &row)).await?;
        let link = tenant.seat.link();
        let configuration = self.configuration(&tenant, text, revision);
        let sent =
            link.as_ref().map_or(Ok(()), |link| link.send(&tenant, &Command::Configure(configuration)));
        // Whether or not the warden hears of it: what the new policy does not say is not granted any more.
        self.withdraw(id, &policy).await;
        sent?;
        let Some(link) = link else { return Ok(PolicySet { revision, in_force: false }) };
        match link.in_force(&tenant, revision).await {
            Ok(()) => Ok(PolicySet { revision, in_force: true }),
            Err(InForce::Refused(why)) => Err(Error::Warden {
                tenant: id.to_string(),
                what: format!("it refused revision {revision}, the one before is still in force: {why}"),
            }),
            // A warden that is gone enforces nothing; the next one starts with this revision.
            Err(InForce::Lost) => Ok(PolicySet { revision, in_force: false }),
        }
    }

    /// Parses a document and says what it would mean.
    pub fn policy_check(&self, id: &TenantId, text: &str) -> Result<PolicyChecked, Error> {
        self.tenant(id)?;
        let policy = Policy::parse(text).map_err(|error| refused(id, &error))?;
        let rules = &policy.document().rules;
        let mut warnings = Vec::new();
        for (at, rule) in rules.iter().enumerate() {
            let twin = |other: &&cofferdam_policy::Rule| {
                (other.verb, &other.pattern, &other.ports, other.protocol)
                    == (rule.verb, &rule.pattern, &rule.ports, rule.protocol)
            };
            if let Some(first) = rules.iter().take(at).find(twin) {
                warnings.push(format!("line {} says the same as line {}", rule.line, first.line));
            }
        }
        Ok(PolicyChecked { rules: u32::try_from(rules.len()).unwrap_or(u32::MAX), warnings })
    }

    /// What would happen to a connection, and why.
    pub async fn policy_explain(&self, id: &TenantId, request: ExplainRequest) -> Result<Explained, Error> {
        let ExplainRequest { destination, text } = request;
        let text = match text {
            Some(text) => text,
            None => self.policy_show(id).await?.text,
        };
        let policy = Policy::parse(&text).map_err(|error| refused(id, &error))?;
        let explanation = policy.explain(&destination);
        let grant = self.live_grants(id).await.into_iter().find(|grant| grant.destination == destination);
        if let Some(grant) = grant.filter(|_| explanation.verdict == Verb::Ask) {
            return Ok(Explained {
                verdict: Verb::Allow.as_str().to_owned(),
                by: format!("approval {}", grant.id),
                text: format!("{destination}: allow by approval {}\n{explanation}", grant.id),
            });
        }
        Ok(Explained {
            verdict: explanation.verdict.as_str().to_owned(),
            by: policy.decider(explanation.rule),
            text: explanation.to_string(),
        })
    }

    /// All that is reachable now.
    pub async fn policy_effective(&self, id: &TenantId) -> Result<Effective, Error> {
        let kept = self.policy_show(id).await?;
        let policy = Policy::parse(&kept.text).map_err(|error| refused(id, &error))?;
        let allow = || Verb::Allow.as_str().to_owned();
        let mut rows: Vec<EffectiveRow> = policy
            .effective()
            .into_iter()
            .map(|row| {
                let except: Vec<&str> = row.except.iter().map(|except| except.host.as_str()).collect();
                let except = if except.is_empty() {
                    String::new()
                } else {
                    format!(", but not {}", except.join(", "))
                };
                let reason = row.reason.map(|reason| format!(" ({reason})")).unwrap_or_default();
                EffectiveRow {
                    verdict: allow(),
                    destination: format!("{}://{}:{}", row.protocol, row.host, row.port),
                    why: format!("line {}{reason}{except}", row.line),
                    since: kept.at,
                    until: None,
                }
            })
            .collect();
        let query = crate::api::types::ApprovalsQuery { tenant: Some(id.clone()), all: false };
        for approval in self.approvals(&query).await?.into_iter().filter(|a| a.state == "granted") {
            rows.push(EffectiveRow {
                verdict: allow(),
                destination: approval.destination.to_string(),
                why: format!("approval {}", approval.id),
                since: approval.asked,
                until: approval.until,
            });
        }
        let default = match policy.document().default {
            cofferdam_policy::Default::Ask => "ask",
            cofferdam_policy::Default::Deny => "deny",
        };
        Ok(Effective { revision: kept.revision, default: default.to_owned(), rows })
    }
}

/// A policy that is refused, as the caller sees it.
pub(crate) fn refused(id: &TenantId, error: &cofferdam_policy::Error) -> Error {
    Error::Refused {
        code: "policy",
        message: format!("{error}; nothing was changed"),
        mend: format!("cofferdam policy check {id} FILE"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_first_policy_asks_and_keeps_quiet_about_upstreams_own_look_ups() {
        let policy = Policy::parse(FIRST).unwrap();
        assert_eq!(policy.document().default, cofferdam_policy::Default::Ask);
        assert!(policy.document().rules.iter().all(|rule| rule.silent && rule.verb == Verb::Deny));
        assert!(policy.effective().is_empty());
    }
}
