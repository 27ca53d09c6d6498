//! The certificate authority of one tenant, and the certificates that it gives to names.
//!
//! It owns the authority's key, which follows from a seed and is never written; the leaves' one key, made at the
//! start of the process; and the cache of leaves. The threat: a leaf that stands for more than the name that a
//! client said. Each bears exactly one name or address, and is good for a day.

use aws_lc_rs::{
    agreement::{ECDH_P256, PrivateKey},
    hkdf::{HKDF_SHA256, Prk},
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair},
};
use cofferdam_base::{Host, Millis, Secret};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyUsagePurpose, PublicKeyData, SanType, SerialNumber, SignatureAlgorithm, SigningKey, date_time_ymd,
};
use rustls::{
    ServerConfig,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivatePkcs8KeyDer},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};
use time::OffsetDateTime;

/// How long a leaf is good. Its first hour is in the past, for clocks that go wrong by less.
const LEAF: u64 = 24 * HOUR;
/// A leaf that has less than this left is made anew.
const FRESH: u64 = 12 * HOUR;
const HOUR: u64 = 3_600_000;
/// Leaves that are kept. A cell that asks for more has them made again.
const KEPT: usize = 512;

/// Why an authority or a leaf cannot be made.
#[derive(Debug, thiserror::Error)]
#[error("no certificate could be made: {0}")]
pub struct Failed(String);

/// One tenant's authority.
pub struct Authority {
    issuer: Issuer<'static, Signer>,
    certificate: CertificateDer<'static>,
    provider: Arc<CryptoProvider>,
    leaf: Leaf,
    made: Mutex<HashMap<Host, Made>>,
}

/// The one key of all leaves.
struct Leaf {
    signer: Signer,
    rustls: Arc<dyn rustls::sign::SigningKey>,
}

/// How a name is served, and until when.
struct Made {
    config: Arc<ServerConfig>,
    until: Millis,
}

impl Authority {
    /// The authority that follows from this seed: the same seed gives the same key and the same name, so that
    /// whoever trusted it once trusts the next one too.
    pub fn of_seed(tenant: &str, seed: &Secret<[u8; 32]>) -> Result<Self, Failed> {
        let signer = Signer::of_seed(seed)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "Cofferdam");
        params.distinguished_name.push(DnType::CommonName, format!("Cofferdam inspection of {tenant}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.not_before = date_time_ymd(2025, 1, 1);
        params.not_after = date_time_ymd(2049, 12, 31);
        params.serial_number = Some(SerialNumber::from(1_u64));
        let certificate = params.self_signed(&signer).map_err(failed)?.der().clone();
        let (provider, leaf) = (Arc::new(rustls::crypto::aws_lc_rs::default_provider()), Leaf::new()?);
        let made = Mutex::default();
        Ok(Self { issuer: Issuer::new(params, signer), certificate, provider, leaf, made })
    }

    /// Its certificate, for those who are to trust it.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// How a client that means this host is served.
    pub(crate) fn config(&self, host: &Host, now: Millis) -> Result<Arc<ServerConfig>, Failed> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(made) = made.get(host).filter(|made| made.until.0 > now.0 + FRESH) {
            return Ok(Arc::clone(&made.config));
        }
        if made.len() >= KEPT {
            made.retain(|_, made| made.until.0 > now.0 + FRESH);
        }
        if made.len() >= KEPT {
            made.clear();
        }
        let config = self.serving(host, now)?;
        let until = Millis(now.0 + LEAF);
        made.insert(host.clone(), Made { config: Arc::clone(&config), until });
        Ok(config)
    }

    /// What a host shows, for servers of tests.
    #[cfg(test)]
    pub(crate) fn key(&self, host: &Host, now: Millis) -> Arc<CertifiedKey> {
        Arc::new(CertifiedKey::new(vec![self.leaf(host, now).unwrap()], Arc::clone(&self.leaf.rustls)))
    }

