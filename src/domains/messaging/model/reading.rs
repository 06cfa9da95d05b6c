//! The statements that read messages and events. The functions that they call are in the migration `reading`, and look only
//! into the partitions that hold what is wanted.
//!
//! They are written by hand with a query id of their own, because diesel prepares `sql_query` anew each time.

use chrono::{DateTime, Utc};
use diesel::pg::Pg;
use diesel::prelude::*;
use diesel::query_builder::{AstPass, Query, QueryFragment, QueryId};
use diesel::sql_types::{Array, BigInt, Binary, Integer, Nullable, Text, Timestamptz, Uuid as SqlUuid};
use uuid::Uuid;

/// The columns of a [`super::message::Message`], in order.
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
    Nullable<Integer>,
);

const SELECT_MESSAGES: &str = "SELECT m.id, m.conversation_id, m.seq, m.sender_id, m.client_message_id, m.ordinal, m.text, \
                                   m.details, m.created_at, m.edited_at, m.deleted_at, m.expires_at, \
                                   octet_length(m.ciphertext)";

/// The first messages after a number, without those that the reader has deleted for itself.
#[derive(Debug)]
pub struct MessagesAfter {
    pub conversation_id: Uuid,
    pub seq: i64,
    pub reader: Option<Uuid>,
    pub since: DateTime<Utc>,
    pub limit: i64,
}

impl QueryFragment<Pg> for MessagesAfter {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        out.push_sql(SELECT_MESSAGES);
        out.push_sql(" FROM messages_after(");
        out.push_bind_param::<SqlUuid, _>(&self.conversation_id)?;
        out.push_sql(", ");
        out.push_bind_param::<BigInt, _>(&self.seq)?;
        out.push_sql(", ");
        out.push_bind_param::<Nullable<SqlUuid>, _>(&self.reader)?;
        out.push_sql(", ");
        out.push_bind_param::<Timestamptz, _>(&self.since)?;
        out.push_sql(", ");
        out.push_bind_param::<BigInt, _>(&self.limit)?;
        out.push_sql(") m ORDER BY m.seq");
        Ok(())
    }
}

impl QueryId for MessagesAfter {
    type QueryId = Self;
    const HAS_STATIC_QUERY_ID: bool = true;
}

impl Query for MessagesAfter {
    type SqlType = MessageColumns;
}

/// The last messages before a number, the newest first, without those that the reader has deleted for itself.
#[derive(Debug)]
pub struct MessagesBefore {
    pub conversation_id: Uuid,
    pub seq: i64,
    /// None is later than that.
    pub at: Option<DateTime<Utc>>,
    pub reader: Uuid,
    pub since: DateTime<Utc>,
    pub limit: i64,
}

impl QueryFragment<Pg> for MessagesBefore {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        out.push_sql(SELECT_MESSAGES);
        out.push_sql(" FROM messages_before(");
        out.push_bind_param::<SqlUuid, _>(&self.conversation_id)?;
        out.push_sql(", ");
        out.push_bind_param::<BigInt, _>(&self.seq)?;
        out.push_sql(", ");
        out.push_bind_param::<Nullable<Timestamptz>, _>(&self.at)?;
        out.push_sql(", ");
        out.push_bind_param::<SqlUuid, _>(&self.reader)?;
        out.push_sql(", ");
        out.push_bind_param::<Timestamptz, _>(&self.since)?;
        out.push_sql(", ");
        out.push_bind_param::<BigInt, _>(&self.limit)?;
        out.push_sql(") m ORDER BY m.seq DESC");
        Ok(())
    }
}

impl QueryId for MessagesBefore {
    type QueryId = Self;
    const HAS_STATIC_QUERY_ID: bool = true;
}

impl Query for MessagesBefore {
    type SqlType = MessageColumns;
}

/// The number of the first that happened after a number, and not before `since`; `NULL` when nothing did.
#[derive(Debug)]
pub struct FirstAfter {
    pub conversation_id: Uuid,
    pub seq: i64,
    pub since: DateTime<Utc>,
}

impl QueryFragment<Pg> for FirstAfter {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        // Where a message follows, nothing else is looked for.
        out.push_sql(
            "SELECT CASE WHEN m.seq = a.seq + 1 THEN m.seq ELSE least(m.seq, ( \
                 SELECT e.seq FROM conversation_events e WHERE e.conversation_id = a.id AND e.seq > a.seq \
                     AND e.created_at >= a.since ORDER BY e.seq LIMIT 1)) END FROM (SELECT ",
        );
        out.push_bind_param::<SqlUuid, _>(&self.conversation_id)?;
        out.push_sql("::uuid, ");
        out.push_bind_param::<BigInt, _>(&self.seq)?;
        out.push_sql("::bigint, ");
        out.push_bind_param::<Timestamptz, _>(&self.since)?;
        out.push_sql(
            "::timestamptz) a (id, seq, since) \
             LEFT JOIN messages_after(a.id, a.seq, NULL, a.since, 1) m ON true",
        );
        Ok(())
    }
}

impl QueryId for FirstAfter {
    type QueryId = Self;
    const HAS_STATIC_QUERY_ID: bool = true;
}

