//! What a runtime tells the launcher: the program, its environment and what of the host it sees.
//!
//! A plan comes from the operator's configuration or from our own code, never from a message: a command
//! names a runtime and the launcher resolves the name here.

use crate::config::{Bind, HostConfig};
use cofferdam_base::ipc::launcher::Failure;

/// What runs in a cell, complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuntimePlan {
    /// Program (absolute, as the cell sees it) and arguments.
    pub argv: Vec<String>,
    /// Its environment besides what every cell has.
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
            env: runtime.env.iter().map(|(key, value)| (key.clone(), value.clone())).collect(),
            binds: runtime.binds.clone(),
            port: runtime.port.get(),
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::path::Path;

    #[test]
    fn a_command_runs_as_the_operator_wrote_it_and_others_are_refused_by_name() {
        let text = "[runtime.command.echo]\nargv = [\"/opt/echo\"]\nenv = { A = \"1\" }\n";
        let config = HostConfig::parse(Path::new("c"), text).unwrap();
        let plan = RuntimePlan::of_command(&config, "echo").unwrap();
        assert_eq!((plan.argv, plan.port), (vec!["/opt/echo".to_owned()], 8080));
        assert_eq!(plan.env, [("A".to_owned(), "1".to_owned())]);
        let failure = RuntimePlan::of_command(&config, "../echo").unwrap_err();
        assert!(failure.mend.contains("echo"), "{failure:?}");
    }
}