    fn serving(&self, host: &Host, now: Millis) -> Result<Arc<ServerConfig>, Failed> {
        let key = CertifiedKey::new(vec![self.leaf(host, now)?], Arc::clone(&self.leaf.rustls));
        let name = if let Host::Name(name) = host { Some(name.as_str().to_owned()) } else { None };
        let resolver = Arc::new(One { name, key: Arc::new(key) });
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_safe_default_protocol_versions()
            .map_err(failed)?
            .with_no_client_auth()
            .with_cert_resolver(resolver);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }

    fn leaf(&self, host: &Host, now: Millis) -> Result<CertificateDer<'static>, Failed> {
        let at = |millis: u64| {
            let seconds = i64::try_from(millis / 1000).map_err(failed)?;
            OffsetDateTime::from_unix_timestamp(seconds).map_err(failed)
        };
        let mut params = CertificateParams::default();
        // The name is in the extension; a common name may be shorter than a host's name is.
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![match host {
            Host::Name(name) => SanType::DnsName(name.as_str().try_into().map_err(failed)?),
            Host::Address(address) => SanType::IpAddress(*address),
        }];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        params.not_before = at(now.0.saturating_sub(HOUR))?;
        params.not_after = at(now.0 + LEAF)?;
        let mut serial = [0; 16];
        aws_lc_rs::rand::fill(&mut serial).map_err(failed)?;
        // A serial number is positive and does not begin with a zero.
        serial[0] = serial[0] & 0x7f | 0x40;
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        Ok(params.signed_by(&self.leaf.signer, &self.issuer).map_err(failed)?.der().clone())
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Authority(…)")
    }
}

impl Leaf {
    fn new() -> Result<Self, Failed> {
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).map_err(failed)?;
        let der = key.to_pkcs8v1().map_err(failed)?;
        let der = PrivatePkcs8KeyDer::from(der.as_ref().to_vec());
        let rustls = rustls::crypto::aws_lc_rs::sign::any_ecdsa_type(&der.into()).map_err(failed)?;
        Ok(Self { signer: Signer(key), rustls })
    }
}

/// Gives its key to those who say its name, and to nobody else.
#[derive(Debug)]
struct One {
    name: Option<String>,
    key: Arc<CertifiedKey>,
}

impl ResolvesServerCert for One {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let said = hello.server_name().map(str::to_ascii_lowercase);
        (said == self.name).then(|| Arc::clone(&self.key))
    }
}

/// A P-256 key as rcgen takes it. The library wipes it when it is dropped.
struct Signer(EcdsaKeyPair);

impl Signer {
    fn of_seed(seed: &Secret<[u8; 32]>) -> Result<Self, Failed> {
        let material = Prk::new_less_safe(HKDF_SHA256, seed.expose());
        // One number in 2^32 is no key of the curve; then the next one is taken.
        for attempt in 0..=u8::MAX {
            let mut scalar = zeroize::Zeroizing::new([0; 32]);
            material
                .expand(&[b"cofferdam inspection authority 1", &[attempt]], HKDF_SHA256)
                .and_then(|okm| okm.fill(scalar.as_mut_slice()))
                .map_err(failed)?;
            let Ok(private) = PrivateKey::from_private_key(&ECDH_P256, scalar.as_slice()) else { continue };
            let public = private.compute_public_key().map_err(failed)?;
            let alg = &ECDSA_P256_SHA256_ASN1_SIGNING;
            return EcdsaKeyPair::from_private_key_and_public_key(alg, scalar.as_slice(), public.as_ref())
                .map(Self)
                .map_err(failed);
        }
        Err(Failed("the seed gives no key".to_owned()))
    }
}

impl PublicKeyData for Signer {
    fn der_bytes(&self) -> &[u8] {
        self.0.public_key().as_ref()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

impl SigningKey for Signer {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        let signature =
            self.0.sign(&SystemRandom::new(), message).map_err(|_| rcgen::Error::RingUnspecified)?;
        Ok(signature.as_ref().to_vec())
    }
}

fn failed(error: impl fmt::Display) -> Failed {
    Failed(error.to_string())
}
