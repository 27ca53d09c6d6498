#![allow(clippy::unwrap_used)]
//! What each command, death and malformed packet leads to, without root and without a real process.

pub(super) mod double;
mod hostile;

use super::{children::CONTROL_GIVES_UP, core::ANSWERS, effects::Ended, kill::Door, run};
use cofferdam_base::ipc::{
    edge::{Feed as EdgeFeed, SocketRequest},
    kill::{Answer, Fate, Order, Severed},
    launcher::{CellOrder, Command, Event, ExecOrder, Limits},
    receipt::Receipt,
    warden::Feed as WardenFeed,
};
use cofferdam_sys::channel::connect;
use double::{Host, null, order, slot, tenant};
use std::{io::Write, os::fd::AsFd, rc::Rc};

fn failed(events: &[Event], op: u64, word: &str) -> bool {
    matches!(events, [Event::Failed { op: o, failure }] if *o == op && failure.message.contains(word))
}

#[test]
fn the_edge_has_its_listener_before_anything_else_and_meets_control_when_that_asks() {
    let mut host = Host::new(false);
    let heard = host.heard::<EdgeFeed>("edge");
    assert!(matches!(&heard[..], [(EdgeFeed::Listener { tenant: None, .. }, fds)] if fds.len() == 1));
    let events = host.command(&Command::Observe { op: 3 });
    let observed = Event::Observed { op: 3, cells: vec![], wardens: vec![] };
    assert_eq!(events, [Event::EdgeWire {}, observed]);
    assert!(matches!(&host.heard("edge")[..], [(EdgeFeed::Control {}, fds)] if fds.len() == 1));
}

#[test]
fn a_tenant_starts_warden_first_and_its_parts_are_introduced_to_each_other() {
    let mut host = Host::new(true);
    host.heard::<EdgeFeed>("edge");
    let refused = host.command(&Command::StartCell(order("acme", 2, 1)));
    assert!(failed(&refused, 9, "no cell starts without it"), "{refused:?}");
    let start = Command::StartWarden { op: 1, tenant: tenant("acme"), slot: slot(2) };
    assert_eq!(host.command(&start), [Event::WardenWire { tenant: tenant("acme") }, Event::Done { op: 1 }]);
    assert_eq!(host.command(&start), [Event::Done { op: 1 }], "a second time changes nothing");
    assert_eq!(host.did("spawn the warden of acme"), 1);
    let heard = host.heard::<EdgeFeed>("edge");
    let expected =
        EdgeFeed::Listener { tenant: Some(tenant("acme")), address: "127.18.0.2:8471".parse().unwrap() };
    assert_eq!(heard[0].0, expected);
    let events = host.command(&Command::StartCell(order("acme", 2, 1)));
    assert!(matches!(&events[..], [Event::CellStarted { op: 9, cell, .. }] if cell.generation == 1));
    let heard = host.heard::<WardenFeed>("the warden of acme");
    let shape: Vec<usize> = heard.iter().map(|(_, descriptors)| descriptors.len()).collect();
    assert_eq!(shape, [1, 1, 6]);
    assert_eq!(heard[0].0, WardenFeed::Control {});
    assert_eq!(heard[1].0, WardenFeed::BuiltinModel {});
    assert_eq!(heard[2].0, WardenFeed::Listeners { generation: 1, netns_cookie: 5 });
}

#[test]
fn a_changed_configuration_is_told_with_the_start() {
    let mut host = Host::new(false);
    host.command(&Command::StartWarden { op: 1, tenant: tenant("acme"), slot: slot(2) });
    host.world.drift.set(true);
    for _ in 0..2 {
        let events = host.command(&Command::StartCell(order("acme", 2, 1)));
        assert!(matches!(&events[..], [Event::CellStarted { drift: true, .. }]), "{events:?}");
    }
    host.command(&Command::StartWarden { op: 1, tenant: tenant("globex"), slot: slot(3) });
    host.world.drift.set(false);
    let events = host.command(&Command::StartCell(order("globex", 3, 1)));
    assert!(matches!(&events[..], [Event::CellStarted { drift: false, .. }]), "{events:?}");
}

