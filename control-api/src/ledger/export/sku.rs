//! What a line of Google's billing report is about, such as `Generate content output token count gemini 2.5 flash short input text`.

use crate::ledger::figures::Class;

/// The words that a model's name goes on with behind `gemini`; numbers do as well.
const NAME: [&str; 5] = ["pro", "flash", "lite", "ultra", "nano"];

/// The model and the class; `None` for what is not counted in tokens of a Gemini model.
pub(super) fn parse(description: &str) -> Option<(String, Class)> {
    let text = description.to_ascii_lowercase().replace('_', " ");
    let (what, _) = text.split_once(" token count")?;
    let class = match what {
        _ if what.ends_with("cached input") => Class::CacheRead,
        _ if what.ends_with("input") => Class::Input,
        _ if what.ends_with("output") => Class::Output,
        _ => return None,
    };
    let (_, name) = text.split_once("gemini ")?;
    let is_name = |word: &&str| NAME.contains(word) || word.starts_with(|first: char| first.is_ascii_digit());
    let words: Vec<&str> = name.split_whitespace().take_while(is_name).collect();
    (!words.is_empty()).then(|| (format!("gemini-{}", words.join("-")), class))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(description: &str, expected: Option<(&str, Class)>) {
        let expected = expected.map(|(model, class)| (model.to_owned(), class));
        assert_eq!(parse(description), expected, "{description}");
    }

    #[test]
    fn model_and_class_are_in_the_description() {
        let flash = "gemini-2.5-flash";
        check(
            "Generate content output token count gemini 2.5 flash short input text",
            Some((flash, Class::Output)),
        );
        check(
            "Generate content input token count gemini 2.5 flash short input text",
            Some((flash, Class::Input)),
        );
        check(
            "Generate_content text cached input token count for gemini 3 pro short",
            Some(("gemini-3-pro", Class::CacheRead)),
        );
        let lite = "Generate content output token count gemini 3.1 flash lite preview text";
        check(lite, Some(("gemini-3.1-flash-lite", Class::Output)));
    }

    #[test]
    fn what_is_not_tokens_of_a_model_is_left_out() {
        check("Grounding with Google Search", None);
        check("Cloud Run Network Internet Data Transfer Out", None);
        check("Generate content storage token count gemini 2.5 flash", None);
    }
}
