//! What happened in a conversation besides messages, and the two of them together.
//!
//! The content of a message is stored with the message alone: an event of its edit says only which one it was, and is read with
//! what the message holds by then. So nothing that was deleted, has disappeared or was erased is left in an event.

use chrono::{DateTime, Utc};
use diesel::pg::Pg;
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use prost::Message as _;
use uuid::Uuid;

use super::message::Message;
use super::reading::FirstAfter;
use crate::kernel::db::Conn;
use crate::kernel::error::Error;
use crate::kernel::wire::timestamp;
use crate::proto::rialto::messaging::v1::{self as contract, SubscribeResponse, subscribe_response};
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
    let mut stored = Vec::new();
    for other in others {
        let damaged = |error| Error::internal("an event of a conversation can't be read", error);
        stored.push((SubscribeResponse::decode(other.event.as_slice()).map_err(damaged)?, other.created_at));
    }
    events.extend(with_content(conn, id, stored).await?);
    events.sort_unstable_by_key(|event| event.seq);
    let first = events.iter().map(|event| event.seq).next().unwrap_or_default();
    let whole = (first..).zip(&events).take_while(|(expected, event)| *expected == event.seq).count();
    events.truncate(whole.min(usize::try_from(limit).unwrap_or(usize::MAX)));
    Ok(events)
}

/// Puts messages as they are now into the events of their edits.
async fn with_content(
    conn: &mut Conn,
    id: Uuid,
    events: Vec<(SubscribeResponse, DateTime<Utc>)>,
) -> Result<Vec<SubscribeResponse>, Error> {
    let edited = |event: &SubscribeResponse| match &event.event {
        Some(subscribe_response::Event::Edited(message)) => Some(message.seq),
        _ => None,
    };
    let seqs: Vec<_> = events.iter().filter_map(|(event, _)| edited(event)).collect();
    let messages = if seqs.is_empty() { Vec::new() } else { Message::numbered(conn, id, &seqs).await? };
    let mut whole = Vec::new();
    for (mut event, at) in events {
        if let Some(seq) = edited(&event) {
            let message = messages.iter().find(|message| message.seq == seq).map(contract::Message::from);
            // One that is no longer kept has no content.
            let gone = || contract::Message {
                conversation_id: id.to_string(),
                seq,
                deleted_at: Some(timestamp(at)),
                ..contract::Message::default()
            };
            event.event = Some(subscribe_response::Event::Edited(message.unwrap_or_else(gone)));
        }
        whole.push(event);
    }
    Ok(whole)
}

/// The number of the first after `seq` that is kept and not older than `since`; `None` without any.
pub async fn first_after(conn: &mut Conn, id: Uuid, seq: i64, since: DateTime<Utc>) -> Result<Option<i64>, Error> {
    Ok(FirstAfter { conversation_id: id, seq, since }.get_result(conn).await?)
}

diesel::define_sql_function! {
    /// The later of two times.
    #[sql_name = "greatest"]
    fn later(one: diesel::sql_types::Timestamptz, other: diesel::sql_types::Timestamptz) -> diesel::sql_types::Timestamptz;
}

/// Numbers and stores an event of a conversation whose row is locked; returns it with its number.
pub async fn append(
    conn: &mut Conn,
    id: Uuid,
    mut event: SubscribeResponse,
    now: DateTime<Utc>,
) -> Result<SubscribeResponse, Error> {
    use subscribe_response::Event::{Deleted, Edited};
    let to_search = matches!(event.event, Some(Edited(_) | Deleted(_))).into_sql::<diesel::sql_types::Bool>();
    let created_at;
    (event.seq, created_at) = diesel::update(conversations::table.find(id))
        .set((
            conversations::last_seq.eq(conversations::last_seq + 1),
            conversations::changed_at.eq(later(conversations::changed_at, later(conversations::active_at, now))),
            conversations::search_pending
                .eq(conversations::search_pending.or(to_search.and(conversations::encrypted.eq(false)))),
        ))
        .returning((conversations::last_seq, conversations::changed_at))
        .get_result(conn)
        .await?;
    let mut stored = event.clone();
    if let Some(Edited(message)) = &mut stored.event {
        *message = contract::Message { seq: message.seq, ..contract::Message::default() };
    }
    let row = Event { conversation_id: id, seq: event.seq, created_at, event: stored.encode_to_vec() };
    diesel::insert_into(conversation_events::table).values(&row).execute(conn).await?;
    Ok(event)
}
