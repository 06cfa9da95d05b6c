//! Fan-out inside a node.
//!
//! A topic keeps the newest events of a sequence that Postgres numbers. Readers pull: each knows the last number it has,
//! is woken when the topic's head moves, and takes what is ready from the topic, or from Postgres when it is too far
//! behind. So there is no queue per reader; a slow one costs nothing and delays nobody.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytes::Bytes;
use tokio::sync::{OnceCell, watch};
use uuid::Uuid;

use crate::kernel::bus::Bus;

/// How many events a topic keeps.
const KEPT: usize = 256;

/// The topics that have readers on this node.
pub struct Hub<E> {
    bus: Arc<Bus>,
    /// What the names of the channels begin with.
    channel: &'static str,
    topics: Mutex<HashMap<Uuid, Weak<Topic<E>>>>,
    /// Reads an event of another node: its number and itself.
    decode: fn(Bytes) -> Option<(i64, E)>,
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
}

struct Ring<E> {
    /// The number of the newest event kept.
    last: i64,
    events: VecDeque<E>,
}

impl<E: Clone + Send + 'static> Hub<E> {
    /// A hub whose events travel between nodes on `<channel>:<topic>`.
    pub fn new(bus: Arc<Bus>, channel: &'static str, decode: fn(Bytes) -> Option<(i64, E)>) -> Arc<Self> {
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
                    ring: Mutex::new(Ring { last: 0, events: VecDeque::new() }),
                    head: watch::channel(0).0,
                });
                topics.insert(id, Arc::downgrade(&topic));
                topic
            })
        };
        let subscribe = || {
            let (weak, decode) = (Arc::downgrade(&topic), self.decode);
            let deliver = move |payload| {
                if let (Some(topic), Some((seq, event))) = (Weak::upgrade(&weak), decode(payload)) {
                    topic.publish(seq, event);
                }
            };
            let channel = self.channel(id);
            async move { self.bus.subscribe(&channel, deliver).await }
        };
        topic.subscribed.get_or_init(subscribe).await;
        topic
    }

    /// Hands an event that was committed to this node's readers.
    pub fn publish(&self, id: Uuid, seq: i64, event: E) {
        let topic = self.topics().get(&id).and_then(Weak::upgrade);
        if let Some(topic) = topic {
            topic.publish(seq, event);
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
    Events(Vec<E>),
    /// There are some, but only Postgres still has them.
    InDatabase,
    /// None.
    Nothing,
}

impl<E: Clone> Topic<E> {
    /// Wakes a reader when the head moves.
    pub fn head(&self) -> watch::Receiver<i64> {
        self.head.subscribe()
    }

    /// The events after number `seq`, at most `max`.
    pub fn after(&self, seq: i64, max: usize) -> Ready<E> {
        if *self.head.borrow() <= seq {
            return Ready::Nothing;
        }
        let ring = self.ring();
        let kept = i64::try_from(ring.events.len()).unwrap_or(i64::MAX);
        let first = ring.last - kept + 1;
        match usize::try_from(seq + 1 - first) {
            Ok(skip) if ring.last > seq => Ready::Events(ring.events.iter().skip(skip).take(max).cloned().collect()),
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

    fn publish(&self, seq: i64, event: E) {
        {
            let mut ring = self.ring();
            if seq <= ring.last {
                return;
            }
            if seq != ring.last + 1 {
                // What is between was committed elsewhere and has not arrived. Readers get it from Postgres.
                ring.events.clear();
            } else if ring.events.len() == KEPT {
                ring.events.pop_front();
            }
            ring.last = seq;
            ring.events.push_back(event);
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
