//! What happened in a conversation besides messages, and the two of them together.

use chrono::{DateTime, Utc};
use diesel::pg::Pg;
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use prost::Message as _;
use uuid::Uuid;

use super::message::Message;
use crate::kernel::db::Conn;
use crate::kernel::error::Error;
use crate::proto::rialto::messaging::v1::SubscribeResponse;
use crate::schema::{conversation_events, conversations, messages};

/// An event as it is stored.
#[derive(Queryable, Selectable, Insertable)]
#[diesel(table_name = conversation_events, check_for_backend(Pg), treat_none_as_default_value = false)]
struct Event {
    conversation_id: Uuid,
    seq: i64,
    created_at: DateTime<Utc>,
    event: Vec<u8>,
}

/// Bytes of ciphertext that are read at a time.
const ROOM: usize = 4 << 20;

/// What happened after `seq`, the oldest first, at most `limit` and what `ROOM` lets, up to the first that is no longer kept: numbers have no hole,
/// so one that is missing is gone.
pub async fn after(conn: &mut Conn, id: Uuid, seq: i64, limit: i64) -> Result<Vec<SubscribeResponse>, Error> {
    let mut messages = Message::after(conn, id, seq, limit).await?;
    messages.truncate(Message::fitting(&messages, ROOM));
    Message::read_ciphertexts(conn, &mut messages, ROOM).await?;
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
    let first = events.iter().map(|event| event.seq).next().unwrap_or_default();
    let whole = (first..).zip(&events).take_while(|(expected, event)| *expected == event.seq).count();
    events.truncate(whole.min(usize::try_from(limit).unwrap_or(usize::MAX)));
    Ok(events)
}

/// The number of the oldest that is kept; `None` without any.
pub async fn oldest(conn: &mut Conn, id: Uuid) -> Result<Option<i64>, Error> {
    let message = messages::table.filter(messages::conversation_id.eq(id)).order(messages::seq.asc());
    let message: Option<i64> = message.select(messages::seq).first(conn).await.optional()?;
    let other = conversation_events::table.filter(conversation_events::conversation_id.eq(id));
    let other = other.order(conversation_events::seq.asc()).select(conversation_events::seq);
    let other: Option<i64> = other.first(conn).await.optional()?;
    Ok(message.into_iter().chain(other).min())
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
