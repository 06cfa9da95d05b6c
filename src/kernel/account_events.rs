//! What accounts are told on their streams (`rialto.account.v1.AccountService`).
//!
//! Two kinds of news. An *event* is numbered, kept and never lost: [`append`] writes it in the transaction of what causes it,
//! and [`AccountEvents::announce`] tells the streams after the commit. A new kind is a field of the contract's oneof, and that
//! call. A *value* is not kept, and only the latest of its kind and topic counts: [`Latest`].

use std::sync::Arc;

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Binary, Timestamptz, Uuid as SqlUuid};
use diesel_async::RunQueryDsl;
use prost::Message as _;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::kernel::bus::Bus;
use crate::kernel::db::{Conn, Db};
use crate::kernel::error::{Error, Reason};
use crate::kernel::hub::Place;
use crate::kernel::latest::Latest;
use crate::kernel::sequence::{self, Reader, Sequences};
use crate::kernel::sight::Sight;
use crate::kernel::wire::timestamp;
use crate::proto::rialto::account::v1::SubscribeResponse;
use crate::schema::{account_events, account_sequences};

pub use crate::proto::rialto::account::v1::subscribe_response::Event;

/// Events that are deleted at a time.
const DELETED: i64 = 5000;

/// The events of all accounts, on this node. Cheap to clone.
#[derive(Clone)]
pub struct AccountEvents {
    sequences: Sequences<SubscribeResponse>,
    /// What is not kept: heads of conversations, who types, and the like.
    pub latest: Arc<Latest<Event>>,
    /// Between whom it has changed what they may see of each other.
    pub sight: Arc<Sight>,
}

/// Events that will have happened when their transaction is committed. Dropped, they are found by the streams within two
/// seconds.
#[derive(Debug, Default)]
#[must_use = "after the commit, hand it to AccountEvents::announce"]
pub struct Announcement(Vec<(Uuid, SubscribeResponse)>);

impl Announcement {
    /// Both.
    pub fn and(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        self
    }
}

impl AccountEvents {
    /// Starts following what other nodes commit, until `stopping`.
    pub fn start(db: &Db, bus: &Arc<Bus>, stopping: &CancellationToken) -> Self {
        let latest = Arc::default();
        let sight = Sight::start(bus, &latest);
        Self { sequences: Sequences::start(db, bus, stopping), latest, sight }
    }

    /// Tells the streams of every node. To be called after the commit.
    pub async fn announce(&self, announcement: Announcement) {
        self.sequences.announce(announcement.0).await;
    }

    /// A reader of an account's events that begins after `after_seq`, or with what happens from now on.
    pub async fn reader(&self, account_id: Uuid, after_seq: Option<i64>) -> Result<Reader<SubscribeResponse>, Error> {
        self.sequences.reader(account_id, after_seq, DateTime::UNIX_EPOCH).await
    }
}

#[derive(QueryableByName)]
struct Appended {
    #[diesel(sql_type = SqlUuid)]
    account_id: Uuid,
    #[diesel(sql_type = BigInt)]
    seq: i64,
    #[diesel(sql_type = Binary)]
    event: Vec<u8>,
}

/// Writes events, in this order, in the caller's transaction. Accounts that are gone are left out. The accounts' sequences
/// stay locked until the transaction ends: to be called last, and once for all accounts, so that two transactions never wait
/// for each other.
pub async fn append(conn: &mut Conn, events: &[(Uuid, Event)], now: DateTime<Utc>) -> Result<Announcement, Error> {
    if events.is_empty() {
        return Ok(Announcement::default());
    }
    let (ids, encoded): (Vec<_>, Vec<_>) = events.iter().map(|(id, event)| (*id, encode(event))).unzip();
    // Rows are locked one after the other as they are inserted or found, in the order of the accounts' ids.
    let query = "WITH new AS ( \
                     SELECT account_id, event, row_number() OVER (PARTITION BY account_id ORDER BY at) AS place \
                     FROM unnest($1, $2) WITH ORDINALITY AS new (account_id, event, at) \
                 ), numbered AS ( \
                     INSERT INTO account_sequences AS sequence (account_id, last_seq) \
                     SELECT account_id, count(*) FROM new \
                     WHERE EXISTS (SELECT FROM accounts WHERE accounts.id = new.account_id) \
                     GROUP BY account_id ORDER BY account_id \
                     ON CONFLICT (account_id) DO UPDATE SET last_seq = sequence.last_seq + excluded.last_seq \
                     RETURNING account_id, last_seq \
                 ) \
                 INSERT INTO account_events (account_id, seq, created_at, event) \
                 SELECT account_id, last_seq - count(*) OVER (PARTITION BY account_id) + place, $3, event \
                 FROM new JOIN numbered USING (account_id) \
                 RETURNING account_id, seq, event";
    let query = diesel::sql_query(query)
        .bind::<Array<SqlUuid>, _>(ids)
        .bind::<Array<Binary>, _>(encoded)
        .bind::<Timestamptz, _>(now);
    let mut appended: Vec<Appended> = query.load(conn).await?;
    appended.sort_unstable_by_key(|row| (row.account_id, row.seq));
    let read = |row: Appended| Ok((row.account_id, decode(row.seq, now, &row.event)?));
    Ok(Announcement(appended.into_iter().map(read).collect::<Result<_, Error>>()?))
}

