//! The template parser and the path matcher: a rule made of the first line of the input, then a request for the second.
#![no_main]

use std::sync::LazyLock;

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::Full;
use libfuzzer_sys::fuzz_target;
use prost::encoding::{decode_key, decode_varint, encode_varint};
use rialto_gateway::Gateway;
use tonic::body::Body;
use tower::ServiceExt;

/// `rules.proto` as protoc compiled it.
const SET: &[u8] = include_bytes!("../rules.binpb");

/// File, service, method, options, `google.api.http`, `get`.
const TEMPLATE: [u32; 6] = [1, 6, 2, 4, 72_295_728, 2];

static RUNTIME: LazyLock<tokio::runtime::Runtime> =
    LazyLock::new(|| tokio::runtime::Builder::new_current_thread().enable_time().build().expect("runtime"));

/// The message with the value at this path replaced, wherever the path leads.
fn replace(mut wire: &[u8], path: &[u32], value: &[u8]) -> Vec<u8> {
    let Some((first, rest)) = path.split_first() else { return value.to_vec() };
    let mut out = Vec::new();
    while !wire.is_empty() {
        let before = wire;
        let (number, wire_type) = decode_key(&mut wire).expect("key");
        let mut length = decode_varint(&mut wire).expect("length or value") as usize;
        if wire_type != prost::encoding::WireType::LengthDelimited {
            length = 0;
        }
        let content;
        (content, wire) = wire.split_at(length);
        if number == *first && length > 0 {
            let content = replace(content, rest, value);
            encode_varint(u64::from(number) << 3 | 2, &mut out);
            encode_varint(content.len() as u64, &mut out);
            out.extend(content);
        } else {
            out.extend(&before[..before.len() - wire.len()]);
        }
    }
    out
}

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (template, path) = text.split_once('\n').unwrap_or((text, "/v1/a/b:c?n=1"));
    let set = replace(SET, &TEMPLATE, template.as_bytes());
    let upstream = tower::service_fn(|request: Request<Body>| async {
        drop(request);
        Ok::<_, tonic::Status>(Response::new(Body::empty()))
    });
    let Ok(gateway) = Gateway::builder(&set).build(upstream) else { return };
    gateway.has_route(&Method::GET, path);
    let Ok(request) = Request::get(path).body(Full::new(Bytes::new())) else { return };
    let response = RUNTIME.block_on(gateway.oneshot(request)).expect("infallible");
    // The upstream answers without a status: 500, or the request did not get that far.
    assert!(response.status().is_client_error() || response.status().is_server_error(), "{}", response.status());
});
