//! The APIs that a cell may speak at `inference.local`: their paths, and who can answer them.

use crate::Error;
use cofferdam_base::Provider;
use http::Method;
use serde_json::json;

/// One API of one provider's wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Api {
    /// `POST /v1/chat/completions`.
    Chat,
    /// `POST /v1/responses`.
    Responses,
    /// `POST /v1/embeddings`.
    Embeddings,
    /// `POST /v1/messages`.
    Messages,
    /// `POST /v1/messages/count_tokens`.
    CountTokens,
    /// `POST /api/chat`.
    OllamaChat,
    /// `POST /api/generate`.
    OllamaGenerate,
    /// `POST /api/embed`.
    OllamaEmbed,
    /// `POST /v1beta/models/{model}:generateContent`.
    GeminiGenerate,
    /// `POST /v1beta/models/{model}:streamGenerateContent`.
    GeminiStream,
    /// `POST /v1beta/models/{model}:countTokens`.
    GeminiCount,
    /// `POST /v1beta/models/{model}:embedContent`.
    GeminiEmbed,
}

/// What a cell asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inbound {
    /// Which models there are, in this wire's words: answered by [`models_answer`].
    Models(Provider),
    /// A call of this API: its body goes to [`crate::Call::parse`].
    Call(Api),
}

impl Api {
    /// Every one.
    pub const ALL: [Self; 12] = [
        Self::Chat,
        Self::Responses,
        Self::Embeddings,
        Self::Messages,
        Self::CountTokens,
        Self::OllamaChat,
        Self::OllamaGenerate,
        Self::OllamaEmbed,
        Self::GeminiGenerate,
        Self::GeminiStream,
        Self::GeminiCount,
        Self::GeminiEmbed,
    ];

    /// Whose wire it is.
    pub const fn wire(self) -> Provider {
        match self {
            Self::Chat | Self::Responses | Self::Embeddings => Provider::OpenAi,
            Self::Messages | Self::CountTokens => Provider::Anthropic,
            Self::OllamaChat | Self::OllamaGenerate | Self::OllamaEmbed => Provider::Ollama,
            Self::GeminiGenerate | Self::GeminiStream | Self::GeminiCount | Self::GeminiEmbed => {
                Provider::Gemini
            }
        }
    }

    /// Its path; of Gemini's, what stands behind the model.
    pub const fn path(self) -> &'static str {
        match self {
            Self::Chat => "/v1/chat/completions",
            Self::Responses => "/v1/responses",
            Self::Embeddings => "/v1/embeddings",
            Self::Messages => "/v1/messages",
            Self::CountTokens => "/v1/messages/count_tokens",
            Self::OllamaChat => "/api/chat",
            Self::OllamaGenerate => "/api/generate",
            Self::OllamaEmbed => "/api/embed",
            Self::GeminiGenerate => ":generateContent",
            Self::GeminiStream => ":streamGenerateContent",
            Self::GeminiCount => ":countTokens",
            Self::GeminiEmbed => ":embedContent",
        }
    }

    /// Which API of a provider answers this one: itself, or the one that it is translated to.
    pub const fn at(self, provider: Provider) -> Option<Self> {
        match (self, provider) {
            (Self::Chat, Provider::Anthropic) => Some(Self::Messages),
            (Self::Messages, Provider::OpenAi) => Some(Self::Chat),
            _ if self.wire() as u8 == provider as u8 => Some(self),
            _ => None,
        }
    }

    /// Its answers cost nothing and count no tokens of their own.
    pub const fn is_free(self) -> bool {
        matches!(self, Self::CountTokens | Self::GeminiCount)
    }
}

/// Which operation a request is, or why it is none. `path` is without query.
pub fn accept(method: &Method, path: &str) -> Result<Inbound, Error> {
    let (inbound, takes) = match path {
        "/v1/models" => (Inbound::Models(Provider::OpenAi), Method::GET),
        "/api/tags" => (Inbound::Models(Provider::Ollama), Method::GET),
        "/v1beta/models" => (Inbound::Models(Provider::Gemini), Method::GET),
        _ => (Inbound::Call(call(path).ok_or_else(|| unknown(path))?), Method::POST),
    };
    match takes == *method {
        true => Ok(inbound),
        false if takes == Method::GET => Err(Error::Method("GET")),
        false => Err(Error::Method("POST")),
    }
}

fn unknown(path: &str) -> Error {
    Error::UnknownPath(path.chars().take(200).collect())
}

