//! Background work of privacy: archives, erasures, and the mails about them.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::model::{self, Erasure, Export};
use super::{erasure, export as exports, mails};
use crate::kernel::app::App;
use crate::kernel::error::Error;
use crate::kernel::jobs::{Failure, Handlers, Job, NewJob};
use crate::kernel::personal_data::Part;

const EXPORT: &str = "privacy.export";
const ERASE: &str = "privacy.erase";
const NOTICE: &str = "privacy.notice";

/// What the owner of an account is told.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub enum Notice {
    /// The archive can be downloaded.
    ExportReady,
    /// The account was deleted and will be erased.
    Deleted,
    /// It will not.
    Restored,
}

#[derive(Deserialize, Serialize)]
struct ToAccount {
    account_id: Uuid,
    notice: Notice,
}

/// Makes an archive.
pub fn export(app: &App, id: Uuid) -> Result<NewJob, Error> {
    NewJob::new(app, EXPORT, &id)
}

/// Tells its owner that an archive is ready.
pub fn export_ready(app: &App, account_id: Uuid) -> Result<NewJob, Error> {
    notice(app, account_id, Notice::ExportReady)
}

/// Erases an account, if that is due then.
pub fn erase(app: &App, account_id: Uuid) -> Result<NewJob, Error> {
    NewJob::new(app, ERASE, &account_id)
}

/// Tells the owner of an account something.
pub fn notice(app: &App, account_id: Uuid, notice: Notice) -> Result<NewJob, Error> {
    NewJob::new(app, NOTICE, &ToAccount { account_id, notice })
}

/// Adds the handlers of these jobs, on what the domains hold.
pub fn handlers(handlers: Handlers, parts: &'static [Part]) -> Handlers {
    handlers
        .handle_long(
            EXPORT,
            move |app, job: Job<Uuid>| async move { Ok(exports::make(&app, job.payload, parts).await?) },
        )
        .handle_long(
            ERASE,
            move |app, job: Job<Uuid>| async move { Ok(erasure::erase(&app, job.payload, parts).await?) },
        )
        .handle(NOTICE, |app, job: Job<ToAccount>| async move { send_notice(&app, job.id, job.payload).await })
}

async fn send_notice(app: &App, job: Uuid, about: ToAccount) -> Result<(), Failure> {
    let (id, now, server) = (about.account_id, app.clock.now(), &app.config.server);
    let mail = {
        let mut conn = app.db.get().await?;
        // What a mail tells must still be so.
        let Some(to) = model::recipient(&mut conn, id).await? else { return Ok(()) };
        match about.notice {
            Notice::Restored => mails::restored(server, to),
            Notice::ExportReady => match Export::of(&mut conn, id, now).await? {
                Some(export) if export.is_ready() => mails::export_ready(server, to, &export),
                _ => return Ok(()),
            },
            Notice::Deleted => {
                let Some(erasure) = Erasure::of(&mut conn, id, now).await? else { return Ok(()) };
                let token = if erasure.by_owner {
                    let token = app.rng.token()?;
                    Erasure::set_token(&mut conn, id, &token).await?;
                    Some(token)
                } else {
                    None
                };
                mails::deleted(server, to, &erasure, token.as_deref())
            }
        }
    };
    app.mail.send(job, now, &mail).await
}

/// Forgets archives that have expired; returns how many.
pub async fn delete_expired_exports(app: &App) -> Result<usize, Error> {
    Export::delete_expired(&mut *app.db.get().await?, app.clock.now()).await
}
