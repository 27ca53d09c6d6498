//! Contenders in turn, medians over rounds, and the table that shows them beside their targets.

/// The value below which `share` (0 to 100) of the samples lie.
pub fn percentile(samples: &[f64], share: usize) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[(sorted.len() - 1) * share / 100]
}

/// What a figure is held against.
#[derive(Clone, Copy)]
pub struct Target {
    pub what: &'static str,
    /// Where more is better, 0 is none.
    pub gate: f64,
    pub moonshot: f64,
    /// Is more better (throughput) or less (time)?
    pub more: bool,
    pub unit: &'static str,
}

impl Target {
    /// Prints the figure with its bounds; false if the gate is missed.
    pub fn report(&self, figure: f64) -> bool {
        let meets = |bound: f64| if self.more { figure >= bound } else { figure <= bound };
        let word = match (meets(self.gate), meets(self.moonshot)) {
            (_, true) => "moonshot met",
            (true, false) => "gate met, moonshot missed",
            (false, false) => "GATE MISSED",
        };
        let sign = if self.more { "≥" } else { "≤" };
        let Self { what, gate, moonshot, more: _, unit } = self;
        println!(
            "  {what:<50} {figure:>8.2}{unit}   gate {sign} {gate}   moonshot {sign} {moonshot}   {word}"
        );
        meets(self.gate)
    }
}

/// A name, and what takes the samples of one round.
pub type Contender<'a> = (String, Box<dyn Fn() -> Vec<f64> + 'a>);

/// One measure of all contenders: a row for each, p50 and p99 of every round.
pub struct Table {
    names: Vec<String>,
    p50: Vec<Vec<f64>>,
    p99: Vec<Vec<f64>>,
}

impl Table {
    /// Measures each contender in each round, in turn. The first is *direct*.
    pub fn measure(rounds: usize, contenders: &[Contender<'_>]) -> Self {
        let mut table = Self {
            names: contenders.iter().map(|(name, _)| name.clone()).collect(),
            p50: vec![Vec::new(); contenders.len()],
            p99: vec![Vec::new(); contenders.len()],
        };
        for round in 0..=rounds {
            for (at, (_, sample)) in contenders.iter().enumerate() {
                let samples = sample();
                // The first round is to warm up.
                if round > 0 {
                    table.p50[at].push(percentile(&samples, 50));
                    table.p99[at].push(percentile(&samples, 99));
                }
            }
        }
        table
    }

    /// The median over the rounds of what half of the samples of a round are below.
    pub fn p50(&self, at: usize) -> f64 {
        percentile(&self.p50[at], 50)
    }

    /// The same of what 99 of 100 are below.
    pub fn p99(&self, at: usize) -> f64 {
        percentile(&self.p99[at], 50)
    }

    /// The median of the ratios to *direct* of each round.
    pub fn ratio(&self, at: usize) -> f64 {
        let each: Vec<f64> = self.p50[at].iter().zip(&self.p50[0]).map(|(it, direct)| it / direct).collect();
        percentile(&each, 50)
    }

    /// The same of what comes by this name.
    pub fn at(&self, name: &str) -> usize {
        self.names.iter().position(|it| it == name).unwrap()
    }

    /// Prints it.
    pub fn print(&self, title: &str, unit: &str) {
        println!(
            "\n{title}\n  {:<26} {:>12} {:>12} {:>10}",
            "",
            format!("p50 {unit}"),
            format!("p99 {unit}"),
            "/ direct"
        );
        for (at, name) in self.names.iter().enumerate() {
            println!("  {name:<26} {:>12.1} {:>12.1} {:>10.2}", self.p50(at), self.p99(at), self.ratio(at));
        }
    }
}
