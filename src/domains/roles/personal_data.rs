//! What roles hold about a person.

use crate::kernel::personal_data::{File, Part};

/// The roles that somebody has and has made. Foreign keys erase who had them, gave them and made them.
pub const PERSONAL_DATA: Part = Part {
    name: "roles",
    files: &[
        File {
            name: "roles.json",
            description: "The roles that you were given besides the one in account.json.",
            query: "SELECT r.name, r.description, a.assigned_at, a.expires_at FROM account_roles a \
                    JOIN roles r ON r.id = a.role_id WHERE a.account_id = $1 ORDER BY r.name",
        },
        File {
            name: "made.json",
            description: "The roles that you have made.",
            query: "SELECT id, name, description, created_at, updated_at FROM roles WHERE created_by = $1 ORDER BY id",
        },
    ],
    left_out: &[
        ("role_grants", "what roles allow; about nobody"),
        ("role_parents", "what roles inherit; about nobody"),
        ("roles_version", "a number; about nobody"),
    ],
    erase: &[],
};
