//! JSON ↔ protobuf wire bytes, directly, driven by tables made from the descriptors.
//!
//! Implements ProtoJSON (<https://protobuf.dev/programming-guides/json>) without building messages in between.

mod append;
mod decode;
mod encode;
mod error;
mod known;
mod lex;
mod mask;
mod number;
pub(crate) mod scalar;
pub(crate) mod schema;
mod time;
pub(crate) mod wire;

use prost_reflect::DescriptorPool;

pub(crate) use decode::{Bound, Decoder, write_well_known_text};
pub(crate) use encode::Encoder;
pub(crate) use error::clip;
pub use error::{CodecError, Problem};
pub(crate) use lex::Lexer;
pub use schema::MessageId;
use schema::Schema;
pub(crate) use time::write_duration;
pub use wire::WireError;
use wire::Writer;

/// Transcodes the messages of a descriptor pool.
pub struct Codec {
    pub(crate) schema: Schema,
    /// Print implicit-presence scalars that are zero, empty lists and empty maps.
    pub(crate) always_print_fields: bool,
    /// Skip unknown JSON keys instead of refusing them.
    pub(crate) ignore_unknown_fields: bool,
}

impl Codec {
    /// Builds the tables: once per process, not per request.
    pub fn new(pool: &DescriptorPool) -> Self {
        Self { schema: Schema::new(pool), always_print_fields: false, ignore_unknown_fields: false }
    }

    /// Print implicit-presence scalars that are zero, empty lists and empty maps (off by default).
    pub fn always_print_fields(mut self, on: bool) -> Self {
        self.always_print_fields = on;
        self
    }

    /// Skip JSON keys that name no field, instead of refusing them (off by default).
    pub fn ignore_unknown_fields(mut self, on: bool) -> Self {
        self.ignore_unknown_fields = on;
        self
    }

    /// The message of this full name.
    pub fn message(&self, full_name: &str) -> Option<MessageId> {
        self.schema.id(full_name)
    }

    /// One JSON text to the wire bytes of a message.
    pub fn json_to_wire(&self, message: MessageId, json: &[u8]) -> Result<Vec<u8>, CodecError> {
        let mut out = Writer::new(Vec::with_capacity(json.len()));
        self.decode(json, &mut out, |d| d.message(message, Bound::NONE))?;
        Ok(out.finish())
    }

    /// Appends the JSON of a message's wire bytes. Nothing useful is appended on error.
    pub fn wire_to_json(&self, message: MessageId, wire: &[u8], out: &mut Vec<u8>) -> Result<(), CodecError> {
        self.encoder(out).message(message, wire)
    }

    pub(crate) fn encoder<'o>(&self, out: &'o mut Vec<u8>) -> Encoder<'_, 'o> {
        Encoder::new(&self.schema, self.always_print_fields, out)
    }

    /// Runs `read` over one JSON text, which must end where `read` does.
    pub(crate) fn decode<'s, 'a, 'w>(
        &'s self,
        json: &'a [u8],
        out: &'w mut Writer,
        read: impl FnOnce(&mut Decoder<'s, 'a, 'w>) -> Result<(), CodecError>,
    ) -> Result<(), CodecError> {
        let lex = Lexer::new(json)?;
        let mut decoder = Decoder { schema: &self.schema, lex, out, ignore_unknown: self.ignore_unknown_fields };
        read(&mut decoder)?;
        decoder.lex.end()
    }
}
