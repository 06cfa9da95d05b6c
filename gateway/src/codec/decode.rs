//! JSON → wire, in one pass (protobuf.dev/programming-guides/json, parser side).

use std::collections::HashSet;

use super::error::{CodecError, Problem, Result};
use super::lex::Lexer;
use super::scalar;
use super::schema::{Card, Field, Kind, Message, MessageId, Schema, Shape};
use super::wire::Writer;

/// Fields that something else (the path) sets, as a tree: a body must not set them again.
#[derive(Debug, Default)]
pub(crate) struct Bound(Vec<(u16, Bound)>);

impl Bound {
    pub const NONE: &'static Bound = &Bound(Vec::new());

    pub fn insert(&mut self, path: &[u16]) {
        if let Some((first, rest)) = path.split_first() {
            let at = match self.0.iter().position(|(f, _)| f == first) {
                Some(at) => at,
                None => {
                    self.0.push((*first, Bound::default()));
                    self.0.len() - 1
                }
            };
            if let Some((_, inner)) = self.0.get_mut(at) {
                inner.insert(rest);
            }
        }
    }

    /// The field as a whole, whatever of it was bound before.
    pub fn close(&mut self, field: u16) {
        self.0.retain(|(f, _)| *f != field);
        self.0.push((field, Bound::default()));
    }

    pub fn get(&self, field: u16) -> Option<&Bound> {
        self.0.iter().find(|(f, _)| *f == field).map(|(_, inner)| inner)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Is the field, or a message that holds it, in the tree?
    pub fn covers(&self, path: &[u16]) -> bool {
        self.at(path).is_some_and(Bound::is_empty)
    }

    /// The same, or something that is in the field?
    pub fn touches(&self, path: &[u16]) -> bool {
        self.at(path).is_some()
    }

    /// What is bound in the field; empty if the whole of it is.
    fn at(&self, path: &[u16]) -> Option<&Bound> {
        let mut at = self;
        for step in path {
            at = at.get(*step)?;
            if at.is_empty() {
                break;
            }
        }
        Some(at)
    }

    /// Another member of this field's oneof that is bound.
    pub fn rival(&self, m: &Message, f: &Field) -> Option<u16> {
        f.oneof?;
        let oneof = |i: u16| m.fields.get(usize::from(i)).and_then(|f| f.oneof);
        self.0.iter().map(|(i, _)| *i).find(|i| *i != f.index && oneof(*i) == f.oneof)
    }

    /// The same for every step of a path: the first one that has a rival, and the path of that.
    pub fn rival_on<'s>(&self, schema: &'s Schema, root: MessageId, path: &[u16]) -> Option<(&'s Field, Vec<u16>)> {
        let (mut message, mut bound) = (schema.message(root), self);
        for (depth, step) in path.iter().enumerate() {
            let f = message.fields.get(usize::from(*step))?;
            if let Some(rival) = bound.rival(message, f) {
                return Some((f, [path.get(..depth)?, &[rival]].concat()));
            }
            let Kind::Message(id) = f.kind else { return None };
            (message, bound) = (schema.message(id), bound.get(*step)?);
        }
        None
    }
}

/// Which members of an object were there already: a bit per field, then a bit per oneof.
struct Seen {
    first: u64,
    /// For messages of more than 64: those after the first.
    more: Vec<u64>,
}

impl Seen {
    #[inline]
    fn new(m: &Message) -> Self {
        let words = (m.fields.len() + m.oneofs.len()).div_ceil(64);
        Self { first: 0, more: if words > 1 { vec![0; words - 1] } else { Vec::new() } }
    }

    /// False if it was there already.
    #[inline]
    fn insert(&mut self, bit: usize) -> bool {
        let word = match bit / 64 {
            0 => &mut self.first,
            n => match self.more.get_mut(n - 1) {
                Some(word) => word,
                None => return false,
            },
        };
        let mask = 1 << (bit % 64);
        let new = *word & mask == 0;
        *word |= mask;
        new
    }
}

pub(crate) struct Decoder<'s, 'a, 'w> {
    pub schema: &'s Schema,
    pub lex: Lexer<'a>,
    pub out: &'w mut Writer,
    pub ignore_unknown: bool,
    /// How many bytes may still be read twice in search of an `@type` that does not come first. Otherwise each level of
    /// a hostile nesting would read everything inside it once more.
    pub ahead: usize,
}

