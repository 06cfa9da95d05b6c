//! CSRF tokens, which a page sends with what changes something by cookie: 16 random bytes and an HMAC-SHA-256 of them and
//! the session's id, in base64url (OWASP Cross-Site Request Forgery Prevention Cheat Sheet, "Signed Double-Submit Cookie";
//! the session, which the cookie proves, takes the place of the second copy).
//!
//! A token is good as long as its session, whichever of the session's tabs asked for it and however often the session was
//! renewed since; or until the signing key that it was derived from is dropped.

use aws_lc_rs::{hkdf, hmac};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use uuid::Uuid;

use crate::kernel::error::{Error, Reason};

const NONCE_BYTES: usize = 16;
/// What the keys are for, so that they are not those of another use of the same seeds.
const PURPOSE: &[u8] = b"rialto csrf token v1";

/// The keys of this installation. The first makes tokens, all check them.
pub struct CsrfKeys(Vec<hmac::Key>);

impl CsrfKeys {
    /// Derived (HKDF, RFC 5869) from the seeds of the signing keys.
    pub fn derive<'a>(seeds: impl IntoIterator<Item = &'a [u8; 32]>) -> Result<Self, Error> {
        let derive = |seed: &[u8; 32]| {
            let extracted = hkdf::Salt::new(hkdf::HKDF_SHA256, &[]).extract(seed);
            extracted.expand(&[PURPOSE], hmac::HMAC_SHA256).map(hmac::Key::from)
        };
        let keys = seeds.into_iter().map(derive).collect::<Result<_, _>>();
        keys.map(Self).map_err(|error| Error::internal("deriving a key", error))
    }

    /// A token of a session.
    pub fn issue(&self, session_id: Uuid, nonce: [u8; NONCE_BYTES]) -> String {
        let mut token = nonce.to_vec();
        if let Some(key) = self.0.first() {
            token.extend_from_slice(hmac::sign(key, &message(session_id, &nonce)).as_ref());
        }
        URL_SAFE_NO_PAD.encode(token)
    }

    /// Refuses what is not a token of this session. Takes the same time whatever is wrong with the HMAC.
    pub fn require(&self, session_id: Uuid, token: Option<&str>) -> Result<(), Error> {
        let token = token.and_then(|token| URL_SAFE_NO_PAD.decode(token).ok()).unwrap_or_default();
        let good = token.split_first_chunk::<NONCE_BYTES>().is_some_and(|(nonce, tag)| {
            let message = message(session_id, nonce);
            self.0.iter().any(|key| hmac::verify(key, &message, tag).is_ok())
        });
        let message = "x-csrf-token must be a token of the cookies' session; GetCsrfToken gives one";
        if good { Ok(()) } else { Err(Error::new(Reason::CsrfTokenInvalid, message)) }
    }
}

/// Both parts have a fixed length.
fn message(session_id: Uuid, nonce: &[u8; NONCE_BYTES]) -> Vec<u8> {
    [session_id.as_bytes(), nonce.as_slice()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SESSION: Uuid = Uuid::from_u128(7);

    fn keys(seeds: &[u8]) -> CsrfKeys {
        let seeds: Vec<[u8; 32]> = seeds.iter().map(|seed| [*seed; 32]).collect();
        CsrfKeys::derive(&seeds).unwrap()
    }

    #[test]
    fn a_token_is_good_for_its_session_only_and_nothing_of_it_can_be_changed() {
        let keys = keys(&[1]);
        let token = keys.issue(SESSION, [3; 16]);
        keys.require(SESSION, Some(&token)).unwrap();
        keys.require(SESSION, Some(&keys.issue(SESSION, [4; 16]))).unwrap();
        assert!(keys.require(Uuid::from_u128(8), Some(&token)).is_err());
        assert!(keys.require(SESSION, None).is_err());
        let bytes = URL_SAFE_NO_PAD.decode(&token).unwrap();
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert!(keys.require(SESSION, Some(&URL_SAFE_NO_PAD.encode(changed))).is_err(), "{at}");
            assert!(keys.require(SESSION, Some(&URL_SAFE_NO_PAD.encode(&bytes[..at]))).is_err(), "{at}");
        }
        for other in [format!("{token}="), format!("{token}AA"), format!(" {token}"), "é".into(), String::new()] {
            assert!(keys.require(SESSION, Some(&other)).is_err(), "{other}");
        }
    }

    #[test]
    fn tokens_are_those_that_another_implementation_makes() {
        // Computed with Python's `hmac`: HKDF of 32 bytes of 0x01 without salt, then the HMAC of session and nonce.
        let token = keys(&[1]).issue(SESSION, [3; 16]);
        assert_eq!(token, "AwMDAwMDAwMDAwMDAwMDA5rcosTFDP4KE0n64k4IRV94bJXolfoZJjXmPSwq2DMN");
    }

    #[test]
    fn a_token_of_an_old_key_is_good_until_that_is_dropped() {
        let token = keys(&[1]).issue(SESSION, [3; 16]);
        keys(&[2, 1]).require(SESSION, Some(&token)).unwrap();
        assert!(keys(&[2]).require(SESSION, Some(&token)).is_err());
    }
}
