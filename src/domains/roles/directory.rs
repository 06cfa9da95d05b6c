//! What each account may do, out of memory.
//!
//! A node keeps all roles, the abilities of each set of roles that it met, and the roles of the accounts that it met.
//! Every change of roles and assignments has the next number of one version in Postgres. Whoever makes one tells the
//! other nodes its number on the bus, after the commit; a node that missed one reads all roles again. The version is also
//! read every half second, so that a change holds everywhere within a second, with the bus or without.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use quick_cache::sync::Cache;
use tokio::sync::{Notify, watch};
use uuid::Uuid;

use super::graph::Graph;
use super::model;
use crate::domains::auth;
use crate::kernel::abilities::Abilities;
use crate::kernel::app::App;
use crate::kernel::caller::Caller;
use crate::kernel::error::Error;
use crate::proto::rialto::policy::v1::Role as BuiltIn;

const CHANNEL: &str = "roles";
/// How often the version is read.
const RECHECK: Duration = Duration::from_millis(500);

/// The roles that this node knows. See the module.
pub struct Roles {
    app: App,
    accounts: Cache<Uuid, Arc<Assigned>>,
    state: Mutex<State>,
    /// Wakes the task that reads the version.
    missed: Notify,
    /// Wakes the streams.
    changed: watch::Sender<()>,
}

struct State {
    version: i64,
    definitions: Arc<Definitions>,
    /// Counts what was forgotten, so that a read that was overtaken by a change is not kept.
    forgotten: u64,
}

/// All roles, and what was made of them.
struct Definitions {
    graph: Graph,
    abilities: Cache<(BuiltIn, Vec<Uuid>), Arc<Abilities>>,
}

/// The roles of an account.
struct Assigned {
    role: BuiltIn,
    /// The others, in the order of their ids, with when they expire.
    others: Vec<(Uuid, Option<DateTime<Utc>>)>,
}

impl Definitions {
    fn new(graph: Graph) -> Arc<Self> {
        Arc::new(Self { graph, abilities: Cache::new(10_000) })
    }
}

impl Roles {
    /// Reads all roles and follows what other nodes change.
    pub async fn start(app: App) -> Result<Arc<Self>, Error> {
        let (version, graph) = model::read_all(&mut *app.db.get().await?).await?;
        let state = State { version, definitions: Definitions::new(graph), forgotten: 0 };
        let roles = Arc::new(Self {
            app: app.clone(),
            accounts: Cache::new(50_000),
            state: Mutex::new(state),
            missed: Notify::new(),
            changed: watch::channel(()).0,
        });
        let listener = Arc::downgrade(&roles);
        let hear = move |message: Bytes| {
            if let (Some(roles), Some((version, account))) = (listener.upgrade(), read_message(&message))
                && !roles.advance(version, account)
            {
                roles.missed.notify_one();
            }
        };
        app.bus.subscribe(CHANNEL, hear).await;
        tokio::spawn(Arc::clone(&roles).follow());
        Ok(roles)
    }

    /// Adds what the account's roles let it do to a caller whose session was checked.
    pub async fn equip(&self, caller: &mut Caller) -> Result<(), Error> {
        if caller.role != BuiltIn::Admin {
            let assigned = self.assigned(caller.account_id).await?;
            caller.abilities = self.resolve(caller.role, &assigned);
        }
        Ok(())
    }

    /// Resolves when what the caller of a stream may do is no longer what it was.
    pub async fn outdated(self: Arc<Self>, account_id: Uuid, role: BuiltIn, abilities: Arc<Abilities>) {
        let mut changed = self.changed.subscribe();
        // What changed before this subscription counts too.
        changed.mark_changed();
        let mut expires = false;
        loop {
            tokio::select! {
                _ = changed.changed() => {}
                () = tokio::time::sleep(RECHECK), if expires => {}
            }
            // Boxed, because every open stream waits here, each with room for what it may have to do.
            match Box::pin(self.assigned(account_id)).await {
                // The role counts by itself: one that gives nothing more may need two-factor authentication.
                Ok(assigned) if assigned.role != role => return,
                Ok(assigned) if self.resolve(assigned.role, &assigned) != abilities => return,
                Ok(assigned) => expires = assigned.others.iter().any(|(_, expires_at)| expires_at.is_some()),
                Err(error) => {
                    tracing::warn!(%error, "the roles of an open stream can't be checked");
                    expires = true;
                }
            }
        }
    }

