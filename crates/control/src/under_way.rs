//! What a tenant's warden has under way at its models, by the most that it could use.
//!
//! A warden that dies says no more what was used. The threat: a cell that ends its warden once the provider works, so
//! that nothing counts against its budget. What was under way then counts as all that it could have used.

use crate::Error;
use cofferdam_base::ipc::warden::Usage;
use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

/// No warden has more under way.
const MOST: usize = 2048;

/// The requests of one start of the warden.
#[derive(Debug, Default)]
pub struct UnderWay(Mutex<(u64, BTreeMap<u64, Usage>)>);

impl UnderWay {
    /// A warden of this start speaks. Given back is what one before it had under way: nobody will say more of it.
    pub fn begin(&self, boot: u64) -> Vec<Usage> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.0 == boot {
            return Vec::new();
        }
        state.0 = boot;
        std::mem::take(&mut state.1).into_values().collect()
    }

    /// This much could be used.
    pub fn add(&self, most: Usage) -> Result<(), Error> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.1.len() >= MOST {
            return Err(Error::Store("a warden has more requests under way than it takes".to_owned()));
        }
        state.1.insert(most.request, most);
        Ok(())
    }

    /// It is over, and is counted as what it was.
    pub fn remove(&self, request: u64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).1.remove(&request);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use cofferdam_base::Millis;

    fn most(request: u64) -> Usage {
        Usage {
            seq: 0,
            request,
            at: Millis(1),
            route: "main".parse().unwrap(),
            model: "m".to_owned(),
            prompt_tokens: 10,
            completion_tokens: 5,
            status: 0,
            estimated: true,
            micros: None,
            user: String::new(),
            agent: String::new(),
        }
    }

    #[test]
    fn what_a_dead_warden_had_under_way_is_told_once_and_that_of_a_living_one_never() {
        let under_way = UnderWay::default();
        assert!(under_way.begin(7).is_empty());
        (1..=3).for_each(|request| under_way.add(most(request)).unwrap());
        // Said again on another wire of the same start, it is the same.
        assert!(under_way.begin(7).is_empty());
        under_way.add(most(3)).unwrap();
        under_way.remove(2);
        let lost: Vec<_> = under_way.begin(8).iter().map(|usage| usage.request).collect();
        assert_eq!(lost, [1, 3]);
        assert!(under_way.begin(9).is_empty());
        (0..MOST as u64).for_each(|request| under_way.add(most(request)).unwrap());
        assert!(under_way.add(most(0)).is_err());
    }
}
