//! Background work of security monitoring.

use chrono::TimeDelta;

use super::model::{Alert, Changes, Event, Network};
use crate::kernel::app::App;
use crate::kernel::error::Error;

pub use super::notices::handlers;

/// Forgets events, changes of alerts, and alerts that nothing was added to for `security.event_days`; returns how many rows.
pub async fn delete_old(app: &App) -> Result<usize, Error> {
    let (mut conn, now) = (app.db.get().await?, app.clock.now());
    let before = now - TimeDelta::days(i64::from(app.config.security.event_days));
    let travelled = now - TimeDelta::seconds(i64::from(app.config.security.travel_seconds));
    let mut deleted = Event::delete_old(&mut conn, before).await?;
    deleted += Alert::delete_old(&mut conn, before).await?;
    deleted += Changes::delete_old(&mut conn, before).await?;
    deleted += Network::delete_old(&mut conn, travelled).await?;
    Ok(deleted)
}
