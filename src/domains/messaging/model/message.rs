//! Messages as they are stored, and reading them.

use chrono::{DateTime, Utc};
use diesel::pg::Pg;
use diesel::prelude::*;
use diesel::query_builder::{AstPass, Query, QueryFragment, QueryId};
use diesel::sql_types::{Array, BigInt, Binary, Nullable, Text, Timestamptz, Uuid as SqlUuid};
use diesel_async::RunQueryDsl;
use uuid::Uuid;

use crate::kernel::db::Conn;
use crate::kernel::error::Error;
use crate::schema::messages;

/// A message.
#[derive(Clone, Debug, Queryable, Selectable)]
#[diesel(table_name = messages, check_for_backend(Pg))]
pub struct Message {
    pub id: Uuid,
    pub conversation_id: Uuid,
    pub seq: i64,
    pub sender_id: Uuid,
    pub client_message_id: String,
    pub ordinal: i64,
    pub text: String,
    pub details: Option<Vec<u8>>,
    pub created_at: DateTime<Utc>,
    pub edited_at: Option<DateTime<Utc>>,
    pub deleted_at: Option<DateTime<Utc>>,
    pub expires_at: Option<DateTime<Utc>>,
}

impl Message {
    /// The messages after `seq`, the oldest first.
    pub async fn after(conn: &mut Conn, conversation_id: Uuid, seq: i64, limit: i64) -> Result<Vec<Self>, Error> {
        let rows = messages::table
            .filter(messages::conversation_id.eq(conversation_id))
            .filter(messages::seq.gt(seq))
            .order(messages::seq.asc())
            .limit(limit)
            .select(Self::as_select());
        Ok(rows.load(conn).await?)
    }

    /// The messages before `seq`, the newest first.
    pub async fn before(conn: &mut Conn, conversation_id: Uuid, seq: i64, limit: i64) -> Result<Vec<Self>, Error> {
        let rows = messages::table
            .filter(messages::conversation_id.eq(conversation_id))
            .filter(messages::seq.lt(seq))
            .order(messages::seq.desc())
            .limit(limit)
            .select(Self::as_select());
        Ok(rows.load(conn).await?)
    }

    /// The messages at these places (conversation, number, time), without those that have disappeared.
    pub async fn at(
        conn: &mut Conn,
        places: &[(Uuid, i64, DateTime<Utc>)],
        now: DateTime<Utc>,
    ) -> Result<Vec<Self>, Error> {
        let conversations: Vec<_> = places.iter().map(|(id, _, _)| *id).collect();
        let seqs: Vec<_> = places.iter().map(|(_, seq, _)| *seq).collect();
        let times: Vec<_> = places.iter().map(|(_, _, at)| *at).collect();
        // The time finds the partition.
        Ok(MessagesAt { conversations, seqs, times, now }.load(conn).await?)
    }
}

#[derive(Debug)]
struct MessagesAt {
    conversations: Vec<Uuid>,
    seqs: Vec<i64>,
    times: Vec<DateTime<Utc>>,
    now: DateTime<Utc>,
}

impl QueryFragment<Pg> for MessagesAt {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        out.push_sql(
            "SELECT m.id, m.conversation_id, m.seq, m.sender_id, m.client_message_id, m.ordinal, m.text, m.details, \
                 m.created_at, m.edited_at, m.deleted_at, m.expires_at FROM unnest(",
        );
        out.push_bind_param::<Array<SqlUuid>, _>(&self.conversations)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<BigInt>, _>(&self.seqs)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<Timestamptz>, _>(&self.times)?;
        out.push_sql(
            ") AS i (conversation_id, seq, created_at) JOIN messages m USING (conversation_id, seq, created_at) \
                 WHERE m.expires_at IS NULL OR m.expires_at > ",
        );
        out.push_bind_param::<Timestamptz, _>(&self.now)
    }
}

impl QueryId for MessagesAt {
    type QueryId = Self;
    const HAS_STATIC_QUERY_ID: bool = true;
}

impl Query for MessagesAt {
    type SqlType = MessageColumns;
}

/// The columns of a [`Message`], in order.
pub type MessageColumns = (
    SqlUuid,
    SqlUuid,
    BigInt,
    SqlUuid,
    Text,
    BigInt,
    Text,
    Nullable<Binary>,
    Timestamptz,
    Nullable<Timestamptz>,
    Nullable<Timestamptz>,
    Nullable<Timestamptz>,
);
