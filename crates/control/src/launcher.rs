//! Control's end of the wire to the launcher: numbers commands and gives each answer to whom asked.
//!
//! Answers and events are handed on by the one task that reads the wire, in the order of the wire, so that
//! no answer is overtaken by an event that followed it. If the wire ends, control ends: the launcher is the
//! parent of all, and only it starts control anew.

use crate::Error;
use cofferdam_base::ipc::launcher::{Command, Event, Op};
use cofferdam_sys::channel::AsyncChannel;
use std::{
    collections::HashMap,
    os::fd::{BorrowedFd, OwnedFd},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};
use tokio::sync::oneshot;

type Answer = Box<dyn FnOnce(Event) + Send>;

/// The launcher, as control sees it.
pub struct Launcher {
    wire: AsyncChannel,
    next: AtomicU64,
    waiting: Mutex<HashMap<Op, Answer>>,
}

impl std::fmt::Debug for Launcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Launcher").field("next", &self.next).finish_non_exhaustive()
    }
}

impl Launcher {
    /// Takes the wire. `first` is the first number used: one that no earlier control can have reached, so
    /// that a late answer to its commands answers none of ours.
    pub fn new(wire: OwnedFd, first: Op) -> Result<Self, Error> {
        let wire = AsyncChannel::new(wire).map_err(|e| Error::io("the launcher's wire", e))?;
        Ok(Self { wire, next: AtomicU64::new(first.max(1)), waiting: Mutex::default() })
    }

    /// A number for a command.
    pub fn op(&self) -> Op {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Sends a command; `answer` is called with what the launcher says to it, in the order of the wire.
    pub async fn send(
        &self,
        command: &Command,
        descriptors: &[BorrowedFd<'_>],
        answer: impl FnOnce(Event) + Send + 'static,
    ) -> Result<(), Error> {
        let op = op_of(command);
        self.lock().insert(op, Box::new(answer));
        let sent = self.wire.send(command, descriptors).await;
        sent.map_err(|error| {
            self.lock().remove(&op);
            Error::LauncherGone(error.to_string())
        })
    }

    /// Sends a command whose answer somebody else awaits already (`CancelExec`).
    pub async fn tell(&self, command: &Command) -> Result<(), Error> {
        self.wire.send(command, &[]).await.map_err(|e| Error::LauncherGone(e.to_string()))
    }

    /// Sends a command and waits for the answer; `Failed` is an error.
    pub async fn ask(&self, command: &Command, descriptors: &[BorrowedFd<'_>]) -> Result<Event, Error> {
        let (sender, receiver) = oneshot::channel();
        self.send(command, descriptors, move |event| drop(sender.send(event))).await?;
        match receiver.await {
            Ok(Event::Failed { op: _, failure }) => Err(Error::Launcher(failure)),
            Ok(event) => Ok(event),
            Err(_) => Err(Error::LauncherGone("no answer".to_owned())),
        }
    }

    /// Reads the wire until it ends. `event` gets everything that answers nothing, with its descriptors.
    pub async fn read(&self, event: impl Fn(Event, Vec<OwnedFd>)) -> Error {
        loop {
            let (message, descriptors) = match self.wire.recv::<Event>().await {
                Ok(Some(packet)) => packet,
                Ok(None) => return Error::LauncherGone("it closed it".to_owned()),
                Err(error) => return Error::LauncherGone(error.to_string()),
            };
            let answer = answers(&message).and_then(|op| self.lock().remove(&op));
            match answer {
                Some(answer) => answer(message),
                None => event(message, descriptors),
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Op, Answer>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The number of a command.
fn op_of(command: &Command) -> Op {
    match command {
        Command::Observe { op }
        | Command::MakeHome { op, .. }
        | Command::RemoveHome { op, .. }
        | Command::StartWarden { op, .. }
        | Command::StopWarden { op, .. }
        | Command::StopCell { op, .. }
        | Command::KillCell { op, .. }
        | Command::Kill { op, .. }
        | Command::Freeze { op, .. }
        | Command::Resume { op, .. }
        | Command::SetLimits { op, .. }
        | Command::Measure { op, .. }
        | Command::CancelExec { op, .. }
        | Command::SealRuntime { op, .. } => *op,
        Command::StartCell(order) => order.op,
        Command::Exec(order) => order.op,
    }
}

/// Which command an event answers.
fn answers(event: &Event) -> Option<Op> {
    match event {
        Event::Done { op }
        | Event::Failed { op, .. }
        | Event::Observed { op, .. }
        | Event::CellStarted { op, .. }
        | Event::LimitsSet { op, .. }
        | Event::Severed { op, .. }
        | Event::Measured { op, .. }
        | Event::ExecEnded { op, .. } => Some(*op),
        Event::CellEnded { .. }
        | Event::Killed { .. }
        | Event::WardenWire { .. }
        | Event::WardenEnded { .. }
        | Event::EdgeWire {} => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use cofferdam_base::{TenantId, ipc::launcher::Failure};
    use cofferdam_sys::channel::{Channel, pair};
    use std::sync::Arc;

    #[tokio::test]
    async fn answers_find_their_askers_and_events_go_to_the_sink_in_order() {
        let (ours, theirs) = pair().unwrap();
        let launcher = Arc::new(Launcher::new(ours, 7).unwrap());
        let fake = std::thread::spawn(move || {
            let wire = Channel::from(theirs);
            let (first, _) = wire.recv::<Command>().unwrap().unwrap();
            let (second, _) = wire.recv::<Command>().unwrap().unwrap();
            // Whichever task came first, the answers go out in the other order of their numbers.
            let (first, second) =
                if op_of(&first) < op_of(&second) { (first, second) } else { (second, first) };
            let failure = Failure { message: "no".to_owned(), mend: String::new() };
            wire.send(&Event::Failed { op: op_of(&second), failure }, &[]).unwrap();
            wire.send(&Event::WardenEnded { tenant: TenantId::try_from("acme").unwrap() }, &[]).unwrap();
            wire.send(&Event::Done { op: op_of(&first) }, &[]).unwrap();
        });
        let seen = Arc::new(Mutex::new(Vec::new()));
        let reader = {
            let (launcher, seen) = (Arc::clone(&launcher), Arc::clone(&seen));
            tokio::spawn(async move {
                launcher.read(|event, _| seen.lock().unwrap().push(event)).await;
            })
        };
        let stop = |op| Command::StopWarden { op, tenant: TenantId::try_from("acme").unwrap() };
        let (one, two) = (stop(launcher.op()), stop(launcher.op()));
        let (first, second) = tokio::join!(launcher.ask(&one, &[]), launcher.ask(&two, &[]));
        assert_eq!(first.unwrap(), Event::Done { op: 7 });
        assert!(matches!(second, Err(Error::Launcher(f)) if f.message == "no"));
        fake.join().unwrap();
        reader.await.unwrap();
        assert_eq!(seen.lock().unwrap().len(), 1);
    }
}
