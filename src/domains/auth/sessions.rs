//! Who an access token belongs to, without asking Postgres each time.
//!
//! A node keeps what it read for a few seconds, and forgets an account at once when any node tells it on the bus that the
//! account's sessions changed. While the bus is down it asks Postgres for every call. Streams that are open when their
//! session ends are ended too.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use quick_cache::sync::Cache;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::login::not_active;
use super::model::{Account, Session};
use super::tokens::{AccessToken, Keys};
use crate::kernel::abilities::Abilities;
use crate::kernel::app::App;
use crate::kernel::caller::Caller;
use crate::kernel::error::{Error, Reason};
use crate::kernel::trail::Trail;

const CHANNEL: &str = "sessions";
/// How long a node may believe what it read, should a message of the bus be lost without the link going down.
const BELIEVED: Duration = Duration::from_secs(10);
/// How long a proof of identity counts as recent.
pub const RECENT: chrono::Duration = chrono::Duration::minutes(5);
/// How often open streams are checked while the bus is down.
const RECHECK: Duration = Duration::from_secs(1);

/// The sessions that this node knows.
pub struct Sessions {
    app: App,
    pub(super) keys: Arc<Keys>,
    /// Tokens whose signature was verified: an Ed25519 verification costs as much as a whole call otherwise.
    verified: Cache<Box<str>, AccessToken>,
    accounts: Cache<Uuid, Arc<Known>>,
    /// Counts what was forgotten, so that a read that was overtaken by a change is not kept.
    forgotten: Mutex<u64>,
    streams: Mutex<HashMap<Uuid, OpenStreams>>,
    changed: mpsc::UnboundedSender<Uuid>,
}

/// An account and those of its live sessions that were asked for.
struct Known {
    read_at: Instant,
    account: Account,
    sessions: Vec<Session>,
}

struct OpenStreams {
    account_id: Uuid,
    version: i32,
    ended: CancellationToken,
    /// The session goes on, but may do next to nothing until the account has a second factor.
    limited: CancellationToken,
    count: usize,
}

impl Sessions {
    /// Starts listening to what other nodes change.
    pub async fn start(app: App, keys: Arc<Keys>) -> Arc<Self> {
        let (changed, changes) = mpsc::unbounded_channel();
        let sessions = Arc::new(Self {
            app: app.clone(),
            keys,
            verified: Cache::new(50_000),
            accounts: Cache::new(50_000),
            forgotten: Mutex::default(),
            streams: Mutex::default(),
            changed,
        });
        let listener = Arc::downgrade(&sessions);
        let forget = move |message: Bytes| {
            if let (Some(sessions), Ok(id)) = (listener.upgrade(), Uuid::from_slice(&message)) {
                sessions.forget(id);
            }
        };
        app.bus.subscribe(CHANNEL, forget).await;
        tokio::spawn(Arc::clone(&sessions).watch(changes));
        sessions
    }

    /// The caller behind an access token, or why it is refused.
    pub async fn authenticate(&self, token: &str) -> Result<Caller, Error> {
        let token = self.verify(token)?;
        let known = self.known(&token).await?;
        let revoked = || Error::new(Reason::SessionRevoked, "the session has ended");
        let session = known.sessions.iter().find(|session| session.id == token.session_id).ok_or_else(revoked)?;
        if known.account.token_version != token.version || !session.is_live(self.app.clock.now()) {
            return Err(revoked());
        }
        if !known.account.is_active() {
            return Err(not_active(known.account.state()));
        }
        let role = known.account.role();
        Ok(Caller {
            account_id: token.account_id,
            session_id: token.session_id,
            role,
            // The gate adds those of the account's other roles.
            abilities: Abilities::built_in(role),
            token_version: token.version,
            lacks_two_factor: self.lacks_two_factor(&known.account),
            trail: Trail::default(),
        })
    }

