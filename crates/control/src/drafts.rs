//! Policies that are not in force: compared with the one that is, and replayed against what was decided.
//!
//! It changes nothing. The threat: an operator who puts a draft in force believing that it changes less than it
//! does. The ledger tells destinations, and of requests names and no values, so what depends on more of them is shown
//! as `unknown`, what depends on requests that nobody saw as `inspect`, and both are counted, never taken as the same.

use crate::{
    Error,
    api::types::{ExplainedRequest, LedgerRow, PolicyDiff, SimulateRequest, Simulated, SimulatedChange},
    host::Host,
    policies::refused,
};
use cofferdam_base::{Destination, Millis, TenantId, ipc::seen::Seen};
use cofferdam_policy::{
    Body, Judgement, LONGEST_METHOD, Policy, Reachable, RequestFacts, RuleId, Verb, Verdict,
};
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

const DAY: u64 = 24 * 60 * 60 * 1000;
/// What was not used for so long is flagged.
pub(crate) const UNUSED: u64 = 30 * DAY;
/// The days of the ledger that can be replayed.
const DAYS: u32 = 366;

impl Host {
    /// A policy as wardens have it: now, and under the ceiling.
    pub(crate) fn compiled(&self, id: &TenantId, text: &str) -> Result<Policy, Error> {
        let policy = Policy::parse(text).map_err(|error| refused(id, &error))?;
        let ceiling = self.facts.wardens.ceiling.as_deref().map(Policy::ceiling).transpose();
        let ceiling =
            ceiling.map_err(|error| Error::Config(format!("[ceiling] in cofferdam.toml: {error}")))?;
        Ok(policy.under(ceiling.map(Arc::new)).at(self.now()))
    }

    /// The policy that is kept, likewise.
    pub(crate) async fn policy_in_store(&self, id: &TenantId) -> Result<Policy, Error> {
        let kept = id.clone();
        let policy = self.db.run(move |disk| disk.policy(&kept)).await?;
        self.compiled(id, &policy.text)
    }

    /// What a draft changes.
    pub async fn policy_diff(&self, id: &TenantId, text: &str) -> Result<PolicyDiff, Error> {
        let kept = self.policy_show(id).await?;
        let diff = self.compiled(id, &kept.text)?.diff(&self.compiled(id, text)?);
        let shown = |all: Vec<Reachable>| all.iter().map(reachable).collect();
        let name = |default| match default {
            cofferdam_policy::Default::Ask => "ask".to_owned(),
            cofferdam_policy::Default::Deny => "deny".to_owned(),
        };
        Ok(PolicyDiff {
            revision: kept.revision,
            opened: shown(diff.opened),
            closed: shown(diff.closed),
            added: diff.added,
            removed: diff.removed,
            default: diff.default.map(|(before, now)| (name(before), name(now))),
        })
    }

    /// What a draft would have decided otherwise.
    pub async fn policy_simulate(&self, id: &TenantId, request: SimulateRequest) -> Result<Simulated, Error> {
        let SimulateRequest { text, days } = request;
        self.tenant(id)?;
        if days == 0 || days > DAYS {
            return Err(Error::Usage(format!("days is 1 to {DAYS}")));
        }
        let draft = self.compiled(id, &text)?;
        let since = Millis(self.now().0.saturating_sub(u64::from(days) * DAY));
        let (mut replayed, mut unknown) = (0, 0);
        let mut changes: BTreeMap<(String, String, String), SimulatedChange> = BTreeMap::new();
        self.decisions(id, since, |row, decision| {
            replayed += decision.count;
            let (becomes, rule) = decision.under(&draft);
            if matches!(becomes, INSPECT | UNKNOWN) {
                unknown += decision.count;
            }
            if becomes != decision.was {
                let destination = decision.destination.to_string();
                let key = (destination.clone(), decision.request.clone(), decision.was.to_owned());
                let change = changes.entry(key).or_insert_with(|| SimulatedChange {
                    destination,
                    request: decision.request.clone(),
                    was: decision.was.to_owned(),
                    becomes: becomes.to_owned(),
                    by: draft.decider(rule),
                    count: 0,
                    last: row.at,
                });
                change.count += decision.count;
                change.last = change.last.max(row.at);
            }
        })
        .await?;
        Ok(Simulated { replayed, unknown, since, changes: changes.into_values().collect() })
    }

    /// When something was last allowed by each rule, grant or route, in the words of records.
    pub(crate) async fn last_used(&self, id: &TenantId) -> Result<HashMap<String, Millis>, Error> {
        let mut used = HashMap::new();
        let since = Millis(self.now().0.saturating_sub(u64::from(DAYS) * DAY));
        self.decisions(id, since, |row, decision| {
            if decision.was == Verb::Allow.as_str() {
                let at: &mut Millis = used.entry(words(&decision.by).to_owned()).or_default();
                *at = row.at.max(*at);
            }
        })
        .await?;
        Ok(used)
    }

