//! A whole host in the world of a test: the program's own `serve` in the host namespace, driven by its own
//! command line.
//!
//! Dropping it ends the host and shows that nothing of it stays: no process, no cgroup, no mount. Needs root,
//! for the world around it; in `rootless.rs` the host itself is a user's.
#![allow(dead_code, unreachable_pub, missing_debug_implementations, clippy::unwrap_used)]
#![allow(clippy::disallowed_methods, clippy::must_use_candidate, clippy::format_collect)]

pub mod gateway;

use super::world::{
    World,
    http::{Reply, send},
};
use serde_json::Value;
use std::{
    fmt::Write as _,
    fs,
    io::Write as _,
    net::{SocketAddr, TcpStream},
    os::{
        linux::net::SocketAddrExt,
        unix::{
            fs::{DirBuilderExt, FileExt, MetadataExt, PermissionsExt, chown},
            net::{SocketAddr as UnixAddress, UnixListener},
            process::CommandExt,
        },
    },
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};
use tokio_tungstenite::tungstenite::{
    WebSocket,
    client::client,
    handshake::{HandshakeError, client::generate_key},
    http::Request,
};

/// The program under test.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_cofferdam");
/// Is the host started without root?
pub const ROOTLESS: bool = matches!(env!("CARGO_CRATE_NAME").as_bytes(), b"rootless");
/// Where the edge listens in the host namespace.
pub const PORT: u16 = 8471;
/// How many uids a host may take.
const SPAN: u32 = 0x4_0000;
/// Nothing here takes this long; whoever waits longer would wait for ever.
const PATIENCE: Duration = Duration::from_mins(2);

/// A running host.
pub struct Host {
    /// What is around it.
    pub world: World,
    /// Its data directory.
    pub dir: PathBuf,
    /// What a shell does before it becomes the launcher.
    pub prelude: Option<&'static str>,
    program: PathBuf,
    server: Option<Child>,
    uids: u32,
    mounts: Vec<String>,
    _lease: UnixListener,
}

/// A directory with mode 0711, which every uid of a host may pass.
pub fn fresh_dir() -> PathBuf {
    let mut bytes = [0; 8];
    aws_lc_rs::rand::fill(&mut bytes).unwrap();
    let path = std::env::temp_dir().join(format!("cofferdam-test-{:016x}", u64::from_le_bytes(bytes)));
    fs::DirBuilder::new().mode(0o711).create(&path).unwrap();
    path
}

/// A range of uids that no other test of this machine has.
pub fn lease_uids() -> (UnixListener, u32) {
    (0..64)
        .find_map(|number| {
            let name = UnixAddress::from_abstract_name(format!("cofferdam-test-uids-{number}")).unwrap();
            let lease = UnixListener::bind_addr(&name).ok()?;
            Some((lease, 1_600_000_000 + number * SPAN))
        })
        .unwrap()
}

/// Waits until something is there.
pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "{what} never came");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The lines of this process's mount table.
pub fn mounts() -> Vec<String> {
    fs::read_to_string("/proc/self/mountinfo").unwrap().lines().map(String::from).collect()
}

/// Every process as its number, its real uid and its command line.
pub fn processes() -> Vec<(i32, u32, String)> {
    let one = |entry: fs::DirEntry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let status = fs::read_to_string(entry.path().join("status")).ok()?;
        if status.lines().any(|line| line.starts_with("State:\tZ")) {
            return None;
        }
        let uid = status.lines().find_map(|line| line.strip_prefix("Uid:\t"))?;
        let uid = uid.split('\t').next()?.parse().ok()?;
        let line = fs::read(entry.path().join("cmdline")).ok()?;
        Some((pid, uid, String::from_utf8_lossy(&line).replace('\0', " ")))
    };
    fs::read_dir("/proc").unwrap().flatten().filter_map(one).collect()
}

/// Every cgroup of any host.
pub fn cgroups() -> Vec<PathBuf> {
    fn walk(dir: &Path, ours: bool, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                let ours = ours || entry.file_name().to_string_lossy().starts_with("cofferdam.");
                if ours {
                    found.push(entry.path());
                }
                walk(&entry.path(), ours, found);
            }
        }
    }
    let mut found = Vec::new();
    walk(Path::new("/sys/fs/cgroup"), false, &mut found);
    found.sort();
    found
}

impl Host {
    /// A host without tenants.
    pub fn start() -> Self {
        let mut host = Self::prepare("");
        host.serve();
        host
    }

    /// A host with running tenants, each with the echo server.
    pub fn with(tenants: &[&str]) -> Self {
        let host = Self::start();
        for id in tenants {
            host.create(id);
        }
        host
    }

