//! `tenant import`: a tenant whose home is filled before it is anybody's.
//!
//! All or nothing: the tenant counts as deleted until its home is whole, so that whatever ends the import, this
//! process included, leaves none. What is put into the home is a stream from the operator's command line to a process
//! in the tenant's own cell; nothing here reads it. The threat: a half-filled home that somebody starts.

use crate::{
    Error,
    api::types::{Imported, NewTenant, Unpacked},
    exec,
    host::Host,
    plain::Plain,
    tenant::Tenant,
};
use axum::body::BodyDataStream;
use cofferdam_base::ipc::launcher::RuntimeRef;
use cofferdam_store::ledger::Kind;
use cofferdam_tenants::{
    lifecycle::{Desired, Event as Happened, Phase},
    runtime::CELL_PROGRAM,
};
use futures_util::StreamExt;
use serde_json::json;
use std::sync::{Arc, atomic::Ordering};

/// The longest word of the process in the cell that is shown.
const LONGEST: usize = 600;

impl Host {
    /// Makes a tenant and fills its home from the stream. It is stopped then.
    pub async fn import(
        self: &Arc<Self>,
        new: NewTenant,
        mut stream: BodyDataStream,
    ) -> Result<Imported, Error> {
        let filled = self.import_from(new, &mut stream).await;
        if filled.is_err() {
            // A client that is still sending reads no answer.
            while stream.next().await.is_some_and(|piece| piece.is_ok()) {}
        }
        filled
    }

    async fn import_from(
        self: &Arc<Self>,
        new: NewTenant,
        stream: &mut BodyDataStream,
    ) -> Result<Imported, Error> {
        if new.start || new.wait {
            return Err(Error::Usage("what is imported is started afterwards".to_owned()));
        }
        let tenant = self.make(new, true).await?;
        let filled = match self.fill(&tenant, stream).await {
            Ok(unpacked) => self.seal_import(&tenant, unpacked).await.map(|()| unpacked),
            Err(error) => Err(error),
        };
        match filled {
            Ok(unpacked) => Ok(Imported { tenant: self.describe(&tenant).await?, unpacked }),
            Err(error) => {
                // If that fails it is tried again, and by the next control as well.
                if let Err(left) = self.delete(&tenant.id).await {
                    tracing::error!(tenant = %tenant.id, error = %left, "a tenant whose import failed is still there");
                }
                Err(error)
            }
        }
    }

    async fn fill(&self, tenant: &Arc<Tenant>, stream: &mut BodyDataStream) -> Result<Unpacked, Error> {
        let runtime = match &tenant.runtime {
            RuntimeRef::Native => "native",
            RuntimeRef::Openclaw(_) => "openclaw",
            RuntimeRef::Command(_) => {
                return Err(Error::Usage(
                    "only tenants with the runtime native or openclaw are imported".to_owned(),
                ));
            }
        };
        tenant.tell(Happened::Want(Desired::Running)).await;
        self.wait_up(tenant).await?;
        let argv = [CELL_PROGRAM, "__unpack-home", runtime].map(str::to_owned).to_vec();
        let exec::Ended { code, stdout, stderr } =
            exec::with_input(tenant.id.clone(), argv, stream, self.launcher()).await?;
        let unpacked = serde_json::from_slice(&stdout).ok().filter(|_| code == 0);
        let unpacked = unpacked.ok_or_else(|| {
            let mut said = Vec::new();
            Plain::default().filter(&stderr, &mut said);
            let said: String = String::from_utf8_lossy(&said).trim().chars().take(LONGEST).collect();
            Error::Refused {
                code: "import_failed",
                message: format!("the home could not be filled: {said}"),
                mend: "mend that and import under another name: ids are never used again".to_owned(),
            }
        })?;
        tenant.tell(Happened::Want(Desired::Stopped)).await;
        tenant.wait(|view| view.phase == Phase::Stopped || view.desired != Desired::Stopped).await;
        Ok(unpacked)
    }

    /// From here on it is a tenant like any other, unless somebody killed or deleted it meanwhile.
    async fn seal_import(&self, tenant: &Tenant, unpacked: Unpacked) -> Result<(), Error> {
        let _in_order = tenant.wishes.lock().await;
        match tenant.view().desired {
            Desired::Stopped => {}
            Desired::Killed => return Err(Error::killed(&tenant.id)),
            Desired::Running | Desired::Deleted => return Err(Error::being_deleted(&tenant.id)),
        }
        let (id, row) =
            (tenant.id.clone(), self.row(Some(&tenant.id), Kind::TenantImported, json!(unpacked)));
        self.db.run(move |disk| disk.set_desired(&id, Desired::Stopped, &row)).await?;
        tenant.importing.store(false, Ordering::Relaxed);
        Ok(())
    }
}
