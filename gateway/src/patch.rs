//! The field mask of a PATCH that gives none: the fields that its body names.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

use crate::codec::schema::{Card, Kind, MessageId, Schema, Shape};
use crate::codec::wire::Writer;
use crate::codec::{CodecError, Problem};
use crate::route::plan::{BodyRule, Route};

/// Writes `update_mask` with the path of every field in the body, in proto names. An object that is a message of its own
/// is entered, so that its other fields stay what they are; lists, maps and well-known types are replaced as a whole.
pub(crate) fn write_mask(
    schema: &Schema,
    route: &Route,
    mask: u16,
    json: &[u8],
    out: &mut Writer,
) -> Result<(), CodecError> {
    let BodyRule::Field(body) = route.body else { return Ok(()) };
    let fields = &schema.message(route.rpc.input).fields;
    let (Some(body), Some(mask)) = (fields.get(usize::from(body)), fields.get(usize::from(mask))) else {
        return Ok(());
    };
    let Kind::Message(resource) = body.kind else { return Ok(()) };
    let mut paths = Vec::new();
    collect(schema, resource, object(json)?, &mut String::new(), &mut paths)?;
    out.tag(mask.number, 2);
    let open = out.open();
    for path in paths {
        out.tag(1, 2);
        out.bytes(path.as_bytes());
    }
    out.close(open);
    Ok(())
}

/// An object as far as its names. What is in it stays text: an unknown field may hold what no type of ours does.
type Object<'j> = BTreeMap<String, &'j RawValue>;

/// Nothing for `null`.
fn object(json: &[u8]) -> Result<Object<'_>, CodecError> {
    // The codec has read it before: what is wrong with it was said there.
    let object = serde_json::from_slice::<Option<_>>(json);
    Ok(object.map_err(|_| Problem::Syntax { offset: 0, expected: "an object" })?.unwrap_or_default())
}

fn collect(
    schema: &Schema,
    id: MessageId,
    object: Object,
    prefix: &mut String,
    paths: &mut Vec<String>,
) -> Result<(), CodecError> {
    for (key, value) in object {
        let Some(f) = schema.message(id).by_name(&key) else { continue };
        let start = prefix.len();
        prefix.push_str(&f.name);
        let inner = match (f.card, f.kind) {
            (Card::Singular, Kind::Message(inner)) if schema.message(inner).shape == Shape::Plain => {
                Some((inner, self::object(value.get().as_bytes())?)).filter(|(_, object)| !object.is_empty())
            }
            _ => None,
        };
        match inner {
            Some((inner, object)) => {
                prefix.push('.');
                collect(schema, inner, object, prefix, paths)?;
            }
            None => paths.push(prefix.clone()),
        }
        prefix.truncate(start);
    }
    Ok(())
}
