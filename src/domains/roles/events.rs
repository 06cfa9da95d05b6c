//! What accounts are told of their roles, on their streams.

use chrono::{DateTime, Utc};
use diesel_async::AsyncConnection;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::graph::Graph;
use super::model::{Assignment, Role};
use crate::kernel::account_events::{self, Announcement, Event};
use crate::kernel::app::App;
use crate::kernel::db::Conn;
use crate::kernel::error::Error;
use crate::kernel::jobs::NewJob;
use crate::kernel::wire::timestamp;
use crate::proto::rialto::account::v1::{AbilitiesChanged, RoleAssigned, RoleUnassigned};

/// Tells those who have a role that it was changed.
pub const CHANGED: &str = "roles.changed";
/// Accounts that are told in one transaction.
const BATCH: i64 = 500;

/// A role that was changed, and the roles by which accounts have it: itself, and those that inherit from it.
#[derive(Deserialize, Serialize)]
pub struct Changed {
    role_id: Uuid,
    by: Vec<Uuid>,
}

/// That the account was given a role.
pub async fn assigned(
    conn: &mut Conn,
    account_id: Uuid,
    role: &Role,
    expires_at: Option<DateTime<Utc>>,
    now: DateTime<Utc>,
) -> Result<Announcement, Error> {
    let (role_id, name) = (role.id.to_string(), role.name.clone());
    let event = Event::RoleAssigned(RoleAssigned { role_id, name, expires_at: expires_at.map(timestamp) });
    account_events::append(conn, &[(account_id, event)], now).await
}

/// That a role was taken from the account.
pub async fn unassigned(
    conn: &mut Conn,
    account_id: Uuid,
    role: &Role,
    now: DateTime<Utc>,
) -> Result<Announcement, Error> {
    account_events::append(conn, &[(account_id, lost(role))], now).await
}

/// That a role which is about to be deleted was taken from all who have it.
pub async fn deleted(conn: &mut Conn, role: &Role, now: DateTime<Utc>) -> Result<Announcement, Error> {
    // As many rows as the deletion takes along.
    let holders = Assignment::holders(conn, &[role.id], Uuid::nil(), i64::MAX).await?;
    let events: Vec<_> = holders.into_iter().map(|account_id| (account_id, lost(role))).collect();
    account_events::append(conn, &events, now).await
}

fn lost(role: &Role) -> Event {
    Event::RoleUnassigned(RoleUnassigned { role_id: role.id.to_string(), name: role.name.clone() })
}

/// Leaves it to a job to tell those who have a role that it was changed: there may be very many. To be called before the change,
/// in its transaction.
pub async fn enqueue_changed(app: &App, conn: &mut Conn, graph: &Graph, role_id: Uuid) -> Result<(), Error> {
    let by = graph.iter().map(|(id, _)| id).filter(|id| graph.inherits(&[*id], role_id)).collect();
    NewJob::new(app, CHANGED, &Changed { role_id, by })?.enqueue(conn).await
}

/// Tells them, some at a time. Run again, it tells some of them twice, who ask for their abilities twice.
pub async fn tell_changed(app: &App, changed: &Changed) -> Result<(), Error> {
    let event = Event::AbilitiesChanged(AbilitiesChanged { role_id: changed.role_id.to_string() });
    let mut last = Uuid::nil();
    loop {
        let mut conn = app.db.get().await?;
        let holders = Assignment::holders(&mut conn, &changed.by, last, BATCH).await?;
        let Some(end) = holders.last() else { return Ok(()) };
        last = *end;
        let events: Vec<_> = holders.into_iter().map(|account_id| (account_id, event.clone())).collect();
        let now = app.clock.now();
        let told = conn.transaction(async |conn| account_events::append(conn, &events, now).await).await?;
        drop(conn);
        app.account_events.announce(told).await;
    }
}
