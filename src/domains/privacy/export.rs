//! Making archives.

use chrono::Duration;
use diesel_async::AsyncConnection;
use uuid::Uuid;

use super::archive::{Archive, superseded};
use super::jobs;
use super::model::Export;
use crate::kernel::app::App;
use crate::kernel::error::Error;
use crate::kernel::personal_data::Part;

/// After so long without an end an archive is given up, and another one can be asked for: longer than its job is tried.
const UNFINISHED_KEPT: Duration = Duration::days(1);

/// Has an archive made, unless one is being made; returns that.
pub async fn request(app: &App, account_id: Uuid) -> Result<Option<Export>, Error> {
    let now = app.clock.now();
    let id = app.rng.id(now)?;
    let mut conn = app.db.get().await?;
    let export = conn
        .transaction(async |conn| {
            if Export::replace(conn, id, account_id, now, now + UNFINISHED_KEPT).await? {
                jobs::export(app, id)?.enqueue(conn).await?;
            }
            Export::of(conn, account_id, now).await
        })
        .await?;
    drop(conn);
    crate::kernel::jobs::wake(app).await;
    Ok(export)
}

/// Makes an archive. Whoever begins later makes it anew, and what is not finished can't be seen.
pub async fn make(app: &App, id: Uuid, parts: &'static [Part]) -> Result<(), Error> {
    let files: usize = parts.iter().map(|part| part.files.len()).sum();
    let begun = Export::begin(&mut *app.db.get().await?, id, i32::try_from(files).unwrap_or(i32::MAX)).await?;
    // Ready already, when a job runs twice, or not wanted any more.
    let Some(export) = begun else { return Ok(()) };
    let mut archive = Archive::new(app, &export);
    archive.text("README.txt", &readme(parts)).await?;
    let mut conn = app.db.get().await?;
    let mut moment = conn.build_transaction().repeatable_read().read_only();
    moment
        .run(async |conn| {
            let mut done = 0;
            for part in parts {
                for file in part.files {
                    archive.rows(conn, part.name, file).await?;
                    done += 1;
                    if !export.progress(&mut *app.db.get().await?, done).await? {
                        return Err(superseded());
                    }
                }
            }
            Ok::<_, Error>(())
        })
        .await?;
    drop(moment);
    let size = archive.finish().await?;
    let now = app.clock.now();
    let expires_at = now + Duration::days(app.config.privacy.export_days.into());
    conn.transaction(async |conn| {
        if !export.finish(conn, size, now, expires_at).await? {
            return Err(superseded());
        }
        jobs::export_ready(app, export.account_id)?.enqueue(conn).await
    })
    .await?;
    drop(conn);
    crate::kernel::jobs::wake(app).await;
    Ok(())
}

/// What an archive has, what it does not have, and why.
fn readme(parts: &[Part]) -> String {
    let mut text = String::from("Everything that is held about you, as of the moment when this was made.\n\n");
    for part in parts {
        for file in part.files {
            text += &format!("{}/{}\n    {}\n", part.name, file.name, file.description);
        }
    }
    text += "\nNot in here:\n\n";
    for (table, why) in parts.iter().flat_map(|part| part.left_out) {
        text += &format!("{table}\n    {why}\n");
    }
    text
}
