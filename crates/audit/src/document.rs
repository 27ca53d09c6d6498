//! The document of a proof: what was proved of what, on which machine, signed, and checked without a host.
//!
//! The signature is over the digest of the document's own text, so one flipped byte fails. The threat: a proof of
//! another cell, another program or another day that is shown as this one's; digests, nonce and time are in it.

use crate::rules::PolicyProved;
use crate::verdict::{Judged, Mutants, Verdict};
use aws_lc_rs::{digest as sha, signature};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use cofferdam_base::{Digest, ipc::receipt::LayerRow, proof_message};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What was proved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Document {
    /// The format: 1.
    pub version: u32,
    /// Whose cell it is the sibling of.
    pub tenant: String,
    /// `strict` or `rootless`.
    pub profile: String,
    /// When, in RFC 3339.
    pub at: String,
    /// Random, so that no two proofs are one.
    pub nonce: String,
    /// The kernel's release and build.
    pub kernel: String,
    /// SHA-256 of the program that made the cell and tried it.
    pub binary: Digest,
    /// SHA-256 of the cell's plan.
    pub spec: Digest,
    /// The tenant's policy, which was in force beside the battery's; proofs did not always say.
    #[serde(default)]
    pub policy: Option<PolicyProved>,
    /// The receipt of the cell that was tried.
    pub receipt: Vec<LayerRow>,
    /// Every row.
    pub rows: Vec<Judged>,
    /// Each protection left out alone; none if that was not asked for.
    pub mutants: Option<Mutants>,
}

/// A document, its text as it was signed, and who signed it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signed {
    /// The document, as text.
    pub document: String,
    /// The host's public key, Ed25519, base64url.
    pub key: String,
    /// Over [`proof_message`], base64url.
    pub signature: String,
}

/// Why a file is no proof.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// It cannot be read as one.
    #[error("this is no proof: {0}")]
    Malformed(String),
    /// Something in it was changed, or it was signed by another key.
    #[error("the signature does not fit: it was changed after it was signed, or the key is another one")]
    Signature,
}

/// The SHA-256 of some bytes.
#[must_use]
pub fn digest(bytes: &[u8]) -> Digest {
    let mut out = [0; 32];
    out.copy_from_slice(sha::digest(&sha::SHA256, bytes).as_ref());
    Digest::from_bytes(out)
}

/// Checks a file. Works without a host; that the key is the host's own, its reader must know.
pub fn verify(file: &str) -> Result<(Document, Signed), DocumentError> {
    let malformed = |error: &dyn std::fmt::Display| DocumentError::Malformed(error.to_string());
    let signature: Signed = serde_json::from_str(file).map_err(|error| malformed(&error))?;
    let bytes = |text: &str| BASE64_URL_SAFE_NO_PAD.decode(text).map_err(|error| malformed(&error));
    let (key, signed) = (bytes(&signature.key)?, bytes(&signature.signature)?);
    let message = proof_message(digest(signature.document.as_bytes()));
    signature::UnparsedPublicKey::new(&signature::ED25519, key)
        .verify(&message, &signed)
        .map_err(|_| DocumentError::Signature)?;
    let document: Document = serde_json::from_str(&signature.document).map_err(|error| malformed(&error))?;
    if document.version != 1 {
        return Err(malformed(&format!("its version is {}, and 1 is known here", document.version)));
    }
    Ok((document, signature))
}

impl Document {
    /// How many rows have each verdict.
    #[must_use]
    pub fn totals(&self) -> BTreeMap<Verdict, usize> {
        let mut totals = BTreeMap::new();
        for row in &self.rows {
            *totals.entry(row.verdict).or_insert(0) += 1;
        }
        totals
    }

    /// Nothing escaped, and everything that was tried shows something.
    #[must_use]
    pub fn holds(&self) -> bool {
        let bad = |row: &Judged| matches!(row.verdict, Verdict::Escaped | Verdict::Inconclusive);
        let survived = self.mutants.as_ref().is_some_and(|mutants| !mutants.survivors.is_empty());
        // Where nothing was tried nothing is shown.
        !self.rows.is_empty() && !self.rows.iter().any(bad) && !survived
    }

