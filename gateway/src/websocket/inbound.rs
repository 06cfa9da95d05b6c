//! From the client's frames to framed request messages.

use std::sync::Arc;

use bytes::Bytes;
use http::HeaderMap;
use tokio_tungstenite::tungstenite::Message;

use super::handshake::Protocol;
use crate::codec::schema::{Card, Field, Kind, MessageId, Schema, Shape};
use crate::codec::wire::{MAX_DEPTH, Raw, Reader, WireError, Writer};
use crate::codec::{Bound, CodecError, Problem};
use crate::error::Rejection;
use crate::frame;
use crate::service::Shared;

/// The text frame by which a client says that it has no more messages. It is not JSON.
const HALF_CLOSE: &str = "half-close";

pub(crate) struct Inbound {
    shared: Arc<Shared>,
    input: MessageId,
    /// The client may send any number of messages.
    streaming: bool,
    protocol: Protocol,
    /// What path and query set of the first message, which is still to come.
    preset: Option<Vec<u8>>,
    bound: Bound,
}

impl Inbound {
    pub fn new(
        shared: Arc<Shared>,
        socket: usize,
        protocol: Protocol,
        segments: &[&str],
        query: Option<&str>,
    ) -> Result<Self, CodecError> {
        let mut out = Writer::new(Vec::new());
        let mut bound = Bound::default();
        let (mut input, mut streaming) = (MessageId(0), false);
        if let Some(route) = shared.plan.sockets.get(socket) {
            (input, streaming) = (route.rpc.input, route.rpc.client_streaming);
            shared.query(route, query, &HeaderMap::new(), &mut out)?;
            shared.path(route, segments, &mut out)?;
        }
        let preset = out.finish();
        bind(&shared.codec.schema, input, &preset, &mut Vec::new(), &mut bound)?;
        Ok(Self { shared, input, streaming, protocol, preset: Some(preset), bound })
    }

    pub fn is_half_close(message: &Message) -> bool {
        matches!(message, Message::Text(text) if text.as_str() == HALF_CLOSE)
    }

    /// May there be a message after the first?
    pub fn takes_more(&self) -> bool {
        self.streaming
    }

    /// The framed message of a data frame.
    pub fn message(&mut self, message: &Message) -> Result<Bytes, Rejection> {
        let (codec, input, bound) = (&self.shared.codec, self.input, &self.bound);
        let size = message.len();
        let mut out = Writer::new(frame::buffer(size + self.preset.as_ref().map_or(0, Vec::len)));
        match (self.protocol, message) {
            (Protocol::Json, Message::Text(json)) => {
                codec.decode(json.as_bytes(), &mut out, |d| d.message(input, bound))?;
            }
            (Protocol::Proto, Message::Binary(wire)) => {
                check(&codec.schema, input, wire, bound, 0)?;
                out.buf.extend_from_slice(wire);
            }
            (Protocol::Json, _) => return Err(Rejection::Frame("rialto.json.v1 has text frames only")),
            (Protocol::Proto, _) => {
                return Err(Rejection::Frame("a text frame of rialto.proto.v1 can only be half-close"));
            }
        }
        self.seal(out.finish())
    }

    /// The message of path and query alone, if that is what the half-close of a client means that sent none: they say
    /// something, or the method takes a message.
    pub fn unsent(&mut self) -> Result<Option<Bytes>, Rejection> {
        match &self.preset {
            Some(preset) if !preset.is_empty() || !self.streaming => self.seal(frame::buffer(0)).map(Some),
            _ => Ok(None),
        }
    }

    /// Nothing is set twice, so the order does not matter.
    fn seal(&mut self, mut buffer: Vec<u8>) -> Result<Bytes, Rejection> {
        buffer.extend(self.preset.take().unwrap_or_default());
        self.bound = Bound::default();
        frame::seal(buffer).ok_or(Rejection::TooLarge(self.shared.limits.request_bytes))
    }
}

/// Notes the fields that these bytes set.
fn bind(schema: &Schema, id: MessageId, wire: &[u8], path: &mut Vec<u16>, bound: &mut Bound) -> Result<(), WireError> {
    let mut reader = Reader::new(wire);
    while let Some((number, wire_type)) = reader.tag()? {
        let raw = reader.value(number, wire_type)?;
        let Some(f) = schema.message(id).by_number(number) else { continue };
        path.push(f.index);
        match (plain(schema, f), raw) {
            (Some(inner), Raw::Bytes(wire) | Raw::Group(wire)) => bind(schema, inner, wire, path, bound)?,
            _ => bound.insert(path),
        }
        path.pop();
    }
    Ok(())
}

/// The type of a field whose parts can be set one by one.
fn plain(schema: &Schema, f: &Field) -> Option<MessageId> {
    match f.kind {
        Kind::Message(id) if f.card == Card::Singular && schema.message(id).shape == Shape::Plain => Some(id),
        _ => None,
    }
}

/// Are these the messages and the text of the type, all the way down, and do they leave alone what is bound? Unknown fields
/// pass, and so do numbers of a wrong wire type, which the service refuses.
fn check(schema: &Schema, id: MessageId, wire: &[u8], bound: &Bound, depth: u32) -> Result<(), CodecError> {
    if depth > MAX_DEPTH {
        return Err(Problem::TooDeep.into());
    }
    let m = schema.message(id);
    let mut reader = Reader::new(wire);
    while let Some((number, wire_type)) = reader.tag()? {
        let raw = reader.value(number, wire_type)?;
        let Some(f) = m.by_number(number) else { continue };
        let inner = match bound.get(f.index) {
            Some(inner) if inner.is_empty() => Err(Problem::Bound.into()),
            _ if bound.rival(m, f).is_some() => {
                let name = f.oneof.and_then(|oneof| m.oneofs.get(usize::from(oneof)));
                Err(Problem::OneofConflict(name.map(|name| name.to_string()).unwrap_or_default()).into())
            }
            inner => Ok(inner.unwrap_or(Bound::NONE)),
        };
        inner
            .and_then(|bound| match (f.kind, raw) {
                (Kind::Message(id), Raw::Bytes(wire) | Raw::Group(wire)) => check(schema, id, wire, bound, depth + 1),
                (Kind::String, Raw::Bytes(text)) if std::str::from_utf8(text).is_err() => Err(Problem::Utf8.into()),
                _ => Ok(()),
            })
            .map_err(|e: CodecError| e.at_field(&f.json_name))?;
    }
    Ok(())
}
