//! `google.api.HttpBody` as the answer: whole, in part, and not at all.

mod support;

use bytes::Bytes;
use futures_util::stream::{self, StreamExt};
use http::Request;
use http_body_util::{BodyExt, Empty, Full};
use serde_json::{Value, json};
use support::Answer;
use support::files::{Files, Guard, Seen, Way, decode, message, start};
use support::net::{self, Client};
use tonic::Status;
use tonic::metadata::{AsciiMetadataKey, AsciiMetadataValue};

const BODY: &str = "google.api.HttpBody";

/// A service that answers these messages with this metadata, and then perhaps fails.
fn serving(
    kind: &'static str,
    messages: Vec<Value>,
    metadata: &'static [(&'static str, &'static str)],
    end: Option<Status>,
) -> Files {
    start(
        Way::Tcp,
        |b| b,
        move |_, _| {
            let messages: Vec<_> = messages.iter().map(|m| Ok(Bytes::from(message(kind, m.clone())))).collect();
            let messages = stream::iter(messages.into_iter().chain(end.clone().map(Err)));
            Box::pin(async move {
                let mut response = tonic::Response::new(messages.boxed());
                for (name, value) in metadata {
                    let value = AsciiMetadataValue::from_static(value);
                    response.metadata_mut().insert(AsciiMetadataKey::from_static(name), value);
                }
                Ok(response)
            })
        },
    )
}

