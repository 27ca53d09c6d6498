//! Several routes: which one is taken, which other is asked instead, what they may use, and a call for a person.

use super::*;
use cofferdam_base::ipc::{
    asked::RequestShown,
    model::{Limit, Span},
    warden::{Grant, GrantSpan, Report},
};

pub(super) const ADDRESS: &str = "93.184.216.34";
const WHOLE: &str =
    r#"{"choices":[{"message":{"content":"ok"}}],"usage":{"prompt_tokens":60,"completion_tokens":4}}"#;

pub(super) fn alias(text: &str) -> Alias {
    text.parse().unwrap()
}

/// Routes of their own hosts, each falling back to the next ones.
pub(super) fn chain(host: &Host, aliases: &[&str]) {
    let one = |(number, name): (usize, &&str)| ModelRoute {
        fallback: aliases[number + 1..].iter().map(|name| alias(name)).collect(),
        model: format!("real-{name}"),
        ..route(name, &format!("http://{name}.example/v1"))
    };
    host.route(aliases.iter().enumerate().map(one).collect());
}

pub(super) fn limited(host: &Host, limits: &[&str], soft: &[&str]) -> ModelRoute {
    let soft = soft.iter().map(|text| Limit { soft: true, ..text.parse().unwrap() });
    let limits = limits.iter().map(|text| text.parse().unwrap()).chain(soft).collect();
    let route = ModelRoute { limits, ..route("main", "http://api.example/v1") };
    host.route(vec![route.clone()]);
    route
}

impl Host {
    pub(super) async fn ask_with(&self, body: &str) -> DuplexStream {
        self.ask_at("/v1/chat/completions", body).await
    }

