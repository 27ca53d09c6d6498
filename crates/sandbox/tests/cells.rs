//! Real cells, as root and as nobody. This binary is also the init of the cells that it starts.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use cofferdam_base::ipc::{
    launcher::{Failure, Limits},
    receipt::{LayerRow, LayerState},
};
use cofferdam_sandbox::{
    Access, Bind, Cell, CellEvent, CellPlan, Error, Network, Profile, Protection, Quota, group, home_image,
    launch, sweep,
};
use cofferdam_sys::{
    process::{self, Forked},
    seccomp::{self, Action, Is, Program, Row, call},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::CString,
    fs::{self, File},
    io::{self, PipeReader, Read, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

type Test = (&'static str, fn());

const TESTS: &[Test] = &[
    ("true_runs_and_nothing_is_left", true_runs_and_nothing_is_left),
    ("every_wall_stands_and_every_control_passes", every_wall_stands_and_every_control_passes),
    ("a_command_can_neither_signal_nor_see_the_runtime", a_command_can_neither_signal_nor_see_the_runtime),
    ("a_nursery_that_was_killed_is_replaced", a_nursery_that_was_killed_is_replaced),
    ("exec_gives_back_the_exit_status", exec_gives_back_the_exit_status),
    ("terminate_reaches_the_runtime", terminate_reaches_the_runtime),
    ("a_fork_bomb_stops_at_the_limit", a_fork_bomb_stops_at_the_limit),
    ("a_memory_bomb_dies_alone", a_memory_bomb_dies_alone),
    (
        "a_frozen_cell_stands_still_goes_on_and_can_be_killed",
        a_frozen_cell_stands_still_goes_on_and_can_be_killed,
    ),
    ("limits_change_in_a_cell_that_runs_or_not_at_all", limits_change_in_a_cell_that_runs_or_not_at_all),
    (
        "a_full_home_stops_at_its_limit_and_the_neighbours_can_still_write",
        a_full_home_stops_at_its_limit_and_the_neighbours_can_still_write,
    ),
    (
        "a_home_grows_under_a_running_cell_and_never_shrinks",
        a_home_grows_under_a_running_cell_and_never_shrinks,
    ),
    (
        "nothing_of_an_image_stays_when_its_cell_and_launcher_are_killed",
        nothing_of_an_image_stays_when_its_cell_and_launcher_are_killed,
    ),
    ("a_limit_of_io_says_how_far_it_holds", a_limit_of_io_says_how_far_it_holds),
    (
        "a_captured_cell_gives_listeners_and_marked_sockets",
        a_captured_cell_gives_listeners_and_marked_sockets,
    ),
    ("a_program_that_is_not_there_names_its_layer", a_program_that_is_not_there_names_its_layer),
    (
        "a_layer_that_cannot_be_applied_stops_the_start_and_names_itself_and_its_mend",
        a_layer_that_cannot_be_applied_stops_the_start_and_names_itself_and_its_mend,
    ),
    (
        "a_layer_that_is_silently_off_is_noticed_before_the_runtime_starts",
        a_layer_that_is_silently_off_is_noticed_before_the_runtime_starts,
    ),
    (
        "cells_that_follow_one_another_have_networks_of_their_own",
        cells_that_follow_one_another_have_networks_of_their_own,
    ),
    (
        "each_protection_that_is_left_out_shows_in_the_receipt",
        each_protection_that_is_left_out_shows_in_the_receipt,
    ),
    ("a_sweep_kills_what_an_earlier_launcher_left", a_sweep_kills_what_an_earlier_launcher_left),
    ("node_git_python_curl_and_a_shell_work", node_git_python_curl_and_a_shell_work),
    (
        "homes_are_made_and_removed_without_following_links",
        homes_are_made_and_removed_without_following_links,
    ),
    ("without_root_the_same_walls_stand", without_root_the_same_walls_stand),
    (
        "a_service_leaves_no_child_and_stays_with_its_parent",
        a_service_leaves_no_child_and_stays_with_its_parent,
    ),
    (
        "a_command_runs_in_a_cell_that_used_up_its_processes",
        a_command_runs_in_a_cell_that_used_up_its_processes,
    ),
];

fn main() {
    let argv: Vec<String> = std::env::args().collect();
    match argv.get(1).map(String::as_str) {
        Some("__nursery") => cofferdam_sandbox::nursery_main(),
        Some("__init") => cofferdam_sandbox::init_main(),
        Some("__rootless") => return rootless_child(Path::new(&argv[2])),
        _ => {}
    }
    let flags = |name: &str| argv.iter().any(|argument| argument == name);
    let wanted = argv.iter().skip(1).find(|argument| !argument.starts_with('-') && *argument != "terse");
    let chosen = TESTS.iter().filter(|(name, _)| wanted.is_none_or(|wanted| name.contains(wanted.as_str())));
    if flags("--list") {
        if !flags("--ignored") {
            chosen.for_each(|(name, _)| println!("{name}: test"));
        }
        return;
    }
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED all tests of cells: they need root");
        return;
    }
    let _swept = Swept;
    for (name, test) in chosen {
        test();
        println!("test {name} ... ok");
    }
}

/// Takes away what a test that failed left.
struct Swept;

impl Drop for Swept {
    fn drop(&mut self) {
        sweep(&format!("test-{}", std::process::id())).unwrap();
    }
}

struct Setting {
    directory: tempfile::TempDir,
    plan: CellPlan,
}

fn setting(name: &str, argv: &[&str]) -> Setting {
    let directory = tempfile::tempdir().unwrap();
    open_to_all(directory.path());
    let home = directory.path().join("home");
    fs::create_dir(&home).unwrap();
    std::os::unix::fs::chown(&home, Some(20_001), Some(20_001)).unwrap_or(());
    let plan = CellPlan {
        name: name.into(),
        generation: 1,
        profile: Profile::Strict,
        uid: 20_001,
        gid: 20_001,
        hostname: name.into(),
        binds: Vec::new(),
        home,
        quota: Quota::Scratch,
        argv: argv.iter().map(ToString::to_string).collect(),
        env: vec![("PATH".into(), "/usr/bin:/bin".into()), ("HOME".into(), "/sandbox".into())],
        cwd: "/sandbox".into(),
        network: Network::None,
        limits: Limits::default(),
        cgroup: group(&format!("test-{}", std::process::id()), name),
        without: Vec::new(),
    };
    Setting { directory, plan }
}

fn open_to_all(path: &Path) {
    fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
}

/// The cell, and what it writes.
fn start(plan: &CellPlan) -> Result<(Cell, PipeReader), Error> {
    let (reader, writer) = io::pipe().unwrap();
    let copy = writer.try_clone().unwrap();
    launch(plan, [OwnedFd::from(writer), OwnedFd::from(copy)]).map(|cell| (cell, reader))
}

fn finish(cell: Cell, mut output: PipeReader) -> (String, Option<CellEvent>) {
    let mut text = String::new();
    output.read_to_string(&mut text).unwrap();
    cell.wait().unwrap();
    let event = cell.event().unwrap();
    cell.remove().unwrap();
    (text, event)
}

fn run(plan: &CellPlan) -> (String, u8) {
    let (cell, output) = start(plan).unwrap();
    let (text, event) = finish(cell, output);
    match event {
        Some(CellEvent::RuntimeEnded { code, .. }) => (text, code),
        other => panic!("{other:?}: {text}"),
    }
}

fn exec(cell: &Cell, argv: &[&str]) -> (String, u8) {
    let argv: Vec<String> = argv.iter().map(ToString::to_string).collect();
    let (mut reader, writer) = io::pipe().unwrap();
    let copy = writer.try_clone().unwrap();
    let stdin = File::open("/dev/null").unwrap();
    let command = cell.exec(&argv, [stdin.into(), writer.into(), copy.into()], false).unwrap();
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    (text, command.wait().unwrap().code())
}

fn end(cell: Cell) {
    cell.kill().unwrap();
    cell.wait().unwrap();
    cell.remove().unwrap();
}

fn true_runs_and_nothing_is_left() {
    let setting = setting("true", &["/bin/true"]);
    let (cell, output) = start(&setting.plan).unwrap();
    let holds = |row: &LayerRow| row.state == LayerState::Enforced || row.layer == "cgroup io";
    assert!(cell.receipt.layers.iter().all(holds), "{:?}", cell.receipt);
    let pid = cell.pid;
    let (_, event) = finish(cell, output);
    assert_eq!(event, Some(CellEvent::RuntimeEnded { status: "exit 0".into(), code: 0 }));
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
    assert!(!fs::read_to_string("/proc/self/mountinfo").unwrap().contains("/true"));
}

const EXPECTED: &[(&str, &[&str])] = &[
    ("write:/x", &["EROFS", "EACCES"]),
    ("write:/usr/x", &["EROFS", "EACCES"]),
    ("write:/etc/x", &["EROFS", "EACCES"]),
    ("write:/dev/x", &["EROFS", "EACCES"]),
    ("write:/opt/ro/x", &["EROFS", "EACCES"]),
    ("write:/proc/sys/kernel/core_pattern", &["EROFS", "EACCES"]),
    ("write:/proc/sysrq-trigger", &["EACCES", "ENOENT"]),
    ("write:/sandbox/x", &["ok"]),
    ("write:/tmp/x", &["ok"]),
    ("write:/dev/null", &["ok"]),
    ("read:/proc/1/environ", &["ENOENT", "EACCES", "EPERM"]),
    ("read:/proc/1/root", &["ENOENT", "EACCES", "EPERM"]),
    ("read:/proc/1/mem", &["ENOENT", "EACCES", "EPERM"]),
    ("read:/sys", &["ENOENT"]),
    ("read:/dev/kvm", &["ENOENT"]),
    ("read:/dev/mem", &["ENOENT"]),
    ("read:/root", &["ENOENT"]),
    ("read:/home", &["ENOENT"]),
    ("read:/var", &["ENOENT"]),
    ("read:/etc/shadow", &["ENOENT"]),
    ("read:/etc/passwd", &["ok"]),
    ("read:/proc/self/environ", &["ok"]),
    ("read:/proc/cpuinfo", &["ok"]),
    ("kill:1", &["EPERM", "ESRCH"]),
    ("kill:self", &["ok"]),
    ("fork", &["ok"]),
    ("getpid", &["ok"]),
    ("clone3", &["ENOSYS"]),
    ("keyctl", &["ENOSYS"]),
    ("add_key", &["ENOSYS"]),
    ("io_uring_setup", &["ENOSYS"]),
    ("x32", &["ENOSYS"]),
    ("ptrace", &["EPERM"]),
    ("process_vm_readv", &["EPERM"]),
    ("mount", &["EPERM"]),
    ("umount2", &["EPERM"]),
    ("unshare", &["EPERM"]),
    ("setns", &["EPERM"]),
    ("clone-newuser", &["EPERM"]),
    ("chroot", &["EPERM"]),
    ("bpf", &["EPERM"]),
    ("perf_event_open", &["EPERM"]),
    ("userfaultfd", &["EPERM"]),
    ("open_by_handle_at", &["EPERM"]),
    ("seccomp", &["EPERM"]),
    ("tiocsti", &["EPERM"]),
    ("tiocsti-high", &["EPERM"]),
    ("socket:unix", &["ok"]),
    ("socket:inet", &["ok"]),
    ("socket:inet6", &["ok"]),
    ("socket:udp", &["ok"]),
    ("socket:route", &["ok"]),
    ("socket:nflog", &["EAFNOSUPPORT"]),
    ("socket:vsock", &["EAFNOSUPPORT"]),
    ("socket:alg", &["EAFNOSUPPORT"]),
    ("socket:packet", &["EAFNOSUPPORT"]),
    ("socket:raw", &["EPERM"]),
    ("socket:raw6", &["EPERM"]),
    ("socket:ping", &["EPERM"]),
    ("socket:ping6", &["EPERM"]),
    ("socket:mptcp", &["EAFNOSUPPORT"]),
    ("socket:sctp", &["EAFNOSUPPORT"]),
    ("socket:sctp-seq", &["EAFNOSUPPORT"]),
    ("socket:smc", &["EAFNOSUPPORT"]),
    ("socket:udplite", &["EAFNOSUPPORT"]),
    ("socket:dccp", &["EAFNOSUPPORT"]),
    ("socket:l2tp", &["EAFNOSUPPORT"]),
    ("socket:tcp", &["ok"]),
    ("socket:udp17", &["ok"]),
    ("sockopt:ulp", &["EPERM"]),
    ("sockopt:nodelay", &["ok"]),
    ("clone-parent", &["EPERM"]),
    ("tiocsetd", &["EPERM"]),
    ("io_setup", &["ENOSYS"]),
    ("sync", &["ENOSYS"]),
    ("inotify:access", &["EPERM"]),
    ("inotify:close-nowrite", &["EPERM"]),
    ("inotify:open", &["EPERM"]),
    ("inotify:create", &["ok"]),
    ("dnotify", &["EPERM"]),
    ("prlimit:1", &["EPERM"]),
    ("prlimit:self", &["ok"]),
    ("rlimit:core", &["EPERM"]),
    ("rlimit:core-read", &["ok"]),
    ("setrlimit:core", &["EPERM"]),
    // What of the machine's own files a cell reads besides the list of SPECIFICATION.md: nothing.
    ("proc-more", &[""]),
    ("proc-there", &["cpuinfo,meminfo,self,stat"]),
    ("proc-sys", &["kernel/ostype"]),
    ("fds", &["0,1,2"]),
    ("env", &["HOME,LC_CTYPE,PATH", "HOME,PATH"]),
    ("uid", &["1000 1000 []"]),
    ("caps", &["0000000000000000 0000000000000000 0000000000000000 0000000000000000 0000000000000000"]),
    ("nnp", &["1 filters 3"]),
    ("pids", &[""]),
    ("interfaces", &["['lo']"]),
];

fn probed(setting: &mut Setting) -> BTreeMap<String, String> {
    let tools = setting.directory.path().join("tools");
    fs::create_dir(&tools).unwrap();
    open_to_all(&tools);
    fs::write(tools.join("probe.py"), include_str!("probe.py")).unwrap();
    setting.plan.binds.push(Bind {
        source: tools,
        target: "/opt/ro".into(),
        access: Access::ReadOnly,
        label: "probe".into(),
    });
    setting.plan.argv = vec!["/usr/bin/python3".into(), "/opt/ro/probe.py".into()];
    let (text, code) = run(&setting.plan);
    assert_eq!(code, 0, "{text}");
    text.lines().filter_map(|line| line.split_once(' ')).map(|(a, b)| (a.to_owned(), b.to_owned())).collect()
}

fn walls(found: &BTreeMap<String, String>) -> Vec<String> {
    let wrong = EXPECTED
        .iter()
        .filter(|(name, expected)| !found.get(*name).is_some_and(|found| expected.contains(&found.as_str())));
    wrong.map(|(name, expected)| format!("{name}: {:?}, not {expected:?}", found.get(*name))).collect()
}

fn every_wall_stands_and_every_control_passes() {
    let found = probed(&mut setting("walls", &[]));
    assert_eq!(walls(&found), Vec::<String>::new());
    assert_eq!(found.len(), EXPECTED.len(), "an attempt that nobody judges");
}

fn a_command_can_neither_signal_nor_see_the_runtime() {
    // Signals and environ of the other side: by pid 2, which is the runtime.
    let setting = setting("sibling", &["/bin/sh", "-c", "while :; do sleep 1; done"]);
    let (cell, _output) = start(&setting.plan).unwrap();
    let (text, code) =
        exec(&cell, &["sh", "-c", "kill -9 2 || echo refused; test -e /proc/2 || echo unseen"]);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("refused") && text.contains("unseen"), "{text}");
    let (text, _) = exec(&cell, &["sh", "-c", "sleep 60 & kill -9 $! && echo own child signalled"]);
    assert!(text.contains("own child signalled"), "{text}");
    assert_eq!(cell.try_wait().unwrap(), None);
    end(cell);
}

fn a_nursery_that_was_killed_is_replaced() {
    let setting = setting("nursery", &["/bin/true"]);
    assert_eq!(run(&setting.plan).1, 0);
    let ours = format!("/proc/{0}/task/{0}/children", std::process::id());
    let nursery = || {
        let children = fs::read_to_string(&ours).unwrap();
        let named =
            |pid: &&str| fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap().contains("__nursery");
        let found = children.split_whitespace().find(named).unwrap().parse().unwrap();
        rustix::process::Pid::from_raw(found).unwrap()
    };
    let first = nursery();
    rustix::process::kill_process(first, rustix::process::Signal::KILL).unwrap();
    assert_eq!(run(&setting.plan).1, 0);
    assert_ne!(nursery(), first);
}

fn exec_gives_back_the_exit_status() {
    let setting = setting("exec", &["/bin/sleep", "1000"]);
    let (cell, _output) = start(&setting.plan).unwrap();
    assert_eq!(exec(&cell, &["sh", "-c", "exit 7"]).1, 7);
    assert_eq!(exec(&cell, &["sh", "-c", "kill -9 $$"]).1, 137);
    assert_eq!(exec(&cell, &["no-such-program"]).1, 127);
    assert_eq!(exec(&cell, &["/etc/passwd"]).1, 126);
    let (text, _) =
        exec(&cell, &["sh", "-c", "ls /proc/self/fd | tr '\\n' ' '; grep -c . /proc/self/cgroup; pwd"]);
    assert!(text.contains("0 1 2 3") && text.contains("/sandbox"), "{text}");
    let (text, _) = exec(&cell, &["grep", "-E", "CapBnd|Seccomp_filters|NoNewPrivs", "/proc/self/status"]);
    assert_eq!(text, "CapBnd:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp_filters:\t3\n");
    end(cell);
}

/// As a forked child, because what it does to itself cannot be undone.
fn a_service_leaves_no_child_and_stays_with_its_parent() {
    match process::fork().unwrap() {
        Forked::Child => {
            let refused = |done: io::Result<()>| done.is_err_and(|error| error.raw_os_error() == Some(1));
            let forked = || match process::fork() {
                Ok(Forked::Child) => process::exit(0),
                forked => forked.map(drop),
            };
            let before = forked().is_ok() && process::die_with_parent().is_ok();
            let confined = cofferdam_sandbox::confine::warden().is_ok();
            let threads = std::thread::spawn(|| 7).join().is_ok_and(|seven| seven == 7);
            let after = refused(forked()) && refused(process::die_with_parent());
            process::exit(u8::from(!(before && confined && threads && after)))
        }
        Forked::Parent(pid) => {
            let (_, status) =
                rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty()).unwrap().unwrap();
            assert_eq!(status.exit_status(), Some(0));
        }
    }
}

