//! JSON ↔ protobuf wire bytes, directly, driven by tables made from the descriptors.
//!
//! Implements ProtoJSON (<https://protobuf.dev/programming-guides/json>) without building messages in between.

mod append;
mod decode;
mod encode;
mod error;
mod indent;
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
pub use indent::indent;
pub(crate) use lex::Lexer;
pub use schema::MessageId;
use schema::Schema;
pub(crate) use time::write_duration;
pub use wire::WireError;
use wire::Writer;

/// How deeply messages may nest in which an `@type` comes last.
const ANY_LEVELS: usize = 8;

/// Transcodes the messages of a descriptor pool.
pub struct Codec {
    pub(crate) schema: Schema,
    /// Print implicit-presence scalars that are zero, empty lists and empty maps.
    pub(crate) always_print_fields: bool,
    /// Skip unknown JSON keys instead of refusing them.
    pub(crate) ignore_unknown_fields: bool,
    pretty: bool,
}

impl Codec {
    /// Builds the tables: once per process, not per request.
    pub fn new(pool: &DescriptorPool) -> Self {
        Self { schema: Schema::new(pool), always_print_fields: false, ignore_unknown_fields: false, pretty: false }
    }

    /// Print implicit-presence scalars that are zero, empty lists and empty maps (off by default).
    pub fn always_print_fields(mut self, on: bool) -> Self {
        self.always_print_fields = on;
        self
    }

    /// Print members under their names in the `.proto` file instead of lowerCamelCase or `json_name` (off by default).
    /// Both are read whatever this says.
    pub fn use_proto_names(mut self, on: bool) -> Self {
        self.schema.print_proto_names(on);
        self
    }

    /// Print enum values as numbers instead of names (off by default). `NullValue` is `null` either way; both names and
    /// numbers are read whatever this says.
    pub fn enum_numbers(mut self, on: bool) -> Self {
        self.schema.print_enum_numbers(on);
        self
    }

    /// Let [`Codec::wire_to_json`] put each member and element on a line of its own, two spaces deeper at each level
    /// (off by default, in one line). Done by [`indent`] afterwards: it costs a second pass over the JSON.
    pub fn pretty(mut self, on: bool) -> Self {
        self.pretty = on;
        self
    }

    /// Skip JSON keys that name no field, and names that no enum value has, instead of refusing them (off by default).
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
        if !self.pretty {
            return self.encoder(out).message(message, wire);
        }
        let mut compact = Vec::with_capacity(wire.len() * 2);
        self.encoder(&mut compact).message(message, wire)?;
        indent(&compact, out);
        Ok(())
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
        let (ignore_unknown, ahead) = (self.ignore_unknown_fields, json.len().saturating_mul(ANY_LEVELS));
        let mut decoder = Decoder { schema: &self.schema, lex, out, ignore_unknown, ahead };
        read(&mut decoder)?;
        decoder.lex.end()
    }
}
