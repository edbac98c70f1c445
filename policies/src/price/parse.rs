//! A price table's text. Everything that is wrong with it is found, not only the first: an operator edits it by hand.

use std::cmp::Reverse;
use std::collections::HashSet;

use jiff::Timestamp;
use toml::{Table, Value};

use super::pattern::Pattern;
use super::rate::{Factor, Rates, Schedule};
use super::section::{Found, PriceError, Section};
use super::{Price, PriceTable, is_ordinary};
use crate::{KeyId, Provider};

/// The classes of tokens, as a table names them.
const CLASSES: [&str; 7] = [
    "input",
    "output",
    "cache_read",
    "cache_write_5m",
    "cache_write_1h",
    "audio_input",
    "audio_output",
];
const PRICE: &str =
    "must be US dollars for a million tokens as text, such as \"3.00\", with up to 6 decimals and up to 1000000";
const FACTOR: &str =
    "must be a factor as text, such as \"0.5\", with up to 6 decimals and up to 1000, or prices of its own";

/// Service tiers by name.
type Tiers = Vec<(Box<str>, Tier)>;

#[derive(Clone)]
enum Tier {
    Times(Factor),
    Own(Schedule),
}

pub(super) fn table(text: &str) -> Result<PriceTable, PriceError> {
    let mut found = Found::default();
    let table = match text.parse::<Table>() {
        Ok(document) => document_of(&document, &mut found),
        Err(error) => {
            found.add("", "", error.to_string().trim_end());
            None
        }
    };
    match table {
        Some(table) if found.problems.is_empty() => Ok(table),
        _ => Err(PriceError {
            problems: found.problems,
        }),
    }
}

fn document_of(document: &Table, found: &mut Found) -> Option<PriceTable> {
    let top = Section::new(String::new(), document);
    top.know(&["price", "default", "tiers"], found);
    let (tiers, defaults) = (top.by_provider("tiers", found), top.by_provider("default", found));
    let tiers = Provider::ALL.map(|provider| provider_tiers(tiers.as_ref(), provider, found));
    let defaults = Provider::ALL.map(|provider| default(defaults.as_ref(), provider, &tiers[provider as usize], found));
    let mut prices = [const { Vec::new() }; 3];
    let mut seen = HashSet::new();
    for section in top.tables("price", found) {
        for price in entry(&section, &tiers, &mut seen, found) {
            prices[price.provider as usize].push(price);
        }
    }
    let [openai, anthropic, google] = defaults;
    Some(PriceTable::new(prices, [openai?, anthropic?, google?]))
}

/// `[tiers.openai]`: what holds for every price of a provider that says nothing else.
fn provider_tiers(all: Option<&Section<'_>>, provider: Provider, found: &mut Found) -> Tiers {
    let section = all.and_then(|all| all.table_of(provider.as_str(), found));
    section.map_or_else(Tiers::new, |section| tiers(&section, found))
}

/// `[default.openai]`. There is one for each provider, so that no model is free because nobody knows it.
fn default(all: Option<&Section<'_>>, provider: Provider, tiers: &Tiers, found: &mut Found) -> Option<Price> {
    let Some(section) = all.and_then(|all| all.table_of(provider.as_str(), found)) else {
        let message = "is missing; models that no entry knows need a price";
        found.add(&format!("[default.{provider}]"), "", message);
        return None;
    };
    section.know(&[&CLASSES[..], &["above", "tiers"]].concat(), found);
    let (ordinary, tiers) = priced(&section, tiers, found)?;
    Some(Price {
        id: format!("{provider}/default").into(),
        provider,
        model: None,
        from_ms: None,
        key_ids: Vec::new(),
        ordinary,
        tiers,
    })
}

type Seen = HashSet<(Provider, String, Option<i64>, Option<KeyId>)>;

/// One `[[price]]`: a price for each of its models.
fn entry(section: &Section<'_>, tiers: &[Tiers; 3], seen: &mut Seen, found: &mut Found) -> Vec<Price> {
    section.know(
        &[
            &["provider", "model", "from", "key_ids"],
            &CLASSES[..],
            &["above", "tiers"],
        ]
        .concat(),
        found,
    );
    let provider = section.provider(found);
    let models = section.models(found);
    let section = &section.named(provider, &models);
    let (from_ms, key_ids) = (section.from(found), section.key_ids(found));
    let no_tiers = Tiers::new();
    let of_provider = provider.map_or(&no_tiers, |provider| &tiers[provider as usize]);
    let (Some((ordinary, tiers)), Some(provider)) = (priced(section, of_provider, found), provider) else {
        return Vec::new();
    };
    for model in &models {
        let keys = key_ids.iter().map(|key| Some(*key));
        let no_key = key_ids.is_empty().then_some(None);
        let is_twin = |key| !seen.insert((provider, (*model).to_owned(), from_ms, key));
        // Each key is noted, whatever comes of the one before.
        if keys.chain(no_key).map(is_twin).filter(|is_twin| *is_twin).count() > 0 {
            section.wrong(
                "model",
                format!("'{model}' has another price from the same time and for the same key"),
                found,
            );
        }
    }
    let price = |model: &&str| Price {
        id: id(provider, model, from_ms, &key_ids),
        provider,
        model: Some(Pattern::new(model)),
        from_ms,
        key_ids: key_ids.clone(),
        ordinary: ordinary.clone(),
        tiers: tiers.clone(),
    };
    models.iter().map(price).collect()
}

