//! Accounts, sessions, tokens.
//!
//! Promises: an access token is refused as soon as its session was revoked or its account's token version was raised,
//! on every node; a refresh token works once, and so does a token of a mail; nobody learns whether an e-mail address has an
//! account by trying to log in or to reset its password, nor, where addresses have to be verified, by registering it.
//!
//! Others may call: [`Sessions::authenticate`] (the gate), [`missing_accounts`] (who names accounts) and
//! [`seed_accounts`] (demo data).

mod administration;
mod login;
mod mails;
mod model;
mod password_policy;
mod passwords;
mod recovery;
mod registration;
mod service;
mod sessions;
mod tokens;
mod wire;

pub mod jobs;

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
