//! Fan-out inside a node.
//!
//! A topic keeps the newest events of a sequence that Postgres numbers. Readers pull: each knows the last number it has,
//! is woken when the topic's head moves, and takes what is ready from the topic, or from Postgres when it is too far
//! behind. So there is no queue per reader; a slow one costs nothing and delays nobody.
//!
//! Besides its events a topic has values, such as how far somebody has read, of which only the latest counts: a reader takes
//! those that have changed since it last looked. They are not kept when the topic has no readers.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytes::Bytes;
use tokio::sync::{OnceCell, watch};
use uuid::Uuid;

use crate::kernel::bus::Bus;
use crate::kernel::encoded::Encoded;

/// How many events a topic keeps, and how many bytes they have, encoded; it has them decoded as well. The newest is kept in any
/// case.
const KEPT: usize = 256;
const KEPT_BYTES: usize = 4 << 20;

/// Readers that are woken at a time. Waking all readers of a big room at once would have everything else on the node, and the
/// room's next message, wait until all of them are served.
const WOKEN: usize = 64;

/// The topics that have readers on this node.
pub struct Hub<E> {
    bus: Arc<Bus>,
    /// What the names of the channels begin with.
    channel: &'static str,
    topics: Mutex<HashMap<Uuid, Weak<Topic<E>>>>,
    /// Reads what another node says.
    decode: fn(Bytes) -> Option<(Place, Encoded<E>)>,
}

/// Where something belongs in a topic.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Place {
    /// An event of this number.
    Numbered(i64),
    /// A value, of this kind and of whom: it replaces the one before.
    Latest(u8, Uuid),
}

/// The channel on which the events of a sequence travel.
pub fn channel(kind: &str, id: Uuid) -> String {
    format!("{kind}:{id}")
}

/// One sequence.
pub struct Topic<E> {
    id: Uuid,
    hub: Weak<Hub<E>>,
    /// Set when the bus carries the topic's channel.
    subscribed: OnceCell<()>,
    ring: Mutex<Ring<E>>,
    head: AtomicI64,
    values: Mutex<HashMap<(u8, Uuid), Value<E>>>,
    /// How often values have changed.
    changes: AtomicU64,
    readers: Mutex<Readers>,
}

/// Those who are to be woken when there is something new.
#[derive(Default)]
struct Readers {
    groups: Vec<Group>,
    /// How often there was something new.
    news: u64,
    /// A task is waking them, group by group.
    waking: bool,
}

/// Readers that are woken together.
struct Group {
    wake: watch::Sender<()>,
    /// The news that it was woken for.
    heard: u64,
}

impl Readers {
    fn add(&mut self) -> watch::Receiver<()> {
        self.groups.retain(|group| group.wake.receiver_count() > 0);
        if let Some(group) = self.groups.iter().find(|group| group.wake.receiver_count() < WOKEN) {
            return group.wake.subscribe();
        }
        let (wake, reader) = watch::channel(());
        self.groups.push(Group { wake, heard: self.news });
        reader
    }

    /// Wakes the first group, from this place on and around, that has not heard the newest. Returns the place after it.
    fn wake_next(&mut self, from: usize) -> Option<usize> {
        let count = self.groups.len();
        let place =
            (from..from + count).map(|place| place % count).find(|place| self.groups[*place].heard < self.news)?;
        let group = &mut self.groups[place];
        group.heard = self.news;
        group.wake.send_replace(());
        Some(place + 1)
    }
}

struct Value<E> {
    /// The count of changes that it came with.
    change: u64,
    said: Encoded<E>,
}

struct Ring<E> {
    /// The number of the newest event kept.
    last: i64,
    events: VecDeque<Encoded<E>>,
    bytes: usize,
}

