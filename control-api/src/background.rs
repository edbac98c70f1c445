//! What goes on by itself while the control plane serves.

use tokio::task::JoinSet;

use crate::App;
use crate::agents::round;
use crate::wakeups::relay;

/// The tasks of a program that serves.
pub(crate) struct Background(JoinSet<()>);

/// Starts them. They end with [`Background::stop`], at the latest when this is dropped.
pub(crate) fn start(app: &App) -> Background {
    let mut tasks = JoinSet::new();
    tasks.spawn(relay::run(app.clone()));
    tasks.spawn(round::run(app.clone()));
    Background(tasks)
}

impl Background {
    pub async fn stop(mut self) {
        self.0.shutdown().await;
    }
}
