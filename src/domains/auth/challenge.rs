//! Rows and SQL of login challenges. A token is 32 random bytes and is stored as its SHA-256.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use uuid::Uuid;

use crate::kernel::db::Conn;
use crate::kernel::error::{Error, Reason};
use crate::kernel::rng::hash_token;
use crate::schema::login_challenges;

/// After so many a challenge is void.
const MAX_ATTEMPTS: i16 = 5;

/// A login whose password was right, waiting for its code.
#[derive(Queryable, Selectable, Insertable)]
#[diesel(table_name = login_challenges, check_for_backend(diesel::pg::Pg))]
pub struct Challenge {
    pub account_id: Uuid,
    /// A hash of the token version and the password that it was made on.
    pub credentials: Vec<u8>,
    /// A hash of the client that it was made for.
    pub client: Vec<u8>,
}

impl Challenge {
    /// Inserts it.
    pub async fn insert(&self, conn: &mut Conn, token: &str, expires_at: DateTime<Utc>) -> Result<(), Error> {
        let key = (login_challenges::hash.eq(hash_token(token)), login_challenges::expires_at.eq(expires_at));
        diesel::insert_into(login_challenges::table).values((self, key)).execute(conn).await?;
        Ok(())
    }

    /// Counts an attempt, before anybody looks whether it is right; refuses it when the challenge is void.
    pub async fn attempt(conn: &mut Conn, token: &str, now: DateTime<Utc>) -> Result<Self, Error> {
        let key = hash_token(token);
        let live = login_challenges::table
            .find(&key)
            .filter(login_challenges::attempts.lt(MAX_ATTEMPTS))
            .filter(login_challenges::expires_at.gt(now));
        let counted = diesel::update(live)
            .set(login_challenges::attempts.eq(login_challenges::attempts + 1))
            .returning(Self::as_returning())
            .get_result(conn)
            .await
            .optional()?;
        if let Some(challenge) = counted {
            return Ok(challenge);
        }
        let expiry = login_challenges::table.find(&key).select(login_challenges::expires_at);
        match expiry.first::<DateTime<Utc>>(conn).await.optional()? {
            Some(expiry) if expiry <= now => {
                Err(Error::new(Reason::TokenExpired, "the challenge has expired; log in again"))
            }
            _ => Err(Self::void()),
        }
    }

    /// One that can still be answered, without counting an attempt.
    pub async fn find(conn: &mut Conn, token: &str, now: DateTime<Utc>) -> Result<Self, Error> {
        let live = login_challenges::table
            .find(hash_token(token))
            .filter(login_challenges::attempts.lt(MAX_ATTEMPTS))
            .filter(login_challenges::expires_at.gt(now));
        live.select(Self::as_select()).first(conn).await.optional()?.ok_or_else(Self::void)
    }

    /// Uses it up. Of two at the same instant one is refused.
    pub async fn delete(conn: &mut Conn, token: &str) -> Result<(), Error> {
        let deleted = diesel::delete(login_challenges::table.find(hash_token(token))).execute(conn).await?;
        if deleted == 1 { Ok(()) } else { Err(Self::void()) }
    }

    /// The refusal of a challenge that does not exist, is used up, or belongs to another client.
    pub fn void() -> Error {
        Error::new(Reason::TokenInvalid, "the challenge is not valid or used up; log in again")
    }

    /// Forgets those that have expired; returns how many.
    pub async fn delete_expired(conn: &mut Conn, now: DateTime<Utc>) -> Result<usize, Error> {
        let expired = login_challenges::table.filter(login_challenges::expires_at.lt(now));
        Ok(diesel::delete(expired).execute(conn).await?)
    }
}
