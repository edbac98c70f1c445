//! Which of a provider's APIs a path calls. It decides what is metered, where the model stands and which dialect a
//! refusal speaks, never whether a path is forwarded: unknown paths are, as `Other`.

use ace_policies::provider::Provider::{self, Anthropic, Google, OpenAi};
use http::Method;

use super::{PathRefusal, path};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Api {
    /// The bare prefix: the provider's main call, settled by `Call::with_provider`.
    Main,
    OpenAiChat,
    OpenAiResponses,
    OpenAiInputTokens,
    OpenAiCompletions,
    OpenAiEmbeddings,
    /// The WebSocket of spoken conversations; its model stands in the query.
    OpenAiRealtime,
    AnthropicMessages,
    AnthropicCountTokens,
    GoogleGenerate,
    GoogleStreamGenerate,
    GoogleCountTokens,
    GoogleEmbed,
    Models,
    Files,
    /// Google's upload start, whose answer names the URL of the second step.
    Upload,
    /// Work that is done later and billed without telling it in any answer that passes here.
    Batch,
    /// Looks something up or removes it; costs nothing.
    Read,
    /// Anything else: metered where the answer tells its usage.
    Other,
}

/// Where a call names its model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModelPlace {
    Path,
    Query,
    Body,
    Nowhere,
}

impl Api {
    /// The dialect of APIs that only one provider's protocol has.
    pub fn dialect(self) -> Option<Provider> {
        use Api::*;
        match self {
            OpenAiChat | OpenAiResponses | OpenAiInputTokens | OpenAiCompletions | OpenAiEmbeddings
            | OpenAiRealtime => Some(OpenAi),
            AnthropicMessages | AnthropicCountTokens => Some(Anthropic),
            GoogleGenerate | GoogleStreamGenerate | GoogleCountTokens | GoogleEmbed | Upload => Some(Google),
            Main | Models | Files | Batch | Read | Other => None,
        }
    }

    /// Whether the answer is read for usage; such a request asks its provider for an uncompressed answer.
    pub fn is_metered(self) -> bool {
        use Api::*;
        !matches!(
            self,
            OpenAiInputTokens | AnthropicCountTokens | GoogleCountTokens | Models | Files | Upload | Batch | Read
        )
    }

    /// Whether the answer is text made by a model, so that its length says something about its cost.
    pub fn writes_text(self) -> bool {
        use Api::*;
        matches!(
            self,
            OpenAiChat
                | OpenAiResponses
                | OpenAiCompletions
                | AnthropicMessages
                | GoogleGenerate
                | GoogleStreamGenerate
        )
    }

    /// Whether a successful answer costs tokens even where it does not tell how many.
    pub fn costs_tokens(self) -> bool {
        self.writes_text() || matches!(self, Api::OpenAiEmbeddings | Api::GoogleEmbed)
    }

    pub fn model_place(self) -> ModelPlace {
        use Api::*;
        match self {
            GoogleGenerate | GoogleStreamGenerate | GoogleCountTokens | GoogleEmbed => ModelPlace::Path,
            OpenAiRealtime => ModelPlace::Query,
            Models | Files | Upload | Read => ModelPlace::Nowhere,
            _ => ModelPlace::Body,
        }
    }

    pub(super) fn main_of(provider: Provider) -> Option<Self> {
        match provider {
            OpenAi => Some(Api::OpenAiChat),
            Anthropic => Some(Api::AnthropicMessages),
            Google => None,
        }
    }

    pub(super) fn main_path(provider: Provider) -> &'static str {
        match provider {
            OpenAi => "/chat/completions",
            Anthropic => "/v1/messages",
            Google => "/",
        }
    }
}

/// Reads a provider's path. `None` where OpenAI, Anthropic and Google share it, or nobody is known to have it.
pub(super) fn classify(method: &Method, path: &str) -> Result<(Option<Provider>, Api), PathRefusal> {
    let path = path::decoded(path);
    let path = path.trim_matches('/');
    let (version, tail) = match path.split_once('/') {
        Some((first, tail)) if path::is_version(first) => (first, tail),
        _ => ("", path),
    };
    if path.starts_with("upload/") {
        return Ok((Some(Google), Api::Upload));
    }
    if let Some(api) = google_method(tail) {
        return Ok((Some(Google), api));
    }
    // `v1` is everybody's; `v1beta` and `v1alpha` are Google's.
    let is_google = version.bytes().skip(1).any(|byte| byte.is_ascii_alphabetic());
    if let Some(tail) = tail.strip_prefix("openai/").filter(|_| is_google) {
        return openai(method, tail).map(|found| (Some(Google), found.map_or(read_or_other(method), |(_, api)| api)));
    }
    if is_google {
        return google(method, tail).map(|api| (Some(Google), api));
    }
    if let Some((provider, api)) = openai(method, tail)? {
        return Ok((provider, api));
    }
    Ok(anthropic_or_unknown(method, tail))
}

