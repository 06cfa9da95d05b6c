//! Requests as they come: compressed, slow, partial, with doubtful headers. Each through a socket, but for those that
//! wait for a clock.

mod support;

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request};
use http_body_util::{BodyExt, Full};
use rialto_gateway::Builder;
use serde_json::{Value, json};
use support::net::{Client, fed_body, whole};
use support::{Fixture, compile_text, fixture, library, ok, request};
use tower::ServiceExt;

fn echo(proto: &str, configure: impl FnOnce(Builder) -> Builder) -> Fixture {
    let head = r#"syntax = "proto3"; package t; import "google/api/annotations.proto"; import "google/protobuf/any.proto";
        import "google/protobuf/field_mask.proto"; import "google/protobuf/struct.proto";
        import "google/protobuf/timestamp.proto"; import "google/protobuf/wrappers.proto";"#;
    fixture(&compile_text(&format!("{head}{proto}")), configure, |call| Ok(ok([call.message.to_vec()])))
}

fn violation(answer: &support::Answer) -> (u16, Value) {
    (answer.status, answer.json()["error"]["details"][0]["fieldViolations"][0]["field"].clone())
}

#[tokio::test]
async fn a_patch_without_a_mask_changes_what_its_body_names() {
    let f = echo(
        r#"service S {
            rpc Update(UpdateRequest) returns (UpdateRequest) {
                option (google.api.http) = { patch: "/v1/{thing.name}" body: "thing"
                    additional_bindings { put: "/v1/{thing.name}" body: "thing" }
                    additional_bindings { patch: "/v2/{update_mask}" body: "thing" }
                    additional_bindings { patch: "/v3" body: "*" } };
            }
        }
        message UpdateRequest { Thing thing = 1; google.protobuf.FieldMask update_mask = 2; }
        message Thing {
            string name = 1; int32 page_count = 2; repeated string tags = 3; map<string, string> labels = 4; Thing inner = 5;
            google.protobuf.Timestamp made_at = 6; google.protobuf.Struct data = 7; google.protobuf.StringValue note = 8;
        }"#,
        |b| b,
    );
    for (path, body, mask) in [
        ("/v1/x", r#"{"pageCount":1}"#, json!("pageCount")),
        ("/v1/x", r#"{"page_count":0,"tags":[]}"#, json!("pageCount,tags")),
        // null is a value that is taken away.
        ("/v1/x", r#"{"pageCount":null,"inner":null}"#, json!("inner,pageCount")),
        // Messages are entered, what else there is is replaced as a whole.
        ("/v1/x", r#"{"inner":{"pageCount":1,"inner":{"name":"y"}}}"#, json!("inner.inner.name,inner.pageCount")),
        ("/v1/x", r#"{"inner":{}}"#, json!("inner")),
        ("/v1/x", r#"{"tags":["a"],"labels":{"k":"v"}}"#, json!("labels,tags")),
        ("/v1/x", r#"{"madeAt":"2024-01-01T00:00:00Z","data":{"a":{}},"note":"n"}"#, json!("data,madeAt,note")),
        ("/v1/x", "{}", json!("")),
        // No body names nothing; a mask that is given wins.
        ("/v1/x", "", Value::Null),
        ("/v1/x?updateMask=tags", r#"{"pageCount":1}"#, json!("tags")),
        ("/v1/x?updateMask=", r#"{"pageCount":1}"#, json!("")),
        ("/v2/tags", r#"{"pageCount":1}"#, json!("tags")),
        // With the whole message as the body, the mask would be in it.
        ("/v3", r#"{"thing":{"pageCount":1}}"#, Value::Null),
    ] {
        let answer = f.call("PATCH", path, body).await;
        assert_eq!((answer.status, &answer.json()["updateMask"]), (200, &mask), "{path} {body}: {}", answer.text());
    }
    let put = f.call("PUT", "/v1/x", r#"{"pageCount":1}"#).await;
    assert_eq!((put.status, &put.json()["updateMask"]), (200, &Value::Null));
    assert_eq!(f.call("PATCH", "/v1/x", r#"{"pageCount":1"#).await.status, 400);
}

#[tokio::test]
async fn a_patch_passes_over_what_it_does_not_know_if_told_to() {
    let f = echo(
        r#"service S {
            rpc Update(UpdateRequest) returns (UpdateRequest) {
                option (google.api.http) = { patch: "/v1/{thing.name}" body: "thing" };
            }
        }
        message UpdateRequest { Thing thing = 1; google.protobuf.FieldMask update_mask = 2; }
        message Thing { string name = 1; int32 page_count = 2; Thing inner = 3; }"#,
        |b| b.ignore_unknown_fields(true),
    );
    let deep = format!(r#"{{"x":{}1{},"pageCount":1}}"#, "[".repeat(90), "]".repeat(90));
    for (body, mask) in [
        (r#"{"x":1e999,"pageCount":1}"#, "pageCount"),
        (r#"{"x":"\ud83d\ude00","inner":{"x":[1e999]}}"#, ""),
        (r#"{"inner":{"x":1,"pageCount":1}}"#, "inner.pageCount"),
        (&deep, "pageCount"),
    ] {
        let answer = f.call("PATCH", "/v1/x", body).await;
        assert_eq!((answer.status, &answer.json()["updateMask"]), (200, &json!(mask)), "{body}: {}", answer.text());
    }
}

fn put(body: Vec<u8>, encoding: &'static str) -> Request<Full<Bytes>> {
    let request = Request::put("/v1/books/7").header("content-encoding", encoding);
    request.body(Full::from(body)).expect("request")
}

#[tokio::test]
async fn compressed_bodies_are_read() {
    let gzip = |bytes: &[u8]| {
        let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        out.write_all(bytes).expect("memory");
        out.finish().expect("memory")
    };
    let brotli = |bytes: &[u8]| {
        let mut out = Vec::new();
        brotli::CompressorWriter::new(&mut out, 4096, 5, 22).write_all(bytes).expect("memory");
        out
    };
    let zstd = |bytes: &[u8]| zstd::encode_all(bytes, 0).expect("memory");
    let f = library(|b| b.max_request_bytes(1 << 20));
    let body = br#"{"title":"T"}"#;
    let bomb = [br#"{"title":""#.to_vec(), vec![b'x'; 50 << 20], br#""}"#.to_vec()].concat();
    for (name, small, large) in
        [("gzip", gzip(body), gzip(&bomb)), ("br", brotli(body), brotli(&bomb)), ("zstd", zstd(body), zstd(&bomb))]
    {
        let answer = f.send(put(small.clone(), name)).await;
        assert_eq!((answer.status, answer.json()), (200, json!({ "id": "7", "title": "T" })), "{name}");
        assert!(large.len() < 1 << 20, "{name}");
        let answer = f.send(put(large, name)).await;
        assert_eq!((answer.status, &answer.json()["error"]["reason"]), (413, &json!("PAYLOAD_TOO_LARGE")), "{name}");
        for corrupt in [&small[..small.len() / 2], b"not compressed at all"] {
            let answer = f.send(put(corrupt.to_vec(), name)).await;
            assert_eq!((answer.status, &answer.json()["error"]["reason"]), (400, &json!("INVALID_FORMAT")), "{name}");
        }
    }
    assert_eq!(f.send(put(body.to_vec(), "identity")).await.status, 200);
    let answer = f.send(put(body.to_vec(), "deflate64")).await;
    assert_eq!((answer.status, answer.header("accept-encoding")), (415, "gzip, br, zstd"));
    assert_eq!(answer.json()["error"]["reason"], "UNSUPPORTED_MEDIA_TYPE");
}

#[tokio::test(start_paused = true)]
async fn slow_bodies_are_given_up() {
    let f = library(|b| b.body_timeout(Duration::from_secs(5)));
    let started = tokio::time::Instant::now();
    let (feed, body) = fed_body();
    let slow = async {
        // Every byte counts as a sign of life.
        for piece in ["{", " ", " "] {
            tokio::time::sleep(Duration::from_secs(4)).await;
            feed.send(Ok(piece.into())).expect("open");
        }
        std::future::pending::<()>().await;
    };
    let answer = f.gateway.clone().oneshot(Request::put("/v1/books/7").body(body).expect("request"));
    let response = tokio::select! { response = answer => response.expect("infallible"), () = slow => unreachable!() };
    assert_eq!((response.status().as_u16(), started.elapsed().as_secs()), (408, 17));
    let body = response.into_body().collect().await.expect("body").to_bytes();
    let body: Value = serde_json::from_slice(&body).expect("JSON");
    assert_eq!(body["error"]["reason"], "REQUEST_TIMEOUT");
}

#[tokio::test(start_paused = true)]
async fn the_deadline_covers_the_body_and_the_call() {
    let f = library(|b| b);
    let started = tokio::time::Instant::now();
    let (_feed, body) = fed_body();
    let slow = Request::put("/v1/books/7").header("x-request-timeout", "2.5").body(body).expect("request");
    let response = f.gateway.clone().oneshot(slow).await.expect("infallible");
    // A quarter of a second more, in which the service may say so itself.
    assert_eq!((response.status().as_u16(), started.elapsed().as_millis()), (504, 2750));

    let set = support::compile(&["library.proto"]);
    let never = tower::service_fn(|_: Request<tonic::body::Body>| {
        std::future::pending::<Result<http::Response<tonic::body::Body>, tonic::Status>>()
    });
    let gateway = rialto_gateway::Gateway::builder(&set).build(never).expect("gateway");
    let request = Request::get("/v1/books/7").header("grpc-timeout", "3S").body(Full::<Bytes>::default());
    let response = gateway.oneshot(request.expect("request")).await.expect("infallible");
    assert_eq!((response.status().as_u16(), started.elapsed().as_millis()), (504, 6000));
}

#[tokio::test]
async fn errors_are_problems_for_who_asks() {
    let f = library(|b| b);
    let mut request = request("PUT", "/v1/books/7", r#"{"authors":[1]}"#);
    request.headers_mut().insert("accept", HeaderValue::from_static("application/problem+json, application/json"));
    request.headers_mut().insert("x-request-id", HeaderValue::from_static("r"));
    let answer = f.send(request).await;
    assert_eq!((answer.status, answer.header("content-type")), (400, "application/problem+json"));
    let problem = answer.json();
    for (member, value) in [
        ("type", json!("about:blank")),
        ("title", json!("Bad Request")),
        ("status", json!(400)),
        ("grpcStatus", json!("INVALID_ARGUMENT")),
        ("reason", json!("INVALID_FORMAT")),
        ("detail", json!("authors[0]: expected string, got 1")),
        ("requestId", json!("r")),
    ] {
        assert_eq!(problem[member], value, "{member}");
    }
    assert_eq!(problem["details"][0]["fieldViolations"][0]["field"], "authors[0]");
    for (accept, content_type) in [
        ("application/problem+json;q=0, */*", "application/json"),
        ("application/json, Application/Problem+JSON;q=0.1", "application/problem+json"),
        ("application/xml;note=application/problem+json, */*", "application/json"),
    ] {
        let request = Request::get("/nowhere").header("accept", accept).body(Full::default()).expect("request");
        assert_eq!(f.send(request).await.header("content-type"), content_type, "{accept}");
    }
}

#[tokio::test]
async fn errors_may_have_a_form_of_the_programs_own() {
    let f = library(|b| {
        b.error_body(Arc::new(|report| {
            let text =
                format!("{} {} {} {}", report.http_status.as_u16(), report.status(), report.reason, report.message);
            (HeaderValue::from_static("text/plain"), text.into_bytes())
        }))
    });
    let answer = f.get("/nowhere").await;
    assert_eq!((answer.status, answer.header("content-type")), (404, "text/plain"));
    assert_eq!(answer.text(), "404 NOT_FOUND ROUTE_NOT_FOUND no such route");
}

#[tokio::test]
async fn doubtful_headers_are_refused() {
    let names = ["authorization", "idempotency-key", "traceparent", "x-request-id"];
    let f = library(|b| b.request_header(http::HeaderName::from_static("x-token-bin")));
    for name in names {
        let mut twice = request("GET", "/v1/books/7", "");
        twice.headers_mut().append(name, HeaderValue::from_static("a"));
        assert_eq!(f.send(twice.clone()).await.status, 200, "{name}");
        twice.headers_mut().append(name, HeaderValue::from_static("a"));
        assert_eq!(violation(&f.send(twice).await), (400, json!(name)), "{name}");
    }
    for (value, status) in
        [("AQI=", 200), ("AQI", 200), ("AQI,AQ==", 200), ("", 200), ("A", 400), ("AQ I", 400), ("-_-_", 400)]
    {
        let mut binary = request("GET", "/v1/books/7", "");
        binary.headers_mut().insert("x-token-bin", HeaderValue::from_static(value));
        assert_eq!(f.send(binary).await.status, status, "{value:?}");
    }
}

#[tokio::test]
async fn options_tell_what_the_path_takes() {
    let f = library(|b| b);
    for (path, allow) in [
        ("/v1/books/7", "DELETE, GET, HEAD, OPTIONS, PATCH, PUT"),
        ("/v1/books/7:lend", "DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT"),
        ("/v1/reports/x", "OPTIONS, REPORT"),
    ] {
        let answer = f.call("OPTIONS", path, "").await;
        assert_eq!((answer.status, answer.header("allow"), answer.text()), (204, allow, ""), "{path}");
    }
    assert_eq!(f.call("OPTIONS", "/nowhere", "").await.status, 404);
}

#[tokio::test]
async fn every_scalar_has_a_text_form_in_query_and_path() {
    let kinds =
        "double float int32 int64 uint32 uint64 sint32 sint64 fixed32 fixed64 sfixed32 sfixed64 bool string bytes E";
    let wrappers = "Double Float Int32 Int64 UInt32 UInt64 Bool String Bytes";
    let mut fields = String::new();
    let mut rules = String::new();
    for (i, kind) in kinds.split(' ').enumerate() {
        let name = format!("f_{}", kind.to_lowercase());
        fields.push_str(&format!("{kind} {name} = {}; repeated {kind} many_{name} = {};", i + 1, i + 101));
        rules.push_str(&format!(r#"additional_bindings {{ get: "/v1/{name}/{{{name}}}" }} "#));
    }
    for (i, kind) in wrappers.split(' ').enumerate() {
        fields.push_str(&format!("google.protobuf.{kind}Value w_{} = {};", kind.to_lowercase(), i + 51));
    }
    let f = echo(
        &format!(
            r#"enum E {{ NONE = 0; ONE = 1; }} message M {{ {fields} M inner = 200; }}
            service S {{ rpc Get(M) returns (M) {{ option (google.api.http) = {{ get: "/v1" {rules} }}; }} }}"#
        ),
        |b| b,
    );
    for (kind, texts, json) in [
        ("double", &["-1.5", "-15e-1"][..], json!(-1.5)),
        ("double", &["Infinity"], json!("Infinity")),
        ("float", &["0.25"], json!(0.25)),
        ("int32", &["-2147483648"], json!(-2_147_483_648)),
        ("int64", &["-9223372036854775808"], json!("-9223372036854775808")),
        ("uint32", &["4294967295"], json!(4_294_967_295u32)),
        ("uint64", &["18446744073709551615"], json!("18446744073709551615")),
        ("sint32", &["-1"], json!(-1)),
        ("sint64", &["-1"], json!("-1")),
        ("fixed32", &["4294967295"], json!(4_294_967_295u32)),
        ("fixed64", &["18446744073709551615"], json!("18446744073709551615")),
        ("sfixed32", &["-1"], json!(-1)),
        ("sfixed64", &["-1"], json!("-1")),
        ("bool", &["true"], json!(true)),
        ("string", &["a%20b%26%C3%A9"], json!("a b&é")),
        // Either alphabet, with padding or without.
        ("bytes", &["-_8", "-_8%3D", "%2B%2F8", "%2B%2F8%3D"], json!("+/8=")),
        ("e", &["ONE", "1"], json!("ONE")),
        ("e", &["77"], json!(77)),
    ] {
        for text in texts {
            let name = format!("f{}{}", kind[..1].to_uppercase(), &kind[1..]);
            let many = format!("manyF{}{}", kind[..1].to_uppercase(), &kind[1..]);
            for (path, expected) in [
                (format!("/v1?{name}={text}"), json!({ name.clone(): json })),
                (format!("/v1?f_{kind}={text}"), json!({ name.clone(): json })),
                (format!("/v1/f_{kind}/{text}"), json!({ name.clone(): json })),
                (format!("/v1?inner.inner.{name}={text}"), json!({ "inner": { "inner": { name.clone(): json } } })),
                (format!("/v1?{many}={text}&many_f_{kind}={text}"), json!({ many.clone(): [json, json] })),
            ] {
                let answer = f.get(&path).await;
                assert_eq!((answer.status, answer.json()), (200, expected), "{path}");
            }
        }
    }
    for (kind, text, json) in [
        ("double", "1.5", json!(1.5)),
        ("float", "1.5", json!(1.5)),
        ("int32", "0", json!(0)),
        ("int64", "0", json!("0")),
        ("uint32", "0", json!(0)),
        ("uint64", "0", json!("0")),
        ("bool", "false", json!(false)),
        ("string", "", json!("")),
        ("bytes", "", json!("")),
    ] {
        let name = format!("w{}{}", kind[..1].to_uppercase(), &kind[1..]);
        let answer = f.get(&format!("/v1?{name}={text}")).await;
        assert_eq!((answer.status, answer.json()), (200, json!({ name: json })), "{kind}");
    }
    for query in
        ["fInt32=2147483648", "fUint32=-1", "fBool=1", "fDouble=x", "fE=TWO", "fBytes=!", "fFloat=1e39", "fInt64="]
    {
        let answer = f.get(&format!("/v1?{query}")).await;
        assert_eq!(violation(&answer), (400, json!(query.split('=').next())), "{query}");
    }
}

#[tokio::test]
async fn rules_are_found_whatever_the_order_in_which_they_stand() {
    let rules = [
        ("Any", r#"custom { kind: "*" path: "/v1/any/{name}" }"#),
        ("Multi", r#"get: "/v1/{name=**}""#),
        ("Single", r#"get: "/v1/{name}""#),
        ("Literal", r#"get: "/v1/x""#),
        ("Verb", r#"get: "/v1/{name}:go""#),
        ("Deep", r#"get: "/v1/{inner.inner.name=a/*/b/**}:go""#),
        ("Purge", r#"custom { kind: "PURGE" path: "/v1/any/{name}" }"#),
        ("Get", r#"get: "/v1/h/{name}""#),
        ("Head", r#"custom { kind: "HEAD" path: "/v1/h/{name}" }"#),
    ];
    let cases = [
        ("GET", "/v1/x", "Literal", json!({})),
        ("GET", "/v1/y", "Single", json!({ "name": "y" })),
        ("GET", "/v1/y/z", "Multi", json!({ "name": "y/z" })),
        ("GET", "/v1/y:go", "Verb", json!({ "name": "y" })),
        ("GET", "/v1/y%3Ago", "Single", json!({ "name": "y:go" })),
        ("GET", "/v1/a/1/b/2/3:go", "Deep", json!({ "inner": { "inner": { "name": "a/1/b/2/3" } } })),
        ("GET", "/v1/a/1%2F2/b/3%2f4:go", "Deep", json!({ "inner": { "inner": { "name": "a/1%2F2/b/3%2f4" } } })),
        ("GET", "/v1/y%2Fz", "Single", json!({ "name": "y/z" })),
        ("GET", "/v1/any/n", "Any", json!({ "name": "n" })),
        ("POST", "/v1/any/n", "Any", json!({ "name": "n" })),
        ("PURGE", "/v1/any/n", "Purge", json!({ "name": "n" })),
    ];
    for reverse in [false, true] {
        let mut methods: Vec<String> = rules
            .iter()
            .map(|(name, rule)| format!("rpc {name}(M) returns (M) {{ option (google.api.http) = {{ {rule} }}; }}"))
            .collect();
        if reverse {
            methods.reverse();
        }
        let f =
            echo(&format!("message M {{ string name = 1; M inner = 2; }} service S {{ {} }}", methods.concat()), |b| b);
        for (verb, path, method, json) in &cases {
            let answer = f.call(verb, path, "").await;
            assert_eq!((answer.status, &answer.json()), (200, json), "{verb} {path}");
            assert_eq!(f.last().path, format!("/t.S/{method}"), "{verb} {path}");
        }
        for (path, method) in [("/v1/h/n", "Head"), ("/v1/y", "Single"), ("/v1/any/n", "Any")] {
            assert_eq!(f.call("HEAD", path, "").await.status, 200, "{path}");
            assert_eq!(f.last().path, format!("/t.S/{method}"), "{path}");
        }
    }
}

#[tokio::test]
async fn http2_is_served_alike() {
    let f = library(|b| b);
    let mut client = Client::http2(f.addr()).await;
    let answer = client.send(request("PUT", "/v1/books/a%2Fb", r#"{"title":"T"}"#)).await.expect("an answer");
    assert_eq!(whole(answer).await.json(), json!({ "id": "a/b", "title": "T" }));
    let answer = client.send(request("GET", "/nowhere", "")).await.expect("an answer");
    assert_eq!(whole(answer).await.json()["error"]["reason"], "ROUTE_NOT_FOUND");
}
