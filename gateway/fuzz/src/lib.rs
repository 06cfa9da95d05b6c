//! What the targets share: messages with every kind of field (those of the conformance tests), and codecs.

use std::sync::LazyLock;

use prost_reflect::DescriptorPool;
use rialto_gateway::codec::{Codec, MessageId};

pub static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    let set = include_bytes!("../../tests/conformance/editions.binpb");
    rialto_gateway::descriptor_pool(set).expect("descriptors")
});

const MESSAGES: [&str; 5] = [
    "conformance.three_editions.AllTypes",
    "conformance.two_editions.AllTypes",
    "conformance.features.Features",
    "google.protobuf.Any",
    "google.protobuf.Value",
];

static CODECS: LazyLock<Vec<Codec>> = LazyLock::new(|| {
    let new = || Codec::new(&POOL);
    vec![
        new(),
        new().ignore_unknown_fields(true),
        new().use_proto_names(true).enum_numbers(true),
        new().always_print_fields(true),
        new().pretty(true),
    ]
});

/// A message, a codec for it, and the input of the target: the first byte chooses.
pub fn choose(data: &[u8]) -> Option<(&'static str, MessageId, &'static Codec, &[u8])> {
    let (choice, rest) = data.split_first()?;
    let message = MESSAGES[usize::from(choice & 15) % MESSAGES.len()];
    let codec = &CODECS[usize::from(choice >> 4) % CODECS.len()];
    Some((message, codec.message(message)?, codec, rest))
}

pub fn print(codec: &Codec, id: MessageId, wire: &[u8]) -> Result<String, String> {
    let mut out = Vec::new();
    codec.wire_to_json(id, wire, &mut out).map_err(|e| e.to_string())?;
    Ok(String::from_utf8(out).expect("JSON is UTF-8"))
}

/// What is printed is JSON, is read again, and is then printed the same.
pub fn survives(codec: &Codec, id: MessageId, json: &str) {
    assert!(serde_json::from_str::<serde_json::Value>(json).is_ok() || json.len() > 200, "not JSON: {json}");
    let wire = codec.json_to_wire(id, json.as_bytes()).unwrap_or_else(|e| panic!("{e}: {json}"));
    assert_eq!(print(codec, id, &wire).as_deref(), Ok(json));
}
