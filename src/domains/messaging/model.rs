//! Rows and SQL of conversations, members and messages.

use chrono::{DateTime, Utc};
use diesel::helper_types::InnerJoinQuerySource;
use diesel::pg::Pg;
use diesel::prelude::*;
use diesel::query_builder::{AstPass, Query, QueryFragment, QueryId};
use diesel::sql_types::{Array, BigInt, Text, Timestamptz, Uuid as SqlUuid};
use diesel_async::RunQueryDsl;
use uuid::Uuid;

use crate::kernel::abilities::{Condition, Predicate, Scope};
use crate::kernel::caller::Caller;
use crate::kernel::db::Conn;
use crate::kernel::error::{Error, Reason};
use crate::schema::{conversation_members, conversations, messages};

/// A conversation.
#[derive(Clone, Debug, Queryable, Selectable, Insertable)]
#[diesel(table_name = conversations, check_for_backend(Pg), treat_none_as_default_value = false)]
pub struct Conversation {
    pub id: Uuid,
    pub title: String,
    /// `None` when that account was erased.
    pub created_by: Option<Uuid>,
    pub created_at: DateTime<Utc>,
    pub active_at: DateTime<Utc>,
    pub last_seq: i64,
}

#[derive(Insertable)]
#[diesel(table_name = conversation_members)]
struct Member {
    conversation_id: Uuid,
    account_id: Uuid,
    joined_at: DateTime<Utc>,
}

/// Whose conversations a query may see: those that the account is a member of and its scope names.
#[derive(Clone, Copy)]
pub struct Visible<'a> {
    account_id: Uuid,
    scope: &'a Scope,
}

impl<'a> Visible<'a> {
    /// To somebody who reads. An error if that is nothing at all.
    pub fn to(caller: &'a Caller) -> Result<Self, Error> {
        Ok(Self { account_id: caller.account_id, scope: caller.scope("conversations:read")? })
    }

    /// What the scope adds to membership, if anything.
    fn predicate(&self) -> Option<Predicate<InnerJoinQuerySource<conversations::table, conversation_members::table>>> {
        let account_id = self.account_id;
        let predicate = || {
            self.scope.predicate(|condition| match condition {
                Condition::Own => Box::new(conversations::created_by.is_not_distinct_from(Some(account_id))),
                Condition::Member => Box::new(conversation_members::account_id.eq(account_id)),
                // The contract names no other field.
                Condition::Equals { value, .. } => Box::new(conversations::title.eq(value.to_string())),
            })
        };
        (!self.scope.is_all()).then(predicate)
    }
}

impl Conversation {
    /// One without messages.
    pub fn new(id: Uuid, title: &str, created_by: Uuid, now: DateTime<Utc>) -> Self {
        Self { id, title: title.to_owned(), created_by: Some(created_by), created_at: now, active_at: now, last_seq: 0 }
    }

    /// Inserts it with its members.
    pub async fn insert(&self, conn: &mut Conn, members: &[Uuid]) -> Result<(), Error> {
        diesel::insert_into(conversations::table).values(self).execute(conn).await?;
        let member = |account_id: &Uuid| Member {
            conversation_id: self.id,
            account_id: *account_id,
            joined_at: self.created_at,
        };
        let rows: Vec<_> = members.iter().map(member).collect();
        diesel::insert_into(conversation_members::table).values(rows).execute(conn).await?;
        Ok(())
    }

    /// The conversation, if the reader may see it.
    pub async fn of_member(conn: &mut Conn, id: Uuid, reader: Visible<'_>) -> Result<Self, Error> {
        let mut query = conversations::table
            .inner_join(conversation_members::table)
            .filter(conversations::id.eq(id))
            .filter(conversation_members::account_id.eq(reader.account_id))
            .select(Self::as_select())
            .into_boxed();
        if let Some(predicate) = reader.predicate() {
            query = query.filter(predicate);
        }
        query.first(conn).await.optional()?.ok_or_else(|| Error::not_found("conversation"))
    }

