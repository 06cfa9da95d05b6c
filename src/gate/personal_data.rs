//! What the gate holds about a person.

use crate::kernel::personal_data::{File, Part};

/// Entries of the audit log stay, under a pseudonym and without what could lead back: the session, the address, and the
/// request id, by which the log of the server names the account.
pub const PERSONAL_DATA: Part = Part {
    name: "activity",
    files: &[
        File {
            name: "activity.json",
            description: "What you have done, as far as it is noted: the method, from where, and the gRPC code of its \
                          outcome.",
            query: "SELECT at, method, address, session_id, request_id, grpc_code FROM audit_log WHERE account_id = $1 \
                    ORDER BY at, id",
        },
        File {
            name: "done-to-you.json",
            description: "What others have done to your account, as far as it is noted.",
            query: "SELECT at, method, before, after, grpc_code FROM audit_log WHERE target_id = $1 \
                    AND account_id IS DISTINCT FROM $1 ORDER BY at, id",
        },
    ],
    left_out: &[("idempotency_keys", "answers that you have been given, for a day")],
    erase: &[
        "DELETE FROM idempotency_keys WHERE account_id = $1",
        "UPDATE audit_log SET account_id = $2, session_id = NULL, address = NULL, request_id = '' WHERE id IN ( \
             SELECT id FROM audit_log WHERE account_id = $1 LIMIT 5000)",
        "UPDATE audit_log SET target_id = $2 WHERE id IN (SELECT id FROM audit_log WHERE target_id = $1 LIMIT 5000)",
    ],
};
