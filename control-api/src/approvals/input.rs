//! What a question is about, as it is kept: short enough to be shown to everybody who follows.

use serde_json::{Value, json};

/// How long it may be, as JSON. What is longer is cut, and marked as such.
const MAX_BYTES: usize = 64 << 10;

/// To how many characters long texts in it are cut, tried one after the other.
const CUTS: [usize; 4] = [8_000, 2_000, 500, 100];

/// Of what is too long although its texts are cut: that much of its JSON is kept as a text. Quotes in it double.
const HEAD_BYTES: usize = 24 << 10;

/// What is kept.
#[derive(PartialEq, Eq, Debug)]
pub(super) struct Kept {
    pub json: String,
    pub truncated: bool,
}

/// Shortens what is too long: its texts first, so that it keeps its form and a path is still to be seen beside a long content.
pub(super) fn kept(input: &Value) -> Kept {
    let json = input.to_string();
    if json.len() <= MAX_BYTES {
        return Kept { json, truncated: false };
    }
    let cut = CUTS.iter().map(|most| shortened(input, *most).to_string());
    let short = cut.into_iter().find(|json| json.len() <= MAX_BYTES);
    Kept {
        json: short.unwrap_or_else(|| json!({ "cut": &json[..json.floor_char_boundary(HEAD_BYTES)] }).to_string()),
        truncated: true,
    }
}

fn shortened(value: &Value, most: usize) -> Value {
    match value {
        Value::String(text) => Value::String(head(text, most)),
        Value::Array(items) => items.iter().map(|item| shortened(item, most)).collect(),
        Value::Object(fields) => {
            let fields = fields
                .iter()
                .map(|(name, value)| (name.clone(), shortened(value, most)));
            Value::Object(fields.collect())
        }
        other => other.clone(),
    }
}

fn head(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}… [{} bytes more]", &text[..end], text.len() - end),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn short(input: &Value) -> Value {
        let kept = kept(input);
        assert!(kept.truncated && kept.json.len() <= MAX_BYTES, "{}", kept.json.len());
        serde_json::from_str(&kept.json).unwrap()
    }

    #[test]
    fn what_is_short_stays_as_it_is() {
        let input = json!({ "command": "ls\u{0}", "list": [1, null] });
        let expected = Kept {
            json: input.to_string(),
            truncated: false,
        };
        assert_eq!(kept(&input), expected);
    }

    #[test]
    fn long_texts_are_cut_and_the_rest_is_still_to_be_seen() {
        let input = short(
            &json!({ "file_path": "/srv/app/x", "content": "ü".repeat(1 << 20), "edits": ["\u{1}".repeat(9_000)] }),
        );
        assert_eq!(input["file_path"], "/srv/app/x");
        let content = input["content"].as_str().unwrap();
        assert!(
            content.ends_with("ü… [2081152 bytes more]"),
            "{}",
            &content[content.len() - 40..]
        );
        assert!(input["edits"][0].as_str().unwrap().ends_with("… [1000 bytes more]"));
    }

    #[test]
    fn what_is_long_without_long_texts_is_kept_as_the_head_of_its_json() {
        let many: Vec<_> = (0..50_000).map(|_| json!("\"ü")).collect();
        let head = short(&json!(many));
        assert!(head["cut"].as_str().unwrap().starts_with(r#"["\"ü","#), "{head}");
    }
}
