//! Adding one rule to a document's text, for an approval that is to last, with everything else kept.
//!
//! The result is parsed again and must be exactly the old rules and the new one; a document that cannot be
//! edited safely is refused, never rewritten.

use crate::{Document, Error, Pattern, Policy, Rule, Verb, Verdict};
use cofferdam_base::{Destination, Host};
use std::{collections::BTreeSet, fmt::Write};

/// The document with one more rule that allows `destination`; the same text if it is allowed already.
pub fn add_rule(text: &str, destination: &Destination, reason: &str) -> Result<String, Error> {
    let old = Policy::parse(text)?;
    if matches!(old.verdict(destination), Verdict::Allow { .. }) {
        return Ok(text.to_owned());
    }
    let item = |indent: &str| {
        let host = match &destination.host {
            Host::Address(address) => address.to_canonical().to_string(),
            Host::Name(name) => name.to_string(),
        };
        let mut item = format!("{indent}- allow: \"{host}\"\n{indent}  ports: [{}]\n", destination.port);
        // Writing to a string does not fail.
        let _ = writeln!(item, "{indent}  protocol: {}", destination.protocol);
        if !reason.is_empty() {
            let _ = writeln!(item, "{indent}  reason: {}", quoted(reason));
        }
        item
    };
    let new = insert(text, old.document(), item)?;
    let parsed = Document::parse(&new)?;
    if !is_one_more(old.document(), &parsed, destination) {
        return Err(Error::Edit("the new rule would not land among the others"));
    }
    let verdict = Policy::compile(parsed).verdict(destination);
    match (verdict, verdict.rule()) {
        (Verdict::Allow { .. }, _) => Ok(new),
        (_, Some(rule)) => Err(Error::Overruled { rule, destination: destination.to_string() }),
        (_, None) => Err(Error::Edit("the new rule does not take effect")),
    }
}

fn insert(text: &str, old: &Document, item: impl Fn(&str) -> String) -> Result<String, Error> {
    let mut lines: Vec<&str> = text.split_inclusive('\n').collect();
    let Some(last) = old.rules.last() else {
        let empty = lines.iter().position(|line| line.starts_with("rules:"));
        let mut new: String = match empty {
            Some(at)
                if matches!(lines[at].split('#').next().map(str::trim), Some("rules:" | "rules: []")) =>
            {
                lines[at] = "rules:\n";
                let (head, tail) = lines.split_at(at + 1);
                return Ok(format!("{}{}{}", head.concat(), item("  "), tail.concat()));
            }
            Some(_) => return Err(Error::Edit("`rules:` is not a block list")),
            None => lines.concat(),
        };
        if !new.ends_with('\n') {
            new.push('\n');
        }
        return Ok(format!("{new}rules:\n{}", item("  ")));
    };
    let start = usize::try_from(last.line).unwrap_or(usize::MAX).saturating_sub(1);
    let first = lines.get(start).ok_or(Error::Edit("the last rule was not found"))?;
    let indent = first.len() - first.trim_start_matches(' ').len();
    if !first[indent..].starts_with("- ") {
        return Err(Error::Edit("`rules:` is not a block list"));
    }
    // The last rule goes on while lines are indented deeper than its dash.
    let deeper = |line: &&str| line.starts_with(&" ".repeat(indent + 1)) && !line.trim().is_empty();
    let end = lines
        .iter()
        .enumerate()
        .skip(start + 1)
        .take_while(|(_, line)| line.trim().is_empty() || deeper(line))
        .filter(|(_, line)| deeper(line))
        .last()
        .map_or(start + 1, |(at, _)| at + 1);
    let (head, tail) = lines.split_at(end);
    let mut new = head.concat();
    if !new.ends_with('\n') {
        new.push('\n');
    }
    Ok(format!("{new}{}{}", item(&first[..indent]), tail.concat()))
}

/// A double-quoted YAML scalar of at most 200 characters on one line.
fn quoted(reason: &str) -> String {
    let clean = reason.chars().map(|c| if c.is_control() { ' ' } else { c }).take(200);
    let escaped: String =
        clean.flat_map(|c| matches!(c, '"' | '\\').then_some('\\').into_iter().chain([c])).collect();
    format!("\"{escaped}\"")
}

fn is_one_more(old: &Document, new: &Document, destination: &Destination) -> bool {
    let Some((added, kept)) = new.rules.split_last() else { return false };
    let Rule {
        id: _,
        line: _,
        verb,
        pattern,
        ports,
        protocol,
        reason: _,
        silent,
        request,
        expires,
        content,
        budget,
        opaque,
        approvers,
    } = added;
    (old.default, &old.terms) == (new.default, &new.terms)
        && kept.len() == old.rules.len()
        // The line of a rule that follows nothing new stays where it was.
        && kept.iter().zip(&old.rules).all(|(kept, old)| kept == old)
        && *verb == Verb::Allow
        && matches!(pattern, Pattern::Exact(host) if Pattern::Exact(host.clone()).matches(&destination.host))
        && *ports == Some(BTreeSet::from([destination.port]))
        && *protocol == Some(destination.protocol)
        && !silent
        && !opaque
        && (request, expires, content, budget) == (&None, &None, &None, &None)
        && approvers.is_none()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::RuleId;
    use cofferdam_base::Protocol;

    fn destination(host: &str) -> Destination {
        let host = host.parse().map_or_else(|_| Host::Name(host.parse().unwrap()), Host::Address);
        Destination { host, port: 8443.try_into().unwrap(), protocol: Protocol::Https }
    }

    #[test]
    fn a_rule_is_added_and_every_other_byte_is_kept() {
        for text in [
            "version: 1\n",
            "version: 1",
            "version: 1\nrules: []\n",
            "version: 1\nrules:\ndefault: deny\n",
            "# top\nversion: 1\nrules:\n  # about a\n  - allow: a.example   # tail\n    ports: [1,\n      2]\n\n# after\ndefault: ask\n",
            "version: 1\nrules:\n- ask: \"*.new.example\"\n- deny: b.example\n  reason: >-\n    folded\n    # no comment\n...\n",
            "version: 1\nrules:\n  - ask: www.new.example\n",
            "version: 1\r\nrules:\r\n  - deny: b.example\r\n",
        ] {
            let wanted = destination("www.new.example");
            let new = add_rule(text, &wanted, "said \"yes\" \\ \n once").unwrap();
            let verdict = Policy::parse(&new).unwrap().verdict(&wanted);
            assert!(matches!(verdict, Verdict::Allow { .. }), "{new}");
            for line in text.lines().filter(|line| !line.starts_with("rules:")) {
                assert!(new.contains(line), "{line:?} of {new:?}");
            }
            assert_eq!(add_rule(&new, &wanted, "").unwrap(), new, "twice is once");
        }
    }

    #[test]
    fn an_address_is_added_as_itself() {
        let wanted = destination("2606:4700::1");
        let new = add_rule("version: 1\n", &wanted, "").unwrap();
        assert!(matches!(Policy::parse(&new).unwrap().verdict(&wanted), Verdict::Allow { .. }));
    }

    #[test]
    fn what_cannot_be_edited_is_refused() {
        let wanted = destination("www.new.example");
        let flow = "version: 1\nrules: [{deny: b.example}]\n";
        assert!(matches!(add_rule(flow, &wanted, ""), Err(Error::Edit(_))));
        let denied = "version: 1\nrules:\n  - deny: \"*.new.example\"\n";
        let rule = RuleId(1);
        assert_eq!(
            add_rule(denied, &wanted, ""),
            Err(Error::Overruled { rule, destination: wanted.to_string() })
        );
    }
}
