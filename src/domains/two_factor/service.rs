//! `rialto.twofactor.v1.TwoFactorService`.

use std::sync::Arc;

use chrono::Duration;
use diesel_async::AsyncConnection;
use tonic::{Request, Response, Status};
use uuid::Uuid;
use zeroize::Zeroizing;

use super::model::{BackupCodes, Enrolment, place};
use super::qr::Picture;
use super::totp::{self, Codes, SECRET_BYTES};
use super::{Proof, codes, digits, missing, new_backup_codes, not_enabled, wrong_code};
use crate::domains::auth::jobs::Notice;
use crate::domains::auth::{self, Confirmation, Sessions};
use crate::domains::passkeys;
use crate::kernel::account_events::Announcement;
use crate::kernel::app::App;
use crate::kernel::caller::Caller;
use crate::kernel::db::Conn;
use crate::kernel::error::{Error, Reason};
use crate::kernel::jobs;
use crate::kernel::security::{Event, Kind};
use crate::kernel::trail::Target;
use crate::kernel::wire::{self, timestamp};
use crate::proto::rialto::account::v1::SecurityChange;
use crate::proto::rialto::twofactor::v1::two_factor_service_server::TwoFactorService as Contract;
use crate::proto::rialto::twofactor::v1::{
    DisableRequest, DisableResponse, EnableRequest, EnableResponse, GetBackupCodesRequest, GetBackupCodesResponse,
    GetStatusRequest, GetStatusResponse, RegenerateBackupCodesRequest, RegenerateBackupCodesResponse, ResetRequest,
    ResetResponse, SetupRequest, SetupResponse,
};

/// How long after Setup a code for Enable must come.
pub const SETUP_LIFETIME: Duration = Duration::minutes(10);

/// The service.
pub struct TwoFactorService {
    app: App,
    sessions: Arc<Sessions>,
    confirmation: Confirmation,
}

impl TwoFactorService {
    /// The service. Refuses settings that make codes weak.
    pub fn new(app: App, sessions: Arc<Sessions>, confirmation: Confirmation) -> Result<Self, Error> {
        totp::check_config(&app.config.two_factor)?;
        Ok(Self { app, sessions, confirmation })
    }

    /// Refuses whoever is not the owner: by password, and by a code or backup code where there is a second factor. Where that is
    /// a passkey alone, the session may have shown it within the last five minutes instead.
    async fn confirm(&self, caller: &Caller, password: String, proof: Option<Proof>) -> Result<(), Error> {
        if proof.is_none() && self.has_passkeys_alone(caller).await? {
            self.sessions.require_recent_authentication(caller).await?;
            return self.confirmation.confirm_password(caller, password).await;
        }
        self.confirmation.confirm(caller, password, proof).await
    }

    async fn has_passkeys_alone(&self, caller: &Caller) -> Result<bool, Error> {
        let mut conn = self.app.db.get().await?;
        let has_passkeys = passkeys::count(&mut conn, caller.account_id).await? > 0;
        Ok(has_passkeys && Enrolment::enabled(&mut conn, caller.account_id).await?.is_none())
    }

    /// Has the owner of an account told, once the transaction is committed. After it comes `wake`.
    async fn tell(&self, conn: &mut Conn, account_id: Uuid, notice: Notice) -> Result<(), Error> {
        auth::jobs::notice(&self.app, account_id, notice)?.enqueue(conn).await
    }

    /// Enables what was set up, if the code is one of its secret.
    async fn enable_with(&self, caller: &Caller, code: &str) -> Result<(Vec<String>, Announcement), Error> {
        let mut conn = self.app.db.get().await?;
        let now = self.app.clock.now();
        conn.transaction(async |conn| {
            // First, so that everybody locks the account before its rows.
            let (keep, change) = (Some(caller.session_id), SecurityChange::TwoFactorEnabled);
            let told = auth::set_two_factor(conn, caller.account_id, true, keep, change, now).await?;
            let enrolment = Enrolment::of(conn, caller.account_id).await?.ok_or_else(not_enabled)?;
            if enrolment.enabled_at.is_some() {
                return Err(already_enabled());
            }
            if enrolment.created_at + SETUP_LIFETIME <= now {
                return Err(not_enabled());
            }
            let step = codes(&self.app, &enrolment)?.step(code, now).ok_or_else(wrong_code)?;
            if !enrolment.enable(conn, step, now).await? {
                return Err(already_enabled());
            }
            self.tell(conn, caller.account_id, Notice::TwoFactorEnabled).await?;
            Ok((new_backup_codes(&self.app, conn, caller.account_id, now).await?, told))
        })
        .await
    }
}

