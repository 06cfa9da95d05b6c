//! Wire → JSON (protobuf.dev/programming-guides/json, printer side).
//!
//! Encoders write fields in order of number, all occurrences of a field together. Such messages are printed while they
//! are read. Any other order is legal too: then the occurrences are indexed first and printed from the index.

use std::collections::HashMap;

use super::error::{Problem, Result};
use super::scalar::{self, MISMATCH};
use super::schema::{Card, Field, Kind, Message, MessageId, Schema, Shape};
use super::wire::{MAX_DEPTH, Raw, Reader, WireError};

/// How often a message may be printed again because it turned out to be unordered. Beyond that, messages are indexed
/// right away: otherwise each level of a hostile nesting would double the work.
const RESTARTS: u8 = 8;

pub(crate) struct Encoder<'s, 'o> {
    pub(super) schema: &'s Schema,
    pub(super) out: &'o mut Vec<u8>,
    always_print: bool,
    restarts: u8,
    depth: u32,
}

impl<'s, 'o> Encoder<'s, 'o> {
    pub fn new(schema: &'s Schema, always_print: bool, out: &'o mut Vec<u8>) -> Self {
        Self { schema, out, always_print, restarts: RESTARTS, depth: 0 }
    }

    pub fn message(&mut self, id: MessageId, wire: &[u8]) -> Result<()> {
        let m = self.schema.message(id);
        // Levels are those of the JSON, which are what the reader counts: all that can be read can be printed.
        let level = matches!(m.shape, Shape::Plain | Shape::Struct | Shape::ListValue | Shape::Any);
        self.depth += u32::from(level);
        if self.depth > MAX_DEPTH {
            return Err(WireError::TooDeep.into());
        }
        match (m.shape, m.fields.as_slice()) {
            (Shape::Plain, _) => self.object(m, wire)?,
            (Shape::Any, _) => self.any(wire)?,
            (Shape::Value, _) => self.value(m, wire)?,
            (Shape::Wrapper, [f, ..]) => match last(wire, f.number)? {
                Some(raw) => scalar::write_json(self.schema, f.kind, raw, self.out)?,
                None => self.zero(f.kind),
            },
            (Shape::Struct, [f, ..]) => {
                let entries = every(wire, f.number)?;
                self.map(f, &entries)?;
            }
            (Shape::ListValue, [f, ..]) => {
                self.out.push(b'[');
                let mut index = 0;
                for raw in every(wire, f.number)? {
                    self.elements(f, raw, &mut index)?;
                }
                self.out.push(b']');
            }
            (shape, _) => self.text(shape, wire)?,
        }
        self.depth -= u32::from(level);
        Ok(())
    }

    fn object(&mut self, m: &'s Message, wire: &[u8]) -> Result<()> {
        let start = self.out.len();
        self.members(m, wire)?;
        match self.out.get_mut(start) {
            Some(comma) => *comma = b'{',
            None => self.out.push(b'{'),
        }
        self.out.push(b'}');
        Ok(())
    }

    /// What stands between the braces, with a comma before each.
    pub(super) fn members(&mut self, m: &'s Message, wire: &[u8]) -> Result<()> {
        if self.restarts > 0 {
            let (length, depth) = (self.out.len(), self.depth);
            if self.ordered(m, wire)? {
                return Ok(());
            }
            self.out.truncate(length);
            self.depth = depth;
            // The messages inside may have used up the rest.
            self.restarts = self.restarts.saturating_sub(1);
        }
        self.indexed(m, wire)
    }

    /// Prints while reading; false as soon as the message turns out not to be in canonical order.
    fn ordered(&mut self, m: &'s Message, wire: &[u8]) -> Result<bool> {
        let mut reader = Reader::new(wire);
        let (mut last, mut next, mut oneofs) = (0, 0, 0u64);
        while let Some((number, wire_type)) = reader.tag()? {
            let raw = reader.value(number, wire_type)?;
            let Some(f) = m.by_number(number) else { continue };
            if number <= last {
                return Ok(false);
            }
            last = number;
            if let Some(oneof) = f.oneof {
                let bit = 1u64.checked_shl(u32::from(oneof)).unwrap_or(0);
                if bit == 0 || oneofs & bit != 0 {
                    return Ok(false);
                }
                oneofs |= bit;
            }
            if self.always_print {
                self.unset(m, next, usize::from(f.index));
                next = usize::from(f.index) + 1;
            }
            self.occurrences(f, raw, &mut reader).map_err(|e| e.at_field(&f.json_name))?;
        }
        self.unset(m, next, m.fields.len());
        Ok(true)
    }

