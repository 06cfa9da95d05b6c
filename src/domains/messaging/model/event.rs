//! What happened in a conversation besides messages, and the two of them together.

use chrono::{DateTime, Utc};
use diesel::pg::Pg;
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use prost::Message as _;
use uuid::Uuid;

use super::message::Message;
use crate::kernel::db::Conn;
use crate::kernel::error::{Error, Reason};
use crate::proto::rialto::messaging::v1::SubscribeResponse;
use crate::schema::{conversation_events, conversations};

/// An event as it is stored.
#[derive(Queryable, Selectable, Insertable)]
#[diesel(table_name = conversation_events, check_for_backend(Pg), treat_none_as_default_value = false)]
struct Event {
    conversation_id: Uuid,
    seq: i64,
    created_at: DateTime<Utc>,
    event: Vec<u8>,
}

/// What happened after `seq`, the oldest first, at most `limit`. An error if the next is no longer kept: numbers have no hole,
/// so one that is missing is gone.
pub async fn after(conn: &mut Conn, id: Uuid, seq: i64, limit: i64) -> Result<Vec<SubscribeResponse>, Error> {
    let messages = Message::after(conn, id, seq, limit).await?;
    let others: Vec<Event> = conversation_events::table
        .filter(conversation_events::conversation_id.eq(id))
        .filter(conversation_events::seq.gt(seq))
        .order(conversation_events::seq.asc())
        .limit(limit)
        .select(Event::as_select())
        .load(conn)
        .await?;
    let mut events: Vec<SubscribeResponse> = messages.iter().map(SubscribeResponse::from).collect();
    for other in others {
        let damaged = |error| Error::internal("an event of a conversation can't be read", error);
        events.push(SubscribeResponse::decode(other.event.as_slice()).map_err(damaged)?);
    }
    events.sort_unstable_by_key(|event| event.seq);
    events.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    match (seq + 1..).zip(&events).find(|(expected, event)| *expected != event.seq) {
        None => Ok(events),
        Some((_, oldest)) => Err(truncated(oldest.seq)),
    }
}

/// The refusal of somebody who comes back for what is no longer kept.
pub fn truncated(oldest_seq: i64) -> Error {
    Error::new(Reason::HistoryTruncated, "what happened after that is no longer kept")
        .with("oldest_seq", oldest_seq.to_string())
}

/// Numbers and stores an event of a conversation whose row is locked; returns it with its number.
pub async fn append(
    conn: &mut Conn,
    id: Uuid,
    mut event: SubscribeResponse,
    now: DateTime<Utc>,
) -> Result<SubscribeResponse, Error> {
    event.seq = diesel::update(conversations::table.find(id))
        .set(conversations::last_seq.eq(conversations::last_seq + 1))
        .returning(conversations::last_seq)
        .get_result(conn)
        .await?;
    let row = Event { conversation_id: id, seq: event.seq, created_at: now, event: event.encode_to_vec() };
    diesel::insert_into(conversation_events::table).values(&row).execute(conn).await?;
    Ok(event)
}