    /// The conversations that the reader may see, the most recently active first, after one with that activity and id.
    pub async fn list(
        conn: &mut Conn,
        reader: Visible<'_>,
        after: Option<(DateTime<Utc>, Uuid)>,
        limit: i64,
    ) -> Result<Vec<Self>, Error> {
        let mut query = conversations::table
            .inner_join(conversation_members::table)
            .filter(conversation_members::account_id.eq(reader.account_id))
            .order((conversations::active_at.desc(), conversations::id.desc()))
            .limit(limit)
            .select(Self::as_select())
            .into_boxed();
        if let Some((active_at, id)) = after {
            let same_time = conversations::active_at.eq(active_at).and(conversations::id.lt(id));
            query = query.filter(conversations::active_at.lt(active_at).or(same_time));
        }
        if let Some(predicate) = reader.predicate() {
            query = query.filter(predicate);
        }
        Ok(query.load(conn).await?)
    }

    /// The members of these conversations, as pairs of conversation and account.
    pub async fn members(conn: &mut Conn, ids: &[Uuid]) -> Result<Vec<(Uuid, Uuid)>, Error> {
        let members = conversation_members::table
            .filter(conversation_members::conversation_id.eq_any(ids))
            .order((conversation_members::conversation_id, conversation_members::account_id))
            .select((conversation_members::conversation_id, conversation_members::account_id));
        Ok(members.load(conn).await?)
    }

    /// Those of these accounts that are in a conversation with this one.
    pub async fn contacts(conn: &mut Conn, account_id: Uuid, among: &[Uuid]) -> Result<Vec<Uuid>, Error> {
        let (mine, theirs) = diesel::alias!(conversation_members as mine, conversation_members as theirs);
        let shared = mine.filter(mine.field(conversation_members::account_id).eq(account_id)).filter(
            mine.field(conversation_members::conversation_id).eq(theirs.field(conversation_members::conversation_id)),
        );
        let contacts = theirs
            .filter(theirs.field(conversation_members::account_id).eq_any(among))
            .filter(diesel::dsl::exists(shared))
            .select(theirs.field(conversation_members::account_id))
            .distinct();
        Ok(contacts.load(conn).await?)
    }

    /// The number of the newest message of each of these conversations.
    pub async fn heads(conn: &mut Conn, ids: &[Uuid]) -> Result<Vec<(Uuid, i64)>, Error> {
        let heads = conversations::table.filter(conversations::id.eq_any(ids));
        Ok(heads.select((conversations::id, conversations::last_seq)).load(conn).await?)
    }
}

/// A message.
#[derive(Clone, Debug, Queryable, Selectable)]
#[diesel(table_name = messages, check_for_backend(Pg))]
pub struct Message {
    pub id: Uuid,
    pub conversation_id: Uuid,
    pub seq: i64,
    pub sender_id: Uuid,
    pub client_message_id: String,
    pub text: String,
    pub created_at: DateTime<Utc>,
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
}

/// A message to be committed.
#[derive(Clone, Debug)]
pub struct NewMessage {
    pub id: Uuid,
    pub conversation_id: Uuid,
    pub sender_id: Uuid,
    pub client_message_id: String,
    pub text: String,
}

