//! Opening sessions and keeping them going.
//!
//! After the password comes a session, or a challenge for the second factor, which another call finishes. Both are made under
//! the lock of the account, with what it says then: a password that was changed, a suspension, a second factor that was
//! enabled meanwhile count.

use chrono::{DateTime, Duration, Utc};
use diesel_async::AsyncConnection;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::challenge::Challenge;
use super::client::Client;
use super::jobs::{self, Notice};
use super::model::device::KnownDevice;
use super::model::registration::Registration;
use super::model::{Account, Lifetimes, RefreshToken, Session, fold_email};
use super::passwords::Match;
use super::service::AuthService;
use super::wire::{device, state_name};
use crate::domains::two_factor::{self, Proof};
use crate::kernel::account_events::Announcement;
use crate::kernel::db::Conn;
use crate::kernel::error::{Error, Reason};
use crate::kernel::security::{Event, Kind};
use crate::proto::rialto::account::v1::SessionEndReason;
use crate::proto::rialto::auth::v1::{AccountState, LoginRequest, SecondFactor};

/// How long a challenge waits for its code.
const CHALLENGE_LIFETIME: Duration = Duration::minutes(5);

/// A pair of tokens.
pub struct Tokens {
    pub access: String,
    pub refresh: String,
    /// Seconds until the access token expires.
    pub expires_in: i32,
    /// The session that both are of.
    pub session_id: Uuid,
    /// Seconds until the session ends unless it is renewed.
    pub refresh_expires_in: i64,
}

/// A session that was just opened.
pub struct Opened {
    pub account_id: Uuid,
    pub tokens: Tokens,
    /// For the next login from the same device.
    pub device_token: String,
    /// Other sessions that were ended for it.
    ended_others: Option<Announcement>,
    /// Whether its owner is told by mail.
    notified: bool,
}

/// What comes after the password.
pub enum Begun {
    /// A session.
    Session(Opened),
    /// A challenge for the second factor.
    Challenge {
        /// Whose.
        account_id: Uuid,
        /// Its token.
        token: String,
        /// What answers it.
        factors: Vec<SecondFactor>,
    },
}

impl AuthService {
    /// Opens a session for whoever knows the password, or a challenge.
    pub(super) async fn log_in(&self, request: LoginRequest, client: Client) -> Result<Begun, Error> {
        let attempt = self.throttle.password(&request.email, &request.device_token, &client).await?;
        let verified = attempt.judge(self.verify_password(&request.email, request.password).await).await?;
        let mut conn = self.app.db.get().await?;
        let mut begun = conn
            .transaction(async |conn| {
                // A password change or suspension that was faster has ended this session before it began.
                let locked = Account::lock(conn, verified.id).await?;
                let unchanged = locked.filter(|(locked, _)| locked.token_version == verified.token_version);
                let changed = || Error::new(Reason::InvalidCredentials, "the account was changed meanwhile");
                let (account, hash) = unchanged.ok_or_else(changed)?;
                require_active(&account)?;
                if !account.two_factor {
                    return self.open_session(conn, &account, &request.device_token, client).await.map(Begun::Session);
                }
                let token = self.app.rng.token()?;
                let challenge = Challenge {
                    account_id: account.id,
                    credentials: credentials(&account, &hash),
                    client: client.fingerprint(self.app.config.server.ipv6_prefix),
                };
                challenge.insert(conn, &token, self.app.clock.now() + CHALLENGE_LIFETIME).await?;
                let factors = two_factor::factors(conn, account.id).await?;
                Ok(Begun::Challenge { account_id: account.id, token, factors })
            })
            .await?;
        drop(conn);
        if let Begun::Session(opened) = &mut begun {
            self.announce(opened).await;
        }
        Ok(begun)
    }

    /// Finishes a login with the second factor.
    pub(super) async fn finish_login(
        &self,
        token: &str,
        proof: Proof,
        device_token: &str,
        client: Client,
    ) -> Result<Opened, Error> {
        let challenge = {
            let mut conn = self.app.db.get().await?;
            Challenge::attempt(&mut conn, token, self.app.clock.now()).await?
        };
        if challenge.client != client.fingerprint(self.app.config.server.ipv6_prefix) {
            return Err(Challenge::void());
        }
        let mut opened = if proof.can_be_guessed() {
            let attempt = self.throttle.code(challenge.account_id, device_token, &client).await?;
            attempt.judge(self.open_challenged(challenge, token, proof, device_token, client).await).await?
        } else {
            self.open_challenged(challenge, token, proof, device_token, client).await?
        };
        self.announce(&mut opened).await;
        Ok(opened)
    }

    /// Opens the session of a challenge whose code is right.
    async fn open_challenged(
        &self,
        challenge: Challenge,
        token: &str,
        proof: Proof,
        device_token: &str,
        client: Client,
    ) -> Result<Opened, Error> {
        let mut conn = self.app.db.get().await?;
        conn.transaction(async |conn| {
            let locked = Account::lock(conn, challenge.account_id).await?;
            let (account, hash) = locked.ok_or_else(Challenge::void)?;
            require_active(&account)?;
            if !account.two_factor || challenge.credentials != credentials(&account, &hash) {
                return Err(Challenge::void());
            }
            Challenge::delete(conn, token).await?;
            proof.spend(&self.app, conn, account.id).await?;
            self.open_session(conn, &account, device_token, client).await
        })
        .await
    }

