//! The suite's `ProtobufInput` cases: every kind of value in every place, and malformed bytes. What is well-formed must
//! be printed exactly, and be read back as what prost-reflect makes of the canonical bytes.

use super::Subject;
use super::values::{Values, group, len, sized, tag, values, varint};

/// What reads as unset where there is no presence.
fn is_zero(json: &str) -> bool {
    ["0", "\"0\"", "false", "\"\"", "\"FOO\""].contains(&json)
}

impl Subject {
    fn number(&self, field: &str) -> u32 {
        self.descriptor.get_field_by_name(field).unwrap_or_else(|| panic!("{field}")).number()
    }

    /// Printed exactly, and read back as the oracle reads the bytes themselves.
    #[track_caller]
    fn prints(&self, wire: &[u8], json: &str) {
        assert_eq!(self.print(wire).as_deref(), Ok(json), "{wire:x?}");
        let again = self.strict.json_to_wire(self.id, json.as_bytes()).unwrap_or_else(|e| panic!("{e}: {json}"));
        let read = self.decode(&again).and_then(|again| super::equal("second reading", &again, &self.decode(wire)?));
        assert_eq!(read, Ok(()), "{wire:x?} {json}");
    }

    #[track_caller]
    fn refuses(&self, wire: &[u8]) {
        assert!(self.print(wire).is_err(), "{wire:x?}");
    }
}

fn subjects() -> impl Iterator<Item = (bool, Subject)> {
    let names = [(true, "three"), (false, "two"), (true, "three_editions"), (false, "two_editions")];
    names.into_iter().map(|(implicit, name)| (implicit, Subject::new(name)))
}

/// `optional_int32` → `optionalInt32`.
fn camel(name: &str) -> String {
    let mut words = name.split('_');
    let first = words.next().unwrap_or_default().to_owned();
    words.fold(first, |sum, w| sum + &w[..1].to_uppercase() + &w[1..])
}

#[test]
fn every_kind_as_a_single_value() {
    for (implicit, subject) in subjects() {
        for Values { kind, wire_type, values } in values() {
            let field = format!("optional_{kind}");
            let key = tag(subject.number(&field), wire_type);
            let shown = |json: &str| format!("{{\"{}\":{json}}}", camel(&field));
            for (wire, json) in &values {
                let unset = implicit && is_zero(json);
                subject.prints(&[key.clone(), wire.clone()].concat(), &if unset { "{}".into() } else { shown(json) });
            }
            // The last of several counts; messages merge, which has a test of its own.
            let all: Vec<u8> = values.iter().flat_map(|(wire, _)| [key.clone(), wire.clone()].concat()).collect();
            subject.prints(&all, &shown(values.last().expect("values").1));
        }
    }
}

#[test]
fn every_kind_in_lists_packed_or_not() {
    for (_, subject) in subjects() {
        for Values { kind, wire_type, values } in values() {
            for prefix in ["repeated", "packed", "unpacked"] {
                let field = format!("{prefix}_{kind}");
                if subject.descriptor.get_field_by_name(&field).is_none() {
                    assert_eq!(wire_type, 2, "{field}");
                    continue;
                }
                let number = subject.number(&field);
                let shown: Vec<&str> = values.iter().map(|(_, json)| *json).collect();
                let shown = format!("{{\"{}\":[{}]}}", camel(&field), shown.join(","));
                let key = tag(number, wire_type);
                let single: Vec<u8> = values.iter().flat_map(|(w, _)| [key.clone(), w.clone()].concat()).collect();
                subject.prints(&single, &shown);
                if wire_type != 2 {
                    let run: Vec<u8> = values.iter().flat_map(|(w, _)| w.clone()).collect();
                    subject.prints(&len(number, &run), &shown);
                }
            }
        }
    }
}

/// Zero and another value of a kind, with their wire type and JSON.
fn zero_and_one(kind: &str) -> (u8, Vec<u8>, Vec<u8>, &'static str, &'static str) {
    let fixed = |n: usize, one: &[u8]| {
        let mut bytes = vec![0; n];
        bytes[..one.len()].copy_from_slice(one);
        bytes
    };
    match kind {
        "int32" | "uint32" => (0, vec![0], vec![1], "0", "1"),
        "int64" | "uint64" => (0, vec![0], vec![1], "\"0\"", "\"1\""),
        "sint32" => (0, vec![0], vec![2], "0", "1"),
        "sint64" => (0, vec![0], vec![2], "\"0\"", "\"1\""),
        "fixed32" | "sfixed32" => (5, vec![0; 4], fixed(4, &[1]), "0", "1"),
        "fixed64" | "sfixed64" => (1, vec![0; 8], fixed(8, &[1]), "\"0\"", "\"1\""),
        "float" => (5, vec![0; 4], 1f32.to_le_bytes().to_vec(), "0", "1"),
        "double" => (1, vec![0; 8], 1f64.to_le_bytes().to_vec(), "0", "1"),
        "bool" => (0, vec![0], vec![1], "false", "true"),
        "string" => (2, vec![0], sized(b"a"), "\"\"", "\"a\""),
        "bytes" => (2, vec![0], sized(b"a"), "\"\"", "\"YQ==\""),
        "nested_enum" | "enum" => (0, vec![0], vec![1], "\"FOO\"", "\"BAR\""),
        _ => (2, vec![0], sized(b"\x08\xd2\x09"), "{}", "{\"a\":1234}"),
    }
}

