//! What profiles and blocks hold about a person.

use crate::kernel::personal_data::{File, Part};

/// The profile, and whom its owner blocks. Who blocks its owner is theirs: no archive tells, but an erasure forgets it.
pub const PERSONAL_DATA: Part = Part {
    name: "profile",
    files: &[
        File {
            name: "profile.json",
            description: "Your profile and your privacy settings; empty if you have the defaults.",
            query: "SELECT handle, bio, avatar_url, locale, time_zone, visibility, messages_from, presence_to, updated_at \
                    FROM profiles WHERE account_id = $1",
        },
        File {
            name: "blocks.json",
            description: "Whom you block.",
            query: "SELECT blocked_id, created_at FROM user_blocks WHERE blocker_id = $1 ORDER BY created_at, blocked_id",
        },
    ],
    left_out: &[],
    erase: &[
        "DELETE FROM profiles WHERE account_id = $1",
        "DELETE FROM user_blocks WHERE blocker_id = $1 OR blocked_id = $1",
    ],
};
