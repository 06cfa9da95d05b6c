//! The partitions of messages and events: made before they are needed, dropped when nothing in them is kept.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use chrono::{DateTime, TimeDelta, Utc};
use diesel::prelude::*;
use diesel::sql_types::{Integer, Timestamptz};
use diesel_async::{AsyncConnection, RunQueryDsl, SimpleAsyncConnection};

use crate::kernel::db::Conn;
use crate::kernel::error::Error;
use crate::schema::message_partitions;

/// About so many partitions hold what is kept: more would make reading slower, fewer would keep more than is wanted.
const PARTITIONS: u32 = 30;

/// How many days a partition spans when messages are kept for so many; 0 keeps them for ever.
pub fn days(retention_days: u32) -> i32 {
    let days = if retention_days == 0 { PARTITIONS } else { retention_days.div_ceil(PARTITIONS) };
    i32::try_from(days).unwrap_or(i32::MAX)
}

/// Until when there are partitions, as far as this process knows. Cheap to clone.
#[derive(Clone, Default)]
pub struct Partitions(Arc<AtomicI64>);

impl Partitions {
    /// Makes the next ones before there are none.
    pub async fn ensure(&self, conn: &mut Conn, now: DateTime<Utc>, retention_days: u32) -> Result<(), Error> {
        if AtomicI64::load(&self.0, Ordering::Relaxed) <= now.timestamp_micros() {
            let until = create(conn, now, days(retention_days)).await?;
            self.0.fetch_max(until.timestamp_micros(), Ordering::Relaxed);
        }
        Ok(())
    }
}

/// Makes the partitions for that time, and those after them; returns until when there are some without a gap.
pub async fn create(conn: &mut Conn, at: DateTime<Utc>, days: i32) -> Result<DateTime<Utc>, Error> {
    let mut until = at;
    for _ in 0..2 {
        diesel::sql_query("SELECT create_message_partitions($1, $2)")
            .bind::<Timestamptz, _>(until)
            .bind::<Integer, _>(days)
            .execute(conn)
            .await?;
        let covering = message_partitions::table
            .filter(message_partitions::starts_at.le(until))
            .filter(message_partitions::ends_at.gt(until))
            .select(message_partitions::ends_at);
        until = covering.first(conn).await?;
    }
    Ok(until)
}

/// Drops the partitions in which everything is older than that; returns how many. Fails when somebody reads for so long that
/// everybody else would wait: dropping needs the tables for itself for a moment.
pub async fn drop_before(conn: &mut Conn, before: DateTime<Utc>) -> Result<usize, Error> {
    #[derive(QueryableByName)]
    struct Dropped {
        #[diesel(sql_type = Integer)]
        dropped: i32,
    }
    let dropped: Dropped = conn
        .transaction(async |conn| {
            // Less than after what time Postgres looks for deadlocks: this gives way.
            conn.batch_execute("SET LOCAL lock_timeout = '500ms'").await?;
            diesel::sql_query("SELECT drop_message_partitions($1) AS dropped")
                .bind::<Timestamptz, _>(before)
                .get_result(conn)
                .await
        })
        .await?;
    Ok(usize::try_from(dropped.dropped).unwrap_or_default())
}

/// Since when the oldest partition holds messages; `None` without any.
pub async fn oldest(conn: &mut Conn) -> Result<Option<DateTime<Utc>>, Error> {
    Ok(message_partitions::table.select(diesel::dsl::min(message_partitions::starts_at)).first(conn).await?)
}

/// Before when messages are no longer kept; `None` when they are kept for ever.
pub fn horizon(now: DateTime<Utc>, retention_days: u32) -> Option<DateTime<Utc>> {
    (retention_days > 0).then(|| now - TimeDelta::days(i64::from(retention_days)))
}

/// Since when messages of a conversation are kept, by the server's days and its own; the beginning of time for ever.
pub fn kept_since(now: DateTime<Utc>, server_days: u32, own_days: Option<i32>) -> DateTime<Utc> {
    let own = own_days.and_then(|days| u32::try_from(days).ok()).and_then(|days| horizon(now, days));
    horizon(now, server_days).max(own).unwrap_or(DateTime::UNIX_EPOCH)
}
