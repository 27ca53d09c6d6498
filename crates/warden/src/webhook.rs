//! Posts what control gives to the tenant's webhook, signed with the tenant's secret.
//!
//! It owns one request and its signature; when to try again is control's. The target is dialled like every other:
//! the guard judges the name and the address, and a redirect is an answer like any other that is no yes. The
//! threat: a target inside the host's network, and a receiver that believes another's words; so number, time and
//! body are signed together.
//!
//! `Cofferdam-Signature: v1=HEX` is HMAC-SHA256 under the secret over `NUMBER.SECONDS.BODY`, where NUMBER and
//! SECONDS are in `Cofferdam-Delivery` and `Cofferdam-Timestamp`.

use crate::{desk::Office, tls};
use aws_lc_rs::hmac;
use bytes::Bytes;
use cofferdam_base::{
    Millis, Protocol, SecretName,
    ipc::warden::{RecordKind, Report},
};
use cofferdam_egress::{BoxStream, Outlet, Row};
use cofferdam_inference::BaseUrl;
use http::{Request, header};
use http_body_util::Full;
use hyper_util::rt::TokioIo;
use std::time::Duration;
use tokio::time::timeout;

/// How long one try may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// One delivery.
#[derive(Debug)]
pub(crate) struct Delivery {
    pub(crate) number: u64,
    pub(crate) url: String,
    pub(crate) secret: SecretName,
    pub(crate) body: String,
}

impl Office {
    /// Posts it and tells control what became of it.
    pub(crate) async fn post(self, delivery: Delivery) {
        let number = delivery.number;
        let posted = timeout(PATIENCE, self.try_to_post(delivery)).await;
        let error = posted.unwrap_or_else(|_| Err("it did not answer in time".to_owned())).err();
        self.outbox.say(Report::Posted { delivery: number, error });
    }

    async fn try_to_post(&self, delivery: Delivery) -> Result<(), String> {
        let Delivery { number, url, secret, body } = delivery;
        let base = BaseUrl::parse(&url).map_err(|error| error.to_string())?;
        let gate = &self.egress.gate;
        let refused = |what: &str| format!("{what} at {}", base.authority());
        let pass = gate
            .admit_delivery(base.destination())
            .map_err(|refusal| refused(&format!("refused ({})", refusal.reason.code())))?;
        let by = format!("secret {secret}");
        let (reason, request) = (String::new(), String::new());
        let row = Row { what: RecordKind::Use, destination: None, by, reason, request, seen: None, count: 1 };
        if self.outbox.record(row).is_none() {
            return Err("the ledger takes nothing now".to_owned());
        }
        let key = self.keys.open(&secret).map_err(|error| error.to_string())?;
        let key = key.ok_or_else(|| format!("the secret {secret} is not set"))?;
        let now = gate.now();
        let signature = signature(key.expose(), number, now, &body);
        let request = Request::post(base.join(""))
            .header(header::HOST, base.authority())
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::USER_AGENT, "cofferdam")
            .header("cofferdam-delivery", number)
            .header("cofferdam-timestamp", now.seconds())
            .header("cofferdam-signature", format!("v1={signature}"))
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| error.to_string())?;
        let dialled = self.egress.dial(&pass).await;
        let (_, stream) = dialled.map_err(|refusal| {
            let refusal = gate.refuse_service(base.destination(), refusal);
            refused(&format!("not reached ({})", refusal.reason.code()))
        })?;
        let destination = base.destination();
        let stream: BoxStream = if destination.protocol == Protocol::Https {
            let secured = tls::connect(&self.model.tls, &destination.host, stream).await;
            Box::new(secured.map_err(|error| refused(&format!("no TLS ({error})")))?)
        } else {
            stream
        };
        let broke = |_| refused("the connection broke");
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broke)?;
        let answered = tokio::select! {
            answered = sender.send_request(request) => answered.map_err(broke)?,
            _ = connection => return Err(refused("the connection broke")),
            () = pass.withdrawn().cancelled() => return Err(refused("withdrawn")),
        };
        match answered.status() {
            status if status.is_success() => Ok(()),
            status => Err(refused(&format!("answered {}", status.as_u16()))),
        }
    }
}

/// HMAC-SHA256 over `NUMBER.SECONDS.BODY`, in hex.
fn signature(key: &[u8], number: u64, at: Millis, body: &str) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    let mut context = hmac::Context::with_key(&key);
    context.update(format!("{number}.{}.", at.seconds()).as_bytes());
    context.update(body.as_bytes());
    context.sign().as_ref().iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn number_time_and_body_are_signed_together() {
        let one = signature(b"key", 7, Millis(1_000_000), "{}");
        // What `printf 7.1000.{} | openssl dgst -sha256 -hmac key` says.
        assert_eq!(one, "6ab4bc3497d0888abe596844c29958ea22d70aed018a8d2822db4643a417d2c5");
        for other in [
            signature(b"yek", 7, Millis(1_000_000), "{}"),
            signature(b"key", 8, Millis(1_000_000), "{}"),
            signature(b"key", 7, Millis(2_000_000), "{}"),
            signature(b"key", 7, Millis(1_000_000), "[]"),
        ] {
            assert_ne!(one, other);
        }
    }
}
