//! Random messages, as prost-reflect and this codec see them.

mod support;

use std::sync::LazyLock;

use proptest::prelude::*;
use proptest::test_runner::TestRng;
use prost::Message;
use prost_reflect::{
    DescriptorPool, DynamicMessage, Kind, MapKey, MessageDescriptor, ReflectMessage, Value as Reflected,
};
use rialto_gateway::codec::Codec;
use serde_json::{Value, json};

static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| support::pool(&["kinds.proto"]));
static CODEC: LazyLock<Codec> = LazyLock::new(|| Codec::new(&POOL));
const KINDS: &str = "test.kinds.Kinds";

/// How many messages: so many, or `PROPTEST_CASES` for a longer run.
fn rounds(usually: u32) -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(usually)
}

fn wire(json: &str) -> Result<Vec<u8>, String> {
    let id = CODEC.message(KINDS).expect("message");
    CODEC.json_to_wire(id, json.as_bytes()).map_err(|e| e.to_string())
}

fn print(wire: &[u8]) -> Result<String, String> {
    let id = CODEC.message(KINDS).expect("message");
    let mut out = Vec::new();
    CODEC.wire_to_json(id, wire, &mut out).map_err(|e| e.to_string())?;
    Ok(String::from_utf8(out).expect("UTF-8"))
}

/// Numbers by value: `1` and `1.0` are the same JSON number. As floats, because prost-reflect prints a float as the double
/// that it is; that doubles are exact shows when they are read back.
fn normal(value: &Value) -> Value {
    match value {
        Value::Number(n) => json!(n.as_f64().map(|n| n as f32)),
        Value::Array(items) => items.iter().map(normal).collect(),
        Value::Object(members) => Value::Object(members.iter().map(|(k, v)| (k.clone(), normal(v))).collect()),
        other => other.clone(),
    }
}

/// Where two values differ first.
fn difference(ours: &Value, oracle: &Value) -> Option<String> {
    match (ours, oracle) {
        (Value::Object(a), Value::Object(b)) => {
            if let Some(key) = a.keys().find(|k| !b.contains_key(*k)).or_else(|| b.keys().find(|k| !a.contains_key(*k)))
            {
                return Some(format!("only one has {key:?}"));
            }
            a.iter().find_map(|(k, v)| difference(v, &b[k]).map(|d| format!("{k}.{d}")))
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            a.iter().zip(b).enumerate().find_map(|(i, (a, b))| difference(a, b).map(|d| format!("[{i}].{d}")))
        }
        (a, b) if a == b => None,
        (a, b) => Some(format!(": {a} and {b}")),
    }
}

