//! Exports against what the small writer of `tests` wrote.

use std::collections::BTreeMap;

use ace_policies::quota::Calendar;
use ace_policies::{KeyId, Provider};
use insta::{allow_duplicates, assert_snapshot};

use super::tests::{REQUEST, Settled};
use super::{Ours, Reading, Reconciled, Verdict};
use crate::testing::{NOON, World, worlds};

const MINUTE: i64 = 60_000;

async fn reconcile(
    world: &World,
    provider: Provider,
    zone: &str,
    ours_key: Option<i64>,
    key: Option<&str>,
    text: &str,
) -> Reconciled {
    let calendar = Calendar::new(zone).unwrap();
    let reading = Reading {
        provider,
        columns: BTreeMap::new(),
        key,
        calendar: &calendar,
    };
    let export = reading.read(text).unwrap();
    let ours = Ours {
        provider,
        key: ours_key.map(KeyId),
        calendar: &calendar,
    };
    world.app.reconcile(&export, &ours).await.unwrap()
}

fn told(reconciled: &Reconciled) -> String {
    reconciled
        .findings
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("\n")
}

async fn run(world: &World, sql: &'static str) {
    sqlx::query(sql).execute(&world.database.db.write).await.unwrap();
}

#[tokio::test]
async fn an_export_by_day_and_model_is_compared_class_by_class() {
    for world in worlds().await {
        for n in 0..2 {
            Settled {
                at: NOON + n * MINUTE,
                ..REQUEST
            }
            .write_ledger(&world)
            .await;
        }
        Settled {
            model: "claude-haiku-4-5",
            ..REQUEST
        }
        .write_ledger(&world)
        .await;
        Settled {
            model: "claude-sonnet-4-5",
            ..REQUEST
        }
        .write_ledger(&world)
        .await;
        // Never reached the provider.
        Settled {
            model: "claude-other",
            ..REQUEST
        }
        .write_ledger(&world)
        .await;
        run(&world, "UPDATE request_ledger SET charged_requests = 0, input_tokens = 0, cache_read_tokens = 0, cache_write_5m_tokens = 0,
                     cache_write_1h_tokens = 0, output_tokens = 0 WHERE model_served = 'claude-other'").await;
        let text = include_str!("samples/anthropic_days.csv");
        let found = reconcile(&world, Provider::Anthropic, "UTC", Some(7), None, text).await;
        allow_duplicates!(assert_snapshot!(told(&found), @r"
        match: lines 2, 3: day 2026-01-31T00:00:00.000Z model 'claude-opus-4-5': input 20, cache_read 200, cache_write_5m 40, cache_write_1h 60, output 10
        differs: line 4: day 2026-01-31T00:00:00.000Z model 'claude-haiku-4-5': output theirs 7, ours 5 (-2)
        missing here: line 5: day 2026-01-30T00:00:00.000Z model 'claude-opus-4-5': input 1, cache_read 0, cache_write_5m 0, cache_write_1h 0, output 1
        not in the export: day 2026-01-31T00:00:00.000Z model 'claude-sonnet-4-5': requests 1, input_side 160, input 10, cache_read 100, cache_write 50, cache_write_5m 20, cache_write_1h 30, output 5
        "));
        assert!(!found.is_clean());
        let other_key = reconcile(&world, Provider::Anthropic, "UTC", Some(8), Some("other"), text).await;
        assert_eq!(
            (other_key.count(Verdict::MissingHere), other_key.findings.len()),
            (1, 1)
        );
    }
}

#[tokio::test]
async fn an_export_of_requests_is_compared_one_by_one() {
    for world in worlds().await {
        for (minute, upstream) in [
            (0, Some("req_1")),
            (1, Some("req_2")),
            (2, Some("req_9")),
            (3, None),
            (60, Some("req_later")),
        ] {
            Settled {
                at: NOON + minute * MINUTE,
                upstream,
                ..REQUEST
            }
            .write_ledger(&world)
            .await;
        }
        run(
            &world,
            "UPDATE request_ledger SET provider = 'openai', cache_write_5m_tokens = 0, cache_write_1h_tokens = 0",
        )
        .await;
        run(&world, "UPDATE request_ledger SET request_id = 'ours-' || id").await;
        let text = include_str!("samples/openai_requests.csv");
        let found = reconcile(&world, Provider::OpenAi, "UTC", None, None, text).await;
        allow_duplicates!(assert_snapshot!(told(&found), @r"
        match: line 2: request req_1: input 10, cache_read 100, output 5
        differs: line 3: request req_2: output theirs 9, ours 5 (-4)
        missing here: line 4: request req_3: input 7, cache_read 0, output 1
        not in the export: request req_9 (ours-3): requests 1, input_side 110, input 10, cache_read 100, cache_write 0, cache_write_5m 0, cache_write_1h 0, output 5
        not in the export: request without the provider's id (ours-4): requests 1, input_side 110, input 10, cache_read 100, cache_write 0, cache_write_5m 0, cache_write_1h 0, output 5
        "));
    }
}

#[tokio::test]
async fn what_agrees_is_clean() {
    for world in worlds().await {
        for n in 0..4 {
            Settled {
                at: NOON + n * MINUTE,
                model: "gpt-5-mini-2025-08-07",
                ..REQUEST
            }
            .write_ledger(&world)
            .await;
        }
        run(
            &world,
            "UPDATE request_ledger SET provider = 'openai', cache_write_5m_tokens = 0, cache_write_1h_tokens = 0",
        )
        .await;
        let text = include_str!("samples/openai_days.csv");
        let found = reconcile(&world, Provider::OpenAi, "UTC", None, None, text).await;
        assert!(found.is_clean(), "{}", told(&found));
        assert_eq!(
            found.theirs.to_string(),
            "requests 4, input 40, cache_read 400, output 20"
        );
    }
}

#[tokio::test]
async fn google_bills_by_days_of_the_pacific_and_by_names_without_versions() {
    for world in worlds().await {
        // Half past eleven in the evening of the 31st, in Los Angeles.
        Settled {
            at: NOON + 19 * 60 * MINUTE + 30 * MINUTE,
            model: "gemini-2.5-flash-preview-09-2025",
            ..REQUEST
        }
        .write_ledger(&world)
        .await;
        run(
            &world,
            "UPDATE request_ledger SET provider = 'google', input_tokens = 1010, output_tokens = 505",
        )
        .await;
        let text = include_str!("samples/google_days.csv");
        let found = reconcile(&world, Provider::Google, "America/Los_Angeles", None, None, text).await;
        allow_duplicates!(
            assert_snapshot!(told(&found), @"match: lines 2, 3: day 2026-01-31T08:00:00.000Z model 'gemini-2.5-flash': input 1010, output 505")
        );
    }
}
