//! What of an approval is on disk, and when.
//!
//! A yes for once to a connection that is held is wanted at once, and is used at once. So it is kept as used before
//! anybody hears of it, in one flush, and its use need not wait for another one. The threat: a yes that is used twice.
//! Whatever dies between the yes and its use, the disk says that it was used: then a person is asked again.

use super::{
    Said,
    shown::{is_once, row_kind},
};
use crate::{Error, db::Row, disk::StoredApproval, host::Host};
use cofferdam_base::ipc::warden::GrantSpan;
use cofferdam_policy::approval::State;
use serde_json::json;
use std::{
    collections::BTreeSet,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// The grants that are not used yet and that the disk has as used.
#[derive(Debug, Default)]
pub(super) struct Ahead(Mutex<BTreeSet<u64>>);

impl Ahead {
    fn lock(&self) -> MutexGuard<'_, BTreeSet<u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Host {
    /// Keeps the state that an approval has come to, with its row, before anybody hears of it; the policy that became
    /// durable with it, and its number.
    pub(super) async fn keep(
        &self,
        row: &StoredApproval,
        before: State,
        said: &Said,
    ) -> Result<Option<(String, u64)>, Error> {
        let kept = row.clone();
        if self.book.ahead.lock().remove(&row.id) && row.state == State::Used {
            // The disk has it as used: its row comes after it.
            let (db, ledger) = (self.db.clone(), self.approval_row(row, said));
            tokio::spawn(async move {
                let number = kept.id;
                if let Err(error) = db.run(move |disk| disk.set_approval(&kept, None, &ledger)).await {
                    tracing::error!(approval = number, %error, "the row of a use is missing");
                }
            });
            return Ok(None);
        }
        let ledger = self.approval_row(row, said);
        if matches!(before, State::Waiting { asked: _ }) && is_once(row.state) {
            self.db.run(move |disk| disk.grant_held(&kept, &ledger)).await?;
            self.book.ahead.lock().insert(row.id);
            return Ok(None);
        }
        let always = matches!(row.state, State::Granted(GrantSpan::Always));
        let text = said.policy.clone().filter(|_| always);
        let for_disk = text.clone();
        let number = self.db.run(move |disk| disk.set_approval(&kept, for_disk.as_deref(), &ledger)).await?;
        Ok(text.map(|text| (text, number)))
    }

    fn approval_row(&self, row: &StoredApproval, said: &Said) -> Row {
        let body = json!({
            "approval": row.id, "destination": row.destination.to_string(), "state": row.state,
            "words": said.words, "by": said.by, "revision": row.revision, "request": row.request,
            "count": row.count.max(1),
        });
        self.row(Some(&row.tenant), row_kind(row.state), body)
    }
}
