//! A whole host in the throw-away world: launcher, control, edge and wardens as they are, two tenants, and what the
//! battery of wires does to them.
//!
//! It is driven as an operator drives it, by this program's own commands, and knows no secret that an operator does
//! not know.

mod begun;
mod floods;
mod others;
mod theft;
mod traps;

use crate::{
    Error,
    battery::{
        PROBE,
        wires::{
            DEFAULTED, How, INSPECTED, Knock, NAMESERVER, NEIGHBOUR, SECRET, TENANT, Token, Wire,
            checks::checks, wires,
        },
    },
    outside,
    rules::Rules,
    verdict::{Control, Judged, Verdict},
};
use aws_lc_rs::{
    hmac,
    signature::{Ed25519KeyPair, KeyPair},
};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use cofferdam_sandbox::{
    Access, CellPlan, Profile,
    probe::{Attempt, Line, Outcome},
};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

/// Where the edge listens in the world.
const EDGE: u16 = 8471;
/// A host that is not there after so long has said why.
const PATIENCE: Duration = Duration::from_secs(30);
/// So many attempts are one command.
const AT_ONCE: usize = 40;
/// The edge answers at once; silence is a no.
const SILENCE: Duration = Duration::from_millis(700);
/// What the neighbour may reach.
const NEIGHBOURS: &str = "version: 1\ndefault: deny\nrules:\n  - {allow: allowed.example, protocol: http}\n";