/// A random message of the type; well-known types get values that have a JSON form.
fn message(rng: &mut TestRng, descriptor: &MessageDescriptor, depth: u32) -> DynamicMessage {
    let mut m = DynamicMessage::new(descriptor.clone());
    match descriptor.full_name() {
        "google.protobuf.Timestamp" => {
            m.set_field_by_name("seconds", Reflected::I64(rng.random_range(-62_135_596_800..=253_402_300_799)));
            m.set_field_by_name("nanos", Reflected::I32(nanos(rng)));
        }
        "google.protobuf.Duration" => {
            let seconds = rng.random_range(-315_575_999_999i64..=315_575_999_999);
            m.set_field_by_name("seconds", Reflected::I64(seconds));
            m.set_field_by_name("nanos", Reflected::I32(nanos(rng) * if seconds < 0 { -1 } else { 1 }));
        }
        "google.protobuf.FieldMask" => {
            let paths = ["foo", "foo_bar.baz", "a1.b"].iter().take(rng.random_range(0..=3));
            let paths = paths.map(|p| Reflected::String((*p).to_owned())).collect();
            m.set_field_by_name("paths", Reflected::List(paths));
        }
        "google.protobuf.Value" => {
            let (name, value) = match rng.random_range(0..if depth > 2 { 4 } else { 6 }) {
                0 => ("null_value", Reflected::EnumNumber(0)),
                1 => ("number_value", Reflected::F64(rng.random_range(-1e9..1e9))),
                2 => ("string_value", scalar(rng, &Kind::String)),
                3 => ("bool_value", scalar(rng, &Kind::Bool)),
                4 => ("struct_value", Reflected::Message(named(rng, "google.protobuf.Struct", depth + 1))),
                _ => ("list_value", Reflected::Message(named(rng, "google.protobuf.ListValue", depth + 1))),
            };
            m.set_field_by_name(name, value);
        }
        "google.protobuf.Any" => {
            let name = ["test.kinds.Kinds", "google.protobuf.Duration"][rng.random_range(0..2)];
            let inner = named(rng, name, depth + 1);
            let url = format!("type.googleapis.com/{}", inner.descriptor().full_name());
            m.set_field_by_name("type_url", Reflected::String(url));
            m.set_field_by_name("value", Reflected::Bytes(inner.encode_to_vec().into()));
        }
        // The oracle prints an infinity in a wrapper as null; ProtoJSON has a string for it.
        "google.protobuf.DoubleValue" => m.set_field_by_name("value", Reflected::F64(rng.random_range(-1e9..1e9))),
        "google.protobuf.FloatValue" => m.set_field_by_name("value", Reflected::F32(rng.random_range(-1e9..1e9))),
        _ => fields(rng, &mut m, depth),
    }
    m
}

fn named(rng: &mut TestRng, name: &str, depth: u32) -> DynamicMessage {
    message(rng, &POOL.get_message_by_name(name).expect("message"), depth)
}

fn fields(rng: &mut TestRng, m: &mut DynamicMessage, depth: u32) {
    for field in m.descriptor().fields().collect::<Vec<_>>() {
        let wanted = if depth == 0 { 0.5 } else { 0.15 };
        if !rng.random_bool(wanted) || (depth > 3 && field.kind().as_message().is_some()) {
            continue;
        }
        let value = if field.is_map() {
            let entry = field.kind().as_message().cloned().expect("map entry");
            let entries = (0..rng.random_range(0..4)).map(|_| {
                let key = match scalar(rng, &entry.map_entry_key_field().kind()) {
                    Reflected::Bool(v) => MapKey::Bool(v),
                    Reflected::I32(v) => MapKey::I32(v),
                    Reflected::I64(v) => MapKey::I64(v),
                    Reflected::U32(v) => MapKey::U32(v),
                    Reflected::U64(v) => MapKey::U64(v),
                    Reflected::String(v) => MapKey::String(v),
                    other => panic!("{other:?} is no key"),
                };
                (key, value(rng, &entry.map_entry_value_field().kind(), depth))
            });
            Reflected::Map(entries.collect())
        } else if field.is_list() {
            Reflected::List((0..rng.random_range(0..4)).map(|_| value(rng, &field.kind(), depth)).collect())
        } else {
            value(rng, &field.kind(), depth)
        };
        m.set_field(&field, value);
    }
}

fn value(rng: &mut TestRng, kind: &Kind, depth: u32) -> Reflected {
    match kind {
        Kind::Message(m) => Reflected::Message(message(rng, m, depth + 1)),
        kind => scalar(rng, kind),
    }
}

fn nanos(rng: &mut TestRng) -> i32 {
    let n = rng.random_range(0..1_000_000_000);
    [0, n, n / 1000 * 1000, n / 1_000_000 * 1_000_000][rng.random_range(0..4)]
}

