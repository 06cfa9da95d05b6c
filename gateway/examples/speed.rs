//! Quick figures for the codec and for a whole unary call, in this process and without sockets:
//! `cargo run --release --example speed`.

#[path = "../tests/support/mod.rs"]
mod support;

use std::hint::black_box;
use std::time::Instant;

use http_body_util::BodyExt;
use prost::Message;
use prost_reflect::DynamicMessage;
use rialto_gateway::codec::Codec;
use serde_json::{Value, json};
use tower::ServiceExt;

fn time(name: &str, bytes: usize, mut work: impl FnMut()) {
    // A part of a name as argument runs only what it fits, say for a profiler.
    if std::env::args().nth(1).is_some_and(|only| !name.contains(&only)) {
        return;
    }
    let mut best = f64::MAX;
    for _ in 0..5 {
        let (started, mut n) = (Instant::now(), 0);
        while started.elapsed().as_millis() < 100 {
            work();
            n += 1;
        }
        best = best.min(started.elapsed().as_nanos() as f64 / f64::from(n));
    }
    println!("{name:<34} {best:>10.0} ns {:>8.0} MB/s of JSON", bytes as f64 * 1000.0 / best);
}

fn main() {
    let pool = support::pool(&["kinds.proto"]);
    let codec = Codec::new(&pool);
    let small = json!({
        "fString": "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "fInt64": "1234567890123", "fInt32": 42, "fBool": true,
        "fDouble": 1.5, "fEnum": "COLOR_RED", "oString": "Ada Lovelace", "rString": ["a", "bc", "def"],
        "rInt64": ["1", "2", "3"], "wTimestamp": "2026-11-21T12:34:56.789Z", "fMessage": { "fString": "nested", "fInt32": 7 },
    });
    let list = json!({ "rMessage": vec![small.clone(); 100] });
    let id = codec.message("test.kinds.Kinds").expect("message");
    let descriptor = pool.get_message_by_name("test.kinds.Kinds").expect("message");
    for (name, value) in [("small", small), ("list of 100", list)] {
        let json = value.to_string();
        // In the order of field numbers, as every protobuf library writes it.
        let wire = support::encode(&pool, "test.kinds.Kinds", value.clone());
        println!("{name}: {} bytes of JSON, {} of protobuf", json.len(), wire.len());
        time("  JSON to wire", json.len(), || {
            black_box(codec.json_to_wire(id, json.as_bytes()).expect("valid"));
        });
        time("  wire to JSON", json.len(), || {
            let mut out = Vec::with_capacity(wire.len() * 2 + 64);
            codec.wire_to_json(id, &wire, &mut out).expect("valid");
            black_box(out);
        });
        time("  serde_json text to Value", json.len(), || {
            black_box(serde_json::from_str::<Value>(&json).expect("valid"));
        });
        time("  serde_json Value to text", json.len(), || {
            black_box(serde_json::to_vec(&value).expect("valid"));
        });
        time("  prost-reflect JSON to wire", json.len(), || {
            let mut reader = serde_json::Deserializer::from_str(&json);
            let message = DynamicMessage::deserialize(descriptor.clone(), &mut reader).expect("valid");
            black_box(message.encode_to_vec());
        });
        time("  prost-reflect wire to JSON", json.len(), || {
            let message = DynamicMessage::decode(descriptor.clone(), wire.as_slice()).expect("valid");
            black_box(serde_json::to_vec(&message).expect("valid"));
        });
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("runtime");
    let library = support::library(|b| b);
    time("unary GET, echoing upstream", 0, || {
        let request = support::request("GET", "/v1/books/7", "");
        let response = runtime.block_on(library.gateway.clone().oneshot(request)).expect("infallible");
        assert!(response.status().is_success());
        black_box(runtime.block_on(response.into_body().collect()).expect("body"));
        library.calls.lock().expect("log").clear();
    });
}
