//! OAuth 2.0 refresh tokens (RFC 6749 §6): what is said to a token endpoint, and how its answer is read.
//!
//! It owns the two texts, and when an access token is wanted for a request. It refuses to connect and to keep
//! anything; the warden does. The threats: an endpoint's answer that is not what it seems, or is made of what no
//! header holds; and its words, which people read.

use super::{Credentials, escaped};
use crate::{Egress, Refusal};
use cofferdam_base::{
    Destination, SecretName,
    kind::{Oauth, OauthValue},
};
use futures_util::future::BoxFuture;
use http::request::Parts;
use serde::Deserialize;
use std::sync::{Arc, PoisonError};
use zeroize::{Zeroize, Zeroizing};

/// The longest answer of an endpoint, in bytes.
pub const LONGEST_ANSWER: usize = 64 * 1024;
/// How long a token is good if nobody says so, in seconds, and the longest that is believed.
const USUAL: u64 = 300;
const MOST: u64 = 24 * 60 * 60;
/// It is not used so shortly before its end, in seconds.
const BEFORE: u64 = 60;

/// Makes access tokens.
pub trait Mint: Send + Sync + std::fmt::Debug {
    /// Sees to it that the credential of this name has an access token that is good: another than `refused`, if its
    /// server did not take that one.
    fn mint<'a>(
        &'a self,
        name: &'a SecretName,
        refused: Option<Zeroizing<Vec<u8>>>,
    ) -> BoxFuture<'a, Result<(), Refusal>>;
}

/// An access token that an endpoint gave.
pub struct Granted {
    /// What is sent.
    pub access_token: Zeroizing<String>,
    /// For how many seconds it is used.
    pub seconds: u64,
    /// A new refresh token, which takes the place of the one before.
    pub refresh_token: Option<Zeroizing<String>>,
}

impl std::fmt::Debug for Granted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Granted").field("seconds", &self.seconds).finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
struct Answer {
    access_token: String,
    token_type: String,
    #[serde(default)]
    expires_in: Option<serde_json::Number>,
    #[serde(default)]
    refresh_token: Option<String>,
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.access_token.zeroize();
        self.refresh_token.zeroize();
    }
}

#[derive(Deserialize)]
struct Failed {
    error: String,
    #[serde(default)]
    error_description: Option<String>,
}

/// The form that asks for an access token.
#[must_use]
pub fn form(oauth: &Oauth, value: &OauthValue) -> Zeroizing<String> {
    let word = |text: &str| escaped(text.as_bytes());
    let mut form = Zeroizing::new(format!(
        "grant_type=refresh_token&refresh_token={}&client_id={}",
        word(&value.refresh_token),
        word(oauth.client_id.as_str())
    ));
    if let Some(secret) = &value.client_secret {
        form.push_str("&client_secret=");
        form.push_str(&Zeroizing::new(word(secret)));
    }
    if let Some(scope) = &oauth.scope {
        form.push_str("&scope=");
        form.push_str(&word(scope.as_str()));
    }
    form
}

/// Reads what an endpoint answered; an error says for a person what is wrong, and how it is mended.
pub fn granted(status: u16, body: &[u8]) -> Result<Granted, String> {
    if status != 200 {
        return Err(failed(status, body));
    }
    let answer: Answer =
        serde_json::from_slice(body).map_err(|_| "the token endpoint's answer is no token".to_owned())?;
    if !answer.token_type.eq_ignore_ascii_case("bearer") {
        return Err("the token endpoint gave a token of another type than Bearer".to_owned());
    }
    let sound = |text: &str| {
        (super::SHORTEST..=super::LONGEST).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic())
    };
    if !sound(&answer.access_token) || !answer.refresh_token.as_deref().is_none_or(sound) {
        return Err("the token endpoint gave a token that fits no header".to_owned());
    }
    let said = answer.expires_in.as_ref().and_then(serde_json::Number::as_u64);
    let seconds = said.unwrap_or(USUAL).min(MOST);
    Ok(Granted {
        access_token: Zeroizing::new(answer.access_token.clone()),
        // One that ends sooner than that is used for half its time.
        seconds: seconds.saturating_sub(BEFORE).max(seconds / 2),
        refresh_token: answer.refresh_token.clone().map(Zeroizing::new),
    })
}

fn failed(status: u16, body: &[u8]) -> String {
    let Ok(Failed { error, error_description }) = serde_json::from_slice(body) else {
        return format!("the token endpoint answered {status}");
    };
    let known =
        ["invalid_grant", "invalid_client", "unauthorized_client", "invalid_scope", "invalid_request"];
    let mend = match error.as_str() {
        "invalid_grant" => "; the refresh token is not good any more: grant anew, then cofferdam secret set",
        "invalid_client" | "unauthorized_client" => {
            "; see to client_id and client_secret: cofferdam secret set"
        }
        "invalid_scope" => "; see to --scope: cofferdam secret set",
        _ => "",
    };
    // Whatever else it says may be what it was told.
    let error = known.into_iter().find(|it| *it == error).unwrap_or("an error of its own");
    let more = if error_description.is_some() { ", with a description" } else { "" };
    format!("the token endpoint answered {status}, {error}{more}{mend}")
}

