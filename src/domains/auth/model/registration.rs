//! Registrations of addresses that are not verified yet.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use uuid::Uuid;

use crate::kernel::db::Conn;
use crate::kernel::error::Error;
use crate::kernel::rng::hash_token;
use crate::schema::registrations;

/// A registration. There may be several for an address.
#[derive(Clone, Queryable, Selectable, Insertable)]
#[diesel(table_name = registrations, check_for_backend(diesel::pg::Pg), treat_none_as_default_value = false)]
pub struct Registration {
    pub id: Uuid,
    pub email: String,
    pub display_name: String,
    pub password_hash: String,
    pub token_expires_at: Option<DateTime<Utc>>,
    pub created_at: DateTime<Utc>,
}

impl Registration {
    /// Inserts it, without a token.
    pub async fn insert(&self, conn: &mut Conn) -> Result<(), Error> {
        diesel::insert_into(registrations::table).values(self).execute(conn).await?;
        Ok(())
    }

    /// By id.
    pub async fn by_id(conn: &mut Conn, id: Uuid) -> Result<Option<Self>, Error> {
        Ok(registrations::table.find(id).select(Self::as_select()).first(conn).await.optional()?)
    }

    /// The newest of an address.
    pub async fn newest(conn: &mut Conn, email: &str) -> Result<Option<Self>, Error> {
        let newest = registrations::table
            .filter(registrations::email.eq(email))
            .order(registrations::id.desc())
            .select(Self::as_select());
        Ok(newest.first(conn).await.optional()?)
    }

    /// By the token that was mailed for it, locked: of two who use the token at once, the second finds nothing.
    pub async fn by_token(conn: &mut Conn, token: &str) -> Result<Option<Self>, Error> {
        let locked = registrations::table
            .filter(registrations::token_hash.eq(hash_token(token)))
            .select(Self::as_select())
            .for_update();
        Ok(locked.first(conn).await.optional()?)
    }

    /// Gives it a token; the one that it had is void.
    pub async fn set_token(conn: &mut Conn, id: Uuid, token: &str, expires_at: DateTime<Utc>) -> Result<(), Error> {
        diesel::update(registrations::table.find(id))
            .set((registrations::token_hash.eq(hash_token(token)), registrations::token_expires_at.eq(expires_at)))
            .execute(conn)
            .await?;
        Ok(())
    }

    /// Forgets all of an address.
    pub async fn delete_all(conn: &mut Conn, email: &str) -> Result<(), Error> {
        diesel::delete(registrations::table.filter(registrations::email.eq(email))).execute(conn).await?;
        Ok(())
    }

    /// Forgets those from before `before`; returns how many.
    pub async fn delete_old(conn: &mut Conn, before: DateTime<Utc>) -> Result<usize, Error> {
        Ok(diesel::delete(registrations::table.filter(registrations::created_at.lt(before))).execute(conn).await?)
    }
}
