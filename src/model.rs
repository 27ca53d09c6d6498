//! The process of the demo's built-in model: a deterministic answerer without network, file or secret.
//!
//! Each packet on its wire carries one stream socket, a warden's connection, on which it serves the
//! provider's protocol.

use cofferdam_base::ipc::LAUNCHER_FD;
use cofferdam_inference::builtin;
use cofferdam_sys::{channel::AsyncChannel, process};
use std::{os::unix::net::UnixStream, process::ExitCode};

/// Serves until the launcher closes the wire.
pub(crate) fn main() -> ExitCode {
    let Some(wire) = process::inherited(LAUNCHER_FD) else {
        eprintln!("model: this is started by the launcher only");
        return ExitCode::from(2);
    };
    // What a warden may not do the model need not do either.
    if let Err(error) = cofferdam_sandbox::confine::warden() {
        eprintln!("model: {error}");
        return ExitCode::FAILURE;
    }
    let served = crate::cli::block_on(async {
        let wire = AsyncChannel::new(wire)?;
        while let Some(((), sockets)) = wire.recv().await? {
            for socket in sockets {
                let socket = UnixStream::from(socket);
                socket.set_nonblocking(true)?;
                let socket = tokio::net::UnixStream::from_std(socket)?;
                // A warden that goes away is no error of ours.
                tokio::spawn(async { drop(builtin::serve(socket).await) });
            }
        }
        Ok::<_, Box<dyn std::error::Error>>(())
    });
    match served {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) => {
            eprintln!("model: {error}");
            ExitCode::FAILURE
        }
        Err(failure) => failure.report(false),
    }
}
