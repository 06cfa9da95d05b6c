//! Backup codes: 120 random bits in Crockford's base32, in six groups, such as
//! `7ZQ4-M2KD-0XVW-93HT-B5C1-QEGR`.

use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::kernel::error::Error;
use crate::kernel::rng::Rng;

/// How many there are at first.
pub const COUNT: usize = 10;
/// Above the 112 bits from which a plain hash is enough (OWASP ASVS 5.0, 6.5.2).
const BYTES: usize = 15;
const DIGITS: usize = BYTES * 8 / 5;
const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// A backup code.
#[derive(PartialEq, Eq)]
pub struct BackupCode([u8; BYTES]);

impl BackupCode {
    /// A new one.
    pub fn new(rng: Rng) -> Result<Self, Error> {
        Ok(Self(rng.bytes()?))
    }

    /// As a person types it: upper and lower case, spaces and hyphens do not matter, and O, I and L are digits.
    pub fn parse(text: &str) -> Option<Self> {
        let mut bits: u128 = 0;
        let mut digits = 0;
        for letter in text.chars().filter(|letter| !matches!(letter, '-' | ' ')) {
            let letter = match letter.to_ascii_uppercase() {
                'O' => '0',
                'I' | 'L' => '1',
                letter => letter,
            };
            let value = ALPHABET.iter().position(|known| char::from(*known) == letter)?;
            digits += 1;
            if digits > DIGITS {
                return None;
            }
            bits = bits << 5 | value as u128;
        }
        let (_, bytes) = bits.to_be_bytes().split_last_chunk::<BYTES>().map(|(head, code)| (head.len(), *code))?;
        (digits == DIGITS).then_some(Self(bytes))
    }

    /// As it is shown.
    pub fn text(&self) -> String {
        let bits = self.0.iter().fold(0_u128, |bits, byte| bits << 8 | u128::from(*byte));
        let mut text = String::new();
        for digit in 0..DIGITS {
            if digit > 0 && digit % 4 == 0 {
                text.push('-');
            }
            let value = (bits >> (BYTES * 8 - 5 * (digit + 1))) & 31;
            text.push(ALPHABET.get(value as usize).copied().map_or('0', char::from));
        }
        text
    }

    /// As it is stored. Nobody finds 120 random bits by trying, so neither a slow hash nor a key is needed; the account
    /// keeps a row from being of use to another one.
    pub fn hash(&self, account_id: Uuid) -> Vec<u8> {
        Sha256::new().chain_update(account_id.as_bytes()).chain_update(self.0).finalize().to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_reads_back_however_a_person_types_it() {
        let bytes = [0x00, 0x44, 0x32, 0x14, 0xc7, 0x42, 0x54, 0xb6, 0x35, 0xcf, 0x84, 0x65, 0x3a, 0x56, 0xd7];
        let code = BackupCode(bytes);
        assert_eq!(code.text(), "0123-4567-89AB-CDEF-GHJK-MNPQ");
        for text in [
            "0123-4567-89AB-CDEF-GHJK-MNPQ",
            "0123456789abcdefghjkmnpq",
            " oi23 4567-89ab cdef ghjk mnpq",
            "OL23-4567-89AB-CDEF-GHJK-MNPQ",
        ] {
            assert!(BackupCode::parse(text) == Some(BackupCode(code.0)), "{text}");
        }
        for text in [
            "",
            "0123-4567-89AB-CDEF-GHJK-MNP",
            "0123-4567-89AB-CDEF-GHJK-MNPQ-0",
            "U123-4567-89AB-CDEF-GHJK-MNPQ",
            "ß123-4567-89AB-CDEF-GHJK-MNPQ",
        ] {
            assert!(BackupCode::parse(text).is_none(), "{text}");
        }
        let new = BackupCode::new(Rng).unwrap();
        assert!(BackupCode::parse(&new.text()) == Some(BackupCode(new.0)));
        assert!(new != BackupCode::new(Rng).unwrap());
    }

    #[test]
    fn the_hash_belongs_to_one_account() {
        let code = BackupCode([7; BYTES]);
        assert_ne!(code.hash(Uuid::from_u128(1)), code.hash(Uuid::from_u128(2)));
        assert_eq!(code.hash(Uuid::from_u128(1)).len(), 32);
    }
}