impl NewMessage {
    /// Commits a batch, to be called in a transaction. Answers in the order of the batch: the message as it stands in
    /// the conversation, which for a repeated client message id is the first one; an error where the sender is no member,
    /// or is alone with somebody whom it does not reach.
    pub async fn insert_batch(
        conn: &mut Conn,
        batch: &[Self],
        now: DateTime<Utc>,
    ) -> Result<Vec<Result<Message, Error>>, Error> {
        let columns = Columns::new(batch, now);
        // The locks come first, in the order of ids, so that batches don't deadlock, and the next statement's snapshot
        // then sees every message that was committed under them.
        LockConversations(&columns).execute(conn).await?;
        let mut inserted: Vec<(Uuid, i64)> = InsertMessages(&columns).load(conn).await?;
        inserted.sort_unstable();
        let mut answers: Vec<_> = batch
            .iter()
            .map(|new| {
                let found = inserted.binary_search_by_key(&new.id, |(id, _)| *id).ok();
                found.map(|index| new.committed(inserted[index].1, now))
            })
            .collect();
        if inserted.len() < batch.len() {
            for earlier in (FindRepeated(&columns)).load::<Message>(conn).await? {
                let repeats = |new: &Self| {
                    (new.conversation_id, new.sender_id, &new.client_message_id)
                        == (earlier.conversation_id, earlier.sender_id, &earlier.client_message_id)
                };
                for (answer, _) in
                    answers.iter_mut().zip(batch).filter(|(answer, new)| answer.is_none() && repeats(new))
                {
                    *answer = Some(earlier.clone());
                }
            }
        }
        let refused: Vec<_> =
            answers.iter().zip(batch).filter(|(answer, _)| answer.is_none()).map(|(_, new)| new).collect();
        let members = Self::members_among(conn, &refused).await?;
        let answer = |(answer, new): (Option<Message>, &Self)| {
            answer.ok_or_else(|| {
                if members.contains(&(new.conversation_id, new.sender_id)) {
                    Error::new(Reason::RecipientUnavailable, "the other member does not take messages from you")
                } else {
                    Error::not_found("conversation")
                }
            })
        };
        Ok(answers.into_iter().zip(batch).map(answer).collect())
    }

    /// The conversation and sender of those whose sender is a member. Asks nothing when there is none to ask for.
    async fn members_among(conn: &mut Conn, messages: &[&Self]) -> Result<Vec<(Uuid, Uuid)>, Error> {
        if messages.is_empty() {
            return Ok(Vec::new());
        }
        let conversations: Vec<_> = messages.iter().map(|new| new.conversation_id).collect();
        let senders: Vec<_> = messages.iter().map(|new| new.sender_id).collect();
        let members = conversation_members::table
            .filter(conversation_members::conversation_id.eq_any(conversations))
            .filter(conversation_members::account_id.eq_any(senders))
            .select((conversation_members::conversation_id, conversation_members::account_id));
        Ok(members.load(conn).await?)
    }

    fn committed(&self, seq: i64, created_at: DateTime<Utc>) -> Message {
        Message {
            id: self.id,
            conversation_id: self.conversation_id,
            seq,
            sender_id: self.sender_id,
            client_message_id: self.client_message_id.clone(),
            text: self.text.clone(),
            created_at,
        }
    }
}

/// A batch, column by column.
#[derive(Debug)]
struct Columns<'a> {
    ids: Vec<Uuid>,
    conversation_ids: Vec<Uuid>,
    sender_ids: Vec<Uuid>,
    client_message_ids: Vec<&'a str>,
    texts: Vec<&'a str>,
    now: DateTime<Utc>,
}

impl<'a> Columns<'a> {
    fn new(batch: &'a [NewMessage], now: DateTime<Utc>) -> Self {
        Self {
            ids: batch.iter().map(|new| new.id).collect(),
            conversation_ids: batch.iter().map(|new| new.conversation_id).collect(),
            sender_ids: batch.iter().map(|new| new.sender_id).collect(),
            client_message_ids: batch.iter().map(|new| new.client_message_id.as_str()).collect(),
            texts: batch.iter().map(|new| new.text.as_str()).collect(),
            now,
        }
    }
}

// The three statements of the write path. They are written by hand with a query id of their own, because diesel prepares
// `sql_query` anew each time, which doubles their cost.

#[derive(Debug)]
struct LockConversations<'a>(&'a Columns<'a>);

