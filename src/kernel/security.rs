//! Security events, on their way to the database.
//!
//! Whoever sees one calls [`Recorder::record`], which counts it in memory and returns: it never waits, never fails, and
//! allocates nothing for an event like one before. `domains::security` writes what was counted twice a second.
//!
//! What must not be lost does not belong here: a node that is killed takes what it has not written along, and where there is
//! too much, details are dropped and only counted. The audit log is for the rest.
//!
//! Bounded, so that nobody fills memory or disk: a kind of event about a subject from an address has one row a minute; a
//! subject has [`ADDRESSES`] addresses a minute; a node writes `security.rows_per_minute` rows. What is beyond is counted in
//! one row of its kind that is about everyone.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, Utc};
use http::{HeaderMap, HeaderValue, header};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::kernel::caller::ClientAddress;
use crate::kernel::clock::Clock;
use crate::kernel::config::Config;
use crate::kernel::metrics::Metrics;
use crate::kernel::rates::Subject;

pub use crate::proto::rialto::security::v1::EventKind as Kind;

/// Addresses that are kept apart for one kind of event about one subject, in a minute.
const ADDRESSES: usize = 8;
/// Longer user agents are cut.
const USER_AGENT_BYTES: usize = 256;
/// What waits for a database that is away: the rows of so many minutes.
const MINUTES: usize = 2;

tokio::task_local! {
    static ORIGIN: Origin;
}

/// The names of the kinds in the database and in the configuration.
const KINDS: [(Kind, &str); 12] = [
    (Kind::LoginFailed, "login_failed"),
    (Kind::ConfirmationFailed, "confirmation_failed"),
    (Kind::TwoFactorFailed, "two_factor_failed"),
    (Kind::AccessDenied, "access_denied"),
    (Kind::Unauthenticated, "unauthenticated"),
    (Kind::RefreshTokenReused, "refresh_token_reused"),
    (Kind::AccountLocked, "account_locked"),
    (Kind::PrivilegeChanged, "privilege_changed"),
    (Kind::AccountSuspended, "account_suspended"),
    (Kind::TwoFactorReset, "two_factor_reset"),
    (Kind::ImpossibleTravel, "impossible_travel"),
    (Kind::PasskeyAnomaly, "passkey_anomaly"),
];

/// The name of a kind.
pub fn kind_name(kind: Kind) -> &'static str {
    KINDS.iter().find(|(known, _)| *known == kind).map_or("", |(_, name)| name)
}

/// The kind of this name.
pub fn kind_by_name(name: &str) -> Kind {
    KINDS.iter().find(|(_, known)| *known == name).map_or(Kind::Unspecified, |(kind, _)| *kind)
}

/// Where a call came from. The gate keeps it for the time of the call, so that what happens deep in it can be recorded
/// without handing it down.
#[derive(Clone, Default)]
pub struct Origin {
    address: Option<IpAddr>,
    user_agent: Option<HeaderValue>,
    method: &'static str,
}

impl Origin {
    /// That of a call of this method.
    pub fn of(method: &'static str, headers: &HeaderMap, extensions: &http::Extensions) -> Self {
        Self {
            address: extensions.get::<ClientAddress>().map(|address| address.0),
            user_agent: headers.get(header::USER_AGENT).cloned(),
            method,
        }
    }

    /// Does the work of the call. What it records came from here.
    pub async fn scope<F: Future>(self, work: F) -> F::Output {
        ORIGIN.scope(self, work).await
    }

    fn user_agent(&self) -> &str {
        let value = self.user_agent.as_ref().and_then(|value| value.to_str().ok()).unwrap_or_default();
        // Such a header value is ASCII.
        value.get(..USER_AGENT_BYTES).unwrap_or(value)
    }
}

/// Something that happened.
#[derive(Clone, Debug)]
pub struct Event {
    kind: Kind,
    /// `None` for the address that it came from.
    subject: Option<Subject>,
    actor_id: Option<Uuid>,
    detail: &'static str,
}

