//! Accounts, sessions, tokens and passwords.

use serde::{Deserialize, Serialize};

use super::{Passkeys, Throttle};
use crate::kernel::secret::Secret;

/// Accounts, sessions and tokens.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Auth {
    /// `iss` of access tokens, and the only one that is accepted.
    pub issuer: String,
    /// `aud` of access tokens, and the only one that is accepted.
    pub audience: String,
    /// How long an access token is good.
    pub access_token_seconds: u32,
    /// How long a refresh token is good.
    pub refresh_token_seconds: u32,
    /// How far the clocks of servers may be apart, in seconds, at most 60: an access token counts for so long before it
    /// was issued and after it has expired.
    pub leeway_seconds: u32,
    /// Ed25519 keys. The first signs, all verify. To rotate without refusing anybody: add a new one at the end on every
    /// server, then put it first on every server, and drop the old one when the last access token that it signed has expired.
    pub signing_keys: Vec<SigningKey>,
    /// Whether an account begins when its e-mail address was verified. Without it, Register says whether an address has one.
    pub require_verified_email: bool,
    /// Whether an administrator has to approve an account before it can log in.
    pub require_approval: bool,
    /// How long the token of a verification mail is good.
    pub verification_token_seconds: u32,
    /// How long the token of a mail to reset a password is good.
    pub reset_token_seconds: u32,
    /// How long the token of a mail to confirm a new e-mail address is good.
    pub email_change_token_seconds: u32,
    /// How long a session goes on at most, however often it is renewed. Without that it ends after
    /// `refresh_token_seconds`.
    pub session_max_seconds: u32,
    /// Live sessions of an account. One more ends the one that was used longest ago.
    pub max_sessions: usize,
    /// The fewest characters of a new password: 8 to 64. NIST SP 800-63B-4, section 3.1.1.2, wants 15 where there is no
    /// second factor.
    pub password_min_chars: usize,
    /// Keys that passwords are mixed with before they are hashed, so that the database alone is not enough to guess them.
    /// The first is used, all verify; an account moves to the first when it logs in. Losing one locks its accounts out.
    pub peppers: Vec<Pepper>,
    /// How many passwords are hashed at the same time; 0 for one a core. Each takes 19 MiB.
    pub password_hash_permits: usize,
    /// How guessing is slowed down.
    pub throttle: Throttle,
    /// Passkeys.
    pub passkeys: Passkeys,
}

impl Default for Auth {
    fn default() -> Self {
        Self {
            issuer: "rialto".into(),
            audience: "rialto".into(),
            access_token_seconds: 15 * 60,
            refresh_token_seconds: 7 * 24 * 3600,
            leeway_seconds: 10,
            signing_keys: Vec::new(),
            require_verified_email: false,
            require_approval: false,
            verification_token_seconds: 24 * 3600,
            reset_token_seconds: 30 * 60,
            email_change_token_seconds: 60 * 60,
            session_max_seconds: 30 * 24 * 3600,
            max_sessions: 50,
            password_min_chars: 8,
            peppers: Vec::new(),
            password_hash_permits: 0,
            throttle: Throttle::default(),
            passkeys: Passkeys::default(),
        }
    }
}

/// A key that passwords are mixed with.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Pepper {
    /// Stored with each hash. Letters, digits, hyphens.
    pub id: String,
    /// 32 random bytes in base64: `openssl rand -base64 32`.
    pub key: Secret,
}

/// A key that signs access tokens.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct SigningKey {
    /// The `kid` of its tokens.
    pub id: String,
    /// 32 random bytes in base64: `openssl rand -base64 32`.
    pub seed: Secret,
}
