//! Inference routes: kept, shown, handed to the tenant's warden, called once for a person; and what was used.
//!
//! The wardens enforce what the routes say. This refuses what could not be enforced: a fallback that is not there, a
//! wire that nobody speaks, money that is limited where no price is known.

use crate::{
    Error,
    api::types::{ModelRoute, ModelTested, Models, RouteShown, Upstream, UsageQuery, UsageReport},
    disk::{RouteChange, StoredRoute},
    host::Host,
    tenant::Tenant,
    warden::Link,
};
use cofferdam_base::{
    Millis, Provider, TenantId,
    ipc::{
        model::{Alias, MOST_FALLBACKS, MOST_ROUTES, ModelRoutes, OwnPrice, Patience, Spent, Tested, Unit},
        warden::Command,
    },
};
use cofferdam_policy::price;
use cofferdam_store::{ledger::Kind, state::By};
use serde_json::json;
use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};
use tokio::sync::oneshot;

/// All routes of a tenant fit one packet to its warden, with what they used, in bytes of JSON.
const LONGEST_ALL: usize = 64 * 1024;
/// The longest that a provider may be waited for, in milliseconds.
const MOST_PATIENCE: u64 = 86_400_000;
/// A route has at most so many limits.
const MOST_LIMITS: usize = 12;
/// How long a provider may take to begin, if the route does not say, and then to end, in a call for a person.
const TEST_BEGINS: u64 = 60_000;
const TEST_ENDS: u64 = 90_000;

/// Calls that somebody waits for.
#[derive(Debug, Default)]
pub(crate) struct Testers(Mutex<Calls>);

/// The number of the last one, and whose they are.
#[derive(Debug, Default)]
struct Calls {
    last: u64,
    waiting: HashMap<u64, (TenantId, oneshot::Sender<Tested>)>,
}

impl Testers {
    fn begin(&self, tenant: &TenantId) -> (u64, oneshot::Receiver<Tested>) {
        let (tell, told) = oneshot::channel();
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.last += 1;
        let last = state.last;
        state.waiting.retain(|_, (_, tell)| !tell.is_closed());
        state.waiting.insert(last, (tenant.clone(), tell));
        (last, told)
    }

    /// A warden says what became of a call. Of another's it says nothing.
    pub(crate) fn tested(&self, tenant: &TenantId, test: u64, tested: Tested) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.waiting.get(&test).is_some_and(|(whose, _)| whose == tenant)
            && let Some((_, tell)) = state.waiting.remove(&test)
        {
            // Whoever asked may be gone.
            let _ = tell.send(tested);
        }
    }
}

impl Host {
    /// A tenant's routes.
    pub async fn models(&self, id: &TenantId) -> Result<Models, Error> {
        self.tenant(id)?;
        let (rows, spent) = self.kept_routes(id).await?;
        let now = self.now();
        let default = default_of(&rows);
        let shown = |row: StoredRoute| {
            let StoredRoute { route, at, main: _ } = row;
            let of = |it: &&Spent| it.route == route.route && it.span.begin(now) == it.begin;
            let spent = spent.iter().filter(of).cloned().collect();
            RouteShown { cost: price::of(&route, &self.facts.prices), route, since: at, spent }
        };
        Ok(Models { default, routes: rows.into_iter().map(shown).collect() })
    }

    /// Sets a route. The first becomes the default.
    pub async fn model_set(&self, id: &TenantId, alias: &Alias, route: ModelRoute) -> Result<Models, Error> {
        if route.route != *alias {
            return Err(Error::Usage(format!(
                "the route is called {}, and its path says {alias}",
                route.route
            )));
        }
        check(&route, &self.facts.prices)?;
        let tenant = self.tenant(id)?;
        let _in_order = tenant.changes.lock().await;
        let (rows, _) = self.kept_routes(id).await?;
        let others = rows.iter().map(|row| &row.route).filter(|other| other.route != *alias);
        fits(id, &route, others)?;
        let row = self.row(Some(id), Kind::ModelSet, json!({ "model": route }));
        self.change_routes(id, RouteChange::Set(Box::new(route)), row).await?;
        self.send_models_now(&tenant).await?;
        self.models(id).await
    }