impl Event {
    /// An event about the address that it comes from.
    pub fn new(kind: Kind) -> Self {
        Self { kind, subject: None, actor_id: None, detail: "" }
    }

    /// An event about an account.
    pub fn about(kind: Kind, account_id: Uuid) -> Self {
        Self { subject: Some(Subject::Account(account_id)), ..Self::new(kind) }
    }

    /// An event about an e-mail address, trimmed and in lower case, that has no account. Only a hash of it is kept.
    pub fn about_email(kind: Kind, email: &str) -> Self {
        let hash = Sha256::digest(email.as_bytes());
        let mut name = [0; 16];
        name.copy_from_slice(&hash[..16]);
        Self { subject: Some(Subject::Named(name)), ..Self::new(kind) }
    }

    /// Somebody other than the subject did it.
    pub fn by(self, account_id: Uuid) -> Self {
        Self { actor_id: Some(account_id), ..self }
    }

    /// More about it. Fixed words: nothing that somebody typed.
    pub fn detail(self, detail: &'static str) -> Self {
        Self { detail, ..self }
    }
}

/// What makes events one row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// What happened.
    pub kind: Kind,
    /// To whom; `None` for what had no room of its own.
    pub subject: Option<Subject>,
    /// Minutes since 1970.
    pub minute: i64,
    /// From where, if that is known and not too much.
    pub address: Option<IpAddr>,
}

/// What is kept of the events of a row.
#[derive(Debug)]
pub struct Row {
    /// How many.
    pub count: i64,
    /// The first.
    pub at: DateTime<Utc>,
    /// The last.
    pub last_at: DateTime<Utc>,
    /// The client of the first.
    pub user_agent: Box<str>,
    /// The method that the first called.
    pub method: &'static str,
    /// More about the first.
    pub detail: &'static str,
    /// Who did the first.
    pub actor_id: Option<Uuid>,
}

/// What was counted since the last one.
#[derive(Debug, Default)]
pub struct Batch {
    /// Events.
    pub rows: HashMap<Key, Row>,
    /// When each account was last used from which coarse network.
    pub sightings: HashMap<(Uuid, IpAddr), DateTime<Utc>>,
}

impl Batch {
    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.sightings.is_empty()
    }
}

/// Counts the events of this node until they are written.
pub struct Recorder {
    clock: Clock,
    metrics: Arc<Metrics>,
    ipv6_prefix: u8,
    rows_per_minute: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    pending: Batch,
    minute: i64,
    /// What has a row in this minute, and from which addresses.
    known: HashMap<(Kind, Option<Subject>), Vec<Option<IpAddr>>>,
    /// How many rows that makes.
    rows: usize,
}

impl Recorder {
    /// One that nobody empties yet.
    pub fn new(config: &Config, clock: Clock, metrics: Arc<Metrics>) -> Self {
        let (ipv6_prefix, rows_per_minute) = (config.server.ipv6_prefix, config.security.rows_per_minute);
        Self { clock, metrics, ipv6_prefix, rows_per_minute, state: Mutex::default() }
    }

    /// Counts an event of the call that runs.
    pub fn record(&self, event: Event) {
        self.record_from(event, &ORIGIN.try_with(Clone::clone).unwrap_or_default());
    }

    /// Counts an event that came from there.
    pub fn record_from(&self, event: Event, origin: &Origin) {
        let Event { kind, subject, actor_id, detail } = event;
        let address = origin.address.map(|address| client_network(address, self.ipv6_prefix));
        let subject = subject.or(address.map(Subject::Address));
        self.metrics.security_event(kind_name(kind));
        let mut state = self.state();
        // Under the lock, so that minutes don't go back.
        let now = self.clock.now();
        let asked = Key { kind, subject, minute: now.timestamp().div_euclid(60), address };
        let key = state.place(asked, self.rows_per_minute);
        let full = state.pending.rows.len() >= self.rows_per_minute.saturating_mul(MINUTES);
        if let Some(row) = state.pending.rows.get_mut(&key) {
            row.count += 1;
            row.last_at = now;
        } else if full {
            self.metrics.security_events_dropped.inc();
            return;
        } else {
            let (user_agent, method) = (origin.user_agent().into(), origin.method);
            let row = Row { count: 1, at: now, last_at: now, user_agent, method, detail, actor_id };
            state.pending.rows.insert(key, row);
        }
        if key != asked {
            self.metrics.security_events_dropped.inc();
        }
    }

