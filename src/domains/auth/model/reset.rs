//! Tokens that set a new password.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use uuid::Uuid;

use super::Account;
use crate::kernel::db::Conn;
use crate::kernel::error::Error;
use crate::kernel::rng::hash_token;
use crate::schema::{accounts, password_resets};

/// The token of an account, as it is stored: its hash. An account has at most one.
#[derive(Queryable, Selectable, Insertable, AsChangeset)]
#[diesel(table_name = password_resets, check_for_backend(diesel::pg::Pg))]
pub struct PasswordReset {
    pub account_id: Uuid,
    token_hash: Vec<u8>,
    pub expires_at: DateTime<Utc>,
}

impl PasswordReset {
    /// Stores the hash of a token in place of the one before.
    pub async fn replace(conn: &mut Conn, id: Uuid, token: &str, expires_at: DateTime<Utc>) -> Result<(), Error> {
        let row = Self { account_id: id, token_hash: hash_token(token), expires_at };
        diesel::insert_into(password_resets::table)
            .values(&row)
            .on_conflict(password_resets::account_id)
            .do_update()
            .set(&row)
            .execute(conn)
            .await?;
        Ok(())
    }

    /// The token's row and account.
    pub async fn by_token(conn: &mut Conn, token: &str) -> Result<Option<(Self, Account)>, Error> {
        let row = password_resets::table
            .inner_join(accounts::table)
            .filter(password_resets::token_hash.eq(hash_token(token)))
            .select((Self::as_select(), Account::as_select()))
            .first(conn)
            .await;
        Ok(row.optional()?)
    }

    /// Uses the token up; false when somebody else was faster.
    pub async fn take(conn: &mut Conn, token: &str) -> Result<bool, Error> {
        let taken = diesel::delete(password_resets::table.filter(password_resets::token_hash.eq(hash_token(token))));
        Ok(taken.execute(conn).await? == 1)
    }

    /// Voids the account's token.
    pub async fn void(conn: &mut Conn, account_id: Uuid) -> Result<(), Error> {
        diesel::delete(password_resets::table.find(account_id)).execute(conn).await?;
        Ok(())
    }

    /// Forgets those that expired before `before`.
    pub async fn delete_expired(conn: &mut Conn, before: DateTime<Utc>) -> Result<usize, Error> {
        Ok(diesel::delete(password_resets::table.filter(password_resets::expires_at.lt(before))).execute(conn).await?)
    }
}
