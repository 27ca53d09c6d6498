//! What was used as Prometheus reads it: text format 0.0.4, counters only.
//!
//! Each series is a sum over all time, so it never falls. By what series are told apart is the reader's to say: users
//! and agents are what cells claim, and there may be many. The threat: a name with a quote or a line feed in it, that
//! would be a series of its own.

use crate::{
    Error,
    api::types::{UsageQuery, UsageRow},
    host::Host,
};
use std::fmt::Write;

/// Name, help and value of each counter; the value in millionths is written as dollars.
type Counter = (&'static str, &'static str, fn(&UsageRow) -> String);

const COUNTERS: [Counter; 5] = [
    ("cofferdam_model_requests_total", "Requests to models.", |row| row.requests.to_string()),
    ("cofferdam_model_prompt_tokens_total", "Tokens in prompts.", |row| row.prompt_tokens.to_string()),
    ("cofferdam_model_completion_tokens_total", "Tokens in answers.", |row| {
        row.completion_tokens.to_string()
    }),
    ("cofferdam_model_cost_usd_total", "What they cost in US dollars, where a price is known.", |row| {
        format!("{}.{:06}", row.micros / 1_000_000, row.micros % 1_000_000)
    }),
    ("cofferdam_model_unpriced_requests_total", "Requests whose cost nobody knows.", |row| {
        row.unpriced.to_string()
    }),
];

impl Host {
    /// All counters, told apart as asked.
    pub async fn metrics(&self, query: UsageQuery) -> Result<String, Error> {
        let told = query.by.clone().unwrap_or_else(|| "tenant,route,model".to_owned());
        if query.since.is_some() || told.split(',').any(|by| by == "day") {
            return Err(Error::Usage("counters are sums over all time: leave since and day out".to_owned()));
        }
        let rows = self.usage(query).await?.rows;
        Ok(text(&told.split(',').collect::<Vec<_>>(), &rows))
    }
}

fn text(told: &[&str], rows: &[UsageRow]) -> String {
    let mut text = String::new();
    for (name, help, value) in COUNTERS {
        // Into a string nothing fails.
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} counter");
        for row in rows {
            let labels: Vec<_> = told.iter().map(|by| format!("{by}=\"{}\"", escaped(of(row, by)))).collect();
            let _ = writeln!(text, "{name}{{{}}} {}", labels.join(","), value(row));
        }
    }
    text
}

fn of<'a>(row: &'a UsageRow, by: &str) -> &'a str {
    match by {
        "tenant" => &row.tenant,
        "route" => &row.route,
        "model" => &row.model,
        "user" => &row.user,
        "agent" => &row.agent,
        _ => "",
    }
}

fn escaped(label: &str) -> String {
    label.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_makes_no_series_of_its_own() {
        let row = UsageRow {
            tenant: "acme".to_owned(),
            day: None,
            route: String::new(),
            model: String::new(),
            user: "a\"} 1\nevil\\".to_owned(),
            agent: String::new(),
            requests: 2,
            prompt_tokens: 3,
            completion_tokens: 4,
            micros: 1_000_005,
            unpriced: 0,
        };
        let text = text(&["tenant", "user"], &[row]);
        assert_eq!(text.lines().count(), 3 * COUNTERS.len());
        let series = "cofferdam_model_cost_usd_total{tenant=\"acme\",user=\"a\\\"} 1\\nevil\\\\\"} 1.000005";
        assert!(text.lines().any(|line| line == series), "{text}");
    }
}
