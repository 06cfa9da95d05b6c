//! Per-message field tables, built once from the descriptors.
//!
//! Descriptors answer every question the codec has, but by hashing names and following handles. These tables hold the
//! same answers laid out for the two hot loops: field number → field (wire to JSON) and JSON key → field (JSON to wire).

use std::collections::HashMap;

use prost_reflect::{
    Cardinality, DescriptorPool, EnumDescriptor, ExtensionDescriptor, FieldDescriptor, Kind as Reflected,
    MessageDescriptor,
};

use super::append::{MemberKey, short_word};
use super::wire::MAX_DEPTH;

/// Field numbers up to this are looked up by indexing, larger ones by binary search.
const DENSE: usize = 256;
const NONE: u16 = u16::MAX;

/// Index of a message in the schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MessageId(pub(crate) u32);

/// Index of an enum in the schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EnumId(u32);

/// Every message and enum of a descriptor pool.
pub(crate) struct Schema {
    messages: Vec<Message>,
    enums: Vec<Enum>,
    by_name: HashMap<Box<str>, MessageId>,
}

/// Which JSON form a message has; everything but `Plain` is a well-known type with a form of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    Plain,
    Timestamp,
    Duration,
    FieldMask,
    Struct,
    Value,
    ListValue,
    Any,
    Wrapper,
}

pub(crate) struct Message {
    pub shape: Shape,
    /// In order of field number: the order in which canonical encoders write and in which JSON is printed.
    pub fields: Vec<Field>,
    /// Names of the real (not synthetic) oneofs.
    pub oneofs: Vec<Box<str>>,
    dense: Vec<u16>,
    names: Names<u16>,
}

/// Names → what they stand for: open addressing, a power of two of slots of which at most half are taken.
struct Names<T> {
    slots: Vec<Option<(Box<str>, T)>>,
}

impl<T: Copy> Names<T> {
    fn new(names: Vec<(Box<str>, T)>) -> Self {
        let mut slots: Vec<_> = (0..(names.len() * 2).next_power_of_two()).map(|_| None).collect();
        for (name, value) in names {
            let mut at = Self::hash(&name) & (slots.len() - 1);
            while slots[at].as_ref().is_some_and(|(taken, _)| *taken != name) {
                at = (at + 1) & (slots.len() - 1);
            }
            // JSON names come first: one that is also the proto name of another field means the field that it is.
            slots[at].get_or_insert((name, value));
        }
        Self { slots }
    }