#[test]
fn there_are_never_two_cells_of_a_tenant() {
    let mut host = Host::new(false);
    host.start("acme", 2);
    let again = host.command(&Command::StartCell(order("acme", 2, 1)));
    assert!(matches!(&again[..], [Event::CellStarted { .. }]), "the same order is answered again");
    let other = host.command(&Command::StartCell(order("acme", 2, 2)));
    assert!(failed(&other, 9, "runs already, generation 1"), "{other:?}");
    assert_eq!((host.did("launch acme 1"), host.did("launch acme 2")), (1, 0));
}

#[test]
fn a_slot_belongs_to_one_tenant_and_a_tenant_to_one_slot() {
    let mut host = Host::new(false);
    host.start("acme", 2);
    let warden = |id, number| Command::StartWarden { op: 4, tenant: tenant(id), slot: slot(number) };
    assert!(failed(&host.command(&warden("globex", 2)), 4, "does not fit globex"));
    assert!(failed(&host.command(&warden("acme", 3)), 4, "does not fit acme"));
    assert!(failed(&host.command(&Command::StartCell(order("acme", 3, 2))), 9, "does not fit acme"));
    assert_eq!(host.command(&warden("globex", 3)).last(), Some(&Event::Done { op: 4 }));
}

#[test]
fn control_that_died_is_started_anew_and_finds_cells_and_wardens_as_they_were() {
    let mut host = Host::new(false);
    host.command(&Command::Observe { op: 2 });
    host.start("acme", 2);
    let (cell, warden) = (host.world.cell("acme"), host.world.part("the warden of acme"));
    host.heard::<WardenFeed>("the warden of acme");
    host.world.part("control").end(Ended::Signal(9));
    host.turn();
    while host.did("spawn control") < 2 {
        host.turn();
    }
    assert!(!cell.has_ended() && !warden.has_ended());
    let events = host.command(&Command::Observe { op: 7 });
    assert_eq!(events[..2], [Event::WardenWire { tenant: tenant("acme") }, Event::EdgeWire {}]);
    let Event::Observed { op: 7, cells, wardens } = &events[2] else { panic!("{events:?}") };
    assert_eq!((cells[0].generation, &wardens[..]), (1, &[tenant("acme")][..]));
    let heard = host.heard::<WardenFeed>("the warden of acme");
    assert!(matches!(&heard[..], [(WardenFeed::Control {}, fds)] if fds.len() == 1));
}

#[test]
fn an_edge_that_died_gets_every_listener_and_a_new_wire_to_control() {
    let mut host = Host::new(false);
    host.command(&Command::Observe { op: 2 });
    host.start("acme", 2);
    host.events();
    host.world.part("edge").end(Ended::Exit(1));
    host.turn();
    while host.did("spawn edge") < 2 {
        host.turn();
    }
    assert_eq!(host.events(), [Event::EdgeWire {}]);
    let heard = host.heard::<EdgeFeed>("edge");
    assert!(matches!(
        &heard[..],
        [
            (EdgeFeed::Listener { tenant: None, .. }, _),
            (EdgeFeed::Listener { tenant: Some(_), .. }, _),
            (EdgeFeed::Control {}, _)
        ]
    ));
    assert_eq!(host.did("listen 127.18.0.2:8471"), 1, "the address was never let go");
}

#[test]
fn a_packet_that_no_honest_control_sends_ends_it_and_changes_nothing() {
    for garbage in 0..4 {
        let mut host = Host::new(false);
        let control = host.world.part("control");
        match garbage {
            0 => host.send(&"x".repeat(100_000), &[]),
            1 => host.send(&serde_json::json!({"make_home": {"op": 1, "tenant": "../x", "slot": 2}}), &[]),
            2 => host.send(&Command::Observe { op: 1 }, &[null().as_fd()]),
            _ => host.send(&Command::Observe { op: 0 }, &[]),
        }
        host.turn();
        assert!(control.has_ended(), "{garbage}");
        while host.did("spawn control") < 2 {
            host.turn();
        }
        let events = host.command(&Command::Observe { op: 1 });
        assert!(matches!(events.last(), Some(Event::Observed { op: 1, .. })), "the positive control");
        assert!(!host.world.done.borrow().iter().any(|done| done.starts_with("make")));
    }
}

