//! Protobuf's conformance cases for JSON, as data: every `JsonInput`, `JsonOutput` and `ProtobufInput` case of its
//! suite that a JSON transcoder can have an opinion on, and some of our own. `cases/*.txt` say how they are written.

#[path = "../support/mod.rs"]
mod support;

mod binary;
mod case;
mod editions;
mod nesting;
mod values;

use std::sync::LazyLock;

use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor};
use rialto_gateway::codec::{Codec, MessageId};

use case::Case;

static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/conformance");
    let files = ["three.proto", "two.proto"].map(|name| format!("{root}/{name}"));
    let mut compiler = protox::Compiler::new([root]).expect("include path");
    compiler.include_imports(true).open_files(files).expect("protos compile");
    DescriptorPool::decode(compiler.encode_file_descriptor_set().as_slice()).expect("descriptors")
});

/// The same messages in edition 2023, and some more, compiled by protoc (protox knows no editions). In `editions`:
/// `protoc -I. --include_imports --descriptor_set_out=../editions.binpb *.proto`
static EDITIONS: LazyLock<DescriptorPool> =
    LazyLock::new(|| rialto_gateway::descriptor_pool(include_bytes!("editions.binpb")).expect("descriptors"));

/// One of the messages, and the codec for it.
struct Subject {
    descriptor: MessageDescriptor,
    id: MessageId,
    strict: Codec,
    lenient: Codec,
    /// Codecs that print in other ways.
    others: Vec<Codec>,
}

impl Subject {
    fn new(name: &str) -> Self {
        Self::of(if name.ends_with("editions") { &EDITIONS } else { &POOL }, &format!("conformance.{name}.AllTypes"))
    }

    fn of(pool: &DescriptorPool, name: &str) -> Self {
        let descriptor = pool.get_message_by_name(name).expect("message");
        let strict = Codec::new(pool);
        let id = strict.message(descriptor.full_name()).expect("message");
        let lenient = Codec::new(pool).ignore_unknown_fields(true);
        let new = || Codec::new(pool);
        let others = vec![
            new().use_proto_names(true),
            new().enum_numbers(true),
            new().pretty(true),
            new().always_print_fields(true),
            new().use_proto_names(true).enum_numbers(true).pretty(true).always_print_fields(true),
        ];
        Self { descriptor, id, strict, lenient, others }
    }

    /// Twice, because prost-reflect tells an implicit zero on the wire from one that is not there.
    fn decode(&self, wire: &[u8]) -> Result<DynamicMessage, String> {
        let decode = |wire: &[u8]| DynamicMessage::decode(self.descriptor.clone(), wire);
        let once = decode(wire).map_err(|e| format!("the wire bytes are wrong: {e}"))?;
        decode(&once.encode_to_vec()).map_err(|e| e.to_string())
    }

    fn parse_text(&self, text: &str) -> Result<DynamicMessage, String> {
        DynamicMessage::parse_text_format(self.descriptor.clone(), text).map_err(|e| format!("text {text:?}: {e}"))
    }

    fn print(&self, wire: &[u8]) -> Result<String, String> {
        self.print_with(&self.strict, wire)
    }

    fn print_with(&self, codec: &Codec, wire: &[u8]) -> Result<String, String> {
        let mut out = Vec::new();
        codec.wire_to_json(self.id, wire, &mut out).map_err(|e| e.to_string())?;
        String::from_utf8(out).map_err(|e| e.to_string())
    }

    /// However it is printed, a message is read back as it was.
    fn survives(&self, codec: &Codec, wire: &[u8]) -> Result<(), String> {
        let printed = self.print_with(codec, wire)?;
        let again = self.strict.json_to_wire(self.id, printed.as_bytes()).map_err(|e| format!("{e}: {printed}"))?;
        equal("second reading", &self.decode(&again)?, &self.decode(wire)?)
    }

    fn check(&self, case: &Case) -> Result<(), String> {
        let codec = if case.ignore { &self.lenient } else { &self.strict };
        let wire = match (&case.json, &case.wire) {
            (Some(json), _) => match codec.json_to_wire(self.id, json.as_bytes()) {
                Err(error) => return same("error", &error.to_string(), case.error.as_deref()),
                Ok(_) if case.error.is_some() => return Err("should have been refused".to_owned()),
                Ok(wire) => wire,
            },
            (None, Some(wire)) => wire.clone(),
            (None, None) => self.parse_text(case.text.as_deref().unwrap_or_default())?.encode_to_vec(),
        };
        let printed = match self.print(&wire) {
            Err(error) => return same("error", &error, case.error.as_deref()),
            Ok(_) if case.error.is_some() => return Err("should have had no JSON form".to_owned()),
            Ok(printed) => printed,
        };
        let read = self.decode(&wire)?;
        if let Some(text) = &case.text {
            equal("message", &read, &self.parse_text(text)?)?;
        }
        if case.printed.is_some() {
            same("JSON", &printed, case.printed.as_deref())?;
        }
        self.others.iter().chain([&self.strict]).try_for_each(|codec| self.survives(codec, &wire))
    }
}

fn same(what: &str, ours: &str, expected: Option<&str>) -> Result<(), String> {
    match expected {
        Some(expected) if expected == ours => Ok(()),
        Some(expected) => Err(format!("{what} {ours:?} instead of {expected:?}")),
        None => Err(format!("unexpected {what}: {ours}")),
    }
}

/// The text decides where a message is not equal to itself, because of a NaN.
fn equal(what: &str, ours: &DynamicMessage, expected: &DynamicMessage) -> Result<(), String> {
    if ours == expected { Ok(()) } else { same(what, &ours.to_text_format(), Some(&expected.to_text_format())) }
}

/// Runs every case of a file for every message it is for; there are `count` of them, so that none gets lost.
#[track_caller]
fn run(text: &str, count: usize) {
    let cases = case::parse(text);
    assert_eq!(cases.len(), count, "cases");
    let mut failures = Vec::new();
    for (message, subject) in ["three", "two", "three_editions", "two_editions"].map(|m| (m, Subject::new(m))) {
        let syntax = message.trim_end_matches("_editions");
        for case in cases.iter().filter(|c| c.messages.iter().any(|m| m == syntax)) {
            if let Err(problem) = subject.check(&case.with(message)) {
                failures.push(format!("{} {message}.{}: {problem}", case.level, case.name));
            }
        }
    }
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn names_syntax_and_unknown_members() {
    run(include_str!("cases/names.txt"), 49);
}

#[test]
fn scalars_enums_oneofs_and_maps() {
    run(include_str!("cases/scalars.txt"), 166);
}

#[test]
fn lists_and_null() {
    run(include_str!("cases/lists.txt"), 25);
}

#[test]
fn well_known_types() {
    run(include_str!("cases/known.txt"), 99);
}

#[test]
fn any_struct_and_value() {
    run(include_str!("cases/any.txt"), 31);
}

#[test]
fn cases_of_our_own() {
    run(include_str!("cases/own.txt"), 116);
}
