//! The claim: whatever happens in whatever order, limits are never passed, nothing is charged twice and nothing is lost.

use proptest::prelude::*;
use proptest::test_runner::{Config as Proptest, TestRunner};

use super::*;
use crate::ledger::estate;
use crate::ledger::leases::Leases;

const GATEWAYS: usize = 3;
const MAXIMUM: i64 = 2_000;

/// Something that happens to one of the gateways.
#[derive(Clone, Debug)]
enum Act {
    /// A request asks for so many tokens.
    Ask(usize, u64, u64),
    /// One under way ends, having used a share of what it may, in percent.
    Answer(usize, u64),
    /// One under way needs more.
    Grow(usize, u64),
    /// One under way never reached its provider.
    Fail(usize),
    /// A gateway is killed and starts again.
    Kill(usize),
    /// A gateway is killed, its leases expire, others settle what it has left, and it comes back.
    Expire(usize),
    /// A gateway stops in order and starts again.
    Restart(usize),
    /// Time passes: rows are written.
    Wait,
}

fn act() -> impl Strategy<Value = Act> {
    let gateway = 0..GATEWAYS;
    prop_oneof![
        8 => (gateway.clone(), 0..120_u64, 0..200_u64).prop_map(|(gateway, input, output)| Act::Ask(gateway, input, output)),
        6 => (any::<usize>(), 0..=100_u64).prop_map(|(which, share)| Act::Answer(which, share)),
        2 => (any::<usize>(), 1..300_u64).prop_map(|(which, more)| Act::Grow(which, more)),
        2 => any::<usize>().prop_map(Act::Fail),
        1 => gateway.clone().prop_map(Act::Kill),
        1 => gateway.clone().prop_map(Act::Expire),
        1 => gateway.prop_map(Act::Restart),
        2 => Just(Act::Wait),
    ]
}

/// A request under way.
struct Open {
    gateway: usize,
    reservation: Reservation,
    /// Tokens that were reserved for it when it came.
    asked: u64,
    /// Tokens that it may use by now.
    allowed: u64,
}

struct World {
    db: Db,
    folders: Vec<TempDir>,
    houses: Vec<Option<House>>,
    open: Vec<Open>,
    /// What must be charged in the end.
    expected: i64,
    requests: i64,
    refused: i64,
}

impl World {
    async fn new(db: Db) -> Self {
        limit(&db, "tokens_per_day", MAXIMUM).await;
        set_limit(&db, "tenant", "1", "tokens_per_month", MAXIMUM + 500, false).await;
        let folders: Vec<_> = (0..GATEWAYS).map(|_| folder()).collect();
        let mut houses = Vec::new();
        for folder in &folders {
            houses.push(Some(House::open(db.clone(), folder.path().join("j"), &hasty()).await));
        }
        Self {
            db,
            folders,
            houses,
            open: Vec::new(),
            expected: 0,
            requests: 0,
            refused: 0,
        }
    }

    async fn act(&mut self, act: Act) {
        match act {
            Act::Ask(gateway, input, output) => self.ask(gateway, input, output).await,
            Act::Answer(which, share) => {
                if let Some(open) = self.take(which) {
                    let used = open.allowed * share / 100;
                    self.expected += signed(used);
                    answered(open.reservation, used, 0);
                }
            }
            Act::Grow(which, more) => self.grow(which, more).await,
            Act::Fail(which) => {
                if let Some(open) = self.take(which) {
                    unreached(open.reservation);
                }
            }
            Act::Kill(gateway) => {
                self.kill(gateway).await;
                self.start(gateway).await;
            }
            Act::Expire(gateway) => {
                let instance = self.houses[gateway]
                    .as_ref()
                    .expect("runs")
                    .tasks
                    .journal()
                    .instance()
                    .to_string();
                self.kill(gateway).await;
                self.expire(&instance).await;
                self.start(gateway).await;
            }
            Act::Restart(gateway) => {
                self.settle_all_of(gateway);
                if let Some(house) = self.houses[gateway].take() {
                    house.close().await;
                }
                self.start(gateway).await;
            }
            Act::Wait => tokio::time::sleep(Duration::from_millis(4)).await,
        }
        self.check().await;
    }

    /// Others take a process for dead before it comes back with its journal.
    async fn expire(&self, instance: &str) {
        let text = "UPDATE ledger_instances SET expires_at = 0 WHERE instance_id = $1";
        sqlx::query(text)
            .bind(instance.to_owned())
            .execute(&self.db.write)
            .await
            .expect("updates");
        let ttl = Duration::from_secs(1);
        let leases = Leases::new(self.db.clone(), "another".to_owned(), "test".to_owned(), ttl);
        estate::give_up(&leases, instance).await.expect("gives up");
        self.check().await;
    }