/// The host, and what it gave us.
struct Host {
    program: PathBuf,
    data: PathBuf,
    log: PathBuf,
    good: String,
    neighbours: String,
    revoked: String,
    expired: String,
    addresses: BTreeMap<&'static str, SocketAddr>,
    /// What words of a row stand for what this host made.
    made: Vec<(&'static str, String)>,
}

/// Tries every wire on a host of this plan, in this world, below this directory, with these rules in force. What is
/// measured waits until nothing else is done.
pub(crate) fn tried(
    plan: &CellPlan,
    program: &Path,
    scratch: &Path,
    rules: &Rules,
    quiet: impl FnOnce() -> Result<(), Error>,
) -> Result<Vec<Judged>, Error> {
    let log = scratch.join("heard");
    fs::write(&log, "").map_err(Error::world("what was heard"))?;
    outside::join(&log, &rules.witnesses()).map_err(Error::world("the outside"))?;
    let host = Host::start(plan, program, scratch, log, rules)?;
    let wires = wires(rules);
    let (mut judged, traps) = std::thread::scope(|scope| {
        // Another tenant's, so both can be done at once.
        let traps = scope.spawn(|| host.traps(scratch));
        let judged = host.wires(&wires, rules);
        (judged, traps.join().unwrap_or_else(|_| Err(broken())))
    });
    if let Ok(rows) = &mut judged {
        rows.extend(traps?);
        quiet()?;
        rows.extend(host.floods(plan)?);
        rows.extend(host.theft()?);
    }
    judged
}

impl Host {
    fn start(
        plan: &CellPlan,
        program: &Path,
        scratch: &Path,
        log: PathBuf,
        rules: &Rules,
    ) -> Result<Self, Error> {
        let at = Error::world("a host");
        let data = data_dir(scratch);
        fs::create_dir(&data).map_err(&at)?;
        let mode = if plan.profile == Profile::Strict { 0o711 } else { 0o700 };
        fs::set_permissions(&data, fs::Permissions::from_mode(mode)).map_err(&at)?;
        fs::write(data.join("cofferdam.toml"), config(plan, program, scratch, &outside::roots(&log)))
            .map_err(&at)?;
        let words = fs::File::create(scratch.join("host.log")).map_err(&at)?;
        let mut host = Self {
            program: program.to_owned(),
            data,
            log,
            good: String::new(),
            neighbours: String::new(),
            revoked: String::new(),
            expired: String::new(),
            addresses: BTreeMap::new(),
            made: Vec::new(),
        };
        // It ends with the world, whose first process this is.
        host.command(&["serve"]).stderr(words).spawn().map_err(&at)?;
        let begun = Instant::now();
        while host.json(&["status"], "").is_none_or(|status| status["edge"] != true) {
            if begun.elapsed() > PATIENCE {
                let said = fs::read_to_string(scratch.join("host.log")).unwrap_or_default();
                return Err(Error::BrokenOff(format!("the host does not come up: {}", said.trim())));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        host.furnish(rules)?;
        Ok(host)
    }

    /// Tenants, a policy and tokens.
    fn furnish(&mut self, rules: &Rules) -> Result<(), Error> {
        let tenants = [TENANT, NEIGHBOUR, DEFAULTED, INSPECTED];
        let host: &Self = self;
        // Each is waited for until it is ready.
        let shown: Vec<Result<Value, Error>> = std::thread::scope(|scope| {
            let made = tenants.map(|tenant| scope.spawn(move || host.create(tenant)));
            made.map(|made| made.join().unwrap_or_else(|_| Err(broken()))).into()
        });
        for (tenant, shown) in tenants.into_iter().zip(shown) {
            let shown = shown?;
            let address =
                shown["address"].as_str().and_then(|url| url.trim_start_matches("http://").parse().ok());
            let address = address.ok_or_else(|| Error::BrokenOff(format!("{tenant} has no address")))?;
            self.addresses.insert(tenant, address);
        }
        self.done(&["policy", "set", TENANT, "-"], rules.text())?;
        self.done(&["policy", "set", NEIGHBOUR, "-"], NEIGHBOURS)?;
        let issue = |host: &Self, tenant: &str| -> Result<(String, String), Error> {
            let issued = host.done(&["token", "issue", tenant, "--subject", "prove"], "")?;
            Ok((text(&issued, "token")?, text(&issued, "jti")?))
        };
        self.good = issue(self, TENANT)?.0;
        self.neighbours = issue(self, NEIGHBOUR)?.0;
        let (token, jti) = issue(self, TENANT)?;
        self.done(&["token", "revoke", &jti], "")?;
        self.revoked = token;
        let issued = self.done(&["token", "issue", TENANT, "--subject", "prove", "--for", "1s"], "")?;
        self.expired = text(&issued, "token")?;
        self.done(&["secret", "set", TENANT, "MODEL"], SECRET)?;
        let url = "http://allowed.example/v1";
        self.done(&["model", "set", TENANT, "--url", url, "--model", "m", "--secret", "MODEL"], "")?;
        self.furnish_others(rules)
    }

    fn create(&self, tenant: &str) -> Result<Value, Error> {
        self.done(&["tenant", "create", tenant, "--runtime", "command:prove", "--start"], "")
    }

    /// What every attempt inside the cell came to: attacks, and controls that are attempts too.
    fn in_cell(&self, wires: &[Wire]) -> Result<BTreeMap<String, Line>, Error> {
        let mut attempts: BTreeMap<&str, Vec<(String, &Attempt)>> = BTreeMap::new();
        for wire in wires {
            for (how, kind) in [(&wire.attack, "attack"), (&wire.control, "control")] {
                if let Some((tenant, attempt)) = how.cell() {
                    attempts.entry(tenant).or_default().push((format!("{kind} {}", wire.id), attempt));
                }
            }
        }
        // Tenants do not know of each other, so all of it can be done at once.
        let tried = std::thread::scope(|scope| {
            let tenants =
                attempts.iter().map(|(tenant, attempts)| scope.spawn(|| self.tried_in(tenant, attempts)));
            let tenants: Vec<_> = tenants.collect();
            tenants
                .into_iter()
                .map(|tried| tried.join().unwrap_or_else(|_| Err(broken())))
                .collect::<Result<Vec<_>, _>>()
        });
        Ok(tried?.into_iter().flatten().collect())
    }

    /// What one tenant's attempts came to.
    fn tried_in(
        &self,
        tenant: &str,
        attempts: &[(String, &Attempt)],
    ) -> Result<BTreeMap<String, Line>, Error> {
        let mut tried = BTreeMap::new();
        // A command's words have a limit.
        for attempts in attempts.chunks(AT_ONCE) {
            let attempts = serde_json::to_string(attempts).map_err(|error| Error::Cell(error.to_string()))?;
            let attempts = self.spelt(attempts);
            let told = self.run(&["tenant", "exec", tenant, "--", PROBE, "__probe", &attempts], "")?;
            let text = String::from_utf8_lossy(&told.stdout);
            let lines = text.lines().filter_map(|line| serde_json::from_str::<Line>(line).ok());
            tried.extend(lines.map(|line| (line.id.clone(), line)));
        }
        Ok(tried)
    }

    /// Every wire, judged.
    fn wires(&self, wires: &[Wire], rules: &Rules) -> Result<Vec<Judged>, Error> {
        let tried: Vec<Wire> = wires.iter().filter(|wire| left(wire, rules).is_ok()).cloned().collect();
        let cell = self.in_cell(&tried)?;
        let judge = |wire: &Wire| match left(wire, rules) {
            Ok(layers) => self.judge(wire, &layers, &cell),
            Err(reason) => Ok(Judged::skipped(&wire.id, &wire.title, wire.layers, reason)),
        };
        wires.iter().map(judge).collect()
    }

    fn judge(&self, wire: &Wire, layers: &[&str], cell: &BTreeMap<String, Line>) -> Result<Judged, Error> {
        let (mut sealed, micros) = self.came_of(wire, &wire.attack, "attack", cell)?;
        let (mut control, _) = self.came_of(wire, &wire.control, "control", cell)?;
        if !control.succeeded {
            // Once more: a busy machine may have kept the witness from answering in time.
            let again = self.in_cell(std::slice::from_ref(wire))?;
            control = self.came_of(wire, &wire.control, "control", &again)?.0;
        }
        // What the witness heard decides, not what the probe was told: the answer may be to something that is allowed.
        if !wire.leak.is_empty() {
            sealed.succeeded = self.heard(wire.leak)?;
            let told = if sealed.succeeded { "heard it" } else { "heard nothing of it" };
            sealed = Outcome { errno: 0, seen: format!("the witness outside {told}"), ..sealed };
        }
        let control = Control { without: vec!["asked for what is allowed".to_owned()], outcome: control };
        let mut judged = Judged::tried(&wire.id, &wire.title, layers, sealed, micros, Some(control));
        judged.checks = checks(layers);
        // What was not tried was not blocked.
        if wire.attack.cell().is_some() && !cell.contains_key(&format!("attack {}", wire.id)) {
            judged.verdict = Verdict::Inconclusive;
        }
        if wire.held && judged.verdict == Verdict::Blocked {
            let waiting = self.done(&["approvals", "list"], "")?;
            if waiting.to_string().contains(wire.leak) {
                judged.verdict = Verdict::Contained;
                judged.sealed =
                    judged.sealed.map(|sealed| Outcome { seen: "it waits for an answer".into(), ..sealed });
            }
        }
        Ok(judged)
    }

    fn came_of(
        &self,
        wire: &Wire,
        how: &How,
        kind: &str,
        cell: &BTreeMap<String, Line>,
    ) -> Result<(Outcome, u64), Error> {
        match how {
            How::Cell(_) | How::In(..) => Ok(match cell.get(&format!("{kind} {}", wire.id)) {
                Some(line) => (line.outcome.clone(), line.micros),
                None => (failed("the probe did not say what became of it"), 0),
            }),
            How::Outside(Attempt::Lookup { name }) => {
                let asked = outside::ask(name).map_err(Error::world("a look-up"));
                let heard = self.heard(name)?;
                let seen = format!("the witness heard of it: {heard}");
                Ok((Outcome { succeeded: asked.is_ok() && heard, errno: 0, seen }, 0))
            }
            How::Outside(attempt) => Ok((attempt.make(), 0)),
            How::Edge(knock) => Ok((self.knock(knock), 0)),
        }
    }

    fn heard(&self, words: &str) -> Result<bool, Error> {
        let heard = fs::read(&self.log).map_err(Error::world("what was heard"))?;
        Ok(heard.windows(words.len()).any(|piece| piece == words.as_bytes()))
    }

    /// Asks the edge. A success is an answer of the cell itself.
    fn knock(&self, knock: &Knock) -> Outcome {
        let Some(address) = self.addresses.get(knock.tenant) else { return failed("no such tenant") };
        match self.asked(*address, knock) {
            Ok(answer) if reached(&answer) && answer.contains(knock.told) => {
                let seen = answer.lines().next().unwrap_or_default().to_owned();
                Outcome { succeeded: true, errno: 0, seen }
            }
            Ok(answer) => failed(answer.lines().next().unwrap_or_default()),
            Err(error) => failed(&error.to_string()),
        }
    }

    fn asked(&self, address: SocketAddr, knock: &Knock) -> io::Result<String> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(SILENCE))?;
        let host = knock.host.map_or_else(|| address.to_string(), str::to_owned);
        let bearer = match self.token(knock.token)? {
            Some(token) => format!("Authorization: Bearer {token}\r\n"),
            None => String::new(),
        };
        let Knock { path, headers, .. } = knock;
        let connection = if headers.contains("Upgrade:") { "Upgrade" } else { "close" };
        let head = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: {connection}\r\n");
        let request = format!("{head}{bearer}{headers}\r\n");
        stream.write_all(request.as_bytes())?;
        let mut answer = Vec::new();
        let mut piece = [0; 4096];
        while answer.len() < 1 << 20 {
            match stream.read(&mut piece) {
                Ok(0) => break,
                Ok(length) => answer.extend_from_slice(&piece[..length]),
                Err(error) if answer.is_empty() => return Err(error),
                Err(_) => break,
            }
            // A WebSocket that is open says nothing more.
            if answer.starts_with(b"HTTP/1.1 101") && answer.ends_with(b"\r\n\r\n") {
                break;
            }
        }
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }

