//! `cofferdam kill`: the launcher first, by its own socket, then control, which makes it durable and revokes.
//!
//! The launcher is asked first because it is the one that stops processes and cuts wires, and because control
//! may be busy or gone. What one of them could not do is said, and is no reason not to ask the other.

use super::{Client, Failure, commands::Done, print};
use cofferdam_base::{
    TenantId,
    ipc::kill::{Answer, Fate, Order, SOCKET, Severed},
};
use cofferdam_control::api::types::{Killed, Kills, NewKill};
use cofferdam_sys::channel;
use http::Method;
use std::{path::Path, process::ExitCode, time::Duration};

/// Longer than any launcher or control is busy; after this they are told as not reached.
const PATIENCE: Duration = Duration::from_secs(20);

pub(super) fn run(dir: &Path, tenant: Option<TenantId>, reason: String, json: bool) -> Done {
    let order = Order { tenant: tenant.clone(), reason: reason.clone() };
    let socket = dir.join(SOCKET);
    // Sent before this process so much as makes a runtime.
    let sent = channel::connect(&socket).map_err(|error| error.to_string()).and_then(|wire| {
        wire.send(&order, &[]).map_err(|error| error.to_string())?;
        Ok(wire)
    });
    super::block_on(async {
        let severed = match sent {
            Ok(wire) => answer(wire).await,
            Err(error) => Err(error),
        };
        let client = Client::new(dir.join("run/control.sock"));
        let body = NewKill { tenant, reason };
        let asked = client.call::<Kills>(Method::POST, "kill", Some(&body));
        let kept = match tokio::time::timeout(PATIENCE, asked).await {
            Ok(kept) => kept,
            Err(_) => Err(Failure::could_not("control did not answer in time")),
        };
        let kills = match (severed, kept) {
            (Ok(severed), Ok(mut kills)) => {
                kills.killed.iter_mut().for_each(|row| first(row, &severed));
                kills
            }
            // It was asked by control, whose answer has what became of it.
            (Err(error), Ok(kills)) => {
                eprintln!("cofferdam: {}: {error}; control told the launcher instead", socket.display());
                kills
            }
            (Ok(severed), Err(failure)) if !severed.is_empty() => unkept(severed, &failure),
            (_, Err(failure)) => return Err(failure),
        };
        show(&kills, json)
    })?
}

async fn answer(wire: channel::Channel) -> Result<Vec<Severed>, String> {
    let read = tokio::task::spawn_blocking(move || wire.recv::<Answer>());
    match tokio::time::timeout(PATIENCE, read).await {
        Ok(Ok(Ok(Some((answer, _))))) => Ok(answer.severed),
        Ok(Ok(Ok(None))) => Err("it closed the connection: are you the operator?".to_owned()),
        Ok(Ok(Err(error))) => Err(error.to_string()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("it did not answer in time".to_owned()),
    }
}

/// Control asks the launcher again: what became of a cell is what the first answer says.
fn first(row: &mut Killed, severed: &[Severed]) {
    if let Some(first) = severed.iter().find(|first| first.tenant == row.tenant) {
        row.cell = first.cell.clone();
    }
}

/// What the launcher did and control did not make last.
fn unkept(severed: Vec<Severed>, failure: &Failure) -> Kills {
    let why = format!(
        "it is not on disk, its tokens and grants are not revoked, and it holds until the host ends: {}",
        failure.message
    );
    let row = |Severed { tenant, cell, warden: _, edge }: Severed| Killed {
        tenant,
        cell,
        edge,
        not_done: vec![why.clone()],
    };
    Kills { killed: severed.into_iter().map(row).collect() }
}

fn show(kills: &Kills, json: bool) -> Done {
    let whole = kills.killed.iter().all(|row| row.not_done.is_empty());
    if json {
        print::json(kills)?;
    } else if kills.killed.is_empty() {
        print::line("there are no tenants")?;
    } else {
        for row in &kills.killed {
            let cell = match &row.cell {
                Fate::Absent => "no cell ran".to_owned(),
                Fate::Frozen => "its cell stands still".to_owned(),
                Fate::Killed(why) => format!("its cell was killed, because it could not be frozen ({why})"),
            };
            print::line(&format!("{} is killed: {cell}, its connections are closed", row.tenant))?;
            for left in &row.not_done {
                print::line(&format!("  NOT DONE {left}"))?;
            }
        }
        if whole {
            print::line("Tokens and grants are revoked. Undo with: cofferdam tenant resume ID")?;
        }
    }
    Ok(if whole { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
