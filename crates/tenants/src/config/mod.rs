//! `cofferdam.toml`: what the operator says about this host, read strictly.
//!
//! A key that is not known, a value of another type and a file that cannot be read are errors with their
//! place; only a file that is not there means defaults. What it says is the launcher's law: no message adds
//! a path, an environment or a mount to it.

mod proxy;
mod resolv;
mod value;

pub use proxy::{NoProxy, ProxyAddress};
pub use resolv::nameservers_of_the_host;
pub use value::{AbsolutePath, NameServer};

use crate::{Error, uids::Uids};
use cofferdam_base::{
    HostName,
    binding::FileName,
    ipc::{launcher::Limits, model::OwnPrice},
};
use cofferdam_sandbox::Protection;
use cofferdam_sys::nft::Cidr;
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

/// The file's name in the data directory.
pub const FILE: &str = "cofferdam.toml";
/// Longer files are refused.
const LONGEST: u64 = 1 << 20;

/// The whole file, parsed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HostConfig {
    /// Which promises are kept; by default all of them as root, else those that need no root.
    pub profile: Option<Profile>,
    /// Where clients come in.
    pub edge: Edge,
    /// What wardens are told about the network.
    pub egress: Egress,
    /// What no tenant's policy opens.
    pub ceiling: Option<Ceiling>,
    /// Which uids are this host's.
    pub uids: UidRange,
    /// What may run in cells.
    pub runtime: Runtimes,
    /// Where the master key comes from.
    pub vault: Vault,
    /// What a cell may use unless its tenant has limits of its own.
    pub limits: Limits,
    /// Where runtimes and packages live.
    pub cache: Cache,
    /// Directories that policies may show their cells, read-only: each by a name, `/offered/NAME` in the cell.
    pub filesystem: BTreeMap<FileName, AbsolutePath>,
    /// What models cost, where the list of prices does not know it or is not to be believed.
    pub price: Vec<OwnPrice>,
    /// Which layers the seal of every cell leaves out, and why.
    pub without: Vec<LeftOut>,
    /// Which attacks of `prove` may get through, and why.
    pub accepted: Vec<Accepted>,
}

/// Which promises a host keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// All of them. Needs root.
    Strict,
    /// A named degradation: what needs root is listed as absent.
    Rootless,
}

/// `[[without]]`: a layer that this host's operator gives up, for all cells. It is shown for ever.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeftOut {
    /// As a receipt names it: `landlock`, `cgroup cpu`.
    pub layer: String,
    /// For those who read it later.
    pub reason: String,
}

/// `[[accepted]]`: an attack of `prove` that this host's operator lives with, for all tenants. A tenant whose last
/// proof found another that escapes is not started. It is shown for ever.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Accepted {
    /// The row's name, as `prove --json` has it: `files.outside`.
    pub row: String,
    /// For those who read it later.
    pub reason: String,
}

/// `[edge]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Edge {
    /// Where all tenants answer, told apart by host name: a loopback address while there is no TLS. Its port
    /// is also that of each `127.18.x.y`.
    #[serde(deserialize_with = "value::loopback")]
    pub listen: SocketAddr,
    /// Tenants are `<id>.<domain>`: `localhost` while there is no TLS.
    #[serde(deserialize_with = "value::localhost")]
    pub domain: HostName,
}

/// `[egress]`
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Egress {
    /// Where wardens resolve names; empty means the host's own (`/etc/resolv.conf`).
    pub nameservers: Vec<NameServer>,
    /// Private addresses that policies may open.
    pub operator_private: Vec<Cidr>,
    /// A file of certificates (PEM) that wardens and cells trust besides the host's: a company's own authority.
    /// Every warden reads it, as its own uid.
    pub extra_roots: Option<AbsolutePath>,
    /// The proxy through which wardens dial, `http://ADDRESS:PORT`.
    pub upstream_proxy: Option<ProxyAddress>,
    /// What is dialled without it: names with all that is beneath them, and addresses or blocks of them.
    pub no_proxy: Vec<NoProxy>,
    /// The proxy resolves names, because the host cannot. Then nobody checks the addresses behind a name.
    pub upstream_proxy_resolves_names: bool,
}

/// `[ceiling]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ceiling {
    /// A policy document, YAML. What it denies stays denied, whatever a tenant's policy says; what it asks about is
    /// allowed by people alone.
    pub policy: String,
}

/// `[uids]`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UidRange {
    /// The first of them.
    pub base: Uids,
}

/// `[runtime]`
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Runtimes {
    /// `[runtime.command.<name>]`: programs that listen on a port.
    pub command: BTreeMap<String, CommandRuntime>,
    /// `[runtime.openclaw]`
    pub openclaw: OpenClawRuntime,
}

