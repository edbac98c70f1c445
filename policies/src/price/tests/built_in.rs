//! The table that comes with the program.

use super::*;

/// What a million input tokens in chunks of ten thousand and a million output tokens cost, in cents.
#[track_caller]
fn costs(provider: Provider, model: &str, time: &str, input_cents: u64, output_cents: u64) {
    let table = PriceTable::built_in();
    let price = table.price(provider, Some(model), None, at(time));
    assert!(!price.is_default(), "{model} is not known");
    let (input, output) = (10_000, MILLION);
    let input_cost = price.cost(&Usage { input, ..ZERO }, None);
    let output_cost = price.cost(&Usage { output, ..ZERO }, None);
    assert_eq!(
        (input_cost / 100, output_cost / 10_000),
        (input_cents, output_cents),
        "{model}"
    );
}

const NOW: &str = "2026-11-21T00:00:00Z";

#[test]
fn it_can_be_read() {
    PriceTable::parse(BUILT_IN).unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn models_of_today_are_known() {
    use Provider::{Anthropic, Google, OpenAi};
    for (provider, model, input, output) in [
        (OpenAi, "gpt-5", 125, 1000),
        (OpenAi, "gpt-5-2025-08-07", 125, 1000),
        (OpenAi, "gpt-5-mini", 25, 200),
        (OpenAi, "gpt-5.1-codex", 125, 1000),
        (OpenAi, "gpt-5.1-codex-max", 125, 1000),
        (OpenAi, "gpt-5.1-codex-mini", 25, 200),
        (OpenAi, "gpt-5.3-codex", 175, 1400),
        (OpenAi, "gpt-5.5", 500, 3000),
        (OpenAi, "gpt-6.1-sol", 200, 1000),
        (OpenAi, "gpt-4.1-2025-04-14", 200, 800),
        (OpenAi, "gpt-4o-mini", 15, 60),
        (OpenAi, "gpt-4o", 250, 1000),
        (OpenAi, "o3", 200, 800),
        (OpenAi, "o4-mini", 110, 440),
        (OpenAi, "text-embedding-3-small", 2, 0),
        (Anthropic, "claude-opus-4-5-20251101", 500, 2500),
        (Anthropic, "claude-opus-4-1-20250805", 1500, 7500),
        (Anthropic, "claude-opus-4-20250514", 1500, 7500),
        (Anthropic, "claude-sonnet-4-5", 300, 1500),
        (Anthropic, "claude-sonnet-4-20250514", 300, 1500),
        (Anthropic, "claude-haiku-4-5-20251001", 100, 500),
        (Anthropic, "claude-3-5-haiku-20241022", 80, 400),
        (Anthropic, "claude-3-5-sonnet-20241022", 300, 1500),
        (Anthropic, "claude-opus-5-5", 400, 2000),
        (Google, "gemini-2.5-pro", 125, 1000),
        (Google, "models/gemini-2.5-flash", 30, 250),
        (Google, "gemini-2.0-flash-001", 10, 40),
        (Google, "gemini-3-pro-preview", 200, 1200),
    ] {
        costs(provider, model, NOW, input, output);
    }
}

#[test]
fn prices_change_when_they_are_announced_to() {
    costs(Provider::OpenAi, "gpt-5.6-luna", "2026-07-29T23:00:00Z", 100, 600);
    costs(Provider::OpenAi, "gpt-5.6-luna", "2026-07-30T00:00:00Z", 20, 120);
    costs(Provider::Google, "gemini-3.8-flash", "2026-12-31T23:59:59Z", 75, 375);
    costs(Provider::Google, "gemini-3.8-flash", "2027-01-01T00:00:00Z", 150, 750);
}

#[test]
fn cache_writes_and_long_contexts_have_their_prices() {
    let table = PriceTable::built_in();
    let sonnet = table.price(Provider::Anthropic, Some("claude-sonnet-4-5"), None, at(NOW));
    let used = |input| Usage {
        input,
        cache_read: 100_000,
        cache_write_5m: 10_000,
        cache_write_1h: 1_000,
        ..ZERO
    };
    assert_eq!(sonnet.cost(&used(0), None), 30_000 + 37_500 + 6_000);
    assert_eq!(sonnet.cost(&used(100_000), None), 600_000 + 60_000 + 75_000 + 12_000);
    let pro = table.price(Provider::Google, Some("gemini-2.5-pro"), None, at(NOW));
    assert_eq!(pro.cost(&Usage { input: 200_001, ..ZERO }, None), 500_003);
    let opus = table.price(Provider::Anthropic, Some("claude-opus-4-5"), None, at(NOW));
    assert_eq!(opus.id(), "anthropic/claude-opus-4-5*@2025-11-24");
}

#[test]
fn a_default_is_never_cheap() {
    let table = PriceTable::built_in();
    for provider in Provider::ALL {
        let default = table.price(provider, Some("brand-new"), None, at(NOW));
        assert!(default.is_default());
        assert!(default.ordinary().base.input.micro_usd() >= 4 * MILLION);
    }
}