impl QueryFragment<Pg> for LockConversations<'_> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        out.push_sql("SELECT 1 FROM conversations WHERE id = ANY(");
        out.push_bind_param::<Array<SqlUuid>, _>(&self.0.conversation_ids)?;
        out.push_sql(") ORDER BY id FOR NO KEY UPDATE");
        Ok(())
    }
}

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
        out.push_bind_param::<Array<Text>, _>(&self.0.client_message_ids)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<Text>, _>(&self.0.texts)?;
        out.push_sql(
            ") WITH ORDINALITY AS i (id, conversation_id, sender_id, client_message_id, text, n)), \
             fresh AS ( \
                 SELECT DISTINCT ON (conversation_id, sender_id, client_message_id) i.* FROM input i \
                 JOIN conversation_members m ON m.conversation_id = i.conversation_id AND m.account_id = i.sender_id \
                 WHERE NOT EXISTS (SELECT FROM messages e WHERE e.conversation_id = i.conversation_id \
                     AND e.sender_id = i.sender_id AND e.client_message_id = i.client_message_id) \
                 AND CASE WHEN (SELECT count(*) FROM (SELECT FROM conversation_members o \
                         WHERE o.conversation_id = i.conversation_id LIMIT 3) few) = 2 \
                     THEN EXISTS (SELECT FROM conversation_members o JOIN accounts a ON a.id = o.account_id \
                         WHERE o.conversation_id = i.conversation_id AND o.account_id <> i.sender_id \
                         AND a.state = 'active' \
                         AND NOT EXISTS (SELECT FROM user_blocks b \
                             WHERE b.blocker_id = o.account_id AND b.blocked_id = i.sender_id) \
                         AND NOT EXISTS (SELECT FROM user_blocks b \
                             WHERE b.blocker_id = i.sender_id AND b.blocked_id = o.account_id)) \
                     ELSE true END \
                 ORDER BY conversation_id, sender_id, client_message_id, n), \
             numbered AS ( \
                 SELECT f.*, c.last_seq + row_number() OVER (PARTITION BY f.conversation_id ORDER BY f.n) AS seq \
                 FROM fresh f JOIN conversations c ON c.id = f.conversation_id), \
             counted AS ( \
                 UPDATE conversations c SET last_seq = h.seq, active_at = greatest(c.active_at, ",
        );
        out.push_bind_param::<Timestamptz, _>(&self.0.now)?;
        out.push_sql(
            ") FROM (SELECT conversation_id, max(seq) AS seq FROM numbered GROUP BY 1) h \
                 WHERE c.id = h.conversation_id) \
             INSERT INTO messages (conversation_id, seq, id, sender_id, client_message_id, text, created_at) \
             SELECT conversation_id, seq, id, sender_id, client_message_id, text, ",
        );
        out.push_bind_param::<Timestamptz, _>(&self.0.now)?;
        out.push_sql(" FROM numbered RETURNING id, seq");
        Ok(())
    }
}

/// Messages that are there already under the client message ids of the batch, where the sender is a member.
#[derive(Debug)]
struct FindRepeated<'a>(&'a Columns<'a>);

impl QueryFragment<Pg> for FindRepeated<'_> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        out.push_sql(
            "SELECT e.id, e.conversation_id, e.seq, e.sender_id, e.client_message_id, e.text, e.created_at FROM unnest(",
        );
        out.push_bind_param::<Array<SqlUuid>, _>(&self.0.conversation_ids)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<SqlUuid>, _>(&self.0.sender_ids)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<Text>, _>(&self.0.client_message_ids)?;
        out.push_sql(
            ") AS i (conversation_id, sender_id, client_message_id) \
             JOIN messages e USING (conversation_id, sender_id, client_message_id) \
             JOIN conversation_members m ON m.conversation_id = i.conversation_id AND m.account_id = i.sender_id",
        );
        Ok(())
    }
}

impl QueryId for LockConversations<'_> {
    type QueryId = LockConversations<'static>;
    const HAS_STATIC_QUERY_ID: bool = true;
}

impl QueryId for InsertMessages<'_> {
    type QueryId = InsertMessages<'static>;
    const HAS_STATIC_QUERY_ID: bool = true;
}

impl Query for InsertMessages<'_> {
    type SqlType = (SqlUuid, BigInt);
}

impl QueryId for FindRepeated<'_> {
    type QueryId = FindRepeated<'static>;
    const HAS_STATIC_QUERY_ID: bool = true;
}

impl Query for FindRepeated<'_> {
    type SqlType = (SqlUuid, SqlUuid, BigInt, SqlUuid, Text, Text, Timestamptz);
}
