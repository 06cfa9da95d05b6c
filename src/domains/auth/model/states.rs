//! What an account may do, and how that changes. Each change is a compare-and-set: of several at once, one wins.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel::result::{DatabaseErrorKind, Error as DieselError};
use diesel_async::RunQueryDsl;
use uuid::Uuid;

use super::{Account, Session};
use crate::kernel::db::Conn;
use crate::kernel::error::{Error, Reason};
use crate::proto::rialto::account::v1::SessionEndReason;
use crate::proto::rialto::auth::v1::AccountState;
use crate::schema::{accounts, sessions};

/// The state of this name. What is none lets nobody in.
pub fn state_by_name(name: &str) -> AccountState {
    match name {
        "unverified" => AccountState::Unverified,
        "pending" => AccountState::Pending,
        "active" => AccountState::Active,
        "rejected" => AccountState::Rejected,
        "suspended" => AccountState::Suspended,
        _ => AccountState::Deleted,
    }
}

impl Account {
    /// What it may do.
    pub fn state(&self) -> AccountState {
        state_by_name(&self.state)
    }

    /// Accounts that wait for approval, the oldest first.
    pub async fn pending(conn: &mut Conn, after: Option<Uuid>, limit: i64) -> Result<Vec<Self>, Error> {
        let pending = accounts::table
            .filter(accounts::state.eq("pending"))
            .filter(accounts::id.gt(after.unwrap_or(Uuid::nil())))
            .order(accounts::id)
            .limit(limit)
            .select(Self::as_select());
        Ok(pending.load(conn).await?)
    }

    /// From pending to active.
    pub async fn approve(conn: &mut Conn, id: Uuid, now: DateTime<Utc>) -> Result<Self, Error> {
        let account = Self::change(conn, id, "pending", "active", now).await?;
        diesel::update(accounts::table.find(id)).set(accounts::approved_at.eq(now)).execute(conn).await?;
        Ok(account)
    }

    /// From pending to rejected.
    pub async fn reject(conn: &mut Conn, id: Uuid, reason: &str, now: DateTime<Utc>) -> Result<Self, Error> {
        let account = Self::change(conn, id, "pending", "rejected", now).await?;
        diesel::update(accounts::table.find(id)).set(accounts::rejection_reason.eq(reason)).execute(conn).await?;
        Ok(account)
    }

    /// From active to suspended, and no session is left.
    pub async fn suspend(conn: &mut Conn, id: Uuid, now: DateTime<Utc>) -> Result<Self, Error> {
        let account = Self::change(conn, id, "active", "suspended", now).await?;
        // Nobody is left who could be told at once: every stream ends.
        let _ = Self::revoke_sessions(conn, id, SessionEndReason::AccountClosed, now).await?;
        Ok(account)
    }

    /// From suspended to active.
    pub async fn reinstate(conn: &mut Conn, id: Uuid, now: DateTime<Utc>) -> Result<Self, Error> {
        Self::change(conn, id, "suspended", "active", now).await
    }

    /// From any to deleted, and no session is left.
    pub async fn delete(conn: &mut Conn, id: Uuid, now: DateTime<Utc>) -> Result<Self, Error> {
        let deleted = diesel::update(accounts::table.find(id).filter(accounts::state.ne("deleted")))
            .set((accounts::state.eq("deleted"), accounts::updated_at.eq(now)))
            .returning(Self::as_select())
            .get_result(conn)
            .await
            .optional()?;
        let deleted = deleted.ok_or_else(|| Error::not_found("account"))?;
        // Nobody is left who could be told at once: every stream ends.
        let _ = Self::revoke_sessions(conn, id, SessionEndReason::AccountClosed, now).await?;
        Ok(deleted)
    }

    /// From deleted to the state that it had.
    pub async fn restore(conn: &mut Conn, id: Uuid, state: &str, now: DateTime<Utc>) -> Result<Self, Error> {
        Self::change(conn, id, "deleted", state, now).await
    }

    /// Why it was rejected.
    pub async fn rejection_reason(conn: &mut Conn, id: Uuid) -> Result<Option<String>, Error> {
        let reason = accounts::table.find(id).select(accounts::rejection_reason).first(conn).await;
        Ok(reason.optional()?.flatten())
    }

    /// Replaces the hash of the same password, unless the password was changed meanwhile.
    pub async fn rehash(conn: &mut Conn, id: Uuid, old: &str, new: &str) -> Result<(), Error> {
        let unchanged = accounts::table.find(id).filter(accounts::password_hash.eq(old));
        diesel::update(unchanged).set(accounts::password_hash.eq(new)).execute(conn).await?;
        Ok(())
    }

