use super::*;

mod built_in;
mod properties;

const MILLION: u64 = 1_000_000;
const ZERO: Usage = Usage {
    input: 0,
    cache_read: 0,
    cache_write_5m: 0,
    cache_write_1h: 0,
    output: 0,
    reasoning: 0,
    audio_input: 0,
    audio_output: 0,
};

/// A table with these entries, and defaults of 100 dollars.
fn parsed(entries: &str) -> Result<PriceTable, PriceError> {
    let defaults = Provider::ALL.map(|provider| format!("[default.{provider}]\ninput = \"100\"\noutput = \"100\"\n"));
    PriceTable::parse(&format!("{entries}\n{}", defaults.concat()))
}

#[track_caller]
fn table(entries: &str) -> PriceTable {
    parsed(entries).unwrap_or_else(|error| panic!("{error}"))
}

/// One price for `m` with these lines.
#[track_caller]
fn price(lines: &str) -> Arc<Price> {
    let table = table(&format!("[[price]]\nprovider = \"openai\"\nmodel = \"m\"\n{lines}"));
    table.price(Provider::OpenAi, Some("m"), None, 0).clone()
}

/// The problems of a table, as they are shown.
fn problems(entries: &str) -> Vec<String> {
    let problems = parsed(entries).map_or_else(|error| error.problems, |_| Vec::new());
    problems.iter().map(ToString::to_string).collect()
}

fn at(date: &str) -> i64 {
    date.parse::<jiff::Timestamp>().unwrap().as_millisecond()
}

#[test]
fn every_class_has_its_price_and_is_counted_once() {
    let price = price(
        "input = \"1\"\noutput = \"2\"\ncache_read = \"4\"\ncache_write_5m = \"8\"\ncache_write_1h = \"16\"\n\
         audio_input = \"32\"\naudio_output = \"64\"",
    );
    let used = Usage {
        input: 10,
        cache_read: 10,
        cache_write_5m: 10,
        cache_write_1h: 10,
        output: 10,
        reasoning: 9,
        audio_input: 4,
        audio_output: 3,
    };
    let expected = 6 + 4 * 32 + 10 * 4 + 10 * 8 + 10 * 16 + 7 * 2 + 3 * 64;
    assert_eq!(price.cost(&used, None), expected, "reasoning is inside output");
    let odd = Usage {
        audio_input: 99,
        audio_output: 99,
        input: 1,
        output: 1,
        ..ZERO
    };
    assert_eq!(price.cost(&odd, None), 32 + 64, "there is no more audio than input");
}

#[test]
fn trap_02_what_is_left_out_costs_what_it_is_a_kind_of() {
    let rates = price("input = \"3\"\noutput = \"15\"").ordinary().base;
    let all = rates.classes().map(|(_, rate)| rate.micro_usd() / MILLION);
    assert_eq!(all, [3, 15, 3, 3, 3, 3, 15]);
    let written = price("input = \"3\"\noutput = \"15\"\ncache_write_5m = \"4\"")
        .ordinary()
        .base;
    assert_eq!(written.cache_write_1h.to_string(), "4.00");
}

#[test]
fn trap_11_a_cost_is_rounded_once_and_half_up() {
    let price = price("input = \"0.05\"\noutput = \"0.40\"");
    let cost = |input, output| price.cost(&Usage { input, output, ..ZERO }, None);
    assert_eq!([cost(9, 0), cost(10, 0), cost(29, 0), cost(30, 0)], [0, 1, 1, 2]);
    assert_eq!(cost(1, 1), 0, "0.45 micro-USD");
    assert_eq!(cost(2, 1), 1, "0.5 micro-USD");
    assert_eq!(cost(20_000_000_000, 0), 1_000 * MILLION);
}

#[test]
fn the_whole_input_side_chooses_the_long_contexts_prices() {
    let price = price(
        "input = \"1\"\noutput = \"1\"\n[[price.above]]\ninput_tokens = 100\ninput = \"2\"\noutput = \"3\"\n\
         [[price.above]]\ninput_tokens = 200\ninput = \"4\"\noutput = \"5\"\ncache_read = \"0\"",
    );
    let cost = |input, cache_read, output| {
        let used = Usage {
            input,
            cache_read,
            output,
            ..ZERO
        };
        price.cost(&used, None)
    };
    assert_eq!(cost(100, 0, 10), 110);
    assert_eq!(cost(101, 0, 10), 232);
    assert_eq!(cost(1, 100, 10), 232, "cached input counts, and costs as input there");
    assert_eq!(cost(1, 200, 10), 54);
    assert_eq!(cost(100, 0, 1000), 1100, "output does not count");
}

