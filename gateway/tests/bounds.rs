//! Hostile input, both ways. What took more than linear time or unbounded depth would hang here or overflow the stack.

mod support;

use std::sync::LazyLock;

use prost_reflect::DescriptorPool;
use rialto_gateway::codec::Codec;

static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| support::pool(&["kinds.proto", "legacy.proto"]));
static CODEC: LazyLock<Codec> = LazyLock::new(|| Codec::new(&POOL));
static LENIENT: LazyLock<Codec> = LazyLock::new(|| Codec::new(&POOL).ignore_unknown_fields(true));
const KINDS: &str = "test.kinds.Kinds";
const LEGACY: &str = "test.legacy.Legacy";
const MANY: usize = 200_000;

fn read_with(codec: &Codec, json: &str) -> Result<Vec<u8>, String> {
    codec.json_to_wire(codec.message(KINDS).expect("message"), json.as_bytes()).map_err(|e| e.to_string())
}

fn read(json: &str) -> Result<Vec<u8>, String> {
    read_with(&CODEC, json)
}

fn print(message: &str, wire: &[u8]) -> Result<String, String> {
    let mut out = Vec::new();
    CODEC.wire_to_json(CODEC.message(message).expect("message"), wire, &mut out).map_err(|e| e.to_string())?;
    Ok(String::from_utf8(out).expect("UTF-8"))
}

#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T, String>, end: &str) {
    let error = result.expect_err(end);
    assert!(error.ends_with(end), "{error}");
    assert!(error.len() < 2_000, "{} bytes of error", error.len());
}

fn len(number: u32, bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    prost::encoding::encode_varint(u64::from(number) << 3 | 2, &mut out);
    prost::encoding::encode_varint(bytes.len() as u64, &mut out);
    out.extend(bytes);
    out
}

