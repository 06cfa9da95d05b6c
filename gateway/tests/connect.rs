//! The Connect protocol's unary calls and its manners, through a socket. Streams are in `connect_streams.rs`.

mod support;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Response};
use http_body_util::{BodyExt, StreamBody};
use prost_reflect::DescriptorPool;
use rialto_gateway::{Builder, connect_error};
use serde_json::{Value, json};
use support::echo::gzip;
use support::socket::{Client, full, serve};
use support::{Answer, Call, Iter, compile, framed, ok, trailers};
use tonic::body::Body;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

const SAY: &str = "/test.echo.Echo/Say";
const LOOK: &str = "/test.echo.Echo/Look";
const UNARY_TYPES: &str = "application/json, application/proto";

/// Echoes a note; the texts of some ask for something else.
async fn echo(calls: Arc<Mutex<Vec<Call>>>, request: Request<Body>) -> Result<Response<Body>, Status> {
    let (parts, body) = request.into_parts();
    let message = body.collect().await?.to_bytes().slice(5..);
    let call =
        Call { path: parts.uri.path().to_owned(), headers: parts.headers, message: message.clone(), extension: None };
    calls.lock().expect("log").push(call);
    let text = String::from_utf8_lossy(message.get(2..).unwrap_or_default()).into_owned();
    if let Some(code) = text.strip_prefix("code ") {
        return Ok(Status::new(Code::from_i32(code.parse().expect("a number")), "no").into_http());
    }
    match text.as_str() {
        "never" => std::future::pending().await,
        "two" => Ok(ok([message.to_vec(), message.to_vec()])),
        "details" => {
            let mut details = ErrorDetails::new();
            details.set_error_info("OUT_OF_INK", "test", []);
            details.set_retry_info(Some(Duration::from_millis(1500)));
            details.set_debug_info(vec!["main.rs".into()], "secret");
            let mut status = Status::with_error_details(Code::Unavailable, "no ink", details);
            status.metadata_mut().insert("ratelimit-limit", 5.into());
            status.metadata_mut().insert("x-secret", 5.into());
            Ok(status.into_http())
        }
        "metadata" => {
            let mut last = trailers(0);
            last.insert("ratelimit-reset", 7.into());
            last.insert("x-secret", 7.into());
            let frames = [http_body::Frame::data(framed(&message)), http_body::Frame::trailers(last)];
            let frames = frames.map(Ok::<_, std::convert::Infallible>).into_iter();
            let mut response = Response::new(Body::new(StreamBody::new(Iter(frames))));
            response.headers_mut().insert("etag", HeaderValue::from_static("\"1\""));
            response.headers_mut().insert("x-secret", HeaderValue::from_static("1"));
            Ok(response)
        }
        _ => Ok(ok([message.to_vec()])),
    }
}

struct Fixture {
    client: Client,
    calls: Arc<Mutex<Vec<Call>>>,
    pool: DescriptorPool,
}

impl Fixture {
    async fn with(configure: impl FnOnce(Builder) -> Builder) -> Self {
        let set = compile(&["echo.proto"]);
        let calls = Arc::new(Mutex::new(Vec::new()));
        let log = calls.clone();
        let address = serve(&set, configure, move |request| echo(log.clone(), request)).await;
        let pool = DescriptorPool::decode(set.as_slice()).expect("descriptors");
        Self { client: Client::h1(address).await, calls, pool }
    }

    async fn new() -> Self {
        Self::with(|b| b).await
    }

