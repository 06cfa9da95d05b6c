//! Small secrets at rest: AES-256-GCM (NIST SP 800-38D), so that whoever reads the database, or a copy of it, does not
//! have them.
//!
//! A sealed value is `version | length of the key's id | the key's id | nonce | ciphertext and tag`. The first configured
//! key seals, all open, so keys rotate: `config::Secrets` says how.
//! A value belongs to the place where it is stored. Copied to another row, column or table, it does not open.
//!
//! Nonces are 96 random bits. A key may seal 2^32 values (section 8.3), which one value an account does not come near.

use aes_gcm::aead::{Aead, Payload};
use aes_gcm::{Aes256Gcm, KeyInit};
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::kernel::config;
use crate::kernel::error::{Error, Reason};
use crate::kernel::rng::Rng;

const VERSION: u8 = 1;
const NONCE_BYTES: usize = 12;
const MAX_ID_BYTES: usize = 64;

/// The column of a row that holds a sealed value.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// The table.
    pub table: &'static str,
    /// The column.
    pub column: &'static str,
    /// What identifies the row, for good: its id, or that of the account that it belongs to.
    pub row: Uuid,
}

/// Why a value can't be sealed or opened. Says nothing of the value.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SealError {
    /// There is nothing to seal with.
    #[error("secrets.sealing_keys is empty")]
    NoKeys,
    /// The bytes are not a sealed value.
    #[error("this is not a sealed value")]
    Malformed,
    /// The key that sealed it is not configured any more.
    #[error("secrets.sealing_keys has no key {0:?}")]
    UnknownKey(String),
    /// It was changed, or was sealed for another place.
    #[error("the value was changed, or belongs elsewhere")]
    Refused,
    /// The value is longer than the cipher takes (64 GiB).
    #[error("the value is too long")]
    TooLong,
    /// The system has no randomness.
    #[error("there is no randomness")]
    NoRandomness,
}

impl From<SealError> for Error {
    fn from(error: SealError) -> Self {
        Self::internal("a stored secret can't be sealed or opened", error)
    }
}

/// The keys of this installation.
pub struct Sealer {
    /// Their ids, the one that seals first.
    keys: Vec<(Box<str>, Aes256Gcm)>,
    rng: Rng,
}

impl Sealer {
    /// The configured keys. Without any, everything is refused when it is asked for.
    pub fn new(config: &config::Secrets, rng: Rng) -> Result<Self, Error> {
        let mut keys: Vec<(Box<str>, _)> = Vec::new();
        for key in &config.sealing_keys {
            let bad =
                |problem: &str| Error::new(Reason::Internal, format!("secrets.sealing_keys {:?}: {problem}", key.id));
            if key.id.is_empty() || key.id.len() > MAX_ID_BYTES {
                return Err(bad("the id must have 1 to 64 bytes"));
            }
            if keys.iter().any(|(id, _)| **id == *key.id) {
                return Err(bad("there are two of this id"));
            }
            let bytes = Zeroizing::new(key.key_bytes().map_err(bad)?);
            keys.push((key.id.as_str().into(), Aes256Gcm::new(&(*bytes).into())));
        }
        Ok(Self { keys, rng })
    }

    /// Seals a value for its place.
    pub fn seal(&self, value: &[u8], place: Place) -> Result<Vec<u8>, SealError> {
        self.seal_with(self.rng.bytes().map_err(|_| SealError::NoRandomness)?, value, place)
    }

    fn seal_with(&self, nonce: [u8; NONCE_BYTES], value: &[u8], place: Place) -> Result<Vec<u8>, SealError> {
        let (id, cipher) = self.keys.first().ok_or(SealError::NoKeys)?;
        let mut sealed = header(id);
        let aad = associated(&sealed, place);
        let payload = Payload { msg: value, aad: &aad };
        let ciphertext = cipher.encrypt(&nonce.into(), payload).map_err(|_| SealError::TooLong)?;
        sealed.extend_from_slice(&nonce);
        sealed.extend(ciphertext);
        Ok(sealed)
    }

