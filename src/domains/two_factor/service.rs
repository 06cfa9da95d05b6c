//! `rialto.twofactor.v1.TwoFactorService`.

use std::sync::Arc;

use chrono::{DateTime, Duration, Utc};
use diesel_async::AsyncConnection;
use tonic::{Request, Response, Status};
use uuid::Uuid;
use zeroize::Zeroizing;

use super::backup_codes::{BackupCode, COUNT};
use super::model::{BackupCodes, Enrolment, place};
use super::qr::Picture;
use super::totp::{self, Codes, SECRET_BYTES};
use super::{Proof, codes, digits, not_enabled, wrong_code};
use crate::domains::auth::{self, Confirmation, Sessions};
use crate::kernel::app::App;
use crate::kernel::caller::Caller;
use crate::kernel::db::Conn;
use crate::kernel::error::{Error, Reason};
use crate::kernel::security::{Event, Kind};
use crate::kernel::wire::{self, timestamp};
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

    /// New backup codes in the place of all others, as they are shown.
    async fn new_backup_codes(
        &self,
        conn: &mut Conn,
        account_id: Uuid,
        now: DateTime<Utc>,
    ) -> Result<Vec<String>, Error> {
        let codes = (0..COUNT).map(|_| BackupCode::new(self.app.rng)).collect::<Result<Vec<_>, _>>()?;
        let hashes: Vec<_> = codes.iter().map(|code| code.hash(account_id)).collect();
        BackupCodes::replace(conn, account_id, &hashes, now).await?;
        Ok(codes.iter().map(BackupCode::text).collect())
    }

    /// Enables what was set up, if the code is one of its secret.
    async fn enable_with(&self, caller: &Caller, code: &str) -> Result<Vec<String>, Error> {
        let mut conn = self.app.db.get().await?;
        let now = self.app.clock.now();
        conn.transaction(async |conn| {
            // First, so that everybody locks the account before its rows.
            auth::set_two_factor(conn, caller.account_id, true, Some(caller.session_id), now).await?;
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
            self.new_backup_codes(conn, caller.account_id, now).await
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
        let enabled_at = enrolment.as_ref().and_then(|enrolment| enrolment.enabled_at);
        let begun = enrolment.filter(|enrolment| enrolment.enabled_at.is_none());
        let expires_at = begun.map(|begun| begun.created_at + SETUP_LIFETIME);
        Ok(Response::new(GetStatusResponse {
            enabled: enabled_at.is_some(),
            enabled_at: enabled_at.map(timestamp),
            setup_expires_at: expires_at.filter(|at| *at > self.app.clock.now()).map(timestamp),
            backup_codes_left: i32::try_from(backup_codes.left).unwrap_or(i32::MAX),
            required: account.needs_two_factor(&self.app.config.two_factor.required_roles),
        }))
    }

    async fn setup(&self, request: Request<SetupRequest>) -> Result<Response<SetupResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        let account = self.sessions.account(&caller).await?;
        if account.two_factor {
            return Err(already_enabled().into());
        }
        self.confirmation.confirm(caller.account_id, request.into_inner().password, None).await?;

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
        let attempt = self.confirmation.count(caller.account_id).await?;
        let backup_codes = self.enable_with(&caller, &code).await?;
        attempt.succeeded().await;
        self.sessions.changed(caller.account_id).await;
        Ok(Response::new(EnableResponse { backup_codes }))
    }

    async fn disable(&self, request: Request<DisableRequest>) -> Result<Response<DisableResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        let request = request.into_inner();
        let proof = Proof::required(&request.code, &request.backup_code)?;
        self.confirmation.confirm(caller.account_id, request.password, Some(proof)).await?;
        let mut conn = self.app.db.get().await.map_err(Status::from)?;
        let now = self.app.clock.now();
        conn.transaction(async |conn| {
            auth::set_two_factor(conn, caller.account_id, false, Some(caller.session_id), now).await?;
            Enrolment::delete(conn, caller.account_id).await
        })
        .await?;
        drop(conn);
        self.sessions.changed(caller.account_id).await;
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
        let proof = Proof::required(&request.code, &request.backup_code)?;
        self.confirmation.confirm(caller.account_id, request.password, Some(proof)).await?;
        let mut conn = self.app.db.get().await.map_err(Status::from)?;
        let now = self.app.clock.now();
        let made = conn.transaction(async |conn| self.new_backup_codes(conn, caller.account_id, now).await);
        let backup_codes = made.await?;
        Ok(Response::new(RegenerateBackupCodesResponse { backup_codes }))
    }

    async fn reset(&self, request: Request<ResetRequest>) -> Result<Response<ResetResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        let account_id = wire::id("account_id", &request.into_inner().account_id)?;
        if account_id == caller.account_id {
            // Whoever has taken over the session of an administrator does not get rid of the second factor like this.
            return Err(Error::invalid_field("account_id", "is your own account: use Disable").into());
        }
        self.sessions.require_recent_authentication(&caller).await?;
        let mut conn = self.app.db.get().await.map_err(Status::from)?;
        let now = self.app.clock.now();
        conn.transaction(async |conn| {
            auth::set_two_factor(conn, account_id, false, None, now).await?;
            let enrolment = Enrolment::of(conn, account_id).await?;
            if enrolment.is_none_or(|enrolment| enrolment.enabled_at.is_none()) {
                return Err(not_enabled());
            }
            Enrolment::delete(conn, account_id).await
        })
        .await?;
        drop(conn);
        self.sessions.changed(account_id).await;
        self.app.security.record(Event::about(Kind::TwoFactorReset, account_id).by(caller.account_id));
        tracing::warn!(account = %account_id, by = %caller.account_id, "two-factor authentication was reset");
        Ok(Response::new(ResetResponse {}))
    }
}
