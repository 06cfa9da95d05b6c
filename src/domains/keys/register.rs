//! Registering devices, and the key of the account that signs them.

use diesel_async::AsyncConnection;

use super::curve::is_signed;
use super::events;
use super::model::{AccountKey, Device};
use super::service::KeyService;
use super::{signed, wire};
use crate::domains::auth;
use crate::kernel::account_events::Announcement;
use crate::kernel::caller::Caller;
use crate::kernel::db::Conn;
use crate::kernel::error::{Error, Reason};
use crate::kernel::trail::Target;
use crate::kernel::wire::id;
use crate::proto::rialto::keys::v1::{RegisterDeviceRequest, SetAccountKeyRequest};

/// An account has so many devices at most.
const MOST: i64 = 20;

impl KeyService {
    /// Gives the caller's account its key. Another one than it has takes all devices away.
    pub(super) async fn replace_account_key(
        &self,
        caller: &Caller,
        request: SetAccountKeyRequest,
    ) -> Result<(), Error> {
        caller.trail.about(Target::Account(caller.account_id));
        let (key, now) = (request.account_key, self.app.clock.now());
        if !is_signed(&key, &signed::account_key(caller.account_id, &key), &request.signature) {
            return Err(Error::invalid_field("signature", "is not the key's own signature of account and key"));
        }
        let proved = self.sessions.require_recent_authentication(caller).await;
        let mut conn = self.app.db.get().await?;
        let announcement = conn
            .transaction(async |conn| {
                // This locks the account: its key and its devices are changed by one at a time.
                auth::lock_second_factor(conn, caller.account_id).await?;
                let before = AccountKey::of(conn, caller.account_id).await?;
                if before.is_some_and(|before| before == key) {
                    return Ok(Announcement::default());
                }
                // Keys outlive the session. Whoever has just reset the password has ended it.
                auth::require_live_session(conn, caller, now).await?;
                proved?;
                let removed = AccountKey::delete(conn, caller.account_id).await?;
                AccountKey::insert(conn, caller.account_id, &key, now).await?;
                events::removed(conn, &removed, now).await
            })
            .await?;
        drop(conn);
        self.app.account_events.announce(announcement).await;
        Ok(())
    }

    /// Registers a device of the caller's account; returns how it is then.
    pub(super) async fn register(&self, caller: &Caller, request: RegisterDeviceRequest) -> Result<Device, Error> {
        caller.trail.about(Target::Device(id("device_id", &request.device_id)?));
        let now = self.app.clock.now();
        let device = wire::device(caller.account_id, &request, now)?;
        let proved = self.sessions.require_recent_authentication(caller).await;
        let mut conn = self.app.db.get().await?;
        let (device, announcement) = conn
            .transaction(async |conn| {
                auth::lock_second_factor(conn, caller.account_id).await?;
                let stored = AccountKey::of(conn, caller.account_id).await?;
                let account_key = agreed(stored.as_deref(), request.account_key.as_deref())?;
                wire::check_device(&device, account_key)?;
                let before = Device::find(conn, device.account_id, device.device_id).await?;
                if let Some(before) = before.as_ref().filter(|before| before.registration_id == device.registration_id)
                {
                    return again(conn, before, device).await.map(|device| (device, Announcement::default()));
                }
                auth::require_live_session(conn, caller, now).await?;
                proved?;
                if stored.is_none() {
                    AccountKey::insert(conn, caller.account_id, account_key, now).await?;
                }
                let created_at = match before {
                    Some(before) => {
                        // With its prekeys, whose private parts are gone.
                        Device::delete(conn, device.account_id, device.device_id).await?;
                        before.created_at
                    }
                    None if Device::count(conn, caller.account_id).await? >= MOST => {
                        let message = format!("an account has at most {MOST} devices");
                        return Err(Error::new(Reason::DeviceLimitReached, message));
                    }
                    None => now,
                };
                let device = Device { created_at, ..device };
                device.insert(conn).await?;
                let announcement = events::added(conn, &device, now).await?;
                Ok((device, announcement))
            })
            .await?;
        drop(conn);
        self.app.account_events.announce(announcement).await;
        Ok(device)
    }

    /// Removes a device of the caller's account.
    pub(super) async fn remove(&self, caller: &Caller, device_id: &str) -> Result<(), Error> {
        let device_id = id("device_id", device_id)?;
        caller.trail.about(Target::Device(device_id));
        let now = self.app.clock.now();
        let mut conn = self.app.db.get().await?;
        let announcement = conn
            .transaction(async |conn| {
                if !Device::delete(conn, caller.account_id, device_id).await? {
                    return Err(Error::not_found("device"));
                }
                events::removed(conn, &[(caller.account_id, device_id)], now).await
            })
            .await?;
        drop(conn);
        self.app.account_events.announce(announcement).await;
        Ok(())
    }
}

/// Registers a device once more under the same registration id.
async fn again(conn: &mut Conn, before: &Device, device: Device) -> Result<Device, Error> {
    if !before.has_keys_of(&device) {
        let message = "the device has other keys under this registration id: new keys need a new one";
        return Err(Error::new(Reason::RegistrationIdMismatch, message).at_field("registration_id"));
    }
    let device = Device { created_at: before.created_at, ..device };
    device.update(conn).await?;
    Ok(device)
}

/// The key that signs the device: what the account has, with which what the call names must agree.
fn agreed<'a>(stored: Option<&'a [u8]>, named: Option<&'a [u8]>) -> Result<&'a [u8], Error> {
    match (stored, named) {
        (Some(stored), Some(named)) if stored != named => {
            let message = "the account has another key; SetAccountKey replaces it, and removes all devices";
            Err(Error::new(Reason::AccountKeyMismatch, message).at_field("account_key"))
        }
        (Some(key), _) | (None, Some(key)) => Ok(key),
        (None, None) => Err(Error::invalid_field("account_key", "is needed: the account has none yet")),
    }
}
