//! The field mask of a PATCH that gives none: the fields that its body names.

use serde_json::Value;

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
    // The codec has read it before: what is wrong with it was said there.
    let value: Value = serde_json::from_slice(json).map_err(|_| Problem::TooDeep)?;
    let mut paths = Vec::new();
    collect(schema, resource, &value, &mut String::new(), &mut paths);
    out.tag(mask.number, 2);
    let open = out.open();
    for path in paths {
        out.tag(1, 2);
        out.bytes(path.as_bytes());
    }
    out.close(open);
    Ok(())
}

fn collect(schema: &Schema, id: MessageId, value: &Value, prefix: &mut String, paths: &mut Vec<String>) {
    for (key, value) in value.as_object().into_iter().flatten() {
        let Some(f) = schema.message(id).by_name(key) else { continue };
        let start = prefix.len();
        prefix.push_str(&f.name);
        match (f.card, f.kind, value) {
            (Card::Singular, Kind::Message(inner), Value::Object(object))
                if schema.message(inner).shape == Shape::Plain && !object.is_empty() =>
            {
                prefix.push('.');
                collect(schema, inner, value, prefix, paths);
            }
            _ => paths.push(prefix.clone()),
        }
        prefix.truncate(start);
    }
}
