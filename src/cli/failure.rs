//! How a command ends when it does not end well: a message, its mend, and the exit code that scripts read.

use cofferdam_control::api::types::ErrorDetail;
use std::{fmt, process::ExitCode};

/// Why a command did not do what it was told.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    pub(crate) code: String,
    pub(crate) message: String,
    pub(crate) mend: String,
}

/// The exit codes of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    /// Refused, or there are findings.
    Refused = 1,
    /// Bad usage, or it could not be checked.
    Usage = 2,
    NotFound = 3,
    Conflict = 4,
}

impl Failure {
    pub(crate) fn new(exit: Exit, code: &str, message: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { exit, code: code.to_owned(), message: message.into(), mend: mend.into() }
    }

    /// Something that only a defect or a broken machine explains.
    pub(crate) fn could_not(message: impl fmt::Display) -> Self {
        Self::new(Exit::Usage, "could_not", message.to_string(), "")
    }

    /// The host's answer, by its HTTP status.
    pub(crate) fn answered(status: http::StatusCode, detail: ErrorDetail) -> Self {
        let exit = match status.as_u16() {
            403 | 422 => Exit::Refused,
            404 => Exit::NotFound,
            409 => Exit::Conflict,
            _ => Exit::Usage,
        };
        Self { exit, code: detail.code, message: detail.message, mend: detail.mend }
    }

    /// Prints it to standard error, as text or JSON, and gives the exit code.
    pub(crate) fn report(&self, json: bool) -> ExitCode {
        if json {
            let error = serde_json::json!({ "error": {
                "code": self.code, "message": self.message, "mend": self.mend,
            }});
            eprintln!("{error}");
        } else {
            eprintln!("cofferdam: {}", self.message);
            if !self.mend.is_empty() {
                eprintln!("  mend: {}", self.mend);
            }
        }
        ExitCode::from(self.exit as u8)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::could_not(error)
    }
}
