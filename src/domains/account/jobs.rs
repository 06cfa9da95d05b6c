//! Background work of account streams.

use chrono::TimeDelta;

use super::model::Node;
use super::presence::{self, Change};
use crate::kernel::account_events;
use crate::kernel::app::App;
use crate::kernel::error::Error;

/// Forgets events that are older than `account.event_days`; returns how many.
pub async fn delete_old_events(app: &App) -> Result<usize, Error> {
    let before = app.clock.now() - TimeDelta::days(i64::from(app.config.account.event_days));
    account_events::delete_old(&mut *app.db.get().await?, before).await
}

/// Forgets nodes that were killed, and their streams with them; returns how many. Whose streams they were has gone.
pub async fn delete_lost_nodes(app: &App) -> Result<usize, Error> {
    let (nodes, accounts) = Node::delete_lost(&mut *app.db.get().await?).await?;
    // Without the bus, who watches sees it when its stream opens anew.
    if let Err(error) = presence::publish(app, Change::Left, &accounts).await {
        tracing::debug!(%error, "nobody was told who has gone with a node that was killed");
    }
    Ok(nodes)
}
