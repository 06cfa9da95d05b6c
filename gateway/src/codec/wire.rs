//! The protobuf wire format (protobuf.dev/programming-guides/encoding): a reader that trusts nothing and a writer that
//! writes nested lengths in one pass.

use thiserror::Error;

use super::append::{append, short_word};

/// Nesting bound for messages, groups and JSON values alike; the same as protobuf's own parsers have.
pub(crate) const MAX_DEPTH: u32 = 100;

/// Why bytes are not a protobuf message.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum WireError {
    /// A value ends after its message does.
    #[error("truncated message")]
    Truncated,
    /// A varint longer than ten bytes.
    #[error("varint too long")]
    VarintTooLong,
    /// Field number zero or too large, or an undefined wire type.
    #[error("invalid tag")]
    InvalidTag,
    /// An end-group tag without its start, or the other way round.
    #[error("unmatched group")]
    UnmatchedGroup,
    /// More than 100 levels.
    #[error("nested too deeply")]
    TooDeep,
}

/// One value as it stands on the wire.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Raw<'a> {
    Varint(u64),
    Fixed64(u64),
    Fixed32(u32),
    Bytes(&'a [u8]),
    /// What stands between a start and an end group tag.
    Group(&'a [u8]),
}

#[derive(Clone, Copy)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    #[inline(always)]
    pub fn varint(&mut self) -> Result<u64, WireError> {
        match self.rest {
            [a, rest @ ..] if *a < 0x80 => {
                self.rest = rest;
                Ok(u64::from(*a))
            }
            [a, b, rest @ ..] if *b < 0x80 => {
                self.rest = rest;
                Ok(u64::from(*a & 0x7f) | u64::from(*b) << 7)
            }
            rest => {
                let (value, len) = long_varint(rest);
                if len == 0 {
                    return Err(if rest.len() < 10 { WireError::Truncated } else { WireError::VarintTooLong });
                }
                self.rest = rest.get(len..).unwrap_or_default();
                Ok(value)
            }
        }
    }

    /// Field number and wire type of the next value; `None` at the end.
    #[inline(always)]
    pub fn tag(&mut self) -> Result<Option<(u32, u8)>, WireError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let before = self.rest.len();
        let tag = u32::try_from(self.varint()?).map_err(|_| WireError::InvalidTag)?;
        // A tag of more bytes than its 32 bits need is malformed, unlike any other varint.
        if before - self.rest.len() > 5 {
            return Err(WireError::InvalidTag);
        }
        match (tag >> 3, (tag & 7) as u8) {
            (0, _) | (_, 6..) => Err(WireError::InvalidTag),
            found => Ok(Some(found)),
        }
    }

    #[inline]
    fn take(&mut self, n: usize) -> Result<&'a [u8], WireError> {
        let (head, rest) = self.rest.split_at_checked(n).ok_or(WireError::Truncated)?;
        self.rest = rest;
        Ok(head)
    }

    #[inline]
    fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or(WireError::Truncated)?;
        self.rest = rest;
        Ok(*head)
    }

    /// The value after a tag.
    #[inline(always)]
    pub fn value(&mut self, number: u32, wire_type: u8) -> Result<Raw<'a>, WireError> {
        match wire_type {
            0 => self.varint().map(Raw::Varint),
            1 => self.array().map(|b| Raw::Fixed64(u64::from_le_bytes(b))),
            2 => {
                let len = usize::try_from(self.varint()?).map_err(|_| WireError::Truncated)?;
                self.take(len).map(Raw::Bytes)
            }
            3 => {
                let (inside, after) = group(*self, number, 0)?;
                *self = after;
                Ok(Raw::Group(inside))
            }
            5 => self.array().map(|b| Raw::Fixed32(u32::from_le_bytes(b))),
            _ => Err(WireError::UnmatchedGroup),
        }
    }

    /// One element of a packed field of this wire type.
    #[inline]
    pub fn packed(&mut self, wire_type: u8) -> Result<Raw<'a>, WireError> {
        self.value(0, wire_type)
    }

    /// Steps over the next tag if it is this one.
    #[inline]
    pub fn next_if(&mut self, number: u32) -> Result<Option<u8>, WireError> {
        let mut ahead = *self;
        match ahead.tag()? {
            Some((n, wire_type)) if n == number => {
                *self = ahead;
                Ok(Some(wire_type))
            }
            _ => Ok(None),
        }
    }
}

