//! Health: whether the process lives, whether it can serve, and what it depends on.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Json;
use axum::response::{IntoResponse, Response};
use diesel_async::SimpleAsyncConnection;
use http::StatusCode;
use tokio::sync::watch;
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::{Health as HealthContract, HealthServer};
use tonic_health::server::HealthReporter;

use crate::domains::messaging;
use crate::kernel::app::App;
use crate::kernel::jobs::Backlog;
use crate::kernel::policy::RULES;

/// How often the dependencies are asked. What clients are told is at most so old.
const INTERVAL: Duration = Duration::from_secs(2);

/// The newest report.
#[derive(Clone)]
pub struct Health {
    state: watch::Receiver<State>,
    started: Instant,
    app: App,
}

#[derive(Clone, Copy, Default)]
struct State {
    /// How long the database took to answer; `None` when it did not.
    database: Option<Duration>,
    redis: bool,
}

impl Health {
    /// Starts asking; returns the HTTP and the gRPC side (`grpc.health.v1`).
    pub fn start(app: &App) -> (Self, HealthServer<impl HealthContract>) {
        let (reporter, service) = tonic_health::server::health_reporter();
        let (sender, state) = watch::channel(State::default());
        tokio::spawn(ask(app.clone(), sender, reporter));
        (Self { state, started: Instant::now(), app: app.clone() }, service)
    }

    /// `/health`: 200 while the database answers. Without Redis the server is degraded, but serves.
    pub fn report(&self) -> Response {
        let State { database, redis } = *self.state.borrow();
        let (code, status) = match (database, redis) {
            (None, _) => (StatusCode::SERVICE_UNAVAILABLE, "down"),
            (Some(_), false) => (StatusCode::OK, "degraded"),
            (Some(_), true) => (StatusCode::OK, "up"),
        };
        let up = |up: bool| if up { "up" } else { "down" };
        let body = serde_json::json!({
            "status": status,
            "version": env!("CARGO_PKG_VERSION"),
            "uptimeSeconds": self.started.elapsed().as_secs(),
            "checks": {
                "database": {
                    "status": up(database.is_some()),
                    "latencyMs": database.map(|took| took.as_secs_f64() * 1000.0),
                },
                "redis": { "status": up(redis) },
                "memory": { "residentBytes": resident_bytes() },
            },
        });
        (code, Json(body)).into_response()
    }

    /// `/ready`: 200 while new requests should be sent here.
    pub fn readiness(&self) -> Response {
        let ready = self.state.borrow().database.is_some() && !self.app.stopping.is_cancelled();
        let code = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        (code, Json(serde_json::json!({ "ready": ready }))).into_response()
    }
}

async fn ask(app: App, sender: watch::Sender<State>, reporter: HealthReporter) {
    let sender = Arc::new(sender);
    loop {
        let state = State { database: database(&app).await, redis: app.bus.is_up() };
        sender.send_replace(state);
        let stopping = app.stopping.is_cancelled();
        let serving = state.database.is_some() && !stopping;
        let status = if serving { ServingStatus::Serving } else { ServingStatus::NotServing };
        for service in services() {
            reporter.set_service_status(service, status).await;
        }
        if stopping {
            return;
        }
        let mut link = app.bus.link();
        tokio::select! {
            () = app.stopping.cancelled() => {}
            _ = link.changed() => {}
            () = tokio::time::sleep(INTERVAL) => {}
        }
    }
}

/// The services of the contract, and the empty name for the whole server.
fn services() -> impl Iterator<Item = &'static str> {
    let mut names: Vec<_> = RULES.iter().filter_map(|rule| rule.path.split('/').nth(1)).collect();
    names.dedup();
    std::iter::once("").chain(names)
}

async fn database(app: &App) -> Option<Duration> {
    let started = Instant::now();
    let mut conn = app.db.get().await.ok()?;
    tokio::time::timeout(INTERVAL, conn.batch_execute("SELECT 1")).await.ok()?.ok()?;
    let took = started.elapsed();
    let now = app.clock.now();
    // The database answers, whatever comes of this.
    if let Ok(Ok(backlog)) = tokio::time::timeout(INTERVAL, Backlog::read(&mut conn, now)).await {
        app.metrics.jobs_dead.set(backlog.dead);
        let delay = backlog.due_since.map_or(0, |since| (now - since).num_seconds());
        app.metrics.jobs_delay_seconds.set(delay);
    }
    if let Ok(Ok(kept)) = tokio::time::timeout(INTERVAL, messaging::Kept::read(&mut conn)).await {
        app.metrics.messages_deleted(u64::try_from(kept.deleted).unwrap_or_default());
        let age = kept.oldest.map_or(0, |oldest| (now - oldest).num_seconds());
        app.metrics.messages_oldest_partition_seconds.set(age);
    }
    Some(took)
}

/// Memory that the process has in RAM, from `/proc/self/statm`, in pages of 4 KiB.
fn resident_bytes() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    Some(statm.split_whitespace().nth(1)?.parse::<u64>().ok()? * 4096)
}
