//! Which method of the gateway's protocol asks for which scope, and which are for control alone.
//!
//! It owns the decision for one method name and a set of scopes. The threat: a member who calls what the role
//! does not allow, and a gateway, hostile as all in a cell, that would let it pass. What is not in the table
//! is refused: a newer upstream brings its new methods with a new table, after somebody looked at them.

pub mod http;
mod table;

use crate::check::{Check, keeps};
use cofferdam_base::Scope;
use std::collections::BTreeSet;

/// What upstream asks of a method's caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upstream {
    /// Always this scope.
    Scoped(Scope),
    /// A scope that upstream derives from the parameters; the edge asks for this one.
    Dynamic(Scope),
    /// A node, not an operator. The edge lets no node in.
    Node,
}

/// Whom we let call a method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    /// Whoever has the scope.
    Clients,
    /// Nobody through the edge: identity, life cycle and pairing are the control plane's.
    Control,
}

/// May this method be called with these scopes?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// Yes.
    Open,
    /// No, this scope is missing.
    Missing(Scope),
    /// No, only control may.
    ControlOnly,
    /// No, there is no such method for operators.
    Unknown,
}

/// Decides about one call.
#[must_use]
pub fn gate(method: &str, scopes: &BTreeSet<Scope>) -> Gate {
    let Ok(row) = table::METHODS.binary_search_by(|(name, ..)| name.cmp(&method)) else {
        return Gate::Unknown;
    };
    match table::METHODS[row] {
        (_, _, Audience::Control) if keeps(Check::ControlsMethods) => Gate::ControlOnly,
        (_, Upstream::Node, _) => Gate::Unknown,
        (_, Upstream::Scoped(scope) | Upstream::Dynamic(scope), _) => {
            if implied(scope, scopes) || !keeps(Check::Scopes) { Gate::Open } else { Gate::Missing(scope) }
        }
    }
}

/// Does holding these scopes mean holding this one? Upstream's rule: admin is all, write is read and talk.
fn implied(scope: Scope, held: &BTreeSet<Scope>) -> bool {
    held.contains(&scope)
        || held.contains(&Scope::Admin)
        || (matches!(scope, Scope::Read | Scope::Talk) && held.contains(&Scope::Write))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use cofferdam_base::Role;
    use std::collections::BTreeMap;

    #[test]
    fn the_table_is_in_byte_order_and_has_no_method_twice() {
        assert!(table::METHODS.windows(2).all(|pair| pair[0].0 < pair[1].0));
    }

    #[test]
    fn each_role_calls_what_it_may_and_no_more() {
        let rows = [
            ("health", [true, true, true, true]),
            ("chat.history", [true, true, true, true]),
            ("chat.send", [false, true, true, true]),
            ("agent", [false, true, true, true]),
            ("tools.invoke", [false, true, true, true]),
            ("question.resolve", [false, true, true, true]),
            ("talk.mode", [false, true, true, true]),
            ("plugin.approval.list", [false, false, true, true]),
            ("config.patch", [false, false, false, true]),
            ("sessions.move", [false, false, false, true]),
            ("channels.pairing.list", [false, false, false, true]),
        ];
        let roles = [Role::Viewer, Role::Member, Role::Approver, Role::Admin];
        for (method, expected) in rows {
            for (role, may) in roles.into_iter().zip(expected) {
                let open = gate(method, &role.ceiling()) == Gate::Open;
                assert_eq!(open, may, "{method} as {role}");
            }
        }
    }

    #[test]
    fn control_keeps_its_methods_from_everybody() {
        let all = Role::Admin.ceiling();
        for method in [
            "connect",
            "gateway.suspend.prepare",
            "gateway.restart.request",
            "update.run",
            "users.setDisplayName",
            "users.linkEmail",
            "users.setRole",
            "device.pair.approve",
            "device.token.rotate",
            "node.pair.approve",
            "exec.approval.request",
            "plugin.approval.request",
        ] {
            assert_eq!(gate(method, &all), Gate::ControlOnly, "{method}");
        }
        for method in ["", "node.event", "Health", "health ", "no.such.method"] {
            assert_eq!(gate(method, &all), Gate::Unknown, "{method:?}");
        }
        assert_eq!(gate("users.list", &all), Gate::Open);
    }

    #[test]
    fn whole_families_of_methods_are_controls_and_no_other_method_is() {
        const PATTERNS: [(&str, &str); 10] = [
            ("connect", ""),
            ("device.", ""),
            ("node.pair.", ""),
            ("update.", ""),
            ("gateway.suspend.", ""),
            ("gateway.restart.", ""),
            ("", ".approval.request"),
            ("users.setDisplayName", ""),
            ("users.linkEmail", ""),
            ("users.setRole", ""),
        ];
        let all = Role::Admin.ceiling();
        let mut met = [0; PATTERNS.len()];
        for (method, ..) in table::METHODS {
            let family =
                PATTERNS.iter().position(|(head, tail)| method.starts_with(head) && method.ends_with(tail));
            assert_eq!(gate(method, &all) == Gate::ControlOnly, family.is_some(), "{method}");
            if let Some(family) = family {
                met[family] += 1;
            }
        }
        assert!(met.iter().all(|count| *count > 0), "{met:?}");
    }

    #[derive(serde::Deserialize)]
    struct Schema {
        methods: BTreeMap<String, Method>,
    }

    #[derive(serde::Deserialize)]
    struct Method {
        scope: String,
    }

    /// The schema is fetched by whoever runs the tests; building never needs it.
    #[test]
    fn the_table_is_that_of_the_published_schema() {
        let Some(path) = std::env::var_os("COFFERDAM_PROTOCOL_SCHEMA") else {
            eprintln!("skipped: COFFERDAM_PROTOCOL_SCHEMA does not name protocol.schema.json");
            return;
        };
        let schema: Schema = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let published: Vec<(String, String)> =
            schema.methods.into_iter().map(|(name, method)| (name, method.scope)).collect();
        let ours: Vec<(String, String)> = table::METHODS
            .iter()
            .map(|(name, upstream, _)| {
                let scope = match upstream {
                    Upstream::Scoped(scope) => scope.as_str(),
                    Upstream::Dynamic(_) => "dynamic",
                    Upstream::Node => "node",
                };
                ((*name).to_owned(), scope.to_owned())
            })
            .collect();
        assert_eq!(ours, published);
    }
}