    /// Notes that the call that runs opened or renewed a session of this account.
    pub fn seen(&self, account_id: Uuid) {
        let Some(address) = ORIGIN.try_with(|origin| origin.address).ok().flatten() else { return };
        let mut state = self.state();
        let (full, key) =
            (state.pending.sightings.len() >= self.rows_per_minute, (account_id, coarse_network(address)));
        if full && !state.pending.sightings.contains_key(&key) {
            self.metrics.security_events_dropped.inc();
            return;
        }
        state.pending.sightings.insert(key, self.clock.now());
    }

    /// What was counted since the last time.
    pub fn take(&self) -> Batch {
        std::mem::take(&mut self.state().pending)
    }

    /// Puts a batch back that could not be written.
    pub fn restore(&self, batch: Batch) {
        let mut state = self.state();
        let most = self.rows_per_minute.saturating_mul(MINUTES);
        for (key, old) in batch.rows {
            let full = state.pending.rows.len() >= most;
            match state.pending.rows.get_mut(&key) {
                Some(new) => *new = Row { count: old.count + new.count, last_at: new.last_at, ..old },
                None if full => {
                    self.metrics.security_events_dropped.inc_by(u64::try_from(old.count).unwrap_or_default());
                }
                None => drop(state.pending.rows.insert(key, old)),
            }
        }
        for (key, at) in batch.sightings {
            if state.pending.sightings.len() < self.rows_per_minute {
                state.pending.sightings.entry(key).or_insert(at);
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The row that there is room for.
    fn place(&mut self, key: Key, limit: usize) -> Key {
        if key.minute != self.minute {
            (self.minute, self.rows) = (key.minute, 0);
            self.known.clear();
        }
        let of_subject = self.known.get(&(key.kind, key.subject)).map_or(&[][..], Vec::as_slice);
        let knows = |address| of_subject.contains(&address);
        let crowded = of_subject.len() >= ADDRESSES && !knows(key.address);
        let key = Key { address: key.address.filter(|_| !crowded), ..key };
        if knows(key.address) {
            return key;
        }
        if self.rows >= limit {
            return Key { subject: None, address: None, ..key };
        }
        self.rows += 1;
        self.known.entry((key.kind, key.subject)).or_default().push(key.address);
        key
    }
}

/// The address that counts as one client.
pub fn client_network(address: IpAddr, ipv6_prefix: u8) -> IpAddr {
    match Subject::address(address, ipv6_prefix) {
        Subject::Address(address) => address,
        _ => address,
    }
}

/// What a provider or a company has: 65,536 addresses in IPv4, a /32 in IPv6. Within it people move without travelling.
fn coarse_network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(v4) => Ipv4Addr::from_bits(v4.to_bits() & 0xffff_0000).into(),
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 96)).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recorder(rows_per_minute: usize) -> Recorder {
        let mut config = Config::default();
        config.security.rows_per_minute = rows_per_minute;
        Recorder::new(&config, Clock::default(), Arc::new(Metrics::with_database()))
    }

    fn from(address: &str) -> Origin {
        let user_agent = HeaderValue::from_str(&"x".repeat(1000)).unwrap();
        Origin { address: address.parse().ok(), user_agent: Some(user_agent), method: "/a.B/C" }
    }

    /// Rows by whom they are about, those of a minute's end together with those of the next one.
    fn counts(recorder: &Recorder) -> HashMap<(Option<Subject>, Option<IpAddr>), i64> {
        let mut counts = HashMap::new();
        for (key, row) in recorder.take().rows {
            *counts.entry((key.subject, key.address)).or_default() += row.count;
        }
        counts
    }

