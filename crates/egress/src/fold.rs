//! Identical denials become one row a second with a count, so that a cell in a loop cannot fill the ledger.
//! Pure: the time is passed in.

use crate::{
    Refusal, Row,
    check::{Check, keeps},
};
use cofferdam_base::{Destination, Millis, ipc::warden::RecordKind};
use cofferdam_policy::Reason;
use std::collections::HashMap;

/// How many different denials are told apart at one time; beyond them only the reason counts.
const KINDS: usize = 1024;
const SECOND: u64 = 1000;
/// Denials that their rule's author wants no noise about become one row a minute.
const MINUTE: u64 = 60 * SECOND;

type Key = (Option<Destination>, Reason, String);

/// The denials of the last second.
#[derive(Debug, Default)]
pub(crate) struct Folder(HashMap<Key, Fold>);

#[derive(Debug)]
struct Fold {
    since: Millis,
    more: u32,
    period: u64,
}

impl Folder {
    /// Takes a denial; a row comes back if it is the first of its kind.
    pub(crate) fn add(
        &mut self,
        destination: Option<&Destination>,
        refusal: &Refusal,
        now: Millis,
    ) -> Option<Row> {
        let mut key = (destination.cloned(), refusal.reason, refusal.by.clone());
        if keeps(Check::FoldKinds) && self.0.len() >= KINDS && !self.0.contains_key(&key) {
            key = (None, key.1, String::new());
        }
        if let Some(fold) = self.0.get_mut(&key)
            && keeps(Check::Fold)
        {
            fold.more = fold.more.saturating_add(1);
            return None;
        }
        let row = Row { request: refusal.request.clone().into(), seen: refusal.seen.clone(), ..row(&key, 1) };
        self.0
            .insert(key, Fold { since: now, more: 0, period: if refusal.silent { MINUTE } else { SECOND } });
        Some(row)
    }

    /// Is there no row whose second is to come?
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The rows whose second is over.
    pub(crate) fn due(&mut self, now: Millis) -> Vec<Row> {
        let mut rows = Vec::new();
        self.0.retain(|key, fold| {
            if now.since(fold.since) < fold.period {
                return true;
            }
            let more = std::mem::take(&mut fold.more);
            fold.since = now;
            if more > 0 {
                rows.push(row(key, more));
            }
            more > 0
        });
        rows
    }
}

fn row((destination, reason, by): &Key, count: u32) -> Row {
    Row {
        what: RecordKind::Deny,
        destination: destination.clone(),
        by: by.clone(),
        reason: reason.code().to_owned(),
        request: String::new(),
        seen: None,
        count,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn no() -> Refusal {
        Refusal::new(Reason::NameMismatch, "sniff")
    }

    #[test]
    fn a_loop_of_denials_is_one_row_a_second_and_a_different_one_is_its_own() {
        let mut folder = Folder::default();
        assert_eq!(folder.add(None, &no(), Millis(0)).unwrap().count, 1);
        for at in 1..500 {
            assert_eq!(folder.add(None, &no(), Millis(at)), None);
        }
        assert!(folder.add(None, &Refusal::new(Reason::NoRule, "default"), Millis(10)).is_some());
        assert!(folder.due(Millis(999)).is_empty());
        let rows = folder.due(Millis(1000));
        assert_eq!((rows.len(), rows[0].count), (1, 499));
        assert!(folder.due(Millis(2000)).is_empty());
        assert!(folder.add(None, &no(), Millis(2001)).is_some());
    }

    proptest! {
        #[test]
        fn no_denial_is_lost_however_they_come(steps in proptest::collection::vec((0u16..3000, 0u64..400), 0..3000)) {
            let mut folder = Folder::default();
            let (mut now, mut shown) = (Millis(0), 0u64);
            for (port, pause) in &steps {
                now = now.plus(*pause);
                let destination = Destination {
                    host: cofferdam_base::Host::Name("a.example".parse().unwrap()),
                    port: (port + 1).try_into().unwrap(),
                    protocol: cofferdam_base::Protocol::Tcp,
                };
                let row = folder.add(Some(&destination), &no(), now);
                shown += row.into_iter().chain(folder.due(now)).map(|row| u64::from(row.count)).sum::<u64>();
            }
            shown += folder.due(now.plus(5000)).iter().map(|row| u64::from(row.count)).sum::<u64>();
            prop_assert_eq!(shown, steps.len() as u64);
        }
    }
}
