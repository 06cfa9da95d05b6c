//! Background work of messaging.

use std::time::Duration;

use super::{retention, scheduled, search};
use crate::kernel::app::App;
use crate::kernel::error::Error;
use crate::kernel::jobs::Handlers;

/// How often there is a look at what has changed. What is written is found by search after little more than that.
const INTERVAL: Duration = Duration::from_secs(1);
/// How long to wait when that did not work.
const AFTER_FAILURE: Duration = Duration::from_secs(5);

/// Deletes messages that are older than the server or their conversation keeps them; returns how many.
pub async fn delete_old_messages(app: &App) -> Result<usize, Error> {
    retention::delete_old(app).await
}

/// Forgets scheduled messages that were refused long ago; returns how many.
pub async fn delete_refused_messages(app: &App) -> Result<usize, Error> {
    scheduled::delete_refused(app).await
}

/// Adds the handlers of messaging's jobs.
pub fn handlers(handlers: Handlers) -> Handlers {
    scheduled::handlers(handlers)
}

/// Lets search read what was written, and empties messages that have disappeared, until the server stops. Any number of processes may do it.
pub async fn run(app: &App) {
    loop {
        let pause = match work(app).await {
            Ok(()) => INTERVAL,
            Err(error) => {
                tracing::warn!(error = error.report(), "what has changed in conversations can't be worked on");
                AFTER_FAILURE
            }
        };
        tokio::select! {
            () = app.stopping.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

async fn work(app: &App) -> Result<(), Error> {
    retention::empty_expired(app).await?;
    search::index(app).await
}
