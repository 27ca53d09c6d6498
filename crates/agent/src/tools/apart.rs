//! What keeps commands and the tools for files from the gateway that starts them.
//!
//! Each works in a Landlock domain of its own, which a thread of the gateway enters: no file of the gateway's state can be
//! opened there, by whatever link, no process outside of it can be signalled, traced or seen in `/proc`, and when a command
//! is over, all that is in its domain is killed, wherever it went. That thread is outside of what it starts, too. See
//! `docs/decisions/0024`.

use crate::gateway::Gateway;
use cofferdam_sys::{landlock, process::bound};
use std::{
    fs, io,
    path::Path,
    sync::mpsc::{Sender, channel},
    thread::{Builder, JoinHandle, scope},
};
use tokio::{process::Child, runtime::Handle};

/// Enough for what such a thread does.
const STACK: usize = 256 * 1024;

impl Gateway {
    /// Does this where neither the gateway's own state nor what `/proc` tells of the gateway can be reached.
    pub(crate) fn apart<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        scope(|scope| {
            let confined = || {
                landlock::hide(&[self.private(), Path::new("/proc")])
                    .map(|_domain| work())
                    .map_err(io::Error::other)
            };
            let thread = Builder::new().stack_size(STACK).spawn_scoped(scope, confined)?;
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

/// The domain of a command. All that is in it is killed when this goes.
#[derive(Debug)]
pub(crate) struct Domain(Option<(Sender<()>, JoinHandle<()>)>);

impl Drop for Domain {
    fn drop(&mut self) {
        if let Some((ends, thread)) = self.0.take() {
            drop(ends);
            // It does not panic, and if it did, there would be nothing left to do.
            let _ = thread.join();
        }
    }
}

/// Starts a command in a domain of its own.
pub(crate) fn start(gateway: &Gateway, mut command: std::process::Command) -> io::Result<(Child, Domain)> {
    let state = gateway.private().to_owned();
    let home = state.with_file_name("home");
    fs::create_dir_all(&home)?;
    command.env("HOME", home);
    let config = gateway.config();
    let limits = &config.tools.exec;
    bound(&mut command, limits.memory_mb.saturating_mul(1 << 20), limits.processes);
    let runtime = Handle::current();
    let (tells, told) = channel();
    let (ends, end) = channel::<()>();
    let thread = Builder::new().name("command".to_owned()).stack_size(STACK).spawn(move || {
        let entered = landlock::hide(&[&state]).and_then(|domain| {
            domain.within(&mut command)?;
            Ok(domain)
        });
        let domain = match entered {
            Ok(domain) => domain,
            Err(error) => return drop(tells.send(Err(io::Error::other(error)))),
        };
        let started = {
            let _within = runtime.enter();
            tokio::process::Command::from(command).kill_on_drop(true).spawn()
        };
        // Whoever starts it waits for this.
        let _ = tells.send(started);
        // It says nothing, and is dropped.
        let _ = end.recv();
        domain.end();
    })?;
    let domain = Domain(Some((ends, thread)));
    let child = told.recv().map_err(io::Error::other)??;
    Ok((child, domain))
}
