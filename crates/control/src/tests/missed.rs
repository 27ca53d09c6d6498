//! An attack for each of control's checks: stopped while the check is there, through when it is gone.

use super::{
    approvals::{Edge, asked_by, get, token},
    hubs::{running, somewhere},
    proofs::proof,
    world::{Warden, World, acme, globex},
};
use crate::{
    api::types::{NewTenant, NewToken},
    check::{
        Check,
        left_out::{each_is_missed, tried},
    },
};
use cofferdam_base::{
    Destination, Digest, Host as Place, Protocol, Role, TenantId,
    ipc::{
        asked::RequestShown,
        edge::Decision,
        warden::{self, Report},
    },
};
use std::{collections::BTreeSet, sync::Arc, time::Duration};
use tokio::runtime::Builder;

/// Control on this thread, with acme running.
fn comes(attack: impl AsyncFn(World, Arc<Warden>) -> bool) -> bool {
    Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
        let (world, warden) = running().await;
        attack(world, warden).await
    })
}

/// A tenant that does not run.
async fn neighbour(world: &World) {
    let runtime = "command:echo".to_owned();
    let new = NewTenant { id: globex(), runtime, limits: None, start: false, wait: false };
    world.host.create(new).await.unwrap();
}

/// Who answers, where, and what.
struct Said {
    token: String,
    tenant: TenantId,
    shown: Digest,
    decision: Decision,
}

/// Does a yes count to what acme's warden asks, as this makes it of a good one?
fn granted(said: impl AsyncFn(&World, Said) -> Said) -> bool {
    comes(async |world, warden| {
        neighbour(&world).await;
        let edge = Edge::of(&world).await;
        let id = asked_by(&warden, "walls").await;
        let shown = edge.shown(id).await;
        let token = token(&world, acme(), Role::Approver).await;
        let good = Said { token, tenant: acme(), shown, decision: Decision::AllowOnce };
        let Said { token, tenant, shown, decision } = said(&world, good).await;
        edge.answers(&token, tenant, id, shown, decision).await.is_none()
    })
}

/// Does the wire hold, that brings this?
fn holds(report: impl Fn() -> Report, first: bool) -> bool {
    comes(async |world, warden| {
        let tenant = world.host.tenant(&acme()).unwrap();
        let link = tenant.seat.link().unwrap();
        if first {
            // A wire that says nothing before this.
            let (ours, theirs) = cofferdam_sys::channel::pair().unwrap();
            let wire = cofferdam_sys::channel::Channel::from(ours);
            let link = Arc::new(crate::warden::Link::new(theirs).unwrap());
            wire.send(&[&report()], &[]).unwrap();
            let reads = link.read(&world.host, &tenant);
            return tokio::time::timeout(Duration::from_millis(200), reads).await.is_err();
        }
        warden.report(&report());
        let alive = |link: &Arc<_>| tenant.seat.link().is_some_and(|now| Arc::ptr_eq(&now, link));
        for _ in 0..200 {
            tokio::time::sleep(Duration::from_millis(1)).await;
            if !alive(&link) {
                return false;
            }
        }
        true
    })
}

