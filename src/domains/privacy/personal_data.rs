//! What this domain and the kernel hold about a person.

use crate::kernel::personal_data::Part;

/// Archives and erasures, which foreign keys erase; and jobs that wait, or have failed for good.
pub const PERSONAL_DATA: Part = Part {
    name: "privacy",
    files: &[],
    left_out: &[
        ("exports", "this archive"),
        ("export_chunks", "this archive"),
        ("erasures", "is there only after your account was deleted"),
        ("jobs", "what is to be done in the next moments, such as sending a mail, with your id or address"),
    ],
    erase: &[JOBS],
};

/// All but the job that is at work on this.
const JOBS: &str = "DELETE FROM jobs WHERE kind <> 'privacy.erase' AND (strpos(payload::text, $1::text) > 0 \
    OR EXISTS (SELECT FROM accounts a WHERE a.id = $1 AND ( \
        strpos(payload::text, to_jsonb(a.email)::text) > 0 OR strpos(last_error, a.email) > 0)))";