/// Only the command itself enters the cell's groups: what the launcher waits for takes nothing of the cell's.
fn a_command_runs_in_a_cell_that_used_up_its_processes() {
    let script = "import os,time\ntry:\n  while True:\n    if os.fork()==0: time.sleep(1000)\nexcept OSError: print('full', flush=True)\ntime.sleep(1000)";
    let mut setting = setting("full", &["/usr/bin/python3", "-c", script]);
    setting.plan.limits.pids = 20;
    let (cell, mut output) = start(&setting.plan).unwrap();
    let mut line = [0; 5];
    output.read_exact(&mut line).unwrap();
    assert_eq!(exec(&cell, &["sh", "-c", "exit 3"]).1, 3);
    // The control: it is in the group, where nothing more can be forked.
    assert_ne!(exec(&cell, &["sh", "-c", "/bin/true & wait $!"]).1, 0);
    end(cell);
}

fn terminate_reaches_the_runtime() {
    let setting =
        setting("term", &["/bin/sh", "-c", "trap 'exit 42' TERM; echo up; while :; do sleep 0.01; done"]);
    let (cell, mut output) = start(&setting.plan).unwrap();
    let mut up = [0; 3];
    output.read_exact(&mut up).unwrap();
    cell.terminate().unwrap();
    assert_eq!(finish(cell, output).1, Some(CellEvent::RuntimeEnded { status: "exit 42".into(), code: 42 }));
}

