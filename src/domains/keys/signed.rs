//! What signatures are of, byte by byte (docs/e2ee.md). Each begins with a context that ends in a zero byte, so that a
//! signature of one thing is never one of another, and goes on with fields of fixed length.

use uuid::Uuid;

/// What an account key signs to show that somebody has its private part.
pub fn account_key(account_id: Uuid, key: &[u8]) -> Vec<u8> {
    [b"Rialto-AccountKey-v1\0".as_slice(), account_id.as_bytes(), key].concat()
}

/// What the account key signs of a device.
pub fn device(
    account_id: Uuid,
    device_id: Uuid,
    registration_id: u32,
    identity_key: &[u8],
    signing_key: &[u8],
) -> Vec<u8> {
    let registration_id = registration_id.to_be_bytes();
    let context = b"Rialto-Device-v1\0";
    [context, account_id.as_bytes().as_slice(), device_id.as_bytes(), &registration_id, identity_key, signing_key]
        .concat()
}

/// What the device's key signs of an X25519 prekey.
pub fn prekey(account_id: Uuid, device_id: Uuid, key_id: u32, key: &[u8]) -> Vec<u8> {
    of_device(b"Rialto-SignedPreKey-v1\0", account_id, device_id, key_id, key)
}

/// What the device's key signs of a post-quantum prekey.
pub fn kem_prekey(account_id: Uuid, device_id: Uuid, key_id: u32, key: &[u8]) -> Vec<u8> {
    of_device(b"Rialto-KemPreKey-v1\0", account_id, device_id, key_id, key)
}

fn of_device(context: &[u8], account_id: Uuid, device_id: Uuid, key_id: u32, key: &[u8]) -> Vec<u8> {
    [context, account_id.as_bytes(), device_id.as_bytes(), &key_id.to_be_bytes(), key].concat()
}
