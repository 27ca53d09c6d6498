//! What a runtime tells the launcher: the program, its environment and what of the host it sees.
//!
//! A plan comes from the operator's configuration or from our own code, never from a message: a command
//! names a runtime and the launcher resolves the name here.

use crate::config::{Bind, HostConfig};
use cofferdam_base::ipc::launcher::Failure;
use std::collections::BTreeMap;

/// What runs in a cell, complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuntimePlan {
    /// Program (absolute, as the cell sees it) and arguments.
    pub argv: Vec<String>,
    /// Its whole environment.
    pub env: Vec<(String, String)>,
    /// What of the host it sees besides, read-only.
    pub binds: Vec<Bind>,
    /// Where it listens on the cell's 127.0.0.1.
    pub port: u16,
}

impl RuntimePlan {
    /// The plan of an entry of `cofferdam.toml`.
    pub fn of_command(config: &HostConfig, name: &str) -> Result<Self, Failure> {
        let Some(runtime) = config.runtime.command.get(name) else {
            let known: Vec<&str> = config.runtime.command.keys().map(String::as_str).collect();
            return Err(Failure {
                message: format!("cofferdam.toml has no [runtime.command.{name:?}]"),
                mend: format!("add it and start the host anew, or take one of: {}", known.join(", ")),
            });
        };
        Ok(Self {
            argv: runtime.argv.as_slice().to_vec(),
            env: environment(&runtime.env),
            binds: runtime.binds.clone(),
            port: runtime.port.get(),
        })
    }
}

impl RuntimePlan {
    /// The plan of the gateway in this program, which `program` brings to [`CELL_PROGRAM`].
    pub fn native(program: Bind) -> Self {
        Self {
            argv: vec![CELL_PROGRAM.to_owned(), "__gateway".to_owned()],
            env: environment(&BTreeMap::new()),
            binds: vec![program],
            port: GATEWAY_PORT,
        }
    }
}

/// Where a cell sees this program.
pub const CELL_PROGRAM: &str = "/opt/cofferdam/cofferdam";
/// Where gateways listen: upstream's own port.
pub const GATEWAY_PORT: u16 = 18_789;

/// What every command finds in its environment; the operator's own entries come on top.
const ENVIRONMENT: [(&str, &str); 10] = [
    ("HOME", "/sandbox"),
    ("PATH", "/usr/local/bin:/usr/bin:/bin"),
    ("LANG", "C.UTF-8"),
    ("TMPDIR", "/tmp"),
    // For programs that ask a proxy; those that do not are captured, with the same verdicts.
    ("HTTP_PROXY", "http://127.0.0.1:3128"),
    ("HTTPS_PROXY", "http://127.0.0.1:3128"),
    ("http_proxy", "http://127.0.0.1:3128"),
    ("https_proxy", "http://127.0.0.1:3128"),
    ("NO_PROXY", "127.0.0.1,localhost"),
    ("no_proxy", "127.0.0.1,localhost"),
];

fn environment(own: &BTreeMap<String, String>) -> Vec<(String, String)> {
    let told = ENVIRONMENT.iter().chain(&crate::trust::ENVIRONMENT);
    let mut all: BTreeMap<String, String> =
        told.map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    all.extend(own.clone());
    all.into_iter().collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::path::Path;

    #[test]
    fn a_command_runs_as_the_operator_wrote_it_and_others_are_refused_by_name() {
        let text = "[runtime.command.echo]\nargv = [\"/opt/echo\"]\nenv = { A = \"1\", HOME = \"/tmp\" }\n";
        let config = HostConfig::parse(Path::new("c"), text).unwrap();
        let plan = RuntimePlan::of_command(&config, "echo").unwrap();
        assert_eq!((plan.argv, plan.port), (vec!["/opt/echo".to_owned()], 8080));
        let env: BTreeMap<String, String> = plan.env.iter().cloned().collect();
        assert_eq!(env.len(), plan.env.len(), "no variable is there twice");
        assert_eq!((&*env["A"], &*env["HOME"], &*env["TMPDIR"]), ("1", "/tmp", "/tmp"));
        let failure = RuntimePlan::of_command(&config, "../echo").unwrap_err();
        assert!(failure.mend.contains("echo"), "{failure:?}");
    }
}