fn attack(check: Check) -> Result<(), String> {
    let alone = |attack: &dyn Fn() -> bool| tried(&[check], attack);
    match check {
        Check::AnswerSigned => alone(&|| {
            granted(async |_, said| {
                // A letter of the signature is another one.
                let at = said.token.rfind('.').unwrap() + 5;
                let other = if &said.token[at..=at] == "A" { "B" } else { "A" };
                Said { token: format!("{}{other}{}", &said.token[..at], &said.token[at + 1..]), ..said }
            })
        }),
        Check::AnswerTenant => {
            // Its own token is recorded at its own tenant alone, and so is what it may answer.
            let layers = [Check::AnswerTenant, Check::AnswerIssued];
            tried(&layers, &|| {
                granted(async |world, said| Said { token: token(world, globex(), Role::Admin).await, ..said })
            })
        }
        Check::AnswerRevoked => alone(&|| {
            granted(async |world, said| {
                let new =
                    NewToken { tenant: acme(), subject: "bob".into(), role: Role::Admin, ttl_seconds: 60 };
                let issued = world.host.token_issue(new).await.unwrap();
                world.host.token_revoke(issued.row.jti).await.unwrap();
                Said { token: issued.token, ..said }
            })
        }),
        Check::AnswerIssued => {
            // Signed by us, for the probe, and never issued to anybody; it has no role that may approve.
            let layers = [Check::AnswerIssued, Check::AnswerRole];
            tried(&layers, &|| {
                granted(async |world, said| {
                    let tenant = world.host.tenant(&acme()).unwrap();
                    Said { token: world.host.probe_token(&tenant).unwrap(), ..said }
                })
            })
        }
        Check::AnswerRole => alone(&|| {
            granted(async |world, said| Said { token: token(world, acme(), Role::Member).await, ..said })
        }),
        Check::AnswerOwn => alone(&|| {
            granted(async |world, said| Said {
                token: token(world, globex(), Role::Admin).await,
                tenant: globex(),
                ..said
            })
        }),
        Check::AnswerShown => {
            alone(&|| granted(async |_, said| Said { shown: Digest::from_bytes([9; 32]), ..said }))
        }
        Check::AnswerApprover => alone(&|| {
            comes(async |world, warden| {
                let text = "version: 2\ndefault: ask\napprovers: [operator]\n".to_owned();
                let host = Arc::clone(&world.host);
                let set = tokio::spawn(async move { host.policy_set(&acme(), text, None).await });
                let reader = Arc::clone(&warden);
                drop(tokio::task::spawn_blocking(move || reader.next()));
                set.await.unwrap().unwrap();
                let edge = Edge::of(&world).await;
                let request = Some(get("walls"));
                warden.report(&Report::Ask { destination: somewhere(), why: "default".to_owned(), request });
                let id = loop {
                    let query = crate::api::types::ApprovalsQuery { tenant: None, all: false };
                    if let Some(row) = world.host.approvals(&query).await.unwrap().first() {
                        break row.id;
                    }
                    tokio::task::yield_now().await;
                };
                let shown = edge.shown(id).await;
                let admin = token(&world, acme(), Role::Admin).await;
                edge.answers(&admin, acme(), id, shown, Decision::AllowOnce).await.is_none()
            })
        }),
        Check::AnswerForEver => alone(&|| {
            comes(async |world, warden| {
                let name = format!("main.{}", cofferdam_base::ipc::model::INFERENCE);
                let host = Place::Name(name.parse().unwrap());
                let destination =
                    Destination { host, port: 80.try_into().unwrap(), protocol: Protocol::Http };
                let why = "soft limit".to_owned();
                warden.report(&Report::Ask { destination, why, request: None });
                let id = loop {
                    if let warden::Command::Waiting { approval, .. } = super::hubs::next(&warden).await {
                        break approval;
                    }
                };
                let yes = super::hubs::yes(crate::api::types::Span::Always);
                world.host.approve(id, yes).await.is_ok()
            })
        }),
        Check::Escaped => alone(&|| {
            comes(async |world, _warden| {
                world.host.sign_proof(&acme(), proof(&["files.open"])).await.unwrap();
                world.host.restart(&acme(), false).await.is_ok()
            })
        }),
        Check::OtherLayers => alone(&|| {
            comes(async |world, _warden| {
                world.host.sign_proof(&acme(), proof(&["files.open"])).await.unwrap();
                let other = crate::api::types::NewProof {
                    without: BTreeSet::from(["landlock".to_owned()]),
                    ..proof(&[])
                };
                let _ = world.host.sign_proof(&acme(), other).await;
                world.host.restart(&acme(), false).await.is_ok()
            })
        }),
        Check::WardenTenant => alone(&|| holds(|| Report::Hello { tenant: globex(), boot: 9 }, false)),
        Check::WardenHello => alone(&|| holds(|| Report::HoldEnded { destination: somewhere() }, true)),
        Check::WardenShows => alone(&|| {
            let hidden = || RequestShown { url: "http://api.example.com/\u{202e}".to_owned(), ..get("") };
            holds(
                || Report::Ask { destination: somewhere(), why: String::new(), request: Some(hidden()) },
                false,
            )
        }),
    }
}

#[test]
fn every_check_of_control_is_missed_when_it_is_gone() {
    each_is_missed("control", attack);
}
