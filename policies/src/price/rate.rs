//! What a million tokens cost, in integers.

use std::fmt;
use std::str::FromStr;

use crate::usage::Usage;

/// Decimals that a price or a factor may have.
const DECIMALS: usize = 6;
const ONE: u64 = 1_000_000;

/// Millionths of a US dollar for a million tokens. It is written as a decimal number of US dollars.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Rate(u64);

impl Rate {
    /// No price is higher: a dollar a token.
    pub const MAX: Self = Self(ONE * ONE);

    /// Millionths of a US dollar for a million tokens.
    pub const fn micro_usd(self) -> u64 {
        self.0
    }

    /// What so many tokens cost, in millionths of a micro-USD.
    const fn of(self, tokens: u64) -> u128 {
        self.0 as u128 * tokens as u128
    }

    /// Times a factor, rounded half up to the millionth of a US dollar.
    fn times(self, factor: Factor) -> Self {
        let product = u128::from(self.0) * u128::from(factor.0);
        Self(rounded(product))
    }
}

impl FromStr for Rate {
    type Err = BadDecimal;

    fn from_str(text: &str) -> Result<Self, BadDecimal> {
        decimal(text)
            .map(Self)
            .filter(|rate| *rate <= Self::MAX)
            .ok_or(BadDecimal)
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let decimals = format!("{:06}", self.0 % ONE);
        let cents = decimals.trim_end_matches('0').len().max(2);
        write!(f, "{}.{}", self.0 / ONE, &decimals[..cents])
    }
}

/// What a service tier's prices are multiplied with, in millionths.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Factor(u64);

impl Factor {
    const MAX: u64 = 1_000 * ONE;
}

impl FromStr for Factor {
    type Err = BadDecimal;

    fn from_str(text: &str) -> Result<Self, BadDecimal> {
        decimal(text)
            .filter(|factor| *factor <= Self::MAX)
            .map(Self)
            .ok_or(BadDecimal)
    }
}

/// No decimal number, a negative one, too high, or with too many decimals.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BadDecimal;

/// A decimal number in millionths.
fn decimal(text: &str) -> Option<u64> {
    let (whole, decimals) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(decimals) || decimals.len() > DECIMALS {
        return None;
    }
    let millionths: u64 = format!("{decimals:0<DECIMALS$}").parse().ok()?;
    whole.parse::<u64>().ok()?.checked_mul(ONE)?.checked_add(millionths)
}

/// Millionths to wholes, half up. What is too much for the type is its highest value.
fn rounded(millionths: u128) -> u64 {
    let wholes = millionths.saturating_add(u128::from(ONE / 2)) / u128::from(ONE);
    u64::try_from(wholes).unwrap_or(u64::MAX)
}

/// What each class of tokens costs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Rates {
    /// Input that is neither read from a cache nor written to one.
    pub input: Rate,
    /// Output, reasoning included.
    pub output: Rate,
    /// Input that a cache served.
    pub cache_read: Rate,
    /// Input that is written to a cache for five minutes.
    pub cache_write_5m: Rate,
    /// Input that is written to a cache for an hour.
    pub cache_write_1h: Rate,
    /// Of the input: audio.
    pub audio_input: Rate,
    /// Of the output: audio.
    pub audio_output: Rate,
}

