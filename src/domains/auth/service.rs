//! `rialto.auth.v1.AuthService`.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, Duration, Utc};
use diesel_async::AsyncConnection;
use sha2::{Digest, Sha256};
use tonic::{Request, Response, Status};
use uuid::Uuid;

use super::login::{Begun, Client, invalid_credentials};
use super::model::{Account, Exchange, NewAccount, RefreshToken, Session, fold_email};
use super::passwords::Passwords;
use super::sessions::RECENT;
use super::{Confirmation, Keys, Sessions};
use crate::domains::two_factor::Proof;
use crate::kernel::app::App;
use crate::kernel::caller::{ActingAccount, Caller};
use crate::kernel::error::{Error, Reason};
use crate::kernel::rates::{Rate, Subject};
use crate::kernel::wire;
use crate::proto::rialto::auth::v1::auth_service_server::AuthService as Contract;
use crate::proto::rialto::auth::v1::{
    GetMeRequest, GetMeResponse, LoginRequest, LoginResponse, LogoutRequest, LogoutResponse, ReauthenticateRequest,
    ReauthenticateResponse, RefreshRequest, RefreshResponse, RegisterRequest, RegisterResponse, RevokeSessionsRequest,
    RevokeSessionsResponse, VerifyTwoFactorRequest, VerifyTwoFactorResponse,
};
use crate::proto::rialto::policy::v1::Role;

/// The service.
pub struct AuthService {
    pub(super) app: App,
    keys: Arc<Keys>,
    sessions: Arc<Sessions>,
    passwords: Passwords,
}

/// A pair of tokens.
pub struct Tokens {
    access: String,
    refresh: String,
    expires_in: i32,
}

impl AuthService {
    /// The service on shared keys and sessions.
    pub fn new(app: App, keys: Arc<Keys>, sessions: Arc<Sessions>) -> Result<Self, Error> {
        let passwords = Passwords::new(&app.config.auth)?;
        Ok(Self { app, keys, sessions, passwords })
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

    /// 32 random bytes, as a token that nobody guesses.
    pub(super) fn random_token(&self) -> Result<String, Error> {
        Ok(URL_SAFE_NO_PAD.encode(self.app.rng.bytes::<32>()?))
    }

    pub(super) fn refresh_lifetime(&self) -> Duration {
        Duration::seconds(i64::from(self.app.config.auth.refresh_token_seconds))
    }

    /// Confirms callers, on the same permits for hashing.
    pub fn confirmation(&self) -> Confirmation {
        Confirmation::new(self.app.clone(), self.passwords.clone())
    }

    /// Counts an attempt on the account that an e-mail address names, whether there is one or not.
    async fn count_attempt(&self, email: &str) -> Result<(), Error> {
        let hash = Sha256::digest(fold_email(email).as_bytes());
        let mut name = [0; 16];
        name.copy_from_slice(&hash[..16]);
        self.app.rates.check(Rate::Authentication, Subject::Named(name)).await.map(drop)
    }

    async fn revoke_all(&self, account_id: Uuid) -> Result<(), Error> {
        let now = self.app.clock.now();
        let mut conn = self.app.db.get().await?;
        let found = conn.transaction(async |conn| Account::revoke_sessions(conn, account_id, now).await).await?;
        self.sessions.changed(account_id).await;
        if found { Ok(()) } else { Err(Error::not_found("account")) }
    }
}

#[tonic::async_trait]
impl Contract for AuthService {
    async fn register(&self, request: Request<RegisterRequest>) -> Result<Response<RegisterResponse>, Status> {
        let request = request.into_inner();
        self.count_attempt(&request.email).await?;
        let hash = self.passwords.hash(request.password).await?;
        let account = NewAccount::new(&self.app, &request.email, &request.display_name, hash, Role::User)?;
        let mut conn = self.app.db.get().await?;
        let account = account.insert(&mut conn).await?;
        let response = RegisterResponse { account: Some((&account).into()) };
        Ok(ActingAccount(account.id).on(response))
    }

