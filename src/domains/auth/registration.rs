//! How an account begins.
//!
//! Where addresses have to be verified, Register does the same for every address: it keeps a registration and a job. What
//! the address is told by mail depends on whether it has an account; the answer does not, nor does Login with the password
//! that was registered. Where they need not be verified, an account begins at once, and a second one is refused: nothing
//! that the server does could hide it then.

use diesel_async::AsyncConnection;

use super::jobs;
use super::model::registration::Registration;
use super::model::{Account, NewAccount, fold_email};
use super::service::AuthService;
use crate::kernel::error::{Error, Reason};
use crate::kernel::wire::timestamp;
use crate::proto::rialto::auth::v1 as contract;
use crate::proto::rialto::auth::v1::{AccountState, RegisterRequest};
use crate::proto::rialto::policy::v1::Role;

impl AuthService {
    /// Begins an account, or a registration that leads to one.
    pub(super) async fn begin(&self, request: RegisterRequest) -> Result<contract::Account, Error> {
        let RegisterRequest { email, password, display_name } = request;
        let display_name = super::display_name(&display_name)
            .map_err(|description| Error::invalid_field("display_name", description))?;
        self.count_mail(&email).await?;
        let known = [email.clone(), display_name.clone()];
        let password_hash = self.passwords.hash_new("password", password, known).await?;
        if self.app.config.auth.require_verified_email {
            return self.register_unverified(&email, display_name, password_hash).await;
        }
        let account = NewAccount::new(&self.app, &email, &display_name, password_hash, Role::User)?;
        let account = account.pending(self.app.config.auth.require_approval);
        let account = account.insert(&mut *self.app.db.get().await?).await?;
        Ok((&account).into())
    }

    async fn register_unverified(
        &self,
        email: &str,
        display_name: String,
        password_hash: String,
    ) -> Result<contract::Account, Error> {
        let now = self.app.clock.now();
        let registration = Registration {
            id: self.app.rng.id(now)?,
            email: fold_email(email),
            display_name,
            password_hash,
            token_expires_at: None,
            created_at: now,
        };
        let job = jobs::verification(&self.app, registration.id)?;
        let mut conn = self.app.db.get().await?;
        conn.transaction(async |conn| {
            registration.insert(conn).await?;
            job.enqueue(conn).await
        })
        .await?;
        drop(conn);
        crate::kernel::jobs::wake(&self.app).await;
        Ok(contract::Account {
            id: String::new(),
            email: registration.email,
            display_name: registration.display_name,
            role: Role::User.into(),
            created_at: Some(timestamp(now)),
            state: AccountState::Unverified.into(),
        })
    }

    /// Makes the account of the registration that a token was mailed for.
    pub(super) async fn verify(&self, token: &str) -> Result<Account, Error> {
        let now = self.app.clock.now();
        let pending = self.app.config.auth.require_approval;
        let mut conn = self.app.db.get().await?;
        conn.transaction(async |conn| {
            let registration = Registration::by_token(conn, token).await?;
            let registration = registration.ok_or_else(invalid_token)?;
            if registration.token_expires_at.is_none_or(|expires_at| expires_at <= now) {
                return Err(expired_token());
            }
            let Registration { email, display_name, password_hash, .. } = registration;
            let account = NewAccount::new(&self.app, &email, &display_name, password_hash, Role::User)?;
            let account = account.pending(pending).verified().insert(conn).await?;
            Registration::delete_all(conn, &email).await?;
            Ok(account)
        })
        .await
    }
}

/// The refusal of a token that was used, replaced, or never made.
pub fn invalid_token() -> Error {
    Error::new(Reason::TokenInvalid, "the token is not valid, or not any more")
}

/// The refusal of a token that was good once.
pub fn expired_token() -> Error {
    Error::new(Reason::TokenExpired, "the token has expired; ask for a new one")
}
