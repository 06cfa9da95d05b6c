//! The write path of messages: one statement for each step of a whole batch.

use chrono::{DateTime, Utc};
use diesel::pg::Pg;
use diesel::prelude::*;
use diesel::query_builder::{AstPass, Query, QueryFragment, QueryId};
use diesel::sql_types::{Array, BigInt, Binary, Bool, Nullable, Text, Timestamptz, Uuid as SqlUuid};
use diesel_async::RunQueryDsl;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::message::{Ciphertext, Message, MessageColumns};
use super::recipients;
use crate::domains::keys::DeviceRef;
use crate::kernel::db::Conn;
use crate::kernel::error::{Error, Reason};
use crate::schema::conversation_members;

/// A message to be committed.
#[derive(Clone, Debug)]
pub struct NewMessage {
    pub id: Uuid,
    pub conversation_id: Uuid,
    pub sender_id: Uuid,
    pub client_message_id: String,
    pub content: Content,
    /// `MessageDetails`, encoded; `None` when there are none.
    pub details: Option<Vec<u8>>,
}

/// What a message says.
#[derive(Clone, Debug)]
pub enum Content {
    Text(String),
    Encrypted(Encrypted),
}

/// Ciphertext.
#[derive(Clone, Debug)]
pub struct Encrypted {
    /// `EncryptedContent`, encoded.
    pub content: Vec<u8>,
    /// The sender's device that has encrypted it.
    pub sender_device: Uuid,
    /// The devices that it has envelopes for.
    pub devices: Vec<DeviceRef>,
}

/// What became of a message that was committed just now.
#[derive(Queryable)]
struct Inserted {
    id: Uuid,
    seq: i64,
    ordinal: i64,
    created_at: DateTime<Utc>,
    expires_at: Option<DateTime<Utc>>,
}

impl NewMessage {
    /// Commits a batch, to be called in a transaction. Answers in the order of the batch: the message as it stands in
    /// the conversation, which for a repeated client message id is the first one; an error where the sender is no member,
    /// may not send for a time, or is alone with somebody whom it does not reach; where the conversation takes ciphertext and
    /// this is text, or the other way round; and where ciphertext is not for exactly the devices that there are.
    pub async fn insert_batch(
        conn: &mut Conn,
        batch: &[Self],
        now: DateTime<Utc>,
    ) -> Result<Vec<Result<Message, Error>>, Error> {
        let columns = Columns::new(batch.iter(), now);
        // The locks come first, in the order of ids, so that batches don't deadlock, and the next statement's snapshot
        // then sees every message that was committed under them.
        let locked: Vec<(Uuid, bool)> = LockConversations(&columns).load(conn).await?;
        let mut refusals = recipients::refusals(conn, batch, &locked).await?;
        let taken = || batch.iter().zip(&refusals).filter(|(_, refusal)| refusal.is_none()).map(|(new, _)| new);
        let mut inserted: Vec<Inserted> = if refusals.iter().all(Option::is_none) {
            InsertMessages(&columns).load(conn).await?
        } else {
            InsertMessages(&Columns::new(taken(), now)).load(conn).await?
        };
        inserted.sort_unstable_by_key(|row| row.id);
        let mut answers: Vec<_> = batch
            .iter()
            .map(|new| {
                let found = inserted.binary_search_by_key(&new.id, |row| row.id).ok();
                found.map(|index| new.committed(&inserted[index]))
            })
            .collect();
        if inserted.len() < batch.len() {
            for (key, earlier) in FindRepeated(&columns).load::<(Uuid, Message)>(conn).await? {
                let same = answers.iter_mut().zip(&columns.keys).filter(|(answer, of)| answer.is_none() && **of == key);
                same.for_each(|(answer, _)| *answer = Some(earlier.clone()));
            }
        }
        let refused: Vec<_> =
            answers.iter().zip(batch).filter(|(answer, _)| answer.is_none()).map(|(_, new)| new).collect();
        let members = Self::members_among(conn, &refused).await?;
        // Also what is refused now is the first message, if it was sent before.
        let answer = |((answer, new), refusal): ((Option<Message>, &Self), &mut Option<Error>)| {
            answer.ok_or_else(|| new.refusal(&members, refusal.take(), now))
        };
        Ok(answers.into_iter().zip(batch).zip(&mut refusals).map(answer).collect())
    }

