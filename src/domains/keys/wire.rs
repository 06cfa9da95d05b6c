//! Between the contract and rows, with the checks of keys that `buf.validate` can't express.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::curve::{is_signed, is_x25519_key};
use super::model::{self, Counts, Kind, NewPreKey, day};
use super::signed;
use crate::domains::auth;
use crate::kernel::error::Error;
use crate::kernel::wire::{id, timestamp};
use crate::proto::rialto::keys::v1::{
    ClaimTarget, Device, KemPreKey, OneTimePreKey, RegisterDeviceRequest, SignedPreKey,
};

/// A 32-bit number out of the database, which has no unsigned ones. It went in as one.
pub fn number(stored: i64) -> u32 {
    u32::try_from(stored).unwrap_or_default()
}

/// A count of rows that are few.
pub fn count(rows: i64) -> i32 {
    i32::try_from(rows).unwrap_or(i32::MAX)
}

/// An X25519 key that is good for an agreement.
fn x25519(field: &str, key: &[u8]) -> Result<(), Error> {
    let message = "must be an X25519 public key, canonical and not of low order";
    if is_x25519_key(key) { Ok(()) } else { Err(Error::invalid_field(field, message)) }
}

/// A device as a request registers it. Its signature is checked with the account's key.
pub fn device(account_id: Uuid, request: &RegisterDeviceRequest, now: DateTime<Utc>) -> Result<model::Device, Error> {
    x25519("identity_key", &request.identity_key)?;
    Ok(model::Device {
        account_id,
        device_id: id("device_id", &request.device_id)?,
        registration_id: request.registration_id.into(),
        identity_key: request.identity_key.clone(),
        signing_key: request.signing_key.clone(),
        signature: request.signature.clone(),
        name: auth::display_name(&request.name).map_err(|why| Error::invalid_field("name", why))?,
        created_at: now,
        last_seen_at: day(now),
    })
}

/// Refuses a device that its account's key has not signed.
pub fn check_device(device: &model::Device, account_key: &[u8]) -> Result<(), Error> {
    let message = signed::device(
        device.account_id,
        device.device_id,
        number(device.registration_id),
        &device.identity_key,
        &device.signing_key,
    );
    let what = "is not the account key's signature of account, device, registration id and keys";
    if is_signed(account_key, &message, &device.signature) {
        Ok(())
    } else {
        Err(Error::invalid_field("signature", what))
    }
}

/// An X25519 prekey that `device` has signed.
pub fn signed_prekey(device: &model::Device, key: SignedPreKey) -> Result<NewPreKey, Error> {
    x25519("signed_pre_key.public_key", &key.public_key)?;
    let message = signed::prekey(device.account_id, device.device_id, key.key_id, &key.public_key);
    by_device("signed_pre_key", device, &message, &key.signature)?;
    Ok(NewPreKey { key_id: key.key_id, public_key: key.public_key, signature: Some(key.signature) })
}

/// A post-quantum prekey that `device` has signed; `field` is where the request has it.
pub fn kem_prekey(field: &str, device: &model::Device, key: KemPreKey) -> Result<NewPreKey, Error> {
    let message = signed::kem_prekey(device.account_id, device.device_id, key.key_id, &key.public_key);
    by_device(field, device, &message, &key.signature)?;
    Ok(NewPreKey { key_id: key.key_id, public_key: key.public_key, signature: Some(key.signature) })
}

fn by_device(field: &str, device: &model::Device, message: &[u8], signature: &[u8]) -> Result<(), Error> {
    let what = "is not the signature of account, device, key id and key by the device's signing key";
    if is_signed(&device.signing_key, message, signature) {
        Ok(())
    } else {
        Err(Error::invalid_field(format!("{field}.signature"), what))
    }
}

/// One-time X25519 prekeys.
pub fn one_time_prekeys(keys: Vec<OneTimePreKey>) -> Result<Vec<NewPreKey>, Error> {
    let mut prekeys = Vec::new();
    for (index, key) in keys.into_iter().enumerate() {
        x25519(&format!("pre_keys[{index}].public_key"), &key.public_key)?;
        prekeys.push(NewPreKey { key_id: key.key_id, public_key: key.public_key, signature: None });
    }
    once_each(Kind::X25519, prekeys)
}

