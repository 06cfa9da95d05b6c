//! Finding messages by their words: the documents that are searched, and how they follow the conversations.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Nullable, Text, Timestamptz, Uuid as SqlUuid};
use diesel_async::{AsyncConnection, RunQueryDsl};
use uuid::Uuid;

use super::event;
use super::message::Message;
use crate::kernel::db::Conn;
use crate::kernel::error::Error;
use crate::proto::rialto::messaging::v1::SubscribeResponse;
use crate::proto::rialto::messaging::v1::subscribe_response::Event;

/// Conversations that one transaction reads, events that it reads of each, and messages after which it reads no more:
/// reducing a long text to its words takes milliseconds.
const CONVERSATIONS: i64 = 100;
const EVENTS: i64 = 200;
const MESSAGES: usize = 500;
/// Conversations that are looked after at a time.
const BATCH: i64 = 1000;

/// A conversation that search has not read to the end.
#[derive(QueryableByName)]
struct Behind {
    #[diesel(sql_type = SqlUuid)]
    conversation_id: Uuid,
    #[diesel(sql_type = BigInt)]
    seq: i64,
    #[diesel(sql_type = BigInt)]
    last_seq: i64,
}

/// What became of a message.
#[derive(Clone, Copy)]
enum Change {
    /// It was sent or edited.
    Written(DateTime<Utc>),
    Deleted,
}

/// Reads on in conversations where something has happened; returns in how many. Nodes do this at the same time, each in
/// other conversations.
pub async fn index_some(conn: &mut Conn, languages: &[String], now: DateTime<Utc>) -> Result<usize, Error> {
    let begin = "INSERT INTO search_progress (conversation_id, seq) \
                 SELECT c.id, 0 FROM conversations c WHERE c.search_pending AND NOT c.encrypted \
                     AND NOT EXISTS (SELECT FROM search_progress p WHERE p.conversation_id = c.id) \
                 ORDER BY c.id LIMIT $1 ON CONFLICT DO NOTHING";
    diesel::sql_query(begin).bind::<BigInt, _>(BATCH).execute(conn).await?;
    conn.transaction(async |conn| {
        let find = "SELECT p.conversation_id, p.seq, c.last_seq FROM conversations c \
                    JOIN search_progress p ON p.conversation_id = c.id \
                    WHERE c.search_pending AND NOT c.encrypted AND p.seq < c.last_seq LIMIT $1 \
                    FOR UPDATE OF p SKIP LOCKED";
        let behind: Vec<Behind> = diesel::sql_query(find).bind::<BigInt, _>(CONVERSATIONS).load(conn).await?;
        let (mut read, mut changes) = (Vec::new(), BTreeMap::new());
        for conversation in behind {
            if changes.len() >= MESSAGES {
                break;
            }
            let id = conversation.conversation_id;
            let events = event::after(conn, id, conversation.seq, EVENTS).await?;
            // Without any, what there was is no longer kept.
            read.push((id, events.last().map_or(conversation.last_seq, |last| last.seq)));
            changes.extend(events.iter().filter_map(change).map(|(seq, change)| ((id, seq), change)));
        }
        store(conn, &changes, languages, now).await?;
        let (ids, seqs): (Vec<_>, Vec<_>) = read.iter().copied().unzip();
        let advance = "UPDATE search_progress p SET seq = r.seq FROM unnest($1, $2) AS r (conversation_id, seq) \
                       WHERE p.conversation_id = r.conversation_id";
        let advance = diesel::sql_query(advance).bind::<Array<SqlUuid>, _>(&ids).bind::<Array<BigInt>, _>(&seqs);
        advance.execute(conn).await?;
        Ok(read.len())
    })
    .await
}

/// The message that an event changes, and how; `None` when no words change.
fn change(event: &SubscribeResponse) -> Option<(i64, Change)> {
    match event.event.as_ref()? {
        Event::Message(message) | Event::Edited(message) => {
            let at = message.created_at.as_ref()?;
            let at = DateTime::from_timestamp(at.seconds, u32::try_from(at.nanos).ok()?)?;
            Some((message.seq, Change::Written(at)))
        }
        Event::Deleted(deleted) => Some((deleted.message_seq, Change::Deleted)),
        _ => None,
    }
}

