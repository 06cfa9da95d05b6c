//! Scalars: text to wire and wire to text, the same for JSON values, map keys, path variables and query parameters.

use base64::Engine;
use base64::alphabet::{STANDARD, URL_SAFE};
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use super::append::{append, append_quoted, is_plain_ascii};
use super::error::{Problem, Result, clip};
use super::lex::plain_prefix;
use super::number;
use super::schema::{EnumId, Kind, Schema};
use super::wire::{Raw, Writer, unzigzag64, zigzag32, zigzag64};

// Padding is optional and left-over bits are ignored: ProtoJSON asks parsers to take either alphabet, padded or not.
const LENIENT: GeneralPurposeConfig = GeneralPurposeConfig::new()
    .with_decode_padding_mode(DecodePaddingMode::Indifferent)
    .with_decode_allow_trailing_bits(true);
const PLAIN: GeneralPurpose = GeneralPurpose::new(&STANDARD, LENIENT);
const URL: GeneralPurpose = GeneralPurpose::new(&URL_SAFE, LENIENT);

/// Writes a number (without tag). `quoted` text may also be `NaN` or an infinity.
pub(crate) fn write_number(kind: Kind, text: &str, quoted: bool, out: &mut Writer) -> Result<(), Problem> {
    if !matches!(kind, Kind::Double | Kind::Float) {
        let value = number::integer(text, kind.name()).map_err(|p| if quoted { quote(p) } else { p })?;
        return write_integer(kind, value, text, out);
    }
    let special = match text {
        "NaN" if quoted => Some(f64::NAN),
        "Infinity" if quoted => Some(f64::INFINITY),
        "-Infinity" if quoted => Some(f64::NEG_INFINITY),
        _ if quoted && !number::is_number(text) => return Err(quote(Problem::expected(kind.name(), text))),
        _ => None,
    };
    if kind == Kind::Double {
        let value = special.map_or_else(|| number::double(text), Ok)?;
        out.buf.extend_from_slice(&value.to_le_bytes());
    } else {
        let value = special.map_or_else(|| number::float(text), |v| Ok(v as f32))?;
        out.buf.extend_from_slice(&value.to_le_bytes());
    }
    Ok(())
}

/// What was a string is shown as one.
fn quote(problem: Problem) -> Problem {
    match problem {
        Problem::Expected { expected, got } => Problem::Expected { expected, got: format!("{got:?}") },
        other => other,
    }
}

fn write_integer(kind: Kind, value: i128, text: &str, out: &mut Writer) -> Result<(), Problem> {
    if put_integer(kind, value, out) { Ok(()) } else { Err(Problem::out_of_range(kind.name(), text)) }
}

/// Writes a whole number; false, and nothing is written, if it is out of range.
#[inline]
pub(crate) fn put_integer(kind: Kind, value: i128, out: &mut Writer) -> bool {
    let (int32, int64) = (i32::try_from(value), i64::try_from(value));
    let (uint32, uint64) = (u32::try_from(value), u64::try_from(value));
    match (kind, int32, int64, uint32, uint64) {
        (Kind::Int32 | Kind::Enum(_), Ok(v), ..) => out.varint(i64::from(v) as u64),
        (Kind::Sint32, Ok(v), ..) => out.varint(zigzag32(v)),
        (Kind::Sfixed32, Ok(v), ..) => out.buf.extend_from_slice(&v.to_le_bytes()),
        (Kind::Int64, _, Ok(v), ..) => out.varint(v as u64),
        (Kind::Sint64, _, Ok(v), ..) => out.varint(zigzag64(v)),
        (Kind::Sfixed64, _, Ok(v), ..) => out.buf.extend_from_slice(&v.to_le_bytes()),
        (Kind::Uint32, _, _, Ok(v), _) => out.varint(u64::from(v)),
        (Kind::Fixed32, _, _, Ok(v), _) => out.buf.extend_from_slice(&v.to_le_bytes()),
        (Kind::Uint64, .., Ok(v)) => out.varint(v),
        (Kind::Fixed64, .., Ok(v)) => out.buf.extend_from_slice(&v.to_le_bytes()),
        _ => return false,
    }
    true
}

