//! Pages of lists: how many, and where the next one begins.
//!
//! A page token is opaque to clients: a version and a kind byte, then the key of the last row, in base64url. It needs no
//! signature, because it says only where to begin; every query checks what the caller may see.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::kernel::error::Error;

const VERSION: u8 = 1;
const DEFAULT_SIZE: i64 = 50;
const MAX_SIZE: i64 = 200;

/// How many rows a page has for the `page_size` that was asked for (AIP-158: 0 is the default, too much is the maximum).
pub fn size(asked: i32) -> i64 {
    if asked <= 0 { DEFAULT_SIZE } else { i64::from(asked).min(MAX_SIZE) }
}

/// The token of a list of this kind, for a key of fixed length.
pub fn token<const N: usize>(kind: u8, key: [u8; N]) -> String {
    let mut bytes = vec![VERSION, kind];
    bytes.extend(key);
    URL_SAFE_NO_PAD.encode(bytes)
}

/// The key in a token; `None` for the first page.
pub fn key<const N: usize>(kind: u8, token: &str) -> Result<Option<[u8; N]>, Error> {
    if token.is_empty() {
        return Ok(None);
    }
    let key = URL_SAFE_NO_PAD.decode(token).ok().and_then(|bytes| match bytes.as_slice() {
        [VERSION, of, key @ ..] if *of == kind => key.try_into().ok(),
        _ => None,
    });
    key.map(Some).ok_or_else(|| Error::invalid_field("page_token", "is not a token of this list"))
}

/// Cuts a list that was read with one row more than the page has, and makes the token of the next page.
pub fn cut<T, const N: usize>(rows: &mut Vec<T>, size: i64, kind: u8, key: impl FnOnce(&T) -> [u8; N]) -> String {
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
    fn sizes_are_kept_within_bounds() {
        assert_eq!([size(-1), size(0), size(7), size(i32::MAX)], [50, 50, 7, 200]);
    }
}
