//! What holds for every table and every usage.

use proptest::prelude::*;

use super::*;

fn rate() -> impl Strategy<Value = String> {
    prop_oneof![0_u64..100_000_000, Just(0), Just(Rate::MAX.micro_usd())]
        .prop_map(|micro| format!("{}.{:06}", micro / MILLION, micro % MILLION))
}

fn rates() -> impl Strategy<Value = String> {
    proptest::collection::vec(rate(), 7).prop_map(|rates| {
        let names = [
            "input",
            "output",
            "cache_read",
            "cache_write_5m",
            "cache_write_1h",
            "audio_input",
            "audio_output",
        ];
        names
            .iter()
            .zip(rates)
            .map(|(name, rate)| format!("{name} = \"{rate}\"\n"))
            .collect()
    })
}

/// A price with long contexts and service tiers.
fn any_price() -> impl Strategy<Value = Arc<Price>> {
    let above = proptest::collection::btree_map(1_u64..1_000_000, rates(), 0..3);
    (rates(), above, rate()).prop_map(|(base, above, factor)| {
        let above: String = above
            .iter()
            .map(|(tokens, rates)| format!("[[price.above]]\ninput_tokens = {tokens}\n{rates}"))
            .collect();
        let factor = factor.parse::<Rate>().unwrap().micro_usd() % (1000 * MILLION);
        let factor = format!("{}.{:06}", factor / MILLION, factor % MILLION);
        price(&format!(
            "{base}{above}[price.tiers]\nflex = \"{factor}\"\n[price.tiers.own]\n{base}"
        ))
    })
}

prop_compose! {
    fn usage(most: u64)(
        input in 0..=most, cache_read in 0..=most, cache_write_5m in 0..=most, cache_write_1h in 0..=most,
        output in 0..=most, audio_input in 0..=most, audio_output in 0..=most,
    ) -> Usage {
        Usage { input, cache_read, cache_write_5m, cache_write_1h, output, reasoning: output, audio_input, audio_output }
    }
}

fn tier() -> impl Strategy<Value = Option<&'static str>> {
    prop_oneof![Just(None), Just(Some("flex")), Just(Some("own")), Just(Some("auto"))]
}

proptest! {
    #[test]
    fn no_usage_overflows(price in any_price(), used in usage(u64::MAX), tier in tier()) {
        let _ = (price.cost(&used, tier), price.at_most(used.input_side(), used.output, tier));
    }

    #[test]
    fn nothing_that_is_served_costs_more_than_at_most(price in any_price(), used in usage(600_000), tier in tier(), more in 0_u64..500_000) {
        let (input, output) = (used.input_side() + more, used.output + more);
        let most = price.at_most(input, output, tier);
        prop_assert!(price.cost(&used, tier) <= most);
        prop_assert!(price.cost(&used, None) <= most, "it may be served in the ordinary tier");
    }

    #[test]
    fn more_tokens_never_cost_less(rates in rates(), used in usage(u64::MAX / 8), more in usage(u64::MAX / 8), tier in tier()) {
        let price = price(&format!("{rates}[price.tiers]\nflex = \"0.5\"\nown = {{ input = \"1\", output = \"2\" }}"));
        let more = Usage { audio_input: 0, audio_output: 0, ..more };
        // What was counted as audio stays audio, and no more becomes it.
        let used = Usage { audio_input: used.audio_input.min(used.input), audio_output: used.audio_output.min(used.output), ..used };
        prop_assert!(price.cost(&(used + more), tier) >= price.cost(&used, tier));
    }

    #[test]
    fn no_text_makes_it_panic(text in ".{0,200}") {
        let _ = PriceTable::parse(&text);
    }

    #[test]
    fn no_change_of_the_built_in_table_makes_it_panic(
        at in any::<prop::sample::Index>(), long in 0_usize..40, noise in "[a-z0-9.\"=\\[\\]{}\n# -]{0,12}",
    ) {
        let chars: Vec<char> = BUILT_IN.chars().collect();
        let begin = at.index(chars.len());
        let end = (begin + long).min(chars.len());
        let text: String = chars[..begin].iter().copied().chain(noise.chars()).chain(chars[end..].iter().copied()).collect();
        if let Err(error) = PriceTable::parse(&text) {
            prop_assert!(!error.problems.is_empty());
        }
    }

    #[test]
    fn a_price_is_found_for_every_model(model in ".{0,40}", key in proptest::option::of(0_i64..5), at_ms: i64) {
        let table = PriceTable::built_in();
        for provider in Provider::ALL {
            let price = table.price(provider, Some(&model), key.map(KeyId), at_ms);
            prop_assert_eq!(price.provider(), provider);
        }
    }
}
