//! Proofs: signs one, keeps what it found, and bars every start of a tenant whose last one found what escapes.
//!
//! The bar is in the store and the ledger before the proof is signed, and in the life-cycle machine, which starts no
//! cell under it, whoever asks. The threat: a hole that was found, and a cell that comes up over it after a crash.
//! What a proof says is its maker's word: whoever may ask is the operator.

use crate::{
    Error,
    api::types::{LastProof, NewProof, SignedProof},
    check::{Check, keeps},
    host::Host,
    tenant::Tenant,
};
use cofferdam_base::{TenantId, ipc::launcher::Failure};
use cofferdam_store::ledger::Kind;
use cofferdam_tenants::lifecycle::Event as Happened;
use serde_json::json;
use std::{collections::BTreeSet, sync::PoisonError};

/// A proof has fewer rows than this, and each a shorter name.
const MOST_ROWS: usize = 1000;
const LONGEST_NAME: usize = 64;
/// So many names are said in one line, and in one row of the ledger.
const SAID: usize = 3;
const LEDGERED: usize = 40;

impl Host {
    /// Keeps what a proof found, and signs it.
    pub async fn sign_proof(&self, id: &TenantId, new: NewProof) -> Result<SignedProof, Error> {
        let tenant = self.tenant(id)?;
        check(&new)?;
        let NewProof { digest, verdicts, escaped, without } = new;
        let other = without != self.facts.without;
        // What escaped bars a start whatever the host left out.
        if other && escaped.is_empty() && keeps(Check::OtherLayers) {
            return Err(other_configuration(id));
        }
        let _in_order = tenant.wishes.lock().await;
        let kind = if escaped.is_empty() { Kind::Proved } else { Kind::Escaped };
        let some = escaped.iter().take(LEDGERED).collect::<Vec<_>>();
        let row =
            self.row(Some(id), kind, json!({ "digest": digest, "verdicts": verdicts, "escaped": some }));
        let proof = LastProof { digest, at: self.now(), escaped };
        let (id, found) = (id.clone(), proof.clone());
        let kept = self.db.run(move |disk| disk.set_proof(&id, &found, &row)).await;
        // Whether or not it is on disk, this control starts nothing over what escapes.
        if kept.is_ok() || !proof.escaped.is_empty() {
            tenant.note_proof(Some(proof));
            tenant.tell(Happened::Barred(self.barred(&tenant).is_some())).await;
        }
        kept?;
        if other && keeps(Check::OtherLayers) {
            return Err(other_configuration(&tenant.id));
        }
        let (key, signature) = self.issuer.sign_proof(digest);
        let runs = tenant.view().cell.is_some();
        Ok(SignedProof { key, signature, barred: self.barred(&tenant), runs })
    }

    /// Why no cell of this tenant is started, if its last proof is the reason.
    pub(crate) fn barred(&self, tenant: &Tenant) -> Option<Failure> {
        bar(&tenant.id, &tenant.proof()?, &self.facts.accepted).filter(|_| keeps(Check::Escaped))
    }

    /// Refuses what would start a cell.
    pub(crate) fn may_start(&self, tenant: &Tenant) -> Result<(), Error> {
        match self.barred(tenant) {
            None => Ok(()),
            Some(Failure { message, mend }) => Err(Error::Conflict { code: "escaped", message, mend }),
        }
    }
}

fn other_configuration(id: &TenantId) -> Error {
    let message = "the proof is of cofferdam.toml as it is now, and the host runs with what it was: the layers that it \
                   leaves out are others";
    let mend = format!("start the host anew, then cofferdam prove {id}");
    Error::Conflict { code: "other_configuration", message: message.to_owned(), mend }
}

/// What of a proof bars a start: every row that escaped, but for those that the operator accepted.
pub(crate) fn bar(id: &TenantId, proof: &LastProof, accepted: &BTreeSet<String>) -> Option<Failure> {
    let open: Vec<&str> =
        proof.escaped.iter().filter(|row| !accepted.contains(*row)).map(String::as_str).collect();
    if open.is_empty() {
        return None;
    }
    let more = open.len().saturating_sub(SAID);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let said = open.iter().take(SAID).copied().collect::<Vec<_>>().join(", ");
    Some(Failure {
        message: format!(
            "no cell of {id} is started: in its last proof {} of the attacks escaped: {said}{more}",
            open.len()
        ),
        mend: format!(
            "mend it and cofferdam prove {id}, or accept each in cofferdam.toml ([[accepted]], row and reason) and \
             start the host anew"
        ),
    })
}

fn check(new: &NewProof) -> Result<(), Error> {
    let NewProof { digest: _, verdicts, escaped, without: _ } = new;
    let usage = |what: &str| Err(Error::Usage(what.to_owned()));
    if verdicts.len() > 8 || verdicts.keys().any(|verdict| verdict.len() > 16) {
        return usage("a proof has at most eight verdicts");
    }
    let name =
        |row: &String| (1..=LONGEST_NAME).contains(&row.len()) && row.chars().all(|c| c.is_ascii_graphic());
    if escaped.len() > MOST_ROWS || !escaped.iter().all(name) {
        return usage("a proof names at most a thousand rows that escaped, each in at most 64 plain letters");
    }
    let counted = verdicts.get("escaped").copied().unwrap_or(0);
    if u32::try_from(escaped.len()) != Ok(counted) {
        return usage("a proof names as many rows that escaped as it counts");
    }
    Ok(())
}

impl Tenant {
    /// What its last proof found.
    pub(crate) fn proof(&self) -> Option<LastProof> {
        self.proof.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes what its last proof found.
    pub(crate) fn note_proof(&self, proof: Option<LastProof>) {
        *self.proof.lock().unwrap_or_else(PoisonError::into_inner) = proof;
    }
}
