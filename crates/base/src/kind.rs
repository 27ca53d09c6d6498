//! Kinds of bound secrets whose value is not what is sent: OAuth 2.0 refresh tokens, from which access tokens are
//! made, and AWS keys, with which requests are signed.
//!
//! The kind is part of the binding, and so of the purpose under which the value is sealed: nobody who writes to the
//! store sends a refresh token to another endpoint. The values are JSON documents, read strictly.

use crate::binding::BindingError;
use serde::{Deserialize, Serialize};
use std::fmt;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// Shorter parts of a value could not be covered where they come back, and longer ones fit no header.
const PART: std::ops::RangeInclusive<usize> = 8..=4096;

/// What the value of a bound secret is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Kind {
    /// A refresh token (RFC 6749 §6). What is sent is an access token made from it.
    Oauth(Oauth),
    /// AWS keys. What is sent is a signature, version 4.
    Aws(Aws),
}

/// Where and as whom access tokens are asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Oauth {
    /// The token endpoint.
    pub endpoint: Endpoint,
    /// The client that the refresh token was granted to.
    pub client_id: Word,
    /// What the access token is to be good for, if that is less than what was granted: words with a space between.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<Word>,
}

/// `https://host[:port]/path`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Endpoint(String);

/// Printable ASCII, 1 to 512 characters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Word(String);

/// `SERVICE/REGION`, what signatures are good for; `*` for a region is whichever the cell names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Aws {
    service: String,
    region: Option<String>,
}

/// The value of a secret of kind [`Kind::Oauth`].
#[derive(Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
#[serde(deny_unknown_fields)]
#[expect(missing_debug_implementations, reason = "a secret must not be printable")]
pub struct OauthValue {
    /// The refresh token.
    pub refresh_token: String,
    /// The client's secret; none for a public client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_secret: Option<String>,
}

/// The value of a secret of kind [`Kind::Aws`].
#[derive(Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
#[serde(deny_unknown_fields)]
#[expect(missing_debug_implementations, reason = "a secret must not be printable")]
pub struct AwsValue {
    /// Names the keys.
    pub access_key_id: String,
    /// The key.
    pub secret_access_key: String,
    /// Of keys that end soon.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_token: Option<String>,
}

impl Kind {
    /// An error says what a value of this kind looks like.
    pub fn check(&self, value: &[u8]) -> Result<(), &'static str> {
        let sound = match self {
            Self::Oauth(_) => OauthValue::read(value).is_some(),
            Self::Aws(_) => AwsValue::read(value).is_some(),
        };
        match self {
            _ if sound => Ok(()),
            Self::Oauth(_) => Err("its value is {\"refresh_token\": \"…\", \"client_secret\": \"…\"}, \
                 the latter if the client has one, each of 8 to 4096 printable ASCII characters"),
            Self::Aws(_) => Err("its value is {\"access_key_id\": \"…\", \"secret_access_key\": \"…\", \
                 \"session_token\": \"…\"}, the last for temporary keys, each of 8 to 4096 printable ASCII characters"),
        }
    }
}

impl OauthValue {
    /// Reads a value; none if it is not one.
    #[must_use]
    pub fn read(value: &[u8]) -> Option<Self> {
        let read: Self = serde_json::from_slice(value).ok()?;
        let sound = is_part(&read.refresh_token) && read.client_secret.as_deref().is_none_or(is_part);
        sound.then_some(read)
    }
}

impl AwsValue {
    /// Reads a value; none if it is not one.
    #[must_use]
    pub fn read(value: &[u8]) -> Option<Self> {
        let read: Self = serde_json::from_slice(value).ok()?;
        let token = read.session_token.as_deref().is_none_or(is_part);
        let id = read.access_key_id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        (is_part(&read.access_key_id) && id && is_part(&read.secret_access_key) && token).then_some(read)
    }
}