/// `[runtime.openclaw]`
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OpenClawRuntime {
    /// `[runtime.openclaw.mcp.<name>]`: the MCP servers that every gateway of this runtime knows from its next start.
    pub mcp: BTreeMap<String, McpServer>,
}

/// `[runtime.openclaw.mcp.<name>]`: a program in the cell, or a URL, which tenants reach as their policies say. All of it
/// is to be read in the cell: what it needs of secrets it has as placeholders in the cell's environment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct McpServer {
    /// The program, found on the cell's `PATH`.
    pub command: Option<String>,
    /// Its arguments.
    pub args: Vec<String>,
    /// Added to its environment.
    pub env: BTreeMap<String, String>,
    /// `http://` or `https://`, spoken to as streamable HTTP.
    pub url: Option<String>,
}

/// `[runtime.command.<name>]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CommandRuntime {
    /// Program (absolute, as the cell sees it) and arguments.
    pub argv: Argv,
    /// Where it listens on the cell's 127.0.0.1.
    #[serde(default = "default_port")]
    pub port: std::num::NonZeroU16,
    /// Added to the cell's small environment.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// What of the host it sees besides, read-only.
    #[serde(default)]
    pub binds: Vec<Bind>,
}

/// An argument vector: never empty, its program an absolute path, no NUL in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<String>", into = "Vec<String>")]
pub struct Argv(Vec<String>);

/// A file or directory of the host, seen read-only in a cell.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bind {
    /// On the host.
    pub source: AbsolutePath,
    /// In the cell.
    pub target: AbsolutePath,
}

/// `[vault]`: at most one of the two; with none the key is a file in `control/keys`, made at the first start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Vault {
    /// A file of mode 0400.
    pub key_file: Option<AbsolutePath>,
    /// A program that prints the key.
    pub key_command: Option<Argv>,
}

/// `[cache]`
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Cache {
    /// By default `/var/cache/cofferdam` as root, else the XDG cache.
    pub dir: Option<AbsolutePath>,
}

impl HostConfig {
    /// Reads a file; one that is not there says nothing.
    pub fn load(path: &Path) -> Result<Self, Error> {
        match std::fs::metadata(path) {
            Ok(meta) if meta.len() > LONGEST => {
                return Err(Error::io(path)(io::Error::other("longer than a mebibyte")));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            _ => {}
        }
        Self::parse(path, &std::fs::read_to_string(path).map_err(Error::io(path))?)
    }

    /// Parses the text of a file; `path` is for the error.
    pub fn parse(path: &Path, text: &str) -> Result<Self, Error> {
        let config: Self = toml::from_str(text).map_err(|error| {
            let at = error.span().map_or(text.len(), |span| span.start.min(text.len()));
            placed(path, text, at, error.message().to_owned())
        })?;
        if config.vault.key_file.is_some() && config.vault.key_command.is_some() {
            let at = text.find("key_command").unwrap_or(0);
            return Err(placed(path, text, at, "key_file and key_command exclude each other".to_owned()));
        }
        let egress = &config.egress;
        if egress.upstream_proxy.is_none() {
            let idle = [
                ("no_proxy", !egress.no_proxy.is_empty()),
                ("upstream_proxy_resolves_names", egress.upstream_proxy_resolves_names),
            ];
            if let Some((key, _)) = idle.into_iter().find(|(_, said)| *said) {
                let at = text.find(key).unwrap_or(0);
                return Err(placed(path, text, at, format!("{key} says nothing without upstream_proxy")));
            }
        }
        if let Some((name, _)) = config.filesystem.iter().find(|(_, path)| path.as_path() == Path::new("/")) {
            let at = text.find("[filesystem]").unwrap_or(0);
            let message = format!("filesystem.{name}: the whole host is offered to no cell");
            return Err(placed(path, text, at, message));
        }
        for LeftOut { layer, reason } in &config.without {
            let at = text.find(layer.as_str()).unwrap_or(0);
            if Protection::of_layer(layer).is_empty() {
                let known: BTreeSet<_> = Protection::all().into_iter().map(Protection::layer).collect();
                let known = known.into_iter().collect::<Vec<_>>().join(", ");
                return Err(placed(
                    path,
                    text,
                    at,
                    format!("{layer:?} is no layer that can be left out: {known}"),
                ));
            }
            if reason.trim().is_empty() {
                return Err(placed(path, text, at, format!("leaving out {layer} needs a reason")));
            }
        }
        for Accepted { row, reason } in &config.accepted {
            let at = text.find(row.as_str()).unwrap_or(0);
            let known = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.".contains(c);
            if !row.contains('.') || !row.chars().all(known) {
                let message =
                    format!("{row:?} is no row of a proof: cofferdam prove TENANT --json names them");
                return Err(placed(path, text, at, message));
            }
            if reason.trim().is_empty() {
                return Err(placed(path, text, at, format!("accepting {row} needs a reason")));
            }
        }
        for (name, runtime) in &config.runtime.command {
            if let Some(key) = no_variable(&runtime.env) {
                let at = text.find(key).unwrap_or(0);
                let message = format!("runtime.command.{name}.env: {key:?} is no environment variable");
                return Err(placed(path, text, at, message));
            }
        }
        for (name, server) in &config.runtime.openclaw.mcp {
            if let Some(why) = server.wrong(name) {
                let at = text.find(name.as_str()).unwrap_or(0);
                return Err(placed(path, text, at, format!("runtime.openclaw.mcp.{name}: {why}")));
            }
        }
        Ok(config)
    }
}

/// A key that no environment has.
fn no_variable(env: &BTreeMap<String, String>) -> Option<&str> {
    let bad = |(key, value): &(&String, &String)| {
        key.is_empty() || key.contains(['=', '\0']) || value.contains('\0')
    };
    env.iter().find(bad).map(|(key, _)| key.as_str())
}

/// With a scheme of HTTP, a host, no password and nothing that no URL has.
fn is_http(url: &str) -> bool {
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
    rest.is_some_and(|rest| {
        rest.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '[')
            && rest.bytes().all(|b| b.is_ascii_graphic())
            && !rest.split(['/', '?', '#']).next().is_some_and(|authority| authority.contains('@'))
    })
}

