#![allow(clippy::unwrap_used)]

use super::*;
use cofferdam_base::{
    Destination, Host, Protocol,
    ipc::{MAX_PACKET, warden::Report},
};
use cofferdam_sys::channel::pair;
use std::{fs::File, num::NonZeroU16};

/// Set in the child, whose limit of descriptors is low.
const CHILD: &str = "COFFERDAM_TEST_FEW_DESCRIPTORS";
const NAME: &str = "run::tests::what_the_launcher_sends_arrives_though_the_cell_holds_every_descriptor";

#[test]
fn what_the_launcher_sends_arrives_though_the_cell_holds_every_descriptor() {
    if std::env::var_os(CHILD).is_some() {
        return few_descriptors();
    }
    // The limit is a process's, so the test runs in one of its own.
    #[expect(clippy::disallowed_methods, reason = "this very test again, under another limit")]
    let child = std::process::Command::new("/bin/sh")
        .args(["-c", "ulimit -n 64 && exec \"$0\" --exact \"$1\" --nocapture"])
        .arg(std::env::current_exe().unwrap())
        .arg(NAME)
        .env(CHILD, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stdout) + String::from_utf8_lossy(&child.stderr);
    assert!(child.status.success() && said.contains("1 passed"), "{said}");
}

fn few_descriptors() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let office =
            office("acme".parse().unwrap(), Arc::new(SystemClock), rustls::RootCertStore::empty()).unwrap();
        let (launcher, theirs) = pair().unwrap();
        let (ours, control) = pair().unwrap();
        let (launcher, control) = (AsyncChannel::new(launcher).unwrap(), AsyncChannel::new(control).unwrap());
        let feeding = tokio::spawn(async move { feed(&office, theirs).await });
        // It waits for its first packet.
        tokio::task::yield_now().await;
        let mut held: Vec<File> = Vec::new();
        let mut hold = || held.extend(std::iter::from_fn(|| File::open("/dev/null").ok()));
        hold();
        launcher.send(&Feed::Control {}, &[ours.as_fd()]).await.unwrap();
        // Now only what was sent keeps the wire open.
        drop(ours);
        hold();
        assert!(File::open("/dev/null").is_err());
        let hello = control.recv::<Vec<Report>>().await.unwrap().map(|(reports, _)| reports);
        assert!(matches!(hello.as_deref(), Some([Report::Hello { .. }, ..])), "{hello:?}");
        drop(launcher);
        feeding.await.unwrap().unwrap();
    });
}

#[tokio::test]
async fn reports_that_are_too_long_together_go_one_by_one() {
    let office =
        office("acme".parse().unwrap(), Arc::new(SystemClock), rustls::RootCertStore::empty()).unwrap();
    let (ours, control) = pair().unwrap();
    let control = AsyncChannel::new(control).unwrap();
    tokio::spawn(office.clone().serve(AsyncChannel::new(ours).unwrap()));
    let (hello, _) = control.recv::<Vec<Report>>().await.unwrap().unwrap();
    assert!(matches!(hello[..], [Report::Hello { .. }]), "{hello:?}");
    let ask = |name: &str| {
        let (host, why) = (Host::Name(name.parse().unwrap()), "why ".repeat(MAX_PACKET / 10));
        let destination = Destination { host, port: NonZeroU16::MIN, protocol: Protocol::Tcp };
        Report::Ask { destination, why, request: None }
    };
    let asked = ["a.example", "b.example", "c.example", "d.example"].map(ask);
    for it in &asked {
        assert!(office.outbox.say(it.clone()));
    }
    for it in &asked {
        let (reports, _) = control.recv::<Vec<Report>>().await.unwrap().unwrap();
        assert_eq!(reports, std::slice::from_ref(it));
    }
    // The positive control: what fits goes together.
    let ended = ["a.example", "b.example"].map(|name| {
        let Report::Ask { destination, .. } = ask(name) else { unreachable!() };
        Report::HoldEnded { destination }
    });
    for it in &ended {
        assert!(office.outbox.say(it.clone()));
    }
    assert_eq!(control.recv::<Vec<Report>>().await.unwrap().unwrap().0, ended);
}
