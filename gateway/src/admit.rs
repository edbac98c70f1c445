//! Everything that must hold before a request goes out to a provider.
//!
//! [`Gate::authorize`] turns a credential into [`Authorized`]; [`Gate::admit`] turns that and the body into [`Admitted`]. Only an
//! `Admitted` reaches a provider; dropping its reservation settles it.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ace_policies::KeyId;
use ace_policies::token::{Claims, kid_of};
use http::HeaderMap;
use moka::sync::Cache;
use uuid::Uuid;

use crate::body::Body;
use crate::clock::now_s;
use crate::credential::Candidates;
use crate::keys::{KeyLease, Turns};
use crate::ledger::row::Entry;
use crate::ledger::{Estimate, Ledger, Reservation};
use crate::model;
use crate::refusal::Refusal;
use crate::route::{Api, Call};
use crate::snapshot::Standing;
use crate::store::Store;

/// How long a caller is told to wait when the gateway cannot admit anybody.
const RETRY_AFTER_S: u64 = 5;

/// Decides who goes through.
pub struct Gate {
    store: Store,
    ledger: Ledger,
    verdicts: Cache<Box<str>, Verdict>,
    turns: Turns,
    max_staleness: Duration,
}

/// Claims of a token whose signature is good, and the keyring that said so.
#[derive(Clone)]
struct Verdict {
    claims: Arc<Claims>,
    keyring_version: u64,
}

/// A caller who may make this call.
pub struct Authorized {
    /// Who it is.
    pub claims: Arc<Claims>,
    /// The call, settled for the token's provider.
    pub call: Call,
}

/// A request that may go out.
pub struct Admitted {
    /// The call.
    pub call: Call,
    /// The real key.
    pub key: KeyLease,
    /// The request's row in the ledger.
    pub reservation: Reservation,
}

/// What the ledger is told about a request when it is admitted.
pub struct Arrival<'r> {
    /// The request's id.
    pub request_id: Uuid,
    /// When its head was read, on the wall clock and on the steady one.
    pub started_at_ms: i64,
    /// See `started_at_ms`.
    pub started: Instant,
    /// Its method.
    pub method: &'r http::Method,
    /// Its target.
    pub target: &'r str,
    /// Bytes of its body.
    pub bytes_in: u64,
}

impl Gate {
    /// A gate over the store's view; remembers up to `verdicts` verified tokens.
    pub fn new(store: Store, ledger: Ledger, verdicts: u64, max_staleness: Duration) -> Self {
        Self {
            store,
            ledger,
            verdicts: Cache::new(verdicts),
            turns: Turns::default(),
            max_staleness,
        }
    }

    /// The store.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The ledger.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Finds the one valid proxy token among the request's credentials.
    pub async fn authorize(&self, call: Call, headers: &HeaderMap, query: Option<&str>) -> Result<Authorized, Refusal> {
        if self.store.staleness() > self.max_staleness {
            return Err(unavailable("The gateway has lost its database for too long"));
        }
        let candidates = Candidates::of(headers, query);
        if candidates.is_empty() {
            return Err(Refusal::Auth);
        }
        let claims = match self.check(&candidates) {
            Checked::Good(claims) => claims,
            Checked::Refused => return Err(Refusal::Auth),
            Checked::Unknown => {
                // A new user, session or signing key: this node may not have heard of it yet.
                self.store.reload().await;
                match self.check(&candidates) {
                    Checked::Good(claims) => claims,
                    _ => return Err(Refusal::Auth),
                }
            }
        };
        let call = call.with_provider(claims.provider)?;
        Ok(Authorized { claims, call })
    }

    fn check(&self, candidates: &Candidates<'_>) -> Checked {
        let snapshot = self.store.snapshot();
        let now = now_s();
        let mut unknown = false;
        let good = candidates.only(|token| {
            let Some(claims) = self.verify(token, now) else {
                unknown |= kid_of(token).is_some_and(|kid| !snapshot.keyring.knows(&kid));
                return None;
            };
            match snapshot.standing(&claims) {
                Standing::Good => Some(claims),
                Standing::Revoked => None,
                Standing::Unknown => {
                    unknown = true;
                    None
                }
            }
        });
        match good {
            Some(claims) => Checked::Good(claims),
            None if unknown => Checked::Unknown,
            None => Checked::Refused,
        }
    }

