//! Loss prevention: known values that a cell sends are stopped on the way out, by what they are and not by what
//! they look like.
//!
//! It owns the search through heads, bodies, frames and relays in clear. It refuses to guess: what is looked for are
//! the tenant's own secrets and canaries. The threats: a secret that a cell came to know; one that is written so
//! that nobody recognises it; a cell that finds a secret out by asking what is blocked.
//!
//! Found is a value as it is, backwards, in hex and in base64 wherever it begins, each also under percent or backslash
//! escapes and broken into lines, inside gzip and deflate, and in pieces: three quarters of its bytes within the
//! hour, wherever to, in pieces of [`PIECE`] characters or more. Not found are smaller pieces, escapes of escapes,
//! and what a cell has enciphered.

mod body;
mod forms;
mod frames;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzz;
mod packed;
mod relay;
mod scan;
mod watch;

pub(crate) use body::Scanned;
#[cfg(test)]
pub(crate) use frames::tests::frame;
pub(crate) use relay::Overheard;
pub use scan::Scan;
pub use watch::{Found, Known, PIECE, SHORTEST, Watch};

use crate::{
    Egress, Gate, Refusal,
    check::{Check, keeps},
    http::BodyError,
};
use cofferdam_base::{Destination, Host, Millis};
use cofferdam_policy::Reason;
use http::Request;
use packed::Coding;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

impl Egress {
    /// Who watches over one request to this destination. What is found in its body is recorded at once.
    pub(crate) fn alarm(&self, destination: &Destination) -> Alarm {
        Alarm(Arc::new(Raised {
            gate: Arc::clone(&self.gate),
            watch: self.watched.clone(),
            destination: destination.clone(),
            recording: true,
            refusal: Mutex::default(),
        }))
    }
}

/// What is looked for: what was set last, also by whoever began to look before.
#[derive(Clone, Debug, Default)]
pub(crate) struct Watched(Arc<RwLock<Arc<Watch>>>);

impl Watched {
    pub(crate) fn set(&self, watch: Watch) {
        let mut kept = self.0.write().unwrap_or_else(PoisonError::into_inner);
        *kept = Arc::new(watch.remembering(&kept));
    }

    pub(crate) fn now(&self) -> Arc<Watch> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Watches over one request, and keeps why its body broke off.
#[derive(Clone, Debug)]
pub(crate) struct Alarm(Arc<Raised>);

#[derive(Debug)]
struct Raised {
    gate: Arc<Gate>,
    watch: Watched,
    destination: Destination,
    recording: bool,
    refusal: Mutex<Option<Refusal>>,
}

impl Alarm {
    /// The same, for a body that is read before anything is decided: who reads it records.
    pub(crate) fn unrecorded(&self) -> Self {
        let Raised { gate, watch, destination, recording: _, refusal: _ } = &*self.0;
        Self(Arc::new(Raised {
            gate: Arc::clone(gate),
            watch: watch.clone(),
            destination: destination.clone(),
            recording: false,
            refusal: Mutex::default(),
        }))
    }

    /// Is there anything to look for?
    pub(crate) fn is_set(&self) -> bool {
        !self.watch().is_empty()
    }

    /// Looks through the head of a request, its target first; an error, which is not recorded yet, if it must not go.
    pub(crate) fn head<B>(&self, request: &Request<B>) -> Result<(), Refusal> {
        let watch = self.watch();
        if watch.is_empty() {
            return Ok(());
        }
        let mut text = Vec::with_capacity(1024);
        line(&mut text, request.method().as_str().as_bytes());
        line(&mut text, request.uri().path_and_query().map_or("", |it| it.as_str()).as_bytes());
        for (name, value) in request.headers() {
            line(&mut text, name.as_str().as_bytes());
            line(&mut text, value.as_bytes());
        }
        let found = Scan::default().push(&watch, &text, self.now());
        self.judge(found.filter(|_| keeps(Check::LossInHead)))
    }

    /// A body that breaks off before a known value is out; an error if it cannot be looked through.
    pub(crate) fn body<A, B>(&self, request: &Request<A>, body: B) -> Result<Scanned<B>, Refusal> {
        let coding = match Coding::of(request.headers()) {
            Some(coding) => coding,
            None if self.watch().is_empty() || !keeps(Check::LossReadable) => Coding::None,
            None => return Err(Refusal::new(Reason::LossUnreadable, "loss prevention")),
        };
        Ok(Scanned::new(body, self.clone(), coding))
    }

    /// Looks at the name of a host before anybody is asked for its address: a whole label, and across labels.
    pub(crate) fn name(&self) -> Result<(), Refusal> {
        let Host::Name(name) = &self.0.destination.host else { return Ok(()) };
        let joined = name.as_str().replace('.', "");
        let look = |text: &str| self.watch().look(text.as_bytes(), self.now());
        let found = look(name.as_str()).or_else(|| look(&joined));
        self.judge(found.filter(|_| keeps(Check::LossInName)))
    }

    /// Why the body broke off, if it did by us; it is recorded then.
    pub(crate) fn take(&self) -> Option<Refusal> {
        self.0.refusal.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn watch(&self) -> Arc<Watch> {
        self.0.watch.now()
    }

    fn now(&self) -> Millis {
        self.0.gate.now()
    }

    fn judge(&self, found: Option<Found>) -> Result<(), Refusal> {
        found.map_or(Ok(()), |found| Err(self.0.gate.leaks(&self.0.destination, &found)))
    }

    /// A relay breaks: that is recorded, and there is nobody to be told.
    fn broken(&self, found: &Found) {
        let Raised { gate, destination, .. } = &*self.0;
        gate.refuse(Some(destination), gate.leaks(destination, found));
    }

    fn raise(&self, refusal: Refusal) -> BodyError {
        if self.0.recording {
            self.0.gate.refuse(Some(&self.0.destination), refusal.clone());
        }
        *self.0.refusal.lock().unwrap_or_else(PoisonError::into_inner) = Some(refusal);
        "blocked".into()
    }
}

/// A line of a head: nothing that is found reaches over its end.
fn line(text: &mut Vec<u8>, line: &[u8]) {
    text.extend_from_slice(line);
    text.push(0);
}

#[cfg(test)]
mod tests;