    /// Sets a new password: every access token is void, and so is every token to reset the old one. `None` when the account
    /// is gone or its password is not `old` any more.
    pub async fn set_password(
        conn: &mut Conn,
        id: Uuid,
        old: Option<&str>,
        new: &str,
        now: DateTime<Utc>,
    ) -> Result<Option<Self>, Error> {
        let Some(current) = accounts::table
            .find(id)
            .select(accounts::password_hash)
            .for_no_key_update()
            .first::<String>(conn)
            .await
            .optional()?
        else {
            return Ok(None);
        };
        if old.is_some_and(|old| old != current) {
            return Ok(None);
        }
        super::reset::PasswordReset::void(conn, id).await?;
        let changed = diesel::update(accounts::table.find(id))
            .set((
                accounts::password_hash.eq(new),
                accounts::token_version.eq(accounts::token_version + 1),
                accounts::updated_at.eq(now),
            ))
            .returning(Self::as_select())
            .get_result(conn)
            .await?;
        Ok(Some(changed))
    }

    /// Gives it an address that its owner reads mail to: every access token is void, and so is every token to reset the
    /// password, which the old address has. An error if the address has an account.
    pub async fn set_email(conn: &mut Conn, id: Uuid, email: &str, now: DateTime<Utc>) -> Result<Self, Error> {
        super::reset::PasswordReset::void(conn, id).await?;
        let changed = diesel::update(accounts::table.find(id))
            .set((
                accounts::email.eq(email),
                accounts::email_verified_at.eq(now),
                accounts::token_version.eq(accounts::token_version + 1),
                accounts::updated_at.eq(now),
            ))
            .returning(Self::as_select())
            .get_result(conn)
            .await;
        match changed {
            Err(DieselError::DatabaseError(DatabaseErrorKind::UniqueViolation, _)) => {
                Err(Error::new(Reason::ResourceAlreadyExists, "this e-mail address has an account"))
            }
            changed => Ok(changed?),
        }
    }

    /// Notes that the owner of the account reads mail to its address.
    pub async fn email_is_verified(conn: &mut Conn, id: Uuid, now: DateTime<Utc>) -> Result<(), Error> {
        let unverified = accounts::table.find(id).filter(accounts::email_verified_at.is_null());
        diesel::update(unverified).set(accounts::email_verified_at.eq(now)).execute(conn).await?;
        Ok(())
    }

    async fn change(conn: &mut Conn, id: Uuid, from: &str, to: &str, now: DateTime<Utc>) -> Result<Self, Error> {
        let changed = diesel::update(accounts::table.find(id).filter(accounts::state.eq(from)))
            .set((accounts::state.eq(to), accounts::updated_at.eq(now)))
            .returning(Self::as_select())
            .get_result(conn)
            .await
            .optional()?;
        if let Some(account) = changed {
            return Ok(account);
        }
        let found = Self::by_id(conn, id).await?.filter(|account| account.state() != AccountState::Deleted);
        let account = found.ok_or_else(|| Error::not_found("account"))?;
        Err(Error::new(Reason::AccountStateConflict, format!("the account is not {from}")).with("state", account.state))
    }
}

impl Session {
    /// The live sessions of an account, the one that was used last first.
    pub async fn live(conn: &mut Conn, account_id: Uuid, now: DateTime<Utc>) -> Result<Vec<Self>, Error> {
        let live = sessions::table
            .filter(sessions::account_id.eq(account_id))
            .filter(sessions::revoked_at.is_null())
            .filter(sessions::expires_at.gt(now))
            .order((sessions::last_seen_at.desc(), sessions::id.desc()))
            .select(Self::as_select());
        Ok(live.load(conn).await?)
    }

    /// The live sessions of an account without the `keep` that were used last.
    pub async fn live_beyond(
        conn: &mut Conn,
        account_id: Uuid,
        now: DateTime<Utc>,
        keep: usize,
    ) -> Result<Vec<Uuid>, Error> {
        let live = sessions::table
            .filter(sessions::account_id.eq(account_id))
            .filter(sessions::revoked_at.is_null())
            .filter(sessions::expires_at.gt(now))
            .order((sessions::last_seen_at.desc(), sessions::id.desc()))
            .offset(i64::try_from(keep).unwrap_or(i64::MAX))
            .select(sessions::id);
        Ok(live.load(conn).await?)
    }
}