    /// Removes a route. The default goes last, and none goes that another falls back to.
    pub async fn model_remove(&self, id: &TenantId, alias: &Alias) -> Result<Models, Error> {
        let tenant = self.tenant(id)?;
        let _in_order = tenant.changes.lock().await;
        let (rows, _) = self.kept_routes(id).await?;
        let found = rows.iter().find(|row| row.route.route == *alias).ok_or_else(|| no_route(alias))?;
        if found.main && rows.len() > 1 {
            return Err(Error::Conflict {
                code: "default_route",
                message: format!("{alias} is the default route of {id}, which has others"),
                mend: format!("cofferdam model default {id} ANOTHER"),
            });
        }
        if let Some(user) = rows.iter().find(|row| row.route.fallback.contains(alias)) {
            return Err(Error::Conflict {
                code: "fallback_route",
                message: format!("the route {} of {id} falls back to {alias}", user.route.route),
                mend: format!("set {} without --fallback {alias} first", user.route.route),
            });
        }
        let row = self.row(Some(id), Kind::ModelSet, json!({ "removed": alias }));
        self.change_routes(id, RouteChange::Remove(alias.clone()), row).await?;
        self.send_models_now(&tenant).await?;
        self.models(id).await
    }

    /// Makes a route the default.
    pub async fn model_default(&self, id: &TenantId, alias: &Alias) -> Result<Models, Error> {
        let tenant = self.tenant(id)?;
        let _in_order = tenant.changes.lock().await;
        let row = self.row(Some(id), Kind::ModelSet, json!({ "default": alias }));
        if !self.change_routes(id, RouteChange::Default(alias.clone()), row).await? {
            return Err(no_route(alias));
        }
        self.send_models_now(&tenant).await?;
        self.models(id).await
    }

    /// Calls a route once, through the tenant's running warden.
    pub async fn model_test(&self, id: &TenantId, alias: &Alias) -> Result<ModelTested, Error> {
        let tenant = self.tenant(id)?;
        let (rows, _) = self.kept_routes(id).await?;
        let found = rows.into_iter().find(|row| row.route.route == *alias).ok_or_else(|| no_route(alias))?;
        let link = tenant.seat.link().filter(|link| link.revision().is_some());
        let Some(link) = link else {
            return Err(Error::Conflict {
                code: "no_warden",
                message: format!("no warden of {id} runs, which would make the call"),
                mend: format!("cofferdam tenant start {id}"),
            });
        };
        let (test, told) = self.testers.begin(id);
        link.send(&tenant, &Command::TestModel { test, route: alias.clone() })?;
        let Patience { first_byte_ms, idle_ms: _ } = found.route.patience;
        let patience = first_byte_ms.unwrap_or(TEST_BEGINS).saturating_add(TEST_ENDS);
        let told = tokio::time::timeout(Duration::from_millis(patience), told).await;
        let Ok(Ok(tested)) = told else {
            return Err(Error::Warden {
                tenant: id.to_string(),
                what: "it did not say how the call went".to_owned(),
            });
        };
        Ok(explained(id, alias, tested))
    }

    /// Sums of what was used.
    pub async fn usage(&self, query: UsageQuery) -> Result<UsageReport, Error> {
        let UsageQuery { tenant, since, by } = query;
        if let Some(id) = &tenant {
            self.tenant(id)?;
        }
        let by = by.map_or_else(|| Ok(vec![By::Tenant, By::Route, By::Model]), |by| parts(&by))?;
        let since = since.unwrap_or(Millis(0));
        let rows = self.db.run(move |disk| disk.usage(tenant.as_ref(), since, &by)).await?;
        Ok(UsageReport { rows })
    }