// These two take what they read by value: a reader whose address goes nowhere can live in registers.

/// A varint and its length, which is 0 if it does not end within ten bytes.
fn long_varint(bytes: &[u8]) -> (u64, usize) {
    // At the end of a message there are fewer than eight bytes, and what they are filled up with ends a varint too.
    let word = bytes.first_chunk().map_or_else(|| short_word(bytes), |word| u64::from_le_bytes(*word));
    if let Some((value, len)) = varint_of_word(word)
        && len <= bytes.len()
    {
        return (value, len);
    }
    let mut value = 0u64;
    for (i, &byte) in bytes.iter().take(10).enumerate() {
        // Bits beyond the 64th are dropped, as every other parser does.
        value |= u64::from(byte & 0x7f) << (7 * i).min(63);
        if byte < 0x80 {
            return (value, i + 1);
        }
    }
    (0, 0)
}

/// What a group holds, and a reader of what follows it.
fn group(mut reader: Reader<'_>, number: u32, depth: u32) -> Result<(&[u8], Reader<'_>), WireError> {
    if depth >= MAX_DEPTH {
        return Err(WireError::TooDeep);
    }
    let start = reader.rest;
    loop {
        let before = reader.rest.len();
        match reader.tag()? {
            None => return Err(WireError::UnmatchedGroup),
            Some((end, 4)) if end == number => {
                let inside = start.get(..start.len() - before).ok_or(WireError::Truncated)?;
                return Ok((inside, reader));
            }
            Some((_, 4)) => return Err(WireError::UnmatchedGroup),
            Some((inner, 3)) => (_, reader) = group(reader, inner, depth + 1)?,
            Some((inner, wire_type)) => drop(reader.value(inner, wire_type)?),
        }
    }
}

/// Appends protobuf. The length of a nested message stands before it but is known after it: one byte is kept for it,
/// lengths that need more are noted, and [`Writer::finish`] makes room for all of them in one backward pass.
pub(crate) struct Writer {
    pub buf: Vec<u8>,
    /// Position of the kept byte and the length that belongs there.
    long: Vec<(usize, usize)>,
    extra: usize,
}

/// A length-delimited value that has begun.
#[must_use]
pub(crate) struct Open {
    at: usize,
    extra: usize,
}

impl Writer {
    pub fn new(buf: Vec<u8>) -> Self {
        Self { buf, long: Vec::new(), extra: 0 }
    }

    #[inline]
    pub fn varint(&mut self, value: u64) {
        if value < 0x80 {
            self.buf.push(value as u8);
        } else {
            self.long_varint(value);
        }
    }

    fn long_varint(&mut self, mut value: u64) {
        if value < 1 << 56 {
            // Cut into halves of 28 bits, those of 14, those of 7; then every byte but the last says that one follows.
            let x = value & 0x0fff_ffff | (value & 0x00ff_ffff_f000_0000) << 4;
            let x = x & 0x0000_3fff_0000_3fff | (x & 0x0fff_c000_0fff_c000) << 2;
            let x = x & 0x007f_007f_007f_007f | (x & 0x3f80_3f80_3f80_3f80) << 1;
            let len = (71 - x.leading_zeros() as usize) / 8;
            let more = 0x0080_8080_8080_8080 >> (8 * (8 - len));
            self.buf.extend_from_slice(&(x | more).to_le_bytes());
            self.buf.truncate(self.buf.len() - (8 - len));
            return;
        }
        while value >= 0x80 {
            self.buf.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.buf.push(value as u8);
    }

    #[inline]
    pub fn tag(&mut self, number: u32, wire_type: u8) {
        self.varint(u64::from(number) << 3 | u64::from(wire_type));
    }

    #[inline]
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.varint(bytes.len() as u64);
        append(&mut self.buf, bytes);
    }

