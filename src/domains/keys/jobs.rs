//! Background work of keys.

use chrono::TimeDelta;
use diesel_async::AsyncConnection;

use super::events;
use super::model::{Device, OneTimePreKey};
use crate::kernel::app::App;
use crate::kernel::error::Error;

/// How long a one-time prekey that was handed out is remembered, so that an upload that is repeated does not bring it back.
const CLAIMED_DAYS: i64 = 30;

/// Devices that are removed at a time.
const DELETED: usize = 1000;

/// Removes devices that were not seen for `keys.device_days`, and tells their accounts; returns how many.
pub async fn delete_stale_devices(app: &App) -> Result<usize, Error> {
    let now = app.clock.now();
    let before = now - TimeDelta::days(i64::from(app.config.keys.device_days));
    let mut deleted = 0;
    loop {
        let mut conn = app.db.get().await?;
        let (some, announcement) = conn
            .transaction(async |conn| {
                let stale = Device::delete_stale(conn, before, DELETED).await?;
                let announcement = events::removed(conn, &stale, now).await?;
                Ok::<_, Error>((stale.len(), announcement))
            })
            .await?;
        drop(conn);
        app.account_events.announce(announcement).await;
        deleted += some;
        if some < DELETED {
            return Ok(deleted);
        }
    }
}

/// Forgets one-time prekeys that were handed out long ago; returns how many.
pub async fn delete_claimed_prekeys(app: &App) -> Result<usize, Error> {
    let before = app.clock.now() - TimeDelta::days(CLAIMED_DAYS);
    let mut conn = app.db.get().await?;
    OneTimePreKey::delete_claimed(&mut conn, before).await
}