    async fn ask(&mut self, gateway: usize, input: u64, output: u64) {
        let house = self.houses[gateway].as_ref().expect("runs");
        self.requests += 1;
        match house.admit(input, output).await {
            Ok(reservation) => {
                let tokens = input + output;
                self.open.push(Open {
                    gateway,
                    reservation,
                    asked: tokens,
                    allowed: tokens,
                });
            }
            Err(refusal) => {
                assert_eq!(refusal.reason(), "quota_exceeded", "{}", refusal.message());
                self.refused += 1;
            }
        }
    }

    async fn grow(&mut self, which: usize, more: u64) {
        if self.open.is_empty() {
            return;
        }
        let at = which % self.open.len();
        let open = &mut self.open[at];
        if open.reservation.grow_by(more).await.is_ok() {
            open.allowed += more;
        }
    }

    fn take(&mut self, which: usize) -> Option<Open> {
        (!self.open.is_empty()).then(|| self.open.swap_remove(which % self.open.len()))
    }

    /// Of what was under way the journal has what was reserved at the door.
    async fn kill(&mut self, gateway: usize) {
        let (dying, rest): (Vec<_>, Vec<_>) = std::mem::take(&mut self.open)
            .into_iter()
            .partition(|open: &Open| open.gateway == gateway);
        self.open = rest;
        for open in dying {
            self.expected += signed(open.asked);
            open.reservation.vanish();
        }
        if let Some(house) = self.houses[gateway].take() {
            self.folders[gateway] = house.kill(&self.folders[gateway]).await;
        }
    }

    fn settle_all_of(&mut self, gateway: usize) {
        while let Some(at) = self.open.iter().position(|open| open.gateway == gateway) {
            let open = self.open.swap_remove(at);
            self.expected += signed(open.allowed);
            answered(open.reservation, 0, open.allowed);
        }
    }

    async fn start(&mut self, gateway: usize) {
        let folder = self.folders[gateway].path().join("j");
        self.houses[gateway] = Some(House::open(self.db.clone(), folder, &hasty()).await);
    }

    /// At any moment: what is settled and leased is within the limits, and leases are what the buckets say.
    async fn check(&self) {
        let most = "SELECT CAST(COALESCE(MAX(tokens + leased_tokens), 0) AS BIGINT) FROM quota_usage WHERE account_kind = 'user' AND period = 'day'";
        assert!(number(&self.db, most).await <= MAXIMUM);
        let most = "SELECT CAST(COALESCE(MAX(tokens + leased_tokens), 0) AS BIGINT) FROM quota_usage WHERE account_kind = 'tenant' AND period = 'month'";
        assert!(number(&self.db, most).await <= MAXIMUM + 500);
    }

    async fn end(mut self) {
        for gateway in 0..GATEWAYS {
            self.settle_all_of(gateway);
        }
        for house in self.houses.into_iter().flatten() {
            house.close().await;
        }
        let db = &self.db;
        let admitted = number(db, "SELECT COUNT(*) FROM request_ledger WHERE status <> 402").await;
        assert_eq!(
            admitted,
            self.requests - self.refused,
            "one row for each request that was let through"
        );
        assert_eq!(
            number(db, TOKENS).await,
            self.expected,
            "what was used, and estimates for what nobody saw the end of"
        );
        assert_eq!(
            number(db, USED_TODAY).await,
            self.expected,
            "the sums are those of the rows"
        );
        let cost = "SELECT CAST(COALESCE(SUM(cost_micro_usd), 0) AS BIGINT) FROM request_ledger";
        let rows = (number(db, ROWS).await, self.expected, number(db, cost).await);
        every_sum_is(db, rows).await;
        assert_eq!(number(db, LEASED).await, 0, "nothing is left leased");
        assert_eq!(number(db, "SELECT COUNT(*) FROM open_requests").await, 0);
    }
}

/// Tells the database of every request that is under way.
fn hasty() -> Config {
    let mut config = config();
    config.ledger.open_after_ms = 0;
    config
}

fn signed(tokens: u64) -> i64 {
    i64::try_from(tokens).expect("small")
}

#[test]
fn trap_09_no_order_of_events_passes_a_limit_charges_twice_or_loses_anything() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let mut runner = TestRunner::new(Proptest {
        cases: 10,
        max_shrink_iters: 60,
        failure_persistence: None,
        ..Proptest::default()
    });
    let acts = proptest::collection::vec(act(), 1..60);
    runner
        .run(&acts, |acts| {
            runtime.block_on(async {
                for database in databases().await {
                    let mut world = World::new(database.db.clone()).await;
                    for act in acts.clone() {
                        world.act(act).await;
                    }
                    world.end().await;
                }
            });
            Ok(())
        })
        .expect("holds");
}