fn call(path: &str) -> Option<Api> {
    let api = |path: &str| Api::ALL.into_iter().find(|api| api.path() == path);
    match gemini_model(path) {
        Some(model) => api(&path[GEMINI.len() + model.len()..]),
        None => api(path).filter(|api| api.wire() != Provider::Gemini),
    }
}

/// The model that a Gemini path names.
pub(crate) fn gemini_model(path: &str) -> Option<&str> {
    let (model, _) = path.strip_prefix(GEMINI)?.split_once(':')?;
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    (!model.is_empty() && model.len() <= 200 && model.bytes().all(plain)).then_some(model)
}

const GEMINI: &str = "/v1beta/models/";

/// The answer to a question for models: these and nothing else. OpenAI's and Anthropic's clients ask at the
/// same path, so that answer has the fields of both.
pub fn models_answer(wire: Provider, models: &[&str]) -> String {
    let long_ago = "1970-01-01T00:00:00Z";
    let each = |it: fn(&str, &str) -> serde_json::Value| -> Vec<_> {
        models.iter().map(|model| it(model, long_ago)).collect()
    };
    match wire {
        Provider::OpenAi | Provider::Anthropic => {
            let data = each(|model, then| {
                json!({"id": model, "object": "model", "created": 0, "owned_by": "cofferdam", "type": "model",
                    "display_name": model, "created_at": then})
            });
            json!({"object": "list", "data": data, "has_more": false, "first_id": models.first(),
                "last_id": models.last()})
            .to_string()
        }
        Provider::Ollama => {
            let models = each(|model, then| {
                json!({"name": model, "model": model, "modified_at": then, "size": 0, "digest": "",
                    "details": {}})
            });
            json!({ "models": models }).to_string()
        }
        Provider::Gemini => {
            let models = each(|model, _| {
                json!({"name": format!("models/{model}"), "displayName": model,
                    "supportedGenerationMethods": ["generateContent", "countTokens", "embedContent"]})
            });
            json!({ "models": models }).to_string()
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn each_api_has_its_path_and_method_and_nothing_else_is_served() {
        for api in Api::ALL {
            let path = match api.wire() {
                Provider::Gemini => format!("/v1beta/models/gemini-2.5-pro{}", api.path()),
                _ => api.path().to_owned(),
            };
            assert_eq!(accept(&Method::POST, &path).unwrap(), Inbound::Call(api), "{path}");
            assert_eq!(accept(&Method::GET, &path).unwrap_err().status(), 405, "{path}");
        }
        for (path, wire) in [
            ("/v1/models", Provider::OpenAi),
            ("/api/tags", Provider::Ollama),
            ("/v1beta/models", Provider::Gemini),
        ] {
            assert_eq!(accept(&Method::GET, path).unwrap(), Inbound::Models(wire));
            assert_eq!(accept(&Method::POST, path).unwrap_err().status(), 405, "{path}");
        }
        for path in [
            "/v1/files",
            "/v1/chat/completions/",
            "/v1/../admin",
            "/v1/%6dessages",
            "/v1/messages/batches",
            "/api/pull",
            "/v1beta/models/a/b:generateContent",
            "/v1beta/models/:generateContent",
            "/v1beta/models/a%2f:generateContent",
            "/v1beta/models/a:batchGenerateContent",
            "/v1beta/models/a:b:generateContent",
            "/v1beta/cachedContents",
            ":generateContent",
            "",
        ] {
            assert_eq!(accept(&Method::POST, path).unwrap_err().status(), 404, "{path}");
        }
    }

    #[test]
    fn models_are_listed_in_each_wires_words() {
        let list =
            |wire| serde_json::from_str::<serde_json::Value>(&models_answer(wire, &["a", "b"])).unwrap();
        assert_eq!(list(Provider::OpenAi)["data"][1]["id"], "b");
        assert_eq!(list(Provider::OpenAi)["has_more"], false);
        assert_eq!(list(Provider::Ollama)["models"][0]["name"], "a");
        assert_eq!(list(Provider::Gemini)["models"][0]["name"], "models/a");
    }

    #[test]
    fn an_api_is_answered_by_its_own_wire_or_translated() {
        assert_eq!(Api::Chat.at(Provider::Anthropic), Some(Api::Messages));
        assert_eq!(Api::Messages.at(Provider::OpenAi), Some(Api::Chat));
        let pairs = Api::ALL.into_iter().flat_map(|api| Provider::ALL.map(|provider| (api, provider)));
        let served = pairs.filter(|(api, provider)| api.at(*provider).is_some()).count();
        assert_eq!(served, Api::ALL.len() + 2);
    }
}
