//! Quick figures for the codec, side by side with serde_json on hand-written structs and with prost-reflect, and for a
//! whole unary call, in this process and without sockets: `cargo run --profile dist --example speed`.
//!
//! `… speed NAME N` runs one case N times and nothing else, for a profiler; NAME is the beginning of a printed name.

#[path = "../../tests/support/mod.rs"]
mod support;

mod floor;

use std::hint::black_box;
use std::time::{Duration, Instant};

use http_body_util::BodyExt;
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage};
use rialto_gateway::codec::Codec;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tower::ServiceExt;

// As the server has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const ROUNDS: usize = 151;
const SLICE: Duration = Duration::from_micros(700);

fn main() {
    let pool = support::pool(&["speed.proto", "kinds.proto"]);
    let order = json!({
        "id": "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "number": "1234567890123", "title": "Engine part 42",
        "state": "STATE_SHIPPED", "quantity": 42, "price": 1249.25, "paid": true, "tags": ["new", "gift"],
        "itemNumbers": ["17", "4"], "createdAt": "2026-11-21T12:34:56.789Z", "updatedAt": "2026-11-21T13:34:56.789Z",
        "buyer": { "name": "Ada", "level": 7 },
    });
    let list = |count| json!({ "orders": vec![order.clone(); count] });
    compare::<floor::Order<String>>(&pool, "small", "test.speed.Order", order.clone());
    compare::<floor::List<String>>(&pool, "list30", "test.speed.OrderList", list(30));
    compare::<floor::List<String>>(&pool, "list100", "test.speed.OrderList", list(100));
    // Eleven of the 62 fields of a message.
    let sparse = json!({
        "fString": "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "fInt64": "1234567890123", "fInt32": 42, "fBool": true,
        "fDouble": 1.5, "fEnum": "COLOR_RED", "oString": "Ada Lovelace", "rString": ["a", "bc", "def"],
        "rInt64": ["1", "2", "3"], "wTimestamp": "2026-11-21T12:34:56.789Z", "fMessage": { "fString": "nested", "fInt32": 7 },
    });
    compare::<Value>(&pool, "sparse", "test.kinds.Kinds", sparse);
    call();
}

/// All directions of one message. `Floor` is its struct; `Value` if it has none.
fn compare<Floor: DeserializeOwned + Serialize>(pool: &DescriptorPool, name: &str, message: &str, value: Value) {
    let codec = Codec::new(pool);
    let always = Codec::new(pool).always_print_fields(true);
    let id = codec.message(message).expect("message");
    let descriptor = pool.get_message_by_name(message).expect("message");
    let json = value.to_string();
    // In the order of field numbers, as every protobuf library writes it.
    let wire = support::encode(pool, message, value);
    let floor: Floor = serde_json::from_str(&json).expect("valid");
    let print = |codec: &Codec| {
        let mut out = Vec::with_capacity(wire.len() * 3 + 64);
        codec.wire_to_json(id, &wire, &mut out).expect("valid");
        black_box(out);
    };
    let mut ours = || drop(black_box(codec.json_to_wire(id, json.as_bytes()).expect("valid")));
    let mut serde = || drop(black_box(serde_json::from_slice::<Floor>(json.as_bytes()).expect("valid")));
    let mut reflect = || {
        let mut reader = serde_json::Deserializer::from_slice(json.as_bytes());
        let message = DynamicMessage::deserialize(descriptor.clone(), &mut reader).expect("valid");
        black_box(message.encode_to_vec());
    };
    println!("{name}: {} bytes of JSON, {} of protobuf", json.len(), wire.len());
    measure(&format!("{name}-in"), &mut [("gateway", &mut ours), ("serde", &mut serde), ("reflect", &mut reflect)]);

    let mut ours = || print(&codec);
    let mut ours_always = || print(&always);
    let mut serde = || drop(black_box(serde_json::to_vec(&floor).expect("valid")));
    let mut reflect = || {
        let message = DynamicMessage::decode(descriptor.clone(), wire.as_slice()).expect("valid");
        black_box(serde_json::to_vec(&message).expect("valid"));
    };
    let mut legs: [(&str, &mut dyn FnMut()); 4] =
        [("gateway", &mut ours), ("serde", &mut serde), ("always", &mut ours_always), ("reflect", &mut reflect)];
    measure(&format!("{name}-out"), &mut legs);
}

fn call() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("runtime");
    let library = support::library(|b| b);
    let mut get = || {
        let request = support::request("GET", "/v1/books/7", "");
        let response = runtime.block_on(library.gateway.clone().oneshot(request)).expect("infallible");
        assert!(response.status().is_success());
        black_box(runtime.block_on(response.into_body().collect()).expect("body"));
        library.calls.lock().expect("log").clear();
    };
    measure("unary", &mut [("gateway", &mut get)]);
}

/// Of this thread: what other programs take away does not count.
fn cpu_time() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

/// Runs the legs in turn, in short slices, so that whatever else happens on the machine hits all of them alike. Prints the
/// median time of each and how often it fits into the first (median and middle 90 % of the rounds).
fn measure(name: &str, legs: &mut [(&str, &mut dyn FnMut())]) {
    let mut args = std::env::args().skip(1);
    if let Some(only) = args.next() {
        let count = args.next().and_then(|n| n.parse().ok()).unwrap_or(1);
        for (leg, work) in legs.iter_mut().filter(|(leg, _)| format!("{name}-{leg}") == only) {
            let started = Instant::now();
            (0..count).for_each(|_| work());
            println!("{name}-{leg}: {:?}", started.elapsed() / count);
        }
        return;
    }
    let mut times = vec![Vec::with_capacity(ROUNDS); legs.len()];
    for _ in 0..ROUNDS {
        for ((_, work), times) in legs.iter_mut().zip(&mut times) {
            let (started, mut n) = (cpu_time(), 0);
            let spent = loop {
                // The clock is read once for ten runs.
                (0..10).for_each(|_| work());
                n += 10;
                let spent = cpu_time() - started;
                if spent > SLICE {
                    break spent;
                }
            };
            times.push(spent.as_nanos() as f64 / f64::from(n));
        }
    }
    for ((leg, _), own) in legs.iter().zip(&times) {
        let mut ratios: Vec<f64> = times[0].iter().zip(own).map(|(first, own)| own / first).collect();
        ratios.sort_by(f64::total_cmp);
        let mut own = own.clone();
        own.sort_by(f64::total_cmp);
        let at = |share: usize| ratios[ROUNDS * share / 100];
        let label = format!("{name}-{leg}");
        println!("  {label:<22} {:>9.0} ns {:>6.2} ({:.2}–{:.2})", own[ROUNDS / 2], at(50), at(5), at(95));
    }
}
