//! `cofferdam demo`: a throw-away host on loopback that leaves nothing behind but the cache.
//!
//! This process becomes the host's launcher, so that everything dies with it. A second process, the guide,
//! does over the control socket what an operator would type, prints the result and ends; if it cannot, it
//! ends the host, which it knows by a descriptor and so never mistakes for another process.

#![expect(clippy::print_stdout, reason = "what a person came for")]

use crate::{
    cli::{self, Client, DemoRuntime, Exit, Failure},
    serve,
};
use cofferdam_base::{Role, TenantId};
use cofferdam_control::api::types;
use cofferdam_sys::{openat, pidfd, process};
use cofferdam_tenants::openclaw::{install, lock::Lock};
use http::Method;
use rustix::{
    event::{PollFd, PollFlags, poll},
    process::{PidfdFlags, Signal},
};
use serde_json::json;
use std::{
    cell::RefCell,
    net::{Ipv4Addr, TcpListener},
    os::{
        fd::AsFd,
        linux::net::SocketAddrExt,
        unix::{
            fs::{DirBuilderExt, PermissionsExt},
            net::{SocketAddr, UnixListener},
        },
    },
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    rc::Rc,
    time::{Duration, Instant},
};

const TENANTS: [&str; 2] = ["acme", "globex"];
/// How long a demo's tokens live, in seconds.
const TOKEN_TTL: u64 = 24 * 3600;
const CELL_BINARY: &str = "/opt/cofferdam/cofferdam";
/// Where the guide leaves word that it failed, in the data directory.
const FAILED: &str = "guide-failed";
/// A host that does not answer for so long never will, and has said why on standard error.
const PATIENCE: Duration = Duration::from_mins(1);

/// Runs the demo until SIGINT or SIGTERM.
pub(crate) fn run(runtime: DemoRuntime, json: bool) -> Result<ExitCode, Failure> {
    process::close_inherited()?;
    // Before anything is made: from here on every signal is heard by what can undo it.
    let stop = process::stop_signal()?;
    let runtime = match runtime {
        DemoRuntime::Command => "command:echo".to_owned(),
        DemoRuntime::Native => "native".to_owned(),
        DemoRuntime::Openclaw => {
            let lock = Lock::bundled().map_err(Failure::could_not)?;
            let cache = serve::default_cache_dir()?;
            // The launcher proves it before the first cell.
            if install::find(&cache, lock.digest()).is_err() {
                cli::install_with_bar(&cache, &lock, stop.as_fd())?;
            }
            format!("openclaw:{}", lock.digest())
        }
    };
    let (_lease, uid_base) = lease_uids()?;
    let dir = Scratch::make()?;
    let port = free_port()?;
    std::fs::write(dir.0.join("cofferdam.toml"), config(port, uid_base)?)?;
    let guide = Rc::new(RefCell::new(guide_process(&dir.0, &runtime, json)?));
    let served = serve::host(&dir.0, Some(Rc::clone(&guide)), stop.as_fd());
    let mut guide = guide.borrow_mut();
    let failed = dir.0.join(FAILED).exists();
    if !failed {
        // One that has ended already is no error.
        let _ = guide.kill();
    }
    let guided = guide.wait()?;
    served?;
    let code = guided.code().and_then(|code| u8::try_from(code).ok());
    Ok(ExitCode::from(if failed { code.unwrap_or(Exit::Usage as u8) } else { 0 }))
}

/// The hidden entry `__guide DIR RUNTIME JSON`, with the host's pidfd as standard input.
pub(crate) fn guide_main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(2).collect();
    let [dir, runtime, json] = arguments.as_slice() else { return ExitCode::from(2) };
    let (dir, json) = (Path::new(dir), json == "true");
    let (tell, gone) = tokio::sync::oneshot::channel();
    std::thread::spawn(|| {
        let mut host = [PollFd::from_borrowed_fd(rustix::stdio::stdin(), PollFlags::IN)];
        while matches!(poll(&mut host, None), Err(rustix::io::Errno::INTR)) {}
        // The guide may be done, and nobody listens.
        let _ = tell.send(());
    });
    let guided = cli::block_on(async {
        tokio::select! {
            // A host that ended has said why.
            _ = gone => Ok(()),
            guided = guide(dir, runtime, json) => guided,
        }
    });
    let Err(failure) = guided.and_then(std::convert::identity) else { return ExitCode::SUCCESS };
    let code = failure.report(json);
    // Without the word the host ends just so, but as if it had been asked to.
    let _ = std::fs::write(dir.join(FAILED), "");
    if let Err(error) = pidfd::signal(rustix::stdio::stdin(), Signal::TERM) {
        eprintln!("cofferdam: the host could not be ended: {error}");
    }
    code
}