/// One-time post-quantum prekeys that `device` has signed.
pub fn one_time_kem_prekeys(device: &model::Device, keys: Vec<KemPreKey>) -> Result<Vec<NewPreKey>, Error> {
    let mut prekeys = Vec::new();
    for (index, key) in keys.into_iter().enumerate() {
        prekeys.push(kem_prekey(&format!("kem_pre_keys[{index}]"), device, key)?);
    }
    once_each(Kind::MlKem768, prekeys)
}

fn once_each(kind: Kind, keys: Vec<NewPreKey>) -> Result<Vec<NewPreKey>, Error> {
    let mut ids = BTreeSet::new();
    match keys.iter().position(|key| !ids.insert(key.key_id)) {
        Some(index) => Err(Error::invalid_field(key_id_field(kind, index), "must not come twice")),
        None => Ok(keys),
    }
}

/// Where an upload has the id of a one-time prekey.
pub fn key_id_field(kind: Kind, index: usize) -> String {
    let list = match kind {
        Kind::X25519 => "pre_keys",
        Kind::MlKem768 => "kem_pre_keys",
    };
    format!("{list}[{index}].key_id")
}

/// An account whose bundles are claimed, and of which devices; none for all.
pub struct Target {
    pub account_id: Uuid,
    pub device_ids: Vec<Uuid>,
}

/// What a claim names.
pub fn targets(targets: &[ClaimTarget]) -> Result<Vec<Target>, Error> {
    let mut parsed: Vec<Target> = Vec::new();
    for (index, target) in targets.iter().enumerate() {
        let field = format!("targets[{index}].account_id");
        let account_id = id(&field, &target.account_id)?;
        if parsed.iter().any(|earlier| earlier.account_id == account_id) {
            return Err(Error::invalid_field(field, "must not come twice"));
        }
        let mut device_ids = Vec::new();
        for (device, device_id) in target.device_ids.iter().enumerate() {
            device_ids.push(id(&format!("targets[{index}].device_ids[{device}]"), device_id)?);
        }
        parsed.push(Target { account_id, device_ids });
    }
    Ok(parsed)
}

/// A device as others see it.
pub fn public_device(device: &model::Device) -> Device {
    Device {
        device_id: device.device_id.to_string(),
        registration_id: number(device.registration_id),
        identity_key: device.identity_key.clone(),
        signing_key: device.signing_key.clone(),
        signature: device.signature.clone(),
        ..Device::default()
    }
}

/// A device as its owner sees it.
pub fn own_device(device: &model::Device) -> Device {
    Device {
        name: device.name.clone(),
        created_at: Some(timestamp(device.created_at)),
        last_seen_at: Some(timestamp(device.last_seen_at)),
        ..public_device(device)
    }
}

impl From<&model::SignedPreKey> for SignedPreKey {
    fn from(key: &model::SignedPreKey) -> Self {
        Self { key_id: number(key.key_id), public_key: key.public_key.clone(), signature: key.signature.clone() }
    }
}

impl From<&model::SignedPreKey> for KemPreKey {
    fn from(key: &model::SignedPreKey) -> Self {
        Self { key_id: number(key.key_id), public_key: key.public_key.clone(), signature: key.signature.clone() }
    }
}

impl From<&model::OneTimePreKey> for OneTimePreKey {
    fn from(key: &model::OneTimePreKey) -> Self {
        Self { key_id: number(key.key_id), public_key: key.public_key.clone() }
    }
}

impl From<&model::OneTimePreKey> for KemPreKey {
    fn from(key: &model::OneTimePreKey) -> Self {
        let signature = key.signature.clone().unwrap_or_default();
        Self { key_id: number(key.key_id), public_key: key.public_key.clone(), signature }
    }
}

/// What is left of each kind.
pub fn counts(counts: &Counts) -> (i32, i32) {
    (count(counts.x25519), count(counts.ml_kem_768))
}
