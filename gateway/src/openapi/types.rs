//! Scalars and well-known types as JSON Schema, in their ProtoJSON form (protobuf.dev/programming-guides/json).

use prost_reflect::{Kind, MessageDescriptor};
use serde_json::{Value, json};

/// Where a value stands. Parsers take more than printers write, and text has no `null`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// In the JSON of a request.
    Body,
    /// In the JSON of a response.
    Answer,
    /// In a path or a query.
    Text,
}

/// A scalar; `None` for messages and enums.
pub(super) fn scalar(kind: &Kind, form: Form) -> Option<Value> {
    Some(match kind {
        Kind::Double => float("double", form),
        Kind::Float => float("float", form),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => integer("int32", i32::MIN.into(), i32::MAX.into(), form),
        Kind::Uint32 | Kind::Fixed32 => integer("uint32", json!(0), u32::MAX.into(), form),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => integer("int64", i64::MIN.into(), i64::MAX.into(), form),
        Kind::Uint64 | Kind::Fixed64 => integer("uint64", json!(0), u64::MAX.into(), form),
        Kind::Bool => json!({ "type": "boolean" }),
        Kind::String => json!({ "type": "string" }),
        Kind::Bytes if form == Form::Answer => json!({ "type": "string", "contentEncoding": "base64" }),
        Kind::Bytes => json!({ "type": "string", "contentEncoding": "base64", "pattern": base64() }),
        Kind::Message(_) | Kind::Enum(_) => return None,
    })
}

/// Parsers take every integer as a number and as a string; printers quote 64 bits, which JavaScript's numbers don't hold.
fn integer(format: &str, least: Value, most: Value, form: Form) -> Value {
    let wide = format.ends_with("64");
    match form {
        Form::Answer if wide => json!({ "type": "string", "format": format, "pattern": digits(format, true) }),
        Form::Answer | Form::Text => json!({ "type": "integer", "format": format, "minimum": least, "maximum": most }),
        Form::Body => {
            let types = if wide { ["string", "integer"] } else { ["integer", "string"] };
            json!({
                "type": types, "format": format, "minimum": least, "maximum": most, "pattern": digits(format, true),
            })
        }
    }
}

/// The strings of an integer type. Their range is that of their number of digits.
pub(super) fn digits(format: &str, negative: bool) -> String {
    let more = match format {
        "int64" => 18,
        "uint64" => 19,
        _ => 8,
    };
    let sign = if negative && !format.starts_with('u') { "-?" } else { "" };
    format!("^{sign}(0|[1-9][0-9]{{0,{more}}})$")
}

fn float(format: &str, form: Form) -> Value {
    let number = json!({ "type": "number", "format": format });
    match form {
        Form::Text => number,
        Form::Answer => json!({ "anyOf": [number, { "enum": ["NaN", "Infinity", "-Infinity"] }] }),
        Form::Body => {
            let text = r"^(-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]{1,2})?|NaN|-?Infinity)$";
            json!({ "anyOf": [number, { "type": "string", "pattern": text }] })
        }
    }
}

/// Either alphabet, padded or not.
fn base64() -> String {
    let of = |set: &str| format!("(?:[{set}]{{4}})*(?:[{set}]{{2}}(?:==)?|[{set}]{{3}}=?)?");
    format!("^(?:{}|{})$", of("A-Za-z0-9+/"), of("A-Za-z0-9_-"))
}

/// `google.protobuf.NullValue`, the enum of the one JSON value `null`.
pub(super) fn null(form: Form) -> Value {
    match form {
        Form::Answer => json!({ "type": "null" }),
        _ => json!({ "enum": [null, "NULL_VALUE", 0] }),
    }
}

/// A key of a map, which JSON has only as a string.
pub(super) fn map_key(kind: &Kind) -> Option<Value> {
    Some(match kind {
        Kind::Bool => json!({ "enum": ["true", "false"] }),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => json!({ "pattern": digits("int64", true) }),
        Kind::Uint64 | Kind::Fixed64 => json!({ "pattern": digits("uint64", true) }),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => json!({ "pattern": r"^-?(0|[1-9][0-9]{0,9})$" }),
        Kind::Uint32 | Kind::Fixed32 => json!({ "pattern": r"^(0|[1-9][0-9]{0,9})$" }),
        _ => return None,
    })
}