    /// Of the length and both ends: names seldom differ in the middle only.
    #[inline]
    fn hash(name: &str) -> usize {
        let bytes = name.as_bytes();
        let ends = match (bytes.first_chunk(), bytes.last_chunk()) {
            (Some(head), Some(tail)) => u64::from_le_bytes(*head) ^ u64::from_le_bytes(*tail).rotate_left(25),
            _ => short_word(bytes),
        };
        ((ends ^ bytes.len() as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as usize
    }

    #[inline]
    fn get(&self, name: &str) -> Option<T> {
        let mask = self.slots.len().wrapping_sub(1);
        let mut at = Self::hash(name) & mask;
        loop {
            match self.slots.get(at)? {
                Some((found, value)) if **found == *name => return Some(*value),
                Some(_) => at = (at + 1) & mask,
                None => return None,
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Card {
    Singular,
    Repeated,
    Map,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Double,
    Float,
    Int32,
    Int64,
    Uint32,
    Uint64,
    Sint32,
    Sint64,
    Fixed32,
    Fixed64,
    Sfixed32,
    Sfixed64,
    Bool,
    String,
    Bytes,
    Enum(EnumId),
    Message(MessageId),
}

pub(crate) struct Field {
    pub number: u32,
    pub index: u16,
    pub name: Box<str>,
    pub json_name: Box<str>,
    /// `,"jsonName":` (or the proto name, if that is wanted), ready to be copied.
    pub key: MemberKey,
    pub kind: Kind,
    pub card: Card,
    /// Unset and zero differ (`optional`, oneof member, message, proto2).
    pub presence: bool,
    pub packed: bool,
    /// Written between start and end group tags (proto2 groups, `DELIMITED` of editions).
    pub group: bool,
    /// Index into `Message::oneofs`.
    pub oneof: Option<u16>,
}

pub(crate) struct Enum {
    pub name: Box<str>,
    /// Aliases included.
    names: Names<i32>,
    /// Sorted by number; the first declared name of each.
    numbers: Vec<(i32, Box<str>)>,
    /// What proto3 calls the default: the first value.
    pub first: i32,
    /// `google.protobuf.NullValue`, whose JSON is `null`.
    pub null: bool,
    /// Print the number, whatever its name.
    numeric: bool,
}

impl Schema {
    pub fn new(pool: &DescriptorPool) -> Self {
        let mut ids = Ids { messages: HashMap::new(), enums: HashMap::new() };
        for (i, m) in pool.all_messages().enumerate() {
            ids.messages.insert(m.full_name().into(), MessageId(i as u32));
        }
        for (i, e) in pool.all_enums().enumerate() {
            ids.enums.insert(e.full_name().into(), EnumId(i as u32));
        }
        let messages = pool.all_messages().map(|m| Message::new(&m, &ids)).collect();
        let enums = pool.all_enums().map(|e| Enum::new(&e)).collect();
        Self { messages, enums, by_name: ids.messages }
    }

    /// Which names members are printed with.
    pub fn print_proto_names(&mut self, on: bool) {
        for f in self.messages.iter_mut().flat_map(|m| &mut m.fields) {
            f.key = member_key(if on { &f.name } else { &f.json_name });
        }
    }

    /// Whether enum values are printed as numbers.
    pub fn print_enum_numbers(&mut self, on: bool) {
        for e in &mut self.enums {
            e.numeric = on;
        }
    }

    pub fn id(&self, full_name: &str) -> Option<MessageId> {
        self.by_name.get(full_name).copied()
    }

    // Ids come only from `new`, of this same schema, so they are always in range.
    #[inline]
    pub fn message(&self, id: MessageId) -> &Message {
        &self.messages[id.0 as usize]
    }

    #[inline]
    pub fn enumeration(&self, id: EnumId) -> &Enum {
        &self.enums[id.0 as usize]
    }

    /// Follows a dotted path of proto or JSON names; every step but the last must be a singular message. Nothing nests
    /// deeper than a message may.
    pub fn resolve(&self, root: MessageId, path: &str) -> Result<Vec<u16>, PathError> {
        let mut indices = Vec::new();
        let mut at = Some(root);
        for part in path.split('.') {
            if indices.len() == MAX_DEPTH as usize {
                return Err(PathError::TooDeep);
            }
            let message = self.message(at.ok_or(PathError::NotMessage)?);
            let field = message.by_name(part).ok_or(PathError::Unknown)?;
            indices.push(field.index);
            at = match (field.card, field.kind) {
                (Card::Singular, Kind::Message(id)) => Some(id),
                _ => None,
            };
        }
        Ok(indices)
    }

    /// The last field of a path made by [`Schema::resolve`] for the same root.
    pub fn field(&self, root: MessageId, path: &[u16]) -> Option<&Field> {
        let (last, parents) = path.split_last()?;
        let mut message = self.message(root);
        for step in parents {
            match message.fields.get(usize::from(*step))?.kind {
                Kind::Message(id) => message = self.message(id),
                _ => return None,
            }
        }
        message.fields.get(usize::from(*last))
    }
}

/// Why a dotted field path does not name a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PathError {
    Unknown,
    NotMessage,
    TooDeep,
}

struct Ids {
    messages: HashMap<Box<str>, MessageId>,
    enums: HashMap<Box<str>, EnumId>,
}

impl Message {
    fn new(m: &MessageDescriptor, ids: &Ids) -> Self {
        let real: Vec<_> = m.oneofs().filter(|o| !o.is_synthetic()).collect();
        let mut fields: Vec<Field> = m
            .fields()
            .map(|f| {
                let oneof = f.containing_oneof().and_then(|o| real.iter().position(|r| r.name() == o.name()));
                Field::new(&Described::Field(f), oneof, ids)
            })
            .chain(m.extensions().map(|x| Field::new(&Described::Extension(x), None, ids)))
            .collect();
        fields.sort_by_key(|f| f.number);
        let mut dense = Vec::new();
        for (i, f) in fields.iter_mut().enumerate() {
            f.index = i as u16;
            let number = f.number as usize;
            if number < DENSE {
                dense.resize(dense.len().max(number + 1), NONE);
                dense[number] = f.index;
            }
        }
        let json_names = fields.iter().map(|f| (f.json_name.clone(), f.index));
        let names = json_names.chain(fields.iter().map(|f| (f.name.clone(), f.index))).collect();
        Self {
            shape: Shape::of(m.full_name()),
            oneofs: real.iter().map(|o| o.name().into()).collect(),
            fields,
            dense,
            names: Names::new(names),
        }
    }

    #[inline]
    pub fn by_number(&self, number: u32) -> Option<&Field> {
        let n = number as usize;
        if n < DENSE {
            return self.dense.get(n).and_then(|i| self.fields.get(usize::from(*i)));
        }
        let i = self.fields.binary_search_by_key(&number, |f| f.number).ok()?;
        self.fields.get(i)
    }

    /// Finds a field by JSON or proto name.
    #[inline]
    pub fn by_name(&self, name: &str) -> Option<&Field> {
        self.fields.get(usize::from(self.names.get(name)?))
    }
}

impl Shape {
    fn of(full_name: &str) -> Self {
        match full_name.strip_prefix("google.protobuf.") {
            Some("Timestamp") => Shape::Timestamp,
            Some("Duration") => Shape::Duration,
            Some("FieldMask") => Shape::FieldMask,
            Some("Struct") => Shape::Struct,
            Some("Value") => Shape::Value,
            Some("ListValue") => Shape::ListValue,
            Some("Any") => Shape::Any,
            Some(
                "DoubleValue" | "FloatValue" | "Int64Value" | "UInt64Value" | "Int32Value" | "UInt32Value"
                | "BoolValue" | "StringValue" | "BytesValue",
            ) => Shape::Wrapper,
            _ => Shape::Plain,
        }
    }
}

/// Fields and extensions have the same questions but no common trait.
enum Described {
    Field(FieldDescriptor),
    Extension(ExtensionDescriptor),
}

macro_rules! either {
    ($on:expr, $d:ident => $e:expr) => {
        match $on {
            Described::Field($d) => $e,
            Described::Extension($d) => $e,
        }
    };
}

impl Field {
    fn new(d: &Described, oneof: Option<usize>, ids: &Ids) -> Self {
        let (name, json_name): (Box<str>, Box<str>) = match d {
            Described::Field(f) => (f.name().into(), f.json_name().into()),
            // ProtoJSON names an extension by its full name in brackets.
            Described::Extension(x) => (format!("[{}]", x.full_name()).into(), format!("[{}]", x.full_name()).into()),
        };
        let is_map = either!(d, d => d.is_map());
        let repeated = either!(d, d => d.cardinality() == Cardinality::Repeated);
        Self {
            number: either!(d, d => d.number()),
            index: 0,
            key: member_key(&json_name),
            name,
            json_name,
            kind: Kind::new(&either!(d, d => d.kind()), ids),
            card: match (is_map, repeated) {
                (true, _) => Card::Map,
                (_, true) => Card::Repeated,
                _ => Card::Singular,
            },
            presence: either!(d, d => d.supports_presence()),
            packed: either!(d, d => d.is_packed()),
            group: either!(d, d => d.is_group()),
            oneof: oneof.map(|i| i as u16),
        }
    }
}

/// A `json_name` option may hold anything, quotes too.
fn member_key(name: &str) -> MemberKey {
    let mut key = vec![b','];
    super::scalar::write_string(&mut key, name);
    key.push(b':');
    MemberKey::new(&String::from_utf8_lossy(&key))
}

impl Kind {
    fn new(kind: &Reflected, ids: &Ids) -> Self {
        match kind {
            Reflected::Double => Kind::Double,
            Reflected::Float => Kind::Float,
            Reflected::Int32 => Kind::Int32,
            Reflected::Int64 => Kind::Int64,
            Reflected::Uint32 => Kind::Uint32,
            Reflected::Uint64 => Kind::Uint64,
            Reflected::Sint32 => Kind::Sint32,
            Reflected::Sint64 => Kind::Sint64,
            Reflected::Fixed32 => Kind::Fixed32,
            Reflected::Fixed64 => Kind::Fixed64,
            Reflected::Sfixed32 => Kind::Sfixed32,
            Reflected::Sfixed64 => Kind::Sfixed64,
            Reflected::Bool => Kind::Bool,
            Reflected::String => Kind::String,
            Reflected::Bytes => Kind::Bytes,
            // The pool has resolved every type, so both maps hold it.
            Reflected::Message(m) => Kind::Message(ids.messages[m.full_name()]),
            Reflected::Enum(e) => Kind::Enum(ids.enums[e.full_name()]),
        }
    }

    /// Wire type of one element.
    #[inline]
    pub fn wire_type(self) -> u8 {
        match self {
            Kind::Double | Kind::Fixed64 | Kind::Sfixed64 => 1,
            Kind::String | Kind::Bytes | Kind::Message(_) => 2,
            Kind::Float | Kind::Fixed32 | Kind::Sfixed32 => 5,
            _ => 0,
        }
    }

    #[inline]
    pub fn is_integer(self) -> bool {
        use Kind::*;
        matches!(self, Int32 | Int64 | Uint32 | Uint64 | Sint32 | Sint64 | Fixed32 | Fixed64 | Sfixed32 | Sfixed64)
    }

    /// The name in error messages, as in a `.proto` file.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Double => "double",
            Kind::Float => "float",
            Kind::Int32 => "int32",
            Kind::Int64 => "int64",
            Kind::Uint32 => "uint32",
            Kind::Uint64 => "uint64",
            Kind::Sint32 => "sint32",
            Kind::Sint64 => "sint64",
            Kind::Fixed32 => "fixed32",
            Kind::Fixed64 => "fixed64",
            Kind::Sfixed32 => "sfixed32",
            Kind::Sfixed64 => "sfixed64",
            Kind::Bool => "bool",
            Kind::String => "string",
            Kind::Bytes => "base64 bytes",
            Kind::Enum(_) => "enum value",
            Kind::Message(_) => "object",
        }
    }
}

impl Enum {
    fn new(e: &EnumDescriptor) -> Self {
        let names = Names::new(e.values().map(|v| (v.name().into(), v.number())).collect());
        // The protobuf declares values in order; a stable sort keeps the first declared name of an alias in front.
        let declared = &e.enum_descriptor_proto().value;
        let mut numbers: Vec<(i32, Box<str>)> = declared.iter().map(|v| (v.number(), v.name().into())).collect();
        let first = numbers.first().map_or(0, |(n, _)| *n);
        numbers.sort_by_key(|(n, _)| *n);
        numbers.dedup_by_key(|(n, _)| *n);
        let null = e.full_name() == "google.protobuf.NullValue";
        Self { name: e.full_name().into(), names, numbers, first, null, numeric: false }
    }

    pub fn number(&self, name: &str) -> Option<i32> {
        self.names.get(name)
    }

    /// The name to print; `None` if the number is printed.
    #[inline]
    pub fn value_name(&self, number: i32) -> Option<&str> {
        if self.numeric {
            return None;
        }
        // Most enums count from zero without gaps.
        if let Some((n, name)) = self.numbers.get(number as usize)
            && *n == number
        {
            return Some(name);
        }
        let i = self.numbers.binary_search_by_key(&number, |(n, _)| *n).ok()?;
        self.numbers.get(i).map(|(_, n)| &**n)
    }
}