    /// Refuses a caller who has not logged in or called Reauthenticate in the last five minutes. Asks Postgres: what needs
    /// this is rare, and must not be let through by what a node remembers.
    pub async fn require_recent_authentication(&self, caller: &Caller) -> Result<(), Error> {
        let now = self.app.clock.now();
        let mut conn = self.app.db.get().await?;
        let proved = Session::last_proof(&mut conn, caller.session_id, now).await?;
        if proved.is_some_and(|at| at + RECENT > now) {
            return Ok(());
        }
        let message = "this needs a login or a Reauthenticate within the last five minutes";
        Err(Error::new(Reason::ReauthenticationRequired, message))
    }

    /// The account of a caller, as it was when the call was authenticated.
    pub async fn account(&self, caller: &Caller) -> Result<Account, Error> {
        if self.app.bus.is_up()
            && let Some(known) = self.believed(caller.account_id)
        {
            return Ok(known.account.clone());
        }
        let mut conn = self.app.db.get().await?;
        Account::by_id(&mut conn, caller.account_id).await?.ok_or_else(|| Error::not_found("account"))
    }

    /// Tells every node, this one first, that an account or its sessions changed. To be called after the commit.
    pub async fn changed(&self, account_id: Uuid) {
        self.forget(account_id);
        let message = move || [(CHANNEL.to_owned(), Bytes::copy_from_slice(account_id.as_bytes()))];
        if self.app.bus.publish(message()).await.is_ok() {
            return;
        }
        // Nodes that still have Redis, while this one lost it, must hear of it as soon as possible.
        let app = self.app.clone();
        tokio::spawn(async move {
            while app.bus.publish(message()).await.is_err() {
                tokio::select! {
                    () = app.stopping.cancelled() => return,
                    () = tokio::time::sleep(RECHECK) => {}
                }
            }
        });
    }

    /// Whether the account's role needs a second factor that the account does not have.
    fn lacks_two_factor(&self, account: &Account) -> bool {
        !account.two_factor && account.needs_two_factor(&self.app.config.two_factor.required_roles)
    }

    /// Is cancelled when the caller's session ends. Keep the guard as long as the stream is open.
    pub fn stream(self: &Arc<Self>, caller: &Caller) -> (CancellationToken, StreamGuard) {
        let (ended, limited) = {
            let mut streams = self.streams();
            let open = streams.entry(caller.session_id).or_insert_with(|| OpenStreams {
                account_id: caller.account_id,
                version: caller.token_version,
                ended: CancellationToken::new(),
                limited: CancellationToken::new(),
                count: 0,
            });
            open.count += 1;
            (open.ended.clone(), open.limited.clone())
        };
        if !self.accounts.contains_key(&caller.account_id) {
            // Something changed since the call was authenticated, before the stream was there to be ended.
            let _ = self.changed.send(caller.account_id);
        }
        (ended, StreamGuard { sessions: Arc::clone(self), session_id: caller.session_id, limited })
    }

    fn verify(&self, token: &str) -> Result<AccessToken, Error> {
        let verified = match self.verified.get(token) {
            Some(verified) => verified,
            None => {
                let verified = self.keys.verify(token)?;
                self.verified.insert(token.into(), verified);
                verified
            }
        };
        // Another server may have issued it, whose clock is not quite this one's.
        let (now, leeway) = (self.app.clock.now().timestamp(), i64::from(self.app.config.auth.leeway_seconds));
        if verified.not_before > now + leeway {
            return Err(Error::new(Reason::TokenInvalid, "the access token is not good yet"));
        }
        if verified.expires_at + leeway <= now {
            self.verified.remove(token);
            return Err(Error::new(Reason::TokenExpired, "the access token has expired"));
        }
        Ok(verified)
    }

