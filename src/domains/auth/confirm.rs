//! Confirming that a caller is the owner of the account: by the password and, where it is enabled, the second factor.

use uuid::Uuid;

use super::model::Account;
use super::passwords::Passwords;
use crate::domains::two_factor::{self, Proof};
use crate::kernel::app::App;
use crate::kernel::error::{Error, Reason};
use crate::kernel::rates::{Rate, Subject};
use crate::kernel::security::{Event, Kind};

/// Confirms callers.
#[derive(Clone)]
pub struct Confirmation {
    app: App,
    passwords: Passwords,
}

/// An attempt that was counted.
pub struct Attempt<'a> {
    app: &'a App,
    account_id: Uuid,
}

impl Attempt<'_> {
    /// Only failures count in the end: the owner may confirm as often as it takes.
    pub async fn succeeded(self) {
        self.app.rates.give_back(Rate::SecondFactor, Subject::Account(self.account_id)).await;
    }
}

impl Confirmation {
    /// With these passwords.
    pub fn new(app: App, passwords: Passwords) -> Self {
        Self { app, passwords }
    }

    /// Counts an attempt on an account, from wherever it comes. Refuses it when there were too many, or when they can't
    /// be counted.
    pub async fn count(&self, account_id: Uuid) -> Result<Attempt<'_>, Error> {
        self.app.rates.check(Rate::SecondFactor, Subject::Account(account_id)).await?;
        Ok(Attempt { app: &self.app, account_id })
    }

    /// Refuses a wrong password, and a proof that is wrong, missing where the account has a second factor, or there where it
    /// has none. A proof is used up.
    pub async fn confirm(&self, account_id: Uuid, password: String, proof: Option<Proof>) -> Result<(), Error> {
        let attempt = self.count(account_id).await?;
        let found = {
            let mut conn = self.app.db.get().await?;
            Account::with_password_hash(&mut conn, account_id).await?
        };
        let (account, hash) = found.ok_or_else(|| Error::not_found("account"))?;
        match (account.two_factor, &proof) {
            (true, None) => return Err(two_factor::missing()),
            (false, Some(_)) => return Err(two_factor::not_enabled()),
            _ => {}
        }
        if self.passwords.verify(password, Some(hash)).await?.is_none() {
            self.app.security.record(Event::about(Kind::ConfirmationFailed, account_id));
            return Err(Error::new(Reason::InvalidCredentials, "the password is wrong"));
        }
        if let Some(proof) = proof {
            let mut conn = self.app.db.get().await?;
            proof.spend(&self.app, &mut conn, account_id).await?;
        }
        attempt.succeeded().await;
        Ok(())
    }
}
