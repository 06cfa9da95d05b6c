//! From events to alerts.

use std::collections::{BTreeMap, HashMap};

use chrono::{DateTime, TimeDelta, Utc};
use diesel_async::AsyncConnection;
use uuid::Uuid;

use super::model::{ACKNOWLEDGED, Alert, Counted, Event, OPEN, RESOLVED, Sequence};
use super::wire::{of_account, of_address, severity, stored_subject};
use super::{notices, travel};
use crate::kernel::app::App;
use crate::kernel::config::{Severity, Threshold};
use crate::kernel::db::Conn;
use crate::kernel::error::{Error, Reason};
use crate::kernel::security::{Batch, Key, Kind, Row, kind_by_name, kind_name};
use crate::kernel::wire::timestamp;
use crate::proto::rialto::security::v1::watch_alerts_response::Change;
use crate::proto::rialto::security::v1::{self as proto, WatchAlertsResponse};

/// What a batch has of a kind and a subject.
#[derive(Debug)]
struct Touched {
    count: i64,
    last_at: DateTime<Utc>,
    /// Whether the subject is the address that events about others came from.
    by_address: bool,
    /// How many there were in the window of the threshold, those of the batch among them, and the first.
    window: Option<(i64, DateTime<Utc>)>,
}

/// What a batch has, by kind and subject.
type ByPair = BTreeMap<(&'static str, String), Touched>;

/// Writes a batch, and what it means for alerts: new ones, counts, severities, and the jobs that tell of it. All of it or
/// nothing. Nodes do this one after the other, so that each counts what the others have written.
pub async fn write(app: &App, batch: &Batch) -> Result<Vec<WatchAlertsResponse>, Error> {
    let now = app.clock.now();
    let mut conn = app.db.get().await?;
    conn.transaction(async |conn| {
        let mut sequence = Sequence::lock(conn).await?;
        let mut events = rows(app, batch)?;
        for (account_id, count, at) in travel::find(app, conn, &batch.sightings, now).await? {
            events.push(travelled(app, account_id, count, at)?);
        }
        Event::add(conn, &events).await?;
        raise(app, conn, &mut sequence, &events, now).await?;
        sequence.store(conn, now).await
    })
    .await
}

fn rows(app: &App, batch: &Batch) -> Result<Vec<Event>, Error> {
    let row = |(key, row): (&Key, &Row)| {
        Ok(Event {
            id: app.rng.id(row.at)?,
            kind: kind_name(key.kind).into(),
            subject: stored_subject(key.subject),
            minute: minute(row.at),
            address: key.address.map(|address| address.to_string()).unwrap_or_default(),
            at: row.at,
            last_at: row.last_at,
            count: row.count,
            user_agent: row.user_agent.to_string(),
            method: row.method.into(),
            detail: row.detail.into(),
            actor_id: row.actor_id,
        })
    };
    batch.rows.iter().map(row).collect()
}

fn travelled(app: &App, account_id: Uuid, count: i64, at: DateTime<Utc>) -> Result<Event, Error> {
    app.metrics.security_event(kind_name(Kind::ImpossibleTravel));
    Ok(Event {
        id: app.rng.id(at)?,
        kind: kind_name(Kind::ImpossibleTravel).into(),
        subject: of_account(account_id),
        minute: minute(at),
        address: String::new(),
        at,
        last_at: at,
        count,
        user_agent: String::new(),
        method: String::new(),
        detail: "more networks than security.travel_networks".into(),
        actor_id: None,
    })
}

/// The beginning of its minute.
fn minute(at: DateTime<Utc>) -> DateTime<Utc> {
    DateTime::from_timestamp(at.timestamp().div_euclid(60) * 60, 0).unwrap_or(at)
}

async fn raise(
    app: &App,
    conn: &mut Conn,
    sequence: &mut Sequence,
    events: &[Event],
    now: DateTime<Utc>,
) -> Result<(), Error> {
    let mut touched = touched(events);
    if touched.is_empty() {
        return Ok(());
    }
    let kinds: Vec<_> = touched.keys().map(|(kind, _)| *kind).collect();
    let subjects: Vec<_> = touched.keys().map(|(_, subject)| subject.as_str()).collect();
    let mut unresolved: HashMap<_, _> = HashMap::new();
    for alert in Alert::unresolved(conn, &kinds, &subjects).await? {
        unresolved.insert((alert.kind.clone(), alert.subject.clone()), alert);
    }
    count(app, conn, &mut touched, now).await?;
    let (mut stored, mut told) = (Vec::new(), Vec::new());
    for ((kind, subject), seen) in touched {
        let reached = seen.window.and_then(|(count, _)| threshold(app, kind, seen.by_address).severity(count));
        if let Some(mut alert) = unresolved.remove(&(kind.to_owned(), subject.clone())) {
            alert.count += seen.count;
            alert.last_seen_at = alert.last_seen_at.max(seen.last_at);
            if let Some(reached) = reached.filter(|reached| *reached as i16 > alert.severity) {
                alert.severity = reached as i16;
                alert.state = OPEN.into();
                told.push((reached, false, alert.clone()));
            }
            stored.push(alert);
        } else if let (Some(reached), Some((count, first_at))) = (reached, seen.window) {
            let alert = raised(app, kind, subject, reached, count, (first_at, seen.last_at), now)?;
            told.push((reached, true, alert.clone()));
            stored.push(alert);
        }
    }
    Alert::store(conn, &stored).await?;
    for (reached, new, alert) in told {
        notices::enqueue(app, conn, reached, new, &alert).await?;
        sequence.note(change(if new { Change::Raised } else { Change::Escalated }, &alert, now));
    }
    Ok(())
}

fn touched(events: &[Event]) -> ByPair {
    let mut touched = ByPair::new();
    let mut touch = |kind, subject, by_address, event: &Event| {
        let last_at = event.last_at;
        let seen = touched.entry((kind, subject)).or_insert(Touched { count: 0, last_at, by_address, window: None });
        seen.count += event.count;
        seen.last_at = seen.last_at.max(last_at);
    };
    for event in events {
        let kind = kind_name(kind_by_name(&event.kind));
        touch(kind, event.subject.clone(), false, event);
        // One address that tries many accounts.
        if kind_by_name(&event.kind) == Kind::LoginFailed && !event.address.is_empty() {
            touch(kind, of_address(&event.address), true, event);
        }
    }
    touched
}

fn threshold(app: &App, kind: &str, by_address: bool) -> Threshold {
    app.config.security.thresholds.of(kind_by_name(kind), by_address)
}

/// Counts the events of each kind and subject in the window of its threshold.
async fn count(app: &App, conn: &mut Conn, touched: &mut ByPair, now: DateTime<Utc>) -> Result<(), Error> {
    for by_address in [false, true] {
        let (mut counted, mut pairs) = (Counted::default(), Vec::new());
        for ((kind, subject), seen) in touched.iter_mut().filter(|(_, seen)| seen.by_address == by_address) {
            counted.kinds.push(kind);
            counted.subjects.push(subject.clone());
            counted.since.push(now - TimeDelta::seconds(i64::from(threshold(app, kind, by_address).seconds)));
            pairs.push(seen);
        }
        for sum in Event::sums(conn, &counted, by_address).await? {
            let index = usize::try_from(sum.n - 1).unwrap_or_default();
            if let Some(seen) = pairs.get_mut(index) {
                seen.window = Some((sum.count, sum.first_at));
            }
        }
    }
    Ok(())
}

fn raised(
    app: &App,
    kind: &str,
    subject: String,
    severity: Severity,
    count: i64,
    (first_seen_at, last_seen_at): (DateTime<Utc>, DateTime<Utc>),
    now: DateTime<Utc>,
) -> Result<Alert, Error> {
    Ok(Alert {
        id: app.rng.id(now)?,
        kind: kind.into(),
        subject,
        severity: severity as i16,
        state: OPEN.into(),
        count,
        first_seen_at,
        last_seen_at,
        acknowledged_by: None,
        acknowledged_at: None,
        resolved_by: None,
        resolved_at: None,
        note: String::new(),
    })
}

fn change(change: fn(proto::Alert) -> Change, alert: &Alert, now: DateTime<Utc>) -> WatchAlertsResponse {
    // The sequence numbers it.
    WatchAlertsResponse { seq: 0, at: Some(timestamp(now)), change: Some(change(alert.into())) }
}

/// What somebody does about an alert.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Decision {
    /// Looks after it.
    Acknowledge,
    /// Closes it.
    Resolve,
}

