//! Bad input on a whole host: a clear error, and nothing changed.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, missing_docs)]

mod host;
mod world;

use host::{Host, edge};
use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    os::unix::net::UnixStream,
    time::Duration,
};

#[test]
fn a_configuration_with_an_unknown_key_or_a_wrong_type_is_refused_with_its_place() {
    for (more, word) in
        [("[vault]\nkye_file = \"/x\"\n", "kye_file"), ("[limits]\npids = \"many\"\n", "many")]
    {
        let mut host = Host::prepare(more);
        host.spawn();
        assert_eq!(host.ended(), Some(2));
        let log = host.log();
        assert!(log.contains(word) && log.contains("cofferdam.toml"), "{log}");
        assert!(!host.dir.join("control").exists());
        // The same without the mistake starts.
        let file = host.dir.join("cofferdam.toml");
        let text = fs::read_to_string(&file).unwrap().replace(more, "");
        fs::write(file, text).unwrap();
        host.serve();
    }
}

#[test]
fn a_host_whose_state_ledger_or_key_cannot_be_used_ends_and_says_what_mends_it() {
    let mut host = Host::start();
    // Several rows: a last one that does not fit is what a crash leaves, and no damage.
    for id in ["acme", "globex"] {
        host.json(&["tenant", "create", id, "--runtime", "command:echo"]);
    }
    host.restart();
    assert_eq!(host.stop(), Some(0));
    let control = host.dir.join("control");
    let (state, ledger, key) =
        (control.join("state.db"), control.join("ledger/00000001.log"), control.join("keys/master.key"));
    for (path, words) in
        [(&ledger, "the ledger is broken in segment 00000001.log, line 1"), (&key, "master key")]
    {
        let good = fs::read(path).unwrap();
        let mut bad = good.clone();
        // Another hex digit in either: of the first row's hash's text, or of the key.
        bad[8] = if bad[8] == b'1' { b'2' } else { b'1' };
        fs::write(path, &bad).unwrap();
        host.spawn();
        assert_eq!(host.ended(), Some(2), "{}", host.log());
        assert!(host.log().contains(words), "{}", host.log());
        assert_eq!(fs::read(path).unwrap(), bad, "nothing is mended unasked");
        fs::write(path, &good).unwrap();
        host.serve();
        assert_eq!(host.stop(), Some(0));
    }
    fs::OpenOptions::new().write(true).open(&state).unwrap().set_len(50).unwrap();
    host.spawn();
    assert_eq!(host.ended(), Some(2), "{}", host.log());
    let log = host.log();
    assert!(log.contains("is truncated; the newest backup is"), "{log}");
    let mend = log.lines().rev().find_map(|line| line.split_once("mend it with: ")).unwrap().1;
    assert!(std::process::Command::new("sh").args(["-c", mend]).status().unwrap().success(), "{mend}");
    host.serve();
    assert_eq!(host.json(&["tenant", "list"])["tenants"].as_array().unwrap().len(), 2);
}

#[test]
fn a_bad_tenant_id_is_refused_and_makes_nothing() {
    let host = Host::start();
    for bad in ["Acme", "../etc", "a b", "", "-a", "a.b", &"a".repeat(41)] {
        let refused = host.cli(&["tenant", "create", "--runtime", "command:echo", "--", bad]);
        assert_eq!(refused.status.code(), Some(2), "{bad:?}: {refused:?}");
    }
    assert_eq!(host.json(&["tenant", "list"])["tenants"].as_array().unwrap().len(), 0);
    host.create("acme");
    assert_eq!(host.json(&["tenant", "list"])["tenants"].as_array().unwrap().len(), 1);
}

#[test]
fn a_mebibyte_of_garbage_on_each_socket_stops_nothing() {
    let host = Host::with(&["acme"]);
    let mut garbage = vec![0; 1 << 20];
    aws_lc_rs::rand::fill(&mut garbage).unwrap();
    let tcp = || host.world.host(|| TcpStream::connect(edge())).unwrap();
    let unix = || UnixStream::connect(host.dir.join("run/control.sock")).unwrap();
    for bytes in
        [garbage.clone(), vec![b'A'; 1 << 20], vec![0; 1 << 20], b"GET / HTTP/1.1\r\n".repeat(65_536)]
    {
        let (mut client, mut operator) = (tcp(), unix());
        client.set_write_timeout(Some(Duration::from_secs(40))).unwrap();
        // Whether all of it is read is the host's own affair.
        let _ = client.write_all(&bytes);
        let _ = operator.write_all(&bytes);
        drop(client.shutdown(std::net::Shutdown::Write));
        drop(operator.shutdown(std::net::Shutdown::Write));
        let _ = client.read(&mut [0; 512]);
        let _ = operator.read(&mut [0; 512]);
    }
    let (token, _) = host.token("acme", "member");
    assert_eq!(host.get("acme", "/", &token).status, 200);
    assert_eq!(host.json(&["ledger", "verify"])["whole"], true);
}
