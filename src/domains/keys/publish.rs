//! Prekeys that devices publish.

use diesel_async::AsyncConnection;
use uuid::Uuid;

use super::model::{Counts, Device, Kind, NewPreKey, OneTimePreKey, SignedPreKey};
use super::service::KeyService;
use super::wire;
use crate::kernel::caller::Caller;
use crate::kernel::db::Conn;
use crate::kernel::error::{Error, Reason};
use crate::kernel::wire::id;
use crate::proto::rialto::keys::v1::{SetSignedPreKeyRequest, UploadOneTimePreKeysRequest};

impl KeyService {
    /// Replaces the signed prekeys that a request has.
    pub(super) async fn set_signed(&self, caller: &Caller, request: SetSignedPreKeyRequest) -> Result<(), Error> {
        let device_id = id("device_id", &request.device_id)?;
        if request.signed_pre_key.is_none() && request.kem_pre_key.is_none() {
            return Err(Error::invalid_field("signed_pre_key", "is needed, or kem_pre_key"));
        }
        let now = self.app.clock.now();
        let mut conn = self.app.db.get().await?;
        conn.transaction(async |conn| {
            let device = locked(conn, caller, device_id, request.registration_id).await?;
            if let Some(key) = request.signed_pre_key {
                let key = wire::signed_prekey(&device, key)?;
                SignedPreKey::set(conn, &device, Kind::X25519, &key, now).await?;
            }
            if let Some(key) = request.kem_pre_key {
                let key = wire::kem_prekey("kem_pre_key", &device, key)?;
                SignedPreKey::set(conn, &device, Kind::MlKem768, &key, now).await?;
            }
            device.seen(conn, now).await
        })
        .await
    }

    /// Adds one-time prekeys, all or none; returns how many there are then.
    pub(super) async fn upload(&self, caller: &Caller, request: UploadOneTimePreKeysRequest) -> Result<Counts, Error> {
        let device_id = id("device_id", &request.device_id)?;
        let keys = wire::one_time_prekeys(request.pre_keys)?;
        let now = self.app.clock.now();
        let mut conn = self.app.db.get().await?;
        conn.transaction(async |conn| {
            let device = locked(conn, caller, device_id, request.registration_id).await?;
            let kem_keys = wire::one_time_kem_prekeys(&device, request.kem_pre_keys)?;
            let counts = OneTimePreKey::counts(conn, caller.account_id, device_id).await?;
            let x25519 = add(conn, &device, Kind::X25519, &keys, counts.x25519).await?;
            let ml_kem_768 = add(conn, &device, Kind::MlKem768, &kem_keys, counts.ml_kem_768).await?;
            device.seen(conn, now).await?;
            Ok(Counts { x25519, ml_kem_768 })
        })
        .await
    }
}

/// A device of the caller's, as it is registered now, locked until the transaction ends.
async fn locked(conn: &mut Conn, caller: &Caller, device_id: Uuid, registration_id: u32) -> Result<Device, Error> {
    let device = Device::lock(conn, caller.account_id, device_id).await?;
    let device = device.ok_or_else(|| Error::not_found("device"))?;
    if device.registration_id != i64::from(registration_id) {
        let message = "the device is registered under another id: these keys are of an earlier registration";
        return Err(Error::new(Reason::RegistrationIdMismatch, message).at_field("registration_id"));
    }
    Ok(device)
}

/// Adds those that are not known to a device that has `left` of the kind; returns how many it has then.
async fn add(conn: &mut Conn, device: &Device, kind: Kind, keys: &[NewPreKey], left: i64) -> Result<i64, Error> {
    let ids: Vec<_> = keys.iter().map(|key| i64::from(key.key_id)).collect();
    let known = OneTimePreKey::known(conn, device, kind, &ids).await?;
    let mut new = Vec::new();
    for (index, key) in keys.iter().enumerate() {
        match known.iter().find(|(id, _)| *id == i64::from(key.key_id)) {
            Some((_, public_key)) if *public_key != key.public_key => {
                let message = "the device has, or had, another key under this id";
                let field = wire::key_id_field(kind, index);
                return Err(Error::new(Reason::ResourceAlreadyExists, message).at_field(field));
            }
            Some(_) => {}
            None => new.push(key),
        }
    }
    let total = left + i64::try_from(new.len()).unwrap_or(i64::MAX - left);
    if total > kind.most() {
        let message = format!("a device keeps at most {} one-time prekeys of this kind", kind.most());
        let free = (kind.most() - left).max(0).to_string();
        return Err(Error::new(Reason::PrekeyLimitReached, message).with("free", free));
    }
    if !new.is_empty() {
        OneTimePreKey::insert(conn, device, kind, &new).await?;
    }
    Ok(total)
}