fn already_enabled() -> Error {
    Error::new(Reason::TwoFactorAlreadyEnabled, "the account has two-factor authentication already")
}

#[tonic::async_trait]
impl Contract for TwoFactorService {
    async fn get_status(&self, request: Request<GetStatusRequest>) -> Result<Response<GetStatusResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        let account = self.sessions.account(&caller).await?;
        let mut conn = self.app.db.get().await.map_err(Status::from)?;
        let enrolment = Enrolment::of(&mut conn, caller.account_id).await?;
        let backup_codes = BackupCodes::of(&mut conn, caller.account_id).await?;
        let passkeys = passkeys::count(&mut conn, caller.account_id).await?;
        let enabled_at = enrolment.as_ref().and_then(|enrolment| enrolment.enabled_at);
        let begun = enrolment.filter(|enrolment| enrolment.enabled_at.is_none());
        let expires_at = begun.map(|begun| begun.created_at + SETUP_LIFETIME);
        Ok(Response::new(GetStatusResponse {
            enabled: enabled_at.is_some(),
            enabled_at: enabled_at.map(timestamp),
            setup_expires_at: expires_at.filter(|at| *at > self.app.clock.now()).map(timestamp),
            backup_codes_left: i32::try_from(backup_codes.left).unwrap_or(i32::MAX),
            passkeys: i32::try_from(passkeys).unwrap_or(i32::MAX),
            required: account.needs_two_factor(&self.app.config.two_factor.required_roles),
        }))
    }

    async fn setup(&self, request: Request<SetupRequest>) -> Result<Response<SetupResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        let account = self.sessions.account(&caller).await?;
        let enabled = {
            let mut conn = self.app.db.get().await.map_err(Status::from)?;
            Enrolment::enabled(&mut conn, caller.account_id).await?
        };
        if enabled.is_some() {
            return Err(already_enabled().into());
        }
        self.confirm(&caller, request.into_inner().password, None).await?;

        let secret = Zeroizing::new(self.app.rng.bytes::<SECRET_BYTES>()?);
        let now = self.app.clock.now();
        let sealed = self.app.sealer.seal(&*secret, place(caller.account_id)).map_err(Error::from)?;
        let mut conn = self.app.db.get().await.map_err(Status::from)?;
        if !Enrolment::begin(&mut conn, caller.account_id, &sealed, now).await? {
            return Err(already_enabled().into());
        }
        let codes = Codes::labelled(&*secret, &account.email, &self.app.config.two_factor)?;
        let otpauth_uri = codes.uri()?;
        let picture = Picture::of(&otpauth_uri)?;
        Ok(Response::new(SetupResponse {
            secret: codes.secret(),
            otpauth_uri,
            qr_svg: picture.svg(),
            qr_png: picture.png()?,
            expires_at: Some(timestamp(now + SETUP_LIFETIME)),
        }))
    }

    async fn enable(&self, request: Request<EnableRequest>) -> Result<Response<EnableResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        let code = digits(&request.into_inner().code)?;
        let attempt = self.confirmation.count(&caller).await?;
        let (backup_codes, told) = attempt.judge(self.enable_with(&caller, &code).await).await?;
        self.app.account_events.announce(told).await;
        self.sessions.changed(caller.account_id).await;
        jobs::wake(&self.app).await;
        Ok(Response::new(EnableResponse { backup_codes }))
    }

    async fn disable(&self, request: Request<DisableRequest>) -> Result<Response<DisableResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        let request = request.into_inner();
        let proof = Proof::required(&request.code, &request.backup_code)?;
        self.confirmation.confirm(&caller, request.password, Some(proof)).await?;
        let mut conn = self.app.db.get().await.map_err(Status::from)?;
        let now = self.app.clock.now();
        let disabled = conn.transaction(async |conn| {
            auth::lock_second_factor(conn, caller.account_id).await?;
            let left = passkeys::count(conn, caller.account_id).await? > 0;
            if !left {
                BackupCodes::delete(conn, caller.account_id).await?;
            }
            self.tell(conn, caller.account_id, Notice::TwoFactorDisabled).await?;
            Enrolment::delete(conn, caller.account_id).await?;
            let (keep, change) = (Some(caller.session_id), SecurityChange::TwoFactorDisabled);
            auth::set_two_factor(conn, caller.account_id, left, keep, change, now).await
        });
        let told = disabled.await?;
        drop(conn);
        self.app.account_events.announce(told).await;
        self.sessions.changed(caller.account_id).await;
        jobs::wake(&self.app).await;
        Ok(Response::new(DisableResponse {}))
    }

    async fn get_backup_codes(
        &self,
        request: Request<GetBackupCodesRequest>,
    ) -> Result<Response<GetBackupCodesResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        let mut conn = self.app.db.get().await.map_err(Status::from)?;
        let codes = BackupCodes::of(&mut conn, caller.account_id).await?;
        let left = i32::try_from(codes.left).unwrap_or(i32::MAX);
        Ok(Response::new(GetBackupCodesResponse { left, created_at: codes.created_at.map(timestamp) }))
    }

    async fn regenerate_backup_codes(
        &self,
        request: Request<RegenerateBackupCodesRequest>,
    ) -> Result<Response<RegenerateBackupCodesResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        let request = request.into_inner();
        let proof = Proof::parse(&request.code, &request.backup_code)?;
        if proof.is_none() && !self.has_passkeys_alone(&caller).await? {
            return Err(missing().into());
        }
        self.confirm(&caller, request.password, proof).await?;
        let mut conn = self.app.db.get().await.map_err(Status::from)?;
        let now = self.app.clock.now();
        let made = conn.transaction(async |conn| {
            // Meanwhile it may have lost it.
            if !auth::lock_second_factor(conn, caller.account_id).await? {
                return Err(not_enabled());
            }
            self.tell(conn, caller.account_id, Notice::BackupCodesReplaced).await?;
            new_backup_codes(&self.app, conn, caller.account_id, now).await
        });
        let backup_codes = made.await?;
        drop(conn);
        jobs::wake(&self.app).await;
        Ok(Response::new(RegenerateBackupCodesResponse { backup_codes }))
    }

    async fn reset(&self, request: Request<ResetRequest>) -> Result<Response<ResetResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        let account_id = wire::id("account_id", &request.into_inner().account_id)?;
        caller.trail.about(Target::Account(account_id));
        if account_id == caller.account_id {
            // Whoever has taken over the session of an administrator does not get rid of the second factor like this.
            return Err(Error::invalid_field("account_id", "is your own account: use Disable").into());
        }
        self.sessions.require_recent_authentication(&caller).await?;
        let mut conn = self.app.db.get().await.map_err(Status::from)?;
        let now = self.app.clock.now();
        let reset = conn.transaction(async |conn| {
            auth::may_act_on(conn, &caller, account_id, now).await?;
            if !auth::lock_second_factor(conn, account_id).await? {
                return Err(not_enabled());
            }
            // Who has the lost passkey could log in with it.
            passkeys::delete_all(conn, account_id).await?;
            BackupCodes::delete(conn, account_id).await?;
            self.tell(conn, account_id, Notice::TwoFactorReset).await?;
            Enrolment::delete(conn, account_id).await?;
            auth::set_two_factor(conn, account_id, false, None, SecurityChange::TwoFactorReset, now).await
        });
        let told = reset.await?;
        drop(conn);
        self.app.account_events.announce(told).await;
        self.sessions.changed(account_id).await;
        jobs::wake(&self.app).await;
        self.app.security.record(Event::about(Kind::TwoFactorReset, account_id).by(caller.account_id));
        tracing::warn!(account = %account_id, by = %caller.account_id, "two-factor authentication was reset");
        Ok(Response::new(ResetResponse {}))
    }
}