    fn token(&self, which: Token) -> io::Result<Option<String>> {
        let signed = |algorithm: &str| -> io::Result<String> {
            let claims = self.good.split('.').nth(1).unwrap_or_default();
            let kid = self.key()?.0;
            let head = format!(r#"{{"typ":"JWT","alg":"{algorithm}","kid":"{kid}"}}"#);
            Ok(format!("{}.{claims}", BASE64_URL_SAFE_NO_PAD.encode(head)))
        };
        Ok(Some(match which {
            Token::None => return Ok(None),
            Token::Good => self.good.clone(),
            Token::Neighbours => self.neighbours.clone(),
            Token::Revoked => self.revoked.clone(),
            Token::Expired => self.expired.clone(),
            Token::Unsigned => format!("{}.", signed("none")?),
            Token::Forged => {
                let (rest, signature) = self.good.rsplit_once('.').unwrap_or_default();
                let first = if signature.starts_with('A') { 'B' } else { 'A' };
                format!("{rest}.{first}{}", signature.get(1..).unwrap_or_default())
            }
            Token::Confused => {
                let text = signed("HS256")?;
                let key = hmac::Key::new(hmac::HMAC_SHA256, &self.key()?.1);
                let signature = hmac::sign(&key, text.as_bytes());
                format!("{text}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature.as_ref()))
            }
        }))
    }

    /// Name and bytes of the public key with which this host's tokens are checked.
    fn key(&self) -> io::Result<(String, Vec<u8>)> {
        let head = self.good.split('.').next().unwrap_or_default();
        let head = BASE64_URL_SAFE_NO_PAD.decode(head).map_err(io::Error::other)?;
        let head: Value = serde_json::from_slice(&head)?;
        let kid = head["kid"].as_str().unwrap_or_default().to_owned();
        for entry in fs::read_dir(self.data.join("control/keys"))? {
            if let Ok(pair) = Ed25519KeyPair::from_pkcs8(&fs::read(entry?.path())?) {
                return Ok((kid, pair.public_key().as_ref().to_vec()));
            }
        }
        Err(io::Error::other("the host has no key"))
    }

    #[expect(clippy::disallowed_methods, reason = "this program itself, with no environment but its home")]
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.env_clear().env("HOME", &self.data).current_dir("/");
        command.arg("--data-dir").arg(&self.data).arg("--json").args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str], input: &str) -> Result<Output, Error> {
        let at = Error::world("a command to the host");
        let mut command = self.command(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(&at)?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(input.as_bytes()).map_err(&at)?;
        }
        child.wait_with_output().map_err(at)
    }