impl<'s> Decoder<'s, '_, '_> {
    /// A message of any shape (without tag and length).
    pub fn message(&mut self, id: MessageId, bound: &Bound) -> Result<()> {
        let m = self.schema.message(id);
        match (m.shape, m.fields.as_slice()) {
            (Shape::Plain, _) => self.object(m, bound, false),
            (Shape::Any, _) => self.any(),
            (Shape::Value, _) => self.value(m),
            (Shape::Wrapper, [f, ..]) => {
                self.out.tag(f.number, f.kind.wire_type());
                self.scalar(f.kind)
            }
            (Shape::Struct, [fields, ..]) => self.map(fields),
            (Shape::ListValue, [values, ..]) => {
                self.lex.enter()?;
                self.repeated(values)?;
                self.lex.leave();
                Ok(())
            }
            (shape, _) => {
                if self.lex.peek() != b'"' {
                    return self.lex.unexpected("string");
                }
                let text = self.lex.string()?;
                Ok(write_well_known_text(shape, &text, false, self.out)?)
            }
        }
    }

    /// `any`: this object is the inside of an `Any`, whose `@type` has been read already.
    fn object(&mut self, m: &'s Message, bound: &Bound, any: bool) -> Result<()> {
        if self.lex.peek() != b'{' {
            return self.lex.unexpected("object");
        }
        self.lex.open_object()?;
        let (mut first, mut next, mut typed) = (true, 0, false);
        let mut seen = Seen::new(m);
        while self.lex.next_member(&mut first)? {
            // Members mostly come in the order of the fields.
            let f = match m.fields.get(next) {
                Some(f) if !any && self.lex.peek() == b'"' && self.lex.take_key(&f.key) => f,
                _ => {
                    let key = self.lex.key()?;
                    if any && key == "@type" {
                        self.again(&mut typed)?;
                        continue;
                    }
                    match m.by_name(&key) {
                        Some(f) => f,
                        None if self.ignore_unknown => {
                            self.lex.skip_value()?;
                            continue;
                        }
                        None => return Err(CodecError::from(Problem::UnknownField).at_field(&key)),
                    }
                }
            };
            next = usize::from(f.index) + 1;
            self.member(m, f, bound, &mut seen).map_err(|e| e.at_field(&f.json_name))?;
        }
        Ok(())
    }

    fn member(&mut self, m: &'s Message, f: &'s Field, bound: &Bound, seen: &mut Seen) -> Result<()> {
        if !seen.insert(usize::from(f.index)) {
            return Err(Problem::Duplicate.into());
        }
        let inner = match bound.get(f.index) {
            Some(inner) if inner.is_empty() => return Err(Problem::Bound.into()),
            inner => inner.unwrap_or(Bound::NONE),
        };
        if self.field(f, inner)?
            && let Some(oneof) = f.oneof
            && (!seen.insert(m.fields.len() + usize::from(oneof)) || bound.rival(m, f).is_some())
        {
            let name = m.oneofs.get(usize::from(oneof)).map(|n| n.to_string()).unwrap_or_default();
            return Err(Problem::OneofConflict(name).into());
        }
        Ok(())
    }

    /// A field with its tag. False if it stays unset: it was `null`, or an unknown enum value that is ignored.
    pub fn field(&mut self, f: &'s Field, bound: &Bound) -> Result<bool> {
        if self.lex.peek() == b'n' && !(f.card == Card::Singular && self.takes_null(f.kind)) {
            return if self.lex.literal("null") { Ok(false) } else { self.lex.syntax("a value") };
        }
        match f.card {
            Card::Singular if self.skip_unknown_enum(f.kind)? => return Ok(false),
            Card::Singular => self.element(f, bound)?,
            Card::Repeated => self.repeated(f)?,
            Card::Map => self.map(f)?,
        }
        Ok(true)
    }

    /// Steps over the name of no enum value where such names are ignored as unknown fields are.
    fn skip_unknown_enum(&mut self, kind: Kind) -> Result<bool> {
        let Kind::Enum(id) = kind else { return Ok(false) };
        if !self.ignore_unknown || self.lex.peek() != b'"' {
            return Ok(false);
        }
        let start = self.lex.mark();
        let known = self.schema.enumeration(id).number(&self.lex.string()?).is_some();
        if known {
            self.lex.rewind(start);
        }
        Ok(!known)
    }

    fn takes_null(&self, kind: Kind) -> bool {
        match kind {
            Kind::Enum(id) => self.schema.enumeration(id).null,
            Kind::Message(id) => self.schema.message(id).shape == Shape::Value,
            _ => false,
        }
    }

