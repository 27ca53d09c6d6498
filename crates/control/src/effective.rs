//! What a policy comes to: what would happen to one connection, and all that is reachable now.
//!
//! Both ask the guard as the warden does: what it refuses is not reachable, whatever a rule says. The threat:
//! a list that an operator reads as the truth and that leaves something out, or shows what never was.

use crate::{
    Error,
    api::types::{
        Effective, EffectiveRow, ExplainRequest, Explained, ExplainedRequest, ModelRoute, Upstream,
    },
    drafts::{UNUSED, words},
    host::Host,
};
use cofferdam_base::{Destination, Millis, TenantId};
use cofferdam_policy::{
    Explanation, Guard, Judgement, Pattern, Policy, Reachable, Refusal, Rule, Verb, Verdict,
};

/// The model's address within a cell.
const INFERENCE: &str = "http://inference.local:80";

impl Host {
    /// What would happen to a connection, and why.
    pub async fn policy_explain(&self, id: &TenantId, request: ExplainRequest) -> Result<Explained, Error> {
        let ExplainRequest { destination, text, request } = request;
        let text = match text {
            Some(text) => text,
            None => self.policy_show(id).await?.text,
        };
        let policy = self.compiled(id, &text)?;
        let (verdict, explanation, why) = asked(&policy, &destination, request.as_ref());
        if let Err(refusal) = self.guard()?.check_host(&destination.host)
            && verdict.verb() != Verb::Deny
        {
            return Ok(Explained {
                verdict: Verb::Deny.as_str().to_owned(),
                by: guarded(refusal),
                text: format!("{destination}: deny by the {}\n{explanation}", guarded(refusal)),
            });
        }
        let grant = self.live_grants(id).await.into_iter().find(|grant| grant.destination == destination);
        if let Some(grant) = grant.filter(|_| matches!(verdict, Verdict::Ask { .. })) {
            return Ok(Explained {
                verdict: Verb::Allow.as_str().to_owned(),
                by: format!("approval {}", grant.id),
                text: format!("{destination}: allow by approval {}\n{explanation}", grant.id),
            });
        }
        Ok(Explained {
            verdict: name(verdict).to_owned(),
            by: policy.decider(verdict.rule()),
            text: format!(
                "{destination}: {} by {}{why}\n{explanation}",
                name(verdict),
                policy.decider(verdict.rule())
            ),
        })
    }

    /// All that is reachable now, and what a rule names that is not.
    pub async fn policy_effective(&self, id: &TenantId) -> Result<Effective, Error> {
        let kept = self.policy_show(id).await?;
        let policy = self.compiled(id, &kept.text)?;
        let used = self.last_used(id).await?;
        let now = self.now();
        let guard = self.guard()?;
        let since = self.since(id, &policy).await?;
        let mut rows = Vec::new();
        let above = policy.exceeding();
        for reachable in policy.effective() {
            let rule = policy.rule(reachable.rule);
            let at = since.iter().find(|(known, _)| *known == reachable.rule).map_or(kept.at, |(_, at)| *at);
            let outcome = rule.map_or(Ok(()), |rule| check(&guard, rule));
            let mut row = rule_row(&reachable, outcome, at);
            if let Some(exceeds) = above.iter().find(|it| it.rule == reachable.rule) {
                row.verdict = if exceeds.wholly { Verb::Deny.as_str().to_owned() } else { row.verdict };
                row.why = format!("{}, but the ceiling says {}", row.why, exceeds.ceiling);
            }
            row.until = rule.and_then(|rule| rule.expires);
            row.used = rule.and_then(|rule| used.get(words(&rule.to_string())).copied());
            row.unused = now.since(at) >= UNUSED && row.used.is_none_or(|used| now.since(used) >= UNUSED);
            rows.push(row);
        }
        for approval in self.granted(id).await {
            let outcome = guard.check_host(&approval.destination.host);
            let (verdict, but) = verdict(outcome);
            rows.push(EffectiveRow {
                verdict,
                destination: approval.destination.to_string(),
                why: format!("approval {}{but}", approval.id),
                since: approval.answered.unwrap_or(approval.asked),
                until: approval.state.deadline(),
                used: used.get(&format!("grant {}", approval.id)).copied(),
                unused: false,
            });
        }
        let kept_for = id.clone();
        let routes = self.db.run(move |disk| disk.routes(&kept_for)).await?;
        rows.extend(routes.iter().map(|row| model_row(&policy, &row.route, row.at)));
        let default = match policy.document().default {
            cofferdam_policy::Default::Ask => "ask",
            cofferdam_policy::Default::Deny => "deny",
        };
        let terms = policy.terms_in_words();
        Ok(Effective { revision: kept.revision, default: default.to_owned(), terms, rows })
    }

