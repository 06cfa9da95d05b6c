//! Reactions to messages.

use chrono::{DateTime, Utc};
use diesel::pg::Pg;
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use uuid::Uuid;

use super::message::Message;
use crate::kernel::db::Conn;
use crate::kernel::error::Error;
use crate::schema::message_reactions;

/// A reaction.
#[derive(Clone, Debug, Queryable, Selectable, Insertable)]
#[diesel(table_name = message_reactions, check_for_backend(Pg), treat_none_as_default_value = false)]
pub struct Reaction {
    pub conversation_id: Uuid,
    pub message_seq: i64,
    pub account_id: Uuid,
    pub emoji: String,
    pub created_at: DateTime<Utc>,
    pub message_created_at: DateTime<Utc>,
}

impl Reaction {
    /// One to a message.
    pub fn new(message: &Message, account_id: Uuid, emoji: &str, now: DateTime<Utc>) -> Self {
        Self {
            conversation_id: message.conversation_id,
            message_seq: message.seq,
            account_id,
            emoji: emoji.to_owned(),
            created_at: now,
            message_created_at: message.created_at,
        }
    }

    /// Inserts it.
    pub async fn insert(&self, conn: &mut Conn) -> Result<(), Error> {
        diesel::insert_into(message_reactions::table).values(self).execute(conn).await?;
        Ok(())
    }

    /// Those to a message, the oldest first.
    pub async fn all(conn: &mut Conn, conversation_id: Uuid, seq: i64) -> Result<Vec<Self>, Error> {
        Self::of_messages(conn, conversation_id, &[seq]).await
    }

    /// Those to these messages, the oldest first.
    pub async fn of_messages(conn: &mut Conn, conversation_id: Uuid, seqs: &[i64]) -> Result<Vec<Self>, Error> {
        let of_messages = message_reactions::table
            .filter(message_reactions::conversation_id.eq(conversation_id))
            .filter(message_reactions::message_seq.eq_any(seqs))
            .order((message_reactions::created_at, message_reactions::account_id, message_reactions::emoji))
            .select(Self::as_select());
        Ok(of_messages.load(conn).await?)
    }

    /// Takes one back; false when there is none.
    pub async fn delete(
        conn: &mut Conn,
        conversation_id: Uuid,
        seq: i64,
        account_id: Uuid,
        emoji: &str,
    ) -> Result<bool, Error> {
        let reaction = message_reactions::table.find((conversation_id, seq, account_id, emoji));
        Ok(diesel::delete(reaction).execute(conn).await? == 1)
    }

    /// Takes all to a message back.
    pub async fn delete_all(conn: &mut Conn, conversation_id: Uuid, seq: i64) -> Result<(), Error> {
        let of_message = message_reactions::table
            .filter(message_reactions::conversation_id.eq(conversation_id))
            .filter(message_reactions::message_seq.eq(seq));
        diesel::delete(of_message).execute(conn).await?;
        Ok(())
    }
}