#[test]
fn service_tiers_have_factors_or_prices_of_their_own() {
    let table = table(
        "[tiers.openai]\nbatch = \"0.5\"\npriority = \"2\"\n[[price]]\nprovider = \"openai\"\nmodel = \"m\"\ninput = \"4\"\n\
         output = \"8\"\n[price.tiers]\npriority = \"2.5\"\nflex = { input = \"1\", output = \"1\" }",
    );
    let price = table.price(Provider::OpenAi, Some("m"), None, 0);
    let used = Usage {
        input: 1000,
        output: 100,
        ..ZERO
    };
    let cost = |tier| price.cost(&used, tier);
    assert_eq!(cost(None), 4800);
    assert_eq!([cost(Some("default")), cost(Some("auto"))], [4800, 4800]);
    assert_eq!(cost(Some("batch")), 2400, "of the provider");
    assert_eq!(cost(Some("priority")), 12_000, "of the entry");
    assert_eq!(cost(Some("SERVICE_TIER_PRIORITY")), 12_000);
    assert_eq!(cost(Some("flex")), 1100);
    assert_eq!(cost(Some("scale")), 4800);
    assert!(price.knows("Flex") && price.knows("standard") && !price.knows("scale"));
    let default = table.price(Provider::OpenAi, None, None, 0);
    assert_eq!(default.cost(&used, Some("batch")), 55_000);
}

#[test]
fn the_closest_pattern_wins() {
    let entry =
        |model: &str| format!("[[price]]\nprovider = \"openai\"\nmodel = {model}\ninput = \"1\"\noutput = \"1\"\n");
    let entries = [
        "\"*\"",
        "\"gpt-*\"",
        "[\"gpt-5-*\", \"o3\"]",
        "\"gpt-*-mini\"",
        "\"gpt-5-mini\"",
    ]
    .map(entry);
    let backwards: Vec<String> = entries.iter().rev().cloned().collect();
    for table in [table(&entries.concat()), table(&backwards.concat())] {
        let id = |model| table.price(Provider::OpenAi, Some(model), None, 0).id().to_owned();
        assert_eq!(id("gpt-5-mini"), "openai/gpt-5-mini");
        assert_eq!(id("gpt-5-nano"), "openai/gpt-5-*");
        assert_eq!(id("gpt-4-mini"), "openai/gpt-*-mini");
        assert_eq!(id("models/gpt-4"), "openai/gpt-*");
        assert_eq!(id("o3"), "openai/o3");
        assert_eq!(id("qwen"), "openai/*");
        let unknown = table.price(Provider::OpenAi, None, None, 0);
        assert_eq!((unknown.id(), unknown.is_default()), ("openai/default", true));
        let other = table.price(Provider::Google, Some("gpt-5-mini"), None, 0);
        assert_eq!((other.id(), other.is_default()), ("google/default", true));
    }
}

#[test]
fn the_newest_price_that_is_in_force_wins() {
    let entry = |model: &str, from: &str| {
        format!("[[price]]\nprovider = \"anthropic\"\nmodel = \"{model}\"\n{from}\ninput = \"1\"\noutput = \"1\"\n")
    };
    let table = table(
        &[
            entry("claude-*", ""),
            entry("claude-5", "from = \"2026-01-31\""),
            entry("claude-5", "from = \"2026-02-01T12:00:00+08:00\""),
            entry("claude-5", "from = 2027-01-01"),
        ]
        .concat(),
    );
    let id = |time: &str| table.price(Provider::Anthropic, Some("claude-5"), None, at(time)).id();
    assert_eq!(id("2026-01-30T23:59:59.999Z"), "anthropic/claude-*");
    assert_eq!(id("2026-01-31T00:00:00Z"), "anthropic/claude-5@2026-01-31");
    assert_eq!(id("2026-02-01T03:59:59Z"), "anthropic/claude-5@2026-01-31");
    assert_eq!(id("2026-02-01T04:00:00Z"), "anthropic/claude-5@2026-02-01T04:00:00Z");
    assert_eq!(id("2030-01-01T00:00:00Z"), "anthropic/claude-5@2027-01-01");
}

#[test]
fn a_price_for_a_key_wins_over_those_for_all() {
    let table = table(
        "[[price]]\nprovider = \"google\"\nmodel = \"*\"\nkey_ids = [3, 4]\ninput = \"1\"\noutput = \"1\"\n\
         [[price]]\nprovider = \"google\"\nmodel = \"gemini\"\ninput = \"2\"\noutput = \"2\"",
    );
    let id = |key: Option<i64>| table.price(Provider::Google, Some("gemini"), key.map(KeyId), 0).id();
    assert_eq!([id(Some(3)), id(Some(4))], ["google/*#3,4"; 2]);
    assert_eq!([id(Some(5)), id(None)], ["google/gemini"; 2]);
}