    /// Why a message was not taken; `refusal` if it is for what it says.
    fn refusal(
        &self,
        members: &[(Uuid, Uuid, Option<DateTime<Utc>>)],
        refusal: Option<Error>,
        now: DateTime<Utc>,
    ) -> Error {
        let member = members.iter().find(|(of, account, _)| (*of, *account) == (self.conversation_id, self.sender_id));
        match member {
            None => Error::not_found("conversation"),
            Some((_, _, Some(until))) if *until > now => silenced(*until, now),
            Some(_) => refusal.unwrap_or_else(unavailable),
        }
    }

    /// The conversation and sender of those whose sender is a member, and until when it may not send. Asks nothing when
    /// there is none to ask for.
    async fn members_among(
        conn: &mut Conn,
        messages: &[&Self],
    ) -> Result<Vec<(Uuid, Uuid, Option<DateTime<Utc>>)>, Error> {
        if messages.is_empty() {
            return Ok(Vec::new());
        }
        let conversations: Vec<_> = messages.iter().map(|new| new.conversation_id).collect();
        let senders: Vec<_> = messages.iter().map(|new| new.sender_id).collect();
        let members = conversation_members::table
            .filter(conversation_members::conversation_id.eq_any(conversations))
            .filter(conversation_members::account_id.eq_any(senders))
            .filter(conversation_members::left_at.is_null())
            .select((
                conversation_members::conversation_id,
                conversation_members::account_id,
                conversation_members::silenced_until,
            ));
        Ok(members.load(conn).await?)
    }

    fn committed(&self, row: &Inserted) -> Message {
        Message {
            id: self.id,
            conversation_id: self.conversation_id,
            seq: row.seq,
            sender_id: self.sender_id,
            client_message_id: self.client_message_id.clone(),
            ordinal: row.ordinal,
            text: self.text().to_owned(),
            details: self.details.clone(),
            created_at: row.created_at,
            edited_at: None,
            deleted_at: None,
            expires_at: row.expires_at,
            ciphertext: self.ciphertext().map_or(Ciphertext::None, |content| Ciphertext::Read(content.to_vec())),
        }
    }

    fn text(&self) -> &str {
        match &self.content {
            Content::Text(text) => text,
            Content::Encrypted(_) => "",
        }
    }

    fn ciphertext(&self) -> Option<&[u8]> {
        match &self.content {
            Content::Text(_) => None,
            Content::Encrypted(encrypted) => Some(&encrypted.content),
        }
    }

    /// The same for the same message of the same sender. Senders can make two of their own meet only by breaking SHA-256.
    fn key(&self) -> Uuid {
        let mut hash = Sha256::new();
        hash.update(self.conversation_id.as_bytes());
        hash.update(self.sender_id.as_bytes());
        hash.update(self.client_message_id.as_bytes());
        let mut key = [0; 16];
        key.copy_from_slice(&hash.finalize()[..16]);
        Uuid::from_bytes(key)
    }
}

/// The refusal of a member who may send nothing until then.
pub fn silenced(until: DateTime<Utc>, now: DateTime<Utc>) -> Error {
    let message = "the group's administrators let you send nothing for a time";
    Error::new(Reason::InsufficientPermissions, message).retry_after((until - now).to_std().unwrap_or_default())
}

/// The refusal of one of two, of whom the other is not active, or one blocks the other.
pub fn unavailable() -> Error {
    Error::new(Reason::RecipientUnavailable, "the other member does not take messages from you")
}

/// A batch, column by column.
#[derive(Debug)]
struct Columns<'a> {
    ids: Vec<Uuid>,
    conversation_ids: Vec<Uuid>,
    sender_ids: Vec<Uuid>,
    keys: Vec<Uuid>,
    client_message_ids: Vec<&'a str>,
    texts: Vec<&'a str>,
    details: Vec<Option<&'a [u8]>>,
    ciphertexts: Vec<Option<&'a [u8]>>,
    now: DateTime<Utc>,
}

