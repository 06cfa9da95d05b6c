//! `rialto.auth.v1.AuthService`. What each method does is in a module of its verb.

use std::sync::Arc;

use chrono::Duration;
use diesel_async::AsyncConnection;
use sha2::{Digest, Sha256};
use tonic::{Request, Response, Status};
use uuid::Uuid;

use super::administration::{self, StateChange};
use super::client::Client;
use super::cookies::{Browser, device_token};
use super::login::{Begun, Tokens};
use super::model::{Account, Exchange, RefreshToken, Session, fold_email};
use super::passwords::Passwords;
use super::sessions::RECENT;
use super::throttle::Throttle;
use super::{Confirmation, Keys, Sessions, jobs, wire as ours};
use crate::domains::two_factor::Proof;
use crate::kernel::app::App;
use crate::kernel::caller::{ActingAccount, Caller};
use crate::kernel::error::{Error, Reason};
use crate::kernel::rates::{Rate, Subject};
use crate::kernel::security::{Event, Kind};
use crate::kernel::trail::Target;
use crate::kernel::wire;
use crate::proto::rialto::account::v1::SessionEndReason;
use crate::proto::rialto::auth::v1::auth_service_server::AuthService as Contract;
use crate::proto::rialto::auth::v1::{
    ApproveAccountRequest, ApproveAccountResponse, ChangePasswordRequest, ChangePasswordResponse,
    ConfirmEmailChangeRequest, ConfirmEmailChangeResponse, ForgotPasswordRequest, ForgotPasswordResponse,
    GetCsrfTokenRequest, GetCsrfTokenResponse, GetMeRequest, GetMeResponse, ListPendingAccountsRequest,
    ListPendingAccountsResponse, ListSessionsRequest, ListSessionsResponse, LoginRequest, LoginResponse, LogoutRequest,
    LogoutResponse, ReauthenticateRequest, ReauthenticateResponse, RefreshRequest, RefreshResponse, RegisterRequest,
    RegisterResponse, ReinstateAccountRequest, ReinstateAccountResponse, RejectAccountRequest, RejectAccountResponse,
    RequestEmailChangeRequest, RequestEmailChangeResponse, ResendVerificationRequest, ResendVerificationResponse,
    ResetPasswordRequest, ResetPasswordResponse, RevokeSessionRequest, RevokeSessionResponse, RevokeSessionsRequest,
    RevokeSessionsResponse, SuspendAccountRequest, SuspendAccountResponse, UndoEmailChangeRequest,
    UndoEmailChangeResponse, UnlockAccountRequest, UnlockAccountResponse, VerifyEmailRequest, VerifyEmailResponse,
    VerifyTwoFactorRequest, VerifyTwoFactorResponse,
};

/// `token_type` of every answer with tokens (RFC 6750).
pub(super) const BEARER: &str = "Bearer";

/// The service.
pub struct AuthService {
    pub(super) app: App,
    pub(super) keys: Arc<Keys>,
    pub(super) sessions: Arc<Sessions>,
    pub(super) passwords: Passwords,
    pub(super) throttle: Throttle,
}

impl AuthService {
    /// The service on shared keys and sessions.
    pub fn new(app: App, keys: Arc<Keys>, sessions: Arc<Sessions>) -> Result<Self, Error> {
        let passwords = Passwords::new(&app.config.auth)?;
        let throttle = Throttle::new(app.clone())?;
        Ok(Self { app, keys, sessions, passwords, throttle })
    }

    /// Confirms callers, on the same permits for hashing.
    pub fn confirmation(&self) -> Confirmation {
        Confirmation::new(self.app.clone(), self.passwords.clone(), self.throttle.clone())
    }

    /// Counts a mail that somebody has asked for, whatever there is to be mailed to the address.
    pub(super) async fn count_mail(&self, email: &str) -> Result<(), Error> {
        let hash = Sha256::digest(fold_email(email).as_bytes());
        let mut name = [0; 16];
        name.copy_from_slice(&hash[..16]);
        self.app.rates.check(Rate::Authentication, Subject::Named(name)).await.map(drop)
    }

    async fn revoke_all(&self, by: &Caller, account_id: Uuid) -> Result<(), Error> {
        by.trail.about(Target::Account(account_id));
        let now = self.app.clock.now();
        let mut conn = self.app.db.get().await?;
        let revoked = conn.transaction(async |conn| {
            administration::may_act_on(conn, by, account_id, now).await?;
            let own = by.account_id == account_id;
            let why = if own { SessionEndReason::LoggedOut } else { SessionEndReason::Revoked };
            Account::revoke_sessions(conn, account_id, why, now).await
        });
        let told = revoked.await?;
        drop(conn);
        self.app.account_events.announce(told).await;
        self.sessions.changed(account_id).await;
        Ok(())
    }

