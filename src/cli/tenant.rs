//! `cofferdam tenant`: the commands about one tenant, and how it is shown.

use super::{
    Client, Exit, Failure,
    commands::{Done, OK, say},
    exec,
    flags::{Limits, Tenant},
    import, other,
    print::{self, moment},
};
use cofferdam_base::{
    TenantId,
    ipc::{launcher, receipt::LayerState},
};
use cofferdam_control::api::types;
use http::Method;

pub(super) async fn run(command: Tenant, client: &Client, json: bool) -> Done {
    match command {
        Tenant::Create { id, runtime, start, limits } => {
            let new = types::NewTenant { id, runtime, limits: Some(wanted(limits)), start, wait: start };
            show(&client.call(Method::POST, "tenants", Some(&new)).await?, json)
        }
        Tenant::Import { dir, tenant, runtime, dry_run, all, limits } => {
            let order = import::Order { dir, tenant, runtime, dry_run, all };
            import::run(order, client, wanted(limits), json).await
        }
        Tenant::List => {
            let all: types::Tenants = client.fetch("tenants").await?;
            if json {
                print::json(&all)?;
                return Ok(OK);
            }
            let row = |tenant: &types::Tenant| {
                let why = tenant.failure.as_ref().map(|failure| failure.message.clone()).unwrap_or_default();
                vec![
                    tenant.id.to_string(),
                    tenant.state.clone(),
                    sealed(tenant).to_owned(),
                    short_runtime(&tenant.runtime),
                    tenant.address.clone(),
                    why,
                ]
            };
            let rows = all.tenants.iter().map(row).collect();
            let head = ["TENANT", "STATE", "SEAL", "RUNTIME", "ADDRESS", ""];
            print::table(&head, rows, "no tenants; make one with: cofferdam tenant create ID")?;
            Ok(OK)
        }
        Tenant::Show { id } => show(&client.fetch(&format!("tenants/{id}")).await?, json),
        Tenant::Start { id } => verb(client, &id, "start", json).await,
        Tenant::Stop { id } => verb(client, &id, "stop", json).await,
        Tenant::Restart { id } => verb(client, &id, "restart", json).await,
        Tenant::Resume { id } => verb(client, &id, "resume", json).await,
        Tenant::Limits { id, limits } => limit(client, &id, wanted(limits), json).await,
        Tenant::Delete { id, yes } => {
            if !yes {
                let mend = format!("cofferdam tenant delete {id} --yes");
                let message = format!("deleting {id} removes its cell, its files and its secrets for good");
                return Err(Failure::new(Exit::Usage, "not_confirmed", message, mend));
            }
            let _: types::Empty = client.call(Method::DELETE, &format!("tenants/{id}"), None::<&()>).await?;
            say(json, &types::Empty {}, &format!("{id} is deleted"))
        }
        Tenant::Logs { id, follow, raw } => {
            let path = format!("tenants/{id}/logs?follow={follow}&raw={raw}");
            client.stream(&path, |chunk| Ok(print::raw(chunk)?)).await?;
            Ok(OK)
        }
        Tenant::Other(words) => Err(other("tenant", &words)),
        Tenant::Exec { id, raw, tty, argv } => exec::run(client, &id, argv, tty, raw).await,
    }
}

fn wanted(limits: Limits) -> types::WantedLimits {
    let Limits { memory, tmp, pids, cpu, files, io, disk, inodes } = limits;
    types::WantedLimits {
        memory_bytes: memory,
        tmp_bytes: tmp,
        pids,
        cpu_percent: cpu,
        open_files: files,
        io_bytes: io,
        disk_bytes: disk,
        inodes,
    }
}

async fn limit(client: &Client, id: &TenantId, wanted: types::WantedLimits, json: bool) -> Done {
    if wanted == types::WantedLimits::default() {
        let mend = format!("cofferdam tenant limits {id} --memory 2048, for example");
        return Err(Failure::new(Exit::Usage, "no_limit", "no limit was given", mend));
    }
    let set: types::LimitsSet =
        client.call(Method::PUT, &format!("tenants/{id}/limits"), Some(&wanted)).await?;
    if json {
        print::json(&set)?;
        return Ok(OK);
    }
    print::line(&format!("limits     {}", limits_line(&set.limits)))?;
    let less = ("policy less", set.policy_says_less);
    for (title, names) in [("in force", set.in_force), ("next start", set.at_next_start), less] {
        if !names.is_empty() {
            print::line(&format!("{title:<10} {}", names.join(", ")))?;
        }
    }
    Ok(OK)
}

