//! A request's place in the ledger, from the door to the last byte.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ace_policies::price::Price;
use ace_policies::quota::Amounts;
use ace_policies::usage::{Source, Usage};

use super::charge::{Charge, charges};
use super::journal::{JournalError, Seat, SettledSeat};
use super::row::{Entry, Row};
use super::writer::Message;
use super::{Ledger, LedgerOptions, Untaken, unavailable};
use crate::provider::{Meter, RealtimeMeter, tokens_in};
use crate::refusal::Refusal;
use crate::snapshot::Limits;

/// Output tokens by which a stream's reservation grows.
const SLAB: u64 = 1024;
/// A stream whose length nobody has limited asks for more when only so many of its tokens are left: a piece may bring several.
const MARGIN: u64 = 256;

/// What a request may use, by what it says.
#[derive(Clone, Debug, Default)]
pub struct Estimate {
    /// Bytes of its body that a model reads; 0 for a call that costs nothing.
    pub input_bytes: u64,
    /// The most output tokens that it allows, all its answers together.
    pub max_output: Option<u64>,
    /// How many answers it asks for; 0 where they have no output.
    pub answers: u64,
    /// The service tier that it asks for.
    pub service_tier: Option<String>,
}

impl Estimate {
    /// Tokens of input and output to be reserved.
    fn tokens(&self, options: &LedgerOptions) -> (u64, u64) {
        let input = self.input_bytes.div_ceil(options.bytes_per_token);
        let output = match self.answers {
            0 => 0,
            answers => self
                .max_output
                .unwrap_or(options.default_output.saturating_mul(answers)),
        };
        (input, output)
    }
}

/// A request's row in the making. Dropping it settles it.
pub struct Reservation {
    /// Always there until the drop.
    entry: Option<Box<Entry>>,
    meter: Option<Reader>,
    started: Instant,
    ledger: Ledger,
    hold: Option<Box<Hold>>,
}

/// Who reads an answer.
enum Reader {
    Answer(Box<Meter>),
    Realtime(Box<RealtimeMeter>),
}

/// What is reserved for a request that was admitted.
struct Hold {
    charges: Vec<Charge>,
    seat: Seat,
    price: Arc<Price>,
    service_tier: Option<String>,
    input: u64,
    output: u64,
    max_output: Option<u64>,
    is_short: bool,
}

impl Reservation {
    pub(super) fn new(entry: Entry, started: Instant, ledger: Ledger) -> Self {
        Self {
            entry: Some(Box::new(entry)),
            meter: None,
            started,
            ledger,
            hold: None,
        }
    }

    /// Reserves what the request may use, against every limit of whom it is charged to, and notes it in the journal. Only then may it go
    /// out.
    ///
    /// # Errors
    /// The limit that is spent; or that limits cannot be checked, or the journal not be written.
    pub async fn admit(&mut self, estimate: Estimate, limits: &Limits) -> Result<(), Refusal> {
        let ledger = self.ledger.clone();
        let options = &ledger.shared.options;
        let entry = self.entry();
        entry.day = ledger.day(entry.started_at_ms);
        let price = ledger.shared.prices.price(
            entry.provider,
            entry.model_asked.as_deref(),
            entry.key,
            entry.started_at_ms,
        );
        let (input, output) = estimate.tokens(options);
        let amounts = Amounts {
            tokens: input.saturating_add(output),
            requests: 1,
            cost_micro_usd: price.at_most(input, output, estimate.service_tier.as_deref()),
        };
        let accounts = entry.accounts().into_iter().flatten();
        let limited = accounts.map(|account| (account, limits.of(&account)));
        let mut charges = charges(limited, &entry.day, entry.started_at_ms, amounts);
        ledger.admit(&mut charges).await?;
        let usage = Usage {
            input,
            output,
            ..Usage::default()
        };
        let entry = self.entry();
        let id = entry.request_id;
        let opened = entry.opened(usage, amounts.cost_micro_usd, price.id());
        let draft = match ledger.shared.journal.draft(&opened) {
            Ok(draft) => draft,
            Err(error) => return Err(ledger.unwritten(&error, &charges)),
        };
        let Estimate {
            max_output,
            service_tier,
            ..
        } = estimate;
        let hold = Hold {
            charges,
            seat: draft.seat,
            price,
            service_tier,
            input,
            output,
            max_output,
            is_short: false,
        };
        // From here on it is settled, even if nobody waits for the rest of this.
        self.hold = Some(Box::new(hold));
        // Whoever else is about to be admitted is written together with it.
        tokio::task::yield_now().await;
        if let Err(error) = ledger.shared.journal.confirm(&draft) {
            let charges = self.hold.take().map_or_else(Vec::new, |hold| hold.charges);
            return Err(ledger.unwritten(&error, &charges));
        }
        let _ = ledger.rows.send(Message::Opened(id, draft.kept));
        Ok(())
    }

