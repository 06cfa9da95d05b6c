//! The gRPC codec: protobuf, and what is decoded is validated before a handler sees it.

use std::marker::PhantomData;

use prost::Message;
use tonic::Status;
use tonic::codec::{DecodeBuf, Decoder};
use tonic_prost::{ProstCodec, ProstEncoder};

use crate::kernel::error::{Error, Reason};
use crate::kernel::validate::{Validate, Violations};

/// Encodes `T`, decodes and validates `U`.
pub struct Codec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for Codec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> tonic::codec::Codec for Codec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Validate + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = ValidatingDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<T, U>::raw_encoder(Default::default())
    }

    fn decoder(&mut self) -> Self::Decoder {
        ValidatingDecoder::default()
    }
}

/// Decodes and validates `U`.
pub struct ValidatingDecoder<U>(PhantomData<U>);

impl<U> Default for ValidatingDecoder<U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<U: Message + Default + Validate> Decoder for ValidatingDecoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        let message = U::decode(buffer)
            .map_err(|error| Error::new(Reason::InvalidFormat, format!("the message can't be decoded: {error}")))?;
        let mut violations = Violations::default();
        message.validate(&mut violations);
        violations.into_result()?;
        Ok(Some(message))
    }
}