#[test]
fn what_fails_is_answered_and_the_launcher_goes_on() {
    let mut host = Host::new(false);
    host.world.broken.set(true);
    let home = Command::MakeHome { op: 5, tenant: tenant("acme"), slot: slot(2), limits: Limits::default() };
    assert!(failed(&host.command(&home), 5, "disk full"));
    let warden = Command::StartWarden { op: 6, tenant: tenant("acme"), slot: slot(2) };
    assert!(failed(&host.command(&warden), 6, "disk full"));
    host.world.broken.set(false);
    assert_eq!(host.command(&home), [Event::Done { op: 5 }]);
    host.start("acme", 2);
    host.world.broken.set(true);
    let remove = Command::RemoveHome { op: 8, tenant: tenant("acme"), slot: slot(2) };
    assert!(failed(&host.command(&remove), 8, "runs"), "not under a running cell");
}

#[test]
fn a_stopped_cell_has_its_grace_and_everybody_who_asked_is_answered_after_its_end() {
    let mut host = Host::new(false);
    host.start("acme", 2);
    let stop = |op| Command::StopCell { op, tenant: tenant("acme"), grace_ms: 3_600_000 };
    assert_eq!(host.command(&stop(11)), []);
    assert_eq!(host.command(&stop(12)), []);
    assert_eq!(host.did("terminate"), 2);
    host.world.cell("acme").end(Ended::Exit(0));
    host.turn();
    let ended = Event::CellEnded { tenant: tenant("acme"), generation: 1, status: "exit 0".to_owned() };
    assert_eq!(host.events(), [ended, Event::Done { op: 11 }, Event::Done { op: 12 }]);
    assert_eq!(host.command(&stop(13)), [Event::Done { op: 13 }], "stopping what is not there is done");
    assert!(matches!(
        host.heard::<EdgeFeed>("edge").last(),
        Some((EdgeFeed::CellGone { generation: 1, .. }, _))
    ));
}

#[test]
fn a_cell_that_outlasts_its_grace_is_killed() {
    let mut host = Host::new(false);
    host.start("acme", 2);
    let stop = Command::StopCell { op: 11, tenant: tenant("acme"), grace_ms: 1 };
    let mut events = host.command(&stop);
    while events.is_empty() {
        host.turn();
        events = host.events();
    }
    let killed = Event::CellEnded { tenant: tenant("acme"), generation: 1, status: "signal 9".to_owned() };
    assert_eq!(events, [killed, Event::Done { op: 11 }]);
}

#[test]
fn a_dead_warden_is_reported_and_the_next_one_gets_the_same_cells_listeners() {
    let mut host = Host::new(false);
    host.start("acme", 2);
    host.world.part("the warden of acme").end(Ended::Signal(11));
    host.turn();
    assert_eq!(host.events(), [Event::WardenEnded { tenant: tenant("acme") }]);
    assert!(!host.world.cell("acme").has_ended());
    host.command(&Command::StartWarden { op: 4, tenant: tenant("acme"), slot: slot(2) });
    let heard = host.heard::<WardenFeed>("the warden of acme");
    assert!(matches!(&heard[1], (WardenFeed::Listeners { generation: 1, .. }, fds) if fds.len() == 6));
}

