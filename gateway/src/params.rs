//! Path variables and query parameters (google/api/http.proto, "Rules for HTTP mapping"), written as protobuf.
//!
//! `a.b=1&a.c=2` writes field `a` twice; protobuf readers merge the occurrences of a message.

use std::borrow::Cow;
use std::collections::HashSet;

use percent_encoding::percent_decode;

use crate::codec::schema::{Card, Field, Kind, MessageId, PathError, Schema, Shape};
use crate::codec::wire::Writer;
use crate::codec::{Bound, CodecError, Problem, clip, scalar, write_well_known_text};

/// Writes one field, given by its path, from text.
pub(crate) fn write(
    schema: &Schema,
    root: MessageId,
    path: &[u16],
    text: &str,
    out: &mut Writer,
) -> Result<(), Problem> {
    let Some((first, rest)) = path.split_first() else { return Ok(()) };
    let Some(f) = schema.message(root).fields.get(usize::from(*first)) else { return Ok(()) };
    match f.kind {
        Kind::Message(id) => nest(f, out, |out| {
            if rest.is_empty() { write_message(schema, id, text, out) } else { write(schema, id, rest, text, out) }
        }),
        kind => {
            out.tag(f.number, kind.wire_type());
            scalar::write_text(schema, kind, text, out)
        }
    }
}

fn nest(f: &Field, out: &mut Writer, inner: impl FnOnce(&mut Writer) -> Result<(), Problem>) -> Result<(), Problem> {
    if f.group {
        out.tag(f.number, 3);
        inner(out)?;
        out.tag(f.number, 4);
    } else {
        out.tag(f.number, 2);
        let open = out.open();
        inner(out)?;
        out.close(open);
    }
    Ok(())
}

/// The inside of a well-known type that has a text form.
fn write_message(schema: &Schema, id: MessageId, text: &str, out: &mut Writer) -> Result<(), Problem> {
    let m = schema.message(id);
    match (m.shape, m.fields.first()) {
        (Shape::Wrapper, Some(f)) => {
            out.tag(f.number, f.kind.wire_type());
            scalar::write_text(schema, f.kind, text, out)
        }
        (shape, _) => write_well_known_text(shape, text, true, out),
    }
}

/// Decodes a path segment. A variable of several segments keeps `%2F`, so that its slashes stay what they were.
pub(crate) fn decode_path(raw: &str, multi: bool) -> Result<Cow<'_, str>, Problem> {
    if memchr::memchr(b'%', raw.as_bytes()).is_none() {
        return Ok(Cow::Borrowed(raw));
    }
    if !multi {
        return percent_decode(raw.as_bytes()).decode_utf8().map_err(|_| Problem::Utf8);
    }
    let mut bytes = Vec::with_capacity(raw.len());
    let mut rest = raw.as_bytes();
    while let Some((byte, tail)) = rest.split_first() {
        if rest.get(..3).is_some_and(|e| e.eq_ignore_ascii_case(b"%2F")) {
            bytes.extend_from_slice(rest.get(..3).unwrap_or_default());
            rest = rest.get(3..).unwrap_or_default();
        } else if let [b'%', high, low, ..] = rest
            && high.is_ascii_hexdigit()
            && low.is_ascii_hexdigit()
        {
            bytes.extend(percent_decode(&[b'%', *high, *low]));
            rest = rest.get(3..).unwrap_or_default();
        } else {
            bytes.push(*byte);
            rest = tail;
        }
    }
    String::from_utf8(bytes).map(Cow::Owned).map_err(|_| Problem::Utf8)
}

/// The query string of one request.
pub(crate) struct Query<'r> {
    pub schema: &'r Schema,
    pub root: MessageId,
    /// Fields that path or body set; `None` if the body holds all fields and no parameter is allowed.
    pub bound: Option<&'r Bound>,
    /// A field that a header has set, for which the parameter is ignored.
    pub overridden: Option<&'r [u16]>,
}

/// Which fields were there already.
#[derive(Default)]
pub(crate) struct Given {
    /// Fields that have a value, lists and maps too.
    fields: HashSet<Vec<u16>>,
    /// Messages of which some field has.
    parents: HashSet<Vec<u16>>,
    /// Maps and their keys, as they are on the wire: `1` and `1e0` are one.
    keys: HashSet<(Vec<u16>, Vec<u8>)>,
    /// The same as a tree: of a oneof only one member may be there.
    bound: Bound,
}

impl Given {
    /// Was the field set, or some of it?
    pub fn contains(&self, field: &[u16]) -> bool {
        self.fields.contains(field) || self.parents.contains(field)
    }