    /// A host that is configured and not started; `more` goes to the end of its configuration.
    pub fn prepare(more: &str) -> Self {
        let (lease, uids) = lease_uids();
        let (world, dir, mounts) = (World::new(), fresh_dir(), mounts());
        // A user may not pass the directories above the build.
        let program = if ROOTLESS { dir.with_extension("program") } else { PROGRAM.into() };
        if ROOTLESS {
            fs::copy(PROGRAM, &program).unwrap();
            fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).unwrap();
            chown(&dir, Some(uids), Some(uids)).unwrap();
        }
        let profile = if ROOTLESS { "rootless" } else { "strict" };
        let mut config = format!(
            "profile = \"{profile}\"\n[edge]\nlisten = \"127.0.0.1:{PORT}\"\n\
             [egress]\nnameservers = [\"{}\"]\n[uids]\nbase = {uids}\n\
             [runtime.command.echo]\nargv = [\"/opt/cofferdam/cofferdam\", \"__echo\"]\nport = 8080\n\
             binds = [{{ source = \"{}\", target = \"/opt/cofferdam/cofferdam\" }}]\n",
            world.nameserver(),
            program.display()
        );
        let _ = write!(config, "{more}");
        fs::write(dir.join("cofferdam.toml"), config).unwrap();
        Self { world, dir, prelude: None, program, server: None, uids, mounts, _lease: lease }
    }

    /// Starts the host and waits until the edge serves.
    pub fn serve(&mut self) {
        self.spawn();
        until("a serving edge", || {
            if let Some(status) = self.server.as_mut().unwrap().try_wait().unwrap() {
                self.server = None;
                panic!("the host ended with {status}:\n{}", self.log());
            }
            let status = self.cli(&["--json", "status"]);
            let status: Value = serde_json::from_slice(&status.stdout).ok()?;
            (status["edge"] == true).then_some(())
        });
    }

    /// Starts the host.
    pub fn spawn(&mut self) {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.log_path()).unwrap();
        let mut command = match self.prelude {
            None => Command::new(&self.program),
            Some(prelude) => {
                let mut shell = Command::new("/bin/sh");
                shell.arg("-c").arg(format!("{prelude}\nexec \"$0\" \"$@\"")).arg(&self.program);
                shell
            }
        };
        command.arg("--data-dir").arg(&self.dir).arg("serve").env_remove("RUST_LOG");
        if ROOTLESS {
            command.uid(self.uids).gid(self.uids).env("HOME", &self.dir).current_dir("/");
        }
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        // A child that another test is just making has the copy of the program open for writing until it executes.
        let started = until("a program that nobody writes", || match self.world.host(|| command.spawn()) {
            Err(error) if error.kind() == std::io::ErrorKind::ExecutableFileBusy => None,
            started => Some(started.unwrap()),
        });
        self.server = Some(started);
    }

    /// The launcher's process number.
    pub fn launcher(&self) -> i32 {
        i32::try_from(self.server.as_ref().unwrap().id()).unwrap()
    }

    /// What the host wrote to standard error.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// The uids that are this host's alone.
    pub fn uids(&self) -> std::ops::Range<u32> {
        self.uids..self.uids + SPAN
    }

    /// Where that is written to.
    pub fn log_path(&self) -> PathBuf {
        self.dir.with_extension("log")
    }

    /// SIGTERM, the end, and the launcher's exit code.
    pub fn stop(&mut self) -> Option<i32> {
        let mut server = self.server.take()?;
        let pid = rustix::process::Pid::from_child(&server);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        server.wait().unwrap().code()
    }

    /// Waits for a launcher that ends by itself.
    pub fn ended(&mut self) -> Option<i32> {
        self.server.take().unwrap().wait().unwrap().code()
    }

    /// Ends the host and starts it again.
    pub fn restart(&mut self) {
        assert_eq!(self.stop(), Some(0), "{}", self.log());
        self.serve();
    }

    /// Makes a tenant and waits until it is ready.
    pub fn create(&self, id: &str) {
        self.json(&["tenant", "create", id, "--runtime", "command:echo", "--start"]);
        self.ready(id);
    }

    /// Waits until a tenant is ready.
    pub fn ready(&self, id: &str) -> Value {
        until(&format!("a ready {id}"), || {
            let shown = self.cli(&["--json", "tenant", "show", id]);
            let shown: Value = serde_json::from_slice(&shown.stdout).ok()?;
            // Only asking again helps: waiting for it would hide why.
            assert!(shown["state"] != "failed", "{shown}");
            (shown["state"] == "running" && shown["warden"] == true && !shown["policy_in_force"].is_null())
                .then_some(shown)
        })
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        command.arg("--data-dir").arg(&self.dir).args(arguments).stdin(Stdio::null());
        command
    }

    /// The command line, typed by the user who runs the host.
    pub fn own(&self, arguments: &[&str]) -> Output {
        let mut command = self.command(arguments);
        if ROOTLESS {
            command = Command::new(&self.program);
            command.arg("--data-dir").arg(&self.dir).args(arguments).stdin(Stdio::null());
            command.uid(self.uids).gid(self.uids).env("HOME", &self.dir).current_dir("/");
        }
        self.world.host(|| command.output()).unwrap()
    }

    /// The command line.
    pub fn cli(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// The command line, which must succeed; its JSON.
    pub fn json(&self, arguments: &[&str]) -> Value {
        let output = self.cli(&[&["--json"], arguments].concat());
        assert!(output.status.success(), "{arguments:?}: {output:?}\n{}", self.log());
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// The command line with something on its standard input.
    pub fn feed(&self, arguments: &[&str], input: &str) -> Output {
        let mut command = self.command(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // One that refuses before it reads is judged by its answer.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        child.wait_with_output().unwrap()
    }

    /// Sets a policy, which must be accepted and in force.
    pub fn policy(&self, tenant: &str, text: &str) {
        let output = self.feed(&["--json", "policy", "set", tenant, "-"], text);
        assert!(output.status.success(), "{output:?}");
        let set: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(set["in_force"], true, "{set}");
    }

    /// Runs a command in a cell to its end.
    pub fn exec(&self, tenant: &str, argv: &[&str]) -> Output {
        self.cli(&[&["tenant", "exec", tenant, "--"], argv].concat())
    }

    /// Runs a Python program in a cell; what it prints.
    pub fn python(&self, tenant: &str, program: &str) -> String {
        let output = self.exec(tenant, &["python3", "-I", "-c", program]);
        assert!(output.status.success(), "{output:?}\n{}", self.log());
        String::from_utf8(output.stdout).unwrap()
    }

    /// Starts the command line.
    pub fn begin_cli(&self, arguments: &[&str]) -> Child {
        self.command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// Starts a command in a cell.
    pub fn begin(&self, tenant: &str, argv: &[&str]) -> Child {
        let mut command = self.command(&[&["tenant", "exec", tenant, "--"], argv].concat());
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// A new token.
    pub fn token(&self, tenant: &str, role: &str) -> (String, String) {
        let issued = self.json(&["token", "issue", tenant, "--subject", "ann", "--role", role]);
        (issued["token"].as_str().unwrap().to_owned(), issued["jti"].as_str().unwrap().to_owned())
    }

    /// A request at a tenant's origin, from inside the host namespace; `headers` are whole lines.
    pub fn http(&self, tenant: &str, path: &str, headers: &[&str]) -> Reply {
        let lines: String = headers.iter().map(|line| format!("{line}\r\n")).collect();
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {tenant}.localhost:{PORT}\r\nConnection: close\r\n{lines}\r\n"
        );
        self.world.host(|| send(edge(), &request)).unwrap()
    }

    /// The same with a token.
    pub fn get(&self, tenant: &str, path: &str, token: &str) -> Reply {
        self.http(tenant, path, &[&format!("Authorization: Bearer {token}")])
    }

    /// A WebSocket at a tenant's `/ws`, or the status of the refusal.
    pub fn ws(&self, tenant: &str, token: &str) -> Result<WebSocket<TcpStream>, u16> {
        let stream = self.world.host(|| TcpStream::connect(edge())).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let request = Request::builder()
            .uri(format!("ws://{tenant}.localhost:{PORT}/ws"))
            .header("host", format!("{tenant}.localhost:{PORT}"))
            .header("connection", "Upgrade")
            .header("upgrade", "websocket")
            .header("sec-websocket-version", "13")
            .header("sec-websocket-key", generate_key())
            .header("authorization", format!("Bearer {token}"))
            .body(())
            .unwrap();
        match client(request, stream) {
            Ok((socket, _)) => Ok(socket),
            Err(HandshakeError::Failure(tokio_tungstenite::tungstenite::Error::Http(answer))) => {
                Err(answer.status().as_u16())
            }
            Err(error) => panic!("{error}"),
        }
    }

    /// The processes of this host, by uid and data directory.
    pub fn own_processes(&self) -> Vec<(i32, u32, String)> {
        let name = self.dir.to_str().unwrap();
        let mut found = processes();
        found.retain(|(_, uid, line)| self.uids().contains(uid) || line.contains(name));
        found
    }

    /// The processes of a tenant's cell, as the host numbers them. Without root cells share a uid, and this is
    /// for a host with one tenant.
    pub fn cell_processes(&self, tenant: &str) -> Vec<i32> {
        let owner = fs::metadata(self.dir.join("tenants").join(tenant).join("home")).unwrap().uid();
        let namespace = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
        let ours = namespace("self");
        let mut found = processes();
        found.retain(|(pid, uid, _)| {
            *uid == owner && namespace(&pid.to_string()).is_some_and(|theirs| Some(theirs) != ours)
        });
        found.into_iter().map(|(pid, ..)| pid).collect()
    }

    /// Where in a tenant's cell any of some words is, seen by the host's root: in the environment, the arguments and every
    /// readable byte of memory of every process, and in every file of its home and its configuration.
    pub fn places(&self, tenant: &str, words: &[&str]) -> Vec<String> {
        let mut found = Vec::new();
        let mut look = |place: String, bytes: &[u8]| {
            if words.iter().any(|word| memchr::memmem::find(bytes, word.as_bytes()).is_some()) {
                found.push(place);
            }
        };
        for pid in self.cell_processes(tenant) {
            for name in ["environ", "cmdline"] {
                let path = format!("/proc/{pid}/{name}");
                look(path.clone(), &fs::read(&path).unwrap_or_default());
            }
            let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
            let Ok(memory) = fs::File::open(format!("/proc/{pid}/mem")) else { continue };
            for line in maps.lines().filter(|line| line.contains(" r") && !line.contains("[vvar")) {
                let (range, _) = line.split_once(' ').unwrap();
                let (first, last) = range.split_once('-').unwrap();
                let [first, last] = [first, last].map(|end| u64::from_str_radix(end, 16).unwrap());
                read_memory(&memory, first..last, |bytes| look(format!("/proc/{pid}/mem"), bytes));
            }
        }
        // A home with a quota is seen through its cell, not as the file system that it is.
        let homes = self.cell_processes(tenant).into_iter().min();
        let home = homes.map(|init| PathBuf::from(format!("/proc/{init}/root/sandbox")));
        let mut directories: Vec<PathBuf> = home.into_iter().collect();
        directories.push(self.dir.join("tenants").join(tenant));
        while let Some(directory) = directories.pop() {
            for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
                let (path, kind) = (entry.path(), entry.file_type().unwrap());
                if kind.is_dir() {
                    directories.push(path);
                } else if kind.is_file() && !path.ends_with("home.img") {
                    look(path.display().to_string(), &fs::read(&path).unwrap_or_default());
                }
            }
        }
        found.dedup();
        found
    }

    /// The one process of this host whose command line contains this.
    pub fn process(&self, entry: &str) -> Option<i32> {
        self.own_processes().into_iter().find(|(_, _, line)| line.contains(entry)).map(|(pid, ..)| pid)
    }

    /// A part of this host: `launcher`, `init TENANT`, or what a command line contains.
    pub fn part(&self, name: &str) -> Option<i32> {
        match name.strip_prefix("init ") {
            Some(tenant) => self.cell_processes(tenant).into_iter().min(),
            None if name == "launcher" => Some(self.launcher()),
            None => self.process(name),
        }
    }

    /// The name of this host's cgroups.
    pub fn instance(&self) -> String {
        instance(&self.dir)
    }

    /// Shows that nothing of a host that ended is there.
    pub fn assert_gone(&self) {
        assert_eq!(self.own_processes(), [], "processes stay");
        let instance = self.instance();
        let groups: Vec<_> =
            cgroups().into_iter().filter(|path| path.to_string_lossy().contains(&instance)).collect();
        assert!(groups.is_empty(), "{groups:?} stay");
        let name = self.dir.to_str().unwrap();
        assert!(
            !mounts().iter().any(|line| line.contains(name) && !self.mounts.contains(line)),
            "mounts stay"
        );
    }
}

/// The name of the cgroups of the host that has this data directory.
pub fn instance(dir: &Path) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, dir.to_str().unwrap().as_bytes());
    digest.as_ref()[..8].iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

/// Reads what can be read of a range, in pieces that overlap by more than any word that is looked for.
fn read_memory(memory: &fs::File, range: std::ops::Range<u64>, mut look: impl FnMut(&[u8])) {
    const PIECE: u64 = 4 << 20;
    const OVERLAP: u64 = 4096;
    let mut piece = vec![0; usize::try_from(PIECE + OVERLAP).unwrap()];
    let mut at = range.start;
    while at < range.end {
        let length = usize::try_from((range.end - at).min(PIECE + OVERLAP)).unwrap();
        if let Ok(read) = memory.read_at(&mut piece[..length], at) {
            look(&piece[..read]);
        }
        at += PIECE;
    }
}

/// Where the edge listens.
pub fn edge() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], PORT))
}

impl Drop for Host {
    fn drop(&mut self) {
        let code = self.server.is_some().then(|| self.stop());
        let log = self.log();
        // Before anything is judged, so that a host which fails leaves no files either.
        let _ = fs::remove_file(self.log_path());
        if ROOTLESS {
            let _ = fs::remove_file(&self.program);
        }
        let _ = fs::remove_dir_all(&self.dir);
        if std::thread::panicking() {
            eprintln!("--- the host's log\n{log}");
            return;
        }
        if let Some(code) = code {
            assert_eq!(code, Some(0), "{log}");
        }
        self.assert_gone();
    }
}