#[test]
fn listeners_that_are_not_proved_kill_the_cell_and_not_the_launcher() {
    let mut host = Host::new(false);
    host.start("acme", 2);
    let cell = host.world.cell("acme");
    host.world.part("the warden of acme").end(Ended::Signal(11));
    host.turn();
    host.world.forged.set(true);
    host.command(&Command::StartWarden { op: 4, tenant: tenant("acme"), slot: slot(2) });
    assert!(cell.has_ended());
    assert_eq!(host.heard::<WardenFeed>("the warden of acme").len(), 1, "it never got them");
    host.turn();
    assert!(matches!(&host.events()[..], [Event::CellEnded { .. }]));
}

#[test]
fn a_warden_is_stopped_without_a_report_and_one_that_closes_its_wire_is_ended() {
    let mut host = Host::new(false);
    host.start("acme", 2);
    host.command(&Command::StopWarden { op: 4, tenant: tenant("acme") });
    host.turn();
    assert_eq!(host.events(), [Event::Done { op: 4 }]);
    host.start_warden_again();
    host.world.parts.borrow_mut().get_mut("the warden of acme").unwrap().1 =
        cofferdam_sys::channel::Channel::from(null());
    host.turn();
    host.turn();
    assert_eq!(host.events(), [Event::WardenEnded { tenant: tenant("acme") }]);
}

#[test]
fn the_edge_gets_sockets_of_a_running_cell_only_and_never_more_than_it_may_ask() {
    let mut host = Host::new(false);
    host.start("acme", 2);
    host.heard::<EdgeFeed>("edge");
    let ask = |host: &mut Host, id: &str, count| {
        let request = SocketRequest { tenant: tenant(id), count };
        host.world.parts.borrow()["edge"].1.send(&request, &[]).unwrap();
        host.turn();
        host.heard::<EdgeFeed>("edge")
    };
    let heard = ask(&mut host, "acme", 64);
    let (EdgeFeed::Sockets { generation: 1, netns_cookie: 5, port: 8080, .. }, sockets) = &heard[0] else {
        panic!("{heard:?}")
    };
    assert_eq!(sockets.len(), 64);
    let heard = ask(&mut host, "globex", 1);
    assert!(matches!(&heard[0].0, EdgeFeed::NoCell { .. }));
    let edge = host.world.part("edge");
    ask(&mut host, "acme", 65);
    assert!(edge.has_ended());
}

#[test]
fn an_edge_that_asks_and_does_not_read_is_not_heard_until_it_does_and_nobody_waits_for_it() {
    let mut host = Host::new(false);
    host.start("acme", 2);
    host.heard::<EdgeFeed>("edge");
    let asked = 200;
    for _ in 0..asked {
        let request = SocketRequest { tenant: tenant("acme"), count: 64 };
        if host.world.parts.borrow()["edge"].1.try_send(&request, &[]).is_err() {
            host.turn();
            host.world.parts.borrow()["edge"].1.try_send(&request, &[]).unwrap();
        }
    }
    for _ in 0..asked {
        let heard = host.command(&Command::KillCell { op: 7, tenant: tenant("globex") });
        assert_eq!(heard, [Event::Done { op: 7 }], "control is heard in every turn");
        assert!(host.core.edge.wire().unwrap().waiting() <= ANSWERS);
    }
    let mut answers = 0;
    loop {
        let heard = host.heard::<EdgeFeed>("edge");
        answers += heard.iter().filter(|(feed, _)| matches!(feed, EdgeFeed::Sockets { .. })).count();
        if answers >= asked {
            break;
        }
        host.turn();
    }
    assert_eq!(answers, asked);
}

#[test]
fn an_exec_needs_a_cell_and_three_descriptors_and_is_answered_when_it_ends() {
    let mut host = Host::new(false);
    let exec = |op| ExecOrder { op, tenant: tenant("acme"), argv: vec!["id".to_owned()], terminal: false };
    let run = |host: &mut Host, op| {
        let (a, b, c) = (null(), null(), null());
        host.send(&Command::Exec(exec(op)), &[a.as_fd(), b.as_fd(), c.as_fd()]);
        host.turn();
        host.events()
    };
    assert!(failed(&run(&mut host, 21), 21, "no running cell"));
    host.start("acme", 2);
    assert_eq!(run(&mut host, 22), []);
    let running = Rc::clone(&host.world.execs.borrow()[0]);
    running.end(Ended::Exit(3));
    host.turn();
    assert_eq!(host.events(), [Event::ExecEnded { op: 22, code: 3 }]);
    assert_eq!(run(&mut host, 23), []);
    host.command(&Command::CancelExec { op: 24, exec: 23 });
    host.turn();
    assert_eq!(host.events(), [Event::ExecEnded { op: 23, code: 137 }]);
}