    /// Verifies signature and times; a signature only once, as long as the keyring stays.
    fn verify(&self, token: &str, now: i64) -> Option<Arc<Claims>> {
        let snapshot = self.store.snapshot();
        if let Some(verdict) = self.verdicts.get(token)
            && verdict.keyring_version == snapshot.keyring_version
        {
            return (now < verdict.claims.exp).then_some(verdict.claims);
        }
        let claims = Arc::new(snapshot.keyring.verify(token, now).ok()?);
        let verdict = Verdict {
            claims: claims.clone(),
            keyring_version: snapshot.keyring_version,
        };
        self.verdicts.insert(token.into(), verdict);
        Some(claims)
    }

    /// Begins the request's row, checks the model, leases a key that serves it, or the model that `alias` puts in its place, and reserves
    /// what the request may use. A refusal of a known caller is recorded.
    pub async fn admit(
        &self,
        caller: Authorized,
        arrival: &Arrival<'_>,
        body: &Body<'_>,
        alias: Option<&str>,
    ) -> Result<Admitted, Refusal> {
        let Authorized { claims, call } = caller;
        let mut reservation = self.record(&claims, &call, arrival, None)?;
        match self
            .check_in(&mut reservation, &claims, &call, arrival, body, alias)
            .await
        {
            Ok(key) => Ok(Admitted { call, key, reservation }),
            Err(refusal) => {
                let entry = reservation.entry();
                entry.status = refusal.status().as_u16();
                entry.error_kind = Some(refusal.reason());
                Err(refusal)
            }
        }
    }

    async fn check_in(
        &self,
        reservation: &mut Reservation,
        claims: &Claims,
        call: &Call,
        arrival: &Arrival<'_>,
        body: &Body<'_>,
        alias: Option<&str>,
    ) -> Result<KeyLease, Refusal> {
        let asked = model::asked(call, arrival.target.as_bytes(), body).map(|model| model.into_owned());
        reservation.entry().model_asked.clone_from(&asked);
        self.still_stands(claims)?;
        if let Some(models) = &claims.models {
            model::check(call, arrival.target.as_bytes(), body, models)?;
        }
        let key = self.lease(claims, call, alias.or(asked.as_deref())).await?;
        let entry = reservation.entry();
        entry.key = Some(key.key().id);
        entry.streamed = body.streams();
        let limits = self.store.snapshot().limits.clone();
        if call.api == Api::Batch && limits.measure(reservation.entry().accounts()) {
            let why = "Batches are billed later and told to nobody here: an account with a limit on tokens or cost cannot have them";
            return Err(Refusal::Permission(why.to_owned()));
        }
        reservation
            .admit(estimate(call, body, !limits.is_empty()), &limits)
            .await?;
        Ok(key)
    }

    /// Whether a token whose claims were good still is, as far as this node knows.
    pub fn stands(&self, claims: &Claims) -> bool {
        self.store.snapshot().standing(claims) == Standing::Good
    }

    /// A body may take minutes to arrive; a token that was revoked meanwhile gets nothing any more.
    fn still_stands(&self, claims: &Claims) -> Result<(), Refusal> {
        if self.stands(claims) {
            Ok(())
        } else {
            Err(Refusal::Auth)
        }
    }

    /// Takes a request's place in the ledger.
    pub fn record(
        &self,
        claims: &Arc<Claims>,
        call: &Call,
        arrival: &Arrival<'_>,
        key: Option<KeyId>,
    ) -> Result<Reservation, Refusal> {
        let entry = new_entry(claims, call, arrival, key);
        self.ledger
            .record(entry, arrival.started)
            .ok_or(unavailable("The ledger is behind; the request cannot be recorded"))
    }

    async fn lease(&self, claims: &Claims, call: &Call, model: Option<&str>) -> Result<KeyLease, Refusal> {
        let choose = || {
            let snapshot = self.store.snapshot();
            self.turns.choose(snapshot.keys_of(claims.tenant, call.provider), model)
        };
        if let Some(key) = choose() {
            return Ok(key);
        }
        self.store.reload().await;
        choose().ok_or(Refusal::NoKey(call.provider))
    }
}

enum Checked {
    Good(Arc<Claims>),
    Unknown,
    Refused,
}

