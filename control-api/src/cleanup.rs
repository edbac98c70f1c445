//! Removes what nobody needs any more. One node at a time does it, in small steps, so that nobody waits for it.

use std::time::Duration;

use crate::App;
use crate::background;
use crate::error::ApiError;
use crate::output;

/// How often it is done.
const PAUSE: Duration = Duration::from_secs(600);

/// How long the first round waits, so that a start is not slowed down.
const FIRST_PAUSE: Duration = Duration::from_secs(30);

/// Longer than a round takes, and than the pause between two.
const LEASE: Duration = Duration::from_secs(1200);

/// Rows of one transaction: others wait meanwhile.
const BATCH: i64 = 1000;

/// How long ended logins and used-up registration tokens are kept, for those who look into what happened, and reports of usage, so that one
/// that comes twice is known.
const KEPT_MS: i64 = 7 * 86_400_000;

/// How long commands are kept that are over and no session's: those of sessions go with what was said there.
const KEPT_COMMANDS_MS: i64 = 86_400_000;

/// Cleans up until the program ends.
pub(crate) async fn run(app: App) {
    let mut wait = FIRST_PAUSE;
    while background::pause(&app, wait).await {
        wait = PAUSE;
        match round(&app).await {
            Ok(0) => {}
            Ok(rows) => tracing::debug!(rows, "cleaned up"),
            Err(error) => tracing::warn!(%error, "cleaning up failed; it is tried again later"),
        }
    }
}

/// Clears what deleted sessions left whenever some were deleted here, beside the rounds. Has no end of its own.
pub(crate) async fn leftovers(app: App) {
    loop {
        app.leftovers().notified().await;
        while output::clear_leftovers(&app).await {}
    }
}

/// Cleans up once, if no other node does. Returns how many rows went.
pub(crate) async fn round(app: &App) -> Result<u64, ApiError> {
    if !background::lease(app, "cleanup", LEASE).await? {
        return Ok(0);
    }
    let notify = &app.config().notify;
    let (events, notifications) = (before(app, notify.keep_events), before(app, notify.keep_notifications));
    let (ended, finished) = (app.now() - KEPT_MS, app.now() - KEPT_COMMANDS_MS);
    let mut rows = 0;
    for (sql, limit) in [
        (REGISTRATION_TOKENS, ended),
        (LOGINS, ended),
        (LOGIN_FAILURES, ended),
        (EVENTS, events),
        (DELIVERIES, events),
        (NOTIFICATIONS, notifications),
        (NODES, ended),
        (COMMANDS, finished),
        (USAGE_REPORTS, ended),
    ] {
        rows += remove(app, sql, limit).await?;
    }
    rows += output::forget_old(app).await?;
    Ok(rows)
}

fn before(app: &App, age: Duration) -> i64 {
    app.now()
        .saturating_sub(i64::try_from(age.as_millis()).unwrap_or(i64::MAX))
}

const REGISTRATION_TOKENS: &str = "DELETE FROM registration_tokens WHERE token_hash IN
    (SELECT token_hash FROM registration_tokens WHERE expires_at < $1 LIMIT $2)";

const LOGINS: &str = "DELETE FROM logins WHERE id IN (SELECT id FROM logins WHERE expires_at < $1 LIMIT $2)";

const LOGIN_FAILURES: &str = "DELETE FROM login_failures WHERE subject IN
    (SELECT subject FROM login_failures WHERE window_start < $1 AND locked_until < $1 LIMIT $2)";

const EVENTS: &str = "DELETE FROM events WHERE id IN (SELECT id FROM events WHERE at < $1 ORDER BY at LIMIT $2)";

/// Also those that are still due: of a webhook that is switched off, or whose receiver was away for so long.
const DELIVERIES: &str = "DELETE FROM webhook_deliveries WHERE id IN
    (SELECT id FROM webhook_deliveries WHERE created_at < $1 LIMIT $2)";

const NOTIFICATIONS: &str = "DELETE FROM notifications WHERE id IN
    (SELECT id FROM notifications WHERE created_at < $1 LIMIT $2)";

const NODES: &str = "DELETE FROM control_nodes WHERE node_id IN
    (SELECT node_id FROM control_nodes WHERE seen_at < $1 LIMIT $2)";

const COMMANDS: &str = "DELETE FROM agent_commands WHERE id IN
    (SELECT id FROM agent_commands WHERE session_id IS NULL AND finished_at < $1 LIMIT $2)";