/// Makes the documents of messages as they are now. Locks the messages: whoever takes their content away meanwhile waits,
/// and then finds the documents.
async fn store(
    conn: &mut Conn,
    changes: &BTreeMap<(Uuid, i64), Change>,
    languages: &[String],
    now: DateTime<Utc>,
) -> Result<(), Error> {
    let (mut deleted, mut written) = ((Vec::new(), Vec::new()), (Vec::new(), Vec::new(), Vec::new()));
    for ((id, seq), change) in changes {
        match change {
            Change::Deleted => {
                deleted.0.push(*id);
                deleted.1.push(*seq);
            }
            Change::Written(at) => {
                written.0.push(*id);
                written.1.push(*seq);
                written.2.push(*at);
            }
        }
    }
    if !deleted.0.is_empty() {
        let delete = "DELETE FROM message_documents d USING unnest($1, $2) AS i (conversation_id, seq) \
                      WHERE d.conversation_id = i.conversation_id AND d.seq = i.seq";
        let delete = diesel::sql_query(delete).bind::<Array<SqlUuid>, _>(&deleted.0);
        delete.bind::<Array<BigInt>, _>(&deleted.1).execute(conn).await?;
    }
    if !written.0.is_empty() {
        let insert = "WITH now AS ( \
                          SELECT m.conversation_id, m.seq, m.created_at, m.text \
                          FROM unnest($1, $2, $3) AS i (conversation_id, seq, created_at) \
                          JOIN messages m ON m.conversation_id = i.conversation_id AND m.seq = i.seq \
                              AND m.created_at = i.created_at \
                          WHERE m.deleted_at IS NULL AND m.text <> '' AND (m.expires_at IS NULL OR m.expires_at > $4) \
                          FOR SHARE OF m) \
                      INSERT INTO message_documents (conversation_id, seq, created_at, document) \
                      SELECT conversation_id, seq, created_at, message_document(text, $5) FROM now \
                      ON CONFLICT (conversation_id, seq, created_at) DO UPDATE SET document = excluded.document";
        diesel::sql_query(insert)
            .bind::<Array<SqlUuid>, _>(&written.0)
            .bind::<Array<BigInt>, _>(&written.1)
            .bind::<Array<Timestamptz>, _>(&written.2)
            .bind::<Timestamptz, _>(now)
            .bind::<Array<Text>, _>(languages)
            .execute(conn)
            .await?;
    }
    Ok(())
}

/// Takes the mark off conversations in which nothing has happened since `before` and that were read to the end.
pub async fn settle(conn: &mut Conn, before: DateTime<Utc>) -> Result<(), Error> {
    // What is sent meanwhile is seen: the row is locked, and looked at again as it is then.
    let query = "UPDATE conversations SET search_pending = false WHERE id IN ( \
                     SELECT c.id FROM conversations c JOIN search_progress p ON p.conversation_id = c.id \
                     WHERE c.search_pending AND c.changed_at < $1 AND p.seq >= c.last_seq LIMIT $2 \
                     FOR NO KEY UPDATE OF c SKIP LOCKED)";
    diesel::sql_query(query).bind::<Timestamptz, _>(before).bind::<BigInt, _>(BATCH).execute(conn).await?;
    Ok(())
}

/// The place of a message among all.
#[derive(Clone, Copy)]
pub struct Found {
    pub created_at: DateTime<Utc>,
    pub conversation_id: Uuid,
    pub seq: i64,
}

/// What somebody looks for, and where.
pub struct Search<'a> {
    pub reader: Uuid,
    pub query: &'a str,
    pub languages: &'a [String],
    /// The conversations, each with since when it keeps messages.
    pub conversations: &'a [(Uuid, DateTime<Utc>)],
    /// After this one.
    pub after: Option<Found>,
    pub limit: i64,
    pub now: DateTime<Utc>,
}

