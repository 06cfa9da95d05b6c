//! `google.api.HttpBody`: bytes that are no message, as the request or the answer, or as the field that the rule names.

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};

use crate::codec::schema::{Card, Kind, Message, Schema};
use crate::codec::wire::{Raw, Reader, WireError, Writer};
use crate::codec::{CodecError, MessageId, Problem};
use crate::error::Rejection;
use crate::route::plan::Route;

pub(crate) const NAME: &str = "google.api.HttpBody";
const CONTENT_TYPE: u32 = 1;
const DATA: u32 = 2;

/// Is the message, or this field of it, an HttpBody? A list of them is JSON like any other.
pub(crate) fn is_raw(schema: &Schema, root: MessageId, field: Option<u16>) -> bool {
    let id = match field {
        None => Some(root),
        Some(index) => match schema.message(root).fields.get(usize::from(index)).map(|f| (f.card, f.kind)) {
            Some((Card::Singular, Kind::Message(id))) => Some(id),
            _ => None,
        },
    };
    id.is_some() && id == schema.id(NAME)
}

/// The content type that a request declares.
pub(crate) fn content_type(headers: &HeaderMap) -> Result<Option<&str>, Rejection> {
    let content_type = headers.get(header::CONTENT_TYPE).map(HeaderValue::to_str).transpose();
    content_type.map_err(|_| CodecError::from(Problem::Utf8).at_field(header::CONTENT_TYPE.as_str()).into())
}

/// Writes the body of the request where the rule wants it.
pub(crate) fn write_request(route: &Route, content_type: Option<&str>, data: &[u8], out: &mut Writer) {
    let write = |out: &mut Writer| {
        if let Some(content_type) = content_type {
            out.tag(CONTENT_TYPE, 2);
            out.bytes(content_type.as_bytes());
        }
        if !data.is_empty() {
            out.tag(DATA, 2);
            out.bytes(data);
        }
    };
    match route.body_field {
        Some(number) => {
            out.tag(number, 2);
            let open = out.open();
            write(out);
            out.close(open);
        }
        None => write(out),
    }
}

/// Content type and data of an answer. As everywhere in protobuf, the last occurrence counts.
pub(crate) fn read(output: &Message, field: Option<u16>, wire: &Bytes) -> Result<(String, Bytes), WireError> {
    let mut body = wire.clone();
    if let Some(field) = field.and_then(|index| output.fields.get(usize::from(index))) {
        body = last(wire, field.number)?.unwrap_or_default();
    }
    let content_type = last(&body, CONTENT_TYPE)?.unwrap_or_default();
    let data = last(&body, DATA)?.unwrap_or_default();
    Ok((String::from_utf8_lossy(&content_type).into_owned(), data))
}

fn last(wire: &Bytes, number: u32) -> Result<Option<Bytes>, WireError> {
    let mut reader = Reader::new(wire);
    let mut found = None;
    while let Some((this, wire_type)) = reader.tag()? {
        if let Raw::Bytes(bytes) = reader.value(this, wire_type)?
            && this == number
        {
            found = Some(wire.slice_ref(bytes));
        }
    }
    Ok(found)
}
