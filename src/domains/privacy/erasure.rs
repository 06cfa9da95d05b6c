//! From the deletion of an account to its erasure, or back.

use chrono::{DateTime, Duration, Utc};
use diesel::sql_types::Uuid as SqlUuid;
use diesel_async::{AsyncConnection, RunQueryDsl};
use serde_json::json;
use uuid::Uuid;

use super::jobs::{self, Notice};
use super::model::Erasure;
use crate::domains::auth::{self, Sessions};
use crate::kernel::app::App;
use crate::kernel::caller::Caller;
use crate::kernel::db::Conn;
use crate::kernel::error::{Error, Reason};
use crate::kernel::personal_data::Part;
use crate::kernel::rates::Subject;
use crate::kernel::trail::Target;

/// Longer than what was under way when an account was deleted, such as the note of that for the audit log.
const SETTLED: Duration = Duration::minutes(1);

/// Deletes an account: it is of no use at once, on every node, and is erased after the grace period; returns when that will
/// be. Its owner is told by mail, and may cancel it if it was they who asked.
pub async fn delete_account(app: &App, sessions: &Sessions, by: &Caller, id: Uuid) -> Result<DateTime<Utc>, Error> {
    by.trail.about(Target::Account(id));
    let now = app.clock.now();
    let erase_at = now + Duration::days(app.config.privacy.erasure_grace_days.into()) + SETTLED;
    let pseudonym = uuid::Builder::from_random_bytes(app.rng.bytes()?).into_uuid();
    let by_owner = by.account_id == id;
    let mut conn = app.db.get().await?;
    let deleted = conn.transaction(async |conn| {
        let state_before = auth::delete(conn, by, id, now).await?;
        let noted = json!({ "state": state_before });
        let erasure = Erasure { account_id: id, pseudonym, state_before, by_owner, requested_at: now, erase_at };
        erasure.insert(conn).await?;
        jobs::erase(app, id)?.at(erase_at).enqueue(conn).await?;
        jobs::notice(app, id, Notice::Deleted)?.enqueue(conn).await?;
        Ok::<_, Error>(noted)
    });
    let before = deleted.await?;
    drop(conn);
    by.trail.changed(Some(before), Some(json!({ "state": "deleted" })));
    announce(app, sessions, id).await;
    Ok(erase_at)
}

/// Keeps an account that its owner has deleted; returns whose the token was.
pub async fn cancel(app: &App, sessions: &Sessions, token: &str) -> Result<Uuid, Error> {
    let now = app.clock.now();
    let mut conn = app.db.get().await?;
    let found = Erasure::by_token(&mut conn, token).await?;
    let invalid = || Error::new(Reason::TokenInvalid, "the token is not valid, or not any more");
    let erasure = found.filter(|erasure| erasure.by_owner).ok_or_else(invalid)?;
    if erasure.erase_at <= now {
        return Err(Error::new(Reason::TokenExpired, "it is too late: the account is being erased"));
    }
    conn.transaction(async |conn| {
        if !erasure.cancel(conn, now).await? {
            return Err(invalid());
        }
        restored(app, conn, &erasure).await
    })
    .await?;
    drop(conn);
    announce(app, sessions, erasure.account_id).await;
    Ok(erasure.account_id)
}

/// Keeps an account that somebody has deleted.
pub async fn restore(app: &App, sessions: &Sessions, by: &Caller, id: Uuid) -> Result<(), Error> {
    by.trail.about(Target::Account(id));
    let now = app.clock.now();
    let mut conn = app.db.get().await?;
    let restored = conn.transaction(async |conn| {
        auth::may_act_on(conn, by, id, now).await?;
        let not_found = || Error::not_found("deleted account");
        let erasure = Erasure::of(conn, id, now).await?.ok_or_else(not_found)?;
        if !erasure.cancel(conn, now).await? {
            return Err(not_found());
        }
        restored(app, conn, &erasure).await?;
        Ok(json!({ "state": erasure.state_before }))
    });
    let after = restored.await?;
    drop(conn);
    by.trail.changed(Some(json!({ "state": "deleted" })), Some(after));
    announce(app, sessions, id).await;
    Ok(())
}

async fn restored(app: &App, conn: &mut Conn, erasure: &Erasure) -> Result<(), Error> {
    auth::restore(conn, erasure.account_id, &erasure.state_before, app.clock.now()).await?;
    jobs::notice(app, erasure.account_id, Notice::Restored)?.enqueue(conn).await
}

async fn announce(app: &App, sessions: &Sessions, id: Uuid) {
    sessions.changed(id).await;
    app.account_events.sight.changed(&[id], &[]).await;
    crate::kernel::jobs::wake(app).await;
}

/// Erases an account whose grace period is over. Each statement stands by itself and finds nothing when it runs again, so
/// what was interrupted goes on where it was.
pub async fn erase(app: &App, account_id: Uuid, parts: &'static [Part]) -> Result<(), Error> {
    let mut conn = app.db.get().await?;
    if let Some(erasure) = Erasure::begin(&mut conn, account_id, app.clock.now()).await? {
        auth::forget_failures(app, account_id).await?;
        for statement in parts.iter().flat_map(|part| part.erase) {
            while run(&mut conn, statement, &erasure).await? > 0 {}
        }
        tracing::info!(pseudonym = %erasure.pseudonym, "an account was erased");
    } else if Erasure::account_exists(&mut conn, account_id).await? {
        // It was cancelled.
        return Ok(());
    }
    drop(conn);
    app.rates.forget(Subject::Account(account_id)).await
}

async fn run(conn: &mut Conn, statement: &str, erasure: &Erasure) -> Result<usize, Error> {
    let query =
        diesel::sql_query(statement).bind::<SqlUuid, _>(erasure.account_id).bind::<SqlUuid, _>(erasure.pseudonym);
    Ok(query.execute(conn).await?)
}
