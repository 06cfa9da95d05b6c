//! Descriptors of protobuf editions (<https://protobuf.dev/editions/features>), put into the terms of proto2 and proto3,
//! which are all that prost-reflect knows. Everything that decides about wire and JSON can be said in them: presence is
//! `optional`, `DELIMITED` is a group, `EXPANDED` is `packed = false`. What decides about neither is left out: enums are
//! open (unknown numbers are kept, as prost does), JSON must be UTF-8 anyway, and `json_format` is a matter of compilers.

use std::borrow::Cow;

use prost_reflect::DescriptorPool;

use crate::builder::BuildError;
use crate::codec::WireError;
use crate::codec::wire::{Raw, Reader, Writer};

/// The descriptors of an encoded `FileDescriptorSet`, with files of proto2, proto3 and the editions 2023 and 2024.
pub fn descriptor_pool(descriptor_set: &[u8]) -> Result<DescriptorPool, BuildError> {
    let lowered = match set(descriptor_set) {
        Ok(lowered) => Cow::Owned(lowered),
        Err(Fault::Edition { file, problem }) => return Err(BuildError::Edition { file, problem }),
        // Says better what is wrong.
        Err(Fault::Wire) => Cow::Borrowed(descriptor_set),
    };
    Ok(DescriptorPool::decode(&*lowered)?)
}

enum Fault {
    Wire,
    Edition { file: String, problem: &'static str },
}

impl From<WireError> for Fault {
    fn from(_: WireError) -> Self {
        Fault::Wire
    }
}

type Result<T, E = Fault> = std::result::Result<T, E>;

/// Every field of a message: number, and value.
fn fields(wire: &[u8]) -> impl Iterator<Item = Result<(u32, Raw<'_>), WireError>> {
    let mut reader = Reader::new(wire);
    std::iter::from_fn(move || {
        let next = reader.tag().transpose()?;
        Some(next.and_then(|(number, wire_type)| Ok((number, reader.value(number, wire_type)?))))
    })
}

fn copy(out: &mut Writer, number: u32, value: Raw<'_>) {
    match value {
        Raw::Varint(v) => {
            out.tag(number, 0);
            out.varint(v);
        }
        Raw::Fixed64(v) => {
            out.tag(number, 1);
            out.buf.extend_from_slice(&v.to_le_bytes());
        }
        Raw::Fixed32(v) => {
            out.tag(number, 5);
            out.buf.extend_from_slice(&v.to_le_bytes());
        }
        Raw::Bytes(v) => bytes(out, number, v),
        Raw::Group(v) => {
            out.tag(number, 3);
            out.buf.extend_from_slice(v);
            out.tag(number, 4);
        }
    }
}

fn bytes(out: &mut Writer, number: u32, value: &[u8]) {
    out.tag(number, 2);
    out.bytes(value);
}

/// The messages of this field, merged.
fn inner(wire: &[u8], number: u32) -> Result<Vec<u8>> {
    let mut merged = Vec::new();
    for field in fields(wire) {
        if let (n, Raw::Bytes(value)) = field?
            && n == number
        {
            merged.extend_from_slice(value);
        }
    }
    Ok(merged)
}

fn text(wire: &[u8], number: u32) -> Result<String> {
    let mut found = String::new();
    for field in fields(wire) {
        if let (n, Raw::Bytes(value)) = field?
            && n == number
        {
            found = String::from_utf8_lossy(value).into_owned();
        }
    }
    Ok(found)
}

fn varint(wire: &[u8], number: u32) -> Result<Option<u64>> {
    let mut found = None;
    for field in fields(wire) {
        if let (n, Raw::Varint(value)) = field?
            && n == number
        {
            found = Some(value);
        }
    }
    Ok(found)
}

fn set(wire: &[u8]) -> Result<Vec<u8>> {
    let mut out = Writer::new(Vec::with_capacity(wire.len()));
    for field in fields(wire) {
        match field? {
            (1, Raw::Bytes(wire)) if text(wire, 12)? == "editions" => bytes(&mut out, 1, &file(wire)?),
            (number, value) => copy(&mut out, number, value),
        }
    }
    Ok(out.finish())
}

/// The features that decide about wire and JSON. They belong to files and fields only.
#[derive(Clone, Copy)]
struct Features {
    presence: u64,
    repeated: u64,
    encoding: u64,
}

const IMPLICIT: u64 = 2;
const LEGACY_REQUIRED: u64 = 3;
const EXPANDED: u64 = 2;
const DELIMITED: u64 = 2;

impl Features {
    /// Explicit presence, packed, length-prefixed: the defaults of both editions.
    const DEFAULT: Features = Features { presence: 1, repeated: 1, encoding: 1 };

