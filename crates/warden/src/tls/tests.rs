//! TLS to providers, against servers whose certificates are made here: DER by hand, a few fields of it.
#![allow(clippy::unwrap_used)]

use super::*;
use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair},
};
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
};
use tokio::io::duplex;
use tokio_rustls::TlsAcceptor;

const SEQUENCE: u8 = 0x30;
const ECDSA_WITH_SHA256: &[u8] = &[6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];
const EC_PUBLIC_KEY: &[u8] = &[6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1];
const P256: &[u8] = &[6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7];
const COMMON_NAME: &[u8] = &[6, 3, 0x55, 4, 3];
const BASIC_CONSTRAINTS: &[u8] = &[6, 3, 0x55, 0x1d, 0x13];
const ALTERNATIVE_NAME: &[u8] = &[6, 3, 0x55, 0x1d, 0x11];
const TRUE: &[u8] = &[1, 1, 0xff];

fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let length = match u16::try_from(content.len()).unwrap().to_be_bytes() {
        [0, low] if low < 0x80 => vec![low],
        [0, low] => vec![0x81, low],
        [high, low] => vec![0x82, high, low],
    };
    [vec![tag], length, content].concat()
}

struct Key {
    pair: EcdsaKeyPair,
    pkcs8: Vec<u8>,
}

fn key() -> Key {
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &SystemRandom::new()).unwrap();
    let pkcs8 = pkcs8.as_ref().to_vec();
    Key { pair: EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &pkcs8).unwrap(), pkcs8 }
}

/// A certificate of an authority, or of a server with this name. RFC 5280 §4.1.
fn certificate(key: &Key, issuer: &Key, server: Option<&str>) -> CertificateDer<'static> {
    let name = |text: &str| {
        let name = der(SEQUENCE, &[COMMON_NAME, &der(0x0c, &[text.as_bytes()])]);
        der(SEQUENCE, &[&der(0x31, &[&name])])
    };
    let algorithm = der(SEQUENCE, &[ECDSA_WITH_SHA256]);
    let validity = der(SEQUENCE, &[&der(0x17, &[b"200101000000Z"]), &der(0x18, &[b"40000101000000Z"])]);
    let point = der(3, &[&[0], key.pair.public_key().as_ref()]);
    let public = der(SEQUENCE, &[&der(SEQUENCE, &[EC_PUBLIC_KEY, P256]), &point]);
    let extension = match server {
        None => der(SEQUENCE, &[BASIC_CONSTRAINTS, TRUE, &der(4, &[&der(SEQUENCE, &[TRUE])])]),
        Some(name) => {
            let names = der(SEQUENCE, &[&der(0x82, &[name.as_bytes()])]);
            der(SEQUENCE, &[ALTERNATIVE_NAME, &der(4, &[&names])])
        }
    };
    let extensions = der(0xa3, &[&der(SEQUENCE, &[&extension])]);
    let (version, serial) = (der(0xa0, &[&[2, 1, 2]]), der(2, &[&[1]]));
    let subject = name(server.unwrap_or("authority"));
    let signed = der(
        SEQUENCE,
        &[&version, &serial, &algorithm, &name("authority"), &validity, &subject, &public, &extensions],
    );
    let signature = issuer.pair.sign(&SystemRandom::new(), &signed).unwrap();
    der(SEQUENCE, &[&signed, &algorithm, &der(3, &[&[0], signature.as_ref()])]).into()
}

/// Connects to a server that has a certificate of this name.
async fn connecting(trusted: &Key, issuer: &Key, name: &str, host: &str) -> io::Result<()> {
    let mut roots = RootCertStore::empty();
    roots.add(certificate(trusted, trusted, None)).unwrap();
    let client = config(roots).unwrap();
    let key = key();
    let chain = vec![certificate(&key, issuer, Some(name))];
    let private = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.pkcs8.clone()));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let server = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .unwrap();
    let (near, far) = duplex(16 * 1024);
    // How it ends for the server says nothing: its client leaves as soon as it knows.
    tokio::spawn(async move { TlsAcceptor::from(Arc::new(server)).accept(far).await.map(drop) });
    let host = match host.parse() {
        Ok(address) => Host::Address(address),
        Err(_) => Host::Name(host.parse().unwrap()),
    };
    connect(&client, &host, Box::new(near)).await.map(drop)
}

#[tokio::test]
async fn a_provider_is_spoken_to_only_under_its_own_name_by_a_trusted_authority() {
    let (trusted, other) = (key(), key());
    connecting(&trusted, &trusted, "api.example", "api.example").await.unwrap();
    for (issuer, name, host) in [
        (&other, "api.example", "api.example"),
        (&trusted, "other.example", "api.example"),
        (&trusted, "api.example", "93.184.216.34"),
    ] {
        let error = connecting(&trusted, issuer, name, host).await.unwrap_err();
        assert!(error.to_string().contains("invalid peer certificate"), "{name} for {host}: {error}");
    }
}
