//! Retention: what is older than the server or a conversation keeps is deleted, and what has disappeared is emptied.
//!
//! Nobody sees it any more by then: reading leaves out what is too old, and shows what has disappeared without content.

use uuid::Uuid;

use super::model::{partitions, retention};
use crate::kernel::app::App;
use crate::kernel::error::Error;

/// Deletes messages that are no longer kept, and makes the next partitions; returns how many messages that were.
pub async fn delete_old(app: &App) -> Result<usize, Error> {
    let (now, days) = (app.clock.now(), app.config.messaging.retention_days);
    let mut conn = app.db.get().await?;
    partitions::create(&mut conn, now, partitions::days(days)).await?;
    let mut deleted = 0;
    if let Some(horizon) = partitions::horizon(now, days) {
        let dropped = partitions::drop_before(&mut conn, horizon).await;
        retention::delete_belongings(&mut conn, horizon).await?;
        if dropped? > 0 {
            deleted += retention::delete_keys(&mut conn, horizon).await?;
        }
    }
    let mut last = Uuid::nil();
    loop {
        let conversations = retention::with_own_days(&mut conn, last).await?;
        let Some((newest, _)) = conversations.last() else { return Ok(deleted) };
        last = *newest;
        for (id, own_days) in conversations {
            let before = partitions::kept_since(now, days, own_days);
            while let Some(some) = retention::delete_oldest(&mut conn, id, before).await? {
                deleted += some;
            }
        }
    }
}

/// Takes the content out of messages that have disappeared; returns how many.
pub async fn empty_expired(app: &App) -> Result<usize, Error> {
    let mut conn = app.db.get().await?;
    let mut emptied = 0;
    loop {
        match retention::empty_expired(&mut conn, app.clock.now()).await? {
            0 => return Ok(emptied),
            some => emptied += some,
        }
    }
}
