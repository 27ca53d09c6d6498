//! The table of routes, and the handlers that only parse, call and answer.
//!
//! The threat: a client that goes away between the moment at which a change is durable and that at which it
//! takes effect. Every handler that changes something therefore runs it as `whole`.

use super::{
    exec::exec,
    extract::{Body, LONGEST_BODY, Params, in_header, no_route, parse},
    frames,
    streams::{events, ledger_tail, logs, watch_approvals},
    types,
};
use crate::{Error, host::Host};
use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, Path, Request, State},
    routing::{delete, get, post, put},
};
use cofferdam_base::{SecretName, TenantId};
use http::header::{CONTENT_TYPE, HeaderName};
use std::sync::Arc;

type At = State<Arc<Host>>;
type Answer<T> = Result<Json<T>, Error>;

/// All routes.
pub(super) fn routes(host: Arc<Host>) -> Router {
    let tenant = Router::new()
        .route("/", get(tenant_show).delete(tenant_delete))
        .route("/start", post(tenant_start))
        .route("/stop", post(tenant_stop))
        .route("/restart", post(tenant_restart))
        .route("/resume", post(tenant_resume))
        .route("/limits", put(tenant_limits))
        .route("/logs", get(logs))
        .route("/exec", post(exec))
        .route("/proofs", post(proof_sign))
        .route("/policy", get(policy_show).put(policy_set))
        .route("/policy/check", post(policy_check))
        .route("/policy/explain", post(policy_explain))
        .route("/policy/diff", post(policy_diff))
        .route("/policy/simulate", post(policy_simulate))
        .route("/policy/effective", get(policy_effective))
        .route("/secrets", get(secret_list))
        .route("/secrets/{name}", put(secret_set).delete(secret_remove))
        .route("/canaries", get(canary_list))
        .route("/canaries/{name}", put(canary_add).delete(canary_remove))
        .route("/webhook", get(webhook_show).put(webhook_set).delete(webhook_remove))
        .route("/models", get(model_list))
        .route("/models/{alias}", put(model_set).delete(model_remove))
        .route("/models/{alias}/default", put(model_default))
        .route("/models/{alias}/test", post(model_test));
    Router::new()
        .route("/api/v1/status", get(status))
        .route("/api/v1/runtimes", get(runtimes))
        .route("/api/v1/tenants", get(tenant_list).post(tenant_create))
        .nest("/api/v1/tenants/{id}", tenant)
        .route("/api/v1/import", post(tenant_import))
        .route("/api/v1/kill", post(kill))
        .route("/api/v1/approvals", get(approval_list))
        .route("/api/v1/approvals/watch", get(watch_approvals))
        .route("/api/v1/events", get(events))
        .route("/api/v1/approvals/{n}/approve", post(approve))
        .route("/api/v1/approvals/{n}/deny", post(deny))
        .route("/api/v1/approvals/{n}/revoke", post(revoke))
        .route("/api/v1/tokens", get(token_list).post(token_issue))
        .route("/api/v1/tokens/{jti}", delete(token_revoke))
        .route("/api/v1/upstream-proxy", get(proxy_show).put(proxy_set).delete(proxy_remove))
        .route("/api/v1/usage", get(usage))
        .route("/api/v1/metrics", get(metrics))
        .route("/metrics", get(metrics))
        .route("/api/v1/ledger/tail", get(ledger_tail))
        .route("/api/v1/ledger/verify", get(ledger_verify))
        .fallback(no_route)
        .layer(DefaultBodyLimit::max(LONGEST_BODY))
        .with_state(host)
}

/// Makes a change to its end, whether or not the client waits for it: what is durable takes effect too.
async fn whole<T: Send + 'static>(
    change: impl Future<Output = Result<T, Error>> + Send + 'static,
) -> Answer<T> {
    let ended = tokio::spawn(change).await;
    ended.map_err(|error| Error::io("a change", std::io::Error::other(error)))?.map(Json)
}

async fn status(State(host): At) -> Answer<types::Status> {
    host.status().await.map(Json)
}

async fn runtimes(State(host): At) -> Answer<types::Runtimes> {
    host.runtimes().map(Json)
}

async fn tenant_list(State(host): At) -> Answer<types::Tenants> {
    host.list().await.map(Json)
}

async fn tenant_create(State(host): At, Body(new): Body<types::NewTenant>) -> Answer<types::Tenant> {
    whole(async move { host.create(new).await }).await
}

/// The body is the stream for the tenant's cell, so what is to be made is in a header.
async fn tenant_import(State(host): At, request: Request) -> Answer<types::Imported> {
    let new = in_header(&request, frames::IMPORT_HEADER, "import")?;
    let stream = request.into_body().into_data_stream();
    whole(async move { host.import(new, stream).await }).await
}

async fn tenant_show(State(host): At, Path(id): Path<String>) -> Answer<types::Tenant> {
    host.show(&parse(&id)?).await.map(Json)
}

async fn tenant_delete(State(host): At, Path(id): Path<String>) -> Answer<types::Empty> {
    let id = parse(&id)?;
    whole(async move { host.delete(&id).await.map(|()| types::Empty {}) }).await
}