#[test]
fn numbers_of_very_many_digits() {
    let digits = "9".repeat(MANY);
    let zeros = "0".repeat(MANY);
    for field in ["fInt32", "fInt64", "fUint64", "fDouble", "fFloat", "fEnum", "wInt64", "wValue"] {
        assert!(read(&format!(r#"{{"{field}":{digits}}}"#)).is_err(), "{field}");
        assert!(read(&format!(r#"{{"{field}":1e{digits}}}"#)).is_err(), "{field}");
    }
    refused(read(&format!(r#"{{"mInt32":{{"{digits}":""}}}}"#)), "…");
    refused(read(&format!(r#"{{"wDuration":"{digits}s"}}"#)), "…");
    refused(read(&format!(r#"{{"wTimestamp":"1970-01-01T00:00:00.{digits}Z"}}"#)), "…");
    refused(read(&format!(r#"{{"fInt32":0.{digits}}}"#)), "…");
    assert_eq!(
        read(&format!(r#"{{"fInt32":1{zeros}e-{MANY},"fInt64":0e{digits}}}"#)),
        read(r#"{"fInt32":1,"fInt64":0}"#)
    );
    assert_eq!(read(&format!(r#"{{"fDouble":1e-{digits},"fInt32":1.{zeros}}}"#)), read(r#"{"fDouble":0,"fInt32":1}"#));
    for exponent in ["1e999999999", "-1e999999999", "1e99999999999999999999", "123456789e2147483647"] {
        for field in ["fInt32", "fUint64", "fDouble", "fFloat"] {
            assert!(read(&format!(r#"{{"{field}":{exponent}}}"#)).is_err(), "{field} {exponent}");
        }
    }
}

#[test]
fn json_of_any_depth() {
    let too_deep = "nested too deeply";
    for (begin, open) in [
        (r#"{"wStruct":"#, r#"{"a":"#),
        (r#"{"wValue":"#, "["),
        (r#"{"wValue":"#, r#"[{"a":"#),
        (r#"{"wList":"#, "["),
        ("", r#"{"fMessage":"#),
        ("", r#"{"mString":{"":"#),
        ("", r#"{"rMessage":["#),
        (r#"{"wAny":"#, r#"{"@type":"x/google.protobuf.Any","value":"#),
        (r#"{"wAny":"#, r#"{"value":"#),
    ] {
        refused(read(&format!("{begin}{}", open.repeat(MANY / 10))), too_deep);
    }
    for open in ["[", r#"{"a":"#] {
        refused(read_with(&LENIENT, &format!(r#"{{"nope":{}"#, open.repeat(MANY))), too_deep);
    }
}

#[test]
fn json_of_many_members() {
    let elements = "1,".repeat(MANY) + "1";
    assert_eq!(read(&format!(r#"{{"rInt32":[{elements}]}}"#)).map(|w| w.len()), Ok(MANY + 1 + 5));
    assert!(read(&format!(r#"{{"wList":[{elements}]}}"#)).is_ok());
    let entries: String = (0..MANY).map(|i| format!(r#""{i}":"","#)).collect();
    let entries = entries.trim_end_matches(',');
    assert!(read(&format!(r#"{{"mInt32":{{{entries}}}}}"#)).is_ok());
    refused(read(&format!(r#"{{"mInt32":{{{entries},"0":""}}}}"#)), "given more than once");
    assert!(read_with(&LENIENT, &format!(r#"{{"nope":{{{entries}}}}}"#)).is_ok());
    refused(read(&format!(r#"{{"fString":"{}"#, r"\n".repeat(MANY))), "expected the end of the string");
    assert!(read(&format!(r#"{{"fString":"{}"}}"#, r"\ud83d\ude01".repeat(MANY / 10))).is_ok());
    let paths = "a.b,".repeat(MANY / 10) + "c";
    assert!(read(&format!(r#"{{"wMask":"{paths}"}}"#)).is_ok());
}

#[test]
fn looking_ahead_for_the_type_of_an_any_is_bounded() {
    let nested = |times: usize, inner: &str| {
        let (open, close) = (r#"{"value":"#.repeat(times), r#","@type":"x/google.protobuf.Any"}"#.repeat(times));
        format!(r#"{{"wAny":{open}{inner}{close}}}"#)
    };
    let inner = format!(r#"{{"rInt32":[{}1],"@type":"x/test.kinds.Kinds"}}"#, "1,".repeat(MANY / 10));
    assert!(read(&nested(3, &inner)).is_ok());
    refused(read(&nested(90, &inner)), "nested too deeply");
    // Where the type comes first, nothing is read twice.
    let first =
        format!(r#"{{"wAny":{}{{}}{}}}"#, r#"{"@type":"x/google.protobuf.Any","value":"#.repeat(90), "}".repeat(90));
    assert!(read(&first).is_ok());
}

#[test]
fn wire_of_any_depth() {
    type Wrap<'a> = &'a dyn Fn(&[u8]) -> Vec<u8>;
    // A level is prepended to what is inside: from the innermost outwards.
    let nest = |wrap: Wrap, times: usize| (0..times).fold(Vec::new(), |inner, _| wrap(&inner));
    let any = |inner: &[u8]| [len(1, b"x/google.protobuf.Any"), len(2, inner)].concat();
    let levels: [(&str, Wrap); 5] = [
        ("messages", &|inner| len(17, inner)),
        ("lists", &|inner| len(86, &len(1, &len(6, inner)))),
        ("map values", &|inner| len(67, &len(2, inner))),
        ("any", &|inner| len(87, &any(inner))),
        ("structs", &|inner| len(84, &len(1, &len(2, &len(5, inner))))),
    ];
    for (name, wrap) in levels {
        assert!(print(KINDS, &nest(wrap, 40)).is_ok() || name == "lists" || name == "structs", "{name}");
        let _ = print(KINDS, &nest(wrap, 2_000));
    }
    refused(print(KINDS, &nest(&|inner| len(17, inner), 2_000)), "nested too deeply");
    // Values in values: a list or a struct has fields of another number than the message around it.
    let value = |inner: &[u8]| len(6, &len(1, inner));
    refused(print(KINDS, &len(85, &nest(&value, 2_000))), "nested too deeply");
    let value = |inner: &[u8]| len(5, &len(1, &len(2, inner)));
    refused(print(KINDS, &len(85, &nest(&value, 2_000))), "nested too deeply");
    refused(print(KINDS, &len(87, &nest(&any, 2_000))), "nested too deeply");
    // Groups, known and unknown, closed and not.
    let group = |inner: &[u8]| [b"\x23\x32".to_vec(), len(0, inner)[1..].to_vec(), b"\x24".to_vec()].concat();
    refused(print(LEGACY, &nest(&group, 500)), "nested too deeply");
    for open in [&b"\x23"[..], b"\xa3\x1f", b"\x33"] {
        refused(print(LEGACY, &open.repeat(MANY)), "nested too deeply");
        assert!(print(LEGACY, open).is_err());
    }
    assert_eq!(print(LEGACY, &b"\xa3\x1f\xa4\x1f".repeat(MANY)).as_deref(), Ok("{}"));
}

#[test]
fn wire_that_lies_about_its_size() {
    for wire in [
        &b"\x72\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"[..],
        b"\x72\xff\xff\xff\xff\x7f",
        b"\xda\x02\xff\xff\xff\xff\x0fabc",
        b"\x8a\x01\x05\x72\x05abc",
        b"\xea\x03\x02\x08",
    ] {
        assert!(print(KINDS, wire).is_err(), "{wire:x?}");
    }
}

#[test]
fn wire_of_many_values() {
    let packed = len(53, &vec![1; MANY]);
    assert_eq!(print(KINDS, &packed).map(|j| j.len()), Ok(r#"{"rBool":[]}"#.len() + MANY * 5 - 1));
    // Entries without key and value are one entry; so are those of one key.
    assert_eq!(print(KINDS, &len(61, b"").repeat(MANY)).as_deref(), Ok(r#"{"mInt32":{"0":""}}"#));
    assert_eq!(print(KINDS, &len(61, b"\x08\x05").repeat(MANY)).as_deref(), Ok(r#"{"mInt32":{"5":""}}"#));
    // An entry with many values, which merge.
    let entry = len(67, &len(2, b"\x18\x01").repeat(MANY / 10));
    assert_eq!(print(KINDS, &entry).as_deref(), Ok(r#"{"mString":{"":{"fInt32":1}}}"#));
    // Singular fields given again and again, in turn, merge or replace each other.
    let turns = [len(17, b"\x18\x01"), b"\x18\x02".to_vec(), len(72, b"x"), b"\xb8\x04\x05".to_vec()].concat();
    assert_eq!(
        print(KINDS, &turns.repeat(MANY / 10)).as_deref(),
        Ok(r#"{"fInt32":2,"fMessage":{"fInt32":1},"cInt32":5}"#)
    );
    let structs = len(85, &len(5, &len(1, b"\x0a\x01a\x12\x02\x08\x00")).repeat(MANY / 10));
    assert_eq!(print(KINDS, &structs).as_deref(), Ok(r#"{"wValue":{"a":null}}"#));
    let timestamps = len(81, &b"\x08\x01\x10\x02".repeat(MANY));
    assert_eq!(print(KINDS, &timestamps).as_deref(), Ok(r#"{"wTimestamp":"1970-01-01T00:00:01.000000002Z"}"#));
    assert_eq!(
        print(KINDS, &len(83, &len(1, b"a").repeat(MANY))).map(|j| j.len()),
        Ok(r#"{"wMask":""}"#.len() + 2 * MANY - 1)
    );
}

#[test]
fn merging_at_every_level_stays_linear() {
    // Each level is given in two halves, the second of which alone goes deeper.
    let wire =
        (0..95).fold(vec![0x18, 1], |inner, _| [len(17, b"\x20\x01"), b"\x18\x01".to_vec(), len(17, &inner)].concat());
    assert!(print(KINDS, &wire).is_ok());
}
