//! Changes of e-mail addresses: what is to be confirmed, and what can be taken back.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use uuid::Uuid;

use crate::kernel::db::Conn;
use crate::kernel::error::Error;
use crate::kernel::rng::hash_token;
use crate::schema::{email_changes, email_undos};

/// The address that an account is to have. There is at most one.
#[derive(Queryable, Selectable, Insertable, AsChangeset)]
#[diesel(table_name = email_changes, check_for_backend(diesel::pg::Pg))]
#[diesel(treat_none_as_default_value = false, treat_none_as_null = true)]
pub struct EmailChange {
    pub account_id: Uuid,
    pub new_email: String,
    /// The session that asked.
    pub session_id: Uuid,
    token_hash: Option<Vec<u8>>,
    pub token_expires_at: Option<DateTime<Utc>>,
    created_at: DateTime<Utc>,
}

impl EmailChange {
    /// One without a token.
    pub fn new(account_id: Uuid, new_email: String, session_id: Uuid, now: DateTime<Utc>) -> Self {
        Self { account_id, new_email, session_id, token_hash: None, token_expires_at: None, created_at: now }
    }

    /// Stores it in place of the one before, whose token is void.
    pub async fn replace(&self, conn: &mut Conn) -> Result<(), Error> {
        diesel::insert_into(email_changes::table)
            .values(self)
            .on_conflict(email_changes::account_id)
            .do_update()
            .set(self)
            .execute(conn)
            .await?;
        Ok(())
    }

    /// Of an account.
    pub async fn of(conn: &mut Conn, account_id: Uuid) -> Result<Option<Self>, Error> {
        Ok(email_changes::table.find(account_id).select(Self::as_select()).first(conn).await.optional()?)
    }

    /// Gives it a token, unless it was replaced meanwhile; the one that it had is void.
    pub async fn set_token(&self, conn: &mut Conn, token: &str, expires_at: DateTime<Utc>) -> Result<(), Error> {
        let this = email_changes::table.find(self.account_id).filter(email_changes::created_at.eq(self.created_at));
        diesel::update(this)
            .set((email_changes::token_hash.eq(hash_token(token)), email_changes::token_expires_at.eq(expires_at)))
            .execute(conn)
            .await?;
        Ok(())
    }

    /// By the token that was mailed for it.
    pub async fn by_token(conn: &mut Conn, token: &str) -> Result<Option<Self>, Error> {
        let found =
            email_changes::table.filter(email_changes::token_hash.eq(hash_token(token))).select(Self::as_select());
        Ok(found.first(conn).await.optional()?)
    }

    /// Uses the token up; false when somebody else was faster.
    pub async fn take(conn: &mut Conn, token: &str) -> Result<bool, Error> {
        let taken = diesel::delete(email_changes::table.filter(email_changes::token_hash.eq(hash_token(token))));
        Ok(taken.execute(conn).await? == 1)
    }

    /// Forgets that of an account.
    pub async fn void(conn: &mut Conn, account_id: Uuid) -> Result<(), Error> {
        diesel::delete(email_changes::table.find(account_id)).execute(conn).await?;
        Ok(())
    }

    /// Forgets those from before `before`; returns how many.
    pub async fn delete_old(conn: &mut Conn, before: DateTime<Utc>) -> Result<usize, Error> {
        Ok(diesel::delete(email_changes::table.filter(email_changes::created_at.lt(before))).execute(conn).await?)
    }
}

/// An address that can take its account back.
#[derive(Queryable, Selectable, Insertable)]
#[diesel(table_name = email_undos, check_for_backend(diesel::pg::Pg))]
pub struct EmailUndo {
    pub id: Uuid,
    pub account_id: Uuid,
    pub email: String,
    pub created_at: DateTime<Utc>,
    pub expires_at: DateTime<Utc>,
}

impl EmailUndo {
    /// Stores it; returns its id. One that the account has for the address already is good for longer.
    pub async fn store(&self, conn: &mut Conn) -> Result<Uuid, Error> {
        let stored = diesel::insert_into(email_undos::table)
            .values(self)
            .on_conflict((email_undos::account_id, email_undos::email))
            .do_update()
            .set(email_undos::expires_at.eq(self.expires_at))
            .returning(email_undos::id);
        Ok(stored.get_result(conn).await?)
    }

    /// By id.
    pub async fn by_id(conn: &mut Conn, id: Uuid) -> Result<Option<Self>, Error> {
        Ok(email_undos::table.find(id).select(Self::as_select()).first(conn).await.optional()?)
    }

    /// Gives it a token; the one that it had is void.
    pub async fn set_token(&self, conn: &mut Conn, token: &str) -> Result<(), Error> {
        let this = email_undos::table.find(self.id);
        diesel::update(this).set(email_undos::token_hash.eq(hash_token(token))).execute(conn).await?;
        Ok(())
    }

    /// By the token that was mailed for it.
    pub async fn by_token(conn: &mut Conn, token: &str) -> Result<Option<Self>, Error> {
        let found = email_undos::table.filter(email_undos::token_hash.eq(hash_token(token))).select(Self::as_select());
        Ok(found.first(conn).await.optional()?)
    }

    /// Uses the token up; false when somebody else was faster. Those of addresses that came later are void too: whoever
    /// took the account away has one of them.
    pub async fn take(&self, conn: &mut Conn, token: &str) -> Result<bool, Error> {
        let taken = diesel::delete(email_undos::table.filter(email_undos::token_hash.eq(hash_token(token))));
        if taken.execute(conn).await? == 0 {
            return Ok(false);
        }
        let later = email_undos::table
            .filter(email_undos::account_id.eq(self.account_id))
            .filter(email_undos::created_at.ge(self.created_at));
        diesel::delete(later).execute(conn).await?;
        Ok(true)
    }

    /// Forgets those that have expired; returns how many.
    pub async fn delete_expired(conn: &mut Conn, now: DateTime<Utc>) -> Result<usize, Error> {
        Ok(diesel::delete(email_undos::table.filter(email_undos::expires_at.le(now))).execute(conn).await?)
    }
}
