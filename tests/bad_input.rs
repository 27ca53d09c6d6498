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