    /// Every decision about this tenant's connections and requests since then.
    async fn decisions(
        &self,
        id: &TenantId,
        since: Millis,
        mut each: impl FnMut(&LedgerRow, &Decision) + Send,
    ) -> Result<(), Error> {
        let mut seq = 0;
        loop {
            let (rows, through) = self.ledger_after(seq, Some(id.clone())).await?;
            for row in rows.iter().filter(|row| row.at >= since) {
                if let Some(decision) = Decision::of(row) {
                    each(row, &decision);
                }
            }
            if through <= seq {
                return Ok(());
            }
            seq = through;
        }
    }
}

/// One decision that the ledger tells.
struct Decision {
    destination: Destination,
    request: String,
    seen: Option<Seen>,
    was: &'static str,
    by: String,
    count: u64,
}

impl Decision {
    /// None, if the row tells of something else, or of a denial that no policy decides.
    fn of(row: &LedgerRow) -> Option<Self> {
        let text = |key: &str| row.body[key].as_str().unwrap_or_default().to_owned();
        let by = text("by");
        let was = match row.kind.as_str() {
            "allow" if by.starts_with("grant ") => Verb::Ask.as_str(),
            "allow" => Verb::Allow.as_str(),
            "hold" => Verb::Ask.as_str(),
            "deny" if by == "default" || by.contains("rule ") || by == "ceiling default" => {
                Verb::Deny.as_str()
            }
            _ => return None,
        };
        let destination = row.body["destination"].as_str()?.parse().ok()?;
        let count = row.body["count"].as_u64().unwrap_or(1);
        // What another program recorded counts as not recorded.
        let seen = serde_json::from_value(row.body["seen"].clone()).unwrap_or_default();
        Some(Self { destination, request: text("request"), seen, was, by, count })
    }

    /// What a policy says of it, as far as what is known of it tells.
    fn under(&self, policy: &Policy) -> (&'static str, Option<RuleId>) {
        let verdict = policy.verdict(&self.destination);
        let Verdict::Inspect { rule } = verdict else { return (verdict.verb().as_str(), verdict.rule()) };
        if let Some(seen) = &self.seen {
            return match policy.replay(&self.destination, seen) {
                Some(judgement) => said(judgement),
                None => (UNKNOWN, Some(rule)),
            };
        }
        // Of an older record, or of what was too much, there is method and path in words.
        let Some((method, rest)) = self.request.split_once(' ') else { return (INSPECT, Some(rule)) };
        let facts = RequestFacts {
            destination: self.destination.clone(),
            method: method.to_owned(),
            target: rest.split(',').next().unwrap_or_default().to_owned(),
            headers: Vec::new(),
            websocket: false,
            grpc: false,
            body: Body::None,
        };
        let cut = method.len() >= LONGEST_METHOD || facts.target.len() >= SHORTENED;
        if cut || policy.needs_more(&facts) {
            return (UNKNOWN, Some(rule));
        }
        said(policy.judge(&facts))
    }
}

/// A path in words has no more bytes than this, or was cut.
const SHORTENED: usize = 200;
/// That depends on requests of which none was seen.
const INSPECT: &str = "inspect";
/// That depends on what of the request is not recorded.
const UNKNOWN: &str = "unknown";

fn said(judgement: Judgement) -> (&'static str, Option<RuleId>) {
    match judgement {
        Judgement::Clear(verdict) => (verdict.verb().as_str(), verdict.rule()),
        Judgement::Unclear { rule, .. } => (Verb::Deny.as_str(), Some(rule)),
    }
}

impl ExplainedRequest {
    /// What is known of it.
    pub(crate) fn facts(&self, destination: &Destination) -> RequestFacts {
        let Self { method, target, headers, websocket, grpc, body } = self.clone();
        RequestFacts {
            destination: destination.clone(),
            method,
            target,
            headers: headers.iter().map(|name| name.to_ascii_lowercase()).collect(),
            websocket,
            grpc,
            body: body.map_or(Body::None, |body| Body::parse(body.as_bytes())),
        }
    }
}

/// A rule's words without its number and line: they stay when it moves.
pub(crate) fn words(by: &str) -> &str {
    by.split_once("): ").map_or(by, |(_, words)| words)
}

/// One line: what is reachable.
fn reachable(row: &Reachable) -> String {
    let requests = row.requests.as_ref().map(|it| format!(" {it}")).unwrap_or_default();
    let except: Vec<&str> = row.except.iter().map(|except| except.host.as_str()).collect();
    let except = if except.is_empty() { String::new() } else { format!(", but not {}", except.join(", ")) };
    format!("{}://{}:{}{requests} (line {}){except}", row.protocol, row.host, row.port, row.line)
}
