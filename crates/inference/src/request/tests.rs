#![allow(clippy::unwrap_used)]
use super::*;
use crate::{BaseUrl, Patience};

fn route() -> Route {
    to(Provider::OpenAi, "https://api.example.com/v1", "real-\"1")
}

fn to(provider: Provider, base: &str, model: &str) -> Route {
    let base = BaseUrl::parse(base).unwrap();
    Route {
        name: "main".into(),
        base,
        model: model.into(),
        provider,
        provider_tools: false,
        patience: Patience::default(),
    }
}

fn parse(api: Api, body: &str) -> Result<Call, Error> {
    let path = match api.wire() {
        Provider::Gemini => format!("/v1beta/models/asked{}", api.path()),
        _ => api.path().to_owned(),
    };
    let query = if api == Api::GeminiStream { "?alt=sse" } else { "" };
    Call::parse(api, &format!("http://inference.local{path}{query}").parse().unwrap(), body.as_bytes())
}

fn chat(body: &str) -> Result<Call, Error> {
    parse(Api::Chat, body)
}

fn body(call: &Call, route: &Route) -> String {
    String::from_utf8(call.body(route).unwrap()).unwrap()
}

#[test]
fn a_streaming_request_is_written_anew() {
    let text = r#" {"model":"openclaw", "stream": true,"stream_options":{"include_usage":false,"x":1},
        "messages":[{"role":"user","content":"a\u0041"}],"temperature":1.50} "#;
    let request = chat(text).unwrap();
    assert_eq!(request.model(), Some("openclaw"));
    assert_eq!(
        body(&request, &route()),
        r#"{"model":"real-\"1","stream":true,"messages":[{"role":"user","content":"a\u0041"}],"temperature":1.50,"stream_options":{"include_usage":true}}"#
    );
}