    /// Opens what was sealed for this place.
    pub fn open(&self, sealed: &[u8], place: Place) -> Result<Zeroizing<Vec<u8>>, SealError> {
        let (id, rest) = key_id(sealed)?;
        let (nonce, ciphertext) = rest.split_first_chunk::<NONCE_BYTES>().ok_or(SealError::Malformed)?;
        let known = self.keys.iter().find(|(known, _)| known.as_bytes() == id);
        let (id, cipher) = known.ok_or_else(|| SealError::UnknownKey(String::from_utf8_lossy(id).into_owned()))?;
        let aad = associated(&header(id), place);
        let payload = Payload { msg: ciphertext, aad: &aad };
        cipher.decrypt(&(*nonce).into(), payload).map(Zeroizing::new).map_err(|_| SealError::Refused)
    }

    /// The same value under the first key, or `None` when that has sealed it already.
    pub fn reseal(&self, sealed: &[u8], place: Place) -> Result<Option<Vec<u8>>, SealError> {
        let (first, _) = self.keys.first().ok_or(SealError::NoKeys)?;
        if key_id(sealed)?.0 == first.as_bytes() {
            return Ok(None);
        }
        self.seal(&self.open(sealed, place)?, place).map(Some)
    }
}

/// What a sealed value begins with. Ids have at most 64 bytes.
fn header(id: &str) -> Vec<u8> {
    let mut header = vec![VERSION, u8::try_from(id.len()).unwrap_or(u8::MAX)];
    header.extend_from_slice(id.as_bytes());
    header
}

/// The id of the key that sealed a value, and what follows it.
fn key_id(sealed: &[u8]) -> Result<(&[u8], &[u8]), SealError> {
    match sealed {
        [VERSION, length, rest @ ..] => rest.split_at_checked(usize::from(*length)).ok_or(SealError::Malformed),
        _ => Err(SealError::Malformed),
    }
}

