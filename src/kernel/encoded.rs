//! Messages that many get: encoded once for all of them.

use std::marker::PhantomData;
use std::ops::Deref;
use std::sync::Arc;

use bytes::{BufMut, Bytes};
use prost::{DecodeError, Message};
use tonic::Status;
use tonic::codec::{BufferSettings, EncodeBuf, Encoder};

use crate::kernel::codec::ValidatingDecoder;
use crate::kernel::validate::Validate;

/// A message and its encoding, which all clones share.
pub struct Encoded<M> {
    message: Arc<M>,
    bytes: Bytes,
}

impl<M: Message> Encoded<M> {
    /// Encodes a message.
    pub fn new(message: M) -> Self {
        Self { bytes: message.encode_to_vec().into(), message: Arc::new(message) }
    }

    /// Reads an encoded message.
    pub fn decode(bytes: Bytes) -> Result<Self, DecodeError>
    where
        M: Default,
    {
        Ok(Self { message: Arc::new(M::decode(bytes.clone())?), bytes })
    }

    /// As protobuf.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The message, copied if others have it too.
    pub fn into_message(self) -> M
    where
        M: Clone,
    {
        Arc::unwrap_or_clone(self.message)
    }
}

impl<M> Clone for Encoded<M> {
    fn clone(&self) -> Self {
        Self { message: Arc::clone(&self.message), bytes: self.bytes.clone() }
    }
}

impl<M> Deref for Encoded<M> {
    type Target = M;

    fn deref(&self) -> &M {
        &self.message
    }
}

/// The gRPC codec of answers that are encoded already. Requests are decoded and validated as by
/// [`Codec`](crate::kernel::codec::Codec).
pub struct EncodedCodec<M, U>(PhantomData<(M, U)>);

impl<M, U> Default for EncodedCodec<M, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<M, U> tonic::codec::Codec for EncodedCodec<M, U>
where
    M: Message + 'static,
    U: Message + Default + Validate + Send + 'static,
{
    type Encode = Encoded<M>;
    type Decode = U;
    type Encoder = CopyingEncoder<M>;
    type Decoder = ValidatingDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        CopyingEncoder(PhantomData)
    }

    fn decoder(&mut self) -> Self::Decoder {
        ValidatingDecoder::default()
    }
}

/// Copies the bytes of what is ready into one buffer, which is sent as one frame.
pub struct CopyingEncoder<M>(PhantomData<M>);

impl<M: Message> Encoder for CopyingEncoder<M> {
    type Item = Encoded<M>;
    type Error = Status;

    fn encode(&mut self, item: Encoded<M>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put_slice(item.bytes());
        Ok(())
    }

    fn buffer_settings(&self) -> BufferSettings {
        // Each stream has such a buffer for as long as it is open, so it begins small. It grows to what is ready.
        BufferSettings::new(256, 32 << 10)
    }
}
