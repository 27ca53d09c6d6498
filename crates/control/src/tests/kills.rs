//! The kill switch against the world: durable, revoked, told, and undone by nobody but the operator.

use super::{
    hubs::{asked, running, yes},
    world::{acme, over},
};
use crate::{
    Error,
    api::types::{Kills, NewKill, NewToken, Span},
};
use cofferdam_base::{
    Role,
    ipc::launcher::{Command, Event},
};
use std::sync::{Arc, atomic::Ordering};

fn kill() -> NewKill {
    NewKill { tenant: Some(acme()), reason: "leak\u{7}".to_owned() }
}

fn token() -> NewToken {
    NewToken { tenant: acme(), subject: "ann".to_owned(), role: Role::Member, ttl_seconds: 3600 }
}

fn is_killed<T: std::fmt::Debug>(outcome: Result<T, Error>) -> bool {
    matches!(outcome, Err(Error::Conflict { code: "killed", ref mend, .. }) if mend == "cofferdam tenant resume acme")
}

#[tokio::test]
async fn a_kill_revokes_every_token_and_grant_and_holds_after_a_crash_until_it_is_resumed() {
    let (world, warden) = running().await;
    let host = Arc::clone(&world.host);
    host.token_issue(token()).await.unwrap();
    let granted = asked(&warden).await;
    host.approve(granted, yes(Span::ForSeconds(600))).await.unwrap();
    world.commands.try_iter().for_each(drop);

    let Kills { killed } = host.kill(kill()).await.unwrap();
    assert!(matches!(&killed[..], [row] if row.not_done.is_empty()), "{killed:?}");
    let commands: Vec<_> = world.commands.try_iter().collect();
    assert!(
        commands.iter().any(|c| matches!(c, Command::Kill { reason, .. } if reason == "leak")),
        "{commands:?}"
    );
    assert!(!commands.iter().any(|c| matches!(c, Command::StopCell { .. })), "what is frozen is kept");
    assert!(host.token_list(None).await.unwrap().tokens.iter().all(|token| token.revoked.is_some()));
    let book = host.approvals(&serde_json::from_str("{\"all\":true}").unwrap()).await.unwrap();
    assert!(book.iter().all(|row| row.state == "revoked"), "{book:?}");
    let shown = host.show(&acme()).await.unwrap();
    assert_eq!(
        (shown.state.as_str(), shown.failure.unwrap().mend.as_str()),
        ("killed", "cofferdam tenant resume acme")
    );
    // Twice is once.
    host.kill(kill()).await.unwrap();
    assert_eq!(world.disk.kinds().iter().filter(|kind| **kind == "tenant_killed").count(), 1);

    assert!(is_killed(host.start(&acme(), true).await) && is_killed(host.stop(&acme(), true).await));
    assert!(is_killed(host.restart(&acme(), true).await) && is_killed(host.token_issue(token()).await));
    assert!(is_killed(host.runs(&acme())));

    // The next control, over a launcher that knows nothing of it.
    let world = over(world.disk.clone(), world.dir).await;
    let kinds: Vec<_> = world.commands.try_iter().collect();
    assert!(matches!(kinds[..], [Command::Observe { .. }, Command::Kill { .. }]), "{kinds:?}");
    assert!(is_killed(world.host.start(&acme(), true).await));
    assert_eq!(world.host.show(&acme()).await.unwrap().state, "killed");
    assert_eq!(world.host.resume(&acme(), false).await.unwrap().desired, "running");
    assert!(world.host.token_list(None).await.unwrap().tokens.iter().all(|token| token.revoked.is_some()));
    assert!(matches!(
        world.host.resume(&acme(), false).await,
        Err(Error::Conflict { code: "not_killed", .. })
    ));
}

#[tokio::test]
async fn what_the_launcher_did_for_the_operator_is_made_durable() {
    let (world, _warden) = running().await;
    world.host.launcher_says(Event::Killed { tenant: None, reason: "by hand".to_owned() }, vec![]);
    let tenant = world.host.tenant(&acme()).unwrap();
    tenant.wait(|view| view.phase == cofferdam_tenants::lifecycle::Phase::Killed).await;
    assert!(world.disk.kinds().contains(&"tenant_killed".to_owned()));
}

#[tokio::test]
async fn a_disk_that_takes_nothing_keeps_no_other_step_from_being_made_and_the_answer_says_so() {
    let (world, _warden) = running().await;
    world.commands.try_iter().for_each(drop);
    world.disk.1.store(true, Ordering::Relaxed);
    let Kills { killed } = world.host.kill(kill()).await.unwrap();
    assert!(killed[0].not_done[0].contains("not on disk"), "{killed:?}");
    assert!(world.commands.try_iter().any(|command| matches!(command, Command::Kill { .. })));
    let view = world.host.tenant(&acme()).unwrap().view();
    assert_eq!(view.phase, cofferdam_tenants::lifecycle::Phase::Killed);
}