    #[inline]
    pub fn open(&mut self) -> Open {
        self.buf.push(0);
        Open { at: self.buf.len() - 1, extra: self.extra }
    }

    #[inline]
    pub fn close(&mut self, open: Open) {
        let len = self.buf.len() - open.at - 1 + (self.extra - open.extra);
        match self.buf.get_mut(open.at) {
            Some(byte) if len < 0x80 => *byte = len as u8,
            _ => {
                self.extra += varint_len(len) - 1;
                self.long.push((open.at, len));
            }
        }
    }

    /// Puts the noted lengths in place.
    pub fn finish(mut self) -> Vec<u8> {
        self.long.sort_unstable();
        let mut from = self.buf.len();
        let mut to = from + self.extra;
        self.buf.resize(to, 0);
        for &(at, len) in self.long.iter().rev() {
            to -= from - (at + 1);
            self.buf.copy_within(at + 1..from, to);
            let width = varint_len(len);
            to -= width;
            for (i, byte) in self.buf[to..to + width].iter_mut().enumerate() {
                *byte = (len >> (7 * i)) as u8 | if i + 1 < width { 0x80 } else { 0 };
            }
            from = at;
        }
        self.buf
    }
}

/// The varint at the beginning of eight bytes, if it ends there, and its length: the last byte is the first one whose high
/// bit is clear, and then neighbours of 7, 14 and 28 bits are pushed together.
#[inline]
fn varint_of_word(word: u64) -> Option<(u64, usize)> {
    let ends = !word & 0x8080_8080_8080_8080;
    let x = word & (ends ^ ends.wrapping_sub(1)) & 0x7f7f_7f7f_7f7f_7f7f;
    let x = x & 0x007f_007f_007f_007f | (x & 0x7f00_7f00_7f00_7f00) >> 1;
    let x = x & 0x0000_3fff_0000_3fff | (x & 0x3fff_0000_3fff_0000) >> 2;
    let x = x & 0x0fff_ffff | (x & 0x0fff_ffff_0000_0000) >> 4;
    (ends != 0).then_some((x, ends.trailing_zeros() as usize / 8 + 1))
}

fn varint_len(value: usize) -> usize {
    ((usize::BITS - (value | 1).leading_zeros()) as usize).div_ceil(7)
}

pub(crate) fn zigzag32(n: i32) -> u64 {
    u64::from((n as u32) << 1 ^ (n >> 31) as u32)
}

pub(crate) fn zigzag64(n: i64) -> u64 {
    (n as u64) << 1 ^ (n >> 63) as u64
}

pub(crate) fn unzigzag64(n: u64) -> i64 {
    (n >> 1) as i64 ^ -((n & 1) as i64)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn varints_are_read_as_they_were_written(value: u64, shift in 0..64, rest: [u8; 9]) {
            let value = value >> shift;
            let mut writer = Writer::new(Vec::new());
            writer.varint(value);
            let len = writer.buf.len();
            prop_assert_eq!(len, varint_len(value as usize));
            let mut plain = Vec::new();
            prost::encoding::encode_varint(value, &mut plain);
            prop_assert_eq!(&writer.buf, &plain);
            // Whatever follows, and if nothing does.
            for tail in [&rest[..], &[]] {
                let bytes = [&writer.buf, tail].concat();
                let mut reader = Reader::new(&bytes);
                prop_assert_eq!(reader.varint(), Ok(value));
                prop_assert_eq!(reader.rest, tail);
            }
            prop_assert_eq!(Reader::new(&writer.buf[..len - 1]).varint(), Err(WireError::Truncated));
        }
    }
}