fn id(provider: Provider, model: &str, from_ms: Option<i64>, key_ids: &[KeyId]) -> Box<str> {
    let from = from_ms.and_then(|from_ms| Timestamp::from_millisecond(from_ms).ok());
    let from = from.map_or(String::new(), |from| {
        let from = from.to_string();
        format!("@{}", from.strip_suffix("T00:00:00Z").unwrap_or(&from))
    });
    let keys: Vec<String> = key_ids.iter().map(ToString::to_string).collect();
    let hash = if keys.is_empty() { "" } else { "#" };
    format!("{provider}/{model}{from}{hash}{}", keys.join(",")).into()
}

/// The ordinary prices, and those of service tiers.
type Priced = (Schedule, Vec<(Box<str>, Schedule)>);

/// The prices of a section and of its service tiers, with those of the provider where it has none of its own.
fn priced(section: &Section<'_>, of_provider: &Tiers, found: &mut Found) -> Option<Priced> {
    let ordinary = schedule(section, found);
    let own = section.table_of("tiers", found);
    let mut all = own.map_or_else(Tiers::new, |own| tiers(&own, found));
    let others = of_provider
        .iter()
        .filter(|(name, _)| !all.iter().any(|(own, _)| own == name));
    let others: Tiers = others.cloned().collect();
    all.extend(others);
    let ordinary = ordinary?;
    let tiers = all.into_iter().map(|(name, tier)| match tier {
        Tier::Times(factor) => (name, ordinary.times(factor)),
        Tier::Own(schedule) => (name, schedule),
    });
    let tiers = tiers.collect();
    Some((ordinary, tiers))
}

fn schedule(section: &Section<'_>, found: &mut Found) -> Option<Schedule> {
    let base = rates(section, found);
    let mut above = Vec::new();
    for tier in section.tables("above", found) {
        tier.know(&[&["input_tokens"], &CLASSES[..]].concat(), found);
        let threshold = tier.threshold(found);
        above.extend(threshold.zip(rates(&tier, found)));
    }
    above.sort_by_key(|(threshold, _)| Reverse(*threshold));
    if above.windows(2).any(|two| two[0].0 == two[1].0) {
        section.wrong("above", "has the same input_tokens twice", found);
    }
    Some(Schedule { base: base?, above })
}

/// The price of each class. What is left out costs what it is a kind of: cached input and audio input as input, writing for an hour
/// as writing for five minutes, audio output as output.
fn rates(section: &Section<'_>, found: &mut Found) -> Option<Rates> {
    let [
        input,
        output,
        cache_read,
        cache_write_5m,
        cache_write_1h,
        audio_input,
        audio_output,
    ] = CLASSES.map(|class| section.text(class, PRICE, found));
    for (class, rate) in [("input", input), ("output", output)] {
        if rate.is_none() && !section.table.contains_key(class) {
            section.wrong(class, format!("is missing; it {PRICE}"), found);
        }
    }
    let (input, output) = (input?, output?);
    let cache_write_5m = cache_write_5m.unwrap_or(input);
    Some(Rates {
        input,
        output,
        cache_read: cache_read.unwrap_or(input),
        cache_write_5m,
        cache_write_1h: cache_write_1h.unwrap_or(cache_write_5m),
        audio_input: audio_input.unwrap_or(input),
        audio_output: audio_output.unwrap_or(output),
    })
}

fn tiers(section: &Section<'_>, found: &mut Found) -> Tiers {
    let mut tiers = Tiers::new();
    for (name, value) in section.table {
        if name.is_empty() || is_ordinary(name) {
            section.wrong(
                name,
                "is the ordinary service, which the entry's own prices are for",
                found,
            );
        }
        let tier = match value {
            Value::Table(table) => {
                let own = section.within(name, table);
                own.know(&[&CLASSES[..], &["above"]].concat(), found);
                schedule(&own, found).map(Tier::Own)
            }
            _ => section.text(name, FACTOR, found).map(Tier::Times),
        };
        tiers.extend(tier.map(|tier| (name.as_str().into(), tier)));
    }
    tiers
}
