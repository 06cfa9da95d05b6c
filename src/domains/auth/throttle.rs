//! Slowing down who guesses passwords and codes (NIST SP 800-63B-4, section 3.2.2). `docs/throttling.md` has the rules, and
//! what they leave to an attacker.
//!
//! Clients that an account does not know share its budget; a device that it knows, and a session, have one of their own, so
//! that strangers can't lock the owner out. An attempt is counted as a failure before anything is compared, and one that is
//! refused is not compared at all. An account that does not exist is counted like every other.

mod budgets;
mod notice;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use moka::sync::Cache;
use sha2::{Digest, Sha256};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use uuid::Uuid;

use self::budgets::{Answer, Budget, Counted, Outcome, Schedule};
use self::notice::{Guessed, Locked, Owner};
use super::client::Client;
use super::model::device::KnownDevice;
use super::model::{Account, Session, fold_email};
use crate::kernel::app::App;
use crate::kernel::caller::Caller;
use crate::kernel::error::{Error, Reason};
use crate::kernel::rates;
use crate::kernel::rng::hash_token;
use crate::kernel::security::{Event, Kind};

pub use notice::handlers;

/// Counts failures. Cheap to clone.
#[derive(Clone)]
pub struct Throttle {
    app: App,
    /// How many attempts of a client may be under way on this node: as many as may fail without a delay. The others wait, so
    /// that right passwords that come at the same time don't count as failures of each other.
    turns: Cache<String, Arc<Semaphore>>,
}

/// An attempt that was counted as a failure, and waits to be judged. One that never is, because of a panic, stays one.
#[must_use = "it counts as a failure until it is judged"]
pub struct Attempt {
    throttle: Throttle,
    guessed: Guessed,
    /// Whom to tell of a lock.
    owner: Owner,
    /// Those that have counted the attempt. On success the first is forgotten.
    budgets: Vec<Budget>,
    counted: Vec<Counted>,
    /// Counts the attempt only when it has failed, so that many who log in from one address don't delay each other.
    address: Option<Budget>,
    _turn: OwnedSemaphorePermit,
}

impl Throttle {
    /// As configured; an error if that is not safe.
    pub fn new(app: App) -> Result<Self, Error> {
        app.config.auth.throttle.check().map_err(|problem| Error::new(Reason::Internal, problem))?;
        let turns = Cache::builder().max_capacity(100_000).time_to_idle(Duration::from_secs(60)).build();
        Ok(Self { app, turns })
    }

    /// An attempt on the password of whichever account has the e-mail address, if any.
    pub async fn password(&self, email: &str, device_token: &str, client: &Client) -> Result<Attempt, Error> {
        let email = fold_email(email);
        // Asked of every address alike, and only because of what the client has sent.
        let known = !device_token.is_empty() && {
            let mut conn = self.app.db.get().await?;
            KnownDevice::is_known_to(&mut conn, &email, device_token).await?
        };
        let name = account_key(Guessed::Password, &email);
        self.client(Guessed::Password, Owner::Email(email), name, known.then_some(device_token), client).await
    }

    /// An attempt on the second factor of an account, after its password.
    pub async fn code(&self, account_id: Uuid, device_token: &str, client: &Client) -> Result<Attempt, Error> {
        let known = !device_token.is_empty() && {
            let mut conn = self.app.db.get().await?;
            KnownDevice::is_known(&mut conn, account_id, device_token).await?
        };
        let name = account_key(Guessed::Code, &account_id.to_string());
        self.client(Guessed::Code, Owner::Account(account_id), name, known.then_some(device_token), client).await
    }

    /// An attempt of somebody who has logged in to prove once more who they are.
    pub async fn confirmation(&self, caller: &Caller) -> Result<Attempt, Error> {
        let schedule = Schedule::device(&self.app.config.auth.throttle);
        let budget = Budget { key: session_key(caller.session_id), field: "session".into(), schedule };
        self.begin(Guessed::Confirmation, Owner::Account(caller.account_id), vec![budget], None).await
    }

    /// Forgets all failures on an account, and with them its locks.
    pub async fn clear(&self, account: &Account) -> Result<(), Error> {
        let mut conn = self.app.db.get().await?;
        let devices = KnownDevice::hashes(&mut conn, account.id).await?;
        let sessions = Session::live(&mut conn, account.id, self.app.clock.now()).await?;
        drop(conn);
        let names = [(Guessed::Password, account.email.clone()), (Guessed::Code, account.id.to_string())];
        let mut keys: Vec<_> = names.iter().map(|(guessed, name)| account_key(*guessed, name)).collect();
        for device in &devices {
            keys.extend(names.iter().map(|(guessed, _)| device_key(*guessed, device)));
        }
        keys.extend(sessions.iter().map(|session| session_key(session.id)));
        budgets::forget(&self.app.redis, &keys).await
    }

    /// An attempt of a client that has no session: of a device that the account knows, or of a stranger.
    async fn client(
        &self,
        guessed: Guessed,
        owner: Owner,
        key: String,
        known_device: Option<&str>,
        client: &Client,
    ) -> Result<Attempt, Error> {
        let config = &self.app.config.auth.throttle;
        if let Some(token) = known_device {
            let key = device_key(guessed, &hash_token(token));
            let budget = Budget { key, field: "device".into(), schedule: Schedule::device(config) };
            return self.begin(guessed, owner, vec![budget], None).await;
        }
        let address = client.address.parse().unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        let network = rates::network(address, self.app.config.server.ipv6_prefix);
        let pair = Budget { key: key.clone(), field: network.to_string(), schedule: Schedule::pair(config) };
        let account = Budget { key, field: "account".into(), schedule: Schedule::account(config) };
        let key = format!("throttle:address:{network}");
        let address = Budget { key, field: "address".into(), schedule: Schedule::address(config) };
        self.begin(guessed, owner, vec![pair, account], Some(address)).await
    }