    fn json(&self, arguments: &[&str], input: &str) -> Option<Value> {
        let output = self.run(arguments, input).ok()?;
        serde_json::from_slice(&output.stdout).ok()
    }

    /// A command that must succeed: its answer.
    fn done(&self, arguments: &[&str], input: &str) -> Result<Value, Error> {
        let output = self.run(arguments, input)?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            return Err(Error::BrokenOff(format!("{}: {}", arguments.join(" "), said.trim())));
        }
        Ok(serde_json::from_slice(&output.stdout).unwrap_or_default())
    }
}

/// Where it lies in the world.
pub(crate) fn data_dir(scratch: &Path) -> PathBuf {
    scratch.join("host")
}

/// Which layers answer a wire where these rules are in force too; or why nothing can be shown.
fn left(wire: &Wire, rules: &Rules) -> Result<Vec<&'static str>, &'static str> {
    if wire.control.destination().is_some_and(|destination| !rules.leave(&destination)) {
        return Err("the tenant's policy refuses what the control asks for");
    }
    let mut layers = wire.layers.to_vec();
    if wire.attack.destination().is_some_and(|destination| rules.allow(&destination)) {
        layers.retain(|layer| !["policy", "approvals"].contains(layer));
    }
    if layers.is_empty() { Err("the tenant's policy allows it") } else { Ok(layers) }
}

