//! Background work that no request waits for. Any number of processes may do it: each step is safe to repeat.

use std::time::Duration;

use super::personal_data::PARTS;
use crate::domains::{auth, passkeys, privacy, roles, security, two_factor};
use crate::gate;
use crate::kernel::app::App;
use crate::kernel::jobs::{self, Handlers};

const INTERVAL: Duration = Duration::from_secs(600);

/// Works until the server stops.
pub async fn run(app: App) {
    let periodic = async {
        tokio::select! {
            // Each step waits for a database that is away; together they would hold up the stop.
            () = app.stopping.cancelled() => {}
            () = periodic(&app) => {}
        }
    };
    tokio::join!(periodic, jobs::run(app.clone(), handlers()));
}

/// Who does the jobs of which kind: each domain adds its own.
fn handlers() -> Handlers {
    let handlers = security::jobs::handlers(auth::jobs::handlers(Handlers::default()));
    privacy::jobs::handlers(handlers, PARTS)
}

/// What is done every ten minutes.
async fn periodic(app: &App) {
    loop {
        match auth::jobs::delete_ended_sessions(app).await {
            Ok(0) => {}
            Ok(sessions) => tracing::info!(sessions, "deleted sessions that ended long ago"),
            Err(error) => tracing::warn!(%error, "ended sessions can't be deleted"),
        }
        match roles::jobs::delete_expired_assignments(app).await {
            Ok(0) => {}
            Ok(assignments) => tracing::info!(assignments, "deleted assignments of roles that have expired"),
            Err(error) => tracing::warn!(%error, "expired assignments of roles can't be deleted"),
        }
        match auth::jobs::delete_expired_challenges(app).await {
            Ok(0) => {}
            Ok(challenges) => tracing::info!(challenges, "deleted expired login challenges"),
            Err(error) => tracing::warn!(%error, "expired login challenges can't be deleted"),
        }
        match passkeys::jobs::delete_expired_ceremonies(app).await {
            Ok(0) => {}
            Ok(ceremonies) => tracing::info!(ceremonies, "deleted ceremonies of passkeys that have expired"),
            Err(error) => tracing::warn!(%error, "expired ceremonies of passkeys can't be deleted"),
        }
        match two_factor::jobs::delete_abandoned_setups(app).await {
            Ok(0) => {}
            Ok(setups) => tracing::info!(setups, "deleted two-factor setups that were not finished"),
            Err(error) => tracing::warn!(%error, "abandoned two-factor setups can't be deleted"),
        }
        match auth::jobs::delete_stale_registrations(app).await {
            Ok(0) => {}
            Ok(registrations) => tracing::info!(registrations, "deleted registrations that nobody has verified"),
            Err(error) => tracing::warn!(%error, "old registrations can't be deleted"),
        }
        match auth::jobs::delete_expired_email_changes(app).await {
            Ok(0) => {}
            Ok(changes) => {
                tracing::info!(changes, "deleted changes of e-mail addresses that can't be confirmed or undone")
            }
            Err(error) => tracing::warn!(%error, "expired changes of e-mail addresses can't be deleted"),
        }
        match privacy::jobs::delete_expired_exports(app).await {
            Ok(0) => {}
            Ok(exports) => tracing::info!(exports, "deleted expired archives"),
            Err(error) => tracing::warn!(%error, "expired archives can't be deleted"),
        }
        match security::jobs::delete_old(app).await {
            Ok(0) => {}
            Ok(rows) => tracing::info!(rows, "deleted old security events and alerts"),
            Err(error) => tracing::warn!(%error, "old security events can't be deleted"),
        }
        match gate::jobs::delete_old_idempotency_keys(app).await {
            Ok(0) => {}
            Ok(keys) => tracing::info!(keys, "deleted old idempotency keys"),
            Err(error) => tracing::warn!(%error, "old idempotency keys can't be deleted"),
        }
        tokio::time::sleep(INTERVAL).await;
    }
}