fn a_fork_bomb_stops_at_the_limit() {
    let script = "import os,time\nn=0\ntry:\n  while True:\n    if os.fork()==0: time.sleep(100)\n    n+=1\nexcept OSError as e: print(n<40, e.errno, flush=True)";
    let mut setting = setting("forks", &["/usr/bin/python3", "-c", script]);
    setting.plan.limits.pids = 40;
    let (cell, mut output) = start(&setting.plan).unwrap();
    let mut line = [0; 8];
    output.read_exact(&mut line).unwrap();
    assert_eq!(std::str::from_utf8(&line).unwrap(), "True 11\n");
    end(cell);
}

fn a_memory_bomb_dies_alone() {
    let mut setting = setting("memory", &["/bin/sleep", "1000"]);
    setting.plan.limits.memory_bytes = 96 << 20;
    let (cell, _output) = start(&setting.plan).unwrap();
    let bomb = "b=[]\nwhile True: b.append(bytearray(b'x'*(1<<20)))";
    assert_eq!(exec(&cell, &["/usr/bin/python3", "-c", bomb]).1, 137);
    assert_eq!(exec(&cell, &["/usr/bin/python3", "-c", "b=bytearray(b'x'*(8<<20))"]).1, 0);
    assert_eq!(cell.try_wait().unwrap(), None);
    end(cell);
}

