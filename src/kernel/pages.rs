//! Pages of lists: how many, and where the next one begins.
//!
//! A page token is opaque to clients: a version and a kind byte, then the key of the last row, in base64url. It needs no
//! signature, because it says only where to begin; every query checks what the caller may see.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::kernel::error::Error;

const VERSION: u8 = 1;
const DEFAULT_SIZE: i64 = 50;
const MAX_SIZE: i64 = 200;

/// How many rows a page has for the `page_size` that was asked for (AIP-158: 0 is the default, too much is the maximum).
pub fn size(asked: i32) -> i64 {
    if asked <= 0 { DEFAULT_SIZE } else { i64::from(asked).min(MAX_SIZE) }
}

/// The token of a list of this kind, for a key. Each list has a kind of its own: messaging from 1, `auth` from 16, roles
/// from 24, users from 32.
pub fn token(kind: u8, key: impl AsRef<[u8]>) -> String {
    let mut bytes = vec![VERSION, kind];
    bytes.extend(key.as_ref());
    URL_SAFE_NO_PAD.encode(bytes)
}

/// The key of fixed length in a token; `None` for the first page.
pub fn key<const N: usize>(kind: u8, token: &str) -> Result<Option<[u8; N]>, Error> {
    let key = bytes(kind, token)?.map(|key| key.try_into().map_err(|_| foreign()));
    key.transpose()
}

fn bytes(kind: u8, token: &str) -> Result<Option<Vec<u8>>, Error> {
    if token.is_empty() {
        return Ok(None);
    }
    let key = URL_SAFE_NO_PAD.decode(token).ok().and_then(|bytes| match bytes.as_slice() {
        [VERSION, of, key @ ..] if *of == kind => Some(key.to_vec()),
        _ => None,
    });
    key.map(Some).ok_or_else(foreign)
}

fn foreign() -> Error {
    Error::invalid_field("page_token", "is not a token of this list")
}

/// The key of a list by time and id.
pub fn time_key(time: DateTime<Utc>, id: Uuid) -> [u8; 24] {
    let mut key = [0; 24];
    key[..8].copy_from_slice(&time.timestamp_micros().to_be_bytes());
    key[8..].copy_from_slice(id.as_bytes());
    key
}

/// The time and id in a token; `None` for the first page.
pub fn by_time(kind: u8, token: &str) -> Result<Option<(DateTime<Utc>, Uuid)>, Error> {
    key::<24>(kind, token)?.map(|key| time(&key)).transpose()
}

/// The time and id in what [`time_key`] has made.
pub fn time(key: &[u8]) -> Result<(DateTime<Utc>, Uuid), Error> {
    let (micros, id) = key.split_first_chunk::<8>().ok_or_else(foreign)?;
    Ok((time_of(*micros)?, Uuid::from_slice(id).map_err(|_| foreign())?))
}

fn time_of(micros: [u8; 8]) -> Result<DateTime<Utc>, Error> {
    // Neither before everything nor beyond what Postgres can hold.
    let micros = Some(i64::from_be_bytes(micros)).filter(|micros| *micros >= 0);
    micros.and_then(DateTime::from_timestamp_micros).ok_or_else(foreign)
}

/// The key of a list by number, with the time, which finds the place of the number.
pub fn seq_key(seq: i64, time: DateTime<Utc>) -> [u8; 16] {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&time.timestamp_micros().to_be_bytes());
    key[8..].copy_from_slice(&seq.to_be_bytes());
    key
}

/// The number and time in a token; `None` for the first page.
pub fn by_seq(kind: u8, token: &str) -> Result<Option<(i64, DateTime<Utc>)>, Error> {
    let Some(key) = key::<16>(kind, token)? else { return Ok(None) };
    let (micros, seq) = key.split_at(8);
    let [micros, seq] = [micros, seq].map(|half| half.try_into().map_err(|_| foreign()));
    Ok(Some((i64::from_be_bytes(seq?), time_of(micros?)?)))
}

/// The key of a list by text and id.
pub fn text_key(text: &str, id: Uuid) -> Vec<u8> {
    [id.as_bytes(), text.as_bytes()].concat()
}

/// The text and id in a token; `None` for the first page.
pub fn by_text(kind: u8, token: &str) -> Result<Option<(String, Uuid)>, Error> {
    let Some(key) = bytes(kind, token)? else { return Ok(None) };
    let (id, text) = key.split_first_chunk::<16>().ok_or_else(foreign)?;
    // Postgres text can't hold U+0000.
    let text = std::str::from_utf8(text).ok().filter(|text| !text.contains('\0')).ok_or_else(foreign)?;
    Ok(Some((text.to_owned(), Uuid::from_bytes(*id))))
}

/// Cuts a list that was read with one row more than the page has, and makes the token of the next page.
pub fn cut<T, K: AsRef<[u8]>>(rows: &mut Vec<T>, size: i64, kind: u8, key: impl FnOnce(&T) -> K) -> String {
    let size = usize::try_from(size).unwrap_or_default();
    if rows.len() <= size {
        return String::new();
    }
    rows.truncate(size);
    rows.last().map(|last| token(kind, key(last))).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_good_for_its_own_list_only() {
        let token = token(7, 42_i64.to_be_bytes());
        assert_eq!(key(7, &token).unwrap(), Some(42_i64.to_be_bytes()));
        assert!(key::<8>(8, &token).is_err());
        assert!(key::<16>(7, &token).is_err());
        assert!(key::<8>(7, "!").is_err());
        assert_eq!(key::<8>(7, "").unwrap(), None);
    }

    #[test]
    fn what_a_list_is_ordered_by_comes_back_out_of_its_token() {
        let (id, time) = (Uuid::from_u128(7), DateTime::from_timestamp_micros(1_700_000_000_123_456).unwrap());
        assert_eq!(by_time(1, &token(1, time_key(time, id))).unwrap(), Some((time, id)));
        assert_eq!(by_text(2, &token(2, text_key("zoë", id))).unwrap(), Some(("zoë".into(), id)));
        assert_eq!((by_time(1, "").unwrap(), by_text(2, "").unwrap()), (None, None));
        for key in [&[0; 15][..], &[&[0; 16][..], b"\xff"].concat(), &[&[0; 16][..], b"a\0"].concat()] {
            assert!(by_text(2, &token(2, key)).is_err());
        }
        assert!(by_time(1, &token(1, [0xff; 24])).is_err());
        assert_eq!(by_seq(1, &token(1, seq_key(7, time))).unwrap(), Some((7, time)));
        assert!(by_seq(1, &token(1, [0xff; 16])).is_err());
        assert!(by_seq(1, &token(1, 7_i64.to_be_bytes())).is_err());
    }

    #[test]
    fn sizes_are_kept_within_bounds() {
        assert_eq!([size(-1), size(0), size(7), size(i32::MAX)], [50, 50, 7, 200]);
    }
}
