//! Both translations, against transcripts in the forms that OpenAI's and Anthropic's API write.
#![allow(clippy::unwrap_used)]
use super::{api::Api, fields::Object, talk::Talk, translate::Translator};
use http::StatusCode;
use proptest::prelude::*;
use serde_json::{Value, json, value::RawValue};

type Fields = Vec<(String, Box<RawValue>)>;

fn fields(body: &Value) -> Fields {
    let raw = |value: &Value| RawValue::from_string(value.to_string()).unwrap();
    body.as_object().unwrap().iter().map(|(key, value)| (key.clone(), raw(value))).collect()
}

fn to_messages(body: &Value) -> Result<Value, String> {
    let fields = fields(body);
    let written = Talk::from_chat(&fields).and_then(|talk| talk.to_messages("claude"));
    written.map(|body| serde_json::from_slice(&body).unwrap()).map_err(|fault| fault.path)
}

fn to_chat(body: &Value) -> Result<Value, String> {
    let fields = fields(body);
    let written = Talk::from_messages(&fields).and_then(|talk| talk.to_chat("gpt", false));
    written.map(|body| serde_json::from_slice(&body).unwrap()).map_err(|fault| fault.path)
}

fn chat_request() -> Value {
    json!({
        "model": "openclaw", "stream": true, "stream_options": {"include_usage": true},
        "max_completion_tokens": 300, "temperature": 0.5, "top_p": 0.9, "stop": "END", "user": "u-1",
        "store": false, "n": 1, "prompt_cache_key": "k", "parallel_tool_calls": false,
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "developer", "content": [{"type": "text", "text": "And kind."}]},
            {"role": "user", "content": [
                {"type": "text", "text": "What is it?"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0=", "detail": "auto"}}]},
            {"role": "assistant", "content": "Let me look.", "tool_calls": [
                {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": "{\"at\": 1.0}"}},
                {"id": "call_2", "type": "function", "function": {"name": "wait", "arguments": ""}}]},
            {"role": "tool", "tool_call_id": "call_1", "content": "a cat"},
            {"role": "tool", "tool_call_id": "call_2", "content": [{"type": "text", "text": "done"}]},
            {"role": "user", "content": "So?"}],
        "tools": [
            {"type": "function", "function": {"name": "look", "description": "Looks.", "strict": true,
                "parameters": {"type": "object", "properties": {"at": {"type": "number"}}}}},
            {"type": "function", "function": {"name": "wait"}}],
        "tool_choice": {"type": "function", "function": {"name": "look"}},
    })
}

fn messages_request() -> Value {
    json!({
        "model": "claude", "stream": true, "max_tokens": 300, "temperature": 0.5, "top_p": 0.9,
        "stop_sequences": ["END"], "metadata": {"user_id": "u-1"},
        "system": [{"type": "text", "text": "Be brief."}, {"type": "text", "text": "And kind."}],
        "messages": [
            {"role": "user", "content": [
                {"type": "text", "text": "What is it?"},
                {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0="}}]},
            {"role": "assistant", "content": [
                {"type": "text", "text": "Let me look."},
                {"type": "tool_use", "id": "call_1", "name": "look", "input": {"at": 1.0}},
                {"type": "tool_use", "id": "call_2", "name": "wait", "input": {}}]},
            {"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": "call_1", "content": [{"type": "text", "text": "a cat"}]},
                {"type": "tool_result", "tool_use_id": "call_2", "content": [{"type": "text", "text": "done"}]},
                {"type": "text", "text": "So?"}]}],
        "tools": [
            {"name": "look", "description": "Looks.", "strict": true,
                "input_schema": {"type": "object", "properties": {"at": {"type": "number"}}}},
            {"name": "wait", "input_schema": {"type": "object", "properties": {}}}],
        "tool_choice": {"type": "tool", "name": "look", "disable_parallel_tool_use": true},
    })
}

#[test]
fn a_chat_request_becomes_a_messages_request_with_all_that_it_says() {
    assert_eq!(to_messages(&chat_request()).unwrap(), messages_request());
}

#[test]
fn a_messages_request_becomes_a_chat_request_and_comes_back() {
    let chat = to_chat(&messages_request()).unwrap();
    assert_eq!(chat["model"], "gpt");
    assert_eq!(chat["max_tokens"], 300);
    assert_eq!(chat["stream_options"]["include_usage"], true);
    let roles: Vec<_> =
        chat["messages"].as_array().unwrap().iter().map(|it| it["role"].as_str().unwrap()).collect();
    assert_eq!(roles, ["system", "user", "assistant", "tool", "tool", "user"]);
    let call = &chat["messages"][2]["tool_calls"][0];
    assert_eq!(call["function"]["arguments"], r#"{"at":1.0}"#);
    assert_eq!(chat["messages"][1]["content"][1]["image_url"]["url"], "data:image/png;base64,iVBORw0=");
    assert_eq!(chat["messages"][3]["content"], "a cat");
    assert_eq!(to_messages(&chat).unwrap(), messages_request());
}

#[test]
fn what_a_chat_request_says_and_messages_cannot_is_named() {
    let with = |key: &str, value: Value| {
        let mut body = json!({"messages": [{"role": "user", "content": "a"}]});
        body[key] = value;
        to_messages(&body)
    };
    for (key, value) in [
        ("n", json!(2)),
        ("seed", json!(7)),
        ("logprobs", json!(true)),
        ("logit_bias", json!({"1": 2})),
        ("frequency_penalty", json!(0.5)),
        ("temperature", json!(1.5)),
        ("reasoning_effort", json!("high")),
        ("functions", json!([])),
        ("min_p", json!(0.1)),
        ("max_tokens", json!(-1)),
        ("tool_choice", json!("sometimes")),
        ("tool_choice", json!("required")),
    ] {
        assert_eq!(with(key, value).unwrap_err(), key);
    }
    assert_eq!(with("response_format", json!({"type": "json_object"})).unwrap_err(), "response_format.type");
    let message =
        |message: Value| to_messages(&json!({"messages": [{"role": "user", "content": "a"}, message]}));
    for (at, said) in [
        ("role", json!({"role": "system", "content": "late"})),
        ("role", json!({"role": "function", "content": "x"})),
        ("name", json!({"role": "user", "content": "a", "name": "bob"})),
        ("refusal", json!({"role": "assistant", "refusal": "no"})),
        ("tool_call_id", json!({"role": "tool", "content": "x"})),
        ("content[0].type", json!({"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]})),
        (
            "content[0].image_url.url",
            json!({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://x"}}]}),
        ),
    ] {
        assert_eq!(message(said).unwrap_err(), format!("messages[1].{at}"));
    }
    let call = |arguments: &str| {
        let function = json!({"name": "f", "arguments": arguments});
        message(
            json!({"role": "assistant", "tool_calls": [{"id": "c", "type": "function", "function": function}]}),
        )
    };
    assert_eq!(call("[1]").unwrap_err(), "messages.tool_calls.function.arguments");
    assert!(call("{\"a\":").is_err() && call("{} {}").is_err());
    // The positive controls: what says no more than what holds anyway, and nulls.
    assert!(with("n", json!(1)).is_ok() && with("seed", Value::Null).is_ok() && call("{}").is_ok());
    assert!(with("response_format", json!({"type": "text"})).is_ok());
    assert_eq!(with("n", json!(1)).unwrap()["max_tokens"], 4096);
}

#[test]
fn what_a_messages_request_says_and_chat_cannot_is_named() {
    let with = |key: &str, value: Value| {
        let mut body = json!({"max_tokens": 9, "messages": [{"role": "user", "content": "a"}]});
        body[key] = value;
        to_chat(&body)
    };
    for (at, key, value) in [
        ("top_k", "top_k", json!(5)),
        ("thinking.budget_tokens", "thinking", json!({"type": "enabled", "budget_tokens": 1024})),
        ("output_config", "output_config", json!({"effort": "low"})),
        ("metadata.other", "metadata", json!({"other": 1})),
        ("tools[0].type", "tools", json!([{"type": "bash_20250124", "name": "bash"}])),
        ("tool_choice.type", "tool_choice", json!({"type": "sometimes"})),
        ("tool_choice", "tool_choice", json!({"type": "any"})),
        ("system[0].type", "system", json!([{"type": "image"}])),
    ] {
        let error = with(key, value).unwrap_err();
        assert_eq!(error, at);
    }
    let message = |role: &str, block: Value| {
        let said = json!([{"role": "user", "content": "a"}, {"role": role, "content": [block]}]);
        to_chat(&json!({"max_tokens": 9, "messages": said}))
    };
    let document = json!({"type": "document", "source": {"type": "text", "data": "x"}});
    assert_eq!(message("user", document).unwrap_err(), "messages[1].content[0].type");
    assert_eq!(message("user", json!({"type": "tool_use"})).unwrap_err(), "messages[1].content[0].type");
    let image = json!({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": ""}});
    let result = json!({"type": "tool_result", "tool_use_id": "t", "content": [image]});
    assert_eq!(message("user", result).unwrap_err(), "messages.content");
    // The positive controls; what it thought is not said again, and a failure is.
    assert!(with("thinking", json!({"type": "disabled"})).is_ok());
    let thought =
        message("assistant", json!({"type": "thinking", "thinking": "hm", "signature": "s"})).unwrap();
    assert_eq!(thought["messages"], json!([{"role": "user", "content": "a"}]));
    assert_eq!(to_chat(&json!({"messages": []})).unwrap_err(), "max_tokens");
    let failed = json!({"type": "tool_result", "tool_use_id": "t", "content": "no disk", "is_error": true});
    let failed = message("user", failed).unwrap();
    assert!(failed["messages"].to_string().contains("The tool failed:"), "{failed}");
}

/// Translates an answer that arrives in pieces of this length.
fn translate(to: Api, status: u16, streams: bool, answer: &str, piece: usize) -> Result<String, String> {
    let mut translator = Translator::new(to, StatusCode::from_u16(status).unwrap(), streams, true);
    let mut out = Vec::new();
    for piece in answer.as_bytes().chunks(piece) {
        out.extend(translator.feed(piece).map_err(|error| error.to_string())?);
    }
    out.extend(translator.finish().map_err(|error| error.to_string())?);
    Ok(String::from_utf8(out).unwrap())
}

/// The documents of a stream's events.
fn data(stream: &str) -> Vec<Value> {
    let data = stream.lines().filter_map(|line| line.strip_prefix("data: "));
    data.filter(|data| *data != "[DONE]").map(|data| serde_json::from_str(data).unwrap()).collect()
}

#[test]
fn a_whole_answer_is_translated_both_ways() {
    let messages = json!({
        "id": "msg_1", "type": "message", "role": "assistant", "model": "claude-x",
        "content": [{"type": "thinking", "thinking": "hm", "signature": "s"}, {"type": "text", "text": "Look:"},
            {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {"a": [1, 2.50]}},
            {"type": "tool_use", "id": "toolu_2", "name": "g", "input": {}}],
        "stop_reason": "tool_use", "stop_sequence": null,
        "usage": {"input_tokens": 10, "cache_creation_input_tokens": 3, "cache_read_input_tokens": 5, "output_tokens": 7},
    });
    let text = translate(Api::Chat, 200, false, &messages.to_string(), 7).unwrap();
    let chat: Value = serde_json::from_str(&text).unwrap();
    let choice = &chat["choices"][0];
    assert_eq!(choice["message"]["content"], "Look:");
    assert_eq!(choice["message"]["tool_calls"][0]["function"]["arguments"], r#"{"a":[1,2.5]}"#);
    assert_eq!(choice["message"]["tool_calls"][1]["id"], "toolu_2");
    assert_eq!(choice["finish_reason"], "tool_calls");
    assert_eq!(chat["usage"]["prompt_tokens"], 18);
    assert_eq!(chat["usage"]["total_tokens"], 25);
    assert_eq!(chat["usage"]["prompt_tokens_details"]["cached_tokens"], 5);
    let back = translate(Api::Messages, 200, false, &text, 1000).unwrap();
    let back: Value = serde_json::from_str(&back).unwrap();
    assert_eq!(back["content"], json!(messages["content"].as_array().unwrap()[1..]));
    assert_eq!((&back["stop_reason"], &back["id"]), (&json!("tool_use"), &json!("msg_1")));
    assert_eq!(back["usage"]["input_tokens"], 13);
    assert_eq!(back["usage"]["cache_read_input_tokens"], 5);
}

#[test]
fn each_reason_to_stop_has_its_word_in_the_other_wire() {
    let chat = |reason: &str| {
        let answer = json!({"content": [{"type": "text", "text": "a"}], "stop_reason": reason});
        let text = translate(Api::Chat, 200, false, &answer.to_string(), 99).unwrap();
        serde_json::from_str::<Value>(&text).unwrap()["choices"][0]["finish_reason"].clone()
    };
    let messages = |reason: &str| {
        let answer = json!({"choices": [{"message": {"content": "a"}, "finish_reason": reason}]});
        let text = translate(Api::Messages, 200, false, &answer.to_string(), 99).unwrap();
        serde_json::from_str::<Value>(&text).unwrap()["stop_reason"].clone()
    };
    for (ours, theirs) in [
        ("end_turn", "stop"),
        ("max_tokens", "length"),
        ("tool_use", "tool_calls"),
        ("refusal", "content_filter"),
    ] {
        assert_eq!((chat(ours), messages(theirs)), (json!(theirs), json!(ours)));
    }
    assert_eq!(chat("stop_sequence"), "stop");
}

const MESSAGES_STREAM: &str = r#"event: message_start
data: {"type":"message_start","message":{"id":"msg_1","type":"message","role":"assistant","content":[],"model":"claude-x","stop_reason":null,"stop_sequence":null,"usage":{"input_tokens":472,"output_tokens":2}}}

event: content_block_start
data: {"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}

event: ping
data: {"type": "ping"}

event: content_block_delta
data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Okay, "}}

event: content_block_delta
data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"l\u00f6ok ö"}}

event: content_block_stop
data: {"type":"content_block_stop","index":0}

event: content_block_start
data: {"type":"content_block_start","index":1,"content_block":{"type":"tool_use","id":"toolu_1","name":"get_weather","input":{}}}

event: content_block_delta
data: {"type":"content_block_delta","index":1,"delta":{"type":"input_json_delta","partial_json":""}}

event: content_block_delta
data: {"type":"content_block_delta","index":1,"delta":{"type":"input_json_delta","partial_json":"{\"location\":"}}

event: content_block_delta
data: {"type":"content_block_delta","index":1,"delta":{"type":"input_json_delta","partial_json":" \"San Francisco\"}"}}

event: content_block_stop
data: {"type":"content_block_stop","index":1}

event: content_block_start
data: {"type":"content_block_start","index":2,"content_block":{"type":"tool_use","id":"toolu_2","name":"now","input":{}}}

event: content_block_stop
data: {"type":"content_block_stop","index":2}

event: message_delta
data: {"type":"message_delta","delta":{"stop_reason":"tool_use","stop_sequence":null},"usage":{"output_tokens":89}}

event: message_stop
data: {"type":"message_stop"}

"#;

#[test]
fn a_messages_stream_becomes_chunks_in_order_with_arguments_piece_by_piece() {
    let text = translate(Api::Chat, 200, true, MESSAGES_STREAM, 11).unwrap();
    assert!(text.ends_with("data: [DONE]\n\n"));
    let chunks = data(&text);
    assert!(chunks.iter().all(|chunk| chunk["id"] == "msg_1" && chunk["object"] == "chat.completion.chunk"));
    let deltas: Vec<&Value> = chunks.iter().map(|chunk| &chunk["choices"][0]["delta"]).collect();
    assert_eq!(*deltas[0], json!({"role": "assistant", "content": ""}));
    assert_eq!((&deltas[1]["content"], &deltas[2]["content"]), (&json!("Okay, "), &json!("löok ö")));
    assert_eq!(deltas[3]["tool_calls"][0]["id"], "toolu_1");
    assert_eq!(deltas[3]["tool_calls"][0]["function"]["name"], "get_weather");
    assert_eq!(deltas[4]["tool_calls"][0], json!({"index": 0, "function": {"arguments": "{\"location\":"}}));
    assert_eq!(deltas[5]["tool_calls"][0]["function"]["arguments"], " \"San Francisco\"}");
    assert_eq!(
        (&deltas[6]["tool_calls"][0]["index"], &deltas[6]["tool_calls"][0]["id"]),
        (&json!(1), &json!("toolu_2"))
    );
    assert_eq!(deltas[7]["tool_calls"][0], json!({"index": 1, "function": {"arguments": "{}"}}));
    assert_eq!(chunks[8]["choices"][0]["finish_reason"], "tool_calls");
    assert_eq!(chunks[9]["choices"], json!([]));
    assert_eq!(
        (&chunks[9]["usage"]["prompt_tokens"], &chunks[9]["usage"]["completion_tokens"]),
        (&json!(472), &json!(89))
    );
    assert_eq!(chunks.len(), 10);
}

const CHAT_STREAM: &str = r#"data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"gpt-x","system_fingerprint":"f","choices":[{"index":0,"delta":{"role":"assistant","content":"","refusal":null},"logprobs":null,"finish_reason":null}],"usage":null}

data: {"id":"chatcmpl-1","model":"gpt-x","choices":[{"index":0,"delta":{"content":"Hel"},"finish_reason":null}],"usage":null}

: a comment

data: {"id":"chatcmpl-1","model":"gpt-x","choices":[{"index":0,"delta":{"content":"lo"},"finish_reason":null}],"usage":null}

data: {"id":"chatcmpl-1","model":"gpt-x","choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"call_1","type":"function","function":{"name":"f","arguments":""}}]},"finish_reason":null}]}

data: {"id":"chatcmpl-1","model":"gpt-x","choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"{\"a\":"}}]},"finish_reason":null}]}

data: {"id":"chatcmpl-1","model":"gpt-x","choices":[{"index":0,"delta":{"tool_calls":[{"index":1,"id":"call_2","type":"function","function":{"name":"g","arguments":"{\"b\""}}]},"finish_reason":null}]}

data: {"id":"chatcmpl-1","model":"gpt-x","choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"1}"}},{"index":1,"function":{"arguments":":2}"}}]},"finish_reason":null}]}

data: {"id":"chatcmpl-1","model":"gpt-x","choices":[{"index":0,"delta":{},"finish_reason":"tool_calls"}]}

data: {"id":"chatcmpl-1","model":"gpt-x","choices":[],"usage":{"prompt_tokens":20,"completion_tokens":9,"total_tokens":29,"prompt_tokens_details":{"cached_tokens":4}}}

data: [DONE]

"#;

#[test]
fn a_chat_stream_becomes_blocks_that_follow_each_other() {
    let text = translate(Api::Messages, 200, true, CHAT_STREAM, 13).unwrap();
    let events = data(&text);
    let names = text.lines().filter_map(|line| line.strip_prefix("event: "));
    assert!(names.eq(events.iter().map(|event| event["type"].as_str().unwrap())));
    let kinds: Vec<_> =
        events.iter().map(|event| (event["type"].as_str().unwrap(), event["index"].as_u64())).collect();
    let (start, delta, stop) = ("content_block_start", "content_block_delta", "content_block_stop");
    assert_eq!(
        kinds,
        [
            ("message_start", None),
            (start, Some(0)),
            (delta, Some(0)),
            (delta, Some(0)),
            (stop, Some(0)),
            (start, Some(1)),
            (delta, Some(1)),
            (delta, Some(1)),
            (stop, Some(1)),
            (start, Some(2)),
            (delta, Some(2)),
            (stop, Some(2)),
            ("message_delta", None),
            ("message_stop", None),
        ]
    );
    let json_of = |index: u64| -> String {
        let of = events.iter().filter(|event| event["index"] == index);
        of.filter_map(|event| event["delta"]["partial_json"].as_str()).collect()
    };
    assert_eq!((json_of(1).as_str(), json_of(2).as_str()), (r#"{"a":1}"#, r#"{"b":2}"#));
    assert_eq!(events[0]["message"]["model"], "gpt-x");
    assert_eq!(events[12]["delta"]["stop_reason"], "tool_use");
    assert_eq!(
        (&events[12]["usage"]["input_tokens"], &events[12]["usage"]["output_tokens"]),
        (&json!(16), &json!(9))
    );
}

#[test]
fn a_stream_translates_the_same_wherever_it_is_cut_and_there_and_back() {
    for (to, stream) in [(Api::Chat, MESSAGES_STREAM), (Api::Messages, CHAT_STREAM)] {
        let whole = translate(to, 200, true, stream, stream.len()).unwrap();
        for piece in 1..40 {
            assert_eq!(translate(to, 200, true, stream, piece).unwrap(), whole, "pieces of {piece}");
        }
        let windows = stream.replace('\n', "\r\n");
        assert_eq!(translate(to, 200, true, &windows, 9).unwrap(), whole);
        // There, back and there again is the same as there.
        let back = if to == Api::Chat { Api::Messages } else { Api::Chat };
        let again = translate(back, 200, true, &whole, 17).unwrap();
        assert_eq!(translate(to, 200, true, &again, 17).unwrap(), whole);
    }
}

#[test]
fn a_stream_that_breaks_off_or_fails_does_not_look_whole() {
    for (to, stream, last) in [
        (Api::Chat, MESSAGES_STREAM, "event: message_delta"),
        (Api::Messages, CHAT_STREAM, "\"finish_reason\":\"tool"),
    ] {
        let cut = &stream[..stream.find(last).unwrap()];
        let cut = &cut[..cut.rfind("\n\n").unwrap()];
        let error = translate(to, 200, true, cut, 50).unwrap_err();
        assert!(error.contains("broke off"), "{error}");
        let failed =
            format!("{cut}\n\ndata: {{\"type\":\"error\",\"error\":{{\"message\":\"Overloaded\"}}}}\n\n");
        let text = translate(to, 200, true, &failed, 50).unwrap();
        let last = data(&text).pop().unwrap();
        assert_eq!(last["error"]["message"], "Overloaded");
        assert!(!text.contains("[DONE]") && !text.contains("message_stop"), "{text}");
    }
    // A server that leaves out the last event is whole all the same.
    let cut = CHAT_STREAM.strip_suffix("data: [DONE]\n\n").unwrap();
    let whole = translate(Api::Messages, 200, true, CHAT_STREAM, 99).unwrap();
    assert_eq!(translate(Api::Messages, 200, true, cut, 99).unwrap(), whole);
}

#[test]
fn a_refusal_keeps_its_words_in_the_other_wire() {
    let anthropic =
        r#"{"type":"error","error":{"type":"rate_limit_error","message":"Slow down"},"request_id":"r"}"#;
    let text = translate(Api::Chat, 429, true, anthropic, 9).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&text).unwrap()["error"]["message"], "Slow down");
    let openai =
        r#"{"error":{"message":"No such model","type":"invalid_request_error","param":null,"code":"x"}}"#;
    let text = translate(Api::Messages, 404, false, openai, 9).unwrap();
    let error: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        error,
        json!({"type": "error", "error": {"type": "not_found_error", "message": "No such model"}})
    );
    let text = translate(Api::Messages, 503, false, "<html>", 9).unwrap();
    assert!(text.contains("overloaded_error") && text.contains("503"), "{text}");
}

#[test]
fn a_providers_garbage_is_an_error_and_keeps_no_memory() {
    for (to, streams, garbage) in [
        (Api::Chat, false, "{}}"),
        (Api::Messages, false, "{}"),
        (Api::Messages, false, r#"{"choices":[{"message":{}},{"message":{}}]}"#),
        (Api::Chat, true, "data: {\n\n"),
        (Api::Messages, true, "data: {\"choices\":[{\"index\":1}]}\n\n"),
        (
            Api::Messages,
            true,
            "data: {\"choices\":[{\"delta\":{\"tool_calls\":[{\"function\":{\"arguments\":\"x\"}}]}}]}\n\n",
        ),
        (Api::Chat, true, "data: \u{0}\n\n"),
    ] {
        assert!(translate(to, 200, streams, garbage, 5).is_err(), "{garbage}");
    }
    let long = "x".repeat(64 * 1024);
    for streams in [true, false] {
        let mut translator = Translator::new(Api::Chat, StatusCode::OK, streams, false);
        let fed = (0..128).try_for_each(|_| translator.feed(long.as_bytes()).map(drop));
        assert!(fed.is_err(), "8 MiB in one piece");
    }
}

/// Any conversation that both wires can say, in the messages' form.
fn conversation() -> impl Strategy<Value = Value> {
    let text = || "[ -~äß\\n\"]{1,12}";
    let block = prop_oneof![
        text().prop_map(|text| json!({"type": "text", "text": text})),
        "[a-zA-Z0-9+/]{4}".prop_map(|data| {
            json!({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}})
        }),
    ];
    let results = prop::collection::vec(("[a-z]{3}", text()), 0..3);
    let user = (results, prop::collection::vec(block, 1..3)).prop_map(|(results, blocks)| {
        let results = results.into_iter().map(|(id, text)| {
            json!({"type": "tool_result", "tool_use_id": id, "content": [{"type": "text", "text": text}]})
        });
        json!({"role": "user", "content": results.chain(blocks).collect::<Vec<_>>()})
    });
    let calls = prop::collection::vec(("[a-z]{3}", "[a-z]{1,8}", any::<i64>()), 0..3);
    let assistant = (text(), calls).prop_map(|(text, calls)| {
        let calls = calls.into_iter().map(|(id, name, value)| {
            json!({"type": "tool_use", "id": id, "name": name, "input": {"a": value, "b": {"c": ["\""]}}})
        });
        let content: Vec<_> = std::iter::once(json!({"type": "text", "text": text})).chain(calls).collect();
        json!({"role": "assistant", "content": content})
    });
    let pairs = prop::collection::vec((user, assistant), 1..4);
    (pairs, any::<bool>(), 1..9999_u32, prop::option::of(text())).prop_map(|(pairs, stream, max, system)| {
        let messages: Vec<_> = pairs.into_iter().flat_map(|(user, assistant)| [user, assistant]).collect();
        let mut body = json!({"model": "claude", "max_tokens": max, "messages": messages});
        if stream {
            body["stream"] = json!(true);
        }
        if let Some(text) = system {
            body["system"] = json!([{"type": "text", "text": text}]);
        }
        body
    })
}

proptest! {
    #[test]
    fn a_conversation_that_both_wires_can_say_comes_back_as_it_went(body in conversation()) {
        let chat = to_chat(&body).unwrap();
        prop_assert_eq!(to_messages(&chat).unwrap(), body);
    }

    #[test]
    fn no_answer_however_damaged_panics(
        stream in any::<bool>(),
        messages in any::<bool>(),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
        piece in 1..99_usize,
    ) {
        let (to, text) = if messages { (Api::Chat, MESSAGES_STREAM) } else { (Api::Messages, CHAT_STREAM) };
        let mut bytes = text.as_bytes().to_vec();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let mut translator = Translator::new(to, StatusCode::OK, stream, true);
        let fed = bytes.chunks(piece).try_for_each(|piece| translator.feed(piece).map(drop));
        // Whatever comes of it, it is text.
        if fed.is_ok() && let Ok(last) = translator.finish() {
            prop_assert!(String::from_utf8(last).is_ok());
        }
    }
}

#[test]
fn a_key_given_twice_within_a_message_is_no_request() {
    let text = r#"{"role":"user","role":"assistant","content":"a"}"#;
    assert!(Object::parse(text).is_err());
    let fields = vec![("messages".to_owned(), RawValue::from_string(format!("[{text}]")).unwrap())];
    assert!(Talk::from_chat(&fields).is_err() && Talk::from_messages(&fields).is_err());
}

#[test]
fn what_is_kept_of_an_answer_is_bounded() {
    let event = |value: Value| format!("data: {value}\n\n");
    let start = |id: &str, model: &str| {
        let message = json!({"id": id, "model": model});
        let messages = event(json!({"type": "message_start", "message": message}));
        [(Api::Chat, messages), (Api::Messages, event(json!({"id": id, "model": model, "choices": []})))]
    };
    let call = |at: usize, id: &str, name: &str| {
        let block = json!({"type": "tool_use", "id": id, "name": name, "input": {}});
        let call = json!({"index": at, "id": id, "function": {"name": name}});
        let chat = json!({"choices": [{"index": 0, "delta": {"content": "a", "tool_calls": [call]}}]});
        let messages = json!({"type": "content_block_start", "index": at, "content_block": block});
        [(Api::Chat, event(messages)), (Api::Messages, event(chat))]
    };
    let feeds = |translator: &mut Translator, text: &str| translator.feed(text.as_bytes()).is_ok();
    let taken = |events: [(Api, String); 2]| {
        events.map(|(to, text)| feeds(&mut Translator::new(to, StatusCode::OK, true, true), &text))
    };
    let (fits, long) = ("x".repeat(256), "x".repeat(257));
    for (name, expected) in [(&fits, [true; 2]), (&long, [false; 2])] {
        assert_eq!(taken(start(name, "m")), expected);
        assert_eq!(taken(start("i", name)), expected);
        assert_eq!(taken(call(0, name, "f")), expected);
        assert_eq!(taken(call(0, "i", name)), expected);
    }
    // The wire with blocks has one of text before each call.
    for (which, to, most) in [(0, Api::Chat, 128), (1, Api::Messages, 64)] {
        let mut translator = Translator::new(to, StatusCode::OK, true, true);
        let one = |at| call(at, "i", "f")[which].1.clone();
        assert!((0..most).all(|at| feeds(&mut translator, &one(at))), "{to:?}");
        assert!(!feeds(&mut translator, &one(most)), "{to:?}");
    }
    // And whole ones.
    let whole = |count: usize, id: &str, name: &str| {
        let blocks = vec![json!({"type": "tool_use", "id": "c", "name": name, "input": {}}); count];
        let calls = vec![json!({"id": "c", "function": {"name": name, "arguments": "{}"}}); count];
        let messages = json!({"id": id, "content": blocks});
        let chat = json!({"id": id, "choices": [{"message": {"tool_calls": calls}}]});
        [(Api::Chat, messages), (Api::Messages, chat)]
            .map(|(to, answer)| translate(to, 200, false, &answer.to_string(), 4096).is_ok())
    };
    assert_eq!(whole(128, &fits, &fits), [true; 2]);
    assert_eq!(whole(129, "i", "f"), [false; 2]);
    assert_eq!(whole(1, &long, "f"), [false; 2]);
    assert_eq!(whole(1, "i", &long), [false; 2]);
}
