//! Requests judged: how much of them must be seen, and what policy says of one.

use crate::{
    Policy, Reason, RuleId, Verb, Verdict,
    compile::Winner,
    condition::{Condition, Head, OVERRIDES, Said, units},
    graphql::{Asked, asked},
    path::Target,
    request::{Body, RequestFacts},
    rule::Rule,
    table::{Place, stronger},
};
use cofferdam_base::Destination;

/// How much of its requests must be seen before a destination can be let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Inspection {
    /// Nothing: no rule speaks of requests to it, or its rule says that they are never looked at.
    Opaque,
    /// The head of each.
    Heads,
    /// The head of each, and the body of those that [`Policy::needs_body`] names.
    Bodies,
}

/// What policy says of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// The request is clear. Never [`Verdict::Inspect`].
    Clear(Verdict),
    /// It could be read in two ways, and a rule depends on which: refuse it.
    Unclear {
        /// In which respect.
        reason: Reason,
        /// The rule that depends on it.
        rule: RuleId,
    },
}

impl Policy {
    /// How much of its requests must be seen before this destination can be let through.
    pub fn inspection(&self, destination: &Destination) -> Inspection {
        let own = self.own_inspection(destination);
        own.max(self.ceiling.as_ref().map_or(Inspection::Opaque, |it| it.own_inspection(destination)))
    }

    fn own_inspection(&self, destination: &Destination) -> Inspection {
        let places = self.requests.places(destination);
        if places.iter().any(|place| place.body.is_some()) {
            Inspection::Bodies
        } else if places.is_empty() {
            Inspection::Opaque
        } else {
            Inspection::Heads
        }
    }

    /// Must the body of this request be read before it can be judged? Ask with the head alone.
    pub fn needs_body(&self, facts: &RequestFacts) -> bool {
        self.own_needs_body(facts) || self.ceiling.as_ref().is_some_and(|it| it.own_needs_body(facts))
    }

    fn own_needs_body(&self, facts: &RequestFacts) -> bool {
        let places = self.requests.places(&facts.destination);
        if places.iter().all(|place| place.body.is_none()) || self.is_denied(&facts.destination) {
            return false;
        }
        let target = Target::parse(&facts.target).ok();
        let head = Head { facts, target: target.as_ref() };
        places.iter().any(|place| place.needs_body(head).is_some())
    }

    /// Does a rule that fits method and path ask for more of the request: query, headers, calls, a WebSocket?
    pub fn needs_more(&self, facts: &RequestFacts) -> bool {
        let target = Target::parse(&facts.target).ok();
        let head = Head { facts, target: target.as_ref() };
        let own = self.document().rules.iter().filter(|rule| self.is_live(rule));
        let more = own.filter(|rule| rule.place_matches(&facts.destination)).any(|rule| {
            let asks = |it: &Condition| it.has_more() || it.needs_body();
            rule.request.as_ref().is_some_and(|it| asks(it) && it.place_matches(head, rule.verb))
        });
        more || self.ceiling.as_ref().is_some_and(|ceiling| ceiling.needs_more(facts))
    }

    /// What policy says of one request. What several calls in one body come to is what is said of the worst.
    pub fn judge(&self, facts: &RequestFacts) -> Judgement {
        let own = self.judge_counted(facts, &mut 0);
        match &self.ceiling {
            Some(ceiling) => Self::lowered_judgement(own, ceiling.judge_counted(facts, &mut 0)),
            None => own,
        }
    }