const USAGE_REPORTS: &str = "DELETE FROM usage_reports WHERE (machine_id, report_id) IN
    (SELECT machine_id, report_id FROM usage_reports WHERE at < $1 LIMIT $2)";

async fn remove(app: &App, sql: &'static str, limit: i64) -> Result<u64, ApiError> {
    let mut rows = 0;
    loop {
        let mut record = app.record().await?;
        let gone = sqlx::query(sql).bind(limit).bind(BATCH).execute(record.sql()).await?;
        record.commit().await?;
        rows += gone.rows_affected();
        if gone.rows_affected() < BATCH.unsigned_abs() || app.closing().is_cancelled() {
            return Ok(rows);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{World, worlds};

    async fn run_sql(world: &World, sql: &'static str) {
        let inserted = sqlx::query(sql).bind(world.app.now());
        inserted.execute(&world.database.db.write).await.unwrap();
    }

    async fn rows(world: &World) -> Vec<i64> {
        let mut counts = Vec::new();
        for sql in [
            "SELECT COUNT(*) FROM registration_tokens",
            "SELECT COUNT(*) FROM logins",
            "SELECT COUNT(*) FROM login_failures",
            "SELECT COUNT(*) FROM events",
            "SELECT COUNT(*) FROM notifications",
            "SELECT COUNT(*) FROM control_nodes",
            "SELECT COUNT(*) FROM usage_reports",
        ] {
            counts.push(world.number(sql).await);
        }
        counts
    }

    #[tokio::test]
    async fn each_thing_goes_when_its_time_is_over_and_not_before() {
        for world in worlds().await {
            world.admin().await;
            for sql in [
                "INSERT INTO registration_tokens (token_hash, tenant_id, created_by, created_at, expires_at)
                 VALUES ('t', 1, 1, $1, $1)",
                "INSERT INTO login_failures (subject, failures, window_start, locked_until) VALUES ('x', 1, $1, $1)",
                "INSERT INTO events (at, kind, tenant_id, data, told_at) VALUES ($1, 'x', 1, '{}', 1)",
                "INSERT INTO notifications (user_id, kind, title, body, target, cause, created_at)
                 VALUES (1, 'x', '', '', '', 'x', $1)",
                "INSERT INTO usage_reports (machine_id, report_id, report, at) VALUES ('m', 'r', '{}', $1)",
            ] {
                run_sql(&world, sql).await;
            }
            background::say(&world.app, world.app.now()).await.unwrap();
            assert_eq!(round(&world.app).await.unwrap(), 0);
            assert_eq!(rows(&world).await, [1, 1, 1, 1, 1, 1, 1]);
            world.clock.advance(Duration::from_secs(8 * 86_400));
            assert_eq!(round(&world.app).await.unwrap(), 6);
            assert_eq!(rows(&world).await, [0, 0, 0, 0, 1, 0, 0]);
            world.clock.advance(Duration::from_secs(83 * 86_400));
            assert_eq!(round(&world.app).await.unwrap(), 1);
        }
    }
    async fn command(world: &World, name: &str, state: &str, finished_at: Option<i64>) {
        sqlx::query(
            "INSERT INTO agent_commands (command_id, machine_id, type, payload, state, expires_at, created_at, finished_at)
             VALUES ($1, 'm', 'browse_directory', '', $2, $3, 0, $4)",
        )
        .bind(name)
        .bind(state)
        .bind(i64::MAX)
        .bind(finished_at)
        .execute(&world.database.db.write)
        .await
        .unwrap();
    }

    #[tokio::test]
    async fn commands_that_are_over_and_no_sessions_go_after_a_day() {
        for world in worlds().await {
            let now = world.app.now();
            for (name, state, finished_at) in [
                ("waits", "queued", None),
                ("arrived", "acked", None),
                ("done", "done", Some(now)),
                ("gone", "expired", Some(now)),
            ] {
                command(&world, name, state, finished_at).await;
            }
            world.clock.advance(Duration::from_secs(86_400));
            assert_eq!(round(&world.app).await.unwrap(), 0);
            world.clock.advance(Duration::from_secs(1));
            assert_eq!(round(&world.app).await.unwrap(), 2);
            let left = "SELECT COUNT(*) FROM agent_commands WHERE state IN ('queued', 'acked')";
            assert_eq!(world.number(left).await, 2);
        }
    }
}