async fn tenant_start(
    State(host): At,
    Path(id): Path<String>,
    Body(wait): Body<types::Wait>,
) -> Answer<types::Tenant> {
    let id = parse(&id)?;
    whole(async move { host.start(&id, wait.wait).await }).await
}

async fn proof_sign(
    State(host): At,
    Path(id): Path<String>,
    Body(new): Body<types::NewProof>,
) -> Answer<types::SignedProof> {
    let id = parse(&id)?;
    whole(async move { host.sign_proof(&id, new).await }).await
}

async fn tenant_stop(
    State(host): At,
    Path(id): Path<String>,
    Body(wait): Body<types::Wait>,
) -> Answer<types::Tenant> {
    let id = parse(&id)?;
    whole(async move { host.stop(&id, wait.wait).await }).await
}

async fn tenant_restart(
    State(host): At,
    Path(id): Path<String>,
    Body(wait): Body<types::Wait>,
) -> Answer<types::Tenant> {
    let id = parse(&id)?;
    whole(async move { host.restart(&id, wait.wait).await }).await
}

async fn tenant_resume(
    State(host): At,
    Path(id): Path<String>,
    Body(wait): Body<types::Wait>,
) -> Answer<types::Tenant> {
    let id = parse(&id)?;
    whole(async move { host.resume(&id, wait.wait).await }).await
}

async fn kill(State(host): At, Body(new): Body<types::NewKill>) -> Answer<types::Kills> {
    whole(async move { host.kill(new).await }).await
}

async fn tenant_limits(
    State(host): At,
    Path(id): Path<String>,
    Body(wanted): Body<types::WantedLimits>,
) -> Answer<types::LimitsSet> {
    let id = parse(&id)?;
    whole(async move { host.set_limits(&id, wanted).await }).await
}

async fn policy_show(State(host): At, Path(id): Path<String>) -> Answer<types::Policy> {
    host.policy_show(&parse(&id)?).await.map(Json)
}

async fn policy_set(
    State(host): At,
    Path(id): Path<String>,
    Body(policy): Body<types::PolicyText>,
) -> Answer<types::PolicySet> {
    let id = parse(&id)?;
    whole(async move { host.policy_set(&id, policy.text, policy.expected).await }).await
}

async fn policy_check(
    State(host): At,
    Path(id): Path<String>,
    Body(policy): Body<types::PolicyText>,
) -> Answer<types::PolicyChecked> {
    host.policy_check(&parse(&id)?, &policy.text).await.map(Json)
}

async fn policy_diff(
    State(host): At,
    Path(id): Path<String>,
    Body(policy): Body<types::PolicyText>,
) -> Answer<types::PolicyDiff> {
    host.policy_diff(&parse(&id)?, &policy.text).await.map(Json)
}

async fn policy_simulate(
    State(host): At,
    Path(id): Path<String>,
    Body(request): Body<types::SimulateRequest>,
) -> Answer<types::Simulated> {
    host.policy_simulate(&parse(&id)?, request).await.map(Json)
}

async fn policy_explain(
    State(host): At,
    Path(id): Path<String>,
    Body(request): Body<types::ExplainRequest>,
) -> Answer<types::Explained> {
    host.policy_explain(&parse(&id)?, request).await.map(Json)
}

async fn policy_effective(State(host): At, Path(id): Path<String>) -> Answer<types::Effective> {
    host.policy_effective(&parse(&id)?).await.map(Json)
}

async fn proxy_show(State(host): At) -> Answer<types::UpstreamProxy> {
    Ok(Json(host.proxy_show()))
}

async fn proxy_set(
    State(host): At,
    Body(new): Body<types::ProxyCredentials>,
) -> Answer<types::UpstreamProxy> {
    whole(async move { host.proxy_set(new).await }).await
}

async fn proxy_remove(State(host): At) -> Answer<types::UpstreamProxy> {
    whole(async move { host.proxy_remove().await }).await
}

async fn secret_list(State(host): At, Path(id): Path<String>) -> Answer<types::Secrets> {
    host.secret_list(&parse(&id)?).await.map(Json)
}

async fn canary_list(State(host): At, Path(id): Path<String>) -> Answer<types::Canaries> {
    host.canary_list(&parse(&id)?).await.map(Json)
}

async fn canary_add(
    State(host): At,
    Path((id, name)): Path<(String, String)>,
    Body(new): Body<types::NewCanary>,
) -> Answer<types::CanaryRow> {
    let (id, name) = (parse::<TenantId>(&id)?, parse::<SecretName>(&name)?);
    whole(async move { host.canary_add(&id, name, new).await }).await
}

async fn canary_remove(State(host): At, Path((id, name)): Path<(String, String)>) -> Answer<types::Empty> {
    let (id, name) = (parse::<TenantId>(&id)?, parse::<SecretName>(&name)?);
    whole(async move { host.canary_remove(&id, &name).await.map(|()| types::Empty {}) }).await
}