    /// What an account of this built-in role may do, as far as this node knows.
    pub async fn abilities(&self, account_id: Uuid, role: BuiltIn) -> Result<Arc<Abilities>, Error> {
        Ok(self.resolve(role, &*self.assigned(account_id).await?))
    }

    /// Tells every node, this one first, of the change with this number: of the roles of one account, or of the roles
    /// themselves. To be called after the commit.
    pub async fn changed(&self, version: i64, account_id: Option<Uuid>) {
        if !self.advance(version, account_id)
            && let Err(error) = self.refresh().await
        {
            // It is tried again twice a second.
            tracing::warn!(%error, "the roles that were changed can't be read");
        }
        let account_id = account_id.as_ref().map_or(&[][..], |id| id.as_bytes());
        let message = [&version.to_be_bytes(), account_id].concat().into();
        if let Err(error) = self.app.bus.publish([(CHANNEL.to_owned(), message)]).await {
            tracing::debug!(%error, "other nodes find a change of roles by themselves");
        }
    }

    /// Takes note of a change; false if all roles have to be read again.
    fn advance(&self, version: i64, account_id: Option<Uuid>) -> bool {
        let mut state = self.state();
        if version <= state.version {
            return true;
        }
        let Some(account_id) = account_id.filter(|_| version == state.version + 1) else { return false };
        state.version = version;
        state.forgotten += 1;
        self.accounts.remove(&account_id);
        drop(state);
        self.changed.send_replace(());
        true
    }

    async fn follow(self: Arc<Self>) {
        loop {
            tokio::select! {
                () = self.app.stopping.cancelled() => return,
                () = self.missed.notified() => {}
                () = tokio::time::sleep(RECHECK) => {}
            }
            if let Err(error) = self.refresh().await {
                tracing::warn!(%error, "the version of the roles can't be read");
            }
        }
    }

    /// Reads all roles again if there was a change that this node does not know.
    async fn refresh(&self) -> Result<(), Error> {
        let mut conn = self.app.db.get().await?;
        if model::version(&mut conn).await? <= self.state().version {
            return Ok(());
        }
        let (version, graph) = model::read_all(&mut conn).await?;
        let mut state = self.state();
        if version > state.version {
            state.version = version;
            state.definitions = Definitions::new(graph);
            state.forgotten += 1;
            self.accounts.clear();
            drop(state);
            self.changed.send_replace(());
        }
        Ok(())
    }

    async fn assigned(&self, account_id: Uuid) -> Result<Arc<Assigned>, Error> {
        if let Some(assigned) = self.accounts.get(&account_id) {
            return Ok(assigned);
        }
        let before = self.state().forgotten;
        let mut conn = self.app.db.get().await?;
        let role = auth::role_of(&mut conn, account_id).await?.map_or(BuiltIn::Unspecified, |(role, _)| role);
        let others = model::Assignment::of(&mut conn, account_id).await?;
        let others = others.iter().map(|assignment| (assignment.role_id, assignment.expires_at)).collect();
        let assigned = Arc::new(Assigned { role, others });
        let state = self.state();
        if state.forgotten == before {
            self.accounts.insert(account_id, Arc::clone(&assigned));
        }
        Ok(assigned)
    }

    fn resolve(&self, role: BuiltIn, assigned: &Assigned) -> Arc<Abilities> {
        if assigned.others.is_empty() {
            return Abilities::built_in(role);
        }
        let now = self.app.clock.now();
        let live = assigned.others.iter().filter(|(_, expires_at)| expires_at.is_none_or(|at| at > now));
        let live: Vec<_> = live.map(|(id, _)| *id).collect();
        let definitions = Arc::clone(&self.state().definitions);
        let Definitions { graph, abilities } = definitions.as_ref();
        let Ok(abilities) =
            abilities.get_or_insert_with(&(role, live.clone()), || Ok::<_, Infallible>(graph.abilities(role, &live)));
        abilities
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The number of a change, and the account if it is about one.
fn read_message(message: &[u8]) -> Option<(i64, Option<Uuid>)> {
    let (version, account_id) = message.split_first_chunk()?;
    let account_id = if account_id.is_empty() { None } else { Some(Uuid::from_slice(account_id).ok()?) };
    Some((i64::from_be_bytes(*version), account_id))
}