#[test]
fn removing_a_home_gives_the_tenants_address_back() {
    let mut host = Host::new(false);
    host.start("acme", 2);
    host.command(&Command::KillCell { op: 4, tenant: tenant("acme") });
    host.turn();
    host.heard::<EdgeFeed>("edge");
    host.events();
    let remove = Command::RemoveHome { op: 5, tenant: tenant("acme"), slot: slot(2) };
    assert_eq!(host.command(&remove), [], "it takes its time");
    // Meanwhile the home is nobody's.
    for command in [
        Command::RemoveHome { op: 6, tenant: tenant("acme"), slot: slot(2) },
        Command::MakeHome { op: 6, tenant: tenant("acme"), slot: slot(2), limits: Limits::default() },
        Command::StartCell(CellOrder { op: 6, ..order("acme", 2, 2) }),
    ] {
        assert!(failed(&host.command(&command), 6, "is being removed"), "{command:?}");
    }
    assert!(host.heard::<EdgeFeed>("edge").is_empty());
    let removal = host.world.removals.borrow()[0].clone();
    removal.end(Ended::Exit(0));
    host.turn();
    assert_eq!(host.events(), [Event::Done { op: 5 }]);
    let gone = EdgeFeed::ListenerGone { tenant: tenant("acme") };
    assert_eq!(host.heard::<EdgeFeed>("edge")[0].0, gone);
}

#[test]
fn output_goes_to_the_log_and_at_the_end_nothing_is_left() {
    let mut host = Host::new(true);
    host.start("acme", 2);
    host.world.cells.borrow_mut().get_mut("acme").unwrap().1.write_all(b"hello").unwrap();
    host.turn();
    assert_eq!(host.did("log acme hello"), 1);
    let (stop, mut stopper) = std::io::pipe().unwrap();
    stopper.write_all(b"x").unwrap();
    run::run(&mut host.core, stop.as_fd()).unwrap();
    assert!(host.core.is_empty() && host.world.cell("acme").has_ended());
    for part in ["control", "edge", "the built-in model", "the warden of acme"] {
        assert!(host.world.part(part).has_ended(), "{part}");
    }
}

#[test]
fn a_control_that_no_other_try_helps_ends_the_host_and_any_other_is_started_anew() {
    let (stop, _never) = std::io::pipe().unwrap();
    let mut host = Host::new(false);
    host.start("acme", 2);
    host.world.part("control").end(Ended::Exit(1));
    while host.did("spawn control") < 2 {
        host.turn();
    }
    assert!(!host.world.cell("acme").has_ended(), "exit 1 is worth another try");
    host.world.part("control").end(Ended::Exit(*CONTROL_GIVES_UP.start()));
    let error = run::run(&mut host.core, stop.as_fd()).unwrap_err();
    assert!(matches!(&error, crate::Error::Start { what, .. } if what == "control"), "{error}");
    assert!(host.core.is_empty() && host.world.cell("acme").has_ended());
    assert_eq!(host.did("spawn control"), 2);
}

impl Host {
    fn start_warden_again(&mut self) {
        let events = self.command(&Command::StartWarden { op: 1, tenant: tenant("acme"), slot: slot(2) });
        assert_eq!(events.last(), Some(&Event::Done { op: 1 }));
    }
}