pub(crate) fn write_base64(text: &str, out: &mut Writer) -> Result<(), Problem> {
    let digits = text.trim_end_matches('=').len();
    // Every digit holds six bits; a text that is not base64 is found out below.
    let len = digits * 6 / 8;
    out.varint(len as u64);
    let start = out.buf.len();
    out.buf.resize(start + len, 0);
    let space = out.buf.get_mut(start..).unwrap_or_default();
    let decoded = PLAIN.decode_slice(text, space).or_else(|_| URL.decode_slice(text, space));
    if decoded != Ok(len) {
        return Err(Problem::expected("base64 bytes", &format!("{:?}", clip(text))));
    }
    Ok(())
}

pub(crate) fn write_enum_name(schema: &Schema, id: EnumId, name: &str, out: &mut Writer) -> Result<(), Problem> {
    let e = schema.enumeration(id);
    match e.number(name) {
        Some(number) => out.varint(i64::from(number) as u64),
        None => {
            let got = format!("{:?}", clip(name));
            return Err(Problem::UnknownEnumValue { name: e.name.to_string(), got });
        }
    }
    Ok(())
}

/// Writes a scalar (without tag) from unquoted text: a map key, a path variable, a query parameter.
pub(crate) fn write_text(schema: &Schema, kind: Kind, text: &str, out: &mut Writer) -> Result<(), Problem> {
    match kind {
        Kind::String => out.bytes(text.as_bytes()),
        Kind::Bytes => write_base64(text, out)?,
        Kind::Bool => match text {
            "true" => out.varint(1),
            "false" => out.varint(0),
            _ => return Err(Problem::expected("bool", &format!("{:?}", clip(text)))),
        },
        Kind::Enum(_) if number::is_number(text) => {
            write_integer(kind, number::integer(text, kind.name())?, text, out)?;
        }
        Kind::Enum(id) => write_enum_name(schema, id, text, out)?,
        Kind::Message(_) => return Err(Problem::expected("scalar", text)),
        _ => write_number(kind, text, true, out)?,
    }
    Ok(())
}

/// Is this the value that an unset field reads as?
#[inline]
pub(crate) fn is_zero(kind: Kind, raw: Raw<'_>) -> bool {
    match raw {
        // 32-bit kinds keep the low half of a varint, see `write_json`.
        Raw::Varint(v) => match kind {
            Kind::Int32 | Kind::Uint32 | Kind::Sint32 | Kind::Enum(_) => v as u32 == 0,
            _ => v == 0,
        },
        Raw::Fixed32(v) => v == 0,
        Raw::Fixed64(v) => v == 0,
        Raw::Bytes(v) | Raw::Group(v) => v.is_empty(),
    }
}

/// A wire value of the wrong type for its field.
pub(crate) const MISMATCH: Problem = Problem::Wire(super::wire::WireError::InvalidTag);

/// Prints a scalar as JSON.
#[inline]
pub(crate) fn write_json(schema: &Schema, kind: Kind, raw: Raw<'_>, out: &mut Vec<u8>) -> Result<()> {
    let mut int = itoa::Buffer::new();
    let (text, quoted) = match (kind, raw) {
        (Kind::String, Raw::Bytes(b)) => return write_utf8(out, b),
        (Kind::Bytes, Raw::Bytes(b)) => {
            write_bytes(out, b);
            return Ok(());
        }
        (Kind::Double, Raw::Fixed64(v)) => {
            write_double(out, f64::from_bits(v));
            return Ok(());
        }
        (Kind::Float, Raw::Fixed32(v)) => {
            write_float(out, f32::from_bits(v));
            return Ok(());
        }
        (Kind::Enum(id), Raw::Varint(v)) => {
            write_enum(schema, id, v as i32, out);
            return Ok(());
        }
        (Kind::Bool, Raw::Varint(v)) => (if v == 0 { "false" } else { "true" }, false),
        (Kind::Int32, Raw::Varint(v)) => (int.format(v as i32), false),
        (Kind::Uint32, Raw::Varint(v)) => (int.format(v as u32), false),
        (Kind::Sint32, Raw::Varint(v)) => (int.format(unzigzag64(u64::from(v as u32)) as i32), false),
        (Kind::Fixed32, Raw::Fixed32(v)) => (int.format(v), false),
        (Kind::Sfixed32, Raw::Fixed32(v)) => (int.format(v as i32), false),
        (Kind::Int64, Raw::Varint(v)) => (int.format(v as i64), true),
        (Kind::Uint64, Raw::Varint(v)) => (int.format(v), true),
        (Kind::Sint64, Raw::Varint(v)) => (int.format(unzigzag64(v)), true),
        (Kind::Fixed64, Raw::Fixed64(v)) => (int.format(v), true),
        (Kind::Sfixed64, Raw::Fixed64(v)) => (int.format(v as i64), true),
        _ => return Err(MISMATCH.into()),
    };
    if quoted {
        append_quoted(out, text.as_bytes());
    } else {
        append(out, text.as_bytes());
    }
    Ok(())
}