impl<'a> Columns<'a> {
    fn new(batch: impl Iterator<Item = &'a NewMessage> + Clone, now: DateTime<Utc>) -> Self {
        Self {
            ids: batch.clone().map(|new| new.id).collect(),
            conversation_ids: batch.clone().map(|new| new.conversation_id).collect(),
            sender_ids: batch.clone().map(|new| new.sender_id).collect(),
            keys: batch.clone().map(NewMessage::key).collect(),
            client_message_ids: batch.clone().map(|new| new.client_message_id.as_str()).collect(),
            texts: batch.clone().map(NewMessage::text).collect(),
            details: batch.clone().map(|new| new.details.as_deref()).collect(),
            ciphertexts: batch.map(NewMessage::ciphertext).collect(),
            now,
        }
    }
}

// The three statements are written by hand with a query id of their own, because diesel prepares `sql_query` anew each time,
// which doubles their cost.

#[derive(Debug)]
struct LockConversations<'a>(&'a Columns<'a>);

impl QueryFragment<Pg> for LockConversations<'_> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        out.push_sql("SELECT id, encrypted FROM conversations WHERE id = ANY(");
        out.push_bind_param::<Array<SqlUuid>, _>(&self.0.conversation_ids)?;
        out.push_sql(") ORDER BY id FOR NO KEY UPDATE");
        Ok(())
    }
}

/// Inserts what is new of the batch, where the sender may send; counts it in the conversation; and moves the sender's
/// watermarks, because whoever writes has read.
#[derive(Debug)]
struct InsertMessages<'a>(&'a Columns<'a>);

impl QueryFragment<Pg> for InsertMessages<'_> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        out.push_sql("WITH input AS (SELECT * FROM unnest(");
        out.push_bind_param::<Array<SqlUuid>, _>(&self.0.ids)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<SqlUuid>, _>(&self.0.conversation_ids)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<SqlUuid>, _>(&self.0.sender_ids)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<SqlUuid>, _>(&self.0.keys)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<Text>, _>(&self.0.client_message_ids)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<Text>, _>(&self.0.texts)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<Nullable<Binary>>, _>(&self.0.details)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<Nullable<Binary>>, _>(&self.0.ciphertexts)?;
        out.push_sql(
            ") WITH ORDINALITY AS i (id, conversation_id, sender_id, key, client_message_id, text, details, ciphertext, \
                 n)), \
             fresh AS ( \
                 SELECT DISTINCT ON (key) i.* FROM input i \
                 JOIN conversation_members m ON m.conversation_id = i.conversation_id AND m.account_id = i.sender_id \
                     AND m.left_at IS NULL AND (m.silenced_until IS NULL OR m.silenced_until <= ",
        );
        out.push_bind_param::<Timestamptz, _>(&self.0.now)?;
        out.push_sql(
            ") WHERE NOT EXISTS (SELECT FROM message_keys k WHERE k.key = i.key) \
                 AND CASE WHEN (SELECT count(*) FROM (SELECT FROM conversation_members o \
                         WHERE o.conversation_id = i.conversation_id AND o.left_at IS NULL LIMIT 3) few) = 2 \
                     THEN EXISTS (SELECT FROM conversation_members o JOIN accounts a ON a.id = o.account_id \
                         WHERE o.conversation_id = i.conversation_id AND o.account_id <> i.sender_id \
                         AND o.left_at IS NULL AND a.state = 'active' \
                         AND NOT EXISTS (SELECT FROM user_blocks b \
                             WHERE b.blocker_id = o.account_id AND b.blocked_id = i.sender_id) \
                         AND NOT EXISTS (SELECT FROM user_blocks b \
                             WHERE b.blocker_id = i.sender_id AND b.blocked_id = o.account_id)) \
                     ELSE true END \
                 ORDER BY key, n), \
             numbered AS ( \
                 SELECT f.*, greatest(c.active_at, c.changed_at, ",
        );
        out.push_bind_param::<Timestamptz, _>(&self.0.now)?;
        out.push_sql(
            ") AS at, c.disappear_seconds, \
                     c.last_seq + row_number() OVER (PARTITION BY f.conversation_id ORDER BY f.n) AS seq, \
                     c.message_count + row_number() OVER (PARTITION BY f.conversation_id ORDER BY f.n) AS ordinal \
                 FROM fresh f JOIN conversations c ON c.id = f.conversation_id), \
             counted AS ( \
                 UPDATE conversations c SET last_seq = h.seq, message_count = h.ordinal, active_at = h.at, \
                     last_message_seq = h.seq, last_message_at = h.at, changed_at = h.at, \
                     search_pending = NOT c.encrypted \
                 FROM (SELECT conversation_id, max(seq) AS seq, max(ordinal) AS ordinal, max(at) AS at \
                     FROM numbered GROUP BY 1) h \
                 WHERE c.id = h.conversation_id), \
             read AS ( \
                 UPDATE conversation_members m SET delivered_seq = h.seq, read_seq = h.seq, read_count = h.ordinal \
                 FROM (SELECT conversation_id, sender_id, max(seq) AS seq, max(ordinal) AS ordinal \
                     FROM numbered GROUP BY 1, 2) h \
                 WHERE m.conversation_id = h.conversation_id AND m.account_id = h.sender_id), \
             keyed AS ( \
                 INSERT INTO message_keys (key, seq, created_at) SELECT key, seq, at FROM numbered) \
             INSERT INTO messages (conversation_id, seq, created_at, id, sender_id, client_message_id, ordinal, text, \
                 details, ciphertext, expires_at) \
             SELECT conversation_id, seq, at, id, sender_id, client_message_id, ordinal, text, details, ciphertext, \
                 at + make_interval(secs => disappear_seconds) FROM numbered \
             RETURNING id, seq, ordinal, created_at, expires_at",
        );
        Ok(())
    }
}

