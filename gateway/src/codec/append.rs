//! Appending short texts. A copy of unknown length is a call of `memcpy`, which for a handful of bytes costs more than
//! the bytes; copies of fixed size are one or two moves. So what is short is copied in pieces of fixed size that may
//! overlap, or with padding that is taken off again.

/// `,"name":`, appended often and known beforehand, padded to a fixed size if it is short.
pub(crate) struct MemberKey {
    padded: [u8; Self::PADDED],
    len: usize,
    /// The text, if it is longer than the padded form.
    long: Box<[u8]>,
}

impl MemberKey {
    const PADDED: usize = 32;

    pub fn new(text: &str) -> Self {
        let mut padded = [0; Self::PADDED];
        let long = match padded.get_mut(..text.len()) {
            Some(head) => {
                head.copy_from_slice(text.as_bytes());
                Box::default()
            }
            None => text.as_bytes().into(),
        };
        Self { padded, len: text.len(), long }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    /// Does the text begin with this key, without the comma?
    #[inline]
    pub fn begins(&self, text: &[u8]) -> bool {
        match self.len {
            9..=17 => self.ends_are::<8>(text),
            18..=32 => self.ends_are::<16>(text),
            1..=8 => text.first_chunk().is_some_and(|head| {
                let own = u64::from_le_bytes(*self.padded.first_chunk().unwrap_or(&[0; 8])) >> 8;
                // The comma is one byte, so up to seven are left.
                (u64::from_le_bytes(*head) ^ own) << (72 - 8 * self.len.max(2)) == 0
            }),
            _ => self.long.strip_prefix(b",").is_some_and(|key| text.starts_with(key)),
        }
    }

    /// Compares the first `N` bytes and the last `N` of up to `2 * N`.
    #[inline]
    fn ends_are<const N: usize>(&self, text: &[u8]) -> bool {
        let (Some(own), Some(text)) = (self.padded.get(1..self.len), text.get(..self.len - 1)) else { return false };
        own.first_chunk::<N>() == text.first_chunk::<N>() && own.last_chunk::<N>() == text.last_chunk::<N>()
    }

    #[inline]
    pub fn append(&self, out: &mut Vec<u8>) {
        if self.len <= Self::PADDED {
            out.extend_from_slice(&self.padded);
            out.truncate(out.len() - (Self::PADDED - self.len));
        } else {
            out.extend_from_slice(&self.long);
        }
    }
}

/// `extend_from_slice` for what is mostly shorter than 32 bytes.
#[inline]
pub(crate) fn append(out: &mut Vec<u8>, text: &[u8]) {
    match text.len() {
        0..=8 => append_word(out, short_word(text), text.len()),
        9..=16 => append_overlapping::<8>(out, text),
        17..=32 => append_overlapping::<16>(out, text),
        _ => out.extend_from_slice(text),
    }
}

/// The same between quotes. These are written first, as many as there is room for, and then the text over them.
#[inline]
pub(crate) fn append_quoted(out: &mut Vec<u8>, text: &[u8]) {
    match text.len() {
        0..=8 => {
            out.extend_from_slice(&[b'"'; 10]);
            if let Some(slot) = out.last_chunk_mut::<10>() {
                // A space and 2 make a quote.
                let quotes = 0x0202_0202_0202_0202u64.checked_shl(8 * text.len() as u32).unwrap_or(0);
                slot[1..9].copy_from_slice(&(short_word(text) | quotes).to_le_bytes());
            }
            out.truncate(out.len() - (8 - text.len()));
        }
        9..=16 => quoted_overlapping::<8, 18>(out, text),
        17..=32 => quoted_overlapping::<16, 34>(out, text),
        _ => {
            out.push(b'"');
            out.extend_from_slice(text);
            out.push(b'"');
        }
    }
}

/// From `N` to `2 * N` bytes; `SLOT` is `2 * N + 2`.
#[inline]
fn quoted_overlapping<const N: usize, const SLOT: usize>(out: &mut Vec<u8>, text: &[u8]) {
    if let (Some(head), Some(tail)) = (text.first_chunk::<N>(), text.last_chunk::<N>()) {
        out.extend_from_slice(&[b'"'; SLOT]);
        if let Some(slot) = out.last_chunk_mut::<SLOT>() {
            slot[1..=N].copy_from_slice(head);
            if let Some(end) = slot.get_mut(1 + text.len() - N..=text.len()) {
                end.copy_from_slice(tail);
            }
        }
        out.truncate(out.len() - (2 * N - text.len()));
    }
}

#[inline]
fn append_word(out: &mut Vec<u8>, word: u64, len: usize) {
    out.extend_from_slice(&word.to_le_bytes());
    out.truncate(out.len() - (8 - len));
}

/// Appends from `N` to `2 * N` bytes: the first `N` and the last `N`.
#[inline]
fn append_overlapping<const N: usize>(out: &mut Vec<u8>, text: &[u8]) {
    if let (Some(head), Some(tail)) = (text.first_chunk::<N>(), text.last_chunk::<N>()) {
        out.extend_from_slice(head);
        out.truncate(out.len() - (2 * N - text.len()));
        out.extend_from_slice(tail);
    }
}

/// Up to eight bytes as a little-endian number, filled up with spaces (which no test for special characters finds).
#[inline]
pub(crate) fn short_word(text: &[u8]) -> u64 {
    const SPACES: u64 = 0x2020_2020_2020_2020;
    let word = match text {
        [] => return SPACES,
        [a] => u64::from(*a),
        [a, b] => u64::from(u16::from_le_bytes([*a, *b])),
        [a, b, c] => u64::from(u32::from_le_bytes([*a, *b, *c, 0])),
        _ => match (text.first_chunk::<4>(), text.last_chunk::<4>()) {
            (Some(head), Some(tail)) => {
                let tail = u64::from(u32::from_le_bytes(*tail)) << (8 * (text.len().min(8) - 4));
                u64::from(u32::from_le_bytes(*head)) | tail
            }
            _ => return SPACES,
        },
    };
    match text.len() {
        8.. => word,
        len => word | SPACES << (8 * len),
    }
}

/// Is this ASCII that a JSON string holds as it is?
#[inline]
pub(crate) fn is_plain_ascii(text: &[u8]) -> bool {
    match (text.first_chunk::<8>(), text.last_chunk::<8>()) {
        (Some(head), Some(tail)) if text.len() <= 16 => {
            is_plain_word(u64::from_le_bytes(*head)) && is_plain_word(u64::from_le_bytes(*tail))
        }
        (Some(_), _) => {
            let (chunks, _) = text.as_chunks::<16>();
            chunks.iter().all(is_plain_chunk) && text.last_chunk().is_none_or(is_plain_chunk)
        }
        _ => is_plain_word(short_word(text)),
    }
}

/// Written so that the compiler makes vector instructions of it. As signed numbers, control characters and everything
/// beyond ASCII are less than a space.
#[inline]
fn is_plain_chunk(chunk: &[u8; 16]) -> bool {
    !chunk.iter().fold(false, |found, &b| found | ((b as i8) < 0x20) | (b == b'"') | (b == b'\\'))
}

#[inline]
fn is_plain_word(x: u64) -> bool {
    const ONES: u64 = u64::MAX / 255;
    const HIGHS: u64 = ONES << 7;
    // A subtraction sets the high bit of a byte that is too small (or of one above such a byte, which changes nothing).
    let control = x.wrapping_sub(ONES * 0x20);
    let quote = (x ^ (ONES * u64::from(b'"'))).wrapping_sub(ONES);
    let backslash = (x ^ (ONES * u64::from(b'\\'))).wrapping_sub(ONES);
    (x | control | quote | backslash) & HIGHS == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_texts_are_appended_as_they_are() {
        let text: Vec<u8> = (b'a'..=b'z').chain(b'A'..=b'Z').collect();
        for len in 0..=text.len() {
            let mut out = b"before".to_vec();
            append(&mut out, &text[..len]);
            MemberKey::new(std::str::from_utf8(&text[..len]).expect("ASCII")).append(&mut out);
            append_quoted(&mut out, &text[..len]);
            assert_eq!(out, [b"before", &text[..len], &text[..len], b"\"", &text[..len], b"\""].concat(), "{len}");
        }
    }

    #[test]
    fn a_key_knows_what_begins_with_it() {
        let text: Vec<u8> = (b'a'..=b'z').chain(b'A'..=b'Z').collect();
        for len in 1..40 {
            let key = MemberKey::new(&format!(",{}", std::str::from_utf8(&text[..len]).expect("ASCII")));
            assert!(key.begins(&text), "{len}");
            assert!(!key.begins(&text[..len - 1]), "{len}");
            for at in 0..len {
                let mut other = text.clone();
                other[at] = b'!';
                assert!(!key.begins(&other), "{at} of {len}");
            }
        }
    }

    #[test]
    fn every_special_byte_is_found_at_every_place() {
        for len in 0..=50 {
            assert!(is_plain_ascii(&vec![b'!'; len]), "{len}");
            for at in 0..len {
                for byte in 0..=255 {
                    let mut text = vec![b'~'; len];
                    text[at] = byte;
                    let plain = (0x20..0x80).contains(&byte) && byte != b'"' && byte != b'\\';
                    assert_eq!(is_plain_ascii(&text), plain, "{byte:#x} at {at} of {len}");
                }
            }
        }
    }
}
