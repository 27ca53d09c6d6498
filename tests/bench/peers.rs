//! Other people's proxies, started in the host's namespace of the world from where `cargo xtask bench` put them.
//! One that cannot be had is said to be missing, and its column is.

use super::super::world::{Running, World};
use std::{
    fs,
    net::{SocketAddr, TcpStream},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

/// A peer that listens on the loopback of the host.
pub struct Peer {
    pub name: &'static str,
    pub address: SocketAddr,
    process: Option<Running>,
}

impl Peer {
    /// Its process number.
    pub fn pid(&self) -> i32 {
        i32::try_from(self.process.as_ref().unwrap().id()).unwrap()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        if let Some(process) = self.process.take() {
            let _ = process.terminate();
        }
    }
}

/// How long a peer may take to listen: LiteLLM takes twenty seconds on a machine that does nothing else.
const PATIENCE: Duration = Duration::from_mins(2);

fn tools() -> PathBuf {
    let named = std::env::var_os("COFFERDAM_BENCH_PEERS").map(PathBuf::from);
    named.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools"))
}

fn start(
    world: &World,
    name: &'static str,
    port: u16,
    program: &Path,
    command: &mut Command,
) -> Option<Peer> {
    if !program.is_file() {
        println!("{name}: MISSING, there is no {}: its rows are not here", program.display());
        return None;
    }
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut process = world.spawn(command);
    let begun = Instant::now();
    while world.host(|| TcpStream::connect(address)).is_err() {
        let ended = process.try_wait().unwrap();
        if ended.is_some() || begun.elapsed() > PATIENCE {
            println!("{name}: MISSING, it does not listen ({ended:?}): its rows are not here");
            return None;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Some(Peer { name, address, process: Some(process) })
}

/// One of [`super::bare`]: this very program, doing nothing but that test.
pub fn bare(world: &World, name: &'static str, test: &str, port: u16, dir: &Path) -> Option<Peer> {
    let program = std::env::current_exe().unwrap();
    let mut command = Command::new(&program);
    command.args([test, "--ignored", "--exact"]).env(BARE, dir);
    start(world, name, port, &program, &mut command)
}

/// Names the directory of one of [`super::bare`].
pub const BARE: &str = "COFFERDAM_BENCH_BARE";

/// Squid: a tunnel a client asks for, each written to its log.
pub fn squid(world: &World, dir: &Path) -> Option<Peer> {
    let root = tools().join("debian/root");
    let program = root.join("usr/sbin/squid");
    let dir = own(dir, "squid");
    let config = format!(
        "http_port 127.0.0.1:3129\nhttp_access allow all\ncache deny all\ncache_mem 8 MB\n\
         access_log stdio:{dir}/access.log\ncache_log {dir}/cache.log\npid_filename {dir}/pid\n\
         coredump_dir {dir}\nmime_table {root}/usr/share/squid/mime.conf\n\
         icon_directory {root}/usr/share/squid/icons\nerror_directory {root}/usr/share/squid-langpack/templates\n\
         unlinkd_program {root}/usr/lib/squid/unlinkd\n\
         logfile_daemon {root}/usr/lib/squid/log_file_daemon\nvisible_hostname bench\npinger_enable off\nshutdown_lifetime 0 seconds\n\
         dns_nameservers {dns}\ncache_effective_user proxy\n",
        dir = dir.display(),
        root = root.display(),
        dns = world.nameserver().ip(),
    );
    fs::write(dir.join("squid.conf"), config).unwrap();
    let mut command = Command::new(&program);
    command.arg("-N").arg("-f").arg(dir.join("squid.conf"));
    command.env("LD_LIBRARY_PATH", root.join("usr/lib/x86_64-linux-gnu"));
    start(world, "squid", 3129, &program, &mut command)
}

/// Tinyproxy, each connection written to its log.
pub fn tinyproxy(world: &World, dir: &Path) -> Option<Peer> {
    let program = tools().join("debian/root/usr/bin/tinyproxy");
    let dir = own(dir, "tinyproxy");
    let config = format!(
        "Port 3130\nListen 127.0.0.1\nTimeout 600\nMaxClients 200\nLogFile \"{dir}/log\"\nLogLevel Connect\n",
        dir = dir.display()
    );
    fs::write(dir.join("tinyproxy.conf"), config).unwrap();
    let mut command = Command::new(&program);
    command.arg("-d").arg("-c").arg(dir.join("tinyproxy.conf"));
    start(world, "tinyproxy", 3130, &program, &mut command)
}

/// mitmproxy, which puts a header into each request; and the certificate of its authority.
pub fn mitmproxy(world: &World, dir: &Path, roots: &Path) -> Option<(Peer, Vec<u8>)> {
    let program = tools().join("mitmproxy/bin/mitmdump");
    let dir = own(dir, "mitmproxy");
    let mut command = Command::new(&program);
    command.args(["-q", "--listen-host", "127.0.0.1", "--listen-port", "3131"]);
    command.args(["--set", &format!("confdir={}", dir.display())]);
    command.args(["--set", &format!("ssl_verify_upstream_trusted_ca={}", roots.display())]);
    command.args(["--modify-headers", "|~q|X-Api-Key|sk-bound/Zx81-0123456789"]);
    command.env("HOME", &dir);
    let peer = start(world, "mitmproxy", 3131, &program, &mut command)?;
    let certificate = fs::read(dir.join("mitmproxy-ca-cert.pem")).unwrap();
    Some((peer, certificate))
}

/// LiteLLM with one worker, a key that its clients show, and no database.
pub fn litellm(world: &World, dir: &Path, upstream: &str) -> Option<Peer> {
    let program = tools().join("litellm/bin/litellm");
    let dir = own(dir, "litellm");
    let config = format!(
        "model_list:\n  - model_name: mock-1\n    litellm_params:\n      model: openai/mock-1\n      \
         api_base: {upstream}\n      api_key: sk-provider\ngeneral_settings:\n  master_key: sk-bench\n\
         litellm_settings:\n  telemetry: false\n"
    );
    fs::write(dir.join("config.yaml"), config).unwrap();
    let mut command = Command::new(&program);
    command.arg("--config").arg(dir.join("config.yaml"));
    command.args(["--host", "127.0.0.1", "--port", "3132", "--num_workers", "1"]);
    command.env("HOME", &dir).env("LITELLM_LOCAL_MODEL_COST_MAP", "True").env("LITELLM_LOG", "ERROR");
    start(world, "litellm", 3132, &program, &mut command)
}

/// A directory of a peer's own, which whatever user it becomes may write.
fn own(dir: &Path, name: &str) -> PathBuf {
    let dir = dir.join(name);
    fs::create_dir(&dir).unwrap();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).unwrap();
    dir
}
