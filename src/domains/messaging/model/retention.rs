//! Deleting what is no longer kept.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Nullable, Timestamptz, Uuid as SqlUuid};
use diesel_async::{AsyncConnection, RunQueryDsl};
use uuid::Uuid;

use super::conversation::Conversation;
use super::partitions;
use crate::kernel::db::Conn;
use crate::kernel::error::Error;
use crate::schema::{conversations, message_retention};

/// Rows that one statement deletes.
const BATCH: i64 = 1000;
/// Blocks of 8 KiB that one statement walks through: some 200,000 keys.
const BLOCKS: i64 = 2000;

/// What retention has done, and what there is.
pub struct Kept {
    /// How many messages it has deleted.
    pub deleted: i64,
    /// Since when the oldest partition holds messages.
    pub oldest: Option<DateTime<Utc>>,
}

#[derive(QueryableByName)]
struct Number {
    #[diesel(sql_type = Nullable<BigInt>)]
    number: Option<i64>,
}

impl Kept {
    /// How things are.
    pub async fn read(conn: &mut Conn) -> Result<Self, Error> {
        let deleted = message_retention::table.select(message_retention::deleted).first(conn).await?;
        Ok(Self { deleted, oldest: partitions::oldest(conn).await? })
    }
}

/// Adds to how many messages retention has deleted.
async fn count(conn: &mut Conn, deleted: usize) -> Result<(), Error> {
    let more = i64::try_from(deleted).unwrap_or_default();
    let total = message_retention::deleted.eq(message_retention::deleted + more);
    diesel::update(message_retention::table).set(total).execute(conn).await?;
    Ok(())
}

/// Forgets what messages were called that are older than that, one for each message; returns how many. Walks through the whole
/// table once, some of it at a time: there is no index that would have to be kept with every message.
pub async fn delete_keys(conn: &mut Conn, before: DateTime<Utc>) -> Result<usize, Error> {
    let size = "SELECT pg_relation_size('message_keys') / current_setting('block_size')::bigint AS number";
    let blocks = diesel::sql_query(size).get_result::<Number>(conn).await?.number.unwrap_or_default();
    let mut deleted = 0;
    for from in (0..blocks).step_by(usize::try_from(BLOCKS).unwrap_or(1)) {
        let some = async |conn: &mut Conn| {
            let query = "DELETE FROM message_keys WHERE created_at < $1 \
                         AND ctid >= format('(%s,0)', $2)::tid AND ctid < format('(%s,0)', $3)::tid";
            let delete = diesel::sql_query(query).bind::<Timestamptz, _>(before).bind::<BigInt, _>(from);
            let rows = delete.bind::<BigInt, _>(from + BLOCKS).execute(conn).await?;
            count(conn, rows).await?;
            Ok::<_, Error>(rows)
        };
        deleted += conn.transaction(some).await?;
    }
    Ok(deleted)
}

/// Forgets edits and reactions of messages that are older than that, and that somebody has deleted them for themselves.
pub async fn delete_belongings(conn: &mut Conn, before: DateTime<Utc>) -> Result<(), Error> {
    for table in ["message_edits", "message_reactions", "hidden_messages"] {
        let query = format!(
            "DELETE FROM {table} WHERE ctid = ANY(ARRAY( \
                 SELECT ctid FROM {table} WHERE message_created_at < $1 ORDER BY message_created_at LIMIT $2))"
        );
        loop {
            let some = diesel::sql_query(&query).bind::<Timestamptz, _>(before).bind::<BigInt, _>(BATCH);
            if some.execute(conn).await? == 0 {
                break;
            }
        }
    }
    Ok(())
}

/// Some of the conversations that keep messages for days of their own, in the order of their ids, with these days.
pub async fn with_own_days(conn: &mut Conn, after: Uuid) -> Result<Vec<(Uuid, Option<i32>)>, Error> {
    let some = conversations::table
        .filter(conversations::retention_days.is_not_null())
        .filter(conversations::id.gt(after))
        .order(conversations::id)
        .limit(BATCH)
        .select((conversations::id, conversations::retention_days));
    Ok(some.load(conn).await?)
}

