//! Accounts, sessions, tokens.
//!
//! Promises: an access token is refused as soon as its session was revoked or its account's token version was raised,
//! on every node; a refresh token works once, and so does a token of a mail; a login whose account has a second factor opens
//! no session without it; nobody learns whether an e-mail address has an account by trying to log in or to reset its
//! password, nor, where addresses have to be verified, by registering it; nobody guesses a password or a code, and a stranger
//! who tries does not lock the owner out of a known device (`docs/throttling.md`); no page can act for a browser's user by
//! their cookies alone (`docs/browsers.md`).
//!
//! Others may call: [`Sessions::authenticate`] and [`Sessions::authenticate_cookie`] (the gate),
//! [`Sessions::require_recent_authentication`] and [`Confirmation`] (before what only the owner may do), [`may_act_on`] (before
//! what is done to somebody else's account), [`rename`] and [`change_state`] (`users`), [`role_of`], [`set_role`] and
//! [`Sessions::changed`] (roles), [`lock_second_factor`] and [`set_two_factor`] (`two_factor`, `passkeys`),
//! [`AuthService::log_in_by_passkey`], [`challenged_account`], [`reauthenticated`] and [`require_live_session`] (`passkeys`),
//! [`delete`], [`restore`] and [`forget_failures`] (`privacy`), [`jobs::notice`] (what an owner is told by mail) and
//! [`seed_accounts`] (demo data). They may read `accounts` in joins; only functions of this domain write it.

mod administration;
mod challenge;
mod client;
mod confirm;
mod cookies;
mod csrf;
mod deletion;
mod email_change;
mod login;
mod mails;
mod model;
mod names;
mod passkey_login;
mod password_policy;
mod passwords;
mod personal_data;
mod recovery;
mod registration;
mod service;
mod sessions;
mod throttle;
mod tokens;
mod wire;

pub mod jobs;

use chrono::{DateTime, Utc};
use diesel_async::AsyncConnection;
use uuid::Uuid;

use crate::kernel::account_events::{self, Announcement, Event};
use crate::kernel::app::App;
use crate::kernel::db::Conn;
use crate::kernel::error::Error;
use crate::proto::rialto::account::v1::{SecurityChange, SecurityChanged, SessionEndReason};
use crate::proto::rialto::policy::v1::Role;

pub use administration::{StateChange, change_state, may_act_on};
pub use client::Client;
pub use confirm::Confirmation;
pub use cookies::{ACCESS, Browser, CSRF_TOKEN, Manner, REFRESH, device_token};
pub use deletion::{delete, forget_failures, restore};
pub use login::Opened;
pub use model::states::state_by_name;
pub use names::display_name;
pub use passkey_login::{challenged_account, lock_second_factor, reauthenticated, require_live_session};
pub use personal_data::PERSONAL_DATA;
pub use service::AuthService;
pub use sessions::{Sessions, StreamGuard};
pub use tokens::Keys;
pub use wire::{device, state_name};

/// Gives an account the name that others see.
pub async fn rename(conn: &mut Conn, id: Uuid, display_name: &str, now: DateTime<Utc>) -> Result<(), Error> {
    let found = model::Account::rename(conn, id, display_name, now).await?;
    if found { Ok(()) } else { Err(Error::not_found("user")) }
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

/// Notes whether an account has a second factor, after one was added or taken, and ends its sessions, but for `keep`. To be
/// called in the transaction that does it, which begins with this or with [`lock_second_factor`]: both lock the account, which
/// a login locks too. After the commit the account is told, and then [`Sessions::changed`].
pub async fn set_two_factor(
    conn: &mut Conn,
    account_id: Uuid,
    enabled: bool,
    keep: Option<Uuid>,
    change: SecurityChange,
    now: DateTime<Utc>,
) -> Result<Announcement, Error> {
    if !model::Account::set_two_factor(conn, account_id, enabled, now).await? {
        return Err(Error::not_found("account"));
    }
    let why = SessionEndReason::SecurityChanged;
    let ended = match keep {
        Some(session_id) => model::Session::revoke_others(conn, account_id, session_id, why, now).await?,
        None => model::Account::revoke_sessions(conn, account_id, why, now).await?,
    };
    Ok(ended.and(security_changed(conn, account_id, change, now).await?))
}

/// Tells an account that how one logs in to it was changed.
async fn security_changed(
    conn: &mut Conn,
    account_id: Uuid,
    change: SecurityChange,
    now: DateTime<Utc>,
) -> Result<Announcement, Error> {
    let event = Event::SecurityChanged(SecurityChanged { change: change.into() });
    account_events::append(conn, &[(account_id, event)], now).await
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
