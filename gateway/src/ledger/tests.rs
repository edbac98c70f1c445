//! The real ledger on real databases: what every test needs, and the stories of a single process.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ace_migrations::Db;
use ace_migrations::testing::{TestDatabase, test_databases};
use ace_policies::config::Config;
use ace_policies::quota::fortnight;
use ace_policies::token::Claims;
use ace_policies::usage::{Source, Usage};
use ace_policies::vault::{MasterKey, Vault};
use ace_policies::{KeyId, Provider, TenantId, UserId};
use tempfile::TempDir;
use uuid::Uuid;

use super::leases::Leases;
use super::row::Entry;
use super::tasks::{Around, Tasks, start};
use super::{Estimate, Ledger, Reservation, estate};
use crate::clock::{now_ms, request_id};
use crate::metrics::Metrics;
use crate::prices::Prices;
use crate::refusal::Refusal;
use crate::store::{Refresher, Store};

mod cancelled;
mod hardness;

/// One gateway's ledger, as `Node` puts it together.
pub(super) struct House {
    pub ledger: Ledger,
    pub tasks: Tasks,
    pub store: Store,
}

/// A folder for a journal; it outlives the process that wrote it.
pub(super) fn folder() -> TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

pub(super) fn config() -> Config {
    let mut config = Config::from_sources(None, [], &[]).expect("the defaults");
    config.ledger.flush_ms = 1;
    config.ledger.segment_bytes = 1 << 16;
    config
}

impl House {
    pub async fn open(db: Db, folder: PathBuf, config: &Config) -> Self {
        let vault = Vault::new(&MasterKey::from_bytes([7; 32]));
        let started = Refresher::start(db.clone(), vault, Duration::from_millis(20)).await;
        let (store, refresher) = started.expect("readable");
        tokio::spawn(refresher.run());
        let metrics = Arc::new(Metrics::new().expect("distinct names"));
        let around = Around {
            db,
            folder,
            gateway_id: "test".to_owned(),
            store: store.clone(),
            prices: Prices::load(config, metrics.clone()).expect("the built-in table"),
            metrics,
        };
        let (ledger, tasks) = start(config, around).await.expect("the ledger starts");
        Self { ledger, tasks, store }
    }

    /// Asks for so many tokens for user 7.
    pub async fn admit(&self, input: u64, output: u64) -> Result<Reservation, Refusal> {
        self.admit_entry(entry(7), input, output).await
    }

    pub async fn admit_entry(&self, entry: Entry, input: u64, output: u64) -> Result<Reservation, Refusal> {
        let mut reservation = self.ledger.record(entry, Instant::now()).expect("room");
        let estimate = Estimate {
            input_bytes: input * 3,
            max_output: Some(output),
            answers: 1,
            service_tier: None,
        };
        let limits = self.store.snapshot().limits.clone();
        match reservation.admit(estimate, &limits).await {
            Ok(()) => Ok(reservation),
            Err(refusal) => {
                reservation.entry().status = refusal.status().as_u16();
                reservation.entry().error_kind = Some(refusal.reason());
                Err(refusal)
            }
        }
    }

    /// Ends as a process ends that is asked to.
    pub async fn close(self) {
        let Self { ledger, tasks, .. } = self;
        drop(ledger);
        tasks.stop().await;
    }

    /// Ends as a process ends that is killed. Gives the folder with what it has left: this process lives on, and tidies up the first.
    pub async fn kill(self, folder: &TempDir) -> TempDir {
        let journal = self.tasks.journal();
        drop(self.ledger);
        self.tasks.abort().await;
        let left = tempfile::tempdir().expect("a temporary folder");
        std::fs::create_dir(left.path().join("j")).expect("makes a folder");
        for file in std::fs::read_dir(folder.path().join("j")).expect("is there") {
            let file = file.expect("is there");
            std::fs::copy(file.path(), left.path().join("j").join(file.file_name())).expect("copies");
        }
        drop(journal);
        left
    }
}

/// A complete answer that used so many tokens.
pub(super) fn answered(mut reservation: Reservation, input: u64, output: u64) {
    let entry = reservation.entry();
    entry.status = 200;
    entry.error_kind = None;
    entry.usage = Usage {
        input,
        output,
        ..Usage::default()
    };
    entry.source = Source::Provider;
}