/// Prints the key of a map, which is always quoted.
pub(crate) fn write_key(schema: &Schema, kind: Kind, raw: Raw<'_>, out: &mut Vec<u8>) -> Result<()> {
    let start = out.len();
    write_json(schema, kind, raw, out)?;
    if out.get(start) != Some(&b'"') {
        out.insert(start, b'"');
        out.push(b'"');
    }
    Ok(())
}

pub(crate) fn write_enum(schema: &Schema, id: EnumId, number: i32, out: &mut Vec<u8>) {
    let e = schema.enumeration(id);
    if e.null {
        out.extend_from_slice(b"null");
    } else if let Some(name) = e.value_name(number) {
        append_quoted(out, name.as_bytes());
    } else {
        append(out, itoa::Buffer::new().format(number).as_bytes());
    }
}

pub(crate) fn write_double(out: &mut Vec<u8>, v: f64) {
    match special(v) {
        Some(word) => out.extend_from_slice(word),
        None => whole(out, zmij::Buffer::new().format_finite(v)),
    }
}

fn write_float(out: &mut Vec<u8>, v: f32) {
    match special(f64::from(v)) {
        Some(word) => out.extend_from_slice(word),
        None => whole(out, zmij::Buffer::new().format_finite(v)),
    }
}

fn special(v: f64) -> Option<&'static [u8]> {
    if v.is_finite() {
        None
    } else if v.is_nan() {
        Some(b"\"NaN\"")
    } else if v > 0.0 {
        Some(b"\"Infinity\"")
    } else {
        Some(b"\"-Infinity\"")
    }
}

/// `1.0` is printed as `1`, which is what JavaScript and the other protobuf printers do.
fn whole(out: &mut Vec<u8>, text: &str) {
    append(out, text.strip_suffix(".0").unwrap_or(text).as_bytes());
}

fn write_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(b'"');
    let start = out.len();
    // Four characters for every three bytes that have begun: the slice is as large as the engine needs.
    out.resize(start + bytes.len().div_ceil(3) * 4, 0);
    let written = PLAIN.encode_slice(bytes, &mut out[start..]).unwrap_or(0);
    out.truncate(start + written);
    out.push(b'"');
}

/// Prints bytes as a JSON string, if they are UTF-8.
#[inline]
fn write_utf8(out: &mut Vec<u8>, bytes: &[u8]) -> Result<()> {
    // One look at the bytes answers both questions: ASCII is UTF-8.
    if is_plain_ascii(bytes) {
        append_quoted(out, bytes);
    } else {
        write_string(out, std::str::from_utf8(bytes).map_err(|_| Problem::Utf8)?);
    }
    Ok(())
}

/// Prints a JSON string.
pub(crate) fn write_string(out: &mut Vec<u8>, text: &str) {
    let mut rest = text.as_bytes();
    out.reserve(rest.len() + 2);
    out.push(b'"');
    loop {
        let (plain, tail) = rest.split_at(plain_prefix(rest));
        out.extend_from_slice(plain);
        let Some((byte, tail)) = tail.split_first() else { break };
        write_escape(out, *byte);
        rest = tail;
    }
    out.push(b'"');
}

fn write_escape(out: &mut Vec<u8>, byte: u8) {
    match byte {
        b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
        b'\n' => out.extend_from_slice(b"\\n"),
        b'\r' => out.extend_from_slice(b"\\r"),
        b'\t' => out.extend_from_slice(b"\\t"),
        _ => {
            let hex = b"0123456789abcdef";
            out.extend_from_slice(b"\\u00");
            out.extend_from_slice(&[hex[usize::from(byte >> 4)], hex[usize::from(byte & 15)]]);
        }
    }
}
