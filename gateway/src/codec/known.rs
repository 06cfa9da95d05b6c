//! Wire → JSON of the well-known types that have a form of their own.

use super::encode::{Encoder, every, last};
use super::error::{Problem, Result};
use super::scalar::{self, MISMATCH};
use super::schema::{Field, Kind, Message, Shape};
use super::wire::{Raw, Reader};

impl<'s> Encoder<'s, '_> {
    pub(super) fn text(&mut self, shape: Shape, wire: &[u8]) -> Result<()> {
        self.out.push(b'"');
        if shape == Shape::FieldMask {
            for (i, raw) in every(wire, 1)?.into_iter().enumerate() {
                let Raw::Bytes(path) = raw else { return Err(MISMATCH.into()) };
                if i > 0 {
                    self.out.push(b',');
                }
                super::mask::write_path(self.out, path)?;
            }
        } else {
            let (seconds, nanos) = seconds_and_nanos(wire)?;
            match shape {
                Shape::Timestamp => super::time::write_timestamp(self.out, seconds, nanos)?,
                _ => super::time::write_duration(self.out, seconds, nanos)?,
            }
        }
        self.out.push(b'"');
        Ok(())
    }

    pub(super) fn value(&mut self, m: &'s Message, wire: &[u8]) -> Result<()> {
        let mut reader = Reader::new(wire);
        let mut set: Option<(&Field, Vec<u8>, Raw<'_>)> = None;
        while let Some((number, wire_type)) = reader.tag()? {
            let raw = reader.value(number, wire_type)?;
            let Some(f) = m.by_number(number) else { continue };
            // Only a struct or a list that is given twice has something to merge.
            let merged = match (set.take(), raw) {
                (Some((before, mut merged, earlier)), Raw::Bytes(_)) if before.index == f.index && number > 4 => {
                    if let (true, Raw::Bytes(earlier)) = (merged.is_empty(), earlier) {
                        merged.extend_from_slice(earlier);
                    }
                    if let Raw::Bytes(more) = raw {
                        merged.extend_from_slice(more);
                    }
                    merged
                }
                _ => Vec::new(),
            };
            set = Some((f, merged, raw));
        }
        match set {
            None => Err(Problem::Unprintable("a google.protobuf.Value without a value").into()),
            Some((f, _, Raw::Fixed64(bits))) if f.kind == Kind::Double && !f64::from_bits(bits).is_finite() => {
                Err(Problem::Unprintable("a google.protobuf.Value that is not finite").into())
            }
            Some((f, merged, raw)) => self.element(f.kind, if merged.is_empty() { raw } else { Raw::Bytes(&merged) }),
        }
    }

    pub(super) fn any(&mut self, wire: &[u8]) -> Result<()> {
        let bytes = |raw| match raw {
            None => Ok(&[][..]),
            Some(Raw::Bytes(bytes)) => Ok(bytes),
            Some(_) => Err(MISMATCH),
        };
        let (url, payload) = (bytes(last(wire, 1)?)?, bytes(last(wire, 2)?)?);
        if url.is_empty() && payload.is_empty() {
            self.out.extend_from_slice(b"{}");
            return Ok(());
        }
        let url = std::str::from_utf8(url).map_err(|_| Problem::Utf8)?;
        let id = url.rsplit_once('/').and_then(|(_, name)| self.schema.id(name));
        let id = id.ok_or_else(|| Problem::UnknownType(super::error::clip(url)))?;
        self.out.extend_from_slice(b"{\"@type\":");
        scalar::write_string(self.out, url);
        let m = self.schema.message(id);
        if m.shape == Shape::Plain {
            self.members(m, payload)?;
        } else {
            self.out.extend_from_slice(b",\"value\":");
            self.message(id, payload)?;
        }
        self.out.push(b'}');
        Ok(())
    }
}

/// Fields 1 and 2 of a `Timestamp` or a `Duration`.
fn seconds_and_nanos(wire: &[u8]) -> Result<(i64, i32)> {
    let (mut seconds, mut nanos) = (Raw::Varint(0), Raw::Varint(0));
    let mut reader = Reader::new(wire);
    while let Some((number, wire_type)) = reader.tag()? {
        let raw = reader.value(number, wire_type)?;
        match number {
            1 => seconds = raw,
            2 => nanos = raw,
            _ => {}
        }
    }
    match (seconds, nanos) {
        (Raw::Varint(seconds), Raw::Varint(nanos)) => Ok((seconds as i64, nanos as i32)),
        _ => Err(MISMATCH.into()),
    }
}
