//! Messages as they are stored, and reading them.

use chrono::{DateTime, Utc};
use diesel::pg::Pg;
use diesel::prelude::*;
use diesel::sql_types::{Binary, Integer, Nullable};
use diesel_async::RunQueryDsl;
use uuid::Uuid;

pub use super::reading::MessageColumns;
use super::reading::{CiphertextsAt, MessagesAfter, MessagesAt, MessagesBefore, Places};
use crate::kernel::db::Conn;
use crate::kernel::error::Error;
use crate::schema::{hidden_messages, message_edits, messages};

/// A message.
#[derive(Clone, Debug, Queryable, QueryableByName, Selectable)]
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
    #[diesel(select_expression = octet_length(messages::ciphertext), deserialize_as = Option<i32>)]
    #[diesel(sql_type = Nullable<Integer>)]
    pub ciphertext: Ciphertext,
}

#[diesel::declare_sql_function]
extern "SQL" {
    /// The length of bytes, for which they need not be read.
    fn octet_length(bytes: Nullable<Binary>) -> Nullable<Integer>;
}

/// A message's ciphertext (`EncryptedContent`, encoded), which can be large and is read apart ([`Message::read_ciphertexts`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ciphertext {
    /// It has none.
    None,
    /// It has so many bytes, which were not read.
    Unread(usize),
    Read(Vec<u8>),
}

impl std::convert::From<Option<i32>> for Ciphertext {
    fn from(length: Option<i32>) -> Self {
        length.map_or(Self::None, |length| Self::Unread(usize::try_from(length).unwrap_or_default()))
    }
}

impl Ciphertext {
    /// How many bytes it has.
    pub fn len(&self) -> usize {
        match self {
            Self::None => 0,
            Self::Unread(length) => *length,
            Self::Read(bytes) => bytes.len(),
        }
    }
}

/// What somebody sees of a conversation.
#[derive(Clone, Copy)]
pub struct View {
    /// Who reads.
    pub reader: Uuid,
    /// When. What has disappeared by then has no content.
    pub now: DateTime<Utc>,
    /// What is older is no longer kept, although some of it may still be there.
    pub since: DateTime<Utc>,
}

/// Where a page of messages begins.
pub enum From {
    /// The oldest first.
    After(i64),
    /// The newest first; none of them later than that time, if it is known.
    Before(i64, Option<DateTime<Utc>>),
}

impl Message {
    /// Reads the ciphertexts of these messages, in their order, as far as all of them together have at most `room` bytes; the
    /// first one in any case.
    pub async fn read_ciphertexts(conn: &mut Conn, rows: &mut [Self], room: usize) -> Result<(), Error> {
        let fitting = Self::fitting(rows, room);
        let unread: Vec<_> =
            rows.iter_mut().take(fitting).filter(|row| matches!(row.ciphertext, Ciphertext::Unread(_))).collect();
        if unread.is_empty() {
            return Ok(());
        }
        let places = unread.iter().map(|row| (row.conversation_id, row.seq, row.created_at));
        let mut read: Vec<(Uuid, Vec<u8>)> = CiphertextsAt(Places::new(places)).load(conn).await?;
        read.sort_unstable_by_key(|(id, _)| *id);
        for row in unread {
            // One that was deleted meanwhile is not found.
            if let Ok(index) = read.binary_search_by_key(&row.id, |(id, _)| *id) {
                row.ciphertext = Ciphertext::Read(std::mem::take(&mut read[index].1));
            }
        }
        Ok(())
    }

    /// How many of these messages, from the first, have ciphertexts of at most `room` bytes in all; at least one.
    pub fn fitting(rows: &[Self], mut room: usize) -> usize {
        let mut fits = |row: &&Self| {
            let fits = row.ciphertext.len() <= room;
            room = room.saturating_sub(row.ciphertext.len());
            fits
        };
        rows.iter().take_while(|row| fits(row)).count().max(1)
    }

    /// The messages after `seq`, the oldest first.
    pub async fn after(conn: &mut Conn, conversation_id: Uuid, seq: i64, limit: i64) -> Result<Vec<Self>, Error> {
        let since = DateTime::UNIX_EPOCH;
        Ok(MessagesAfter { conversation_id, seq, reader: None, since, limit }.load(conn).await?)
    }

    /// Those of these numbers.
    pub async fn numbered(conn: &mut Conn, conversation_id: Uuid, seqs: &[i64]) -> Result<Vec<Self>, Error> {
        let rows = messages::table
            .filter(messages::conversation_id.eq(conversation_id))
            .filter(messages::seq.eq_any(seqs))
            .select(Self::as_select());
        Ok(rows.load(conn).await?)
    }

