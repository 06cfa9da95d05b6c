//! What accounts hold about a person.

use crate::kernel::personal_data::{File, Part};

/// The account itself. Its row is the last that is erased: what refers to it with ON DELETE goes along.
pub const PERSONAL_DATA: Part = Part {
    name: "account",
    files: &[
        File {
            name: "account.json",
            description: "Your account: address, name, role, state.",
            query: "SELECT id, email, display_name, role, state, two_factor, email_verified_at, approved_at, \
                    rejection_reason, created_at, updated_at FROM accounts WHERE id = $1",
        },
        File {
            name: "sessions.json",
            description: "Where and with what you have logged in, as far as it is still kept.",
            query: "SELECT id, created_at, last_seen_at, expires_at, revoked_at, reauthenticated_at, user_agent, address \
                    FROM sessions WHERE account_id = $1 ORDER BY id",
        },
        File {
            name: "known-devices.json",
            description: "When each device was seen last that your account knows.",
            query: "SELECT last_seen_at FROM known_devices WHERE account_id = $1 ORDER BY last_seen_at",
        },
        File {
            name: "email-changes.json",
            description: "A change of your e-mail address that is not confirmed.",
            query: "SELECT new_email, created_at FROM email_changes WHERE account_id = $1",
        },
        File {
            name: "former-addresses.json",
            description: "Addresses that can still take your account back after a change.",
            query: "SELECT email, created_at, expires_at FROM email_undos WHERE account_id = $1 ORDER BY created_at",
        },
    ],
    left_out: &[
        ("refresh_tokens", "hashes of secrets; sessions.json has the sessions that they belong to"),
        ("password_resets", "hashes of secrets, for half an hour"),
        ("login_challenges", "hashes of secrets, for five minutes"),
        ("registrations", "belong to no account: who has made them is not known until the address is verified"),
    ],
    erase: &[
        "DELETE FROM registrations WHERE email = (SELECT email FROM accounts WHERE id = $1)",
        "DELETE FROM accounts WHERE id = $1",
    ],
};
