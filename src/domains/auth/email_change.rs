//! Another e-mail address for an account.
//!
//! The new address has to confirm; the old one is told at once, and may take the account back for some days. Whoever can ask
//! has the session and the password, so that taking back voids both. What depends on whether the new address has an account
//! is left to a job, as at registration: the caller does not learn of it.

use chrono::{DateTime, Duration, Utc};
use diesel_async::AsyncConnection;
use uuid::Uuid;

use super::login::not_active;
use super::mails;
use super::model::email_change::{EmailChange, EmailUndo};
use super::model::registration::Registration;
use super::model::{Account, Session, fold_email};
use super::registration::{expired_token, invalid_token};
use super::service::AuthService;
use super::{jobs, security_changed};
use crate::kernel::app::App;
use crate::kernel::caller::Caller;
use crate::kernel::db::Conn;
use crate::kernel::error::Error;
use crate::kernel::jobs::{Failure, NewJob};
use crate::proto::rialto::account::v1::{SecurityChange, SessionEndReason};
use crate::proto::rialto::auth::v1::AccountState;

/// How long the old address may take the account back after a change was asked for.
pub const UNDO_LIFETIME: Duration = Duration::days(7);

/// Mails the token to the new address of an account.
pub const CONFIRM: &str = "auth.confirm_email_change";
/// Mails the token to an old one.
pub const UNDO: &str = "auth.undo_email_change";

impl AuthService {
    /// Asks the new address to confirm, and tells the old one.
    pub(super) async fn begin_email_change(&self, caller: &Caller, new_email: &str) -> Result<(), Error> {
        self.sessions.require_recent_authentication(caller).await?;
        let (now, new_email) = (self.app.clock.now(), fold_email(new_email));
        let undo_id = self.app.rng.id(now)?;
        let mut conn = self.app.db.get().await?;
        conn.transaction(async |conn| {
            let account = active(conn, caller.account_id).await?;
            if account.email == new_email {
                return Err(Error::invalid_field("new_email", "is the address that the account has"));
            }
            EmailChange::new(account.id, new_email, caller.session_id, now).replace(conn).await?;
            let expires_at = now + UNDO_LIFETIME;
            let undo =
                EmailUndo { id: undo_id, account_id: account.id, email: account.email, created_at: now, expires_at };
            let undo_id = undo.store(conn).await?;
            NewJob::new(&self.app, CONFIRM, &account.id)?.enqueue(conn).await?;
            NewJob::new(&self.app, UNDO, &undo_id)?.enqueue(conn).await
        })
        .await?;
        drop(conn);
        crate::kernel::jobs::wake(&self.app).await;
        Ok(())
    }

    /// Gives the account the address whose token this is. Of two accounts that want the same one, one gets it.
    pub(super) async fn finish_email_change(&self, token: &str) -> Result<Account, Error> {
        let now = self.app.clock.now();
        let mut conn = self.app.db.get().await?;
        let change = EmailChange::by_token(&mut conn, token).await?.ok_or_else(invalid_token)?;
        if change.token_expires_at.is_none_or(|expires_at| expires_at <= now) {
            return Err(expired_token());
        }
        let (changed, told) = conn
            .transaction(async |conn| {
                active(conn, change.account_id).await?;
                if !EmailChange::take(conn, token).await? {
                    return Err(invalid_token());
                }
                let changed = Account::set_email(conn, change.account_id, &change.new_email, now).await?;
                Registration::delete_all(conn, &change.new_email).await?;
                let why = SessionEndReason::SecurityChanged;
                let told = Session::revoke_others(conn, changed.id, change.session_id, why, now).await?;
                let told = told.and(security_changed(conn, changed.id, SecurityChange::EmailChanged, now).await?);
                Ok((changed, told))
            })
            .await?;
        drop(conn);
        self.app.account_events.announce(told).await;
        self.sessions.changed(changed.id).await;
        Ok(changed)
    }

    /// Takes an account back to the address whose token this is; returns which.
    pub(super) async fn take_back(&self, token: &str) -> Result<Uuid, Error> {
        let now = self.app.clock.now();
        let found = EmailUndo::by_token(&mut *self.app.db.get().await?, token).await?;
        let undo = found.ok_or_else(invalid_token)?;
        if undo.expires_at <= now {
            return Err(expired_token());
        }
        // A password that nobody knows.
        let hash = self.passwords.hash(self.app.rng.token()?).await?;
        let mut conn = self.app.db.get().await?;
        let taken = conn.transaction(async |conn| {
            let (account, _) = Account::lock(conn, undo.account_id).await?.ok_or_else(invalid_token)?;
            if account.state() == AccountState::Deleted || !undo.take(conn, token).await? {
                return Err(invalid_token());
            }
            EmailChange::void(conn, account.id).await?;
            if account.email != undo.email {
                Account::set_email(conn, account.id, &undo.email, now).await?;
            }
            Account::set_password(conn, account.id, None, &hash, now).await?;
            jobs::reset_password(&self.app, &undo.email)?.enqueue(conn).await?;
            let why = SessionEndReason::SecurityChanged;
            let told = Account::revoke_sessions(conn, account.id, why, now).await?;
            Ok(told.and(security_changed(conn, account.id, SecurityChange::EmailChanged, now).await?))
        });
        let told = taken.await?;
        drop(conn);
        tracing::warn!(account = %undo.account_id, "a change of an e-mail address was taken back");
        self.app.account_events.announce(told).await;
        self.sessions.changed(undo.account_id).await;
        crate::kernel::jobs::wake(&self.app).await;
        Ok(undo.account_id)
    }
}

/// An account that may change its address, locked.
async fn active(conn: &mut Conn, id: Uuid) -> Result<Account, Error> {
    let (account, _) = Account::lock(conn, id).await?.ok_or_else(|| Error::not_found("account"))?;
    if account.is_active() { Ok(account) } else { Err(not_active(account.state())) }
}

/// Mails a token to the new address of an account, or that it has an account already.
pub async fn send_confirmation(app: &App, job: Uuid, account_id: Uuid) -> Result<(), Failure> {
    let mail = {
        let mut conn = app.db.get().await?;
        // It was confirmed meanwhile, or taken back.
        let Some(change) = EmailChange::of(&mut conn, account_id).await? else { return Ok(()) };
        let Some(account) = Account::by_id(&mut conn, account_id).await? else { return Ok(()) };
        if Account::by_email(&mut conn, &change.new_email).await?.is_some() {
            mails::address_taken(&app.config.server, &change.new_email)
        } else {
            let (token, seconds) = (app.rng.token()?, app.config.auth.email_change_token_seconds);
            change.set_token(&mut conn, &token, app.clock.now() + Duration::seconds(seconds.into())).await?;
            mails::confirm_email(&app.config.server, &account, &change.new_email, &token, seconds)
        }
    };
    jobs::send(app, job, mail).await
}

/// Mails a token to an address that can take its account back.
pub async fn send_undo(app: &App, job: Uuid, undo_id: Uuid) -> Result<(), Failure> {
    let mail = {
        let mut conn = app.db.get().await?;
        let Some(undo) = EmailUndo::by_id(&mut conn, undo_id).await? else { return Ok(()) };
        let Some(account) = Account::by_id(&mut conn, undo.account_id).await? else { return Ok(()) };
        let token = app.rng.token()?;
        undo.set_token(&mut conn, &token).await?;
        mails::undo_email(&app.config.server, &account, &undo.email, &token, &day(undo.expires_at))
    };
    jobs::send(app, job, mail).await
}

fn day(time: DateTime<Utc>) -> String {
    time.format("%Y-%m-%d %H:%M UTC").to_string()
}
