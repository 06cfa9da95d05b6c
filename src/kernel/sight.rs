//! Between whom it has changed what they may see of each other: a hint to all nodes to look again.
//!
//! Whoever changes that says so here, after the commit. A hint is lost with the bus, and kept only for accounts that a stream
//! of this node watches ([`Latest`]).

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Buf, Bytes};
use tokio::sync::Notify;
use uuid::Uuid;

use crate::kernel::account_events::Event;
use crate::kernel::bus::Bus;
use crate::kernel::latest::Latest;

const CHANNEL: &str = "sight";

/// The hints of this node.
pub struct Sight {
    bus: Arc<Bus>,
    latest: Arc<Latest<Event>>,
    /// Accounts of whom some that watch them may see more, or less.
    changed: Mutex<HashSet<Uuid>>,
    has_changed: Notify,
}

impl Sight {
    /// Starts listening to the other nodes.
    pub fn start(bus: &Arc<Bus>, latest: &Arc<Latest<Event>>) -> Arc<Self> {
        let (bus, latest) = (Arc::clone(bus), Arc::clone(latest));
        let sight = Arc::new(Self { bus, latest, changed: Mutex::default(), has_changed: Notify::new() });
        let (bus, listener) = (Arc::clone(&sight.bus), Arc::downgrade(&sight));
        tokio::spawn(async move {
            let hear = move |message: Bytes| {
                if let Some(sight) = listener.upgrade() {
                    sight.hear(message);
                }
            };
            bus.subscribe(CHANNEL, hear).await;
        });
        sight
    }

    /// What these accounts and those others may see of each other has changed; without others, what they and anybody may.
    /// Tells every node; without the bus only this one.
    pub async fn changed(&self, accounts: &[Uuid], others: &[Uuid]) {
        if accounts.is_empty() {
            return;
        }
        let count = u64::try_from(accounts.len()).unwrap_or(u64::MAX);
        let ids = accounts.iter().chain(others).flat_map(Uuid::as_bytes).copied();
        let message = Bytes::from_iter(count.to_be_bytes().into_iter().chain(ids));
        // This node hears it by the bus too.
        if !self.bus.is_up() || self.bus.publish([(CHANNEL.to_owned(), message.clone())]).await.is_err() {
            self.hear(message);
        }
    }

    /// The accounts to look at again, at least one. May be dropped and called again.
    pub async fn next(&self) -> HashSet<Uuid> {
        loop {
            let changed = std::mem::take(&mut *self.lock());
            if !changed.is_empty() {
                return changed;
            }
            self.has_changed.notified().await;
        }
    }

    fn hear(&self, mut message: Bytes) {
        let count = message.try_get_u64().ok().and_then(|count| usize::try_from(count).ok()).unwrap_or_default();
        let mut ids = message.chunks_exact(16).filter_map(|id| Uuid::from_slice(id).ok());
        let accounts: HashSet<_> = ids.by_ref().take(count).collect();
        let others: HashSet<_> = ids.collect();
        let among = |watched: &Uuid, by: &HashSet<Uuid>| {
            self.latest.watchers(*watched).iter().any(|watcher| by.is_empty() || by.contains(watcher))
        };
        let seen = accounts.iter().filter(|id| among(id, &others));
        let changed: Vec<_> = seen.chain(others.iter().filter(|id| among(id, &accounts))).copied().collect();
        if !changed.is_empty() {
            self.lock().extend(changed);
            self.has_changed.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<Uuid>> {
        self.changed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
