//! Background work of roles.

use super::model::Assignment;
use crate::kernel::app::App;
use crate::kernel::error::Error;

/// Forgets assignments that have expired; returns how many. They gave nothing any more: nobody needs to be told.
pub async fn delete_expired_assignments(app: &App) -> Result<usize, Error> {
    let mut conn = app.db.get().await?;
    Assignment::delete_expired(&mut conn, app.clock.now()).await
}