impl McpServer {
    /// Why no gateway could use it.
    fn wrong(&self, name: &str) -> Option<String> {
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
        if name.is_empty() || name.len() > 64 || !name.chars().all(plain) {
            return Some("a name has 1 to 64 letters, digits and hyphens".to_owned());
        }
        if let Some(key) = no_variable(&self.env) {
            return Some(format!("env: {key:?} is no environment variable"));
        }
        let words = self.command.iter().chain(&self.args).chain(&self.url);
        if words.clone().any(|word| word.contains('\0')) {
            return Some("a NUL is in no program's arguments".to_owned());
        }
        match (&self.command, &self.url) {
            (Some(command), None) if !command.is_empty() => None,
            (None, Some(url)) if !self.args.is_empty() || !self.env.is_empty() => {
                Some(format!("{url} is no program, and has no args and no env"))
            }
            (None, Some(url)) if is_http(url) => None,
            (None, Some(url)) => Some(format!("{url:?} is no http:// or https:// URL")),
            _ => Some("it has either a command or a url".to_owned()),
        }
    }
}

impl HostConfig {
    /// The protections that every cell does without.
    pub fn left_out(&self) -> Vec<Protection> {
        self.without.iter().flat_map(|left| Protection::of_layer(&left.layer)).collect()
    }
}

impl Argv {
    /// Program and arguments.
    pub fn as_slice(&self) -> &[String] {
        &self.0
    }
}

impl TryFrom<Vec<String>> for Argv {
    type Error = String;

    fn try_from(argv: Vec<String>) -> Result<Self, String> {
        let program = argv.first().ok_or("the argument vector is empty")?;
        AbsolutePath::try_from(PathBuf::from(program))?;
        if argv.iter().any(|argument| argument.contains('\0')) {
            return Err("an argument has a NUL byte".to_owned());
        }
        Ok(Self(argv))
    }
}

impl From<Argv> for Vec<String> {
    fn from(argv: Argv) -> Self {
        argv.0
    }
}

impl Default for Edge {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 8471)),
            // The invariant: the text is a host name, as a test shows.
            domain: HostName::try_from("localhost").expect("localhost is a host name"),
        }
    }
}

fn default_port() -> std::num::NonZeroU16 {
    // The invariant: 8080 is not 0.
    std::num::NonZeroU16::new(8080).expect("8080 is not 0")
}

fn placed(path: &Path, text: &str, at: usize, message: String) -> Error {
    let before = text.get(..at).unwrap_or(text);
    let line = before.matches('\n').count();
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count();
    let shown: String = text.lines().nth(line).unwrap_or_default().chars().take(120).collect();
    let shown = if shown.trim().is_empty() { String::new() } else { format!("\n    {}", shown.trim()) };
    let message = message.replace('\n', ", ");
    Error::Config { path: path.to_owned(), line: line + 1, column: column + 1, message, text: shown }
}

#[cfg(test)]
mod tests;