    /// Counts what a warden that died had under way.
    pub(crate) async fn count_lost(&self, tenant: &Tenant, boot: u64) {
        for most in tenant.under_way.begin(boot) {
            self.used(&tenant.id, most, || {}).await;
        }
    }

    /// Waits until all that a tenant's wardens before this one used is counted: its books begin with that. When this
    /// one's hello is read, all that they said was, and what they had under way is queued.
    pub(crate) async fn settled(&self, tenant: &Tenant, link: &Link) -> Result<(), Error> {
        link.greeted(tenant).await?;
        tokio::select! {
            () = self.counter.settled() => Ok(()),
            error = link.gone(tenant) => Err(error),
        }
    }

    /// Sends a warden its routes and what they used by now.
    pub(crate) async fn send_models(&self, tenant: &Tenant, link: &Link) -> Result<(), Error> {
        let (rows, spent) = self.kept_routes(&tenant.id).await?;
        let default = default_of(&rows);
        let priced =
            |row: StoredRoute| ModelRoute { price: price::of(&row.route, &self.facts.prices), ..row.route };
        let routes = ModelRoutes { default, routes: rows.into_iter().map(priced).collect() };
        let id = tenant.id.clone();
        let by_all = self.db.run(move |disk| disk.spent_by_all(&id)).await?;
        link.send(tenant, &Command::Models { routes, spent, by_all })
    }

    async fn send_models_now(&self, tenant: &Tenant) -> Result<(), Error> {
        let Some(link) = tenant.seat.link() else { return Ok(()) };
        self.send_models(tenant, &link).await
    }

    async fn kept_routes(&self, id: &TenantId) -> Result<(Vec<StoredRoute>, Vec<Spent>), Error> {
        let id = id.clone();
        self.db.run(move |disk| Ok((disk.routes(&id)?, disk.spent(&id)?))).await
    }

    async fn change_routes(
        &self,
        id: &TenantId,
        change: RouteChange,
        row: crate::db::Row,
    ) -> Result<bool, Error> {
        let id = id.clone();
        self.db.run(move |disk| disk.change_routes(&id, &change, &row)).await
    }
}

fn no_route(alias: &Alias) -> Error {
    Error::NotFound { what: "route", name: alias.to_string() }
}

fn default_of(rows: &[StoredRoute]) -> Option<Alias> {
    rows.iter().find(|row| row.main).map(|row| row.route.route.clone())
}

/// A call in words.
fn explained(id: &TenantId, alias: &Alias, tested: Tested) -> ModelTested {
    let Tested { trouble, status, said, first_byte_ms, whole_ms, tokens } = &tested;
    let said = if said.is_empty() { String::new() } else { format!(": {said}") };
    let (text, mend) = if let Some(trouble) = trouble {
        let status = if *status == 0 { String::new() } else { format!(" (HTTP {status})") };
        (format!("{}{status}{said}", trouble.text()), trouble.mend(id, alias))
    } else {
        let (prompt, completion) = (tokens.prompt, tokens.completion);
        let used = format!("{prompt} tokens asked, {completion} answered");
        let times = format!("it answered after {first_byte_ms} ms, whole after {whole_ms} ms");
        (format!("{times}; {used}{said}"), String::new())
    };
    ModelTested { works: trouble.is_none(), text, mend, tested }
}

/// By what sums are told apart.
fn parts(by: &str) -> Result<Vec<By>, Error> {
    let one = |word: &str| match word {
        "tenant" => Ok(By::Tenant),
        "day" => Ok(By::Day),
        "route" => Ok(By::Route),
        "model" => Ok(By::Model),
        "user" => Ok(By::User),
        "agent" => Ok(By::Agent),
        _ => Err(Error::Usage(format!(
            "usage is not told apart by {word:?}: use tenant, day, route, model, user and agent"
        ))),
    };
    by.split(',').map(one).collect()
}

