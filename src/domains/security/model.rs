//! Rows and SQL.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Nullable, Text, Timestamptz, Uuid as SqlUuid};
use diesel::upsert::excluded;
use diesel_async::RunQueryDsl;
use prost::Message;
use uuid::Uuid;

use crate::kernel::db::Conn;
use crate::kernel::error::Error;
use crate::proto::rialto::security::v1::WatchAlertsResponse;
use crate::schema::{security_alert_changes, security_alerts, security_events, security_networks, security_sequence};

/// Rows that one statement inserts: Postgres takes 65,535 values.
const ROWS: usize = 2000;

/// The states of alerts.
pub const OPEN: &str = "open";
pub const ACKNOWLEDGED: &str = "acknowledged";
pub const RESOLVED: &str = "resolved";

/// Events of one kind, about one subject, from one address, in one minute.
#[derive(Clone, Debug, Queryable, QueryableByName, Selectable, Insertable)]
#[diesel(table_name = security_events, check_for_backend(diesel::pg::Pg), treat_none_as_default_value = false)]
pub struct Event {
    pub id: Uuid,
    pub kind: String,
    pub subject: String,
    pub minute: DateTime<Utc>,
    pub address: String,
    pub at: DateTime<Utc>,
    pub last_at: DateTime<Utc>,
    pub count: i64,
    pub user_agent: String,
    pub method: String,
    pub detail: String,
    pub actor_id: Option<Uuid>,
}

/// Which events a list has.
#[derive(Debug, Default)]
pub struct Filter {
    pub kind: Option<&'static str>,
    pub subject: Option<String>,
    pub address: Option<String>,
    pub since: Option<DateTime<Utc>>,
    pub before: Option<DateTime<Utc>>,
}

/// What was counted of a kind and a subject.
#[derive(Debug, QueryableByName)]
pub struct Sum {
    /// Which of those that were asked for, from 1.
    #[diesel(sql_type = BigInt)]
    pub n: i64,
    #[diesel(sql_type = BigInt)]
    pub count: i64,
    #[diesel(sql_type = Timestamptz)]
    pub first_at: DateTime<Utc>,
}

/// What is to be counted: events of a kind about a subject after a time.
#[derive(Debug, Default)]
pub struct Counted {
    pub kinds: Vec<&'static str>,
    pub subjects: Vec<String>,
    pub since: Vec<DateTime<Utc>>,
}

impl Event {
    /// Adds events to those of their minute.
    pub async fn add(conn: &mut Conn, rows: &[Self]) -> Result<(), Error> {
        use security_events::{address, count, kind, last_at, minute, subject};
        for rows in rows.chunks(ROWS) {
            diesel::insert_into(security_events::table)
                .values(rows)
                .on_conflict((kind, subject, minute, address))
                .do_update()
                .set((count.eq(count + excluded(count)), last_at.eq(excluded(last_at))))
                .execute(conn)
                .await?;
        }
        Ok(())
    }

    /// How many there were, with those that were written by other nodes. What was there when the last alert of the kind
    /// and subject was resolved does not count.
    pub async fn sums(conn: &mut Conn, counted: &Counted, by_address: bool) -> Result<Vec<Sum>, Error> {
        if counted.kinds.is_empty() {
            return Ok(Vec::new());
        }
        let subject = if by_address { "e.address = substr(t.subject, 9)" } else { "e.subject = t.subject" };
        let query = format!(
            "SELECT t.n, sum(e.count)::bigint AS count, min(e.at) AS first_at \
             FROM unnest($1, $2, $3) WITH ORDINALITY AS t (kind, subject, since, n) \
             JOIN security_events e ON e.kind = t.kind AND {subject} \
                 AND e.minute > t.since - interval '1 minute' AND e.last_at > t.since \
                 AND e.minute >= coalesce((SELECT max(a.resolved_at) FROM security_alerts a \
                     WHERE a.kind = t.kind AND a.subject = t.subject AND a.state = 'resolved'), '-infinity') \
             GROUP BY t.n"
        );
        let sums = diesel::sql_query(query)
            .bind::<Array<Text>, _>(&counted.kinds)
            .bind::<Array<Text>, _>(&counted.subjects)
            .bind::<Array<Timestamptz>, _>(&counted.since);
        Ok(sums.load(conn).await?)
    }

