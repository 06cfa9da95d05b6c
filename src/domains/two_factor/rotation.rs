//! Sealing again, under a new key.

use uuid::Uuid;

use super::model::{Enrolment, place};
use crate::kernel::app::App;
use crate::kernel::error::Error;

const BATCH: i64 = 200;

/// What came of sealing again.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Resealed {
    /// Secrets that are under the first key now and were not before.
    pub resealed: usize,
    /// Secrets that can't be opened: their key is not configured, or they were changed.
    pub unreadable: usize,
}

/// Seals every secret again that is not under the first key, a batch at a time, while servers run: a secret that somebody
/// else changes meanwhile is left to them.
pub async fn reseal(app: &App) -> Result<Resealed, Error> {
    let mut outcome = Resealed::default();
    let mut last = Uuid::nil();
    loop {
        let mut conn = app.db.get().await?;
        let secrets = Enrolment::secrets_after(&mut conn, last, BATCH).await?;
        let Some((end, _)) = secrets.last() else { return Ok(outcome) };
        last = *end;
        for (account_id, old) in secrets {
            match app.sealer.reseal(&old, place(account_id)) {
                Ok(None) => {}
                Ok(Some(new)) => {
                    let replaced = Enrolment::replace_secret(&mut conn, account_id, &old, &new).await?;
                    outcome.resealed += usize::from(replaced);
                }
                Err(error) => {
                    tracing::error!(account = %account_id, %error, "a two-factor secret can't be sealed again");
                    outcome.unreadable += 1;
                }
            }
        }
    }
}
