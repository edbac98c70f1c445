//! The ledger beside the books of a provider, and limits watched while they are used.

use std::collections::HashMap;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::{Ask, Biller, Door, Item, LONG_PATIENCE, Person, within};

/// Every row of the ledger, and every item of a provider's books.
pub struct Audit {
    pub rows: Vec<Value>,
    pub items: Vec<Item>,
    /// Rows by the model that was asked for, which every order has of its own.
    by_model: HashMap<String, Vec<usize>>,
}

/// How a limit stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    pub maximum: Option<u64>,
    pub used: u64,
    pub reserved: u64,
}

impl Audit {
    /// Looks once nothing is under way any more and every item has a row.
    ///
    /// # Panics
    /// When an item gets none.
    pub async fn of(person: &Person, biller: &Biller) -> Self {
        Self::of_all(person, biller, 0).await
    }

    /// The same once there are so many rows: those of refusals, which the provider never hears of, come when they are written.
    ///
    /// # Panics
    /// When an item gets none, or there are fewer rows.
    pub async fn of_all(person: &Person, biller: &Biller, rows: usize) -> Self {
        let items = biller.closed_books().await;
        let mut audit = Self {
            rows: Vec::new(),
            items,
            by_model: HashMap::new(),
        };
        let deadline = tokio::time::Instant::now() + crate::PATIENCE;
        loop {
            audit.read(person).await;
            let missing = audit.items.iter().filter(|item| audit.rows_of(item).is_empty()).count();
            if missing == 0 && audit.rows.len() >= rows {
                return audit;
            }
            assert!(
                tokio::time::Instant::now() < deadline,
                "{missing} of {} requests at the provider are in no row; there are {} rows, of {rows}",
                audit.items.len(),
                audit.rows.len()
            );
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    async fn read(&mut self, person: &Person) {
        self.rows = person.ledger().await;
        self.by_model.clear();
        for (at, row) in self.rows.iter().enumerate() {
            let model = row["model_asked"].as_str().unwrap_or_default().to_owned();
            self.by_model.entry(model).or_default().push(at);
        }
    }

    fn rows_of(&self, item: &Item) -> Vec<&Value> {
        let found = self.by_model.get(&item.model).into_iter().flatten();
        found.map(|at| &self.rows[*at]).collect()
    }

    /// The one row of a model that was asked for.
    pub fn row_of(&self, model: &str) -> Option<&Value> {
        self.by_model.get(model)?.first().map(|at| &self.rows[*at])
    }

    /// Every request has one row at most; every one that reached the provider has one. Where the row says that its figures are the
    /// provider's they are those of its books; the others say that they are no more than an estimate.
    ///
    /// Gives the rows that have the provider's figures, and those that are estimates.
    ///
    /// # Panics
    /// When the ledger says anything else.
    pub fn holds(&self) -> (usize, usize) {
        for (model, rows) in &self.by_model {
            assert_eq!(rows.len(), 1, "rows of {model}");
        }
        let told = self.items.iter().filter(|item| self.compare(item)).count();
        (told, self.items.len() - told)
    }

    /// The same, and no row is an estimate.
    ///
    /// # Panics
    /// When one is.
    pub fn holds_to_the_token(&self) {
        assert_eq!(self.holds().1, 0, "estimates in a ledger without accidents");
        let billed: u64 = self.items.iter().map(|item| item.input + item.output).sum();
        assert_eq!(
            self.sum("total_tokens"),
            billed,
            "tokens in the ledger and at the provider"
        );
    }

    /// Whether a row has the provider's figures.
    fn compare(&self, item: &Item) -> bool {
        let row = self.rows_of(item)[0];
        let source = row["usage_source"].as_str().unwrap_or_default();
        let figures = (number(row, "input_tokens"), number(row, "output_tokens"));
        match source {
            "provider" => {
                assert!(item.complete, "nobody told these figures: {row}");
                assert_eq!(figures, (item.input, item.output), "{item:?} {row}");
                assert_eq!(row["upstream_request_id"], item.id.as_str(), "{row}");
                true
            }
            "partial" | "estimated" => {
                assert_eq!(figures.0.min(1), 1, "a question for nothing: {item:?} {row}");
                match row["error_kind"].as_str() {
                    // What was reserved for it: nobody knows how far it came.
                    Some("gateway_lost") => assert!(figures.1 >= item.output, "{item:?} {row}"),
                    // What had arrived of it.
                    _ => assert!(figures.1 <= item.output, "{item:?} {row}"),
                }
                false
            }
            _ => panic!("{item:?} was charged as {source}: {row}"),
        }
    }

    /// The sum of a column.
    pub fn sum(&self, column: &str) -> u64 {
        self.rows.iter().map(|row| number(row, column)).sum()
    }

    /// What was used of the limits is what the rows come to, once everything is written.
    ///
    /// # Panics
    /// When the sums differ.
    pub async fn sums_hold(&mut self, person: &Person) {
        let deadline = tokio::time::Instant::now() + crate::PATIENCE;
        loop {
            let (rows, used) = (self.totals(), sums_of_limits(person).await);
            if used == [rows, rows] {
                return;
            }
            let is_over = tokio::time::Instant::now() > deadline;
            assert!(
                !is_over,
                "tokens, requests and cost of rows, day and month: {rows:?} {used:?}"
            );
            self.read(person).await;
        }
    }

    /// Tokens, requests and cost.
    fn totals(&self) -> [u64; 3] {
        ["total_tokens", "charged_requests", "cost_micro_usd"].map(|column| self.sum(column))
    }
}

/// What was used of the limits on tokens, requests and cost of the day and of the month.
async fn sums_of_limits(person: &Person) -> [[u64; 3]; 2] {
    let quota = person.get("/api/quota/me").await.ok();
    let used = |metric: &str, period: &str| {
        let name = format!("{metric}_per_{period}");
        Standing::read(&quota, &name)
            .unwrap_or_else(|| panic!("no {name} in {quota}"))
            .used
    };
    ["day", "month"].map(|period| ["tokens", "requests", "cost_micro_usd"].map(|metric| used(metric, period)))
}

/// A column of a row.
fn number(row: &Value, column: &str) -> u64 {
    row[column].as_u64().unwrap_or_else(|| panic!("no {column} in {row}"))
}

impl Standing {
    fn read(quota: &Value, name: &str) -> Option<Self> {
        let limit = quota["limits"].as_array()?.iter().find(|limit| limit["name"] == name)?;
        Some(Self {
            maximum: limit["maximum"].as_u64(),
            used: limit["used"].as_u64()?,
            reserved: limit["reserved"].as_u64()?,
        })
    }
}

impl Person {
    /// How one of this person's own limits stands.
    pub async fn standing(&self, name: &str) -> Standing {
        let quota = self.get("/api/quota/me").await.ok();
        Standing::read(&quota, name).unwrap_or_else(|| panic!("no {name} in {quota}"))
    }

    /// Waits until gateways hold nothing of a limit any more.
    pub async fn nothing_reserved(&self, name: &str) -> Standing {
        // What lies idle is kept for a while.
        within(
            LONG_PATIENCE,
            "everything that is reserved to be given back",
            async || Some(self.standing(name).await).filter(|standing| standing.reserved == 0),
        )
        .await
    }
}

/// Looks at a limit all the time: what is settled and leased must never pass it.
pub struct Watch {
    stop: oneshot::Sender<()>,
    watcher: JoinHandle<(usize, u64)>,
}

impl Watch {
    /// Watches one of a person's own limits from now on. A gateway that does not answer is looked at again.
    pub fn begin(person: &Person, door: &Door, name: &'static str) -> Self {
        let (stop, stopped) = oneshot::channel();
        let ask = Ask::get("/api/quota/me").header("cookie", person.cookie());
        let watcher = tokio::spawn(watch(door.clone(), ask, name, stopped));
        Self { stop, watcher }
    }

    /// Gives the most that was seen.
    ///
    /// # Panics
    /// When the limit was passed at any time, or was never seen.
    pub async fn end(self) -> u64 {
        let _ = self.stop.send(());
        let (looks, most) = self.watcher.await.expect("the limit was never passed");
        assert!(looks > 0, "the limit was never seen");
        most
    }
}

async fn watch(door: Door, ask: Ask, name: &str, mut stopped: oneshot::Receiver<()>) -> (usize, u64) {
    let (mut looks, mut most) = (0, 0);
    while stopped.try_recv().is_err() {
        if let Ok(answer) = door.try_call(&ask).await
            && answer.status == 200
            && let Some(standing) = Standing::read(&answer.json(), name)
        {
            let held = standing.used + standing.reserved;
            let maximum = standing.maximum.unwrap_or(u64::MAX);
            assert!(held <= maximum, "{standing:?}");
            (looks, most) = (looks + 1, most.max(held));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    (looks, most)
}