#[test]
fn limits_change_in_a_running_cell_and_its_order_or_nowhere() {
    let mut host = Host::new(false);
    host.start("acme", 2);
    let set = |op, limits| Command::SetLimits { op, tenant: tenant("acme"), limits };
    let more = Limits { pids: 99, ..Limits::default() };
    let receipt = Some(Receipt::default());
    assert_eq!(
        host.command(&set(4, more)),
        [Event::LimitsSet { op: 4, receipt, later: vec!["open_files".to_owned()] }]
    );
    assert_eq!(host.did("limit to 99 processes"), 1);
    // Whoever asks for that cell again asks for it with its limits.
    let again = CellOrder { limits: more, ..order("acme", 2, 1) };
    let events = host.command(&Command::StartCell(again));
    assert!(matches!(events[..], [Event::CellStarted { .. }]), "{events:?}");
    let smaller = Limits { disk_bytes: 1, ..more };
    assert!(matches!(host.command(&set(5, smaller))[..], [Event::Failed { op: 5, .. }]));
    host.world.broken.set(true);
    assert!(matches!(host.command(&set(6, Limits::default()))[..], [Event::Failed { op: 6, .. }]));
    let measured = host.command(&Command::Measure { op: 7, tenant: tenant("acme") });
    assert!(matches!(measured[..], [Event::Measured { op: 7, usage }] if usage.pids == Some(3)));
    // Of a tenant without a cell only the home is asked.
    let other = Command::SetLimits { op: 8, tenant: tenant("globex"), limits: more };
    assert_eq!(host.command(&other), [Event::LimitsSet { op: 8, receipt: None, later: vec![] }]);
    let none = host.command(&Command::Measure { op: 9, tenant: tenant("globex") });
    assert!(matches!(none[..], [Event::Failed { op: 9, .. }]));
}

fn kill(op: u64, id: &str) -> Command {
    Command::Kill { op, tenant: tenant(id), reason: "leak".to_owned() }
}

fn severed(id: &str, cell: Fate, warden: bool) -> Severed {
    Severed { tenant: tenant(id), cell, warden, edge: true }
}

#[test]
fn a_tenant_that_sent_a_canary_stands_still_and_its_warden_tells_until_it_is_killed() {
    let mut host = Host::new(false);
    host.command(&Command::Observe { op: 2 });
    host.start("acme", 2);
    let freeze = Command::Freeze { op: 5, tenant: tenant("acme"), reason: "canary".to_owned() };
    let frozen = host.command(&freeze);
    assert_eq!(frozen, [Event::Severed { op: 5, severed: severed("acme", Fate::Frozen, false) }]);
    assert_eq!(host.did("freeze"), 1);
    assert!(!host.world.part("the warden of acme").has_ended());
    assert!(failed(&host.command(&Command::StartCell(order("acme", 2, 2))), 9, "acme is killed"));
    let killed = host.command(&kill(6, "acme"));
    assert_eq!(killed, [Event::Severed { op: 6, severed: severed("acme", Fate::Frozen, true) }]);
    assert!(host.world.part("the warden of acme").has_ended());
}