#[test]
fn maps_with_every_kind_of_key_and_value() {
    let same = "int32 int64 uint32 uint64 sint32 sint64 fixed32 fixed64 sfixed32 sfixed64 bool string";
    let mut pairs: Vec<(&str, &str)> = same.split(' ').map(|k| (k, k)).collect();
    pairs.extend([("int32", "float"), ("int32", "double")]);
    pairs.extend([("string", "bytes"), ("string", "nested_enum"), ("string", "nested_message")]);
    for (_, subject) in subjects() {
        for (key_kind, value_kind) in &pairs {
            let field = format!("map_{key_kind}_{value_kind}");
            let number = subject.number(&field);
            let (key_type, key0, key1, key0_json, key1_json) = zero_and_one(key_kind);
            let (value_type, value0, value1, value0_json, value1_json) = zero_and_one(value_kind);
            let key = |k: &[u8]| [tag(1, key_type), k.to_vec()].concat();
            let value = |v: &[u8]| [tag(2, value_type), v.to_vec()].concat();
            let shown = |k: &str, v: &str| format!("{{\"{}\":{{\"{}\":{v}}}}}", camel(&field), k.trim_matches('"'));
            let entry = |parts: &[Vec<u8>]| len(number, &parts.concat());
            let (k0, k1, v0, v1) = (key(&key0), key(&key1), value(&value0), value(&value1));
            subject.prints(&entry(&[k0.clone(), v0.clone()]), &shown(key0_json, value0_json));
            subject.prints(&entry(&[]), &shown(key0_json, value0_json));
            subject.prints(&entry(&[k1.clone(), v1.clone()]), &shown(key1_json, value1_json));
            subject.prints(&entry(&[v1.clone(), k1.clone()]), &shown(key1_json, value1_json));
            let twice = [entry(&[k1.clone(), v0.clone()]), entry(&[k1.clone(), v1.clone()])].concat();
            subject.prints(&twice, &shown(key1_json, value1_json));
            subject.prints(&entry(&[k0, k1.clone(), v1.clone()]), &shown(key1_json, value1_json));
            subject.prints(&entry(&[k1, v0, v1]), &shown(key1_json, value1_json));
        }
        // A later entry replaces an earlier one, also where the values are messages.
        let inner = |submessage: &[u8]| len(2, &len(2, submessage));
        let number = subject.number("map_string_nested_message");
        let entry = |submessage: &[u8]| len(number, &[len(1, b""), inner(submessage)].concat());
        subject.prints(
            &[entry(b"\x08\x01\xf8\x01\x01"), entry(b"\x10\x01\xf8\x01\x01")].concat(),
            r#"{"mapStringNestedMessage":{"":{"corecursive":{"optionalInt64":"1","repeatedInt32":[1]}}}}"#,
        );
        // Inside one entry, values that are messages merge.
        subject.prints(
            &len(number, &[inner(b"\x08\x01"), inner(b"\x10\x01")].concat()),
            r#"{"mapStringNestedMessage":{"":{"corecursive":{"optionalInt32":1,"optionalInt64":"1"}}}}"#,
        );
    }
}

#[test]
fn oneofs_of_every_kind() {
    let kinds = ["uint32", "bool", "uint64", "float", "double", "string", "bytes", "enum", "nested_message"];
    for (_, subject) in subjects() {
        for kind in kinds {
            let field = format!("oneof_{kind}");
            let (wire_type, zero, one, zero_json, one_json) = zero_and_one(kind);
            let key = tag(subject.number(&field), wire_type);
            let (zero, one) = ([key.clone(), zero].concat(), [key, one].concat());
            let shown = |json: &str| format!("{{\"{}\":{json}}}", camel(&field));
            subject.prints(&zero, &shown(zero_json));
            subject.prints(&one, &shown(one_json));
            subject.prints(&[zero, one.clone()].concat(), &shown(one_json));
            let other =
                if kind == "uint32" { len(subject.number("oneof_string"), b"") } else { b"\xf8\x06\x00".to_vec() };
            subject.prints(&[other, one].concat(), &shown(one_json));
        }
    }
}