#[test]
fn everything_that_is_wrong_is_named() {
    let found = problems(
        "other = 1\n[tiers.openai]\ndefault = \"1\"\nflex = 0.5\n[tiers.azure]\n\
         [[price]]\nprovider = \"opneai\"\nmodel = \"\"\nfrom = \"yesterday\"\nkey_ids = [0]\ninptu = \"1\"\noutput = 5\n\
         [[price]]\nprovider = \"openai\"\nmodel = [\"gpt-5\", \"o3\"]\ninput = \"1,5\"\noutput = \"1\"\n\
         [[price.above]]\ninput_tokens = \"many\"\ninput = \"1\"\n\
         [price.tiers]\nbatch = { input = \"1\", otput = \"1\" }\n\
         [[price]]\nprovider = \"google\"\nmodel = \"gemini\"\nabove = 3\ninput = \"1\"\noutput = \"1.0000001\"\n",
    );
    let begins = |begin: &str| {
        assert_eq!(
            found.iter().filter(|problem| problem.starts_with(begin)).count(),
            1,
            "{begin}: {found:#?}"
        )
    };
    for begin in [
        "other: unknown key",
        "[tiers]: azure: unknown key",
        "[tiers.openai]: default: is the ordinary service",
        "[tiers.openai]: flex: must be a factor as text, such as \"0.5\"",
        "[[price]] 1: provider: must be \"openai\"",
        "[[price]] 1: model: must be a model's name",
        "[[price]] 1 (?/): from: must be a date such as",
        "[[price]] 1 (?/): key_ids: must be a list",
        "[[price]] 1: inptu: unknown key; did you mean `input`?",
        "[[price]] 1 (?/): input: is missing",
        "[[price]] 1 (?/): output: must be US dollars",
        "[[price]] 2 (openai/gpt-5, o3): input: must be US dollars",
        "[[price]] 2 (openai/gpt-5, o3): above 1: input_tokens: must be the number",
        "[[price]] 2 (openai/gpt-5, o3): above 1: output: is missing",
        "[[price]] 2 (openai/gpt-5, o3): tiers: batch: otput: unknown key; did you mean `output`?",
        "[[price]] 2 (openai/gpt-5, o3): tiers: batch: output: is missing",
        "[[price]] 3 (google/gemini): above: must be an array of tables",
        "[[price]] 3 (google/gemini): output: must be US dollars",
    ] {
        begins(begin);
    }
    assert_eq!(found.len(), 18, "{found:#?}");
}

#[test]
fn two_prices_for_the_same_are_refused() {
    let entry = |lines: &str| format!("[[price]]\nprovider = \"openai\"\n{lines}\ninput = \"1\"\noutput = \"1\"\n");
    let twice = |one: &str, other: &str| problems(&(entry(one) + &entry(other))).len();
    assert_eq!(twice("model = \"a\"", "model = [\"b\", \"a\"]"), 1);
    assert_eq!(
        twice("model = \"a\"\nkey_ids = [1, 2]", "model = \"a\"\nkey_ids = [2, 3]"),
        1
    );
    assert_eq!(
        twice(
            "model = \"a\"\nfrom = 2026-01-01",
            "model = \"a\"\nfrom = \"2026-01-01T00:00:00Z\""
        ),
        1
    );
    assert_eq!(twice("model = \"a\"\nkey_ids = [1]", "model = \"a\""), 0);
    assert_eq!(twice("model = \"a\"\nfrom = 2026-01-01", "model = \"a\""), 0);
    let twice = "model = \"a\"\nabove = [{ input_tokens = 5, input = \"1\", output = \"1\" }, { input_tokens = 5, input = \"1\", output = \"1\" }]";
    assert_eq!(problems(&entry(twice)).len(), 1);
}

#[test]
fn a_table_without_defaults_is_refused_for_each() {
    let error = PriceTable::parse("").expect_err("no defaults");
    let shown = error.to_string();
    assert_eq!(shown.lines().count(), 3, "{shown}");
    assert!(shown.starts_with("[default.openai]: is missing"), "{shown}");
    let syntax = PriceTable::parse("[[price]\n").expect_err("no TOML");
    assert_eq!(syntax.problems.len(), 1);
    assert!(syntax.to_string().contains("line 1"), "{syntax}");
}

#[test]
fn a_reservation_covers_what_may_be_served() {
    let price = price(
        "input = \"4\"\noutput = \"8\"\ncache_write_1h = \"6\"\n[[price.above]]\ninput_tokens = 1000\ninput = \"10\"\n\
         output = \"1\"\n[price.tiers]\nflex = \"0.5\"\npriority = \"2\"",
    );
    assert_eq!(price.at_most(1000, 100, None), 6800);
    assert_eq!(price.at_most(1001, 100, None), 10_110, "above");
    assert_eq!(
        price.at_most(1001, 10_000, None),
        86_006,
        "less input may turn out dearer"
    );
    assert_eq!(price.at_most(1000, 100, Some("priority")), 13_600);
    assert_eq!(
        price.at_most(1000, 100, Some("flex")),
        6800,
        "it may be served as ordinary"
    );
    assert_eq!(
        price.at_most(1000, 100, Some("turbo")),
        13_600,
        "any of those that are known"
    );
    assert_eq!(price.at_most(0, 0, None), 0);
    assert_eq!(price.at_most(u64::MAX, u64::MAX, Some("priority")), u64::MAX);
}
