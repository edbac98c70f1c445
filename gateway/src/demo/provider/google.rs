//! Gemini's wire format: generation (whole, SSE, JSON array), token counting, embeddings, models.
//! Source: <https://ai.google.dev/api>.

use http::Method;
use serde_json::{Value, json};

use super::answer::{self, Answer, Call, Tokens, event};

const MODELS: [&str; 4] = [
    "gemini-3-pro",
    "gemini-2.5-pro",
    "gemini-2.5-flash",
    "gemini-embedding-001",
];
const DIMENSIONS: usize = 256;

/// Answers one call to the Gemini API, the file service excepted.
pub fn answer(call: &Call) -> Answer {
    let path = call
        .path
        .strip_prefix("/v1beta/")
        .or_else(|| call.path.strip_prefix("/v1/"))
        .unwrap_or_default();
    let resource = path
        .strip_prefix("models/")
        .map(|rest| rest.split_once(':').unwrap_or((rest, "")));
    let answer = match (&call.method, resource) {
        (&Method::POST, Some((model, "generateContent"))) => generate(call, model),
        (&Method::POST, Some((model, "streamGenerateContent"))) => stream(call, model),
        (&Method::POST, Some((_, "countTokens"))) => count_tokens(call),
        (&Method::POST, Some((_, "embedContent"))) => {
            Answer::json(200, json!({"embedding": embedding(call.field("content"))}))
        }
        (&Method::POST, Some((_, "batchEmbedContents"))) => batch_embed(call),
        (&Method::GET, None) if path == "models" => Answer::json(200, json!({"models": MODELS.map(model)})),
        (&Method::GET, Some((id, ""))) if MODELS.contains(&id) => Answer::json(200, model(id)),
        _ => error(404, "Requested entity was not found."),
    };
    answer
        .with("server-timing", "gfet4t7; dur=21")
        .with("x-content-type-options", "nosniff")
}

/// Google's error body.
pub fn error(status: u16, message: &str) -> Answer {
    let name = match status {
        401 => "UNAUTHENTICATED",
        404 => "NOT_FOUND",
        _ => "INVALID_ARGUMENT",
    };
    Answer::json(
        status,
        json!({"error": {"code": status, "message": message, "status": name}}),
    )
}

fn generate(call: &Call, model: &str) -> Answer {
    match Generation::of(call, model) {
        Some(it) => Answer::json(200, it.chunk(&it.text, true)),
        None => error(400, "* GenerateContentRequest.contents: contents is not specified"),
    }
}

fn stream(call: &Call, model: &str) -> Answer {
    let Some(it) = Generation::of(call, model) else {
        return error(400, "* GenerateContentRequest.contents: contents is not specified");
    };
    let pieces = answer::pieces(&it.text);
    let last = pieces.len().saturating_sub(1);
    let chunks: Vec<Value> = pieces
        .iter()
        .enumerate()
        .map(|(n, piece)| it.chunk(piece, n == last))
        .collect();
    match call.parameter("alt") {
        Some("sse") => Answer::events(chunks.iter().map(|chunk| event(None, chunk)).collect()),
        _ => Answer::json_pieces(as_array(&chunks)),
    }
}

/// One JSON array, cut where Gemini cuts it: `[` and `,` lead the element that follows.
fn as_array(chunks: &[Value]) -> Vec<String> {
    let element = |(n, chunk)| format!("{}{chunk:#}\n", if n == 0 { "[" } else { ",\r\n" });
    chunks.iter().enumerate().map(element).chain(["]".to_owned()]).collect()
}

struct Generation<'a> {
    model: &'a str,
    id: String,
    text: String,
    tokens: Tokens,
}

impl<'a> Generation<'a> {
    fn of(call: &Call, model: &'a str) -> Option<Self> {
        let contents = call.field("contents");
        let text = answer::reply(&answer::last_user(contents, "parts").map(answer::text_of)?);
        let tokens = Tokens::of(contents, &text, !model.contains("flash"));
        Some(Self {
            model,
            id: call.id(""),
            text,
            tokens,
        })
    }

    /// Every chunk carries the usage so far; what counts is the last.
    fn chunk(&self, text: &str, last: bool) -> Value {
        let mut candidate = json!({"content": {"role": "model", "parts": [{"text": text}]}, "index": 0});
        if last {
            candidate["finishReason"] = json!("STOP");
        }
        json!({"candidates": [candidate], "usageMetadata": self.usage(last), "modelVersion": self.model, "responseId": self.id})
    }

    fn usage(&self, last: bool) -> Value {
        let tokens = self.tokens;
        let mut usage = json!({
            "promptTokenCount": tokens.input,
            "totalTokenCount": tokens.input + tokens.reasoning,
            "promptTokensDetails": [{"modality": "TEXT", "tokenCount": tokens.input}],
            "thoughtsTokenCount": tokens.reasoning,
        });
        if tokens.cached > 0 {
            usage["cachedContentTokenCount"] = json!(tokens.cached);
        }
        if last {
            usage["candidatesTokenCount"] = json!(tokens.output);
            usage["totalTokenCount"] = json!(tokens.total());
        }
        usage
    }
}

fn count_tokens(call: &Call) -> Answer {
    let contents = match call.field("contents") {
        Value::Null => &call.field("generateContentRequest")["contents"],
        contents => contents,
    };
    let tokens = answer::count(&contents.to_string());
    let details = json!([{"modality": "TEXT", "tokenCount": tokens}]);
    Answer::json(200, json!({"totalTokens": tokens, "promptTokensDetails": details}))
}

fn batch_embed(call: &Call) -> Answer {
    let requests = call.field("requests").as_array().map(Vec::as_slice).unwrap_or_default();
    let embeddings: Vec<Value> = requests.iter().map(|request| embedding(&request["content"])).collect();
    Answer::json(200, json!({"embeddings": embeddings}))
}

fn embedding(content: &Value) -> Value {
    json!({"values": answer::embedding(&content.to_string(), DIMENSIONS)})
}

fn model(id: &str) -> Value {
    let methods: &[&str] = match id.contains("embedding") {
        true => &["embedContent", "batchEmbedContents", "countTokens"],
        false => &["generateContent", "streamGenerateContent", "countTokens"],
    };
    json!({"name": format!("models/{id}"), "version": "001", "displayName": id, "inputTokenLimit": 1_048_576,
        "outputTokenLimit": 65_536, "supportedGenerationMethods": methods})
}
