//! `rialto.keys.v1.KeyService`.

use std::sync::Arc;

use tonic::{Request, Response, Status};
use uuid::Uuid;

use super::claim::visible;
use super::model::{AccountKey, Device, Kind, OneTimePreKey, SignedPreKey};
use super::wire;
use crate::domains::auth::Sessions;
use crate::kernel::app::App;
use crate::kernel::caller::Caller;
use crate::kernel::error::Error;
use crate::kernel::wire::{id, timestamp};
use crate::proto::rialto::keys::v1::key_service_server::KeyService as Contract;
use crate::proto::rialto::keys::v1::{
    ClaimBundlesRequest, ClaimBundlesResponse, GetPreKeyCountRequest, GetPreKeyCountResponse, ListDevicesRequest,
    ListDevicesResponse, RegisterDeviceRequest, RegisterDeviceResponse, RemoveDeviceRequest, RemoveDeviceResponse,
    SetAccountKeyRequest, SetAccountKeyResponse, SetSignedPreKeyRequest, SetSignedPreKeyResponse,
    UploadOneTimePreKeysRequest, UploadOneTimePreKeysResponse,
};

/// The service.
pub struct KeyService {
    pub(super) app: App,
    pub(super) sessions: Arc<Sessions>,
}

impl KeyService {
    /// The service.
    pub fn new(app: App, sessions: Arc<Sessions>) -> Self {
        Self { app, sessions }
    }

    async fn list(&self, caller: &Caller, account_id: Uuid) -> Result<ListDevicesResponse, Error> {
        let mut conn = self.app.db.get().await?;
        if account_id == caller.account_id {
            let account_key = AccountKey::of(&mut conn, account_id).await?.unwrap_or_default();
            let devices = Device::of(&mut conn, account_id).await?;
            return Ok(ListDevicesResponse { account_key, devices: devices.iter().map(wire::own_device).collect() });
        }
        let visible = visible(&mut conn, caller.account_id, &[account_id]).await?;
        let devices = Device::of_active(&mut conn, &visible).await?;
        Ok(ListDevicesResponse {
            account_key: devices.first().map(|(_, account_key)| account_key.clone()).unwrap_or_default(),
            devices: devices.iter().map(|(device, _)| wire::public_device(device)).collect(),
        })
    }

    async fn prekey_count(&self, caller: &Caller, device_id: &str) -> Result<GetPreKeyCountResponse, Error> {
        let device_id = id("device_id", device_id)?;
        let mut conn = self.app.db.get().await?;
        if Device::find(&mut conn, caller.account_id, device_id).await?.is_none() {
            return Err(Error::not_found("device"));
        }
        let counts = OneTimePreKey::counts(&mut conn, caller.account_id, device_id).await?;
        let keys = SignedPreKey::of(&mut conn, &[caller.account_id], &[device_id]).await?;
        let of = |kind: Kind| keys.iter().map(|(key, _)| key).find(|key| key.kind == kind.name());
        let (signed, kem) = (of(Kind::X25519), of(Kind::MlKem768));
        let (pre_keys, kem_pre_keys) = wire::counts(&counts);
        Ok(GetPreKeyCountResponse {
            pre_keys,
            kem_pre_keys,
            signed_pre_key_id: signed.map(|key| wire::number(key.key_id)),
            signed_pre_key_set_at: signed.map(|key| timestamp(key.set_at)),
            kem_pre_key_id: kem.map(|key| wire::number(key.key_id)),
            kem_pre_key_set_at: kem.map(|key| timestamp(key.set_at)),
        })
    }
}

#[tonic::async_trait]
impl Contract for KeyService {
    async fn set_account_key(
        &self,
        request: Request<SetAccountKeyRequest>,
    ) -> Result<Response<SetAccountKeyResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        self.replace_account_key(&caller, request.into_inner()).await?;
        Ok(Response::new(SetAccountKeyResponse {}))
    }

    async fn register_device(
        &self,
        request: Request<RegisterDeviceRequest>,
    ) -> Result<Response<RegisterDeviceResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        let device = self.register(&caller, request.into_inner()).await?;
        Ok(Response::new(RegisterDeviceResponse { device: Some(wire::own_device(&device)) }))
    }

    async fn list_devices(
        &self,
        request: Request<ListDevicesRequest>,
    ) -> Result<Response<ListDevicesResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        let account_id = match &request.get_ref().account_id {
            Some(account_id) => id("account_id", account_id)?,
            None => caller.account_id,
        };
        Ok(Response::new(self.list(&caller, account_id).await?))
    }

    async fn remove_device(
        &self,
        request: Request<RemoveDeviceRequest>,
    ) -> Result<Response<RemoveDeviceResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        self.remove(&caller, &request.get_ref().device_id).await?;
        Ok(Response::new(RemoveDeviceResponse {}))
    }

    async fn set_signed_pre_key(
        &self,
        request: Request<SetSignedPreKeyRequest>,
    ) -> Result<Response<SetSignedPreKeyResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        self.set_signed(&caller, request.into_inner()).await?;
        Ok(Response::new(SetSignedPreKeyResponse {}))
    }

    async fn upload_one_time_pre_keys(
        &self,
        request: Request<UploadOneTimePreKeysRequest>,
    ) -> Result<Response<UploadOneTimePreKeysResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        let counts = self.upload(&caller, request.into_inner()).await?;
        let (pre_keys, kem_pre_keys) = wire::counts(&counts);
        Ok(Response::new(UploadOneTimePreKeysResponse { pre_keys, kem_pre_keys }))
    }

    async fn get_pre_key_count(
        &self,
        request: Request<GetPreKeyCountRequest>,
    ) -> Result<Response<GetPreKeyCountResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        Ok(Response::new(self.prekey_count(&caller, &request.get_ref().device_id).await?))
    }

    async fn claim_bundles(
        &self,
        request: Request<ClaimBundlesRequest>,
    ) -> Result<Response<ClaimBundlesResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        let accounts = self.claim(&caller, request.into_inner()).await?;
        Ok(Response::new(ClaimBundlesResponse { accounts }))
    }
}
