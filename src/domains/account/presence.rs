//! Who is there, and when they last were: an account is online while one of its streams is open, on whichever node.
//!
//! What somebody is told of others is decided by `users`, each time anew. Whoever may know nothing gets what there would be of
//! somebody who was never there.
//!
//! Streams that watch somebody are told of changes. Whoever opens or ends streams tells the nodes by the bus for which accounts;
//! a node reads those that a stream of its own watches, one batch after the other, so that what is told last was read last.
//! What the bus loses is told with the next change, or when the stream opens anew.

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
    let told = |id: &Uuid| match known.get(id) {
        Some(row) => Presence::from(*row),
        None => Presence { account_id: id.to_string(), ..Presence::default() },
    };
    Ok(ids.iter().map(told).collect())
}

/// What the streams of this node are told of who comes and goes.
pub struct Presences {
    app: App,
    /// Accounts that are watched and whose presence is to be read; whether they have come.
    changed: Mutex<HashMap<Uuid, bool>>,
    has_changed: Notify,
}

impl Presences {
    /// Starts listening to the other nodes.
    pub async fn start(app: &App) -> Arc<Self> {
        let presences = Arc::new(Self { app: app.clone(), changed: Mutex::default(), has_changed: Notify::new() });
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
            values.begin_with(*id, &Event::Presence(presence));
        }
        Ok(())
    }

    fn hear(self: &Arc<Self>, change: Change, accounts: impl Iterator<Item = Uuid>) {
        let watched: Vec<_> = accounts.filter(|id| self.app.account_events.latest.is_watched(*id)).collect();
        if watched.is_empty() {
            return;
        }
        match change {
            Change::Came => self.note(&watched, true),
            Change::Left => {
                let presences = Arc::clone(self);
                tokio::spawn(async move {
                    tokio::time::sleep(GRACE).await;
                    presences.note(&watched, false);
                });
            }
        }
    }

    fn note(&self, accounts: &[Uuid], have_come: bool) {
        let mut changed = self.changed();
        for id in accounts {
            *changed.entry(*id).or_default() |= have_come;
        }
        self.has_changed.notify_one();
    }

    async fn run(self: Arc<Self>) {
        loop {
            tokio::select! {
                () = self.app.stopping.cancelled() => return,
                () = self.has_changed.notified() => {}
            }
            let changed = std::mem::take(&mut *self.changed());
            if let Err(error) = self.tell(&changed).await {
                tracing::warn!(%error, "who came and went can't be told yet");
                tokio::time::sleep(AGAIN_AFTER).await;
                changed.iter().for_each(|(id, have_come)| self.note(&[*id], *have_come));
            }
        }
    }

    /// Tells those that watch these accounts and may know.
    async fn tell(&self, changed: &HashMap<Uuid, bool>) -> Result<(), Error> {
        let latest = &self.app.account_events.latest;
        let mut conn = self.app.db.get().await?;
        let ids: Vec<_> = changed.keys().copied().collect();
        for row in model::Presence::of(&mut conn, &ids).await? {
            let (id, watchers) = (row.account_id, latest.watchers(row.account_id));
            let is_back = row.online && changed.get(&id) == Some(&false);
            if watchers.is_empty() || is_back {
                continue;
            }
            let contacts = messaging::contacts(&mut conn, id, &watchers).await?;
            let allowed = users::who_sees_presence(&mut conn, id, &watchers, &contacts).await?;
            latest.tell(id, &allowed.into_iter().collect(), &Event::Presence((&row).into()));
        }
        Ok(())
    }

    fn changed(&self) -> MutexGuard<'_, HashMap<Uuid, bool>> {
        self.changed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