    fn or(self, features: &[u8]) -> Result<Self> {
        Ok(Self {
            presence: varint(features, 1)?.unwrap_or(self.presence),
            repeated: varint(features, 3)?.unwrap_or(self.repeated),
            encoding: varint(features, 5)?.unwrap_or(self.encoding),
        })
    }
}

struct File {
    name: String,
    features: Features,
    /// Proto3 unless an enum begins with another number than zero, which is not allowed there.
    proto2: bool,
}

fn file(wire: &[u8]) -> Result<Vec<u8>> {
    let name = text(wire, 1)?;
    if !matches!(varint(wire, 14)?, Some(1000 | 1001)) {
        return Err(Fault::Edition { file: name, problem: "neither edition 2023 nor 2024" });
    }
    let features = Features::DEFAULT.or(&inner(&inner(wire, 8)?, 50)?)?;
    let file = File { name, features, proto2: odd_enum(wire, 4, 5)? };
    let package = text(wire, 2)?;
    let scope = if package.is_empty() { String::new() } else { format!(".{package}") };
    let mut out = Writer::new(Vec::with_capacity(wire.len()));
    for field in fields(wire) {
        match field? {
            (4, Raw::Bytes(wire)) => bytes(&mut out, 4, &file.message(wire, &scope)?),
            (7, Raw::Bytes(wire)) => bytes(&mut out, 7, &file.field(wire, &[], true)?),
            (12 | 14, _) => {}
            (number, value) => copy(&mut out, number, value),
        }
    }
    bytes(&mut out, 12, if file.proto2 { b"proto2" } else { b"proto3" });
    Ok(out.finish())
}

/// Does an enum of this file or message begin with another number than zero?
fn odd_enum(wire: &[u8], messages: u32, enums: u32) -> Result<bool> {
    for field in fields(wire) {
        let odd = match field? {
            (number, Raw::Bytes(wire)) if number == messages => odd_enum(wire, 3, 4)?,
            (number, Raw::Bytes(wire)) if number == enums => {
                let first = fields(wire).find(|f| matches!(f, Ok((2, _)) | Err(_))).transpose()?;
                matches!(first, Some((_, Raw::Bytes(value))) if varint(value, 2)?.unwrap_or(0) != 0)
            }
            _ => false,
        };
        if odd {
            return Ok(true);
        }
    }
    Ok(false)
}

impl File {
    fn message(&self, wire: &[u8], scope: &str) -> Result<Vec<u8>> {
        let name = format!("{scope}.{}", text(wire, 1)?);
        let mut maps = Vec::new();
        for field in fields(wire) {
            if let (3, Raw::Bytes(nested)) = field?
                && is_map_entry(nested)?
            {
                maps.push(format!("{name}.{}", text(nested, 1)?));
            }
        }
        let mut out = Writer::new(Vec::with_capacity(wire.len() + 16));
        for field in fields(wire) {
            match field? {
                (2, Raw::Bytes(wire)) => bytes(&mut out, 2, &self.field(wire, &maps, false)?),
                (3, Raw::Bytes(wire)) if !is_map_entry(wire)? => bytes(&mut out, 3, &self.message(wire, &name)?),
                (6, Raw::Bytes(wire)) => bytes(&mut out, 6, &self.field(wire, &[], true)?),
                (number, value) => copy(&mut out, number, value),
            }
        }
        Ok(out.finish())
    }

    fn field(&self, wire: &[u8], maps: &[String], extension: bool) -> Result<Vec<u8>> {
        const REPEATED: u64 = 3;
        const MESSAGE: u64 = 11;
        let mut options = inner(wire, 8)?;
        let features = self.features.or(&inner(&options, 21)?)?;
        let (repeated, message) = (varint(wire, 4)? == Some(REPEATED), varint(wire, 5)? == Some(MESSAGE));
        let mut out = Writer::new(Vec::with_capacity(wire.len() + 16));
        for field in fields(wire) {
            match field? {
                (8, _) => {}
                (number, value) => copy(&mut out, number, value),
            }
        }
        // What comes last counts.
        if repeated && !message {
            options.extend([0x10, u8::from(features.repeated != EXPANDED)]);
        }
        if !options.is_empty() {
            bytes(&mut out, 8, &options);
        }
        if message && features.encoding == DELIMITED && !maps.contains(&text(wire, 6)?) {
            copy(&mut out, 5, Raw::Varint(10));
        }
        let alone = !repeated && !extension && varint(wire, 9)?.is_none();
        if alone && features.presence == LEGACY_REQUIRED {
            copy(&mut out, 4, Raw::Varint(2));
        }
        if alone && !message {
            match features.presence {
                IMPLICIT if self.proto2 => {
                    let problem = "implicit presence together with an enum that does not begin with zero";
                    return Err(Fault::Edition { file: self.name.clone(), problem });
                }
                IMPLICIT => {}
                _ => copy(&mut out, 17, Raw::Varint(1)),
            }
        }
        Ok(out.finish())
    }
}

fn is_map_entry(message: &[u8]) -> Result<bool> {
    Ok(varint(&inner(message, 7)?, 7)? == Some(1))
}
