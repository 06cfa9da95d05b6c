//! The field mask of a PATCH that gives none: the fields that its body names.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};

use crate::codec::schema::{Card, Kind, MessageId, Schema, Shape};
use crate::codec::wire::Writer;
use crate::codec::{CodecError, Problem};
use crate::error::Rejection;
use crate::route::plan::{BodyRule, Route};

/// Writes `update_mask` with the path of every field in the body, in proto names. An object that is a message of its own
/// is entered, so that its other fields stay what they are; lists, maps and well-known types are replaced as a whole.
/// The paths of many deep fields are far longer than the body; a mask of more than `limit` bytes is refused.
pub(crate) fn write_mask(
    schema: &Schema,
    route: &Route,
    mask: u16,
    json: &[u8],
    limit: usize,
    out: &mut Writer,
) -> Result<(), Rejection> {
    let BodyRule::Field(body) = route.body else { return Ok(()) };
    let fields = &schema.message(route.rpc.input).fields;
    let (Some(body), Some(mask)) = (fields.get(usize::from(body)), fields.get(usize::from(mask))) else {
        return Ok(());
    };
    let Kind::Message(resource) = body.kind else { return Ok(()) };
    out.tag(mask.number, 2);
    let open = out.open();
    let mut paths = Paths { schema, out: &mut *out, prefix: String::new(), left: limit };
    let read = Object { paths: &mut paths, id: resource }.deserialize(&mut serde_json::Deserializer::from_slice(json));
    let too_large = paths.left == 0;
    // The codec has read it before: what is wrong with it was said there.
    read.map_err(|_| CodecError::from(Problem::Syntax { offset: 0, expected: "an object" }))?;
    out.close(open);
    if too_large { Err(Rejection::TooLarge(limit)) } else { Ok(()) }
}

/// Where paths are written.
struct Paths<'s, 'o> {
    schema: &'s Schema,
    out: &'o mut Writer,
    /// The message that is being read, with a dot behind it.
    prefix: String,
    /// How many bytes paths may still have; 0 once they had too many.
    left: usize,
}

impl Paths<'_, '_> {
    fn write(&mut self) {
        self.left = self.left.saturating_sub(self.prefix.len());
        if self.left > 0 {
            self.out.tag(1, 2);
            self.out.bytes(self.prefix.as_bytes());
        }
    }
}

/// An object of this type, as far as its names. Whatever else is in it is passed over: unknown fields may hold what no
/// type of ours does.
struct Object<'p, 's, 'o> {
    paths: &'p mut Paths<'s, 'o>,
    id: MessageId,
}

impl<'de> DeserializeSeed<'de> for Object<'_, '_, '_> {
    /// Was there anything in it?
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<bool, D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Object<'_, '_, '_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    /// `null`.
    fn visit_unit<E>(self) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<bool, A::Error> {
        let Self { paths, id } = self;
        let mut any = false;
        while let Some(key) = members.next_key::<String>()? {
            any = true;
            let Some(f) = paths.schema.message(id).by_name(&key) else {
                members.next_value::<IgnoredAny>()?;
                continue;
            };
            let start = paths.prefix.len();
            paths.prefix.push_str(&f.name);
            let entered = match (f.card, f.kind) {
                (Card::Singular, Kind::Message(inner)) if paths.schema.message(inner).shape == Shape::Plain => {
                    paths.prefix.push('.');
                    let entered = members.next_value_seed(Object { paths: &mut *paths, id: inner })?;
                    paths.prefix.truncate(start + f.name.len());
                    entered
                }
                _ => {
                    members.next_value::<IgnoredAny>()?;
                    false
                }
            };
            if !entered {
                paths.write();
            }
            paths.prefix.truncate(start);
        }
        Ok(any)
    }
}