impl Egress {
    /// Sets who makes access tokens.
    pub fn set_mint(&self, mint: Arc<dyn Mint>) {
        *self.mint.write().unwrap_or_else(PoisonError::into_inner) = Some(mint);
    }

    /// Sees to the access tokens that a request is to bear: is there any? `refused` are those of which its server did
    /// not take one. A refusal is recorded.
    pub(crate) async fn minted(
        &self,
        parts: &Parts,
        destination: &Destination,
        refused: Option<&Credentials>,
    ) -> Result<bool, Refusal> {
        let names = self.credentials().tokens(parts, destination);
        let mint = self.mint.read().unwrap_or_else(PoisonError::into_inner).clone();
        for name in &names {
            let Some(mint) = &mint else { continue };
            let minted = mint.mint(name, refused.and_then(|before| before.value(name))).await;
            minted.map_err(|refusal| self.gate.refuse(Some(destination), refusal))?;
        }
        Ok(!names.is_empty())
    }
}

#[cfg(feature = "fuzzing")]
pub(super) mod fuzz {
    //! What must hold of whatever a token endpoint answers.

    /// The first byte says whether it is a yes, the rest is the body.
    pub fn answer(bytes: &[u8]) {
        let Some((first, body)) = bytes.split_first() else { return };
        let status = if first % 2 == 0 { 200 } else { 400 };
        match super::granted(status, body) {
            Ok(granted) => {
                assert!(status == 200 && granted.seconds <= super::MOST);
                let header = http::HeaderValue::from_str(&format!("Bearer {}", *granted.access_token));
                assert!(header.is_ok() && granted.access_token.len() >= super::super::SHORTEST);
            }
            Err(said) => assert!(said.len() < 300 && said.bytes().all(|b| matches!(b, b' '..=b'~'))),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_form_says_who_asks_and_for_what() {
        let oauth = Oauth {
            endpoint: "https://auth.example.com/token".parse().unwrap(),
            client_id: "an id".parse().unwrap(),
            scope: Some("read write".parse().unwrap()),
        };
        let value =
            OauthValue::read(br#"{"refresh_token": "r/12345678", "client_secret": "s&12345678"}"#).unwrap();
        assert_eq!(
            *form(&oauth, &value),
            "grant_type=refresh_token&refresh_token=r%2F12345678&client_id=an%20id&client_secret=s%2612345678\
             &scope=read%20write"
        );
    }

    #[test]
    fn a_yes_is_a_bearer_token_that_fits_a_header_and_ends() {
        let yes = |body: &str| granted(200, body.as_bytes());
        let one =
            yes(r#"{"access_token": "at-12345678", "token_type": "bearer", "expires_in": 3600, "x": 1}"#)
                .unwrap();
        assert_eq!((one.access_token.as_str(), one.seconds), ("at-12345678", 3540));
        assert!(one.refresh_token.is_none());
        let two =
            yes(r#"{"access_token": "at-12345678", "token_type": "Bearer", "refresh_token": "rt-12345678"}"#);
        assert_eq!(two.unwrap().seconds, 240);
        let short = yes(r#"{"access_token": "at-12345678", "token_type": "Bearer", "expires_in": 10}"#);
        assert_eq!(short.unwrap().seconds, 5);
        let long =
            yes(r#"{"access_token": "at-12345678", "token_type": "Bearer", "expires_in": 99999999999}"#);
        assert!(long.unwrap().seconds <= MOST);
        for bad in [
            "",
            "[]",
            r#"{"access_token": "at-12345678"}"#,
            r#"{"access_token": "at-12345678", "token_type": "mac"}"#,
            r#"{"access_token": "at 12345678", "token_type": "Bearer"}"#,
            r#"{"access_token": "at\r\n345678", "token_type": "Bearer"}"#,
            r#"{"access_token": "short", "token_type": "Bearer"}"#,
            r#"{"access_token": "at-12345678", "token_type": "Bearer", "refresh_token": "x"}"#,
        ] {
            assert!(yes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_no_is_told_with_its_mend_and_without_the_endpoints_own_words() {
        let no = |body: &str| granted(400, body.as_bytes()).unwrap_err();
        assert!(no(r#"{"error": "invalid_grant"}"#).contains("grant anew, then cofferdam secret set"));
        assert!(no(r#"{"error": "invalid_client", "error_description": "rt-1"}"#).contains("client_secret"));
        let own = no(r#"{"error": "rt-12345678", "error_description": "rt-12345678"}"#);
        assert!(own.contains("an error of its own") && !own.contains("rt-"), "{own}");
        assert_eq!(granted(503, b"<html>").unwrap_err(), "the token endpoint answered 503");
    }
}
