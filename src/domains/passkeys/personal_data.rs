//! What passkeys hold about a person.

use crate::kernel::personal_data::{File, Part};

/// The passkeys, without their keys. Foreign keys erase them.
pub const PERSONAL_DATA: Part = Part {
    name: "passkeys",
    files: &[File {
        name: "passkeys.json",
        description: "Your passkeys: what you have called them, and when they were used last.",
        query: "SELECT id, name, created_at, last_used_at FROM passkeys WHERE account_id = $1 ORDER BY id",
    }],
    left_out: &[("passkey_ceremonies", "hashes and challenges, for five minutes; whose they are is not stored")],
    erase: &[],
};