    /// Events, the newest first.
    pub async fn list(
        conn: &mut Conn,
        filter: &Filter,
        after: Option<(DateTime<Utc>, Uuid)>,
        limit: i64,
    ) -> Result<Vec<Self>, Error> {
        let (time, id) = after.unzip();
        // diesel does not keep this statement prepared, so it is planned for its values: what is NULL costs nothing.
        let query = diesel::sql_query(
            "SELECT * FROM security_events \
             WHERE ($1::text IS NULL OR kind = $1) \
             AND ($2::text IS NULL OR subject = $2) \
             AND ($3::text IS NULL OR address = $3) \
             AND ($4::timestamptz IS NULL OR at >= $4) \
             AND ($5::timestamptz IS NULL OR at < $5) \
             AND ($6::timestamptz IS NULL OR (at, id) < ($6, $7)) \
             ORDER BY at DESC, id DESC LIMIT $8",
        );
        let query = query
            .bind::<Nullable<Text>, _>(filter.kind)
            .bind::<Nullable<Text>, _>(&filter.subject)
            .bind::<Nullable<Text>, _>(&filter.address)
            .bind::<Nullable<Timestamptz>, _>(filter.since)
            .bind::<Nullable<Timestamptz>, _>(filter.before)
            .bind::<Nullable<Timestamptz>, _>(time)
            .bind::<Nullable<SqlUuid>, _>(id)
            .bind::<BigInt, _>(limit);
        Ok(query.load(conn).await?)
    }

    /// Forgets those of minutes before `before`; returns how many.
    pub async fn delete_old(conn: &mut Conn, before: DateTime<Utc>) -> Result<usize, Error> {
        Ok(diesel::delete(security_events::table.filter(security_events::at.lt(before))).execute(conn).await?)
    }
}

/// A network that an account was used from.
#[derive(Debug, Queryable, Selectable, Insertable)]
#[diesel(table_name = security_networks, check_for_backend(diesel::pg::Pg))]
pub struct Network {
    pub account_id: Uuid,
    pub network: String,
    pub seen_at: DateTime<Utc>,
}

impl Network {
    /// Those of these accounts since a time.
    pub async fn since(conn: &mut Conn, accounts: &[Uuid], since: DateTime<Utc>) -> Result<Vec<Self>, Error> {
        let recent = security_networks::table
            .filter(security_networks::account_id.eq_any(accounts))
            .filter(security_networks::seen_at.gt(since))
            .select(Self::as_select());
        Ok(recent.load(conn).await?)
    }

    /// Notes that accounts were used from there.
    pub async fn note(conn: &mut Conn, seen: &[Self]) -> Result<(), Error> {
        use security_networks::{account_id, network, seen_at};
        for seen in seen.chunks(ROWS) {
            diesel::insert_into(security_networks::table)
                .values(seen)
                .on_conflict((account_id, network))
                .do_update()
                .set(seen_at.eq(excluded(seen_at)))
                .execute(conn)
                .await?;
        }
        Ok(())
    }

    /// Forgets those before `before`; returns how many.
    pub async fn delete_old(conn: &mut Conn, before: DateTime<Utc>) -> Result<usize, Error> {
        let old = security_networks::table.filter(security_networks::seen_at.lt(before));
        Ok(diesel::delete(old).execute(conn).await?)
    }
}

/// An alert.
#[derive(Clone, Debug, PartialEq, Queryable, QueryableByName, Selectable, Insertable)]
#[diesel(table_name = security_alerts, check_for_backend(diesel::pg::Pg), treat_none_as_default_value = false)]
pub struct Alert {
    pub id: Uuid,
    pub kind: String,
    pub subject: String,
    pub severity: i16,
    pub state: String,
    pub count: i64,
    pub first_seen_at: DateTime<Utc>,
    pub last_seen_at: DateTime<Utc>,
    pub acknowledged_by: Option<Uuid>,
    pub acknowledged_at: Option<DateTime<Utc>>,
    pub resolved_by: Option<Uuid>,
    pub resolved_at: Option<DateTime<Utc>>,
    pub note: String,
}

impl Alert {
    /// One alert.
    pub async fn find(conn: &mut Conn, id: Uuid) -> Result<Self, Error> {
        let found = security_alerts::table.find(id).select(Self::as_select()).first(conn).await.optional()?;
        found.ok_or_else(|| Error::not_found("alert"))
    }

    /// Those that are not resolved, of these kinds and subjects, and perhaps of other pairs of them.
    pub async fn unresolved(conn: &mut Conn, kinds: &[&str], subjects: &[&str]) -> Result<Vec<Self>, Error> {
        let unresolved = security_alerts::table
            .filter(security_alerts::state.ne(RESOLVED))
            .filter(security_alerts::kind.eq_any(kinds))
            .filter(security_alerts::subject.eq_any(subjects))
            .select(Self::as_select());
        Ok(unresolved.load(conn).await?)
    }

    /// Alerts, the newest first.
    pub async fn list(
        conn: &mut Conn,
        state: Option<&str>,
        severity: Option<i16>,
        before: Option<Uuid>,
        limit: i64,
    ) -> Result<Vec<Self>, Error> {
        let query = diesel::sql_query(
            "SELECT * FROM security_alerts \
             WHERE ($1::text IS NULL OR state = $1) \
             AND ($2::smallint IS NULL OR severity = $2) \
             AND ($3::uuid IS NULL OR id < $3) \
             ORDER BY id DESC LIMIT $4",
        );
        let query = query
            .bind::<Nullable<Text>, _>(state)
            .bind::<Nullable<diesel::sql_types::SmallInt>, _>(severity)
            .bind::<Nullable<SqlUuid>, _>(before)
            .bind::<BigInt, _>(limit);
        Ok(query.load(conn).await?)
    }

