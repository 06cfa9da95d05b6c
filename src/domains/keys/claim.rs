//! Who sees whose devices, and claims of their prekeys.

use std::collections::HashMap;

use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::model::{Device, Kind, OneTimePreKey, SignedPreKey};
use super::service::KeyService;
use super::wire::{self, Target};
use crate::domains::{messaging, users};
use crate::kernel::caller::Caller;
use crate::kernel::db::Conn;
use crate::kernel::error::Error;
use crate::kernel::rates::{Rate, Subject};
use crate::proto::rialto::keys::v1::{AccountBundles, Bundle, ClaimBundlesRequest};

/// Those of these accounts whose devices somebody may know of: whom they may write to, and whoever is in a conversation with
/// them, if neither blocks the other. A group would be closed to whoever can't encrypt for one of its members, only because
/// that one lets nobody begin conversations.
pub async fn visible(conn: &mut Conn, viewer: Uuid, accounts: &[Uuid]) -> Result<Vec<Uuid>, Error> {
    let contacts = messaging::contacts(conn, viewer, accounts).await?;
    let may_message = users::may_message(conn, viewer, accounts, &contacts).await?;
    let blocks = users::blocks_between(conn, viewer, &contacts).await?;
    let shown = |(id, may_message): (&Uuid, bool)| {
        (may_message || (contacts.contains(id) && !blocks.contains(id))).then_some(*id)
    };
    Ok(accounts.iter().zip(may_message).filter_map(shown).collect())
}

/// A device's signed prekeys and claimed ones, by account and device.
#[derive(Default)]
struct PreKeys {
    signed: Vec<SignedPreKey>,
    one_time: Vec<OneTimePreKey>,
}

impl KeyService {
    /// One answer for each account that a request names, in their order.
    pub(super) async fn claim(
        &self,
        caller: &Caller,
        request: ClaimBundlesRequest,
    ) -> Result<Vec<AccountBundles>, Error> {
        let targets = wire::targets(&request.targets)?;
        self.count(caller, &targets).await?;
        let devices = self.claimed_devices(caller, &targets).await?;
        let giving = self.giving(&devices).await;
        let mut prekeys = self.prekeys(&devices, &giving).await?;

        let mut accounts: Vec<AccountBundles> = Vec::new();
        for target in &targets {
            let mut account = AccountBundles { account_id: target.account_id.to_string(), ..Default::default() };
            for (device, account_key) in devices.iter().filter(|(device, _)| device.account_id == target.account_id) {
                let prekeys = prekeys.remove(&(device.account_id, device.device_id)).unwrap_or_default();
                account.account_key.clone_from(account_key);
                account.bundles.push(bundle(device, &prekeys));
            }
            accounts.push(account);
        }
        Ok(accounts)
    }

    /// Counts a claim, whoever there is to be claimed from.
    async fn count(&self, caller: &Caller, targets: &[Target]) -> Result<(), Error> {
        let rates = &self.app.rates;
        for (index, target) in targets.iter().enumerate() {
            let at_target = |error: Error| error.at_field(format!("targets[{index}].account_id"));
            rates.check(Rate::Claim, Subject::Account(caller.account_id)).await?;
            let pair = pair(caller.account_id, target.account_id);
            rates.check(Rate::ClaimPair, pair).await.map_err(at_target)?;
        }
        Ok(())
    }

    /// The devices that a claim names and its caller may know of, with the keys of their accounts.
    async fn claimed_devices(&self, caller: &Caller, targets: &[Target]) -> Result<Vec<(Device, Vec<u8>)>, Error> {
        let named: Vec<_> = targets.iter().map(|target| target.account_id).collect();
        let mut conn = self.app.db.get().await?;
        let visible = visible(&mut conn, caller.account_id, &named).await?;
        let mut devices = Device::of_active(&mut conn, &visible).await?;
        devices.retain(|(device, _)| {
            let target = targets.iter().find(|target| target.account_id == device.account_id);
            target.is_some_and(|target| target.device_ids.is_empty() || target.device_ids.contains(&device.device_id))
        });
        Ok(devices)
    }

    /// Those of these devices whose accounts give one-time prekeys away now. The others have given too many: refusing their
    /// bundles altogether would let anybody keep everybody from writing to them.
    async fn giving<'a>(&self, devices: &'a [(Device, Vec<u8>)]) -> Vec<&'a Device> {
        let mut giving = Vec::new();
        let accounts = devices.chunk_by(|(one, _), (next, _)| one.account_id == next.account_id);
        for account in accounts {
            let Some((first, _)) = account.first() else { continue };
            if self.app.rates.check(Rate::ClaimTarget, Subject::Account(first.account_id)).await.is_ok() {
                giving.extend(account.iter().map(|(device, _)| device));
            }
        }
        giving
    }

    /// The prekeys of these devices, with one-time ones for those that give them away. From here on what is handed out is
    /// handed out, whether the answer arrives or not.
    async fn prekeys(
        &self,
        devices: &[(Device, Vec<u8>)],
        giving: &[&Device],
    ) -> Result<HashMap<(Uuid, Uuid), PreKeys>, Error> {
        let (accounts, ids): (Vec<_>, Vec<_>) =
            devices.iter().map(|(device, _)| (device.account_id, device.device_id)).unzip();
        let mut conn = self.app.db.get().await?;
        let mut prekeys: HashMap<_, PreKeys> = HashMap::new();
        for (key, registration_id) in SignedPreKey::of(&mut conn, &accounts, &ids).await? {
            // Not those of new keys that the device has got since: they don't belong to the ones in the bundle.
            let owner = |device: &Device| {
                (device.account_id, device.device_id, device.registration_id)
                    == (key.account_id, key.device_id, registration_id)
            };
            if devices.iter().any(|(device, _)| owner(device)) {
                prekeys.entry((key.account_id, key.device_id)).or_default().signed.push(key);
            }
        }
        for key in OneTimePreKey::claim(&mut conn, giving, self.app.clock.now()).await? {
            prekeys.entry((key.account_id, key.device_id)).or_default().one_time.push(key);
        }
        Ok(prekeys)
    }
}

fn bundle(device: &Device, prekeys: &PreKeys) -> Bundle {
    let signed = |kind: Kind| prekeys.signed.iter().find(|key| key.kind == kind.name());
    let one_time = |kind: Kind| prekeys.one_time.iter().find(|key| key.kind == kind.name());
    let kem = one_time(Kind::MlKem768);
    Bundle {
        device: Some(wire::public_device(device)),
        signed_pre_key: signed(Kind::X25519).map(Into::into),
        one_time_pre_key: one_time(Kind::X25519).map(Into::into),
        kem_pre_key: kem.map(Into::into).or_else(|| signed(Kind::MlKem768).map(Into::into)),
        kem_pre_key_is_one_time: kem.is_some(),
    }
}

/// Whoever claims and whose keys they claim, as one subject.
fn pair(caller: Uuid, target: Uuid) -> Subject {
    let hash = Sha256::new().chain_update(caller.as_bytes()).chain_update(target.as_bytes()).finalize();
    let mut name = [0; 16];
    name.copy_from_slice(&hash[..16]);
    Subject::Named(name)
}