    #[test]
    fn a_flood_is_a_row_that_counts() {
        let (recorder, id, origin) = (recorder(100), Uuid::from_u128(1), from("192.0.2.1"));
        for _ in 0..100_000 {
            recorder.record_from(Event::about(Kind::AccessDenied, id).detail("posts:delete"), &origin);
        }
        let batch = recorder.take();
        assert!((1..=2).contains(&batch.rows.len()), "{batch:?}");
        assert_eq!(batch.rows.values().map(|row| row.count).sum::<i64>(), 100_000);
        assert!(batch.rows.values().all(|row| row.user_agent.len() == USER_AGENT_BYTES && row.method == "/a.B/C"));
        assert!(recorder.take().is_empty());
    }

    #[test]
    fn a_subject_has_few_addresses_and_the_rest_is_counted_without() {
        let (recorder, id) = (recorder(1000), Uuid::from_u128(1));
        for host in 0..=255 {
            recorder.record_from(Event::about(Kind::LoginFailed, id), &from(&format!("192.0.2.{host}")));
        }
        let counts = counts(&recorder);
        // Twice that if a minute has ended meanwhile.
        assert!(counts.len() <= 2 * ADDRESSES + 1, "{counts:?}");
        assert_eq!(counts.values().sum::<i64>(), 256);
        assert!(counts[&(Some(Subject::Account(id)), None)] >= 256 - 2 * ADDRESSES as i64);
    }

    #[test]
    fn what_a_minute_has_no_room_for_is_counted_for_everyone() {
        let recorder = recorder(10);
        for account in 0..1000 {
            recorder.record_from(Event::about(Kind::LoginFailed, Uuid::from_u128(account)), &from("192.0.2.1"));
        }
        let counts = counts(&recorder);
        assert!(counts.len() <= 21, "{counts:?}");
        assert_eq!(counts.values().sum::<i64>(), 1000);
        assert!(counts[&(None, None)] >= 980);
        assert!(recorder.metrics.security_events_dropped.get() >= 980);
    }

    #[test]
    fn what_could_not_be_written_is_put_back_and_bounded() {
        let (recorder, id) = (recorder(10), Uuid::from_u128(1));
        let record = || recorder.record_from(Event::about(Kind::LoginFailed, id), &from("192.0.2.1"));
        record();
        let batch = recorder.take();
        record();
        recorder.restore(batch);
        assert_eq!(recorder.state().pending.rows.values().map(|row| row.count).sum::<i64>(), 2);
        // The database is away for an hour.
        for _ in 0..60 {
            recorder.clock.advance(std::time::Duration::from_secs(60));
            for account in 0..20 {
                recorder.record_from(Event::about(Kind::AccessDenied, Uuid::from_u128(account)), &from("192.0.2.1"));
            }
            let batch = recorder.take();
            recorder.restore(batch);
        }
        assert!(recorder.take().rows.len() <= 10 * MINUTES);
        assert!(recorder.metrics.security_events_dropped.get() > 500);
    }

    #[tokio::test]
    async fn what_a_call_records_came_from_where_it_came_from() {
        let recorder = recorder(10);
        let call = async {
            recorder.record(Event::new(Kind::Unauthenticated));
            recorder.seen(Uuid::from_u128(1));
        };
        from("2001:db8::1:2:3:4").scope(call).await;
        let batch = recorder.take();
        let network = "2001:db8::".parse().ok();
        let (key, row) = batch.rows.iter().next().unwrap();
        assert_eq!((key.subject, key.address), (network.map(Subject::Address), network));
        assert_eq!(row.method, "/a.B/C");
        assert_eq!(batch.sightings.keys().collect::<Vec<_>>(), [&(Uuid::from_u128(1), network.unwrap())]);
    }

    #[test]
    fn every_kind_of_the_contract_has_a_name() {
        for number in 1.. {
            let Ok(kind) = Kind::try_from(number) else { break };
            let name = kind_name(kind);
            assert_eq!(format!("EVENT_KIND_{}", name.to_uppercase()), kind.as_str_name());
            assert_eq!(kind_by_name(name), kind);
        }
        assert_eq!(kind_by_name("unheard_of"), Kind::Unspecified);
    }
}
