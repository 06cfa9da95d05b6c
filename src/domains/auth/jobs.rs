//! Background work of accounts: what is mailed, and what is forgotten.
//!
//! A handler that mails a token makes it: a token is never in a job. When it runs twice, the second mail has the good one.

use chrono::{DateTime, Duration, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::challenge::Challenge;
use super::model::email_change::{EmailChange, EmailUndo};
use super::model::registration::Registration;
use super::model::reset::PasswordReset;
use super::model::{Account, Session, fold_email};
use super::{email_change, mails, throttle};
use crate::kernel::app::App;
use crate::kernel::error::Error;
use crate::kernel::jobs::{Failure, Handlers, Job, NewJob};
use crate::kernel::mail::Mail;
use crate::proto::rialto::auth::v1::AccountState;

/// How long an ended session is kept, so that a late use of its refresh token is still recognised.
const SESSIONS_KEPT: Duration = Duration::days(30);
/// How long a registration waits for its address to be verified.
const REGISTRATIONS_KEPT: Duration = Duration::days(7);
/// How long an expired challenge is kept, so that a late code is told what is wrong.
const CHALLENGES_KEPT: Duration = Duration::minutes(10);

const VERIFICATION: &str = "auth.verification";
const RESEND_VERIFICATION: &str = "auth.resend_verification";
const RESET_PASSWORD: &str = "auth.reset_password";
const NOTICE: &str = "auth.notice";

/// What the owner of an account is told.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub enum Notice {
    /// The password was changed or reset.
    PasswordChanged,
    /// An administrator has approved the account.
    Approved,
    /// An administrator has rejected it.
    Rejected,
    /// Somebody has logged in from a device that the account does not know.
    NewDevice {
        /// What kind of device.
        device: String,
        /// The client address.
        address: String,
        /// When.
        at: DateTime<Utc>,
    },
    /// A passkey was added.
    PasskeyAdded(Place),
    /// A passkey was deleted.
    PasskeyRemoved(Place),
    /// Two-factor authentication was enabled.
    TwoFactorEnabled,
    /// It was disabled.
    TwoFactorDisabled,
    /// An administrator has taken it away.
    TwoFactorReset,
    /// Its backup codes were replaced.
    BackupCodesReplaced,
}

/// From where something was done, and when.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Place {
    /// What kind of device.
    pub device: String,
    /// The client address.
    pub address: String,
    /// When.
    pub at: DateTime<Utc>,
}

#[derive(Deserialize, Serialize)]
struct ToAccount {
    account_id: Uuid,
    notice: Notice,
}

/// Mails the token of a registration, or tells the address that it has an account already.
pub fn verification(app: &App, registration_id: Uuid) -> Result<NewJob, Error> {
    NewJob::new(app, VERIFICATION, &registration_id)
}

/// The same for the newest registration of an address, if there is one.
pub fn resend_verification(app: &App, email: &str) -> Result<NewJob, Error> {
    let email = fold_email(email);
    Ok(NewJob::new(app, RESEND_VERIFICATION, &email)?.unique(email))
}

/// Mails a token to reset the password of the address's account, if it has one.
pub fn reset_password(app: &App, email: &str) -> Result<NewJob, Error> {
    let email = fold_email(email);
    Ok(NewJob::new(app, RESET_PASSWORD, &email)?.unique(email))
}

/// Tells the owner of an account something.
pub fn notice(app: &App, account_id: Uuid, notice: Notice) -> Result<NewJob, Error> {
    NewJob::new(app, NOTICE, &ToAccount { account_id, notice })
}

/// Adds the handlers of these jobs.
pub fn handlers(handlers: Handlers) -> Handlers {
    throttle::handlers(handlers)
        .handle(VERIFICATION, |app, job: Job<Uuid>| async move {
            let registration = Registration::by_id(&mut *app.db.get().await?, job.payload).await?;
            send_verification(&app, job.id, registration).await
        })
        .handle(RESEND_VERIFICATION, |app, job: Job<String>| async move {
            let registration = Registration::newest(&mut *app.db.get().await?, &job.payload).await?;
            send_verification(&app, job.id, registration).await
        })
        .handle(RESET_PASSWORD, |app, job: Job<String>| async move { send_reset(&app, job.id, &job.payload).await })
        .handle(NOTICE, |app, job: Job<ToAccount>| async move { send_notice(&app, job.id, job.payload).await })
        .handle(email_change::CONFIRM, |app, job: Job<Uuid>| async move {
            email_change::send_confirmation(&app, job.id, job.payload).await
        })
        .handle(email_change::UNDO, |app, job: Job<Uuid>| async move {
            email_change::send_undo(&app, job.id, job.payload).await
        })
}

