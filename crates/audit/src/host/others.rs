//! The tenants besides the two: one under the tenant's own policy and nothing else, one whose requests are judged.

use super::{Host, text};
use crate::{
    Error,
    battery::wires::{
        DEFAULTED, GOOD, INSPECTED, NEIGHBOUR,
        inspected::{AUTHORITIES, BOUND, LINES, PLACEHOLDER, POLICY},
    },
    rules::Rules,
};

/// Where a cell's own authorities are, the tenant's last.
const TRUST: &str = "/etc/cofferdam/trust/more.pem";

impl Host {
    /// Makes them, and learns what words of rows stand for.
    pub(super) fn furnish_others(&mut self, rules: &Rules) -> Result<(), Error> {
        for (tenant, policy) in [(DEFAULTED, rules.own_text()), (INSPECTED, POLICY)] {
            self.done(&["policy", "set", tenant, "-"], policy)?;
        }
        let place = format!("{GOOD}/v1/**");
        let bind = ["secret", "set", INSPECTED, "BOUND", "--bind", &place, "--in", "header:X-Api-Key"];
        let placeholder = text(&self.done(&bind, BOUND)?, "placeholder")?;
        let (theirs, own) = (self.authority(NEIGHBOUR)?, self.authority(INSPECTED)?);
        self.made = vec![
            (PLACEHOLDER, placeholder),
            (AUTHORITIES[0], in_json(&theirs)),
            (AUTHORITIES[1], in_json(&own)),
            (LINES[0], line(&theirs)?),
            (LINES[1], line(&own)?),
        ];
        Ok(())
    }

    /// The certificate of a tenant's authority, as its cell has it.
    fn authority(&self, tenant: &str) -> Result<String, Error> {
        let told = self.run(&["tenant", "exec", tenant, "--", "/bin/cat", TRUST], "")?;
        let text = String::from_utf8_lossy(&told.stdout);
        let last = text.rfind("-----BEGIN CERTIFICATE-----").map(|at| text[at..].to_owned());
        last.ok_or_else(|| Error::BrokenOff(format!("the cell of {tenant} trusts nobody")))
    }

    /// Attempts with what their words stand for.
    pub(super) fn spelt(&self, attempts: String) -> String {
        self.made.iter().fold(attempts, |text, (word, stands)| text.replace(word, stands))
    }
}

/// As a text of JSON has it.
fn in_json(pem: &str) -> String {
    pem.replace('\n', "\\n")
}

/// The longest last line of a certificate: of its signature, so that no other has it.
fn line(pem: &str) -> Result<String, Error> {
    let lines: Vec<&str> = pem.lines().filter(|line| !line.starts_with('-')).collect();
    let whole = lines.iter().rev().find(|line| line.len() >= 64);
    whole
        .map(ToString::to_string)
        .ok_or_else(|| Error::BrokenOff(String::from("an authority has no certificate")))
}
