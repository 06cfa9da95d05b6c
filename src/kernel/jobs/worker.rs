//! The loop that claims jobs and runs their handlers.

use std::collections::HashMap;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use futures_util::FutureExt;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use uuid::Uuid;

use super::{CHANNEL, Claimed};
use crate::kernel::app::App;
use crate::kernel::error::{Error, Reason};

/// How long a worker has a job, unless it renews that. An ordinary handler is stopped some time before.
const LEASE: TimeDelta = TimeDelta::seconds(60);
const RENEWAL: Duration = Duration::from_secs(10);
const LIMIT: Duration = Duration::from_secs(45);
const LONG_LIMIT: Duration = Duration::from_secs(3600);
/// How long a job waits at most when nobody tells of it.
const POLL: Duration = Duration::from_secs(1);
/// How long the second attempt waits; each further one twice as long as the one before, up to the longest.
const FIRST_WAIT: Duration = Duration::from_secs(5);
const LONGEST_WAIT: Duration = Duration::from_secs(3600);
/// Longer reports are cut before they are stored.
const ERROR_CHARS: usize = 1000;

/// A job for its handler.
pub struct Job<P> {
    /// The same at each attempt.
    pub id: Uuid,
    /// What it is about.
    pub payload: P,
}

/// Why a job was not done.
#[derive(Debug)]
pub enum Failure {
    /// It may go well later.
    Retry(Error),
    /// It will never go well.
    Never(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Retry(error)
    }
}

type Running = Pin<Box<dyn Future<Output = Result<(), Failure>> + Send>>;
type Handler = (Duration, Box<dyn Fn(App, Uuid, Value) -> Running + Send + Sync>);