impl<E: prost::Message + 'static> Hub<E> {
    /// A hub whose events travel between nodes on `<channel>:<topic>`.
    pub fn new(bus: Arc<Bus>, channel: &'static str, decode: fn(Bytes) -> Option<(Place, Encoded<E>)>) -> Arc<Self> {
        Arc::new(Self { bus, channel, topics: Mutex::default(), decode })
    }

    /// The topic, which lives as long as somebody holds it. What other nodes commit from now on reaches it, or else the
    /// bus's link tells.
    pub async fn topic(self: &Arc<Self>, id: Uuid) -> Arc<Topic<E>> {
        let topic = {
            let mut topics = self.topics();
            topics.get(&id).and_then(Weak::upgrade).unwrap_or_else(|| {
                let topic = Arc::new(Topic {
                    id,
                    hub: Arc::downgrade(self),
                    subscribed: OnceCell::new(),
                    ring: Mutex::new(Ring { last: 0, events: VecDeque::new(), bytes: 0 }),
                    head: AtomicI64::new(0),
                    values: Mutex::default(),
                    changes: AtomicU64::new(0),
                    readers: Mutex::default(),
                });
                topics.insert(id, Arc::downgrade(&topic));
                topic
            })
        };
        let subscribe = || {
            let (weak, decode) = (Arc::downgrade(&topic), self.decode);
            let deliver = move |payload| {
                if let (Some(topic), Some((place, said))) = (Weak::upgrade(&weak), decode(payload)) {
                    topic.publish(place, said);
                }
            };
            let channel = self.channel(id);
            async move { self.bus.subscribe(&channel, deliver).await }
        };
        topic.subscribed.get_or_init(subscribe).await;
        topic
    }

    /// Hands this node's readers an event that was committed, or a value.
    pub fn publish(&self, id: Uuid, place: Place, said: Encoded<E>) {
        let topic = self.topics().get(&id).and_then(Weak::upgrade);
        if let Some(topic) = topic {
            topic.publish(place, said);
        }
    }

    /// The channel on which a topic's events travel.
    pub fn channel(&self, id: Uuid) -> String {
        channel(self.channel, id)
    }

    /// The topics that have readers.
    pub fn active(&self) -> Vec<Uuid> {
        self.topics().keys().copied().collect()
    }

    /// Tells a topic's readers that the sequence goes on to at least `seq`.
    pub fn advance(&self, id: Uuid, seq: i64) {
        let topic = self.topics().get(&id).and_then(Weak::upgrade);
        if let Some(topic) = topic {
            topic.advance(seq);
        }
    }

    fn topics(&self) -> MutexGuard<'_, HashMap<Uuid, Weak<Topic<E>>>> {
        self.topics.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a topic has for a reader.
pub enum Ready<E> {
    /// The next events, in order, without a gap.
    Events(Vec<Encoded<E>>),
    /// There are some, but only Postgres still has them.
    InDatabase,
    /// None.
    Nothing,
}

