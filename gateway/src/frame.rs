//! gRPC message framing (gRPC over HTTP/2, "Length-Prefixed-Message").

use bytes::{Buf, Bytes, BytesMut};

/// Flag and length in front of every message.
pub(crate) const PREFIX: usize = 5;

/// Cuts a body into messages. A message that arrives in one piece is not copied.
pub(crate) struct Deframer {
    whole: Bytes,
    partial: BytesMut,
    limit: usize,
}

/// Why a body is not a sequence of messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FrameError {
    /// A flag that means nothing here, such as compression that nobody offered.
    Flags(u8),
    TooLarge,
    Incomplete,
}

impl Deframer {
    pub fn new(limit: usize) -> Self {
        Self { whole: Bytes::new(), partial: BytesMut::new(), limit }
    }

    pub fn push(&mut self, data: Bytes) {
        if self.whole.is_empty() && self.partial.is_empty() {
            self.whole = data;
            return;
        }
        if !self.whole.is_empty() {
            self.partial.extend_from_slice(&std::mem::take(&mut self.whole));
        }
        self.partial.extend_from_slice(&data);
    }

    pub fn is_empty(&self) -> bool {
        self.whole.is_empty() && self.partial.is_empty()
    }

    /// The next message, if all of it is there. It must not have flags.
    pub fn next(&mut self) -> Result<Option<Bytes>, FrameError> {
        Ok(self.next_flagged(0)?.map(|(_, message)| message))
    }

    /// The next message and its flags, which must be among these.
    pub fn next_flagged(&mut self, flags: u8) -> Result<Option<(u8, Bytes)>, FrameError> {
        let bytes: &[u8] = if self.whole.is_empty() { &self.partial } else { &self.whole };
        let Some(([flag, length @ ..], rest)) = bytes.split_first_chunk::<PREFIX>() else { return Ok(None) };
        let (flag, length) = (*flag, u32::from_be_bytes(*length) as usize);
        if flag & !flags != 0 {
            return Err(FrameError::Flags(flag));
        }
        if length > self.limit {
            return Err(FrameError::TooLarge);
        }
        if rest.len() < length {
            return Ok(None);
        }
        if self.whole.is_empty() {
            self.partial.advance(PREFIX);
            Ok(Some((flag, self.partial.split_to(length).freeze())))
        } else {
            self.whole.advance(PREFIX);
            Ok(Some((flag, self.whole.split_to(length))))
        }
    }
}

/// An empty buffer with room for the prefix in front.
pub(crate) fn buffer(capacity: usize) -> Vec<u8> {
    let mut buffer = Vec::with_capacity(PREFIX + capacity);
    buffer.resize(PREFIX, 0);
    buffer
}

/// Writes the prefix of the one message in the buffer; `None` if it is too long for one.
pub(crate) fn seal(mut buffer: Vec<u8>) -> Option<Bytes> {
    let length = u32::try_from(buffer.len().checked_sub(PREFIX)?).ok()?;
    buffer.get_mut(1..PREFIX)?.copy_from_slice(&length.to_be_bytes());
    Some(Bytes::from(buffer))
}
