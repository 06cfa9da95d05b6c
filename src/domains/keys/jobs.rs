//! Background work of keys.

use chrono::TimeDelta;

use super::model::{Device, OneTimePreKey};
use crate::kernel::app::App;
use crate::kernel::error::Error;

/// How long a one-time prekey that was handed out is remembered, so that an upload that is repeated does not bring it back.
const CLAIMED_DAYS: i64 = 30;

/// Removes devices that were not seen for `keys.device_days`; returns how many.
pub async fn delete_stale_devices(app: &App) -> Result<usize, Error> {
    let before = app.clock.now() - TimeDelta::days(i64::from(app.config.keys.device_days));
    let mut conn = app.db.get().await?;
    Ok(Device::delete_stale(&mut conn, before).await?.len())
}

/// Forgets one-time prekeys that were handed out long ago; returns how many.
pub async fn delete_claimed_prekeys(app: &App) -> Result<usize, Error> {
    let before = app.clock.now() - TimeDelta::days(CLAIMED_DAYS);
    let mut conn = app.db.get().await?;
    OneTimePreKey::delete_claimed(&mut conn, before).await
}