    async fn change_state(&self, by: &Caller, id: &str, change: StateChange<'_>) -> Result<Account, Error> {
        administration::change_state(&self.app, &self.sessions, by, wire::id("account_id", id)?, change).await
    }

    /// The tokens that a refresh token is exchanged for, and whose they are. Used again within `tolerance`, the token is
    /// refused, and the session goes on.
    pub(super) async fn renew(&self, old: &str, tolerance: Option<Duration>) -> Result<(Uuid, Tokens), Error> {
        let new = self.app.rng.token()?;
        let (now, lifetimes) = (self.app.clock.now(), self.lifetimes());
        let mut conn = self.app.db.get().await?;
        let exchange = conn
            .transaction(async |conn| RefreshToken::exchange(conn, old, &new, now, lifetimes, tolerance).await)
            .await?;
        drop(conn);
        match exchange {
            Exchange::Renewed(account, session) => {
                self.app.security.seen(account.id);
                Ok((account.id, self.tokens(&account, session.id, new, now, session.expires_at)?))
            }
            Exchange::Superseded => {
                let message = "the refresh cookie was exchanged a moment ago; the browser has new ones";
                Err(Error::new(Reason::RefreshSuperseded, message))
            }
            Exchange::Unknown => Err(Error::new(Reason::TokenInvalid, "the refresh token is not valid")),
            Exchange::Expired => Err(Error::new(Reason::TokenExpired, "the refresh token has expired")),
            Exchange::Ended => Err(Error::new(Reason::SessionRevoked, "the session has ended")),
            Exchange::Reused(session, told) => {
                tracing::warn!(account = %session.account_id, session = %session.id, "a refresh token was used twice");
                self.app.security.record(Event::about(Kind::RefreshTokenReused, session.account_id));
                self.app.account_events.announce(told).await;
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
        let browser = Browser::wanted(request.extensions(), request.get_ref().cookie)?;
        let browser = browser.as_deref();
        let mut request = request.into_inner();
        request.device_token = device_token(request.device_token, browser);
        let (account_id, response) = match self.log_in(request, client).await? {
            Begun::Session(opened) => {
                let (handed, device_token) = self.hand_out_login(opened.tokens, opened.device_token, browser).await?;
                let response = LoginResponse {
                    access_token: handed.access_token,
                    refresh_token: handed.refresh_token,
                    expires_in: handed.expires_in,
                    token_type: handed.token_type,
                    device_token,
                    csrf_token: handed.csrf_token,
                    ..Default::default()
                };
                (opened.account_id, response)
            }
            Begun::Challenge { account_id, token, factors } => {
                let response = LoginResponse {
                    two_factor_required: true,
                    challenge_token: token,
                    second_factors: factors.into_iter().map(Into::into).collect(),
                    ..Default::default()
                };
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
        let browser = Browser::wanted(request.extensions(), request.get_ref().cookie)?;
        let browser = browser.as_deref();
        let mut request = request.into_inner();
        let proof = self.second_factor(&mut request).await?;
        let device_token = device_token(request.device_token, browser);
        let opened = self.finish_login(&request.challenge_token, proof, &device_token, client).await?;
        let (handed, device_token) = self.hand_out_login(opened.tokens, opened.device_token, browser).await?;
        Ok(ActingAccount(opened.account_id).on(VerifyTwoFactorResponse {
            access_token: handed.access_token,
            refresh_token: handed.refresh_token,
            expires_in: handed.expires_in,
            token_type: handed.token_type,
            device_token,
            csrf_token: handed.csrf_token,
        }))
    }

    async fn reauthenticate(
        &self,
        request: Request<ReauthenticateRequest>,
    ) -> Result<Response<ReauthenticateResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        let request = request.into_inner();
        let proof = Proof::parse(&request.code, &request.backup_code)?;
        self.confirmation().confirm(&caller, request.password, proof).await?;
        let now = self.app.clock.now();
        let mut conn = self.app.db.get().await.map_err(Status::from)?;
        Session::reauthenticated(&mut conn, caller.session_id, now).await?;
        let valid_until = Some(wire::timestamp(now + RECENT));
        Ok(Response::new(ReauthenticateResponse { valid_until }))
    }

    async fn refresh(&self, request: Request<RefreshRequest>) -> Result<Response<RefreshResponse>, Status> {
        let token = &request.get_ref().refresh_token;
        let browser = Browser::of(request.extensions()).filter(|browser| token.is_empty() && browser.has_session());
        let (account_id, tokens) = match browser.as_deref() {
            Some(browser) => self.renew_cookie(browser).await?,
            None if token.is_empty() => return Err(Error::invalid_field("refresh_token", "is missing").into()),
            None => self.renew(token, None).await?,
        };
        let handed = self.hand_out(tokens, browser.as_deref())?;
        Ok(ActingAccount(account_id).on(RefreshResponse {
            access_token: handed.access_token,
            refresh_token: handed.refresh_token,
            expires_in: handed.expires_in,
            token_type: handed.token_type,
            csrf_token: handed.csrf_token,
        }))
    }

    async fn get_csrf_token(
        &self,
        request: Request<GetCsrfTokenRequest>,
    ) -> Result<Response<GetCsrfTokenResponse>, Status> {
        let csrf_token = self.csrf_token(Browser::of(request.extensions()).as_deref()).await?;
        Ok(Response::new(GetCsrfTokenResponse { csrf_token }))
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
        let browser = Browser::let_in(request.extensions());
        let tokens = self.change(&caller, request.into_inner()).await?;
        let handed = self.hand_out(tokens, browser.as_deref())?;
        Ok(Response::new(ChangePasswordResponse {
            access_token: handed.access_token,
            refresh_token: handed.refresh_token,
            expires_in: handed.expires_in,
            token_type: handed.token_type,
            csrf_token: handed.csrf_token,
        }))
    }

    async fn request_email_change(
        &self,
        request: Request<RequestEmailChangeRequest>,
    ) -> Result<Response<RequestEmailChangeResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        self.begin_email_change(&caller, &request.get_ref().new_email).await?;
        Ok(Response::new(RequestEmailChangeResponse {}))
    }

    async fn confirm_email_change(
        &self,
        request: Request<ConfirmEmailChangeRequest>,
    ) -> Result<Response<ConfirmEmailChangeResponse>, Status> {
        let account = self.finish_email_change(&request.get_ref().token).await?;
        Ok(ActingAccount(account.id).on(ConfirmEmailChangeResponse { account: Some((&account).into()) }))
    }

    async fn undo_email_change(
        &self,
        request: Request<UndoEmailChangeRequest>,
    ) -> Result<Response<UndoEmailChangeResponse>, Status> {
        let account_id = self.take_back(&request.get_ref().token).await?;
        Ok(ActingAccount(account_id).on(UndoEmailChangeResponse {}))
    }

    async fn logout(&self, request: Request<LogoutRequest>) -> Result<Response<LogoutResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        let browser = Browser::let_in(request.extensions());
        if request.into_inner().everywhere {
            self.revoke_all(&caller, caller.account_id).await?;
        } else {
            let mut conn = self.app.db.get().await?;
            let (why, now) = (SessionEndReason::LoggedOut, self.app.clock.now());
            let ended = conn.transaction(async |conn| Session::revoke(conn, caller.session_id, why, now).await);
            let told = ended.await?;
            drop(conn);
            self.app.account_events.announce(told).await;
            self.sessions.changed(caller.account_id).await;
        }
        if let Some(browser) = browser {
            browser.clear();
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
        let caller = Caller::of(request.extensions())?;
        let account_id = wire::id("account_id", &request.into_inner().account_id)?;
        self.revoke_all(&caller, account_id).await?;
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
        let browser = Browser::let_in(request.extensions());
        let id = wire::id("session_id", &request.into_inner().session_id)?;
        caller.trail.about(Target::Session(id));
        let mut conn = self.app.db.get().await?;
        let now = self.app.clock.now();
        let revoked = conn.transaction(async |conn| Session::revoke_own(conn, caller.account_id, id, now).await);
        let told = revoked.await?.ok_or_else(|| Error::not_found("session"))?;
        drop(conn);
        self.app.account_events.announce(told).await;
        if let Some(browser) = browser.filter(|_| id == caller.session_id) {
            browser.clear();
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
        let change = StateChange::reject(&request.reason)?;
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

    async fn unlock_account(
        &self,
        request: Request<UnlockAccountRequest>,
    ) -> Result<Response<UnlockAccountResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        let account = self.unlock(&caller, wire::id("account_id", &request.get_ref().account_id)?).await?;
        Ok(Response::new(UnlockAccountResponse { account: Some((&account).into()) }))
    }
}
