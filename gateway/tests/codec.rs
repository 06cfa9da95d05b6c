//! ProtoJSON, both ways: cases by hand, and against prost-reflect with generated messages.

mod support;

use std::sync::LazyLock;

use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};
use rialto_gateway::codec::Codec;
use serde_json::{Value, json};

static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| support::pool(&["kinds.proto", "legacy.proto"]));
static CODEC: LazyLock<Codec> = LazyLock::new(|| Codec::new(&POOL));
const KINDS: &str = "test.kinds.Kinds";

fn wire(message: &str, json: &str) -> Result<Vec<u8>, String> {
    let id = CODEC.message(message).expect("message");
    CODEC.json_to_wire(id, json.as_bytes()).map_err(|e| e.to_string())
}

fn print(message: &str, wire: &[u8]) -> Result<String, String> {
    let id = CODEC.message(message).expect("message");
    let mut out = Vec::new();
    CODEC.wire_to_json(id, wire, &mut out).map_err(|e| e.to_string())?;
    Ok(String::from_utf8(out).expect("UTF-8"))
}

/// JSON → wire → JSON.
fn round(json: &str) -> Result<String, String> {
    print(KINDS, &wire(KINDS, json)?)
}

#[track_caller]
fn becomes(json: &str, expected: &str) {
    assert_eq!(round(json).as_deref(), Ok(expected), "{json}");
}

#[track_caller]
fn refused(json: &str, error: &str) {
    assert_eq!(wire(KINDS, json).expect_err(json), error);
}

