//! `cofferdam prove`: shows that the seal of a tenant's cell holds, and signs what was shown.
//!
//! It tries the battery on a sibling of the cell, made from the tenant's own plan in a throw-away world; the host
//! is asked for the tenant before and for its signature after, and nothing else. `--verify` needs no host.

use super::{
    Client, Exit, Failure,
    commands::{Done, OK},
    flags::Prove,
    print,
};
use cofferdam_audit::{
    Document, DocumentError, Judged, Mutants, Options, PolicyProved, Rules, Signed, Verdict, WholeHost,
};
use cofferdam_base::{
    Clock, TenantId,
    ipc::{
        launcher::{self, RuntimeRef},
        receipt::LayerState,
    },
};
use cofferdam_control::api::types;
use cofferdam_sandbox::{CellPlan, Profile};
use cofferdam_sys::clock::SystemClock;
use cofferdam_tenants::{
    config::{Accepted, HostConfig},
    launcher::{Boot, instance},
};
use http::Method;
use serde::Serialize;
use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

/// Exit 0: everything holds; 1: something does not, or is worse than before; 2: it could not be proved.
pub(super) fn run(command: &Prove, data_dir: impl FnOnce() -> Result<PathBuf, Failure>, json: bool) -> Done {
    if let Some(file) = &command.verify {
        return verify(file, command.diff.as_deref(), json);
    }
    let Some(tenant) = &command.tenant else {
        let mend = "cofferdam prove TENANT, or cofferdam prove --verify FILE";
        return Err(Failure::new(Exit::Usage, "no_tenant", "which tenant's cell is to be proved?", mend));
    };
    // Read first: a file that is no proof is told before seconds are spent.
    let old = command.diff.as_deref().map(read).transpose()?;
    let data_dir = data_dir()?;
    let client = Client::new(data_dir.join("run/control.sock"));
    let boot =
        Boot::read(&data_dir, crate::serve::default_cache_dir()?, false).map_err(Failure::could_not)?;
    let plan = plan(tenant, &boot, &client)?;
    let rules = rules(tenant, &client)?;
    let policy = rules.proved.clone();
    let options = Options { host: Some(WholeHost { named: instance, rules }), mutants: command.mutants };
    let document = proved(tenant, &plan, options, policy)?;
    let (signed, standing) = match signed(tenant, &document, boot.config, &client) {
        Ok(signed) => signed,
        Err(failure) => {
            // What was found is told, though nobody signs it.
            show(&document, &[], &Standing::default(), json)?;
            return Err(failure);
        }
    };
    if let Some(out) = &command.out {
        let text = serde_json::to_string_pretty(&signed).map_err(Failure::could_not)?;
        fs::write(out, text + "\n").map_err(|error| cannot("write", out, &error))?;
    }
    let worse = old.map(|(old, _)| document.regressions(&old)).unwrap_or_default();
    show(&document, &worse, &standing, json)?;
    Ok(if document.holds() && worse.is_empty() { OK } else { ExitCode::from(1) })
}

fn cannot(verb: &str, path: &Path, error: &std::io::Error) -> Failure {
    Failure::could_not(format!("cannot {verb} {}: {error}", path.display()))
}

/// The tenant's plan as a start would make it now.
fn plan(tenant: &TenantId, boot: &Boot, client: &Client) -> Result<CellPlan, Failure> {
    let shown: types::Tenant = super::block_on(client.fetch(&format!("tenants/{tenant}")))??;
    let runtime = match shown.runtime.split_once(':') {
        Some(("command", name)) => RuntimeRef::Command(name.to_owned()),
        Some(("openclaw", lock)) => {
            RuntimeRef::Openclaw(lock.to_owned().try_into().map_err(Failure::could_not)?)
        }
        None if shown.runtime == "native" => RuntimeRef::Native,
        _ => return Err(Failure::could_not(format!("the runtime {} is not known here", shown.runtime))),
    };
    boot.sibling(tenant, &runtime, shown.policy_leaves.unwrap_or(shown.limits), &shown.offered)
        .map_err(|failure| Failure::new(Exit::Usage, "no_plan", failure.message, failure.mend))
}

