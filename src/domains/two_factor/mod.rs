//! Two-factor authentication: one-time passwords and backup codes.
//!
//! Promises: a code works once, also when it is sent twice at the same instant, and never after a newer one; a backup code
//! works once; secrets are sealed at rest and shown once; whoever has a session and not the password, or not the second
//! factor, can't change either.
//!
//! Others may call: [`Proof`] and [`factors`] (`auth`, at login and re-authentication), [`has_authenticator`],
//! [`new_backup_codes`] and [`delete_backup_codes`] (`passkeys`, which are a second factor too). Here only the service calls
//! `auth`, and what `auth` calls is below it, so that the domains stay without a circle.

mod backup_codes;
mod model;
mod personal_data;
mod qr;
mod rotation;
mod service;
mod totp;

pub mod jobs;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use self::backup_codes::{BackupCode, COUNT};
use self::model::{BackupCodes, Enrolment, place};
use self::totp::Codes;
use crate::domains::passkeys::{self, Assertion};
use crate::kernel::app::App;
use crate::kernel::db::Conn;
use crate::kernel::error::{Error, Reason};
use crate::kernel::security;
use crate::proto::rialto::auth::v1::SecondFactor;

pub use personal_data::PERSONAL_DATA;
pub use rotation::{Resealed, reseal};
pub use service::TwoFactorService;

/// What somebody shows to have the second factor.
pub struct Proof(Kind);

enum Kind {
    Code(String),
    BackupCode(BackupCode),
    Passkey(Box<Assertion>),
}

impl Proof {
    /// From the fields `code` and `backup_code` of a request; `None` when both are empty.
    pub fn parse(code: &str, backup_code: &str) -> Result<Option<Self>, Error> {
        match (code.is_empty(), backup_code.is_empty()) {
            (true, true) => Ok(None),
            (false, true) => Ok(Some(Self(Kind::Code(digits(code)?)))),
            (true, false) => {
                let unfit = || Error::invalid_field("backup_code", "must be a backup code: 24 letters and digits");
                Ok(Some(Self(Kind::BackupCode(BackupCode::parse(backup_code).ok_or_else(unfit)?))))
            }
            (false, false) => Err(Error::invalid_field("backup_code", "must not come together with code")),
        }
    }

    /// As [`Self::parse`], when one of the fields must be there.
    pub fn required(code: &str, backup_code: &str) -> Result<Self, Error> {
        Self::parse(code, backup_code)?.ok_or_else(missing)
    }

    /// Whether trying often enough would find it.
    pub fn can_be_guessed(&self) -> bool {
        !matches!(self.0, Kind::Passkey(_))
    }

    /// What a passkey has signed.
    pub fn passkey(assertion: Assertion) -> Self {
        Self(Kind::Passkey(Box::new(assertion)))
    }

    /// Uses it up for an account. Refused when it is wrong or was used before. The caller has counted the attempt.
    pub async fn spend(self, app: &App, conn: &mut Conn, account_id: Uuid) -> Result<(), Error> {
        let now = app.clock.now();
        let good = match self.0 {
            Kind::Code(code) => {
                let enrolment = Enrolment::enabled(conn, account_id).await?.ok_or_else(not_enabled)?;
                match codes(app, &enrolment)?.step(&code, now) {
                    Some(step) => enrolment.spend_step(conn, step).await?,
                    None => false,
                }
            }
            Kind::BackupCode(code) => BackupCodes::spend(conn, account_id, &code.hash(account_id), now).await?,
            Kind::Passkey(assertion) => return assertion.spend(app, conn, account_id).await,
        };
        if good {
            return Ok(());
        }
        app.security.record(security::Event::about(security::Kind::TwoFactorFailed, account_id));
        Err(wrong_code())
    }
}

/// What can prove the owner of an account after the password.
pub async fn factors(conn: &mut Conn, account_id: Uuid) -> Result<Vec<SecondFactor>, Error> {
    let mut factors = Vec::new();
    if has_authenticator(conn, account_id).await? {
        factors.push(SecondFactor::Code);
    }
    if BackupCodes::of(conn, account_id).await?.left > 0 {
        factors.push(SecondFactor::BackupCode);
    }
    if passkeys::count(conn, account_id).await? > 0 {
        factors.push(SecondFactor::Passkey);
    }
    Ok(factors)
}

/// Whether an account has enabled codes.
pub async fn has_authenticator(conn: &mut Conn, account_id: Uuid) -> Result<bool, Error> {
    Ok(Enrolment::enabled(conn, account_id).await?.is_some())
}

/// Makes new backup codes in the place of all others; returns them as they are shown. To be called in a transaction that has
/// locked the account: two at once would not see each other's new codes, and leave both.
pub async fn new_backup_codes(
    app: &App,
    conn: &mut Conn,
    account_id: Uuid,
    now: DateTime<Utc>,
) -> Result<Vec<String>, Error> {
    let codes = (0..COUNT).map(|_| BackupCode::new(app.rng)).collect::<Result<Vec<_>, _>>()?;
    let hashes: Vec<_> = codes.iter().map(|code| code.hash(account_id)).collect();
    BackupCodes::replace(conn, account_id, &hashes, now).await?;
    Ok(codes.iter().map(BackupCode::text).collect())
}

/// Takes the backup codes from an account that has no second factor any more.
pub async fn delete_backup_codes(conn: &mut Conn, account_id: Uuid) -> Result<(), Error> {
    BackupCodes::delete(conn, account_id).await
}

/// A proof is needed and there is none.
pub fn missing() -> Error {
    Error::invalid_field("code", "is needed, or backup_code, or a passkey: the account has a second factor")
}

/// The account has no second factor.
pub fn not_enabled() -> Error {
    Error::new(Reason::TwoFactorNotEnabled, "the account does not have two-factor authentication")
}

fn wrong_code() -> Error {
    Error::new(Reason::TwoFactorCodeInvalid, "the code is wrong, was used before, or has expired")
}

/// The six digits of a code, which authenticators show in two groups.
fn digits(code: &str) -> Result<String, Error> {
    let digits: String = code.chars().filter(|c| *c != ' ').collect();
    if digits.len() == 6 && digits.bytes().all(|byte| byte.is_ascii_digit()) {
        Ok(digits)
    } else {
        Err(Error::invalid_field("code", "must be 6 digits"))
    }
}

fn codes(app: &App, enrolment: &Enrolment) -> Result<Codes, Error> {
    let secret = app.sealer.open(&enrolment.secret, place(enrolment.account_id))?;
    Codes::new(&secret, &app.config.two_factor)
}
