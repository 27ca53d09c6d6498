//! What a call says of itself beside its content: how long its answer may get, at what service, for whom.
//!
//! Who asks is the cell's own claim, and is cut and made visible here, because people read it.

use crate::{
    Api, Call, Error,
    check::{Check, keeps},
    wire::{Fault, Object},
};
use cofferdam_base::ipc::model::Tokens;
use http::{HeaderMap, header};
use serde::de::DeserializeOwned;

/// The header by which an agent may name itself. It goes no further.
pub const AGENT: &str = "x-cofferdam-agent";
/// How many tokens an answer counts for beforehand, if the call sets no bound: what most models stop at by themselves.
const ANSWER: u64 = 4096;
/// The longest claim that is kept, in characters.
const LONGEST: usize = 64;
/// The fields that ask for a class of service.
const CLASSES: [&str; 3] = ["service_tier", "serviceTier", "speed"];
/// Classes of service that cost no more than the list of prices says.
const USUAL: [&str; 5] = ["auto", "default", "standard", "standard_only", "flex"];

/// What a call says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// For whom: `user`, `safety_identifier` or `metadata.user_id`. Empty if it does not say.
    pub user: String,
    /// By which agent: the header [`AGENT`], else the program of `User-Agent`. Empty if it does not say.
    pub agent: String,
    /// How many tokens it may use: its bytes, at four a token, and the longest answer that it allows, as often as it
    /// wants one.
    pub tokens: Tokens,
    /// It wants a class of service that may cost more than the list says.
    pub dearer: bool,
}

impl Asked {
    /// Reads it.
    pub fn read(headers: &HeaderMap, call: &Call) -> Self {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let program = || text(header::USER_AGENT.as_str()).and_then(|all| all.split([' ', '/']).next());
        let said = |name: &str| field::<String>(call, name);
        let metadata = || said_in(call, "metadata", "user_id");
        let user = said("user").or_else(|| said("safety_identifier")).or_else(metadata);
        let given = |name: &str| call.field(name).is_some_and(|class| class != "null");
        let usual = |name: &str| said(name).is_some_and(|class| USUAL.contains(&class.as_str()));
        Self {
            user: claim(&user.unwrap_or_default()),
            agent: claim(text(AGENT).or_else(program).unwrap_or_default()),
            tokens: call.most(),
            dearer: CLASSES.into_iter().any(|name| given(name) && !usual(name)),
        }
    }
}

/// The most that a call could use. A bound that cannot be read is refused: the provider might read it.
pub(crate) fn tokens(call: &Call) -> Result<Tokens, Error> {
    let prompt = (call.len() as u64).div_ceil(4);
    let (object, bounds, times): (&[&str], &[&str], &[&str]) = match call.api() {
        api if api.is_free() => return Ok(Tokens::default()),
        Api::Embeddings | Api::OllamaEmbed | Api::GeminiEmbed => {
            return Ok(Tokens { prompt, completion: 0 });
        }
        Api::Chat => (&[], &["max_tokens", "max_completion_tokens"], &["n", "best_of"]),
        Api::Responses => (&[], &["max_output_tokens"], &[]),
        Api::OllamaChat | Api::OllamaGenerate => (&["options"], &["num_predict"], &[]),
        Api::GeminiGenerate | Api::GeminiStream => (
            &["generationConfig", "generation_config"],
            &["maxOutputTokens", "max_output_tokens"],
            &["candidateCount", "candidate_count"],
        ),
        Api::Messages | Api::CountTokens | Api::GeminiCount => (&[], &["max_tokens"], &[]),
    };
    let answer = largest(call, object, bounds)?.unwrap_or(ANSWER);
    let times = largest(call, object, times)?.unwrap_or(1);
    Ok(Tokens { prompt, completion: answer.saturating_mul(times) })
}

/// The largest of these numbers, at the top or in any of the objects. Providers take 0 for none.
fn largest(call: &Call, objects: &[&str], names: &[&str]) -> Result<Option<u64>, Error> {
    let mut most = None;
    let mut read = |name: &str, text: &str| {
        let number = match whole(text) {
            Err(_) if keeps(Check::BoundRead) => {
                return Err(Error::Body(format!("`{name}` is no whole number")));
            }
            number => number.ok().flatten(),
        };
        most = most.max(number);
        Ok(())
    };
    if objects.is_empty() {
        for (name, text) in names.iter().filter_map(|name| Some((name, call.field(name)?))) {
            read(name, text)?;
        }
    }
    for (at, text) in objects.iter().filter_map(|at| Some((at, call.field(at)?))) {
        if text == "null" {
            continue;
        }
        let bad = |fault: Fault| Error::Body(format!("`{at}` {}", fault.why));
        let mut object = Object::parse(text).map_err(bad)?;
        for (name, raw) in names.iter().filter_map(|name| Some((name, object.take(name)?))) {
            read(&format!("{at}.{name}"), raw.get())?;
        }
    }
    Ok(most)
}

