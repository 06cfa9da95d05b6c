//! Randomness and what is made of it. Everything draws it here (clippy refuses the ambient generators).

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, Utc};
use rand::TryRng;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::kernel::error::Error;

/// The operating system's generator, which is what tokens and keys need.
#[derive(Clone, Copy, Default)]
pub struct Rng;

impl Rng {
    /// Random bytes.
    pub fn bytes<const N: usize>(&self) -> Result<[u8; N], Error> {
        let mut bytes = [0; N];
        rand::rngs::SysRng.try_fill_bytes(&mut bytes).map_err(|error| Error::internal("no randomness", error))?;
        Ok(bytes)
    }

    /// A token that says nothing: 32 random bytes in base64url.
    pub fn token(&self) -> Result<String, Error> {
        Ok(URL_SAFE_NO_PAD.encode(self.bytes::<32>()?))
    }

    /// An id that sorts by the time it was made (UUID version 7, RFC 9562, section 5.7), which keeps indexes dense.
    pub fn id(&self, now: DateTime<Utc>) -> Result<Uuid, Error> {
        let millis = u64::try_from(now.timestamp_millis()).unwrap_or_default();
        Ok(uuid::Builder::from_unix_timestamp_millis(millis, &self.bytes()?).into_uuid())
    }
}

/// A token of [`Rng::token`] as it is stored. It is 32 random bytes, so a fast hash without salt is enough.
pub fn hash_token(token: &str) -> Vec<u8> {
    Sha256::digest(token.as_bytes()).to_vec()
}
