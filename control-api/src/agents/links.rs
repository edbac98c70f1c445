//! The agents that are connected to this node over a WebSocket.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ace_policies::MachineId;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;
use uuid::Uuid;

/// Who is connected. All clones are one.
#[derive(Clone, Default)]
pub(crate) struct Links(Arc<Inner>);

#[derive(Default)]
struct Inner {
    open: Mutex<HashMap<Uuid, Held>>,
    tasks: TaskTracker,
}

/// What a connection was opened with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Held {
    pub machine: MachineId,
    pub token_hash: String,
}

impl Links {
    /// Notes a connection, until the guard goes.
    pub fn hold(&self, connection: Uuid, held: Held) -> Hold {
        self.open().insert(connection, held);
        Hold {
            links: self.clone(),
            connection,
            _task: self.0.tasks.token(),
        }
    }

    /// All that are open now.
    pub fn held(&self) -> HashMap<Uuid, Held> {
        self.open().clone()
    }

    /// Waits until none is open.
    pub async fn all_closed(&self) {
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }

    fn open(&self) -> MutexGuard<'_, HashMap<Uuid, Held>> {
        self.0.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection that is open.
pub(crate) struct Hold {
    links: Links,
    connection: Uuid,
    _task: TaskTrackerToken,
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.links.open().remove(&self.connection);
    }
}