    /// A field of which `raw` is the first occurrence; the following ones are taken from the reader.
    #[inline]
    fn occurrences<'a>(&mut self, f: &'s Field, raw: Raw<'a>, reader: &mut Reader<'a>) -> Result<()> {
        match f.card {
            Card::Singular => self.singular(f, raw),
            Card::Repeated => {
                let (length, mut index) = (self.out.len(), 0);
                f.key.append(self.out);
                self.out.push(b'[');
                self.elements(f, raw, &mut index)?;
                while let Some(wire_type) = reader.next_if(f.number)? {
                    let raw = reader.value(f.number, wire_type)?;
                    self.elements(f, raw, &mut index)?;
                }
                self.close_array(length, index);
                Ok(())
            }
            Card::Map => {
                let mut entries = vec![raw];
                while let Some(wire_type) = reader.next_if(f.number)? {
                    entries.push(reader.value(f.number, wire_type)?);
                }
                f.key.append(self.out);
                self.map_field(f, &entries)
            }
        }
    }

    /// The object of a map is a level; that of a `Struct` is the message itself.
    fn map_field(&mut self, f: &'s Field, entries: &[Raw<'_>]) -> Result<()> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(WireError::TooDeep.into());
        }
        self.map(f, entries)?;
        self.depth -= 1;
        Ok(())
    }

    /// Ends an array that began at `length`, or takes it back if it stayed empty (an empty packed field).
    fn close_array(&mut self, length: usize, elements: usize) {
        if elements == 0 && !self.always_print {
            self.out.truncate(length);
        } else {
            self.out.push(b']');
        }
    }

    #[inline]
    fn singular(&mut self, f: &'s Field, raw: Raw<'_>) -> Result<()> {
        if !f.presence && !self.always_print && (scalar::is_zero(f.kind, raw) || self.is_null(f.kind)) {
            return Ok(());
        }
        f.key.append(self.out);
        self.element(f.kind, raw)
    }

    /// A `NullValue` means null whatever its number.
    fn is_null(&self, kind: Kind) -> bool {
        matches!(kind, Kind::Enum(id) if self.schema.enumeration(id).null)
    }

    #[inline]
    pub(super) fn element(&mut self, kind: Kind, raw: Raw<'_>) -> Result<()> {
        match (kind, raw) {
            (Kind::Message(id), Raw::Bytes(wire) | Raw::Group(wire)) => self.message(id, wire),
            _ => scalar::write_json(self.schema, kind, raw, self.out),
        }
    }

    /// One occurrence of a repeated field: one element, or a packed run of them.
    #[inline]
    fn elements(&mut self, f: &'s Field, raw: Raw<'_>, index: &mut usize) -> Result<()> {
        let wire_type = f.kind.wire_type();
        match raw {
            Raw::Bytes(run) if wire_type != 2 => {
                let mut reader = Reader::new(run);
                while !reader.is_empty() {
                    let raw = reader.packed(wire_type)?;
                    self.listed(f.kind, raw, index)?;
                }
                Ok(())
            }
            raw => self.listed(f.kind, raw, index),
        }
    }

    #[inline]
    fn listed(&mut self, kind: Kind, raw: Raw<'_>, index: &mut usize) -> Result<()> {
        if *index > 0 {
            self.out.push(b',');
        }
        *index += 1;
        self.element(kind, raw).map_err(|e| e.at_index(*index - 1))
    }

    /// Entries with one key are one entry, of which the last value counts.
    fn map(&mut self, f: &'s Field, entries: &[Raw<'_>]) -> Result<()> {
        let Kind::Message(entry) = f.kind else { return Err(MISMATCH.into()) };
        let entry = self.schema.message(entry);
        let (Some(key), Some(value)) = (entry.by_number(1), entry.by_number(2)) else { return Err(MISMATCH.into()) };
        let mut found: Vec<(Key<'_>, Pair<'_>)> = Vec::with_capacity(entries.len());
        for raw in entries {
            let Raw::Bytes(wire) = *raw else { return Err(MISMATCH.into()) };
            let pair = pair(wire)?;
            found.push((Key::new(key.kind, pair.key)?, pair));
        }
        let latest = if found.len() > 1 { Some(latest(&found)) } else { None };
        self.out.push(b'{');
        for (i, (k, pair)) in found.iter().enumerate() {
            if latest.as_ref().is_some_and(|latest| latest.get(k) != Some(&i)) {
                continue;
            }
            if self.out.last() != Some(&b'{') {
                self.out.push(b',');
            }
            scalar::write_key(self.schema, key.kind, k.raw(key.kind), self.out)?;
            self.out.push(b':');
            let printed = match (pair.value, value.kind) {
                (None, kind) => self.absent_value(kind),
                (Some(_), Kind::Message(id)) if pair.more => {
                    merge(every(pair.wire, 2)?).and_then(|merged| self.message(id, &merged))
                }
                (Some(raw), kind) => self.element(kind, raw),
            };
            printed.map_err(|e| e.at_field("value"))?;
        }
        self.out.push(b'}');
        Ok(())
    }

    fn absent_value(&mut self, kind: Kind) -> Result<()> {
        match kind {
            Kind::Message(id) => self.message(id, &[]),
            kind => {
                self.zero(kind);
                Ok(())
            }
        }
    }

    /// What an unset scalar reads as.
    fn zero(&mut self, kind: Kind) {
        match kind {
            Kind::Bool => self.out.extend_from_slice(b"false"),
            Kind::String | Kind::Bytes => self.out.extend_from_slice(b"\"\""),
            Kind::Int64 | Kind::Uint64 | Kind::Sint64 | Kind::Fixed64 | Kind::Sfixed64 => {
                self.out.extend_from_slice(b"\"0\"");
            }
            Kind::Enum(id) => scalar::write_enum(self.schema, id, self.schema.enumeration(id).first, self.out),
            Kind::Message(_) => self.out.extend_from_slice(b"null"),
            _ => self.out.push(b'0'),
        }
    }

    /// Prints the fields of this range, which are not on the wire, if they are to be printed always.
    fn unset(&mut self, m: &'s Message, from: usize, to: usize) {
        if !self.always_print {
            return;
        }
        for f in m.fields.get(from..to).unwrap_or_default() {
            if f.card == Card::Singular && f.presence {
                continue;
            }
            f.key.append(self.out);
            match f.card {
                Card::Singular => self.zero(f.kind),
                Card::Repeated => self.out.extend_from_slice(b"[]"),
                Card::Map => self.out.extend_from_slice(b"{}"),
            }
        }
    }

    /// Any order: index, then print field by field.
    fn indexed(&mut self, m: &'s Message, wire: &[u8]) -> Result<()> {
        let mut found: Vec<(u16, Raw<'_>)> = Vec::new();
        // Which member of each oneof is set, and since which occurrence.
        let mut members = vec![(u16::MAX, 0); m.oneofs.len()];
        let mut reader = Reader::new(wire);
        while let Some((number, wire_type)) = reader.tag()? {
            let raw = reader.value(number, wire_type)?;
            let Some(f) = m.by_number(number) else { continue };
            if let Some(set) = f.oneof.and_then(|o| members.get_mut(usize::from(o)))
                && set.0 != f.index
            {
                *set = (f.index, found.len());
            }
            found.push((f.index, raw));
        }
        let mut at = 0;
        found.retain(|(i, _)| {
            // A member that comes later clears the one before.
            let oneof = m.fields.get(usize::from(*i)).and_then(|f| members.get(usize::from(f.oneof?)));
            at += 1;
            oneof.is_none_or(|(set, since)| set == i && at > *since)
        });
        found.sort_by_key(|(i, _)| *i);
        let mut next = 0;
        for group in found.chunk_by(|a, b| a.0 == b.0) {
            let Some(f) = group.first().and_then(|(i, _)| m.fields.get(usize::from(*i))) else { continue };
            self.unset(m, next, usize::from(f.index));
            next = usize::from(f.index) + 1;
            self.group(f, group).map_err(|e| e.at_field(&f.json_name))?;
        }
        self.unset(m, next, m.fields.len());
        Ok(())
    }

    /// All occurrences of one field.
    fn group(&mut self, f: &'s Field, group: &[(u16, Raw<'_>)]) -> Result<()> {
        let Some((_, latest)) = group.last() else { return Ok(()) };
        match (f.card, f.kind) {
            (Card::Singular, Kind::Message(_)) if group.len() > 1 => {
                let merged = merge(group.iter().map(|(_, raw)| *raw))?;
                self.singular(f, Raw::Bytes(&merged))
            }
            (Card::Singular, _) => self.singular(f, *latest),
            (Card::Repeated, _) => {
                let (length, mut index) = (self.out.len(), 0);
                f.key.append(self.out);
                self.out.push(b'[');
                for (_, raw) in group {
                    self.elements(f, *raw, &mut index)?;
                }
                self.close_array(length, index);
                Ok(())
            }
            (Card::Map, _) => {
                let entries: Vec<_> = group.iter().map(|(_, raw)| *raw).collect();
                f.key.append(self.out);
                self.map_field(f, &entries)
            }
        }
    }

    /// One field of a message alone (`response_body`); what it reads as if it is unset.
    pub fn field(&mut self, f: &'s Field, wire: &[u8]) -> Result<()> {
        let group: Vec<_> = every(wire, f.number)?.into_iter().map(|raw| (f.index, raw)).collect();
        let start = self.out.len();
        self.group(f, &group).map_err(|e| e.at_field(&f.json_name))?;
        if self.out.len() > start {
            self.out.drain(start..start + f.key.len());
            return Ok(());
        }
        match f.card {
            Card::Singular => self.zero(f.kind),
            Card::Repeated => self.out.extend_from_slice(b"[]"),
            Card::Map => self.out.extend_from_slice(b"{}"),
        }
        Ok(())
    }
}

