//! The wires to launcher and control: listeners that come and go, control that comes again.

use super::{
    gateways::web,
    world::{World, bearer, id, soon},
};
use crate::reports::{SHARE, What};
use cofferdam_base::{
    Role, TenantId,
    ipc::edge::{Config, Feed, Message, RuntimeKind},
};
use cofferdam_sys::channel::{AsyncChannel, MAX_DESCRIPTORS, pair};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use std::{
    io::IoSlice,
    mem::MaybeUninit,
    net::{SocketAddr, TcpListener},
    os::fd::AsFd,
    sync::atomic::Ordering,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// A listener of this tenant at its own address.
async fn listen(world: &World, tenant: &str, ip: &str) -> SocketAddr {
    let listener = TcpListener::bind((ip, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let tenant: Option<TenantId> = Some(id(tenant));
    world.launcher.send(&Feed::Listener { tenant, address }, &[listener.as_fd()]).await.unwrap();
    address
}

async fn status(at: SocketAddr, host: &str, token: &str) -> u16 {
    let mut stream = TcpStream::connect(at).await.unwrap();
    let head = format!("GET / HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n{token}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    super::world::Answer::read(stream).await.status
}

#[tokio::test]
async fn a_tenants_own_address_serves_it_alone_until_the_tenant_is_gone() {
    let (port, _) = web().await;
    let world = World::new(&[
        ("acme", RuntimeKind::Command, "running", port),
        ("globex", RuntimeKind::Command, "running", port),
    ])
    .await;
    let at = listen(&world, "acme", "127.18.0.2").await;
    let token = bearer(&world.token("acme", Role::Viewer));
    let host = at.to_string();
    assert_eq!(status(at, &host, &token).await, 200);
    assert_eq!(status(at, &format!("acme.localhost:{}", at.port()), &token).await, 200);
    let foreign = bearer(&world.token("globex", Role::Viewer));
    assert_eq!(status(at, &host, &foreign).await, 401);
    assert_eq!(status(at, &format!("globex.localhost:{}", at.port()), &foreign).await, 421);
    world.launcher.send(&Feed::ListenerGone { tenant: id("acme") }, &[]).await.unwrap();
    world.tell(Config::TenantGone { tenant: id("acme") }).await;
    while TcpStream::connect(at).await.is_ok() {
        tokio::task::yield_now().await;
    }
    assert_eq!(world.get_as_member("acme", "/", &[]).await.status, 421);
    assert_eq!(world.get_as_member("globex", "/", &[]).await.status, 200);
}

#[tokio::test]
async fn a_new_control_gets_what_the_old_one_did_not_record() {
    let (port, _) = web().await;
    let rows = [("acme", RuntimeKind::Command, "running", port)];
    let world = World::new(&rows).await;
    // This control reads nothing of the next wire until it records.
    let (ours, theirs) = pair().unwrap();
    world.launcher.send(&Feed::Control {}, &[theirs.as_fd()]).await.unwrap();
    let control = AsyncChannel::new(ours).unwrap();
    drop(theirs);
    control.send(&Config::Recorded { through: 0 }, &[]).await.unwrap();
    assert_eq!(world.get_as_member("acme", "/", &[]).await.status, 200, "it serves on without control");
    let (first, _) = soon(control.recv::<Message>()).await.unwrap().unwrap();
    let Message::Report(first) = first else { panic!("{first:?}") };
    assert_eq!((first.what.as_str(), first.seq), ("connect", 1));
    let (ours, theirs) = pair().unwrap();
    world.launcher.send(&Feed::Control {}, &[theirs.as_fd()]).await.unwrap();
    let again = AsyncChannel::new(ours).unwrap();
    let (second, _) = soon(again.recv::<Message>()).await.unwrap().unwrap();
    assert_eq!(second, Message::Report(first));
}

#[tokio::test]
async fn the_cell_sees_each_client_come_and_leave() {
    let (port, seen) = web().await;
    let world = World::new(&[("acme", RuntimeKind::Command, "running", port)]).await;
    for round in 1..=3 {
        assert_eq!(world.get_as_member("acme", "/", &[]).await.status, 200);
        assert_eq!(seen.connections(), round);
        soon(seen.end.notified()).await;
        assert_eq!(seen.ended.load(Ordering::SeqCst), round, "the cell sees each client leave");
    }
}

#[tokio::test]
async fn a_tenant_whose_rows_find_no_room_lets_nobody_in_and_shuts_no_other_out() {
    let (port, seen) = web().await;
    let world = World::new(&[
        ("acme", RuntimeKind::Command, "running", port),
        ("globex", RuntimeKind::Command, "running", port),
    ])
    .await;
    let (ours, theirs) = pair().unwrap();
    world.launcher.send(&Feed::Control {}, &[theirs.as_fd()]).await.unwrap();
    let control = AsyncChannel::new(ours).unwrap();
    // Once the new wire carries something the old one, which records all, is gone.
    world.edge.report_refused(None, "test");
    soon(control.recv::<Message>()).await.unwrap().unwrap();
    // Two tokens that take turns on one connection are a row a second each, and cost their tenant alone.
    let tokens = [Role::Viewer, Role::Admin].map(|role| bearer(&world.token("acme", role)));
    let mut turns = world.connect().await;
    for token in tokens.iter().cycle().take(40) {
        let head = format!("GET / HTTP/1.1\r\nhost: {}\r\n{token}\r\n\r\n", world.host("acme"));
        turns.write_all(head.as_bytes()).await.unwrap();
        assert!(soon(turns.read(&mut [0; 4096])).await.unwrap() > 0);
    }
    assert!(world.edge.reports.unrecorded() <= 3);
    for at in 0..SHARE {
        let (tenant, jti) = (Some(id("acme")), at.to_string());
        let what = What { kind: "connect", tenant, subject: String::new(), jti, reason: "" };
        world.edge.reports.push(what, world.edge.state.now());
    }
    let before = seen.connections();
    let refused = world.get_as_member("acme", "/", &[]).await;
    assert_eq!((refused.status, refused.code().as_str()), (503, "ledger_behind"));
    assert_eq!(seen.connections(), before);
    // Nor is another token let in on a connection that is open.
    let token = bearer(&world.token("acme", Role::Member));
    let head = format!("GET / HTTP/1.1\r\nhost: {}\r\n{token}\r\n\r\n", world.host("acme"));
    turns.write_all(head.as_bytes()).await.unwrap();
    assert_eq!(super::world::Answer::read(turns).await.code(), "ledger_behind");
    assert_eq!(world.get_as_member("globex", "/", &[]).await.status, 200);
    control.send(&Config::Recorded { through: u64::MAX }, &[]).await.unwrap();
    while !world.edge.reports.has_room(&id("acme")) {
        tokio::task::yield_now().await;
    }
    assert_eq!(world.get_as_member("acme", "/", &[]).await.status, 200);
}

#[tokio::test]
async fn sockets_that_find_no_descriptor_end_nobody() {
    let (port, seen) = web().await;
    let world = World::new(&[("acme", RuntimeKind::Command, "running", port)]).await;
    let mut kept = world.connect().await;
    let head = format!("GET / HTTP/1.1\r\nhost: {}\r\n", world.host("acme"));
    let token = bearer(&world.token("acme", Role::Viewer));
    kept.write_all(format!("{head}{token}\r\n\r\n").as_bytes()).await.unwrap();
    let mut piece = [0; 4096];
    assert!(soon(kept.read(&mut piece)).await.unwrap() > 0);
    // More than a packet carries reach the edge as a full table of descriptors would let them: cut off.
    let feed = Feed::Sockets { tenant: id("acme"), generation: 1, netns_cookie: 1, port };
    let packet = serde_json::to_vec(&feed).unwrap();
    let null = std::fs::File::open("/dev/null").unwrap();
    let many = vec![null.as_fd(); MAX_DESCRIPTORS + 8];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS + 8))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(&many)));
    sendmsg(&*world.launcher, &[IoSlice::new(&packet)], &mut control, SendFlags::NOSIGNAL).unwrap();
    // The wire carries on: what is sent behind it arrives, and the kept connection is still served.
    listen(&world, "acme", "127.18.0.2").await;
    assert_eq!(world.get_as_member("acme", "/", &[]).await.status, 200);
    kept.write_all(format!("{head}connection: close\r\n{token}\r\n\r\n").as_bytes()).await.unwrap();
    assert_eq!(super::world::Answer::read(kept).await.status, 200);
    assert_eq!(seen.connections(), 2);
}

