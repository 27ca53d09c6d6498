//! `cofferdam demo`: a throw-away host on loopback that leaves nothing behind but the cache.
//!
//! This process becomes the host's launcher, so that everything dies with it. A second process, the guide,
//! does over the control socket what an operator would type, prints the result and ends; if it cannot, it
//! ends the host.

#![expect(clippy::print_stdout, reason = "what a person came for")]

use crate::{
    cli::{self, Client, DemoRuntime, Exit, Failure},
    serve,
};
use cofferdam_base::{Role, TenantId};
use cofferdam_control::api::types;
use cofferdam_tenants::openclaw::lock::Lock;
use http::Method;
use serde_json::json;
use std::{
    net::{Ipv4Addr, TcpListener},
    os::{
        linux::net::SocketAddrExt,
        unix::{
            fs::{DirBuilderExt, PermissionsExt},
            net::{SocketAddr, UnixListener},
        },
    },
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::Duration,
};

const TENANTS: [&str; 2] = ["acme", "globex"];
/// How long a demo's tokens live, in seconds.
const TOKEN_TTL: u64 = 24 * 3600;
const CELL_BINARY: &str = "/opt/cofferdam/cofferdam";

/// Runs the demo until SIGINT or SIGTERM.
pub(crate) fn run(runtime: DemoRuntime, json: bool) -> Result<ExitCode, Failure> {
    let runtime = match runtime {
        DemoRuntime::Command => "command:echo".to_owned(),
        DemoRuntime::Openclaw => {
            let lock = Lock::bundled().map_err(Failure::could_not)?;
            let cache = serve::default_cache_dir()?;
            format!("openclaw:{}", cli::install_with_bar(&cache, &lock)?.lock)
        }
    };
    let (_lease, uid_base) = lease_uids()?;
    let dir = Scratch::make()?;
    let port = free_port()?;
    std::fs::write(dir.0.join("cofferdam.toml"), config(port, uid_base)?)?;
    guide_process(&dir.0, &runtime, json)?;
    serve::host(&dir.0, true)
}

/// The hidden entry `__guide DIR RUNTIME JSON`.
pub(crate) fn guide_main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(2).collect();
    let [dir, runtime, json] = arguments.as_slice() else { return ExitCode::from(2) };
    let json = json == "true";
    match cli::block_on(guide(Path::new(dir), runtime, json)).and_then(|done| done) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if let Some(host) = rustix::process::getppid() {
                // If it is gone already there is nothing left to end.
                let _ = rustix::process::kill_process(host, rustix::process::Signal::TERM);
            }
            failure.report(json)
        }
    }
}

async fn guide(dir: &Path, runtime: &str, json: bool) -> Result<(), Failure> {
    let client = Client::new(dir.join("run/control.sock"));
    let host = rustix::process::getppid();
    let status = loop {
        if rustix::process::getppid() != host {
            // The host ended before it answered, and has said why.
            return Ok(());
        }
        match client.fetch::<types::Status>("status").await {
            Ok(status) if status.edge => break status,
            Ok(_) => {}
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
        let route = types::ModelRoute {
            route: "default".to_owned(),
            upstream: types::Upstream::Builtin,
            model: "cofferdam-demo".to_owned(),
            secret: None,
        };
        let _: types::Model = client.call(Method::PUT, &format!("tenants/{id}/model"), Some(&route)).await?;
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
    if runtime.starts_with("openclaw") {
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
    println!(
        "\n  cofferdam --data-dir {} tenant exec {} -- sh -c 'curl -s http://example.com'",
        dir.display(),
        tenant.id
    );
    println!(
        "  cofferdam --data-dir {} approvals list\n\nCtrl-C ends the host and removes everything.",
        dir.display()
    );
}

fn println(value: &serde_json::Value) {
    println!("{value}");
}

fn guide_process(dir: &Path, runtime: &str, json: bool) -> Result<(), Failure> {
    #[expect(clippy::disallowed_methods, reason = "the guide is this program, outside every cell")]
    let mut command = Command::new("/proc/self/exe");
    command.arg("__guide").arg(dir).args([runtime, if json { "true" } else { "false" }]);
    command.stdin(std::process::Stdio::null()).spawn()?;
    Ok(())
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
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            eprintln!("cofferdam: {} could not be removed: {error}", self.0.display());
        }
    }
}