/// A map key in a form that compares as its value does, whatever way it was written.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Key<'a> {
    Text(&'a [u8]),
    Number(u64),
}

impl<'a> Key<'a> {
    fn new(kind: Kind, raw: Option<Raw<'a>>) -> Result<Self, Problem> {
        Ok(match (kind, raw) {
            (Kind::String, None) => Key::Text(&[]),
            (_, None) => Key::Number(0),
            (_, Some(Raw::Bytes(text))) => Key::Text(text),
            (Kind::Bool, Some(Raw::Varint(v))) => Key::Number(u64::from(v != 0)),
            (Kind::Int32 | Kind::Uint32 | Kind::Sint32, Some(Raw::Varint(v))) => Key::Number(u64::from(v as u32)),
            (_, Some(Raw::Varint(v) | Raw::Fixed64(v))) => Key::Number(v),
            (_, Some(Raw::Fixed32(v))) => Key::Number(u64::from(v)),
            (_, Some(Raw::Group(_))) => return Err(MISMATCH),
        })
    }

    fn raw(self, kind: Kind) -> Raw<'a> {
        match (self, kind.wire_type()) {
            (Key::Text(text), _) => Raw::Bytes(text),
            (Key::Number(v), 1) => Raw::Fixed64(v),
            (Key::Number(v), 5) => Raw::Fixed32(v as u32),
            (Key::Number(v), _) => Raw::Varint(v),
        }
    }
}

