//! What the gateway counts, for Prometheus. Handles of the hot path are made once: a look-up by label costs more than the count.

use std::time::Duration;

use ace_policies::Provider;
use ace_policies::quota::LimitName;
use ace_policies::usage::Usage;
use prometheus::core::Collector;
use prometheus::{
    Encoder, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry, TextEncoder,
};

use self::journal::JournalFigures;
use crate::hangup::Drained;
use crate::ledger::journal::JournalStats;

mod journal;

/// Seconds; from a cached answer to an answer that thinks for minutes.
const SECONDS: &[f64] = &[
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0,
];
/// Seconds; the gateway's own time.
const OVERHEAD_SECONDS: &[f64] = &[
    0.000_025, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.1, 1.0,
];
const CLASSES: [&str; 8] = [
    "input",
    "cache_read",
    "cache_write_5m",
    "cache_write_1h",
    "output",
    "reasoning",
    "audio_input",
    "audio_output",
];

/// All counts.
pub struct Metrics {
    registry: Registry,
    providers: [PerProvider; 3],
    /// Requests that are being served, data plane and control API.
    pub in_flight: IntGauge,
    /// Requests to the control API.
    pub control_requests: IntCounter,
    refusals: IntCounterVec,
    upstream_errors: IntCounterVec,
    /// Streams that the client left before their end.
    pub client_gone: IntCounter,
    streams_stopped: IntCounterVec,
    drained: IntCounterVec,
    /// Changes of the price table that were refused.
    pub price_table_errors: IntCounter,
    ledger_lag: IntGauge,
    snapshot_age: IntGauge,
    journal: JournalFigures,
    /// Rows that the database refused for good.
    pub ledger_rows_lost: IntCounter,
    /// Answers of the database to asks for leases.
    pub leases_asked: IntCounter,
    /// Requests that went through although limits could not be checked.
    pub quota_failed_open: IntCounter,
    quota_refusals: IntCounterVec,
    quota_dry_runs: IntCounterVec,
    quota_thresholds: IntCounterVec,
}

struct PerProvider {
    /// By the hundreds of the status: 2xx to 5xx.
    requests: [IntCounter; 4],
    first_byte: Histogram,
    duration: Histogram,
    overhead: Histogram,
    tokens: [IntCounter; 8],
    unpriced: IntCounter,
}