/// What a call may use, by what it says. Files in it are looked for only where it matters: that is a second walk over a large body.
fn estimate(call: &Call, body: &Body<'_>, is_limited: bool) -> Estimate {
    if !(call.api.costs_tokens() || matches!(call.api, Api::Other | Api::OpenAiRealtime)) {
        return Estimate::default();
    }
    let answers = body.answers();
    Estimate {
        input_bytes: if is_limited {
            body.readable_bytes()
        } else {
            body.bytes()
        },
        max_output: body.max_output().map(|most| most.saturating_mul(answers)),
        answers: match call.api.writes_text() || call.api == Api::OpenAiRealtime {
            true => answers,
            false => 0,
        },
        service_tier: body.service_tier().map(Cow::into_owned),
    }
}

fn unavailable(message: &'static str) -> Refusal {
    Refusal::Unavailable {
        message,
        retry_after_s: RETRY_AFTER_S,
    }
}

fn new_entry(claims: &Arc<Claims>, call: &Call, arrival: &Arrival<'_>, key: Option<KeyId>) -> Entry {
    let path = arrival.target.split_once('?').map_or(arrival.target, |(path, _)| path);
    Entry {
        key,
        method: arrival.method.clone(),
        path: path.to_owned(),
        bytes_in: arrival.bytes_in,
        ..Entry::new(arrival.request_id, claims.clone(), call.provider, arrival.started_at_ms)
    }
}

#[cfg(test)]
mod tests {
    use ace_migrations::testing::test_databases;
    use ace_policies::config::Config;
    use ace_policies::vault::{MasterKey, Vault};
    use ace_policies::{TenantId, UserId};
    use http::Method;

    use super::*;
    use crate::ledger::tasks::{self, Around};
    use crate::metrics::Metrics;
    use crate::prices::Prices;
    use crate::route::{Route, route};
    use crate::store::Refresher;

    const TARGET: &str = "/v1/chat/completions";

    fn caller(generation: i64) -> Authorized {
        let claims = Claims {
            session: None,
            user: UserId(1),
            tenant: TenantId(1),
            machine: None,
            provider: None,
            tool: String::new(),
            models: None,
            iat: 0,
            exp: i64::MAX,
            jti: Uuid::nil(),
            generation,
        };
        match route(&Method::POST, TARGET.as_bytes(), &HeaderMap::new()) {
            Ok(Route::DataPlane(call)) => Authorized {
                claims: Arc::new(claims),
                call,
            },
            other => panic!("{other:?}"),
        }
    }

    async fn refusal(gate: &Gate, generation: i64) -> Refusal {
        let arrival = Arrival {
            request_id: Uuid::nil(),
            started_at_ms: 0,
            started: Instant::now(),
            method: &Method::POST,
            target: TARGET,
            bytes_in: 0,
        };
        let body = Body::read(b"", None, None, 0).unwrap();
        gate.admit(caller(generation), &arrival, &body, None)
            .await
            .err()
            .unwrap()
    }

    #[tokio::test]
    async fn a_token_that_is_revoked_while_its_body_arrives_gets_nothing() {
        for database in test_databases().await {
            let user =
                "INSERT INTO users (id, tenant_id, username, password_hash, role, is_active, must_change_password,
                token_generation, created_at, updated_at) VALUES (1, 1, 'alice', 'x', 'user', 1, 0, 5, 0, 0)";
            sqlx::query(user).execute(&database.db.write).await.unwrap();
            let vault = Vault::new(&MasterKey::from_bytes([7; 32]));
            let started = Refresher::start(database.db.clone(), vault, Duration::from_secs(60)).await;
            let (store, refresher) = started.unwrap();
            tokio::spawn(refresher.run());
            let folder = tempfile::tempdir().unwrap();
            let metrics = Arc::new(Metrics::new().unwrap());
            let config = Config::from_sources(None, [], &[]).unwrap();
            let around = Around {
                db: database.db.clone(),
                folder: folder.path().to_owned(),
                gateway_id: "test".to_owned(),
                store: store.clone(),
                prices: Prices::load(&config, metrics.clone()).unwrap(),
                metrics,
            };
            let (ledger, _tasks) = tasks::start(&config, around).await.unwrap();
            let gate = Gate::new(store, ledger, 10, Duration::from_secs(60));
            assert!(matches!(refusal(&gate, 4).await, Refusal::Auth));
            assert!(
                matches!(refusal(&gate, 5).await, Refusal::NoKey(_)),
                "it stands, and has no key"
            );
        }
    }
}
