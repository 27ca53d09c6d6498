//! An attack for each of the warden's checks: stopped while the check is there, through when it is gone.

use super::{
    routes::{ADDRESS, alias, chain, limited, told},
    *,
};
use crate::check::{
    Check,
    left_out::{each_is_missed, tried},
};
use cofferdam_base::ipc::{
    model::{Span, Spent, SpentByAll},
    warden::Configuration,
};
use tokio::runtime::Builder;

/// Is a provider dialled for what this asks?
fn dials(ask: impl AsyncFn(&Host) -> DuplexStream) -> bool {
    let runtime = Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let mut host = host("http://api.example/v1", ADDRESS);
        let mut client = ask(&host).await;
        tokio::select! {
            biased;
            dialled = host.dialled.recv() => dialled.is_some(),
            _ = told(&mut client) => false,
        }
    })
}

/// A tenth of a hundred tokens is left of the day.
fn used(host: &Host, limits: &[&str], soft: &[&str]) {
    let routes = ModelRoutes { default: None, routes: vec![limited(host, limits, soft)] };
    let (span, begin, tokens, micros) = (Span::Day, Millis(0), 90, 0);
    let by_all = SpentByAll { span, begin, tokens, micros };
    let spent = Spent { route: alias("main"), span, begin, tokens, micros };
    host.office.model.set_routes(routes, vec![spent], vec![by_all]);
}

fn attack(check: Check) -> Result<(), String> {
    let alone = |attack: &dyn Fn() -> bool| tried(&[check], attack);
    match check {
        Check::OwnTenant => alone(&|| {
            let runtime = Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let host = host("http://api.example/v1", ADDRESS);
                let others = Configuration {
                    tenant: "globex".parse().unwrap(),
                    policy: "version: 2\n".to_owned(),
                    revision: 1,
                    ceiling: None,
                    nameservers: vec!["93.184.216.34:53".parse().unwrap()],
                    operator_private: Vec::new(),
                    upstream_proxy: None,
                    host_addresses: Vec::new(),
                    hold_ms: 1000,
                    relays: 1,
                    holds: 1,
                    names_per_second: 1,
                };
                host.office.configure(others).is_ok()
            })
        }),
        Check::RouteAsked | Check::RouteNow => {
            let layers = [Check::RouteAsked, Check::RouteChain, Check::RouteNow];
            tried(&layers, &|| {
                dials(async |host| {
                    chain(host, &["good", "fast"]);
                    host.policy("version: 2\ninference: {routes: [good]}\n");
                    host.ask_model("fast").await
                })
            })
        }
        Check::RouteChain => {
            // What is refused now was not named before, either.
            tried(&[Check::RouteChain, Check::RouteNow], &|| {
                dials(async |host| {
                    let gone = ModelRoute {
                        fallback: vec![alias("fast")],
                        upstream: Upstream::Builtin,
                        ..route("good", "")
                    };
                    host.route(vec![gone, route("fast", "http://fast.example/v1")]);
                    host.policy("version: 2\ninference: {routes: [good]}\n");
                    host.ask_model("good").await
                })
            })
        }
        Check::RouteBudget | Check::UsedBefore => alone(&|| {
            dials(async |host| {
                used(host, &["tokens/day=100"], &[]);
                host.ask_model("main").await
            })
        }),
        Check::WholeBudget => alone(&|| {
            dials(async |host| {
                used(host, &[], &[]);
                host.policy("version: 2\ninference: {budget: [tokens/day=100]}\n");
                host.ask_model("main").await
            })
        }),
        Check::SoftLimit => alone(&|| {
            dials(async |host| {
                used(host, &[], &["tokens/day=100"]);
                host.ask_model("main").await
            })
        }),
        Check::Dearer => alone(&|| {
            dials(async |host| {
                let price = Some("1:2".parse().unwrap());
                let route = ModelRoute { price, ..limited(host, &["usd/day=1"], &[]) };
                host.route(vec![route]);
                let body = r#"{"model":"main","service_tier":"priority","messages":[],"max_tokens":10}"#;
                host.ask_with(body).await
            })
        }),
    }
}

#[test]
fn every_check_of_the_warden_is_missed_when_it_is_gone() {
    each_is_missed("warden", attack);
}
