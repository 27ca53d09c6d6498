//! What control takes from the configuration, parsed once at the start.

use crate::Error;
use cofferdam_base::{
    Digest,
    binding::FileName,
    ipc::{launcher::Limits, model::OwnPrice, proxy::UpstreamProxy},
};
use cofferdam_tenants::{
    config::{CommandRuntime, HostConfig},
    launcher::Boot,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

/// The host's standing facts.
#[derive(Clone, Debug)]
pub struct Facts {
    /// `iss` of every token: names this data directory.
    pub issuer: String,
    /// Where the edge listens for all tenants, and by whose port for each.
    pub edge: SocketAddr,
    /// The production domain; none in development.
    pub domain: Option<String>,
    /// `strict` or `rootless`.
    pub profile: &'static str,
    /// What the profile does not keep, and what the operator left out or accepted.
    pub degradations: Vec<String>,
    /// The layers that the seal of every cell leaves out, by the operator's word.
    pub without: BTreeSet<String>,
    /// Rows of `prove` that may escape and bar no start, by the operator's word.
    pub accepted: BTreeSet<String>,
    /// The command runtimes: name and program.
    pub commands: BTreeMap<String, String>,
    /// What a cell may use unless its tenant has limits of its own.
    pub limits: Limits,
    /// The cache in which runtimes are installed.
    pub cache: PathBuf,
    /// Where the launcher writes `<id>.log`.
    pub logs: PathBuf,
    /// What models cost, by the operator's word.
    pub prices: Vec<OwnPrice>,
    /// The names of the directories that policies may show their cells.
    pub offered: BTreeSet<FileName>,
    /// Where keys are, and what else only control reads.
    pub keys: PathBuf,
    /// What each warden is told of the host.
    pub wardens: WardenFacts,
}

/// The same for every warden.
#[derive(Clone, Debug, Default)]
pub struct WardenFacts {
    /// Where real names are resolved.
    pub nameservers: Vec<SocketAddr>,
    /// Private CIDR blocks that the operator opened.
    pub operator_private: Vec<String>,
    /// The operator's proxy.
    pub upstream_proxy: Option<UpstreamProxy>,
    /// The host's own addresses, and the proxy's: what a cell asks of it, it asks through the warden.
    pub host_addresses: Vec<IpAddr>,
    /// How long a connection is held for an answer.
    pub hold_ms: u32,
    /// Relays at one time.
    pub relays: u32,
    /// Connections on hold at one time.
    pub holds: u32,
    /// New names a second.
    pub names_per_second: u32,
    /// The policy document that no tenant's exceeds.
    pub ceiling: Option<String>,
}

/// A connection is held so long for an answer, in milliseconds.
const HOLD_MS: u32 = 30_000;
/// The limits that every warden has: relays, holds, new names a second.
const LIMITS: (u32, u32, u32) = (256, 32, 20);
/// The longest ceiling, in bytes.
const LONGEST_CEILING: usize = 16 * 1024;

impl Facts {
    /// What the launcher says and what the host says of itself. `kid` names the issuer's key.
    pub fn load(boot: &Boot, kid: &str) -> Result<Self, Error> {
        let Boot { data_dir, cache_dir, config, strict, builtin_model: _ } = boot;
        let rootless = !strict;
        let proxy = config.egress.upstream_proxy.map(|proxy| proxy.0.ip());
        let (relays, holds, names_per_second) = LIMITS;
        let domain = config.edge.domain.as_str();
        let command = |(name, runtime): (&String, &CommandRuntime)| {
            (name.clone(), runtime.argv.as_slice().first().cloned().unwrap_or_default())
        };
        Ok(Self {
            issuer: format!("cofferdam:{kid}"),
            edge: config.edge.listen,
            domain: (domain != "localhost").then(|| domain.to_owned()),
            profile: if rootless { "rootless" } else { "strict" },
            degradations: degradations(rootless, config),
            without: config.without.iter().map(|left| left.layer.clone()).collect(),
            accepted: config.accepted.iter().map(|accepted| accepted.row.clone()).collect(),
            commands: config.runtime.command.iter().map(command).collect(),
            limits: config.limits,
            cache: cache_dir.clone(),
            logs: data_dir.join("logs"),
            prices: config.price.clone(),
            offered: config.filesystem.keys().cloned().collect(),
            keys: data_dir.join("control/keys"),
            wardens: WardenFacts {
                nameservers: config.egress.nameservers.iter().map(|server| server.0).collect(),
                operator_private: config.egress.operator_private.iter().map(ToString::to_string).collect(),
                host_addresses: host_addresses()?.into_iter().chain(proxy).collect(),
                upstream_proxy: upstream_proxy(&config.egress),
                hold_ms: HOLD_MS,
                relays,
                holds,
                names_per_second,
                ceiling: ceiling(config)?,
            },
        })
    }
}

/// What wardens are told of the operator's proxy.
fn upstream_proxy(egress: &cofferdam_tenants::config::Egress) -> Option<UpstreamProxy> {
    Some(UpstreamProxy {
        address: egress.upstream_proxy?.0,
        no_proxy: egress.no_proxy.iter().map(ToString::to_string).collect(),
        resolves_names: egress.upstream_proxy_resolves_names,
    })
}

/// The ceiling, if it can be read: a host that cannot read it does not start.
fn ceiling(config: &HostConfig) -> Result<Option<String>, Error> {
    let Some(ceiling) = &config.ceiling else { return Ok(None) };
    // It travels to each warden beside the tenant's own.
    if ceiling.policy.len() > LONGEST_CEILING {
        let why = format!("[ceiling] in cofferdam.toml: its policy has more than {LONGEST_CEILING} bytes");
        return Err(Error::Config(why));
    }
    let read = cofferdam_policy::Policy::ceiling(&ceiling.policy);
    read.map_err(|error| Error::Config(format!("[ceiling] in cofferdam.toml: {error}")))?;
    Ok(Some(ceiling.policy.clone()))
}

impl Facts {
    /// The OpenClaws that are installed now: the digest of the lock, and the version. Looked up each time: one
    /// may be installed at any time.
    pub fn openclaws(&self) -> Result<BTreeMap<Digest, String>, Error> {
        let installed = cofferdam_tenants::openclaw::install::list(&self.cache);
        let installed =
            installed.map_err(|e| Error::io("the cache", std::io::Error::other(e.to_string())))?;
        Ok(installed.into_iter().map(|one| (one.lock, one.version)).collect())
    }
}

/// Every address that this network namespace answers to.
fn host_addresses() -> Result<Vec<IpAddr>, Error> {
    let read = |path: &str| match std::fs::read_to_string(path) {
        // A kernel without this family has no addresses of it.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        other => other.map_err(|e| Error::io(path, e)),
    };
    let mut all = addresses4(&read("/proc/net/fib_trie")?);
    all.extend(addresses6(&read("/proc/net/if_inet6")?));
    Ok(all)
}

/// In `fib_trie` a line `|-- 192.0.2.1` is followed by one with `/32 host LOCAL` for an address of ours.
fn addresses4(trie: &str) -> Vec<IpAddr> {
    let mut last = None;
    let mut all = BTreeSet::new();
    for line in trie.lines() {
        match line.trim_start().strip_prefix("|-- ") {
            Some(address) => last = address.trim().parse::<IpAddr>().ok(),
            None if line.contains("/32 host LOCAL") => all.extend(last),
            None => {}
        }
    }
    all.into_iter().collect()
}

/// In `if_inet6` each line begins with the 32 hex digits of an address.
fn addresses6(text: &str) -> Vec<IpAddr> {
    let address = |line: &str| line.get(..32).and_then(|hex| u128::from_str_radix(hex, 16).ok());
    text.lines().filter_map(address).map(|bits| IpAddr::V6(bits.into())).collect()
}

/// What this host does not keep: by its profile, and by its operator's word.
fn degradations(rootless: bool, config: &HostConfig) -> Vec<String> {
    let unkept = cofferdam_sandbox::ROOTLESS.iter().filter(|_| rootless);
    let profile = unkept.map(|row| format!("promise {}: {}", row.promise, row.lacks));
    let left = config.without.iter();
    let left = left.map(|left| format!("{}, left out of every cell: {}", left.layer, left.reason));
    let accepted = config.accepted.iter();
    let accepted = accepted.map(|one| format!("{}, which may escape in a proof: {}", one.row, one.reason));
    profile.chain(left).chain(accepted).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::path::Path;

    #[test]
    fn the_hosts_own_addresses_are_found_among_its_routes() {
        let trie = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 0.0.0.0\n        /0 universe UNICAST\n\
                    \x20    |-- 192.0.2.7\n        /32 host LOCAL\n     |-- 192.0.2.255\n        /32 link BROADCAST\n";
        assert_eq!(addresses4(trie), ["192.0.2.7".parse::<IpAddr>().unwrap()]);
        let six = "fe800000000000000000000000000001 02 40 20 80     eth0\n\n";
        assert_eq!(addresses6(six), ["fe80::1".parse::<IpAddr>().unwrap()]);
    }

    #[test]
    fn a_configuration_without_a_word_gives_the_limits_of_the_design() {
        let dir = tempfile::tempdir().unwrap();
        let text =
            "[egress]\nnameservers = [\"192.0.2.53\"]\n[runtime.command.echo]\nargv = [\"/bin/echo\"]\n";
        let boot = Boot {
            data_dir: dir.path().to_owned(),
            cache_dir: dir.path().join("cache"),
            config: HostConfig::parse(Path::new("c"), text).unwrap(),
            strict: true,
            builtin_model: false,
        };
        let facts = Facts::load(&boot, "k1").unwrap();
        assert_eq!(
            (facts.wardens.relays, facts.wardens.holds, facts.wardens.names_per_second),
            (256, 32, 20)
        );
        assert_eq!(facts.commands["echo"], "/bin/echo");
        assert_eq!((facts.issuer.as_str(), facts.domain), ("cofferdam:k1", None));
        assert_eq!(facts.degradations.is_empty(), facts.profile == "strict");
        assert_eq!(facts.wardens.ceiling, None);
        let with = |policy: &str| {
            let text = format!("{text}[ceiling]\npolicy = '''{policy}'''\n");
            let config = HostConfig::parse(Path::new("c"), &text).unwrap();
            Facts::load(&Boot { config, ..boot.clone() }, "k1")
        };
        assert_eq!(with("version: 1\n").unwrap().wardens.ceiling.as_deref(), Some("version: 1\n"));
        let refused = with("version: 1\nallow: all\n").unwrap_err();
        assert!(
            matches!(&refused, Error::Config(why) if why.contains("[ceiling]") && why.contains("line 2")),
            "{refused}"
        );
    }
}
