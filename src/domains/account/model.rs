//! Rows and SQL of nodes and of the streams that are open on them.

use chrono::{DateTime, Utc};
use diesel::dsl::{now, sql};
use diesel::expression::SqlLiteral;
use diesel::prelude::*;
use diesel::sql_types::{Bool, Text};
use diesel_async::RunQueryDsl;
use uuid::Uuid;

use crate::kernel::db::Conn;
use crate::kernel::error::Error;
use crate::schema::{account_connections, nodes};

/// Streams that are listed. The limit of an account may have been higher once.
const LISTED: i64 = 1000;
/// A node that has not been seen for so long was killed, as far as anybody asks.
const ALIVE: &str = "nodes.seen_at > now() - interval '60 seconds'";
/// And after so long it is forgotten. One that comes back ends its streams.
const LOST: &str = "nodes.seen_at < now() - interval '600 seconds'";

/// A server that runs.
pub struct Node;

impl Node {
    /// Notes that it starts.
    pub async fn insert(conn: &mut Conn, id: Uuid) -> Result<(), Error> {
        let row = (nodes::id.eq(id), nodes::seen_at.eq(now));
        diesel::insert_into(nodes::table).values(row).on_conflict_do_nothing().execute(conn).await?;
        Ok(())
    }

    /// Notes that it runs. False if it was forgotten, and its streams with it.
    pub async fn seen(conn: &mut Conn, id: Uuid) -> Result<bool, Error> {
        Ok(diesel::update(nodes::table.find(id)).set(nodes::seen_at.eq(now)).execute(conn).await? == 1)
    }

    /// Forgets it, and its streams with it.
    pub async fn delete(conn: &mut Conn, id: Uuid) -> Result<(), Error> {
        diesel::delete(nodes::table.find(id)).execute(conn).await?;
        Ok(())
    }

    /// Forgets those that were killed; returns how many.
    pub async fn delete_lost(conn: &mut Conn) -> Result<usize, Error> {
        Ok(diesel::delete(nodes::table.filter(sql::<Bool>(LOST))).execute(conn).await?)
    }
}

/// A stream that is open.
#[derive(Clone, Queryable, Selectable, Insertable)]
#[diesel(table_name = account_connections, check_for_backend(diesel::pg::Pg))]
pub struct Connection {
    pub id: Uuid,
    pub account_id: Uuid,
    pub session_id: Uuid,
    pub node_id: Uuid,
    pub transport: String,
    pub user_agent: String,
    pub address: String,
    pub opened_at: DateTime<Utc>,
}

impl Connection {
    /// Inserts it, unless its account has `limit` already; false if it has. To be called in a transaction, which makes
    /// those who open streams of one account come one after the other.
    pub async fn insert(&self, conn: &mut Conn, limit: i64) -> Result<bool, Error> {
        let lock = "SELECT pg_advisory_xact_lock(hashtextextended('account_connections ' || $1, 0))";
        diesel::sql_query(lock).bind::<Text, _>(self.account_id.to_string()).execute(conn).await?;
        let open: i64 = live(self.account_id).count().get_result(conn).await?;
        if open >= limit {
            return Ok(false);
        }
        diesel::insert_into(account_connections::table).values(self).execute(conn).await?;
        Ok(true)
    }

    /// Those of an account, the oldest first.
    pub async fn list(conn: &mut Conn, account_id: Uuid) -> Result<Vec<Self>, Error> {
        let rows = live(account_id).order(account_connections::id).limit(LISTED).select(Self::as_select());
        Ok(rows.load(conn).await?)
    }

    /// Has one of an account's streams end; false if there is none such.
    pub async fn revoke(conn: &mut Conn, account_id: Uuid, id: Uuid, at: DateTime<Utc>) -> Result<bool, Error> {
        let own = account_connections::table
            .find(id)
            .filter(account_connections::account_id.eq(account_id))
            .filter(account_connections::revoked_at.is_null());
        Ok(diesel::update(own).set(account_connections::revoked_at.eq(at)).execute(conn).await? == 1)
    }

    /// Those of a node that are to end.
    pub async fn revoked(conn: &mut Conn, node_id: Uuid) -> Result<Vec<Uuid>, Error> {
        let revoked = account_connections::table
            .filter(account_connections::node_id.eq(node_id))
            .filter(account_connections::revoked_at.is_not_null())
            .select(account_connections::id);
        Ok(revoked.load(conn).await?)
    }

    /// Forgets those that have ended.
    pub async fn delete_all(conn: &mut Conn, ids: &[Uuid]) -> Result<(), Error> {
        let ended = account_connections::table.filter(account_connections::id.eq_any(ids));
        diesel::delete(ended).execute(conn).await?;
        Ok(())
    }
}

/// The streams of an account that are open on nodes that run.
#[diesel::dsl::auto_type(no_type_alias)]
fn live(account_id: Uuid) -> _ {
    let alive: SqlLiteral<Bool> = sql(ALIVE);
    account_connections::table
        .inner_join(nodes::table)
        .filter(account_connections::account_id.eq(account_id))
        .filter(account_connections::revoked_at.is_null())
        .filter(alive)
}