/// Does it fit beside the others?
fn fits<'a>(
    id: &TenantId,
    route: &ModelRoute,
    others: impl Iterator<Item = &'a ModelRoute>,
) -> Result<(), Error> {
    let others: Vec<_> = others.collect();
    let length = |route: &ModelRoute| serde_json::to_vec(route).map_or(usize::MAX, |text| text.len());
    let all: usize = others.iter().map(|other| length(other)).fold(length(route), usize::saturating_add);
    if others.len() >= MOST_ROUTES || all > LONGEST_ALL {
        return Err(Error::Refused {
            code: "too_many_routes",
            message: format!("a tenant has at most {MOST_ROUTES} routes, of {LONGEST_ALL} bytes together"),
            mend: format!("cofferdam model rm {id} ALIAS"),
        });
    }
    let gone = route.fallback.iter().find(|alias| !others.iter().any(|other| other.route == **alias));
    if let Some(gone) = gone {
        return Err(Error::Refused {
            code: "no_such_fallback",
            message: format!(
                "{} cannot fall back to {gone}: {id} has no other route of that name",
                route.route
            ),
            mend: format!("cofferdam model set {id} {gone}"),
        });
    }
    Ok(())
}

/// Could it be enforced?
fn check(route: &ModelRoute, own: &[OwnPrice]) -> Result<(), Error> {
    let ModelRoute {
        route: alias,
        provider,
        upstream,
        model,
        secret: _,
        provider_tools: _,
        fallback,
        patience,
        limits,
        price: _,
    } = route;
    if !(1..=256).contains(&model.len()) || !model.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(Error::Usage("a model's name is 1 to 256 printable ASCII characters".to_owned()));
    }
    let in_path = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if *provider == Provider::Gemini && !model.bytes().all(in_path) {
        return Err(Error::Usage(
            "a model of gemini is named in the path: a-z, A-Z, 0-9, -, _ and .".to_owned(),
        ));
    }
    match upstream {
        Upstream::Url(url) => check_url(url)?,
        Upstream::Builtin if *provider == Provider::OpenAi => {}
        Upstream::Builtin => return Err(Error::Usage("the built-in model speaks openai".to_owned())),
    }
    let twice = |alias: &Alias| fallback.iter().filter(|other| *other == alias).count() > 1;
    if fallback.len() > MOST_FALLBACKS || fallback.contains(alias) || fallback.iter().any(twice) {
        return Err(Error::Usage(format!(
            "a route falls back to at most {MOST_FALLBACKS} others, each once and none itself"
        )));
    }
    let Patience { first_byte_ms, idle_ms } = patience;
    if [first_byte_ms, idle_ms].into_iter().flatten().any(|ms| !(1..=MOST_PATIENCE).contains(ms)) {
        return Err(Error::Usage("a provider is waited for from a millisecond to a day".to_owned()));
    }
    let same = |a: &cofferdam_base::ipc::model::Limit| {
        limits.iter().filter(|b| (b.unit, b.span, b.soft) == (a.unit, a.span, a.soft)).count() > 1
    };
    if limits.len() > MOST_LIMITS || limits.iter().any(same) {
        return Err(Error::Usage("a route has one soft and one hard limit of a kind".to_owned()));
    }
    let idle = limits.iter().find(|soft| {
        let hard = |it: &&cofferdam_base::ipc::model::Limit| {
            !it.soft && (it.unit, it.span) == (soft.unit, soft.span) && it.most <= soft.most
        };
        soft.soft && limits.iter().any(|it| hard(&it))
    });
    if let Some(idle) = idle {
        return Err(Error::Usage(format!(
            "the soft limit {idle} is not below the hard one, so nobody would be asked"
        )));
    }
    if limits.iter().any(|limit| limit.unit == Unit::Usd) && price::of(route, own).is_none() {
        return Err(Error::Refused {
            code: "no_price",
            message: format!("money is limited, and nobody knows what {model} costs there"),
            mend: "say what a million tokens cost in US dollars: --price PROMPT:ANSWER".to_owned(),
        });
    }
    Ok(())
}

