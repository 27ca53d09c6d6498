//! Exec against a launcher that runs the command itself, without any cell.
#![allow(clippy::unwrap_used)]

use super::*;
use cofferdam_sys::channel::{Channel, pair};
use std::io::{Read, Write};

/// A launcher whose commands copy their input to both outputs, and end with the status 7.
fn fake() -> (Arc<Launcher>, std::thread::JoinHandle<()>) {
    let (ours, theirs) = pair().unwrap();
    let launcher = Arc::new(Launcher::new(ours, 1).unwrap());
    let reader = Arc::clone(&launcher);
    tokio::spawn(async move { reader.read(|_, _| {}).await });
    let thread = std::thread::spawn(move || {
        let wire = Channel::from(theirs);
        let (command, descriptors) = wire.recv::<Command>().unwrap().unwrap();
        let Command::Exec(order) = command else { panic!("{command:?}") };
        let [stdin, stdout, stderr] = descriptors.try_into().unwrap();
        if order.argv[0] == "sleep" {
            let (cancel, _) = wire.recv::<Command>().unwrap().unwrap();
            assert!(matches!(cancel, Command::CancelExec { exec, .. } if exec == order.op));
            wire.send(&Event::ExecEnded { op: order.op, code: 137 }, &[]).unwrap();
            return;
        }
        let mut text = Vec::new();
        std::fs::File::from(stdin).read_to_end(&mut text).unwrap();
        std::fs::File::from(stdout).write_all(&text).unwrap();
        std::fs::File::from(stderr).write_all(b"\x1b[31mred").unwrap();
        wire.send(&Event::ExecEnded { op: order.op, code: 7 }, &[]).unwrap();
    });
    (launcher, thread)
}

fn request(program: &str) -> ExecRequest {
    ExecRequest { argv: vec![program.to_owned()], terminal: false, size: None, raw: false }
}

fn acme() -> TenantId {
    TenantId::try_from("acme").unwrap()
}

#[tokio::test]
async fn input_and_both_outputs_and_the_status_travel() {
    let (launcher, thread) = fake();
    let (mut client, server) = tokio::io::duplex(1024);
    tokio::spawn(relay(server, acme(), request("cat"), launcher));
    write_frame(&mut client, Kind::Stdin, b"hello").await.unwrap();
    write_frame(&mut client, Kind::StdinEnd, b"").await.unwrap();
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let code = loop {
        match read_frame(&mut client).await.unwrap() {
            (Kind::Stdout, bytes) => out.extend(bytes),
            (Kind::Stderr, bytes) => err.extend(bytes),
            (Kind::Exit, code) => break code,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!((&out[..], &err[..], &code[..]), (&b"hello"[..], &b"red"[..], &[7_u8][..]));
    thread.join().unwrap();
}

#[tokio::test]
async fn a_client_that_goes_ends_the_command() {
    let (launcher, thread) = fake();
    let (client, server) = tokio::io::duplex(1024);
    let relay = tokio::spawn(relay(server, acme(), request("sleep"), launcher));
    drop(client);
    relay.await.unwrap();
    thread.join().unwrap();
}

#[tokio::test]
async fn a_terminal_of_its_own_has_the_size_that_the_client_says() {
    let (ours, theirs) = ends::make(true, Some((30, 90))).unwrap();
    let size = rustix::termios::tcgetwinsize(&theirs[0]).unwrap();
    assert_eq!((size.ws_row, size.ws_col), (30, 90));
    ours.resize(40, 100).unwrap();
    assert_eq!(rustix::termios::tcgetwinsize(&theirs[2]).unwrap().ws_row, 40);
    rustix::io::write(&theirs[1], b"out").unwrap();
    let mut buffer = [0; 8];
    let length = ours.stdout.read(&mut buffer).await.unwrap();
    assert_eq!(&buffer[..length], b"out");
}

#[test]
fn what_cannot_be_run_is_refused_before_it_travels() {
    assert!(check(&request("true")).is_ok());
    assert!(check(&request("")).is_err());
    assert!(check(&request("a\0b")).is_err());
    assert!(check(&request(&"x".repeat(LONGEST_ARGV + 1))).is_err());
    assert!(check(&ExecRequest { argv: vec![], terminal: false, size: None, raw: false }).is_err());
}
