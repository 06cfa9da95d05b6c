//! What security monitoring holds about a person.

use crate::kernel::personal_data::{File, Part};

/// Events go with the account. Alerts stay, under the pseudonym of the audit log: somebody may be at work on them.
pub const PERSONAL_DATA: Part = Part {
    name: "security",
    files: &[
        File {
            name: "events.json",
            description: "What was noticed about your account, such as wrong passwords: what, when, how often, from where.",
            query: "SELECT kind, at, last_at, count, address, user_agent, method, detail FROM security_events \
                    WHERE subject = 'account:' || $1::text ORDER BY at, id",
        },
        File {
            name: "networks.json",
            description: "The networks that your account was used from lately.",
            query: "SELECT network, seen_at FROM security_networks WHERE account_id = $1 ORDER BY seen_at",
        },
        File {
            name: "alerts.json",
            description: "The alerts that were raised about your account.",
            query: "SELECT kind, severity, state, count, first_seen_at, last_seen_at, resolved_at FROM security_alerts \
                    WHERE subject = 'account:' || $1::text ORDER BY id",
        },
    ],
    left_out: &[
        ("security_alert_changes", "how the alerts of alerts.json came about, for those who watch them"),
        ("security_sequence", "the number of the newest of these changes"),
    ],
    erase: &[
        "DELETE FROM security_events WHERE id IN ( \
             SELECT id FROM security_events WHERE subject = 'account:' || $1::text LIMIT 5000)",
        "UPDATE security_events SET actor_id = $2 WHERE actor_id = $1",
        "DELETE FROM security_networks WHERE account_id = $1",
        "UPDATE security_alerts SET subject = 'account:' || $2::text WHERE subject = 'account:' || $1::text",
        "UPDATE security_alerts SET acknowledged_by = $2 WHERE acknowledged_by = $1",
        "UPDATE security_alerts SET resolved_by = $2 WHERE resolved_by = $1",
        // Encoded, with the account's id as text wherever it plays a part.
        "DELETE FROM security_alert_changes WHERE position(convert_to($1::text, 'UTF8') IN change) > 0",
    ],
};