    /// The row, to be filled as the request goes on.
    pub fn entry(&mut self) -> &mut Entry {
        self.entry
            .as_mut()
            .expect("the entry is there until the reservation is dropped")
    }

    /// Has the answer read by `meter` from here on.
    pub fn read_with(&mut self, meter: Meter) {
        self.meter = Some(Reader::Answer(Box::new(meter)));
    }

    /// Has the messages of a realtime connection read from here on.
    pub fn read_messages_with(&mut self, meter: RealtimeMeter) {
        self.meter = Some(Reader::Realtime(Box::new(meter)));
    }

    /// Who reads the answer, unless that is a realtime connection.
    pub fn answer(&self) -> Option<&Meter> {
        match &self.meter {
            Some(Reader::Answer(meter)) => Some(meter),
            _ => None,
        }
    }

    /// Who reads a realtime connection.
    pub fn conversation(&self) -> Option<&RealtimeMeter> {
        match &self.meter {
            Some(Reader::Realtime(meter)) => Some(meter),
            _ => None,
        }
    }

    /// Charges a request whose answer nobody waited for by its body: the provider reads it all the same, and bills it.
    pub fn estimate_input(&mut self) {
        let entry = self.entry();
        entry.usage.input = tokens_in(entry.bytes_in);
        entry.source = Source::Estimated;
    }

    /// Reads a piece of the answer's body that goes to the client.
    pub fn meter(&mut self, data: &[u8]) {
        self.entry().bytes_out += data.len() as u64;
        self.meter_unsent(data);
    }

    /// Reads a piece of the answer's body that nobody gets.
    pub fn meter_unsent(&mut self, data: &[u8]) {
        match &mut self.meter {
            Some(Reader::Answer(meter)) => meter.feed(data),
            Some(Reader::Realtime(meter)) => meter.feed(data),
            None => {}
        }
        self.keep_ahead();
    }

    /// Whether what has flowed is about to outgrow what is reserved; asked after every piece.
    pub fn is_short(&self) -> bool {
        self.hold.as_ref().is_some_and(|hold| hold.is_short)
    }

    /// Reserves more before what has flowed outgrows what is reserved, where that takes no waiting.
    fn keep_ahead(&mut self) {
        if self.hold.as_ref().is_none_or(|hold| hold.charges.is_empty()) {
            return;
        }
        let flowed = self.flowed();
        let Some(hold) = &mut self.hold else { return };
        hold.is_short = match hold.missing(&flowed) {
            0 => false,
            missing => !hold.grow_now(missing.max(SLAB), &self.ledger),
        };
    }

    /// Reserves more for what is still to flow. It may be dropped before it is ready, and asked again.
    ///
    /// # Errors
    /// The limit that is spent.
    pub async fn extend(&mut self) -> Result<(), Refusal> {
        let flowed = self.flowed();
        let ledger = self.ledger.clone();
        let Some(hold) = &mut self.hold else { return Ok(()) };
        let missing = hold.missing(&flowed);
        if missing == 0 || hold.charges.is_empty() {
            hold.is_short = false;
            return Ok(());
        }
        if hold.grow(missing.max(SLAB), &ledger).await.is_err() {
            // Of what is too little for a slab, the rest.
            hold.grow(missing, &ledger).await?;
        }
        hold.is_short = false;
        Ok(())
    }

    /// What has flowed so far, counted safely high. Cheap enough for every piece.
    fn flowed(&self) -> Usage {
        let bytes_per_token = self.ledger.shared.options.bytes_per_token;
        let bytes_in = self.entry.as_ref().map_or(0, |entry| entry.bytes_in);
        match &self.meter {
            Some(Reader::Answer(meter)) => meter.so_far_at_most(bytes_per_token, bytes_in),
            Some(Reader::Realtime(meter)) => meter.so_far_at_most(bytes_per_token),
            None => Usage::default(),
        }
    }

    /// Reserves so many more tokens.
    #[cfg(test)]
    pub async fn grow_by(&mut self, tokens: u64) -> Result<(), Refusal> {
        let ledger = self.ledger.clone();
        match &mut self.hold {
            Some(hold) => hold.grow(tokens, &ledger).await,
            None => Ok(()),
        }
    }

