//! Confirming that a caller is the owner of the account: by the password and, where it is enabled, the second factor.

use uuid::Uuid;

use super::model::Account;
use super::passwords::Passwords;
use super::throttle::{Attempt, Throttle};
use crate::domains::two_factor::{self, Proof};
use crate::kernel::app::App;
use crate::kernel::caller::Caller;
use crate::kernel::error::{Error, Reason};
use crate::kernel::security::{Event, Kind};

/// Confirms callers.
#[derive(Clone)]
pub struct Confirmation {
    app: App,
    passwords: Passwords,
    throttle: Throttle,
}

impl Confirmation {
    /// With these passwords.
    pub fn new(app: App, passwords: Passwords, throttle: Throttle) -> Self {
        Self { app, passwords, throttle }
    }

    /// Counts an attempt in the caller's session, as a failure until it is judged. Refuses it when there were too many, or
    /// when they can't be counted.
    pub async fn count(&self, caller: &Caller) -> Result<Attempt, Error> {
        self.throttle.confirmation(caller).await
    }

    /// Refuses a wrong password. Only for a caller whose second factor, if there is one, was proven otherwise.
    pub async fn confirm_password(&self, caller: &Caller, password: String) -> Result<(), Error> {
        let attempt = self.count(caller).await?;
        let verified = async {
            let (_, hash) = self.account(caller.account_id).await?;
            self.verify(password, hash).await
        };
        attempt.judge(verified.await).await
    }

    /// Refuses a wrong password, and a proof that is wrong, missing where the account has a second factor, or there where it
    /// has none. A proof is used up.
    pub async fn confirm(&self, caller: &Caller, password: String, proof: Option<Proof>) -> Result<(), Error> {
        let attempt = self.count(caller).await?;
        attempt.judge(self.compare(caller.account_id, password, proof).await).await
    }

    async fn compare(&self, account_id: Uuid, password: String, proof: Option<Proof>) -> Result<(), Error> {
        let (account, hash) = self.account(account_id).await?;
        match (account.two_factor, &proof) {
            (true, None) => return Err(two_factor::missing()),
            (false, Some(_)) => return Err(two_factor::not_enabled()),
            _ => {}
        }
        if let Err(wrong) = self.verify(password, hash).await {
            self.app.security.record(Event::about(Kind::ConfirmationFailed, account_id));
            return Err(wrong);
        }
        if let Some(proof) = proof {
            let mut conn = self.app.db.get().await?;
            proof.spend(&self.app, &mut conn, account_id).await?;
        }
        Ok(())
    }

    async fn account(&self, account_id: Uuid) -> Result<(Account, String), Error> {
        let mut conn = self.app.db.get().await?;
        Account::with_password_hash(&mut conn, account_id).await?.ok_or_else(|| Error::not_found("account"))
    }

    async fn verify(&self, password: String, hash: String) -> Result<(), Error> {
        let wrong = || Error::new(Reason::InvalidCredentials, "the password is wrong");
        self.passwords.verify(password, Some(hash)).await?.map(drop).ok_or_else(wrong)
    }
}
