//! Background work of accounts.

use chrono::Duration;

use super::challenge::Challenge;
use super::model::Session;
use crate::kernel::app::App;
use crate::kernel::error::Error;

/// How long an ended session is kept, so that a late use of its refresh token is still recognised.
const KEPT: Duration = Duration::days(30);

/// How long an expired challenge is kept, so that a late code is told what is wrong.
const EXPIRED_KEPT: Duration = Duration::minutes(10);

/// Forgets sessions that ended long ago, with their tokens; returns how many.
pub async fn delete_ended_sessions(app: &App) -> Result<usize, Error> {
    let mut conn = app.db.get().await?;
    Session::delete_ended(&mut conn, app.clock.now() - KEPT).await
}

/// Forgets login challenges that have expired; returns how many.
pub async fn delete_expired_challenges(app: &App) -> Result<usize, Error> {
    let mut conn = app.db.get().await?;
    Challenge::delete_expired(&mut conn, app.clock.now() - EXPIRED_KEPT).await
}
