//! Approvals on their way to a webhook: each as it is asked, and as it is over.
//!
//! A delivery is durable with what it tells, and is tried until somebody takes it, ever less often, for a day.
//! Control has no network and opens no secret, so the tenant's own warden signs and posts: it has that secret and
//! no other tenant's, and its guard and the firewall judge where it dials like all else. The threats: a target
//! inside the host's own network, a delivery that a crash loses, and a receiver that cannot tell ours from
//! another's. A delivery may come twice; its number says so. It is no way to answer.

use crate::{
    Error,
    api::types::{Happening, Webhook, WebhookSet},
    approvals::shown::shown,
    disk::{Delivery, StoredApproval},
    host::Host,
    tenant::Tenant,
};
use cofferdam_base::{Millis, TenantId, ipc::warden::Command};
use cofferdam_store::ledger::Kind;
use serde_json::json;
use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

/// What a secret that signs is for.
const PURPOSE: &str = "webhook";
/// A warden that says nothing of a delivery for so long, in milliseconds, does not have it.
const PATIENCE: u64 = 60_000;
/// The first pause before another try, in milliseconds; it doubles.
const FIRST: u64 = 1_000;
/// The longest.
const LONGEST: u64 = 15 * 60_000;
/// So many tries: with these pauses a day.
const TRIES: u32 = 105;
/// So many deliveries of one tenant are on their way at a time.
const AT_A_TIME: usize = 4;

/// What wardens are posting, and since when.
#[derive(Debug, Default)]
pub(crate) struct Courier(Mutex<HashMap<u64, (TenantId, Millis, u32)>>);

/// What is posted: as server-sent events tell it.
pub(crate) fn body(approval: &StoredApproval) -> String {
    // Strings and numbers only.
    serde_json::to_string(&Happening::Approval(Box::new(shown(approval)))).unwrap_or_default()
}

/// When it is tried again after so many tries; never after the last.
fn again(tries: u32, now: Millis) -> Option<Millis> {
    let pause = FIRST.saturating_mul(1 << tries.min(20)).min(LONGEST);
    (tries + 1 < TRIES).then(|| now.plus(pause))
}

impl Host {
    /// A tenant's webhook.
    pub async fn webhook_show(&self, id: &TenantId) -> Result<WebhookSet, Error> {
        self.tenant(id)?;
        let id = id.clone();
        self.db.run(move |disk| disk.webhook(&id)).await
    }

    /// Sets a webhook, or removes it.
    pub async fn webhook_set(&self, id: &TenantId, webhook: Option<Webhook>) -> Result<WebhookSet, Error> {
        let tenant = self.tenant(id)?;
        let _in_order = tenant.changes.lock().await;
        if let Some(webhook) = &webhook {
            check(&webhook.url)?;
            let (kept, name) = (id.clone(), webhook.secret.clone());
            let rows = self.db.run(move |disk| disk.secret_rows(&kept)).await?;
            if !rows.iter().any(|row| row.name == name && row.purpose == PURPOSE) {
                return Err(Error::Refused {
                    code: "no_webhook_secret",
                    message: format!("{id} has no secret {} of purpose {PURPOSE}", webhook.secret),
                    mend: format!("cofferdam secret set {id} {} --purpose {PURPOSE}", webhook.secret),
                });
            }
        }
        let row = self.row(Some(id), Kind::WebhookSet, json!({ "webhook": webhook }));
        let kept = id.clone();
        self.db.run(move |disk| disk.set_webhook(&kept, webhook.as_ref(), &row)).await?;
        let id = id.clone();
        self.db.run(move |disk| disk.webhook(&id)).await
    }

    /// Gives wardens what is to be posted now.
    pub(crate) async fn post_due(&self) {
        let now = self.now();
        let due = match self.db.run(move |disk| disk.due_deliveries(now)).await {
            Ok(due) => due,
            Err(error) => return tracing::error!(%error, "what is to be posted cannot be read"),
        };
        for delivery in due {
            if let Ok(tenant) = self.tenant(&delivery.tenant) {
                self.give(&tenant, delivery, now);
            }
        }
    }

    fn give(&self, tenant: &Tenant, delivery: Delivery, now: Millis) {
        let Delivery { id, tenant: whose, webhook: Webhook { url, secret }, body, tries } = delivery;
        let Some(link) = tenant.seat.link() else { return };
        // A warden that is not configured yet has no key to sign with.
        if link.revision().is_none() {
            return;
        }
        let mut posting = self.courier.0.lock().unwrap_or_else(PoisonError::into_inner);
        posting.retain(|_, (_, since, _)| since.plus(PATIENCE) > now);
        let busy = posting.values().filter(|(of, ..)| *of == whose).count() >= AT_A_TIME;
        if busy || posting.contains_key(&id) {
            return;
        }
        posting.insert(id, (whose, now, tries));
        drop(posting);
        // A warden that does not hear of it is given up; the next one gets it.
        let _ = link.send(tenant, &Command::Post { delivery: id, url, secret, body });
    }

    /// A warden says what became of a delivery that it was given.
    pub(crate) async fn posted(&self, tenant: &TenantId, delivery: u64, error: Option<String>) {
        let given = {
            let mut posting = self.courier.0.lock().unwrap_or_else(PoisonError::into_inner);
            match posting.get(&delivery) {
                Some((whose, ..)) if whose == tenant => posting.remove(&delivery),
                // It was never this warden's, or is tried again already.
                _ => None,
            }
        };
        let Some((_, _, tries)) = given else { return };
        let next = error.as_ref().and_then(|_| again(tries, self.now()));
        if let (Some(error), None) = (&error, next) {
            let body = json!({ "delivery": delivery, "tries": tries + 1, "why": error });
            self.observe(Some(tenant), Kind::Undelivered, body).await;
        }
        let kept = tenant.clone();
        let error = error.unwrap_or_default();
        let done = self.db.run(move |disk| disk.delivered(&kept, delivery, &error, next)).await;
        if let Err(error) = done {
            tracing::error!(%tenant, delivery, %error, "a delivery will come again");
        }
    }
}

fn check(url: &str) -> Result<(), Error> {
    let uri: Option<http::Uri> = url.parse().ok();
    let good = uri.is_some_and(|uri| {
        matches!(uri.scheme_str(), Some("http" | "https"))
            && uri.authority().is_some_and(|it| !it.host().is_empty() && !it.as_str().contains('@'))
            && uri.query().is_none()
    });
    if good && url.len() <= 1024 && !url.contains('#') {
        return Ok(());
    }
    Err(Error::Usage("a webhook is http(s)://HOST[:PORT]/PATH, without user, password or query".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tries_come_ever_less_often_for_a_day_and_then_no_more() {
        let now = Millis(1_000_000);
        assert_eq!(again(0, now), Some(now.plus(1_000)));
        assert_eq!(again(3, now), Some(now.plus(8_000)));
        assert_eq!(again(50, now), Some(now.plus(LONGEST)));
        assert_eq!(again(TRIES - 1, now), None);
        let (mut at, mut tries) = (now, 0);
        while let Some(next) = again(tries, at) {
            (at, tries) = (next, tries + 1);
        }
        let hours = at.since(now) / 3_600_000;
        assert!((23..=25).contains(&hours), "{hours} hours");
    }

    #[test]
    fn a_webhook_is_an_http_url_without_credentials() {
        assert!(check("https://hooks.example.com/a/b").is_ok());
        for bad in
            ["", "hooks", "ftp://h/", "https://u:p@h/", "https://h/?token=x", "https:///x", "https://h/#x"]
        {
            assert!(check(bad).is_err(), "{bad}");
        }
    }
}