    async fn known(&self, token: &AccessToken) -> Result<Arc<Known>, Error> {
        let cached = self.believed(token.account_id).filter(|_| self.app.bus.is_up());
        if let Some(known) = &cached
            && known.sessions.iter().any(|session| session.id == token.session_id)
        {
            return Ok(Arc::clone(known));
        }
        let (before, read_at) = (*self.forgotten(), Instant::now());
        let mut conn = self.app.db.get().await?;
        let found = Session::with_account(&mut conn, token.session_id).await?;
        let Some((session, account)) = found.filter(|(_, account)| account.id == token.account_id) else {
            return Err(Error::new(Reason::SessionRevoked, "the session has ended"));
        };
        let others = cached.iter().flat_map(|known| &known.sessions).filter(|other| other.id != session.id);
        let sessions = others.cloned().chain([session.clone()]).collect();
        // As old as the oldest of it.
        let read_at = cached.map_or(read_at, |known| known.read_at);
        let known = Arc::new(Known { read_at, account, sessions });
        let forgotten = self.forgotten();
        if *forgotten == before && self.app.bus.is_up() {
            self.accounts.insert(token.account_id, Arc::clone(&known));
        }
        Ok(known)
    }

    /// What was read of an account not long ago.
    fn believed(&self, account_id: Uuid) -> Option<Arc<Known>> {
        self.accounts.get(&account_id).filter(|known| known.read_at.elapsed() < BELIEVED)
    }

    fn forget(&self, account_id: Uuid) {
        {
            let mut forgotten = self.forgotten();
            *forgotten += 1;
            self.accounts.remove(&account_id);
        }
        // The receiver is gone only when the node stops.
        let _ = self.changed.send(account_id);
    }

    fn forget_everything(&self) {
        let mut forgotten = self.forgotten();
        *forgotten += 1;
        self.accounts.clear();
    }

    /// Ends the streams of sessions that ended.
    async fn watch(self: Arc<Self>, mut changes: mpsc::UnboundedReceiver<Uuid>) {
        let mut link = self.app.bus.link();
        let mut recheck = tokio::time::interval(RECHECK);
        recheck.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let account = tokio::select! {
                () = self.app.stopping.cancelled() => return,
                Some(account) = changes.recv() => Some(account),
                Ok(()) = link.changed() => {
                    self.forget_everything();
                    None
                }
                _ = recheck.tick(), if !link.borrow().up => None,
            };
            if let Err(error) = self.end_streams(account).await {
                // They are checked again when the next change or tick comes.
                tracing::warn!(%error, "the sessions of open streams can't be checked");
            }
        }
    }

    /// Checks the open streams of one account, or all.
    async fn end_streams(&self, account: Option<Uuid>) -> Result<(), Error> {
        let concerned = |open: &OpenStreams| account.is_none_or(|account| open.account_id == account);
        let ids: Vec<Uuid> = self.streams().iter().filter(|(_, open)| concerned(open)).map(|(id, _)| *id).collect();
        if ids.is_empty() {
            return Ok(());
        }
        let mut conn = self.app.db.get().await?;
        let rows = Session::all_with_accounts(&mut conn, &ids).await?;
        let now = self.app.clock.now();
        let streams = self.streams();
        for (id, open) in ids.iter().filter_map(|id| streams.get(id).map(|open| (id, open))) {
            let live = rows.iter().find(|(session, account)| {
                session.id == *id
                    && session.is_live(now)
                    && account.is_active()
                    && account.token_version == open.version
            });
            match live {
                None => open.ended.cancel(),
                Some((_, account)) if self.lacks_two_factor(account) => open.limited.cancel(),
                Some(_) => {}
            }
        }
        Ok(())
    }

    fn forgotten(&self) -> MutexGuard<'_, u64> {
        self.forgotten.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn streams(&self) -> MutexGuard<'_, HashMap<Uuid, OpenStreams>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Holds a place among the open streams.
pub struct StreamGuard {
    sessions: Arc<Sessions>,
    session_id: Uuid,
    /// Is cancelled when the account no longer has the second factor that its role needs.
    pub limited: CancellationToken,
}

impl Drop for StreamGuard {
    fn drop(&mut self) {
        let mut streams = self.sessions.streams();
        if let Some(open) = streams.get_mut(&self.session_id) {
            open.count -= 1;
            if open.count == 0 {
                streams.remove(&self.session_id);
            }
        }
    }
}
