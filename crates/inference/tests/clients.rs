//! The official Python clients of OpenAI and Anthropic, each against a provider of the other's wire.
//!
//! They are installed from PyPI into the target folder, at fixed versions, the first time.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, missing_docs)]

use bytes::Bytes;
use cofferdam_base::Provider;
use cofferdam_inference::{
    BaseUrl, Call, Connect, Connecting, Error, Inbound, Patience, Route, Stream, accept, builtin,
    models_answer, relay,
};
use http::{Request, Response, header};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::{convert::Infallible, path::PathBuf, process::Command};
use tokio::{io::DuplexStream, net::TcpListener};

const PACKAGES: [&str; 2] = ["openai==3.57.0", "anthropic==2.14.0"];

/// The interpreter that has them.
fn python() -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("clients");
    let python = folder.join("bin/python");
    let has = |python: &PathBuf| {
        let asked = Command::new(python).args(["-c", "import openai, anthropic"]).output();
        asked.is_ok_and(|output| output.status.success())
    };
    if !has(&python) {
        let run = |program: &str, arguments: &[&str]| {
            let output = Command::new(program).args(arguments).output().unwrap();
            assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
        };
        run("python3", &["-m", "venv", folder.to_str().unwrap()]);
        run(python.to_str().unwrap(), &["-m", "pip", "install", "-q", PACKAGES[0], PACKAGES[1]]);
    }
    python
}

/// Providers, each at the end of a pipe.
#[derive(Clone, Copy)]
struct World;

impl Connect for World {
    fn connect<'a>(&'a self, route: &'a Route) -> Connecting<'a> {
        let (near, far) = tokio::io::duplex(4096);
        match route.provider {
            Provider::Anthropic => drop(tokio::spawn(anthropic(far))),
            _ => drop(tokio::spawn(builtin::serve(far))),
        }
        Box::pin(async { Ok(Box::new(near) as Box<dyn Stream>) })
    }
}

/// Answers as Anthropic's API does, if it was asked as that is.
async fn anthropic(far: DuplexStream) {
    let service = service_fn(|request: Request<Incoming>| async {
        assert_eq!(request.uri().path(), "/v1/messages");
        assert_eq!(request.headers()["anthropic-version"], "2023-06-01");
        let body = request.into_body().collect().await.unwrap().to_bytes();
        let body: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(body["tools"][0]["name"], "get_weather");
        let (kind, text) = if body["stream"] == true {
            ("text/event-stream", include_str!("messages_stream.txt"))
        } else {
            ("application/json", include_str!("messages.json"))
        };
        let response = Response::builder().header(header::CONTENT_TYPE, kind);
        Ok::<_, Infallible>(response.body(Full::new(Bytes::from(text))).unwrap())
    });
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(far), service).await;
}

type Body = UnsyncBoxBody<Bytes, Error>;

/// What a warden does with a request of its cell, without its checks.
async fn answer(request: Request<Incoming>, provider: Provider) -> Response<Body> {
    let whole = |status: u16, text: String| {
        let response = Response::builder().status(status).header(header::CONTENT_TYPE, "application/json");
        response.body(Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed_unsync()).unwrap()
    };
    let (head, body) = request.into_parts();
    let api = match accept(&head.method, head.uri.path()) {
        Ok(Inbound::Call(api)) => api,
        Ok(Inbound::Models(wire)) => return whole(200, models_answer(wire, &["main"])),
        Err(error) => return whole(error.status().as_u16(), error.to_json(Provider::OpenAi)),
    };
    let body = body.collect().await.unwrap().to_bytes();
    let base = BaseUrl::parse("http://provider.example/v1").unwrap();
    let route = Route {
        name: "main".into(),
        base,
        model: "real".into(),
        provider,
        provider_tools: false,
        patience: Patience::default(),
    };
    let answered = match Call::parse(api, &head.uri, &body) {
        Ok(call) => relay(&call, &head.headers, &route, None, &World, |_| ()).await,
        Err(error) => Err(error),
    };
    match answered {
        Ok(answer) => answer.map(BodyExt::boxed_unsync),
        Err(error) => whole(error.status().as_u16(), error.to_json(api.wire())),
    }
}

/// Serves cells whose route has a provider of this wire.
async fn serve(provider: Provider) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service =
                service_fn(
                    move |request| async move { Ok::<_, Infallible>(answer(request, provider).await) },
                );
            tokio::spawn(
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service),
            );
        }
    });
    format!("http://{address}")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_official_clients_read_translated_answers_streams_and_errors() {
    let urls = [serve(Provider::Anthropic).await, serve(Provider::OpenAi).await];
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients.py");
    let run = move || Command::new(python()).arg(script).args(urls).output().unwrap();
    let output = tokio::task::spawn_blocking(run).await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    let streamed = json!({"text": "Okay, let me look.", "finish": "tool_calls", "usage": [472, 89],
        "calls": [["get_weather", {"location": "San Francisco"}], ["now", {}]]});
    assert_eq!(said["chat_stream"], streamed);
    assert_eq!(said["chat"], json!(["It is mild.", "stop", 30]));
    let stream = &said["messages_stream"];
    assert_eq!(
        (&stream["stop"], &stream["call"]),
        (&json!("tool_use"), &json!(["exec", {"command": "id -u"}]))
    );
    assert_eq!((&stream["kinds"][0], &stream["counts"]), (&json!("message_start"), &json!(true)));
    assert_eq!(said["messages"], json!(["The tool said: 1000", "end_turn"]));
    assert_eq!(said["models"], json!([["main"], ["main"]]));
    let refused = [
        "messages[0].content[0].image_url.url",
        "/v1/responses is not served",
        "count_tokens is not served",
        "top_k",
    ];
    for (at, why) in refused.into_iter().enumerate() {
        let error = &said["refused"][at];
        assert!(error[0] == 400 && error[1].as_str().unwrap().contains(why), "{error} is about {why}");
    }
}
