//! Policies: show, set, check.
//!
//! A document that does not parse changes nothing. A new one is durable before the warden gets it, and the
//! answer says whether the warden enforces it. The threat: an operator who believes in a policy that is not
//! the one in force.

use crate::{
    Error,
    api::types::{Policy as Shown, PolicyChecked, PolicySet},
    host::Host,
    warden::InForce,
};
use cofferdam_base::{
    TenantId,
    ipc::{model::Unit, warden::Command},
};
use cofferdam_policy::{Exceeds, Policy, price};
use cofferdam_store::ledger::Kind;
use serde_json::json;
use std::collections::BTreeMap;

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

    /// Keeps a document and puts it in force, if the revision that is kept is the one that is expected.
    pub async fn policy_set(
        &self,
        id: &TenantId,
        text: String,
        expected: Option<u64>,
    ) -> Result<PolicySet, Error> {
        let tenant = self.tenant(id)?;
        let policy = self.compiled(id, &text)?;
        if let Some(exceeds) = policy.exceeding().into_iter().find(|exceeds| exceeds.wholly) {
            let Exceeds { line, rule, ceiling, wholly: _ } = exceeds;
            return Err(Error::Refused {
                code: "policy",
                message: format!(
                    "line {line}, {rule}: the ceiling denies it by {ceiling}; nothing was changed"
                ),
                mend: format!("cofferdam policy check {id} FILE"),
            });
        }
        let offered = policy.document().terms.read_only.iter().flatten();
        if let Some(name) = offered.into_iter().find(|name| !self.facts.offered.contains(name)) {
            return Err(Error::Refused {
                code: "policy",
                message: format!("cofferdam.toml offers no directory {name}; nothing was changed"),
                mend: format!("add it, and start the host anew: [filesystem] {name} = \"/PATH\""),
            });
        }
        let _in_order = tenant.changes.lock().await;
        if let Some(expected) = expected {
            let kept = self.revision(id).await?;
            if kept != expected {
                return Err(Error::Conflict {
                    code: "revision",
                    message: format!("revision {kept} is kept, not {expected}; nothing was changed"),
                    mend: format!("cofferdam policy diff {id} FILE"),
                });
            }
        }
        // Held until the policy is durable: what a cell holds is always what both leave.
        let limits = tenant.limits.lock().await;
        let seen = self.policy_in_store(id).await.map(|it| it.read_only()).unwrap_or_default();
        let mut at_next_start = self.lower(&tenant, *limits, &policy).await?;
        if seen != policy.read_only() && tenant.view().cell.is_some() {
            at_next_start.push("filesystem".to_owned());
        }
        let row = self.row(Some(id), Kind::PolicySet, json!({ "policy": text }));
        let (kept, stored) = (id.clone(), text.clone());
        let added = self.db.run(move |disk| disk.add_policy(&kept, &stored, "operator", &row)).await;
        let revision = match added {
            Ok(revision) => revision,
            Err(error) => {
                self.limit_as_kept(&tenant, *limits).await;
                return Err(error);
            }
        };
        drop(limits);
        let link = tenant.seat.link();
        let configuration = self.configuration(&tenant, text, revision);
        let sent =
            link.as_ref().map_or(Ok(()), |link| link.send(&tenant, &Command::Configure(configuration)));
        // Whether or not the warden hears of it: what the new policy does not say is not granted any more.
        self.withdraw(id, &policy).await;
        sent?;
        let set = |in_force| PolicySet { revision, in_force, at_next_start };
        let Some(link) = link else { return Ok(set(false)) };
        match link.in_force(&tenant, revision).await {
            Ok(()) => Ok(set(true)),
            Err(InForce::Refused(why)) => Err(Error::Warden {
                tenant: id.to_string(),
                what: format!("it refused revision {revision}, the one before is still in force: {why}"),
            }),
            // A warden that is gone enforces nothing; the next one starts with this revision.
            Err(InForce::Lost) => Ok(set(false)),
        }
    }

    /// Parses a document and says what it would mean.
    pub async fn policy_check(&self, id: &TenantId, text: &str) -> Result<PolicyChecked, Error> {
        let tenant = self.tenant(id)?;
        let policy = self.compiled(id, text)?;
        let rules = &policy.document().rules;
        let mut warnings = Vec::new();
        for (at, rule) in rules.iter().enumerate() {
            if let Some(first) = rules.iter().take(at).find(|other| crate::effective::same(rule, other)) {
                warnings.push(format!("line {} says the same as line {}", rule.line, first.line));
            }
        }
        for Exceeds { line, rule, ceiling, wholly } in policy.exceeding() {
            let how = if wholly { "denies it: this cannot be set" } else { "limits it" };
            warnings.push(format!("line {line}, {rule}: the ceiling {how}, by {ceiling}"));
        }
        let now = self.now();
        let gone = rules.iter().filter(|rule| rule.expires.is_some_and(|expires| now >= expires));
        warnings.extend(gone.map(|rule| format!("line {}, {}: it has expired", rule.line, rule.id)));
        warnings.extend(policy.terms_beyond_ceiling());
        warnings.extend(policy.document().terms.above(&*tenant.limits.lock().await));
        warnings.extend(self.doubtful_routes(id, &policy).await?);
        Ok(PolicyChecked { rules: u32::try_from(rules.len()).unwrap_or(u32::MAX), warnings })
    }
}

impl Host {
    /// What a document says of models that cannot be meant, in words.
    async fn doubtful_routes(&self, id: &TenantId, policy: &Policy) -> Result<Vec<String>, Error> {
        let kept = id.clone();
        let known = self.db.run(move |disk| disk.routes(&kept)).await?;
        let named = policy.document().terms.inference.routes.iter().flat_map(BTreeMap::keys);
        let gone = named.filter(|alias| !known.iter().any(|row| row.route.route == **alias));
        let gone = gone.map(|alias| format!("model route {alias}: {id} has none of that name"));
        let unpriced = known.iter().map(|row| &row.route).filter(|route| {
            let limits = policy.route_limits(&route.route).into_iter().chain(policy.budget());
            let money = limits.map(|limit| limit.unit).any(|unit| unit == Unit::Usd);
            policy.serves(&route.route) && money && price::of(route, &self.facts.prices).is_none()
        });
        let unpriced = unpriced.map(|route| {
            format!(
                "model route {}: money is limited, and nobody knows what it costs: it stands still",
                route.route
            )
        });
        Ok(gone.chain(unpriced).collect())
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
    use cofferdam_policy::Verb;

    #[test]
    fn the_first_policy_asks_and_keeps_quiet_about_upstreams_own_look_ups() {
        let policy = Policy::parse(FIRST).unwrap();
        assert_eq!(policy.document().default, cofferdam_policy::Default::Ask);
        assert!(policy.document().rules.iter().all(|rule| rule.silent && rule.verb == Verb::Deny));
        assert!(policy.effective().is_empty());
    }
}