#[test]
fn repeated_singular_messages_merge() {
    for (_, subject) in subjects() {
        let nested = |field: &str, submessage: &[u8]| len(subject.number(field), &len(2, submessage));
        let number = |field: &str, value: &[u8]| [tag(subject.number(field), 0), value.to_vec()].concat();
        for field in ["optional_nested_message", "oneof_nested_message"] {
            let first = [number("optional_int32", b"\xd2\x09"), number("optional_int64", b"\xd2\x09")];
            let second = [number("optional_int32", b"\xe1\x21"), number("optional_uint32", b"\xe1\x21")];
            let list = |v: &[u8]| number("repeated_int32", v);
            subject.prints(
                &[
                    nested(field, &[first.concat(), list(b"\xd2\x09")].concat()),
                    nested(field, &[second.concat(), list(b"\xe1\x21")].concat()),
                ]
                .concat(),
                &format!(
                    "{{\"{}\":{{\"corecursive\":{{\"optionalInt32\":4321,\"optionalInt64\":\"1234\",\"optionalUint32\":4321,\"repeatedInt32\":[1234,4321]}}}}}}",
                    camel(field)
                ),
            );
        }
        // What is unknown has no JSON.
        subject.prints(b"\xa8\x1f\x01", "{}");
        subject.prints(
            &[len(666, b"abc"), number("optional_int32", b"\x01"), group(667, b"\x08\x01")].concat(),
            r#"{"optionalInt32":1}"#,
        );
    }
}

#[test]
fn values_that_break_off_are_refused() {
    for (_, subject) in subjects() {
        for Values { kind, wire_type, .. } in values() {
            let incomplete: &[u8] = match wire_type {
                1 => b"abcdefg",
                5 => b"abc",
                _ => b"\x80",
            };
            let numbers =
                [subject.number(&format!("optional_{kind}")), subject.number(&format!("repeated_{kind}")), 666];
            for number in numbers {
                subject.refuses(&tag(number, wire_type));
                subject.refuses(&[tag(number, wire_type), incomplete.to_vec()].concat());
                subject.refuses(&[tag(number, 2), varint(1)].concat());
            }
            if wire_type != 2 {
                subject.refuses(&len(numbers[1], incomplete));
            }
        }
        subject.refuses(&len(subject.number("optional_nested_message"), b"\x08\x80"));
    }
}

#[test]
fn illegal_tags_wire_types_and_groups_are_refused() {
    let start = |number| tag(number, 3);
    let end = |number| tag(number, 4);
    let hello = len(2, b"hello world");
    let mut cases = vec![
        // Field number zero.
        b"\x01DEADBEEF".to_vec(),
        b"\x02\x01\x01".to_vec(),
        b"\x03\x04".to_vec(),
        b"\x05DEAD".to_vec(),
        // Far too high, just too high, longer than a tag may be, longer than a varint may be.
        b"\x88\x80\x80\x80\x80\x80\x0f\xd2\x09".to_vec(),
        b"\x88\x80\x80\x80\x40\xd2\x09".to_vec(),
        b"\x88\x80\x80\x80\x80\x80\x80\x80\x00\xd2\x09".to_vec(),
        b"\x88\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x00\xd2\x09".to_vec(),
        end(201),
        end(1234),
        end(1),
        len(18, &end(1234)),
        group(201, &end(202)),
        [end(1), hello.clone()].concat(),
        start(201),
        start(1234),
        start(1),
        len(18, &start(1234)),
        group(201, &start(202)),
        [start(1), hello.clone()].concat(),
        [start(201), hello.clone(), end(203)].concat(),
        [start(201), start(202), hello.clone(), end(201), end(202)].concat(),
        [start(1234), start(202), end(201)].concat(),
    ];
    for wire_type in [6, 7] {
        for number in 0..4 {
            cases.extend((0..4).map(|value| vec![number << 3 | wire_type, value]));
        }
    }
    for (_, subject) in subjects() {
        for case in &cases {
            subject.refuses(case);
        }
    }
}

#[test]
fn strings_that_are_not_utf8_are_refused() {
    let bad = b"\xa0\xb0\xc0\xd0";
    for (_, subject) in subjects() {
        let field = |name: &str, bytes: &[u8]| len(subject.number(name), bytes);
        subject.refuses(&field("optional_string", bad));
        subject.refuses(&field("repeated_string", bad));
        subject.refuses(&field("oneof_string", bad));
        subject.refuses(&field("map_string_string", &[len(1, bad), len(2, b"foo")].concat()));
        subject.refuses(&field("map_string_string", &[len(1, b"foo"), len(2, bad)].concat()));
        subject.prints(&field("optional_bytes", bad), r#"{"optionalBytes":"oLDA0A=="}"#);
    }
    let two = Subject::new("two");
    two.refuses(&len(133, bad));
    two.prints(&len(134, bad), r#"{"[conformance.two.extension_bytes]":"oLDA0A=="}"#);
}
