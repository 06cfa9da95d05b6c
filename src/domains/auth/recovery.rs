//! New passwords: with a token that was mailed, or with the old one.

use diesel_async::AsyncConnection;

use super::jobs::{self, Notice};
use super::login::{Tokens, not_active};
use super::model::reset::PasswordReset;
use super::model::{Account, RefreshToken, Session};
use super::registration::{expired_token, invalid_token};
use super::security_changed;
use super::service::AuthService;
use crate::kernel::caller::Caller;
use crate::kernel::error::{Error, Reason};
use crate::kernel::jobs::NewJob;
use crate::kernel::security::{Event, Kind};
use crate::proto::rialto::account::v1::{SecurityChange, SessionEndReason};
use crate::proto::rialto::auth::v1::{ChangePasswordRequest, ResetPasswordRequest};

impl AuthService {
    /// Leaves everything that depends on the address to a job.
    pub(super) async fn leave_to(&self, email: &str, job: NewJob) -> Result<(), Error> {
        self.count_mail(email).await?;
        job.enqueue(&mut *self.app.db.get().await?).await?;
        crate::kernel::jobs::wake(&self.app).await;
        Ok(())
    }

    /// Sets a new password for whoever reads the account's mail.
    pub(super) async fn reset(&self, request: ResetPasswordRequest) -> Result<Account, Error> {
        let ResetPasswordRequest { token, new_password } = request;
        let now = self.app.clock.now();
        let found = {
            let mut conn = self.app.db.get().await?;
            PasswordReset::by_token(&mut conn, &token).await?
        };
        let (row, account) = found.ok_or_else(invalid_token)?;
        if row.expires_at <= now {
            return Err(expired_token());
        }
        let known = [account.email.clone(), account.display_name.clone()];
        let hash = self.passwords.hash_new("new_password", new_password, known).await?;
        let mut conn = self.app.db.get().await?;
        let reset = conn.transaction(async |conn| {
            if !PasswordReset::take(conn, &token).await? {
                return Err(invalid_token());
            }
            Account::set_password(conn, account.id, None, &hash, now).await?;
            Account::email_is_verified(conn, account.id, now).await?;
            jobs::notice(&self.app, account.id, Notice::PasswordChanged)?.enqueue(conn).await?;
            let why = SessionEndReason::SecurityChanged;
            let told = Account::revoke_sessions(conn, account.id, why, now).await?;
            Ok(told.and(security_changed(conn, account.id, SecurityChange::PasswordChanged, now).await?))
        });
        let told = reset.await?;
        drop(conn);
        self.app.account_events.announce(told).await;
        self.sessions.changed(account.id).await;
        if let Err(error) = self.throttle.clear(&account).await {
            tracing::warn!(account = %account.id, %error, "locks outlive the reset of a password");
        }
        crate::kernel::jobs::wake(&self.app).await;
        Ok(account)
    }

    /// The caller's account and the hash of its password, which this is.
    async fn verify_current(&self, caller: &Caller, password: String) -> Result<(Account, String), Error> {
        let found = {
            let mut conn = self.app.db.get().await?;
            Account::with_password_hash(&mut conn, caller.account_id).await?
        };
        let (account, hash) = found.ok_or_else(|| Error::not_found("account"))?;
        match self.passwords.verify(password, Some(hash.clone())).await? {
            Some(_) => Ok((account, hash)),
            None => {
                self.app.security.record(Event::about(Kind::ConfirmationFailed, caller.account_id));
                Err(Error::new(Reason::InvalidCredentials, "current_password is wrong"))
            }
        }
    }

    /// Sets a new password for whoever knows the old one, and ends every session but the caller's.
    pub(super) async fn change(&self, caller: &Caller, request: ChangePasswordRequest) -> Result<Tokens, Error> {
        let ChangePasswordRequest { current_password, new_password } = request;
        if self.sessions.account(caller).await?.two_factor {
            // The password alone does not prove the owner then.
            self.sessions.require_recent_authentication(caller).await?;
        }
        let attempt = self.throttle.confirmation(caller).await?;
        let (account, old) = attempt.judge(self.verify_current(caller, current_password).await).await?;
        let known = [account.email.clone(), account.display_name.clone()];
        let hash = self.passwords.hash_new("new_password", new_password, known).await?;
        let (now, refresh) = (self.app.clock.now(), self.app.rng.token()?);
        let mut conn = self.app.db.get().await?;
        let (changed, ends, told) = conn
            .transaction(async |conn| {
                let changed = Account::set_password(conn, account.id, Some(&old), &hash, now).await?;
                let overtaken = || Error::new(Reason::ResourceConflict, "the password was changed at the same time");
                let changed = changed.ok_or_else(overtaken)?;
                if !changed.is_active() {
                    return Err(not_active(changed.state()));
                }
                let live = Session::live(conn, account.id, now).await?;
                let ended = || Error::new(Reason::SessionRevoked, "the session has ended");
                let own = live.iter().find(|session| session.id == caller.session_id).ok_or_else(ended)?;
                let others: Vec<_> = live.iter().map(|session| session.id).filter(|id| *id != own.id).collect();
                let expires_at = self.lifetimes().end(own.created_at, now);
                RefreshToken::void(conn, own.id, now).await?;
                RefreshToken::insert(conn, &refresh, own.id, now, expires_at).await?;
                Session::extend(conn, own.id, now, expires_at).await?;
                jobs::notice(&self.app, account.id, Notice::PasswordChanged)?.enqueue(conn).await?;
                let told = Session::revoke_all(conn, &others, SessionEndReason::SecurityChanged, now).await?;
                let told = told.and(security_changed(conn, account.id, SecurityChange::PasswordChanged, now).await?);
                Ok((changed, expires_at, told))
            })
            .await?;
        drop(conn);
        self.app.account_events.announce(told).await;
        self.sessions.changed(account.id).await;
        crate::kernel::jobs::wake(&self.app).await;
        self.tokens(&changed, caller.session_id, refresh, now, ends)
    }
}