#[test]
fn integers_are_exact_and_64_bit_ones_are_strings() {
    becomes(r#"{"fInt64":9223372036854775807}"#, r#"{"fInt64":"9223372036854775807"}"#);
    becomes(r#"{"fInt64":"-9223372036854775808"}"#, r#"{"fInt64":"-9223372036854775808"}"#);
    becomes(r#"{"fUint64":18446744073709551615}"#, r#"{"fUint64":"18446744073709551615"}"#);
    becomes(r#"{"fInt32":1e3,"fUint32":"4294967295"}"#, r#"{"fInt32":1000,"fUint32":4294967295}"#);
    becomes(r#"{"fInt32":1.50e1}"#, r#"{"fInt32":15}"#);
    becomes(r#"{"fInt32":100000e-5,"fSint32":-2147483648}"#, r#"{"fInt32":1,"fSint32":-2147483648}"#);
    becomes(r#"{"oInt32":-0,"fSfixed32":-1}"#, r#"{"fSfixed32":-1,"oInt32":0}"#);
}

#[test]
fn numbers_out_of_range_or_not_whole_are_refused() {
    refused(r#"{"fInt32":2147483648}"#, "fInt32: out of range for int32: 2147483648");
    refused(r#"{"fUint32":-1}"#, "fUint32: out of range for uint32: -1");
    refused(r#"{"fInt64":1e19}"#, "fInt64: out of range for int64: 1e19");
    refused(r#"{"fInt64":1e999999999999999999999}"#, "fInt64: out of range for int64: 1e999999999999999999999");
    refused(r#"{"fInt32":0.5}"#, "fInt32: expected int32, got 0.5");
    refused(r#"{"fInt32":1e-1}"#, "fInt32: expected int32, got 1e-1");
    refused(r#"{"fInt32":"abc"}"#, r#"fInt32: expected int32, got "abc""#);
    refused(r#"{"fInt32":" 1"}"#, r#"fInt32: expected int32, got " 1""#);
    refused(r#"{"fInt32":true}"#, "fInt32: expected int32, got true");
    refused(r#"{"fDouble":1e400}"#, "fDouble: out of range for double: 1e400");
    refused(r#"{"fFloat":1e39}"#, "fFloat: out of range for float: 1e39");
    refused(r#"{"fDouble":"nan"}"#, "fDouble: expected double, got \"nan\"");
    for text in ["01", "+1", "1.", ".5", "-", "1e", "0x10", "NaN", "Infinity"] {
        assert!(wire(KINDS, &format!(r#"{{"fDouble":{text}}}"#)).is_err(), "{text}");
    }
}

#[test]
fn floats_are_shortest_and_special_values_are_strings() {
    becomes(r#"{"fDouble":0.1,"fFloat":0.1}"#, r#"{"fDouble":0.1,"fFloat":0.1}"#);
    becomes(r#"{"fDouble":"1.5e300"}"#, r#"{"fDouble":1.5e+300}"#);
    becomes(
        r#"{"rDouble":["NaN","Infinity","-Infinity",-0.0,1]}"#,
        r#"{"rDouble":["NaN","Infinity","-Infinity",-0,1]}"#,
    );
    becomes(r#"{"fFloat":3.4028235e38}"#, r#"{"fFloat":3.4028235e+38}"#);
}

#[test]
fn bytes_take_either_alphabet_padded_or_not() {
    for text in ["+/8=", "-_8=", "-_8", "+/8"] {
        becomes(&format!(r#"{{"fBytes":"{text}"}}"#), r#"{"fBytes":"+/8="}"#);
    }
    becomes(r#"{"fBytes":"-_"}"#, r#"{"fBytes":"+w=="}"#);
    refused(r#"{"fBytes":"a*b"}"#, r#"fBytes: expected base64 bytes, got "a*b""#);
    refused(r#"{"fBytes":"a"}"#, r#"fBytes: expected base64 bytes, got "a""#);
}

#[test]
fn enums_go_by_name_and_number_and_unknown_numbers_stay() {
    becomes(r#"{"fEnum":"COLOR_CRIMSON"}"#, r#"{"fEnum":"COLOR_RED"}"#);
    becomes(r#"{"fEnum":-2}"#, r#"{"fEnum":"COLOR_BLUE"}"#);
    becomes(r#"{"rEnum":[7,"COLOR_UNSPECIFIED"]}"#, r#"{"rEnum":[7,"COLOR_UNSPECIFIED"]}"#);
    refused(r#"{"fEnum":"PINK"}"#, r#"fEnum: unknown value "PINK" of enum test.kinds.Color"#);
}

#[test]
fn strings_keep_every_character() {
    becomes(r#"{"fString":"\u00e9\n\"\\\/\ud83d\ude00\u0000"}"#, "{\"fString\":\"é\\n\\\"\\\\/😀\\u0000\"}");
    for text in [r"\ud800", r"\ude00", r"\ud800\u0041", r"\ud800x", r"\x", r"\u12g4", "\n", "\u{1}"] {
        assert!(wire(KINDS, &format!(r#"{{"fString":"{text}"}}"#)).is_err(), "{text:?}");
    }
    let id = CODEC.message(KINDS).expect("message");
    let error = CODEC.json_to_wire(id, b"{\"fString\":\"\xff\"}").expect_err("not UTF-8");
    assert_eq!(error.to_string(), "not valid UTF-8");
}

#[test]
fn names_may_be_json_or_proto_but_only_once() {
    becomes(r#"{"f_int32":1,"alias_name":0}"#.replace(r#","alias_name":0"#, "").as_str(), r#"{"fInt32":1}"#);
    becomes(r#"{"aliasName":1}"#, r#"{"aliasName":1}"#);
    becomes(r#"{"renamed":1}"#, r#"{"aliasName":1}"#);
    refused(r#"{"fInt32":1,"f_int32":2}"#, "fInt32: given more than once");
    refused(r#"{"fInt32":null,"fInt32":2}"#, "fInt32: given more than once");
    refused(r#"{"nope":1}"#, "nope: unknown field");
    refused(r#"{"rMessage":[{},{"fMessage":{"nope":1}}]}"#, "rMessage[1].fMessage.nope: unknown field");
}

#[test]
fn null_leaves_a_field_unset_except_where_null_is_a_value() {
    becomes(r#"{"fInt32":null,"rInt32":null,"mInt32":null,"wString":null,"fMessage":null}"#, "{}");
    becomes(r#"{"wValue":null}"#, r#"{"wValue":null}"#);
    becomes(r#"{"cNull":null}"#, r#"{"cNull":null}"#);
    becomes(r#"{"cInt32":null,"cString":"x"}"#, r#"{"cString":"x"}"#);
    becomes(r#"{"rValue":[null],"mValue":{"a":null}}"#, r#"{"mValue":{"a":null},"rValue":[null]}"#);
    refused(r#"{"rInt32":[1,null]}"#, "rInt32[1]: expected int32, got null");
    refused(r#"{"mInt32":{"1":null}}"#, r#"mInt32["1"]: expected string, got null"#);
}

#[test]
fn a_oneof_takes_one_member() {
    refused(r#"{"cInt32":1,"cString":"x"}"#, r#"cString: another member of oneof "choice" is already set"#);
}

#[test]
fn map_keys_are_checked_and_unique() {
    becomes(
        r#"{"mInt32":{"-5":"a"},"mInt64":{"7":"8"},"mBool":{"true":1},"mFixed32":{"9":true},"mSint64":{"-1":"AA=="}}"#,
        r#"{"mInt32":{"-5":"a"},"mInt64":{"7":"8"},"mSint64":{"-1":"AA=="},"mFixed32":{"9":true},"mBool":{"true":"COLOR_RED"}}"#,
    );
    refused(r#"{"mInt32":{"1":"a","1":"b"}}"#, r#"mInt32["1"]: given more than once"#);
    refused(r#"{"mInt32":{"x":"a"}}"#, r#"mInt32["x"]: expected int32, got "x""#);
    refused(r#"{"mBool":{"1":1}}"#, r#"mBool["1"]: expected bool, got "1""#);
    refused(r#"{"mString":{"k":{"fInt32":"x"}}}"#, r#"mString["k"].fInt32: expected int32, got "x""#);
}

#[test]
fn timestamps_are_rfc_3339() {
    for (given, printed) in [
        ("1970-01-01T00:00:00Z", "1970-01-01T00:00:00Z"),
        ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00Z"),
        ("9999-12-31T23:59:59.999999999Z", "9999-12-31T23:59:59.999999999Z"),
        ("2024-02-29T12:00:00.5+02:00", "2024-02-29T10:00:00.500Z"),
        ("1969-12-31T23:59:59.000001Z", "1969-12-31T23:59:59.000001Z"),
    ] {
        becomes(&format!(r#"{{"wTimestamp":"{given}"}}"#), &format!(r#"{{"wTimestamp":"{printed}"}}"#));
    }
    for bad in [
        "1970-01-01T00:00:00",
        "1970-01-01 00:00:00Z",
        "1970-01-01t00:00:00z",
        "0000-12-31T23:59:59Z",
        "2023-02-29T00:00:00Z",
        "9999-12-31T23:59:59-01:00",
        "1970-01-01T24:00:00Z",
        "1970-01-01T00:00:60Z",
        "1970-01-01T00:00:00.Z",
        "1970-01-01T00:00:00.1234567890Z",
        "1970-13-01T00:00:00Z",
        "1970-00-10T00:00:00Z",
        "",
        "é970-01-01T00:00:00Z",
    ] {
        assert!(wire(KINDS, &format!(r#"{{"wTimestamp":"{bad}"}}"#)).is_err(), "{bad}");
    }
}

#[test]
fn durations_are_seconds() {
    for (given, printed) in [
        ("0s", "0s"),
        ("1.5s", "1.500s"),
        ("-0.000001s", "-0.000001s"),
        ("315576000000s", "315576000000s"),
        ("-1.000000001s", "-1.000000001s"),
    ] {
        becomes(&format!(r#"{{"wDuration":"{given}"}}"#), &format!(r#"{{"wDuration":"{printed}"}}"#));
    }
    for bad in
        ["1", "s", "1.s", ".5s", "1e3s", "315576000001s", "1.1234567890s", "+1s", "--1s", "99999999999999999999s"]
    {
        assert!(wire(KINDS, &format!(r#"{{"wDuration":"{bad}"}}"#)).is_err(), "{bad}");
    }
}

#[test]
fn a_null_value_is_null_whatever_its_number() {
    assert_eq!(print(KINDS, b"\x90\x01\x02").as_deref(), Ok("{}"));
    assert_eq!(print(KINDS, b"\xd0\x04\x02").as_deref(), Ok(r#"{"cNull":null}"#));
}

#[test]
fn field_masks_are_camel_case() {
    becomes(r#"{"wMask":"fooBar.baz,q1"}"#, r#"{"wMask":"fooBar.baz,q1"}"#);
    becomes(r#"{"wMask":""}"#, r#"{"wMask":""}"#);
    assert!(wire(KINDS, r#"{"wMask":"foo_bar"}"#).is_err());
    assert!(wire(KINDS, r#"{"wMask":"a,,b"}"#).is_err());
}

#[test]
fn struct_value_and_list_hold_any_json() {
    let json = r#"{"wStruct":{"a":[1,"x",null,true,{"b":{}}]},"wValue":[[]],"wList":[0.5,[]]}"#;
    becomes(json, json);
    refused(r#"{"wStruct":{"a":1,"a":2}}"#, r#"wStruct["a"]: given more than once"#);
    refused(r#"{"wValue":1e999}"#, "wValue: out of range for double: 1e999");
}

#[test]
fn any_takes_its_type_from_anywhere_in_the_object() {
    let url = "type.googleapis.com/test.kinds.Kinds";
    let expected = format!(r#"{{"wAny":{{"@type":"{url}","fInt32":1}}}}"#);
    becomes(&expected, &expected);
    becomes(&format!(r#"{{"wAny":{{"fInt32":1,"@type":"{url}"}}}}"#), &expected);
    let wrapped = r#"{"wAny":{"@type":"type.googleapis.com/google.protobuf.Duration","value":"1s"}}"#;
    becomes(wrapped, wrapped);
    let nested =
        format!(r#"{{"wAny":{{"@type":"type.googleapis.com/google.protobuf.Any","value":{{"@type":"{url}"}}}}}}"#);
    becomes(&nested, &nested);
    becomes(r#"{"wAny":{}}"#, r#"{"wAny":{}}"#);
    refused(r#"{"wAny":{"@type":"x/y"}}"#, r#"wAny: unknown type "x/y""#);
    refused(r#"{"wAny":{"a":1}}"#, r#"wAny: expected "@type", got no such key"#);
    refused(&format!(r#"{{"wAny":{{"@type":"{url}","@type":"{url}"}}}}"#), "wAny.@type: given more than once");
}

#[test]
fn wrappers_are_their_values() {
    becomes(r#"{"wDouble":"Infinity","wFloat":"NaN"}"#, r#"{"wDouble":"Infinity","wFloat":"NaN"}"#);
    let json = r#"{"wDouble":1.5,"wFloat":2,"wInt64":"3","wUint64":"4","wInt32":5,"wUint32":6,"wBool":false,"wString":"","wBytes":"AQ=="}"#;
    becomes(json, json);
}

#[test]
fn malformed_json_is_refused_with_its_place() {
    refused("", "malformed JSON at byte 0: expected object");
    refused("{", "malformed JSON at byte 1: expected a key");
    refused(r#"{"fInt32":1,}"#, "malformed JSON at byte 12: expected a key");
    refused(r#"{"fInt32":1}x"#, "malformed JSON at byte 12: expected the end");
    refused(r#"{"rInt32":[1,]}"#, "rInt32: malformed JSON at byte 13: expected a value");
    refused(r#"{"fString":"abc"#, "fString: malformed JSON at byte 12: expected the end of the string");
    refused("[]", "expected object, got an array");
    for text in [
        "{\"a\"}",
        "{\"fBool\":tru}",
        "{\"fBool\":truex}",
        "{\"fString\":\"",
        "nul",
        "{\"fInt32\" 1}",
        "{'fInt32':1}",
        "\0",
        "{}\0",
    ] {
        assert!(wire(KINDS, text).is_err(), "{text}");
    }
}

#[test]
fn nesting_is_bounded() {
    let nest = |n: usize, open: &str, close: &str| format!(r#"{{"wValue":{}1{}}}"#, open.repeat(n), close.repeat(n));
    for n in [10, 98] {
        assert!(wire(KINDS, &nest(n, "[", "]")).is_ok(), "{n}");
    }
    for n in [101, 100_000] {
        assert!(wire(KINDS, &nest(n, "[", "]")).expect_err("deep").contains("nested too deeply"), "{n}");
        assert!(wire(KINDS, &nest(n, r#"{"a":"#, "}")).expect_err("deep").contains("nested too deeply"), "{n}");
    }
    let deep = format!("{}{}", r#"{"fMessage":"#.repeat(1000), "}".repeat(1000));
    assert!(wire(KINDS, &deep).expect_err("deep").contains("nested too deeply"));
    let any = format!(r#"{{"wAny":{{"a":{}1{}}}}}"#, "[".repeat(1000), "]".repeat(1000));
    assert!(wire(KINDS, &any).expect_err("deep").contains("nested too deeply"));
    // On the wire: field 17 inside field 17, from the inside out.
    let mut message = Vec::new();
    for _ in 0..1000 {
        let mut outer = vec![0x8a, 0x01];
        prost::encoding::encode_varint(message.len() as u64, &mut outer);
        outer.extend(&message);
        message = outer;
    }
    assert!(print(KINDS, &message).expect_err("deep").contains("nested too deeply"));
    assert!(print(KINDS, &[0x0b].repeat(100_000)).is_err());
}

#[test]
fn hostile_wire_bytes_are_errors() {
    for bytes in [
        &b"\x08"[..],
        b"\x72\x05ab",
        b"\x72\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        b"\x00",
        b"\x07",
        b"\x0c",
        b"\x0b",
        b"\x72\x01\xff",
        b"\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01",
        b"\x0b\x14",
        b"\xfa\xff\xff\xff\xff\x01\x00",
        b"\xca\x02\x03\x01\x02\x03",
        b"\x70\x01",
    ] {
        assert!(print(KINDS, bytes).is_err(), "{bytes:?}");
    }
    // What the message does not know is skipped, groups too.
    assert_eq!(print(KINDS, b"\xc3\x3e\x08\x01\xc4\x3e\x18\x05").as_deref(), Ok(r#"{"fInt32":5}"#));
}

#[test]
fn fields_may_come_in_any_order_and_more_than_once() {
    let cases: [(&[u8], &str); 9] = [
        // The last of a scalar counts.
        (b"\x18\x01\x18\x02", r#"{"fInt32":2}"#),
        (b"\x20\x01\x18\x02", r#"{"fInt32":2,"fInt64":"1"}"#),
        // Zero is unset where there is no presence, also when it comes last.
        (b"\x18\x01\x18\x00", "{}"),
        // Lists are collected, packed or not.
        (b"\xd8\x02\x01\x18\x07\xda\x02\x02\x02\x03\xd8\x02\x04", r#"{"fInt32":7,"rInt32":[1,2,3,4]}"#),
        // Messages merge.
        (b"\x8a\x01\x02\x18\x01\x18\x07\x8a\x01\x02\x20\x02", r#"{"fInt32":7,"fMessage":{"fInt32":1,"fInt64":"2"}}"#),
        // The last member of a oneof clears the others.
        (b"\xb8\x04\x05\xc2\x04\x01x", r#"{"cString":"x"}"#),
        (b"\xca\x04\x02\x18\x01\xc2\x04\x01x\xca\x04\x02\x20\x02", r#"{"cMessage":{"fInt64":"2"}}"#),
        // Also in a timestamp, and only the last one's wire type.
        (b"\x8a\x05\x07\x0d\x00\x00\x00\x00\x08\x01", r#"{"wTimestamp":"1970-01-01T00:00:01Z"}"#),
        // The last value of a map key counts.
        (b"\xea\x03\x05\x08\x01\x12\x01a\xea\x03\x05\x08\x01\x12\x01b", r#"{"mInt32":{"1":"b"}}"#),
    ];
    for (bytes, expected) in cases {
        assert_eq!(print(KINDS, bytes).as_deref(), Ok(expected), "{bytes:x?}");
    }
}

#[test]
fn a_hostile_order_at_every_level_costs_no_exponential_time() {
    // At each level the nested message comes first and a smaller field number after it.
    let mut message = Vec::new();
    for _ in 0..90 {
        let mut outer = vec![0x8a, 0x01];
        prost::encoding::encode_varint(message.len() as u64, &mut outer);
        outer.extend(&message);
        outer.extend(b"\x18\x01");
        message = outer;
    }
    let started = std::time::Instant::now();
    assert!(print(KINDS, &message).is_ok());
    assert!(started.elapsed() < std::time::Duration::from_secs(1));
}

#[test]
fn proto2_has_presence_groups_and_extensions() {
    let legacy = "test.legacy.Legacy";
    let json =
        r#"{"id":0,"name":"","numbers":[1,2],"item":[{"label":"a","nested":{"id":1}}],"[test.legacy.note]":"n"}"#;
    let bytes = wire(legacy, json).expect("valid");
    assert_eq!(print(legacy, &bytes).as_deref(), Ok(json));
    let descriptor = POOL.get_message_by_name(legacy).expect("message");
    let decoded = DynamicMessage::decode(descriptor.clone(), bytes.as_slice()).expect("valid protobuf");
    let oracle =
        DynamicMessage::deserialize(descriptor, serde_json::from_str::<Value>(json).expect("JSON")).expect("valid");
    assert_eq!(decoded, oracle);
}

#[test]
fn always_printed_fields_come_in_order() {
    let codec = Codec::new(&POOL).always_print_fields(true);
    let id = codec.message(KINDS).expect("message");
    let bytes = wire(KINDS, r#"{"fBool":true,"rInt32":[1],"aliasName":3,"fMessage":{"cInt32":0}}"#).expect("valid");
    let mut out = Vec::new();
    codec.wire_to_json(id, &bytes, &mut out).expect("printable");
    let descriptor = POOL.get_message_by_name(KINDS).expect("message");
    let message = DynamicMessage::decode(descriptor, bytes.as_slice()).expect("valid");
    let options = SerializeOptions::new().skip_default_fields(false);
    let oracle = message.serialize_with_options(serde_json::value::Serializer, &options).expect("JSON");
    // prost-reflect prints unset fields that have presence as null or default; ProtoJSON leaves them out.
    let ours: Value = serde_json::from_slice(&out).expect("JSON");
    let (ours, oracle) = (ours.as_object().expect("object"), oracle.as_object().expect("object"));
    for (key, value) in ours.iter().filter(|(k, _)| *k != "fMessage") {
        assert_eq!(Some(&normal(value)), oracle.get(key).map(normal).as_ref(), "{key}");
    }
    for implicit in ["fDouble", "fInt64", "fString", "fBytes", "fEnum", "rString", "mString"] {
        assert!(ours.contains_key(implicit), "{implicit}");
    }
    for explicit in ["oInt32", "cString", "wString", "wTimestamp"] {
        assert!(!ours.contains_key(explicit), "{explicit}");
    }
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