fn limits_line(limits: &launcher::Limits) -> String {
    format!(
        "{} MiB memory, {} processes, {} % of a core, {} MiB /tmp, {} open files, {} MiB a second of the disk, \
         {} MiB and {} inodes of /sandbox",
        limits.memory_bytes >> 20,
        limits.pids,
        limits.cpu_percent,
        limits.tmp_bytes >> 20,
        limits.open_files,
        limits.io_bytes >> 20,
        limits.disk_bytes >> 20,
        limits.inodes
    )
}

/// What of it is counted.
fn usage_line(usage: &launcher::Usage) -> String {
    let launcher::Usage { memory_bytes, pids, cpu_ms, disk_bytes, inodes } = *usage;
    let parts = [
        memory_bytes.map(|bytes| format!("{} MiB memory", bytes >> 20)),
        pids.map(|pids| format!("{pids} processes")),
        cpu_ms.map(|ms| format!("{} s of CPU", ms / 1000)),
        disk_bytes.map(|bytes| format!("{} MiB", bytes >> 20)),
        inodes.map(|inodes| format!("{inodes} inodes of /sandbox")),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

async fn verb(client: &Client, id: &TenantId, verb: &str, json: bool) -> Done {
    let wait = types::Wait { wait: true };
    show(&client.call(Method::POST, &format!("tenants/{id}/{verb}"), Some(&wait)).await?, json)
}

fn show(tenant: &types::Tenant, json: bool) -> Done {
    if json {
        print::json(tenant)?;
        return Ok(OK);
    }
    let in_force = match tenant.policy_in_force {
        Some(revision) if revision == tenant.policy_revision => "in force".to_owned(),
        Some(revision) => format!("not in force, {revision} is"),
        None => "not in force, no warden runs".to_owned(),
    };
    print::line(&format!(
        "tenant     {} (slot {}), made {}",
        tenant.id,
        tenant.slot,
        moment(tenant.created)
    ))?;
    print::line(&format!(
        "state      {}, wanted {}, start {}",
        tenant.state, tenant.desired, tenant.generation
    ))?;
    print::line(&format!("runtime    {}", tenant.runtime))?;
    print::line(&format!("origin     {}", tenant.origin))?;
    print::line(&format!("address    {}", tenant.address))?;
    print::line(&format!("policy     revision {}, {in_force}", tenant.policy_revision))?;
    print::line(&format!("limits     {}", limits_line(&tenant.limits)))?;
    if let Some(left) = &tenant.policy_leaves {
        print::line(&format!("  policy   {}", limits_line(left)))?;
    }
    if let Some(usage) = &tenant.usage {
        print::line(&format!("uses       {}", usage_line(usage)))?;
    }
    if let Some(due) = tenant.next_due {
        print::line(&format!("due        {}, by its gateway's own word", moment(due)))?;
    }
    print::line(&format!("warden     {}", if tenant.warden { "connected" } else { "none" }))?;
    if tenant.alerts > 0 {
        let see = format!("cofferdam ledger tail --tenant {}", tenant.id);
        print::line(&format!(
            "ALERTS     {} placeholders or known values were to be sent out; {see}",
            tenant.alerts
        ))?;
    }
    if let Some(failure) = &tenant.failure {
        print::line(&format!("failure    {}", failure.message))?;
        if !failure.mend.is_empty() {
            print::line(&format!("  mend     {}", failure.mend))?;
        }
    }
    if let Some(proof) = &tenant.proof {
        let found = match &proof.escaped[..] {
            [] => "nothing escaped".to_owned(),
            rows => format!("ESCAPED {}", rows.join(", ")),
        };
        print::line(&format!("proved     {}, {found}", moment(proof.at)))?;
    }
    if let Some(receipt) = &tenant.receipt {
        print::line(&format!("seal       {}", sealed(tenant)))?;
        for row in &receipt.layers {
            let state = match row.state {
                LayerState::Enforced => "enforced",
                LayerState::Partial => "PARTIAL",
                LayerState::Absent => "ABSENT",
            };
            print::line(format!("  {:<22} {state:<9} {}", row.layer, row.detail).trim_end())?;
        }
    }
    Ok(OK)
}

/// The seal of a tenant's cell in one word.
fn sealed(tenant: &types::Tenant) -> &'static str {
    match &tenant.receipt {
        None => "-",
        Some(receipt) if receipt.layers.iter().all(|row| row.state == LayerState::Enforced) => "sealed",
        Some(_) => "degraded",
    }
}

/// A lock's digest is too long for a table.
fn short_runtime(runtime: &str) -> String {
    runtime.chars().take(20).collect()
}