/// Who does the jobs of which kind.
#[derive(Default)]
pub struct Handlers(HashMap<&'static str, Handler>);

impl Handlers {
    /// Adds the handler of a kind. It is stopped when it takes longer than 45 seconds, and may run more than once.
    pub fn handle<P, F>(self, kind: &'static str, handler: impl Fn(App, Job<P>) -> F + Send + Sync + 'static) -> Self
    where
        P: DeserializeOwned,
        F: Future<Output = Result<(), Failure>> + Send + 'static,
    {
        self.handle_within(LIMIT, kind, handler)
    }

    /// The same for what takes long: it is stopped when it takes longer than an hour. The worker keeps the job meanwhile.
    pub fn handle_long<P, F>(
        self,
        kind: &'static str,
        handler: impl Fn(App, Job<P>) -> F + Send + Sync + 'static,
    ) -> Self
    where
        P: DeserializeOwned,
        F: Future<Output = Result<(), Failure>> + Send + 'static,
    {
        self.handle_within(LONG_LIMIT, kind, handler)
    }

    fn handle_within<P, F>(
        mut self,
        limit: Duration,
        kind: &'static str,
        handler: impl Fn(App, Job<P>) -> F + Send + Sync + 'static,
    ) -> Self
    where
        P: DeserializeOwned,
        F: Future<Output = Result<(), Failure>> + Send + 'static,
    {
        let handler = move |app: App, id: Uuid, payload: Value| -> Running {
            match serde_json::from_value(payload) {
                Ok(payload) => Box::pin(handler(app, Job { id, payload })),
                Err(error) => {
                    let failure = Failure::Never(Error::internal("the payload can't be read", error));
                    Box::pin(std::future::ready(Err(failure)))
                }
            }
        };
        self.0.insert(kind, (limit, Box::new(handler)));
        self
    }
}

/// Does jobs until the server stops, then finishes those that it has begun.
pub async fn run(app: App, handlers: Handlers) {
    let handlers = Arc::new(handlers);
    let kinds: Vec<&str> = handlers.0.keys().copied().collect();
    let woken = Arc::new(Notify::new());
    let wake = Arc::clone(&woken);
    app.bus.subscribe(CHANNEL, move |_| wake.notify_one()).await;

    let mut running = JoinSet::new();
    while !app.stopping.is_cancelled() {
        let free = app.config.jobs.concurrency.saturating_sub(running.len());
        for job in claim(&app, &kinds, free).await {
            running.spawn(perform(app.clone(), Arc::clone(&handlers), job));
        }
        let has_room = running.len() < app.config.jobs.concurrency;
        tokio::select! {
            () = app.stopping.cancelled() => break,
            Some(_) = running.join_next() => {}
            () = woken.notified(), if has_room => {}
            () = tokio::time::sleep(POLL), if has_room => {}
        }
    }
    let patience = Duration::from_secs(app.config.server.shutdown_seconds);
    if tokio::time::timeout(patience, running.join_all()).await.is_err() {
        tracing::warn!("jobs that take too long to finish will run again");
    }
}

async fn claim(app: &App, kinds: &[&str], free: usize) -> Vec<Claimed> {
    if free == 0 {
        return Vec::new();
    }
    let claim = async {
        let (mut conn, now) = (app.db.get().await?, app.clock.now());
        Claimed::claim(&mut conn, kinds, free, now, now + LEASE).await
    };
    claim.await.unwrap_or_else(|error: Error| {
        tracing::warn!(error = error.report(), "jobs can't be claimed");
        Vec::new()
    })
}

async fn perform(app: App, handlers: Arc<Handlers>, job: Claimed) {
    let result = attempt(&app, &handlers, &job).await;
    let finish = async {
        let mut conn = app.db.get().await?;
        let failure = match result {
            Ok(()) => return job.done(&mut conn).await,
            Err(failure) => failure,
        };
        let (error, run_at) = match failure {
            Failure::Retry(error) if job.attempts < app.config.jobs.max_attempts => {
                (error, Some(app.clock.now() + wait(&app, job.attempts)?))
            }
            Failure::Retry(error) | Failure::Never(error) => (error, None),
        };
        let why: String = error.report().chars().take(ERROR_CHARS).collect();
        match run_at {
            Some(_) => tracing::warn!(kind = job.kind, id = %job.id, attempt = job.attempts, why, "a job failed"),
            None => tracing::error!(kind = job.kind, id = %job.id, attempt = job.attempts, why, "a job is dead"),
        }
        job.failed(&mut conn, run_at, &why).await
    };
    if let Err(error) = finish.await {
        // It runs again when the lease is over.
        tracing::warn!(kind = job.kind, id = %job.id, error = error.report(), "the end of a job was not noted");
    }
}

async fn attempt(app: &App, handlers: &Handlers, job: &Claimed) -> Result<(), Failure> {
    if job.attempts > app.config.jobs.max_attempts {
        let message = "no attempt came to an end: the worker dies of it, or was killed each time";
        return Err(Failure::Never(Error::new(Reason::Internal, message)));
    }
    let unknown = || Failure::Retry(Error::new(Reason::Internal, "there is no handler"));
    let (limit, handler) = handlers.0.get(job.kind.as_str()).ok_or_else(unknown)?;
    let work = AssertUnwindSafe(handler(app.clone(), job.id, job.payload.clone())).catch_unwind();
    let work = tokio::time::timeout(*limit, work);
    let finished = tokio::select! {
        finished = work => finished,
        () = keep(app, job) => {
            return Err(Failure::Retry(Error::new(Reason::Internal, "somebody else has the job")));
        }
    };
    match finished {
        Ok(Ok(result)) => result,
        // The panic hook has logged where and why.
        Ok(Err(_)) => Err(Error::new(Reason::Internal, "the handler panicked").into()),
        Err(_) => Err(Error::new(Reason::Timeout, "the handler took too long").into()),
    }
}

/// Keeps a job for its handler; returns when somebody else has got it.
async fn keep(app: &App, job: &Claimed) {
    loop {
        tokio::time::sleep(RENEWAL).await;
        let renewed = async { job.renew(&mut *app.db.get().await?, app.clock.now() + LEASE).await };
        match renewed.await {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => {
                tracing::warn!(kind = job.kind, id = %job.id, error = error.report(), "a job was not renewed");
            }
        }
    }
}

/// How long to wait after this many attempts: between half of the step and all of it, so that what failed together does
/// not come back together.
fn wait(app: &App, attempts: i32) -> Result<TimeDelta, Error> {
    let doublings = u32::try_from(attempts - 1).unwrap_or_default().min(16);
    let step = FIRST_WAIT.saturating_mul(1 << doublings).min(LONGEST_WAIT);
    let share = f64::from(u32::from_be_bytes(app.rng.bytes()?)) / f64::from(u32::MAX);
    Ok(TimeDelta::from_std(step.mul_f64(0.5 + share / 2.0)).unwrap_or_default())
}