/// The wrapped scalar of a wrapper type.
fn wrapped(name: &str) -> Option<Kind> {
    Some(match name {
        "DoubleValue" => Kind::Double,
        "FloatValue" => Kind::Float,
        "Int64Value" => Kind::Int64,
        "UInt64Value" => Kind::Uint64,
        "Int32Value" => Kind::Int32,
        "UInt32Value" => Kind::Uint32,
        "BoolValue" => Kind::Bool,
        "StringValue" => Kind::String,
        "BytesValue" => Kind::Bytes,
        _ => return None,
    })
}

/// Has this message a text form that fits a path or a query?
pub(super) fn is_text(m: &MessageDescriptor) -> bool {
    let name = m.full_name().strip_prefix("google.protobuf.").unwrap_or_default();
    matches!(name, "Timestamp" | "Duration" | "FieldMask") || wrapped(name).is_some()
}

/// A well-known type; `None` for every other message.
pub(super) fn well_known(m: &MessageDescriptor, form: Form) -> Option<Value> {
    let name = m.full_name().strip_prefix("google.protobuf.")?;
    if let Some(kind) = wrapped(name) {
        return scalar(&kind, form);
    }
    let time = |zone: &str| {
        format!(r"^[0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}}T[0-9]{{2}}:[0-9]{{2}}:[0-9]{{2}}(\.[0-9]{{1,9}})?{zone}$")
    };
    let mask = |set: &str| format!("^([{set}]+(,[{set}]+)*)?$");
    Some(match (name, form) {
        ("Timestamp", Form::Answer) => json!({ "type": "string", "format": "date-time", "pattern": time("Z") }),
        ("Timestamp", _) => {
            json!({ "type": "string", "format": "date-time", "pattern": time("(Z|[+-][0-9]{2}:[0-9]{2})") })
        }
        ("Duration", _) => json!({
            "type": "string", "pattern": r"^-?[0-9]{1,12}(\.[0-9]{1,9})?s$", "examples": ["1.5s"],
            "description": "Seconds, at most 315576000000, with up to nine digits of fraction.",
        }),
        // In a URL, and only there, snake_case is taken as well.
        ("FieldMask", Form::Text) => json!({ "type": "string", "pattern": mask("A-Za-z0-9._") }),
        ("FieldMask", _) => json!({
            "type": "string", "pattern": mask("A-Za-z0-9."),
            "description": "Comma-separated paths of fields in camelCase.",
        }),
        ("Struct", _) => json!({ "type": "object" }),
        ("Value", _) => json!({}),
        ("ListValue", _) => json!({ "type": "array", "items": {} }),
        ("Any", _) => json!({
            "type": "object",
            "properties": { "@type": { "type": "string", "description": "`type.googleapis.com/` and the name of the message." } },
            "anyOf": [{ "required": ["@type"] }, { "maxProperties": 0 }],
            "description": "A message of any type, its fields beside `@type`; well-known types stand under `value`.",
        }),
        ("Empty", Form::Answer) => json!({ "type": "object" }),
        ("Empty", _) => json!({ "type": "object", "additionalProperties": false }),
        _ => return None,
    })
}

/// The schema, or `null`.
pub(super) fn nullable(mut schema: Value) -> Value {
    let nothing = json!({ "type": "null" });
    if schema.get("$ref").is_some() {
        return json!({ "anyOf": [schema, nothing] });
    }
    let Some(object) = schema.as_object_mut() else { return schema };
    if let Some(values) = object.get_mut("enum").and_then(Value::as_array_mut)
        && !values.contains(&Value::Null)
    {
        values.push(Value::Null);
    }
    match object.get_mut("type") {
        Some(Value::Array(types)) => types.push("null".into()),
        Some(one) if *one != "null" => *one = json!([one.take(), "null"]),
        Some(_) => {}
        // An empty schema takes null already.
        None => {
            object.get_mut("anyOf").and_then(Value::as_array_mut).into_iter().for_each(|all| all.push(nothing.clone()))
        }
    }
    schema
}
