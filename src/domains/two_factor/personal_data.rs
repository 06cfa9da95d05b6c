//! What two-factor authentication holds about a person.

use crate::kernel::personal_data::{File, Part};

/// The second factor, without its secrets. Foreign keys erase it.
pub const PERSONAL_DATA: Part = Part {
    name: "two-factor",
    files: &[File {
        name: "two-factor.json",
        description: "Since when you have two-factor authentication, and how many backup codes are left.",
        query: "SELECT t.created_at, t.enabled_at, (SELECT count(*) FROM backup_codes b \
                WHERE b.account_id = t.account_id AND b.used_at IS NULL) AS backup_codes_left \
                FROM two_factor t WHERE t.account_id = $1",
    }],
    left_out: &[],
    erase: &[],
};