fn a_frozen_cell_stands_still_goes_on_and_can_be_killed() {
    let script = "i=0; while :; do i=$((i+1)); echo $i > /sandbox/n.new; mv /sandbox/n.new /sandbox/n; done";
    let setting = setting("frozen", &["/bin/sh", "-c", script]);
    let (cell, _output) = start(&setting.plan).unwrap();
    let count = || fs::read_to_string(setting.plan.home.join("n")).unwrap_or_default();
    let moves = |within: Duration| {
        let (before, until) = (count(), Instant::now() + within);
        while Instant::now() < until {
            if count() != before {
                return true;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        false
    };
    assert!(moves(Duration::from_secs(10)));
    cell.freeze().unwrap();
    cell.freeze().unwrap();
    assert!(!moves(Duration::from_millis(300)));
    cell.thaw().unwrap();
    assert!(moves(Duration::from_secs(10)));
    cell.freeze().unwrap();
    end(cell);
}

/// Runs a command that forks so often.
fn forks(cell: &Cell, wanted: u32) -> u8 {
    let script =
        format!("import os,time\nfor i in range({wanted}):\n  if os.fork()==0: time.sleep(1); os._exit(0)");
    exec(cell, &["/usr/bin/python3", "-c", &script]).1
}

fn limits_change_in_a_cell_that_runs_or_not_at_all() {
    let mut setting = setting("changed", &["/bin/sleep", "1000"]);
    setting.plan.limits = Limits { memory_bytes: 512 << 20, pids: 50, ..Limits::default() };
    let (mut cell, _output) = start(&setting.plan).unwrap();
    let hold = "import time; b=bytearray(b'x'*(64<<20)); print('held', flush=True); time.sleep(1000)";
    let (mut reader, writer) = io::pipe().unwrap();
    let copy = writer.try_clone().unwrap();
    let argv = ["/usr/bin/python3", "-c", hold].map(String::from);
    let stdin = File::open("/dev/null").unwrap();
    let held = cell.exec(&argv, [stdin.into(), writer.into(), copy.into()], false).unwrap();
    reader.read_exact(&mut [0; 4]).unwrap();
    let usage = cell.usage();
    assert!(usage.memory_bytes.unwrap() >= 64 << 20 && usage.pids.unwrap() >= 3, "{usage:?}");
    assert!(usage.cpu_ms.is_some(), "{usage:?}");

    // Less than it uses: refused, and nothing else of the wish holds either.
    let before = cell.receipt.clone();
    let less = Limits { memory_bytes: 32 << 20, pids: 10, ..setting.plan.limits };
    let failure = Failure::from(cell.change_limits(&less).unwrap_err());
    assert!(failure.message.contains("in use") && !failure.mend.is_empty(), "{failure:?}");
    assert_eq!(cell.receipt, before);
    assert_eq!(forks(&cell, 20), 0);
    assert_ne!(forks(&cell, 60), 0);

    let more = Limits { memory_bytes: 768 << 20, pids: 200, cpu_percent: 50, ..setting.plan.limits };
    cell.change_limits(&more).unwrap();
    let row = cell.receipt.layers.iter().find(|row| row.layer == "cgroup pids").unwrap();
    assert!(row.detail.starts_with("200"), "{row:?}");
    assert_eq!(forks(&cell, 60), 0);
    let less = Limits { memory_bytes: 256 << 20, ..more };
    cell.change_limits(&less).unwrap();
    let bomb = "b=[]\nwhile True: b.append(bytearray(b'x'*(1<<20)))";
    assert_eq!(exec(&cell, &["/usr/bin/python3", "-c", bomb]).1, 137);
    // Init is not gone before what we started in its cell is reaped.
    cell.kill().unwrap();
    held.wait().unwrap();
    end(cell);
}

/// A cell whose home is an image; none where this machine can have none.
fn imaged(name: &str, argv: &[&str], megabytes: u64, inodes: u64) -> Option<(Setting, PathBuf)> {
    if let Some(lacking) = home_image::lacking() {
        println!("SKIPPED {name}: {lacking}");
        return None;
    }
    let mut setting = setting(name, argv);
    let image = setting.directory.path().join("home.img");
    setting.plan.limits = Limits { disk_bytes: megabytes << 20, inodes, ..Limits::default() };
    home_image::make(&image, (20_001, 20_001), &setting.plan.limits).unwrap();
    setting.plan.quota = Quota::Image(image.clone());
    Some((setting, image))
}

/// Writes until it may not; prints how much, and why it ended.
const FILL: &str = "import os,errno\nf=open('/sandbox/fill','wb',0); n=0\ntry:\n  while n<400: f.write(b'x'*(1<<20)); n+=1\n  os.fsync(f.fileno())\nexcept OSError as e: print(n, errno.errorcode[e.errno])\nelse: print(n, 'no end')";
const MANY: &str = "import errno\nn=0\ntry:\n  while n<100000: open(f'/sandbox/f{n}','w').close(); n+=1\nexcept OSError as e: print(n, errno.errorcode[e.errno])\nelse: print(n, 'no end')";

fn words(text: &str) -> (u64, String) {
    let (count, why) = text.trim().split_once(' ').unwrap();
    (count.parse().unwrap(), why.to_owned())
}

fn a_full_home_stops_at_its_limit_and_the_neighbours_can_still_write() {
    let Some((first, image)) = imaged("full-home", &["/bin/sleep", "1000"], 64, 2048) else { return };
    let Some((second, _)) = imaged("neighbour", &["/bin/sleep", "1000"], 64, 2048) else { return };
    let (cell, _output) = start(&first.plan).unwrap();
    let (other, _output) = start(&second.plan).unwrap();
    let row = cell.receipt.layers.iter().find(|row| row.layer == home_image::LAYER).unwrap();
    assert!(row.state == LayerState::Enforced && row.detail.contains("67108864"), "{row:?}");
    let (text, _) = exec(&cell, &["sh", "-c", "ls -a /sandbox | wc -l; touch /sandbox/mine && echo mine"]);
    assert_eq!(text, "2\nmine\n");

    let (wrote, why) = words(&exec(&cell, &["/usr/bin/python3", "-c", FILL]).0);
    assert!((32..64).contains(&wrote), "{wrote} MiB");
    assert!(["ENOSPC", "EDQUOT"].contains(&why.as_str()), "{why}");
    assert!(fs::metadata(&image).unwrap().blocks() * 512 <= 64 << 20);
    let usage = cell.usage();
    assert!(usage.disk_bytes.unwrap() > 60 << 20 && usage.disk_bytes.unwrap() <= 64 << 20, "{usage:?}");
    // The neighbour has its own, the host its own, and the cell goes on.
    let wrote = "head -c 20000000 /dev/zero > /sandbox/file && sync -f /sandbox/file; echo $?";
    assert_eq!(exec(&other, &["sh", "-c", wrote]).0, "0\n");
    fs::write(first.directory.path().join("host"), vec![0; 8 << 20]).unwrap();
    assert_eq!(exec(&cell, &["sh", "-c", "rm /sandbox/fill && echo x > /sandbox/mine; echo $?"]).0, "0\n");

    let (made, why) = words(&exec(&cell, &["/usr/bin/python3", "-c", MANY]).0);
    assert!((1900..2200).contains(&made), "{made} files");
    assert!(["ENOSPC", "EDQUOT"].contains(&why.as_str()), "{why}");
    assert_eq!(exec(&other, &["sh", "-c", "touch /sandbox/another; echo $?"]).0, "0\n");
    end(cell);
    end(other);
    // What was written is there at the next start, and a cell without a quota would have had no end.
    let (cell, _output) = start(&first.plan).unwrap();
    assert_eq!(exec(&cell, &["cat", "/sandbox/mine"]).0, "x\n");
    end(cell);
    let bare = setting("bare", &["/usr/bin/python3", "-c", FILL]);
    assert_eq!(words(&run(&bare.plan).0).1, "no end");
}

fn a_home_grows_under_a_running_cell_and_never_shrinks() {
    let Some((setting, image)) = imaged("growing", &["/bin/sleep", "1000"], 64, 2048) else { return };
    let (mut cell, _output) = start(&setting.plan).unwrap();
    let (before, _) = words(&exec(&cell, &["/usr/bin/python3", "-c", FILL]).0);
    let larger = Limits { disk_bytes: 160 << 20, inodes: 5120, ..setting.plan.limits };
    let mut cell = if cell.change_limits(&larger).unwrap() {
        cell
    } else {
        println!("a home grows at the next start here: the kernel asks for CAP_SYS_RESOURCE");
        let row = cell.receipt.layers.iter().find(|row| row.layer == home_image::LAYER).unwrap();
        assert!(row.detail.starts_with("67108864 bytes"), "{row:?}");
        end(cell);
        start(&CellPlan { limits: larger, ..setting.plan.clone() }).unwrap().0
    };
    let row = cell.receipt.layers.iter().find(|row| row.layer == home_image::LAYER).unwrap();
    assert!(row.detail.starts_with("167772160 bytes"), "{row:?}");
    let (after, why) = words(&exec(&cell, &["/usr/bin/python3", "-c", FILL]).0);
    assert!(after >= before + 80 && after < 160 && why == "ENOSPC", "{before} {after} {why}");
    // Neither smaller, nor other inodes than those of its bytes; and then nothing else changes either.
    let receipt = cell.receipt.clone();
    for wrong in [Limits { disk_bytes: 64 << 20, ..larger }, Limits { inodes: 100_000, ..larger }] {
        let wrong = Limits { pids: 9, ..wrong };
        let failure = Failure::from(cell.change_limits(&wrong).unwrap_err());
        assert!(!failure.mend.is_empty(), "{failure:?}");
        assert_eq!(cell.receipt, receipt);
    }
    end(cell);
    assert_eq!(fs::metadata(&image).unwrap().len(), 160 << 20);
    // At a start too.
    let mut plan = setting.plan.clone();
    plan.limits = Limits { disk_bytes: 256 << 20, inodes: 8192, ..larger };
    let (cell, _output) = start(&plan).unwrap();
    let (grown, _) = words(&exec(&cell, &["/usr/bin/python3", "-c", FILL]).0);
    assert!(grown >= after + 70, "{after} {grown}");
    end(cell);
}

/// Devices that hold the image of this path.
fn devices(image: &Path) -> usize {
    let held = |entry: fs::DirEntry| {
        let file = fs::read_to_string(entry.path().join("loop/backing_file")).unwrap_or_default();
        file.trim().starts_with(image.to_str().unwrap())
    };
    fs::read_dir("/sys/block")
        .unwrap()
        .flatten()
        .filter(|entry| entry.path().exists())
        .map(held)
        .filter(|held| *held)
        .count()
}

fn nothing_of_an_image_stays_when_its_cell_and_launcher_are_killed() {
    let Some((setting, image)) = imaged("killed", &["/bin/sleep", "1000"], 64, 2048) else { return };
    let (mut says, tells) = io::pipe().unwrap();
    let Forked::Parent(launcher) = process::fork().unwrap() else {
        let (cell, _output) = start(&setting.plan).unwrap();
        let (text, _) = exec(&cell, &["sh", "-c", "echo kept > /sandbox/kept; echo $?"]);
        (&tells).write_all(text.as_bytes()).unwrap();
        std::thread::sleep(Duration::from_secs(1000));
        process::exit(0)
    };
    drop(tells);
    says.read_exact(&mut [0; 2]).unwrap();
    // The control: it is held, and the host has no such mount.
    assert_eq!(devices(&image), 1);
    assert!(!fs::read_to_string("/proc/self/mountinfo").unwrap().contains("/dev/loop"));
    rustix::process::kill_process(launcher, rustix::process::Signal::KILL).unwrap();
    rustix::process::waitpid(Some(launcher), rustix::process::WaitOptions::empty()).unwrap();
    sweep(&format!("test-{}", std::process::id())).unwrap();
    let given_up = Instant::now() + Duration::from_secs(10);
    while devices(&image) > 0 && Instant::now() < given_up {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(devices(&image), 0);
    let (cell, _output) = start(&setting.plan).unwrap();
    assert_eq!(exec(&cell, &["cat", "/sandbox/kept"]).0, "kept\n");
    end(cell);
}

fn a_limit_of_io_says_how_far_it_holds() {
    let setting = setting("io", &["/bin/sleep", "1000"]);
    let (cell, _output) = start(&setting.plan).unwrap();
    let row = cell.receipt.layers.iter().find(|row| row.layer == "cgroup io").unwrap();
    // Where the controller is version 1's, and where there is none, the row says why.
    if row.state != LayerState::Enforced {
        assert!(!row.detail.is_empty(), "{row:?}");
        println!("io is {:?} here: {}", row.state, row.detail);
    }
    end(cell);
}

fn a_captured_cell_gives_listeners_and_marked_sockets() {
    let mut setting = setting("captured", &["/bin/sleep", "1000"]);
    setting.plan.network = Network::Captured { port: 18789, mark: 77 };
    let (cell, _output) = start(&setting.plan).unwrap();
    let cookie = cell.netns_cookie.unwrap();
    assert!(cell.listeners.is_some());
    for socket in cell.sockets(3).unwrap() {
        assert_eq!(cofferdam_sys::netns::cookie(socket.as_fd()).unwrap(), cookie);
    }
    assert_ne!(cofferdam_sys::netns::current_cookie().unwrap(), cookie);
    end(cell);
}

fn cells_that_follow_one_another_have_networks_of_their_own() {
    let mut setting = setting("network", &["/bin/sleep", "1000"]);
    setting.plan.network = Network::Captured { port: 18789, mark: 77 };
    // Not what is looked for, and made by the same call.
    setting.plan.without = vec![Protection::CgroupNamespace];
    let three = || {
        let plans = ["one", "two", "three"].map(|name| CellPlan {
            cgroup: format!("{}-{name}", setting.plan.cgroup),
            ..setting.plan.clone()
        });
        // Apart, so that the nursery has the time to make the next network.
        let cells = plans.map(|plan| {
            std::thread::sleep(Duration::from_millis(50));
            start(&plan).unwrap().0
        });
        let cookies: BTreeSet<_> = cells.iter().map(|cell| cell.netns_cookie.unwrap()).collect();
        let networks: BTreeSet<PathBuf> = cells.iter().map(|cell| network_of(cell.pid)).collect();
        assert!(!networks.contains(&network_of(std::process::id().cast_signed())));
        let nursery = cofferdam_sandbox::living_nursery().map(|pid| network_of(pid.cast_signed()));
        let stays = nursery.is_some_and(|network| networks.contains(&network));
        for cell in cells {
            end(cell);
        }
        format!("{} networks, {} cookies, stays: {stays}", networks.len(), cookies.len())
    };
    assert_eq!(three(), "3 networks, 3 cookies, stays: false");
    // A nursery that is told that it is in another network, and is where it was.
    for call in [call::SYS_unshare, call::SYS_setns] {
        let told = filtered(Row { call, when: &[] }, 0, three);
        assert_eq!(told, "3 networks, 3 cookies, stays: false");
    }
}

/// Empty for a process that has just ended.
fn network_of(pid: i32) -> PathBuf {
    fs::read_link(format!("/proc/{pid}/ns/net")).unwrap_or_default()
}

/// A kernel that lacks something: a filter over the whole of a launcher makes the call fail as if it did.
const LACKS: &[(&str, Row, i32)] = &[
    ("user namespace", Row { call: call::SYS_clone3, when: &[] }, ENOSYS),
    ("uts namespace", Row { call: call::SYS_sethostname, when: &[] }, EPERM),
    ("network", Row { call: call::SYS_socket, when: &[(0, Is::Equal(16)), (2, Is::Equal(0))] }, ENOSYS),
    ("capture", Row { call: call::SYS_socket, when: &[(0, Is::Equal(16)), (2, Is::Equal(12))] }, ENOSYS),
    ("mount namespace", Row { call: call::SYS_move_mount, when: &[] }, ENOSYS),
    ("cgroup namespace", Row { call: call::SYS_unshare, when: &[] }, EPERM),
    ("keyring", Row { call: call::SYS_keyctl, when: &[] }, EPERM),
    ("rlimits", Row { call: call::SYS_prlimit64, when: &[(1, Is::Equal(4)), (2, Is::Given)] }, EPERM),
    ("capabilities", Row { call: call::SYS_prctl, when: &[(0, Is::Equal(24))] }, EPERM),
    ("landlock", Row { call: call::SYS_landlock_restrict_self, when: &[] }, ENOSYS),
];

/// Every kernel that we run on has these; what mends a filter of the operator's own he knows.
const SELF_EXPLAINING: &[&str] = &["uts namespace", "cgroup namespace", "keyring", "rlimits", "capabilities"];
const EPERM: i32 = 1;
const ENOSYS: i32 = 38;

fn a_layer_that_cannot_be_applied_stops_the_start_and_names_itself_and_its_mend() {
    for (layer, row, errno) in LACKS {
        let mut setting = setting("lacking", &["/bin/true"]);
        setting.plan.network = Network::Captured { port: 18789, mark: 77 };
        let told = filtered(*row, *errno, || match start(&setting.plan) {
            Err(error) => {
                let Failure { message, mend } = Failure::from(error);
                format!("{message}; mend: {mend}")
            }
            Ok((cell, _)) => {
                end(cell);
                "it started".to_owned()
            }
        });
        assert!(told.contains(layer) && told.contains("os error"), "{layer}: {told}");
        assert!(SELF_EXPLAINING.contains(layer) || !told.ends_with("mend: "), "{layer}: {told}");
        // The control: without the lack the same cell starts.
        assert_eq!(run(&setting.plan).1, 0, "{layer}");
    }
}

/// A kernel that says yes and does nothing: the same filter, with an errno of 0.
const PRETENDS: &[(&str, Row)] = &[
    ("layer uts namespace", Row { call: call::SYS_sethostname, when: &[] }),
    ("layer cgroup namespace", Row { call: call::SYS_unshare, when: &[] }),
    ("layer mount namespace", Row { call: call::SYS_mount_setattr, when: &[] }),
    ("layer rlimits", Row { call: call::SYS_prlimit64, when: &[(1, Is::Equal(4)), (2, Is::Given)] }),
    ("layer rlimits", Row { call: call::SYS_prlimit64, when: &[(1, Is::Equal(7)), (2, Is::Given)] }),
    ("layer keyring", Row { call: call::SYS_keyctl, when: &[(0, Is::Equal(1))] }),
    ("layer keyring", Row { call: call::SYS_keyctl, when: &[] }),
    // The listeners of the capture are no transparent ones: of both families, and of each.
    ("layer capture", Row { call: call::SYS_setsockopt, when: &[(1, Is::Equal(0)), (2, Is::Equal(19))] }),
    ("layer capture", Row { call: call::SYS_setsockopt, when: &[(1, Is::Equal(41)), (2, Is::Equal(75))] }),
    ("layer capabilities", Row { call: call::SYS_prctl, when: &[(0, Is::Equal(24))] }),
    ("the cell ended while it was built", Row { call: call::SYS_capset, when: &[] }),
    ("layer landlock", Row { call: call::SYS_landlock_restrict_self, when: &[] }),
    ("layer seccomp", Row { call: call::SYS_seccomp, when: &[(0, Is::Equal(1))] }),
];

fn a_layer_that_is_silently_off_is_noticed_before_the_runtime_starts() {
    for (layer, row) in PRETENDS {
        let mut setting = setting("pretending", &["/bin/sh", "-c", "touch /sandbox/ran"]);
        setting.plan.network = Network::Captured { port: 18789, mark: 77 };
        let told = filtered(*row, 0, || match start(&setting.plan) {
            Err(error) => error.to_string(),
            Ok((cell, _)) => {
                end(cell);
                "it started".to_owned()
            }
        });
        assert!(told.starts_with(layer), "{layer} {row:?}: {told}");
        assert!(!setting.plan.home.join("ran").exists(), "{layer}");
    }
}

/// In a child, under a filter that makes a call fail so.
fn filtered(row: Row, errno: i32, work: impl FnOnce() -> String) -> String {
    let (mut says, tells) = io::pipe().unwrap();
    match process::fork().unwrap() {
        Forked::Child => {
            rustix::thread::set_no_new_privs(true).unwrap();
            let filter = Program::build([row], Action::Fail(errno), Action::Allow).unwrap();
            seccomp::install(&filter).unwrap();
            (&tells).write_all(work().as_bytes()).unwrap();
            process::exit(0)
        }
        Forked::Parent(pid) => {
            drop(tells);
            let mut told = String::new();
            says.read_to_string(&mut told).unwrap();
            rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty()).unwrap();
            told
        }
    }
}

fn each_protection_that_is_left_out_shows_in_the_receipt() {
    let whole = setting("whole", &["/bin/true"]);
    let network = Network::Captured { port: 18789, mark: 77 };
    let plan = CellPlan { network, ..whole.plan.clone() };
    let receipt = |plan: &CellPlan| {
        start(plan).map(|(cell, output)| {
            let receipt = cell.receipt.clone();
            finish(cell, output);
            receipt.layers
        })
    };
    // Of io version 1 gives a part only.
    for row in receipt(&plan).unwrap().iter().filter(|row| row.layer != "cgroup io") {
        assert_eq!(row.state, LayerState::Enforced, "{row:?}");
    }
    let mut survivors = Vec::new();
    for protection in Protection::all() {
        match receipt(&CellPlan { without: vec![protection], ..plan.clone() }) {
            Ok(rows) => {
                let weak: Vec<_> = rows.iter().filter(|row| row.state != LayerState::Enforced).collect();
                if weak.iter().all(|row| row.layer != protection.layer()) {
                    survivors.push(format!("{protection}: {weak:?}"));
                }
            }
            Err(error) => survivors.push(format!("{protection}: {error}")),
        }
    }
    assert_eq!(survivors, Vec::<String>::new());
}

fn a_program_that_is_not_there_names_its_layer() {
    let setting = setting("absent", &["/no/such/program"]);
    match start(&setting.plan) {
        Err(Error::Layer(failure)) => assert_eq!(failure.layer, "runtime"),
        other => panic!("{other:?}"),
    }
}

fn a_sweep_kills_what_an_earlier_launcher_left() {
    let setting = setting("swept", &["/bin/sleep", "1000"]);
    let (cell, _output) = start(&setting.plan).unwrap();
    // Init is our child until it is reaped, so the sweep needs it gone from its groups first: by its own kill.
    let removed = sweep(&format!("test-{}", std::process::id())).unwrap();
    assert!(removed.contains(&"swept".to_owned()), "{removed:?}");
    cell.wait().unwrap();
    cell.remove().unwrap();
}

fn node_git_python_curl_and_a_shell_work() {
    let script = "set -e; cd /sandbox; \
        node -e 'const os=require(\"os\");fetch(\"http://127.0.0.1:4321/\").catch(e=>console.log(\"node\",os.cpus().length>0,e.cause.code,Object.keys(os.networkInterfaces()).length));new (require(\"worker_threads\").Worker)(\"1\",{eval:true})'; \
        git init -q r; cd r; git -c user.name=a -c user.email=a@b commit -q --allow-empty -m x; git log --oneline | wc -l; \
        python3 -c 'import subprocess,threading,sqlite3,ssl;subprocess.run([\"true\"],check=True);print(\"python\")'; \
        curl -s http://127.0.0.1:1/ || echo curl $?; ls / >/dev/null; echo a | cat | tee /tmp/f; date +shell";
    let mut setting = setting("tools", &["/bin/sh", "-c", script]);
    setting.plan.network = Network::Captured { port: 18789, mark: 77 };
    let (text, code) = run(&setting.plan);
    assert_eq!(code, 0, "{text}");
    for expected in ["node true ECONNREFUSED", "\n1\n", "python", "curl 7", "shell"] {
        assert!(text.contains(expected), "{expected} is not in {text}");
    }
    assert!(!text.contains("not permitted"), "{text}");
}

fn homes_are_made_and_removed_without_following_links() {
    let directory = tempfile::tempdir().unwrap();
    open_to_all(directory.path());
    let (tenants, outside) = (directory.path().join("tenants"), directory.path().join("outside"));
    fs::create_dir(&tenants).unwrap();
    fs::create_dir(&outside).unwrap();
    open_to_all(&tenants);
    fs::write(outside.join("kept"), "x").unwrap();
    let owner = Some((20_001, 20_001));
    cofferdam_sandbox::tenant_files::make_home(&tenants, "acme", owner).unwrap();
    let home = tenants.join("acme/home");
    fs::write(tenants.join("acme/home.img"), "").unwrap();
    fs::create_dir_all(home.join("a/b")).unwrap();
    fs::write(home.join("a/b/c"), "x").unwrap();
    std::os::unix::fs::symlink(&outside, home.join("a/link")).unwrap();
    for path in ["a", "a/b", "a/b/c"] {
        std::os::unix::fs::chown(home.join(path), Some(20_001), Some(20_001)).unwrap();
    }
    cofferdam_sandbox::tenant_files::remove_home(&tenants, "acme", owner).unwrap();
    assert!(!tenants.join("acme").exists());
    assert!(outside.join("kept").exists());
    // A tenant's directory that became a link is refused, not followed.
    std::os::unix::fs::symlink(&outside, tenants.join("globex")).unwrap();
    assert!(cofferdam_sandbox::tenant_files::remove_home(&tenants, "globex", owner).is_err());
    assert!(outside.join("kept").exists());
}

fn without_root_the_same_walls_stand() {
    let directory = tempfile::tempdir().unwrap();
    open_to_all(directory.path());
    let home: PathBuf = directory.path().join("nobody");
    fs::create_dir(&home).unwrap();
    std::os::unix::fs::chown(&home, Some(65_534), Some(65_534)).unwrap();
    match process::fork().unwrap() {
        Forked::Child => {
            let program = File::open("/proc/self/exe").unwrap();
            process::become_user(65_534, 65_534, true).unwrap();
            let text = |text: &str| CString::new(text).unwrap();
            let argv = [text("cells"), text("__rootless"), text(home.to_str().unwrap())];
            let error = process::exec_fd(program.as_fd(), &argv, &[]);
            println!("{error}");
            process::exit(9)
        }
        Forked::Parent(pid) => {
            let status = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty());
            assert_eq!(status.unwrap().unwrap().1.exit_status(), Some(0));
        }
    }
}

fn rootless_child(home: &Path) {
    let mut setting = Setting {
        directory: tempfile::tempdir_in(home).unwrap(),
        plan: CellPlan {
            profile: Profile::Rootless,
            uid: 65_534,
            gid: 65_534,
            ..setting("rootless", &[]).plan
        },
    };
    setting.plan.home = setting.directory.path().join("home");
    fs::create_dir(&setting.plan.home).unwrap();
    setting.plan.network = Network::Captured { port: 18789, mark: 77 };
    let found = probed(&mut setting);
    let mut wrong = walls(&found);
    wrong.retain(|row| !row.starts_with("uid"));
    assert_eq!(wrong, Vec::<String>::new());
    setting.plan.argv = vec!["/bin/sleep".into(), "1000".into()];
    let (cell, _output) = start(&setting.plan).unwrap();
    assert!(cell.receipt.layers.iter().any(|row| row.state == LayerState::Absent && !row.detail.is_empty()));
    assert_eq!(cell.sockets(2).unwrap().len(), 2);
    assert_eq!(exec(&cell, &["sh", "-c", "exit 7"]).1, 7);
    end(cell);
    let strict = CellPlan { profile: Profile::Strict, ..setting.plan };
    assert!(start(&strict).is_err());
}
