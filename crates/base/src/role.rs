//! Roles of people, and the ceiling of operator scopes that each one has at a gateway.
//!
//! A role binds people outside a cell. It is no boundary against code that runs inside the same cell.

use serde::{Deserialize, Serialize};
use std::{collections::BTreeSet, fmt};

/// What a member of a tenant may do; each role includes the ones before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Reads.
    Viewer,
    /// Reads, chats, answers questions.
    Member,
    /// A member who also answers approvals.
    Approver,
    /// Everything that a gateway leaves to its operator.
    Admin,
}

/// A scope of the gateway's protocol 4 (source: `@openclaw/gateway-protocol`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Scope {
    /// `operator.read`
    #[serde(rename = "operator.read")]
    Read,
    /// `operator.write`
    #[serde(rename = "operator.write")]
    Write,
    /// `operator.questions`
    #[serde(rename = "operator.questions")]
    Questions,
    /// `operator.approvals`
    #[serde(rename = "operator.approvals")]
    Approvals,
    /// `operator.pairing`
    #[serde(rename = "operator.pairing")]
    Pairing,
    /// `operator.talk`
    #[serde(rename = "operator.talk")]
    Talk,
    /// `operator.talk.secrets`
    #[serde(rename = "operator.talk.secrets")]
    TalkSecrets,
    /// `operator.admin`
    #[serde(rename = "operator.admin")]
    Admin,
}

/// The text names no role.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a role: use viewer, member, approver or admin")]
pub struct RoleError(String);

impl Role {
    /// Every scope that this role may hold. A token's own scopes are cut down to these.
    #[must_use]
    pub fn ceiling(self) -> BTreeSet<Scope> {
        let scopes: &[Scope] = match self {
            Self::Viewer => &[Scope::Read],
            Self::Member => &[Scope::Read, Scope::Write, Scope::Questions],
            Self::Approver => &[Scope::Read, Scope::Write, Scope::Questions, Scope::Approvals],
            Self::Admin => &Scope::ALL,
        };
        scopes.iter().copied().collect()
    }

    /// `viewer`, `member`, `approver` or `admin`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Member => "member",
            Self::Approver => "approver",
            Self::Admin => "admin",
        }
    }
}

impl Scope {
    /// Every scope.
    pub const ALL: [Self; 8] = [
        Self::Admin,
        Self::Read,
        Self::Write,
        Self::Approvals,
        Self::Questions,
        Self::Pairing,
        Self::Talk,
        Self::TalkSecrets,
    ];

    /// The scope as the gateway writes it, `operator.read` for example.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "operator.read",
            Self::Write => "operator.write",
            Self::Questions => "operator.questions",
            Self::Approvals => "operator.approvals",
            Self::Pairing => "operator.pairing",
            Self::Talk => "operator.talk",
            Self::TalkSecrets => "operator.talk.secrets",
            Self::Admin => "operator.admin",
        }
    }
}

impl std::str::FromStr for Role {
    type Err = RoleError;

    fn from_str(text: &str) -> Result<Self, RoleError> {
        [Self::Viewer, Self::Member, Self::Approver, Self::Admin]
            .into_iter()
            .find(|role| role.as_str() == text)
            .ok_or_else(|| RoleError(text.chars().take(64).collect()))
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_role_includes_the_one_before_it() {
        let roles = [Role::Viewer, Role::Member, Role::Approver, Role::Admin];
        for pair in roles.windows(2) {
            assert!(pair[0].ceiling().is_subset(&pair[1].ceiling()), "{} ⊂ {}", pair[0], pair[1]);
        }
        assert_eq!(Role::Admin.ceiling().len(), Scope::ALL.len());
    }
}
