//! The operator's proxy.

use serde::{Deserialize, Serialize};

/// The proxy of `cofferdam.toml`, and whether its credentials are in the vault.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpstreamProxy {
    /// `http://ADDRESS:PORT`; none: everything is dialled directly.
    pub url: Option<String>,
    /// What is dialled without it.
    pub no_proxy: Vec<String>,
    /// It resolves names, and nobody checks the addresses behind them.
    pub resolves_names: bool,
    /// There are credentials for it.
    pub credentials: bool,
}

/// What it wants to hear; wiped when it goes, never sent back.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProxyCredentials {
    /// `USER:PASSWORD`.
    pub value: String,
}

impl Drop for ProxyCredentials {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.value);
    }
}

impl std::fmt::Debug for ProxyCredentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ProxyCredentials")
    }
}
