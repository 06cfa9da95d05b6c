//! Opening sessions and keeping them going.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, Duration, Utc};
use diesel_async::AsyncConnection;
use tonic::Request;
use uuid::Uuid;

use super::jobs::{self, Notice};
use super::model::device::KnownDevice;
use super::model::registration::Registration;
use super::model::{Account, Lifetimes, RefreshToken, Session, fold_email};
use super::passwords::Match;
use super::service::AuthService;
use super::wire::{device, state_name};
use crate::kernel::caller::ClientAddress;
use crate::kernel::error::{Error, Reason};
use crate::proto::rialto::auth::v1::{AccountState, LoginRequest};

/// Longer user agents are cut before they are stored.
const USER_AGENT_CHARS: usize = 256;

/// The client's end, as a session remembers it.
pub struct Client {
    user_agent: String,
    address: String,
}

/// A pair of tokens.
pub struct Tokens {
    pub access: String,
    pub refresh: String,
    pub expires_in: i32,
}

/// A session that was just opened.
pub struct Opened {
    pub account_id: Uuid,
    pub tokens: Tokens,
    /// For the next login from the same device.
    pub device_token: String,
}

impl Client {
    /// Who sent a request.
    pub fn of<T>(request: &Request<T>) -> Self {
        let user_agent = request.metadata().get("user-agent").and_then(|value| value.to_str().ok()).unwrap_or_default();
        let address = ClientAddress::of(request.extensions()).map(|address| address.to_string()).unwrap_or_default();
        Self { user_agent: user_agent.chars().take(USER_AGENT_CHARS).collect(), address }
    }
}

impl AuthService {
    /// Opens a session for whoever knows the password.
    pub(super) async fn log_in(&self, request: LoginRequest, client: Client) -> Result<Opened, Error> {
        let account = self.verify_password(&request.email, request.password).await?;
        self.open_session(&account, &request.device_token, client).await
    }

    /// The account that e-mail address and password belong to. Every refusal costs the same, whether there is an account or
    /// not, and says more than that they don't belong together only to who knows the password.
    async fn verify_password(&self, email: &str, password: String) -> Result<Account, Error> {
        self.count_attempt(email).await?;
        let found = {
            let mut conn = self.app.db.get().await?;
            Account::by_email(&mut conn, email).await?
        };
        let (account, hash) = found.unzip();
        let verified = self.passwords.verify(password.clone(), hash.clone()).await?;
        let account = account.filter(|_| verified.is_some());
        if let Some(account) = &account
            && account.is_active()
        {
            self.store_rehashed(account.id, hash, verified).await?;
            return Ok(account.clone());
        }
        let registered = self.app.config.auth.require_verified_email && self.is_registered(email, password).await?;
        Err(match account {
            Some(account) => not_active(account.state()),
            None if registered => not_active(AccountState::Unverified),
            None => Error::new(Reason::InvalidCredentials, "e-mail address or password is wrong"),
        })
    }

    /// Whether somebody has registered the address with this password, whoever has an account there.
    async fn is_registered(&self, email: &str, password: String) -> Result<bool, Error> {
        let newest = {
            let mut conn = self.app.db.get().await?;
            Registration::newest(&mut conn, &fold_email(email)).await?
        };
        let hash = newest.map(|registration| registration.password_hash);
        Ok(self.passwords.verify(password, hash).await?.is_some())
    }

    async fn store_rehashed(&self, id: Uuid, old: Option<String>, verified: Option<Match>) -> Result<(), Error> {
        if let (Some(old), Some(new)) = (old, verified.and_then(|verified| verified.rehashed)) {
            Account::rehash(&mut *self.app.db.get().await?, id, &old, &new).await?;
        }
        Ok(())
    }

    /// Opens a session for an account that has proven who it is.
    pub(super) async fn open_session(
        &self,
        account: &Account,
        device_token: &str,
        client: Client,
    ) -> Result<Opened, Error> {
        let now = self.app.clock.now();
        let session = Session {
            id: self.app.rng.id(now)?,
            account_id: account.id,
            created_at: now,
            last_seen_at: now,
            expires_at: self.lifetimes().end(now, now),
            revoked_at: None,
            user_agent: client.user_agent,
            address: client.address,
        };
        let (refresh, new_device) = (self.random_token()?, self.random_token()?);
        let mut conn = self.app.db.get().await?;
        let (ended, known) = conn
            .transaction(async |conn| {
                // A password change or suspension that was faster has ended this session before it began.
                let locked = Account::lock(conn, account.id).await?;
                if locked.is_none_or(|locked| !locked.is_active() || locked.token_version != account.token_version) {
                    return Err(Error::new(Reason::InvalidCredentials, "the account was changed meanwhile"));
                }
                let ended = self.make_room(conn, account.id, now).await?;
                session.insert(conn).await?;
                RefreshToken::insert(conn, &refresh, session.id, now, session.expires_at).await?;
                let known = KnownDevice::seen(conn, account.id, device_token, now).await?;
                if !known && KnownDevice::add(conn, account.id, &new_device, now).await? {
                    let device = device(&session.user_agent);
                    let notice = Notice::NewDevice { device, address: session.address.clone(), at: now };
                    jobs::notice(&self.app, account.id, notice)?.enqueue(conn).await?;
                }
                Ok((ended, known))
            })
            .await?;
        drop(conn);
        if ended {
            self.sessions.changed(account.id).await;
        }
        if !known {
            crate::kernel::jobs::wake(&self.app).await;
        }
        Ok(Opened {
            account_id: account.id,
            tokens: self.tokens(account, session.id, refresh, now)?,
            device_token: if known { device_token.to_owned() } else { new_device },
        })
    }

    /// Ends the sessions that were used longest ago, if one more would be too many; returns whether it did.
    async fn make_room(&self, conn: &mut crate::kernel::db::Conn, id: Uuid, now: DateTime<Utc>) -> Result<bool, Error> {
        let live = Session::live(conn, id, now).await?;
        let keep = self.app.config.auth.max_sessions.max(1) - 1;
        let over: Vec<Uuid> = live.iter().skip(keep).map(|session| session.id).collect();
        if !over.is_empty() {
            Session::revoke_all(conn, &over, now).await?;
        }
        Ok(!over.is_empty())
    }

    pub(super) fn tokens(
        &self,
        account: &Account,
        session: Uuid,
        refresh: String,
        now: DateTime<Utc>,
    ) -> Result<Tokens, Error> {
        let (access, expires_in) = self.keys.issue(account.id, session, account.token_version, now)?;
        Ok(Tokens { access, refresh, expires_in: i32::try_from(expires_in).unwrap_or(i32::MAX) })
    }

    /// 32 random bytes in base64url.
    pub(super) fn random_token(&self) -> Result<String, Error> {
        Ok(URL_SAFE_NO_PAD.encode(self.app.rng.bytes::<32>()?))
    }

    pub(super) fn lifetimes(&self) -> Lifetimes {
        let seconds = |seconds: u32| Duration::seconds(i64::from(seconds));
        let config = &self.app.config.auth;
        Lifetimes { idle: seconds(config.refresh_token_seconds), absolute: seconds(config.session_max_seconds) }
    }
}

/// The refusal of an account that may not log in.
pub fn not_active(state: AccountState) -> Error {
    Error::new(Reason::AccountNotActive, "the account is not active").with("state", state_name(state))
}
