//! Background work of passkeys.

use super::model::Ceremony;
use crate::kernel::app::App;
use crate::kernel::error::Error;

/// Forgets ceremonies that nobody has finished in time; returns how many.
pub async fn delete_expired_ceremonies(app: &App) -> Result<usize, Error> {
    let mut conn = app.db.get().await?;
    Ceremony::delete_expired(&mut conn, app.clock.now()).await
}
