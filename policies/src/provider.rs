//! The LLM providers whose dialects the gateway speaks.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// An LLM provider, which is to say an API dialect; compatible services are reached by a key's base URL.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Provider {
    /// OpenAI and everything that speaks its API, such as Qwen.
    #[serde(rename = "openai")]
    OpenAi,
    /// Anthropic, the API of Claude.
    Anthropic,
    /// Google, the Gemini API.
    Google,
}

impl Provider {
    /// Every provider, in the order in which they are listed to people.
    pub const ALL: [Self; 3] = [Self::OpenAi, Self::Anthropic, Self::Google];

    /// The name in tables, tokens and the HTTP API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::OpenAi => "openai",
            Self::Anthropic => "anthropic",
            Self::Google => "google",
        }
    }

    /// Where the provider's own API is, for a key that names no base URL.
    pub const fn default_base_url(self) -> &'static str {
        match self {
            Self::OpenAi => "https://api.openai.com/v1",
            Self::Anthropic => "https://api.anthropic.com",
            Self::Google => "https://generativelanguage.googleapis.com",
        }
    }
}

/// The name is not one of the providers.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("unknown provider '{0}'; the providers are openai, anthropic and google")]
pub struct UnknownProvider(pub String);

impl FromStr for Provider {
    type Err = UnknownProvider;

    fn from_str(name: &str) -> Result<Self, UnknownProvider> {
        Self::ALL
            .into_iter()
            .find(|provider| provider.as_str() == name)
            .ok_or_else(|| UnknownProvider(name.to_owned()))
    }
}

impl fmt::Display for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_name_in_text_and_json() {
        for provider in Provider::ALL {
            assert_eq!(provider.to_string().parse(), Ok(provider));
            assert_eq!(serde_json::to_string(&provider).unwrap(), format!("\"{provider}\""));
        }
        assert_eq!("OpenAI".parse::<Provider>(), Err(UnknownProvider("OpenAI".to_owned())));
    }
}
