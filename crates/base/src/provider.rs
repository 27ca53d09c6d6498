//! Which wire a model provider speaks.

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// The wire of a model provider.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Provider {
    /// OpenAI and what is compatible with it: `/chat/completions`, `/responses`, `/embeddings`, `/models`.
    #[default]
    OpenAi,
    /// Anthropic: `/v1/messages`, `/v1/messages/count_tokens`.
    Anthropic,
    /// Ollama: `/api/chat`, `/api/generate`, `/api/embed`, `/api/tags`.
    Ollama,
    /// Gemini: `/v1beta/models/{model}:generateContent`.
    Gemini,
}

/// The text names no provider's wire.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no provider's wire: use openai, anthropic, ollama or gemini")]
pub struct ProviderError(String);

impl Provider {
    /// Every one.
    pub const ALL: [Self; 4] = [Self::OpenAi, Self::Anthropic, Self::Ollama, Self::Gemini];

    /// `openai`, `anthropic`, `ollama` or `gemini`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::OpenAi => "openai",
            Self::Anthropic => "anthropic",
            Self::Ollama => "ollama",
            Self::Gemini => "gemini",
        }
    }
}

impl fmt::Display for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Provider {
    type Err = ProviderError;

    fn from_str(text: &str) -> Result<Self, ProviderError> {
        Self::ALL
            .into_iter()
            .find(|provider| provider.as_str() == text)
            .ok_or_else(|| ProviderError(text.chars().take(64).collect()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn each_is_read_as_it_is_written() {
        for provider in Provider::ALL {
            assert_eq!(provider.to_string().parse::<Provider>().unwrap(), provider);
            assert_eq!(serde_json::to_string(&provider).unwrap(), format!("\"{provider}\""));
        }
        assert!("OpenAI".parse::<Provider>().is_err());
    }
}
