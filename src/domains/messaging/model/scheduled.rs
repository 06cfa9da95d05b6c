//! Messages that are sent later, as they are stored.

use chrono::{DateTime, Utc};
use diesel::pg::Pg;
use diesel::prelude::*;
use diesel::sql_types::Uuid as SqlUuid;
use diesel_async::RunQueryDsl;
use uuid::Uuid;

use crate::kernel::db::Conn;
use crate::kernel::error::{Error, Reason};
use crate::schema::scheduled_messages;

/// A message that waits or was refused.
#[derive(Clone, Debug, Queryable, Selectable, Insertable, AsChangeset)]
#[diesel(table_name = scheduled_messages, check_for_backend(Pg), treat_none_as_default_value = false)]
#[diesel(treat_none_as_null = true)]
pub struct ScheduledMessage {
    pub id: Uuid,
    pub account_id: Uuid,
    pub conversation_id: Uuid,
    pub text: String,
    pub details: Option<Vec<u8>>,
    pub send_at: DateTime<Utc>,
    pub created_at: DateTime<Utc>,
    pub refused_reason: Option<i32>,
    pub refused_at: Option<DateTime<Utc>>,
}

impl ScheduledMessage {
    /// How many of an account wait. Until the transaction ends, nobody else asks this of the account.
    pub async fn count_waiting(conn: &mut Conn, account_id: Uuid) -> Result<i64, Error> {
        let lock = "SELECT pg_advisory_xact_lock(hashtextextended('scheduled_messages:' || $1::text, 0))";
        diesel::sql_query(lock).bind::<SqlUuid, _>(account_id).execute(conn).await?;
        let waiting = scheduled_messages::table
            .filter(scheduled_messages::account_id.eq(account_id))
            .filter(scheduled_messages::refused_at.is_null());
        Ok(waiting.count().get_result(conn).await?)
    }

    /// Inserts it.
    pub async fn insert(&self, conn: &mut Conn) -> Result<(), Error> {
        diesel::insert_into(scheduled_messages::table).values(self).execute(conn).await?;
        Ok(())
    }

    /// By its id, locked until the transaction ends.
    pub async fn lock(conn: &mut Conn, id: Uuid) -> Result<Option<Self>, Error> {
        let row = scheduled_messages::table.find(id).select(Self::as_select()).for_update();
        Ok(row.first(conn).await.optional()?)
    }

    /// Stores all of it.
    pub async fn store(&self, conn: &mut Conn) -> Result<(), Error> {
        diesel::update(scheduled_messages::table.find(self.id)).set(self).execute(conn).await?;
        Ok(())
    }

    /// Notes why it was not sent.
    pub async fn refuse(mut self, conn: &mut Conn, reason: Reason, now: DateTime<Utc>) -> Result<(), Error> {
        (self.refused_reason, self.refused_at) = (Some(reason.into()), Some(now));
        self.store(conn).await
    }

    /// Deletes one of an account; false if there is none.
    pub async fn delete(conn: &mut Conn, id: Uuid, account_id: Uuid) -> Result<bool, Error> {
        let row = scheduled_messages::table.find(id).filter(scheduled_messages::account_id.eq(account_id));
        Ok(diesel::delete(row).execute(conn).await? == 1)
    }

    /// Those of an account by time and id, after one.
    pub async fn list(
        conn: &mut Conn,
        account_id: Uuid,
        after: Option<(DateTime<Utc>, Uuid)>,
        limit: i64,
    ) -> Result<Vec<Self>, Error> {
        let mut query = scheduled_messages::table
            .filter(scheduled_messages::account_id.eq(account_id))
            .order((scheduled_messages::send_at, scheduled_messages::id))
            .limit(limit)
            .select(Self::as_select())
            .into_boxed();
        if let Some((at, id)) = after {
            let same_time = scheduled_messages::send_at.eq(at).and(scheduled_messages::id.gt(id));
            query = query.filter(scheduled_messages::send_at.gt(at).or(same_time));
        }
        Ok(query.load(conn).await?)
    }

    /// Forgets those that were refused before then; returns how many.
    pub async fn delete_refused(conn: &mut Conn, before: DateTime<Utc>) -> Result<usize, Error> {
        let old = scheduled_messages::table.filter(scheduled_messages::refused_at.lt(before));
        Ok(diesel::delete(old).execute(conn).await?)
    }
}
