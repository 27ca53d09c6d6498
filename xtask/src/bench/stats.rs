//! Medians, ratios and the table that shows them.

/// The value below which `share` (0 to 100) of the sorted samples lie.
pub(super) fn percentile(samples: &mut [f64], share: usize) -> f64 {
    samples.sort_by(f64::total_cmp);
    let last = samples.len().saturating_sub(1);
    samples.get(last * share / 100).copied().unwrap_or(f64::NAN)
}

/// The median.
pub(super) fn median(mut samples: Vec<f64>) -> f64 {
    percentile(&mut samples, 50)
}

/// What a figure is held against.
pub(super) struct Target {
    pub(super) what: &'static str,
    pub(super) gate: f64,
    pub(super) moonshot: f64,
    /// Is more better (throughput) or less (time)?
    pub(super) more: bool,
}

impl Target {
    /// One line: figure, gate, moonshot, and which of them it meets. False if the gate is missed.
    pub(super) fn report(&self, figure: f64) -> (String, bool) {
        let meets = |bound: f64| if self.more { figure >= bound } else { figure <= bound };
        let word = match (meets(self.gate), meets(self.moonshot)) {
            (_, true) => "moonshot met",
            (true, false) => "gate met, moonshot missed",
            (false, false) => "GATE MISSED",
        };
        let sign = if self.more { "≥" } else { "≤" };
        let Self { what, gate, moonshot, more: _ } = self;
        (
            format!(
                "{what:<44} {figure:>6.2}   gate {sign} {gate:.2}   moonshot {sign} {moonshot:.2}   {word}"
            ),
            meets(self.gate),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missed_gate_is_said() {
        let target = Target { what: "x", gate: 2.0, moonshot: 1.0, more: false };
        assert!(target.report(0.9).0.contains("moonshot met"));
        assert!(target.report(1.5).1);
        assert!(!target.report(2.5).1);
        assert!((median(vec![3.0, 1.0, 2.0]) - 2.0).abs() < f64::EPSILON);
    }
}