/// The tenant's policy as the host keeps it.
fn rules(tenant: &TenantId, client: &Client) -> Result<Rules, Failure> {
    let kept: types::Policy = super::block_on(client.fetch(&format!("tenants/{tenant}/policy")))??;
    Rules::parse(&kept.text, kept.revision).map_err(Failure::could_not)
}

fn proved(
    tenant: &TenantId,
    plan: &CellPlan,
    options: Options,
    policy: PolicyProved,
) -> Result<Document, Failure> {
    let program = std::env::current_exe()?;
    let report = cofferdam_audit::prove(plan, &program, options).map_err(Failure::could_not)?;
    let spec = serde_json::to_vec(plan).map_err(Failure::could_not)?;
    let name = rustix::system::uname();
    let mut nonce = [0; 16];
    aws_lc_rs::rand::fill(&mut nonce).map_err(|_| Failure::could_not("no random number"))?;
    Ok(Document {
        version: 1,
        tenant: tenant.to_string(),
        profile: if plan.profile == Profile::Strict { "strict" } else { "rootless" }.to_owned(),
        at: print::moment(SystemClock.now()),
        nonce: format!("{:032x}", u128::from_be_bytes(nonce)),
        kernel: format!("{} {}", name.release().to_string_lossy(), name.version().to_string_lossy()),
        binary: cofferdam_audit::digest(&fs::read(&program)?),
        spec: cofferdam_audit::digest(&spec),
        policy: Some(policy),
        receipt: report.receipt,
        rows: report.rows,
        mutants: report.mutants,
    })
}

/// The document with the host's signature, which the ledger knows of, and what the host makes of it.
fn signed(
    tenant: &TenantId,
    document: &Document,
    config: HostConfig,
    client: &Client,
) -> Result<(Signed, Standing), Failure> {
    let text = serde_json::to_string(document).map_err(Failure::could_not)?;
    let verdicts = document.totals().into_iter().map(|(verdict, count)| {
        (format!("{verdict:?}").to_lowercase(), u32::try_from(count).unwrap_or(u32::MAX))
    });
    let escaped = document.rows.iter().filter(|row| row.verdict == Verdict::Escaped);
    let new = types::NewProof {
        digest: cofferdam_audit::digest(text.as_bytes()),
        verdicts: verdicts.collect(),
        escaped: escaped.map(|row| row.id.clone()).collect(),
        without: config.without.into_iter().map(|left| left.layer).collect(),
    };
    let path = format!("tenants/{tenant}/proofs");
    let types::SignedProof { key, signature, barred, runs } =
        super::block_on(client.call(Method::POST, &path, Some(&new)))??;
    let standing = Standing { accepted: config.accepted, barred, runs };
    Ok((Signed { document: text, key, signature }, standing))
}

/// A proof from a file, whose signature fits.
fn read(file: &Path) -> Result<(Document, Signed), Failure> {
    let text = fs::read_to_string(file).map_err(|error| cannot("read", file, &error))?;
    cofferdam_audit::verify(&text).map_err(|error| {
        let exit = match error {
            DocumentError::Signature => Exit::Refused,
            DocumentError::Malformed(_) => Exit::Usage,
        };
        Failure::new(exit, "no_proof", format!("{}: {error}", file.display()), "")
    })
}

fn verify(file: &Path, old: Option<&Path>, json: bool) -> Done {
    let (document, signature) = read(file)?;
    let worse = match old {
        Some(old) => document.regressions(&read(old)?.0),
        None => Vec::new(),
    };
    show(&document, &worse, &Standing::default(), json)?;
    if !json {
        print::line(&format!("The signature fits the key {}; is it your host's?", signature.key))?;
    }
    Ok(if document.holds() && worse.is_empty() { OK } else { ExitCode::from(1) })
}

/// What the host makes of a proof; nothing without one.
#[derive(Default, Serialize)]
struct Standing {
    /// What its operator lives with.
    accepted: Vec<Accepted>,
    /// Why no cell of the tenant is started from now on, if none is.
    barred: Option<launcher::Failure>,
    /// A cell of it runs, and goes on.
    runs: bool,
}