/// `0123456789`, as one message and as a stream of known length.
fn digits(etag: bool) -> [(&'static str, Files); 2] {
    let one = vec![json!({ "contentType": "text/plain", "data": "MDEyMzQ1Njc4OQ==" })];
    let many = vec![
        json!({ "contentType": "text/plain", "data": "MDEy" }),
        json!({ "data": "MzQ1Ng==" }),
        json!({ "data": "Nzg5" }),
    ];
    let metadata: (&[_], &[_]) = match etag {
        true => (
            &[("etag", "\"v1\""), ("last-modified", "Sat, 21 Nov 2026 05:39:27 GMT")],
            &[("x-content-length", "10"), ("etag", "\"v1\""), ("last-modified", "Sat, 21 Nov 2026 05:39:27 GMT")],
        ),
        false => (&[], &[("x-content-length", "10")]),
    };
    [
        ("/v1/files/x", serving(BODY, one, metadata.0, None)),
        ("/v1/files/x:download", serving(BODY, many, metadata.1, None)),
    ]
}

async fn ask(f: &Files, method: &str, path: &str, headers: &[(&'static str, &str)]) -> Answer {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    net::send(f.addr, request.body(Empty::<Bytes>::new()).expect("request")).await
}

#[tokio::test]
async fn bytes_are_answered_as_they_are() {
    for (path, f) in digits(false) {
        let answer = ask(&f, "GET", path, &[("accept", "image/*")]).await;
        assert_eq!((answer.status, answer.text()), (200, "0123456789"), "{path}");
        assert_eq!(
            (answer.header("content-type"), answer.header("content-length"), answer.header("accept-ranges")),
            ("text/plain", "10", "bytes"),
        );
        assert_eq!(answer.header("x-content-type-options"), "nosniff");
        let head = ask(&f, "HEAD", path, &[("range", "bytes=0-1")]).await;
        assert_eq!((head.status, head.text(), head.header("content-length")), (200, "", "10"), "{path}");
    }
    // Without its length, a stream has no ranges.
    let metadata = &[("content-disposition", "attachment; filename=\"x\""), ("cache-control", "max-age=60")];
    let f = serving(BODY, vec![json!({}), json!({ "data": "AQI=" })], metadata, None);
    let answer = ask(&f, "GET", "/v1/files/x:download", &[("range", "bytes=0-0")]).await;
    assert_eq!((answer.status, &answer.body[..], answer.header("accept-ranges")), (200, &[1, 2][..], ""));
    assert_eq!(answer.header("content-type"), "application/octet-stream");
    assert_eq!(answer.header("content-disposition"), "attachment; filename=\"x\"");
    assert_eq!(answer.header("cache-control"), "max-age=60");
    // Nothing at all, and the field that the rule names.
    let f = serving(BODY, vec![], &[], None);
    assert_eq!(ask(&f, "GET", "/v1/files/x:download", &[]).await.status, 200);
    let parts = vec![
        json!({ "number": 1, "body": { "contentType": "a/b", "data": "AQ==" } }),
        json!({ "body": { "data": "Ag==" } }),
    ];
    let f = serving("test.files.Part", parts, &[], None);
    let answer = ask(&f, "GET", "/v1/parts/x", &[]).await;
    assert_eq!((&answer.body[..], answer.header("content-type")), (&[1, 2][..], "a/b"));
}

#[tokio::test]
async fn ranges_are_cut_out() {
    for (path, f) in digits(false) {
        for (range, status, content_range, body) in [
            ("bytes=0-0", 206, "bytes 0-0/10", "0"),
            ("bytes=2-5", 206, "bytes 2-5/10", "2345"),
            ("bytes=3-", 206, "bytes 3-9/10", "3456789"),
            ("bytes=-2", 206, "bytes 8-9/10", "89"),
            ("bytes=-20", 206, "bytes 0-9/10", "0123456789"),
            ("bytes=9-99999999999999999999999", 206, "bytes 9-9/10", "9"),
            ("bytes=10-", 416, "bytes */10", ""),
            ("bytes=-0", 416, "bytes */10", ""),
            ("bytes=99999999999999999999999-", 416, "bytes */10", ""),
            // What makes no sense, or is too much to ask, is ignored.
            ("bytes=0-1,3-4", 200, "", "0123456789"),
            ("bytes=5-2", 200, "", "0123456789"),
            ("bytes=-", 200, "", "0123456789"),
            ("bytes=+1-2", 200, "", "0123456789"),
            ("lines=0-1", 200, "", "0123456789"),
        ] {
            let answer = ask(&f, "GET", path, &[("range", range)]).await;
            assert_eq!((answer.status, answer.header("content-range")), (status, content_range), "{path} {range}");
            if status == 416 {
                assert_eq!(answer.json()["error"]["reason"], "RANGE_NOT_SATISFIABLE");
            } else {
                assert_eq!(
                    (answer.text(), answer.header("content-length")),
                    (body, &*body.len().to_string()),
                    "{range}"
                );
            }
        }
    }
}

#[tokio::test]
async fn a_range_is_for_who_has_the_rest_of_the_same() {
    for (path, f) in digits(true) {
        for (if_range, status) in [
            ("\"v1\"", 206),
            ("Sat, 21 Nov 2026 05:39:27 GMT", 206),
            ("\"v2\"", 200),
            ("W/\"v1\"", 200),
            ("Sat, 21 Nov 2026 05:39:28 GMT", 200),
        ] {
            let answer = ask(&f, "GET", path, &[("range", "bytes=0-0"), ("if-range", if_range)]).await;
            assert_eq!(answer.status, status, "{path} {if_range}");
        }
    }
    // A weak tag is never good enough.
    let metadata = &[("x-content-length", "2"), ("etag", "W/\"v1\"")];
    let f = serving(BODY, vec![json!({ "data": "AQI=" })], metadata, None);
    let headers = [("range", "bytes=0-0"), ("if-range", "W/\"v1\"")];
    assert_eq!(ask(&f, "GET", "/v1/files/x:download", &headers).await.status, 200);
}

#[tokio::test]
async fn what_the_client_has_is_not_sent_again() {
    let [one, many] = digits(true);
    let rows = serving("test.files.PutResponse", vec![json!({ "size": 1 })], &[("etag", "\"v1\"")], None);
    for (path, f) in [one, many, ("/v1/described/x", rows)] {
        for (tags, status) in
            [("\"v1\"", 304), ("W/\"v1\"", 304), ("\"v0\", \"v1\"", 304), ("*", 304), ("\"v2\"", 200), ("v1", 200)]
        {
            for method in ["GET", "HEAD"] {
                let answer = ask(&f, method, path, &[("if-none-match", tags)]).await;
                assert_eq!((answer.status, answer.header("etag")), (status, "\"v1\""), "{method} {path} {tags}");
                if status == 304 {
                    assert_eq!((answer.text(), answer.header("content-type")), ("", ""));
                }
            }
        }
    }
    // Who has it needs no part of it either, not even one that there is not (RFC 9110, section 13.2.2).
    for (path, f) in digits(true) {
        for range in ["bytes=0-0", "bytes=10-"] {
            let answer = ask(&f, "GET", path, &[("if-none-match", "\"v1\""), ("range", range)]).await;
            assert_eq!((answer.status, answer.header("content-range")), (304, ""), "{path} {range}");
        }
    }
    // Another method changes things; it has no use for the answer that the client has.
    let store = serving("test.files.StoreRequest", vec![json!({ "name": "x" })], &[("etag", "\"v1\"")], None);
    assert_eq!(ask(&store, "PUT", "/v1/stored/x", &[("if-none-match", "\"v1\"")]).await.status, 200);
}

#[tokio::test]
async fn a_service_may_cut_the_range_itself() {
    let f = start(
        Way::Tcp,
        |b| b,
        |call, seen| {
            let range = call.metadata.get("range").map(|v| v.to_str().expect("ASCII").to_owned());
            let conditions = json!({ "range": range, "if-range": call.metadata.contains_key("if-range") });
            let _ = seen.send(Seen::Message(conditions));
            Box::pin(async move {
                let mut response = net::messages([message(BODY, json!({ "contentType": "a/b", "data": "AQI=" }))]);
                let range = AsciiMetadataValue::from_static("bytes 4-5/1000000");
                response.metadata_mut().insert("content-range", range);
                Ok(response)
            })
        },
    );
    let answer = ask(&f, "GET", "/v1/files/x:download", &[("range", "bytes=4-5"), ("if-range", "\"v\"")]).await;
    assert_eq!((answer.status, &answer.body[..]), (206, &[1, 2][..]));
    assert_eq!(answer.header("content-range"), "bytes 4-5/1000000");
    let mut seen = f.seen;
    assert_eq!(seen.recv().await, Some(Seen::Message(json!({ "range": "bytes=4-5", "if-range": true }))));
}

#[tokio::test]
async fn failures_before_the_first_byte_have_a_status() {
    let f = serving(BODY, vec![], &[], Some(Status::not_found("no such file")));
    for path in ["/v1/files/x", "/v1/files/x:download"] {
        let answer = ask(&f, "GET", path, &[]).await;
        assert_eq!((answer.status, &answer.json()["error"]["message"]), (404, &json!("no such file")));
    }
    let f = serving(BODY, vec![json!({ "contentType": "a\nb" })], &[], None);
    assert_eq!(ask(&f, "GET", "/v1/files/x", &[]).await.json()["error"]["reason"], "UPSTREAM_ERROR");
}

#[tokio::test]
async fn a_download_that_fails_never_ends_well() {
    let first = || vec![json!({ "contentType": "a/b", "data": "AAAA" })];
    let failed = || Some(Status::data_loss("disk"));
    for (what, f) in [
        ("of unknown length", serving(BODY, first(), &[], failed())),
        ("of known length", serving(BODY, first(), &[("x-content-length", "10")], failed())),
        ("shorter than said", serving(BODY, first(), &[("x-content-length", "10")], None)),
    ] {
        for http2 in [false, true] {
            let mut client = if http2 { Client::http2(f.addr).await } else { Client::http1(f.addr).await };
            let request = Request::get("/v1/files/x:download").body(Empty::<Bytes>::new()).expect("request");
            // Over HTTP/1.1 the connection may be closed before the head has left.
            if let Ok(answer) = client.send(request).await {
                assert_eq!(answer.status(), 200);
                assert!(answer.into_body().collect().await.is_err(), "{what}, http2={http2}");
            }
        }
    }
    // What is longer than said is cut.
    let f = serving(BODY, first(), &[("x-content-length", "2")], None);
    assert_eq!(ask(&f, "GET", "/v1/files/x:download", &[]).await.body.len(), 2);
}

#[tokio::test]
async fn what_nobody_wants_is_not_read() {
    let endless = || {
        start(
            Way::Tcp,
            |b| b,
            |_, seen| {
                let guard = Guard::new(seen);
                let data = Bytes::from(message(BODY, json!({ "contentType": "a/b", "data": "AAAAAAAAAAAAAA==" })));
                let messages = stream::repeat_with(move || {
                    let _held = &guard;
                    Ok(data.clone())
                });
                Box::pin(async move {
                    let mut response = tonic::Response::new(messages.boxed());
                    let length = AsciiMetadataValue::from_static("1000000000000");
                    response.metadata_mut().insert("x-content-length", length);
                    Ok(response)
                })
            },
        )
    };
    for (method, range, status, length) in
        [("GET", "bytes=5-14", 206, 10), ("GET", "bytes=2000000000000-", 416, 0), ("HEAD", "", 200, 0)]
    {
        let mut f = endless();
        let answer = ask(&f, method, "/v1/files/x:download", &[("range", range)]).await;
        assert_eq!(answer.status, status);
        if status != 416 {
            assert_eq!(answer.body.len(), length);
        }
        assert_eq!(f.next().await, Seen::Dropped, "{method} {range}");
    }
}

#[tokio::test]
async fn bytes_of_a_unary_request_go_where_the_rule_says() {
    let f = start(
        Way::Tcp,
        |b| b,
        |mut call, seen| {
            Box::pin(async move {
                let request = call.messages.message().await?.expect("a message");
                let _ = seen.send(Seen::Message(decode("test.files.StoreRequest", request.clone())));
                Ok(net::messages([request.to_vec()]))
            })
        },
    );
    let request = Request::put("/v1/stored/x").header("content-type", "image/png");
    let answer = net::send(f.addr, request.body(Full::new(Bytes::from_static(&[0, 255]))).expect("request")).await;
    let stored = json!({ "name": "x", "file": { "contentType": "image/png", "data": "AP8=" } });
    assert_eq!(answer.json(), stored);
    let mut seen = f.seen;
    assert_eq!(seen.recv().await, Some(Seen::Message(stored)));
}
