//! Proofs against the world: what one finds bars every start, after any death, until a later one finds nothing.

use super::{
    hubs::running,
    world::{World, acme, beside, blocking, over},
};
use crate::{
    Error,
    api::types::{NewKill, NewProof, SignedProof},
};
use cofferdam_base::{
    Digest,
    ipc::launcher::{Command, Event},
};
use cofferdam_tenants::lifecycle::Phase;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::Ordering,
};

pub(super) fn proof(escaped: &[&str]) -> NewProof {
    let count = u32::try_from(escaped.len()).unwrap();
    NewProof {
        digest: Digest::from_bytes([7; 32]),
        verdicts: BTreeMap::from([("blocked".to_owned(), 300), ("escaped".to_owned(), count)]),
        escaped: escaped.iter().map(ToString::to_string).collect(),
        without: BTreeSet::new(),
    }
}

async fn proved(world: &World, escaped: &[&str]) -> SignedProof {
    world.host.sign_proof(&acme(), proof(escaped)).await.unwrap()
}

fn is_barred<T: std::fmt::Debug>(outcome: Result<T, Error>) -> bool {
    let Err(Error::Conflict { code: "escaped", message, mend }) = outcome else { return false };
    message.contains("files.open") && mend.contains("[[accepted]]") && mend.contains("cofferdam prove acme")
}

fn starts(world: &World) -> usize {
    world.commands.try_iter().filter(|command| matches!(command, Command::StartCell(_))).count()
}

async fn phase(world: &World, wanted: Phase) {
    world.host.tenant(&acme()).unwrap().wait(|view| view.phase == wanted).await;
}

#[tokio::test]
async fn a_tenant_whose_last_proof_escaped_does_not_start_after_any_death_until_one_finds_nothing() {
    let (world, _warden) = running().await;
    assert_eq!(starts(&world), 1);
    let signed = proved(&world, &["files.known", "files.open"]).await;
    assert!(signed.runs && signed.barred.unwrap().message.contains("1 of the attacks escaped: files.open"));
    assert!(world.disk.kinds().contains(&"escaped".to_owned()));
    // The cell goes on, and nobody starts it anew.
    let shown = world.host.show(&acme()).await.unwrap();
    assert!(shown.state == "running" && shown.failure.is_none());
    assert_eq!(shown.proof.unwrap().escaped, ["files.known", "files.open"]);
    assert!(
        is_barred(world.host.restart(&acme(), true).await)
            && is_barred(world.host.start(&acme(), true).await)
    );

    // It ends by itself, which had it started again.
    let ended = Event::CellEnded { tenant: acme(), generation: 1, status: "exit 1".to_owned() };
    world.host.launcher_says(ended, vec![]);
    phase(&world, Phase::Failed).await;
    let shown = world.host.show(&acme()).await.unwrap();
    assert!(shown.failure.unwrap().message.contains("files.open"));
    assert_eq!(starts(&world), 0);

    // The next control, over a launcher where nothing runs, is asked by the store to have it run.
    let world = over(world.disk.clone(), world.dir).await;
    phase(&world, Phase::Failed).await;
    assert_eq!(world.host.show(&acme()).await.unwrap().desired, "running");
    assert!(is_barred(world.host.start(&acme(), true).await));
    assert_eq!(starts(&world), 0);

    // A proof that finds nothing lets it come up, as it is wanted.
    let signed = proved(&world, &["files.known"]).await;
    assert!(!signed.runs && signed.barred.is_none());
    let (_warden, world) = blocking(move || {
        let warden = world.wardens.recv().unwrap();
        warden.ready();
        (warden, world)
    })
    .await;
    phase(&world, Phase::Running).await;
    assert_eq!(starts(&world), 1);
}

#[tokio::test]
async fn a_cell_that_runs_when_control_comes_back_goes_on_and_is_not_started_anew() {
    let (world, _warden) = running().await;
    proved(&world, &["files.open"]).await;
    let world = beside(world.disk.clone(), world.dir, vec![acme()]).await;
    phase(&world, Phase::Degraded).await;
    let ended = Event::CellEnded { tenant: acme(), generation: 1, status: "signal 9".to_owned() };
    world.host.launcher_says(ended, vec![]);
    phase(&world, Phase::Failed).await;
    assert!(is_barred(world.host.start(&acme(), true).await));
    assert_eq!(starts(&world), 0);
}

#[tokio::test]
async fn what_was_killed_is_not_resumed_over_what_escapes() {
    let (world, _warden) = running().await;
    world.host.kill(NewKill { tenant: Some(acme()), reason: String::new() }).await.unwrap();
    proved(&world, &["files.open"]).await;
    assert!(is_barred(world.host.resume(&acme(), false).await));
    assert_eq!(world.host.show(&acme()).await.unwrap().state, "killed");
    proved(&world, &[]).await;
    assert_eq!(world.host.resume(&acme(), false).await.unwrap().desired, "running");
}

#[tokio::test]
async fn a_proof_that_cannot_be_kept_bars_all_the_same_and_lifts_nothing() {
    let (world, _warden) = running().await;
    world.disk.1.store(true, Ordering::Relaxed);
    world.host.sign_proof(&acme(), proof(&["files.open"])).await.unwrap_err();
    assert!(is_barred(world.host.restart(&acme(), true).await));
    world.host.sign_proof(&acme(), proof(&[])).await.unwrap_err();
    assert!(is_barred(world.host.restart(&acme(), true).await));
}

#[tokio::test]
async fn a_proof_that_contradicts_itself_or_is_of_another_plan_is_not_signed_and_lifts_nothing() {
    let (world, _warden) = running().await;
    proved(&world, &["files.open"]).await;
    let silent = NewProof { escaped: vec![], ..proof(&["files.open"]) };
    let long = "x".repeat(65);
    for wrong in [silent, proof(&[&long]), proof(&[""]), proof(&["a\nb"])] {
        assert_eq!(world.host.sign_proof(&acme(), wrong).await.unwrap_err().status(), 400);
    }
    let other = NewProof { without: BTreeSet::from(["landlock".to_owned()]), ..proof(&[]) };
    let refused = world.host.sign_proof(&acme(), other).await;
    assert!(matches!(refused, Err(Error::Conflict { code: "other_configuration", .. })), "{refused:?}");
    assert!(is_barred(world.host.restart(&acme(), true).await));
    // What escaped counts all the same.
    proved(&world, &[]).await;
    assert!(!is_barred(world.host.restart(&acme(), true).await));
    let other = NewProof { without: BTreeSet::from(["landlock".to_owned()]), ..proof(&["files.open"]) };
    world.host.sign_proof(&acme(), other).await.unwrap_err();
    assert!(is_barred(world.host.restart(&acme(), true).await));
}