    /// The guard as every warden has it.
    fn guard(&self) -> Result<Guard, Error> {
        let facts = &self.facts.wardens;
        let private = facts.operator_private.iter().map(|network| network.parse());
        let private = private.collect::<Result<_, _>>();
        let operator_private =
            private.map_err(|error: cofferdam_policy::Error| Error::Config(error.to_string()))?;
        Ok(Guard { operator_private, host_addresses: facts.host_addresses.clone() })
    }

    /// Since when each rule of this policy is there without a break: when the first revision with the same
    /// rule was set, wherever it stood in it.
    async fn since(
        &self,
        id: &TenantId,
        policy: &Policy,
    ) -> Result<Vec<(cofferdam_policy::RuleId, Millis)>, Error> {
        let mut open: Vec<&Rule> = policy.document().rules.iter().collect();
        let mut since: Vec<_> = Vec::new();
        let mut below = u64::MAX;
        while !open.is_empty() {
            let kept = id.clone();
            let page = self.db.run(move |disk| disk.policies(&kept, below)).await?;
            let Some(last) = page.last() else { break };
            below = last.revision;
            for revision in page {
                // A revision of another program may not parse: then nothing is known of before.
                let Ok(older) = Policy::parse(&revision.text) else { return Ok(since) };
                open.retain(|rule| older.document().rules.iter().any(|other| same(rule, other)));
                for rule in &open {
                    since.retain(|(known, _)| *known != rule.id);
                    since.push((rule.id, revision.at));
                }
            }
        }
        Ok(since)
    }
}

/// Do two rules say the same?
pub(crate) fn same(one: &Rule, other: &Rule) -> bool {
    let of = |rule: &Rule| {
        (rule.verb, rule.pattern.clone(), rule.ports.clone(), rule.protocol, rule.request.clone())
    };
    of(one) == of(other)
}

/// The guard's word on what a rule names; of a wildcard, on what all its names end with.
fn check(guard: &Guard, rule: &Rule) -> Result<(), Refusal> {
    match &rule.pattern {
        Pattern::Exact(host) => guard.check_host(host),
        Pattern::Wildcard(base) => guard.check_name(base),
    }
}

/// What is said of a connection or a request, how each rule came to it, and what is ambiguous.
fn asked(
    policy: &Policy,
    destination: &Destination,
    request: Option<&ExplainedRequest>,
) -> (Verdict, Explanation, String) {
    let Some(request) = request else {
        return (policy.verdict(destination), policy.explain(destination), String::new());
    };
    let facts = request.facts(destination);
    let (explanation, _) = policy.explain_request(&facts);
    match policy.judge(&facts) {
        Judgement::Clear(verdict) => (verdict, explanation, String::new()),
        Judgement::Unclear { reason, rule } => {
            let verdict = Verdict::Deny { rule: Some(rule), silent: false };
            (verdict, explanation, format!(": {}", reason.text()))
        }
    }
}

const fn name(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Inspect { .. } => "inspect",
        verdict => verdict.verb().as_str(),
    }
}

fn verdict(outcome: Result<(), Refusal>) -> (String, String) {
    match outcome {
        Ok(()) => (Verb::Allow.as_str().to_owned(), String::new()),
        Err(refusal) => {
            (Verb::Deny.as_str().to_owned(), format!(", but refused by the {}", guarded(refusal)))
        }
    }
}

fn guarded(refusal: Refusal) -> String {
    format!("guard ({}): {refusal}", refusal.code.code())
}

fn rule_row(row: &Reachable, outcome: Result<(), Refusal>, since: Millis) -> EffectiveRow {
    let except: Vec<&str> = row.except.iter().map(|except| except.host.as_str()).collect();
    let except = if except.is_empty() { String::new() } else { format!(", but not {}", except.join(", ")) };
    let reason = row.reason.as_ref().map(|reason| format!(" ({reason})")).unwrap_or_default();
    let (verdict, but) = verdict(outcome);
    let requests = row.requests.as_ref().map(|requests| format!(" {requests}")).unwrap_or_default();
    EffectiveRow {
        verdict,
        destination: format!("{}://{}:{}{requests}", row.protocol, row.host, row.port),
        why: format!("line {}{reason}{except}{but}", row.line),
        since,
        until: None,
        used: None,
        unused: false,
    }
}

fn model_row(policy: &Policy, route: &ModelRoute, since: Millis) -> EffectiveRow {
    let ModelRoute { route, upstream, model, .. } = route;
    let (verb, but) = if policy.serves(route) {
        (Verb::Allow, "")
    } else {
        (Verb::Deny, ", but the policy does not name it")
    };
    let provider = match upstream {
        Upstream::Url(url) => url.as_str(),
        Upstream::Builtin => "the built-in model",
    };
    EffectiveRow {
        verdict: verb.as_str().to_owned(),
        destination: INFERENCE.to_owned(),
        why: format!("model route {route}: {model} at {provider}{but}"),
        since,
        until: None,
        used: None,
        unused: false,
    }
}