#[test]
fn a_plain_request_gets_no_stream_options() {
    let request = chat(r#"{"messages":[],"stream_options":{},"model":"m"}"#).unwrap();
    assert_eq!(body(&request, &route()), r#"{"model":"real-\"1","messages":[]}"#);
}

#[test]
fn ambiguous_and_malformed_bodies_are_refused() {
    for bad in [
        r#"{"model":"a","model":"b","messages":[]}"#,
        r#"{"model":"a","\u006dodel":"b","messages":[]}"#,
        r#"{"Model":"a","model":"b","messages":[]}"#,
        r#"{"Model":"a","Stream":true,"messages":[]}"#,
        "{\"\u{17f}tream\":true,\"messages\":[]}",
        r#"{"\u017ftream":true,"messages":[]}"#,
        "{\"messages\":[],\"to\u{212a}ens\":1}",
        r#"{"messages":[],"max-tokens":1}"#,
        r#"{"messages":[],"":1}"#,
        r#"{"messages":[],"model ":1}"#,
        r#"{"messages":[],"stream":"true"}"#,
        r#"{"messages":{}}"#,
        r#"{"messages":[]} {}"#,
        "[]",
        "",
        "\u{0}",
        "{\"messages\":[",
    ] {
        assert!(matches!(chat(bad), Err(Error::Body(_))), "{bad}");
    }
    assert!(matches!(chat(&" ".repeat(MAX_BODY + 1)), Err(Error::TooLong)));
    assert!(chat(r#"{"messages":[],"top_p":1,"logit_bias":{"A-b":1}}"#).is_ok());
    let error = chat(r#"{"messages":[],"Stream":true}"#).unwrap_err();
    assert!(error.to_string().contains("\"Stream\""), "{error}");
}

#[test]
fn the_cells_credentials_stay_and_the_tenants_key_is_added() {
    let mut headers = HeaderMap::new();
    for name in [
        "authorization",
        "x-api-key",
        "api-key",
        "cookie",
        "openai-organization",
        "proxy-authorization",
        "x-forwarded-for",
        "traceparent",
    ] {
        headers.insert(name, HeaderValue::from_static("from-the-cell"));
    }
    let request = chat(r#"{"messages":[]}"#).unwrap();
    let out = request.rebuild(&headers, &route(), Some(b"real-key")).unwrap();
    assert_eq!(out.uri(), "/v1/chat/completions");
    assert_eq!(out.headers()["host"], "api.example.com");
    assert_eq!(out.headers()["authorization"], "Bearer real-key");
    assert!(out.headers()["authorization"].is_sensitive());
    let kept: Vec<_> = out.headers().iter().filter(|(_, value)| *value == "from-the-cell").collect();
    assert_eq!(kept.len(), 1, "only the trace context travels: {kept:?}");
    assert!(!format!("{out:?}").contains("real-key"));
    // Without a key none is sent.
    assert!(!request.rebuild(&headers, &route(), None).unwrap().headers().contains_key("authorization"));
    assert!(matches!(request.rebuild(&headers, &route(), Some(b"a\r\nb: c")), Err(Error::Key)));
}

#[test]
fn each_provider_gets_its_own_target_and_header_for_the_key() {
    let gemini = r#"{"contents":[{"parts":[{"text":"hi"}]}]}"#;
    let messages = r#"{"model":"m","max_tokens":9,"messages":[]}"#;
    for (api, provider, base, text, target, header) in [
        (Api::Responses, Provider::OpenAi, "/v1", r#"{"input":"hi"}"#, "/v1/responses", "authorization"),
        (
            Api::Embeddings,
            Provider::OpenAi,
            "/x/v1",
            r#"{"input":"hi"}"#,
            "/x/v1/embeddings",
            "authorization",
        ),
        (Api::Messages, Provider::Anthropic, "", messages, "/v1/messages", "x-api-key"),
        (Api::Messages, Provider::Anthropic, "/v1", messages, "/v1/messages", "x-api-key"),
        (
            Api::CountTokens,
            Provider::Anthropic,
            "",
            r#"{"messages":[]}"#,
            "/v1/messages/count_tokens",
            "x-api-key",
        ),
        (Api::OllamaChat, Provider::Ollama, "", r#"{"messages":[]}"#, "/api/chat", "authorization"),
        (Api::OllamaEmbed, Provider::Ollama, "/api", r#"{"input":"hi"}"#, "/api/embed", "authorization"),
        (
            Api::GeminiGenerate,
            Provider::Gemini,
            "",
            gemini,
            "/v1beta/models/real:generateContent",
            "x-goog-api-key",
        ),
        (
            Api::GeminiStream,
            Provider::Gemini,
            "/v1beta",
            gemini,
            "/v1beta/models/real:streamGenerateContent?alt=sse",
            "x-goog-api-key",
        ),
    ] {
        let route = to(provider, &format!("https://api.example.com{base}"), "real");
        let mut headers = HeaderMap::new();
        for name in ["authorization", "x-api-key", "x-goog-api-key", "anthropic-version", "cookie"] {
            headers.insert(name, HeaderValue::from_static("from-the-cell"));
        }
        let out = parse(api, text).unwrap().rebuild(&headers, &route, Some(b"real-key")).unwrap();
        assert_eq!(out.uri(), target, "{api:?}");
        let key = &out.headers()[header];
        assert!(key.is_sensitive() && key.as_bytes().ends_with(b"real-key"), "{api:?}");
        assert!(!out.headers().values().any(|value| value == "from-the-cell"), "{api:?}");
        let keys = out.headers().values().filter(|value| value.as_bytes().ends_with(b"real-key")).count();
        assert_eq!(keys, 1, "{api:?}");
        assert_eq!(out.headers().contains_key("anthropic-version"), provider == Provider::Anthropic);
    }
}

#[test]
fn the_cells_model_is_read_and_the_routes_is_written() {
    let gemini = to(Provider::Gemini, "https://g.example", "real");
    let call =
        parse(Api::GeminiEmbed, r#"{"model":"models/a","content":{"parts":[{"text":"hi"}]}}"#).unwrap();
    assert_eq!(call.model(), Some("asked"));
    assert_eq!(body(&call, &gemini), r#"{"model":"models/real","content":{"parts":[{"text":"hi"}]}}"#);
    let call = parse(Api::GeminiGenerate, r#"{"contents":[],"generationConfig":{"a":1}}"#).unwrap();
    assert_eq!(body(&call, &gemini), r#"{"contents":[],"generationConfig":{"a":1}}"#);
    let ollama = to(Provider::Ollama, "http://o.example", "real");
    let call = parse(Api::OllamaGenerate, r#"{"model":"a","prompt":"hi"}"#).unwrap();
    assert!(call.streams(), "it streams unless told not to");
    assert_eq!(body(&call, &ollama), r#"{"model":"real","prompt":"hi"}"#);
}

#[test]
fn nothing_is_kept_at_a_provider_unless_the_route_allows_it() {
    let call = parse(Api::Responses, r#"{"input":"hi"}"#).unwrap();
    assert_eq!(body(&call, &route()), r#"{"model":"real-\"1","input":"hi","store":false}"#);
    let kept = parse(Api::Responses, r#"{"input":"hi","store":true}"#).unwrap();
    let error = kept.body(&route()).unwrap_err();
    assert!(error.to_string().starts_with("`store` is not off"), "{error}");
    let open = Route { provider_tools: true, ..route() };
    assert_eq!(body(&kept, &open), r#"{"model":"real-\"1","input":"hi","store":true}"#);
    // Chats are kept by OpenAI itself; whoever else speaks as it does may not know the field.
    let translated = parse(Api::Messages, r#"{"messages":[],"max_tokens":1}"#).unwrap();
    for call in [chat(r#"{"messages":[],"store":false}"#).unwrap(), translated] {
        for (base, told) in [
            ("https://api.openai.com/v1", true),
            ("https://eu.api.openai.com/v1", true),
            ("https://notapi.openai.com/v1", false),
        ] {
            let sent = body(&call, &to(Provider::OpenAi, base, "real"));
            let only = call.api() == Api::Chat && sent.matches("store").count() == 1;
            assert_eq!(sent.contains(r#""store":false"#), told || only, "{base} {sent}");
        }
    }
}

#[test]
fn a_query_is_read_and_the_cells_key_left_behind() {
    let parse = |api: Api, uri: &str| {
        let body = r#"{"contents":[],"messages":[]}"#;
        Call::parse(api, &format!("http://inference.local{uri}").parse().unwrap(), body.as_bytes())
    };
    let stream = "/v1beta/models/m:streamGenerateContent";
    let call = parse(Api::GeminiStream, &format!("{stream}?key=cell-secret&alt=sse")).unwrap();
    let gemini = to(Provider::Gemini, "https://g.example", "real");
    assert_eq!(call.target(Api::GeminiStream, &gemini), "/v1beta/models/real:streamGenerateContent?alt=sse");
    assert!(matches!(parse(Api::GeminiStream, stream), Err(Error::Body(_))));
    let anthropic = to(Provider::Anthropic, "https://a.example", "real");
    let call = parse(Api::Messages, "/v1/messages?beta=true").unwrap();
    assert_eq!(call.target(Api::Messages, &anthropic), "/v1/messages?beta=true");
    for (api, uri) in [
        (Api::Messages, "/v1/messages?key=x"),
        (Api::Chat, "/v1/chat/completions?api-version=1"),
        (Api::GeminiStream, "/v1beta/models/m:streamGenerateContent?alt=sse&alt=media"),
    ] {
        assert!(matches!(parse(api, uri), Err(Error::Query(_))), "{uri}");
    }
}

#[test]
fn betas_travel_to_the_wire_that_has_them_only() {
    let call = parse(Api::Messages, r#"{"max_tokens":1,"messages":[]}"#).unwrap();
    let anthropic = to(Provider::Anthropic, "https://a.example", "real");
    let mut headers = HeaderMap::new();
    headers.insert("anthropic-beta", HeaderValue::from_static("interleaved-thinking-2025-05-14,x-1"));
    let out = call.rebuild(&headers, &anthropic, None).unwrap();
    assert_eq!(out.headers()["anthropic-beta"], "interleaved-thinking-2025-05-14,x-1");
    assert!(!call.rebuild(&headers, &route(), None).unwrap().headers().contains_key("anthropic-beta"));
    headers.append("anthropic-beta", HeaderValue::from_static("y"));
    assert!(!call.rebuild(&headers, &anthropic, None).unwrap().headers().contains_key("anthropic-beta"));
}

#[test]
fn what_a_route_does_not_serve_is_said_with_what_it_does() {
    let call = parse(Api::Responses, r#"{"input":"hi"}"#).unwrap();
    let error = call.body(&to(Provider::Anthropic, "https://a.example", "m")).unwrap_err();
    assert_eq!(error.status(), 400);
    let said = error.to_string();
    assert!(
        said.contains("/v1/responses is not served") && said.contains("/v1/chat/completions, /v1/messages")
    );
    let pairs = Api::ALL.into_iter().flat_map(|api| Provider::ALL.map(|provider| (api, provider)));
    for (api, provider) in pairs.filter(|(api, provider)| api.at(*provider).is_none()) {
        let call = parse(api, r#"{"messages":[],"contents":[]}"#).unwrap();
        let refused = call.rebuild(&HeaderMap::new(), &to(provider, "https://a.example", "m"), None);
        assert!(matches!(refused, Err(Error::NotServed { .. })), "{api:?} {provider}");
    }
}

/// A row for each way to have a provider fetch, run, keep or recall something.
const HARMFUL: &[(Api, &str, &str)] = &[
    (Api::Chat, "web_search_options", r#"{"messages":[],"web_search_options":{}}"#),
    (Api::Chat, "plugins", r#"{"messages":[],"plugins":[{"id":"web"}]}"#),
    (Api::Chat, "enable_search", r#"{"messages":[],"enable_search":true}"#),
    (Api::Chat, "store", r#"{"messages":[],"store":true}"#),
    (Api::Chat, "tools[1].type", r#"{"messages":[],"tools":[{"type":"function"},{"type":"web_search"}]}"#),
    (Api::Chat, "tools[0].type", r#"{"messages":[],"tools":[{"type":"function","type":"mcp"}]}"#),
    (Api::Chat, "tools[0].server_url", r#"{"messages":[],"tools":[{"server_url":"https://x"}]}"#),
    (
        Api::Chat,
        "messages[0].content[0].image_url.url",
        r#"{"messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"https://x/?secret"}}]}]}"#,
    ),
    (
        Api::Chat,
        "messages[0].content[0].image_url",
        r#"{"messages":[{"role":"user","content":[{"type":"image_url","image_url":"https://x"}]}]}"#,
    ),
    (
        Api::Chat,
        "messages[0].content[0].file.file_id",
        r#"{"messages":[{"role":"user","content":[{"type":"file","file":{"file_id":"file-1"}}]}]}"#,
    ),
    (
        Api::Chat,
        "messages[0].content[0].type",
        r#"{"messages":[{"role":"user","content":[{"type":"video_url","video_url":{"url":"https://x"}}]}]}"#,
    ),
    (Api::Chat, "messages[0].audio", r#"{"messages":[{"role":"assistant","audio":{"id":"a"}}]}"#),
    (Api::Chat, "messages[0].content", r#"{"messages":[{"role":"user","content":{"type":"x"}}]}"#),
    (Api::Responses, "tools[0].type", r#"{"input":"a","tools":[{"type":"web_search"}]}"#),
    (Api::Responses, "tools[0].type", r#"{"input":"a","tools":[{"type":"mcp","server_url":"https://x"}]}"#),
    (Api::Responses, "tools[0].type", r#"{"input":"a","tools":[{"type":"code_interpreter"}]}"#),
    (Api::Responses, "tools[0].type", r#"{"input":"a","tools":[{"type":"file_search"}]}"#),
    (Api::Responses, "previous_response_id", r#"{"input":"a","previous_response_id":"resp_1"}"#),
    (Api::Responses, "conversation", r#"{"input":"a","conversation":"conv_1"}"#),
    (Api::Responses, "background", r#"{"input":"a","background":true}"#),
    (Api::Responses, "prompt", r#"{"prompt":{"id":"pmpt_1"}}"#),
    (Api::Responses, "input[0].type", r#"{"input":[{"type":"item_reference","id":"msg_1"}]}"#),
    (Api::Responses, "input[0]", r#"{"input":[{"id":"msg_1"}]}"#),
    (Api::Responses, "input[0].type", r#"{"input":[{"type":null,"id":"msg_1"}]}"#),
    (
        Api::Responses,
        "input[0].content[0].image_url",
        r#"{"input":[{"role":"user","content":[{"type":"input_image","image_url":"http://x"}]}]}"#,
    ),
    (
        Api::Responses,
        "input[0].content[0].file_url",
        r#"{"input":[{"role":"user","content":[{"type":"input_file","file_url":"http://x"}]}]}"#,
    ),
    (Api::Messages, "mcp_servers[0]", r#"{"messages":[],"mcp_servers":[{"type":"url","url":"https://x"}]}"#),
    (Api::Messages, "container", r#"{"messages":[],"container":"c"}"#),
    (Api::Messages, "tools[0].type", r#"{"messages":[],"tools":[{"type":"web_fetch_20250910","name":"f"}]}"#),
    (Api::Messages, "tools[0].type", r#"{"messages":[],"tools":[{"type":"web_search_20250305"}]}"#),
    (Api::Messages, "tools[0].type", r#"{"messages":[],"tools":[{"type":"code_execution_20250825"}]}"#),
    (
        Api::Messages,
        "messages[0].content[0].source.type",
        r#"{"messages":[{"role":"user","content":[{"type":"image","source":{"type":"url","url":"https://x"}}]}]}"#,
    ),
    (
        Api::Messages,
        "messages[0].content[0].caller.type",
        r#"{"messages":[{"role":"assistant","content":[{"type":"tool_use","caller":{"type":"code_execution_20250825"}}]}]}"#,
    ),
    (
        Api::CountTokens,
        "messages[0].content[0].content[0].source.type",
        r#"{"messages":[{"role":"user","content":[{"type":"tool_result","content":[{"type":"image","source":{"type":"file"}}]}]}]}"#,
    ),
    (
        Api::Messages,
        "messages[0].content[0].source.content[0].source.type",
        r#"{"messages":[{"role":"user","content":[{"type":"document","source":{"type":"content","content":[{"type":"image","source":{"type":"url"}}]}}]}]}"#,
    ),
    (Api::OllamaChat, "tools[0].Type", r#"{"messages":[],"tools":[{"Type":"web"}]}"#),
    (Api::OllamaChat, "web_search", r#"{"messages":[],"web_search":true}"#),
    (Api::GeminiGenerate, "tools[0].googleSearch", r#"{"contents":[],"tools":[{"googleSearch":{}}]}"#),
    (Api::GeminiStream, "tools[0].google_search", r#"{"contents":[],"tools":[{"google_search":{}}]}"#),
    (Api::GeminiGenerate, "tools[0].urlContext", r#"{"contents":[],"tools":[{"urlContext":{}}]}"#),
    (Api::GeminiGenerate, "tools[0].codeExecution", r#"{"contents":[],"tools":[{"codeExecution":{}}]}"#),
    (Api::GeminiGenerate, "tools", r#"{"contents":[],"tools":{"googleSearch":{}}}"#),
    (Api::GeminiGenerate, "cachedContent", r#"{"contents":[],"cachedContent":"cachedContents/1"}"#),
    (
        Api::GeminiGenerate,
        "contents[0].parts[0].fileData",
        r#"{"contents":[{"parts":[{"fileData":{"fileUri":"https://x"}}]}]}"#,
    ),
    (
        Api::GeminiCount,
        "generateContentRequest",
        r#"{"contents":[],"generateContentRequest":{"tools":[{"googleSearch":{}}]}}"#,
    ),
];

#[test]
fn a_provider_fetches_runs_and_keeps_nothing_unless_the_route_allows_it() {
    for (api, path, text) in HARMFUL {
        let call = parse(*api, text).unwrap();
        let route = to(api.wire(), "https://p.example", "m");
        let error = call.rebuild(&HeaderMap::new(), &route, None).unwrap_err();
        assert!(matches!(&error, Error::Harmful { path: at, .. } if at == path), "{text}: {error}");
        assert_eq!(error.status(), 400);
        assert!(error.to_string().contains("provider_tools"), "{error}");
        // The positive control: where the operator allows it, it passes.
        let open = Route { provider_tools: true, ..route };
        assert!(call.rebuild(&HeaderMap::new(), &open, None).is_ok(), "{text}");
    }
}

#[test]
fn what_clients_send_every_day_is_harmless() {
    for (api, text) in [
        (
            Api::Chat,
            r#"{"messages":[{"role":"user","content":[{"type":"text","text":"a"},{"type":"image_url","image_url":{"url":"data:image/png;base64,AA==","detail":"low"}}]},
               {"role":"assistant","content":null,"tool_calls":[{"id":"c","type":"function","function":{"name":"f","arguments":"{}"}}]},
               {"role":"tool","tool_call_id":"c","content":"1"}],
               "tools":[{"type":"function","function":{"name":"f","parameters":{"type":"object","properties":{"url":{"type":"string"}}}}}],
               "store":false,"max_completion_tokens":5,"reasoning_effort":"low","stream":true,"stream_options":{"include_usage":true}}"#,
        ),
        (
            Api::Responses,
            r#"{"input":[{"role":"user","content":[{"type":"input_text","text":"a"},{"type":"input_image","image_url":"data:image/png;base64,AA==","file_id":null}]},
               {"type":"reasoning","id":"rs_1","summary":[],"encrypted_content":"x"},
               {"type":"function_call","id":"fc_1","call_id":"c","name":"f","arguments":"{}"},
               {"type":"function_call_output","call_id":"c","output":"1"}],
               "tools":[{"type":"function","name":"f","parameters":{},"strict":false}],"store":false,"include":["reasoning.encrypted_content"]}"#,
        ),
        (
            Api::Messages,
            r#"{"max_tokens":9,"system":[{"type":"text","text":"a","cache_control":{"type":"ephemeral"}}],"thinking":{"type":"enabled","budget_tokens":1024},
               "messages":[{"role":"user","content":"a"},{"role":"assistant","content":[{"type":"thinking","thinking":"t","signature":"s"},{"type":"tool_use","id":"t","name":"f","input":{"type":"url"},"caller":{"type":"direct"},"later":null}]},
               {"role":"user","content":[{"type":"tool_result","tool_use_id":"t","content":[{"type":"text","text":"1"}]}]}],
               "tools":[{"name":"f","input_schema":{"type":"object"}},{"type":"bash_20250124","name":"bash"}]}"#,
        ),
        (
            Api::OllamaChat,
            r#"{"messages":[{"role":"user","content":"a","images":["AA=="]}],"options":{"num_ctx":9},"tools":[{"type":"function","function":{}}]}"#,
        ),
        (
            Api::GeminiGenerate,
            r#"{"contents":[{"role":"user","parts":[{"text":"a"},{"inlineData":{"mimeType":"image/png","data":"AA=="}}]}],
               "tools":[{"functionDeclarations":[{"name":"f"}]}],"systemInstruction":{"parts":[{"text":"s"}]},"generationConfig":{"temperature":0}}"#,
        ),
        (Api::Embeddings, r#"{"input":["a"],"encoding_format":"base64"}"#),
    ] {
        let call = parse(api, text).unwrap();
        call.rebuild(&HeaderMap::new(), &to(api.wire(), "https://p.example", "m"), None).unwrap();
    }
}

#[test]
fn no_objects_table_has_more_keys_than_are_kept_track_of() {
    fn walk(shape: &shape::Shape) {
        use shape::Shape;
        match shape {
            Shape::List(inner) | Shape::Texts(inner) => walk(inner),
            Shape::Object(fields) | Shape::Marked(_, fields) => {
                assert!(fields.len() <= 64);
                fields.iter().for_each(|(_, shape)| walk(shape));
            }
            Shape::Any | Shape::Off | Shape::Word(_) | Shape::Data | Shape::Plain => {}
        }
    }
    Api::ALL.iter().flat_map(|api| tables::fields(*api)).for_each(|(_, shape)| walk(shape));
}

mod missed;
