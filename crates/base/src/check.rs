//! Checks that a crate's own tests can leave out, one by one, to see that each of them is missed.
//!
//! A crate names its checks with [`checks!`](crate::checks) and asks `keeps` at each. What can leave one out exists
//! only under `cfg(test)` of that very crate, which is no feature: no dependency, profile or flag of cargo turns it
//! on, and in every other build `keeps` is the constant `true`, so that `keeps(check) && bad` is `bad`. The threat:
//! a check that is thought to hold and does not, which only its absence can show.

/// In every program that can leave a check out, and in no other: the tests look for it in both.
#[doc(hidden)]
pub const LEAVES_CHECKS_OUT: &str = "cofferdam: this program can leave checks out";

/// Names the checks of a crate. A row is a name with its doc line, or a name with a part for each of many:
/// `Range(usize in 0..TABLE.len())`.
#[macro_export]
macro_rules! checks {
    ($($(#[doc = $doc:literal])+ $name:ident $(($part:ident in $parts:expr))?,)+) => {
        /// One check of this crate.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Check { $($(#[doc = $doc])+ $name $(($part))?,)+ }

        /// Is the check in place? Always, but in this crate's own tests.
        #[cfg(not(test))]
        #[inline]
        pub(crate) const fn keeps(_: Check) -> bool {
            true
        }

        #[cfg(test)]
        pub(crate) use left_out::keeps;

        #[cfg(test)]
        pub(crate) mod left_out {
            use super::*;
            use std::cell::RefCell;

            std::thread_local! {
                static LEFT_OUT: RefCell<Vec<Check>> = const { RefCell::new(Vec::new()) };
            }

            pub(crate) fn keeps(check: Check) -> bool {
                !LEFT_OUT.with_borrow(|checks| checks.contains(&check))
            }

            impl Check {
                /// Every check.
                pub(crate) fn all() -> Vec<Self> {
                    let mut all = Vec::new();
                    $($crate::checks!(@add all $name $(($parts))?);)+
                    all
                }
            }

            /// Does the attack get through on this thread without these checks?
            fn without(checks: Vec<Check>, attack: &dyn Fn() -> bool) -> bool {
                std::hint::black_box($crate::LEAVES_CHECKS_OUT);
                LEFT_OUT.set(checks);
                let through = attack();
                LEFT_OUT.set(Vec::new());
                through
            }

            /// Tries an attack with the checks that answer it, without all of them, and with each alone. An error
            /// says which of them is not missed.
            pub(crate) fn tried(layers: &[Check], attack: &dyn Fn() -> bool) -> Result<(), String> {
                if without(Vec::new(), attack) {
                    return Err(format!("{layers:?} do not stop the attack"));
                }
                if !without(layers.to_vec(), attack) {
                    return Err(format!("without {layers:?} the attack is stopped too"));
                }
                for alone in layers {
                    let others = layers.iter().copied().filter(|layer| layer != alone).collect();
                    if without(others, attack) {
                        return Err(format!("{alone:?} alone, of {layers:?}, does not stop the attack"));
                    }
                }
                Ok(())
            }

            /// Attacks each check, as `attack` says with `tried`; prints the kill rate and fails for a survivor.
            #[allow(clippy::print_stdout, clippy::disallowed_methods, reason = "the rate is what CI shows")]
            pub(crate) fn each_is_missed(what: &str, attack: impl Fn(Check) -> Result<(), String>) {
                let program = std::env::current_exe().and_then(std::fs::read).unwrap_or_default();
                let mark = $crate::LEAVES_CHECKS_OUT.as_bytes();
                assert!(program.windows(mark.len()).any(|bytes| bytes == mark), "the mark is not in this program");
                let all = Check::all();
                let survivors: Vec<_> =
                    all.iter().filter_map(|check| attack(*check).err().map(|why| (check, why))).collect();
                println!("{what} checks: {} of {} killed", all.len() - survivors.len(), all.len());
                assert!(survivors.is_empty(), "{survivors:#?}");
            }
        }
    };
    (@add $all:ident $name:ident) => {
        $all.push(Self::$name)
    };
    (@add $all:ident $name:ident ($parts:expr)) => {
        $all.extend(($parts).into_iter().map(Self::$name))
    };
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    checks! {
        /// One.
        First,
        /// Another.
        Second,
        /// One for each of three.
        Each(usize in 0..3),
    }

    use left_out::tried;

    #[test]
    fn a_check_that_is_not_missed_is_a_survivor_whatever_stops_the_attack() {
        let both = [Check::First, Check::Second];
        assert_eq!(tried(&both, &|| !keeps(Check::First) && !keeps(Check::Second)), Ok(()));
        let stopped_otherwise = tried(&[Check::First], &|| false).unwrap_err();
        assert!(stopped_otherwise.contains("stopped too"), "{stopped_otherwise}");
        let not_stopped = tried(&[Check::First], &|| true).unwrap_err();
        assert!(not_stopped.contains("do not stop"), "{not_stopped}");
        let not_alone = tried(&both, &|| !keeps(Check::First)).unwrap_err();
        assert!(not_alone.contains("Second alone"), "{not_alone}");
        let redundant =
            tried(&[Check::First], &|| !keeps(Check::First) && !keeps(Check::Second)).unwrap_err();
        assert!(redundant.contains("stopped too"), "{redundant}");
        assert!(both.into_iter().all(keeps), "nothing stays left out");
    }

    #[test]
    #[should_panic(expected = "Second")]
    fn a_survivor_fails_the_run() {
        left_out::each_is_missed("own", |check| {
            if check == Check::Second { tried(&[check], &|| false) } else { Ok(()) }
        });
    }

    #[test]
    fn every_check_is_there_with_all_its_parts() {
        let parts = [Check::Each(0), Check::Each(1), Check::Each(2)];
        assert_eq!(Check::all(), [[Check::First, Check::Second].as_slice(), &parts].concat());
    }
}