fn scalar(rng: &mut TestRng, kind: &Kind) -> Reflected {
    let edge = rng.random_bool(0.2);
    let int = rng.random::<u64>() >> rng.random_range(0..64);
    match kind {
        Kind::Double if edge => {
            Reflected::F64([0.0, f64::INFINITY, f64::NEG_INFINITY, f64::MAX, 5e-324][rng.random_range(0..5)])
        }
        Kind::Double => Reflected::F64(f64::from_bits(rng.random::<u64>() & 0xbfff_ffff_ffff_ffff)),
        Kind::Float if edge => Reflected::F32([0.0, f32::INFINITY, f32::MAX, 1e-45][rng.random_range(0..4)]),
        Kind::Float => Reflected::F32(f32::from_bits(rng.random::<u32>() & 0xbfff_ffff)),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => Reflected::I32(if edge { i32::MIN } else { int as i32 }),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => Reflected::I64(if edge { i64::MIN } else { int as i64 }),
        Kind::Uint32 | Kind::Fixed32 => Reflected::U32(if edge { u32::MAX } else { int as u32 }),
        Kind::Uint64 | Kind::Fixed64 => Reflected::U64(if edge { u64::MAX } else { int }),
        Kind::Bool => Reflected::Bool(rng.random()),
        Kind::Bytes => Reflected::Bytes((0..rng.random_range(0..200)).map(|_| rng.random::<u8>()).collect()),
        Kind::Enum(e) if e.full_name() == "google.protobuf.NullValue" => Reflected::EnumNumber(0),
        Kind::Enum(_) => Reflected::EnumNumber([0, 1, -2, 99][rng.random_range(0..4)]),
        _ => {
            let alphabet = ['a', '"', '\\', '\n', '\u{1}', 'é', '😀', '\u{2028}', '/', '\u{7f}'];
            Reflected::String((0..rng.random_range(0..40)).map(|_| alphabet[rng.random_range(0..10)]).collect())
        }
    }
}

#[test]
fn messages_are_printed_and_read_as_prost_reflect_does() {
    let descriptor = POOL.get_message_by_name(KINDS).expect("message");
    let mut rng = TestRng::deterministic_rng(proptest::test_runner::RngAlgorithm::ChaCha);
    for round in 0..rounds(300) {
        let m = message(&mut rng, &descriptor, 0);
        let bytes = m.encode_to_vec();
        let ours = print(&bytes).unwrap_or_else(|e| panic!("{round}: {e}"));
        let oracle = serde_json::to_value(&m).expect("JSON");
        let parsed: Value = serde_json::from_str(&ours).unwrap_or_else(|e| panic!("{round}: {e}: {ours}"));
        assert_eq!(difference(&normal(&parsed), &normal(&oracle)), None, "round {round}");
        for json in [ours, oracle.to_string()] {
            let back = wire(&json).unwrap_or_else(|e| panic!("{round}: {e}: {json}"));
            let back = DynamicMessage::decode(descriptor.clone(), back.as_slice()).expect("valid protobuf");
            let back = serde_json::to_value(&back).expect("JSON");
            assert_eq!(difference(&back, &oracle), None, "round {round}");
        }
    }
}

#[test]
fn mutilated_input_never_panics() {
    let descriptor = POOL.get_message_by_name(KINDS).expect("message");
    let mut rng = TestRng::deterministic_rng(proptest::test_runner::RngAlgorithm::ChaCha);
    for _ in 0..rounds(200) {
        let m = message(&mut rng, &descriptor, 0);
        let mut bytes = m.encode_to_vec();
        let mut json = serde_json::to_vec(&m).expect("JSON");
        for _ in 0..30 {
            for text in [&mut bytes, &mut json] {
                if text.is_empty() {
                    continue;
                }
                let at = rng.random_range(0..text.len());
                match rng.random_range(0..3) {
                    0 => text[at] = rng.random(),
                    1 => drop(text.remove(at)),
                    _ => text.insert(at, b"{}[]\",:\\\0\xff0-e"[rng.random_range(0..13)]),
                }
            }
            let _ = print(&bytes);
            let _ = CODEC.json_to_wire(CODEC.message(KINDS).expect("message"), &json);
        }
    }
}
