//! Accounts that are deleted, and such as come back. What becomes of them otherwise is up to `privacy`.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::administration::may_act_on;
use super::model::Account;
use super::throttle::Throttle;
use super::wire::state_name;
use crate::kernel::app::App;
use crate::kernel::caller::Caller;
use crate::kernel::db::Conn;
use crate::kernel::error::Error;

/// Marks an account deleted and ends its sessions; returns the state that it had. The database refuses to leave no active
/// administrator. Tell [`super::Sessions::changed`] after the commit.
pub async fn delete(conn: &mut Conn, by: &Caller, id: Uuid, now: DateTime<Utc>) -> Result<String, Error> {
    may_act_on(conn, by, id, now).await?;
    let before = Account::by_id(conn, id).await?.ok_or_else(|| Error::not_found("account"))?;
    Account::delete(conn, id, now).await?;
    Ok(state_name(before.state()))
}

/// Forgets who has tried to guess what of an account: for whoever has its address next, too.
pub async fn forget_failures(app: &App, id: Uuid) -> Result<(), Error> {
    let account = Account::by_id(&mut *app.db.get().await?, id).await?;
    match account {
        Some(account) => Throttle::new(app.clone())?.clear(&account).await,
        None => Ok(()),
    }
}

/// Gives a deleted account back the state that it had.
pub async fn restore(conn: &mut Conn, id: Uuid, state: &str, now: DateTime<Utc>) -> Result<(), Error> {
    Account::restore(conn, id, state, now).await.map(drop)
}