fn openai(method: &Method, tail: &str) -> Result<Option<(Option<Provider>, Api)>, PathRefusal> {
    let api = match tail {
        "chat/completions" => Api::OpenAiChat,
        "responses" | "responses/compact" if method != Method::GET => Api::OpenAiResponses,
        "responses/input_tokens" => Api::OpenAiInputTokens,
        "completions" => Api::OpenAiCompletions,
        "embeddings" => Api::OpenAiEmbeddings,
        "realtime" if method == Method::GET => Api::OpenAiRealtime,
        // A short-lived provider key is still a key that goes around the gateway, and so is a call over WebRTC.
        "realtime/client_secrets" | "realtime/sessions" | "realtime/transcription_sessions" | "chatkit/sessions" => {
            return Err(PathRefusal::MintsCredential);
        }
        "realtime" | "realtime/calls" if method == Method::POST => return Err(PathRefusal::MintsCredential),
        _ => match tail.split('/').next().unwrap_or_default() {
            "models" => return Ok(Some((None, Api::Models))),
            "files" => return Ok(Some((None, Api::Files))),
            "chat" | "responses" | "conversations" | "vector_stores" | "containers" | "uploads" => Api::Read,
            "batches" if method == Method::POST => Api::Batch,
            "batches" | "audio" | "images" | "videos" | "moderations" | "fine_tuning" | "assistants" | "threads"
            | "realtime" | "evals" => read_or_other(method),
            _ => return Ok(None),
        },
    };
    Ok(Some((Some(OpenAi), api)))
}

fn anthropic_or_unknown(method: &Method, tail: &str) -> (Option<Provider>, Api) {
    match tail {
        "messages" => (Some(Anthropic), Api::AnthropicMessages),
        "messages/count_tokens" => (Some(Anthropic), Api::AnthropicCountTokens),
        "messages/batches" if method == Method::POST => (Some(Anthropic), Api::Batch),
        "complete" => (Some(Anthropic), Api::Other),
        _ if tail.starts_with("messages/") => (Some(Anthropic), Api::Read),
        _ => match tail.split('/').next().unwrap_or_default() {
            "cachedContents" | "tunedModels" | "corpora" | "fileSearchStores" => (Some(Google), read_or_other(method)),
            _ => (None, read_or_other(method)),
        },
    }
}

fn google(method: &Method, tail: &str) -> Result<Api, PathRefusal> {
    match tail.split(['/', ':']).next().unwrap_or_default() {
        "models" => Ok(Api::Models),
        "files" => Ok(Api::Files),
        "auth_tokens" | "authTokens" => Err(PathRefusal::MintsCredential),
        _ => Ok(read_or_other(method)),
    }
}

/// Google's custom methods stand behind a colon: `models/<model>:generateContent`, on any version.
fn google_method(tail: &str) -> Option<Api> {
    let (_, method) = tail.rsplit('/').next()?.rsplit_once(':')?;
    match method {
        "generateContent" => Some(Api::GoogleGenerate),
        "streamGenerateContent" => Some(Api::GoogleStreamGenerate),
        "countTokens" => Some(Api::GoogleCountTokens),
        "embedContent" | "batchEmbedContents" => Some(Api::GoogleEmbed),
        "batchGenerateContent" | "asyncBatchEmbedContent" => Some(Api::Batch),
        "predict" | "predictLongRunning" | "generateAnswer" | "generateText" | "generateMessage" => Some(Api::Other),
        _ => None,
    }
}

fn read_or_other(method: &Method) -> Api {
    match *method {
        Method::GET | Method::HEAD | Method::OPTIONS | Method::DELETE => Api::Read,
        _ => Api::Other,
    }
}