/// The provider was never reached.
pub(super) fn unreached(mut reservation: Reservation) {
    let entry = reservation.entry();
    entry.status = 502;
    entry.error_kind = Some("upstream_error");
}

pub(super) fn entry(user: i64) -> Entry {
    let claims = Claims {
        session: None,
        user: UserId(user),
        tenant: TenantId(1),
        machine: None,
        provider: None,
        tool: "test".to_owned(),
        models: None,
        iat: 0,
        exp: 0,
        jti: Uuid::nil(),
        generation: 0,
    };
    let now = now_ms();
    Entry {
        key: Some(KeyId(3)),
        method: http::Method::POST,
        path: "/v1/messages".to_owned(),
        model_asked: Some("claude-sonnet-4-5".to_owned()),
        streamed: true,
        ..Entry::new(request_id(now), Arc::new(claims), Provider::Anthropic, now)
    }
}

/// Limits user 7, and has every snapshot taken from then on know it.
pub(super) async fn limit(db: &Db, name: &str, maximum: i64) {
    set_limit(db, "user", "7", name, maximum, false).await;
}

pub(super) async fn set_limit(db: &Db, kind: &str, id: &str, name: &str, maximum: i64, dry_run: bool) {
    let text = "INSERT INTO quota_limits (account_kind, account_id, name, maximum, dry_run, updated_at) VALUES ($1, $2, $3, $4, $5, 0)";
    let query = sqlx::query(text)
        .bind(kind.to_owned())
        .bind(id.to_owned())
        .bind(name.to_owned());
    query
        .bind(maximum)
        .bind(i64::from(dry_run))
        .execute(&db.write)
        .await
        .expect("inserts");
    sqlx::query("UPDATE wakeups SET version = version + 1 WHERE topic = 'quota'")
        .execute(&db.write)
        .await
        .expect("updates");
}

pub(super) async fn number(db: &Db, text: &'static str) -> i64 {
    sqlx::query_scalar(text).fetch_one(&db.read).await.expect(text)
}

const ROWS: &str = "SELECT COUNT(*) FROM request_ledger";
const TOKENS: &str = "SELECT CAST(COALESCE(SUM(input_tokens + output_tokens), 0) AS BIGINT) FROM request_ledger";
const USED_TODAY: &str =
    "SELECT CAST(COALESCE(SUM(tokens), 0) AS BIGINT) FROM quota_usage WHERE account_kind = 'user' AND period = 'day'";
const LEASED: &str = "SELECT CAST(COALESCE(SUM(leased_tokens + leased_requests), 0) AS BIGINT) FROM quota_usage";

/// What every table of usage must come to: requests, tokens and cost.
async fn every_sum_is(db: &Db, expected: (i64, i64, i64)) {
    for table in ["usage_hourly", "usage_daily", "usage_fortnights", "usage_sessions"] {
        let sums = ["requests", "input_tokens + output_tokens", "cost_micro_usd"]
            .map(|sum| format!("CAST(COALESCE(SUM({sum}), 0) AS BIGINT)"));
        let text = format!("SELECT {} FROM {table}", sums.join(", "));
        let sums: (i64, i64, i64) = sqlx::query_as(sqlx::AssertSqlSafe(text))
            .fetch_one(&db.read)
            .await
            .expect("sums");
        assert_eq!(sums, expected, "{table}");
    }
}

async fn databases() -> Vec<TestDatabase> {
    test_databases().await
}

#[tokio::test]
async fn every_settled_request_is_one_row_and_in_every_sum() {
    for database in databases().await {
        let (db, folder) = (&database.db, folder());
        let house = House::open(db.clone(), folder.path().join("j"), &config()).await;
        for _ in 0..2_000 {
            answered(house.admit(10, 20).await.expect("no limit"), 3, 2);
        }
        house.close().await;
        let engine = database.engine();
        assert_eq!(
            (number(db, ROWS).await, number(db, TOKENS).await),
            (2_000, 10_000),
            "{engine:?}"
        );
        assert_eq!(number(db, USED_TODAY).await, 10_000);
        let kinds = "SELECT COUNT(DISTINCT account_kind) FROM quota_usage";
        assert_eq!(
            number(db, kinds).await,
            3,
            "user, tenant and key; neither session nor machine"
        );
        // Three tokens at 3 USD and two at 15 USD a million.
        every_sum_is(db, (2_000, 10_000, 2_000 * 39)).await;
        let day = number(db, "SELECT MIN(day_start) FROM usage_daily").await;
        let first = number(db, "SELECT MIN(fortnight_start) FROM usage_fortnights").await;
        assert_eq!(first, fortnight(day));
        let left = std::fs::read_dir(folder.path().join("j")).expect("there").count();
        assert_eq!(left, 0, "the journal is deleted when the database has it all");
    }
}