    /// Notes a field. False if it was there already, or a message that it is in, or something that is in it.
    fn insert(&mut self, field: &Field, path: &[u16]) -> bool {
        let parents = || (1..path.len()).filter_map(|depth| path.get(..depth));
        let free = !parents().any(|parent| self.fields.contains(parent)) && !self.parents.contains(path);
        self.parents.extend(parents().map(<[u16]>::to_vec));
        (self.fields.insert(path.to_vec()) || field.card != Card::Singular) && free
    }
}

impl Query<'_> {
    /// Tells what was there.
    pub fn write(&self, query: &str, out: &mut Writer) -> Result<Given, CodecError> {
        let mut given = Given::default();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let key = decode_form(key)?;
            decode_form(value)
                .map_err(CodecError::from)
                .and_then(|value| self.parameter(&key, &value, &mut given, out))
                .map_err(|e| e.at_field(&clip(&key)))?;
        }
        Ok(given)
    }

    /// One field, by the name and in the text form that a query has for it.
    pub fn parameter(&self, key: &str, value: &str, given: &mut Given, out: &mut Writer) -> Result<(), CodecError> {
        let bound = self.bound.ok_or(Problem::UnknownParameter)?;
        let (name, map_key) = match key.strip_suffix(']').and_then(|k| k.split_once('[')) {
            Some((name, map_key)) => (name, Some(map_key)),
            None => (key, None),
        };
        let path = self.schema.resolve(self.root, name).map_err(|error| match error {
            PathError::TooDeep => Problem::TooDeep,
            PathError::Unknown | PathError::NotMessage => Problem::UnknownParameter,
        })?;
        if self.overridden == Some(path.as_slice()) {
            return Ok(());
        }
        let field = self.schema.field(self.root, &path).ok_or(Problem::UnknownParameter)?;
        // A message that has a text form may be bound in part.
        if bound.touches(&path) {
            return Err(Problem::Bound.into());
        }
        for bound in [bound, &given.bound] {
            if let Some((f, _)) = bound.rival_on(self.schema, self.root, &path) {
                return Err(Problem::OneofConflict(clip(&f.json_name)).into());
            }
        }
        given.bound.insert(&path);
        match (field.card, map_key) {
            (Card::Map, Some(map_key)) => {
                let Kind::Message(entry) = field.kind else { return Err(Problem::UnknownParameter.into()) };
                let mut key = Writer::new(Vec::new());
                write(self.schema, entry, &[0], map_key, &mut key)?;
                given.insert(field, &path);
                if !given.keys.insert((path.clone(), key.finish())) {
                    return Err(Problem::Duplicate.into());
                }
                Ok(self.write_entry(&path, field, map_key, value, out)?)
            }
            (Card::Map, None) => Err(Problem::expected("name[key]=value", key).into()),
            (_, Some(_)) => Err(Problem::UnknownParameter.into()),
            _ if !crate::route::plan::is_text(self.schema, field) => Err(Problem::UnknownParameter.into()),
            _ if !given.insert(field, &path) => Err(Problem::Duplicate.into()),
            _ => Ok(write(self.schema, self.root, &path, value, out)?),
        }
    }

    /// `map[key]=value`, for maps of scalars.
    fn write_entry(&self, path: &[u16], f: &Field, key: &str, value: &str, out: &mut Writer) -> Result<(), Problem> {
        let Kind::Message(entry) = f.kind else { return Err(Problem::UnknownParameter) };
        match path.split_first() {
            Some((_, [])) => nest(f, out, |out| {
                write(self.schema, entry, &[0], key, out)?;
                write(self.schema, entry, &[1], value, out)
            }),
            Some((first, rest)) => {
                let parent = self.schema.message(self.root).fields.get(usize::from(*first));
                let Some(parent) = parent else { return Err(Problem::UnknownParameter) };
                let Kind::Message(root) = parent.kind else { return Err(Problem::UnknownParameter) };
                let inner = Query { schema: self.schema, root, bound: None, overridden: None };
                nest(parent, out, |out| inner.write_entry(rest, f, key, value, out))
            }
            None => Err(Problem::UnknownParameter),
        }
    }
}

/// application/x-www-form-urlencoded: `+` is a space.
pub(crate) fn decode_form(text: &str) -> Result<Cow<'_, str>, Problem> {
    if memchr::memchr2(b'%', b'+', text.as_bytes()).is_none() {
        return Ok(Cow::Borrowed(text));
    }
    let spaced = text.replace('+', " ");
    let decoded = percent_decode(spaced.as_bytes()).decode_utf8().map_err(|_| Problem::Utf8)?;
    Ok(Cow::Owned(decoded.into_owned()))
}
