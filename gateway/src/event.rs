//! What stands in front of the data of a server-sent event.

use crate::codec::schema::{Field, Kind, Message, MessageId, Schema};
use crate::codec::wire::{Raw, Reader, WireError};
use crate::codec::{CodecError, Problem, scalar};
use crate::route::plan::Rpc;

/// The events that end a stream.
pub(crate) const ENDS: [&str; 2] = ["end", "error"];

/// The oneof member whose events could not be told from the end of the stream.
pub(crate) fn ambiguous(m: &Message) -> Option<&Field> {
    m.fields.iter().find(|f| f.oneof.is_some() && ENDS.contains(&&*f.json_name))
}

/// Writes the `id:` and `event:` lines of a message, as far as it has them.
pub(crate) fn head(schema: &Schema, rpc: &Rpc, wire: &[u8], out: &mut Vec<u8>) -> Result<(), CodecError> {
    if let Some(path) = &rpc.id_field {
        id(schema, rpc.output, path, wire, out)?;
    }
    if rpc.cases
        && let Some(f) = case(schema.message(rpc.output), wire)?
    {
        out.extend_from_slice(b"event: ");
        out.extend_from_slice(f.json_name.as_bytes());
        out.push(b'\n');
    }
    Ok(())
}

/// No line if the field is unset, or if its text would break the line.
fn id(schema: &Schema, root: MessageId, path: &[u16], wire: &[u8], out: &mut Vec<u8>) -> Result<(), CodecError> {
    let Some((f, raw)) = find(schema, root, path, wire)? else { return Ok(()) };
    if !f.presence && scalar::is_zero(f.kind, raw) {
        return Ok(());
    }
    let mut text = Vec::new();
    match (f.kind, raw) {
        (Kind::String, Raw::Bytes(bytes)) => {
            text.extend_from_slice(std::str::from_utf8(bytes).map_err(|_| Problem::Utf8)?.as_bytes());
        }
        _ => scalar::write_json(schema, f.kind, raw, false, &mut text)?,
    }
    if text.iter().any(|b| matches!(b, b'\n' | b'\r' | 0)) {
        return Ok(());
    }
    let bare = text.strip_prefix(b"\"").and_then(|t| t.strip_suffix(b"\"")).filter(|_| f.kind != Kind::String);
    out.extend_from_slice(b"id: ");
    out.extend_from_slice(bare.unwrap_or(&text));
    out.push(b'\n');
    Ok(())
}

/// The scalar at the path. Where a message on the way occurs more than once, the last occurrence that has it counts.
fn find<'s, 'w>(
    schema: &'s Schema,
    root: MessageId,
    path: &[u16],
    wire: &'w [u8],
) -> Result<Option<(&'s Field, Raw<'w>)>, WireError> {
    let Some((first, rest)) = path.split_first() else { return Ok(None) };
    let Some(f) = schema.message(root).fields.get(usize::from(*first)) else { return Ok(None) };
    let mut reader = Reader::new(wire);
    let mut found = None;
    while let Some((number, wire_type)) = reader.tag()? {
        let raw = reader.value(number, wire_type)?;
        if number != f.number {
            continue;
        }
        match (f.kind, raw) {
            (Kind::Message(id), Raw::Bytes(inner) | Raw::Group(inner)) => {
                found = find(schema, id, rest, inner)?.or(found);
            }
            _ => found = Some((f, raw)),
        }
    }
    Ok(found)
}

/// The oneof member that is set: the one that comes last.
fn case<'s>(m: &'s Message, wire: &[u8]) -> Result<Option<&'s Field>, WireError> {
    let mut reader = Reader::new(wire);
    let mut set = None;
    while let Some((number, wire_type)) = reader.tag()? {
        reader.value(number, wire_type)?;
        if let Some(f) = m.by_number(number).filter(|f| f.oneof.is_some()) {
            set = Some(f);
        }
    }
    Ok(set)
}