#[test]
fn a_killed_tenant_stands_still_without_a_wire_and_nothing_of_it_starts() {
    let mut host = Host::new(false);
    host.command(&Command::Observe { op: 2 });
    host.start("acme", 2);
    host.start("globex", 3);
    host.heard::<EdgeFeed>("edge");
    let killed = host.command(&kill(5, "acme"));
    assert_eq!(killed, [Event::Severed { op: 5, severed: severed("acme", Fate::Frozen, true) }]);
    assert_eq!((host.did("freeze"), host.world.cell("acme").has_ended()), (1, false));
    assert!(host.world.part("the warden of acme").has_ended());
    assert!(!host.world.part("the warden of globex").has_ended(), "the positive control");
    let gone = EdgeFeed::CellGone { tenant: tenant("acme"), generation: 1 };
    assert_eq!(host.heard::<EdgeFeed>("edge")[0].0, gone);
    host.turn();
    assert_eq!(host.events(), [], "the end of its warden was asked for");
    for refused in [
        Command::StartWarden { op: 9, tenant: tenant("acme"), slot: slot(2) },
        Command::StartCell(order("acme", 2, 2)),
    ] {
        assert!(failed(&host.command(&refused), 9, "acme is killed"));
    }
    let exec = ExecOrder { op: 9, tenant: tenant("acme"), argv: vec!["sh".to_owned()], terminal: false };
    host.send(&Command::Exec(exec), &[null().as_fd(), null().as_fd(), null().as_fd()]);
    host.turn();
    assert!(failed(&host.events(), 9, "acme is killed"));
    host.world.parts.borrow()["edge"]
        .1
        .send(&SocketRequest { tenant: tenant("acme"), count: 1 }, &[])
        .unwrap();
    host.turn();
    assert_eq!(host.heard::<EdgeFeed>("edge")[0].0, EdgeFeed::NoCell { tenant: tenant("acme") });
    // The next control hears of it before it hears what runs.
    let events = host.command(&Command::Observe { op: 6 });
    let told = Event::Killed { tenant: Some(tenant("acme")), reason: "leak".to_owned() };
    assert!(events.contains(&told) && matches!(events.last(), Some(Event::Observed { op: 6, .. })));

    assert_eq!(host.command(&Command::Resume { op: 7, tenant: tenant("acme") }), [Event::Done { op: 7 }]);
    assert!(host.world.cell("acme").has_ended(), "what stood still does not go on");
    host.turn();
    host.events();
    host.start("acme", 2);
}

#[test]
fn a_cell_that_cannot_be_frozen_or_does_not_stand_still_is_killed_and_its_wires_are_cut_all_the_same() {
    for restless in [true, false] {
        let mut host = Host::new(false);
        host.start("acme", 2);
        host.heard::<EdgeFeed>("edge");
        let why = if restless { "it does not come to a stop" } else { "disk full" };
        host.world.restless.set(restless);
        host.world.broken.set(!restless);
        let killed = host.command(&kill(5, "acme"));
        let fate = Fate::Killed(why.to_owned());
        assert_eq!(killed, [Event::Severed { op: 5, severed: severed("acme", fate, true) }]);
        assert!(host.world.cell("acme").has_ended() && host.world.part("the warden of acme").has_ended());
        assert!(matches!(host.heard::<EdgeFeed>("edge")[0].0, EdgeFeed::CellGone { .. }));
    }
}

#[test]
fn a_stop_of_what_stands_still_needs_no_grace() {
    let mut host = Host::new(false);
    host.start("acme", 2);
    host.command(&kill(5, "acme"));
    host.send(&Command::StopCell { op: 6, tenant: tenant("acme"), grace_ms: 60_000 }, &[]);
    host.turn();
    assert!(host.world.cell("acme").has_ended());
}

#[test]
fn the_operator_needs_no_control_and_control_hears_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("kill.sock");
    let mut host = Host::new(false);
    host.start("acme", 2);
    host.start("globex", 3);
    host.core.door = Some(Door::open(&path).unwrap());
    host.world.part("control").end(Ended::Signal(9));
    host.turn();
    let operator = connect(&path).unwrap();
    operator.send(&Order { tenant: None, reason: "x".repeat(501) }, &[]).unwrap();
    // Let in, and heard in the same turn.
    host.turn();
    let (answer, _) = operator.try_recv::<Answer>().unwrap().unwrap();
    let expected = ["acme", "globex"].map(|id| severed(id, Fate::Frozen, true));
    assert_eq!(answer.severed, expected);
    while host.did("spawn control") < 2 {
        host.turn();
    }
    let events = host.command(&Command::Observe { op: 2 });
    let told = |id: &str| Event::Killed { tenant: Some(tenant(id)), reason: "x".repeat(500) };
    assert!(events.contains(&told("acme")) && events.contains(&told("globex")), "{events:?}");

    // What no operator sends is closed, and changes nothing.
    let other = connect(&path).unwrap();
    other.send(&"kill", &[]).unwrap();
    host.turn();
    assert!(other.try_recv::<Answer>().unwrap().is_none());
}