async fn guide(dir: &Path, runtime: &str, json: bool) -> Result<(), Failure> {
    let client = Client::new(dir.join("run/control.sock"));
    let begun = Instant::now();
    let status = loop {
        let late = begun.elapsed() > PATIENCE;
        match client.fetch::<types::Status>("status").await {
            Ok(status) if status.edge => break status,
            Ok(_) if late => return Err(Failure::could_not("the edge of the host does not come up")),
            Ok(_) => {}
            Err(failure) if failure.code == "no_host" && late => {
                return Err(Failure::could_not("the host does not come up; what it said of it is above"));
            }
            Err(failure) if failure.code == "no_host" => {}
            Err(failure) => return Err(failure),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    // Made one after the other, started together: a gateway takes ten seconds, mostly of its own.
    for id in TENANTS {
        let id = TenantId::try_from(id).map_err(Failure::could_not)?;
        let new = types::NewTenant {
            id: id.clone(),
            runtime: runtime.to_owned(),
            limits: None,
            start: false,
            wait: false,
        };
        let _: types::Tenant = client.call(Method::POST, "tenants", Some(&new)).await?;
        let alias = "default".parse().map_err(Failure::could_not)?;
        let route = types::ModelRoute::new(alias, types::Upstream::Builtin, "cofferdam-demo");
        let path = format!("tenants/{id}/models/default");
        let _: types::Models = client.call(Method::PUT, &path, Some(&route)).await?;
    }
    let [acme, globex] = TENANTS;
    let (acme, globex) = tokio::join!(ready(&client, acme, json), ready(&client, globex, json));
    let tenants = [acme?, globex?];
    if json {
        println(&json!({
            "edge": status.edge_url, "console": null, "login": null, "data_dir": dir,
            "tenants": tenants.iter().map(|(tenant, token)| json!({
                "id": tenant.id, "origin": tenant.origin, "address": tenant.address, "token": token,
            })).collect::<Vec<_>>(),
        }));
    } else {
        show(dir, runtime, &tenants);
    }
    Ok(())
}

async fn ready(client: &Client, id: &str, json: bool) -> Result<(types::Tenant, String), Failure> {
    let wait = types::Wait { wait: true };
    let tenant: types::Tenant =
        client.call(Method::POST, &format!("tenants/{id}/start"), Some(&wait)).await?;
    if let Some(failure) = tenant.failure {
        return Err(Failure::new(Exit::Refused, "not_ready", failure.message, failure.mend));
    }
    if !json {
        eprintln!("{id} is ready");
    }
    let new = types::NewToken {
        tenant: tenant.id.clone(),
        subject: "demo".to_owned(),
        role: Role::Admin,
        ttl_seconds: TOKEN_TTL,
    };
    let issued: types::IssuedToken = client.call(Method::POST, "tokens", Some(&new)).await?;
    Ok((tenant, issued.token))
}

fn show(dir: &Path, runtime: &str, tenants: &[(types::Tenant, String)]) {
    for (tenant, token) in tenants {
        println!(
            "\n{}\n  origin   {}\n  address  {}\n  token    {token}",
            tenant.id, tenant.origin, tenant.address
        );
    }
    let (tenant, _) = &tenants[0];
    println!("\nTry, with the token of {} in $TOKEN:\n", tenant.id);
    if runtime.starts_with("openclaw") || runtime == "native" {
        let address = tenant.address.replacen("http", "ws", 1);
        println!("  openclaw gateway call health --url {address} --token $TOKEN");
        println!("  OPENCLAW_GATEWAY_URL={address} OPENCLAW_GATEWAY_TOKEN=$TOKEN \\");
        println!("    openclaw agent --agent main --message hello");
        println!("  curl -N {}/v1/chat/completions \\", tenant.origin);
        println!("    -H \"Authorization: Bearer $TOKEN\" -H 'Content-Type: application/json' \\");
        println!(
            "    -d '{{\"model\":\"openclaw\",\"stream\":true,\"messages\":[{{\"role\":\"user\",\"content\":\"hello\"}}]}}'"
        );
    } else {
        println!("  curl {} -H \"Authorization: Bearer $TOKEN\"", tenant.origin);
    }
    // As this very program is called: a newcomer has it on no PATH yet.
    let program =
        std::env::current_exe().map_or_else(|_| "cofferdam".into(), |path| path.display().to_string());
    let program = format!("{program} --data-dir {}", dir.display());
    println!("\n  {program} tenant exec {} -- sh -c 'curl -s http://example.com'", tenant.id);
    println!("  {program} approvals list\n\nCtrl-C ends the host and removes everything.");
}

fn println(value: &serde_json::Value) {
    println!("{value}");
}

fn guide_process(dir: &Path, runtime: &str, json: bool) -> Result<Child, Failure> {
    let host = rustix::process::pidfd_open(rustix::process::getpid(), PidfdFlags::empty());
    #[expect(clippy::disallowed_methods, reason = "the guide is this program, outside every cell")]
    let mut command = Command::new("/proc/self/exe");
    command.arg("__guide").arg(dir).args([runtime, if json { "true" } else { "false" }]);
    Ok(command.stdin(Stdio::from(host.map_err(std::io::Error::from)?)).spawn()?)
}

fn config(port: u16, uid_base: u32) -> Result<String, Failure> {
    let binary = std::env::current_exe()?;
    let binary = binary.to_str().ok_or_else(|| Failure::could_not("this program's path is not UTF-8"))?;
    let quoted = |text: &str| toml::Value::String(text.to_owned()).to_string();
    Ok(format!(
        "[edge]\nlisten = \"127.0.0.1:{port}\"\n\n[uids]\nbase = {uid_base}\n\n\
         [runtime.command.echo]\nargv = [{cell}, \"__echo\"]\nport = {echo}\n\
         binds = [{{ source = {source}, target = {cell} }}]\n",
        cell = quoted(CELL_BINARY),
        echo = crate::echo::PORT,
        source = quoted(binary),
    ))
}

/// A range of uids that no other demo on this machine has: held as long as the socket lives, and gone with
/// this process however it ends.
fn lease_uids() -> Result<(UnixListener, u32), Failure> {
    for number in 1..64_u32 {
        let name = SocketAddr::from_abstract_name(format!("cofferdam-demo-uids-{number}"))?;
        if let Ok(lease) = UnixListener::bind_addr(&name) {
            return Ok((lease, 1_500_000_000 + number * 0x4_0000));
        }
    }
    Err(Failure::new(Exit::Conflict, "too_many_demos", "63 demos run on this machine", "end one of them"))
}

fn free_port() -> Result<u16, Failure> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// A data directory that is removed when dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn make() -> Result<Self, Failure> {
        let random: u64 = {
            let mut bytes = [0; 8];
            aws_lc_rs::rand::fill(&mut bytes).map_err(|_| Failure::could_not("no randomness"))?;
            u64::from_le_bytes(bytes)
        };
        let path = std::env::temp_dir().join(format!("cofferdam-demo-{random:016x}"));
        std::fs::DirBuilder::new().mode(0o711).create(&path)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o711))?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What tenants made of their homes does not stop it.
        let removed = std::fs::File::open(&self.0)
            .and_then(|dir| openat::empty(dir.as_fd()))
            .and_then(|()| std::fs::remove_dir(&self.0));
        if let Err(error) = removed {
            eprintln!("cofferdam: {} could not be removed: {error}", self.0.display());
        }
    }
}
