//! `rialto.auth.v1.AuthService`. What each method does is in a module of its verb.

use std::sync::Arc;

use diesel_async::AsyncConnection;
use sha2::{Digest, Sha256};
use tonic::{Request, Response, Status};
use uuid::Uuid;

use super::administration::{self, StateChange};
use super::client::Client;
use super::login::{Begun, Tokens};
use super::model::{Account, Exchange, RefreshToken, Session, fold_email};
use super::passwords::Passwords;
use super::sessions::RECENT;
use super::{Confirmation, Keys, Sessions, jobs, wire as ours};
use crate::domains::two_factor::Proof;
use crate::kernel::app::App;
use crate::kernel::caller::{ActingAccount, Caller};
use crate::kernel::error::{Error, Reason};
use crate::kernel::rates::{Rate, Subject};
use crate::kernel::security::{Event, Kind};
use crate::kernel::wire;
use crate::proto::rialto::auth::v1::auth_service_server::AuthService as Contract;
use crate::proto::rialto::auth::v1::{
    ApproveAccountRequest, ApproveAccountResponse, ChangePasswordRequest, ChangePasswordResponse,
    ForgotPasswordRequest, ForgotPasswordResponse, GetMeRequest, GetMeResponse, ListPendingAccountsRequest,
    ListPendingAccountsResponse, ListSessionsRequest, ListSessionsResponse, LoginRequest, LoginResponse, LogoutRequest,
    LogoutResponse, ReauthenticateRequest, ReauthenticateResponse, RefreshRequest, RefreshResponse, RegisterRequest,
    RegisterResponse, ReinstateAccountRequest, ReinstateAccountResponse, RejectAccountRequest, RejectAccountResponse,
    ResendVerificationRequest, ResendVerificationResponse, ResetPasswordRequest, ResetPasswordResponse,
    RevokeSessionRequest, RevokeSessionResponse, RevokeSessionsRequest, RevokeSessionsResponse, SuspendAccountRequest,
    SuspendAccountResponse, VerifyEmailRequest, VerifyEmailResponse, VerifyTwoFactorRequest, VerifyTwoFactorResponse,
};

/// `token_type` of every answer with tokens (RFC 6750).
const BEARER: &str = "Bearer";

/// The service.
pub struct AuthService {
    pub(super) app: App,
    pub(super) keys: Arc<Keys>,
    pub(super) sessions: Arc<Sessions>,
    pub(super) passwords: Passwords,
}

impl AuthService {
    /// The service on shared keys and sessions.
    pub fn new(app: App, keys: Arc<Keys>, sessions: Arc<Sessions>) -> Result<Self, Error> {
        let passwords = Passwords::new(&app.config.auth)?;
        Ok(Self { app, keys, sessions, passwords })
    }

    /// Confirms callers, on the same permits for hashing.
    pub fn confirmation(&self) -> Confirmation {
        Confirmation::new(self.app.clone(), self.passwords.clone())
    }

    /// Counts an attempt on the account that an e-mail address names, whether there is one or not.
    pub(super) async fn count_attempt(&self, email: &str) -> Result<(), Error> {
        let hash = Sha256::digest(fold_email(email).as_bytes());
        let mut name = [0; 16];
        name.copy_from_slice(&hash[..16]);
        self.app.rates.check(Rate::Authentication, Subject::Named(name)).await.map(drop)
    }

    async fn revoke_all(&self, account_id: Uuid) -> Result<(), Error> {
        let now = self.app.clock.now();
        let mut conn = self.app.db.get().await?;
        let found = conn.transaction(async |conn| Account::revoke_sessions(conn, account_id, now).await).await?;
        drop(conn);
        self.sessions.changed(account_id).await;
        if found { Ok(()) } else { Err(Error::not_found("account")) }
    }

    async fn change_state(&self, by: &Caller, id: &str, change: StateChange<'_>) -> Result<Account, Error> {
        administration::change_state(&self.app, &self.sessions, by, wire::id("account_id", id)?, change).await
    }

