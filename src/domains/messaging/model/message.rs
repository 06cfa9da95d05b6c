//! Messages as they are stored, and reading them.

use chrono::{DateTime, Utc};
use diesel::pg::Pg;
use diesel::prelude::*;
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
}
