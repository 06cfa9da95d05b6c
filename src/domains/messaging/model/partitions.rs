//! The partitions of messages and events: made before they are needed, dropped when nothing in them is kept.

use std::sync::{Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, TimeDelta, Utc};
use diesel::prelude::*;
use diesel::sql_types::{Integer, Timestamptz};
use diesel_async::RunQueryDsl;

use crate::kernel::db::Conn;
use crate::kernel::error::Error;
use crate::schema::message_partitions;

/// About so many partitions hold what is kept: more would make reading slower, fewer would keep more than is wanted.
const PARTITIONS: u32 = 30;

/// Until when there are partitions, as far as this node knows.
#[derive(Default)]
pub struct Partitions(Mutex<Option<DateTime<Utc>>>);

impl Partitions {
    /// Makes sure that there are partitions for what is written now.
    pub async fn ensure(&self, conn: &mut Conn, now: DateTime<Utc>, retention_days: u32) -> Result<(), Error> {
        let until = *self.until();
        if until.is_none_or(|until| until <= now) {
            let until = create(conn, now, days(retention_days)).await?;
            *self.until() = Some(until);
        }
        Ok(())
    }

    fn until(&self) -> MutexGuard<'_, Option<DateTime<Utc>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How many days a partition spans when messages are kept for so many; 0 keeps them for ever.
pub fn days(retention_days: u32) -> i32 {
    let days = if retention_days == 0 { PARTITIONS } else { retention_days.div_ceil(PARTITIONS) };
    i32::try_from(days).unwrap_or(i32::MAX)
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

/// Drops the partitions in which everything is older than that; returns how many.
pub async fn drop_before(conn: &mut Conn, before: DateTime<Utc>) -> Result<usize, Error> {
    #[derive(QueryableByName)]
    struct Dropped {
        #[diesel(sql_type = Integer)]
        dropped: i32,
    }
    let dropped: Dropped = diesel::sql_query("SELECT drop_message_partitions($1) AS dropped")
        .bind::<Timestamptz, _>(before)
        .get_result(conn)
        .await?;
    Ok(usize::try_from(dropped.dropped).unwrap_or_default())
}

/// Before when messages are no longer kept; `None` when they are kept for ever.
pub fn horizon(now: DateTime<Utc>, retention_days: u32) -> Option<DateTime<Utc>> {
    (retention_days > 0).then(|| now - TimeDelta::days(i64::from(retention_days)))
}