    /// The tokens that a refresh token is exchanged for, and whose they are.
    async fn renew(&self, old: &str) -> Result<(Uuid, Tokens), Error> {
        let new = self.random_token()?;
        let (now, lifetimes) = (self.app.clock.now(), self.lifetimes());
        let mut conn = self.app.db.get().await?;
        let exchange =
            conn.transaction(async |conn| RefreshToken::exchange(conn, old, &new, now, lifetimes).await).await?;
        drop(conn);
        match exchange {
            Exchange::Renewed(account, session) => {
                self.app.security.seen(account.id);
                Ok((account.id, self.tokens(&account, session.id, new, now)?))
            }
            Exchange::Unknown => Err(Error::new(Reason::TokenInvalid, "the refresh token is not valid")),
            Exchange::Expired => Err(Error::new(Reason::TokenExpired, "the refresh token has expired")),
            Exchange::Ended => Err(Error::new(Reason::SessionRevoked, "the session has ended")),
            Exchange::Reused(session) => {
                tracing::warn!(account = %session.account_id, session = %session.id, "a refresh token was used twice");
                self.app.security.record(Event::about(Kind::RefreshTokenReused, session.account_id));
                self.sessions.changed(session.account_id).await;
                let message = "the refresh token was used before; the session has ended";
                Err(Error::new(Reason::SessionRevoked, message))
            }
        }
    }
}

#[tonic::async_trait]
impl Contract for AuthService {
    async fn register(&self, request: Request<RegisterRequest>) -> Result<Response<RegisterResponse>, Status> {
        let account = self.begin(request.into_inner()).await?;
        let id = Uuid::try_parse(&account.id).ok();
        let response = RegisterResponse { account: Some(account) };
        // Without an id there is no account yet, or none that the answer may tell of.
        Ok(match id {
            Some(id) => ActingAccount(id).on(response),
            None => Response::new(response),
        })
    }

    async fn verify_email(
        &self,
        request: Request<VerifyEmailRequest>,
    ) -> Result<Response<VerifyEmailResponse>, Status> {
        let account = self.verify(&request.into_inner().token).await?;
        Ok(ActingAccount(account.id).on(VerifyEmailResponse { account: Some((&account).into()) }))
    }

    async fn resend_verification(
        &self,
        request: Request<ResendVerificationRequest>,
    ) -> Result<Response<ResendVerificationResponse>, Status> {
        let email = request.into_inner().email;
        self.leave_to(&email, jobs::resend_verification(&self.app, &email)?).await?;
        Ok(Response::new(ResendVerificationResponse {}))
    }

    async fn login(&self, request: Request<LoginRequest>) -> Result<Response<LoginResponse>, Status> {
        let client = Client::of(&request);
        let (account_id, response) = match self.log_in(request.into_inner(), client).await? {
            Begun::Session(opened) => {
                let response = LoginResponse {
                    access_token: opened.tokens.access,
                    refresh_token: opened.tokens.refresh,
                    expires_in: opened.tokens.expires_in,
                    token_type: BEARER.into(),
                    device_token: opened.device_token,
                    ..Default::default()
                };
                (opened.account_id, response)
            }
            Begun::Challenge { account_id, token } => {
                let response =
                    LoginResponse { two_factor_required: true, challenge_token: token, ..Default::default() };
                (account_id, response)
            }
        };
        Ok(ActingAccount(account_id).on(response))
    }

