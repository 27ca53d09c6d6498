//! The one error of control: what the API answers with and what a start ends with.
//!
//! It owns the mapping to HTTP statuses and exit statuses. The threat: an error that tells a caller too
//! little to mend anything, or a start that goes on over a state it could not read.

use crate::api::types::{ErrorBody, ErrorDetail};
use cofferdam_base::ipc::launcher::Failure;

/// Why something was not done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request itself is wrong.
    #[error("{0}")]
    Usage(String),
    /// The request is understood and refused.
    #[error("{message}")]
    Refused {
        /// Machine-readable.
        code: &'static str,
        /// For a person.
        message: String,
        /// The command that mends it, or empty.
        mend: String,
    },
    /// There is no such thing.
    #[error("there is no {what} {name:?}")]
    NotFound {
        /// What kind of thing.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// It is in a state in which this cannot be done.
    #[error("{message}")]
    Conflict {
        /// Machine-readable.
        code: &'static str,
        /// For a person.
        message: String,
        /// The command that mends it, or empty.
        mend: String,
    },
    /// The launcher could not do it.
    #[error("{}", .0.message)]
    Launcher(Failure),
    /// The launcher is gone, or answered what it was not asked.
    #[error("the launcher's wire ended: {0}")]
    LauncherGone(String),
    /// A warden did not do what it was sent.
    #[error("the warden of {tenant}: {what}")]
    Warden {
        /// Whose.
        tenant: String,
        /// What it did not do.
        what: String,
    },
    /// The configuration cannot be used.
    #[error("the configuration: {0}")]
    Config(String),
    /// The disk has no room, but for what is essential.
    #[error("the disk is full: only what is refused, stopped or taken away is still recorded")]
    DiskFull,
    /// The state database or the ledger cannot be used.
    #[error("{0}")]
    Store(String),
    /// A key or an envelope cannot be used.
    #[error("{0}")]
    Vault(#[from] cofferdam_vault::Error),
    /// A key file cannot be used.
    #[error("{path}: {what}")]
    Key {
        /// Which file.
        path: String,
        /// Why not.
        what: String,
    },
    /// A system call failed.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: std::io::Error,
    },
    /// Control could not take away its own rights.
    #[error("control could not confine itself: {0}")]
    Confine(String),
    /// Cryptography failed where it cannot.
    #[error("cryptography failed: {0}")]
    Crypto(&'static str),
}

impl Error {
    /// An I/O error with what was tried.
    pub(crate) fn io(what: impl Into<String>, source: impl Into<std::io::Error>) -> Self {
        Self::Io { what: what.into(), source: source.into() }
    }

    /// There is no such tenant.
    pub(crate) fn no_tenant(id: &cofferdam_base::TenantId) -> Self {
        Self::NotFound { what: "tenant", name: id.to_string() }
    }

    /// What is being deleted cannot be wanted otherwise.
    pub(crate) fn being_deleted(id: &cofferdam_base::TenantId) -> Self {
        let message = format!("tenant {id} is being deleted");
        Self::Conflict { code: "deleted", message, mend: String::new() }
    }

    /// The HTTP status: 400 bad usage, 403 and 422 refused, 404, 409, 500 could not.
    pub fn status(&self) -> u16 {
        match self {
            Self::Usage(_) => 400,
            Self::Refused { code: "policy", .. } => 422,
            Self::Refused { .. } => 403,
            Self::NotFound { .. } => 404,
            Self::Conflict { .. } => 409,
            _ => 500,
        }
    }

    /// The body of the answer.
    pub fn body(&self) -> ErrorBody {
        let (code, mend) = match self {
            Self::Usage(_) => ("usage", String::new()),
            Self::Refused { code, mend, .. } | Self::Conflict { code, mend, .. } => (*code, mend.clone()),
            Self::NotFound { what, .. } => ("not_found", mend_missing(what)),
            Self::Launcher(failure) => ("launcher", failure.mend.clone()),
            Self::LauncherGone(_) => ("launcher_gone", "cofferdam serve".to_owned()),
            Self::Warden { .. } => ("warden", String::new()),
            Self::Config(_) => ("config", String::new()),
            Self::DiskFull => ("disk_full", "make room on the disk of the data directory".to_owned()),
            // A damaged database names its backup and the command itself.
            Self::Store(what) if what.contains("mend it with") => ("store", String::new()),
            Self::Store(_) => ("store", "cofferdam doctor".to_owned()),
            Self::Vault(_) => ("vault", String::new()),
            Self::Key { .. } => ("key", String::new()),
            Self::Io { .. } => ("io", String::new()),
            Self::Confine(_) => ("confine", "cofferdam doctor".to_owned()),
            Self::Crypto(_) => ("crypto", String::new()),
        };
        ErrorBody { error: ErrorDetail { code: code.to_owned(), message: self.to_string(), mend } }
    }

    /// The exit status of control when a start ends with this error.
    pub fn exit(&self) -> u8 {
        match self {
            Self::Store(_) => EXIT_STORE,
            Self::Vault(_) | Self::Key { .. } => EXIT_KEY,
            Self::Config(_) => EXIT_CONFIG,
            Self::Confine(_) => EXIT_CONFINE,
            Self::LauncherGone(_) => EXIT_LAUNCHER,
            _ => EXIT_OTHER,
        }
    }
}

fn mend_missing(what: &str) -> String {
    match what {
        "tenant" => "cofferdam tenant list".to_owned(),
        "approval" => "cofferdam approvals list".to_owned(),
        "token" => "cofferdam token list".to_owned(),
        // A host knows what was installed when it was started.
        "runtime" => "cofferdam runtime install openclaw, and start the host anew".to_owned(),
        _ => String::new(),
    }
}

/// Exit status: something else failed at the start. Another try may help.
pub const EXIT_OTHER: u8 = 1;
/// Exit status: the launcher is gone.
pub const EXIT_LAUNCHER: u8 = 20;
/// Exit status: database or ledger cannot be used. Another try does not help.
pub const EXIT_STORE: u8 = 21;
/// Exit status: the master key or the issuer's key is missing or wrong. Another try does not help.
pub const EXIT_KEY: u8 = 22;
/// Exit status: the configuration cannot be used. Another try does not help.
pub const EXIT_CONFIG: u8 = 23;
/// Exit status: control could not confine itself. Another try does not help.
pub const EXIT_CONFINE: u8 = 24;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_launcher_knows_which_ends_no_other_try_helps() {
        let known = cofferdam_tenants::launcher::CONTROL_GIVES_UP;
        for status in 0..=u8::MAX {
            let helpless = [EXIT_STORE, EXIT_KEY, EXIT_CONFIG, EXIT_CONFINE].contains(&status);
            assert_eq!(known.contains(&status), helpless, "{status}");
        }
    }

    #[test]
    fn each_kind_of_error_has_the_status_that_the_command_line_knows() {
        let refused = Error::Refused { code: "x", message: String::new(), mend: String::new() };
        let policy = Error::Refused { code: "policy", message: String::new(), mend: String::new() };
        let missing = Error::NotFound { what: "tenant", name: "acme".to_owned() };
        assert_eq!(Error::Usage(String::new()).status(), 400);
        assert_eq!((refused.status(), policy.status(), missing.status()), (403, 422, 404));
        assert_eq!(missing.body().error.mend, "cofferdam tenant list");
    }
}