    async fn ask_at(&self, path: &str, body: &str) -> DuplexStream {
        let mut client = self.client();
        let request = format!(
            "POST http://inference.local{path} HTTP/1.1\r\nHost: inference.local\r\n\
             User-Agent: curl/8.1\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        client.write_all(request.as_bytes()).await.unwrap();
        client
    }

    pub(super) async fn ask_model(&self, model: &str) -> DuplexStream {
        self.ask_with(&format!(r#"{{"model":"{model}","user":"ada","messages":[],"max_tokens":10}}"#)).await
    }

    /// The next request at a provider, and its end of the connection.
    async fn asked(&mut self) -> (String, DuplexStream) {
        let (_, mut provider) = self.dialled.recv().await.unwrap();
        let mut text = until(&mut provider, "\r\n\r\n").await;
        let length =
            text.split_once("content-length: ").unwrap().1.split_once('\r').unwrap().0.parse().unwrap();
        let mut body = vec![0; length];
        provider.read_exact(&mut body).await.unwrap();
        text.push_str(std::str::from_utf8(&body).unwrap());
        (text, provider)
    }

    fn dials(&mut self) -> bool {
        self.dialled.try_recv().is_ok()
    }

    /// The next thing that is said to control and is no row.
    async fn said(&self) -> Report {
        loop {
            let reports = self.office.outbox.next().await;
            self.office.outbox.sent(&reports[..1]);
            match &reports[0] {
                Report::Record(record) => self.office.outbox.recorded(record.seq),
                other => return other.clone(),
            }
        }
    }
}

async fn answer(provider: &mut DuplexStream, status: u16, body: &str) {
    let length = body.len();
    let text = format!(
        "HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    provider.write_all(text.as_bytes()).await.unwrap();
}

/// The head and the body of an answer.
pub(super) async fn told(client: &mut DuplexStream) -> (String, String) {
    let head = until(client, "\r\n\r\n").await;
    let mut body = String::new();
    if let Some((_, rest)) = head.split_once("content-length: ") {
        let mut bytes = vec![0; rest.split_once('\r').unwrap().0.parse().unwrap()];
        client.read_exact(&mut bytes).await.unwrap();
        body = String::from_utf8(bytes).unwrap();
    } else {
        while !body.ends_with("0\r\n\r\n") {
            body.push(char::from(client.read_u8().await.unwrap()));
        }
    }
    (head, body)
}

#[tokio::test(start_paused = true)]
async fn the_name_that_a_cell_asks_for_is_the_route_that_its_request_takes() {
    let mut host = host("http://api.example/v1", ADDRESS);
    chain(&host, &["good", "fast"]);
    for (asked, taken) in [("fast", "fast"), ("good", "good"), ("default", "good"), ("", "good")] {
        let mut client = host.ask_model(asked).await;
        let (text, mut provider) = host.asked().await;
        assert!(text.contains(&format!("host: {taken}.example\r\n")), "{asked}: {text}");
        assert!(text.contains(&format!("\"model\":\"real-{taken}\"")), "{asked}: {text}");
        answer(&mut provider, 200, WHOLE).await;
        let (head, body) = told(&mut client).await;
        assert!(
            head.contains(&format!("cofferdam-route: {taken}\r\n")) && body.contains("ok"),
            "{head}{body}"
        );
    }
    let (head, body) = told(&mut host.ask_model("gpt-5").await).await;
    assert!(head.starts_with("HTTP/1.1 404") && body.contains("use good, fast"), "{head}{body}");
    assert!(!host.dials());
    let mut client = host.client();
    client
        .write_all(b"GET http://inference.local/v1/models HTTP/1.1\r\nHost: inference.local\r\n\r\n")
        .await
        .unwrap();
    let (_, body) = told(&mut client).await;
    assert!(
        body.contains("\"id\":\"fast\"") && body.contains("\"id\":\"good\"") && !body.contains("real"),
        "{body}"
    );
    // Who asked, as it says, and what it used.
    host.office.outbox.attach(Vec::new());
    let usage = loop {
        if let Report::Usage(usage) = host.said().await {
            break usage;
        }
    };
    assert_eq!((usage.route.as_str(), usage.user.as_str(), usage.agent.as_str()), ("fast", "ada", "curl"));
    assert_eq!((usage.prompt_tokens, usage.completion_tokens, usage.micros), (60, 4, None));
}

#[tokio::test(start_paused = true)]
async fn a_route_that_cannot_answer_now_is_followed_by_the_next_and_one_that_is_wrong_is_not() {
    let mut host = host("http://api.example/v1", ADDRESS);
    chain(&host, &["one", "two", "three"]);
    for status in [429, 500, 502, 503, 529] {
        let mut client = host.ask_model("one").await;
        for _ in 0..2 {
            let (_, mut provider) = host.asked().await;
            answer(&mut provider, status, "{}").await;
        }
        let (text, mut provider) = host.asked().await;
        assert!(text.contains("real-three"), "{text}");
        answer(&mut provider, 200, WHOLE).await;
        let (head, body) = told(&mut client).await;
        assert!(head.contains("cofferdam-route: three\r\n") && body.contains("ok"), "{status}: {head}{body}");
    }
    // The last one's answer is the answer, whatever it is.
    let mut client = host.ask_model("three").await;
    let (_, mut provider) = host.asked().await;
    answer(&mut provider, 503, "{\"a\":1}").await;
    let (head, body) = told(&mut client).await;
    assert!(head.starts_with("HTTP/1.1 503") && body == "{\"a\":1}", "{head}{body}");
    // What the operator has to mend is not covered up.
    for status in [400, 401, 403, 404] {
        let mut client = host.ask_model("one").await;
        let (_, mut provider) = host.asked().await;
        answer(&mut provider, status, "{}").await;
        assert!(told(&mut client).await.0.starts_with(&format!("HTTP/1.1 {status}")));
        assert!(!host.dials(), "{status}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_route_that_does_not_begin_in_time_is_followed_by_the_next_and_one_that_began_is_not() {
    let mut host = host("http://api.example/v1", ADDRESS);
    chain(&host, &["one", "two"]);
    let stream = r#"{"model":"one","stream":true,"messages":[]}"#;
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n";
    // It says nothing; it says only that it will; it breaks off before it said anything.
    for begins in [None, Some((head, true)), Some((head, false))] {
        let mut client = host.ask_with(stream).await;
        let (_, mut silent) = host.asked().await;
        if let Some((head, stays)) = begins {
            silent.write_all(head.as_bytes()).await.unwrap();
            if !stays {
                silent.shutdown().await.unwrap();
            }
        }
        let since = Instant::now();
        let (text, mut provider) = host.asked().await;
        // The clock of this test moves on only while everybody waits.
        let waited = since.elapsed() >= Duration::from_mins(2);
        assert_eq!(waited, !matches!(begins, Some((_, false))), "{begins:?}");
        assert!(text.contains("real-two"), "{text}");
        answer(&mut provider, 200, WHOLE).await;
        assert!(told(&mut client).await.0.contains("cofferdam-route: two\r\n"));
    }
    // From the first byte on it is the answer, though it breaks off.
    let mut client = host.ask_with(stream).await;
    let (_, mut provider) = host.asked().await;
    provider.write_all(format!("{head}data: {{}}\n\n").as_bytes()).await.unwrap();
    assert!(until(&mut client, "data: {}\n\n").await.contains("cofferdam-route: one"));
    drop(provider);
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).await.unwrap();
    assert!(!host.dials());
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_does_not_translate_is_no_reason_to_ask_the_next_and_an_empty_one_is() {
    let mut host = host("http://api.example/v1", ADDRESS);
    chain(&host, &["one", "two"]);
    let body = r#"{"model":"one","max_tokens":5,"messages":[{"role":"user","content":"a"}]}"#;
    for (path, said, next) in [("/v1/messages", "[]", false), ("/v1/chat/completions", "", true)] {
        let mut client = host.ask_at(path, body).await;
        let (_, mut provider) = host.asked().await;
        answer(&mut provider, 200, said).await;
        if next {
            let (text, mut provider) = host.asked().await;
            assert!(text.contains("real-two"), "{text}");
            answer(&mut provider, 200, "[]").await;
        }
        let (head, body) = told(&mut client).await;
        assert_eq!(head.starts_with("HTTP/1.1 502"), !next, "{head}{body}");
        assert!(!host.dials());
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_may_stand_still_as_long_as_its_route_says() {
    let mut host = host("http://api.example/v1", ADDRESS);
    let patience = Patience { first_byte_ms: Some(3_600_000), idle_ms: Some(7_200_000) };
    host.route(vec![ModelRoute { patience, ..route("main", "http://api.example/v1") }]);
    let mut client = host.ask_with(r#"{"stream":true,"messages":[]}"#).await;
    let (_, mut provider) = host.asked().await;
    tokio::time::sleep(Duration::from_secs(3_599)).await;
    provider
        .write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n")
        .await
        .unwrap();
    until(&mut client, "data: 1\n\n").await;
    tokio::time::sleep(Duration::from_secs(7_199)).await;
    provider.write_all(b"data: 2\n\n").await.unwrap();
    until(&mut client, "data: 2\n\n").await;
    // And no longer.
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).await.unwrap();
    assert!(!rest.ends_with(b"0\r\n\r\n"), "it was cut off");
}

#[tokio::test(start_paused = true)]
async fn past_a_hard_limit_nothing_is_dialled_and_the_agent_reads_why() {
    let mut host = host("http://api.example/v1", ADDRESS);
    limited(&host, &["tokens/day=100"], &[]);
    // The first could use about thirty, and uses 64.
    let mut client = host.ask_model("x").await;
    let (_, mut provider) = host.asked().await;
    // While it is under way, what it could use is held for it: 30 and 80 are over 100.
    let many = r#"{"messages":[],"max_tokens":70}"#;
    let (head, _) = told(&mut host.ask_with(many).await).await;
    assert!(head.starts_with("HTTP/1.1 429"), "{head}");
    answer(&mut provider, 200, WHOLE).await;
    told(&mut client).await;
    let (head, body) = told(&mut host.ask_with(r#"{"messages":[],"max_tokens":30}"#).await).await;
    assert!(head.starts_with("HTTP/1.1 429") && head.contains("cofferdam-reason: model_budget"), "{head}");
    assert!(head.contains("x-should-retry: false") && head.contains("retry-after: 86399\r\n"), "{head}");
    let error: serde_json::Value = serde_json::from_str(&body).unwrap();
    let message = error["error"]["message"].as_str().unwrap();
    assert!(message.contains("tokens/day=100 of route main is used up"), "{message}");
    // What still fits goes, over a new connection: the provider has closed the one that was kept.
    drop(provider);
    let mut client = host.ask_with(r#"{"messages":[],"max_tokens":20}"#).await;
    let (_, mut provider) = host.asked().await;
    answer(&mut provider, 500, "{}").await;
    told(&mut client).await;
    assert!(!host.dials());
    assert_eq!(host.reasons(), [Reason::ModelBudget, Reason::ModelBudget]);
}

#[tokio::test(start_paused = true)]
async fn what_was_used_before_the_warden_was_started_anew_counts() {
    let mut host = host("http://api.example/v1", ADDRESS);
    let route = limited(&host, &["tokens/day=100"], &[]);
    let spent = Spent { route: alias("main"), span: Span::Day, begin: Millis(0), tokens: 90, micros: 0 };
    let routes = ModelRoutes { default: None, routes: vec![route] };
    host.office.model.set_routes(routes, vec![spent], Vec::new());
    assert!(told(&mut host.ask_model("x").await).await.0.starts_with("HTTP/1.1 429"));
    assert!(!host.dials());
}

#[tokio::test(start_paused = true)]
async fn money_without_a_price_is_refused_and_so_is_a_dearer_class_of_service() {
    let mut host = host("http://api.example/v1", ADDRESS);
    let route = limited(&host, &["usd/day=1"], &[]);
    let (head, body) = told(&mut host.ask_model("x").await).await;
    assert!(head.contains("cofferdam-reason: no_price") && body.contains("--price"), "{head}{body}");
    host.route(vec![ModelRoute { price: "2:10".parse().ok(), ..route }]);
    let dear = r#"{"messages":[],"service_tier":"priority"}"#;
    let (head, body) = told(&mut host.ask_with(dear).await).await;
    assert!(head.starts_with("HTTP/1.1 429") && body.contains("service_tier"), "{head}{body}");
    assert!(!host.dials());
    let mut client = host.ask_model("x").await;
    let (_, mut provider) = host.asked().await;
    answer(&mut provider, 200, WHOLE).await;
    told(&mut client).await;
    host.office.outbox.attach(Vec::new());
    let cost = loop {
        if let Report::Usage(usage) = host.said().await {
            break usage.micros;
        }
    };
    assert_eq!(cost, Some(60 * 2 + 4 * 10));
}

#[tokio::test(start_paused = true)]
async fn past_a_soft_limit_a_request_waits_for_a_person_and_no_rule_answers_for_one() {
    let mut host = host("http://api.example/v1", ADDRESS);
    limited(&host, &["tokens/day=1000"], &["tokens/day=10"]);
    host.office.outbox.attach(Vec::new());
    assert!(matches!(host.said().await, Report::Hello { .. }));
    let mut client = host.ask_model("x").await;
    let Report::Ask { destination, why, request: Some(shown) } = host.said().await else { panic!() };
    assert_eq!(destination.to_string(), "http://main.inference.local:80");
    assert!(why.contains("soft limit tokens/day=10") && why.contains("model route main"), "{why}");
    assert!(!host.dials());
    let span = GrantSpan::Once { until: Millis(60_000) };
    // A yes to another size of request is none to this.
    assert!(shown.url.starts_with("http://main.inference.local/?tokens="), "{shown:?}");
    let larger = RequestShown { url: format!("{}0", shown.url), ..shown.clone() };
    for (id, request) in [(6, larger), (7, shown)] {
        let (destination, request) = (destination.clone(), Some(request));
        host.office.egress.gate.grant(Grant { id, destination, span, request });
    }
    loop {
        match host.said().await {
            Report::Spend { grant } => break assert_eq!(grant, 7),
            // The first yes was for another, so this one is asked for again.
            Report::Ask { .. } | Report::HoldEnded { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    host.office.egress.gate.spent(7, true);
    let (_, mut provider) = host.asked().await;
    answer(&mut provider, 200, WHOLE).await;
    assert!(told(&mut client).await.0.starts_with("HTTP/1.1 200"));
    // Once was once; and nobody answers now.
    let (head, body) = told(&mut host.ask_model("x").await).await;
    assert!(head.starts_with("HTTP/1.1 429") && head.contains("cofferdam-reason: no_answer"), "{head}{body}");
    assert!(!host.dials());
    // A cell cannot have that name asked about.
    let mut client = host.client();
    client
        .write_all(b"GET http://main.inference.local/ HTTP/1.1\r\nHost: main.inference.local\r\n\r\n")
        .await
        .unwrap();
    assert!(told(&mut client).await.0.starts_with("HTTP/1.1 404"));
}

#[tokio::test(start_paused = true)]
async fn a_call_for_a_person_tells_what_is_wrong() {
    let mut host = host("http://api.example/v1", ADDRESS);
    let main = alias("main");
    for (status, body, trouble, said) in [
        (200, WHOLE, None, "ok"),
        (401, r#"{"error":{"message":"bad  key\n"}}"#, Some(Trouble::KeyRefused), "bad key"),
        (402, "{}", Some(Trouble::Unpaid), "{}"),
        (404, r#"{"error":"no such model"}"#, Some(Trouble::NoSuchModel), "no such model"),
        (429, "slow down", Some(Trouble::TooMany), "slow down"),
        (500, "", Some(Trouble::Failed), ""),
        (422, "{}", Some(Trouble::Refused), "{}"),
        (200, "<html>hello", Some(Trouble::NoAnswer), "<html>hello"),
    ] {
        let model = Arc::clone(&host.office.model);
        let calling = tokio::spawn(async move { model.test(&alias("main")).await });
        let (_, mut provider) = host.asked().await;
        answer(&mut provider, status, body).await;
        let tested = calling.await.unwrap();
        assert_eq!((tested.trouble, tested.status, tested.said.as_str()), (trouble, status, said));
        assert_eq!(tested.tokens.prompt, if trouble.is_none() { 60 } else { 0 });
    }
    // It says nothing, or breaks off.
    for (stays, trouble) in [(true, Trouble::Slow), (false, Trouble::BrokeOff)] {
        let model = Arc::clone(&host.office.model);
        let calling = tokio::spawn(async move { model.test(&alias("main")).await });
        let (_, provider) = host.asked().await;
        let kept = stays.then_some(provider);
        assert_eq!(calling.await.unwrap().trouble, Some(trouble));
        drop(kept);
    }
    let test = async |host: &Host| host.office.model.test(&main).await;
    host.route(vec![ModelRoute { secret: "KEY".parse().ok(), ..route("main", "http://api.example/v1") }]);
    assert_eq!(test(&host).await.trouble, Some(Trouble::NoKey));
    host.route(vec![route("main", "http://10.0.0.7/v1")]);
    let guarded = test(&host).await;
    assert!(guarded.trouble == Some(Trouble::Guarded) && guarded.said.contains("private"), "{guarded:?}");
    host.route(vec![ModelRoute { upstream: Upstream::Builtin, ..route("main", "") }]);
    assert_eq!(test(&host).await.trouble, Some(Trouble::Connect));
    limited(&host, &["tokens/day=1"], &[]);
    assert_eq!(test(&host).await.trouble, Some(Trouble::Budget));
    host.route(Vec::new());
    assert_eq!(test(&host).await.trouble, Some(Trouble::NoRoute));
    assert!(!host.dials());
}

#[tokio::test(start_paused = true)]
async fn a_call_for_a_person_tells_a_name_that_does_not_resolve_and_tls_that_fails() {
    let mut host = host("http://gone.example/v1", ADDRESS);
    let test = async |host: &Host| host.office.model.test(&alias("main")).await;
    host.resolves_nothing();
    assert_eq!(test(&host).await.trouble, Some(Trouble::Resolve));
    let mut host = super::host("https://api.example/v1", ADDRESS);
    let model = Arc::clone(&host.office.model);
    let calling = tokio::spawn(async move { model.test(&alias("main")).await });
    let (_, mut provider) = host.dialled.recv().await.unwrap();
    // Something answers, and it is not TLS.
    provider.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
    assert_eq!(calling.await.unwrap().trouble, Some(Trouble::Tls));
}

#[tokio::test(start_paused = true)]
async fn a_call_for_a_person_speaks_the_wire_of_its_route() {
    for (provider, path, answered) in [
        (
            Provider::Anthropic,
            "/v1/messages",
            r#"{"content":[{"type":"text","text":"ok"}],"usage":{"input_tokens":6,"output_tokens":2}}"#,
        ),
        (
            Provider::Ollama,
            "/api/chat",
            r#"{"message":{"content":"ok"},"prompt_eval_count":6,"eval_count":2}"#,
        ),
        (
            Provider::Gemini,
            "/v1beta/models/real:generateContent",
            r#"{"candidates":[{"content":{"parts":[{"text":"ok"}]}}],
                "usageMetadata":{"promptTokenCount":6,"candidatesTokenCount":2}}"#,
        ),
    ] {
        let mut host = host("http://api.example", ADDRESS);
        host.route(vec![ModelRoute { provider, ..route("main", "http://api.example") }]);
        let model = Arc::clone(&host.office.model);
        let calling = tokio::spawn(async move { model.test(&alias("main")).await });
        let (text, mut upstream) = host.asked().await;
        assert!(text.starts_with(&format!("POST {path} HTTP/1.1\r\n")), "{text}");
        answer(&mut upstream, 200, answered).await;
        let tested = calling.await.unwrap();
        let tokens = (tested.tokens.prompt, tested.tokens.completion);
        assert_eq!((tested.trouble, tested.said.as_str(), tokens), (None, "ok", (6, 2)), "{provider}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_route_that_the_policy_does_not_name_is_neither_asked_nor_fallen_back_to() {
    let mut host = host("http://api.example/v1", ADDRESS);
    chain(&host, &["good", "fast", "dear"]);
    host.policy("version: 2\ninference: {routes: [good, dear]}\n");
    let (head, body) = told(&mut host.ask_model("fast").await).await;
    assert!(head.starts_with("HTTP/1.1 403") && body.contains("route_not_allowed"), "{head}{body}");
    let (_, body) = told(&mut host.ask_model("else").await).await;
    assert!(body.contains("good, dear") && !body.contains("fast"), "{body}");
    assert!(!host.dials(), "nothing was dialled");
    let mut client = host.ask_model("good").await;
    let (_, mut provider) = host.asked().await;
    answer(&mut provider, 503, "{}").await;
    let (text, mut provider) = host.asked().await;
    assert!(text.contains("host: dear.example"), "{text}");
    answer(&mut provider, 200, WHOLE).await;
    assert!(told(&mut client).await.0.contains("cofferdam-route: dear"));
    // The positive control, and a policy that leaves none.
    host.policy("version: 2\n");
    let mut client = host.ask_model("fast").await;
    let (_, mut provider) = host.asked().await;
    answer(&mut provider, 200, WHOLE).await;
    assert!(told(&mut client).await.0.contains("cofferdam-route: fast"));
    host.policy("version: 2\ninference: {routes: []}\n");
    let (head, body) = told(&mut host.ask_model("good").await).await;
    assert!(head.starts_with("HTTP/1.1 ") && body.contains("no_model") && !host.dials(), "{head}{body}");
}

#[tokio::test(start_paused = true)]
async fn a_route_that_goes_while_a_request_is_under_way_is_not_fallen_back_to() {
    let mut host = host("http://api.example/v1", ADDRESS);
    chain(&host, &["good", "dear"]);
    for goes in [false, true] {
        host.policy("version: 2\ninference: {routes: [good, dear]}\n");
        let mut client = host.ask_model("good").await;
        let (_, mut provider) = host.asked().await;
        if goes {
            host.policy("version: 2\ninference: {routes: [good]}\n");
        }
        answer(&mut provider, 503, "{}").await;
        if !goes {
            let (text, mut provider) = host.asked().await;
            assert!(text.contains("host: dear.example"), "{text}");
            answer(&mut provider, 200, WHOLE).await;
        }
        let (head, body) = told(&mut client).await;
        assert_eq!(head.starts_with("HTTP/1.1 503"), goes, "{head}{body}");
        assert!(!host.dials());
    }
}

#[tokio::test(start_paused = true)]
async fn a_budget_of_the_policy_is_checked_before_the_request_and_across_all_routes() {
    let mut host = host("http://api.example/v1", ADDRESS);
    chain(&host, &["good", "fast"]);
    host.policy(
        "version: 2\ninference: {routes: {good: [tokens/day=70], fast: []}, budget: [tokens/day=140]}\n",
    );
    answered(&mut host, "good").await;
    // 64 tokens are used: of `good` there is no room for more, though of all there is.
    let (head, body) = told(&mut host.ask_model("good").await).await;
    assert!(head.starts_with("HTTP/1.1 429") && body.contains("tokens/day=70 of route good"), "{head}{body}");
    answered(&mut host, "fast").await;
    let (head, body) = told(&mut host.ask_model("fast").await).await;
    assert!(
        head.starts_with("HTTP/1.1 429") && body.contains("tokens/day=140 of all routes"),
        "{head}{body}"
    );
    assert!(!host.dials() && host.reasons().iter().all(|reason| *reason == Reason::ModelBudget));
    // Money needs a price.
    host.policy("version: 2\ninference: {budget: [usd/day=1]}\n");
    let (head, body) = told(&mut host.ask_model("fast").await).await;
    assert!(
        head.starts_with("HTTP/1.1 ") && body.contains("usd/day=1.00 of all routes cannot be kept"),
        "{body}"
    );
    host.policy("version: 2\n");
    assert!(answered(&mut host, "fast").await.starts_with("HTTP/1.1 200"));
}

/// The head of an answer that this route gives, over a connection of its own.
async fn answered(host: &mut Host, route: &str) -> String {
    let mut client = host.ask_model(route).await;
    let (_, mut provider) = host.asked().await;
    answer(&mut provider, 200, WHOLE).await;
    told(&mut client).await.0
}