    /// The same; `steps` counts the rules and nodes that were looked at.
    pub(crate) fn judge_counted(&self, facts: &RequestFacts, steps: &mut usize) -> Judgement {
        let connection = self.connection(&facts.destination);
        let places = self.requests.places(&facts.destination);
        if places.is_empty() || connection.is_some_and(|winner| winner.verb == Verb::Deny) {
            return Judgement::Clear(self.said(connection));
        }
        let target = match target(&places, facts) {
            Ok(target) => target,
            Err((reason, rule)) => return Judgement::Unclear { reason, rule },
        };
        let head = Head { facts, target: target.as_ref() };
        if facts.body == Body::Unread {
            let mut needed = None;
            places.iter().filter_map(|it| it.needs_body(head)).for_each(|it| stronger(&mut needed, it));
            if let Some(Winner { rule, .. }) = needed {
                return Judgement::Unclear { reason: Reason::BodyTooLong, rule };
            }
        }
        let asked =
            if places.iter().any(|it| it.graphql) { asked(facts, target.as_ref()) } else { Asked::Nothing };
        let mut worst: Option<(Verdict, Said<'_>)> = None;
        for said in units(&facts.body, &asked) {
            let mut best = connection;
            for winner in places.iter().filter_map(|place| place.winner(head, said, steps)) {
                stronger(&mut best, winner);
            }
            let verdict = self.said(best);
            if worst.is_none_or(|(there, _)| verdict.verb() > there.verb()) {
                worst = Some((verdict, said));
            }
        }
        match worst {
            Some((verdict, said)) => self.clear(verdict, said),
            // A body without a call is none that is read; nothing says yes to it.
            None => Judgement::Clear(Verdict::Deny { rule: None, silent: false }),
        }
    }

    /// The same judgement by a walk of all rules; slower, and always of its opinion.
    pub(crate) fn judge_linear(&self, facts: &RequestFacts) -> (Judgement, Vec<RuleId>) {
        self.judge_among(facts, &|_| true)
    }

    /// The same by these of its rules alone.
    pub(crate) fn judge_among(
        &self,
        facts: &RequestFacts,
        these: &dyn Fn(&Rule) -> bool,
    ) -> (Judgement, Vec<RuleId>) {
        let rules = self.document().rules.iter().filter(|rule| self.is_live(rule) && these(rule));
        let speaks: Vec<&Rule> = rules.filter(|rule| rule.place_matches(&facts.destination)).collect();
        let connection = speaks.iter().filter(|rule| rule.request.is_none()).max_by_key(|rule| rule.rank());
        let connection = connection.map(|rule| Winner::of(rule));
        let conditions = || speaks.iter().filter_map(|rule| Some((*rule, rule.request.as_ref()?)));
        if connection.is_some_and(|winner| winner.verb == Verb::Deny) || conditions().next().is_none() {
            return (Judgement::Clear(self.said(connection)), Vec::new());
        }
        let target = Target::parse(&facts.target);
        let strongest = |speaks: &dyn Fn(&Rule) -> bool| {
            let rules = conditions().filter(|(rule, _)| speaks(rule)).map(|(rule, _)| rule);
            rules.max_by_key(|rule| rule.rank()).map(|rule| rule.id)
        };
        let about = |test: fn(&Condition) -> bool| {
            strongest(&move |rule: &Rule| rule.request.as_ref().is_some_and(test))
        };
        if let (Err(_), Some(rule)) = (&target, about(Condition::needs_target)) {
            return (Judgement::Unclear { reason: Reason::AmbiguousRequest, rule }, Vec::new());
        }
        if let (true, Some(rule)) = (overrides(facts), about(|it| it.methods.is_some())) {
            return (Judgement::Unclear { reason: Reason::AmbiguousRequest, rule }, Vec::new());
        }
        let head = Head { facts, target: target.as_ref().ok() };
        let mut worst: Option<(Verdict, Said<'_>)> = None;
        let mut spoke = Vec::new();
        let needs = |rule: &Rule| {
            let it = rule.request.as_ref();
            it.is_some_and(|it| it.needs_body() && it.place_matches(head, rule.verb))
        };
        if let (Body::Unread, Some(rule)) = (&facts.body, strongest(&needs)) {
            return (Judgement::Unclear { reason: Reason::BodyTooLong, rule }, Vec::new());
        }
        let speaks = conditions().any(|(_, it)| it.graphql.is_some());
        let asked = if speaks { asked(facts, head.target) } else { Asked::Nothing };
        for said in units(&facts.body, &asked) {
            let matching = conditions().filter(|(rule, it)| it.matches(head, said, rule.verb));
            let mut best = connection;
            for (rule, _) in matching {
                spoke.push(rule.id);
                stronger(&mut best, Winner::of(rule));
            }
            let verdict = self.said(best);
            if worst.is_none_or(|(there, _)| verdict.verb() > there.verb()) {
                worst = Some((verdict, said));
            }
        }
        let judgement = match worst {
            Some((verdict, said)) => self.clear(verdict, said),
            None => Judgement::Clear(Verdict::Deny { rule: None, silent: false }),
        };
        (judgement, spoke)
    }

    /// A denial of a body that nobody could read says so, where the rule asks about calls.
    fn clear(&self, verdict: Verdict, said: Said<'_>) -> Judgement {
        let rule = verdict.rule().filter(|_| verdict.verb() != Verb::Allow);
        let hidden = |id: &RuleId| {
            self.rule(*id).and_then(|rule| rule.request.as_ref()).is_some_and(|it| it.hidden_by(said))
        };
        match rule.filter(hidden) {
            Some(rule) => Judgement::Unclear { reason: Reason::BodyUnclear, rule },
            None => Judgement::Clear(verdict),
        }
    }

    fn is_denied(&self, destination: &Destination) -> bool {
        self.connection(destination).is_some_and(|winner| winner.verb == Verb::Deny)
    }
}

/// The target, if a rule speaks of targets; refused where it or the method is ambiguous.
fn target(places: &[&Place], facts: &RequestFacts) -> Result<Option<Target>, (Reason, RuleId)> {
    let strongest = |of: fn(&Place) -> Option<Winner>| {
        let mut best = None;
        places.iter().filter_map(|place| of(place)).for_each(|winner| stronger(&mut best, winner));
        best
    };
    let target = match (Target::parse(&facts.target), strongest(|place| place.target)) {
        (Ok(target), _) => Some(target),
        (Err(_), Some(winner)) => return Err((Reason::AmbiguousRequest, winner.rule)),
        (Err(_), None) => None,
    };
    match strongest(|place| place.method).filter(|_| overrides(facts)) {
        Some(winner) => Err((Reason::AmbiguousRequest, winner.rule)),
        None => Ok(target),
    }
}

/// Does the request ask for another method than it has?
fn overrides(facts: &RequestFacts) -> bool {
    facts.headers.iter().any(|name| OVERRIDES.contains(&name.as_str()))
}
