//! The policy document: strict YAML in, typed rules out.
//!
//! ```yaml
//! version: 1
//! default: ask              # ask | deny; ask if left out
//! rules:
//!   - allow: api.example.com    # a name, a literal address, or one label wide: "*.example.com"
//!     ports: [443]              # if left out: 443 for https, 80 for http; tcp must name them
//!     protocol: https           # https | http | tcp; https if left out of an allow
//!     reason: "the model"       # optional
//!   - deny: "*.ads.example"     # all ports and protocols unless narrowed
//!     silent: true              # neither noise nor single records
//!   - ask: "*.example.org"
//! ```
//!
//! Version 2 has rules about requests besides. All that a rule says must hold; `*` in a value stands for any
//! run of characters; each value may be a list of which one must fit.
//!
//! ```yaml
//! version: 2
//! rules:
//!   - allow: api.example.com
//!     method: [GET, HEAD]
//!     path: /repos/{owner}/{repo}/**    # {name} or *: one segment; **: any run of them
//!     query: {state: [open, closed]}    # an allow wants each `state` to fit, a deny one
//!     headers: [authorization]          # which are there
//!     content: untrusted                # trusted | untrusted, in the records
//!     expires: 2026-12-31T18:00:00Z
//!     budget: {bytes_per_hour: 1000000, bytes_per_day: 5000000, requests_per_minute: 30}
//!         # also urls_per_hour, urls_per_day: different ones; per: rule | destination
//!   - allow: mcp.example.com
//!     mcp: {method: tools/call, tool: search, arguments: {repo: "acme/*"}}
//!   - allow: node.example.com
//!     jsonrpc: {method: "eth_get*"}
//!   - allow: api.example.com
//!     path: /graphql                    # each root field must fit in an allow, one in a deny
//!     graphql: {operation: query, name: "Get*", fields: [viewer, repository]}
//!   - allow: rpc.example.com
//!     grpc: {service: acme.Notes, method: [Get, "List*"]}
//!   - allow: chat.example.com
//!     protocol: ws                # ws | mcp | jsonrpc: over TLS, in an allow; `plain: true`: without
//!   - ask: api.example.com
//!     method: POST
//!     approvers: [operator]       # who may say yes: approver | admin | operator; each includes the next
//!   - allow: pinned.example.com
//!     inspect: never              # its TLS is passed on unseen
//! ```
//!
//! Beside its rules it says what may be had at most. None of it gives more than the operator set.
//!
//! ```yaml
//! version: 2
//! approvers: [admin]            # for all that is asked here; a rule may name fewer
//! limits: {memory_bytes: 1073741824, pids: 200, connections: 50}    # the names of `[limits]`, and connections
//! inference:
//!   routes: {fast: [tokens/day=200000], good: []}    # or [fast, good]; left out: all of the tenant's
//!   budget: [tokens/day=500000, usd/month=12.50]     # of all routes together
//! filesystem: {read_only: [models]}    # directories that the operator offers; /offered/models in the cell
//! ```
//!
//! An unknown key, a wrong type or a key given twice is refused with its line and column; so are anchors,
//! aliases, tags and merge keys. `tcp` is whatever is neither plain HTTP nor TLS, or is not to be looked
//! at. Which rule decides: see [`Rule`]'s order, a denial first.

use crate::{
    Default, Error, Rule, RuleId, Terms,
    file::RawDocument,
    parse::{at, parse_rule},
};
use serde_saphyr::{DuplicateKeyPolicy, MergeKeyPolicy, Options};

/// The longest document that is read, in bytes.
pub const MAX_DOCUMENT: usize = 64 * 1024;

/// How deep a document goes.
const DEPTH: usize = 8;

/// A parsed policy document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// What happens to what no rule names.
    pub default: Default,
    /// What it says beside them.
    pub terms: Terms,
    /// The rules, in the document's order.
    pub rules: Vec<Rule>,
}

impl Document {
    /// Parses a document.
    pub fn parse(text: &str) -> Result<Self, Error> {
        if text.len() > MAX_DOCUMENT {
            return Err(Error::TooLong(text.len()));
        }
        let raw: RawDocument =
            serde_saphyr::from_str_with_options(text, options(DEPTH)).map_err(|error| yaml_error(&error))?;
        let version = raw.version.value;
        if !matches!(version, 1 | 2) {
            let message = format!("version {version} is not known: write `version: 1` or `version: 2`");
            return Err(at(raw.version.referenced, message));
        }
        let terms = Terms::parse(&raw)?;
        let rules = raw.rules.into_iter().flatten().zip(1..);
        let rules = rules.map(|(rule, id)| parse_rule(rule, RuleId(id), version));
        let rules: Vec<Rule> = rules.collect::<Result<_, _>>()?;
        unlooked(&rules)?;
        wider(&rules, &terms)?;
        Ok(Self { default: raw.default.unwrap_or(Default::Ask), terms, rules })
    }

    /// The rule of this id.
    pub fn rule(&self, id: RuleId) -> Option<&Rule> {
        self.rules.get(usize::try_from(id.0).ok()?.checked_sub(1)?)
    }
}

/// A rule leaves its questions to fewer than the document does, and not to more.
fn wider(rules: &[Rule], terms: &Terms) -> Result<(), Error> {
    for rule in rules {
        if let (Some(own), Some(all)) = (rule.approvers, terms.approvers)
            && own < all
        {
            let message = format!("`approvers` of {rule} are more than the document's own, {all}");
            return Err(Error::Document { line: rule.line, column: 1, message });
        }
    }
    Ok(())
}

/// Where a rule forbids to look, none may ask to.
fn unlooked(rules: &[Rule]) -> Result<(), Error> {
    for opaque in rules.iter().filter(|rule| rule.opaque) {
        let seen = rules.iter().find(|rule| rule.request.is_some() && rule.meets(opaque));
        if let Some(seen) = seen {
            let message = format!("`inspect: never`, and {seen} judges requests to the same place");
            return Err(Error::Document { line: opaque.line, column: 1, message });
        }
    }
    Ok(())
}

pub(crate) fn options(depth: usize) -> Options {
    let budget = serde_saphyr::budget! {
        max_depth: depth,
        flow_nesting_limit: 8,
        max_aliases: 0,
        max_anchors: 0,
        max_documents: 1,
        max_events: 60_000,
        max_nodes: 60_000,
    };
    serde_saphyr::options! {
        budget: budget,
        duplicate_keys: DuplicateKeyPolicy::Error,
        merge_keys: MergeKeyPolicy::Error,
        strict_booleans: true,
        no_schema: true,
        reject_unsupported_tags: true,
        reject_tagged_field_names: true,
        with_snippet: false,
    }
}

pub(crate) fn yaml_error(error: &serde_saphyr::Error) -> Error {
    let error = error.without_snippet();
    let place = error.location();
    let message = error.render().lines().next().unwrap_or_default().chars().take(300).collect();
    Error::Document {
        line: place.map_or(0, |place| place.line()),
        column: place.map_or(0, |place| place.column()),
        message,
    }
}

#[cfg(test)]
#[path = "document_tests.rs"]
mod tests;
