//! Accounts, sessions, tokens.
//!
//! Promises: an access token is refused as soon as its session was revoked or its account's token version was raised,
//! on every node; a refresh token works once; nobody learns whether an e-mail address has an account by trying to log in.
//!
//! Others may call: [`Sessions::authenticate`] (the gate), [`missing_accounts`] (who names accounts),
//! [`role_of`], [`set_role`] and [`Sessions::changed`] (roles), and [`seed_accounts`] (demo data).

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
use crate::kernel::error::Error;
use crate::proto::rialto::policy::v1::Role;

pub use service::AuthService;
pub use sessions::{Sessions, StreamGuard};
pub use tokens::Keys;

/// Which of these accounts do not exist or are not active, as indexes into `ids`.
pub async fn missing_accounts(conn: &mut Conn, ids: &[Uuid]) -> Result<Vec<usize>, Error> {
    let known = model::Account::active_ids(conn, ids).await?;
    Ok((0..ids.len()).filter(|index| !known.contains(&ids[*index])).collect())
}

/// The built-in role of an account, and whether it is active; `None` when there is no such account.
pub async fn role_of(conn: &mut Conn, id: Uuid) -> Result<Option<(Role, bool)>, Error> {
    let account = model::Account::by_id(conn, id).await?;
    Ok(account.map(|account| (account.role(), account.is_active())))
}

/// Gives an account another built-in role; an error if there is no such account, or if no active administrator would be
/// left. Tell [`Sessions::changed`] after the commit.
pub async fn set_role(conn: &mut Conn, id: Uuid, role: Role, now: DateTime<Utc>) -> Result<(), Error> {
    if model::Account::set_role(conn, id, role, now).await? { Ok(()) } else { Err(Error::not_found("account")) }
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