    /// One value of the field, tagged.
    fn element(&mut self, f: &'s Field, bound: &Bound) -> Result<()> {
        match f.kind {
            Kind::Message(id) if f.group => {
                self.out.tag(f.number, 3);
                self.message(id, bound)?;
                self.out.tag(f.number, 4);
            }
            Kind::Message(id) => {
                self.out.tag(f.number, 2);
                let open = self.out.open();
                self.message(id, bound)?;
                self.out.close(open);
            }
            kind => {
                self.out.tag(f.number, kind.wire_type());
                self.scalar(kind)?;
            }
        }
        Ok(())
    }

    fn repeated(&mut self, f: &'s Field) -> Result<()> {
        if self.lex.peek() != b'[' {
            return self.lex.unexpected("array");
        }
        self.lex.open_array()?;
        let (mut first, mut index) = (true, 0);
        let mut packed = None;
        while self.lex.next_element(&mut first)? {
            if self.lex.peek() == b'n' && !self.takes_null(f.kind) {
                return self.lex.unexpected(f.kind.name()).map_err(|e| e.at_index(index));
            }
            if self.skip_unknown_enum(f.kind).map_err(|e| e.at_index(index))? {
                continue;
            }
            if f.packed && packed.is_none() {
                self.out.tag(f.number, 2);
                packed = Some(self.out.open());
            }
            let result = if f.packed { self.scalar(f.kind) } else { self.element(f, Bound::NONE) };
            result.map_err(|e| e.at_index(index))?;
            index += 1;
        }
        if let Some(open) = packed {
            self.out.close(open);
        }
        Ok(())
    }

    fn map(&mut self, f: &'s Field) -> Result<()> {
        let Kind::Message(entry) = f.kind else { return Err(scalar::MISMATCH.into()) };
        let entry = self.schema.message(entry);
        let (Some(key_field), Some(value_field)) = (entry.by_number(1), entry.by_number(2)) else {
            return Err(scalar::MISMATCH.into());
        };
        if self.lex.peek() != b'{' {
            return self.lex.unexpected("object");
        }
        self.lex.open_object()?;
        let mut first = true;
        let mut seen: HashSet<Box<[u8]>> = HashSet::new();
        while let Some(key) = self.lex.next_key(&mut first)? {
            let entry_start = self.out.buf.len();
            self.out.tag(f.number, 2);
            let open = self.out.open();
            self.out.tag(1, key_field.kind.wire_type());
            let start = self.out.buf.len();
            scalar::write_text(self.schema, key_field.kind, &key, self.out)
                .map_err(|p| CodecError::from(p).at_key(&key))?;
            // Compared as written: "1" and "1e0" are one key.
            if !seen.insert(self.out.buf.get(start..).unwrap_or_default().into()) {
                return Err(CodecError::from(Problem::Duplicate).at_key(&key));
            }
            if self.skip_unknown_enum(value_field.kind).map_err(|e| e.at_key(&key))? {
                // Nothing that was written since has a length to be put in place.
                self.out.buf.truncate(entry_start);
                continue;
            }
            self.map_value(value_field).map_err(|e| e.at_key(&key))?;
            self.out.close(open);
        }
        Ok(())
    }

    fn map_value(&mut self, f: &'s Field) -> Result<()> {
        if self.lex.peek() == b'n' && !self.takes_null(f.kind) {
            return self.lex.unexpected(f.kind.name());
        }
        self.element(f, Bound::NONE)
    }

    fn scalar(&mut self, kind: Kind) -> Result<()> {
        let byte = self.lex.peek();
        if kind.is_integer()
            && let Some((value, end)) = self.lex.short_integer()
            && scalar::put_integer(kind, i128::from(value), self.out)
        {
            self.lex.skip_to(end);
            return Ok(());
        }
        match (kind, byte) {
            (Kind::String, b'"') => match self.lex.plain_string() {
                Some(text) => self.out.bytes(text.as_bytes()),
                None => self.out.bytes(self.lex.string()?.as_bytes()),
            },
            (Kind::Bytes, b'"') => scalar::write_base64(&self.lex.string()?, self.out)?,
            (Kind::Enum(id), b'"') => scalar::write_enum_name(self.schema, id, &self.lex.string()?, self.out)?,
            (Kind::Enum(id), b'n') if self.schema.enumeration(id).null && self.lex.literal("null") => {
                self.out.varint(0);
            }
            (Kind::Bool, b't') if self.lex.literal("true") => self.out.varint(1),
            (Kind::Bool, b'f') if self.lex.literal("false") => self.out.varint(0),
            (Kind::String | Kind::Bytes | Kind::Bool | Kind::Message(_), _) => {
                return self.lex.unexpected(kind.name());
            }
            (_, b'"') => scalar::write_number(kind, &self.lex.string()?, true, self.out)?,
            (_, b'-' | b'0'..=b'9') => scalar::write_number(kind, self.lex.number()?, false, self.out)?,
            _ => return self.lex.unexpected(kind.name()),
        }
        Ok(())
    }

