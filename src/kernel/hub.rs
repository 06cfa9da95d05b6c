//! Fan-out inside a node.
//!
//! A topic keeps the newest events of a sequence that Postgres numbers. Readers pull: each knows the last number it has,
//! is woken when the topic's head moves, and takes what is ready from the topic, or from Postgres when it is too far
//! behind. So there is no queue per reader; a slow one costs nothing and delays nobody.
//!
//! Besides its events a topic has values, such as how far somebody has read, of which only the latest counts: a reader takes
//! those that have changed since it last looked. They are not kept when the topic has no readers.

use std::collections::{HashMap, VecDeque};
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
    head: watch::Sender<i64>,
    values: Mutex<HashMap<(u8, Uuid), Value<E>>>,
    /// How often values have changed.
    changes: watch::Sender<u64>,
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
                    head: watch::channel(0).0,
                    values: Mutex::default(),
                    changes: watch::channel(0).0,
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

impl<E: prost::Message> Topic<E> {
    /// Wakes a reader when the head moves.
    pub fn head(&self) -> watch::Receiver<i64> {
        self.head.subscribe()
    }

    /// The events after number `seq`: at most `max`, and no more when they have `max_bytes`.
    pub fn after(&self, seq: i64, max: usize, max_bytes: usize) -> Ready<E> {
        if *self.head.borrow() <= seq {
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
    pub fn advance(&self, seq: i64) {
        self.head.send_if_modified(|head| {
            let moved = seq > *head;
            *head = seq.max(*head);
            moved
        });
    }

    /// Wakes a reader when values change; holds how often they have.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// The values that came after this many changes.
    pub fn values(&self, since: u64) -> Vec<Encoded<E>> {
        let values = self.values.lock().unwrap_or_else(PoisonError::into_inner);
        let mut new: Vec<_> = values.values().filter(|value| value.change > since).collect();
        new.sort_unstable_by_key(|value| value.change);
        new.into_iter().map(|value| value.said.clone()).collect()
    }

    fn publish(&self, place: Place, said: Encoded<E>) {
        match place {
            Place::Numbered(seq) => self.publish_event(seq, said),
            Place::Latest(kind, of) => {
                let mut values = self.values.lock().unwrap_or_else(PoisonError::into_inner);
                let change = *self.changes.borrow() + 1;
                values.insert((kind, of), Value { change, said });
                self.changes.send_replace(change);
            }
        }
    }

    fn publish_event(&self, seq: i64, event: Encoded<E>) {
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