impl Endpoint {
    /// The URL.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn read(text: &str) -> Option<Self> {
        let rest = text.strip_prefix("https://")?;
        let (host, path) = rest.split_at(rest.find('/')?);
        let plain = path.bytes().all(|b| b.is_ascii_alphanumeric() || b"/-_.~".contains(&b));
        let straight = path.split('/').all(|part| !matches!(part, "." | ".."));
        // Host and port are read when a secret is bound; see `Place`.
        let place: Result<crate::binding::Place, _> = host.parse();
        (text.len() <= 512 && place.is_ok() && plain && straight).then(|| Self(text.to_owned()))
    }
}

impl Word {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn read(text: &str) -> Option<Self> {
        let printable = text.bytes().all(|b| matches!(b, b' '..=b'~'));
        ((1..=512).contains(&text.len()) && printable).then(|| Self(text.to_owned()))
    }
}

impl Aws {
    /// The service, as it stands in the scope of a signature.
    #[must_use]
    pub fn service(&self) -> &str {
        &self.service
    }

    /// The region; none: whichever the cell names.
    #[must_use]
    pub fn region(&self) -> Option<&str> {
        self.region.as_deref()
    }

    fn read(text: &str) -> Option<Self> {
        let (service, region) = text.split_once('/')?;
        let region = (region != "*").then(|| region.to_owned());
        let sound = is_scope(service) && region.as_deref().is_none_or(is_scope);
        sound.then(|| Self { service: service.to_owned(), region })
    }
}

/// Is this a service or a region?
#[must_use]
pub fn is_scope(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=64).contains(&text.len()) && text.bytes().all(inner)
}

fn is_part(text: &str) -> bool {
    PART.contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic())
}

impl fmt::Display for Aws {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.service, self.region.as_deref().unwrap_or("*"))
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Oauth(oauth) => write!(f, "an access token of {}", oauth.endpoint),
            Self::Aws(aws) => write!(f, "an AWS signature for {aws}"),
        }
    }
}

crate::binding::text! {
    Endpoint "token endpoint: write https://host/path, without query"
    Word "word: write 1 to 512 printable ASCII characters"
    Aws "scope of AWS signatures: write SERVICE/REGION, s3/eu-west-1 for example, or SERVICE/*"
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn endpoints_scopes_and_values_are_read_strictly() {
        for good in ["https://auth.example.com/token", "https://auth.example.com:8443/a/b.c"] {
            assert_eq!(good.parse::<Endpoint>().unwrap().as_str(), good);
        }
        for bad in [
            "http://auth.example.com/token",
            "https://auth.example.com",
            "https://auth.example.com/../x",
            "https://auth.example.com/t?x=1",
            "https://u@auth.example.com/t",
            "https://10.0.0.1/t",
            "https:///t",
        ] {
            assert!(bad.parse::<Endpoint>().is_err(), "{bad}");
        }
        assert_eq!("s3/eu-west-1".parse::<Aws>().unwrap().region(), Some("eu-west-1"));
        assert_eq!("sts/*".parse::<Aws>().unwrap().region(), None);
        for bad in ["s3", "s3/", "/x", "S3/x", "s3/a/b", "s3/a b", "*/x"] {
            assert!(bad.parse::<Aws>().is_err(), "{bad}");
        }
        let oauth = |value: &str| OauthValue::read(value.as_bytes()).is_some();
        assert!(oauth(r#"{"refresh_token": "12345678"}"#));
        for bad in [
            "12345678",
            "{}",
            r#"{"refresh_token": "1234567"}"#,
            r#"{"refresh_token": "1234 5678"}"#,
            r#"{"refresh_token": "12345678", "client_secret": "x"}"#,
            r#"{"refresh_token": "12345678", "secret": "12345678"}"#,
        ] {
            assert!(!oauth(bad), "{bad}");
        }
        let aws = |value: &str| AwsValue::read(value.as_bytes()).is_some();
        assert!(aws(r#"{"access_key_id": "AKIDEXAMPLE", "secret_access_key": "wJalrXUtnFEMI/K7MDENG"}"#));
        assert!(!aws(r#"{"access_key_id": "AKID/XAMPLE", "secret_access_key": "wJalrXUtnFEMI/K7MDENG"}"#));
        assert!(!aws(r#"{"access_key_id": "AKIDEXAMPLE"}"#));
    }
}