#[tokio::test]
async fn no_more_sockets_are_accepted_than_there_are_descriptors_for() {
    let (port, _) = web().await;
    let rows = [("acme", RuntimeKind::Command, "running", port)];
    let world = World::with_descriptors(&rows, 12).await;
    let token = bearer(&world.token("acme", Role::Member));
    let request = format!("GET / HTTP/1.1\r\nhost: {}\r\n{token}\r\n\r\n", world.host("acme"));
    let mut members = Vec::new();
    for _ in 0..4 {
        let mut member = world.connect().await;
        member.write_all(request.as_bytes()).await.unwrap();
        assert!(soon(member.read(&mut [0; 4096])).await.unwrap() > 0);
        members.push(member);
    }
    assert_eq!(world.get_as_member("acme", "/", &[]).await.status, 0, "closed without an answer");
    while !world.reported("refused", "too_many_sockets") {
        tokio::task::yield_now().await;
    }
    members.pop();
    while world.get_as_member("acme", "/", &[]).await.status != 200 {
        tokio::task::yield_now().await;
    }
    let mut first = members.swap_remove(0);
    first.write_all(request.as_bytes()).await.unwrap();
    assert!(soon(first.read(&mut [0; 4096])).await.unwrap() > 0, "who was inside is served on");
}
