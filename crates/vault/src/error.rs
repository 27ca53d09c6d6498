//! What can go wrong with keys and envelopes. No variant ever carries key bytes or plaintext.

use crate::KeyId;
use cofferdam_base::{SecretName, TenantId};
use std::{io, path::PathBuf};

/// Why a key or an envelope was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A sealed secret did not open at the place where it was found.
    #[error(
        "the sealed secret {name} (version {version}, for {purpose:?}) of tenant {tenant} does not open: it was \
         altered, or sealed for another tenant, name, version or purpose; set it again with: \
         cofferdam secret set {tenant} {name}"
    )]
    SecretDoesNotOpen { tenant: TenantId, name: SecretName, version: u32, purpose: String },
    /// A wrapped data key did not open though the master key is the right one.
    #[error(
        "the data key (version {version}) of tenant {tenant} does not open: it was altered, or wrapped for another \
         tenant or version; restore control/state.db from control/backups"
    )]
    DataKeyDoesNotOpen { tenant: TenantId, version: u32 },
    /// Another master key wrapped this data key.
    #[error(
        "wrong master key: the data key of tenant {tenant} was wrapped by master key {wrapped_by}, this one is {given}; \
         nothing was changed. Give the key that this data directory was made with"
    )]
    WrongMasterKey { tenant: TenantId, wrapped_by: KeyId, given: KeyId },
    /// The bytes are no envelope at all.
    #[error("not an envelope: {0}")]
    Malformed(&'static str),
    /// The key file cannot be read.
    #[error("cannot read the master key {path}: {source}")]
    KeyFile { path: PathBuf, source: io::Error },
    /// The key file cannot be made.
    #[error("cannot write the master key {path}: {source}")]
    KeyFileWrite { path: PathBuf, source: io::Error },
    /// The key file is a symbolic link, a directory or another thing that is no plain file.
    #[error("the master key {0} is not a regular file; put the key itself there, not a link to it")]
    KeyFileKind(PathBuf),
    /// Others could read or change the key file.
    #[error("the master key {path} has mode {mode:04o}, not 0400; type: chmod 0400 {path}")]
    KeyFileMode { path: PathBuf, mode: u32 },
    /// Another user owns the key file.
    #[error("the master key {path} belongs to uid {owner}, not to {expected}; type: chown {expected} {path}")]
    KeyFileOwner { path: PathBuf, owner: u32, expected: u32 },
    /// The key is not 32 raw bytes or 64 hex digits.
    #[error(
        "{source_name} holds {got}, not a master key of 32 raw bytes or 64 hex digits; make one with: \
         openssl rand -hex 32"
    )]
    KeyLength { source_name: String, got: String },
    /// The configured key command is empty or not an absolute path.
    #[error(
        "the master key command must name its program by an absolute path (its environment is empty, so there is \
         no PATH), but is {0:?}"
    )]
    KeyCommandPath(String),
    /// The key command did not run or could not be read.
    #[error("cannot run the master key command {program}: {source}")]
    KeyCommand { program: String, source: io::Error },
    /// The key command ended badly.
    #[error("the master key command {program} ended with {status}; run it by hand to see why")]
    KeyCommandFailed { program: String, status: std::process::ExitStatus },
    /// A data key could not be handed over or taken.
    #[error("cannot pass a data key over its descriptor: {0}")]
    Handover(#[source] io::Error),
    /// The crypto library refused; the machine has no randomness, or a plaintext is longer than the format.
    #[error("the crypto library refused to {0}")]
    Crypto(&'static str),
}
