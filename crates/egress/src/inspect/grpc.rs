//! A refusal as a client of gRPC reads it: an answer of trailers alone, with a status and what was refused.
//!
//! It owns the spelling. Such a client does not look into a body of another kind.

use crate::{
    Refusal,
    http::{Body, full},
};
use bytes::Bytes;
use cofferdam_base::Destination;
use cofferdam_policy::Reason;
use http::{HeaderValue, Response, header};
use std::fmt::Write;

/// Statuses of gRPC (`google.rpc.Code`).
const PERMISSION_DENIED: u16 = 7;
const RESOURCE_EXHAUSTED: u16 = 8;
const UNAVAILABLE: u16 = 14;

/// The whole answer.
pub(super) fn refused(destination: &Destination, refusal: &Refusal) -> Response<Body> {
    let denial = refusal.denial(Some(destination));
    let mut message = format!("{}: {}", denial.reason.code(), denial.message);
    if !denial.said.is_empty() {
        message.extend([": ", &denial.said]);
    }
    let mut response = Response::new(full(Bytes::new()));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert("grpc-status", status(refusal.reason).into());
    if let Ok(message) = HeaderValue::try_from(encoded(&message)) {
        headers.insert("grpc-message", message);
    }
    headers.insert("cofferdam-reason", HeaderValue::from_static(refusal.reason.code()));
    response
}

const fn status(reason: Reason) -> u16 {
    match reason {
        Reason::ResolveFailed | Reason::ConnectFailed | Reason::CertificateInvalid | Reason::NotReady => {
            UNAVAILABLE
        }
        Reason::TooManyRelays | Reason::TooManyHolds | Reason::TooManyWaiting | Reason::BudgetSpent => {
            RESOURCE_EXHAUSTED
        }
        _ => PERMISSION_DENIED,
    }
}

/// Percent-encoded, as the protocol wants messages.
fn encoded(text: &str) -> String {
    text.bytes().fold(String::new(), |mut out, byte| {
        if matches!(byte, b' '..=b'~') && byte != b'%' {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
        out
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_has_a_status_and_a_message_that_is_one_header() {
        let destination: Destination = "https://a.example:443".parse().unwrap();
        for (reason, status) in
            [(Reason::DeniedByRule, "7"), (Reason::BudgetSpent, "8"), (Reason::ConnectFailed, "14")]
        {
            let refusal = Refusal::new(reason, "policy").said("100 % n\u{f6}");
            let response = refused(&destination, &refusal);
            assert_eq!(response.status(), 200);
            let header = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
            assert_eq!(
                (header("grpc-status").as_str(), header("content-type").as_str()),
                (status, "application/grpc")
            );
            let message = header("grpc-message");
            assert!(
                message.starts_with(reason.code()) && message.ends_with(": 100 %25 n%C3%B6"),
                "{message}"
            );
        }
    }
}
