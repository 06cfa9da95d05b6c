//! Background work of roles.

use super::events::{self, Changed};
use super::model::Assignment;
use crate::kernel::app::App;
use crate::kernel::error::Error;
use crate::kernel::jobs::{Handlers, Job};

/// Adds the handlers of these jobs.
pub fn handlers(handlers: Handlers) -> Handlers {
    handlers.handle_long(events::CHANGED, |app, job: Job<Changed>| async move {
        Ok(events::tell_changed(&app, &job.payload).await?)
    })
}

/// Forgets assignments that have expired; returns how many. They gave nothing any more: nobody needs to be told.
pub async fn delete_expired_assignments(app: &App) -> Result<usize, Error> {
    let mut conn = app.db.get().await?;
    Assignment::delete_expired(&mut conn, app.clock.now()).await
}