/// A whole number above 0; none if it is null, 0 or below, as Ollama's -1 for no bound is.
fn whole(text: &str) -> Result<Option<u64>, serde_json::Error> {
    serde_json::from_str::<Option<u64>>(text)
        .map(|number| number.filter(|number| *number > 0))
        .or_else(|_| serde_json::from_str::<i64>(text).map(|_| None))
}

fn field<T: DeserializeOwned>(call: &Call, name: &str) -> Option<T> {
    call.field(name).and_then(|text| serde_json::from_str(text).ok())
}

/// A field of an object, all others of which stay the text that they are: a tree of a hostile one is a hundred times as
/// large.
fn said_in<T: DeserializeOwned>(call: &Call, object: &str, name: &str) -> Option<T> {
    let said = Object::parse(call.field(object)?).ok()?.take(name)?;
    serde_json::from_str(said.get()).ok()
}

/// One line that people can read.
fn claim(text: &str) -> String {
    text.chars().filter(char::is_ascii_graphic).take(LONGEST).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn call(api: Api, body: &str) -> Call {
        let path = match api {
            Api::GeminiGenerate => "/v1beta/models/m:generateContent",
            api => api.path(),
        };
        Call::parse(api, &path.parse().unwrap(), body.as_bytes()).unwrap()
    }

    fn read(api: Api, body: &str) -> Asked {
        Asked::read(&HeaderMap::new(), &call(api, body))
    }

    fn chat(more: &str) -> Asked {
        read(Api::Chat, &format!("{{\"messages\":[]{more}}}"))
    }

    #[test]
    fn a_call_tells_its_user_and_how_much_it_may_use() {
        assert_eq!(chat(",\"user\":\"ada\"").user, "ada");
        assert_eq!(chat(",\"metadata\":{\"user_id\":\"bob\"}").user, "bob");
        let most = |more: &str| chat(more).tokens.completion;
        assert_eq!(
            (most(",\"max_tokens\":10,\"n\":3"), most(",\"max_tokens\":5,\"max_completion_tokens\":9")),
            (30, 9)
        );
        assert_eq!(
            (most(",\"max_tokens\":10,\"n\":2,\"best_of\":5"), most(",\"max_tokens\":10,\"best_of\":3")),
            (50, 30)
        );
        // What sets no bound.
        for open in ["", ",\"max_tokens\":0", ",\"max_tokens\":-1", ",\"max_tokens\":null,\"n\":0"] {
            assert_eq!(most(open), ANSWER, "{open}");
        }
        assert_eq!(most(",\"max_tokens\":18446744073709551615,\"n\":2"), u64::MAX);
        assert!(chat("").tokens.prompt < chat(&format!(",\"user\":\"{}\"", "x".repeat(400))).tokens.prompt);
    }

    #[test]
    fn no_tree_is_built_of_what_stands_beside() {
        // Neither has a tree: one is too deep, the other too large a number.
        for beside in [format!("{}{}", "[".repeat(500), "]".repeat(500)), "1e999".to_owned()] {
            let said = format!(",\"metadata\":{{\"a\":{beside},\"user_id\":\"bob\"}}");
            assert_eq!(chat(&said).user, "bob", "{beside}");
            let options = format!("{{\"messages\":[],\"options\":{{\"a\":{beside},\"num_predict\":7}}}}");
            assert_eq!(read(Api::OllamaChat, &options).tokens.completion, 7, "{beside}");
        }
        assert_eq!(chat(",\"metadata\":[{\"user_id\":\"bob\"}]").user, "");
        assert_eq!(chat(",\"metadata\":{\"user_id\":[[]]}").user, "");
    }

    #[test]
    fn a_bound_that_cannot_be_read_is_refused_and_named() {
        let refused = |api: Api, body: &str| {
            let path = if api == Api::Chat { api.path() } else { "/v1beta/models/m:generateContent" };
            let error = Call::parse(api, &path.parse().unwrap(), body.as_bytes()).unwrap_err();
            assert_eq!(error.status(), 400);
            error.to_string()
        };
        for name in ["max_tokens", "max_completion_tokens", "n", "best_of"] {
            for value in ["\"5\"", "5.0", "1e6", "[]", "{}", "true", "18446744073709551616"] {
                let said = refused(Api::Chat, &format!("{{\"messages\":[],\"{name}\":{value}}}"));
                assert!(said.contains(&format!("`{name}` is no whole number")), "{value}: {said}");
            }
        }
        for at in ["generationConfig", "generation_config"] {
            for name in ["maxOutputTokens", "max_output_tokens", "candidateCount", "candidate_count"] {
                let body = format!("{{\"contents\":[],\"{at}\":{{\"{name}\":\"5\"}}}}");
                let said = refused(Api::GeminiGenerate, &body);
                assert!(said.contains(&format!("`{at}.{name}` is no whole number")), "{said}");
            }
            // Which of two would hold is not known either.
            let twice =
                format!("{{\"contents\":[],\"{at}\":{{\"maxOutputTokens\":5,\"maxOutputTokens\":6}}}}");
            assert!(refused(Api::GeminiGenerate, &twice).contains(&format!("`{at}` the key")));
        }
    }

    #[test]
    fn each_api_has_its_own_bound_and_what_is_free_uses_nothing() {
        for (api, body, most) in [
            (Api::Responses, r#"{"input":"a","max_output_tokens":7}"#, 7),
            (Api::Embeddings, r#"{"input":"a"}"#, 0),
            (Api::Messages, r#"{"messages":[],"max_tokens":7}"#, 7),
            (Api::OllamaChat, r#"{"messages":[],"options":{"num_predict":7}}"#, 7),
            (Api::OllamaChat, r#"{"messages":[],"options":{"num_predict":-1}}"#, ANSWER),
            (
                Api::GeminiGenerate,
                r#"{"contents":[],"generationConfig":{"maxOutputTokens":7,"candidateCount":2}}"#,
                14,
            ),
            (
                Api::GeminiGenerate,
                r#"{"contents":[],"generation_config":{"max_output_tokens":9000,"candidate_count":2}}"#,
                18000,
            ),
            (
                Api::GeminiGenerate,
                r#"{"contents":[],"generationConfig":{"maxOutputTokens":7,"candidate_count":2},"generation_config":{"maxOutputTokens":5,"max_output_tokens":9}}"#,
                18,
            ),
            (Api::GeminiGenerate, r#"{"contents":[],"generationConfig":null}"#, ANSWER),
        ] {
            assert_eq!(read(api, body).tokens.completion, most, "{api:?}");
        }
        assert_eq!(read(Api::CountTokens, r#"{"messages":[],"max_tokens":7}"#).tokens, Tokens::default());
    }

    #[test]
    fn a_class_of_service_that_may_cost_more_is_seen() {
        for (class, dearer) in [
            ("\"service_tier\":null", false),
            ("\"service_tier\":\"default\"", false),
            ("\"service_tier\":\"auto\"", false),
            ("\"service_tier\":\"priority\"", true),
            ("\"service_tier\":1", true),
            ("\"speed\":\"standard\"", false),
            ("\"speed\":\"fast\"", true),
        ] {
            assert_eq!(chat(&format!(",{class}")).dearer, dearer, "{class}");
        }
        assert!(!chat("").dearer);
        assert!(read(Api::GeminiGenerate, r#"{"contents":[],"serviceTier":"priority"}"#).dearer);
    }

    #[test]
    fn claims_are_one_short_line() {
        let mut headers = HeaderMap::new();
        headers.insert(header::USER_AGENT, "OpenAI/JS 5.1".parse().unwrap());
        let body = format!("{{\"messages\":[],\"user\":\"a\\n\\u202eb {}\"}}", "x".repeat(200));
        let asked = Asked::read(&headers, &call(Api::Chat, &body));
        assert_eq!((asked.user.len(), &asked.user[..3], asked.agent.as_str()), (64, "abx", "OpenAI"));
        headers.insert(AGENT, "researcher".parse().unwrap());
        assert_eq!(Asked::read(&headers, &call(Api::Chat, "{\"messages\":[]}")).agent, "researcher");
    }
}