    /// What is worse than in an older proof: rows whose verdict fell, rows that are gone, layers that hold less.
    #[must_use]
    pub fn regressions(&self, old: &Self) -> Vec<String> {
        let now: BTreeMap<&str, Verdict> =
            self.rows.iter().map(|row| (row.id.as_str(), row.verdict)).collect();
        let rows = old.rows.iter().filter_map(|row| match now.get(row.id.as_str()) {
            None => Some(format!("{} is not tried any more", row.id)),
            Some(verdict) if *verdict > row.verdict => {
                Some(format!("{} was {:?} and is {verdict:?}", row.id, row.verdict))
            }
            Some(_) => None,
        });
        let layers: BTreeMap<&str, _> =
            self.receipt.iter().map(|row| (row.layer.as_str(), (row.state, row.detail.as_str()))).collect();
        let receipt = old.receipt.iter().filter_map(|row| match layers.get(row.layer.as_str()) {
            None => Some(format!("layer {} is gone", row.layer)),
            Some((state, detail)) if *state as u8 > row.state as u8 => {
                Some(format!("layer {} was {:?} and is {state:?}: {detail}", row.layer, row.state))
            }
            Some(_) => None,
        });
        rows.chain(receipt).collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use aws_lc_rs::{
        rand::SystemRandom,
        signature::{Ed25519KeyPair, KeyPair},
    };
    use cofferdam_base::ipc::receipt::LayerState;

    fn row(id: &str, verdict: Verdict) -> Judged {
        Judged {
            id: id.into(),
            title: "x".into(),
            verdict,
            checks: Vec::new(),
            layers: vec![],
            sealed: None,
            micros: 0,
            control: None,
            reason: String::new(),
        }
    }

    fn document() -> Document {
        Document {
            version: 1,
            tenant: "acme".into(),
            profile: "strict".into(),
            at: "2026-11-25T00:00:00Z".into(),
            nonce: "n".into(),
            kernel: "6".into(),
            binary: digest(b"b"),
            spec: digest(b"s"),
            policy: None,
            receipt: vec![LayerRow {
                layer: "landlock".into(),
                state: LayerState::Enforced,
                detail: String::new(),
            }],
            rows: vec![row("a", Verdict::Blocked), row("b", Verdict::Blocked)],
            mutants: None,
        }
    }

    fn signed(document: &Document) -> String {
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        let pair = Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).unwrap();
        let text = serde_json::to_string(document).unwrap();
        let signature = pair.sign(&proof_message(digest(text.as_bytes())));
        serde_json::to_string(&Signed {
            document: text,
            key: BASE64_URL_SAFE_NO_PAD.encode(pair.public_key().as_ref()),
            signature: BASE64_URL_SAFE_NO_PAD.encode(signature.as_ref()),
        })
        .unwrap()
    }

    #[test]
    fn a_signed_document_is_read_back_and_any_flipped_byte_fails() {
        let document = document();
        let file = signed(&document);
        assert_eq!(verify(&file).unwrap().0, document);
        for at in 0..file.len() {
            let mut bytes = file.clone().into_bytes();
            bytes[at] ^= 1;
            if let Ok(text) = String::from_utf8(bytes) {
                assert!(verify(&text).is_err(), "byte {at}: {text}");
            }
        }
    }

    #[test]
    fn what_became_worse_is_told() {
        let old = document();
        assert_eq!(old.regressions(&old), Vec::<String>::new());
        assert!(old.holds());
        let mut new = document();
        new.rows[0].verdict = Verdict::Escaped;
        new.rows.remove(1);
        new.receipt[0].state = LayerState::Absent;
        let told = new.regressions(&old);
        assert_eq!(told.len(), 3, "{told:?}");
        assert!(!Document { rows: Vec::new(), ..document() }.holds());
        assert!(verify(&signed(&Document { version: 2, ..document() })).is_err());
        assert!(!new.holds());
        assert_eq!(old.regressions(&new).len(), 0);
    }
}
