//! What is held about a person, by whom. A domain that holds something joins here.

use crate::domains::{account, auth, keys, messaging, passkeys, privacy, roles, security, two_factor, users};
use crate::gate;
use crate::kernel::personal_data::Part;

/// In the order in which archives have them and erasures go through them. `auth` comes last: it erases the account, by
/// which the others find what is theirs.
pub const PARTS: &[Part] = &[
    gate::PERSONAL_DATA,
    messaging::PERSONAL_DATA,
    keys::PERSONAL_DATA,
    users::PERSONAL_DATA,
    roles::PERSONAL_DATA,
    two_factor::PERSONAL_DATA,
    passkeys::PERSONAL_DATA,
    account::PERSONAL_DATA,
    security::PERSONAL_DATA,
    privacy::PERSONAL_DATA,
    auth::PERSONAL_DATA,
];