    /// `google.protobuf.Value`: any JSON.
    fn value(&mut self, m: &'s Message) -> Result<()> {
        let number = match self.lex.peek() {
            b'n' => 1,
            b'-' | b'0'..=b'9' => 2,
            b'"' => 3,
            b't' | b'f' => 4,
            b'{' => 5,
            b'[' => 6,
            _ => return self.lex.syntax("a value"),
        };
        match m.by_number(number) {
            Some(f) => self.element(f, Bound::NONE),
            None => Err(scalar::MISMATCH.into()),
        }
    }

    /// `google.protobuf.Any`: `@type` may stand anywhere in the object, and decides what the rest means.
    fn any(&mut self) -> Result<()> {
        if self.lex.peek() != b'{' {
            return self.lex.unexpected("object");
        }
        let start = self.lex.mark();
        let Some(url) = self.any_type()? else { return Ok(()) };
        let read_ahead = self.lex.mark().0 - start.0;
        self.ahead = self.ahead.checked_sub(read_ahead).ok_or(Problem::TooDeep)?;
        self.lex.rewind(start);
        let name = url.rsplit_once('/').map(|(_, name)| name);
        let Some(id) = name.and_then(|name| self.schema.id(name)) else {
            return Err(Problem::UnknownType(super::error::clip(&url)).into());
        };
        self.out.tag(1, 2);
        self.out.bytes(url.as_bytes());
        self.out.tag(2, 2);
        let open = self.out.open();
        let m = self.schema.message(id);
        if m.shape == Shape::Plain {
            self.object(m, Bound::NONE, true)?
        } else {
            self.any_value(id)?
        }
        self.out.close(open);
        Ok(())
    }

    /// The `@type`; `None` for an empty object, which is an empty `Any`.
    fn any_type(&mut self) -> Result<Option<String>> {
        self.lex.open_object()?;
        let mut first = true;
        while let Some(key) = self.lex.next_key(&mut first)? {
            if key == "@type" {
                return self.lex.string().map(|url| Some(url.into_owned()));
            }
            self.lex.skip_value()?;
        }
        if first { Ok(None) } else { Err(Problem::expected("\"@type\"", "no such key").into()) }
    }

    /// A well-known type inside an `Any` stands under `value`.
    fn any_value(&mut self, id: MessageId) -> Result<()> {
        self.lex.open_object()?;
        let (mut first, mut typed, mut valued) = (true, false, false);
        while let Some(key) = self.lex.next_key(&mut first)? {
            match &*key {
                "@type" => self.again(&mut typed)?,
                "value" if valued => return Err(Problem::Duplicate.into()),
                "value" => {
                    valued = true;
                    self.message(id, Bound::NONE).map_err(|e| e.at_field("value"))?;
                }
                _ if self.ignore_unknown => self.lex.skip_value()?,
                _ => return Err(CodecError::from(Problem::UnknownField).at_field(&key)),
            }
        }
        if valued { Ok(()) } else { Err(Problem::expected("\"value\"", "no such key").into()) }
    }

    /// Steps over an `@type` that has been read already; there must be only one.
    fn again(&mut self, typed: &mut bool) -> Result<()> {
        if std::mem::replace(typed, true) {
            return Err(CodecError::from(Problem::Duplicate).at_field("@type"));
        }
        self.lex.string().map(drop)
    }
}

/// The well-known types whose JSON is a string: from JSON, or (`url`) from a path variable or a query parameter.
pub(crate) fn write_well_known_text(shape: Shape, text: &str, url: bool, out: &mut Writer) -> Result<(), Problem> {
    let (seconds, nanos) = match shape {
        Shape::Timestamp => super::time::parse_timestamp(text)?,
        Shape::Duration => super::time::parse_duration(text)?,
        Shape::FieldMask => return super::mask::parse(text, url, out),
        _ => return Err(Problem::expected("object", text)),
    };
    if seconds != 0 {
        out.tag(1, 0);
        out.varint(seconds as u64);
    }
    if nanos != 0 {
        out.tag(2, 0);
        out.varint(i64::from(nanos) as u64);
    }
    Ok(())
}