#[tokio::test]
async fn trap_12_a_limit_of_n_requests_lets_n_through_and_says_why_not_more() {
    for database in databases().await {
        let (db, folder) = (&database.db, folder());
        limit(db, "requests_per_day", 3).await;
        let house = House::open(db.clone(), folder.path().join("j"), &config()).await;
        for _ in 0..3 {
            answered(house.admit(1, 1).await.expect("within the limit"), 1, 1);
        }
        let refusal = house.admit(1, 1).await.err().expect("the limit is reached");
        assert_eq!((refusal.status().as_u16(), refusal.reason()), (402, "quota_exceeded"));
        assert!(refusal.message().contains("requests per day"), "{}", refusal.message());
        house.close().await;
        assert_eq!(number(db, ROWS).await, 4, "the refusal is recorded too");
        assert_eq!(number(db, LEASED).await, 0, "nothing is left leased");
    }
}

#[tokio::test]
async fn what_never_reached_the_provider_is_given_back() {
    for database in databases().await {
        let (db, folder) = (&database.db, folder());
        limit(db, "tokens_per_day", 100).await;
        limit(db, "requests_per_month", 2).await;
        let house = House::open(db.clone(), folder.path().join("j"), &config()).await;
        for _ in 0..10 {
            unreached(house.admit(50, 50).await.expect("all of it is free again"));
        }
        answered(house.admit(50, 50).await.expect("all of it is free again"), 60, 40);
        assert!(house.admit(0, 1).await.is_err(), "the tokens are spent");
        house.close().await;
        assert_eq!(number(db, USED_TODAY).await, 100);
    }
}

#[tokio::test]
async fn a_limit_of_zero_blocks_and_a_dry_run_only_tells() {
    for database in databases().await {
        let (db, folder) = (&database.db, folder());
        set_limit(db, "user", "7", "cost_micro_usd_per_month", 0, true).await;
        set_limit(db, "user", "8", "cost_micro_usd_per_month", 0, false).await;
        let house = House::open(db.clone(), folder.path().join("j"), &config()).await;
        answered(house.admit(10, 10).await.expect("a dry run lets through"), 10, 10);
        assert!(house.admit_entry(entry(8), 10, 10).await.is_err());
        house.close().await;
        assert_eq!(number(db, USED_TODAY).await, 20);
    }
}

#[tokio::test]
async fn requests_at_once_are_limited_and_come_free_again() {
    for database in databases().await {
        let (db, folder) = (&database.db, folder());
        limit(db, "parallel_requests", 2).await;
        let house = House::open(db.clone(), folder.path().join("j"), &config()).await;
        let first = house.admit(1, 1).await.expect("one");
        let _second = house.admit(1, 1).await.expect("two");
        let refusal = house.admit(1, 1).await.err().expect("a third is too many");
        assert_eq!((refusal.status().as_u16(), refusal.reason()), (429, "rate_limit_error"));
        answered(first, 1, 1);
        house.admit(1, 1).await.expect("one has ended");
    }
}

