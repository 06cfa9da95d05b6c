//! Links by which anybody joins a group.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use uuid::Uuid;

use crate::kernel::db::Conn;
use crate::kernel::error::Error;
use crate::kernel::rng::hash_token;
use crate::schema::join_links;

/// A link.
#[derive(Insertable, AsChangeset)]
#[diesel(table_name = join_links, treat_none_as_null = true)]
pub struct JoinLink {
    conversation_id: Uuid,
    token_hash: Vec<u8>,
    expires_at: DateTime<Utc>,
    uses_left: Option<i32>,
}

impl JoinLink {
    /// Gives a group this link in place of the one before.
    pub async fn replace(
        conn: &mut Conn,
        conversation_id: Uuid,
        token: &str,
        expires_at: DateTime<Utc>,
        uses_left: Option<i32>,
    ) -> Result<(), Error> {
        let link = Self { conversation_id, token_hash: hash_token(token), expires_at, uses_left };
        let insert = diesel::insert_into(join_links::table).values(&link);
        insert.on_conflict(join_links::conversation_id).do_update().set(&link).execute(conn).await?;
        Ok(())
    }

    /// The group of a link that is good.
    pub async fn conversation(conn: &mut Conn, token: &str, now: DateTime<Utc>) -> Result<Option<Uuid>, Error> {
        let good = join_links::table
            .filter(join_links::token_hash.eq(hash_token(token)))
            .filter(join_links::expires_at.gt(now))
            .filter(join_links::uses_left.is_null().or(join_links::uses_left.gt(0)))
            .select(join_links::conversation_id);
        Ok(good.first(conn).await.optional()?)
    }

    /// Takes one of its uses; false if it is no longer good.
    pub async fn spend(conn: &mut Conn, id: Uuid, token: &str, now: DateTime<Utc>) -> Result<bool, Error> {
        let good = join_links::table
            .find(id)
            .filter(join_links::token_hash.eq(hash_token(token)))
            .filter(join_links::expires_at.gt(now))
            .filter(join_links::uses_left.is_null().or(join_links::uses_left.gt(0)));
        let spent = diesel::update(good).set(join_links::uses_left.eq(join_links::uses_left - 1));
        Ok(spent.execute(conn).await? == 1)
    }

    /// Makes a group's link void.
    pub async fn delete(conn: &mut Conn, id: Uuid) -> Result<(), Error> {
        diesel::delete(join_links::table.find(id)).execute(conn).await?;
        Ok(())
    }
}
