//! What account streams hold about a person.

use crate::kernel::personal_data::{File, Part};

/// Events, streams and presence. Foreign keys erase what is left of them along with the account; the events go first, some
/// at a time.
pub const PERSONAL_DATA: Part = Part {
    name: "account-stream",
    files: &[
        File {
            name: "connections.json",
            description: "The streams that are open for your account: since when, and from where.",
            query: "SELECT id, session_id, transport, user_agent, address, opened_at FROM account_connections \
                    WHERE account_id = $1 ORDER BY id",
        },
        File {
            name: "presence.json",
            description: "When you were last seen: when the last of your streams was opened or ended.",
            query: "SELECT seen_at FROM presences WHERE account_id = $1",
        },
        File {
            name: "events.json",
            description: "When your account was told something, as far as it is still kept. What it was is a copy of what \
                          the other files have, such as sessions and roles.",
            query: "SELECT seq, created_at FROM account_events WHERE account_id = $1 ORDER BY seq",
        },
    ],
    left_out: &[
        ("account_sequences", "the number of the newest event of events.json"),
        ("nodes", "the servers that run; about nobody"),
    ],
    erase: &[
        "DELETE FROM account_events WHERE account_id = $1 AND seq IN ( \
             SELECT seq FROM account_events WHERE account_id = $1 ORDER BY seq LIMIT 5000)",
        "DELETE FROM account_connections WHERE account_id = $1",
        "DELETE FROM presences WHERE account_id = $1",
    ],
};
