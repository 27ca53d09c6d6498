//! What a request says of itself beside its content: which model it wants, how long its answer may get, for whom.
//!
//! It is read from a body that was accepted already, in which no key is given twice. Who asks is the cell's own claim,
//! and is cut and made visible here, because people read it.

use cofferdam_base::ipc::model::Tokens;
use http::{HeaderMap, header};
use serde::Deserialize;
use serde_json::value::RawValue;

/// The header by which an agent may name itself. It goes no further.
pub const AGENT: &str = "x-cofferdam-agent";
/// How many tokens an answer counts for beforehand, if the request sets no bound: what most models stop at by
/// themselves.
const ANSWER: u64 = 4096;
/// The longest claim that is kept, in characters.
const LONGEST: usize = 64;

/// What a request says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// The model that it wants.
    pub model: Option<String>,
    /// For whom: `user`, `safety_identifier` or `metadata.user_id`. Empty if it does not say.
    pub user: String,
    /// By which agent: the header [`AGENT`], else the program of `User-Agent`. Empty if it does not say.
    pub agent: String,
    /// How many tokens it may use: its bytes, at four a token, and the longest answer that it allows, as often as it
    /// wants one.
    pub prompt_tokens: u64,
    /// See `prompt_tokens`.
    pub answer_tokens: u64,
    /// It wants a class of service that may cost more than the list says.
    pub dearer: bool,
}

#[derive(Default, Deserialize)]
struct Body<'a> {
    #[serde(borrow)]
    model: Option<&'a RawValue>,
    #[serde(borrow)]
    user: Option<&'a RawValue>,
    #[serde(borrow)]
    safety_identifier: Option<&'a RawValue>,
    #[serde(borrow)]
    metadata: Option<&'a RawValue>,
    #[serde(borrow)]
    max_tokens: Option<&'a RawValue>,
    #[serde(borrow)]
    max_completion_tokens: Option<&'a RawValue>,
    #[serde(borrow)]
    max_output_tokens: Option<&'a RawValue>,
    #[serde(borrow)]
    n: Option<&'a RawValue>,
    #[serde(borrow)]
    service_tier: Option<&'a RawValue>,
}

impl Asked {
    /// What it could use.
    pub const fn tokens(&self) -> Tokens {
        Tokens { prompt: self.prompt_tokens, completion: self.answer_tokens }
    }

    /// Reads it.
    pub fn read(headers: &HeaderMap, body: &[u8]) -> Self {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let program = || text(header::USER_AGENT.as_str()).and_then(|all| all.split([' ', '/']).next());
        let agent = claim(text(AGENT).or_else(program).unwrap_or_default());
        let prompt_tokens = (body.len() as u64).div_ceil(4);
        let fields: Body<'_> = serde_json::from_slice(body).unwrap_or_default();
        let word =
            |raw: Option<&RawValue>| raw.and_then(|raw| serde_json::from_str::<String>(raw.get()).ok());
        let number = |raw: Option<&RawValue>| raw.and_then(|raw| serde_json::from_str::<u64>(raw.get()).ok());
        let user = word(fields.user).or_else(|| word(fields.safety_identifier)).or_else(|| {
            #[derive(Deserialize)]
            struct Metadata {
                user_id: Option<String>,
            }
            let metadata = serde_json::from_str::<Metadata>(fields.metadata?.get()).ok()?;
            metadata.user_id
        });
        let bounds = [fields.max_tokens, fields.max_completion_tokens, fields.max_output_tokens];
        let answer = bounds.into_iter().filter_map(number).max().unwrap_or(ANSWER);
        let times = number(fields.n).unwrap_or(1).max(1);
        let tier = fields.service_tier.map(RawValue::get);
        Self {
            model: word(fields.model),
            user: claim(&user.unwrap_or_default()),
            agent,
            prompt_tokens,
            answer_tokens: answer.saturating_mul(times),
            dearer: !matches!(tier, None | Some("null" | "\"default\"" | "\"standard\"" | "\"flex\"")),
        }
    }
}

/// One line that people can read.
fn claim(text: &str) -> String {
    text.chars().filter(|c| !c.is_control() && !c.is_whitespace() && c.is_ascii()).take(LONGEST).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn read(body: &str) -> Asked {
        Asked::read(&HeaderMap::new(), body.as_bytes())
    }

    #[test]
    fn a_request_tells_its_model_its_user_and_how_much_it_may_use() {
        let asked = read(r#"{"model":"fast","user":"ada","messages":[],"max_tokens":10,"n":3}"#);
        assert_eq!((asked.model.as_deref(), asked.user.as_str()), (Some("fast"), "ada"));
        assert_eq!((asked.prompt_tokens, asked.answer_tokens), (17, 30));
        assert_eq!(read(r#"{"metadata":{"user_id":"bob"},"messages":[]}"#).user, "bob");
        assert_eq!(read(r#"{"max_tokens":5,"max_completion_tokens":9}"#).answer_tokens, 9);
        // What cannot be read bounds nothing.
        for open in
            ["{}", r#"{"max_tokens":"5"}"#, r#"{"max_tokens":-1}"#, r#"{"max_tokens":null,"n":0}"#, "x"]
        {
            assert_eq!(read(open).answer_tokens, ANSWER, "{open}");
        }
        assert_eq!(read(r#"{"max_tokens":18446744073709551615,"n":2}"#).answer_tokens, u64::MAX);
    }

    #[test]
    fn a_class_of_service_that_may_cost_more_is_seen() {
        for (tier, dearer) in
            [("null", false), ("\"default\"", false), ("\"priority\"", true), ("\"auto\"", true), ("1", true)]
        {
            assert_eq!(read(&format!("{{\"service_tier\":{tier}}}")).dearer, dearer, "{tier}");
        }
        assert!(!read("{}").dearer);
    }

    #[test]
    fn claims_are_one_short_line() {
        let mut headers = HeaderMap::new();
        headers.insert(header::USER_AGENT, "OpenAI/JS 5.1".parse().unwrap());
        let body = format!("{{\"user\":\"a\\n\\u202eb {}\"}}", "x".repeat(200));
        let asked = Asked::read(&headers, body.as_bytes());
        assert_eq!((asked.user.len(), &asked.user[..3], asked.agent.as_str()), (64, "abx", "OpenAI"));
        headers.insert(AGENT, "researcher".parse().unwrap());
        assert_eq!(Asked::read(&headers, b"{}").agent, "researcher");
    }
}
