//! Background work that no request waits for. Any number of processes may do it: each step is safe to repeat.

use std::time::Duration;

use super::personal_data::PARTS;
use crate::domains::{account, auth, keys, messaging, passkeys, privacy, roles, security, two_factor};
use crate::gate;
use crate::kernel::app::App;
use crate::kernel::error::Error;
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
    tokio::join!(periodic, messaging::jobs::run(&app), jobs::run(app.clone(), handlers()));
}

/// Who does the jobs of which kind: each domain adds its own.
fn handlers() -> Handlers {
    let handlers = security::jobs::handlers(messaging::jobs::handlers(auth::jobs::handlers(Handlers::default())));
    privacy::jobs::handlers(roles::jobs::handlers(handlers), PARTS)
}

/// What is done every ten minutes.
async fn periodic(app: &App) {
    loop {
        forget("sessions that ended long ago", auth::jobs::delete_ended_sessions(app)).await;
        forget("assignments of roles that have expired", roles::jobs::delete_expired_assignments(app)).await;
        forget("login challenges that have expired", auth::jobs::delete_expired_challenges(app)).await;
        forget("ceremonies of passkeys that have expired", passkeys::jobs::delete_expired_ceremonies(app)).await;
        forget("two-factor setups that were not finished", two_factor::jobs::delete_abandoned_setups(app)).await;
        forget("registrations that nobody has verified", auth::jobs::delete_stale_registrations(app)).await;
        forget("changes of e-mail addresses that have expired", auth::jobs::delete_expired_email_changes(app)).await;
        forget("devices that were not seen for long", keys::jobs::delete_stale_devices(app)).await;
        forget("prekeys that were handed out long ago", keys::jobs::delete_claimed_prekeys(app)).await;
        forget("archives that have expired", privacy::jobs::delete_expired_exports(app)).await;
        forget("old security events and alerts", security::jobs::delete_old(app)).await;
        forget("messages that are no longer kept", messaging::jobs::delete_old_messages(app)).await;
        forget("scheduled messages that were refused long ago", messaging::jobs::delete_refused_messages(app)).await;
        forget("old events of accounts", account::jobs::delete_old_events(app)).await;
        forget("nodes that were killed", account::jobs::delete_lost_nodes(app)).await;
        forget("old idempotency keys", gate::jobs::delete_old_idempotency_keys(app)).await;
        tokio::time::sleep(INTERVAL).await;
    }
}

/// Deletes rows, and logs how many.
async fn forget(what: &'static str, delete: impl Future<Output = Result<usize, Error>>) {
    match delete.await {
        Ok(0) => {}
        Ok(rows) => tracing::info!(what, rows, "deleted"),
        Err(error) => tracing::warn!(what, %error, "can't be deleted"),
    }
}
