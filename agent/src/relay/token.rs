//! The proxy token that is freshest now, and whether waiting for the next one is worth it.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use ace_policies::secret::Secret;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};

/// A proxy token, and when it ends if that could be read from it.
pub struct ProxyToken {
    secret: Secret,
    expires: Option<Instant>,
}

/// Where the relay takes tokens from; it always sees the last one published.
#[derive(Clone)]
pub struct TokenSource(watch::Receiver<Option<Arc<ProxyToken>>>);

/// The other end of a `TokenSource`.
pub struct TokenFeed(watch::Sender<Option<Arc<ProxyToken>>>);

/// A feed without a token yet, and its source.
pub fn channel() -> (TokenFeed, TokenSource) {
    let (sender, receiver) = watch::channel(None);
    (TokenFeed(sender), TokenSource(receiver))
}

impl TokenFeed {
    pub fn publish(&self, token: ProxyToken) {
        self.0.send_replace(Some(Arc::new(token)));
    }
}

/// The clocks of this machine and of the gateway may differ by this much before a refused token is thought to be alive.
const CLOCK_MARGIN: Duration = Duration::from_secs(30);

impl ProxyToken {
    pub fn new(secret: Secret, expires: Option<Instant>) -> Self {
        Self { secret, expires }
    }

    /// Reads the end of life out of a JWT, unverified: it only decides whether to wait for the next token. `now` is the
    /// wall clock's time.
    pub fn from_jwt(secret: Secret, now: SystemTime) -> Self {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let expires = expiry_of(secret.expose()).map(|exp| Instant::now() + exp.saturating_sub(now));
        Self { secret, expires }
    }

    pub fn expose(&self) -> &str {
        self.secret.expose()
    }

    fn has_expired(&self) -> bool {
        self.expires.is_some_and(|expires| Instant::now() >= expires)
    }

    fn may_have_expired(&self) -> bool {
        self.expires
            .is_none_or(|expires| Instant::now() + CLOCK_MARGIN >= expires)
    }
}

fn expiry_of(jwt: &str) -> Option<Duration> {
    #[derive(serde::Deserialize)]
    struct Expiry {
        exp: u64,
    }
    let payload = jwt.split('.').nth(1)?;
    let claims: Expiry = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()?;
    Some(Duration::from_secs(claims.exp.min(MAX_EXPIRY_S)))
}

/// The year 2400: keeps a nonsense claim from overflowing the clock.
const MAX_EXPIRY_S: u64 = 13_569_465_600;

impl TokenSource {
    /// The freshest token; waits up to `patience` for a first one, or while the last one's life is over. Then that one is tried all
    /// the same: the clocks may differ.
    pub(super) async fn latest(&self, patience: Duration) -> Option<Arc<ProxyToken>> {
        let alive = self.wait_for(patience, |token| !token.has_expired()).await;
        alive.or_else(|| self.0.borrow().clone())
    }

    /// What to try after `refused` was: a newer token at once, or, where `refused` may have expired, one that arrives
    /// within `patience`.
    pub(super) async fn after(&self, refused: &Arc<ProxyToken>, patience: Duration) -> Option<Arc<ProxyToken>> {
        let patience = if refused.may_have_expired() {
            patience
        } else {
            Duration::ZERO
        };
        self.wait_for(patience, |token| token.expose() != refused.expose())
            .await
    }

    async fn wait_for(&self, patience: Duration, wanted: impl Fn(&ProxyToken) -> bool) -> Option<Arc<ProxyToken>> {
        let mut source = self.0.clone();
        let wanted = |token: &Option<Arc<ProxyToken>>| token.as_deref().is_some_and(&wanted);
        let found = timeout(patience, source.wait_for(wanted)).await.ok()?.ok()?;
        found.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(text: &str, lives: Duration) -> ProxyToken {
        ProxyToken::new(Secret::new(text.to_owned()), Some(Instant::now() + lives))
    }

    const LONG: Duration = Duration::from_secs(300);
    const PATIENCE: Duration = Duration::from_secs(5);

    #[tokio::test(start_paused = true)]
    async fn a_living_token_that_was_refused_is_not_waited_on_and_an_expired_one_is() {
        let (feed, source) = channel();
        feed.publish(token("one", LONG));
        let one = source.latest(PATIENCE).await.unwrap();
        let before = Instant::now();
        assert!(source.after(&one, PATIENCE).await.is_none());
        assert_eq!(before.elapsed(), Duration::ZERO);

        tokio::time::advance(LONG).await;
        let (next, ()) = tokio::join!(source.after(&one, PATIENCE), async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            feed.publish(token("two", LONG));
        });
        assert_eq!(next.unwrap().expose(), "two");
        assert!(
            source.after(&one, Duration::ZERO).await.is_some(),
            "a newer token is taken without waiting"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn an_expired_token_is_handed_out_only_when_no_fresh_one_comes() {
        let (feed, source) = channel();
        feed.publish(token("one", LONG));
        tokio::time::advance(LONG).await;
        let (next, ()) = tokio::join!(source.latest(PATIENCE), async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            feed.publish(token("two", LONG));
        });
        assert_eq!(next.unwrap().expose(), "two");
        tokio::time::advance(LONG).await;
        let before = Instant::now();
        assert_eq!(source.latest(PATIENCE).await.unwrap().expose(), "two");
        assert_eq!(before.elapsed(), PATIENCE);
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_ends() {
        let (_feed, source) = channel();
        let before = Instant::now();
        assert!(source.latest(PATIENCE).await.is_none());
        assert_eq!(before.elapsed(), PATIENCE);
    }

    #[tokio::test]
    async fn the_end_of_a_jwt_is_read_and_nonsense_is_not_a_panic() {
        let jwt = |payload: &str| format!("h.{}.s", URL_SAFE_NO_PAD.encode(payload));
        assert_eq!(expiry_of(&jwt(r#"{"exp":300}"#)), Some(Duration::from_secs(300)));
        for broken in ["", "a.b", &jwt("{}"), &jwt(r#"{"exp":-1}"#)] {
            assert_eq!(expiry_of(broken), None);
        }
        let far = ProxyToken::from_jwt(Secret::new(jwt(&format!(r#"{{"exp":{}}}"#, u64::MAX))), UNIX_EPOCH);
        assert!(!far.may_have_expired());
    }
}