/// A message that was found.
#[derive(QueryableByName)]
pub struct Hit {
    #[diesel(embed)]
    pub message: Message,
    /// Where in its text, with U+0001 before and U+0002 after what was looked for.
    #[diesel(sql_type = Text)]
    pub passages: String,
}

impl Search<'_> {
    /// Whether a query asks for at least one word, rather than only for what must not be there.
    pub async fn has_word(conn: &mut Conn, query: &str) -> Result<bool, Error> {
        #[derive(QueryableByName)]
        struct Answer {
            #[diesel(sql_type = diesel::sql_types::Bool)]
            has_word: bool,
        }
        let ask = "SELECT querytree(websearch_to_tsquery('simple', $1)) NOT IN ('', 'T') AS has_word";
        Ok(diesel::sql_query(ask).bind::<Text, _>(query).get_result::<Answer>(conn).await?.has_word)
    }

    /// The messages, the newest first.
    pub async fn run(&self, conn: &mut Conn) -> Result<Vec<Hit>, Error> {
        let (ids, times): (Vec<_>, Vec<_>) = self.conversations.iter().copied().unzip();
        // Before that, there is nothing to look for.
        let since = times.iter().min().copied().unwrap_or(self.now);
        // Partition by partition, the newest first, until there are enough: what is frequent is found in the newest alone.
        let query = "WITH found AS MATERIALIZED ( \
                SELECT f.conversation_id, f.seq, f.created_at FROM ( \
                    SELECT starts_at, ends_at FROM message_partitions \
                    WHERE ends_at > $5 AND ($8 IS NULL OR starts_at <= $8) ORDER BY starts_at DESC) p \
                CROSS JOIN LATERAL ( \
                    SELECT d.conversation_id, d.seq, d.created_at FROM message_documents d \
                    JOIN messages m \
                        ON m.conversation_id = d.conversation_id AND m.seq = d.seq AND m.created_at = d.created_at \
                    WHERE d.document @@ message_query($3, $4) AND d.conversation_id = ANY($1) \
                        AND d.created_at >= p.starts_at AND d.created_at < p.ends_at \
                        AND m.created_at >= p.starts_at AND m.created_at < p.ends_at \
                        AND d.created_at >= ($2)[array_position($1, d.conversation_id)] \
                        AND m.deleted_at IS NULL AND m.text <> '' AND (m.expires_at IS NULL OR m.expires_at > $6) \
                        AND NOT EXISTS (SELECT FROM hidden_messages h WHERE h.account_id = $7 \
                            AND h.conversation_id = d.conversation_id AND h.message_seq = d.seq) \
                        AND ($8 IS NULL OR (d.created_at, d.conversation_id, d.seq) < ($8, $9, $10)) \
                    ORDER BY d.created_at DESC, d.conversation_id DESC, d.seq DESC LIMIT $11) f \
                LIMIT $11) \
            SELECT m.id, m.conversation_id, m.seq, m.sender_id, m.client_message_id, m.ordinal, m.text, m.details, \
                m.created_at, m.edited_at, m.deleted_at, m.expires_at, octet_length(m.ciphertext) AS ciphertext, \
                message_passages(m.text, $3, $4) AS passages FROM found JOIN messages m \
                ON m.conversation_id = found.conversation_id AND m.seq = found.seq AND m.created_at = found.created_at \
            ORDER BY m.created_at DESC, m.conversation_id DESC, m.seq DESC";
        let hits = diesel::sql_query(query)
            .bind::<Array<SqlUuid>, _>(&ids)
            .bind::<Array<Timestamptz>, _>(&times)
            .bind::<Text, _>(self.query)
            .bind::<Array<Text>, _>(self.languages)
            .bind::<Timestamptz, _>(since)
            .bind::<Timestamptz, _>(self.now)
            .bind::<SqlUuid, _>(self.reader)
            .bind::<Nullable<Timestamptz>, _>(self.after.map(|after| after.created_at))
            .bind::<Nullable<SqlUuid>, _>(self.after.map(|after| after.conversation_id))
            .bind::<Nullable<BigInt>, _>(self.after.map(|after| after.seq))
            .bind::<BigInt, _>(self.limit)
            .load(conn)
            .await?;
        Ok(hits)
    }
}