    /// Writes new alerts, and old ones as they are now. The caller has the sequence, so nobody else changes alerts.
    pub async fn store(conn: &mut Conn, alerts: &[Self]) -> Result<(), Error> {
        use security_alerts::{
            acknowledged_at, acknowledged_by, count, id, last_seen_at, note, resolved_at, resolved_by, severity, state,
        };
        for alerts in alerts.chunks(ROWS) {
            diesel::insert_into(security_alerts::table)
                .values(alerts)
                .on_conflict(id)
                .do_update()
                .set((
                    (severity.eq(excluded(severity)), state.eq(excluded(state)), count.eq(excluded(count))),
                    (last_seen_at.eq(excluded(last_seen_at)), note.eq(excluded(note))),
                    (acknowledged_by.eq(excluded(acknowledged_by)), acknowledged_at.eq(excluded(acknowledged_at))),
                    (resolved_by.eq(excluded(resolved_by)), resolved_at.eq(excluded(resolved_at))),
                ))
                .execute(conn)
                .await?;
        }
        Ok(())
    }

    /// Forgets those that nothing was added to since `before`; returns how many.
    pub async fn delete_old(conn: &mut Conn, before: DateTime<Utc>) -> Result<usize, Error> {
        let old = security_alerts::table.filter(security_alerts::last_seen_at.lt(before)).filter(
            security_alerts::resolved_at.is_null().or(security_alerts::resolved_at.lt(before).assume_not_null()),
        );
        Ok(diesel::delete(old).execute(conn).await?)
    }
}

/// The right to change alerts, until the transaction ends, and the changes that were made.
pub struct Sequence {
    last: i64,
    pub changes: Vec<WatchAlertsResponse>,
}

impl Sequence {
    /// Waits until nobody else changes alerts. First in a transaction: what comes after sees what the others have done.
    pub async fn lock(conn: &mut Conn) -> Result<Self, Error> {
        let last = security_sequence::table.select(security_sequence::last_seq).for_update().first(conn).await?;
        Ok(Self { last, changes: Vec::new() })
    }

    /// Numbers a change.
    pub fn note(&mut self, change: WatchAlertsResponse) {
        let seq = self.last + i64::try_from(self.changes.len()).unwrap_or(i64::MAX) + 1;
        self.changes.push(WatchAlertsResponse { seq, ..change });
    }

    /// Writes the changes; last in the transaction.
    pub async fn store(self, conn: &mut Conn, now: DateTime<Utc>) -> Result<Vec<WatchAlertsResponse>, Error> {
        let Some(last) = self.changes.last().map(|change| change.seq) else { return Ok(self.changes) };
        let row = |change: &WatchAlertsResponse| {
            (
                security_alert_changes::seq.eq(change.seq),
                security_alert_changes::at.eq(now),
                security_alert_changes::change.eq(change.encode_to_vec()),
            )
        };
        for changes in self.changes.chunks(ROWS) {
            let rows: Vec<_> = changes.iter().map(row).collect();
            diesel::insert_into(security_alert_changes::table).values(rows).execute(conn).await?;
        }
        diesel::update(security_sequence::table).set(security_sequence::last_seq.eq(last)).execute(conn).await?;
        Ok(self.changes)
    }
}

/// Changes of alerts, as they are kept.
pub struct Changes;

impl Changes {
    /// The number of the last one, and of the oldest one that is kept.
    pub async fn range(conn: &mut Conn) -> Result<(i64, Option<i64>), Error> {
        let oldest = security_alert_changes::table.select(diesel::dsl::min(security_alert_changes::seq));
        let oldest = oldest.first(conn).await?;
        Ok((Self::last(conn).await?, oldest))
    }

    /// The number of the last one.
    pub async fn last(conn: &mut Conn) -> Result<i64, Error> {
        Ok(security_sequence::table.select(security_sequence::last_seq).first(conn).await?)
    }

    /// Those after a number, in order.
    pub async fn after(conn: &mut Conn, seq: i64, limit: i64) -> Result<Vec<WatchAlertsResponse>, Error> {
        let rows: Vec<Vec<u8>> = security_alert_changes::table
            .filter(security_alert_changes::seq.gt(seq))
            .order(security_alert_changes::seq)
            .limit(limit)
            .select(security_alert_changes::change)
            .load(conn)
            .await?;
        let decode = |row: Vec<u8>| WatchAlertsResponse::decode(row.as_slice());
        let decoded = rows.into_iter().map(decode).collect::<Result<_, _>>();
        decoded.map_err(|error| Error::internal("a change of an alert can't be read", error))
    }

    /// Forgets those before `before`; returns how many.
    pub async fn delete_old(conn: &mut Conn, before: DateTime<Utc>) -> Result<usize, Error> {
        let old = security_alert_changes::table.filter(security_alert_changes::at.lt(before));
        Ok(diesel::delete(old).execute(conn).await?)
    }
}