fn check_url(url: &str) -> Result<(), Error> {
    let uri: http::Uri = url.parse().map_err(|_| Error::Usage("the base URL is no URL".to_owned()))?;
    let known = matches!(uri.scheme_str(), Some("http" | "https"));
    let host = uri.authority().is_some_and(|a| !a.host().is_empty() && !a.as_str().contains('@'));
    if known && host && uri.query().is_none() && url.len() <= 1024 {
        return Ok(());
    }
    Err(Error::Usage("a base URL is http(s)://HOST[:PORT]/PATH, without user, password or query".to_owned()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::{check as checked, *};
    use cofferdam_base::ipc::model::Limit;

    fn check(route: &ModelRoute) -> Result<(), Error> {
        checked(route, &[])
    }

    fn route(url: &str) -> ModelRoute {
        ModelRoute::new("main".parse().unwrap(), Upstream::Url(url.to_owned()), "m")
    }

    #[test]
    fn a_route_leads_to_an_http_host_and_nowhere_else() {
        assert!(check(&route("https://api.example.com/v1")).is_ok());
        assert!(check(&ModelRoute { upstream: Upstream::Builtin, ..route("") }).is_ok());
        for bad in
            ["", "api.example.com", "file:///etc/passwd", "https://u:p@h/v1", "https://h/v1?k=s", "ftp://h/"]
        {
            assert!(check(&route(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_could_not_be_enforced_is_refused_with_what_mends_it() {
        let base = || route("https://api.example.com/v1");
        let hard = |text: &str| text.parse::<Limit>().unwrap();
        let soft = |text: &str| Limit { soft: true, ..hard(text) };
        let limited = |limits: Vec<Limit>| check(&ModelRoute { limits, ..base() });
        assert!(limited(vec![soft("tokens/day=5"), hard("tokens/day=6"), hard("tokens/month=6")]).is_ok());
        assert!(limited(vec![hard("tokens/day=5"), hard("tokens/day=6")]).is_err());
        assert!(limited(vec![soft("tokens/day=6"), hard("tokens/day=6")]).is_err());
        let Err(Error::Refused { code, mend, .. }) = limited(vec![hard("usd/day=5")]) else { panic!() };
        assert!(code == "no_price" && mend.contains("--price"));
        let price = Some("1:2".parse().unwrap());
        assert!(check(&ModelRoute { limits: vec![hard("usd/day=5")], price, ..base() }).is_ok());
        for provider in Provider::ALL {
            assert!(check(&ModelRoute { provider, ..base() }).is_ok());
            let builtin = ModelRoute { provider, upstream: Upstream::Builtin, ..base() };
            assert_eq!(check(&builtin).is_ok(), provider == Provider::OpenAi, "{provider}");
        }
        let alias = |text: &str| text.parse::<Alias>().unwrap();
        for fallback in [vec![alias("main")], vec![alias("a"), alias("a")]] {
            assert!(check(&ModelRoute { fallback, ..base() }).is_err());
        }
        for ms in [0, MOST_PATIENCE + 1] {
            let patience = Patience { first_byte_ms: Some(ms), idle_ms: None };
            assert!(check(&ModelRoute { patience, ..base() }).is_err());
        }
        let id = TenantId::try_from("acme").unwrap();
        let one = ModelRoute { fallback: vec![alias("other")], ..base() };
        assert!(fits(&id, &one, [].into_iter()).is_err());
        let other = ModelRoute { route: alias("other"), ..base() };
        assert!(fits(&id, &one, [&other].into_iter()).is_ok());
        let many = vec![other.clone(); MOST_ROUTES];
        assert!(fits(&id, &base(), many.iter()).is_err());
    }
}
