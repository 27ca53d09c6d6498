//! A certificate that is handed on and not read: base64 of something short.

use serde::{Deserialize, Serialize};

/// An X.509 certificate, DER in base64, that whoever hands it on does not parse. It can be nothing but one block of
/// a PEM file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Certificate(String);

/// Why a text is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a certificate is at most 4096 characters of base64")]
pub struct CertificateError;

/// Longer ones are refused, in characters.
const LONGEST: usize = 4096;

impl Certificate {
    /// The base64 text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The block of a PEM file.
    pub fn to_pem(&self) -> String {
        let mut text = "-----BEGIN CERTIFICATE-----\n".to_owned();
        let mut rest = self.0.as_str();
        while !rest.is_empty() {
            // ASCII only, so every index is the start of a character.
            let (line, more) = rest.split_at(rest.len().min(64));
            text.push_str(line);
            text.push('\n');
            rest = more;
        }
        text.push_str("-----END CERTIFICATE-----\n");
        text
    }
}

impl TryFrom<String> for Certificate {
    type Error = CertificateError;

    fn try_from(text: String) -> Result<Self, CertificateError> {
        let body = text.trim_end_matches('=');
        let base64 = body.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'+' || b == b'/');
        let whole = !body.is_empty() && text.len().is_multiple_of(4) && text.len() - body.len() <= 2;
        if base64 && whole && text.len() <= LONGEST { Ok(Self(text)) } else { Err(CertificateError) }
    }
}

impl From<Certificate> for String {
    fn from(certificate: Certificate) -> Self {
        certificate.0
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_certificate_is_one_block_of_a_pem_file_whatever_somebody_sends() {
        let pem = Certificate::try_from("AAAA".repeat(20)).unwrap().to_pem();
        assert_eq!(pem.lines().map(str::len).collect::<Vec<_>>(), [27, 64, 16, 25]);
        for bad in ["", "=", "AAA", "AA A", "AAA\n", "-----BEGIN", "AAAA====", &"A".repeat(4100)] {
            assert!(Certificate::try_from(bad.to_owned()).is_err(), "{bad}");
        }
    }
}
