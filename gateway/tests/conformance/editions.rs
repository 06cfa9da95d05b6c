//! Features of editions, as far as they decide about wire or JSON.

use prost_reflect::Cardinality;
use rialto_gateway::descriptor_pool;

use super::{EDITIONS, Subject};

fn features() -> Subject {
    Subject::of(&EDITIONS, "conformance.features.Features")
}

/// JSON to exactly these wire bytes, and back to the same JSON.
#[track_caller]
fn both_ways(subject: &Subject, json: &str, wire: &[u8]) {
    let ours = subject.strict.json_to_wire(subject.id, json.as_bytes()).unwrap_or_else(|e| panic!("{e}: {json}"));
    assert_eq!(ours, wire, "{json}");
    assert_eq!(subject.print(wire).as_deref(), Ok(json));
    assert!(subject.decode(wire).is_ok(), "{json}");
}

#[test]
fn presence_is_explicit_implicit_or_required() {
    let f = features();
    both_ways(
        &f,
        r#"{"explicit":0,"required":0,"open":"OPEN_ZERO","closed":"CLOSED_ZERO"}"#,
        b"\x08\0\x18\0\x60\0\x68\0",
    );
    assert_eq!(f.print(b"\x08\0\x10\0\x18\0").as_deref(), Ok(r#"{"explicit":0,"required":0}"#));
    let required = f.descriptor.get_field_by_name("required").expect("field");
    assert_eq!(required.cardinality(), Cardinality::Required);
}

#[test]
fn delimited_messages_are_groups_and_maps_are_not() {
    let f = features();
    both_ways(&f, r#"{"group":{"number":1}}"#, b"\x23\x08\x01\x24");
    both_ways(&f, r#"{"otherName":{"number":1}}"#, b"\x2b\x08\x01\x2c");
    both_ways(&f, r#"{"groups":[{},{"number":1}]}"#, b"\x33\x34\x33\x08\x01\x34");
    both_ways(&f, r#"{"prefixed":{"explicit":1}}"#, b"\x3a\x02\x08\x01");
    both_ways(&f, r#"{"map":{"a":{"number":1}}}"#, b"\x42\x07\x0a\x01a\x12\x02\x08\x01");
    both_ways(&f, r#"{"picked":{"number":1}}"#, b"\x7b\x08\x01\x7c");
    both_ways(&f, r#"{"[conformance.features.extended]":{"number":1}}"#, b"\xa3\x06\x08\x01\xa4\x06");
    // Length-prefixed instead: as lenient as for a group of proto2.
    assert_eq!(f.print(b"\x22\x02\x08\x01").as_deref(), Ok(r#"{"group":{"number":1}}"#));
    assert!(f.print(b"\x23\x08\x01").is_err());
}

#[test]
fn lists_are_packed_unless_expanded() {
    let f = features();
    both_ways(&f, r#"{"packed":[1,2]}"#, b"\x4a\x02\x01\x02");
    both_ways(&f, r#"{"expanded":[1,2]}"#, b"\x50\x01\x50\x02");
    both_ways(&f, r#"{"[conformance.features.numbers]":[1,2]}"#, b"\xa8\x06\x01\xa8\x06\x02");
}

#[test]
fn enums_keep_unknown_numbers_and_strings_are_utf8_whatever_the_features_say() {
    let f = features();
    both_ways(&f, r#"{"open":7,"closed":7}"#, b"\x60\x07\x68\x07");
    assert_eq!(f.print(b"\x5a\x01\xff").map_err(|e| e.to_string()), Err("unchecked: not valid UTF-8".to_owned()));
}

#[test]
fn a_closed_enum_may_begin_with_any_number() {
    let odd = Subject::of(&EDITIONS, "conformance.odd.Odd");
    both_ways(&odd, r#"{"closed":"CLOSED_ONE","number":0,"numbers":[1,2]}"#, b"\x08\x01\x10\0\x1a\x02\x01\x02");
}

#[test]
fn what_cannot_be_expressed_is_refused_by_name() {
    // A file of edition 2023 with a field of implicit presence and an enum whose first number is 1.
    let both = super::case::hex(
        "0a610a0a626f74682e70726f746f1210636f6e666f726d616e63652e626f7468221b0a04426f746812130a01611801200128\
         054205aa010208025201612a170a06436c6f73656412070a034f4e4510011a043a021002620865646974696f6e7370e807",
    );
    let error = descriptor_pool(&both).expect_err("refused").to_string();
    assert_eq!(error, "both.proto: implicit presence together with an enum that does not begin with zero");
    let later = both.iter().map(|b| if *b == 0xe8 { 0xea } else { *b }).collect::<Vec<_>>();
    let error = descriptor_pool(&later).expect_err("refused").to_string();
    assert_eq!(error, "both.proto: neither edition 2023 nor 2024");
    assert!(descriptor_pool(b"\x0a\xff").is_err());
}
