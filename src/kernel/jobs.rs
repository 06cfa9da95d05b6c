//! Work that is done later, and surely. A job is a row that is written in the transaction of what needs it: it is there
//! exactly when that was committed. Workers claim it for a while, so that the job of a worker that was killed runs again.
//!
//! At least once: a handler may run twice, and must not mind. What fails is tried again, later each time; what fails too
//! often is dead, and stays for somebody to look at (`rialto doctor`, the metric `jobs_dead`).

mod worker;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Integer, Jsonb, Nullable, Text, Timestamptz, Uuid as SqlUuid};
use diesel_async::RunQueryDsl;
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

use crate::kernel::app::App;
use crate::kernel::db::Conn;
use crate::kernel::error::Error;
use crate::schema::jobs;

pub use worker::{Failure, Handlers, Job, run};

const CHANNEL: &str = "jobs";

/// A job to be done.
#[derive(Insertable)]
#[diesel(table_name = jobs, treat_none_as_default_value = false)]
pub struct NewJob {
    id: Uuid,
    kind: &'static str,
    payload: Value,
    unique_key: Option<String>,
    run_at: DateTime<Utc>,
    created_at: DateTime<Utc>,
}

impl NewJob {
    /// A job for the handler of this kind, as soon as may be. The payload is stored as it is: no secrets in it.
    pub fn new(app: &App, kind: &'static str, payload: &impl Serialize) -> Result<Self, Error> {
        let now = app.clock.now();
        let payload = serde_json::to_value(payload).map_err(|error| Error::internal("the payload of a job", error))?;
        Ok(Self { id: app.rng.id(now)?, kind, payload, unique_key: None, run_at: now, created_at: now })
    }

    /// Not before then.
    pub fn at(mut self, time: DateTime<Utc>) -> Self {
        self.run_at = time;
        self
    }

    /// While a job of the kind with this key waits or runs, another one is not made.
    pub fn unique(mut self, key: impl Into<String>) -> Self {
        self.unique_key = Some(key.into());
        self
    }

    /// Writes it, in the caller's transaction. [`wake`] after the commit makes it start at once.
    pub async fn enqueue(&self, conn: &mut Conn) -> Result<(), Error> {
        diesel::insert_into(jobs::table).values(self).on_conflict_do_nothing().execute(conn).await?;
        Ok(())
    }
}

/// Takes back the job of a kind with this key, if one waits. One that runs already is not stopped, and not tried again.
pub async fn cancel(conn: &mut Conn, kind: &str, unique_key: &str) -> Result<(), Error> {
    let waiting =
        jobs::table.filter(jobs::kind.eq(kind)).filter(jobs::unique_key.eq(unique_key)).filter(jobs::state.eq("ready"));
    diesel::delete(waiting).execute(conn).await?;
    Ok(())
}

/// Tells the workers that there is a job. One that does not hear of it finds it within a second.
pub async fn wake(app: &App) {
    let _ = app.bus.publish([(CHANNEL.to_owned(), Bytes::new())]).await;
}

/// Jobs that failed too often, and for how many seconds the oldest job that could run has been waiting.
#[derive(Clone, Copy, Debug, Default, QueryableByName)]
pub struct Backlog {
    /// How many are dead.
    #[diesel(sql_type = BigInt)]
    pub dead: i64,
    /// When the oldest that nobody works on was due.
    #[diesel(sql_type = Nullable<Timestamptz>)]
    pub due_since: Option<DateTime<Utc>>,
}

impl Backlog {
    /// How things are.
    pub async fn read(conn: &mut Conn, now: DateTime<Utc>) -> Result<Self, Error> {
        let query = "SELECT (SELECT count(*) FROM jobs WHERE state = 'dead') AS dead, \
                     (SELECT min(run_at) FROM jobs WHERE state = 'ready' AND run_at <= $1 \
                      AND (locked_until IS NULL OR locked_until <= $1)) AS due_since";
        Ok(diesel::sql_query(query).bind::<Timestamptz, _>(now).get_result(conn).await?)
    }
}

/// A job that this worker has for a while.
#[derive(Debug, QueryableByName)]
struct Claimed {
    #[diesel(sql_type = SqlUuid)]
    id: Uuid,
    #[diesel(sql_type = Text)]
    kind: String,
    #[diesel(sql_type = Jsonb)]
    payload: Value,
    #[diesel(sql_type = Integer)]
    attempts: i32,
}

impl Claimed {
    /// Takes up to `limit` jobs of these kinds that are due and that nobody has.
    async fn claim(
        conn: &mut Conn,
        kinds: &[&str],
        limit: usize,
        now: DateTime<Utc>,
        until: DateTime<Utc>,
    ) -> Result<Vec<Self>, Error> {
        let query = "WITH due AS MATERIALIZED ( \
                         SELECT id FROM jobs \
                         WHERE state = 'ready' AND run_at <= $1 AND (locked_until IS NULL OR locked_until <= $1) \
                             AND kind = ANY($2) \
                         ORDER BY run_at LIMIT $3 FOR UPDATE SKIP LOCKED) \
                     UPDATE jobs SET attempts = attempts + 1, locked_until = $4 FROM due WHERE jobs.id = due.id \
                     RETURNING jobs.id, jobs.kind, jobs.payload, jobs.attempts";
        let claimed = diesel::sql_query(query)
            .bind::<Timestamptz, _>(now)
            .bind::<Array<Text>, _>(kinds)
            .bind::<BigInt, _>(i64::try_from(limit).unwrap_or(i64::MAX))
            .bind::<Timestamptz, _>(until)
            .load(conn)
            .await?;
        Ok(claimed)
    }

    /// Keeps it for longer; false when somebody else has it by now.
    async fn renew(&self, conn: &mut Conn, until: DateTime<Utc>) -> Result<bool, Error> {
        let mine = jobs::table.find(self.id).filter(jobs::attempts.eq(self.attempts));
        Ok(diesel::update(mine).set(jobs::locked_until.eq(until)).execute(conn).await? == 1)
    }

    /// It is done. Has no effect when somebody else has it by now.
    async fn done(&self, conn: &mut Conn) -> Result<(), Error> {
        let mine = jobs::table.find(self.id).filter(jobs::attempts.eq(self.attempts));
        diesel::delete(mine).execute(conn).await?;
        Ok(())
    }

    /// It failed: again at `run_at`, or never. Has no effect when somebody else has it by now.
    async fn failed(&self, conn: &mut Conn, run_at: Option<DateTime<Utc>>, why: &str) -> Result<(), Error> {
        let mine = jobs::table.find(self.id).filter(jobs::attempts.eq(self.attempts));
        let update = diesel::update(mine);
        let unlocked = (jobs::locked_until.eq(None::<DateTime<Utc>>), jobs::last_error.eq(why));
        match run_at {
            Some(run_at) => update.set((unlocked, jobs::run_at.eq(run_at))).execute(conn).await?,
            None => update.set((unlocked, jobs::state.eq("dead"))).execute(conn).await?,
        };
        Ok(())
    }
}