    async fn login(&self, request: Request<LoginRequest>) -> Result<Response<LoginResponse>, Status> {
        let client = Client::of(&request);
        let LoginRequest { email, password } = request.into_inner();
        self.count_attempt(&email).await?;
        let found = {
            let mut conn = self.app.db.get().await?;
            Account::by_email(&mut conn, &email).await?
        };
        let (account, hash) = found.unzip();
        let matches = self.passwords.verify(password, hash.clone()).await?;
        let (Some(account), Some(hash), true) = (account, hash, matches) else {
            return Err(invalid_credentials().into());
        };
        let response = match self.begin_login(account.id, &hash, client).await? {
            Begun::Session(tokens) => LoginResponse {
                access_token: tokens.access,
                refresh_token: tokens.refresh,
                expires_in: tokens.expires_in,
                token_type: "Bearer".into(),
                ..Default::default()
            },
            Begun::Challenge(challenge_token) => {
                LoginResponse { two_factor_required: true, challenge_token, ..Default::default() }
            }
        };
        Ok(ActingAccount(account.id).on(response))
    }

    async fn verify_two_factor(
        &self,
        request: Request<VerifyTwoFactorRequest>,
    ) -> Result<Response<VerifyTwoFactorResponse>, Status> {
        let client = Client::of(&request);
        let request = request.into_inner();
        let proof = Proof::required(&request.code, &request.backup_code)?;
        let (account_id, tokens) = self.finish_login(&request.challenge_token, proof, client).await?;
        Ok(ActingAccount(account_id).on(VerifyTwoFactorResponse {
            access_token: tokens.access,
            refresh_token: tokens.refresh,
            expires_in: tokens.expires_in,
            token_type: "Bearer".into(),
        }))
    }

    async fn reauthenticate(
        &self,
        request: Request<ReauthenticateRequest>,
    ) -> Result<Response<ReauthenticateResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        let request = request.into_inner();
        let proof = Proof::parse(&request.code, &request.backup_code)?;
        self.confirmation().confirm(caller.account_id, request.password, proof).await?;
        let now = self.app.clock.now();
        let mut conn = self.app.db.get().await.map_err(Status::from)?;
        Session::reauthenticated(&mut conn, caller.session_id, now).await?;
        let valid_until = Some(wire::timestamp(now + RECENT));
        Ok(Response::new(ReauthenticateResponse { valid_until }))
    }

    async fn refresh(&self, request: Request<RefreshRequest>) -> Result<Response<RefreshResponse>, Status> {
        let old = request.into_inner().refresh_token;
        let new = self.random_token()?;
        let (now, lifetime) = (self.app.clock.now(), self.refresh_lifetime());
        let mut conn = self.app.db.get().await?;
        let exchange =
            conn.transaction(async |conn| RefreshToken::exchange(conn, &old, &new, now, lifetime).await).await?;
        drop(conn);
        let refused = match exchange {
            Exchange::Renewed(account, session) => {
                let tokens = self.tokens(&account, session.id, new, now)?;
                return Ok(ActingAccount(account.id).on(RefreshResponse {
                    access_token: tokens.access,
                    refresh_token: tokens.refresh,
                    expires_in: tokens.expires_in,
                    token_type: "Bearer".into(),
                }));
            }
            Exchange::Unknown => Error::new(Reason::TokenInvalid, "the refresh token is not valid"),
            Exchange::Expired => Error::new(Reason::TokenExpired, "the refresh token has expired"),
            Exchange::Ended => Error::new(Reason::SessionRevoked, "the session has ended"),
            Exchange::Reused(session) => {
                tracing::warn!(account = %session.account_id, session = %session.id, "a refresh token was used twice");
                self.sessions.changed(session.account_id).await;
                Error::new(Reason::SessionRevoked, "the refresh token was used before; the session has ended")
            }
        };
        Err(refused.into())
    }

    async fn logout(&self, request: Request<LogoutRequest>) -> Result<Response<LogoutResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        if request.into_inner().everywhere {
            self.revoke_all(caller.account_id).await?;
        } else {
            let mut conn = self.app.db.get().await?;
            Session::revoke(&mut conn, caller.session_id, self.app.clock.now()).await?;
            drop(conn);
            self.sessions.changed(caller.account_id).await;
        }
        Ok(Response::new(LogoutResponse {}))
    }

    async fn get_me(&self, request: Request<GetMeRequest>) -> Result<Response<GetMeResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        let account = self.sessions.account(&caller).await?;
        Ok(Response::new(GetMeResponse { account: Some((&account).into()) }))
    }

    async fn revoke_sessions(
        &self,
        request: Request<RevokeSessionsRequest>,
    ) -> Result<Response<RevokeSessionsResponse>, Status> {
        let account_id = wire::id("account_id", &request.into_inner().account_id)?;
        self.revoke_all(account_id).await?;
        Ok(Response::new(RevokeSessionsResponse {}))
    }
}