impl<E: prost::Message + 'static> Topic<E> {
    /// Wakes a reader after the head has moved or values have changed.
    pub fn news(&self) -> watch::Receiver<()> {
        self.readers().add()
    }

    /// The events after number `seq`: at most `max`, and no more when they have `max_bytes`.
    pub fn after(&self, seq: i64, max: usize, max_bytes: usize) -> Ready<E> {
        if self.head.load(Ordering::Acquire) <= seq {
            return Ready::Nothing;
        }
        let ring = self.ring();
        let kept = i64::try_from(ring.events.len()).unwrap_or(i64::MAX);
        let first = ring.last - kept + 1;
        match usize::try_from(seq + 1 - first) {
            Ok(skip) if ring.last > seq => {
                let mut bytes = 0;
                let fits = |event: &&Encoded<E>| {
                    let fits = bytes < max_bytes;
                    bytes += event.bytes().len();
                    fits
                };
                Ready::Events(ring.events.iter().skip(skip).take(max).take_while(fits).cloned().collect())
            }
            _ => Ready::InDatabase,
        }
    }

    /// Tells readers that the sequence goes on to at least `seq`.
    pub fn advance(self: &Arc<Self>, seq: i64) {
        if self.head.fetch_max(seq, Ordering::AcqRel) < seq {
            self.wake_readers();
        }
    }

    /// How often values have changed.
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// The values that came after this many changes.
    pub fn values(&self, since: u64) -> Vec<Encoded<E>> {
        let values = self.values.lock().unwrap_or_else(PoisonError::into_inner);
        let mut new: Vec<_> = values.values().filter(|value| value.change > since).collect();
        new.sort_unstable_by_key(|value| value.change);
        new.into_iter().map(|value| value.said.clone()).collect()
    }

    fn publish(self: &Arc<Self>, place: Place, said: Encoded<E>) {
        match place {
            Place::Numbered(seq) => self.publish_event(seq, said),
            Place::Latest(kind, of) => {
                let mut values = self.values.lock().unwrap_or_else(PoisonError::into_inner);
                let change = self.changes() + 1;
                values.insert((kind, of), Value { change, said });
                self.changes.store(change, Ordering::Release);
                drop(values);
                self.wake_readers();
            }
        }
    }

    fn wake_readers(self: &Arc<Self>) {
        let mut readers = self.readers();
        readers.news += 1;
        if readers.waking {
            return;
        }
        if readers.groups.len() > 1 {
            readers.waking = true;
            tokio::spawn(Arc::clone(self).wake_groups());
        } else {
            readers.wake_next(0);
        }
    }

    /// Lets others run after each group. What comes meanwhile, the groups that are left hear in the same go.
    async fn wake_groups(self: Arc<Self>) {
        let mut next = 0;
        loop {
            {
                let mut readers = self.readers();
                let Some(after) = readers.wake_next(next) else {
                    readers.waking = false;
                    return;
                };
                next = after;
            }
            // Other processes, too: where Postgres shares a core with the node, the next message waits for it.
            std::thread::yield_now();
            tokio::task::yield_now().await;
        }
    }

    fn readers(&self) -> MutexGuard<'_, Readers> {
        self.readers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish_event(self: &Arc<Self>, seq: i64, event: Encoded<E>) {
        {
            let mut ring = self.ring();
            if seq <= ring.last {
                return;
            }
            if seq != ring.last + 1 {
                // What is between was committed elsewhere and has not arrived. Readers get it from Postgres.
                ring.events.clear();
                ring.bytes = 0;
            }
            ring.last = seq;
            ring.bytes += event.bytes().len();
            ring.events.push_back(event);
            while ring.events.len() > KEPT || (ring.bytes > KEPT_BYTES && ring.events.len() > 1) {
                if let Some(gone) = ring.events.pop_front() {
                    ring.bytes -= gone.bytes().len();
                }
            }
        }
        self.advance(seq);
    }

    fn ring(&self) -> MutexGuard<'_, Ring<E>> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<E> Drop for Topic<E> {
    fn drop(&mut self) {
        let Some(hub) = self.hub.upgrade() else { return };
        let mut topics = hub.topics.lock().unwrap_or_else(PoisonError::into_inner);
        // A reader may have come between the last one's going and this.
        if topics.get(&self.id).is_some_and(|topic| topic.strong_count() == 0) {
            topics.remove(&self.id);
            hub.bus.unsubscribe(&format!("{}:{}", hub.channel, self.id));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_are_woken_some_at_a_time_and_hear_what_came_meanwhile_in_the_same_go() {
        let mut readers = Readers::default();
        let mut all: Vec<_> = (0..2 * WOKEN + 1).map(|_| readers.add()).collect();
        let woken = |all: &[watch::Receiver<()>]| all.iter().filter(|reader| reader.has_changed().unwrap()).count();
        readers.news += 1;
        let mut next = readers.wake_next(0).unwrap();
        assert_eq!(woken(&all), WOKEN);
        all.iter_mut().for_each(watch::Receiver::mark_unchanged);
        readers.news += 1;
        let mut counts = Vec::new();
        while let Some(after) = readers.wake_next(next) {
            next = after;
            counts.push(woken(&all));
            all.iter_mut().for_each(watch::Receiver::mark_unchanged);
        }
        assert_eq!(
            counts,
            [WOKEN, 1, WOKEN],
            "the others first, each once, and then those who had heard only the first"
        );
    }

    #[test]
    fn readers_take_the_places_of_those_who_have_gone() {
        let mut readers = Readers::default();
        let mut all: Vec<_> = (0..3 * WOKEN).map(|_| readers.add()).collect();
        all.drain(WOKEN..);
        all.pop();
        all.push(readers.add());
        assert_eq!(readers.groups.len(), 1);
        all.push(readers.add());
        assert_eq!(readers.groups.len(), 2);
    }
}
