//! What the directory of keys holds about a person.

use crate::kernel::personal_data::{File, Part};

/// The account's key and the devices. Foreign keys erase them, and the prekeys with them.
pub const PERSONAL_DATA: Part = Part {
    name: "keys",
    files: &[
        File {
            name: "account-key.json",
            description: "The public key that has signed your devices for end-to-end encryption.",
            query: "SELECT encode(public_key, 'base64') AS public_key, created_at FROM account_keys WHERE account_id = $1",
        },
        File {
            name: "devices.json",
            description: "Your devices for end-to-end encryption, with their public keys.",
            query: "SELECT device_id, registration_id, name, encode(identity_key, 'base64') AS identity_key, \
                    encode(signing_key, 'base64') AS signing_key, created_at, last_seen_at \
                    FROM devices WHERE account_id = $1 ORDER BY created_at, device_id",
        },
    ],
    left_out: &[
        ("signed_prekeys", "public keys that your devices replace every few days"),
        ("one_time_prekeys", "public keys for one use each; who has got which is not stored"),
    ],
    erase: &[],
};