impl Rates {
    /// The classes by their names in a table, with what they cost.
    pub const fn classes(&self) -> [(&'static str, Rate); 7] {
        [
            ("input", self.input),
            ("output", self.output),
            ("cache_read", self.cache_read),
            ("cache_write_5m", self.cache_write_5m),
            ("cache_write_1h", self.cache_write_1h),
            ("audio_input", self.audio_input),
            ("audio_output", self.audio_output),
        ]
    }

    /// What a usage costs, in micro-USD. Audio is taken out of input and output, never added to them.
    fn cost(&self, usage: &Usage) -> u64 {
        let (heard, spoken) = (usage.audio_input.min(usage.input), usage.audio_output.min(usage.output));
        let parts = [
            self.input.of(usage.input - heard),
            self.audio_input.of(heard),
            self.cache_read.of(usage.cache_read),
            self.cache_write_5m.of(usage.cache_write_5m),
            self.cache_write_1h.of(usage.cache_write_1h),
            self.output.of(usage.output - spoken),
            self.audio_output.of(spoken),
        ];
        rounded(parts.into_iter().sum())
    }

    /// The most that so many tokens can cost, in micro-USD.
    fn at_most(&self, input_tokens: u64, output_tokens: u64) -> u64 {
        let input = [
            self.input,
            self.cache_read,
            self.cache_write_5m,
            self.cache_write_1h,
            self.audio_input,
        ];
        let highest = input.into_iter().max().unwrap_or_default();
        let output = self.output.max(self.audio_output);
        rounded(highest.of(input_tokens) + output.of(output_tokens))
    }

    fn times(&self, factor: Factor) -> Self {
        Self {
            input: self.input.times(factor),
            output: self.output.times(factor),
            cache_read: self.cache_read.times(factor),
            cache_write_5m: self.cache_write_5m.times(factor),
            cache_write_1h: self.cache_write_1h.times(factor),
            audio_input: self.audio_input.times(factor),
            audio_output: self.audio_output.times(factor),
        }
    }
}

/// What tokens cost by the length of the context.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Schedule {
    /// The ordinary prices.
    pub base: Rates,
    /// Other prices for requests whose whole input side is above so many tokens, the highest threshold first.
    pub above: Vec<(u64, Rates)>,
}

impl Schedule {
    /// What a usage costs, in micro-USD. The whole input side chooses the prices, and they hold for every token of it.
    pub(super) fn cost(&self, usage: &Usage) -> u64 {
        let input = usage.input_side();
        let above = self.above.iter().find(|(threshold, _)| input > *threshold);
        above.map_or(&self.base, |(_, rates)| rates).cost(usage)
    }

    /// The most that up to so many tokens can cost, in micro-USD.
    pub(super) fn at_most(&self, input_tokens: u64, output_tokens: u64) -> u64 {
        let reachable = self.above.iter().filter(|(threshold, _)| input_tokens > *threshold);
        let rates = reachable.map(|(_, rates)| rates).chain([&self.base]);
        rates
            .map(|rates| rates.at_most(input_tokens, output_tokens))
            .max()
            .unwrap_or_default()
    }

    pub(super) fn times(&self, factor: Factor) -> Self {
        let above = self
            .above
            .iter()
            .map(|(threshold, rates)| (*threshold, rates.times(factor)));
        Self {
            base: self.base.times(factor),
            above: above.collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trap_11_prices_are_decimal_text_and_integers_inside() {
        for (text, micro_usd, printed) in [
            ("3.00", 3_000_000, "3.00"),
            ("3", 3_000_000, "3.00"),
            ("0.000001", 1, "0.000001"),
            ("0.075", 75_000, "0.075"),
            ("0", 0, "0.00"),
            ("1000000", 1_000_000_000_000, "1000000.00"),
        ] {
            let rate: Rate = text.parse().expect(text);
            assert_eq!((rate.micro_usd(), rate.to_string().as_str()), (micro_usd, printed));
        }
    }

    #[test]
    fn what_is_no_price_is_none() {
        let bad = [
            "",
            ".",
            "1.",
            ".5",
            "-1",
            "+1",
            "1e3",
            "1,5",
            "0.0000001",
            "1000000.000001",
            " 1",
            "1_000",
            "٣",
        ];
        for text in bad {
            assert_eq!(text.parse::<Rate>(), Err(BadDecimal), "{text}");
        }
        assert_eq!("99999999999999999999".parse::<Rate>(), Err(BadDecimal));
        assert_eq!("1001".parse::<Factor>(), Err(BadDecimal));
    }

    #[test]
    fn half_a_millionth_is_rounded_up() {
        assert_eq!(
            [0, 499_999, 500_000, 1_499_999, 1_500_000].map(rounded),
            [0, 0, 1, 1, 2]
        );
        assert_eq!(rounded(u128::MAX), u64::MAX);
    }
}