#[tokio::test]
async fn soft_thresholds_are_told_once() {
    for database in databases().await {
        let (db, folder) = (&database.db, folder());
        limit(db, "tokens_per_day", 1000).await;
        let house = House::open(db.clone(), folder.path().join("j"), &config()).await;
        for _ in 0..9 {
            answered(house.admit(50, 50).await.expect("within"), 50, 50);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        house.close().await;
        let told: Vec<(i64, i64)> = sqlx::query_as("SELECT percent, maximum FROM quota_events")
            .fetch_all(&db.read)
            .await
            .expect("readable");
        assert_eq!(told, [(80, 1000)]);
    }
}

#[tokio::test]
async fn a_killed_process_loses_nothing_and_its_leases_come_free() {
    for database in databases().await {
        let (db, folder) = (&database.db, folder());
        limit(db, "tokens_per_day", 1000).await;
        let mut config = config();
        // Nothing is written before the end.
        config.ledger.flush_ms = 60_000;
        let house = House::open(db.clone(), folder.path().join("j"), &config).await;
        answered(house.admit(100, 100).await.expect("within"), 70, 30);
        house.admit(200, 100).await.expect("within").vanish();
        let folder = house.kill(&folder).await;
        assert_eq!(number(db, ROWS).await, 0);

        let house = House::open(db.clone(), folder.path().join("j"), &super::tests::config()).await;
        assert_eq!(number(db, ROWS).await, 2);
        let (used, leased) = (number(db, USED_TODAY).await, number(db, LEASED).await);
        assert_eq!(
            (used, leased),
            (400, 0),
            "100 used, 300 estimated for the one whose end nobody saw"
        );
        let lost =
            "SELECT COUNT(*) FROM request_ledger WHERE error_kind = 'gateway_lost' AND usage_source = 'estimated'";
        assert_eq!(number(db, lost).await, 1);
        answered(house.admit(300, 300).await.expect("exactly what is left"), 300, 300);
        assert!(house.admit(0, 1).await.is_err());
        house.close().await;
    }
}

#[tokio::test]
async fn a_process_that_is_gone_with_its_disk_is_charged_what_the_database_was_told() {
    for database in databases().await {
        let (db, gone, folder) = (&database.db, folder(), folder());
        limit(db, "tokens_per_day", 1000).await;
        let mut config = config();
        config.ledger.open_after_ms = 0;
        config.ledger.lease_ttl_s = 1;
        let house = House::open(db.clone(), gone.path().join("j"), &config).await;
        let open = house.admit(200, 100).await.expect("within");
        while number(db, "SELECT COUNT(*) FROM open_requests").await == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        open.vanish();
        house.kill(&gone).await;
        let house = House::open(db.clone(), folder.path().join("j"), &config).await;
        let deadline = Instant::now() + Duration::from_secs(20);
        while number(db, ROWS).await == 0 && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!((number(db, USED_TODAY).await, number(db, ROWS).await), (300, 1));
        answered(house.admit(300, 400).await.expect("the rest"), 300, 400);
        house.close().await;
        assert_eq!(number(db, LEASED).await, 0);
    }
}

#[tokio::test]
async fn a_process_that_was_taken_for_dead_does_not_go_on_with_what_others_have_by_now() {
    for database in databases().await {
        let (db, others) = (&database.db, folder());
        let folder = folder();
        limit(db, "tokens_per_day", 1000).await;
        let mut config = config();
        config.ledger.lease_ttl_s = 1;
        let house = House::open(db.clone(), folder.path().join("j"), &config).await;
        answered(house.admit(50, 50).await.expect("within"), 50, 50);
        take_for_dead(db, &house).await;
        let other = House::open(db.clone(), others.path().join("j"), &super::tests::config()).await;
        let rest = other
            .admit(450, 450)
            .await
            .expect("all the rest: nobody holds any of it");
        // It notices, joins again, and forgets what it held a moment later, in the same turn. Until then it may use it: really taken
        // for dead it would be only after its leases had ended by its own clock, too.
        while number(db, "SELECT COUNT(*) FROM ledger_instances").await < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        nothing_is_left(&house).await;
        answered(rest, 450, 450);
        house.close().await;
        other.close().await;
        assert_eq!((number(db, USED_TODAY).await, number(db, LEASED).await), (1000, 0));
    }
}

/// Waits until a house learns that others have everything.
async fn nothing_is_left(house: &House) {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let told = match house.admit(1, 1).await {
            Ok(reservation) => {
                unreached(reservation);
                "admitted".to_owned()
            }
            Err(refusal) if refusal.reason() == "quota_exceeded" => return,
            // Its own leases may end meanwhile: it cannot know then.
            Err(refusal) => refusal.message(),
        };
        assert!(Instant::now() < deadline, "nothing is left: {told}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// What others do with a process that they have not heard of for long, once its row is written.
async fn take_for_dead(db: &Db, house: &House) {
    while number(db, ROWS).await == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let instance = house.tasks.journal().instance().to_string();
    let text = "UPDATE ledger_instances SET expires_at = 0 WHERE instance_id = $1";
    let expired = sqlx::query(text).bind(instance.clone()).execute(&db.write).await;
    expired.expect("updates");
    let ttl = Duration::from_secs(1);
    let leases = Leases::new(db.clone(), "another".to_owned(), "test".to_owned(), ttl);
    estate::give_up(&leases, &instance).await.expect("gives up");
}