/// Acknowledges or resolves an alert; returns it, and the change.
pub async fn decide(
    app: &App,
    id: Uuid,
    decision: Decision,
    by: Uuid,
    note: String,
) -> Result<(Alert, Vec<WatchAlertsResponse>), Error> {
    let now = app.clock.now();
    let mut conn = app.db.get().await?;
    conn.transaction(async |conn| {
        let mut sequence = Sequence::lock(conn).await?;
        let mut alert = Alert::find(conn, id).await?;
        if alert.state == RESOLVED {
            return Err(Error::new(Reason::AlertResolved, "the alert is resolved already"));
        }
        alert.note.clone_from(&note);
        let made = match decision {
            Decision::Acknowledge => {
                alert.state = ACKNOWLEDGED.into();
                (alert.acknowledged_by, alert.acknowledged_at) = (Some(by), Some(now));
                Change::Acknowledged
            }
            Decision::Resolve => {
                alert.state = RESOLVED.into();
                (alert.resolved_by, alert.resolved_at) = (Some(by), Some(now));
                Change::Resolved
            }
        };
        Alert::store(conn, std::slice::from_ref(&alert)).await?;
        sequence.note(change(made, &alert, now));
        Ok((alert, sequence.store(conn, now).await?))
    })
    .await
}

/// The severity of an alert, for people.
pub fn severity_name(alert: &Alert) -> &'static str {
    severity(alert.severity).map_or("", Severity::name)
}
