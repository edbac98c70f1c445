//! The streams that people follow, counted for each of them: each holds a connection, and agents need connections too.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ace_policies::UserId;

use crate::App;
use crate::error::ApiError;

/// When a client may look whether it has one to spare.
const RETRY: Duration = Duration::from_secs(10);

/// How many streams each user has open at this node.
#[derive(Clone, Default)]
pub(crate) struct Streams(Arc<Mutex<HashMap<UserId, usize>>>);

/// A place for one stream; it is free again when this is dropped.
pub(crate) struct Place {
    user: UserId,
    streams: Streams,
}

impl App {
    /// Takes a place for one more stream of a user. Errors: 429 `too_many_streams` where `sessions.streams_per_user` are open.
    pub(crate) fn follow(&self, user: UserId) -> Result<Place, ApiError> {
        let most = self.config().streams_per_user;
        self.streams().take(user, most).ok_or_else(|| {
            let message = format!("you follow {most} live streams already, which is as many as one user may");
            ApiError::too_many("too_many_streams", message, RETRY)
                .hint("close one of them, such as a page that is left open")
        })
    }
}

impl Streams {
    fn take(&self, user: UserId, most: usize) -> Option<Place> {
        let mut open = self.open();
        let count = open.entry(user).or_default();
        if *count >= most {
            return None;
        }
        *count += 1;
        Some(Place {
            user,
            streams: self.clone(),
        })
    }

    fn open(&self) -> MutexGuard<'_, HashMap<UserId, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.streams.open();
        if let Some(count) = open.get_mut(&self.user) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.user);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use crate::testing::{config, worlds_with};

    #[tokio::test]
    async fn a_user_follows_so_many_streams_and_no_more() {
        let mut config = config();
        config.streams_per_user = 2;
        for world in worlds_with(config).await {
            let machine = world.host(1).await;
            let alice = world.assigned("alice", machine, "user").await;
            let stream = format!("/api/remote/sessions/{}/stream", alice.starts(machine).await);
            let live = alice.open("GET", "/api/live", Body::empty()).await;
            let session = alice.open("GET", &stream, Body::empty()).await;
            assert_eq!([live.status(), session.status()], [200, 200]);
            for path in ["/api/live", stream.as_str()] {
                assert_eq!(
                    alice.status("GET", path, None).await,
                    429,
                    "nothing that goes on for ever"
                );
                let refused = alice.get(path).await.refused(429, "too_many_streams");
                assert_eq!(refused.header("retry-after"), "10");
            }
            let admin = world.admin().await.open("GET", "/api/live", Body::empty()).await;
            assert_eq!(admin.status(), 200, "others have their own");
            drop(session);
            assert_eq!(
                alice.status("GET", &stream, None).await,
                200,
                "one that was left is free again"
            );
            drop((live, admin));
            assert!(world.app.streams().open().is_empty());
        }
    }
}