    async fn verify_two_factor(
        &self,
        request: Request<VerifyTwoFactorRequest>,
    ) -> Result<Response<VerifyTwoFactorResponse>, Status> {
        let client = Client::of(&request);
        let request = request.into_inner();
        let proof = Proof::required(&request.code, &request.backup_code)?;
        let opened = self.finish_login(&request.challenge_token, proof, &request.device_token, client).await?;
        Ok(ActingAccount(opened.account_id).on(VerifyTwoFactorResponse {
            access_token: opened.tokens.access,
            refresh_token: opened.tokens.refresh,
            expires_in: opened.tokens.expires_in,
            token_type: BEARER.into(),
            device_token: opened.device_token,
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
        let (account_id, tokens) = self.renew(&request.into_inner().refresh_token).await?;
        Ok(ActingAccount(account_id).on(RefreshResponse {
            access_token: tokens.access,
            refresh_token: tokens.refresh,
            expires_in: tokens.expires_in,
            token_type: BEARER.into(),
        }))
    }

    async fn forgot_password(
        &self,
        request: Request<ForgotPasswordRequest>,
    ) -> Result<Response<ForgotPasswordResponse>, Status> {
        let email = request.into_inner().email;
        self.leave_to(&email, jobs::reset_password(&self.app, &email)?).await?;
        Ok(Response::new(ForgotPasswordResponse {}))
    }

    async fn reset_password(
        &self,
        request: Request<ResetPasswordRequest>,
    ) -> Result<Response<ResetPasswordResponse>, Status> {
        let account = self.reset(request.into_inner()).await?;
        Ok(ActingAccount(account.id).on(ResetPasswordResponse {}))
    }

    async fn change_password(
        &self,
        request: Request<ChangePasswordRequest>,
    ) -> Result<Response<ChangePasswordResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        let tokens = self.change(&caller, request.into_inner()).await?;
        Ok(Response::new(ChangePasswordResponse {
            access_token: tokens.access,
            refresh_token: tokens.refresh,
            expires_in: tokens.expires_in,
            token_type: BEARER.into(),
        }))
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

    async fn list_sessions(
        &self,
        request: Request<ListSessionsRequest>,
    ) -> Result<Response<ListSessionsResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        let mut conn = self.app.db.get().await?;
        let live = Session::live(&mut conn, caller.account_id, self.app.clock.now()).await?;
        let sessions = live.iter().map(|session| ours::session(session, caller.session_id)).collect();
        Ok(Response::new(ListSessionsResponse { sessions }))
    }

    async fn revoke_session(
        &self,
        request: Request<RevokeSessionRequest>,
    ) -> Result<Response<RevokeSessionResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        let id = wire::id("session_id", &request.into_inner().session_id)?;
        let mut conn = self.app.db.get().await?;
        let revoked = Session::revoke_own(&mut conn, caller.account_id, id, self.app.clock.now()).await?;
        drop(conn);
        if !revoked {
            return Err(Error::not_found("session").into());
        }
        self.sessions.changed(caller.account_id).await;
        Ok(Response::new(RevokeSessionResponse {}))
    }

    async fn list_pending_accounts(
        &self,
        request: Request<ListPendingAccountsRequest>,
    ) -> Result<Response<ListPendingAccountsResponse>, Status> {
        Ok(Response::new(self.pending(request.into_inner()).await?))
    }

    async fn approve_account(
        &self,
        request: Request<ApproveAccountRequest>,
    ) -> Result<Response<ApproveAccountResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        let account = self.change_state(&caller, &request.get_ref().account_id, StateChange::Approve).await?;
        Ok(Response::new(ApproveAccountResponse { account: Some((&account).into()) }))
    }

    async fn reject_account(
        &self,
        request: Request<RejectAccountRequest>,
    ) -> Result<Response<RejectAccountResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        let request = request.into_inner();
        let change = StateChange::Reject(&request.reason);
        let account = self.change_state(&caller, &request.account_id, change).await?;
        Ok(Response::new(RejectAccountResponse { account: Some((&account).into()) }))
    }

    async fn suspend_account(
        &self,
        request: Request<SuspendAccountRequest>,
    ) -> Result<Response<SuspendAccountResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        let account = self.change_state(&caller, &request.get_ref().account_id, StateChange::Suspend).await?;
        Ok(Response::new(SuspendAccountResponse { account: Some((&account).into()) }))
    }

    async fn reinstate_account(
        &self,
        request: Request<ReinstateAccountRequest>,
    ) -> Result<Response<ReinstateAccountResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        let account = self.change_state(&caller, &request.get_ref().account_id, StateChange::Reinstate).await?;
        Ok(Response::new(ReinstateAccountResponse { account: Some((&account).into()) }))
    }
}
