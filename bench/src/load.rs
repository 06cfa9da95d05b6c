//! The load generator: callers that each make one call after the other, and what was measured meanwhile.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use futures_util::future::try_join_all;
use tokio::sync::mpsc;

use crate::process::{Pid, load_generator};

/// Connections and caches get so long before anything is counted.
const SETTLE: Duration = Duration::from_millis(300);

/// Whose CPU time is measured.
#[derive(Clone, Copy, Default)]
pub struct Subjects {
    /// The server that answers; none where the load goes to Postgres.
    pub server: Option<Pid>,
    /// Postgres, where the server has one.
    pub database: Option<Pid>,
    /// What else runs on the load generator's core: what a proxy stands in front of.
    pub beside: Option<Pid>,
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
    /// How busy the load generator, and what a proxy stands in front of, kept their core, from 0 to 1.
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
            server: self.server.map_or(Ok(Duration::ZERO), Pid::cpu)?,
            database: self.database.map_or(Ok(Duration::ZERO), Pid::family_cpu)?,
            load: load_generator().cpu()? + self.beside.map_or(Ok(Duration::ZERO), Pid::cpu)?,
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
    let window = Window::after_settling(wall);
    let callers = callers.into_iter().map(|mut call| async move {
        let mut latencies = Vec::new();
        loop {
            let started = Instant::now();
            call().await?;
            let now = Instant::now();
            if now >= window.end {
                return anyhow::Ok(latencies);
            }
            if now >= window.begin {
                latencies.push(now - started);
            }
        }
    });
    let (latencies, (before, after)) = tokio::try_join!(try_join_all(callers), window.usage(subjects))?;
    Ok(Sample::new(latencies.concat(), wall, &before, &after))
}

/// Offers so many calls a second, evenly, however fast they are answered, and measures for so long. The callers take turns.
/// A call takes as long as from when it was due, so that a slow answer also counts for those that waited for it.
pub async fn open_loop<C: AsyncFnMut() -> Result<()>>(
    callers: impl IntoIterator<Item = C>,
    rate: f64,
    wall: Duration,
    subjects: Subjects,
) -> Result<Sample> {
    let window = Window::after_settling(wall);
    let (turns, callers): (Vec<_>, Vec<_>) = callers
        .into_iter()
        .map(|mut call| {
            let (turn, mut due) = mpsc::unbounded_channel::<Instant>();
            let caller = async move {
                let mut latencies = Vec::new();
                while let Some(due) = due.recv().await {
                    call().await?;
                    if due >= window.begin {
                        latencies.push(due.elapsed());
                    }
                }
                anyhow::Ok(latencies)
            };
            (turn, caller)
        })
        .unzip();
    // On a thread of its own: tokio's timers are a millisecond coarse.
    let pacer = thread::spawn(move || {
        let period = Duration::from_secs_f64(1.0 / rate);
        let mut due = Instant::now();
        for turn in turns.iter().cycle() {
            due += period;
            thread::sleep(due.saturating_duration_since(Instant::now()));
            // A caller that is gone has failed, and says so itself.
            if due >= window.end || turn.send(due).is_err() {
                return;
            }
        }
    });
    let (latencies, (before, after)) = tokio::try_join!(try_join_all(callers), window.usage(subjects))?;
    ensure!(pacer.join().is_ok(), "the pacer panicked");
    Ok(Sample::new(latencies.concat(), wall, &before, &after))
}

/// When is counted.
#[derive(Clone, Copy)]
struct Window {
    begin: Instant,
    end: Instant,
}

impl Window {
    fn after_settling(wall: Duration) -> Self {
        let begin = Instant::now() + SETTLE;
        Self { begin, end: begin + wall }
    }

    /// The CPU time that had been used at its begin and at its end.
    async fn usage(self, subjects: Subjects) -> Result<(Usage, Usage)> {
        tokio::time::sleep_until(self.begin.into()).await;
        let before = subjects.usage()?;
        tokio::time::sleep_until(self.end.into()).await;
        Ok((before, subjects.usage()?))
    }
}