/// What is authenticated beside the value. Each part comes with its length, so that no two places look the same.
fn associated(header: &[u8], place: Place) -> Vec<u8> {
    let mut bytes = Vec::new();
    for part in [header, place.table.as_bytes(), place.column.as_bytes(), place.row.as_bytes()] {
        bytes.extend_from_slice(&u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes());
        bytes.extend_from_slice(part);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::config::{SealingKey, Secrets};
    use crate::kernel::secret::Secret;

    const ROW: Uuid = Uuid::from_u128(0x01890a5d_ac96_774b_bcce_b302099a8057);
    const PLACE: Place = Place { table: "two_factor", column: "secret", row: ROW };

    fn sealer(ids: &[&str]) -> Sealer {
        use base64::Engine;
        let key = |id: &&str| {
            let mut key: [u8; 32] = std::array::from_fn(|i| (i as u8).wrapping_mul(7).wrapping_add(131));
            key[0] = id.as_bytes()[0];
            let key = base64::engine::general_purpose::STANDARD.encode(key);
            SealingKey { id: (*id).into(), key: Secret::new(key) }
        };
        Sealer::new(&Secrets { sealing_keys: ids.iter().map(key).collect() }, Rng).unwrap()
    }

    fn bytes(hex: &str) -> Vec<u8> {
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
    }

    /// The key and nonce of the test cases 13 to 18 of the GCM specification (McGrew and Viega, 2005, appendix B).
    fn specified() -> (Aes256Gcm, [u8; NONCE_BYTES]) {
        let key = bytes("feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308");
        let nonce = bytes("cafebabefacedbaddecaf888").try_into().unwrap();
        (Aes256Gcm::new_from_slice(&key).unwrap(), nonce)
    }

    #[test]
    fn the_cipher_is_the_one_of_the_specification() {
        // Test case 16.
        let (cipher, nonce) = specified();
        let value = bytes(
            "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72\
             1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39",
        );
        let aad = bytes("feedfacedeadbeeffeedfacedeadbeefabaddad2");
        let expected = bytes(
            "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa\
             8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f66276fc6ece0f4e1768cddf8853bb2d551b",
        );
        let sealed = cipher.encrypt(&nonce.into(), Payload { msg: &value, aad: &aad }).unwrap();
        assert_eq!(sealed, expected);
    }

    #[test]
    fn the_format_is_the_one_that_another_implementation_writes() {
        // Computed with Python's `cryptography`, under the specification's key and nonce.
        let (cipher, nonce) = specified();
        let sealer = Sealer { keys: vec![("2026-11".into(), cipher)], rng: Rng };
        let sealed = sealer.seal_with(nonce, b"12345678901234567890", PLACE).unwrap();
        assert_eq!(
            sealed,
            bytes(
                "0107323032362d3131cafebabefacedbaddecaf888ba2ec0e154e44cda68160f\
             54b64551d1d5a51cbf5fb47fd46893728aede1b4821b6b84c0",
            )
        );
        assert_eq!(**sealer.open(&sealed, PLACE).unwrap(), *b"12345678901234567890");
    }

    #[test]
    fn a_value_opens_only_where_it_was_sealed() {
        let sealer = sealer(&["a"]);
        let sealed = sealer.seal(b"secret", PLACE).unwrap();
        assert_eq!(**sealer.open(&sealed, PLACE).unwrap(), *b"secret");
        for elsewhere in [
            Place { row: Uuid::from_u128(1), ..PLACE },
            Place { column: "other", ..PLACE },
            Place { table: "other", ..PLACE },
            // The same letters, cut elsewhere.
            Place { table: "two_factors", column: "ecret", row: ROW },
        ] {
            assert_eq!(sealer.open(&sealed, elsewhere), Err(SealError::Refused), "{elsewhere:?}");
        }
    }

    #[test]
    fn a_changed_or_cut_value_does_not_open() {
        let sealer = sealer(&["a", "b"]);
        let sealed = sealer.seal(b"secret", PLACE).unwrap();
        for index in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[index] ^= 1;
            assert!(sealer.open(&changed, PLACE).is_err(), "{index}");
            assert!(sealer.open(&sealed[..index], PLACE).is_err(), "{index}");
        }
        let mut of_another_key = sealed;
        of_another_key[2] = b'b';
        assert_eq!(sealer.open(&of_another_key, PLACE), Err(SealError::Refused));
    }

    #[test]
    fn the_same_value_is_sealed_differently_each_time() {
        let sealer = sealer(&["a"]);
        assert_ne!(sealer.seal(b"secret", PLACE).unwrap(), sealer.seal(b"secret", PLACE).unwrap());
    }

    #[test]
    fn keys_rotate() {
        let sealed = sealer(&["a"]).seal(b"secret", PLACE).unwrap();
        let both = sealer(&["b", "a"]);
        assert_eq!(**both.open(&sealed, PLACE).unwrap(), *b"secret");
        let resealed = both.reseal(&sealed, PLACE).unwrap().unwrap();
        assert_eq!(both.reseal(&resealed, PLACE).unwrap(), None);
        let new = sealer(&["b"]);
        assert_eq!(**new.open(&resealed, PLACE).unwrap(), *b"secret");
        assert_eq!(new.open(&sealed, PLACE), Err(SealError::UnknownKey("a".into())));
        assert_eq!(sealer(&[]).seal(b"secret", PLACE), Err(SealError::NoKeys));
    }

    #[test]
    fn keys_that_are_weak_or_have_the_same_id_are_refused() {
        let key = |id: &str, key: &str| SealingKey { id: id.into(), key: Secret::new(key) };
        let good = "5iEC1h4mHVbGthv6WAjz5WtNW0by4dJu4okz0F1iyAw=";
        let weak = "YWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWE=";
        let refused = |sealing_keys| Sealer::new(&Secrets { sealing_keys }, Rng).is_err();
        assert!(!refused(vec![key("a", good)]));
        assert!(refused(vec![key("a", weak)]));
        assert!(refused(vec![key("", good)]));
        assert!(refused(vec![key("a", good), key("a", good)]));
    }
}