    /// A page of the messages that an account sees: after or before a number. Those that it has deleted for itself are left
    /// out; those that have disappeared are without content.
    pub async fn page(
        conn: &mut Conn,
        view: View,
        conversation_id: Uuid,
        from: From,
        limit: i64,
    ) -> Result<Vec<Self>, Error> {
        let View { reader, since, .. } = view;
        let rows: Vec<Self> = match from {
            From::After(seq) => {
                MessagesAfter { conversation_id, seq, reader: Some(reader), since, limit }.load(conn).await?
            }
            From::Before(seq, at) => {
                MessagesBefore { conversation_id, seq, at, reader, since, limit }.load(conn).await?
            }
        };
        Ok(rows.into_iter().map(|row| row.shown_at(view.now)).collect())
    }

    /// One of the messages that an account sees.
    pub async fn one(conn: &mut Conn, view: View, conversation_id: Uuid, seq: i64) -> Result<Option<Self>, Error> {
        let mut found = Self::page(conn, view, conversation_id, From::After(seq - 1), 1).await?;
        Ok(found.pop().filter(|message| message.seq == seq))
    }

    /// Without its content, if it has disappeared.
    fn shown_at(mut self, now: DateTime<Utc>) -> Self {
        if let Some(expired) = self.expires_at.filter(|at| *at <= now) {
            self.deleted_at = self.deleted_at.or(Some(expired));
            self.text.clear();
            self.details = None;
            self.ciphertext = Ciphertext::None;
        }
        self
    }

    /// Keeps the text that is about to be replaced; false if that was done `most` times already.
    pub async fn keep_edit(&self, conn: &mut Conn, most: i32, now: DateTime<Utc>) -> Result<bool, Error> {
        let last: Option<i32> = message_edits::table
            .filter(message_edits::conversation_id.eq(self.conversation_id))
            .filter(message_edits::message_seq.eq(self.seq))
            .select(diesel::dsl::max(message_edits::place))
            .first(conn)
            .await?;
        let place = last.unwrap_or_default() + 1;
        if place > most {
            return Ok(false);
        }
        let row = (
            message_edits::conversation_id.eq(self.conversation_id),
            message_edits::message_seq.eq(self.seq),
            message_edits::place.eq(place),
            message_edits::text.eq(&self.text),
            message_edits::replaced_at.eq(now),
            message_edits::message_created_at.eq(self.created_at),
        );
        diesel::insert_into(message_edits::table).values(row).execute(conn).await?;
        Ok(true)
    }

    /// Earlier texts of a message and until when it had them, the oldest first.
    pub async fn edits(conn: &mut Conn, id: Uuid, seq: i64) -> Result<Vec<(String, DateTime<Utc>)>, Error> {
        let edits = message_edits::table
            .filter(message_edits::conversation_id.eq(id))
            .filter(message_edits::message_seq.eq(seq))
            .order(message_edits::place)
            .select((message_edits::text, message_edits::replaced_at));
        Ok(edits.load(conn).await?)
    }

    /// Forgets earlier texts.
    pub async fn forget_edits(&self, conn: &mut Conn) -> Result<(), Error> {
        let edits = message_edits::table
            .filter(message_edits::conversation_id.eq(self.conversation_id))
            .filter(message_edits::message_seq.eq(self.seq));
        diesel::delete(edits).execute(conn).await?;
        Ok(())
    }

    /// Stores text, details, and when they were edited or deleted. Ciphertext is never edited: what is stored has none.
    pub async fn store_content(&self, conn: &mut Conn) -> Result<(), Error> {
        let content = (
            messages::text.eq(&self.text),
            messages::details.eq(&self.details),
            messages::ciphertext.eq(None::<Vec<u8>>),
            messages::edited_at.eq(self.edited_at),
            messages::deleted_at.eq(self.deleted_at),
        );
        let row = messages::table.find((self.conversation_id, self.seq, self.created_at));
        diesel::update(row).set(content).execute(conn).await?;
        Ok(())
    }

    /// Deletes it for one account.
    pub async fn hide(&self, conn: &mut Conn, account_id: Uuid) -> Result<(), Error> {
        let row = (
            hidden_messages::account_id.eq(account_id),
            hidden_messages::conversation_id.eq(self.conversation_id),
            hidden_messages::message_seq.eq(self.seq),
            hidden_messages::message_created_at.eq(self.created_at),
        );
        diesel::insert_into(hidden_messages::table).values(row).on_conflict_do_nothing().execute(conn).await?;
        Ok(())
    }

    /// The messages at these places (conversation, number, time), without those that have disappeared, and those that the
    /// reader has deleted for itself.
    pub async fn at(
        conn: &mut Conn,
        reader: Uuid,
        places: &[(Uuid, i64, DateTime<Utc>)],
        now: DateTime<Utc>,
    ) -> Result<Vec<Self>, Error> {
        Ok(MessagesAt { reader, places: Places::new(places.iter().copied()), now }.load(conn).await?)
    }
}
