//! Who is there, and when they last were: an account is online while one of its streams is open, on whichever node.
//!
//! What somebody is told of others is decided by `users`, each time anew. Whoever may know nothing gets what there would be of
//! somebody who was never there.
//!
//! Streams that watch somebody are told of changes. Whoever opens or ends streams tells the nodes by the bus for which accounts;
//! a node reads those that a stream of its own watches, one batch after the other, so that what is told last was read last.
//! Who comes and goes without anybody telling, with a node that was killed or while the bus was down, a node finds by looking
//! at those that its streams watch. What somebody may see or not after a change is looked at when [`Sight`] says so, which the
//! bus may lose: then with the next change, or when the stream opens anew.
//!
//! [`Sight`]: crate::kernel::sight::Sight

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use redis::RedisError;
use tokio::sync::Notify;
use uuid::Uuid;

use super::model;
use crate::domains::{messaging, users};
use crate::kernel::account_events::Event;
use crate::kernel::app::App;
use crate::kernel::db::Conn;
use crate::kernel::error::Error;
use crate::kernel::latest;
use crate::proto::rialto::account::v1::Presence;

/// Who comes back within this time has not gone, as far as watchers are told.
const GRACE: Duration = Duration::from_secs(3);
/// How often to look who came and went although nobody told, without and with the bus.
const SWEEP_ALONE: Duration = Duration::from_secs(1);
const SWEEP: Duration = Duration::from_secs(10);
/// Accounts that are asked for at a time.
const ASKED: usize = 5000;
/// How long to wait with what can't be read now.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// What has happened to accounts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Change {
    /// They have a stream, and had none.
    Came,
    /// A stream of theirs has ended. There may be others.
    Left,
}

impl Change {
    fn channel(self) -> &'static str {
        match self {
            Self::Came => "presence-came",
            Self::Left => "presence-left",
        }
    }
}

/// Tells the nodes whom something has happened to.
pub async fn publish(app: &App, change: Change, accounts: &[Uuid]) -> Result<(), RedisError> {
    if accounts.is_empty() {
        return Ok(());
    }
    let ids: Vec<_> = accounts.iter().flat_map(Uuid::as_bytes).copied().collect();
    app.bus.publish([(change.channel().to_owned(), Bytes::from(ids))]).await
}

/// What somebody is told of these accounts, in their order.
pub async fn of(conn: &mut Conn, viewer: Uuid, ids: &[Uuid]) -> Result<Vec<Presence>, Error> {
    let known = model::Presence::of(conn, ids).await?;
    // Asked after it was read, so that nobody is told what happened after it was hidden.
    let contacts = messaging::contacts(conn, viewer, ids).await?;
    let shown: HashSet<_> = users::whose_presence(conn, viewer, ids, &contacts).await?.into_iter().collect();
    let known: HashMap<_, _> =
        known.iter().filter(|row| shown.contains(&row.account_id)).map(|row| (row.account_id, row)).collect();
    let told = |id: &Uuid| known.get(id).map_or_else(|| never(*id), |row| Presence::from(*row));
    Ok(ids.iter().map(told).collect())
}

/// What there is of somebody who was never there, and of whom one may know nothing.
fn never(id: Uuid) -> Presence {
    Presence { account_id: id.to_string(), ..Presence::default() }
}

/// What is to be told of an account: something it did, or none of these, but who may know it.
#[derive(Clone, Copy, Default)]
struct Noted {
    came: bool,
    left: bool,
}

/// What the streams of this node are told of who comes and goes.
pub struct Presences {
    app: App,
    /// Accounts that are watched and whose presence is to be read.
    changed: Mutex<HashMap<Uuid, Noted>>,
    has_changed: Notify,
    /// Those that are watched and were online when they were last read.
    online: Mutex<HashSet<Uuid>>,
}

impl Presences {
    /// Starts listening to the other nodes.
    pub async fn start(app: &App) -> Arc<Self> {
        let presences = Arc::new(Self {
            app: app.clone(),
            changed: Mutex::default(),
            has_changed: Notify::new(),
            online: Mutex::default(),
        });
        for change in [Change::Came, Change::Left] {
            let listener = Arc::downgrade(&presences);
            let hear = move |ids: Bytes| {
                if let Some(presences) = listener.upgrade() {
                    presences.hear(change, ids.chunks_exact(16).filter_map(|id| Uuid::from_slice(id).ok()));
                }
            };
            app.bus.subscribe(change.channel(), hear).await;
        }
        tokio::spawn(Arc::clone(&presences).run());
        tokio::spawn(Arc::clone(&presences).sweep());
        presences
    }

    /// Tells the streams of every node that watch these accounts; without the bus only those of this one.
    pub async fn announce(self: &Arc<Self>, change: Change, accounts: &[Uuid]) {
        // This node hears it by the bus too.
        if !self.app.bus.is_up() || publish(&self.app, change, accounts).await.is_err() {
            self.hear(change, accounts.iter().copied());
        }
    }

