//! Where passkeys meet sessions and challenges.

use chrono::{DateTime, Utc};
use diesel_async::AsyncConnection;
use uuid::Uuid;

use super::challenge::Challenge;
use super::client::Client;
use super::login::{Opened, require_active};
use super::model::{Account, Session};
use super::service::AuthService;
use super::sessions::RECENT;
use crate::domains::passkeys::{Assertion, Purpose};
use crate::domains::two_factor::{Proof, missing};
use crate::kernel::app::App;
use crate::kernel::caller::Caller;
use crate::kernel::db::Conn;
use crate::kernel::error::{Error, Reason};
use crate::proto::rialto::auth::v1::VerifyTwoFactorRequest;

impl AuthService {
    /// Opens a session for the account whose passkey has signed. The authenticator has verified its user, so this is both
    /// factors.
    pub async fn log_in_by_passkey(
        &self,
        assertion: Assertion,
        device_token: &str,
        client: Client,
    ) -> Result<Opened, Error> {
        let account_id = assertion.account_id()?;
        let mut conn = self.app.db.get().await?;
        let mut opened = conn
            .transaction(async |conn| {
                let locked = Account::lock(conn, account_id).await?;
                // First the signature: nobody else learns of a state, or whether there is an account.
                assertion.spend(&self.app, conn, account_id).await?;
                let (account, _) = locked.ok_or_else(|| Error::not_found("account"))?;
                require_active(&account)?;
                self.open_session(conn, &account, device_token, client).await
            })
            .await?;
        drop(conn);
        self.announce(&mut opened).await;
        Ok(opened)
    }

    /// What a request shows to answer a login challenge.
    pub(super) async fn second_factor(&self, request: &mut VerifyTwoFactorRequest) -> Result<Proof, Error> {
        let proof = Proof::parse(&request.code, &request.backup_code)?;
        match (proof, request.credential.take()) {
            (Some(_), Some(_)) => Err(Error::invalid_field("credential", "must not come together with a code")),
            (Some(proof), None) => Ok(proof),
            (None, None) => Err(missing()),
            (None, credential) => {
                let purpose = Purpose::SecondFactor(&request.challenge_token);
                let assertion = Assertion::take(&self.app, purpose, &request.ceremony_token, credential).await?;
                Ok(Proof::passkey(assertion))
            }
        }
    }
}

/// The account whose login this challenge waits for, for the client that began it.
pub async fn challenged_account(app: &App, token: &str, client: &Client) -> Result<Uuid, Error> {
    let mut conn = app.db.get().await?;
    let challenge = Challenge::find(&mut conn, token, app.clock.now()).await?;
    if challenge.client == client.fingerprint(app.config.server.ipv6_prefix) {
        Ok(challenge.account_id)
    } else {
        Err(Challenge::void())
    }
}

/// Notes that a caller has proved who they are; returns until when that counts as recent.
pub async fn reauthenticated(conn: &mut Conn, caller: &Caller, now: DateTime<Utc>) -> Result<DateTime<Utc>, Error> {
    Session::reauthenticated(conn, caller.session_id, now).await?;
    Ok(now + RECENT)
}

/// Refuses a caller whose session has ended since the call was authenticated. For what outlives a session, under the lock of
/// [`lock_second_factor`].
pub async fn require_live_session(conn: &mut Conn, caller: &Caller, now: DateTime<Utc>) -> Result<(), Error> {
    let proof = Session::last_proof(conn, caller.session_id, now).await?;
    proof.map(drop).ok_or_else(|| Error::new(Reason::SessionRevoked, "the session has ended"))
}

/// Locks an account until the transaction ends; returns whether it has a second factor. Whoever changes second factors and
/// backup codes begins with this.
pub async fn lock_second_factor(conn: &mut Conn, account_id: Uuid) -> Result<bool, Error> {
    let locked = Account::lock(conn, account_id).await?;
    locked.map(|(account, _)| account.two_factor).ok_or_else(|| Error::not_found("account"))
}