fn latest<'k, 'a>(found: &'k [(Key<'a>, Pair<'a>)]) -> HashMap<&'k Key<'a>, usize> {
    found.iter().enumerate().map(|(i, (key, _))| (key, i)).collect()
}

/// A map entry.
struct Pair<'a> {
    wire: &'a [u8],
    key: Option<Raw<'a>>,
    /// The last value, and whether there was one before it.
    value: Option<Raw<'a>>,
    more: bool,
}

/// The last occurrences of the fields 1 and 2.
#[inline]
fn pair(wire: &[u8]) -> Result<Pair<'_>> {
    let mut reader = Reader::new(wire);
    let mut pair = Pair { wire, key: None, value: None, more: false };
    while let Some((number, wire_type)) = reader.tag()? {
        let raw = reader.value(number, wire_type)?;
        match number {
            1 => pair.key = Some(raw),
            2 => pair.more = pair.value.replace(raw).is_some(),
            _ => {}
        }
    }
    Ok(pair)
}

/// Occurrences of a message merge, and that is what their concatenation reads as.
fn merge<'a>(occurrences: impl IntoIterator<Item = Raw<'a>>) -> Result<Vec<u8>> {
    let mut merged = Vec::new();
    for raw in occurrences {
        let (Raw::Bytes(wire) | Raw::Group(wire)) = raw else { return Err(MISMATCH.into()) };
        merged.extend_from_slice(wire);
    }
    Ok(merged)
}

/// The last occurrence of a field.
pub(crate) fn last(wire: &[u8], number: u32) -> Result<Option<Raw<'_>>, WireError> {
    let mut reader = Reader::new(wire);
    let mut found = None;
    while let Some((n, wire_type)) = reader.tag()? {
        let raw = reader.value(n, wire_type)?;
        if n == number {
            found = Some(raw);
        }
    }
    Ok(found)
}

pub(super) fn every(wire: &[u8], number: u32) -> Result<Vec<Raw<'_>>, WireError> {
    let mut reader = Reader::new(wire);
    let mut found = Vec::new();
    while let Some((n, wire_type)) = reader.tag()? {
        let raw = reader.value(n, wire_type)?;
        if n == number {
            found.push(raw);
        }
    }
    Ok(found)
}