    /// Has a stream of an account watch others, and begin with how they are now.
    pub async fn watch(
        &self,
        values: &mut latest::Stream<Event>,
        viewer: Uuid,
        accounts: &[Uuid],
    ) -> Result<(), Error> {
        if accounts.is_empty() {
            return Ok(());
        }
        // Before they are read, so that no change is missed.
        values.watch(accounts.iter().copied());
        let now = of(&mut *self.app.db.get().await?, viewer, accounts).await?;
        for (id, presence) in accounts.iter().zip(now) {
            if presence.online {
                lock(&self.online).insert(*id);
            }
            let nothing = presence.seen_at.is_none();
            values.begin_with(*id, &Event::Presence(presence), nothing);
        }
        Ok(())
    }

    fn hear(self: &Arc<Self>, change: Change, accounts: impl Iterator<Item = Uuid>) {
        let watched: Vec<_> = accounts.filter(|id| self.app.account_events.latest.is_watched(*id)).collect();
        if watched.is_empty() {
            return;
        }
        match change {
            Change::Came => self.note(watched, Noted { came: true, left: false }),
            Change::Left => {
                let presences = Arc::clone(self);
                tokio::spawn(async move {
                    tokio::time::sleep(GRACE).await;
                    presences.note(watched, Noted { came: false, left: true });
                });
            }
        }
    }

    fn note(&self, accounts: impl IntoIterator<Item = Uuid>, what: Noted) {
        let mut changed = lock(&self.changed);
        for id in accounts {
            let noted = changed.entry(id).or_default();
            *noted = Noted { came: noted.came || what.came, left: noted.left || what.left };
        }
        drop(changed);
        self.has_changed.notify_one();
    }

    async fn run(self: Arc<Self>) {
        let sight = &self.app.account_events.sight;
        loop {
            tokio::select! {
                () = self.app.stopping.cancelled() => return,
                ids = sight.next() => self.note(ids, Noted::default()),
                () = self.has_changed.notified() => {}
            }
            let changed = std::mem::take(&mut *lock(&self.changed));
            if let Err(error) = self.tell(&changed).await {
                tracing::warn!(%error, "who came and went can't be told yet");
                tokio::time::sleep(AGAIN_AFTER).await;
                changed.iter().for_each(|(id, what)| self.note([*id], *what));
            }
        }
    }

    /// Tells those that watch these accounts and may know; those that may no longer, that there is nothing to know.
    async fn tell(&self, changed: &HashMap<Uuid, Noted>) -> Result<(), Error> {
        let latest = &self.app.account_events.latest;
        let mut conn = self.app.db.get().await?;
        let ids: Vec<_> = changed.keys().copied().collect();
        let mut rows: HashMap<_, _> =
            model::Presence::of(&mut conn, &ids).await?.into_iter().map(|row| (row.account_id, row)).collect();
        for (id, what) in changed {
            let watchers = latest.watchers(*id);
            if watchers.is_empty() {
                continue;
            }
            let nothing = Event::Presence(never(*id));
            let Some(row) = rows.remove(id) else {
                latest.tell(*id, &HashSet::new(), &nothing, &nothing, false);
                continue;
            };
            let contacts = messaging::contacts(&mut conn, *id, &watchers).await?;
            let allowed = users::who_sees_presence(&mut conn, *id, &watchers, &contacts).await?;
            if row.online {
                lock(&self.online).insert(*id);
            } else {
                lock(&self.online).remove(id);
            }
            // Who has left and is online again is back, or was elsewhere all the time.
            let new = what.came || what.left && !row.online;
            latest.tell(*id, &allowed.into_iter().collect(), &Event::Presence((&row).into()), &nothing, new);
        }
        Ok(())
    }

    /// Finds by itself who came and went.
    async fn sweep(self: Arc<Self>) {
        let mut link = self.app.bus.link();
        loop {
            let pause = if link.borrow_and_update().up { SWEEP } else { SWEEP_ALONE };
            tokio::select! {
                () = self.app.stopping.cancelled() => return,
                Ok(()) = link.changed() => {}
                () = tokio::time::sleep(pause) => {}
            }
            match self.untold().await {
                Ok(ids) if ids.is_empty() => {}
                Ok(ids) => self.note(ids, Noted { came: true, left: true }),
                Err(error) => tracing::warn!(%error, "who came and went can't be looked for"),
            }
        }
    }

    /// Those that are watched and are no longer as they were when they were last read.
    async fn untold(&self) -> Result<Vec<Uuid>, Error> {
        let watched = self.app.account_events.latest.watched();
        lock(&self.online).retain(|id| watched.contains(id));
        let found = self.different(watched.into_iter().collect()).await?;
        if found.is_empty() {
            return Ok(found);
        }
        // Somebody may be about to tell, or to come back.
        tokio::time::sleep(GRACE + AGAIN_AFTER).await;
        self.different(found).await
    }

    async fn different(&self, ids: Vec<Uuid>) -> Result<Vec<Uuid>, Error> {
        let mut different = Vec::new();
        for some in ids.chunks(ASKED) {
            let rows = model::Presence::of(&mut *self.app.db.get().await?, some).await?;
            let there: HashSet<_> = rows.iter().filter(|row| row.online).map(|row| row.account_id).collect();
            let online = lock(&self.online);
            different.extend(some.iter().filter(|id| there.contains(*id) != online.contains(*id)));
        }
        Ok(different)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