impl Query for FirstAfter {
    type SqlType = Nullable<BigInt>;
}

/// Where messages are: conversation, number, and the time, which finds the partition.
#[derive(Debug)]
pub struct Places {
    conversations: Vec<Uuid>,
    seqs: Vec<i64>,
    times: Vec<DateTime<Utc>>,
}

impl Places {
    pub fn new(places: impl Iterator<Item = (Uuid, i64, DateTime<Utc>)> + Clone) -> Self {
        Self {
            conversations: places.clone().map(|(id, _, _)| id).collect(),
            seqs: places.clone().map(|(_, seq, _)| seq).collect(),
            times: places.map(|(_, _, at)| at).collect(),
        }
    }
}

/// The messages `m` at these places.
impl QueryFragment<Pg> for Places {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        out.push_sql(" FROM messages_at(");
        out.push_bind_param::<Array<SqlUuid>, _>(&self.conversations)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<BigInt>, _>(&self.seqs)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<Timestamptz>, _>(&self.times)?;
        out.push_sql(") m");
        Ok(())
    }
}

/// The messages at these places, without those that have disappeared, and those that the reader has deleted for itself.
#[derive(Debug)]
pub struct MessagesAt {
    pub reader: Uuid,
    pub places: Places,
    pub now: DateTime<Utc>,
}

impl QueryFragment<Pg> for MessagesAt {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        out.push_sql(SELECT_MESSAGES);
        self.places.walk_ast(out.reborrow())?;
        out.push_sql(" WHERE (m.expires_at IS NULL OR m.expires_at > ");
        out.push_bind_param::<Timestamptz, _>(&self.now)?;
        out.push_sql(
            ") AND NOT EXISTS (SELECT FROM hidden_messages h WHERE h.conversation_id = m.conversation_id \
                 AND h.message_seq = m.seq AND h.account_id = ",
        );
        out.push_bind_param::<SqlUuid, _>(&self.reader)?;
        out.push_sql(")");
        Ok(())
    }
}

impl QueryId for MessagesAt {
    type QueryId = Self;
    const HAS_STATIC_QUERY_ID: bool = true;
}

impl Query for MessagesAt {
    type SqlType = MessageColumns;
}

/// The ciphertexts of the messages at these places, with the messages' ids.
#[derive(Debug)]
pub struct CiphertextsAt(pub Places);

impl QueryFragment<Pg> for CiphertextsAt {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        out.push_sql("SELECT m.id, m.ciphertext");
        self.0.walk_ast(out.reborrow())?;
        out.push_sql(" WHERE m.ciphertext IS NOT NULL");
        Ok(())
    }
}

impl QueryId for CiphertextsAt {
    type QueryId = Self;
    const HAS_STATIC_QUERY_ID: bool = true;
}

impl Query for CiphertextsAt {
    type SqlType = (SqlUuid, Binary);
}

/// Moves a member's watermarks forward: delivered and read number, and how many messages it has read.
#[derive(Debug)]
pub struct Advance {
    pub conversation_id: Uuid,
    pub account_id: Uuid,
    pub delivered_seq: i64,
    pub read_seq: i64,
}

impl QueryFragment<Pg> for Advance {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        out.push_sql("WITH wanted AS (SELECT ");
        out.push_bind_param::<SqlUuid, _>(&self.conversation_id)?;
        out.push_sql("::uuid AS id, ");
        out.push_bind_param::<SqlUuid, _>(&self.account_id)?;
        out.push_sql("::uuid AS account_id, ");
        out.push_bind_param::<BigInt, _>(&self.delivered_seq)?;
        out.push_sql("::bigint AS delivered, ");
        out.push_bind_param::<BigInt, _>(&self.read_seq)?;
        // How many messages there are up to one is told by the first after it; the oldest may be gone.
        out.push_sql(
            "::bigint AS read), \
             target AS ( \
                 SELECT w.id, w.account_id, least(greatest(w.delivered, w.read), c.last_seq) AS delivered, \
                     least(w.read, c.last_seq) AS read, \
                     CASE WHEN w.read >= c.last_message_seq THEN c.message_count ELSE coalesce(( \
                         SELECT m.ordinal - 1 FROM messages_after(c.id, w.read, NULL, '-infinity', 1) m), \
                         c.message_count) END AS count \
                 FROM wanted w JOIN conversations c ON c.id = w.id) \
             UPDATE conversation_members m SET \
                 delivered_seq = greatest(m.delivered_seq, t.delivered), \
                 read_seq = greatest(m.read_seq, t.read), \
                 read_count = greatest(m.read_count, t.count) \
             FROM target t WHERE m.conversation_id = t.id AND m.account_id = t.account_id AND m.left_at IS NULL \
                 AND (m.delivered_seq < t.delivered OR m.read_seq < t.read) \
             RETURNING m.delivered_seq, m.read_seq, m.read_count",
        );
        Ok(())
    }
}

impl QueryId for Advance {
    type QueryId = Self;
    const HAS_STATIC_QUERY_ID: bool = true;
}

impl Query for Advance {
    type SqlType = (BigInt, BigInt, BigInt);
}
