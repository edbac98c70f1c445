use super::*;

const OPENAI_DAYS: &str = include_str!("../samples/openai_days.csv");
const OPENAI_REQUESTS: &str = include_str!("../samples/openai_requests.csv");
const ANTHROPIC_DAYS: &str = include_str!("../samples/anthropic_days.csv");
const GOOGLE_DAYS: &str = include_str!("../samples/google_days.csv");

fn read(provider: Provider, columns: &[(Field, &str)], key: Option<&str>, text: &str) -> Result<Export, ExportError> {
    let calendar = Calendar::new(if provider == Provider::Google {
        "America/Los_Angeles"
    } else {
        "UTC"
    })
    .unwrap();
    let columns = columns
        .iter()
        .map(|(field, header)| (*field, (*header).to_owned()))
        .collect();
    Reading {
        provider,
        columns,
        key,
        calendar: &calendar,
    }
    .read(text)
}

/// The lines in a form to compare: number, time, id, model and figures.
#[track_caller]
fn check(export: &Export, expected: &[&str], left_out: u64) {
    let line = |line: &Line| {
        let id = line.request_id.as_deref().unwrap_or("-");
        format!(
            "{} {} {id} {}: {}",
            line.number,
            When(line.at),
            line.model,
            line.figures
        )
    };
    assert_eq!(export.lines.iter().map(line).collect::<Vec<_>>(), expected);
    assert_eq!(export.left_out, left_out);
}

#[test]
fn openai_counts_cached_tokens_inside_of_input() {
    let days = read(Provider::OpenAi, &[], None, OPENAI_DAYS).unwrap();
    let model = "2026-01-31T00:00:00.000Z - gpt-5-mini-2025-08-07";
    let expected = [
        format!("2 {model}: requests 3, input 30, cache_read 300, output 15"),
        format!("3 {model}: requests 1, input 10, cache_read 100, output 5"),
    ];
    check(&days, &expected.each_ref().map(String::as_str), 1);
    let requests = read(Provider::OpenAi, &[], None, OPENAI_REQUESTS).unwrap();
    let expected = [
        "2 2026-01-31T12:00:00.000Z req_1 gpt-5-mini: input 10, cache_read 100, output 5",
        "3 2026-01-31T12:01:00.000Z req_2 gpt-5-mini: input 10, cache_read 100, output 9",
        "4 2026-01-31T12:05:00.000Z req_3 gpt-5-mini: input 7, cache_read 0, output 1",
    ];
    check(&requests, &expected, 0);
}

#[test]
fn lines_of_other_keys_are_left_out() {
    let days = read(Provider::OpenAi, &[], Some("key_b"), OPENAI_DAYS).unwrap();
    check(
        &days,
        &["3 2026-01-31T00:00:00.000Z - gpt-5-mini-2025-08-07: requests 1, input 10, cache_read 100, output 5"],
        2,
    );
}

#[test]
fn anthropic_tells_five_classes_apart() {
    let days = read(Provider::Anthropic, &[], Some("team"), ANTHROPIC_DAYS).unwrap();
    let opus = "2026-01-31T00:00:00.000Z - claude-opus-4-5: input 10, cache_read 100, cache_write_5m 20, cache_write_1h 30, output 5";
    let haiku = "4 2026-01-31T00:00:00.000Z - claude-haiku-4-5: input 10, cache_read 100, cache_write_5m 20, cache_write_1h 30, output 7";
    check(&days, &[&format!("2 {opus}"), &format!("3 {opus}"), haiku], 1);
}

#[test]
fn google_has_a_line_for_each_class_and_days_of_its_own() {
    let days = read(Provider::Google, &[], None, GOOGLE_DAYS).unwrap();
    let expected = [
        "2 2026-01-31T08:00:00.000Z - gemini-2.5-flash: input 1010",
        "3 2026-01-31T08:00:00.000Z - gemini-2.5-flash: output 505",
    ];
    check(&days, &expected, 2);
}

#[test]
fn columns_can_be_named_and_times_are_read_in_many_forms() {
    let columns = [
        (Field::Time, "When"),
        (Field::Of(Class::Output), "Out"),
        (Field::InputTotal, "In"),
    ];
    for time in [
        "2026-01-31T12:00:00Z",
        "2026-01-31 12:00:00",
        "2026-01-31 12:00",
        "2026-01-31 12:00:00 UTC",
        "1769860800",
    ] {
        let text = format!("When,Model,In,Out\n{time},m,7.0,\"1,000\"\n");
        let export = read(Provider::OpenAi, &columns, None, &text).unwrap();
        check(
            &export,
            &["2 2026-01-31T12:00:00.000Z - m: input_side 7, output 1000"],
            0,
        );
    }
}

#[test]
fn what_cannot_be_read_is_named_with_its_line() {
    let cases = [
        ("date,model\n", "no column for 'output'"),
        (
            "date,model,output_tokens\n2026-01-31,m,many\n",
            "line 2: output: cannot read 'many'",
        ),
        (
            "date,model,output_tokens\n2026-01-31,m,1.5\n",
            "line 2: output: cannot read '1.5'",
        ),
        (
            "date,model,output_tokens\n2026-01-31,m,-1\n",
            "line 2: output: cannot read '-1'",
        ),
        (
            "date,model,output_tokens\nsoon,m,1\n",
            "line 2: time: cannot read 'soon'",
        ),
        (
            "date,model,output_tokens,input_tokens,input_cached_tokens\n2026-01-31,m,1,5,6\n",
            "line 2: more tokens came from a cache",
        ),
        ("date,model,output_tokens\n", "no line with usage"),
        ("", "no column for 'time'"),
    ];
    for (text, message) in cases {
        let error = read(Provider::OpenAi, &[], None, text).err().unwrap().to_string();
        assert!(error.contains(message), "{error}");
    }
    let named = [(Field::Model, "Modell")];
    let error = read(Provider::OpenAi, &named, None, "date,model\n")
        .err()
        .unwrap()
        .to_string();
    assert_eq!(error, "the file has no column 'Modell'; it has date, model");
    assert!(
        "colour"
            .parse::<Field>()
            .unwrap_err()
            .to_string()
            .contains("cache_write_5m")
    );
}
