//! Background work of two-factor authentication.

use super::model::Enrolment;
use super::service::SETUP_LIFETIME;
use crate::kernel::app::App;
use crate::kernel::error::Error;

/// Forgets setups that were not finished in time; returns how many.
pub async fn delete_abandoned_setups(app: &App) -> Result<usize, Error> {
    let mut conn = app.db.get().await?;
    Enrolment::delete_abandoned(&mut conn, app.clock.now() - SETUP_LIFETIME).await
}
