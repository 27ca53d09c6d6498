//! Canaries against the world: planted by the operator, and what follows when a warden says that one was sent.

use super::{
    approvals::to_post,
    hubs::{running, somewhere},
    world::acme,
};
use crate::{
    Error,
    api::types::{Happening, NewCanary, SecretValue, Webhook},
};
use cofferdam_base::{
    canary::Like,
    ipc::{launcher::Command, warden::Report},
};
use std::time::Duration;

fn new() -> NewCanary {
    NewCanary { like: Like::Aws, env: Some("BAIT".parse().unwrap()), file: None }
}

fn secret(purpose: Option<&str>) -> SecretValue {
    SecretValue { value: "a-secret-value".to_owned(), purpose: purpose.map(str::to_owned), binding: None }
}

#[tokio::test]
async fn a_canary_is_no_secret_and_no_secret_is_a_canary() {
    let (world, _warden) = running().await;
    let (host, name) = (&world.host, || "BAIT".parse().unwrap());
    let nowhere = NewCanary { env: None, ..new() };
    assert!(matches!(host.canary_add(&acme(), name(), nowhere).await, Err(Error::Usage(_))));
    assert_eq!(host.canary_add(&acme(), name(), new()).await.unwrap().version, 1);
    assert_eq!(host.canary_add(&acme(), name(), new()).await.unwrap().version, 2);
    assert_eq!(host.canary_list(&acme()).await.unwrap().canaries.len(), 1);
    assert!(host.secret_list(&acme()).await.unwrap().secrets.is_empty());
    let conflict = |outcome| matches!(outcome, Err(Error::Conflict { code: "name_taken", .. }));
    assert!(conflict(host.secret_set(&acme(), name(), secret(None)).await.map(drop)));
    assert!(conflict(host.secret_remove(&acme(), &name()).await));
    host.secret_set(&acme(), "KEY".parse().unwrap(), secret(None)).await.unwrap();
    assert!(conflict(host.canary_add(&acme(), "KEY".parse().unwrap(), new()).await.map(drop)));
    let gone = host.canary_remove(&acme(), &"KEY".parse().unwrap()).await;
    assert!(matches!(gone, Err(Error::NotFound { what: "canary", .. })));
    let posed = host.secret_set(&acme(), "POSED".parse().unwrap(), secret(Some("canary:{}"))).await;
    assert!(matches!(posed, Err(Error::Usage(_))));
    let same = host.canary_add(&acme(), "OTHER".parse().unwrap(), new()).await;
    assert!(matches!(same, Err(Error::Conflict { code: "placeholder_taken", .. })));
    // What the cell is to see follows from the version, and says what it looks like.
    let planted = host.placeholders(&acme()).await.unwrap();
    assert!(matches!(&planted[..], [one] if one.canary == Some(Like::Aws) && one.text().len() == 40));
    host.canary_remove(&acme(), &name()).await.unwrap();
    assert!(host.placeholders(&acme()).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_canary_that_was_sent_freezes_first_then_raises_the_alarm_and_then_kills_once() {
    let (world, warden) = running().await;
    let mut happens = world.host.watch();
    world.commands.try_iter().for_each(drop);
    let tripped = Report::Tripped { canary: "BAIT".parse().unwrap(), destination: somewhere() };
    warden.report(&tripped);
    warden.report(&tripped);
    while !world.disk.kinds().iter().any(|kind| kind == "tenant_killed") {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let commands: Vec<_> = world.commands.try_iter().collect();
    let place = |wanted: fn(&Command) -> bool| commands.iter().position(wanted);
    let frozen = place(|it| matches!(it, Command::Freeze { .. })).unwrap();
    assert!(frozen < place(|it| matches!(it, Command::Kill { .. })).unwrap(), "{commands:?}");
    let kinds = world.disk.kinds();
    assert_eq!(kinds.iter().filter(|kind| **kind == "canary_tripped").count(), 1, "{kinds:?}");
    let row = |wanted: &str| kinds.iter().position(|kind| kind == wanted).unwrap();
    assert!(row("canary_tripped") < row("tenant_killed"), "{kinds:?}");
    let Happening::Alarm(alarm) = happens.recv().await.unwrap() else { panic!("no alarm") };
    assert_eq!((alarm.what.as_str(), alarm.subject.as_str()), ("canary", "BAIT"));
    let shown = world.host.show(&acme()).await.unwrap();
    assert_eq!(shown.state, "killed");
    let said = shown.failure.unwrap().message;
    assert!(said.contains(&format!("canary BAIT was about to be sent to {}", somewhere())), "{said}");
}

#[tokio::test]
async fn the_alarm_is_raised_before_the_kill_which_a_webhook_that_never_answers_does_not_stop() {
    let (world, warden) = running().await;
    let hook = "HOOK".parse::<cofferdam_base::SecretName>().unwrap();
    world.host.secret_set(&acme(), hook.clone(), secret(Some("webhook"))).await.unwrap();
    let webhook = Webhook { url: "https://hooks.example.com/x".to_owned(), secret: hook };
    world.host.webhook_set(&acme(), Some(webhook)).await.unwrap();
    let mut happens = world.host.watch();
    world.commands.try_iter().for_each(drop);
    warden.report(&Report::Tripped { canary: "BAIT".parse().unwrap(), destination: somewhere() });
    // Its warden is given the alarm, and nobody ever answers: there is no kill yet, and all else is done.
    let (_, body) = to_post(&warden).await;
    assert!(body.contains("BAIT"), "{body}");
    let commands: Vec<_> = world.commands.try_iter().collect();
    let killed = |it: &Command| matches!(it, Command::Kill { .. });
    assert!(commands.iter().any(|it| matches!(it, Command::Freeze { .. })), "{commands:?}");
    assert!(!commands.iter().any(killed), "{commands:?}");
    assert!(matches!(happens.try_recv().unwrap(), Happening::Alarm(alarm) if alarm.what == "canary"));
    let kinds = world.disk.kinds();
    assert!(kinds.iter().any(|kind| kind == "canary_tripped"), "{kinds:?}");
    assert!(!kinds.iter().any(|kind| kind == "tenant_killed"), "{kinds:?}");
    while !world.disk.kinds().iter().any(|kind| kind == "tenant_killed") {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(world.commands.try_iter().any(|it| killed(&it)));
    assert_eq!(world.host.show(&acme()).await.unwrap().state, "killed");
    // It goes out once the tenant runs again.
    assert_eq!(world.host.webhook_show(&acme()).await.unwrap().waiting, 1);
}