/// Did a cell answer, or become a client's WebSocket?
fn reached(answer: &str) -> bool {
    answer.starts_with("HTTP/1.1 101") || answer.contains("\"ok\":true")
}

/// A text of an answer. An empty token would be refused for another reason than the one that is claimed.
fn text(answer: &Value, key: &str) -> Result<String, Error> {
    let found = answer[key].as_str().filter(|text| !text.is_empty());
    found.map(str::to_owned).ok_or_else(|| Error::BrokenOff(format!("an answer has no {key}")))
}

fn broken() -> Error {
    Error::BrokenOff(String::from("a thread of the proof ended"))
}

fn failed(seen: &str) -> Outcome {
    Outcome { succeeded: false, errno: 0, seen: seen.to_owned() }
}

fn config(plan: &CellPlan, program: &Path, scratch: &Path, roots: &Path) -> String {
    let quoted = |path: &Path| format!("{:?}", path.display().to_string());
    let limits = plan.limits;
    let mut layers: Vec<&str> = plan.without.iter().map(|protection| protection.layer()).collect();
    layers.dedup();
    let left =
        |layer| format!("[[without]]\nlayer = \"{layer}\"\nreason = \"as on the host that is proved\"\n");
    // What the tenant's own policy asks for, which a tenant here has too.
    let offered = plan.binds.iter().filter(|bind| matches!(bind.access, Access::Offered { .. }));
    let offered = offered.filter_map(|bind| {
        let name = bind.target.file_name()?.to_str()?;
        Some(format!("{name:?} = {}\n", quoted(&bind.source)))
    });
    let offered: String = offered.collect();
    let without = layers.into_iter().map(left).collect::<Vec<_>>().concat();
    format!(
        "[edge]\nlisten = \"127.0.0.1:{EDGE}\"\n[egress]\nnameservers = [\"{NAMESERVER}:53\"]\nextra_roots = {}\n\
         [cache]\ndir = {}\n[filesystem]\n{offered}[limits]\nmemory_bytes = {}\npids = {}\n\
         [runtime.command.prove]\nargv = [\"{PROBE}\", \"__echo\"]\nport = 8080\n\
         binds = [{{ source = {}, target = \"{PROBE}\" }}]\n{without}",
        quoted(roots),
        quoted(&scratch.join("cache")),
        limits.memory_bytes,
        limits.pids,
        quoted(program)
    )
}