    async fn post(&mut self, path: &str, headers: &[(&'static str, &str)], body: impl Into<Bytes>) -> Answer {
        let mut request = Request::post(path).body(full(body)).expect("request");
        for (name, value) in headers {
            request.headers_mut().append(*name, value.parse().expect("value"));
        }
        self.client.send(request).await
    }

    async fn say(&mut self, text: &str) -> Answer {
        self.post(SAY, &[("content-type", "application/json")], json!({ "text": text }).to_string()).await
    }

    async fn get(&mut self, path: &str) -> Answer {
        self.client.send(Request::get(path).body(Body::empty()).expect("request")).await
    }

    fn note(&self, json: Value) -> Vec<u8> {
        support::encode(&self.pool, "test.echo.Note", json)
    }

    fn last(&self) -> Call {
        self.calls.lock().expect("log").last().cloned().expect("a call")
    }
}

#[track_caller]
fn refused(answer: &Answer, status: u16, code: &str, part: &str) {
    assert_eq!((answer.status, answer.json()["code"].as_str()), (status, Some(code)), "{}", answer.text());
    assert_eq!(answer.header("content-type"), "application/json");
    assert!(answer.text().contains(part), "{part}: {}", answer.text());
}

#[tokio::test]
async fn json_and_protobuf_come_back_as_they_went() {
    let mut f = Fixture::new().await;
    for content_type in ["application/json", "application/json; charset=utf-8", "Application/JSON;charset=\"UTF-8\""] {
        let answer = f.post(SAY, &[("content-type", content_type)], r#"{"text":"hi","number":"7"}"#).await;
        assert_eq!((answer.status, answer.header("content-type")), (200, "application/json"));
        assert_eq!(answer.json(), json!({ "text": "hi", "number": "7" }));
        assert_eq!(f.last().path, SAY);
    }
    // Bytes that no message of the contract has pass all the same.
    for message in [f.note(json!({ "text": "hi" })), Vec::new(), b"\xff\xff".to_vec()] {
        let headers = [("content-type", "application/proto"), ("connect-protocol-version", "1")];
        let answer = f.post(SAY, &headers, message.clone()).await;
        assert_eq!((answer.status, answer.header("content-type")), (200, "application/proto"));
        assert_eq!(answer.body, message);
        assert_eq!(f.last().message, message);
        assert_eq!(answer.header("content-length"), message.len().to_string());
    }
}

#[tokio::test]
async fn it_is_the_same_over_http_2() {
    let set = compile(&["echo.proto"]);
    let address = serve(&set, |b| b, |request| echo(Arc::default(), request)).await;
    let mut client = Client::h2(address).await;
    let request = Request::post(SAY).header("content-type", "application/json").body(full(r#"{"text":"hi"}"#));
    assert_eq!(client.send(request.expect("request")).await.json(), json!({ "text": "hi" }));
}

#[tokio::test]
async fn listed_headers_pass_both_ways_and_trailers_have_a_prefix() {
    let mut f = Fixture::with(|b| b.request_header(HeaderName::from_static("x-listed-bin"))).await;
    let headers = [
        ("content-type", "application/json"),
        ("authorization", "Bearer t"),
        ("x-listed-bin", "AQ"),
        ("x-other", "1"),
        ("connect-timeout-ms", "9999999999"),
    ];
    let answer = f.post(SAY, &headers, r#"{"text":"metadata"}"#).await;
    assert_eq!((answer.status, answer.header("etag"), answer.header("trailer-ratelimit-reset")), (200, "\"1\"", "7"));
    for absent in ["x-secret", "trailer-x-secret", "ratelimit-reset", "trailer-grpc-status", "grpc-status"] {
        assert!(!answer.headers.contains_key(absent), "{absent}");
    }
    let sent = f.last().headers;
    assert_eq!(sent["authorization"], "Bearer t");
    assert_eq!(sent["x-listed-bin"], "AQ");
    assert!(!sent.contains_key("x-other") && !sent.contains_key("connect-timeout-ms"));
    assert!(sent["grpc-timeout"].to_str().expect("text").ends_with('S'), "{sent:?}");
    let bad = [("content-type", "application/json"), ("x-listed-bin", "!")];
    refused(&f.post(SAY, &bad, "{}").await, 400, "invalid_argument", "x-listed-bin");
}

#[tokio::test]
async fn every_code_has_connects_name_and_http_status() {
    let mut f = Fixture::new().await;
    let table = [
        (1, 499, "canceled"),
        (2, 500, "unknown"),
        (3, 400, "invalid_argument"),
        (4, 504, "deadline_exceeded"),
        (5, 404, "not_found"),
        (6, 409, "already_exists"),
        (7, 403, "permission_denied"),
        (8, 429, "resource_exhausted"),
        (9, 400, "failed_precondition"),
        (10, 409, "aborted"),
        (11, 400, "out_of_range"),
        (12, 501, "unimplemented"),
        (13, 500, "internal"),
        (14, 503, "unavailable"),
        (15, 500, "data_loss"),
        (16, 401, "unauthenticated"),
    ];
    for (number, status, code) in table {
        let answer = f.say(&format!("code {number}")).await;
        refused(&answer, status, code, "");
        assert_eq!(answer.json(), json!({ "code": code, "message": "no" }));
    }
}

#[tokio::test]
async fn details_are_typed_readable_and_never_the_operators() {
    let mut f = Fixture::new().await;
    let answer = f.say("details").await;
    refused(&answer, 503, "unavailable", "no ink");
    assert_eq!((answer.header("retry-after"), answer.header("ratelimit-limit")), ("2", "5"));
    assert!(!answer.headers.contains_key("x-secret"));
    let error = answer.json();
    let details = error["details"].as_array().expect("details");
    let types: Vec<_> = details.iter().map(|d| d["type"].as_str().expect("type")).collect();
    assert_eq!(types, ["google.rpc.RetryInfo", "google.rpc.ErrorInfo"]);
    assert_eq!(details[0]["debug"], json!({ "retryDelay": "1.500s" }));
    assert_eq!(details[1]["debug"]["reason"], "OUT_OF_INK");
    let value = STANDARD_NO_PAD.decode(details[1]["value"].as_str().expect("text")).expect("base64 without padding");
    assert_eq!(value, b"\x0a\x0aOUT_OF_INK\x12\x04test");
}

#[tokio::test]
async fn an_unknown_version_and_a_malformed_timeout_are_refused() {
    let mut f = Fixture::new().await;
    for (name, value) in [
        ("connect-protocol-version", "2"),
        ("connect-protocol-version", ""),
        ("connect-timeout-ms", "12345678901"),
        ("connect-timeout-ms", "-1"),
        ("connect-timeout-ms", "1.5"),
        ("connect-timeout-ms", "1S"),
        ("connect-timeout-ms", ""),
    ] {
        let answer = f.post(SAY, &[("content-type", "application/json"), (name, value)], "{}").await;
        refused(&answer, 400, "invalid_argument", name);
    }
    assert!(f.calls.lock().expect("log").is_empty());
}

#[tokio::test]
async fn a_call_ends_at_its_deadline() {
    let mut f = Fixture::new().await;
    let headers = [("content-type", "application/json"), ("connect-timeout-ms", "20")];
    refused(&f.post(SAY, &headers, r#"{"text":"never"}"#).await, 504, "deadline_exceeded", "");
}

#[tokio::test]
async fn bad_messages_are_refused_by_name() {
    let mut f = Fixture::with(|b| b.max_request_bytes(100)).await;
    let json = [("content-type", "application/json")];
    let answer = f.post(SAY, &json, r#"{"notes":[{},{"number":"x"}]}"#).await;
    refused(&answer, 400, "invalid_argument", "notes[1].number: expected int64");
    assert_eq!(answer.json()["details"][0]["debug"]["fieldViolations"][0]["field"], "notes[1].number");
    refused(&f.post(SAY, &json, "").await, 400, "invalid_argument", "malformed JSON");
    refused(&f.post(SAY, &json, vec![b' '; 101]).await, 429, "resource_exhausted", "100 bytes");
    let proto = [("content-type", "application/proto")];
    refused(&f.post(SAY, &proto, vec![0; 101]).await, 429, "resource_exhausted", "100 bytes");
    let chunked = StreamBody::new(Iter(
        (0..3).map(|_| Ok::<_, std::convert::Infallible>(http_body::Frame::data(Bytes::from_static(&[b' '; 50])))),
    ));
    let request = Request::post(SAY).header("content-type", "application/json").body(Body::new(chunked));
    refused(&f.client.send(request.expect("request")).await, 429, "resource_exhausted", "100 bytes");
    assert!(f.calls.lock().expect("log").is_empty());
}

#[tokio::test]
async fn requests_may_be_compressed() {
    let mut f = Fixture::with(|b| b.max_request_bytes(1000)).await;
    let compressed = |encoding| [("content-type", "application/json"), ("content-encoding", encoding)];
    let answer = f.post(SAY, &compressed("gzip"), gzip(br#"{"text":"hi"}"#)).await;
    assert_eq!(answer.json(), json!({ "text": "hi" }));
    assert_eq!(f.post(SAY, &compressed("identity"), "{}").await.status, 200);
    let bomb = f.post(SAY, &compressed("gzip"), gzip(&[b' '; 100_000])).await;
    refused(&bomb, 429, "resource_exhausted", "1000 bytes");
    refused(&f.post(SAY, &compressed("snappy"), "{}").await, 501, "unimplemented", "gzip, br or zstd");
}

#[tokio::test]
async fn what_is_not_connect_is_told_what_would_be() {
    let mut f = Fixture::new().await;
    for content_type in ["text/plain", "application/connect+json", "application/jsonx", "application/xml", ""] {
        let answer = f.post(LOOK, &[("content-type", content_type)], "{}").await;
        assert_eq!((answer.status, answer.header("accept-post")), (415, UNARY_TYPES), "{content_type}");
    }
    assert_eq!(f.post(LOOK, &[], "{}").await.header("accept-post"), UNARY_TYPES);
    let answer = f.post("/test.echo.Echo/Watch", &[("content-type", "application/json")], "{}").await;
    let streams = "application/connect+json, application/connect+proto";
    assert_eq!((answer.status, answer.header("accept-post")), (415, streams));
    for (method, path, allowed) in [
        ("GET", "/test.echo.Echo/Collect", "OPTIONS, POST"),
        ("HEAD", "/test.echo.Echo/Collect", "OPTIONS, POST"),
        ("DELETE", LOOK, "GET, HEAD, OPTIONS, POST"),
        ("GET", LOOK, "GET, HEAD, OPTIONS, POST"),
    ] {
        let answer = f.client.send(Request::builder().method(method).uri(path).body(Body::empty()).expect("request"));
        let answer = answer.await;
        assert_eq!((answer.status, answer.header("allow")), (405, allowed), "{method} {path}");
    }
    // The bodies are REST's: a Connect client goes by the HTTP status.
    assert_eq!(f.get(LOOK).await.json()["error"]["reason"], "METHOD_NOT_ALLOWED");
    for (path, content_type) in [
        ("/test.echo.Echo/Unknown", "application/json"),
        ("/test.echo.Unknown/Say", "application/proto"),
        // Without trailers there is no gRPC; it is not for Connect to answer.
        (LOOK, "application/grpc"),
        (LOOK, "application/grpc-web+proto"),
    ] {
        let answer = f.post(path, &[("content-type", content_type)], "{}").await;
        assert_eq!((answer.status, &answer.json()["error"]["reason"]), (404, &json!("ROUTE_NOT_FOUND")), "{path}");
    }
    assert!(f.calls.lock().expect("log").is_empty());
}

#[tokio::test]
async fn services_that_are_not_chosen_have_no_methods() {
    let set = support::compile_text(
        r#"syntax = "proto3"; package t; message M {}
           service A { rpc Do(M) returns (M); } service B { rpc Do(M) returns (M); }"#,
    );
    let address = serve(&set, |b| b.services(["t.A"]), |request| echo(Arc::default(), request)).await;
    let mut client = Client::h1(address).await;
    for (path, status) in [("/t.A/Do", 200), ("/t.B/Do", 404)] {
        let request = Request::post(path).header("content-type", "application/proto").body(Body::empty());
        assert_eq!(client.send(request.expect("request")).await.status, status);
    }
}

#[tokio::test]
async fn routes_on_the_path_of_a_method_keep_what_is_not_connects() {
    let mut f = Fixture::new().await;
    let put = Request::put(SAY).body(Body::empty()).expect("request");
    assert_eq!(f.client.send(put).await.status, 200);
    assert_eq!(f.last().path, "/test.echo.Echo/Shadow");
    let chat = "/test.echo.Echo/Chat";
    assert_eq!(f.post(chat, &[("content-type", "application/json")], "{}").await.status, 200);
    assert_eq!(f.last().path, "/test.echo.Echo/Shadow");
    let message = support::socket::envelope(0, "{}");
    let answer = f.post(chat, &[("content-type", "application/connect+json")], message).await;
    assert_eq!(answer.header("content-type"), "application/connect+json");
}

#[tokio::test]
async fn methods_without_side_effects_can_be_got() {
    let mut f = Fixture::new().await;
    let message = f.note(json!({ "text": "hi?>", "data": "+/8=" }));
    let compressed = URL_SAFE_NO_PAD.encode(gzip(&message));
    let padded = URL_SAFE.encode(&message).replace('=', "%3D");
    let unpadded = URL_SAFE_NO_PAD.encode(&message);
    for query in [
        format!("connect=v1&encoding=proto&base64=1&message={padded}"),
        format!("message={unpadded}&base64=1&encoding=proto"),
        format!("message={compressed}&base64=1&encoding=proto&compression=gzip&other=1&other=2"),
    ] {
        let answer = f.get(&format!("{LOOK}?{query}")).await;
        assert_eq!((answer.status, answer.header("content-type")), (200, "application/proto"), "{query}");
        assert_eq!(answer.body, message);
    }
    for query in [
        "connect=v1&encoding=json&message=%7B%22text%22%3A%22a%20b%22%7D",
        "message=%7b%22text%22:%22a+b%22%7d&encoding=json&compression=identity&base64=0",
        "connect=v1&encoding=json&base64=1&message=eyJ0ZXh0IjoiYSBiIn0",
    ] {
        let answer = f.get(&format!("{LOOK}?{query}")).await;
        assert_eq!(answer.header("content-type"), "application/json");
        assert_eq!(answer.json(), json!({ "text": "a b" }), "{query}");
    }
    assert_eq!(f.last().path, LOOK);
    assert_eq!(f.get(&format!("{LOOK}?encoding=proto&message=")).await.body, "");
    let known = Request::get(format!("{LOOK}?encoding=json&message=%7B%22text%22%3A%22metadata%22%7D"));
    let known = known.header("if-none-match", "\"1\"").body(Body::empty()).expect("request");
    assert_eq!(f.client.send(known).await.status, 304);
}

#[tokio::test]
async fn a_get_that_is_wrong_is_refused_by_name() {
    let mut f = Fixture::with(|b| b.max_request_bytes(1000)).await;
    let bomb = URL_SAFE_NO_PAD.encode(gzip(&[b' '; 100_000]));
    let bomb = format!("encoding=json&base64=1&compression=gzip&message={bomb}");
    let long = format!("encoding=proto&message={}", "a".repeat(1001));
    for (query, status, code, part) in [
        ("connect=v1&message=%7B%7D", 400, "invalid_argument", "encoding"),
        ("connect=v1&encoding=json", 400, "invalid_argument", "message"),
        ("connect=v2&encoding=json&message=%7B%7D", 400, "invalid_argument", "connect"),
        ("encoding=json&message=%7B%7D&message=%7B%7D", 400, "invalid_argument", "message: given more than once"),
        ("encoding=json&encoding=proto&message=%7B%7D", 400, "invalid_argument", "encoding: given more than once"),
        ("encoding=json&message=%7B", 400, "invalid_argument", "malformed JSON"),
        ("encoding=proto&message=%FF", 400, "invalid_argument", "message: not valid UTF-8"),
        ("encoding=proto&base64=1&message=%21%21", 400, "invalid_argument", "message: expected base64"),
        ("encoding=proto&base64=1&message=A%2FA%2B", 400, "invalid_argument", "message: expected base64"),
        ("encoding=proto&base64=1&message=AA&compression=gzip", 400, "invalid_argument", "gzip"),
        ("encoding=proto&base64=1&message=AA&compression=br", 501, "unimplemented", "gzip"),
        (bomb.as_str(), 429, "resource_exhausted", "1000 bytes"),
        (long.as_str(), 429, "resource_exhausted", "1000 bytes"),
    ] {
        refused(&f.get(&format!("{LOOK}?{query}")).await, status, code, part);
    }
    assert_eq!(f.get(&format!("{LOOK}?connect=v1&encoding=xml&message=")).await.status, 415);
    let answer = f.get("/test.echo.Echo/Collect?connect=v1&encoding=json&message=%7B%7D").await;
    assert_eq!((answer.status, answer.header("allow")), (405, "OPTIONS, POST"));
    assert!(f.calls.lock().expect("log").is_empty());
    // A method that may have side effects, though another method of its path is routed.
    let answer = f.get(&format!("{SAY}?connect=v1&encoding=json&message=%7B%7D")).await;
    assert_eq!((answer.status, answer.header("allow")), (405, "OPTIONS, POST, PUT"));
}

#[tokio::test]
async fn head_is_a_get_without_its_body_and_options_tell_what_the_path_takes() {
    let mut f = Fixture::new().await;
    let query = format!("{LOOK}?connect=v1&encoding=json&message=%7B%22text%22%3A%22a%22%7D");
    let get = f.get(&query).await;
    let head = f.client.send(Request::head(query).body(Body::empty()).expect("request")).await;
    assert_eq!((head.status, head.body.len()), (200, 0));
    for name in ["content-type", "content-length"] {
        assert_eq!(head.header(name), get.header(name));
    }
    for (path, allow) in [
        (LOOK, "GET, HEAD, OPTIONS, POST"),
        ("/test.echo.Echo/Collect", "OPTIONS, POST"),
        // With what a route on the path of the method takes.
        (SAY, "OPTIONS, POST, PUT"),
    ] {
        let answer = f.client.send(Request::options(path).body(Body::empty()).expect("request")).await;
        assert_eq!((answer.status, answer.header("allow"), answer.text()), (204, allow, ""), "{path}");
    }
}

#[tokio::test]
async fn a_service_that_breaks_the_rules_is_an_internal_error() {
    let mut f = Fixture::new().await;
    refused(&f.say("two").await, 500, "internal", "more than one message");
}

#[tokio::test]
async fn the_embedding_program_can_answer_in_connects_form() {
    let status = Status::resource_exhausted("too many");
    let unary = connect_error(&status, Some(&HeaderValue::from_static("application/proto")));
    assert_eq!(unary.status(), 429);
    assert_eq!(unary.headers()["content-type"], "application/json");
    let body = unary.into_body().collect().await.expect("a body").to_bytes();
    assert_eq!(body, r#"{"code":"resource_exhausted","message":"too many"}"#);
    let stream = connect_error(&status, Some(&HeaderValue::from_static("application/connect+proto")));
    assert_eq!(stream.status(), 200);
    assert_eq!(stream.headers()["content-type"], "application/connect+proto");
    let body = stream.into_body().collect().await.expect("a body").to_bytes();
    let text = r#"{"error":{"code":"resource_exhausted","message":"too many"}}"#;
    assert_eq!(body, support::socket::envelope(2, text));
}
