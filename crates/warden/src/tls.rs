//! TLS to model providers. The host's trusted roots are read before the process is confined.

use crate::Error;
use cofferdam_base::Host;
use cofferdam_egress::BoxStream;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use std::{io, path::Path, sync::Arc};
use tokio_rustls::TlsConnector;

/// The configuration of every connection to a provider.
pub(crate) fn config(roots: impl Into<Arc<RootCertStore>>) -> Result<Arc<ClientConfig>, Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Where a host may have its authorities in one file; the same ones are what its cells trust.
const HOST: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// The host's trusted roots, of which one that does not parse is left out, and those of the operator's file, all of
/// which must. Where they are in one file, the directory beside it, which has each once more, is not read.
pub(crate) fn roots(extra: Option<&Path>) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    let found = match HOST.iter().map(Path::new).find(|path| path.is_file()) {
        Some(bundle) => rustls_native_certs::load_certs_from_paths(Some(bundle), None),
        None => rustls_native_certs::load_native_certs(),
    };
    for error in &found.errors {
        tracing::warn!(%error, "some trusted roots of the host cannot be read");
    }
    roots.add_parsable_certificates(found.certs);
    if let Some(path) = extra {
        let bad = |why: String| Error::Roots { path: path.to_owned(), why };
        let before = roots.len();
        for certificate in CertificateDer::pem_file_iter(path).map_err(|error| bad(error.to_string()))? {
            let certificate = certificate.map_err(|error| bad(error.to_string()))?;
            roots.add(certificate).map_err(|error| bad(error.to_string()))?;
        }
        if roots.len() == before {
            return Err(bad("there is no certificate in it".to_owned()));
        }
    }
    Ok(roots)
}

/// The client's side of TLS to this host.
pub(crate) async fn connect(
    config: &Arc<ClientConfig>,
    host: &Host,
    stream: BoxStream,
) -> io::Result<tokio_rustls::client::TlsStream<BoxStream>> {
    let name = match host {
        Host::Name(name) => ServerName::try_from(name.as_str().to_owned()).map_err(io::Error::other)?,
        Host::Address(address) => ServerName::from(*address),
    };
    TlsConnector::from(Arc::clone(config)).connect(name, stream).await
}

#[cfg(test)]
mod tests;