/// The number of an account's last event.
pub async fn last_seq(conn: &mut Conn, account_id: Uuid) -> Result<i64, Error> {
    let heads = <SubscribeResponse as sequence::Event>::heads(conn, &[account_id]).await?;
    Ok(heads.into_iter().next().map_or(0, |(_, seq)| seq))
}

/// Forgets events from before `before`; returns how many. Of each account the oldest ones go, so that those that are left have
/// no hole, whatever the clocks of nodes say.
pub async fn delete_old(conn: &mut Conn, before: DateTime<Utc>) -> Result<usize, Error> {
    let query = "DELETE FROM account_events event USING ( \
                     SELECT account_id, max(seq) AS last FROM ( \
                         SELECT account_id, seq FROM account_events WHERE created_at < $1 \
                         ORDER BY created_at, account_id, seq LIMIT $2) batch \
                     GROUP BY account_id) old \
                 WHERE event.account_id = old.account_id AND event.seq <= old.last";
    let mut deleted = 0;
    loop {
        let some = diesel::sql_query(query).bind::<Timestamptz, _>(before).bind::<BigInt, _>(DELETED);
        match some.execute(conn).await? {
            0 => return Ok(deleted),
            some => deleted += some,
        }
    }
}

fn encode(event: &Event) -> Vec<u8> {
    SubscribeResponse { event: Some(event.clone()), ..SubscribeResponse::default() }.encode_to_vec()
}

fn decode(seq: i64, at: DateTime<Utc>, event: &[u8]) -> Result<SubscribeResponse, Error> {
    let decoded = SubscribeResponse::decode(event);
    let decoded = decoded.map_err(|error| Error::internal("an event of an account can't be read", error))?;
    Ok(SubscribeResponse { seq: Some(seq), at: Some(timestamp(at)), ..decoded })
}

impl sequence::Event for SubscribeResponse {
    const CHANNEL: &'static str = "account";
    const FORGOTTEN: Reason = Reason::HistoryTruncated;

    fn place(&self) -> Place {
        Place::Numbered(self.seq.unwrap_or_default())
    }

    async fn heads(conn: &mut Conn, ids: &[Uuid]) -> Result<Vec<(Uuid, i64)>, Error> {
        use account_sequences::{account_id, last_seq, table};
        Ok(table.filter(account_id.eq_any(ids)).select((account_id, last_seq)).load(conn).await?)
    }

    async fn first_after(conn: &mut Conn, id: Uuid, after: i64, _: DateTime<Utc>) -> Result<Option<i64>, Error> {
        use account_events::{account_id, seq, table};
        let later = table.filter(account_id.eq(id)).filter(seq.gt(after));
        Ok(later.select(diesel::dsl::min(seq)).first(conn).await?)
    }

    async fn after(conn: &mut Conn, id: Uuid, after: i64, limit: i64) -> Result<Vec<Self>, Error> {
        use account_events::{account_id, created_at, event, seq, table};
        let rows: Vec<(i64, DateTime<Utc>, Vec<u8>)> = table
            .filter(account_id.eq(id))
            .filter(seq.gt(after))
            .order(seq)
            .limit(limit)
            .select((seq, created_at, event))
            .load(conn)
            .await?;
        rows.into_iter().map(|(number, at, encoded)| decode(number, at, &encoded)).collect()
    }
}
