//! Provider keys: opened when they are loaded, chosen by priority and weight.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ace_policies::{KeyId, Secret};
use url::Url;

use crate::engine::connect::Origin;

/// A real key, opened. It has no `Debug` and is wiped when the last holder lets go of it.
pub struct ProviderKey {
    /// Its row.
    pub id: KeyId,
    /// The key itself.
    pub secret: Secret,
    /// Where it is good for.
    pub base_url: Url,
    /// How to get there.
    pub origin: Origin,
    /// The only models to use it for, if it is limited.
    pub models: Option<Vec<String>>,
    /// Higher goes first.
    pub priority: i64,
    /// Share among keys of the same priority; 0 counts as 1.
    pub weight: i64,
}

/// The key that a request goes out with.
pub struct KeyLease(Arc<ProviderKey>);

impl KeyLease {
    /// The key.
    pub fn key(&self) -> &ProviderKey {
        &self.0
    }
}

/// Turns among keys of the same priority.
#[derive(Default)]
pub struct Turns(AtomicU64);

impl Turns {
    /// Chooses among `keys`, sorted by descending priority: of those that serve `model`, the highest priority, and within it by
    /// weight in turn.
    pub fn choose(&self, keys: &[Arc<ProviderKey>], model: Option<&str>) -> Option<KeyLease> {
        let serves = |key: &&Arc<ProviderKey>| match (&key.models, model) {
            (Some(models), Some(model)) => models.iter().any(|one| one == model),
            _ => true,
        };
        let first = keys.iter().find(serves)?;
        let peers = || {
            keys.iter()
                .filter(serves)
                .take_while(|key| key.priority == first.priority)
        };
        let total: u64 = peers().map(weight).sum();
        let mut turn = self.0.fetch_add(1, Ordering::Relaxed) % total;
        for key in peers() {
            match turn.checked_sub(weight(key)) {
                Some(rest) => turn = rest,
                None => return Some(KeyLease(key.clone())),
            }
        }
        Some(KeyLease(first.clone()))
    }
}

fn weight(key: &Arc<ProviderKey>) -> u64 {
    u64::try_from(key.weight).unwrap_or(0).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(id: i64, priority: i64, weight: i64, models: Option<&[&str]>) -> Arc<ProviderKey> {
        let base_url = Url::parse("https://provider.test/v1").expect("a URL");
        let origin = Origin::of_url(&base_url, 1).expect("has a host");
        let models = models.map(|models| models.iter().map(ToString::to_string).collect());
        Arc::new(ProviderKey {
            id: KeyId(id),
            secret: Secret::new("k".into()),
            base_url,
            origin,
            models,
            priority,
            weight,
        })
    }

    #[track_caller]
    fn check(keys: &[Arc<ProviderKey>], model: Option<&str>, want: &[i64]) {
        let turns = Turns::default();
        let got: Vec<_> = want
            .iter()
            .filter_map(|_| turns.choose(keys, model))
            .map(|lease| lease.key().id.0)
            .collect();
        assert_eq!(got, want);
    }

    #[test]
    fn the_highest_priority_goes_first_then_weight_decides() {
        check(&[key(1, 5, 1, None), key(2, 0, 100, None)], None, &[1, 1, 1]);
        check(&[key(1, 0, 1, None), key(2, 0, 2, None)], None, &[1, 2, 2, 1, 2, 2]);
        check(&[key(1, 0, 0, None), key(2, 0, -3, None)], None, &[1, 2, 1, 2]);
    }

    #[test]
    fn keys_limited_to_models_serve_only_those() {
        let keys = [key(1, 5, 1, Some(&["a"])), key(2, 0, 1, None)];
        check(&keys, Some("a"), &[1, 1]);
        check(&keys, Some("b"), &[2, 2]);
        assert!(Turns::default().choose(&keys[..1], Some("b")).is_none());
        assert!(Turns::default().choose(&[], None).is_none());
    }
}