    async fn begin(
        &self,
        guessed: Guessed,
        owner: Owner,
        budgets: Vec<Budget>,
        address: Option<Budget>,
    ) -> Result<Attempt, Error> {
        let turn = self.turn(&budgets).await?;
        match budgets::attempt(&self.app.redis, &budgets, address.as_ref()).await? {
            Answer::Go(counted) => {
                Ok(Attempt { throttle: self.clone(), guessed, owner, budgets, counted, address, _turn: turn })
            }
            Answer::Refused { now, until } => Err(locked(now, until)),
        }
    }

    async fn turn(&self, budgets: &[Budget]) -> Result<OwnedSemaphorePermit, Error> {
        let (name, free) = budgets.first().map_or_else(Default::default, |budget| {
            (format!("{}/{}", budget.key, budget.field), budget.schedule.free())
        });
        let free = usize::try_from(free).unwrap_or(Semaphore::MAX_PERMITS);
        let turns = self.turns.get_with(name, || Arc::new(Semaphore::new(free.max(1))));
        turns.acquire_owned().await.map_err(|error| Error::internal("waiting for one's turn", error))
    }
}

impl Attempt {
    /// Takes what came of the attempt. Faults of the server are not held against whoever makes it, so nothing that may fail
    /// comes after a comparison that went wrong.
    pub async fn judge<T>(self, result: Result<T, Error>) -> Result<T, Error> {
        match &result {
            Ok(_) => self.settle(Outcome::Succeeded).await,
            Err(error) if says_nothing(error) => self.settle(Outcome::Undone).await,
            Err(_) => self.failed().await,
        }
        result
    }

    /// If this can't be written, the attempt stays a failure.
    async fn settle(self, outcome: Outcome) {
        let _ = budgets::settle(&self.throttle.app.redis, &self.budgets, &self.counted, outcome).await;
    }

    async fn failed(self) {
        if let Some(address) = &self.address {
            // Refused means that others have used it up meanwhile; Redis being away is logged, and refuses the next one.
            let _ = budgets::attempt(&self.throttle.app.redis, std::slice::from_ref(address), None).await;
        }
        let Some((budget, counted)) = self.budgets.iter().zip(&self.counted).next_back() else { return };
        let by_strangers = self.address.is_some();
        let begins = by_strangers && budget.schedule.begins_to_delay(counted.failures);
        if !begins && !budget.schedule.locks(counted.failures) {
            return;
        }
        tracing::warn!(budget = budget.key, failures = counted.failures, "somebody guesses passwords or codes");
        // The same for an address without an account: whether there is one is the job's to find out.
        if let Err(error) = self.tell_owner(time(counted.until), by_strangers).await {
            tracing::error!(error = error.report(), "the owner of an account can't be told of a lock");
        }
        if let Err(error) = self.record_lock().await {
            tracing::error!(error = error.report(), "a lock can't be recorded");
        }
    }

    async fn record_lock(&self) -> Result<(), Error> {
        let app = &self.throttle.app;
        let event = match &self.owner {
            Owner::Account(id) => Event::about(Kind::AccountLocked, *id),
            Owner::Email(email) => match Account::by_email(&mut *app.db.get().await?, email).await? {
                Some((account, _)) => Event::about(Kind::AccountLocked, account.id),
                None => Event::about_email(Kind::AccountLocked, email),
            },
        };
        app.security.record(event);
        Ok(())
    }

    async fn tell_owner(&self, until: DateTime<Utc>, by_strangers: bool) -> Result<(), Error> {
        let app = &self.throttle.app;
        let locked = Locked { owner: self.owner.clone(), guessed: self.guessed, by_strangers, until };
        locked.job(app)?.enqueue(&mut *app.db.get().await?).await?;
        crate::kernel::jobs::wake(app).await;
        Ok(())
    }
}

/// Whether an error comes from something else than a wrong password or code. Everything that is not surely so counts.
fn says_nothing(error: &Error) -> bool {
    error.reason.info().http_status >= 500
        || matches!(error.reason, Reason::ValidationError | Reason::TransactionFailed)
}

fn locked(now: i64, until: i64) -> Error {
    let after = Duration::from_millis(u64::try_from(until - now).unwrap_or_default());
    // Whole seconds, and not before it is over.
    let until = time(until + 999).to_rfc3339_opts(SecondsFormat::Secs, true);
    Error::new(Reason::AccountLocked, "there were too many failed attempts; this one was not looked at")
        .with("locked_until", until)
        .retry_after(after)
}

fn time(millis: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_millis(millis).unwrap_or(DateTime::<Utc>::MAX_UTC)
}

/// A hash, so that Redis does not know addresses of people.
fn account_key(guessed: Guessed, name: &str) -> String {
    format!("throttle:{}:{}", guessed.name(), hex(&Sha256::digest(name.as_bytes())))
}

fn device_key(guessed: Guessed, token_hash: &[u8]) -> String {
    format!("throttle:{}:device:{}", guessed.name(), hex(token_hash))
}

fn session_key(session_id: Uuid) -> String {
    format!("throttle:session:{session_id}")
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
