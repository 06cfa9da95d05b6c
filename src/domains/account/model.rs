//! Rows and SQL of nodes, of the streams that are open on them, and of who was last seen when.

use chrono::{DateTime, Utc};
use diesel::dsl::{now, sql};
use diesel::expression::SqlLiteral;
use diesel::prelude::*;
use diesel::sql_types::{Array, Bool, Nullable, Text, Timestamptz, Uuid as SqlUuid};
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

    /// Forgets it, and its streams with it; returns whose they were.
    pub async fn delete(conn: &mut Conn, id: Uuid, at: DateTime<Utc>) -> Result<Vec<Uuid>, Error> {
        let accounts = end(conn, "c.node_id", &[id], Some(at)).await?;
        diesel::delete(nodes::table.find(id)).execute(conn).await?;
        Ok(accounts)
    }

    /// Forgets those that were killed, and their streams with them; returns how many, and whose streams they were.
    pub async fn delete_lost(conn: &mut Conn) -> Result<(usize, Vec<Uuid>), Error> {
        let lost: Vec<Uuid> = nodes::table.filter(sql::<Bool>(LOST)).select(nodes::id).load(conn).await?;
        let accounts = end(conn, "c.node_id", &lost, None).await?;
        let deleted = diesel::delete(nodes::table.filter(nodes::id.eq_any(lost))).execute(conn).await?;
        Ok((deleted, accounts))
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
    /// Inserts it, unless its account has `limit` already; returns how many it had, or `None` if it is not inserted. To be
    /// called in a transaction, which makes those who open streams of one account come one after the other.
    pub async fn insert(&self, conn: &mut Conn, limit: i64) -> Result<Option<i64>, Error> {
        let lock = "SELECT pg_advisory_xact_lock(hashtextextended('account_connections ' || $1, 0))";
        diesel::sql_query(lock).bind::<Text, _>(self.account_id.to_string()).execute(conn).await?;
        let open: i64 = live(self.account_id).count().get_result(conn).await?;
        if open >= limit {
            return Ok(None);
        }
        diesel::insert_into(account_connections::table).values(self).execute(conn).await?;
        let seen = "INSERT INTO presences AS p (account_id, seen_at) VALUES ($1, $2) \
                    ON CONFLICT (account_id) DO UPDATE SET seen_at = greatest(p.seen_at, excluded.seen_at)";
        let seen = diesel::sql_query(seen).bind::<SqlUuid, _>(self.account_id).bind::<Timestamptz, _>(self.opened_at);
        seen.execute(conn).await?;
        Ok(Some(open))
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

    /// Forgets those that have ended; returns whose they were.
    pub async fn delete_all(conn: &mut Conn, ids: &[Uuid], at: DateTime<Utc>) -> Result<Vec<Uuid>, Error> {
        end(conn, "c.id", ids, Some(at)).await
    }
}

/// Deletes streams, by this column. Their accounts were last seen then, or else when their node was; returns which those
/// are.
async fn end(conn: &mut Conn, by: &str, ids: &[Uuid], at: Option<DateTime<Utc>>) -> Result<Vec<Uuid>, Error> {
    #[derive(QueryableByName)]
    struct Account {
        #[diesel(sql_type = SqlUuid)]
        account_id: Uuid,
    }
    // Locked in the order of their ids, so that two nodes never wait for each other.
    let query = format!(
        "WITH ended AS ( \
             DELETE FROM account_connections c USING nodes WHERE nodes.id = c.node_id AND {by} = ANY($1) \
             RETURNING c.account_id, nodes.seen_at \
         ), last AS ( \
             SELECT account_id, max(seen_at) AS seen_at FROM ended GROUP BY account_id \
         ), locked AS ( \
             SELECT p.account_id, last.seen_at FROM presences p JOIN last USING (account_id) \
             ORDER BY p.account_id FOR UPDATE OF p \
         ) \
         UPDATE presences p SET seen_at = greatest(p.seen_at, coalesce($2, locked.seen_at)) \
         FROM locked WHERE p.account_id = locked.account_id RETURNING p.account_id"
    );
    let query = diesel::sql_query(query).bind::<Array<SqlUuid>, _>(ids).bind::<Nullable<Timestamptz>, _>(at);
    Ok(query.load::<Account>(conn).await?.into_iter().map(|row| row.account_id).collect())
}

/// Whether an account is there, and when it last was.
#[derive(QueryableByName)]
#[diesel(check_for_backend(diesel::pg::Pg))]
pub struct Presence {
    #[diesel(sql_type = SqlUuid)]
    pub account_id: Uuid,
    #[diesel(sql_type = Bool)]
    pub online: bool,
    #[diesel(sql_type = Timestamptz)]
    pub seen_at: DateTime<Utc>,
}

impl Presence {
    /// Those of these accounts that ever were there. Of streams on a node that was killed, the node's last sign of life
    /// counts.
    pub async fn of(conn: &mut Conn, ids: &[Uuid]) -> Result<Vec<Self>, Error> {
        let query = format!(
            "SELECT p.account_id, coalesce(open.live, false) AS online, greatest(p.seen_at, open.lost_at) AS seen_at \
             FROM presences p CROSS JOIN LATERAL ( \
                 SELECT bool_or({ALIVE} AND c.revoked_at IS NULL) AS live, \
                     max(nodes.seen_at) FILTER (WHERE NOT {ALIVE}) AS lost_at \
                 FROM account_connections c JOIN nodes ON nodes.id = c.node_id WHERE c.account_id = p.account_id \
             ) open WHERE p.account_id = ANY($1)"
        );
        Ok(diesel::sql_query(query).bind::<Array<SqlUuid>, _>(ids).load(conn).await?)
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
