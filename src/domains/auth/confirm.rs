//! Confirming that a caller is the owner of the account: by the password and, where it is enabled, the second factor.

use uuid::Uuid;

use super::model::Account;
use super::passwords::Passwords;
use crate::domains::two_factor::{self, Proof};
use crate::kernel::app::App;
use crate::kernel::error::{Error, Reason};
use crate::kernel::rates::{Rate, Subject};

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

    /// Refuses a wrong password. Only for a caller whose second factor, if there is one, was proven otherwise.
    pub async fn confirm_password(&self, account_id: Uuid, password: String) -> Result<(), Error> {
        let attempt = self.count(account_id).await?;
        let (_, hash) = self.account(account_id).await?;
        self.verify(password, hash).await?;
        attempt.succeeded().await;
        Ok(())
    }

    /// Refuses a wrong password, and a proof that is wrong, missing where the account has a second factor, or there where it
    /// has none. A proof is used up.
    pub async fn confirm(&self, account_id: Uuid, password: String, proof: Option<Proof>) -> Result<(), Error> {
        let attempt = self.count(account_id).await?;
        let (account, hash) = self.account(account_id).await?;
        match (account.two_factor, &proof) {
            (true, None) => return Err(two_factor::missing()),
            (false, Some(_)) => return Err(two_factor::not_enabled()),
            _ => {}
        }
        self.verify(password, hash).await?;
        if let Some(proof) = proof {
            let mut conn = self.app.db.get().await?;
            proof.spend(&self.app, &mut conn, account_id).await?;
        }
        attempt.succeeded().await;
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