/// Deletes the first of what is older than that in a conversation, with everything that belongs to it; returns how many messages
/// that were, or `None` when nothing was left to do. Times grow with numbers, so what is left has no hole.
pub async fn delete_oldest(conn: &mut Conn, id: Uuid, before: DateTime<Utc>) -> Result<Option<usize>, Error> {
    conn.transaction(async |conn| {
        let find = "SELECT max(seq) AS number FROM ( \
                        (SELECT seq FROM messages WHERE conversation_id = $1 AND created_at < $2 ORDER BY seq LIMIT $3) \
                        UNION ALL (SELECT seq FROM conversation_events WHERE conversation_id = $1 AND created_at < $2 \
                            ORDER BY seq LIMIT $3) \
                        ORDER BY seq LIMIT $3) oldest";
        let find = diesel::sql_query(find).bind::<SqlUuid, _>(id).bind::<Timestamptz, _>(before);
        let Some(last) = find.bind::<BigInt, _>(BATCH).get_result::<Number>(conn).await?.number else { return Ok(None) };
        // Nobody edits them or reacts to them meanwhile.
        Conversation::lock(conn, id).await?;
        let messages = "WITH gone AS ( \
                            DELETE FROM messages WHERE conversation_id = $1 AND created_at < $2 AND seq <= $3 \
                            RETURNING sender_id, client_message_id), \
                        keys AS ( \
                            DELETE FROM message_keys k USING gone WHERE k.key = encode(substr(sha256(uuid_send($1) \
                                || uuid_send(gone.sender_id) || convert_to(gone.client_message_id, 'UTF8')), 1, 16), \
                                'hex')::uuid) \
                        SELECT count(*) AS number FROM gone";
        let messages = diesel::sql_query(messages).bind::<SqlUuid, _>(id).bind::<Timestamptz, _>(before);
        let deleted = messages.bind::<BigInt, _>(last).get_result::<Number>(conn).await?.number.unwrap_or_default();
        for query in [
            "DELETE FROM conversation_events WHERE conversation_id = $1 AND created_at < $2 AND seq <= $3",
            "DELETE FROM message_documents WHERE conversation_id = $1 AND created_at < $2 AND seq <= $3",
            "DELETE FROM message_edits WHERE conversation_id = $1 AND message_created_at < $2 AND message_seq <= $3",
            "DELETE FROM message_reactions WHERE conversation_id = $1 AND message_created_at < $2 AND message_seq <= $3",
            // By the members, because its index begins with them.
            "DELETE FROM hidden_messages h USING conversation_members m WHERE m.conversation_id = $1 \
                 AND h.account_id = m.account_id AND h.conversation_id = $1 AND h.message_created_at < $2 \
                 AND h.message_seq <= $3",
        ] {
            let delete = diesel::sql_query(query).bind::<SqlUuid, _>(id).bind::<Timestamptz, _>(before);
            delete.bind::<BigInt, _>(last).execute(conn).await?;
        }
        let deleted = usize::try_from(deleted).unwrap_or_default();
        count(conn, deleted).await?;
        Ok(Some(deleted))
    })
    .await
}

/// Takes the content out of some messages that have disappeared by `now`, and forgets their edits, reactions and words; returns
/// how many.
pub async fn empty_expired(conn: &mut Conn, now: DateTime<Utc>) -> Result<usize, Error> {
    #[derive(QueryableByName)]
    struct Emptied {
        #[diesel(sql_type = SqlUuid)]
        conversation_id: Uuid,
        #[diesel(sql_type = BigInt)]
        seq: i64,
    }
    conn.transaction(async |conn| {
        let query = "WITH expired AS ( \
                         SELECT conversation_id, seq, created_at FROM messages \
                         WHERE expires_at <= $1 AND deleted_at IS NULL ORDER BY expires_at LIMIT $2 \
                         FOR NO KEY UPDATE SKIP LOCKED) \
                     UPDATE messages m SET text = '', details = NULL, ciphertext = NULL, deleted_at = m.expires_at FROM expired e \
                     WHERE m.conversation_id = e.conversation_id AND m.seq = e.seq AND m.created_at = e.created_at \
                     RETURNING m.conversation_id, m.seq";
        let some = diesel::sql_query(query).bind::<Timestamptz, _>(now).bind::<BigInt, _>(BATCH);
        let emptied: Vec<Emptied> = some.load(conn).await?;
        let (ids, seqs): (Vec<_>, Vec<_>) = emptied.iter().map(|row| (row.conversation_id, row.seq)).unzip();
        // A statement of its own each: it sees what was written until the messages were locked.
        for (table, column) in
            [("message_edits", "message_seq"), ("message_reactions", "message_seq"), ("message_documents", "seq")]
        {
            let query = format!(
                "DELETE FROM {table} t USING unnest($1, $2) AS e (conversation_id, seq) \
                 WHERE t.conversation_id = e.conversation_id AND t.{column} = e.seq"
            );
            let delete = diesel::sql_query(query).bind::<diesel::sql_types::Array<SqlUuid>, _>(&ids);
            delete.bind::<diesel::sql_types::Array<BigInt>, _>(&seqs).execute(conn).await?;
        }
        Ok(emptied.len())
    })
    .await
}
