//! What a route may use, and all of them together: asked before each request, settled after it.
//!
//! The books are `policy::spend`'s; here they meet the time, the person who is asked past a soft limit and the cell
//! that reads why it is refused. What is refused is no request: nothing was dialled and no key opened.

use super::{Missed, Model, Once, dial::told};
use crate::check::{Check, keeps};
use cofferdam_base::{
    Clock, Destination, Host, HostName, Protocol, Provider,
    ipc::{
        asked::RequestShown,
        model::{INFERENCE, Limit, ModelRoute, Trouble, Unit, Usd},
    },
};
use cofferdam_egress::{
    Refusal,
    http::{Body, HTTP_PORT},
};
use cofferdam_inference::Error;
use cofferdam_policy::{
    Reason,
    spend::{Amount, Answer, Books, Held},
};
use http::{HeaderValue, Response, header};
use std::sync::{Arc, Mutex, PoisonError};

/// What is held for one request. If it is never settled, nothing was used.
pub(super) struct Holding {
    books: Arc<Mutex<Books>>,
    clock: Arc<dyn Clock>,
    held: Option<Held>,
}

impl Holding {
    /// This much was used.
    pub(super) fn settle(mut self, used: Amount) {
        self.end(used);
    }

    fn end(&mut self, used: Amount) {
        if let Some(held) = self.held.take() {
            let now = self.clock.now();
            self.books.lock().unwrap_or_else(PoisonError::into_inner).settle(held, used, now);
        }
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        self.end(Amount::default());
    }
}

impl Model {
    /// Holds what a request could use, once that is allowed.
    pub(super) async fn allowed(&self, route: &ModelRoute, once: &Once<'_>) -> Result<Holding, Missed> {
        let (want, wire) = (once.asked.tokens, once.call.api().wire());
        let mut approved = false;
        loop {
            // Those in force now.
            let Some(rules) = self.gate.rules() else {
                return Err(self.stopped(wire, Refusal::new(Reason::NotReady, by(route)), None));
            };
            // It may have gone while this request was read, or waited for an answer or for the routes before it.
            if !rules.policy.serves(&route.route) && keeps(Check::RouteNow) {
                return Err(self.stopped(wire, Refusal::new(Reason::RouteNotAllowed, by(route)), None));
            }
            let limits = [route.limits.as_slice(), &rules.policy.route_limits(&route.route)].concat();
            let budget = rules.policy.budget();
            let money = limits.iter().chain(&budget).any(|limit| limit.unit == Unit::Usd);
            if money && once.asked.dearer && keeps(Check::Dearer) {
                let said = "money is limited here: `service_tier` is default, flex or left out";
                return Err(self.stopped(
                    wire,
                    Refusal::new(Reason::ModelBudget, by(route)).said(said),
                    None,
                ));
            }
            let now = self.clock.now();
            let limits = if keeps(Check::RouteBudget) { limits } else { Vec::new() };
            let budget = if keeps(Check::WholeBudget) { budget } else { Vec::new() };
            let (answer, whose) = {
                let mut books = self.books.lock().unwrap_or_else(PoisonError::into_inner);
                match books.stops(&budget, want, route.price, now) {
                    Some(stop) => (stop, "all routes".to_owned()),
                    None => (
                        books.ask(&route.route, &limits, want, route.price, approved, now),
                        format!("route {}", route.route),
                    ),
                }
            };
            match answer {
                Answer::Go(held) => {
                    let (books, clock) = (Arc::clone(&self.books), Arc::clone(&self.clock));
                    return Ok(Holding { books, clock, held: Some(held) });
                }
                Answer::Ask(limit) => {
                    if keeps(Check::SoftLimit) {
                        self.ask_somebody(route, &limit, once).await?;
                    }
                    approved = true;
                }
                Answer::Stop(limit, until) => {
                    let said = format!("{limit} of {whose} is used up");
                    let refusal = Refusal::new(Reason::ModelBudget, by(route)).said(said);
                    return Err(self.stopped(wire, refusal, Some(until.since(now).div_ceil(1000))));
                }
                Answer::Unpriced(limit) => {
                    let said = format!("{limit} of {whose} cannot be kept");
                    return Err(self.stopped(
                        wire,
                        Refusal::new(Reason::NoPrice, by(route)).said(said),
                        None,
                    ));
                }
            }
        }
    }

    /// Holds a request until somebody lets it pass a soft limit.
    async fn ask_somebody(&self, route: &ModelRoute, limit: &Limit, once: &Once<'_>) -> Result<(), Missed> {
        let (want, wire) = (once.asked.tokens, once.call.api().wire());
        let Some(destination) = place_of(route) else {
            return Err(self.stopped(wire, Refusal::new(Reason::ModelBudget, by(route)), None));
        };
        let cost = route.price.map(|price| format!("&usd={}", Usd(price.of(want)))).unwrap_or_default();
        // The same for all who wait; what this one may use is what its yes is for.
        let why = format!("model route {}: past its soft limit {limit}", route.route);
        let shown = RequestShown {
            method: "POST".to_owned(),
            url: format!("http://{}/?tokens={}{cost}", destination.host, want.total()),
            tool: None,
            arguments: None,
            size: None,
            whole: None,
        };
        match self.gate.ask(&destination, why, shown.visible()).await {
            // It was a yes to asking the model, not to a connection.
            Ok(pass) => {
                drop(pass);
                Ok(())
            }
            // Recorded by the gate.
            Err(refusal) => Err(Missed::new(Trouble::Budget, told(&refusal), refused(wire, &refusal, None))),
        }
    }

    /// Records a refusal and makes it an answer that says when to come back.
    fn stopped(&self, wire: Provider, refusal: Refusal, seconds: Option<u64>) -> Missed {
        let refusal = self.gate.refuse(None, refusal);
        Missed::new(Trouble::Budget, told(&refusal), refused(wire, &refusal, seconds))
    }
}

/// Where a person is asked about a route: `http://ALIAS.inference.local`, which no cell can ask for otherwise.
fn place_of(route: &ModelRoute) -> Option<Destination> {
    let name = HostName::try_from(format!("{}.{INFERENCE}", route.route).as_str()).ok()?;
    Some(Destination { host: Host::Name(name), port: HTTP_PORT, protocol: Protocol::Http })
}

fn by(route: &ModelRoute) -> String {
    format!("model route {}", route.route)
}

/// A refusal in the shape that clients of this wire read.
fn refused(wire: Provider, refusal: &Refusal, seconds: Option<u64>) -> Response<Body> {
    let reason = refusal.reason;
    let said = if refusal.said.is_empty() { String::new() } else { format!(": {}", refusal.said) };
    let message = format!("{}{said}; {}", reason.text(), reason.mend());
    let mut response = super::failed(wire, &Error::Budget(message));
    let headers = response.headers_mut();
    headers.insert("cofferdam-reason", HeaderValue::from_static(reason.code()));
    // OpenAI's and Anthropic's clients do not try again by themselves then.
    headers.insert("x-should-retry", HeaderValue::from_static("false"));
    if let Some(seconds) = seconds {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}