    /// The account that e-mail address and password belong to. Every refusal costs the same, whether there is an account or
    /// not, and says more than that they don't belong together only to who knows the password.
    async fn verify_password(&self, email: &str, password: String) -> Result<Account, Error> {
        let found = {
            let mut conn = self.app.db.get().await?;
            Account::by_email(&mut conn, email).await?
        };
        let (account, hash) = found.unzip();
        let verified = self.passwords.verify(password.clone(), hash.clone()).await?;
        let known = account.as_ref().map(|account| account.id);
        let account = account.filter(|_| verified.is_some());
        if let Some(account) = &account
            && account.is_active()
        {
            self.store_rehashed(account.id, hash, verified).await?;
            return Ok(account.clone());
        }
        // A password was compared: a fault from here on must not make the attempt uncounted.
        let registered =
            self.app.config.auth.require_verified_email && self.is_registered(email, password).await.unwrap_or(false);
        Err(match account {
            Some(account) => not_active(account.state()),
            None if registered => not_active(AccountState::Unverified),
            None => {
                let about_email = || Event::about_email(Kind::LoginFailed, &fold_email(email));
                self.app.security.record(known.map_or_else(about_email, |id| Event::about(Kind::LoginFailed, id)));
                Error::new(Reason::InvalidCredentials, "e-mail address or password is wrong")
            }
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

    /// Opens a session for an account that has proven who it is, and is locked. After the commit comes `announce`.
    pub(super) async fn open_session(
        &self,
        conn: &mut Conn,
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
            reauthenticated_at: Some(now),
        };
        let refresh = self.app.rng.token()?;
        let ended_others = self.make_room(conn, account.id, now).await?;
        session.insert(conn).await?;
        RefreshToken::insert(conn, &refresh, session.id, now, session.expires_at).await?;
        let (device_token, notified) = self.note_device(conn, &session, device_token).await?;
        let tokens = self.tokens(account, session.id, refresh, now, session.expires_at)?;
        Ok(Opened { account_id: account.id, tokens, device_token, ended_others, notified })
    }

    /// Notes the device of a new session, and that its owner is to be told if the account knows others but not this one;
    /// returns the device's token, and whether that is so.
    async fn note_device(&self, conn: &mut Conn, session: &Session, token: &str) -> Result<(String, bool), Error> {
        let (id, now) = (session.account_id, session.created_at);
        if !token.is_empty() && KnownDevice::seen(conn, id, token, now).await? {
            return Ok((token.to_owned(), false));
        }
        let token = self.app.rng.token()?;
        let notify = KnownDevice::add(conn, id, &token, now).await?;
        if notify {
            let device = device(&session.user_agent);
            let notice = Notice::NewDevice { device, address: session.address.clone(), at: now };
            jobs::notice(&self.app, id, notice)?.enqueue(conn).await?;
        }
        Ok((token, notify))
    }

    /// Tells the account and the other nodes what came with a session.
    pub(super) async fn announce(&self, opened: &mut Opened) {
        self.app.security.seen(opened.account_id);
        if let Some(told) = opened.ended_others.take() {
            self.app.account_events.announce(told).await;
            self.sessions.changed(opened.account_id).await;
        }
        if opened.notified {
            crate::kernel::jobs::wake(&self.app).await;
        }
    }

    /// Ends the sessions that were used longest ago, if one more would be too many.
    async fn make_room(&self, conn: &mut Conn, id: Uuid, now: DateTime<Utc>) -> Result<Option<Announcement>, Error> {
        let keep = self.app.config.auth.max_sessions.max(1) - 1;
        let over = Session::live_beyond(conn, id, now, keep).await?;
        if over.is_empty() {
            return Ok(None);
        }
        Session::revoke_all(conn, &over, SessionEndReason::TooManySessions, now).await.map(Some)
    }

    pub(super) fn tokens(
        &self,
        account: &Account,
        session: Uuid,
        refresh: String,
        now: DateTime<Utc>,
        ends: DateTime<Utc>,
    ) -> Result<Tokens, Error> {
        let (access, expires_in) = self.keys.issue(account.id, session, account.token_version, now)?;
        let expires_in = i32::try_from(expires_in).unwrap_or(i32::MAX);
        Ok(Tokens { access, refresh, expires_in, session_id: session, refresh_expires_in: (ends - now).num_seconds() })
    }

    pub(super) fn lifetimes(&self) -> Lifetimes {
        let seconds = |seconds: u32| Duration::seconds(i64::from(seconds));
        let config = &self.app.config.auth;
        Lifetimes { idle: seconds(config.refresh_token_seconds), absolute: seconds(config.session_max_seconds) }
    }
}

/// Refuses an account that may not log in.
pub fn require_active(account: &Account) -> Result<(), Error> {
    if account.is_active() { Ok(()) } else { Err(not_active(account.state())) }
}

/// The refusal of an account that may not log in.
pub fn not_active(state: AccountState) -> Error {
    Error::new(Reason::AccountNotActive, "the account is not active").with("state", state_name(state))
}

/// What a challenge was made on: when the password or the token version changes, it is void.
fn credentials(account: &Account, password_hash: &str) -> Vec<u8> {
    Sha256::new().chain_update(account.token_version.to_be_bytes()).chain_update(password_hash).finalize().to_vec()
}