async fn send_verification(app: &App, job: Uuid, registration: Option<Registration>) -> Result<(), Failure> {
    // It was verified meanwhile, or given up.
    let Some(registration) = registration else { return Ok(()) };
    let mail = {
        let mut conn = app.db.get().await?;
        if Account::by_email(&mut conn, &registration.email).await?.is_some() {
            mails::address_taken(&app.config.server, &registration.email)
        } else {
            let (token, seconds) = (app.rng.token()?, app.config.auth.verification_token_seconds);
            let expires_at = app.clock.now() + Duration::seconds(i64::from(seconds));
            Registration::set_token(&mut conn, registration.id, &token, expires_at).await?;
            mails::verification(&app.config.server, &registration, &token, seconds)
        }
    };
    send(app, job, mail).await
}

async fn send_reset(app: &App, job: Uuid, email: &str) -> Result<(), Failure> {
    let mail = {
        let mut conn = app.db.get().await?;
        let Some((account, _)) = Account::by_email(&mut conn, email).await? else { return Ok(()) };
        if !matches!(account.state(), AccountState::Active | AccountState::Pending) {
            return Ok(());
        }
        let (token, seconds) = (app.rng.token()?, app.config.auth.reset_token_seconds);
        let expires_at = app.clock.now() + Duration::seconds(i64::from(seconds));
        PasswordReset::replace(&mut conn, account.id, &token, expires_at).await?;
        mails::reset_password(&app.config.server, &account, &token, seconds)
    };
    send(app, job, mail).await
}

async fn send_notice(app: &App, job: Uuid, about: ToAccount) -> Result<(), Failure> {
    let mail = {
        let mut conn = app.db.get().await?;
        let Some(account) = Account::by_id(&mut conn, about.account_id).await? else { return Ok(()) };
        let reason = Account::rejection_reason(&mut conn, about.account_id).await?;
        mails::notice(&app.config.server, &account, &about.notice, reason)
    };
    send(app, job, mail).await
}

pub(super) async fn send(app: &App, job: Uuid, mail: Mail) -> Result<(), Failure> {
    app.mail.send(job, app.clock.now(), &mail).await
}

/// Forgets sessions that ended long ago, with their tokens; returns how many.
pub async fn delete_ended_sessions(app: &App) -> Result<usize, Error> {
    let mut conn = app.db.get().await?;
    Session::delete_ended(&mut conn, app.clock.now() - SESSIONS_KEPT).await
}

/// Forgets registrations that nobody has verified, and tokens that nobody has used; returns how many.
pub async fn delete_stale_registrations(app: &App) -> Result<usize, Error> {
    let (mut conn, now) = (app.db.get().await?, app.clock.now());
    let resets = PasswordReset::delete_expired(&mut conn, now - REGISTRATIONS_KEPT).await?;
    Ok(resets + Registration::delete_old(&mut conn, now - REGISTRATIONS_KEPT).await?)
}

/// Forgets changes of e-mail addresses that can't be confirmed or undone any more; returns how many.
pub async fn delete_expired_email_changes(app: &App) -> Result<usize, Error> {
    let (mut conn, now) = (app.db.get().await?, app.clock.now());
    let undos = EmailUndo::delete_expired(&mut conn, now).await?;
    Ok(undos + EmailChange::delete_old(&mut conn, now - email_change::UNDO_LIFETIME).await?)
}

/// Forgets login challenges that have expired; returns how many.
pub async fn delete_expired_challenges(app: &App) -> Result<usize, Error> {
    let mut conn = app.db.get().await?;
    Challenge::delete_expired(&mut conn, app.clock.now() - CHALLENGES_KEPT).await
}