/// Messages that are there already under the keys of the batch, where the sender is a member.
#[derive(Debug)]
struct FindRepeated<'a>(&'a Columns<'a>);

impl QueryFragment<Pg> for FindRepeated<'_> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        out.push_sql(
            "SELECT i.key, e.id, e.conversation_id, e.seq, e.sender_id, e.client_message_id, e.ordinal, e.text, \
                 e.details, e.created_at, e.edited_at, e.deleted_at, e.expires_at, octet_length(e.ciphertext) \
             FROM unnest(",
        );
        out.push_bind_param::<Array<SqlUuid>, _>(&self.0.conversation_ids)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<SqlUuid>, _>(&self.0.sender_ids)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<SqlUuid>, _>(&self.0.keys)?;
        out.push_sql(
            ") AS i (conversation_id, sender_id, key) JOIN message_keys k ON k.key = i.key \
             JOIN messages e ON e.conversation_id = i.conversation_id AND e.seq = k.seq AND e.created_at = k.created_at \
             JOIN conversation_members m ON m.conversation_id = i.conversation_id AND m.account_id = i.sender_id \
                 AND m.left_at IS NULL",
        );
        Ok(())
    }
}

impl QueryId for LockConversations<'_> {
    type QueryId = LockConversations<'static>;
    const HAS_STATIC_QUERY_ID: bool = true;
}

impl Query for LockConversations<'_> {
    type SqlType = (SqlUuid, Bool);
}

impl QueryId for InsertMessages<'_> {
    type QueryId = InsertMessages<'static>;
    const HAS_STATIC_QUERY_ID: bool = true;
}

impl Query for InsertMessages<'_> {
    type SqlType = (SqlUuid, BigInt, BigInt, Timestamptz, Nullable<Timestamptz>);
}

impl QueryId for FindRepeated<'_> {
    type QueryId = FindRepeated<'static>;
    const HAS_STATIC_QUERY_ID: bool = true;
}

impl Query for FindRepeated<'_> {
    type SqlType = (SqlUuid, MessageColumns);
}