fn show(document: &Document, worse: &[String], standing: &Standing, json: bool) -> Result<(), Failure> {
    if json {
        let told = serde_json::json!({
            "proof": document, "holds": document.holds(), "regressions": worse, "standing": standing,
        });
        print::json(&told)?;
        return Ok(());
    }
    let Document { tenant, profile, at, kernel, policy, .. } = document;
    let kernel = kernel.split(' ').next().unwrap_or_default();
    print::line(&format!("The cell of {tenant}, {profile}, {at}, Linux {kernel}"))?;
    if let Some(PolicyProved { revision, digest, default }) = policy {
        let default = format!("{default:?}").to_lowercase();
        print::line(&format!("with its policy, revision {revision}, {digest}, and its default, {default}"))?;
    }
    print::line("")?;
    let weak = document.receipt.iter().filter(|row| row.state != LayerState::Enforced);
    for row in weak {
        print::line(&format!("{:?} {}: {}", row.state, row.layer, row.detail))?;
    }
    for row in &document.rows {
        print::line(&told(row))?;
        let accepted =
            standing.accepted.iter().filter(|one| one.row == row.id && row.verdict == Verdict::Escaped);
        for Accepted { row: _, reason } in accepted {
            print::line(&format!("  accepted   {reason}"))?;
        }
    }
    if let Some(Mutants { killed, survivors, idle }) = &document.mutants {
        let all = killed.len() + survivors.len();
        print::line(&format!("\n{} of {all} protections are missed when they are gone", killed.len()))?;
        for survivor in survivors {
            print::line(&format!("NOT MISSED  {survivor}"))?;
        }
        for layer in idle {
            print::line(&format!("IDLE        {layer}"))?;
        }
    }
    for line in worse {
        print::line(&format!("WORSE       {line}"))?;
    }
    let totals = document.totals().into_iter().map(|(verdict, count)| format!("{count} {}", word(verdict)));
    print::line(&format!("\n{}", totals.collect::<Vec<_>>().join(", ")))?;
    if let Some(launcher::Failure { message, mend }) = &standing.barred {
        print::line(&format!("\n{message}\n  mend     {mend}"))?;
        if standing.runs {
            let stop = format!("cofferdam tenant stop {tenant}, or cofferdam kill {tenant}");
            print::line(&format!("The cell that runs goes on. To end it: {stop}"))?;
        }
    }
    Ok(())
}

/// One line: the verdict, what was tried, and what came of it.
fn told(row: &Judged) -> String {
    let Judged { verdict, title, layers, sealed, reason, .. } = row;
    let why = match (verdict, sealed) {
        (Verdict::Blocked, Some(outcome)) => {
            let by = layers.first().map_or("", String::as_str);
            let more = if layers.len() > 1 { format!(" +{}", layers.len() - 1) } else { String::new() };
            match errno(outcome.errno) {
                Some(errno) => format!("{errno}; {by}{more}"),
                None => format!("{}; {by}{more}", outcome.seen),
            }
        }
        (Verdict::Skipped, _) | (_, None) => reason.clone(),
        (_, Some(outcome)) => outcome.seen.clone(),
    };
    format!("{:<12} {title}: {why}", word(*verdict))
}

fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Blocked => "blocked",
        Verdict::Contained => "contained",
        Verdict::Skipped => "skipped",
        Verdict::Inconclusive => "INCONCLUSIVE",
        Verdict::Escaped => "ESCAPED",
    }
}

/// The name of an errno that a seal, or the kernel behind it, gives; one without is told in the system's words.
pub(crate) fn errno(code: i32) -> Option<&'static str> {
    Some(match code {
        1 => "EPERM",
        2 => "ENOENT",
        3 => "ESRCH",
        7 => "E2BIG",
        9 => "EBADF",
        11 => "EAGAIN",
        12 => "ENOMEM",
        13 => "EACCES",
        14 => "EFAULT",
        18 => "EXDEV",
        22 => "EINVAL",
        24 => "EMFILE",
        25 => "ENOTTY",
        28 => "ENOSPC",
        30 => "EROFS",
        38 => "ENOSYS",
        97 => "EAFNOSUPPORT",
        101 => "ENETUNREACH",
        110 => "ETIMEDOUT",
        111 => "ECONNREFUSED",
        _ => return None,
    })
}
