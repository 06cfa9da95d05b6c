//! The load generator: callers that each make one call after the other, and what was measured meanwhile.

use std::time::{Duration, Instant};

use anyhow::Result;
use futures_util::future::try_join_all;

use crate::process::{Pid, load_generator};

/// Connections and caches get so long before anything is counted.
const SETTLE: Duration = Duration::from_millis(300);

/// Whose CPU time is measured.
#[derive(Clone, Copy)]
pub struct Subjects {
    /// The server that answers; none where the load goes to Postgres.
    pub server: Option<Pid>,
    /// Postgres.
    pub database: Pid,
}

/// What came out of one leg of one round.
#[derive(Clone, Copy, Default)]
pub struct Sample {
    /// Calls a second.
    pub rate: f64,
    /// Half of the calls took no longer.
    pub p50: Duration,
    /// 99 of 100 calls took no longer.
    pub p99: Duration,
    /// CPU time of the server for a call.
    pub server_cpu: Duration,
    /// CPU time of Postgres for a call.
    pub database_cpu: Duration,
    /// How busy the server and Postgres kept their core, from 0 to 1.
    pub server_core: f64,
    /// How busy the load generator kept its core, from 0 to 1.
    pub load_core: f64,
}

/// CPU time used by everybody, at one moment.
struct Usage {
    server: Duration,
    database: Duration,
    load: Duration,
}

impl Subjects {
    fn usage(self) -> Result<Usage> {
        Ok(Usage {
            server: self.server.map_or(Ok(Duration::ZERO), |pid| pid.cpu())?,
            database: self.database.family_cpu()?,
            load: load_generator().cpu()?,
        })
    }

    /// Measures while `work` runs, which returns how long each call took and in how long they were made.
    pub async fn measure(self, work: impl Future<Output = Result<(Vec<Duration>, Duration)>>) -> Result<Sample> {
        let before = self.usage()?;
        let (latencies, wall) = work.await?;
        Ok(Sample::new(latencies, wall, &before, &self.usage()?))
    }
}

impl Sample {
    /// CPU time of the server and Postgres for a call.
    pub fn servers_cpu(&self) -> Duration {
        self.server_cpu + self.database_cpu
    }

    fn new(mut latencies: Vec<Duration>, wall: Duration, before: &Usage, after: &Usage) -> Self {
        latencies.sort_unstable();
        let calls = latencies.len();
        let percentile = |percent: usize| latencies.get(calls * percent / 100).copied().unwrap_or_default();
        let each = |time: Duration| time.checked_div(u32::try_from(calls).unwrap_or(u32::MAX)).unwrap_or_default();
        let server = after.server.saturating_sub(before.server);
        let database = after.database.saturating_sub(before.database);
        Self {
            rate: calls as f64 / wall.as_secs_f64(),
            p50: percentile(50),
            p99: percentile(99),
            server_cpu: each(server),
            database_cpu: each(database),
            server_core: (server + database).div_duration_f64(wall),
            load_core: after.load.saturating_sub(before.load).div_duration_f64(wall),
        }
    }
}

/// Lets the callers call, each one call at a time, and measures for so long.
pub async fn closed_loop<C: AsyncFnMut() -> Result<()>>(
    callers: impl IntoIterator<Item = C>,
    wall: Duration,
    subjects: Subjects,
) -> Result<Sample> {
    let begin = Instant::now() + SETTLE;
    let end = begin + wall;
    let callers = callers.into_iter().map(|mut call| async move {
        let mut latencies = Vec::new();
        loop {
            let started = Instant::now();
            call().await?;
            let now = Instant::now();
            if now >= end {
                return anyhow::Ok(latencies);
            }
            if now >= begin {
                latencies.push(now - started);
            }
        }
    });
    let meter = async {
        tokio::time::sleep_until(begin.into()).await;
        let before = subjects.usage()?;
        tokio::time::sleep_until(end.into()).await;
        anyhow::Ok((before, subjects.usage()?))
    };
    let (latencies, (before, after)) = tokio::try_join!(try_join_all(callers), meter)?;
    Ok(Sample::new(latencies.concat(), wall, &before, &after))
}