impl Metrics {
    /// Registers everything. It fails only where two metrics have one name.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let counters = |name: &str, help: &str, labels: &[&str]| {
            register(&registry, IntCounterVec::new(Opts::new(name, help), labels)?)
        };
        let times = |name: &str, help: &str, buckets: &[f64]| {
            register(
                &registry,
                HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets.to_vec()), &["provider"])?,
            )
        };
        let gauge = |name: &str, help: &str| register(&registry, IntGauge::new(name, help)?);
        let count = |name: &str, help: &str| register(&registry, IntCounter::new(name, help)?);
        let requests = counters(
            "ace_requests_total",
            "Answered data-plane requests",
            &["provider", "status"],
        )?;
        let tokens = counters("ace_tokens_total", "Metered tokens by class", &["provider", "class"])?;
        let unpriced = counters(
            "ace_unpriced_requests_total",
            "Requests charged by a default, because their model or service tier has no price",
            &["provider"],
        )?;
        let first_byte = times(
            "ace_time_to_first_byte_seconds",
            "From the request's head to the answer's first byte",
            SECONDS,
        )?;
        let duration = times(
            "ace_request_duration_seconds",
            "From the request's head to the answer's end",
            SECONDS,
        )?;
        let overhead = times(
            "ace_own_overhead_seconds",
            "Time to the answer's head without waiting for client or provider",
            OVERHEAD_SECONDS,
        )?;
        let streams_stopped = counters(
            "ace_streams_stopped_total",
            "Streams that were ended before their answer was",
            &["reason"],
        )?;
        let drained = counters(
            "ace_drained_streams_total",
            "Answers that were read on although their client had hung up",
            &["outcome"],
        )?;
        streams_stopped.with_label_values(&["quota"]);
        for outcome in Drained::ALL {
            drained.with_label_values(&[outcome.as_str()]);
        }
        let per_provider = |provider: Provider| {
            let name = provider.as_str();
            PerProvider {
                requests: ["2xx", "3xx", "4xx", "5xx"].map(|status| requests.with_label_values(&[name, status])),
                first_byte: first_byte.with_label_values(&[name]),
                duration: duration.with_label_values(&[name]),
                overhead: overhead.with_label_values(&[name]),
                tokens: CLASSES.map(|class| tokens.with_label_values(&[name, class])),
                unpriced: unpriced.with_label_values(&[name]),
            }
        };
        Ok(Self {
            providers: Provider::ALL.map(per_provider),
            in_flight: gauge("ace_requests_in_flight", "Requests being served")?,
            control_requests: register(
                &registry,
                IntCounter::new("ace_control_requests_total", "Requests passed to the control API")?,
            )?,
            refusals: counters("ace_refusals_total", "Requests refused by the gateway", &["reason"])?,
            upstream_errors: counters(
                "ace_upstream_errors_total",
                "Requests that a provider did not answer completely",
                &["provider", "kind"],
            )?,
            client_gone: register(
                &registry,
                IntCounter::new("ace_client_gone_total", "Answers that the client left before their end")?,
            )?,
            streams_stopped,
            drained,
            price_table_errors: register(
                &registry,
                IntCounter::new(
                    "ace_price_table_errors_total",
                    "Changes of the price table that were refused",
                )?,
            )?,
            ledger_lag: gauge(
                "ace_ledger_waiting_rows",
                "Ledger rows that are not in the database yet",
            )?,
            snapshot_age: gauge(
                "ace_snapshot_age_milliseconds",
                "Since the database last confirmed users, sessions and keys",
            )?,
            ledger_rows_lost: count(
                "ace_ledger_rows_lost_total",
                "Ledger rows that the database refused for good",
            )?,
            leases_asked: count(
                "ace_quota_leases_asked_total",
                "Buckets for which leases were asked of the database",
            )?,
            quota_failed_open: count(
                "ace_quota_failed_open_total",
                "Requests let through although limits could not be checked",
            )?,
            quota_refusals: counters("ace_quota_refusals_total", "Requests refused by a limit", &["limit"])?,
            quota_dry_runs: counters(
                "ace_quota_dry_run_total",
                "Requests that a limit in dry run would refuse",
                &["limit"],
            )?,
            quota_thresholds: counters(
                "ace_quota_thresholds_total",
                "Soft thresholds passed",
                &["limit", "percent"],
            )?,
            journal: JournalFigures::register(&registry)?,
            registry,
        })
    }

    /// Counts a refusal by the limit that is spent.
    pub fn quota_refused(&self, limit: LimitName) {
        self.quota_refusals.with_label_values(&[limit.as_str()]).inc();
    }

    /// Counts what a limit in dry run would refuse.
    pub fn quota_dry_run(&self, limit: LimitName) {
        self.quota_dry_runs.with_label_values(&[limit.as_str()]).inc();
    }

    /// Counts a soft threshold that was passed.
    pub fn quota_threshold(&self, limit: LimitName, percent: u8) {
        let percent = percent.to_string();
        self.quota_thresholds
            .with_label_values(&[limit.as_str(), &percent])
            .inc();
    }

    /// Counts an answered request.
    pub fn answered(
        &self,
        provider: Provider,
        status: u16,
        first_byte: Option<Duration>,
        duration: Duration,
        usage: &Usage,
    ) {
        let counts = self.of(provider);
        counts.requests[usize::from((status / 100).clamp(2, 5) - 2)].inc();
        if let Some(first_byte) = first_byte {
            counts.first_byte.observe(first_byte.as_secs_f64());
        }
        counts.duration.observe(duration.as_secs_f64());
        let tokens = [
            usage.input,
            usage.cache_read,
            usage.cache_write_5m,
            usage.cache_write_1h,
            usage.output,
            usage.reasoning,
            usage.audio_input,
            usage.audio_output,
        ];
        for (counter, tokens) in counts.tokens.iter().zip(tokens).filter(|(_, tokens)| *tokens > 0) {
            counter.inc_by(tokens);
        }
    }

    /// Counts the gateway's own share of the time to an answer's head.
    pub fn overhead(&self, provider: Provider, own: Duration) {
        self.of(provider).overhead.observe(own.as_secs_f64());
    }

    /// Counts a refusal by its reason.
    pub fn refused(&self, reason: &str) {
        self.refusals.with_label_values(&[reason]).inc();
    }

    /// Counts a provider's failure by its kind.
    pub fn upstream_error(&self, provider: Provider, kind: &str) {
        self.upstream_errors.with_label_values(&[provider.as_str(), kind]).inc();
    }

    /// Counts a stream that was ended because it may not go on.
    pub fn streams_stopped(&self, reason: &str) {
        self.streams_stopped.with_label_values(&[reason]).inc();
    }

    /// Counts an answer that was read on without its client.
    pub fn drained(&self, outcome: Drained) {
        self.drained.with_label_values(&[outcome.as_str()]).inc();
    }

    /// Counts a request whose model or service tier has no price of its own.
    pub fn unpriced(&self, provider: Provider) {
        self.of(provider).unpriced.inc();
    }

    /// Everything in Prometheus' text format, with these gauges brought up to date.
    pub fn text(&self, ledger_waiting: usize, snapshot_age: Duration, journal: &JournalStats) -> Vec<u8> {
        self.journal.bring_up_to_date(journal);
        self.ledger_lag.set(i64::try_from(ledger_waiting).unwrap_or(i64::MAX));
        self.snapshot_age
            .set(i64::try_from(snapshot_age.as_millis()).unwrap_or(i64::MAX));
        let mut text = Vec::new();
        if let Err(error) = TextEncoder::new().encode(&self.registry.gather(), &mut text) {
            tracing::error!(%error, "metrics cannot be encoded");
        }
        text
    }

    fn of(&self, provider: Provider) -> &PerProvider {
        &self.providers[match provider {
            Provider::OpenAi => 0,
            Provider::Anthropic => 1,
            Provider::Google => 2,
        }]
    }
}

fn register<C: Collector + Clone + 'static>(registry: &Registry, collector: C) -> Result<C, prometheus::Error> {
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_is_shown_before_anything_happened() {
        let text = String::from_utf8(Metrics::new().expect("distinct names").text(
            3,
            Duration::from_millis(20),
            &JournalStats::default(),
        ))
        .expect("text");
        for name in [
            "ace_requests_total",
            "ace_requests_in_flight",
            "ace_time_to_first_byte_seconds",
            "ace_own_overhead_seconds",
            "ace_tokens_total",
            "ace_ledger_waiting_rows 3",
            "ace_journal_records_total 0",
            "ace_quota_leases_asked_total 0",
            "ace_streams_stopped_total{reason=\"quota\"} 0",
            "ace_drained_streams_total{outcome=\"complete\"} 0",
            "ace_price_table_errors_total 0",
            "ace_unpriced_requests_total{provider=\"google\"} 0",
        ] {
            assert!(text.contains(name), "{name} is missing");
        }
    }
}
