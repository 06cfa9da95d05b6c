//! Sequences that Postgres numbers, and who follows them: what was missed, then what happens, each event once, in order and
//! without a gap.
//!
//! Whoever appends to a sequence does it under a row lock, so that the order of commits is the order of numbers, and announces
//! after the commit. An announcement is a hint and may be lost, or come out of order: heads are also read from Postgres, every
//! two seconds, twice a second while the bus is down, and at once when it comes back.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::kernel::bus::Bus;
use crate::kernel::db::{Conn, Db};
use crate::kernel::encoded::Encoded;
use crate::kernel::error::{Error, Reason};
use crate::kernel::hub::{self, Hub, Place, Ready, Topic};

/// Events that a reader takes at a time, and bytes after which it takes no more from the topic: it holds them until its client
/// reads. What it reads from Postgres is bounded there.
const BATCH: usize = 100;
const BATCH_BYTES: usize = 256 << 10;
/// How often heads are read from Postgres while somebody follows, without and with the bus.
const HEADS_ALONE: Duration = Duration::from_millis(500);
const HEADS: Duration = Duration::from_secs(2);

/// What a kind of sequences tells: where events are kept, and how they travel between nodes. Values travel as events do, have
/// no number, and are not kept.
pub trait Event: prost::Message + Default + Clone + 'static {
    /// What the names of the bus's channels begin with.
    const CHANNEL: &'static str;
    /// Why a reader is refused who wants what is no longer kept.
    const FORGOTTEN: Reason;

    /// Its number, or which value it is.
    fn place(&self) -> Place;

    /// Gives a value the number that its reader has got to.
    fn set_seq(&mut self, _seq: i64) {}

    /// The numbers of the last events of these sequences, as far as they have any.
    fn heads(conn: &mut Conn, ids: &[Uuid]) -> impl Future<Output = Result<Vec<(Uuid, i64)>, Error>> + Send;

    /// The number of the first event after `seq` that is kept and did not happen before `since`, as far as times of events
    /// matter; `None` without any.
    fn first_after(
        conn: &mut Conn,
        id: Uuid,
        seq: i64,
        since: DateTime<Utc>,
    ) -> impl Future<Output = Result<Option<i64>, Error>> + Send;

    /// The events after a number, in order.
    fn after(conn: &mut Conn, id: Uuid, seq: i64, limit: i64) -> impl Future<Output = Result<Vec<Self>, Error>> + Send;
}

/// Sequences of one kind, on this node. Cheap to clone.
pub struct Sequences<E> {
    db: Db,
    bus: Arc<Bus>,
    hub: Arc<Hub<E>>,
}

impl<E> Clone for Sequences<E> {
    fn clone(&self) -> Self {
        Self { db: self.db.clone(), bus: Arc::clone(&self.bus), hub: Arc::clone(&self.hub) }
    }
}

impl<E: Event> Sequences<E> {
    /// Starts following what other nodes commit, until `stopping`.
    pub fn start(db: &Db, bus: &Arc<Bus>, stopping: &CancellationToken) -> Self {
        let decode = |payload: Bytes| {
            let said = Encoded::<E>::decode(payload).ok()?;
            Some((said.place(), said))
        };
        let sequences =
            Self { db: db.clone(), bus: Arc::clone(bus), hub: Hub::new(Arc::clone(bus), E::CHANNEL, decode) };
        tokio::spawn(sequences.clone().follow_heads(stopping.clone()));
        sequences
    }

    /// Hands committed events, with their sequences, to this node's readers and the other nodes.
    pub async fn announce(&self, events: Vec<(Uuid, E)>) {
        let events: Vec<_> = events.into_iter().map(|(id, event)| (id, Encoded::new(event))).collect();
        for (id, event) in &events {
            self.publish(*id, event.clone());
        }
        self.tell_nodes(&events).await;
    }

    /// Hands a value to the readers of every node; without the bus, of this one.
    pub async fn tell_value(&self, id: Uuid, value: E) {
        // This node hears it by the bus too.
        let value = Encoded::new(value);
        let message = (self.hub.channel(id), value.bytes().clone());
        if !self.bus.is_up() || self.bus.publish([message]).await.is_err() {
            self.hub.publish(id, value.place(), value);
        }
    }

    /// Hands a committed event to this node's readers.
    pub fn publish(&self, id: Uuid, event: Encoded<E>) {
        self.hub.publish(id, event.place(), event);
    }

    /// Hands committed events to the other nodes. If that does not work, they find them by the heads.
    pub async fn tell_nodes(&self, events: &[(Uuid, Encoded<E>)]) {
        if events.is_empty() {
            return;
        }
        let message = |(id, event): &(Uuid, Encoded<E>)| (self.hub.channel(*id), event.bytes().clone());
        if let Err(error) = self.bus.publish(events.iter().map(message)).await {
            tracing::debug!(%error, channel = E::CHANNEL, "the other nodes were not told of new events");
        }
    }