    /// Goes without settling, as when the process is killed.
    #[cfg(test)]
    pub fn vanish(mut self) {
        self.entry = None;
    }
}

impl Hold {
    /// How many tokens too few are reserved. Output beyond what the request allows is an estimate gone wrong: it is not reserved.
    fn missing(&self, flowed: &Usage) -> u64 {
        let output = match self.max_output {
            Some(most) => flowed.output.min(most),
            None => flowed.output.saturating_add(MARGIN),
        };
        let needed = flowed.input_side().saturating_add(output);
        needed.saturating_sub(self.input.saturating_add(self.output))
    }

    /// What so many more output tokens come to.
    fn more(&self, tokens: u64) -> Amounts {
        let cost = |output: u64| self.price.at_most(self.input, output, self.service_tier.as_deref());
        let grown = self.output.saturating_add(tokens);
        Amounts {
            tokens,
            requests: 0,
            cost_micro_usd: cost(grown).saturating_sub(cost(self.output)),
        }
    }

    fn grow_now(&mut self, tokens: u64, ledger: &Ledger) -> bool {
        let more = self.more(tokens);
        let grown = ledger.take_now(&mut self.charges, more);
        if grown {
            self.output = self.output.saturating_add(tokens);
        }
        grown
    }

    async fn grow(&mut self, tokens: u64, ledger: &Ledger) -> Result<(), Refusal> {
        let more = self.more(tokens);
        let charges = &mut self.charges;
        match ledger.take(|book, now| book.extend(charges, more, now)).await {
            Ok(()) => {}
            Err(Untaken::Refused(refusal)) => return Err(refusal),
            Err(Untaken::Away) => ledger.go_on_trust()?,
        }
        self.output = self.output.saturating_add(tokens);
        Ok(())
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let Some(mut entry) = self.entry.take() else {
            return;
        };
        if let Some(meter) = self.meter.take() {
            let metered = match meter {
                Reader::Answer(meter) => meter.finish().with_estimated_input(entry.bytes_in),
                Reader::Realtime(meter) => meter.finish(),
            };
            entry.usage = metered.usage;
            entry.source = metered.source;
            entry.model_served = metered.model_served;
            entry.service_tier = metered.service_tier;
        }
        let duration = self.started.elapsed();
        entry.duration_ms = millis(duration);
        let first_byte = entry.ttfb_ms.map(Duration::from_millis);
        let shared = &self.ledger.shared;
        shared
            .metrics
            .answered(entry.provider, entry.status, first_byte, duration, &entry.usage);
        let (charges, seat) = match self.hold.take() {
            Some(hold) => self.ledger.close(&mut entry, *hold),
            None => {
                entry.day = self.ledger.day(entry.started_at_ms);
                (Vec::new(), None)
            }
        };
        self.ledger.settle(Row { entry, charges, seat });
    }
}

impl Ledger {
    /// Why a request is refused that the journal does not take; what was taken for it is given back.
    fn unwritten(&self, error: &JournalError, charges: &[Charge]) -> Refusal {
        // The journal has said so once, for all who are refused.
        tracing::debug!(%error, "the journal cannot be written; the request is refused");
        self.shared.book.settle(charges, Amounts::default());
        unavailable("The gateway's journal cannot be written")
    }

    /// Charges an admitted request with what it really used.
    fn close(&self, entry: &mut Entry, hold: Hold) -> (Vec<Charge>, Option<SettledSeat>) {
        let is_answered = (200..300).contains(&entry.status) || entry.status == 101;
        entry.charged_requests = u64::from(is_answered || !entry.usage.is_zero());
        let prices = &self.shared.prices;
        let price = match entry.model_served.as_deref() {
            // Providers answer with the dated name of the model that was asked for, or with another one.
            Some(served) if entry.model_asked.as_deref() != Some(served) => {
                let found = prices.price(entry.provider, Some(served), entry.key, entry.started_at_ms);
                if found.is_default() { hold.price } else { found }
            }
            _ => hold.price,
        };
        let tier = entry.service_tier.as_deref().or(hold.service_tier.as_deref());
        entry.cost_micro_usd = prices.charge(&price, &entry.usage, tier);
        entry.price = (!entry.usage.is_zero()).then(|| price.id().to_owned());
        self.shared.book.settle(&hold.charges, entry.amounts());
        let seat = self.shared.journal.settle(hold.seat, &entry.settled());
        (hold.charges, Some(seat))
    }
}

/// Whole milliseconds.
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
