//! TLS of the outside: under an authority that the host's operator trusts, but for one name.

use super::PATIENCE;
use crate::battery::wires::{GOOD, inspected::FORGED};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::{
    ServerConfig, ServerConnection,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::PrivateKeyDer,
    server::ResolvesServerCertUsingSni,
    sign::CertifiedKey,
};
use std::{
    fs,
    io::{self, Read, Write},
    net::TcpStream,
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::Arc,
    time::Duration,
};

/// A handshake on a busy machine.
const HANDSHAKE: Duration = Duration::from_secs(2);

/// Makes both authorities, and writes the certificate of the one that is to be trusted to this file.
pub(super) fn serving(trusted: &Path) -> io::Result<Arc<ServerConfig>> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let (good, pem) = authority("the outside's authority")?;
    let (bad, _) = authority("nobody's authority")?;
    let mut names = ResolvesServerCertUsingSni::new();
    for (name, issuer) in [(GOOD, &good), (FORGED, &bad)] {
        names.add(name, leaf(name, issuer, &provider)?).map_err(io::Error::other)?;
    }
    fs::write(trusted, pem)?;
    // Wardens, which have uids of their own, read it.
    fs::set_permissions(trusted, fs::Permissions::from_mode(0o644))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(names));
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn authority(name: &str) -> io::Result<(Issuer<'static, KeyPair>, String)> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().map_err(io::Error::other)?;
    let certificate = params.self_signed(&key).map_err(io::Error::other)?;
    Ok((Issuer::new(params, key), pem(certificate.der())))
}

fn pem(der: &[u8]) -> String {
    use base64::{Engine, prelude::BASE64_STANDARD};
    let body = BASE64_STANDARD.encode(der);
    format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n")
}

fn leaf(name: &str, issuer: &Issuer<'_, KeyPair>, provider: &CryptoProvider) -> io::Result<CertifiedKey> {
    let key = KeyPair::generate().map_err(io::Error::other)?;
    let params = CertificateParams::new([name.to_owned()]).map_err(io::Error::other)?;
    let certificate = params.signed_by(&key, issuer).map_err(io::Error::other)?;
    let key = PrivateKeyDer::try_from(key.serialize_der()).map_err(io::Error::other)?;
    let key = provider.key_provider.load_private_key(key).map_err(io::Error::other)?;
    Ok(CertifiedKey::new(vec![certificate.der().clone()], key))
}

/// A client's TLS.
pub(super) struct Inside<'a> {
    connection: ServerConnection,
    stream: Begun<'a>,
}

/// A stream of which something was read already.
struct Begun<'a> {
    first: io::Cursor<&'a [u8]>,
    rest: &'a TcpStream,
}

/// Shakes hands with a client that has said this already.
pub(super) fn accept<'a>(
    config: &Arc<ServerConfig>,
    heard: &'a [u8],
    stream: &'a TcpStream,
) -> io::Result<Inside<'a>> {
    let mut connection = ServerConnection::new(Arc::clone(config)).map_err(io::Error::other)?;
    let mut begun = Begun { first: io::Cursor::new(heard), rest: stream };
    stream.set_read_timeout(Some(HANDSHAKE))?;
    let shaken = connection.complete_io(&mut begun);
    stream.set_read_timeout(Some(PATIENCE))?;
    shaken.map(|_| Inside { connection, stream: begun })
}

impl Inside<'_> {
    /// Says that nothing more comes.
    pub(super) fn end(mut self) -> io::Result<()> {
        self.connection.send_close_notify();
        self.connection.complete_io(&mut self.stream).map(drop)
    }
}

impl Read for Inside<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        rustls::Stream::new(&mut self.connection, &mut self.stream).read(buffer)
    }
}

impl Write for Inside<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        rustls::Stream::new(&mut self.connection, &mut self.stream).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        rustls::Stream::new(&mut self.connection, &mut self.stream).flush()
    }
}

impl Read for Begun<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.first.read(buffer)? {
            0 => self.rest.read(buffer),
            length => Ok(length),
        }
    }
}

impl Write for Begun<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.rest.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
