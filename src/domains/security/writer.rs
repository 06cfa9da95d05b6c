//! The task that writes what this node has recorded.

use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::alerts;
use super::live::Live;
use crate::kernel::app::App;
use crate::kernel::jobs;

/// How long events wait in memory while the database is well.
const PAUSE: Duration = Duration::from_millis(500);
/// How long the last batch may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Writes events until it is told to finish.
pub struct Writer {
    finish: CancellationToken,
    task: JoinHandle<()>,
}

impl Writer {
    /// Begins.
    pub fn start(app: App, live: Live) -> Self {
        let finish = CancellationToken::new();
        Self { task: tokio::spawn(run(app, live, finish.clone())), finish }
    }

    /// Writes what there is, and ends. To be called when no call runs any more: they record too.
    pub async fn finish(self) {
        self.finish.cancel();
        if tokio::time::timeout(PATIENCE, self.task).await.is_err() {
            tracing::warn!("the last security events were not written in time");
        }
    }
}

async fn run(app: App, live: Live, finish: CancellationToken) {
    while tokio::time::timeout(PAUSE, finish.cancelled()).await.is_err() {
        write(&app, &live).await;
    }
    write(&app, &live).await;
}

async fn write(app: &App, live: &Live) {
    let batch = app.security.take();
    if batch.is_empty() {
        return;
    }
    match alerts::write(app, &batch).await {
        Ok(changes) if changes.is_empty() => {}
        Ok(changes) => {
            live.publish(changes).await;
            jobs::wake(app).await;
        }
        Err(error) => {
            tracing::warn!(error = error.report(), events = batch.rows.len(), "security events can't be written yet");
            app.security.restore(batch);
        }
    }
}