async fn secret_set(
    State(host): At,
    Path((id, name)): Path<(String, String)>,
    Body(value): Body<types::SecretValue>,
) -> Answer<types::SecretRow> {
    let (id, name) = (parse::<TenantId>(&id)?, parse::<SecretName>(&name)?);
    whole(async move { host.secret_set(&id, name, value).await }).await
}

async fn secret_remove(State(host): At, Path((id, name)): Path<(String, String)>) -> Answer<types::Empty> {
    let (id, name) = (parse::<TenantId>(&id)?, parse::<SecretName>(&name)?);
    whole(async move { host.secret_remove(&id, &name).await.map(|()| types::Empty {}) }).await
}

async fn model_list(State(host): At, Path(id): Path<String>) -> Answer<types::Models> {
    host.models(&parse(&id)?).await.map(Json)
}

async fn model_set(
    State(host): At,
    Path((id, alias)): Path<(String, String)>,
    Body(route): Body<types::ModelRoute>,
) -> Answer<types::Models> {
    let (id, alias) = (parse(&id)?, parse(&alias)?);
    whole(async move { host.model_set(&id, &alias, route).await }).await
}

async fn model_remove(State(host): At, Path((id, alias)): Path<(String, String)>) -> Answer<types::Models> {
    let (id, alias) = (parse(&id)?, parse(&alias)?);
    whole(async move { host.model_remove(&id, &alias).await }).await
}

async fn model_default(State(host): At, Path((id, alias)): Path<(String, String)>) -> Answer<types::Models> {
    let (id, alias) = (parse(&id)?, parse(&alias)?);
    whole(async move { host.model_default(&id, &alias).await }).await
}

async fn model_test(
    State(host): At,
    Path((id, alias)): Path<(String, String)>,
) -> Answer<types::ModelTested> {
    host.model_test(&parse(&id)?, &parse(&alias)?).await.map(Json)
}

async fn webhook_show(State(host): At, Path(id): Path<String>) -> Answer<types::WebhookSet> {
    host.webhook_show(&parse(&id)?).await.map(Json)
}

async fn webhook_set(
    State(host): At,
    Path(id): Path<String>,
    Body(webhook): Body<types::Webhook>,
) -> Answer<types::WebhookSet> {
    let id = parse(&id)?;
    whole(async move { host.webhook_set(&id, Some(webhook)).await }).await
}

async fn webhook_remove(State(host): At, Path(id): Path<String>) -> Answer<types::WebhookSet> {
    let id = parse(&id)?;
    whole(async move { host.webhook_set(&id, None).await }).await
}

async fn approval_list(
    State(host): At,
    Params(query): Params<types::ApprovalsQuery>,
) -> Answer<types::Approvals> {
    host.approvals(&query).await.map(|approvals| Json(types::Approvals { approvals }))
}

async fn approve(
    State(host): At,
    Path(number): Path<String>,
    Body(approve): Body<types::Approve>,
) -> Answer<types::Approval> {
    let number = parse(&number)?;
    whole(async move { host.approve(number, approve).await }).await
}

async fn deny(
    State(host): At,
    Path(number): Path<String>,
    Body(deny): Body<types::DenyRequest>,
) -> Answer<types::Approval> {
    let number = parse(&number)?;
    whole(async move { host.deny(number, deny).await }).await
}

async fn revoke(State(host): At, Path(number): Path<String>) -> Answer<types::Approval> {
    let number = parse(&number)?;
    whole(async move { host.revoke(number).await }).await
}

async fn token_list(State(host): At, Params(query): Params<types::TenantQuery>) -> Answer<types::Tokens> {
    host.token_list(query.tenant).await.map(Json)
}

async fn token_issue(State(host): At, Body(new): Body<types::NewToken>) -> Answer<types::IssuedToken> {
    whole(async move { host.token_issue(new).await }).await
}

async fn token_revoke(State(host): At, Path(jti): Path<String>) -> Answer<types::Token> {
    whole(async move { host.token_revoke(jti).await }).await
}

async fn usage(State(host): At, Params(query): Params<types::UsageQuery>) -> Answer<types::UsageReport> {
    host.usage(query).await.map(Json)
}

async fn metrics(
    State(host): At,
    Params(query): Params<types::UsageQuery>,
) -> Result<([(HeaderName, &'static str); 1], String), Error> {
    let text = host.metrics(query).await?;
    Ok(([(CONTENT_TYPE, "text/plain; version=0.0.4")], text))
}

async fn ledger_verify(State(host): At) -> Answer<types::LedgerVerified> {
    host.ledger_verify().await.map(Json)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use tokio::sync::oneshot;

    #[tokio::test]
    async fn a_change_goes_on_to_its_end_when_its_client_has_gone() {
        let (durable, is_durable) = oneshot::channel();
        let (go_on, gone) = oneshot::channel();
        let (effect, took_effect) = oneshot::channel();
        let request = whole(async move {
            durable.send(()).unwrap();
            gone.await.unwrap();
            effect.send(()).unwrap();
            Ok(())
        });
        tokio::select! {
            _ = request => panic!("it waits for us"),
            done = is_durable => done.unwrap(),
        }
        // The request was dropped here.
        go_on.send(()).unwrap();
        took_effect.await.unwrap();
    }
}