    /// A reader that begins after `after_seq`, or with what happens from now on. An error if there is no such number yet, or
    /// if the event after it is no longer kept, or happened before `since`.
    pub async fn reader(&self, id: Uuid, after_seq: Option<i64>, since: DateTime<Utc>) -> Result<Reader<E>, Error> {
        let topic = self.hub.topic(id).await;
        // Read after the topic listens, so that nothing falls in between.
        let mut conn = self.db.get().await?;
        let last = E::heads(&mut conn, &[id]).await?.first().map_or(0, |(_, last)| *last);
        topic.advance(last);
        let seq = after_seq.unwrap_or(last);
        if seq > last {
            return Err(Error::invalid_field("after_seq", format!("is beyond the newest event, {last}")));
        }
        if seq < last {
            require_kept::<E>(&mut conn, id, seq, since).await?;
        }
        drop(conn);
        let (news, changes_seen) = (topic.news(), topic.changes());
        Ok(Reader { db: self.db.clone(), id, topic, news, changes_seen, seq })
    }

    /// Finds by itself what the bus did not tell.
    async fn follow_heads(self, stopping: CancellationToken) {
        let mut link = self.bus.link();
        loop {
            let pause = if link.borrow_and_update().up { HEADS } else { HEADS_ALONE };
            tokio::select! {
                () = stopping.cancelled() => return,
                Ok(()) = link.changed() => {}
                () = tokio::time::sleep(pause) => {}
            }
            let ids = self.hub.active();
            if ids.is_empty() {
                continue;
            }
            let heads = async { E::heads(&mut *self.db.get().await?, &ids).await };
            match heads.await {
                Ok(heads) => heads.into_iter().for_each(|(id, seq)| self.hub.advance(id, seq)),
                Err(error) => tracing::warn!(%error, channel = E::CHANNEL, "the heads of sequences can't be read"),
            }
        }
    }
}

/// Hands a committed event to the servers, from a process that serves nobody. If that does not work, they find it by the heads.
pub async fn tell_servers<E: Event>(bus: &Bus, id: Uuid, event: &E) {
    let message = (hub::channel(E::CHANNEL, id), Bytes::from(event.encode_to_vec()));
    if let Err(error) = bus.publish([message]).await {
        tracing::debug!(%error, channel = E::CHANNEL, "the servers were not told of a new event");
    }
}

/// One reader of one sequence.
pub struct Reader<E> {
    db: Db,
    id: Uuid,
    topic: Arc<Topic<E>>,
    news: watch::Receiver<()>,
    changes_seen: u64,
    seq: i64,
}

impl<E: Event> Reader<E> {
    /// The last number that the reader has.
    pub fn seq(&self) -> i64 {
        self.seq
    }

    /// The next events, or, when there are none, the values that have changed. An error if events are no longer kept, because
    /// the reader was away for so long.
    pub async fn ready(&mut self) -> Result<Vec<Encoded<E>>, Error> {
        self.news.mark_unchanged();
        let events = match self.topic.after(self.seq, BATCH, BATCH_BYTES) {
            Ready::Events(events) => events,
            // Boxed, because most readers wait, each with room for what it may have to do.
            Ready::InDatabase => Box::pin(self.read()).await?,
            Ready::Nothing => Vec::new(),
        };
        if let Some(Place::Numbered(seq)) = events.last().map(|event| event.place()) {
            self.seq = seq;
            return Ok(events);
        }
        let since = std::mem::replace(&mut self.changes_seen, self.topic.changes());
        let values = if since < self.changes_seen { self.topic.values(since) } else { Vec::new() };
        let here = |value: Encoded<E>| {
            let mut value = value.into_message();
            value.set_seq(self.seq);
            Encoded::new(value)
        };
        Ok(values.into_iter().map(here).collect())
    }

    /// Waits until there is more than `ready` has seen. May be dropped and called again.
    pub async fn moved(&mut self) {
        // The topic lives as long as this reader, and its sender with it.
        let _ = self.news.changed().await;
    }

    /// The next events or values, at least one, when there are some.
    pub async fn next(&mut self) -> Result<Vec<Encoded<E>>, Error> {
        loop {
            let events = self.ready().await?;
            if !events.is_empty() {
                return Ok(events);
            }
            self.moved().await;
        }
    }

    async fn read(&self) -> Result<Vec<Encoded<E>>, Error> {
        let mut conn = self.db.get().await?;
        let events = E::after(&mut conn, self.id, self.seq, i64::try_from(BATCH).unwrap_or(i64::MAX)).await?;
        if events.first().is_none_or(|first| first.place() != Place::Numbered(self.seq + 1)) {
            require_kept::<E>(&mut conn, self.id, self.seq, DateTime::UNIX_EPOCH).await?;
        }
        Ok(events.into_iter().map(Encoded::new).collect())
    }
}

/// Refuses to go on after a number that is not the last one, if the next event is no longer kept.
async fn require_kept<E: Event>(conn: &mut Conn, id: Uuid, seq: i64, since: DateTime<Utc>) -> Result<(), Error> {
    let oldest = match E::first_after(conn, id, seq, since).await? {
        Some(oldest) => oldest,
        // None is kept: the next one will be the oldest. Read after that, because one may have come.
        None => E::heads(conn, &[id]).await?.first().map_or(0, |(_, last)| *last) + 1,
    };
    if seq + 1 >= oldest {
        return Ok(());
    }
    let error = Error::new(E::FORGOTTEN, format!("what comes after {seq} is no longer kept; the oldest is {oldest}"));
    Err(error.with("oldest_seq", oldest.to_string()))
}
