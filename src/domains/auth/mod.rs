//! Accounts, sessions, tokens.
//!
//! Promises: an access token is refused as soon as its session was revoked or its account's token version was raised,
//! on every node; a refresh token works once; nobody learns whether an e-mail address has an account by trying to log in.
//!
//! Others may call: [`Sessions::authenticate`] (the gate), [`rename`] and [`change_state`] (who administers accounts), and
//! [`seed_accounts`] (demo data). They may read `accounts` in joins; only functions of this domain write it.

mod model;
mod passwords;
mod service;
mod sessions;
mod tokens;
mod wire;

pub mod jobs;

use chrono::{DateTime, Utc};
use diesel_async::AsyncConnection;
use uuid::Uuid;

use crate::kernel::app::App;
use crate::kernel::db::Conn;
use crate::kernel::error::{Error, Reason};
use crate::proto::rialto::policy::v1::Role;

pub use service::AuthService;
pub use sessions::{Sessions, StreamGuard};
pub use tokens::Keys;

/// Gives an account the name that others see.
pub async fn rename(conn: &mut Conn, id: Uuid, display_name: &str, now: DateTime<Utc>) -> Result<(), Error> {
    let found = model::Account::rename(conn, id, display_name, now).await?;
    if found { Ok(()) } else { Err(Error::not_found("user")) }
}

/// A change of an account's state.
#[derive(Clone, Copy)]
pub enum StateChange<'a> {
    /// From pending to active.
    Approve,
    /// From pending to rejected, for this reason.
    Reject(&'a str),
    /// From active to suspended. Ends all sessions.
    Suspend,
    /// From suspended to active.
    Reinstate,
    /// From any to deleted. Ends all sessions.
    Delete,
}

/// Changes the state of an account, and tells every node. There is always an active administrator left.
pub async fn change_state(app: &App, sessions: &Sessions, id: Uuid, change: StateChange<'_>) -> Result<(), Error> {
    let now = app.clock.now();
    let (from, to): (&[&str], &str) = match change {
        StateChange::Approve => (&["pending"], "active"),
        StateChange::Reject(_) => (&["pending"], "rejected"),
        StateChange::Suspend => (&["active"], "suspended"),
        StateChange::Reinstate => (&["suspended"], "active"),
        StateChange::Delete => (&["unverified", "pending", "active", "rejected", "suspended"], "deleted"),
    };
    let mut conn = app.db.get().await?;
    conn.transaction(async |conn| {
        let ends = matches!(change, StateChange::Suspend | StateChange::Delete);
        if ends {
            keep_an_administrator(conn, id).await?;
        }
        if !model::Account::move_state(conn, id, from, to, now).await? {
            return Err(match model::Account::is_deleted(conn, id).await? {
                Some(false) => Error::new(Reason::AccountStateConflict, "the account is not in the state for this"),
                _ => Error::not_found("user"),
            });
        }
        match change {
            StateChange::Approve => model::Account::note_approval(conn, id, now).await,
            StateChange::Reject(reason) => model::Account::note_rejection(conn, id, reason).await,
            _ if ends => model::Account::revoke_sessions(conn, id, now).await.map(drop),
            _ => Ok(()),
        }
    })
    .await?;
    drop(conn);
    sessions.changed(id).await;
    Ok(())
}

/// Refuses what would leave no active administrator without this one. To be called in the transaction that changes it.
async fn keep_an_administrator(conn: &mut Conn, id: Uuid) -> Result<(), Error> {
    if model::Account::lock_administrators(conn).await? == [id] {
        return Err(Error::new(Reason::LastAdministrator, "this is the last administrator"));
    }
    Ok(())
}

/// An account of the demo data.
pub struct SeedAccount {
    /// Its e-mail address.
    pub email: &'static str,
    /// Its name.
    pub display_name: &'static str,
    /// Its role.
    pub role: Role,
    /// Its password.
    pub password: String,
}

/// Creates the demo accounts, all or none; returns their ids in order, or `None` when the first exists already.
pub async fn seed_accounts(app: &App, accounts: &[SeedAccount]) -> Result<Option<Vec<Uuid>>, Error> {
    let passwords = passwords::Passwords::new(&app.config.auth)?;
    let mut rows = Vec::new();
    for account in accounts {
        let hash = passwords.hash(account.password.clone()).await?;
        rows.push(model::NewAccount::new(app, account.email, account.display_name, hash, account.role)?);
    }
    let ids = rows.iter().map(|row| row.id).collect();
    let mut conn = app.db.get().await?;
    conn.transaction(async |conn| {
        if let Some(first) = rows.first()
            && model::Account::by_email(conn, &first.email).await?.is_some()
        {
            return Ok(None);
        }
        for row in &rows {
            row.insert(conn).await?;
        }
        Ok(Some(ids))
    })
    .await
}
